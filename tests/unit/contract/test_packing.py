"""Packed vectors: one encoding of each, the one that its page tells, and nothing else decodes."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core.contract.packing import BLOCK, most_bytes, pack, unpack
from qres_core.errors import WireError

LEAST, MOST = -(2**31), 2**31 - 1
thorough = settings(deadline=None, max_examples=200)
MANY = 1024 * BLOCK
"""Numbers that are worked on at once."""


def folded(quotient: int) -> int:
    return 2 * quotient if quotient >= 0 else -2 * quotient - 1


def written(quotients: Sequence[int], width: int) -> bytes:
    """Some quotients in so many bits each, one after another."""
    bits = sum(folded(quotient) << width * at for at, quotient in enumerate(quotients))
    return bits.to_bytes(-(-width * len(quotients) // 8), "little")


def by_hand(numbers: Sequence[int]) -> bytes:
    """The encoding in plain integers, as the module's docstring tells it."""
    headers, factors, bodies = bytearray(), b"", b""
    for first in range(0, len(numbers), BLOCK):
        block = numbers[first : first + BLOCK]
        factor = math.gcd(*block)
        quotients = [number // max(1, factor) for number in block]
        width = max(map(folded, quotients)).bit_length()
        headers.append(width | (0x80 if factor > 1 else 0))
        factors += factor.to_bytes(4, "little") if factor > 1 else b""
        bodies += written(quotients, width)
    return bytes(headers) + factors + bodies


def vec(numbers: Sequence[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.int64).astype(np.int32)


def refusal(octets: bytes, dimension: int) -> tuple[str, str]:
    with pytest.raises(WireError) as caught:
        unpack(octets, dimension, "here")
    (problem,) = caught.value.problems
    assert problem.where == "here"
    return problem.code, problem.what


@st.composite
def numbers(draw: st.DrawFn) -> list[int]:
    """Some blocks, each of numbers of another size and on another grid."""
    found: list[int] = []
    size = draw(st.integers(1, 3 * BLOCK))
    while len(found) < size:
        most = draw(st.sampled_from([0, 1, 2, 7, 127, 2**15, MOST]))
        factor = draw(st.sampled_from([1, 2, 3, 1000, 2**16]))
        seed = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        block = seed.integers(-most, most, BLOCK, endpoint=True) * factor
        found += np.clip(block, LEAST, MOST).tolist()
    return found[:size]


@thorough
@given(numbers())
def test_a_vector_comes_back_and_its_bytes_are_those_of_the_page(values: list[int]) -> None:
    packed = pack(vec(values))
    assert packed == by_hand(values)
    assert len(packed) <= most_bytes(len(values))
    back = unpack(packed, len(values))
    assert back.tolist() == values
    assert back.dtype == np.int32
    assert not back.flags.writeable


@pytest.mark.claim("C-quantize-7")
@thorough
@given(st.lists(st.integers(LEAST, MOST), min_size=1, max_size=40))
def test_any_numbers_come_back(values: list[int]) -> None:
    packed = pack(vec(values))
    assert packed == by_hand(values)
    assert unpack(memoryview(b"x" + packed)[1:], len(values)).tolist() == values


@pytest.mark.parametrize("extreme", [LEAST, LEAST + 1, -1, 0, 1, MOST])
@pytest.mark.parametrize("size", [1, 7, 8, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_blocks_of_one_number_come_back(extreme: int, size: int) -> None:
    packed = pack(vec([extreme] * size))
    assert packed == by_hand([extreme] * size)
    assert unpack(packed, size).tolist() == [extreme] * size


def test_no_numbers_are_no_bytes() -> None:
    assert pack(np.empty(0, dtype=np.int32)) == b""
    assert unpack(b"", 0).size == 0
    assert refusal(b"\0", 0)[0] == "QRES-E404"


def test_vectors_of_many_parts_come_back() -> None:
    rng = np.random.default_rng(3)
    wide = rng.integers(LEAST, MOST, 2 * MANY + 77, endpoint=True).astype(np.int32)
    fine = (rng.integers(-7, 8, MANY + 1) * 31).astype(np.int32)
    mixed = np.concatenate([fine, wide, np.zeros(MANY, dtype=np.int32)])
    for vector in (wide, fine, mixed, vec([1] * MANY)):
        assert np.array_equal(unpack(pack(vector), vector.size), vector)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_numbers_take_their_bits_and_little_more(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(bits)
    vector = (rng.integers(-most, most, 100 * BLOCK, endpoint=True) * 12_345).astype(np.int32)
    assert len(pack(vector)) <= vector.size * bits / 8 + 5 * 100


def test_no_vector_takes_more_than_the_most() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 31, 255, 256, 257, 5000):
        wide = rng.integers(LEAST, MOST, size, endpoint=True)
        for vector in (wide, wide // 2 * 2, np.full(size, LEAST)):
            assert len(pack(vector.astype(np.int32))) <= most_bytes(size)


# ── bytes of nobody's ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-quantize-7")
@thorough
@given(st.integers(0, 2 * BLOCK), st.binary(max_size=300))
def test_whatever_decodes_is_the_encoding_of_what_it_decodes_to(size: int, octets: bytes) -> None:
    try:
        vector = unpack(octets, size)
    except WireError:
        return
    assert pack(vector) == octets


@thorough
@given(numbers(), st.data())
def test_damage_never_breaks_the_decoder_nor_gives_a_second_encoding(
    values: list[int], data: st.DataObject
) -> None:
    octets = bytearray(pack(vec(values)))
    places = st.integers(0, len(octets) - 1) | st.integers(0, min(4, len(octets) - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(places)] ^= 1 << data.draw(st.integers(0, 7))
    try:
        vector = unpack(bytes(octets), len(values))
    except WireError:
        return
    assert pack(vector) == bytes(octets)


def test_no_prefix_decodes_and_nothing_longer() -> None:
    values = [5, -3, 2**20] * 100
    packed = pack(vec(values))
    assert unpack(packed, 300).tolist() == values, "control"
    for length in range(len(packed)):
        assert refusal(packed[:length], 300)[0] == "QRES-E404"
    assert refusal(packed + b"\0", 300)[0] == "QRES-E404"
    assert refusal(packed, 301)[0] in {"QRES-E403", "QRES-E404"}
    assert refusal(bytes(most_bytes(300) + 1), 300)[0] == "QRES-E401"


FACTOR = (6).to_bytes(4, "little")
ONE = (1).to_bytes(4, "little")
LOOSE: list[tuple[str, bytes, list[int], str]] = [
    ("wide", b"\x08" + written([3, -3], 8), [3, -3], "a width"),
    ("zeros", b"\x01" + written([0, 0], 1), [0, 0], "a width"),
    ("factor left out", b"\x05" + written([6, -12], 5), [6, -12], "a common divisor"),
    ("half a factor", b"\x84\x02\0\0\0" + written([3, -6], 4), [6, -12], "a common divisor"),
    ("factor of one", b"\x83" + ONE + written([3, -2], 3), [3, -2], "a factor below 2"),
    ("factor of zeros", b"\x80" + FACTOR, [0, 0], "a factor of zeros"),
    ("bits behind", b"\x03" + bytes([written([3, -2], 3)[0] | 0x80]), [3, -2], ""),
]


@pytest.mark.control("C-quantize-7")
@pytest.mark.parametrize(("octets", "meant", "why"), [case[1:] for case in LOOSE])
def test_a_second_encoding_of_the_same_numbers_is_refused(
    octets: bytes, meant: list[int], why: str
) -> None:
    code, what = refusal(octets, len(meant))
    assert code == "QRES-E403"
    assert why in what
    assert "have another encoding" in what
    assert unpack(pack(vec(meant)), len(meant)).tolist() == meant, "control"


def test_bits_behind_the_last_number_are_refused_by_name() -> None:
    values = [3, -2, 3, -3, 1]  # 15 bits of 16
    packed = bytearray(pack(vec(values)))
    packed[-1] |= 0x80
    assert refusal(bytes(packed), 5) == (
        "QRES-E403",
        "bits behind the last number: these numbers have another encoding",
    )


@pytest.mark.parametrize("header", [33, 63, 64, 0x40 | 3, 0xC0 | 3, 0xFF])
def test_a_header_that_is_none_is_refused(header: int) -> None:
    assert refusal(bytes([header, 1, 0, 0, 0]), 2) == ("QRES-E404", "a header that is none")


@pytest.mark.parametrize(
    ("factor", "quotient"), [(2**31 + 1, 1), (2**31, 1), (2**16 + 1, 2**15), (2**32 - 1, -1)]
)
def test_a_factor_that_leads_out_of_the_range_is_refused(factor: int, quotient: int) -> None:
    width = folded(quotient).bit_length()
    octets = bytes([0x80 | width]) + factor.to_bytes(4, "little") + written([quotient], width)
    code, _what = refusal(octets, 1)
    assert code in {"QRES-E403", "QRES-E404"}
    least = bytes([0x81]) + (2**31).to_bytes(4, "little") + written([-1], 1)
    assert unpack(least, 1).tolist() == [LEAST], "control"


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x20" * 2**16,  # each block of the widest
        b"\xa0" * 2**16,  # and each with a factor
        b"\0" * (2**16 - 1),
    ],
)
def test_nothing_is_allocated_for_what_the_headers_claim(octets: bytes) -> None:
    dimension = 2**16 * BLOCK  # 64 MiB of numbers
    tracemalloc.start()
    try:
        refusal(octets, dimension)
        _now, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        unpack(bytes(2**12), 2**12 * BLOCK)
        _now, control = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21
    assert control > 2**22, "control: what is sound does take memory"
