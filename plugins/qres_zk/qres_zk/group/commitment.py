"""Generators used again and again: tables of their multiples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError
from qres_zk.group.backend import Engine, engine
from qres_zk.group.blinding import blind
from qres_zk.group.points import Points, add, checked_points
from qres_zk.group.scalars import Scalars, checked_scalars


class _Tables:
    """The table of each engine that was asked for one: what holds generators outlives a choice."""

    def __init__(self, points: Points, make: Callable[[Engine, Points], Any]) -> None:
        self._points = points.copy()
        self._make = make
        self._tables: dict[Engine, Any] = {}
        self.current()

    def current(self) -> Any:
        """The table of the engine in use."""
        chosen = engine()
        if chosen not in self._tables:
            self._tables[chosen] = self._make(chosen, self._points)
        return self._tables[chosen]


class Rows:
    """Generators ``G_0 .. G_(m-1)`` shared by many rows of small integers.

    Making one costs about 4 µs a generator, compiled, and 80 µs in Python; keep it.

    Args:
        points: shape ``(m, 20)``.
    """

    def __init__(self, points: Points) -> None:
        self._m = len(checked_points(points))
        self._tables = _Tables(points, lambda chosen, array: chosen.row_table(array))

    def commit(self, values: NDArray[np.int32], blinds: Scalars | None = None) -> Points:
        """Return ``V_c = blinds[c] * generator() + sum_j values[c, j] * G_j`` for every row c.

        The blinds are multiplied in constant time, the values are not.

        Args:
            values: shape ``(b, m)``, dtype int32 (all of its range).
            blinds: shape ``(b, 4)``; ``None`` for zeros, as for what is public.

        Returns:
            shape ``(b, 20)``.

        Raises:
            ValueRefusedError: QRES-E502 or QRES-E503 if shapes or dtypes are others.

        Complexity: 0.5 µs a coordinate of 32 bits, 0.3 of 10, compiled, a seventh of that with
        AVX-512 IFMA; 5 to 10 µs in Python; 25 µs a blind.
        """
        if values.dtype != np.int32:
            raise ValueRefusedError.of("QRES-E503", "values", f"expected int32, got {values.dtype}")
        if values.ndim != 2 or values.shape[1] != self._m:
            what = f"expected shape (b, {self._m}), got {values.shape}"
            raise ValueRefusedError.of("QRES-E502", "values", what)
        sums = engine().commit_rows(self._tables.current(), values)
        if blinds is None:
            return sums
        if len(checked_scalars(blinds)) != len(values):
            what = f"{len(blinds)} blinds for {len(values)} rows"
            raise ValueRefusedError.of("QRES-E502", "blinds", what)
        return add(sums, blind(blinds))


class Fixed:
    """A few generators, multiplied by scalars of full size. Variable time.

    Making one costs about 25 µs a generator, compiled, and 1 ms in Python; keep it.

    Args:
        points: shape ``(g, 20)``.
    """

    def __init__(self, points: Points) -> None:
        self._g = len(checked_points(points))
        self._tables = _Tables(points, lambda chosen, array: chosen.fixed_table(array))

    def msm(self, scalars: Scalars) -> Points:
        """Return the sum of ``scalars[i] * points[i]``, shape ``(1, 20)``.

        Args:
            scalars: shape ``(g, 4)``, one for each generator.

        Raises:
            ValueRefusedError: QRES-E502 if there are not as many scalars as generators.

        Complexity: 8 µs, and 5 µs a generator, compiled.
        """
        if len(checked_scalars(scalars)) != self._g:
            what = f"{len(scalars)} scalars for {self._g} points"
            raise ValueRefusedError.of("QRES-E502", "scalars", what)
        return engine().fixed_msm(self._tables.current(), scalars)
