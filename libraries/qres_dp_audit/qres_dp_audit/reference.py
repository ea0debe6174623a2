"""Reference of the audit, computed anew: it imports nothing of what it audits, and is short.

It is given the random bytes that the operating system gave the plugin, so that outputs are compared
to the bit. That its noise is a discrete Gaussian follows by reading: :func:`noise` inverts the
distribution function at a uniform point.

Sources: Canonne, Kamath, Steinke 2020 (the discrete Gaussian); Micciancio, Walter 2017 (wide noise
of narrow parts); Balle, Wang 2018, theorem 8 (a Gaussian release); Dong, Roth, Su 2022 (releases
together); Kalinin, Lampert 2024 (the matrix of correlated noise).
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Integers = NDArray[np.int64]
LARGEST_EPSILON: Final = 600.0
"""That the formulas can tell: no setting is planned to come near it."""
LIMIT: Final = 2**31 - 1
"""Largest number of the grid."""
LEMMA: Final = 9
"""Squared steps of the grid that are added for the step from real numbers to integers."""
_BLOCK: Final = 2**17


# ── what an update becomes ────────────────────────────────────────────────────────────────────


def bound_steps(clip: float, scale: int) -> int:
    """The clip in whole steps of the grid."""
    return int(Fraction(clip) * Fraction(2) ** (16 - scale))


def square(vector: NDArray[Any]) -> int:
    """The squared length, exact. O(d)."""
    return sum(value * value for value in vector.ravel().tolist())


def clipped(vector: NDArray[Any], bound: int) -> Integers:
    """Times a fraction of 31 bits that is just below ``bound / length``, rounded towards zero."""
    norm, shift, factor = square(vector), 0, 0
    if norm <= bound * bound:
        return vector.astype(np.int64)
    while factor < 2**30:
        shift += 1
        factor = math.isqrt((bound * bound << (2 * shift)) // norm)
    wide = vector.astype(np.int64)
    short: Integers = np.sign(wide) * (np.abs(wide) * factor >> min(shift, 62))  # below 2**62
    return short


def coefficients(band: int) -> list[int]:
    """Of the square root of a sum's matrix, in units of ``2**-16``, rounded down."""
    return [math.comb(2 * k, k) * 2**16 >> (2 * k) for k in range(band)]


def row(updates: Mapping[int, Integers], step: int, band: int, size: int) -> Integers:
    """The row of a step: a node's own updates by step, times the coefficients of their age."""
    total, column = np.zeros(size, dtype=np.int64), coefficients(band)
    for item, update in updates.items():
        if 0 <= step - item < band:
            total += column[step - item] * update
    short: Integers = np.sign(total) * (np.abs(total) >> 16)
    return short


def reach(steps: Iterable[int], step: int, band: int) -> int:
    """Move of such a row for a clip of 1, in units of ``2**-16``."""
    column = coefficients(band)
    return sum(column[step - item] for item in steps if 0 <= step - item < band)


def grain(bound: int, size: int) -> int:
    """Part of rounding in a row's move, in units of ``2**-16`` bounds; rounded up."""
    return min(2**16, -(-(2**16) * (math.isqrt(size - 1) + 1) // bound))


def is_turn(node: bytes, step: int, separation: int) -> bool:
    """True if a node has data in a step of correlated noise."""
    return step % separation == int.from_bytes(hashlib.sha256(node).digest()) % separation


# ── its noise ─────────────────────────────────────────────────────────────────────────────────


def parts(variance: Fraction) -> list[tuple[Fraction, int]]:
    """Variances of narrow parts and what each is multiplied by; scaled, they add up exactly."""
    found, scale, rest, narrow = list[tuple[Fraction, int]](), 1, variance, Fraction(2**20)
    while rest > narrow:
        step = min(128, math.isqrt(int(rest)) // 512 + 1)
        coarse = Fraction(int((rest - 2**18) / step**2))
        if rest <= narrow * step**2:
            coarse = Fraction(max(int(rest / (step**2 + 1)), math.ceil((rest - narrow) / step**2)))
        found.append((rest - step**2 * coarse, scale))
        scale, rest = scale * step, coarse
    found.append((rest, scale))
    if sum(part * factor**2 for part, factor in found) != variance:
        raise AssertionError(variance)
    return found


@functools.lru_cache(maxsize=16)
def table(variance: Fraction) -> tuple[list[int], int]:
    """``2**256 P(X <= k)`` of the discrete Gaussian from ``-r`` on, and ``r``: 12 deviations."""
    far = math.isqrt(int(144 * variance)) + 12
    with localcontext(prec=100):
        q = (-1 / (2 * Decimal(variance.numerator) / variance.denominator)).exp()
        weights, ratio = [Decimal(1)], q
        for _ in range(far):  # q**(k * k)
            weights.append(weights[-1] * ratio)
            ratio *= q * q
        both, below, found = [*weights[:0:-1], *weights], Decimal(0), list[int]()
        unit = 2**256 / sum(both, Decimal(0))
        for weight in both[:-1]:
            below += weight
            found.append(int(below * unit))
    return found, far


@functools.lru_cache(maxsize=16)
def _points(variance: Fraction) -> NDArray[np.uint64]:
    return np.array([entry >> 192 for entry in table(variance)[0]], dtype=np.uint64)


def noise(variance: Fraction, size: int, key: bytes) -> Integers:
    """Discrete Gaussian noise of a key: of each part the value at a point of 64 random bits.

    The points' upper 16 bits come first, of a whole block. The other 48 are drawn for those alone
    whose value they decide, and 192 more where even 64 bits do not.
    """
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    out, cells = np.zeros(size, dtype=np.int64), np.uint64(2**48 - 1)
    for start in range(0, size, _BLOCK):
        block = out[start : start + _BLOCK]
        for part, factor in parts(variance):
            (exact, far), steps = table(part), _points(part)
            words = np.frombuffer(stream.update(bytes(2 * block.size)), "<u2")
            points = words.astype(np.uint64) << np.uint64(48)
            least = np.searchsorted(steps, points, side="left")
            open_ = np.flatnonzero(least != np.searchsorted(steps, points | cells, side="right"))
            more = np.frombuffer(stream.update(bytes(8 * open_.size)), "<u8").astype(np.uint64)
            points[open_] |= more >> np.uint64(16)
            value = np.searchsorted(steps, points, side="right")
            ties = value[open_] != np.searchsorted(steps, points[open_], side="left")
            for tie in open_[ties]:
                last = int.from_bytes(stream.update(bytes(24)), "little")
                value[tie] = bisect.bisect_right(exact, int(points[tie]) << 192 | last)
            block += factor * (value - far)
    return out


def chances(variance: Fraction) -> tuple[NDArray[np.float64], int]:
    """The distribution of noise that one table draws, from ``-r`` on, float64, and ``r``."""
    far = math.isqrt(int(144 * variance)) + 12
    k = np.arange(-far, far + 1, dtype=np.float64)
    weights = np.exp(-(k * k) / (2.0 * float(variance)))
    return weights / weights.sum(), far


# ── what it costs ─────────────────────────────────────────────────────────────────────────────


def _above(x: float) -> float:
    """P(N(0, 1) > x)."""
    return 0.5 * math.erfc(x / math.sqrt(2.0))


def delta_of(mu: float, epsilon: float) -> float:
    """Delta of a mu-Gaussian release at an epsilon."""
    far, near = epsilon / mu + mu / 2.0, epsilon / mu - mu / 2.0
    return _above(near) - math.exp(epsilon) * _above(far)


def epsilon_of(mu: float, delta: float) -> float:
    """Epsilon of a mu-Gaussian release at a delta, at most :data:`LARGEST_EPSILON`."""
    if mu == 0.0 or delta_of(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, LARGEST_EPSILON
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta_of(mu, middle) > delta else (low, middle)
    return high
