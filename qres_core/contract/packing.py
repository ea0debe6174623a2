"""Vectors in as few bits as their numbers need: how one travels and lies in stores.

The coordinates are cut into blocks of :data:`BLOCK`. Each block has a *factor*, the greatest common
divisor of its numbers, and a *width*, the bits of its largest quotient by the factor. So small
numbers take few bits, and so do large ones that lie on a coarser grid. The bytes are::

    headers     a byte for each block: bits 0 to 5 are the width, 0..32; bit 7 says that a factor
                follows, which is then 2 or more
    factors     of the blocks that have one, 4 bytes each, little-endian
    quotients   of each block, `width` bits each, the lowest bit first: bit `i` of the block is bit
                `i mod 8` of its byte `i div 8`. The last byte of a block is filled up with zeros

A quotient `q` is written as `2 q` if it is not negative, else as `-2 q - 1`. One vector has one
encoding: any other bytes of the same numbers are refused by name. Nodes agree on the numbers, merge
them and prove about them.

Nothing is allocated for what the bytes claim: whoever decodes knows the dimension, and the headers
must add up to the bytes that are there.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import WireError
from qres_core.contract.types import Vector

BLOCK: Final = 256
"""Coordinates that share a width and a factor."""
_GROUP: Final = 32
"""Coordinates of one width that fill whole words of 32 bits."""
_HAS_FACTOR: Final = 0x80
_WIDTH: Final = 0x3F
_MOST_WIDTH: Final = 32
_FACTOR_BYTES: Final = 4
_AT_ONCE: Final = 1024
"""Blocks that are worked on at once: they fit into the cache."""
_LEADING: Final = 8
"""Coordinates of a block that are looked at first: they alone show most often that it has no
factor."""
_SHIFTS: Final = tuple(map(np.uint32, range(32)))

_Whole = NDArray[np.int64]
_Words = NDArray[np.uint32]
_Octets = NDArray[np.uint8]


def most_bytes(dimension: int) -> int:
    """The most bytes of a packed vector of so many coordinates.

    Example:
        >>> most_bytes(256)
        1029
    """
    return 4 * dimension + _blocks(dimension) + _FACTOR_BYTES


def block_bytes(octets: bytes | memoryview, numbers: int, where: str = "vector") -> int:
    """Bytes of a block of so many numbers that is packed by itself, from its first ones.

    For what is two packed vectors in a row. Raises WireError: QRES-E404 for no bytes. No more than
    the header is looked at.
    """
    if not len(octets):
        raise WireError.of("QRES-E404", where, "no bytes")
    width, has_factor = octets[0] & _WIDTH, octets[0] >= _HAS_FACTOR
    return 1 + _FACTOR_BYTES * has_factor + -(-numbers * width // 8)


def pack(vector: Vector) -> bytes:
    """The only encoding of a vector.

    Args:
        vector: int32, shape ``(d,)``, any values.

    Returns:
        at most :func:`most_bytes` of ``d``.

    Complexity: O(d).

    Example:
        >>> pack(np.int32([3, -3, 0, 6])).hex()
        '83030000000a08'
        >>> len(pack(np.zeros(10**6, dtype=np.int32)))
        3907
    """
    flat = np.ascontiguousarray(vector, dtype=np.int32)
    blocks = _blocks(flat.size)
    headers = np.zeros(blocks, dtype=np.uint8)
    factors: list[bytes] = []
    bodies: list[bytes] = []
    for first in range(0, blocks, _AT_ONCE):
        values = _cut(flat, first)
        divisors = _divisors(values)
        has_factor = divisors > 1
        quotients = values // np.maximum(divisors, 1)[:, None] if has_factor.any() else values
        folded = ((quotients << 1) ^ (quotients >> 63)).astype(np.uint32)
        widths = _widths(folded)
        headers[first : first + len(values)] = widths | has_factor * np.uint8(_HAS_FACTOR)
        factors.append(divisors[has_factor].astype("<u4").tobytes())
        bodies.append(_packed(folded, widths))
    sizes = _sizes(headers & np.uint8(_WIDTH), flat.size)
    packed = b"".join([headers.tobytes(), *factors, *bodies])
    spare = sum(map(len, bodies)) - int(sizes.sum())  # zeros behind the last number
    return packed[: len(packed) - spare]


def unpack(octets: bytes | memoryview, dimension: int, where: str = "vector") -> Vector:
    """The vector of an encoding.

    Args:
        octets: as they came from anybody.
        dimension: coordinates that it must have.
        where: what to call it in a refusal.

    Returns:
        int32, shape ``(dimension,)``, read-only.

    Raises:
        WireError: QRES-E401 for more bytes than any vector of that dimension takes, QRES-E404 for
            bytes that are none, QRES-E403 for numbers that have another encoding.

    Complexity: O(dimension). Before the headers add up to the bytes that are there, nothing but
    these headers is looked at.

    Example:
        >>> unpack(pack(np.int32([3, -3, 0, 6])), 4)
        array([ 3, -3,  0,  6], dtype=int32)
    """
    limit = most_bytes(dimension)
    if len(octets) > limit:
        raise WireError.of("QRES-E401", where, f"{len(octets)} bytes, limit {limit}")
    raw = np.frombuffer(octets, dtype=np.uint8)
    blocks = _blocks(dimension)
    headers = raw[:blocks]
    widths, has_factor = headers & np.uint8(_WIDTH), headers >= _HAS_FACTOR
    _check_headers(headers, widths, has_factor, blocks, where)
    body = blocks + _FACTOR_BYTES * int(np.count_nonzero(has_factor))
    sizes = _sizes(widths, dimension)
    total = body + int(sizes.sum())
    if len(octets) != total:
        what = f"{len(octets)} bytes, and its headers tell of {total}"
        raise WireError.of("QRES-E404", where, what)
    divisors = np.ones(blocks, dtype=np.int64)
    divisors[has_factor] = raw[blocks:body].view("<u4")
    if np.any(divisors[has_factor] < 2):
        raise _loose(where, "a factor below 2")
    vector = np.empty(dimension, dtype=np.int32)
    start = body
    for first in range(0, blocks, _AT_ONCE):
        last = min(first + _AT_ONCE, blocks)
        end = start + int(sizes[first:last].sum())
        values = _unpacked(raw[start:end], widths[first:last], divisors[first:last], where)
        part = vector[first * BLOCK : last * BLOCK]
        part[:] = values[: part.size]
        if np.any(values[part.size :]):
            raise _loose(where, "bits behind the last number")
        start = end
    vector.flags.writeable = False
    return vector


def _loose(where: str, what: str) -> WireError:
    return WireError.of("QRES-E403", where, f"{what}: these numbers have another encoding")


def _blocks(dimension: int) -> int:
    return -(-dimension // BLOCK)


def _sizes(widths: _Octets, dimension: int) -> _Whole:
    """Bytes of the quotients of each block."""
    sizes = widths.astype(np.int64) * (BLOCK // 8)
    if sizes.size:
        left = dimension - (sizes.size - 1) * BLOCK
        sizes[-1] = -(-left * int(widths[-1]) // 8)
    return sizes


def _cut(flat: Vector, first: int) -> _Whole:
    """Some blocks, shape ``(k, BLOCK)``; the last one of all is filled up with zeros."""
    part = flat[first * BLOCK : (first + _AT_ONCE) * BLOCK]
    values = np.zeros((_blocks(part.size), BLOCK), dtype=np.int64)
    values.reshape(-1)[: part.size] = part
    return values


def _divisors(values: _Whole) -> _Whole:
    """The greatest common divisor of each row; 0 of a row of zeros."""
    found: _Whole = np.gcd.reduce(values[:, :_LEADING], axis=1)
    open_ = np.flatnonzero(found != 1)
    if open_.size:
        rest = np.gcd.reduce(values[open_, _LEADING:], axis=1)
        found[open_] = np.gcd(found[open_], rest)
    return found


def _widths(folded: _Words) -> _Octets:
    """Bits of the largest number of each row."""
    _mantissa, bits = np.frexp(folded.max(axis=1).astype(np.float64))
    widths: _Octets = bits.astype(np.uint8)
    return widths


def _places(rows: NDArray[np.intp], starts: _Whole, words: int) -> NDArray[Any]:
    """Places of the words of some rows among those of all."""
    return starts[rows][:, None] + np.arange(words)


def _starts(widths: _Octets) -> tuple[_Whole, int]:
    """Places at which the words of each block begin, and the number of words."""
    words = widths.astype(np.int64) * (BLOCK // 32)
    ends = np.cumsum(words)
    return ends - words, int(ends[-1])


def _packed(folded: _Words, widths: _Octets) -> bytes:
    """The quotients of whole blocks, each in the width of its block."""
    starts, total = _starts(widths)
    out = np.zeros(total, dtype="<u4")
    for width in map(int, np.unique(widths[widths > 0])):
        rows = np.flatnonzero(widths == width)
        columns = np.ascontiguousarray(folded[rows].reshape(-1, _GROUP).T)
        words = np.zeros((width, columns.shape[1]), dtype=np.uint32)
        views = list(words)
        for number, column in enumerate(columns):
            word, shift = divmod(number * width, 32)
            views[word] |= column << _SHIFTS[shift]
            if shift + width > 32:
                views[word + 1] |= column >> _SHIFTS[32 - shift]
        size = width * (BLOCK // 32)
        out[_places(rows, starts, size)] = words.T.reshape(-1, size)
    return out.tobytes()


def _check_headers(
    headers: _Octets, widths: _Octets, has_factor: NDArray[np.bool_], blocks: int, where: str
) -> None:
    if headers.size < blocks:
        raise WireError.of("QRES-E404", where, f"fewer bytes than its {blocks} blocks have headers")
    if np.any(widths > _MOST_WIDTH) or np.any(headers & ~np.uint8(_HAS_FACTOR | _WIDTH)):
        raise WireError.of("QRES-E404", where, "a header that is none")
    if np.any(has_factor & (widths == 0)):
        raise _loose(where, "a factor of zeros")


def _unpacked(raw: _Octets, widths: _Octets, divisors: _Whole, where: str) -> _Whole:
    """The numbers of some blocks, in a row."""
    starts, total = _starts(widths)
    octets = np.zeros(4 * total, dtype=np.uint8)
    octets[: raw.size] = raw
    words = octets.view("<u4")
    folded = np.zeros((widths.size, BLOCK), dtype=np.uint32)
    for width in map(int, np.unique(widths[widths > 0])):
        rows = np.flatnonzero(widths == width)
        found = words[_places(rows, starts, width * (BLOCK // 32))].astype(np.uint32, copy=False)
        columns = list(np.ascontiguousarray(found.reshape(-1, width).T))
        mask = np.uint32((1 << width) - 1)
        numbers = np.empty((_GROUP, columns[0].size), dtype=np.uint32)
        for number, row in enumerate(numbers):
            word, shift = divmod(number * width, 32)
            bits = columns[word] >> _SHIFTS[shift]
            if shift + width > 32:
                bits |= columns[word + 1] << _SHIFTS[32 - shift]
            np.bitwise_and(bits, mask, out=row)
        folded[rows] = numbers.T.reshape(-1, BLOCK)
    if np.any(_widths(folded) != widths):
        raise _loose(where, "a width that its block does not need")
    signs = (folded & np.uint32(1)).astype(np.int64)
    quotients = (folded >> np.uint32(1)).astype(np.int64) ^ -signs
    if np.any((_divisors(quotients) != 1) & (widths > 0)):
        raise _loose(where, "a block with a common divisor that is not its factor")
    values: _Whole = quotients
    if np.any(divisors > 1):
        values = quotients * divisors[:, None]
        if values.max() > np.iinfo(np.int32).max or values.min() < np.iinfo(np.int32).min:
            raise WireError.of("QRES-E404", where, "a number that 32 bits do not hold")
    return values.reshape(-1)
