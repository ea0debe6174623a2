"""Did-you-mean."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest known word, else what is known."""
    choices = sorted(known)
    known_ones = f"known: {', '.join(choices)}" if choices else "none is known"
    return nearest(word, choices) or known_ones


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest known word; empty where none is near."""
    import difflib  # noqa: PLC0415 - takes time to import, and only a refusal needs it

    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
