"""Checks of the options, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import attrs

T = TypeVar("T")
Check: TypeAlias = Callable[[object, "attrs.Attribute[T]", object], None]


def one_of(*names: str) -> Check[str]:
    """A validator: one of these words."""

    def check(_instance: object, attribute: attrs.Attribute[str], value: object) -> None:
        if type(value) is not str or value not in names:
            known = ", ".join(f'"{name}"' for name in names)
            msg = f"{attribute.name} must be one of {known}, got {value!r}"
            raise ValueError(msg)

    return check


def real(lowest: float, highest: float, *, or_zero: bool = False) -> Check[float]:
    """A validator: a finite number in ``lowest..highest``; 0 too where that means unset."""

    def check(_instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        number = value if type(value) is float or type(value) is int else math.nan
        if or_zero and number == 0:
            return
        if not lowest <= number <= highest:  # refuses NaN
            msg = f"{attribute.name} must be a number in {lowest:g}..{highest:g}, got {value!r}"
            raise ValueError(msg)

    return check


def whole(lowest: int, highest: int) -> Check[int]:
    """A validator: an integer in ``lowest..highest``."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        # bool is an int to Python: `honest = true` must not mean one node.
        if type(value) is not int or not lowest <= value <= highest:
            msg = f"{attribute.name} must be an integer in {lowest}..{highest}, got {value!r}"
            raise ValueError(msg)

    return check


def flag(_instance: object, attribute: attrs.Attribute[bool], value: object) -> None:
    """A validator: true or false."""
    if type(value) is not bool:
        msg = f"{attribute.name} must be true or false, got {value!r}"
        raise ValueError(msg)
