"""Bucketing: the draw against its specification, the means, and what liars can spoil."""

from __future__ import annotations

import hashlib
import struct
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_lab.testing import make_round_info, make_updates, merged
from qres_robust_stats import Bucketing, TrimmedMean, bucketing
from qres_robust_stats.bucketing import buckets, round_seed, summed

from qres_core import Needs, Updates, Vector, Visibility
from qres_core.builtin.mean import Mean
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = (
    st.integers(LOWEST, HIGHEST)
    | st.sampled_from([LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST])
    | st.integers(-3, 3)
)
ROWS = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.int32, shape, elements=COORDINATE)
)
SWARM = {"name": "b", "nodes": 9, "byzantine": 1, "quorum": 9, "insecure": True}


def shuffled(n: int, seed: bytes) -> list[int]:
    """The specified permutation, from one long string of numbers made beforehand."""
    blocks = (hashlib.sha256(seed + struct.pack("<Q", i)).digest() for i in range(n + 64))
    stream = list(struct.unpack(f"<{4 * (n + 64)}Q", b"".join(blocks)))
    order = list(range(n))
    for last in reversed(range(1, n)):
        choices = last + 1
        while stream[0] >= 2**64 - 2**64 % choices:
            del stream[0]
        place = stream.pop(0) % choices
        order[last], order[place] = order[place], order[last]
    return order


def by_definition(rows: NDArray[np.int32], size: int, seed: bytes) -> list[list[int]]:
    order = shuffled(len(rows), seed)
    runs = [order[start : start + size] for start in range(0, len(order), size)]
    means: list[list[int]] = []
    for run in sorted(runs, key=min):
        columns = zip(*(rows[i].tolist() for i in run), strict=True)
        means.append([round(Fraction(sum(column), len(run))) for column in columns])
    return means


@given(rows=ROWS, size=st.integers(1, 5), seed=st.binary(max_size=40))
@settings(max_examples=1000, deadline=None)
def test_equals_the_specification(
    rows: NDArray[np.int32], size: int, seed: bytes, everywhere: Everywhere
) -> None:
    before = rows.copy()
    result = everywhere(lambda: bucketing(rows, size, seed))
    assert result.tolist() == by_definition(rows, size, seed)
    assert np.array_equal(rows, before)


def test_a_known_draw() -> None:
    # Kept as it is: a change of the draw is a change of every model that is made with it.
    assert buckets(10, 3, b"qres") == [[0, 2, 3], [1, 7, 9], [4, 5, 8], [6]]


@given(n=st.integers(1, 40), size=st.integers(1, 9), seed=st.binary(max_size=8))
@settings(deadline=None)
def test_buckets_part_the_rows(n: int, size: int, seed: bytes) -> None:
    chosen = buckets(n, size, seed)
    assert sorted(row for members in chosen for row in members) == list(range(n))
    assert len(chosen) == -(-n // size)
    assert sum(len(members) != size for members in chosen) == (1 if n % size else 0)
    assert all(members == sorted(members) for members in chosen)
    assert chosen == sorted(chosen)


def test_all_permutations_are_about_equally_likely() -> None:
    draws = 24 * 400
    seen = Counter(
        tuple(map(tuple, buckets(4, 2, struct.pack("<Q", seed)))) for seed in range(draws)
    )
    # Three ways to pair four; five standard deviations of a binomial of 1/3.
    assert len(seen) == 3
    for count in seen.values():
        assert abs(count - draws / 3) < 5 * (draws * 2 / 9) ** 0.5


def test_numbers_that_would_favour_small_remainders_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The package's own name `bucketing` is the function.
    module = sys.modules["qres_robust_stats.bucketing"]
    numbers = iter([2**64 - 1, 2**64 - 1, 5, 1])
    monkeypatch.setattr(module, "_numbers", lambda _seed: numbers)
    # Below 3 the greatest multiple is 2**64 - 1, so both of the first are out; 5 % 3 = 2, 1 % 2.
    assert buckets(3, 1, b"") == [[0], [1], [2]]
    assert list(numbers) == []


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]]) -> None:
    rows = np.random.default_rng(3).standard_normal((9, 40)).astype(real)
    result = bucketing(rows, 2, b"seed")
    assert result.dtype == real
    expected = [rows[members].mean(axis=0) for members in buckets(9, 2, b"seed")]
    assert np.allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30), dtype=np.float32)
    rows[1, 29] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 1"):
        bucketing(rows, 2, b"")


@given(rows=ROWS, size=st.integers(1, 4), data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_wrapper_hands_on_means_under_the_least_sender(
    rows: NDArray[np.int32], size: int, data: st.DataObject
) -> None:
    weights = data.draw(arrays(np.int64, len(rows), elements=st.integers(1, 2**30)))
    updates = make_updates(rows, weights)
    info = make_round_info(rows.shape[1])
    seen: list[Updates] = []

    def proceed(means: Updates) -> Vector:
        seen.append(means)
        return means.vectors[0]

    Bucketing(f=0, size=size).wrap_aggregate(proceed, updates, info)
    (means,) = seen
    seed = round_seed(updates, info)
    chosen = buckets(len(rows), size, seed)
    assert means.vectors.tolist() == by_definition(rows, size, seed)
    assert means.senders == tuple(updates.senders[min(members)] for members in chosen)
    totals = [sum(int(weights[i]) for i in members) for members in chosen]
    halved = 0
    while max(totals) >> halved > 2**30:
        halved += 1
    assert means.weights.tolist() == [max(1, total >> halved) for total in totals]
    assert means.visibility is Visibility.INDIVIDUAL


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 2, 4, 8], [9, 6]),
        ([2**30, 1, 1, 2**30], [2**30, 1]),
        ([2**30, 2**30, 2**30, 2**29], [3 * 2**28, 2**30]),
        ([2**29, 1, 1, 2**29], [2**30, 2]),
    ],
)
def test_weights_of_buckets(weights: list[int], expected: list[int]) -> None:
    assert summed(np.array(weights), [[0, 3], [1, 2]]).tolist() == expected


@pytest.mark.claim("C-robust-11")
def test_the_seed_is_bound_to_everything_that_was_agreed() -> None:
    rows = np.arange(8, dtype=np.int32).reshape(4, 2)
    updates, info = make_updates(rows), make_round_info(2)
    base = round_seed(updates, info)
    changed = rows.copy()
    changed[3, 1] += 1
    others = [
        round_seed(make_updates(changed), info),
        round_seed(make_updates(rows, [1, 1, 2, 1]), info),
        round_seed(make_updates(rows, senders=tuple(bytes([i]) * 32 for i in range(4))), info),
        round_seed(make_updates(rows.reshape(2, 4)), info),
        round_seed(updates, attrs.evolve(info, number=2)),
        round_seed(updates, attrs.evolve(info, swarm="other")),
        round_seed(updates, attrs.evolve(info, model_digest=bytes(32))),
    ]
    assert len({base, *others}) == 8
    assert round_seed(make_updates(rows), make_round_info(2)) == base


def test_the_seed_by_hand() -> None:
    rows = np.array([[1, -2], [2**31 - 1, 0]], dtype=np.int32)
    updates = make_updates(rows, [3, 4], senders=(b"a" * 32, b"b" * 32))
    info = make_round_info(2, number=9, swarm="swärm", model_digest=b"m" * 32)
    text = b"qres/bucketing/v1\0" + struct.pack("<Q", 6) + "swärm".encode()
    text += struct.pack("<Q", 9) + b"m" * 32 + struct.pack("<QQ", 2, 2)
    text += struct.pack("<Q", 32) + b"a" * 32 + struct.pack("<Q", 3)
    text += struct.pack("<Q", 32) + b"b" * 32 + struct.pack("<Q", 4)
    text += struct.pack("<4i", 1, -2, 2**31 - 1, 0)
    assert round_seed(updates, info) == hashlib.sha256(text).digest()


@pytest.mark.claim("C-robust-11")
@given(data=st.data(), f=st.integers(1, 2), size=st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_a_rule_behind_it_stays_among_the_honest(data: st.DataObject, f: int, size: int) -> None:
    n = 2 * f * size + 1
    honest = data.draw(arrays(np.int32, (n - f, 3), elements=st.integers(-50, 50)))
    lies = data.draw(arrays(np.int32, (f, 3), elements=COORDINATE))
    updates = make_updates(np.concatenate([lies, honest]))
    rule = TrimmedMean(f=f)
    result = Bucketing(f=f, size=size).wrap_aggregate(rule.aggregate, updates, make_round_info(3))
    assert (honest.min(axis=0) <= result).all()
    assert (result <= honest.max(axis=0)).all()


@pytest.mark.control("C-robust-11")
def test_control_liars_beyond_f_win() -> None:
    updates = make_updates([[HIGHEST]] * 3 + [[0]] * 2)
    result = Bucketing(f=1, size=2).wrap_aggregate(
        TrimmedMean(f=1).aggregate, updates, make_round_info()
    )
    assert result[0] > 10**6


def test_means_of_honest_updates_differ_less() -> None:
    rows = np.random.default_rng(7).integers(-(2**20), 2**20, size=(400, 30), dtype=np.int32)
    means = bucketing(rows, 4, b"seed")
    assert means.shape == (100, 30)
    ratio = means.astype(np.float64).var(axis=0).mean() / rows.astype(np.float64).var(axis=0).mean()
    assert 0.2 < ratio < 0.3


def test_in_a_configuration_before_a_rule() -> None:
    plugins = {"memory": {}, "bucketing": {"f": 1, "size": 3}, "trimmed_mean": {"f": 1}}
    kernel = Kernel.from_config(parse({"swarm": SWARM, "plugins": plugins}, source="test"))
    rows = np.random.default_rng(5).integers(-500, 500, size=(9, 30), dtype=np.int32)
    rows[4] = HIGHEST
    merged = kernel.aggregate(make_updates(rows), make_round_info(30, nodes=9, byzantine=1))
    assert np.abs(merged).max() <= 500


def test_too_few_buckets_for_the_rule_are_named() -> None:
    updates = make_updates(np.zeros((5, 1), dtype=int))
    with pytest.raises(ValueRefusedError) as refusal:
        Bucketing(f=1, size=2).wrap_aggregate(
            TrimmedMean(f=2).aggregate, updates, make_round_info()
        )
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert "trimmed_mean with f = 2 needs n >= 2 f + 1 = 5" in problem.what
    assert "bucketing made 3 of 5" in problem.what
    assert problem.fix == "raise swarm.quorum to 2 times that, or lower plugins.bucketing.size"


def test_other_refusals_of_the_rule_pass_through() -> None:
    def rule(_means: Updates) -> Vector:
        raise ValueRefusedError.of("QRES-E507", "here", "not today")

    with pytest.raises(ValueRefusedError, match=r"^QRES-E507 here: not today$"):
        Bucketing(f=0, size=2).wrap_aggregate(rule, make_updates([[1]]), make_round_info())


def test_one_update_too_few_is_refused() -> None:
    updates = make_updates(np.zeros((4, 1), dtype=int))
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Bucketing(f=1, size=2), Mean(unprotected=True)], updates, make_round_info(1))
    assert str(refusal.value).startswith("QRES-E505 plugins.plugin_0: n = 4 updates,")


def test_groups_are_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* bucketing .* got only their sum"):
        Bucketing(f=0).wrap_aggregate(lambda update: update.vectors[0], updates, make_round_info())


def test_the_solver_is_told_how_few_means_the_rule_gets() -> None:
    assert Bucketing(f=1).claims.wraps.merges == 2
    assert Bucketing(f=1, size=1).claims.wraps.merges == 1


def test_needs_and_options() -> None:
    assert Bucketing(f=3).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=13)
    assert Bucketing(f=3).claims.tolerates == 3
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got -1"):
        Bucketing(f=-1)
    with pytest.raises(
        OptionError, match=r"QRES-E105 size: must be an integer of at least 1, got 0"
    ):
        Bucketing(f=1, size=0)
    with pytest.raises(
        OptionError, match=r"QRES-E105 size: must be an integer of at least 1, got True"
    ):
        bucketing(np.zeros((3, 1), dtype=np.int32), True, b"")  # noqa: FBT003
    assert all(field.metadata["help"] for field in attrs.fields(Bucketing))
    (entry,) = entry_points(group="qres.plugins", name="bucketing")
    assert entry.load() is Bucketing
