from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.keys import (
    X25519Pair,
    hkdf,
    pair_key,
    seal_key,
    self_key,
    stream_key,
    valid_public,
)

P = 2**255 - 19
# Points of small order and encodings of u >= p (RFC 7748 section 5 reads the latter modulo p).
BAD = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "00" * 31 + "80",
    "01" + "00" * 30 + "80",
    "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "d9" + "ff" * 31,
    "da" + "ff" * 31,
    "db" + "ff" * 31,
]


def ladder(secret: bytes, u: int) -> int:
    """X25519 of RFC 7748 section 5, slowly, as the oracle."""
    k = int.from_bytes(secret, "little") & ~7 & ~(1 << 255) | (1 << 254)
    x1, x2, z2, x3, z3, swap = u % P, 1, 0, u % P, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % P, x1 * (d * a - c * b) ** 2 % P
        aa, bb = a * a % P, b * b % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return x2 * pow(z2, P - 2, P) % P


@pytest.mark.parametrize("key", BAD)
def test_keys_without_a_use_are_refused(key: str) -> None:
    public = bytes.fromhex(key)
    assert not valid_public(public)
    with pytest.raises(SecaggError) as caught:
        X25519Pair().exchange(public)
    assert caught.value.reason is Reason.BAD_KEY
    u = int.from_bytes(public, "little")
    in_small_group = ladder(os.urandom(32), u & (1 << 255) - 1) == 0
    assert in_small_group or u >= P


def test_without_the_check_two_encodings_are_one_key() -> None:
    """The positive control: what X25519 alone makes of encodings above p."""
    secret = X25519PrivateKey.generate()
    nine = (9).to_bytes(32, "little")
    also_nine = (9 | 1 << 255).to_bytes(32, "little")
    shared = [secret.exchange(X25519PublicKey.from_public_bytes(key)) for key in (nine, also_nine)]
    assert shared[0] == shared[1]
    assert valid_public(nine)
    assert not valid_public(also_nine)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_other_lengths_are_no_keys(size: int) -> None:
    assert not valid_public(bytes([9]) * size)


def test_the_exchange_is_that_of_the_standard() -> None:
    key_pair, two = X25519Pair(), X25519Pair()
    expected = ladder(key_pair.secret, int.from_bytes(two.public, "little"))
    assert (
        key_pair.exchange(two.public)
        == two.exchange(key_pair.public)
        == expected.to_bytes(32, "little")
    )
    assert X25519Pair(key_pair.secret).public == key_pair.public
    assert key_pair.secret.hex() not in repr(key_pair)


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
    key_pair, two = X25519Pair(bytes(range(32))), X25519Pair(bytes(range(32, 64)))
    assert (
        key_pair.public.hex() == "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
    )
    key = pair_key(
        key_pair.exchange(two.public),
        b"s" * 32,
        (b"a" * 32, key_pair.public),
        (b"b" * 32, two.public),
    )
    assert key.hex() == "3cd815faca351df65afa75e46ce75d74dd76744b5551b876afd8d16492bfe8de"
    assert (
        self_key(bytes(range(32)), b"s" * 32, b"a" * 32).hex()
        == "906da8cfaf80f004d8985a9445ac8cc30145a87ea5b2998721e154de1b5f914a"
    )
