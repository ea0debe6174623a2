"""One thread and three give the same bits, on inputs large enough for several pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qres_arithmetic import (
    mean_of,
    nearest_mean,
    order_mean,
    run_columns,
    squared_distances,
    using_threads,
)

N, D = 10, 600_011
Rows = NDArray[Any]


def rows_of(dtype: type[np.generic]) -> Rows:
    drawn = np.random.default_rng(4).integers(-(2**31), 2**31, size=(N, D), dtype=np.int32)
    return drawn if dtype == np.int32 else drawn.astype(dtype) / 7


WORK: dict[str, Callable[[Rows], Rows]] = {
    "squared_distances": squared_distances,
    "mean_of": lambda rows: mean_of(rows, range(N)),
    "nearest_mean": lambda rows: nearest_mean(rows, N - 3),
    "order_mean": lambda rows: order_mean(rows, 2, N - 2),
}


def test_the_input_has_three_pieces() -> None:
    assert len(run_columns(lambda *piece: piece, D, 512, N)) == 3


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize("name", sorted(WORK))
def test_one_thread_and_three_give_the_same_bits(name: str, dtype: type[np.generic]) -> None:
    rows = rows_of(dtype)
    found: list[Rows] = []
    for count in (1, 3):
        with using_threads(count):
            found.append(WORK[name](rows))
    assert found[0].dtype == found[1].dtype
    assert np.array_equal(found[0], found[1])
