"""What the options of the plugins here must be, and what a round must be for a rule to run."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
from qres_arithmetic import Blocks, Rows, check_rows

from qres_core import CompatibilityError, Updates, ValueRefusedError, Visibility


def at_least(minimum: int) -> Callable[[object, attrs.Attribute[int], object], None]:
    """Make an attrs validator for an integer option.

    Args:
        minimum: the least value that is accepted.

    Returns:
        a validator that raises :class:`ValueError` with the option's name.

    Example:
        >>> @attrs.frozen
        ... class Rule:
        ...     f: int = attrs.field(validator=at_least(0))
        >>> Rule(f=-1)
        Traceback (most recent call last):
        ValueError: f must be an integer of at least 0, got -1
    """

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        check_integer(attribute.name, value, minimum)

    return check


def above(minimum: float) -> Callable[[object, attrs.Attribute[float], object], None]:
    """Make an attrs validator for a finite number greater than ``minimum``.

    Args:
        minimum: the greatest value that is refused.

    Returns:
        a validator that raises :class:`ValueError` with the option's name.

    Example:
        >>> @attrs.frozen
        ... class Rule:
        ...     bound: float = attrs.field(validator=above(0))
        >>> Rule(bound=float("inf"))
        Traceback (most recent call last):
        ValueError: bound must be a finite number above 0, got inf
    """

    def check(_instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        number = _finite(value)
        if number is None or number <= minimum:
            msg = f"{attribute.name} must be a finite number above {minimum:g}, got {value!r}"
            raise ValueError(msg)

    return check


def no_less_than(minimum: float) -> Callable[[object, attrs.Attribute[float], object], None]:
    """Make an attrs validator for a finite number of at least ``minimum``.

    Args:
        minimum: the least value that is accepted.

    Returns:
        a validator that raises :class:`ValueError` with the option's name.
    """

    def check(_instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        number = _finite(value)
        if number is None or number < minimum:
            msg = f"{attribute.name} must be a finite number of at least {minimum:g}, got {value!r}"
            raise ValueError(msg)

    return check


def check_integer(name: str, value: object, minimum: int) -> None:
    """Refuse what is not an integer of at least ``minimum``.

    Raises:
        ValueError: the message names the value.
    """
    # bool is an int to Python: `f = true` must not mean one liar.
    if type(value) is not int or value < minimum:
        msg = f"{name} must be an integer of at least {minimum}, got {value!r}"
        raise ValueError(msg)


def checked(vectors: Rows | Blocks) -> Rows | Blocks:
    """Return vectors that are rows, or a view that gives rows in blocks of columns.

    Raises:
        ValueRefusedError: QRES-E502, QRES-E503 or QRES-E505 for anything else.
    """
    return vectors if isinstance(vectors, Blocks) else check_rows(vectors)


def check_enough(rule: str, n: int, f: int, fewest: int, condition: str) -> None:
    """Refuse too few vectors for a rule called as a function.

    Args:
        rule: the function's name.
        n: vectors at hand.
        f: the fault bound, or another option the condition is about.
        fewest: how many are needed.
        condition: how ``fewest`` follows from the options, for example ``"2 f + 1"``.

    Raises:
        ValueRefusedError: QRES-E505 if ``n < fewest``.
    """
    if n < fewest:
        what = f"n = {n} vectors, {rule} with f = {f} needs n >= {condition} = {fewest}"
        raise ValueRefusedError.of("QRES-E505", "vectors", what, "give more vectors or lower f")


def check_round(name: str, updates: Updates, f: int, fewest: int, condition: str) -> None:
    """Refuse a round in which a plugin cannot keep its promise.

    Args:
        name: the plugin's name in the configuration.
        updates: the round's updates.
        f: the plugin's fault bound.
        fewest: updates the plugin needs.
        condition: how ``fewest`` follows from the options, for example ``"2 f + 1"``.

    Raises:
        CompatibilityError: QRES-E303 if there is only the sum of all updates.
        ValueRefusedError: QRES-E505 if there are fewer than ``fewest``.
    """
    check_visible(name, updates)
    n = len(updates)
    if n < fewest:
        raise ValueRefusedError.of(
            "QRES-E505",
            "updates",
            f"n = {n} updates, {name} with f = {f} needs n >= {condition} = {fewest}",
            f"raise swarm.quorum to {fewest} or lower plugins.{name}.f",
        )


def check_visible(name: str, updates: Updates) -> None:
    """Refuse a sum of all updates: a rule compares rows, single updates or the means of groups.

    Args:
        name: the plugin's name in the configuration.
        updates: the round's updates.

    Raises:
        CompatibilityError: QRES-E303 if there is only the sum of all.
    """
    if updates.visibility is Visibility.SUM:
        raise CompatibilityError.of(
            "QRES-E303",
            "updates.visibility",
            f"{name} compares updates with each other, got only their sum",
            "let the plugin that hides them work in groups, or choose the rule mean",
        )


def _finite(value: object) -> float | None:
    """Return a real number as it is, and nothing for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None
