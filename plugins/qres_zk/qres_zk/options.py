"""The references that options name, read from files."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import squared_norm

from qres_core.errors import ConfigError
from qres_zk.statement import MAX_DIRECTION

MAX_FILE: Final = 2**32
"""Most bytes of a file with a reference."""


def read_vector(path: str, where: str) -> NDArray[np.float64]:
    """Read a vector of finite real numbers from a ``.npy`` file, without unpickling anything.

    Raises ConfigError: QRES-E105 if the file is not there, too large, or holds anything else.
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

    Raises ConfigError: QRES-E105 for zero.
    """
    largest = float(np.abs(values).max())
    if not largest:
        raise ConfigError.of("QRES-E105", "plugins.zk.direction", "the direction is zero")
    return np.rint(values / largest * MAX_DIRECTION).astype(np.int16)


def threshold_of(value: float, direction: NDArray[np.int16], scale: int) -> int:
    """The least integer ``t`` with ``<g, u> >= t`` only if ``<g, u> / |g| >= value``; exact.

    ``value``: in real units, along the direction; ``direction``: ``g``; ``scale``: of the grid
    ``u`` is on.
    """
    along = Fraction(value) * _per_unit(scale)
    squared = along * along * squared_norm(direction)
    if along <= 0:
        return -math.isqrt(math.floor(squared))
    return math.isqrt(math.ceil(squared) - 1) + 1


def _per_unit(scale: int) -> Fraction:
    return Fraction(2) ** (16 - scale)
