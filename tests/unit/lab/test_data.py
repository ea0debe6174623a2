from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.contract import partition
from qres_core.errors import LabError
from qres_core.training.data import (
    DataSplit,
    Labels,
    Purpose,
    breast_cancer,
    digits,
    stream,
    synthetic,
)

labels_and_parts = st.lists(st.integers(0, 6), min_size=1, max_size=120).flatmap(
    lambda labels: st.tuples(st.just(np.array(labels, dtype=np.int64)), st.integers(1, len(labels)))
)
seeds = st.integers(0, 2**32)


def assert_partition(parts: partition.Parts, examples: int) -> None:
    """Every example in exactly one part, parts of equal size to within one, none empty."""
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(examples))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@given(labels_and_parts, seeds)
def test_iid_uses_every_example_once(drawn: tuple[Labels, int], seed: int) -> None:
    labels, parts = drawn
    result = partition.iid(labels, parts, np.random.default_rng(seed))
    assert len(result) == parts
    assert_partition(result, len(labels))


@given(labels_and_parts, seeds, st.floats(0, 1))
def test_similarity_uses_every_example_once(
    drawn: tuple[Labels, int], seed: int, gamma: float
) -> None:
    labels, parts = drawn
    result = partition.similarity(labels, parts, gamma, np.random.default_rng(seed))
    assert_partition(result, len(labels))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_gamma_is_the_share_that_is_alike_everywhere(gamma: float) -> None:
    labels = np.repeat(np.arange(10), 100)
    parts = partition.similarity(labels, 10, gamma, np.random.default_rng(1))
    # A class falls to one part, but for the tenth of what is dealt at random that falls elsewhere
    # and for cuts that miss the border of a class.
    most = [np.bincount(labels[part]).max() for part in parts]
    assert np.mean(most) / 100 == pytest.approx(1 - gamma + gamma / 10, abs=0.1)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_gamma_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(LabError, match="QRES-E105 gamma"):
        partition.similarity(np.arange(9), 3, gamma, np.random.default_rng(1))


@given(labels_and_parts, seeds, st.floats(1e-6, 1e6))
def test_dirichlet_uses_every_example_once(
    drawn: tuple[Labels, int], seed: int, alpha: float
) -> None:
    labels, parts = drawn
    minimum = len(labels) // parts
    result = partition.dirichlet(labels, parts, alpha, np.random.default_rng(seed), minimum=minimum)
    assert len(result) == parts
    assert_partition(result, len(labels))
    assert min(len(part) for part in result) >= minimum


@pytest.mark.parametrize("alpha", [1e-300, 1e300])
def test_dirichlet_at_the_ends_of_alpha(alpha: float) -> None:
    labels = np.repeat(np.arange(10), 20)
    assert_partition(partition.dirichlet(labels, 10, alpha, np.random.default_rng(0)), 200)


def test_alpha_decides_how_uneven_the_classes_are() -> None:
    labels = np.repeat(np.arange(10), 100)

    def largest_class_share(alpha: float) -> float:
        parts = partition.dirichlet(labels, 20, alpha, np.random.default_rng(3))
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    shares = [largest_class_share(alpha) for alpha in (0.05, 0.5, 5.0, 1e6)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.6
    assert shares[-1] < 0.25


def test_mixture_is_drawn_around_the_classes_shares() -> None:
    # q ~ Dirichlet(alpha p) has mean p and variance p (1 - p) / (alpha + 1). The first part alone
    # is drawn from a full stock; its multinomial noise adds E[q (1 - q)] / size.
    labels = np.repeat([0, 1], [3000, 1000])
    alpha, size = 3.0, 40
    shares = np.array(
        [
            np.mean(labels[partition.dirichlet(labels, 100, alpha, np.random.default_rng(s))[0]])
            for s in range(800)
        ]
    )
    spread = 0.25 * 0.75 / (alpha + 1)
    assert shares.mean() == pytest.approx(0.25, abs=0.03)
    assert shares.var() == pytest.approx(spread + (0.25 * 0.75 - spread) / size, rel=0.15)


def test_batched_draw_has_the_distribution_of_drawing_one_by_one() -> None:
    mixture, stock, quota = np.array([0.7, 0.2, 0.1]), np.array([2, 2, 5]), 5

    def one_by_one(rng: np.random.Generator) -> tuple[int, ...]:
        left = stock.copy()
        for _ in range(quota):
            weights = mixture * (left > 0)
            left[rng.choice(3, p=weights / weights.sum())] -= 1
        return tuple(int(n) for n in stock - left)

    def batched(rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(n) for n in partition._draw(mixture, stock, quota, rng))

    repeats = 4000
    frequencies = []
    for draw in (one_by_one, batched):
        rng = np.random.default_rng(11)
        seen = [draw(rng) for _ in range(repeats)]
        frequencies.append({outcome: seen.count(outcome) / repeats for outcome in set(seen)})
    slow, fast = frequencies
    for outcome in slow.keys() | fast.keys():
        assert fast.get(outcome, 0.0) == pytest.approx(slow.get(outcome, 0.0), abs=0.04)


def test_partitions_follow_their_generator() -> None:
    labels = np.repeat(np.arange(10), 20)
    cuts: list[Callable[[np.random.Generator], partition.Parts]] = [
        lambda rng: partition.iid(labels, 7, rng),
        lambda rng: partition.dirichlet(labels, 7, 0.3, rng),
    ]
    for cut in cuts:
        first, again, other = (cut(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
    ("cut", "where"),
    [
        (lambda labels, rng: partition.iid(labels, 11, rng), "task"),
        (lambda labels, rng: partition.iid(labels, 0, rng), "parts"),
        (lambda labels, rng: partition.dirichlet(labels, 11, 1.0, rng), "task"),
        (lambda labels, rng: partition.dirichlet(labels, 4, 1.0, rng, minimum=3), "task"),
        (lambda labels, rng: partition.dirichlet(labels, 4, 1.0, rng, minimum=0), "minimum"),
        (lambda labels, rng: partition.dirichlet(labels, 4, 0.0, rng), "alpha"),
        (lambda labels, rng: partition.dirichlet(labels, 4, float("nan"), rng), "alpha"),
        (lambda labels, rng: partition.dirichlet(labels, 4, float("inf"), rng), "alpha"),
    ],
)
def test_impossible_partitions_are_refused(
    cut: Callable[[Labels, np.random.Generator], partition.Parts], where: str
) -> None:
    with pytest.raises(LabError) as caught:
        cut(np.zeros(10, dtype=np.int64), np.random.default_rng(0))
    assert caught.value.code == "QRES-E105"
    assert caught.value.problems[0].where == where


def test_refusal_says_how_many_parts_are_possible() -> None:
    with pytest.raises(LabError, match=r"10 examples do not give 4 nodes 3 each .*at most 3 nodes"):
        partition.dirichlet(np.zeros(10, np.int64), 4, 1.0, np.random.default_rng(0), minimum=3)


def test_streams_of_different_purpose_node_or_round_differ() -> None:
    keys = [
        (0, Purpose.SPLIT, 0, 0),
        (1, Purpose.SPLIT, 0, 0),
        (0, Purpose.SHUFFLE, 0, 0),
        (0, Purpose.SPLIT, 1, 0),
        (0, Purpose.SPLIT, 0, 1),
    ]
    draws = [int(stream(*key).integers(2**63)) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [int(stream(*key).integers(2**63)) for key in keys]


def test_digits_are_the_bundled_ones_each_used_once() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    bundled = load_digits()
    split = digits(5)
    assert split.train_x.shape == (1347, 64)
    assert split.test_x.shape == (450, 64)
    assert split.train_x.dtype == np.float64
    assert split.train_y.dtype == np.int64
    assert split.train_x.min() == 0.0
    assert split.train_x.max() == 1.0
    rows = np.concatenate([split.train_x * 16, split.test_x * 16])
    ours = np.column_stack([rows, np.concatenate([split.train_y, split.test_y])])
    theirs = np.column_stack([bundled.data, bundled.target])
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))


def test_digits_come_from_the_loader_where_their_file_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("sklearn")
    read = digits(5)
    monkeypatch.setattr(Path, "is_file", lambda _path: False)
    loaded = digits(5)
    for name in ("train_x", "train_y", "test_x", "test_y"):
        np.testing.assert_array_equal(getattr(read, name), getattr(loaded, name))


def test_commands_read_the_digits_without_importing_scikit_learn() -> None:
    """The import takes longer than all else that a command does."""
    code = "import sys; from qres_core.training.data import digits; digits(0); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "qres_core.training.data" in done.stdout.split()
    assert not {"sklearn", "scipy"} & set(done.stdout.split())


def test_other_data_sets_are_split_and_scaled() -> None:
    load = pytest.importorskip("sklearn.datasets").load_breast_cancer
    split = breast_cancer(5)
    assert (split.train_x.shape, split.test_x.shape) == ((426, 30), (143, 30))
    rows = np.concatenate([split.train_x, split.test_x])
    assert rows.mean(axis=0) == pytest.approx(0.0, abs=1e-9)
    assert rows.std(axis=0) == pytest.approx(0.5)
    order = np.lexsort(rows.T)
    bundled = load().data
    assert rows[order] * 2 * bundled.std(axis=0) + bundled.mean(axis=0) == pytest.approx(
        bundled[np.lexsort(bundled.T)]
    )
    made, again, other = synthetic(5), synthetic(5), synthetic(6)
    assert abs(len(made.train_y) - 3000) <= 8
    assert made.train_x.shape[1] == 40
    assert set(made.train_y) == set(made.test_y) == set(range(8))
    np.testing.assert_array_equal(made.train_x, again.train_x)
    assert not np.array_equal(made.train_x[:100], other.train_x[:100])


@pytest.mark.parametrize("load", [digits, breast_cancer, synthetic])
def test_data_sets_are_stratified(load: Callable[[int], DataSplit]) -> None:
    pytest.importorskip("sklearn")
    split = load(5)
    train, test = np.bincount(split.train_y), np.bincount(split.test_y)
    assert np.all(np.abs(test - (train + test) / 4) < 1)


def test_digits_follow_the_seed() -> None:
    pytest.importorskip("sklearn")
    first, again, other = digits(1), digits(1), digits(2)
    np.testing.assert_array_equal(first.train_x, again.train_x)
    np.testing.assert_array_equal(first.test_y, again.test_y)
    assert not np.array_equal(first.train_x, other.train_x)


@pytest.mark.parametrize("load", [digits, breast_cancer, synthetic])
def test_data_sets_without_scikit_learn_name_the_extra(
    load: Callable[[int], DataSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LabError) as caught:
        load(0)
    assert caught.value.code == "QRES-E802"
    assert caught.value.problems[0].fix == "pip install scikit-learn"
