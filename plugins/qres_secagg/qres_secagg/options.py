"""Checks of the options, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import attrs

T = TypeVar("T")
Check: TypeAlias = Callable[[object, "attrs.Attribute[T]", object], None]


def real(lowest: float, highest: float) -> Check[float]:
    """A validator: a finite number in ``lowest..highest``."""

    def check(_instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        number = value if type(value) is float or type(value) is int else math.nan
        if not (math.isfinite(number) and lowest <= number <= highest):
            msg = f"{attribute.name} must be a number in {lowest:g}..{highest:g}, got {value!r}"
            raise ValueError(msg)

    return check


def whole(lowest: int, highest: int) -> Check[int]:
    """A validator: an integer in ``lowest..highest``."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        # bool is an int to Python: `group_size = true` must not mean groups of one.
        if type(value) is not int or not lowest <= value <= highest:
            msg = f"{attribute.name} must be an integer in {lowest}..{highest}, got {value!r}"
            raise ValueError(msg)

    return check


def one_of(*allowed: T) -> Check[T]:
    """A validator: one of the values, of the very same type."""

    def check(_instance: object, attribute: attrs.Attribute[T], value: object) -> None:
        if not any(type(value) is type(one) and value == one for one in allowed):
            shown = ", ".join(repr(one) for one in allowed)
            msg = f"{attribute.name} must be one of {shown}, got {value!r}"
            raise ValueError(msg)

    return check
