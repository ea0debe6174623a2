from __future__ import annotations

from contextlib import suppress

import pytest
from nacl import bindings
from nacl.exceptions import BadSignatureError
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.keys import (
    KeyPair,
    hkdf,
    in_group,
    pair_key,
    plausible,
    seal_key,
    self_key,
    signed,
    stream_key,
)
from qres_secagg.shamir import ORDER, encode

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
ZERO: Point = (0, 1)


def add(left: Point, right: Point) -> Point:
    """The group law of edwards25519 (RFC 8032, section 5.1), slowly: the oracle."""
    (x1, y1), (x2, y2) = left, right
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def times(number: int, point: Point) -> Point:
    total = ZERO
    while number:
        if number & 1:
            total = add(total, point)
        point, number = add(point, point), number >> 1
    return total


def read(octets: bytes) -> Point | None:
    """The point of an encoding, if there is one; the encoding need not be canonical."""
    number = int.from_bytes(octets, "little")
    y, odd = (number & (1 << 255) - 1) % P, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (x if x % 2 == odd else -x % P), y


def write(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


BASE = read(bytes.fromhex("58" + "66" * 31))
assert BASE is not None
SMALL = [
    write(times(i, torsion))
    for torsion in [
        read(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))
    ]
    if torsion
    for i in range(8)
]
NOT_CANONICAL = [(y + P | sign << 255).to_bytes(32, "little") for y in range(19) for sign in (0, 1)]


@pytest.mark.parametrize("key", SMALL + NOT_CANONICAL, ids=bytes.hex)
def test_keys_without_a_use_are_refused(key: bytes) -> None:
    assert not plausible(key)
    assert not in_group(key)
    with pytest.raises(SecaggError) as caught:
        KeyPair().exchange(key)
    assert caught.value.reason is Reason.BAD_KEY


def test_the_points_of_small_order_are_all_there_are() -> None:
    assert len(set(SMALL)) == 8
    for key in SMALL:
        point = read(key)
        assert point is not None
        assert times(8, point) == ZERO


def test_a_point_outside_the_group_is_refused_by_who_uses_it() -> None:
    """A key plus a point of order eight looks like a key, and shows a secret modulo eight."""
    own = KeyPair()
    good, small = read(own.public), read(SMALL[1])
    assert good is not None
    assert small is not None
    mixed = write(add(good, small))
    assert plausible(mixed)
    assert not in_group(mixed)
    with pytest.raises(SecaggError) as caught:
        KeyPair().exchange(mixed)
    assert caught.value.reason is Reason.BAD_KEY


def test_what_is_no_point_is_refused_by_who_uses_it() -> None:
    key = next(
        key for key in (bytes([i]) + bytes(30) + b"\x11" for i in range(50)) if read(key) is None
    )
    assert plausible(key)
    assert not in_group(key)
    with pytest.raises(SecaggError):
        KeyPair().exchange(key)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_lengths_are_no_keys(size: int) -> None:
    assert not plausible(bytes([9]) * size)
    assert not in_group(bytes([9]) * size)
    with pytest.raises(SecaggError):
        KeyPair().exchange(bytes([9]) * size)


def test_the_exchange_is_that_of_the_group() -> None:
    first, second = KeyPair(), KeyPair()
    assert BASE is not None
    assert first.public == write(times(first.secret, BASE))
    expected = write(times(first.secret * second.secret % ORDER, BASE))
    assert first.exchange(second.public) == second.exchange(first.public) == expected
    assert KeyPair(first.secret).public == first.public
    assert in_group(first.public)
    assert plausible(first.public)
    assert str(first.secret) not in repr(first)
    assert encode(first.secret).hex() not in repr(first)


def test_the_derivation_is_hkdf() -> None:
    """RFC 5869, test case 1, first block."""
    found = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert found.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_keys_are_bound_to_all_they_are_for() -> None:
    z, sid = b"z" * 32, b"s" * 32
    a, b = (b"a" * 32, b"1" * 32), (b"b" * 32, b"2" * 32)
    assert pair_key(z, sid, a, b) == pair_key(z, sid, b, a)
    assert seal_key(z, sid, a, b) != seal_key(z, sid, b, a)
    others = [
        pair_key(b"y" * 32, sid, a, b),
        pair_key(z, b"t" * 32, a, b),
        pair_key(z, sid, a, (b[0], b"3" * 32)),
        pair_key(z, sid, a, (b"c" * 32, b[1])),
        pair_key(z, sid, (a[0], b[1]), (b[0], a[1])),
        seal_key(z, sid, a, b),
        seal_key(z, sid, b, a),
        self_key(z, sid, a[0]),
        self_key(z, sid, b[0]),
        stream_key(z, b""),
        pair_key(z, sid, a, b),
    ]
    assert len(set(others)) == len(others)


def test_known_answers() -> None:
    """For implementations in other languages."""
    first = KeyPair(int.from_bytes(bytes(range(31)), "little"))
    second = KeyPair(int.from_bytes(bytes(range(31, 62)), "little"))
    assert first.public.hex() == "fce0a5b156caff1f58925753a3cc2b2c9c2e5501e39dca172890802d2a43d3ef"
    key = pair_key(
        first.exchange(second.public),
        b"s" * 32,
        (b"a" * 32, first.public),
        (b"b" * 32, second.public),
    )
    assert key.hex() == "d3c90345c5ac97a9d364fec931701c31a98a19d0f1a87f6d2c247fb67d926244"
    assert (
        self_key(bytes(range(32)), b"s" * 32, b"a" * 32).hex()
        == "906da8cfaf80f004d8985a9445ac8cc30145a87ea5b2998721e154de1b5f914a"
    )


def test_a_signature_under_a_key_outside_the_group_is_none() -> None:
    """Of every eight signatures that its owner makes, the library takes one."""
    pair, message = KeyPair(), b"message"
    good, small = read(pair.public), read(SMALL[1])
    assert good is not None
    assert small is not None
    assert signed(pair.sign(message), message, pair.public)
    pair.public = write(add(good, small))
    for _ in range(400):
        signature = pair.sign(message)
        with suppress(BadSignatureError):
            bindings.crypto_sign_open(signature + message, pair.public)
            break
    else:
        pytest.fail("the library takes none")
    assert not signed(signature, message, pair.public)
