"""Rules and wrappers from inner products: in shards, the bits that whole updates give."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_lab.testing import host, make_node_ids, make_round_info, make_updates, merged
from qres_robust_stats import (
    Arc,
    Caf,
    CentredClipping,
    Clipping,
    GeometricMedian,
    Mda,
    Meamed,
    Median,
    Monna,
    Nnm,
    TrimmedMean,
)

from qres_core import Reads, Updates, Vector

N = 11
PIVOT = make_node_ids(N)[3].hex()
RULES: list[GeometricMedian | CentredClipping | Mda | Caf | Monna] = [
    GeometricMedian(f=2),
    GeometricMedian(f=1, weighted=True, weight_limit=1.5, iterations=3),
    CentredClipping(f=2, radius=0.5, history=False),
    CentredClipping(f=2, radius=2.0**-10, iterations=3, history=False),
    Mda(f=2),
    Caf(f=1),
    Monna(f=2, pivot=PIVOT),
]
COORDINATEWISE = [Median(f=2), TrimmedMean(f=2), Meamed(f=2)]
WRAPPERS: list[Nnm | Arc | Clipping] = [Nnm(f=2), Arc(f=2), Clipping(bound=0.25)]
SPREADS = [2, 2**12, 2**31 - 1]


def drawn(seed: int, spread: int, n: int = N, d: int = 6) -> Updates:
    """Random updates, some of them copies and some liars' at the ends of the grid.

    With a spread of 2 many distances are equal, so that the order of the senders decides.
    """
    rng = np.random.default_rng(seed)
    rows: NDArray[np.int64] = rng.integers(-spread, spread, (n, d), endpoint=True)
    rows[0] = rng.choice(np.array([-(2**31), 2**31 - 1, 0]), d)
    rows[-1] = rows[rng.integers(n)]
    return make_updates(rows, rng.integers(1, 5, n))


def assert_alike(plugins: Sequence[object], updates: Updates) -> None:
    info = make_round_info(updates.dimension)
    whole = merged(plugins, updates, info).tolist()
    for shards in (2, updates.dimension):
        assert merged(plugins, updates, info, shards=shards).tolist() == whole


@pytest.mark.claim("C-robust-18")
@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from(SPREADS))
def test_shards_of_a_rule_give_the_bits_of_the_whole(rule: object, seed: int, spread: int) -> None:
    assert_alike([rule], drawn(seed, spread))


@pytest.mark.claim("C-robust-18")
@given(
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    rule=st.sampled_from([*RULES, *COORDINATEWISE]),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from(SPREADS),
)
def test_wrappers_in_any_order_before_any_rule_give_the_bits_of_the_whole(
    wrappers: list[object], rule: object, seed: int, spread: int
) -> None:
    assert_alike([*wrappers, rule], drawn(seed, spread))


def changed(wrapper: Nnm | Arc | Clipping, updates: Updates) -> Updates:
    """What a wrapper hands on."""
    seen: list[Updates] = []

    def proceed(inner: Updates) -> Vector:
        seen.append(inner)
        first: Vector = inner.vectors[0]
        return first

    info = make_round_info(updates.dimension)
    hook = host(wrapper).hook
    hook.wrap_aggregate(proceed=proceed, updates=updates, held_out=None, round_info=info)
    return seen[0]


@pytest.mark.control("C-robust-18")
@pytest.mark.parametrize("wrapper", WRAPPERS, ids=repr)
def test_without_the_products_a_wrapper_changes_shards_otherwise(
    wrapper: Nnm | Arc | Clipping,
) -> None:
    """Control: each range has other neighbours, and is not as long as the whole."""
    updates = drawn(1, 2**14)
    whole = changed(wrapper, updates).vectors
    halves = [
        changed(wrapper, attrs.evolve(updates, vectors=updates.vectors[:, part])).vectors
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert np.concatenate(halves, axis=1).tolist() != whole.tolist()


def test_products_of_mixed_rows_do_not_follow_from_those_of_the_rows() -> None:
    """Why committees multiply again after a wrapper: it rounds what it hands on to the grid."""
    rows = np.array([[0, 0], [5, 0], [100, 0]], dtype=np.int32)
    turned = np.array([[0, 0], [3, 4], [60, 80]], dtype=np.int32)
    assert (rows @ rows.T).tolist() == (turned @ turned.T).tolist()
    mixed, other = (changed(Nnm(f=1), make_updates(of)).vectors for of in (rows, turned))
    assert (mixed @ mixed.T).tolist() != (other @ other.T).tolist()


def test_it_says_so() -> None:
    for claims in [*(rule.claims for rule in RULES), *(it.claims for it in WRAPPERS)]:
        assert claims.reads is Reads.PRODUCTS
    assert CentredClipping(f=1, radius=1.0).claims.reads is Reads.WHOLE  # it needs the last result
