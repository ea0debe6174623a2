"""Conditions of a round for a rule to run."""

from __future__ import annotations

from qres_arithmetic import Blocks, Rows, check_rows

from qres_core import Updates, Visibility
from qres_core.errors import CompatibilityError, ValueRefusedError


def checked(vectors: Rows | Blocks) -> Rows | Blocks:
    """Return vectors that are rows, or a view that gives rows in blocks of columns.

    Raises ValueRefusedError: QRES-E502, QRES-E503 or QRES-E505 for anything else.
    """
    return vectors if isinstance(vectors, Blocks) else check_rows(vectors)


def check_enough(rule: str, n: int, f: int, fewest: int, condition: str) -> None:
    """Refuse too few vectors for a rule called as a function.

    ``f``: the fault bound, or another option the condition is about; ``condition``: how ``fewest``
    follows from the options, for example ``"2 f + 1"``. Raises ValueRefusedError: QRES-E505 if ``n
    < fewest``.
    """
    if n < fewest:
        what = f"n = {n} vectors, {rule} with f = {f} needs n >= {condition} = {fewest}"
        raise ValueRefusedError.of("QRES-E505", "vectors", what, "give more vectors or lower f")


def check_visible(name: str, updates: Updates) -> None:
    """Refuse a sum of all updates: a rule compares rows, single updates or the means of groups.

    Raises CompatibilityError: QRES-E303 if there is only the sum of all.
    """
    if updates.visibility is Visibility.SUM:
        raise CompatibilityError.of(
            "QRES-E303",
            "updates.visibility",
            f"{name} compares updates with each other, got only their sum",
            "let the plugin that hides them work in groups, or choose the rule mean",
        )
