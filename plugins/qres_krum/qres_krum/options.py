"""The integers that the rules are configured by."""

from __future__ import annotations

from collections.abc import Callable

import attrs


def check_integer(name: str, value: object, minimum: int) -> None:
    """Refuse what is not an integer of at least ``minimum``.

    Raises:
        ValueError: with the name, the bound and the value.
    """
    # bool is an int to Python: `f = true` must not mean one liar.
    if type(value) is not int or value < minimum:
        msg = f"{name} must be an integer of at least {minimum}, got {value!r}"
        raise ValueError(msg)


def at_least(minimum: int) -> Callable[[object, attrs.Attribute[int], object], None]:
    """Make an attrs validator of :func:`check_integer`."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        check_integer(attribute.name, value, minimum)

    return check
