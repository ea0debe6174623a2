"""Exact sums that a committee opened of a shard, and their bytes.

A sum is cut into its lower 32 bits, as a signed number, and what is left above them. The bytes are
the number of rows, 4 bytes, little-endian; and then, as one packed vector, the lower halves row by
row and the upper halves row by row. Sums that 32 bits hold so take next to nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core.contract import packing
from qres_core.contract.errors import WireError

_COUNT_BYTES: Final = 4


def sums_bytes(rows: int, width: int) -> int:
    """The most bytes of so many sums of a shard of so many coordinates."""
    return _COUNT_BYTES + packing.most_bytes(2 * rows * width)


def encode_sums(sums: NDArray[np.int64]) -> bytes:
    """The one encoding of sums: int64, shape ``(rows, width)``, below 2**62."""
    flat = np.ascontiguousarray(sums, dtype=np.int64).reshape(-1)
    lower = flat.astype(np.int32)
    upper = ((flat - lower) >> 32).astype(np.int32)
    count = len(sums).to_bytes(_COUNT_BYTES, "little")
    return count + packing.pack(np.concatenate([lower, upper]))


def joined_sums(
    shards: Sequence[bytes | memoryview], widths: Sequence[int], most: int
) -> NDArray[np.int64] | None:
    """The sums of all shards, in their order: int64, shape ``(rows, d)``, read-only.

    ``widths``: coordinates of each shard; ``most``: rows. ``None`` where the bytes are no sums of
    as many rows each: more than ``f`` nodes lied.
    """
    counts = {int.from_bytes(octets[:_COUNT_BYTES], "little") for octets in shards}
    rows = counts.pop()
    if counts or not 1 <= rows <= most:
        return None
    with suppress(WireError):
        found = zip(shards, widths, strict=True)
        sums = np.concatenate([_decoded(octets, rows, width) for octets, width in found], axis=1)
        sums.flags.writeable = False
        return sums
    return None


def _decoded(octets: bytes | memoryview, rows: int, width: int) -> NDArray[Any]:
    """Raises WireError: QRES-E401 to QRES-E404."""
    packed = packing.unpack(octets[_COUNT_BYTES:], 2 * rows * width, "payload.sums")
    lower, upper = packed.astype(np.int64).reshape(2, rows, width)
    return lower + (upper << 32)
