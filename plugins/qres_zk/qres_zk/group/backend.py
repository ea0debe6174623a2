"""Choice of the engine: the one compiled with numba, or the one in plain Python.

The switch is that of :mod:`qres_arithmetic`: one variable, one answer in a process.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import accelerated
from qres_arithmetic import numpy_only as reference_only

from qres_zk.arrays import Words

__all__ = ["Engine", "accelerated", "engine", "reference_only"]


class Engine(Protocol):
    """Computations of both engines. Arrays have been checked; none is written to."""

    def decode(self, words: Words) -> tuple[Words, int]:
        """Points of encodings ``(n, 4)``, and the index of the first invalid one or -1."""
        ...

    def decode_edwards(self, words: Words) -> tuple[Words, int]:
        """Points of compressed Edwards points ``(n, 4)``, and the first invalid one or -1."""
        ...

    def encode(self, points: Words) -> Words:
        """Encodings ``(n, 4)``."""
        ...

    def from_uniform(self, words: Words) -> Words:
        """Points of the one-way map of ``(n, 8)``."""
        ...

    def add(self, left: Words, right: Words) -> Words:
        """Sums, point by point."""
        ...

    def total(self, points: Words) -> Words:
        """Sums over the first axis of ``(k, n, 20)``, ``k`` at least 1."""
        ...

    def negate(self, points: Words) -> Words:
        """Inverses."""
        ...

    def is_identity(self, points: Words) -> NDArray[np.bool_]:
        """Points that are the identity of ristretto255."""
        ...

    def msm(self, scalars: Words, points: Words) -> Words:
        """One point, the sum of the multiples."""
        ...

    def row_table(self, points: Words) -> Any:
        """Table of its generators for :meth:`commit_rows`."""
        ...

    def commit_rows(self, table: Any, values: NDArray[np.int32]) -> Words:
        """Sums of ``values[c, j]`` times generator ``j``, for every row ``c``."""
        ...

    def fixed_table(self, points: Words) -> Any:
        """Table of its generators for :meth:`fixed_msm`."""
        ...

    def fixed_msm(self, table: Any, scalars: Words) -> Words:
        """One point, the sum of the multiples."""
        ...


def engine() -> Engine:
    """Return the engine to use now; the numba one is imported when it is first asked for."""
    compiled = "qres_zk.group.compiled.engine"
    return _load(compiled if accelerated() else "qres_zk.group.reference.engine")


@cache
def _load(name: str) -> Engine:
    return cast("Engine", importlib.import_module(name))
