"""Strict verification against RFC 8032, a slow curve of its own, and signatures made to slip by."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_ed25519 import signature as module
from qres_ed25519.signature import L, P, SigningKey, key_fault, point_fault, verify

# RFC 8032 section 7.1: secret key, public key, message, signature.
RFC_VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
            "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
        ),
    ),
]
MESSAGE = b"message"


def cryptography_accepts(public: bytes, message: bytes, signature: bytes) -> bool:
    """The other library as it comes: the control of what strictness adds."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def scalar(number: int) -> bytes:
    return number.to_bytes(32, "little")


@pytest.mark.parametrize("vector", RFC_VECTORS, ids=["empty", "1 byte", "2 bytes", "SHA(abc)"])
def test_vectors_of_the_rfc(vector: tuple[str, ...], curve: Any) -> None:
    seed, public, message, signature = map(bytes.fromhex, vector)
    pair = SigningKey.from_seed(seed)
    assert pair.public == public == curve.public(seed)
    assert pair.sign(message) == signature == curve.sign(seed, message)
    assert not key_fault(public)
    assert verify(public, message, signature)
    assert not verify(public, message + b"\0", signature)


@given(seed=st.binary(min_size=32, max_size=32), message=st.binary(max_size=64))
@settings(deadline=None, max_examples=15)
def test_the_slow_curve_agrees(seed: bytes, message: bytes, curve: Any) -> None:
    pair = SigningKey.from_seed(seed)
    assert pair.public == curve.public(seed)
    signature = pair.sign(message)
    assert signature == curve.sign(seed, message)
    assert verify(pair.public, message, signature)
    assert curve.lax_verify(pair.public, message, signature)


def test_every_flipped_bit_is_noticed(pairs: list[SigningKey]) -> None:
    pair = pairs[0]
    good = pair.sign(MESSAGE)
    for bit in range(512):
        bad = (int.from_bytes(good, "little") ^ 1 << bit).to_bytes(64, "little")
        assert not verify(pair.public, MESSAGE, bad)
    for length in (0, 1, 32, 63, 65, 128):
        assert not verify(pair.public, MESSAGE, (good * 2)[:length])


def test_bytes_do_not_move_between_signature_and_message(pairs: list[SigningKey]) -> None:
    # The library takes both as one string; a signature of another length would shift the border.
    signature = pairs[0].sign(b"message")
    assert verify(pairs[0].public, b"message", signature)
    assert not verify(pairs[0].public, b"essage", signature + b"m")
    assert not verify(pairs[0].public, signature[63:] + b"message", signature[:63])


def test_the_seed_must_have_its_length_and_is_not_shown() -> None:
    with pytest.raises(ValueError, match="seed"):
        SigningKey.from_seed(bytes(31))
    secret = hashlib.sha256(b"secret").digest()
    assert repr(secret) not in repr(SigningKey.from_seed(secret))
    assert secret.hex() not in repr(SigningKey.from_seed(secret))
    assert repr(SigningKey.from_seed(secret)).count("=b") == 1, "the public key alone"


# ── one signature of one message ──────────────────────────────────────────────────────────────


def lax_library(monkeypatch: pytest.MonkeyPatch, curve: Any, *, cofactor: int = 1) -> None:
    """Replace the library by one that only checks the equation: the worst there could be."""

    def crypto_sign_open(signed: bytes, public: bytes) -> bytes:
        if not curve.lax_verify(public, signed[64:], signed[:64], cofactor=cofactor):
            raise module.BadSignatureError
        return signed[64:]

    monkeypatch.setattr(module, "crypto_sign_open", crypto_sign_open)


@pytest.mark.parametrize("multiple", [1, 2, 7, 14])
def test_a_second_signature_made_by_adding_l(
    multiple: int, pairs: list[SigningKey], curve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pairs[0]
    good = pair.sign(MESSAGE)
    s = int.from_bytes(good[32:], "little") + multiple * L
    assert s < 2**256
    forged = good[:32] + scalar(s)
    assert curve.lax_verify(pair.public, MESSAGE, forged), "control: a lax verifier takes it"
    assert not verify(pair.public, MESSAGE, forged)
    lax_library(monkeypatch, curve)
    assert verify(pair.public, MESSAGE, good)
    assert not verify(pair.public, MESSAGE, forged)


@pytest.mark.claim("C-trust-3")
def test_s_is_below_l_exactly(monkeypatch: pytest.MonkeyPatch, pairs: list[SigningKey]) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr(module, "crypto_sign_open", lambda signed, _public: asked.append(signed))
    nonce = pairs[0].sign(MESSAGE)[:32]
    assert verify(pairs[0].public, MESSAGE, nonce + scalar(L - 1))
    assert len(asked) == 1
    assert not verify(pairs[0].public, MESSAGE, nonce + scalar(L))
    assert not verify(pairs[0].public, MESSAGE, nonce + scalar(2**256 - 1))
    assert len(asked) == 1, "the library is not asked"


# ── keys that are nobody's ────────────────────────────────────────────────────────────────────


def encodings(curve: Any, point: tuple[int, int]) -> list[bytes]:
    """Every string of 32 bytes that a lax decoder takes for the point."""
    x, y = point
    signs = (0, 1) if x == 0 else (x & 1,)
    return [
        (value | sign << 255).to_bytes(32, "little")
        for value in (y, y + curve.p)
        if value < 2**255
        for sign in signs
    ]


@pytest.mark.claim("C-trust-3")
def test_all_fourteen_encodings_of_the_small_order_points(curve: Any, torsion: Any) -> None:
    found = [octets for point in torsion for octets in encodings(curve, point)]
    assert len(set(found)) == 14
    for octets in found:
        assert curve.times(8, curve.decode(octets)) == curve.zero
        y = int.from_bytes(octets, "little") & (2**255 - 1)
        assert point_fault(octets) == ("not canonical" if y >= P else "of small order")
        assert key_fault(octets)
    assert {point[1] for point in torsion} == module.SMALL_ORDER_Y


@pytest.mark.parametrize("excess", range(19))
@pytest.mark.parametrize("sign", [0, 1])
def test_every_y_that_is_not_reduced(excess: int, sign: int) -> None:
    octets = (P + excess | sign << 255).to_bytes(32, "little")
    assert point_fault(octets) == "not canonical"
    assert key_fault(octets) == "not canonical"


def test_neighbours_of_what_is_refused_are_not() -> None:
    for y in (P - 2, P - 3, 2, 3):
        assert point_fault(scalar(y)) == ""
        assert point_fault(scalar(y | 1 << 255)) == ""


def test_one_signature_for_all_messages_of_a_small_order_key(
    curve: Any, torsion: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A of order 1: R = B times s holds with any k, so the signature fits every message.
    item = next(point for point in torsion if point == curve.zero)
    public = curve.encode(item)
    forged = curve.encode(curve.times(5, curve.base)) + scalar(5)
    for message in (b"pay nothing", b"pay everything"):
        assert curve.lax_verify(public, message, forged)
        assert cryptography_accepts(public, message, forged), "control: this library takes it"
    assert key_fault(public) == "of small order"
    lax_library(monkeypatch, curve)
    assert key_fault(public) == "of small order"


@pytest.mark.claim("C-trust-3")
def test_small_order_nonce(curve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The holder of the key makes it: s = k times a, R of order 1. Its own signature, in two
    # encodings of R if those were not refused.
    seed = hashlib.sha256(b"holder").digest()
    pair = SigningKey.from_seed(seed)
    secret, _prefix = curve.expand(seed)
    lax_library(monkeypatch, curve)
    for nonce in encodings(curve, curve.zero):
        k = curve.hash(nonce, pair.public, MESSAGE)
        forged = nonce + scalar(k * secret % L)
        assert curve.lax_verify(pair.public, MESSAGE, forged)
        assert not verify(pair.public, MESSAGE, forged)


@pytest.mark.control("C-trust-3")
def test_control_a_library_takes_a_small_order_nonce(curve: Any) -> None:
    seed = hashlib.sha256(b"holder").digest()
    pair = SigningKey.from_seed(seed)
    nonce = curve.encode(curve.zero)
    k = curve.hash(nonce, pair.public, MESSAGE)
    forged = nonce + scalar(k * curve.expand(seed)[0] % L)
    assert cryptography_accepts(pair.public, MESSAGE, forged)
    assert not verify(pair.public, MESSAGE, forged)


@pytest.mark.claim("C-trust-3")
def test_keys_with_a_part_of_small_order(curve: Any, torsion: Any, pairs: list[SigningKey]) -> None:
    point = curve.decode(pairs[0].public)
    assert not key_fault(pairs[0].public)
    for small in torsion:
        if small != curve.zero:
            mixed = curve.encode(curve.add(point, small))
            assert key_fault(mixed) == "not a point of the prime subgroup"


@pytest.mark.control("C-trust-3")
def test_control_such_a_key_divides_verifiers(curve: Any, torsion: Any) -> None:
    # With the cofactor the equation holds for every message, without it for one in eight: nodes
    # with different libraries would disagree. The key is refused, so the question never comes up.
    seed = hashlib.sha256(b"holder").digest()
    secret, _prefix = curve.expand(seed)
    small = next(point for point in torsion if curve.times(4, point) != curve.zero)
    public = curve.encode(curve.add(curve.times(secret, curve.base), small))
    nonce = curve.encode(curve.times(9, curve.base))
    verdicts: set[bool] = set()
    for number in range(12):
        message = b"%d" % number
        s = (9 + curve.hash(nonce, public, message) * secret) % L
        forged = nonce + scalar(s)
        assert curve.lax_verify(public, message, forged, cofactor=8)
        verdicts.add(curve.lax_verify(public, message, forged))
    assert verdicts == {True, False}
    assert key_fault(public)


def test_strings_that_are_no_point(curve: Any) -> None:
    y = 2
    while True:
        try:
            curve.x_of(y, 0)
        except ValueError:
            break
        y += 1
    assert key_fault(scalar(y)) == "not a point of the prime subgroup"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_keys_of_another_length(length: int) -> None:
    assert key_fault(b"\2" * length) == f"{length} bytes long, not 32"


def test_nonces_off_the_curve_and_of_another_encoding(
    curve: Any, pairs: list[SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    lax_library(monkeypatch, curve)
    for excess in range(19):
        nonce = (P + excess).to_bytes(32, "little")
        assert not verify(pairs[0].public, MESSAGE, nonce + scalar(1))


@given(octets=st.binary(min_size=32, max_size=32))
@settings(deadline=None, max_examples=25)
def test_random_strings_are_keys_only_in_the_prime_subgroup(octets: bytes, curve: Any) -> None:
    try:
        inside = curve.times(L, curve.decode(octets)) == curve.zero
    except ValueError:
        inside = False
    number = int.from_bytes(octets, "little") & (2**255 - 1)
    assert (not key_fault(octets)) == (inside and number < P and number not in (0, 1, P - 1))
