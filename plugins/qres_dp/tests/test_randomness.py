"""The stream is AES-256 in counter mode, changes its key, and does not survive a fork."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_dp.randomness import Keystream, fresh_key

from qres_core.errors import ValueRefusedError

KEY = bytes(range(32))


def take(stream: Keystream, size: int) -> bytes:
    octets: NDArray[np.uint8] = np.empty(size, dtype=np.uint8)
    stream.fill(octets)
    return octets.tobytes()


def counter_mode(key: bytes, size: int) -> bytes:
    """The definition: the encryption of 0, 1, 2, …, block by block."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - the definition
    octets = b"".join(block.update(i.to_bytes(16, "big")) for i in range(size // 16 + 1))
    return octets[:size]


def test_the_stream_is_the_encrypted_counter() -> None:
    assert take(Keystream(KEY), 1000) == counter_mode(KEY, 1000)


@given(st.lists(st.integers(0, 700), max_size=8))
def test_the_stream_does_not_depend_on_the_portions(portions: list[int]) -> None:
    stream = Keystream(KEY)
    assert b"".join(take(stream, part) for part in portions) == take(Keystream(KEY), sum(portions))


def test_the_key_changes_after_so_many_bytes_and_is_taken_from_the_stream() -> None:
    stream = Keystream(KEY, rekey_bytes=64)
    head = counter_mode(KEY, 96)
    second = counter_mode(head[64:], 96)
    third = counter_mode(second[64:], 64)
    assert take(stream, 192) == head[:64] + second[:64] + third


def test_words_and_bits_are_little_endian() -> None:
    octets = counter_mode(KEY, 40)
    stream = Keystream(KEY)
    assert stream.words(2).tolist() == [
        int.from_bytes(octets[:8], "little"),
        int.from_bytes(octets[8:16], "little"),
    ]
    assert stream.bits(192) == int.from_bytes(octets[16:40], "little")


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(33), bytearray(32), "0" * 32])
def test_another_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        Keystream(key)


def test_fresh_keys_differ() -> None:
    assert len({fresh_key() for _ in range(100)}) == 100
    assert {len(fresh_key()) for _ in range(3)} == {32}


FORKED = """
import os, sys
from qres_core.errors import ValueRefusedError
from qres_dp.randomness import Keystream, fresh_key
stream = Keystream(fresh_key())
before = fresh_key()
reader, writer = os.pipe()
if os.fork() == 0:
    try:
        stream.bits(64)
    except ValueRefusedError as error:
        os.write(writer, error.code.encode() + fresh_key())
    os._exit(0)
os.wait()
told = os.read(reader, 100)
assert told[:9] == b"QRES-E507", told
assert told[9:] not in (before, fresh_key())
assert stream.bits(64)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_cannot_draw_the_same_noise() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_key_of_another_process_fills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Keystream(bytes(32))
    out = np.full(16, 7, dtype=np.uint8)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ValueRefusedError, match="QRES-E507 key: the key was made in another"):
        stream.fill(out)
    assert (out == 7).all()


def test_the_stream_stays_what_it_is() -> None:
    digest = hashlib.sha256(take(Keystream(KEY), 10_000)).hexdigest()
    assert digest == hashlib.sha256(counter_mode(KEY, 10_000)).hexdigest()
