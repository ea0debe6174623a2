"""Checks of the options, by name, and the references read from files."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import ConfigError
from qres_zk.exact import squared_norm
from qres_zk.statement import MAX_DIRECTION

T = TypeVar("T")
Check: TypeAlias = Callable[[object, "attrs.Attribute[T]", object], None]

MAX_FILE: Final = 2**32
"""Most bytes of a file with a reference."""


def real(lowest: float, highest: float) -> Check[float]:
    """A validator: a finite number in ``lowest..highest``."""

    def check(_instance: object, attribute: attrs.Attribute[float], value: object) -> None:
        number = value if type(value) is float or type(value) is int else math.nan
        if not (math.isfinite(number) and lowest <= number <= highest):
            msg = f"{attribute.name} must be a number in {lowest:g}..{highest:g}, got {value!r}"
            raise ValueError(msg)

    return check


def one_of(*choices: int) -> Check[int]:
    """A validator: one of some integers."""

    def check(_instance: object, attribute: attrs.Attribute[int], value: object) -> None:
        if type(value) is not int or value not in choices:
            allowed = ", ".join(str(one) for one in choices)
            msg = f"{attribute.name} must be one of {allowed}, got {value!r}"
            raise ValueError(msg)

    return check


def flag(_instance: object, attribute: attrs.Attribute[bool], value: object) -> None:
    """A validator: true or false."""
    if type(value) is not bool:
        msg = f"{attribute.name} must be true or false, got {value!r}"
        raise ValueError(msg)


def read_vector(path: str, where: str) -> NDArray[np.float64]:
    """Read a vector of finite real numbers from a ``.npy`` file, without unpickling anything.

    Raises:
        ConfigError: QRES-E105 if the file is not there, too large, or holds anything else.
    """
    try:
        if Path(path).stat().st_size > MAX_FILE:
            raise ConfigError.of("QRES-E105", where, f"{path} has more than {MAX_FILE} bytes")
        with Path(path).open("rb") as file:
            found: Any = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        what = f"{path} is no readable .npy file: {error}"
        raise ConfigError.of("QRES-E105", where, what) from error
    array = cast("NDArray[Any]", found)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        what = f"{path} holds {array.dtype} of shape {array.shape}, expected real numbers, (d,)"
        raise ConfigError.of("QRES-E105", where, what)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise ConfigError.of("QRES-E105", where, f"{path} holds values that are not finite")
    return values


def steps(value: float, scale: int) -> int:
    """A real number in steps of the grid, rounded down; exact."""
    return math.floor(Fraction(value) * _per_unit(scale))


def direction_of(values: NDArray[np.float64]) -> NDArray[np.int16]:
    """A direction as integers in ``-32767..32767``: only where it points is kept.

    Raises:
        ConfigError: QRES-E105 for zero.
    """
    largest = float(np.abs(values).max())
    if not largest:
        raise ConfigError.of("QRES-E105", "plugins.zk.direction", "the direction is zero")
    return np.rint(values / largest * MAX_DIRECTION).astype(np.int16)


def threshold_of(value: float, direction: NDArray[np.int16], scale: int) -> int:
    """The least integer ``t`` with ``<g, u> >= t`` only if ``<g, u> / |g| >= value``; exact.

    Args:
        value: in real units, along the direction.
        direction: ``g``.
        scale: of the grid ``u`` is on.
    """
    along = Fraction(value) * _per_unit(scale)
    squared = along * along * squared_norm(direction)
    if along <= 0:
        return -math.isqrt(math.floor(squared))
    return math.isqrt(math.ceil(squared) - 1) + 1


def _per_unit(scale: int) -> Fraction:
    return Fraction(2) ** (16 - scale)
