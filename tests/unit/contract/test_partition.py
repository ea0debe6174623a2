"""Partitions by class and by quantity, and shares of data sets of any kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.errors import LabError
from qres_core.training import partition


def assert_partition(parts: partition.Parts, examples: int) -> None:
    """Every example is in exactly one part, and none is empty."""
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(examples))
    assert all(len(part) for part in parts)
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}


@given(st.data(), st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**32))
def test_parts_by_class_have_so_many_classes_and_share_them_equally(
    data: st.DataObject, known: int, parts: int, seed: int
) -> None:
    least = -(-known // parts)
    classes = data.draw(st.integers(least, known))
    labels = np.random.default_rng(seed).permutation(np.arange(known).repeat(parts + 3))
    dealt = partition.by_class(labels, parts, classes, seed)
    assert_partition(dealt, len(labels))
    assert {len(np.unique(labels[part])) for part in dealt} == {classes}
    for label in range(known):
        sizes = [np.count_nonzero(labels[part] == label) for part in dealt]
        held = [size for size in sizes if size]
        assert max(held) - min(held) <= 1
        assert abs(len(held) - parts * classes / known) < 1


@given(st.integers(1, 200), st.integers(1, 9), st.floats(0.01, 100), st.integers(0, 2**32))
def test_parts_by_quantity_use_every_example_once(
    examples: int, parts: int, alpha: float, seed: int
) -> None:
    if examples < parts:
        with pytest.raises(LabError, match="QRES-E105"):
            partition.by_quantity(range(examples), parts, alpha, seed)
        return
    minimum = examples // parts
    dealt = partition.by_quantity(range(examples), parts, alpha, seed, minimum=minimum)
    assert_partition(dealt, examples)
    assert min(map(len, dealt)) >= minimum


def test_sizes_by_quantity_have_the_moments_of_the_distribution() -> None:
    """Of a symmetric Dirichlet: mean ``1/n`` and variance ``(1/n)(1 - 1/n) / (n alpha + 1)``."""
    examples, parts = 100_000, 5
    for alpha in (0.3, 1.0, 8.0):
        shares = (
            np.array(
                [
                    [
                        len(part)
                        for part in partition.by_quantity(range(examples), parts, alpha, seed)
                    ]
                    for seed in range(400)
                ]
            )
            / examples
        )
        variance = (1 / parts) * (1 - 1 / parts) / (parts * alpha + 1)
        np.testing.assert_allclose(shares.mean(axis=0), 1 / parts, atol=4 * (variance / 400) ** 0.5)
        assert shares.var() == pytest.approx(variance, rel=0.15)


def test_mixtures_of_dirichlet_have_the_moments_of_the_distribution() -> None:
    """The first part draws from a full stock: its share of a class is that of the mixture."""
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    prior = np.array([0.5, 0.3, 0.2])
    for alpha in (0.5, 5.0):
        firsts = [partition.dirichlet(labels, 50, alpha, seed)[0] for seed in range(600)]
        shares = np.array([np.bincount(labels[part], minlength=3) for part in firsts]) / 20
        # Of the mixture, and of 20 draws by it.
        mixing = prior * (1 - prior) / (alpha + 1)
        variance = mixing + (prior * (1 - prior) - mixing) / 20
        np.testing.assert_allclose(shares.mean(axis=0), prior, atol=0.06)
        np.testing.assert_allclose(shares.var(axis=0), variance, rtol=0.2)


CUTS: list[Callable[[Any, Any], partition.Parts]] = [
    lambda labels, seed: partition.iid(labels, 4, seed),
    lambda labels, seed: partition.similarity(labels, 4, 0.5, seed),
    lambda labels, seed: partition.dirichlet(labels, 4, 0.5, seed),
    lambda labels, seed: partition.by_class(labels, 4, 2, seed),
    lambda labels, seed: partition.by_quantity(labels, 4, 0.5, seed),
]


@pytest.mark.parametrize("cut", CUTS)
def test_a_seed_decides_a_partition_and_labels_may_be_of_any_kind(cut: Any) -> None:
    labels = ["bee", "ant", "cow"] * 20
    first, again = cut(labels, 3), cut(np.array(labels), np.random.default_rng(3))
    assert_partition(first, 60)
    for mine, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine, same)
    assert any(
        not np.array_equal(mine, other) for mine, other in zip(first, cut(labels, 4), strict=True)
    )


@pytest.mark.parametrize("cut", CUTS)
def test_examples_with_a_label_that_is_not_a_number_are_dealt_too(cut: Any) -> None:
    labels = np.arange(60) % 3.0
    labels[::7] = np.nan
    assert not np.array_equal(labels, labels), "control: it is not equal to itself"
    assert_partition(cut(labels, 3), 60)


@pytest.mark.parametrize("cut", CUTS[1:4])
@pytest.mark.parametrize("shape", [(60, 1), (60, 3), ()])
def test_labels_of_another_shape_are_refused(cut: Any, shape: tuple[int, ...]) -> None:
    """One-hot labels, say, of which each number would count as an example."""
    with pytest.raises(LabError, match=r"QRES-E105 labels: are of shape"):
        cut(np.zeros(shape), 3)


TINY, HUGE = (5e-324, 1e-310, 1e-300), (1e20, 1e308, 1.7e308)


@pytest.mark.parametrize("alpha", TINY)
def test_with_the_smallest_alpha_one_part_has_nearly_all_and_a_part_one_class(alpha: float) -> None:
    largest = set[int]()
    for seed in range(20):
        sizes = [len(part) for part in partition.by_quantity(range(100), 4, alpha, seed)]
        assert sorted(sizes) == [1, 1, 1, 97]
        largest.add(sizes.index(97))
    assert len(largest) > 1
    labels = np.arange(100) % 5
    for seed in range(20):
        assert len(np.unique(labels[partition.dirichlet(labels, 10, alpha, seed)[0]])) == 1


@pytest.mark.parametrize("alpha", HUGE)
def test_with_the_largest_alpha_parts_are_alike(alpha: float) -> None:
    for seed in range(20):
        sizes = [len(part) for part in partition.by_quantity(range(102), 5, alpha, seed)]
        assert max(sizes) - min(sizes) <= 1
        assert_partition(partition.dirichlet(np.arange(100) % 5, 10, alpha, seed), 100)


@pytest.mark.parametrize(
    ("cut", "where"),
    [
        (lambda labels: partition.by_class(labels, 4, 0, 1), "classes"),
        (lambda labels: partition.by_class(labels, 4, 4, 1), "classes"),
        (lambda labels: partition.by_class(labels, 2, 1, 1), "classes"),
        (lambda labels: partition.by_class(labels[:4], 4, 3, 1), "labels"),
        (lambda labels: partition.by_class(labels, 61, 3, 1), "task"),
        (lambda labels: partition.by_quantity(labels, 4, 0.0, 1), "alpha"),
        (lambda labels: partition.by_quantity(labels, 4, 1.0, 1, minimum=16), "task"),
        (lambda labels: partition.by_quantity(labels, 0, 1.0, 1), "parts"),
    ],
)
def test_what_cannot_be_dealt_is_named(cut: Any, where: str) -> None:
    with pytest.raises(LabError) as caught:
        cut([0, 1, 2] * 20)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("QRES-E105", where)


# ── data sets ─────────────────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class Rows:
    """Examples by number, as a data set of torch has them."""

    rows: list[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Any:
        return self.rows[number]


@attrs.frozen(eq=False)
class Table:
    """As one of Hugging Face's ``datasets``: a column by name, a row by number."""

    columns: dict[str, list[Any]]

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        assert type(key) is int, "numpy's integers are refused by some data sets"
        return {name: column[key] for name, column in self.columns.items()}


LABELS = [2, 0, 1, 0]


def with_attribute(name: str, value: Any) -> Any:
    kind = type("Some", (), {name: value, "__len__": lambda _self: 4, "__getitem__": print})
    return kind()


@pytest.mark.parametrize(
    ("dataset", "column"),
    [
        (Table({"image": [b"a", b"b", b"c", b"d"], "label": LABELS}), "label"),
        (with_attribute("targets", LABELS), ""),
        (with_attribute("labels", np.array(LABELS)), ""),
        (with_attribute("tensors", (np.zeros((4, 3)), np.array(LABELS))), ""),
        (Rows([("text", label) for label in LABELS]), ""),
        (Rows([{"x": 1, "y": label} for label in LABELS]), "y"),
    ],
)
def test_labels_are_found_in_data_sets_of_every_kind(dataset: Any, column: str) -> None:
    assert partition.labels_of(dataset, column).tolist() == LABELS

    @attrs.frozen
    class Subset:
        dataset: Any
        indices: list[int]

    assert partition.labels_of(Subset(dataset, [3, 0]), column).tolist() == [0, 2]


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(LabError, match=r"no column 'labels' \(name one of image, label\)"):
        partition.labels_of(Table({"image": [1], "label": [2]}), "labels")


def test_a_share_has_the_examples_of_its_part() -> None:
    table = Table({"id": [9, 8, 7], "image": ["a", "b", "c"], "label": [0, 1, 2]})
    share = partition.Share(table, np.array([2, 0]))
    assert [share[number] for number in range(len(share))] == [table[2], table[0]]
    assert list(share) == [table[2], table[0]], "it ends"
    pairs = partition.Share(table, np.array([2, 0]), ("image", "label"))
    assert list(pairs) == [("c", 2), ("a", 0)]
    assert list(partition.Share(Rows([(1, 2), (3, 4)]), np.array([1]))) == [(3, 4)]
