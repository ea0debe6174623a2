"""Deterministic CBOR (RFC 8949 section 4.2), the only encoding on the wire.

Of the many encodings CBOR allows for one value exactly one is accepted, so a value has one digest.
The data model is small: null, booleans, integers of 64 bits, bytes, text, arrays, and maps whose
keys are integers, bytes or text. Map keys are in length-first order (section 4.2.3), which for keys
of one type is the bytewise order of section 4.2.1.
"""

from __future__ import annotations

from typing import Any, Final, TypeGuard

import cbor2

from qres_core.contract.errors import WireError

MAX_DEPTH: Final = 16
MAX_MAP: Final = 1024
"""Most entries of a map."""
_ARRAY, _MAP, _TAG, _SIMPLE = 4, 5, 6, 7
_FALSE, _NULL = 20, 22
_LEAST: Final = (24, 1 << 8, 1 << 16, 1 << 32)
"""The least argument for which a head of 1, 2, 4 or 8 more bytes is the shortest."""
_NO_SIMPLE: Final = "floats and other simple values are not used"


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether a decoded value is an array."""
    return type(value) is list


def is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    """Whether a decoded value is a map."""
    return type(value) is dict


def dumps(value: object) -> bytes:
    """Encode ``None``, bool, int, bytes, str, lists and maps of them, deterministically.

    Args:
        value: nested at most :data:`MAX_DEPTH` deep; map keys are int, bytes or str.

    Returns:
        bytes that :func:`loads` accepts.

    Raises:
        WireError: QRES-E402 nested too deep, QRES-E403 for what is outside the data model: floats,
            integers over 64 bits, sets, dates, other map keys, QRES-E404 for what CBOR cannot hold.

    Complexity: O(len(result)), and O(k log k) for a map of k keys.
    """
    try:
        data = cbor2.dumps(value, canonical=True)
    except Exception as error:
        raise WireError.of("QRES-E404", "value", f"not encodable: {error}") from error
    _check_form(data)
    return data


def _check_form(data: bytes) -> None:  # noqa: C901, PLR0912, PLR0915 - one loop, for speed
    """Refuse whatever is not the deterministic encoding of the data model, without recursion.

    Runs before the parser: that one recurses, makes objects of tags, and hashes map keys. Tuples
    of -1 and -2 all have one hash, so that container keys would make decoding quadratic, and so
    might very many keys chosen against the hash table.

    One loop over the heads, without calls: every message of every node passes here. To encode the
    parsed value again and compare would cost more, and a copy of each payload.
    """
    enclosing: list[tuple[int, bool, bytes]] = []  # items still to come in the outer containers
    left, in_map, last = 1, False, b""
    position, size = 0, len(data)
    loose = ""  # said last: what is cut off or no CBOR at all is called that
    while left:
        if position >= size:
            raise WireError.of("QRES-E402", "frame", "truncated")
        start = position
        head = data[position]
        major, length = head >> 5, head & 31
        position += 1
        if length > 23:
            if length > 27:
                raise WireError.of("QRES-E403", "frame", "indefinite length or reserved form")
            if major == _SIMPLE:
                raise WireError.of("QRES-E403", "frame", _NO_SIMPLE)
            end = position + (1 << (length - 24))
            least = _LEAST[length - 24]
            length = int.from_bytes(data[position:end], "big")
            if length < least:
                loose = "a number not in its shortest form"
            position = end
        left -= 1
        if major < _ARRAY:
            if major > 1:
                position += length
            if in_map and left & 1:
                key = data[start:position]
                if len(key) <= len(last) and (len(key) < len(last) or key <= last):
                    loose = "map keys out of order or twice"
                last = key
        elif in_map and left & 1:
            raise WireError.of("QRES-E403", "frame", "map keys are integers, bytes or text")
        elif major == _SIMPLE:
            if not _FALSE <= length <= _NULL:
                raise WireError.of("QRES-E403", "frame", _NO_SIMPLE)
        elif major == _TAG:
            raise WireError.of("QRES-E403", "frame", "tags are not used")
        else:
            if length > (MAX_MAP if major == _MAP else size):
                raise WireError.of("QRES-E402", "frame", "a container claims too many items")
            if len(enclosing) >= MAX_DEPTH:
                raise WireError.of("QRES-E402", "frame", f"nested deeper than {MAX_DEPTH}")
            enclosing.append((left, in_map, last))
            in_map, last = major == _MAP, b""
            left = 2 * length if in_map else length
        while not left and enclosing:
            left, in_map, last = enclosing.pop()
    if position != size:
        raise WireError.of("QRES-E402", "frame", "truncated or followed by other bytes")
    if loose:
        raise WireError.of("QRES-E403", "frame", f"not the deterministic encoding: {loose}")


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
    _check_form(data)
    try:
        return cbor2.loads(data)
    except Exception as error:
        raise WireError.of("QRES-E402", "frame", f"not CBOR: {type(error).__name__}") from error
