"""Deterministic CBOR, against a slow codec written from RFC 8949 alone."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any, cast

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qres_core import canonical
from qres_core.errors import WireError

CAP = 2**20
DEPTH = 16
thorough = settings(deadline=None, max_examples=400)

integers = st.integers(-(2**64), 2**64 - 1) | st.integers(-300, 300)
keys = integers | st.binary(max_size=12) | st.text(max_size=12)
scalars = st.none() | st.booleans() | integers | st.binary(max_size=40) | st.text(max_size=40)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=25,
)


class RefusedError(Exception):
    """What the reference decoder says of bytes it does not take."""


def head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for low, form in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if argument < 1 << 8 * struct.calcsize(form):
            return bytes([major << 5 | low]) + struct.pack(form, argument)
    raise RefusedError


def by_length(encoded: bytes) -> tuple[int, bytes]:
    return len(encoded), encoded


def reference_encode(value: object) -> bytes:
    match value:
        case None | bool():
            return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            rows = cast("list[object]", value)
            return head(4, len(rows)) + b"".join(map(reference_encode, rows))
        case dict():
            table = cast("dict[object, object]", value)
            pairs = {reference_encode(k): reference_encode(v) for k, v in table.items()}
            body = b"".join(key + pairs[key] for key in sorted(pairs, key=by_length))
            return head(5, len(table)) + body
        case _:
            raise RefusedError


def reference_decode(data: bytes) -> Any:
    value, end = _item(data, 0, 0)
    if end != len(data):
        raise RefusedError
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at >= len(data):
        raise RefusedError
    major, low = data[at] >> 5, data[at] & 31
    if major == 7:
        if data[at] not in (0xF4, 0xF5, 0xF6):
            raise RefusedError
        return {0xF4: False, 0xF5: True, 0xF6: None}[data[at]], at + 1
    width = {24: 1, 25: 2, 26: 4, 27: 8}.get(low, 0)
    if low > 27 or major == 6 or at + 1 + width > len(data):
        raise RefusedError
    number = int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else low
    if head(major, number) != data[at : at + 1 + width]:
        raise RefusedError
    at += 1 + width
    if major < 2:
        return (number if major == 0 else -1 - number), at
    if major < 4:
        if number > len(data) - at:
            raise RefusedError
        octets = data[at : at + number]
        return (octets if major == 2 else _text(octets)), at + number
    if depth == DEPTH:
        raise RefusedError
    if major == 4:
        return _array(data, at, number, depth + 1)
    return _map(data, at, number, depth + 1)


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError from error


def _array(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    rows: list[Any] = []
    for _ in range(count):
        row, at = _item(data, at, depth)
        rows.append(row)
    return rows, at


def _map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[Any, Any], int]:
    table: dict[Any, Any] = {}
    last = (0, b"")
    for _ in range(count):
        if at >= len(data) or data[at] >> 5 > 3:
            raise RefusedError
        key, end = _item(data, at, depth)
        if by_length(data[at:end]) <= last:
            raise RefusedError
        last = by_length(data[at:end])
        table[key], at = _item(data, end, depth)
    return table, at


def same(left: object, right: object) -> bool:
    """Equality that tells ``True`` from ``1``."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        ours, theirs = cast("list[object]", left), cast("list[object]", right)
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(left, dict):
        mine, other = cast("dict[Any, object]", left), cast("dict[Any, object]", right)
        return same(list(mine), list(other)) and same(list(mine.values()), list(other.values()))
    return left == right


def copied(value: object) -> object:
    """A value decoded with views, with bytes in their place; there are no bytes but as keys."""
    if isinstance(value, list):
        return [copied(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        table = cast("dict[Any, object]", value)
        assert not any(isinstance(key, memoryview) for key in table)
        return {key: copied(item) for key, item in table.items()}
    assert not isinstance(value, bytes)
    return bytes(value) if isinstance(value, memoryview) else value


def check_agrees(data: bytes) -> bool:
    """The decoder, the reference and cbor2 take the same bytes and read one value in them."""
    try:
        expected = reference_decode(data)
    except RefusedError:
        with pytest.raises(WireError):
            canonical.loads(data, max_bytes=CAP)
        return False
    found = canonical.loads(data, max_bytes=CAP)
    assert same(found, expected)
    assert same(found, cbor2.loads(data))
    assert same(copied(canonical.loads(data, max_bytes=CAP, views=True)), expected)
    assert canonical.dumps(found) == data
    return True


def refusal(data: bytes, *, max_bytes: int = CAP) -> str:
    with pytest.raises(WireError) as caught:
        canonical.loads(data, max_bytes=max_bytes)
    return caught.value.code


def mutate(rng: random.Random, frame: bytes, other: bytes) -> bytes:
    data = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                data[at] = rng.choice((0, 0x1B, 0x5B, 0x81, 0x9B, 0xA1, 0xBB, 0xC2, 0xF9, 0xFF))
            case 2:
                del data[at : at + rng.randrange(1, 9)]
            case 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                begin = rng.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + rng.randrange(1, 20)]
            case 5:
                data[at:at] = data[at : at + rng.randrange(1, 20)]
            case _:
                del data[at:]
    return bytes(data)


@thorough
@given(values)
@example([{}, [], b"", "", -(2**64), 2**64 - 1, {1: 2, -1: 3, b"": 4, "": 5, 24: 6, b"a": 7}])
def test_every_value_has_the_encoding_of_the_standard_and_comes_back(value: object) -> None:
    data = canonical.dumps(value)
    assert data == reference_encode(value)
    found = canonical.loads(data, max_bytes=len(data))
    assert canonical.dumps(found) == data
    assert check_agrees(data)


@thorough
@given(st.dictionaries(keys, st.integers(0, 9), max_size=8), st.randoms(use_true_random=False))
def test_the_order_in_which_a_map_was_built_does_not_show(
    table: dict[Any, int], rng: random.Random
) -> None:
    items = list(table.items())
    rng.shuffle(items)
    assert canonical.dumps(dict(items)) == canonical.dumps(table)


@pytest.mark.parametrize(
    ("value", "encoding"),
    [  # RFC 8949 appendix A
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (1000000000000, "1b000000e8d4a51000"),
        (18446744073709551615, "1bffffffffffffffff"),
        (-18446744073709551616, "3bffffffffffffffff"),
        (-1000, "3903e7"),
        (False, "f4"),
        (True, "f5"),
        (None, "f6"),
        (b"", "40"),
        (b"\1\2\3\4", "4401020304"),
        ("\u6c34", "63e6b0b4"),
        ("\U00010151", "64f0908591"),
        ([1, [2, 3], [4, 5]], "8301820203820405"),
        ({1: 2, 3: 4}, "a201020304"),
        ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
        # section 4.2.3: shorter keys first, whatever their type
        ({100: 0, -1: 0, "z": 0, "aa": 0, 10: 0}, "a50a002000186400617a0062616100"),
    ],
)
def test_encodings_of_the_standard(value: object, encoding: str) -> None:
    assert canonical.dumps(value).hex() == encoding
    assert (
        same(canonical.loads(bytes.fromhex(encoding), max_bytes=100), value) or encoding[0] == "a"
    )


@pytest.mark.parametrize("size", [65535, 65536, 65537, 200_001])
def test_long_text_and_bytes_survive_any_chunking(size: int) -> None:
    for value in ("a" * (size - 1) + "\u6c34\U00010151", "\u6c34" * (size // 3), b"\xff" * size):
        assert canonical.loads(canonical.dumps(value), max_bytes=CAP) == value


@pytest.mark.claim("C-wire-1")
@pytest.mark.parametrize(
    ("frame", "code"),
    [
        # one value in more octets than it needs
        ("1800", "QRES-E403"),
        ("1817", "QRES-E403"),
        ("190017", "QRES-E403"),
        ("1a0000ffff", "QRES-E403"),
        ("1b00000000ffffffff", "QRES-E403"),
        ("3800", "QRES-E403"),
        ("580161", "QRES-E403"),
        ("780161", "QRES-E403"),
        ("980101", "QRES-E403"),
        ("b8010101", "QRES-E403"),
        ("5b000000000000000161", "QRES-E403"),
        # indefinite lengths, the lone break, reserved forms
        ("5f4161ff", "QRES-E403"),
        ("7f6161ff", "QRES-E403"),
        ("9f01ff", "QRES-E403"),
        ("bf0101ff", "QRES-E403"),
        ("ff", "QRES-E403"),
        ("1c", "QRES-E403"),
        ("5d", "QRES-E403"),
        ("9e", "QRES-E403"),
        ("fc", "QRES-E403"),
        # order and repetition of keys
        ("a202010101", "QRES-E403"),
        ("a22000" + "0000", "QRES-E403"),
        ("a2616200" + "616100", "QRES-E403"),
        ("a201010101", "QRES-E403"),
        ("a201010102", "QRES-E403"),
        ("a24161014162014161", "QRES-E402"),
        # keys that are not integers, bytes or text
        ("a1f500", "QRES-E403"),
        ("a1f400", "QRES-E403"),
        ("a1f600", "QRES-E403"),
        ("a18000", "QRES-E403"),
        ("a1a000", "QRES-E403"),
        ("a1820102" + "00", "QRES-E403"),
        ("81a1f500", "QRES-E403"),
        # tags, also the bignum of a value that would fit and of one that would not
        ("c001", "QRES-E403"),
        ("c24101", "QRES-E403"),
        ("c249010000000000000000", "QRES-E403"),
        ("c349010000000000000000", "QRES-E403"),
        ("81d81c00", "QRES-E403"),
        ("d81d00", "QRES-E403"),
        ("d9010281" + "01", "QRES-E403"),
        ("d9d9f700", "QRES-E403"),
        # floats of every width, NaN, infinity and -0.0 among them
        ("f90000", "QRES-E403"),
        ("f98000", "QRES-E403"),
        ("f97e00", "QRES-E403"),
        ("f97e01", "QRES-E403"),
        ("f97c00", "QRES-E403"),
        ("fa47c35000", "QRES-E403"),
        ("fb7ff8000000000001", "QRES-E403"),
        ("fb3ff199999999999a", "QRES-E403"),
        ("82f93c0001", "QRES-E403"),
        ("a101f93c00", "QRES-E403"),
        # undefined and simple values
        ("f7", "QRES-E403"),
        ("e0", "QRES-E403"),
        ("f3", "QRES-E403"),
        ("f814", "QRES-E403"),
        ("f820", "QRES-E403"),
        ("f8ff", "QRES-E403"),
        # truncated
        ("", "QRES-E402"),
        ("18", "QRES-E402"),
        ("1b00", "QRES-E402"),
        ("41", "QRES-E402"),
        ("62c3", "QRES-E402"),
        ("5901", "QRES-E402"),
        ("82", "QRES-E402"),
        ("8201", "QRES-E402"),
        ("a1", "QRES-E402"),
        ("a101", "QRES-E402"),
        ("828101", "QRES-E402"),
        # followed by other bytes
        ("0000", "QRES-E402"),
        ("8000", "QRES-E402"),
        ("4000", "QRES-E402"),
        ("f6ff", "QRES-E402"),
        ("8101c0", "QRES-E402"),
        # not UTF-8: a lone byte, a surrogate, an overlong slash, past the last code point
        ("61ff", "QRES-E402"),
        ("63eda080", "QRES-E402"),
        ("62c0af", "QRES-E402"),
        ("64f4908080", "QRES-E402"),
        ("a161ff00", "QRES-E402"),
        # not UTF-8 and not canonical besides, before it or after it
        ("8261ffc0", "QRES-E403"),
        ("8261fff7", "QRES-E403"),
        ("8261ff1817", "QRES-E403"),
        ("82181761ff", "QRES-E403"),
        ("a261ff0061fe00", "QRES-E403"),
        # not UTF-8 and cut off or followed by other bytes
        ("8261ff", "QRES-E402"),
        ("61ff00", "QRES-E402"),
        ("62ff", "QRES-E402"),
    ],
)
def test_every_other_form_is_refused(frame: str, code: str) -> None:
    data = bytes.fromhex(frame)
    assert refusal(data) == code
    assert not check_agrees(data)


@pytest.mark.control("C-wire-1")
@pytest.mark.parametrize("frame", ["1800", "580161", "5f4161ff", "9f01ff", "a202010101", "f93c00"])
def test_control_a_common_decoder_reads_other_forms_too(frame: str) -> None:
    data = bytes.fromhex(frame)
    assert cbor2.dumps(cbor2.loads(data), canonical=True) != data or frame == "f93c00"
    assert refusal(data) == "QRES-E403"


@pytest.mark.claim("C-wire-1")
@pytest.mark.parametrize("major", [0x40, 0x60, 0x80, 0xA0])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_claims_of_more_than_was_sent_are_refused_at_once(major: int, width: int) -> None:
    low = {1: 24, 2: 25, 4: 26, 8: 27}[width]
    for claim in (2 ** (8 * width) - 1, 2 ** (8 * width - 1), 200):
        lying = bytes([major | low]) + claim.to_bytes(width, "big")
        assert refusal(lying) == "QRES-E402"
        assert refusal(lying + b"\0" * 50) == "QRES-E402"
        assert refusal(b"\x82" + lying + b"\0" * 50) == "QRES-E402"
        assert refusal(b"\xa1\0" + lying + b"\0" * 50) == "QRES-E402"


@pytest.mark.parametrize("size", [2**31, 2**32, 2**40, 2**62, 2**63, 2**64 - 1])
def test_no_memory_is_taken_for_a_string_that_was_not_sent(size: int) -> None:
    for major in (0x5B, 0x7B):
        assert refusal(bytes([major]) + size.to_bytes(8, "big") + b"abc") == "QRES-E402"


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x81" * 10**6,
        b"\xa1\x00" * 500_000,
        b"\x82\x00" * 500_000,
        b"\x9f" * 10**6,
        b"\xbf" * 10**6,
        b"\xc1" * 10**6,
        b"\x81" * 10**6 + b"\x00",
        b"\x9b" + b"\xff" * 8 + b"\x81" * 10**5,
        b"\xa1" * 10**5,
    ],
    ids=["arrays", "maps", "pairs", "open-arrays", "open-maps", "tags", "whole", "claim", "keys"],
)
def test_depth_bombs_are_refused_without_recursion(bomb: bytes) -> None:
    assert refusal(bomb, max_bytes=2**21) in {"QRES-E402", "QRES-E403"}


def in_list(inner: object) -> object:
    return [inner]


def in_map(inner: object) -> object:
    return {0: inner}


@pytest.mark.parametrize("wrap", [in_list, in_map])
def test_the_depth_limit_is_exact_and_the_same_both_ways(
    wrap: Callable[[object], object],
) -> None:
    value: object = 0
    for _ in range(DEPTH):
        value = wrap(value)
    data = canonical.dumps(value)
    assert same(canonical.loads(data, max_bytes=100), value)
    with pytest.raises(WireError) as caught:
        canonical.dumps(wrap(value))
    assert caught.value.code == "QRES-E402"
    assert refusal(b"\x81" + data) == "QRES-E402"


def test_depth_is_of_open_containers_and_not_of_their_number() -> None:
    nothing: list[object] = []
    value = [[[0]] * 50, {1: [nothing], 2: [nothing]}] * 20
    assert canonical.loads(canonical.dumps(value), max_bytes=CAP) == value


def test_views_are_of_the_frame_itself_and_cannot_be_written() -> None:
    data = canonical.dumps([b"abc", {b"key": b""}])
    first, table = canonical.loads(data, max_bytes=CAP, views=True)
    assert (first, table) == (b"abc", {b"key": b""})
    assert first.obj is data
    assert table[b"key"].obj is data
    assert first.readonly


@pytest.mark.claim("C-wire-1")
@given(st.binary(max_size=40))
def test_the_size_is_looked_at_first(data: bytes) -> None:
    assert refusal(data + b"\xff", max_bytes=len(data)) == "QRES-E401"


def test_a_frame_of_exactly_the_limit_is_read() -> None:
    data = canonical.dumps(b"x" * 100)
    assert canonical.loads(data, max_bytes=len(data)) == b"x" * 100
    assert refusal(data, max_bytes=len(data) - 1) == "QRES-E401"


def test_container_keys_are_never_hashed() -> None:
    # hash(-1) == hash(-2), so each of these 2**10 tuples would fall into one bucket of a dict.
    collide = [
        b"\x8a" + bytes(0x20 | (index >> bit & 1) for bit in range(10)) for index in range(1024)
    ]
    assert len({hash(tuple(cbor2.loads(key))) for key in collide}) == 1
    frame = head(5, len(collide)) + b"".join(key + b"\0" for key in sorted(collide))
    assert refusal(frame) == "QRES-E403"


@pytest.mark.parametrize(
    ("value", "items"),
    [([], 0), (1, 0), ([1, 2], 2), ([[], [[]]], 3), ({1: 2, 3: 4}, 4), ([{1: []}, {}], 4)],
)
def test_more_values_than_asked_for_are_refused(value: object, items: int) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data, max_bytes=CAP, max_items=items) == value
    if items:
        with pytest.raises(WireError) as caught:
            canonical.loads(data, max_bytes=CAP, max_items=items - 1)
        assert caught.value.code == "QRES-E402"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.5, "QRES-E403"),
        (float("nan"), "QRES-E403"),
        ([1, {2: -0.0}], "QRES-E403"),
        (2**64, "QRES-E403"),
        (-(2**64) - 1, "QRES-E403"),
        ({1, 2}, "QRES-E403"),
        (cbor2.undefined, "QRES-E403"),
        ({None: 1}, "QRES-E403"),
        ({True: 1}, "QRES-E403"),
        ({(1, 2): 1}, "QRES-E403"),
        ({1.0: 1}, "QRES-E403"),
        (object(), "QRES-E404"),
        ("\ud800", "QRES-E404"),
    ],
)
def test_what_is_outside_the_data_model_is_not_encoded(value: object, code: str) -> None:
    with pytest.raises(WireError) as caught:
        canonical.dumps(value)
    assert caught.value.code == code


def test_a_value_that_holds_itself_is_not_encoded() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(WireError) as caught:
        canonical.dumps(loop)
    assert caught.value.code == "QRES-E404"


@settings(deadline=None, max_examples=1500)
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read_as_the_reference_reads_them(data: bytes) -> None:
    check_agrees(data)


@thorough
@given(values, values, st.randoms(use_true_random=False))
def test_damaged_frames_are_refused_or_read_as_the_reference_reads_them(
    value: object, other: object, rng: random.Random
) -> None:
    check_agrees(mutate(rng, canonical.dumps(value), canonical.dumps(other)))


def test_twenty_thousand_damaged_frames() -> None:
    rng = random.Random(8949)
    originals: list[Any] = [
        {1: b"abc", 2: "text", 3: [1, -2, 2**40, None, True], 4: {"k": {b"k": []}}},
        [[[[[b""] * 3] * 3]], {-1: 1, 1: -1, 300: 2, b"z": {}}],
        {n: bytes([n]) * n for n in range(30)},
        ["\u6c34" * 9, b"\xf9\x7e\x00" * 9, 2**63, -(2**63), False],
    ]
    frames = [canonical.dumps(value) for value in originals]
    taken = 0
    for _ in range(20_000):
        taken += check_agrees(mutate(rng, rng.choice(frames), rng.choice(frames)))
    assert 1000 < taken < 19_000  # both branches are well exercised


def test_every_short_input() -> None:
    for first in range(256):
        check_agrees(bytes([first]))
        for second in range(256):
            check_agrees(bytes([first, second]))
