"""Dealing of examples to nodes, and a node's share of a data set of any kind.

A partition is index arrays: every example is in exactly one. Each function takes the labels, an
array of one label for each example, or what has a length. Its last argument is a seed, or a
generator of numpy; equal seeds make equal partitions::

    from qres_core.training import partition

    labels = partition.labels_of(dataset)
    mine = partition.dirichlet(labels, nodes, 0.5, seed)[index]
    loader = DataLoader(partition.Share(dataset, mine), batch_size=32, shuffle=True)

``dataset`` may be one of torch or one of Hugging Face's ``datasets`` that is already there: neither
is imported here, and nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qres_core.contract.errors import LabError

Parts: TypeAlias = tuple[NDArray[np.int64], ...]
"""Indices of the examples of each part."""

Seed: TypeAlias = "int | np.random.Generator"
"""A whole number from 0, or the generator to draw from."""

__all__ = [
    "Parts",
    "Share",
    "by_class",
    "by_quantity",
    "dirichlet",
    "iid",
    "labels_of",
    "similarity",
]


def _check_counts(examples: int, parts: int, minimum: int) -> None:
    if parts < 1:
        raise LabError.of("QRES-E105", "parts", f"must be at least 1, got {parts}")
    if minimum < 1:
        raise LabError.of("QRES-E105", "minimum", f"must be at least 1, got {minimum}")
    if examples < parts * minimum:
        raise LabError.of(
            "QRES-E105",
            "task",
            f"{examples} examples do not give {parts} nodes {minimum} each",
            f"at most {examples // minimum} nodes",
        )


def _concentration(alpha: float) -> float:
    """An alpha with which numpy can draw: outside of these bounds the distribution is its limit."""
    if not (math.isfinite(alpha) and alpha > 0):
        raise LabError.of("QRES-E105", "alpha", f"must be a finite number above 0, got {alpha}")
    return min(max(alpha, 1e-100), 1e100)


def _row(labels: ArrayLike) -> NDArray[Any]:
    """The labels, one of each example."""
    found = np.asarray(labels)
    if found.ndim != 1:
        what = f"are of shape {found.shape}, and each example has one label"
        raise LabError.of("QRES-E105", "labels", what, "give an array of shape (N,)")
    return found


def iid(examples: Sized, parts: int, seed: Seed) -> Parts:
    """Divide the examples at random into parts of equal size, to within one.

    Args:
        examples: what has the length N: labels, a data set.
        parts: number of parts, 1..N.
        seed: of the permutation.

    Returns:
        ``parts`` index arrays; every example is in exactly one, none is empty.

    Raises:
        LabError: QRES-E105 with fewer examples than parts.

    Complexity: O(N).
    """
    _check_counts(len(examples), parts, 1)
    return tuple(np.array_split(np.random.default_rng(seed).permutation(len(examples)), parts))


def similarity(labels: ArrayLike, parts: int, gamma: float, seed: Seed) -> Parts:
    """Deal a share of the examples at random, and the rest sorted by class.

    Each part gets ``gamma`` of its examples from a common random deal. The others are sorted by
    class and cut into ``parts`` pieces of equal size: with ``gamma = 0`` and as many parts as
    classes, each part holds about one class.

    Args:
        labels: of any kind that can be sorted, shape ``(N,)``.
        parts: number of parts, 1..N.
        gamma: share that is dealt at random, 0..1.
        seed: of the deal.

    Returns:
        ``parts`` index arrays; every example is in exactly one.

    Raises:
        LabError: QRES-E105 with fewer examples than parts, ``gamma`` out of range, or labels of
            another shape.

    Complexity: O(N log N).

    Reference:
        S. P. Karimireddy et al., SCAFFOLD, ICML 2020, section 7.1: ``s`` % similar data.
    """
    labels, rng = _row(labels), np.random.default_rng(seed)
    _check_counts(len(labels), parts, 1)
    if not 0.0 <= gamma <= 1.0:
        raise LabError.of("QRES-E105", "gamma", f"must be in 0..1, got {gamma}")
    order = rng.permutation(len(labels))
    common = round(gamma * len(labels))
    rest = order[common:]
    sorted_rest = rest[np.argsort(labels[rest], kind="stable")]
    dealt = zip(
        np.array_split(order[:common], parts), np.array_split(sorted_rest, parts)[::-1], strict=True
    )
    return tuple(np.concatenate(pair) for pair in dealt)


def dirichlet(labels: ArrayLike, parts: int, alpha: float, seed: Seed, minimum: int = 1) -> Parts:
    """Divide the examples into parts of equal size whose classes are mixed unevenly.

    Each part draws its mixture of classes ``q ~ Dirichlet(alpha * p)``, with ``p`` the classes'
    shares in ``labels``, and then its examples without replacement by ``q``. A class that is used
    up leaves the mixture; where ``q`` has no mass on any class that is left, the part draws from
    all the examples left. Small ``alpha``: each part holds few classes; large: the parts are alike.

    Args:
        labels: of any kind that can be sorted, shape ``(N,)``.
        parts: number of parts.
        alpha: concentration, above 0.
        seed: of mixtures and examples.
        minimum: fewest examples a part may have; parts have ``N / parts`` to within one.

    Returns:
        ``parts`` index arrays; every example is in exactly one.

    Raises:
        LabError: QRES-E105 where ``N < parts * minimum`` or ``alpha`` is not a finite number above
            0, and for labels of another shape.

    Complexity: O(N * classes + parts * classes**2).

    Reference:
        T.-M. H. Hsu, H. Qi, M. Brown, Measuring the Effects of Non-Identical Data Distribution for
        Federated Visual Classification, 2019, section 3.
    """
    labels, rng = _row(labels), np.random.default_rng(seed)
    _check_counts(len(labels), parts, minimum)
    alpha = _concentration(alpha)
    # By number: a label that is not a number is not equal to itself.
    known, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    prior = counts / counts.sum()
    piles = [rng.permutation(np.flatnonzero(numbers == number)) for number in range(len(known))]
    left: NDArray[np.int64] = counts.astype(np.int64)
    base, extra = divmod(len(labels), parts)
    result: list[NDArray[np.int64]] = []
    for part in range(parts):
        mixture = rng.dirichlet(alpha * prior)
        taken = _draw(mixture, left, base + (part < extra), rng)
        ends = left - taken
        chosen = [
            pile[end:stop] for pile, end, stop in zip(piles, ends, left, strict=True) if stop > end
        ]
        result.append(np.concatenate(chosen).astype(np.int64))
        left = ends
    return tuple(result)


def _draw(
    mixture: NDArray[np.float64], stock: NDArray[np.int64], quota: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers of each class: ``quota`` draws by ``mixture``, redrawn where the stock is out.

    Redrawing the surplus as one batch gives the same distribution as drawing one by one: both skip
    draws that hit an empty class.
    """
    taken = np.zeros_like(stock)
    while (missing := quota - int(taken.sum())) > 0:
        left = stock - taken
        weights = np.where(left > 0, mixture, 0.0)
        total = weights.sum()
        if not total > 0:
            return taken + rng.multivariate_hypergeometric(left, missing)
        taken += np.minimum(rng.multinomial(missing, weights / total), left)
    return taken


def by_class(labels: ArrayLike, parts: int, classes: int, seed: Seed) -> Parts:
    """Give each part examples of so many classes, and of no other.

    The classes are put in a random order and dealt in turn; the examples of a class are divided
    equally among the parts that have it.

    Args:
        labels: of any kind that can be sorted, shape ``(N,)``.
        parts: number of parts.
        classes: how many each part has, from 1 to the number of classes.
        seed: of the order of classes and examples.

    Returns:
        ``parts`` index arrays; every example is in exactly one, and none is empty.

    Raises:
        LabError: QRES-E105 where ``parts * classes`` is below the number of classes, where a class
            has fewer examples than parts have it, and for labels of another shape.

    Complexity: O(N log N).

    Reference:
        H. B. McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
        Data, AISTATS 2017, section 3: two classes a client.
    """
    labels, rng = _row(labels), np.random.default_rng(seed)
    known, numbers = np.unique(labels, return_inverse=True)
    _check_counts(len(labels), parts, 1)
    if not 1 <= classes <= len(known) or parts * classes < len(known):
        what = f"is {classes}, and there are {len(known)} classes for {parts} parts"
        fix = f"from {max(1, -(-len(known) // parts))} to {len(known)}"
        raise LabError.of("QRES-E105", "classes", what, fix)
    dealt = np.resize(rng.permutation(len(known)), (parts, classes))
    result: list[list[NDArray[np.int64]]] = [[] for _ in range(parts)]
    for number in range(len(known)):
        holders = np.flatnonzero((dealt == number).any(axis=1))
        mine = rng.permutation(np.flatnonzero(numbers == number))
        if len(mine) < len(holders):
            what = f"{len(mine)} examples of {known[number]!r} for {len(holders)} parts"
            raise LabError.of("QRES-E105", "labels", what, "fewer parts, or fewer classes in each")
        for holder, piece in zip(holders, np.array_split(mine, len(holders)), strict=True):
            result[holder].append(piece)
    return tuple(np.concatenate(pieces) for pieces in result)


def by_quantity(examples: Sized, parts: int, alpha: float, seed: Seed, minimum: int = 1) -> Parts:
    """Divide the examples at random into parts of unequal size.

    Each part gets ``minimum`` examples, and its share of the others is drawn from a symmetric
    Dirichlet distribution. Small ``alpha``: few parts have nearly all; large: they are alike.

    Args:
        examples: what has the length N: labels, a data set.
        parts: number of parts.
        alpha: concentration, above 0.
        seed: of sizes and examples.
        minimum: fewest examples of a part, 1 or more.

    Returns:
        ``parts`` index arrays; every example is in exactly one.

    Raises:
        LabError: QRES-E105 where ``N < parts * minimum`` or ``alpha`` is not a finite number above
            0.

    Complexity: O(N + parts).

    Reference:
        Q. Li, Y. Diao, Q. Chen, B. He, Federated Learning on Non-IID Data Silos, ICDE 2022, section
        4.3: quantity skew.
    """
    rng = np.random.default_rng(seed)
    _check_counts(len(examples), parts, minimum)
    alpha = _concentration(alpha)
    shares = rng.dirichlet(np.full(parts, alpha))
    ends = np.rint(np.cumsum(shares) * (len(examples) - parts * minimum)).astype(np.int64)
    sizes = minimum + np.diff(ends, prepend=0)
    return tuple(np.split(rng.permutation(len(examples)), np.cumsum(sizes)[:-1]))


# ── data sets ─────────────────────────────────────────────────────────────────────────────────────


def labels_of(dataset: Any, column: str = "") -> NDArray[Any]:
    """The label of each example, shape ``(N,)``.

    Args:
        dataset: of Hugging Face's ``datasets``; of torch, with ``targets`` or ``labels``, a
            ``TensorDataset`` or a ``Subset``; or anything else with a length and examples by
            number, of which the last part is the label: all are read then.
        column: of the labels, where examples are mappings.

    Raises:
        LabError: QRES-E801 for a data set without that column.
    """
    names: Any = getattr(dataset, "column_names", None)
    if names is not None:
        if column not in names:
            what = f"there is no column {column!r}"
            raise LabError.of("QRES-E801", "column", what, f"name one of {', '.join(names)}")
        return np.asarray(dataset[column])
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        whole = labels_of(dataset.dataset, column)
        return whole[np.asarray(dataset.indices, dtype=np.int64)]
    for name in ("targets", "labels"):
        if hasattr(dataset, name) and not column:
            return np.asarray(getattr(dataset, name))
    if getattr(dataset, "tensors", None) and not column:
        return np.asarray(dataset.tensors[-1])
    rows: list[Any] = [dataset[number] for number in range(len(dataset))]
    return np.asarray([row[column] if column else row[-1] for row in rows])


@attrs.frozen(eq=False)
class Share:
    """The examples of a data set that are a node's: what a ``DataLoader`` takes.

    Nothing is copied, and an example is read when it is asked for.
    """

    dataset: Any  # with examples by number
    indices: NDArray[np.int64]  # of the examples, shape ``(n,)``
    # of examples that are mappings: those that make a tuple, the label last; none to leave them
    columns: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Any:
        """An example by its number in the share. Raises IndexError where there is none."""
        row: Any = self.dataset[int(self.indices[number])]
        if not self.columns:
            return row
        table: Mapping[str, Any] = row
        return tuple(table[name] for name in self.columns)
