"""Deterministic CBOR (RFC 8949 section 4.2), the only encoding on the wire.

Of the many encodings CBOR allows for one value exactly one is accepted, so a value has one digest.
The data model is small: null, booleans, integers of 64 bits, bytes, text, arrays, and maps whose
keys are integers, bytes or text. Map keys are in length-first order (section 4.2.3), which for keys
of one type is the bytewise order of section 4.2.1.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeGuard

import cbor2

from qres_core.contract.errors import WireError

MAX_DEPTH: Final = 16
MAX_MAP: Final = 1024
"""Most entries of a map."""
_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = 2, 3, 4, 5, 6, 7
_FALSE, _NULL = 20, 22
_SIMPLE_VALUES: Final = (False, True, None)
_LEAST: Final = (24, 1 << 8, 1 << 16, 1 << 32)
"""The least argument for which a head of 1, 2, 4 or 8 more bytes is the shortest."""
_NO_SIMPLE: Final = "floats and other simple values are not used"


def is_list(value: object) -> TypeGuard[list[Any]]:
    """True if a decoded value is an array."""
    return type(value) is list


def is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    """True if a decoded value is a map."""
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
    _read(data, b"")
    return data


def _read(  # noqa: C901, PLR0912, PLR0915 - one loop, for speed
    data: bytes, octets: bytes | memoryview, items_left: float = math.inf
) -> Any:
    """The value, if ``data`` is the deterministic encoding of one; without recursion.

    Container keys are refused, not hashed: tuples of -1 and -2 all have one hash, so that they
    would make decoding quadratic, and so might very many keys chosen against the hash table.

    One loop over the heads, without calls: every message of every node passes here. To encode the
    value again and compare would cost more, and a copy of each payload.

    Args:
        data: what to read.
        octets: the same, or a view of it, that byte strings are cut from; or nothing, to check
            the form alone.
        items_left: most values that containers may hold altogether.
    """
    enclosing: list[tuple[list[Any], int, int, bytes]] = []
    items: list[Any] = []  # of the innermost container; of a map, keys and values in turn
    left, in_map, last = 1, 0, b""  # items still to come in it
    position, size = 0, len(data)
    loose = garbled = ""  # said last: what is cut off or no CBOR at all is called that
    value: Any
    while left:
        if position >= size:
            raise WireError.of("QRES-E402", "frame", "truncated")
        start = position
        head = data[position]
        position += 1
        left -= 1
        is_key = in_map & left
        if head < 24:  # most often
            value = head
        else:
            major, length = head >> 5, head & 31
            if length > 23:
                if length > 27:
                    raise WireError.of("QRES-E403", "frame", "indefinite length or reserved form")
                if major == _SIMPLE:
                    raise WireError.of("QRES-E403", "frame", _NO_SIMPLE)
                least = _LEAST[length - 24]
                if length == 24 and position < size:  # no slice needed
                    end = position + 1
                    length = data[position]
                else:
                    end = position + (1 << (length - 24))
                    length = int.from_bytes(data[position:end], "big")
                if length < least:
                    loose = "a number not in its shortest form"
                position = end
            if major == _BYTES:
                end = position + length
                value = data[position:end] if is_key else octets[position:end]
                position = end
            elif major == _TEXT:
                end = position + length
                try:
                    value = data[position:end].decode()
                except UnicodeDecodeError:
                    garbled = value = "not UTF-8"
                position = end
            elif major < _BYTES:
                value = ~length if major else length
            elif is_key:
                raise WireError.of("QRES-E403", "frame", "map keys are integers, bytes or text")
            elif major == _SIMPLE:
                if not _FALSE <= length <= _NULL:
                    raise WireError.of("QRES-E403", "frame", _NO_SIMPLE)
                value = _SIMPLE_VALUES[length - _FALSE]
            elif major == _TAG:
                raise WireError.of("QRES-E403", "frame", "tags are not used")
            else:
                items_left -= length << (major & 1)
                if length > (MAX_MAP if major == _MAP else size) or items_left < 0:
                    raise WireError.of("QRES-E402", "frame", "a container claims too many items")
                if len(enclosing) >= MAX_DEPTH:
                    raise WireError.of("QRES-E402", "frame", f"nested deeper than {MAX_DEPTH}")
                if length:
                    enclosing.append((items, left, in_map, last))
                    items, in_map, last = [], major & 1, b""
                    left = length << in_map
                    continue
                value = {} if major == _MAP else []
        items.append(value)
        if is_key:
            key = data[start:position]
            if key <= last if len(key) == len(last) else len(key) < len(last):
                loose = "map keys out of order or twice"
            last = key
        while not left and enclosing:
            value = dict(zip(items[::2], items[1::2], strict=True)) if in_map else items
            items, left, in_map, last = enclosing.pop()
            items.append(value)
    if position != size:
        raise WireError.of("QRES-E402", "frame", "truncated or followed by other bytes")
    if loose:
        raise WireError.of("QRES-E403", "frame", f"not the deterministic encoding: {loose}")
    if garbled:
        raise WireError.of("QRES-E402", "frame", f"not CBOR: {garbled}")
    return items[0]


def loads(data: bytes, *, max_bytes: int, views: bool = False, max_items: int | None = None) -> Any:
    """Decode a canonical value.

    Args:
        data: the bytes as they came.
        max_bytes: refuse longer input before looking at it.
        views: give byte strings that are not map keys as read-only memoryviews of ``data``, which
            they keep alive, instead of copies.
        max_items: refuse more values than this, of all containers together; a key is one and its
            value another. Without it, a value takes up to 100 times the memory of its encoding,
            as a list of empty lists does.

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
    limit = math.inf if max_items is None else max_items
    return _read(data, memoryview(data) if views else data, limit)
