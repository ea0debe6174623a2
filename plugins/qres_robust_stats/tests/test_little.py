"""Whole rules in one compiled step: the bits of the general way, which is numpy's alone here."""

from __future__ import annotations

import math
import sys
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_arithmetic import accelerated, numpy_only, packed, squared_distances
from qres_robust_stats import centred_clipping, geometric_median
from qres_robust_stats import little as module

LOWEST, HIGHEST = -(2**31), 2**31 - 1
MOST = 128
"""Rows of one step."""

compiled_only = pytest.mark.skipif(not accelerated(), reason="numba is not in use")


@st.composite
def rounds(draw: st.DrawFn) -> NDArray[np.int32]:
    n = draw(st.sampled_from([1, 2, 3, 8, 20, 41, MOST]))
    d = draw(st.integers(1, 40))
    reach = draw(st.sampled_from([1, 3, 2**10, 2**24, 2**31]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = rng.integers(-reach, reach, size=(n, d)).astype(np.int32)
    rows[: draw(st.integers(0, n // 2))] = draw(st.sampled_from([0, 5, HIGHEST, LOWEST]))
    return rows


@compiled_only
@given(
    rows=rounds(),
    steps=st.integers(1, 5),
    radius=st.sampled_from([0.5, 7.0, 1e4, 2.0**30, 1e12]),
    with_start=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_clipping_has_the_bits_of_the_general_way(
    rows: NDArray[np.int32], steps: int, radius: float, *, with_start: bool
) -> None:
    start = rows[-1][::-1].copy() if with_start else None
    found = module.clipped_little(rows, start, radius, steps)
    with numpy_only():
        expected = centred_clipping(rows, radius=radius, iterations=steps, start=start)
    if found is None:
        away = rows.astype(object) - (0 if start is None else start.astype(object))
        assert max((away**2).sum(axis=1)) >= 2**62
        found = centred_clipping(rows, radius=radius, iterations=steps, start=start)
    assert found.dtype == np.int32
    assert found.tolist() == expected.tolist()


@compiled_only
@given(
    rows=rounds(),
    steps=st.integers(1, 5),
    smoothing=st.sampled_from([2.0**-16, 3.0, 2.0**40]),
    start=st.sampled_from(["zero", "medoid"]),
)
@settings(max_examples=200, deadline=None)
def test_weiszfeld_has_the_bits_of_the_general_way(
    rows: NDArray[np.int32], steps: int, smoothing: float, start: Any
) -> None:
    counts = np.arange(1, len(rows) + 1)
    arguments = {"iterations": steps, "smoothing": smoothing, "start": start, "weights": counts}
    found = geometric_median(rows, **cast("Any", arguments))
    with numpy_only():
        expected = geometric_median(rows, **cast("Any", arguments))
    assert found.tolist() == expected.tolist()


@compiled_only
def test_one_step_is_what_runs_and_its_sums_are_rounded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.random.default_rng(3).integers(-(2**24), 2**24, size=(41, 30), dtype=np.int32)
    calls: list[bool] = []
    original = module.weiszfeld_exact_little

    def counted(*arguments: Any) -> NDArray[Any] | None:
        found = original(*arguments)
        calls.append(found is not None)
        return found

    rule = sys.modules["qres_robust_stats.geometric_median"]
    monkeypatch.setattr(rule, "weiszfeld_exact_little", counted)
    geometric_median(rows)
    geometric_median(np.zeros((MOST + 1, 2), dtype=np.int32))
    geometric_median(rows, products=rows.astype(object) @ rows.astype(object).T)
    with numpy_only():
        geometric_median(rows)
    # Too many rows, and a range of the columns of longer rows, take the general way.
    assert calls == [True]


@compiled_only
def test_distances_beyond_an_int64_are_left_to_the_general_way() -> None:
    rows = np.full((3, 2), LOWEST, dtype=np.int32)
    assert module.clipped_little(rows[:, :1], None, 1.0, 1) is None  # 2**62: out of the kernel's
    assert module.clipped_little(rows + 2**30, None, 1.0, 1) is not None
    found = centred_clipping(rows, radius=1e12)
    assert found.tolist() == rows[0].tolist()


@compiled_only
def test_the_control_a_plain_sum_has_other_bits() -> None:
    from qres_robust_stats.sum_kernels import fsum  # noqa: PLC0415 - loads numba

    values = np.array([1e16, 1.0, 1.0, -1e16, 3.0])
    assert fsum(values) == math.fsum(values.tolist()) == 5.0
    # Not `sum`: from Python 3.12 on it corrects for what is lost.
    assert float(np.add.accumulate(values)[-1]) != 5.0


@compiled_only
@pytest.mark.parametrize("reach", [9, 2**24, 2**31])
def test_distances_fit_or_are_python_integers(reach: int) -> None:
    rows = np.random.default_rng(1).integers(-reach, reach, size=(9, 700)).astype(np.int32)
    rows[2] = rows[5]
    found = squared_distances(packed(rows))
    wide = rows.astype(object)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    assert found.tolist() == expected.tolist()
    assert found.dtype == (np.int64 if expected.max() < 2**63 else np.object_)
