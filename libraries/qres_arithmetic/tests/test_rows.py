"""What counts as rows, and the names of the refusals."""

from __future__ import annotations

import numpy as np
import pytest
from qres_arithmetic import (
    check_finite,
    check_rows,
    drop_non_finite,
    is_packed,
    packed,
    refuse_non_finite,
)

from qres_core.errors import ValueRefusedError


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_rows_are_passed_on_without_a_copy(dtype: type) -> None:
    vectors = np.zeros((3, 2), dtype=dtype)
    assert np.shares_memory(check_rows(vectors), vectors)


@pytest.mark.control("C-arithmetic-1")
def test_views_and_memory_maps_are_rows(tmp_path: object) -> None:
    mapped = np.memmap(f"{tmp_path}/rows", dtype=np.int32, mode="w+", shape=(3, 2))
    assert np.shares_memory(check_rows(mapped), mapped)
    assert check_rows(np.zeros((6, 4), dtype=np.int32)[::2, ::2]).shape == (3, 2)


@pytest.mark.claim("C-arithmetic-1")
@pytest.mark.parametrize(
    ("vectors", "code"),
    [
        ([[1, 2]], "QRES-E502"),
        (None, "QRES-E502"),
        (np.ma.masked_array(np.zeros((2, 2)), mask=True), "QRES-E502"),
        (np.zeros(3), "QRES-E502"),
        (np.zeros((1, 2, 3)), "QRES-E502"),
        (np.zeros((3, 0)), "QRES-E502"),
        (np.broadcast_to(np.int32(0), (3, 2**32)), "QRES-E502"),
        (np.zeros((3, 2), dtype=np.int64), "QRES-E503"),
        (np.zeros((3, 2), dtype=np.float16), "QRES-E503"),
        (np.zeros((3, 2), dtype=np.int32).astype(np.dtype(np.int32).newbyteorder()), "QRES-E503"),
        (np.zeros((3, 2), dtype=object), "QRES-E503"),
        (np.zeros((0, 2)), "QRES-E505"),
    ],
)
def test_everything_else_is_refused_by_name(vectors: object, code: str) -> None:
    with pytest.raises(ValueRefusedError, match=f"{code} updates.vectors") as refusal:
        check_rows(vectors, where="updates.vectors")
    assert refusal.value.code == code


@pytest.mark.claim("C-arithmetic-1")
def test_too_few_rows_are_refused() -> None:
    check_rows(np.zeros((7, 2)), fewest=7)
    with pytest.raises(ValueRefusedError, match="QRES-E505 vectors: 6 rows, at least 7 needed"):
        check_rows(np.zeros((6, 2)), fewest=7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 65_551, 65_552, 70_000])
def test_rows_that_are_not_finite_are_named(bad: float, column: int) -> None:
    rows = np.zeros((4, 70_001), dtype=np.float32)
    check_finite(rows)
    rows[[1, 3], column] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 vectors: .* in rows 1, 3 "):
        check_finite(rows)
    refuse_non_finite(rows, [0, 2])
    with pytest.raises(ValueRefusedError, match=r"in row 3 "):
        refuse_non_finite(rows, [2, 3])


def test_ten_rows_are_named_at_most() -> None:
    with pytest.raises(ValueRefusedError, match=r"rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. "):
        check_finite(np.full((12, 1), np.nan))


def test_integers_are_always_finite() -> None:
    check_finite(np.full((2, 2), 2**31 - 1, dtype=np.int32))


def test_packing_copies_only_where_it_has_to() -> None:
    rows = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert is_packed(rows)
    assert np.shares_memory(packed(rows), rows)
    assert not packed(rows).flags.writeable
    assert rows.flags.writeable
    assert not is_packed(rows[:, ::2])
    assert packed(rows[:, ::2]).tolist() == rows[:, ::2].tolist()
    assert packed(rows[:, ::2]).flags.c_contiguous


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_rows_that_are_not_finite_are_dropped_and_counted(real: type) -> None:
    rows = np.arange(50, dtype=real).reshape(5, 10)
    whole, none = drop_non_finite(rows)
    assert np.shares_memory(whole, rows)
    assert none == ()
    rows[1, 9], rows[3, 0] = np.nan, -np.inf
    before = rows.copy()
    kept, dropped = drop_non_finite(rows)
    assert dropped == (1, 3)
    assert kept.dtype == real
    assert np.array_equal(kept, before[[0, 2, 4]])
    assert np.array_equal(rows, before, equal_nan=True)


def test_integers_are_never_dropped_and_some_row_must_be_left() -> None:
    integers = np.full((2, 2), -(2**31), dtype=np.int32)
    kept, dropped = drop_non_finite(integers)
    assert np.shares_memory(kept, integers)
    assert dropped == ()
    with pytest.raises(ValueRefusedError, match="QRES-E501 updates: NaN or infinity in every row"):
        drop_non_finite(np.full((2, 2), np.inf), where="updates")
    with pytest.raises(ValueRefusedError, match="QRES-E503"):
        drop_non_finite(np.zeros((2, 2), dtype=np.int64))  # type: ignore[arg-type]
