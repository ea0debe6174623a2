"""What :mod:`compose` measures, and how it draws it."""
