"""Checks of the options, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import attrs

from qres_reputation.rules import UNIT, units

T = TypeVar("T")
Check: TypeAlias = Callable[[object, "attrs.Attribute[T]", object], None]


def share(lowest: int, highest: int = UNIT) -> Check[float]:
    """A validator: a real number that is ``lowest..highest`` units of 10**-6 when rounded."""

    def check(_instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        real = value if type(value) is float or type(value) is int else math.nan
        if not (math.isfinite(real) and lowest <= units(real) <= highest):
            bounds = f"{lowest / UNIT:g}..{highest / UNIT:g}"
            msg = f"{attribute.name} must be a number in {bounds}, got {value!r}"
            raise ValueError(msg)

    return check


def whole(lowest: int, highest: int) -> Check[int]:
    """A validator: an integer in ``lowest..highest``."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        # bool is an int to Python: `ban_rounds = true` must not mean one round.
        if type(value) is not int or not lowest <= value <= highest:
            msg = f"{attribute.name} must be an integer in {lowest}..{highest}, got {value!r}"
            raise ValueError(msg)

    return check
