"""Fragments: the part of the coordinates that a round covers, where a round does not cover all."""

from __future__ import annotations

from typing import TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.generic)


@attrs.frozen
class Fragment:
    """A range of a model's coordinates: number ``index`` of ``count`` of nearly the same length.

    Attributes:
        index: which one, from 0.
        count: how many there are, at most ``whole``.
        whole: coordinates of the model.

    Example:
        >>> [Fragment(index, 3, 10).bounds for index in range(3)]
        [(0, 3), (3, 6), (6, 10)]
    """

    index: int
    count: int
    whole: int

    @classmethod
    def of_step(cls, step: int, count: int, whole: int) -> Fragment | None:
        """Fragment that rounds from a model cover; ``None`` where that is everything.

        Args:
            step: how many models were made before that one.
            count: fragments of the model.
            whole: coordinates of the model.

        The models take turns, and not the heights: a height without a model leaves the turn where
        it is. So each fragment is merged equally often whoever spoils heights, and all that is ever
        sent about one model is about the same coordinates.
        """
        return None if count == 1 else cls(step % count, count, whole)

    @property
    def bounds(self) -> tuple[int, int]:
        """The first coordinate, and the first after the last one."""
        start = self.index * self.whole // self.count
        return start, (self.index + 1) * self.whole // self.count

    @property
    def dimension(self) -> int:
        """Number of its coordinates."""
        start, stop = self.bounds
        return stop - start

    def cut(self, vector: NDArray[_Number]) -> NDArray[_Number]:
        """Its coordinates of a vector of all, which is not kept alive: a copy, read-only."""
        start, stop = self.bounds
        part = vector[start:stop].copy()
        part.flags.writeable = False
        return part

    def placed(
        self, part: NDArray[_Number], around: NDArray[_Number] | None = None
    ) -> NDArray[_Number]:
        """A vector of all coordinates, read-only.

        ``part``: its coordinates in it; ``around``: what the others are taken from, zeros if not
        given.
        """
        start, stop = self.bounds
        whole = np.zeros(self.whole, dtype=part.dtype) if around is None else around.copy()
        whole[start:stop] = part
        whole.flags.writeable = False
        return whole
