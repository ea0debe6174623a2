"""The console for results."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """A console wide enough in a pipe that tables are not cut."""
    found = Console()
    return found if found.is_terminal else Console(width=120)
