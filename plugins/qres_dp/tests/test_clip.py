"""Clipping, against Python's integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qres_arithmetic import squared_norm
from qres_dp.clip import clip

from qres_core.errors import ValueRefusedError

LEAST, MOST = -(2**31), 2**31 - 1
int32 = st.integers(LEAST, MOST)
near = st.integers(-300, 300)
vectors = st.lists(int32, min_size=1, max_size=40) | st.lists(near, min_size=1, max_size=200)


def norm_squared(values: list[int]) -> int:
    return sum(value * value for value in values)


@given(vectors)
@example([LEAST] * 1000)
def test_the_norm_is_exact(values: list[int]) -> None:
    assert squared_norm(np.array(values, dtype=np.int32)) == norm_squared(values)


@pytest.mark.parametrize("value", [LEAST, MOST, -(2**26), 12345, 1])
@pytest.mark.parametrize("size", [2**15 - 1, 2**15, 2**15 + 1, 10**5])
def test_the_norm_is_exact_over_blocks(value: int, size: int) -> None:
    assert squared_norm(np.full(size, value, dtype=np.int32)) == size * value * value


@pytest.mark.claim("C-dp-1")
def test_ten_million_extreme_coordinates_do_not_wrap() -> None:
    extreme = np.full(10**7, LEAST, dtype=np.int32)
    # Positive control: in int64 the norm is zero, so that nothing would be clipped.
    assert int(np.sum(extreme[: 2**10].astype(np.int64) ** 2)) == 0
    assert squared_norm(extreme) == 10**7 * 2**62
    clipped = clip(extreme[: 10**6], 2**24)
    assert clipped.was_outside
    assert 0 < squared_norm(clipped.vector) <= 2**48


@pytest.mark.claim("C-dp-1")
@given(vectors, st.integers(1, 2**33))
@example([LEAST] * 7, 1)
@example([LEAST, 1], 2**31)
@example([MOST, MOST], 2**31)
@example([3, 4], 5)
@example([3, 4], 4)
def test_the_result_is_in_the_ball_and_close_to_the_input_scaled(
    values: list[int], bound: int
) -> None:
    given_vector = np.array(values, dtype=np.int32)
    clipped = clip(given_vector, bound)
    result = clipped.vector.tolist()
    assert norm_squared(result) <= bound * bound
    assert clipped.was_outside == (norm_squared(values) > bound * bound)
    assert given_vector.tolist() == values
    if not clipped.was_outside:
        assert result == values
        return
    # Every coordinate is at most one step and 2**-29 of itself short of the scaled one.
    root = math.isqrt(norm_squared(values) << 80)
    scaled = Fraction(bound << 40, root)
    for value, made in zip(values, result, strict=True):
        exact = abs(value) * scaled
        assert made * value >= 0
        assert exact * (1 - Fraction(1, 2**29)) - 1 < abs(made) <= exact * (1 + Fraction(1, 2**39))


@given(vectors, st.integers(1, 2**33))
def test_clipping_is_idempotent_and_odd(values: list[int], bound: int) -> None:
    values = [max(value, -MOST) for value in values]
    vector = np.array(values, dtype=np.int32)
    once = clip(vector, bound).vector
    assert clip(once, bound).vector is once
    assert clip(-vector, bound).vector.tolist() == (-once).tolist()


@pytest.mark.control("C-dp-1")
def test_floats_would_leave_the_ball() -> None:
    """Positive control: why it is done in integers."""
    chance = np.random.default_rng(1)
    bound, float_outside = 1000, 0
    for _ in range(200):
        vector = np.rint(chance.standard_normal(100) * bound).astype(np.int32)
        rounded = np.rint(vector * (bound / np.linalg.norm(vector))).astype(np.int32)
        float_outside += squared_norm(rounded) > bound * bound
        assert squared_norm(clip(vector, bound).vector) <= bound * bound
    assert float_outside > 20


@pytest.mark.parametrize("bound", [0, -1, 1.5, True])
def test_another_bound_is_refused(bound: int) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        clip(np.array([1], dtype=np.int32), bound)


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E503"):
        clip(np.array([1.0]), 1)
