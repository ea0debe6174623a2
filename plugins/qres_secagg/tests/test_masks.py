from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_secagg import masks
from qres_secagg.keys import KeyPair
from qres_secagg.masks import (
    Residues,
    add_residues,
    apply,
    apply_residues,
    keystream,
)
from qres_secagg.parameters import PRGS

KEYS = [(bytes([i]) * 32, sign) for i, sign in ((1, 1), (2, -1), (3, 1))]


def by_block(key: bytes, size: int) -> bytes:
    """The keystream of AES-256 in counter mode, one block at a time."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - the oracle
    blocks = range(-(-size // 16))
    return b"".join(cipher.update(i.to_bytes(16, "big")) for i in blocks)[:size]


def test_the_keystream_is_counter_mode_from_zero() -> None:
    key = bytes(range(32))
    assert keystream(key, 1000) == by_block(key, 1000)
    assert keystream(bytes(32), 16).hex() == "dc95c078a2408989ad48a21492842087"
    # RFC 8439, appendix A.1, test vector 1.
    assert keystream(bytes(32), 16, prg="chacha20").hex() == "76b8e0ada0f13d90405d6ae55386bd28"


def test_known_answer() -> None:
    """First 64 bytes of a mask, for implementations in other languages."""
    assert keystream(bytes(range(32)), 64).hex() == by_block(bytes(range(32)), 64).hex()
    assert keystream(bytes(range(32)), 64).hex() == (
        "f29000b62a499fd0a9f39a6add2e7780f05d76ae4ab99fe5a6f69b3148c2363d"
        "0ebcb5deb52c83bd08a8a935182c9199d24356532881602f809eb383c5ff5d56"
    )


@pytest.mark.parametrize("prg", PRGS)
@given(offset=st.integers(0, 500), size=st.integers(0, 300))
def test_a_keystream_is_entered_anywhere(prg: str, offset: int, size: int) -> None:
    key = b"k" * 32
    assert (
        keystream(key, size, offset=offset, prg=prg)
        == keystream(key, offset + size, prg=prg)[offset:]
    )


@pytest.mark.parametrize("prg", PRGS)
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("size", [1, 1000, masks.BLOCK // 4, 3 * masks.BLOCK // 4 + 5])
def test_masks_are_keystreams_added_in_the_ring(
    prg: str, dtype: type[np.unsignedinteger], size: int
) -> None:
    values = np.arange(size).astype(dtype)
    expected = values.copy()
    for key, sign in KEYS:
        stream = np.frombuffer(keystream(key, values.nbytes, prg=prg), dtype)
        expected = expected + stream if sign > 0 else expected - stream
    apply(values, KEYS, prg=prg)
    assert np.array_equal(values, expected)


@settings(deadline=None)
@given(st.integers(1, 5 * masks.BLOCK // 4), st.data(), st.sampled_from([np.uint32, np.uint64]))
def test_threads_change_nothing(
    size: int, data: st.DataObject, dtype: type[np.unsignedinteger]
) -> None:
    whole, again = np.zeros(size, dtype), np.zeros(size, dtype)
    apply(whole, KEYS)
    apply(again, KEYS, threads=data.draw(st.integers(2, 3)))
    assert np.array_equal(whole, again)


@settings(deadline=None)
@given(
    st.integers(1, 5 * masks.BLOCK // 4),
    st.data(),
    st.sampled_from([np.uint32, np.uint64]),
    st.sampled_from(PRGS),
)
def test_a_range_is_masked_as_it_is_in_the_whole(
    size: int, data: st.DataObject, dtype: type[np.unsignedinteger], prg: str
) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    whole, part = np.zeros(size, dtype), np.zeros(stop - start, dtype)
    apply(whole, KEYS, prg=prg)
    apply(part, KEYS, prg=prg, start=start, threads=data.draw(st.integers(1, 2)))
    assert np.array_equal(part, whole[start:stop])


@given(st.integers(2, 2**256), st.lists(st.integers(0, 2**256), max_size=5), st.sampled_from(PRGS))
def test_residues_are_masked_and_unmasked_modulo_anything(
    modulus: int, numbers: list[int], prg: str
) -> None:
    plain = Residues(tuple(number % modulus for number in numbers), modulus)
    hidden = apply_residues(plain, KEYS, "zk", prg=prg)
    back = apply_residues(hidden, [(key, -sign) for key, sign in KEYS], "zk", prg=prg)
    assert back == plain
    assert add_residues(plain, Residues((0,) * len(numbers), modulus)) == plain


def test_residues_have_masks_of_their_own() -> None:
    plain = Residues((0,) * 4, 2**255 - 19)
    streams = [
        apply_residues(plain, KEYS[:1], "zk"),
        apply_residues(plain, KEYS[:1], "dp"),
        apply_residues(plain, KEYS[1:2], "zk"),
        Residues(
            tuple(np.frombuffer(keystream(KEYS[0][0], 32), np.uint64).tolist()), plain.modulus
        ),
    ]
    seen = {value for stream in streams for value in stream.values}
    assert len(seen) == 16


def test_masks_of_residues_are_uniform() -> None:
    """All residues of a small modulus about equally often: chi square with 6 degrees of freedom."""
    hidden = apply_residues(Residues((0,) * 70_000, 7), [(b"u" * 32, 1)], "zk")
    counts = np.bincount(hidden.values, minlength=7)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 40


def test_residues_of_different_kinds_do_not_mix() -> None:
    residue = Residues((1, 2), 7)
    for other in (Residues((1,), 7), Residues((1, 2), 11)):
        with pytest.raises(ValueError, match="different kinds"):
            add_residues(residue, other)
    with pytest.raises(ValueError, match="outside"):
        Residues((7,), 7)
    with pytest.raises(ValueError, match="modulus"):
        Residues((0,), 1)


def linear_complexity(bits: Iterator[int]) -> int:
    """Length of the shortest linear recurrence of a bit sequence (Berlekamp and Massey)."""
    current, previous, length, since, window = 1, 1, 0, 1, 0
    for i, bit in enumerate(bits):
        window = window << 1 | bit
        if (window & current).bit_count() & 1:
            old = current
            current ^= previous << since
            if 2 * length <= i:
                length, previous, since = i + 1 - length, old, 0
        since += 1
    return length


def low_bits(words: np.ndarray) -> Iterator[int]:
    return iter((words & 1).tolist())


@pytest.mark.claim("C-secagg-17")
@pytest.mark.control("C-secagg-17")
def test_no_short_linear_recurrence_predicts_a_mask() -> None:
    """A Mersenne twister's low bits, also of sums of its outputs, have one of order 19937."""
    size = 41_000
    words = np.zeros(size, np.uint32)
    apply(words, KEYS)
    assert linear_complexity(low_bits(words)) > 20_000
    twisters = [np.random.RandomState(seed) for seed in range(3)]
    weak = sum(twister.randint(0, 2**32, size, np.uint64) for twister in twisters)
    assert linear_complexity(low_bits(np.asarray(weak))) == 19_937


@pytest.mark.claim("C-secagg-17")
def test_seeds_have_all_their_entropy() -> None:
    """No bit of fresh secrets is constant: 64 of them, each bit seen both ways."""
    secrets_ = [int.from_bytes(KeyPair().public, "little") for _ in range(64)]
    ones, zeros = 0, 0
    for secret in secrets_:
        ones |= secret
        zeros |= ~secret
    assert ones & (1 << 255) - 1 == (1 << 255) - 1
    assert zeros & (1 << 255) - 1 == (1 << 255) - 1


def test_residues_outside_their_ring_or_of_another_number_are_refused() -> None:
    assert Residues((0, 6), 7).values == (0, 6)
    for values in ((7,), (0, 8), (-1, 3)):
        with pytest.raises(ValueError, match="outside its modulus"):
            Residues(values, 7)
    for other in (Residues((1, 2, 3), 7), Residues((1, 2), 8)):
        with pytest.raises(ValueError, match="of different kinds"):
            add_residues(Residues((1, 2), 7), other)
