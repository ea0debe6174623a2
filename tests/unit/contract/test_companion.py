"""Companions: open bytes, or residues below a modulus."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import Companion
from qres_core.contract.companion import MAX_COMPANION_BYTES
from qres_core.errors import ValueRefusedError

moduli = st.integers(2, 2**512 - 1)


def refused(build: Any) -> bool:
    with pytest.raises(ValueRefusedError) as caught:
        build()
    return (caught.value.code, caught.value.problems[0].where) == ("QRES-E511", "companion")


@given(st.data(), moduli)
def test_residues_come_back_as_they_were(data: st.DataObject, modulus: int) -> None:
    values = tuple(data.draw(st.lists(st.integers(0, modulus - 1), max_size=5)))
    made = Companion.of(values, modulus)
    assert made.residues() == values
    assert len(made.body) == len(values) * made.width
    assert Companion(made.body, modulus) == made


def test_open_bytes_are_no_residues() -> None:
    assert Companion(b"anything").body == b"anything"
    assert refused(Companion(b"anything").residues)


@pytest.mark.parametrize("modulus", [1, -1, 2**512, True, 2.0, "7", None])
def test_a_modulus_outside_its_range_is_refused(modulus: Any) -> None:
    assert refused(lambda: Companion(b"", modulus))


def test_what_is_not_below_the_modulus_is_refused() -> None:
    assert Companion(b"\x06", 7).residues() == (6,)
    assert refused(lambda: Companion(b"\x07", 7))
    assert refused(lambda: Companion.of([7], 7))
    assert refused(lambda: Companion.of([-1], 7))
    assert refused(lambda: Companion.of([0], 1))


@given(st.data(), moduli | st.sampled_from([2, 255, 256, 257, 2**16, 2**252 + 1, 2**512 - 1]))
def test_one_residue_that_is_not_below_is_refused_among_any_others(
    data: st.DataObject, modulus: int
) -> None:
    width = (modulus.bit_length() + 7) // 8
    near = st.integers(max(0, modulus - 300), min(256**width - 1, modulus + 300))
    numbers = data.draw(st.lists(near | st.integers(0, 256**width - 1), max_size=5))
    body = b"".join(number.to_bytes(width, "little") for number in numbers)
    if all(number < modulus for number in numbers):
        assert Companion(body, modulus).residues() == tuple(numbers)
    else:
        assert refused(lambda: Companion(body, modulus))


def test_half_a_residue_is_refused() -> None:
    assert Companion(bytes(4), 257).residues() == (0, 0)
    assert refused(lambda: Companion(bytes(3), 257))


def test_what_is_too_long_or_no_bytes_is_refused() -> None:
    assert len(Companion(bytes(MAX_COMPANION_BYTES)).body) == MAX_COMPANION_BYTES
    for body in (bytes(MAX_COMPANION_BYTES + 1), bytearray(1), "text", None):
        assert refused(lambda body=body: Companion(body))
