"""Statements to prove at a round's dimension and grid, from the options alone."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import clipped, squared_norm

from qres_core import Vector, fixed
from qres_core.errors import CompatibilityError, ConfigError, ValueRefusedError
from qres_zk.options import direction_of, steps, threshold_of
from qres_zk.slack import factor, honest_bound
from qres_zk.statement import MAX_BOUND, NormStatement


@attrs.define(eq=False)
class NormPolicy:
    """The options in the model's own units."""

    bound: float  # greatest L2 norm of an accepted update
    k: int  # random projections
    security: int  # in bits
    clip: bool  # whether longer updates are clipped
    center: NDArray[np.float64] | None = None  # float64, shape ``(d,)``; ``None`` for zero
    # float64, shape ``(d,)``; ``None`` for no half-space
    direction: NDArray[np.float64] | None = None
    threshold: float = 0.0  # how far along the direction at least
    _made: dict[tuple[int, int], NormStatement] = attrs.field(
        init=False, factory=dict[tuple[int, int], NormStatement]
    )

    def statement(self, dimension: int, scale: int) -> NormStatement:
        """The statement, made once for each dimension and grid.

        ``dimension``: ``d``. Raises CompatibilityError: QRES-E313, the grid or the group is too
        small for the bound. Raises ConfigError: QRES-E105, a reference of another dimension.
        """
        key = dimension, scale
        if key not in self._made:
            self._made[key] = self._new(dimension, scale)
        return self._made[key]

    def _new(self, dimension: int, scale: int) -> NormStatement:
        policy = steps(self.bound, scale)
        bound = honest_bound(policy, self.k, self.security)
        if not 1 <= bound <= MAX_BOUND:
            what = f"{self.bound:g} is {policy} steps of the grid, honest updates have {bound}"
            fix = "another bound, or another swarm.scale"
            raise CompatibilityError.of("QRES-E313", "plugins.zk.bound", what, fix)
        for name, values in (("center", self.center), ("direction", self.direction)):
            if values is not None and values.size != dimension:
                what = f"{values.size} coordinates, the model has {dimension}"
                raise ConfigError.of("QRES-E105", f"plugins.zk.{name}", what)
        center = None
        if self.center is not None:
            encoded = fixed.encode(self.center, scale=scale)
            if encoded.saturated:
                what = f"{encoded.saturated} coordinates are beyond the grid"
                raise CompatibilityError.of("QRES-E313", "plugins.zk.center", what)
            center = encoded.vector
        direction, threshold = None, 0
        if self.direction is not None:
            direction = direction_of(self.direction)
            threshold = threshold_of(self.threshold, direction, scale)
        return NormStatement(
            dimension, bound, self.k, scale, center=center, direction=direction, threshold=threshold
        )

    def within(self, vector: Vector, statement: NormStatement) -> Vector:
        """The update as it can be proved about: clipped if it is too long.

        Args:
            vector: int32, shape ``(d,)``.
            statement: of this policy.

        Raises:
            ValueRefusedError: QRES-E510, it is too long and not to be clipped, or beyond the grid.

        Complexity: O(d).
        """
        center = statement.center
        relative = vector.astype(np.int64)
        if center is not None:
            relative -= center
        norm = squared_norm(relative)
        if norm > statement.bound**2 and not self.clip:
            unit = 2.0 ** (statement.scale - 16)
            what = (
                f"the update's norm is {norm**0.5 * unit:.6g} and the proof's bound "
                f"{statement.bound * unit:.6g}"
            )
            sigma = factor(self.k, self.security)
            fix = f"plugins.zk.bound >= {norm**0.5 * unit * sigma:.6g}, less noise, or a lower clip"
            raise ValueRefusedError.of("QRES-E510", "plugins.zk.bound", what, fix)
        short = clipped(relative, statement.bound)
        if center is not None:
            short = short + center
            if int(np.abs(short).max()) > fixed.LIMIT:
                what = "the update near the center is beyond the grid"
                raise ValueRefusedError.of("QRES-E510", "plugins.zk.center", what)
        return short.astype(np.int32)
