"""Slow, exact oracles and checks that the tests of this plugin share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qres_arithmetic import accelerated, numpy_only, using_threads


def _everywhere(rule: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Run a rule with the compiled kernels and without; exact results must be the same bits."""
    results = [rule()]
    if accelerated():
        with numpy_only():
            results.append(rule())
    with using_threads(1):
        results.append(rule())
    first = results[0]
    for other in results[1:]:
        assert other.dtype == first.dtype
        if first.dtype == np.int32:
            assert np.array_equal(other, first)
        else:
            assert np.allclose(other, first, rtol=1e-5, atol=1e-30)
    return first


def _worst_ratio(rows: NDArray[np.int32], result: NDArray[np.int32], f: int) -> Fraction | None:
    """The least kappa that is true of this case, over every possible set of honest rows.

    ``max_S |F - mean_S|**2 / (1/|S| sum_{i in S} |x_i - mean_S|**2)`` in exact integers; ``None``
    if the rows of some S agree and the result is not what they agree on.
    """
    n = len(rows)
    wide = rows.astype(object)
    worst = Fraction(0)
    for chosen in itertools.combinations(range(n), n - f):
        honest = wide[list(chosen)]
        size, total = len(chosen), honest.sum(axis=0)
        # Both sides times |S|**2.
        miss = int(((size * result.astype(object) - total) ** 2).sum())
        spread = int(size * (honest**2).sum() - (total**2).sum())
        if spread:
            worst = max(worst, Fraction(miss, spread))
        elif miss:
            return None
    return worst


@pytest.fixture(scope="session")
def everywhere() -> Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]:
    """Run with every backend and compare."""
    return _everywhere


@pytest.fixture(scope="session")
def worst_ratio() -> Callable[[NDArray[np.int32], NDArray[np.int32], int], Fraction | None]:
    """The least kappa of (f, kappa)-robustness that is true of a case."""
    return _worst_ratio
