"""Aim of a proposer's fit, and the bound that it holds the merged update to."""

from __future__ import annotations

import math
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import FULL_STANDING, MAX_WEIGHT, NodeId, Updates, Vector
from qres_core.errors import ValueRefusedError
from qres_validation.capped_mean import MOST, cut, halvings, held, longest
from qres_validation.mixing import mixing_weights, whole_parts

_MASK: Final = 2**16 - 1
_WIDE: Final = 2**46
_BLOCK: Final = 8192
"""Columns at a time: 33 bits times 16 bits, so that the sums stay below 2**63."""


@attrs.frozen(eq=False)
class Fit:
    """Weights that bring the merged update nearest to a reference, and the proof that they do.

    Attributes:
        rows: updates that may count, int32, shape ``(m, d)``.
        reference: int32, shape ``(d,)``.
        limits: of each row the most that it may count, integers.
        total: what the rows count together.
        weights: the weights that were fitted, float64, shape ``(m,)``, with the sum 1.
        parts: how much each row counts by them; they sum to ``total``.
        halved: how often the fitted mean is halved before it is merged.
        shares: of every sender, the share of its weight that it counts, in units of 2**-32.
    """

    rows: NDArray[np.int32]
    reference: Vector
    limits: list[int]
    total: int
    weights: NDArray[np.float64]
    parts: list[int]
    halved: int
    shares: dict[NodeId, int]

    @classmethod
    def of(cls, updates: Updates, reference: Vector, f: int, quorum: int, shorter: int = 0) -> Fit:
        """Fit the weights of updates.

        Left out are rows that are too long by :func:`~qres_validation.capped_mean.longest`, but
        no fewer than ``c = max(quorum, n - f)`` stay, the shortest. With the lesser of the lower
        median weight and of the cap by :func:`~qres_validation.capped_mean.held` as the unit, a
        row counts at most a unit and at most its weight, and all together count ``c`` units.

        Args:
            updates: int32, shape ``(n, d)``, ``n >= quorum``.
            reference: int32, shape ``(d,)``.
            f: updates that may be anything.
            quorum: fewest updates of a set.
            shorter: how often the step is to be halved.

        Complexity: as :func:`~qres_validation.mixing.mixing_weights`.
        """
        fewest = min(len(updates), max(quorum, len(updates) - f))
        squares, most = longest(updates.vectors, f, quorum)
        order = sorted(range(len(squares)), key=lambda row: (squares[row], row))
        short = sum(square <= most for square in squares)
        chosen = sorted(order[: max(fewest, short)])
        # What is taken although it is too long is shortened, as the rule will shorten it. (Among
        # zeros the rule may shorten more, in a smaller set: then the check refuses the set.)
        rows = cut(updates.vectors[chosen], [squares[row] for row in chosen], most)
        weights = [int(updates.weights[row]) for row in chosen]
        finer = max(1, MAX_WEIGHT // max(weights))  # full standings alone are weights of 1
        weights = [weight * finer for weight in weights]
        usual = sorted(weights)[(len(weights) - 1) // 2]
        whole = min(usual, max(held(weights, fewest)))
        # Doubled so often again when they are sent; the rule halves them if their sum is too much.
        coarse = max(0, (fewest * MAX_WEIGHT).bit_length() - (MOST - 1).bit_length())
        unit = max(1, whole >> coarse + shorter)
        limits = [min(weight >> coarse + shorter, unit) for weight in weights]
        total = min(fewest * unit, sum(limits))
        fitted = mixing_weights(rows, reference, np.array(limits) / total)
        parts = whole_parts(fitted, total, limits)
        shares = dict.fromkeys(updates.senders, 0)
        for row, part, weight in zip(chosen, parts, weights, strict=True):
            # Up: the standing that comes of it is rounded down, to just this part.
            shares[updates.senders[row]] = -(-(part << coarse) * FULL_STANDING // weight)
        halved = halvings(np.array([part << coarse for part in parts]))
        return cls(rows, reference, limits, total, fitted, parts, halved, shares)

    def check(self, merged: Vector) -> None:
        """Refuse a merged update that is farther from the reference than a better choice could be.

        Let ``F`` be the merged update, doubled as often as it was halved, and ``u`` the reference.
        Whatever ``y`` is, a mean ``v`` of the rows within the limits has
        ``|v - u| >= <v - u, y> / |y|``. The least of the right side is found by giving weight to
        the rows with the least ``<x - u, y>`` first. With ``y`` along the fitted mean less ``u``
        that is the distance of the best of all means, by duality. (The mean by the fitted weights:
        whole parts turn ``y`` away from long rows, and prove less.) So no mean within the limits
        is nearer to ``u`` than ``|F - u|`` less a step of the grid in each coordinate, if

            ``|F - u| <= least / |y| + sqrt(d)``,

        where a step is doubled as often as ``F`` was. All of it is in exact integers. Half a step
        in each coordinate is what rounding may do.

        Args:
            merged: int32, shape ``(d,)``: what every node would merge.

        Raises:
            ValueRefusedError: QRES-E514 if that does not hold.

        Complexity: O(n d).
        """
        way = _way(self.rows, self.reference, self.weights)
        least, left = 0, self.total
        products = exact_products(self.rows, self.reference, way)
        for product, limit in sorted(zip(products, self.limits, strict=True)):
            taken = min(limit, left)
            least, left = least + taken * product, left - taken
        away = (merged.astype(np.int64) << self.halved) - self.reference
        steps = merged.size << 2 * self.halved
        excess = exact_square(away) - steps
        if excess <= 0:
            return
        # least / |y| is L / (T sqrt(B)): both sides times that are squared until all is whole.
        scale = self.total**2 * exact_square(way)
        missing = excess * scale - least**2
        if least <= 0 or (missing > 0 and missing**2 > 4 * steps * least**2 * scale):
            what = "the merged update is farther from the reference than the fitted mean may be"
            raise ValueRefusedError.of("QRES-E514", "plugins.validated_mean", what)


def _way(
    rows: NDArray[np.int32], reference: Vector, weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """A mean less the reference, but for its length.

    Weights are cut to as many bits as int64 has room for: the nearer the mean is, the more, up to
    those of a float. ``weights``: float64, shape ``(m,)``, with the sum 1. Returns int64, shape
    ``(d,)``, below 2**47. O(m d).
    """
    far = 0.0
    for start in range(0, reference.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        away = weights @ rows[:, block].astype(np.float64) - reference[block]
        far = max(far, float(np.abs(away).max()))
    room = min(52, 61 - math.frexp(far)[1])  # the sums stay below 2**62
    way = np.zeros(reference.size, dtype=np.int64)
    for row, weight in zip(rows, weights, strict=True):
        way += round(math.ldexp(float(weight), room)) * (row.astype(np.int64) - reference)
    most = int(np.abs(way).max())
    shift = max(0, most.bit_length() - _WIDE.bit_length() + 1)
    return way >> shift


def exact_products(rows: NDArray[np.int32], reference: Vector, way: NDArray[np.int64]) -> list[int]:
    """``<row - reference, way>`` of every row; ``way`` below 2**48. Exact, O(n d)."""
    found = [0] * len(rows)
    for start in range(0, way.size, _BLOCK):
        block = rows[:, start : start + _BLOCK].astype(np.int64)
        block -= reference[start : start + _BLOCK]
        rest = way[start : start + _BLOCK]
        for limb in range(3):
            part = rest if limb == 2 else rest & _MASK  # the last one has the sign
            rest = rest >> 16
            for row, product in enumerate((block @ part).tolist()):
                found[row] += product << 16 * limb
    return found


def exact_square(way: NDArray[np.int64]) -> int:
    """``|way|**2``; ``way`` below 2**48. Exact, O(d)."""
    total = 0
    for start in range(0, way.size, _BLOCK):
        high, low = way[start : start + _BLOCK] >> 24, way[start : start + _BLOCK] & (2**24 - 1)
        total += (int(high @ high) << 48) + (int(high @ low) << 25) + int(low @ low)
    return total
