"""Exact discrete Gaussian noise on the grid, a pure function of a 32-byte key.

The distribution ``D_Z(v)`` gives an integer ``k`` a probability proportional to
``exp(-k**2 / (2 v))`` (Canonne, Kamath, Steinke 2020). It is drawn without floating point:

- The cumulative distribution is a table of 256-bit integers. Sixteen random bits choose one of
  65,536 cells; where a boundary of the distribution runs through the cell, 48 more bits decide, and
  192 more where these hit the boundary. Every outcome has its probability to within 2**-256, and
  nothing is rejected.
- Above ``2 * BASE`` the sample is ``x0 + k (x1 + k' (x2 + ...))`` of narrow tables (Micciancio,
  Walter, CRYPTO 2017). The variances are exact rationals that add up exactly.

Noise of one key is the same on every machine, Python and numpy.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.errors import ValueRefusedError
from qres_dp.randomness import Keystream

BASE: Final = 512
"""Standard deviation around which wide noise is split; up to twice that one table is enough."""
BLOCK: Final = 2**17
"""Samples drawn at a time."""
LARGEST_DEVIATION: Final = 2**26
"""Above it a sample may not fit an int32."""
TAIL_BITS: Final = 256
"""What a table leaves out on both sides together has a probability below 2**-256."""

_CDF_BITS: Final = 256
_WORK_BITS: Final = 384
_SMOOTH: Final = 4
"""Smoothing parameter of a split, about: the error of a sample is then below 2**-450."""
_UNDECIDED: Final = -(2**31)


def exp_minus(exponent: Fraction, bits: int) -> int:
    """``2**bits * exp(-exponent)`` in integers, for ``exponent >= 0``.

    Returns within 2**8 of the exact value, by the Taylor series of the exponent halved until it is
    below 2**-8, squared back again.
    """
    guard = bits + 64
    halvings = int(exponent).bit_length() + 8
    small = (exponent.numerator << guard) // (exponent.denominator << halvings)
    total = term = 1 << guard
    sign, index = 1, 0
    while term:
        sign, index = -sign, index + 1
        term = ((term * small) >> guard) // index
        total += sign * term
    for _ in range(halvings):
        total = (total * total) >> guard
    return total >> 64


def cumulative(variance: Fraction) -> tuple[int, ...]:
    """The distribution function of ``D_Z(variance)``, from the lower end of its table.

    Args:
        variance: positive.

    Returns:
        ``2 r + 1`` integers; entry ``j`` is ``2**256 P(X <= j - r)``, rounded down, with the least
        ``r`` that leaves out no more than 2**-256. The last is ``2**256``.

    Complexity: O(r) products of 384-bit integers.
    """
    reach = math.isqrt(math.ceil(2 * variance * TAIL_BITS)) + 2  # log 2 < 1
    # w(k) = q**(k*k) with q = exp(-1/(2 v)): w(k+1) = w(k) * q**(2k+1)
    q = exp_minus(1 / (2 * variance), _WORK_BITS)
    square, ratio, weight = (q * q) >> _WORK_BITS, q, 1 << _WORK_BITS
    one_side: list[int] = []
    for _ in range(reach):
        weight = (weight * ratio) >> _WORK_BITS
        ratio = (ratio * square) >> _WORK_BITS
        one_side.append(weight)
    weights = [*reversed(one_side), 1 << _WORK_BITS, *one_side]
    total, below, table = sum(weights), 0, list[int]()
    for weight in weights:
        below += weight
        table.append((below << _CDF_BITS) // total)
    return tuple(table)


class Table:
    """Draws ``scale * X`` for ``X`` from ``D_Z(variance)`` by inversion.

    Args:
        variance: positive, at most ``(2 * BASE)**2``.
        scale: what every outcome is multiplied by.
    """

    def __init__(self, variance: Fraction, scale: int = 1) -> None:
        self.variance = variance
        self.scale = scale
        self._exact = cumulative(variance)
        self.reach = len(self._exact) // 2
        top = [min(entry >> (_CDF_BITS - 64), 2**64 - 1) for entry in self._exact[:-1]]
        self._boundaries: NDArray[np.uint64] = np.array(top, dtype=np.uint64)
        first = np.arange(2**16, dtype=np.uint64) << np.uint64(48)
        last = first | np.uint64(2**48 - 1)
        below = np.searchsorted(self._boundaries, first, side="left")
        through = np.searchsorted(self._boundaries, last, side="right") - below
        self._lowest: NDArray[np.int32] = (below - self.reach).astype(np.int32)
        self._boundary = self._boundaries[np.minimum(below, self._boundaries.size - 1)]
        self._several: NDArray[np.bool_] = through > 1
        cells = np.where(through == 0, self._lowest * np.int32(scale), np.int32(_UNDECIDED))
        self._cells: NDArray[np.int32] = cells.astype(np.int32)

    def draw(self, words: NDArray[np.uint16], out: NDArray[np.int32], more: Keystream) -> None:
        """Overwrite ``out`` with samples.

        ``words``: sixteen random bits for each sample, uint16, shape ``(m,)``; ``out``: int32,
        shape ``(m,)``; ``more``: where further bits come from.
        """
        np.take(self._cells, words, out=out, mode="wrap")  # the fastest; nothing wraps
        undecided = np.flatnonzero(out == _UNDECIDED)
        if undecided.size:
            out[undecided] = self.decide(words[undecided], more) * np.int32(self.scale)

    def decide(self, words: NDArray[np.uint16], more: Keystream) -> NDArray[np.int32]:
        """The unscaled outcomes in cells a boundary runs through, int32, shape ``(m,)``."""
        points = (words.astype(np.uint64) << np.uint64(48)) | (
            more.words(words.size) >> np.uint64(16)
        )
        boundary = self._boundary[words]
        outcome = self._lowest[words] + (points >= boundary)
        hard = np.flatnonzero(self._several[words] | (points == boundary))
        if hard.size:
            outcome[hard] = self.invert(points[hard], more)
        return outcome.astype(np.int32)

    def invert(self, points: NDArray[np.uint64], more: Keystream) -> NDArray[np.int64]:
        """The outcomes at points of 64 bits, with 192 further bits where one is a boundary's."""
        above = np.searchsorted(self._boundaries, points, side="right").astype(np.int64)
        least = np.searchsorted(self._boundaries, points, side="left")
        for tie in np.flatnonzero(least < above):
            exact = (int(points[tie]) << 192) | more.bits(192)
            while above[tie] > least[tie] and self._exact[int(above[tie]) - 1] > exact:
                above[tie] -= 1
        return above - self.reach


@attrs.frozen
class Level:
    """One narrow part of wide noise."""

    variance: Fraction  # of the part before it is scaled
    scale: int  # what its samples are multiplied by


def split(variance: Fraction) -> tuple[Level, ...]:
    """Narrow parts whose scaled sum has this variance, from the finest to the coarsest."""
    levels: list[Level] = []
    scale, rest = 1, variance
    narrow = Fraction(4 * BASE * BASE)
    while rest > narrow:
        step = min(BASE // _SMOOTH, math.isqrt(int(rest)) // BASE + 1)
        if rest <= narrow * step * step:
            # About equal parts; what is left over by rounding must not make this one too wide.
            least = math.ceil((rest - narrow) / (step * step))
            coarse = Fraction(max(int(rest / (step * step + 1)), least))
        else:
            coarse = Fraction(int((rest - BASE * BASE) / (step * step)))
        levels.append(Level(rest - step * step * coarse, scale))
        scale, rest = scale * step, coarse
    levels.append(Level(rest, scale))
    return tuple(levels)


class DiscreteGaussian:
    """The distribution ``D_Z(variance)``, ready to be drawn from.

    Args:
        variance: exact, in squared steps of the grid; positive.

    Raises:
        ValueRefusedError: QRES-E313 for a deviation that is not in (0, 2**26].

    Complexity: building takes some 20 ms; use :func:`discrete_gaussian`, which keeps the last few.
    """

    def __init__(self, variance: Fraction) -> None:
        if not 0 < variance <= LARGEST_DEVIATION**2:
            what = f"variance {float(variance):g} is not in (0, 2**52]"
            fix = "a larger swarm.scale, or a smaller clip"
            raise ValueRefusedError.of("QRES-E313", "noise", what, fix)
        self.variance = variance
        self.levels = split(variance)
        self._tables = tuple(Table(level.variance, level.scale) for level in self.levels)

    @property
    def reach(self) -> int:
        """No sample is farther from zero."""
        return sum(table.scale * table.reach for table in self._tables)

    def sample(self, size: int, key: bytes) -> NDArray[np.int32]:
        """Independent samples.

        Args:
            size: how many.
            key: 32 bytes; the same key gives the same noise, so use one once.

        Returns:
            int32, shape ``(size,)``.

        Complexity: O(size); 2 bytes of the stream for each sample and level, 8 more for about one
        in ten.
        """
        out = np.empty(size, dtype=np.int32)
        stream = Keystream(key)
        octets = np.empty((len(self._tables), 2 * min(size, BLOCK)), dtype=np.uint8)
        part = np.empty(min(size, BLOCK), dtype=np.int32)
        for start in range(0, size, BLOCK):
            block = out[start : start + BLOCK]
            words = octets[:, : 2 * block.size]
            for row, table in enumerate(self._tables):
                stream.fill(words[row])
                drawn = part[: block.size] if row else block
                table.draw(words[row].view("<u2"), drawn, stream)
                if row:
                    block += drawn
        return out


@functools.lru_cache(maxsize=16)
def discrete_gaussian(variance: Fraction) -> DiscreteGaussian:
    """``D_Z(variance)``; the last sixteen are kept."""
    return DiscreteGaussian(variance)
