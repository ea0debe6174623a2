"""Deterministic CBOR (RFC 8949 section 4.2), the only encoding on the wire.

Of the many encodings CBOR allows for one value exactly one is accepted, so a value has one digest.
"""

from __future__ import annotations

from typing import Any, Final

import cbor2

from qres_core.contract.errors import WireError

MAX_DEPTH: Final = 16
_ARRAY, _MAP = 4, 5


def dumps(value: object) -> bytes:
    """Encode ``None``, bool, int, bytes, str, lists and maps of them, deterministically."""
    return cbor2.dumps(value, canonical=True)


def _check_depth(data: bytes) -> None:
    """Refuse nesting deeper than :data:`MAX_DEPTH` before any recursive parser sees it."""
    depth, pending = 0, [1]
    position, size = 0, len(data)
    while position < size and pending:
        major, low = data[position] >> 5, data[position] & 31
        position += 1
        if low < 24:
            length = low
        elif low < 28:
            width = 1 << (low - 24)
            length = int.from_bytes(data[position : position + width], "big")
            position += width
        else:
            raise WireError.of("QRES-E403", "frame", "indefinite length or reserved form")
        pending[-1] -= 1
        if major in (2, 3):
            position += length
        elif major in (_ARRAY, _MAP):
            items = length * (2 if major == _MAP else 1)
            if items > size:
                raise WireError.of("QRES-E402", "frame", "a container claims more than was sent")
            depth += 1
            if depth > MAX_DEPTH:
                raise WireError.of("QRES-E402", "frame", f"nested deeper than {MAX_DEPTH}")
            pending.append(items)
        elif major == 6:
            raise WireError.of("QRES-E403", "frame", "tags are not used")
        while len(pending) > 1 and pending[-1] == 0:
            pending.pop()
            depth -= 1
    if position != size or pending != [0]:
        raise WireError.of("QRES-E402", "frame", "truncated or followed by other bytes")


def loads(data: bytes, *, max_bytes: int) -> Any:
    """Decode a canonical value.

    Args:
        data: the bytes as they came.
        max_bytes: refuse longer input before looking at it.

    Returns:
        the value.

    Raises:
        WireError: QRES-E401 too large, QRES-E402 malformed, QRES-E403 not canonical. Nothing else,
            whatever the bytes.

    Complexity: O(len(data)).

    Example:
        >>> loads(dumps({0: b"x"}), max_bytes=100)
        {0: b'x'}
    """
    if len(data) > max_bytes:
        raise WireError.of("QRES-E401", "frame", f"{len(data)} bytes, limit {max_bytes}")
    _check_depth(data)
    try:
        value = cbor2.loads(data)
        again = cbor2.dumps(value, canonical=True)
    except Exception as error:
        raise WireError.of("QRES-E402", "frame", f"not CBOR: {type(error).__name__}") from error
    if again != data:
        raise WireError.of("QRES-E403", "frame", "not the deterministic encoding")
    return value
