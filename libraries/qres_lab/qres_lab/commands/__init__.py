"""Verbs of ``qres`` that serve study and the authors of plugins."""
