"""The two implementations of the scalar kernels, chosen as the group's engine is."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from typing import Protocol, cast

from qres_zk.arrays import Bits, Values, Words
from qres_zk.group.backend import accelerated


class Halves(Protocol):
    """The state of a folding, see :class:`qres_zk.scalar.Folding`."""

    rows: int

    def cross(self) -> tuple[int, int]:
        """The two cross terms."""
        ...

    def fold(self, x: int) -> None:
        """Halve the rows."""
        ...

    def result(self) -> tuple[Words, Words]:
        """Rest of a single row."""
        ...


class ScalarEngine(Protocol):
    """Computations of both engines. Arrays have been checked; none is written to."""

    def project(self, values: Values, rows: Iterable[Bits], k: int) -> list[int]:
        """Sums of the coordinates that the bits choose."""
        ...

    def weights(self, rows: Iterable[Bits], shape: tuple[int, int], gammas: list[int]) -> Words:
        """Sums of the gammas that the bits choose, shape ``(b, m, 2)``."""
        ...

    def folded_weights(
        self, rows: Iterable[Bits], m: int, gammas: list[int], factors: list[int]
    ) -> Words:
        """Sums over rows of the weights, times a factor a row, shape ``(m, 4)``."""
        ...

    def folding(self, values: Values, weights: Words) -> Halves:
        """Begin to fold."""
        ...

    def multiply_add(self, left: Words, factor: int, right: Words) -> Words:
        """``left + factor * right``."""
        ...

    def dot(self, left: Words, right: Words) -> int:
        """The sum of products."""
        ...

    def combine_rows(self, factors: list[int], values: Values) -> Words:
        """Sums over rows of the values, times a factor a row."""
        ...


def engine() -> ScalarEngine:
    """Return the engine to use now."""
    compiled = "qres_zk.scalar.compiled.engine"
    return _load(compiled if accelerated() else "qres_zk.scalar.reference")


@cache
def _load(name: str) -> ScalarEngine:
    return cast("ScalarEngine", importlib.import_module(name))
