"""Updates as elements of the ring that masks are added in, and back as they travel.

A vector on the Q16.16 grid times a public weight becomes integers modulo 2**32 or 2**64. What
leaves the node is a vector of int32 either way: with the ring of 64 bits it holds the low words,
and the high words go beside it as a companion.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from qres_core import DIGEST_BYTES, MAX_COMPANION_BYTES, Companion, Vector, fixed
from qres_core.errors import ValueRefusedError
from qres_secagg.parameters import Parameters

NAME: Final = "secagg"
"""Of the companion that says under which list a vector was masked. The high words of a wide ring
follow that in it."""
MAX_WIDE_DIMENSION: Final = (MAX_COMPANION_BYTES - DIGEST_BYTES) // 4
"""Most coordinates with the ring of 64 bits: the high words must fit a companion."""
_LOW: Final = np.uint64(0xFFFFFFFF)
_HIGH: Final = np.uint64(32)


def weighted(vector: Vector, weight: int, parameters: Parameters, bound: int) -> NDArray[Any]:
    """The vector times its weight.

    Args:
        vector: int32, shape ``(d,)``, raw units of the grid.
        weight: what it is multiplied by, at least 1.
        parameters: ring and headroom for noise.
        bound: greatest absolute value of a coordinate before the weight; noise may go beyond it by
            the headroom.

    Returns:
        int32 or, in the ring of 64 bits, int64; shape ``(d,)``.

    Raises:
        ValueRefusedError: QRES-E507 for a coordinate beyond bound and headroom. Nothing is clipped:
            a clipped update would be another one than the node believes it sent.

    Complexity: O(d).
    """
    largest = max(int(vector.max()), -int(vector.min()))
    limit = bound + parameters.noise // weight
    if largest > limit:
        what = f"a coordinate of {largest} raw units is beyond the bound of {limit}"
        fix = "clip updates before (a dp plugin does), or raise plugins.secagg.bound"
        raise ValueRefusedError.of("QRES-E507", "secagg.bound", what, fix)
    if parameters.ring_bits == 64:
        return vector.astype(np.int64) * weight
    # limit * weight is below 2**31, so that the product fits.
    return vector if weight == 1 else vector * np.int32(weight)


def outgoing(masked: NDArray[Any], listing: bytes) -> tuple[Vector, Companion]:
    """A masked vector as it travels: int32, shape ``(d,)``, and what goes beside it.

    ``listing``: the name of the list that it was masked under, 32 bytes.
    """
    if masked.itemsize == 4:
        return masked.view(np.int32), Companion(listing)
    low = (masked & _LOW).astype("<u4").view(np.int32)
    return low, Companion(listing + (masked >> _HIGH).astype("<u4").tobytes())


def masked_under(companions: Mapping[str, Companion]) -> bytes:
    """The name of the list that a contribution says it was masked under; empty if it says none."""
    beside = companions.get(NAME)
    if beside is None or beside.modulus or len(beside.body) < DIGEST_BYTES:
        return b""
    return beside.body[:DIGEST_BYTES]


def incoming(
    vector: Vector, companions: Mapping[str, Companion], parameters: Parameters, start: int = 0
) -> tuple[NDArray[Any], bool]:
    """The ring elements that :func:`outgoing` sent.

    ``vector``: all coordinates, or those from ``start`` on. Returns them and whether the high words
    were right; if not, they count as zeros.
    """
    low = vector.view(np.uint32)
    if parameters.ring_bits == 32:
        return cast("NDArray[Any]", low), True
    if not has_high_words(companions, parameters):
        return low.astype(np.uint64), False
    body = companions[NAME].body
    words = np.frombuffer(body, "<u4", low.size, DIGEST_BYTES + 4 * start).astype(np.uint64)
    return cast("NDArray[Any]", (words << _HIGH) | low), True


def has_high_words(companions: Mapping[str, Companion], parameters: Parameters) -> bool:
    """True if the high words of a wide ring came, as many as there are coordinates."""
    if not masked_under(companions):
        return False
    return len(companions[NAME].body) == DIGEST_BYTES + 4 * parameters.dimension


def mean(sums: NDArray[np.int64], weight: int) -> tuple[Vector, int]:
    """Sums divided by a weight, rounded half to even, on the grid.

    Args:
        sums: int64, shape ``(d,)``.
        weight: at least 1.

    Returns:
        int32, shape ``(d,)``, and how many coordinates left the grid and were set to its end:
        honest inputs within the bound never make any.

    Complexity: O(d).
    """
    quotient = sums // np.int64(weight)
    rest = sums - quotient * weight
    # rest < weight <= 2**30: its double fits. A half is taken where it makes the quotient even.
    quotient += 2 * rest + (quotient & 1) > weight
    if max(int(quotient.max()), -int(quotient.min())) <= fixed.LIMIT:
        return quotient.astype(np.int32), 0
    over = int(np.count_nonzero(np.abs(quotient) > fixed.LIMIT))
    return np.clip(quotient, -fixed.LIMIT, fixed.LIMIT).astype(np.int32), over
