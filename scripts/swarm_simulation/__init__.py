"""Whole swarms in one process, in trouble that a seed decides, and what must hold there."""
