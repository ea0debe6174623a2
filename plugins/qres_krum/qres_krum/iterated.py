"""Krum again and again among those left, as Bulyan's first step asks."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_krum.scores import best, sums_of_nearest

_INT64_MAX = 2**63 - 1


def iterated_krum(distances: NDArray[Any], f: int) -> list[int]:
    """Pick ``n - 2 f`` rows one at a time, each by Krum among the rows not yet picked.

    With ``left`` rows to choose from, a row's score is the sum of its ``max(1, left - f - 2)``
    least distances to others of them, and the least score is picked. Of equal scores the one with
    the least sum of distances to all others left, of those the lowest row. With one neighbour, as
    the last picks for ``f`` of 1 and 2 have, the two rows nearest to each other are always equal,
    and who sent them should not decide.

    Args:
        distances: squared distances, shape ``(n, n)``, symmetric, zero diagonal: int64, float64,
            or Python integers in an object array. Not changed.
        f: 1 or more, ``n >= 4 f + 3``. (With ``f = 0`` every row is picked.)

    Returns:
        the rows in the order they were picked. Scores are exact for integer distances; for floats
        they have a relative error of about ``n 2**-52``.

    Complexity:
        ``O(n**2 log n)`` to sort the distances of every row once, then ``O(n)`` per pick, as the
        neighbours of a row change by one at a time. ``O(n**2)`` memory.

    Source:
        El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in
        Byzantium", ICML 2018, section 4.

    Example:
        >>> points = np.array([2, 3, 4, 8, 15, 18, 90])
        >>> iterated_krum((points[:, None] - points) ** 2, f=1)
        [3, 2, 1, 5, 4]
    """
    n = len(distances)
    nearest = _Nearest.of(distances, n - f - 2)
    left = np.arange(n)
    picked: list[int] = []
    while True:
        if len(left) > f + 3:
            sums = nearest.sums[left]
        else:
            # One neighbour, which for f = 1 stays one. Few rows are left, and what is read off
            # here ties where it should in floats too.
            among = distances[np.ix_(left, left)]
            sums = np.array(sums_of_nearest(among, range(len(left)), 1), dtype=distances.dtype)
        tied = np.flatnonzero(sums == sums.min())
        if len(tied) > 1:
            totals = sums_of_nearest(distances[np.ix_(left[tied], left)], tied, len(left) - 1)
            tied = tied[best(totals, 1)]
        pick = int(left[tied[0]])
        picked.append(pick)
        if len(picked) == n - 2 * f:
            return picked
        left = left[left != pick]
        nearest.remove(pick, left)


@attrs.define
class _Nearest:
    """The nearest neighbours of every row, kept while rows are removed.

    Each row has a list of the others by distance, from position 1 on, and its neighbours are those
    up to ``last``. At position 0 is the row itself, at distance zero. When a row is removed each
    list loses one neighbour: the removed row if that was one, else the farthest. So a sum changes
    by one subtraction, and no list is ever read again. The lists are linked, so that the step from
    the farthest neighbour to the one before it costs the same however many rows between them are
    gone.
    """

    order: NDArray[np.intp]  # ``order[i, p]`` is the row at position ``p`` of row ``i``'s list
    position: NDArray[np.int32]  # its inverse
    values: NDArray[Any]  # distances in the order of the lists
    earlier: NDArray[np.int32]  # for each position the one before it that is not removed
    later: NDArray[np.int32]  # for each position the one after it that is not removed
    last: NDArray[np.intp]  # the position of each row's farthest neighbour
    sums: NDArray[Any]  # of the distances to the neighbours, for each row
    alive: NDArray[np.bool_]  # the rows not removed
    # for floats, each sum when it was last added up; None for integers
    summed: NDArray[np.float64] | None

    @classmethod
    def of(cls, distances: NDArray[Any], count: int) -> _Nearest:
        """Sort the distances of every row and take the ``count`` least to others."""
        n = len(distances)
        rows = np.arange(n)[:, None]
        # How equal distances are ordered has no influence: only sums of the least are used.
        order = np.argsort(distances, axis=1)
        # The row itself goes to position 0. It need not be there yet: copies are as near.
        others = order[order != rows].reshape(n, n - 1)
        order = np.concatenate([rows, others], axis=1)
        places = np.arange(n, dtype=np.int32)
        position = np.empty((n, n), dtype=np.int32)
        np.put_along_axis(position, order, places[None, :], axis=1)
        values = np.take_along_axis(distances, order, axis=1)
        if values.dtype == np.int64 and int(values.max()) > _INT64_MAX // n:
            values = values.astype(np.object_)  # the distances fit int64, their sums may not
        return cls(
            order=order,
            position=position,
            values=values,
            earlier=np.tile(places - 1, (n, 1)),
            later=np.tile(places + 1, (n, 1)),
            last=np.full(n, count),
            sums=(sums := values[:, 1 : count + 1].sum(axis=1)),
            alive=np.ones(n, dtype=np.bool_),
            summed=sums.copy() if values.dtype == np.float64 else None,
        )

    def remove(self, gone: int, left: NDArray[np.intp]) -> None:
        """Take ``gone`` out of the lists of the rows ``left`` and one neighbour from each."""
        place, last = self.position[left, gone], self.last[left]
        with np.errstate(invalid="ignore"):  # infinity minus infinity, see below
            self.sums[left] -= self.values[left, np.minimum(place, last)]
        self.last[left] = np.where(place >= last, self.earlier[left, last], last)
        before, after = self.earlier[left, place], self.later[left, place]
        self.later[left, before] = after
        inner = after < len(self.order)
        self.earlier[left[inner], after[inner]] = before[inner]
        self.alive[gone] = False
        if self.summed is not None:
            self._add_up_again(left, self.summed)

    def _add_up_again(self, left: NDArray[np.intp], summed: NDArray[np.float64]) -> None:
        """Restore the precision of float sums that lost half of their size to subtractions.

        A sum that stays above half of what was added up has a relative error of at most twice that
        of the subtractions. Each halving costs ``O(n)``, and a liar far away cannot drown the
        distances between honest rows.
        """
        # Not `<`: infinity minus infinity is NaN and has to be added up too.
        worn = left[~(self.sums[left] >= summed[left] / 2)]
        if worn.size:
            near = self.alive[self.order[worn]]
            near &= np.arange(len(self.order)) <= self.last[worn, None]
            self.sums[worn] = self.values[worn].sum(axis=1, where=near)
            summed[worn] = self.sums[worn]
