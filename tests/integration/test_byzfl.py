"""Where definitions coincide, the rules on floats are those of byzfl. Skipped where it is absent.

``docs/how-to/compare-with-peers.md`` says how to install it. Left out are Krum and Multi-Krum
(byzfl scores by one neighbour more), bucketing and CAF (random there), and ties.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_robust_stats import (
    arc,
    centred_clipping,
    clip,
    geometric_median,
    mda,
    meamed,
    median,
    monna,
    nnm,
    trimmed_mean,
)

byzfl: Any = pytest.importorskip("byzfl")

Rule = Callable[[NDArray[np.float64], int], Any]

PAIRS: dict[str, tuple[Rule, Rule]] = {
    "median": (lambda x, _: median(x), lambda x, _: byzfl.Median()(x)),
    "trimmed_mean": (trimmed_mean, lambda x, f: byzfl.TrMean(f=f)(x)),
    "meamed": (meamed, lambda x, f: byzfl.Meamed(f=f)(x)),
    "geometric_median": (
        lambda x, _: geometric_median(x, iterations=3, smoothing=0.1, start="zero"),
        lambda x, _: byzfl.GeometricMedian(nu=0.1, T=3)(x),
    ),
    "centred_clipping": (
        lambda x, _: centred_clipping(x, radius=2.0, iterations=3),
        lambda x, _: byzfl.CenteredClipping(L=3, tau=2.0)(x),
    ),
    "monna": (lambda x, f: monna(x, f, 0), lambda x, f: byzfl.MoNNA(f=f, idx=0)(x)),
    "nnm": (lambda x, f: nnm(x, f).materialise(), lambda x, f: byzfl.NNM(f=f)(x)),
    "nnm_trimmed_mean": (
        lambda x, f: trimmed_mean(nnm(x, f), f),
        lambda x, f: byzfl.TrMean(f=f)(byzfl.NNM(f=f)(x)),
    ),
    "clipping": (lambda x, _: clip(x, 2.0), lambda x, _: byzfl.Clipping(c=2.0)(x)),
    "arc": (arc, lambda x, f: byzfl.ARC(f=f)(x)),
}


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=1000)
@given(n=st.integers(3, 9), d=st.integers(1, 20), seed=st.integers(0, 2**32), data=st.data())
def test_it_is_the_same_rule(name: str, n: int, d: int, seed: int, data: st.DataObject) -> None:
    f = data.draw(st.integers(1 if name == "meamed" else 0, (n - 1) // 2))
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) * rng.choice([0.01, 1.0, 100.0], (n, 1))
    ours, theirs = PAIRS[name]
    # Its clipping writes into what it is given.
    assert np.allclose(ours(rows, f), theirs(rows.copy(), f), rtol=1e-7, atol=1e-9)


@settings(max_examples=1000, suppress_health_check=[HealthCheck.filter_too_much])
@given(n=st.integers(3, 9), d=st.integers(1, 20), seed=st.integers(0, 2**32), data=st.data())
def test_mda_is_the_same_where_one_subset_alone_is_of_least_diameter(
    n: int, d: int, seed: int, data: st.DataObject
) -> None:
    f = data.draw(st.integers(0, min(2, (n - 1) // 2)))
    rows = np.random.default_rng(seed).standard_normal((n, d))
    squares = ((rows[:, None] - rows) ** 2).sum(axis=2)
    least = sorted(
        squares[np.ix_(combination, combination)].max()
        for combination in combinations(range(n), n - f)
    )
    assume(len(least) == 1 or least[1] > least[0] * (1 + 1e-9))
    assert np.allclose(mda(rows, f), byzfl.MDA(f=f)(rows.copy()), rtol=1e-7, atol=1e-9)
