"""The product whose every bit is specified, against one IEEE operation after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from qres_arithmetic import sweep

VALUES = st.floats(-1e100, 1e100)


@given(data=st.data(), n=st.integers(0, 9), m=st.integers(0, 9))
def test_every_bit_is_that_of_the_stated_order(data: st.DataObject, n: int, m: int) -> None:
    matrix = data.draw(hnp.arrays(np.float64, (n, m), elements=VALUES))
    vector = data.draw(hnp.arrays(np.float64, m, elements=VALUES))
    expected = []
    for row in matrix.tolist():
        total = 0.0
        for entry, factor in zip(row, vector.tolist(), strict=True):
            total = total + entry * factor
        expected.append(total)
    assert sweep(matrix, vector).tobytes() == np.array(expected, dtype=np.float64).tobytes()
    assert sweep(np.asfortranarray(matrix), vector).tobytes() == np.array(expected).tobytes()


def test_the_order_matters_and_is_from_the_left() -> None:
    ones = np.ones(3)
    assert sweep(np.array([[1e16, 1.0, -1e16]]), ones).tolist() == [0.0]
    assert sweep(np.array([[1e16, -1e16, 1.0]]), ones).tolist() == [1.0]


def test_products_are_rounded_before_they_are_added() -> None:
    # (1 + e)(1 - e) = 1 - e**2 rounds to 1; a fused product and sum would leave -e**2.
    e = 2.0**-30
    assert sweep(np.array([[-1.0, 1 + e]]), np.array([1.0, 1 - e])).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 2, 2)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        sweep(np.zeros(shape), np.zeros(2))
