"""The grid, against exact rational arithmetic."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Vector, fixed
from qres_core.errors import ValueRefusedError

LIMIT = 2**31 - 1
SCALES = range(-32, 33)

scales = st.integers(-32, 32)
finite = st.floats(allow_nan=False, allow_infinity=False)
grid_values = st.integers(-LIMIT, LIMIT)
int32_values = st.integers(-(2**31), 2**31 - 1)
quick = settings(deadline=None)
thorough = settings(deadline=None, max_examples=300)


def oracle(values: Sequence[float | int], scale: int) -> tuple[list[int], int]:
    """Half-to-even rounding of exact rationals; ``round`` of a Fraction is half to even."""
    step = Fraction(2) ** (scale - 16)
    exact = [round(Fraction(value) / step) for value in values]
    held = [max(-LIMIT, min(LIMIT, value)) for value in exact]
    return held, sum(a != b for a, b in zip(exact, held, strict=True))


def vector(*values: int) -> Vector:
    return np.array(values, dtype=np.int32)


def check(values: Sequence[float | int], scale: int) -> None:
    encoded = fixed.encode(values, scale=scale)
    assert (encoded.vector.tolist(), encoded.saturated) == oracle(values, scale)
    assert encoded.vector.dtype == np.int32


@thorough
@given(st.lists(finite, min_size=1, max_size=20), scales)
def test_encode_agrees_with_exact_rounding_for_floats_of_every_magnitude(
    values: list[float], scale: int
) -> None:
    check(values, scale)


@thorough
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), scales)
def test_encode_agrees_with_exact_rounding_for_every_bit_pattern(
    patterns: list[int], scale: int
) -> None:
    values = [struct.unpack("<d", struct.pack("<Q", bits))[0] for bits in patterns]
    numbers = [value for value in values if math.isfinite(value)]
    if numbers:
        check(numbers, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_encode_agrees_with_exact_rounding_near_the_grid_at_every_scale(scale: int) -> None:
    rng = random.Random(scale)
    step = 2.0 ** (scale - 16)
    values = [rng.uniform(-1.2, 1.2) * LIMIT * step for _ in range(200)]
    values += [rng.uniform(-40, 40) * step for _ in range(200)]
    check(values, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_ties_go_to_even_and_their_neighbours_to_the_nearest(scale: int) -> None:
    step = 2.0 ** (scale - 16)
    odd_halves = [0.5, 1.5, 2.5, 3.5, 32767.5, 65536.5, 2**30 + 0.5, LIMIT - 1.5, LIMIT - 0.5]
    ties = [sign * half * step for half in odd_halves for sign in (1, -1)]
    assert fixed.encode([0.5 * step, 1.5 * step, 2.5 * step], scale=scale).vector.tolist() == [
        0,
        2,
        2,
    ]
    check(ties, scale)
    check([math.nextafter(tie, math.inf) for tie in ties], scale)
    check([math.nextafter(tie, -math.inf) for tie in ties], scale)


@pytest.mark.parametrize("scale", SCALES)
def test_saturation_begins_exactly_past_the_limit_and_is_counted(scale: int) -> None:
    step = 2.0 ** (scale - 16)
    edge = (LIMIT + 0.5) * step  # a tie between 2**31 - 1 and the even 2**31: saturates
    inside = math.nextafter(edge, 0)
    for sign in (1, -1):
        kept = fixed.encode([sign * LIMIT * step, sign * inside], scale=scale)
        assert (kept.vector.tolist(), kept.saturated) == ([sign * LIMIT] * 2, 0)
        held = fixed.encode([sign * edge, sign * 1.7e308, 0.0], scale=scale)
        assert (held.vector.tolist(), held.saturated) == ([sign * LIMIT] * 2 + [0], 2)
    assert -(2**31) not in fixed.encode([-(2**31) * step], scale=scale).vector


def test_subnormals_and_negative_zero_become_zero() -> None:
    tiny = [5e-324, -5e-324, 2.2250738585072014e-308, -0.0]
    for scale in SCALES:
        encoded = fixed.encode(tiny, scale=scale)
        assert (encoded.vector.tolist(), encoded.saturated) == ([0, 0, 0, 0], 0)


def test_floating_point_traps_of_the_caller_change_nothing() -> None:
    with np.errstate(all="raise"):
        check([1e308, -1e308, 5e-324, 3e-310, 0.1], -32)
        check([1e308, -1e308, 5e-324, 3e-310, 0.1], 32)


@thorough
@given(st.lists(int32_values, min_size=1, max_size=20), scales)
def test_decode_is_exact(values: list[int], scale: int) -> None:
    decoded = fixed.decode(vector(*values), scale=scale)
    assert decoded.dtype == np.float64
    step = Fraction(2) ** (scale - 16)
    assert [Fraction(x) for x in decoded.tolist()] == [v * step for v in values]


@thorough
@given(st.lists(grid_values, min_size=1, max_size=20), scales)
def test_encode_undoes_decode(values: list[int], scale: int) -> None:
    again = fixed.encode(fixed.decode(vector(*values), scale=scale), scale=scale)
    assert (again.vector.tolist(), again.saturated) == (values, 0)


@pytest.mark.parametrize("scale", SCALES)
def test_encode_undoes_decode_at_the_edges_of_every_scale(scale: int) -> None:
    rng = np.random.default_rng(7)
    edges = np.array([0, 1, -1, LIMIT, -LIMIT, LIMIT - 1, 65535, 65536], dtype=np.int32)
    bulk = rng.integers(-LIMIT, LIMIT, size=2000, endpoint=True, dtype=np.int32)
    values = np.concatenate([edges, bulk])
    again = fixed.encode(fixed.decode(values, scale=scale), scale=scale)
    assert again.saturated == 0
    np.testing.assert_array_equal(again.vector, values)


@thorough
@given(st.lists(finite, min_size=1, max_size=10), scales)
def test_rounding_error_is_at_most_half_a_step(values: list[float], scale: int) -> None:
    step = Fraction(2) ** (scale - 16)
    inside = [x for x in values if abs(Fraction(x)) <= LIMIT * step]
    if inside:
        decoded = fixed.decode(fixed.encode(inside, scale=scale).vector, scale=scale)
        for given_value, back in zip(inside, decoded.tolist(), strict=True):
            assert abs(Fraction(given_value) - Fraction(back)) <= step / 2


@pytest.mark.claim("C-grid-1")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 3, 6])
def test_values_that_are_not_finite_are_refused_by_index(bad: float, index: int) -> None:
    values = [0.0] * 7
    values[index] = bad
    values[6] = bad  # a later one does not hide the first
    with pytest.raises(ValueRefusedError) as caught:
        fixed.encode(values)
    assert caught.value.code == "QRES-E501"
    assert caught.value.problems[0].where == f"values[{index}]"


@pytest.mark.control("C-grid-1", "C-krum-11")
def test_control_a_mean_of_floats_is_lost_to_one_value_that_is_no_number() -> None:
    assert not np.isfinite(np.array([1.0, 2.0, np.nan]).mean())
    assert not np.isfinite(np.array([1.0, 2.0, np.inf]).mean())


@pytest.mark.parametrize(
    "values",
    [
        np.array([1j]),
        np.array([True, False]),
        np.array([1.0], dtype=object),
        [Fraction(1, 2)],
        [Decimal("0.5")],
        ["1.0"],
        [b"1.0"],
        "12",
        [None],
        [2**70],
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        pytest.param(np.array([1.0], dtype=np.longdouble), id="longdouble"),
    ],
)
def test_what_is_not_a_real_number_is_refused(values: object) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        fixed.encode(values)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "QRES-E503"


@pytest.mark.parametrize(
    "values", [[], 1.0, [[1.0]], np.zeros((0, 3)), np.zeros((2, 2)), [[1], []]]
)
def test_another_shape_is_refused(values: object) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        fixed.encode(values)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "QRES-E502"


@pytest.mark.parametrize("scale", [-33, 33, 10**9, True, False, 0.0, 1.5, "0", None, np.int64(1)])
def test_a_scale_that_is_no_integer_in_range_is_refused(scale: object) -> None:
    for call in (
        lambda: fixed.check_scale(scale),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: fixed.encode([1.0], scale=scale),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: fixed.decode(vector(1), scale=scale),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(ValueRefusedError) as caught:
            call()
        assert caught.value.code == "QRES-E504"


def test_every_scale_in_range_is_accepted() -> None:
    assert [fixed.check_scale(scale) for scale in SCALES] == list(SCALES)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8", ">f4"])
def test_other_floats_are_encoded_as_the_number_they_hold(dtype: str) -> None:
    values = np.array([0.1, -3.14159, 1000.5, 6e-5], dtype=dtype)
    encoded = fixed.encode(values, scale=-8)
    assert (encoded.vector.tolist(), encoded.saturated) == oracle([float(x) for x in values], -8)


@thorough
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=10), scales)
def test_integers_are_encoded_exactly(values: list[int], scale: int) -> None:
    encoded = fixed.encode(np.array(values, dtype=np.int64), scale=scale)
    assert (encoded.vector.tolist(), encoded.saturated) == oracle(values, scale)


def test_unsigned_integers_are_encoded_exactly() -> None:
    values = [0, 1, 2**53 + 1, 2**64 - 1, 2**47 - 2**15, 2**47 - 2**15 - 1]
    for scale in SCALES:
        encoded = fixed.encode(np.array(values, dtype=np.uint64), scale=scale)
        assert (encoded.vector.tolist(), encoded.saturated) == oracle(values, scale)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.float64, ">i4"])
def test_decode_refuses_another_dtype(dtype: str) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        fixed.decode(np.ones(2, dtype=dtype))
    assert caught.value.code == "QRES-E503"


@thorough
@given(st.lists(st.tuples(int32_values, int32_values), min_size=1, max_size=20))
def test_saturating_addition_agrees_with_python_integers(pairs: list[tuple[int, int]]) -> None:
    left, right = (vector(*column) for column in zip(*pairs, strict=True))
    total = fixed.add_saturating(left, right)
    exact = [a + b for a, b in pairs]
    held = [max(-LIMIT, min(LIMIT, value)) for value in exact]
    assert total.vector.tolist() == held
    assert total.saturated == sum(a != b for a, b in zip(exact, held, strict=True))
    assert total.vector.dtype == np.int32


def test_saturating_addition_never_broadcasts() -> None:
    rows: Vector = np.ones((2, 2), dtype=np.int32)
    for left, right in ((vector(1, 2), vector(1)), (vector(1), vector(1, 2)), (rows, rows)):
        with pytest.raises(ValueRefusedError) as caught:
            fixed.add_saturating(left, right)
        assert caught.value.code == "QRES-E502"


@pytest.mark.parametrize("side", ["left", "right"])
def test_saturating_addition_refuses_another_dtype(side: str) -> None:
    wide = np.array([2**63 - 1], dtype=np.int64)
    pair: dict[str, Any] = {"left": vector(1), "right": vector(1), side: wide}
    with pytest.raises(ValueRefusedError) as caught:
        fixed.add_saturating(**pair)
    assert (caught.value.code, caught.value.problems[0].where) == ("QRES-E503", side)


def test_results_are_read_only_and_inputs_are_left_alone() -> None:
    real = np.array([1.5, -1e300, 0.1])
    left, right = vector(LIMIT, -5), vector(1, 7)
    before = real.copy(), left.copy(), right.copy()
    encoded, total = fixed.encode(real), fixed.add_saturating(left, right)
    for result in (encoded, total):
        with pytest.raises(ValueError, match="read-only"):
            result.vector[0] = 1
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            result.saturated = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    fixed.decode(left)[0] = 9.0
    for array, old in zip((real, left, right), before, strict=True):
        np.testing.assert_array_equal(array, old)
        assert array.flags.writeable


def test_a_difference_takes_back_what_was_added() -> None:
    before = np.array([1, -5, fixed.LIMIT - 1, -fixed.LIMIT], dtype=np.int32)
    added = np.array([2, -7, 5, 3], dtype=np.int32)
    after = fixed.add_saturating(before, added).vector
    assert fixed.difference(after, before).tolist() == [2, -7, 1, 3]
    back = fixed.add_saturating(before, fixed.difference(after, before)).vector
    assert back.tolist() == after.tolist()
    far = fixed.difference(before[2:3], before[3:])  # farther apart than the grid is wide
    assert far.tolist() == [fixed.LIMIT]


@quick
@given(
    st.lists(st.floats(-1e-3, 1e-3) | finite, min_size=1, max_size=20),
    st.integers(-32, 32),
    st.integers(1, 7),
)
def test_what_is_computed_in_parts_is_what_is_computed_at_once(
    values: list[float], scale: int, size: int
) -> None:
    def computed() -> tuple[Any, ...]:
        encoded = fixed.encode(values, scale=scale)
        turned = encoded.vector[::-1].copy()
        total = fixed.add_saturating(encoded.vector, turned)
        change = fixed.difference(encoded.vector, turned)
        vectors = (encoded.vector, total.vector, change)
        return (
            *map(np.ndarray.tolist, vectors),
            encoded.saturated,
            encoded.rounding,
            total.saturated,
        )

    whole = computed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed, "_BLOCK", size)
        assert computed() == whole


@pytest.mark.parametrize("at", [0, 4, 5, 9])
def test_the_first_value_that_is_not_finite_is_named_wherever_it_is(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "_BLOCK", 5)
    values = np.zeros(10)
    values[at:] = math.nan
    with pytest.raises(ValueRefusedError, match=rf"QRES-E501 values\[{at}\]"):
        fixed.encode(values)


def test_little_more_memory_is_used_than_what_comes_out_takes() -> None:
    """Each number that comes out takes 4 bytes; of float64 or int64 a whole vector would take 8."""
    size = 16 * 2**18
    values = np.ones(size, dtype=np.float32)
    tracemalloc.start()
    try:
        left = fixed.encode(values).vector
        right = fixed.add_saturating(left, left).vector
        fixed.difference(right, left)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < (3 * 4 + 4) * size
