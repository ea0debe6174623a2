"""Validators of options."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs


def at_least(minimum: float) -> Callable[[object, attrs.Attribute[float], float], None]:
    """A finite number of at least ``minimum``; ``true`` is no number."""

    def check(_instance: object, attribute: attrs.Attribute[float], value: float) -> None:
        if type(value) is bool or not math.isfinite(value) or value < minimum:
            msg = f"{attribute.name} must be a finite number of at least {minimum}, got {value!r}"
            raise ValueError(msg)

    return check


def count(minimum: int) -> Callable[[object, attrs.Attribute[int], object], None]:
    """An integer of at least ``minimum``; ``true`` is no integer."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        if type(value) is not int or value < minimum:
            msg = f"{attribute.name} must be an integer of at least {minimum}, got {value!r}"
            raise ValueError(msg)

    return check


def help_text(text: str) -> dict[str, str]:
    """Metadata of an option."""
    return {"help": text}
