"""Norms and shortening of integer vectors, against Python's integers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qres_arithmetic import clipped, squared_norm, squared_norms
from qres_arithmetic.ball import LARGEST

from qres_core.errors import ValueRefusedError

LEAST, MOST = -(2**31), 2**31 - 1
NARROW = st.integers(LEAST, MOST) | st.integers(-300, 300)
WIDE = st.integers(-LARGEST, LARGEST) | NARROW
ANY = st.integers(-(2**63), 2**63 - 1) | WIDE


def lists(of: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(of, min_size=1, max_size=40)


def norm_squared(values: list[int]) -> int:
    return sum(value * value for value in values)


@given(lists(ANY))
@example([2**34 - 1, 1 - 2**34] * 20_000)
@example([2**34] * 3)
@example([-(2**63)] * 3)
def test_norms_are_exact(values: list[int]) -> None:
    assert squared_norm(np.array(values, dtype=np.int64)) == norm_squared(values)


@given(lists(NARROW))
def test_the_norm_is_that_of_a_row(values: list[int]) -> None:
    vector = np.array(values, dtype=np.int32)
    assert squared_norm(vector) == int(squared_norms(vector[np.newaxis])[0])


def test_other_widths_and_shapes() -> None:
    assert squared_norm(np.array([-(2**15)], dtype=np.int16)) == 2**30
    assert squared_norm(np.array([[1, 2], [3, 4]], dtype=np.int32)[:, ::-1]) == 30
    assert squared_norm(np.array([], dtype=np.int32)) == 0


@given(lists(WIDE), st.integers(1, 2**34))
@example([LARGEST] * 7, 1)
@example([-LARGEST, 1], LARGEST)
@example([LARGEST, 1], LARGEST)
@example([MOST, MOST], 2**31)
@example([3, 4], 5)
@example([3, 4], 4)
@example([1, 1], 1)
def test_the_result_is_in_the_ball_and_close_to_the_input_scaled(
    values: list[int], bound: int
) -> None:
    vector = np.array(values, dtype=np.int64)
    short = clipped(vector, bound)
    assert short.dtype == np.int64
    assert norm_squared(short.tolist()) <= bound * bound
    assert vector.tolist() == values
    assert (short is vector) == (norm_squared(values) <= bound * bound)
    if short is vector:
        return
    assert not short.flags.writeable
    root = math.isqrt(norm_squared(values) << 80)
    scaled = Fraction(bound << 40, root)
    for value, made in zip(values, short.tolist(), strict=True):
        exact = abs(value) * scaled
        assert made * value >= 0
        assert exact * (1 - Fraction(1, 2**29)) - 1 < abs(made) <= exact * (1 + Fraction(1, 2**39))


@given(lists(NARROW), st.integers(1, 2**31))
def test_the_width_has_no_part_in_it(values: list[int], bound: int) -> None:
    """What one plugin clips, another finds as it would have clipped it."""
    narrow = clipped(np.array(values, dtype=np.int32), bound)
    wide = clipped(np.array(values, dtype=np.int64), bound)
    assert narrow.tolist() == wide.tolist()
    assert clipped(narrow, bound) is narrow


def test_blocks_are_clipped_as_one_vector() -> None:
    vector = np.random.default_rng(3).integers(LEAST, MOST, 10**5).astype(np.int32)
    short = clipped(vector, 2**30)
    assert 0.999 * 2**60 < squared_norm(short) <= 2**60
    head = np.concatenate([vector[:5], np.zeros(1, dtype=np.int32)])
    assert (short[:5] != clipped(head, 2**30)[:5]).any()


def test_what_is_larger_is_refused_and_not_wrapped() -> None:
    clipped(np.array([LARGEST]), 1)
    with pytest.raises(ValueRefusedError, match="QRES-E503 vector: a coordinate of 4294967297"):
        clipped(np.array([LARGEST + 1]), 1)
    far = np.array([-(2**63)])
    assert clipped(far, 2**63) is far


@pytest.mark.parametrize("bound", [0, -1, 1.5, True])
def test_another_bound_is_refused(bound: Any) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        clipped(np.array([1], dtype=np.int32), bound)


@pytest.mark.parametrize("dtype", [np.float64, np.uint64, np.bool_])
def test_another_dtype_is_refused(dtype: Any) -> None:
    vector: Any = np.ones(2, dtype=dtype)
    for call in (lambda: squared_norm(vector), lambda: clipped(vector, 1)):
        with pytest.raises(ValueRefusedError, match="QRES-E503"):
            call()
