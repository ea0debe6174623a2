"""Data sets, how they are split among nodes, and the random streams behind both.

Every random choice of a task comes from :func:`stream`, so that one seed names one experiment and
two nodes, rounds or purposes never share random numbers.
"""

from __future__ import annotations

import enum
import importlib.util
import math
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import LabError

Features: TypeAlias = NDArray[np.float64]
"""Examples, one a row: float64, shape ``(n, features)``."""

Labels: TypeAlias = NDArray[np.int64]
"""Class numbers: int64, shape ``(n,)``."""

Parts: TypeAlias = tuple[NDArray[np.int64], ...]
"""Indices of the examples of each part."""

_DIGITS_BRIGHTEST: Final = 16.0
_TEST_EVERY: Final = 4


class Purpose(enum.IntEnum):
    """What a random stream is for."""

    SPLIT = 1
    PARTITION = 2
    INITIAL = 3
    SHUFFLE = 4
    OPTIMUM = 5
    HELD_OUT = 6


def stream(
    seed: int, purpose: Purpose, node: int = 0, round_number: int = 0
) -> np.random.Generator:
    """The random stream of one purpose, node and round; independent of all others.

    ``seed``: the experiment's seed, 0 or more; ``node``: index of the node, 0 or more;
    ``round_number``: number of the round, 0 or more. Returns PCG64 seeded with
    ``SeedSequence((seed, purpose, node, round_number))``. Raises ValueError: from numpy, for a
    negative number.
    """
    entropy = (seed, int(purpose), node, round_number)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


@attrs.frozen(eq=False)
class DataSplit:
    """Examples to train on and examples held out."""

    train_x: Features  # float64, shape ``(N, features)``
    train_y: Labels  # int64, shape ``(N,)``
    test_x: Features  # float64, shape ``(M, features)``
    test_y: Labels  # int64, shape ``(M,)``


def digits(seed: int) -> DataSplit:
    """The 8x8 handwritten digits bundled with scikit-learn, split 75/25.

    Stratified: the examples are permuted, ordered by class and every fourth is held out, so that
    each class is divided 3:1 to within one example.

    Args:
        seed: decides the split, 0 or more.

    Returns:
        1347 training and 450 test examples of 64 features in [0, 1]; 10 classes.

    Raises:
        LabError: QRES-E802 without scikit-learn.

    Reference:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
        Repository, 1998.
    """
    rows = _rows_of_digits()
    x: Features = rows[:, :-1] / _DIGITS_BRIGHTEST
    return _stratified(x, rows[:, -1].astype(np.int64), seed)


def breast_cancer(seed: int) -> DataSplit:
    """Measures of cell nuclei, benign or malignant, as bundled with scikit-learn; split 75/25.

    Stratified as :func:`digits`. Each measure has the mean 0 and the deviation 1/2 over all
    examples.

    Args:
        seed: decides the split, 0 or more.

    Returns:
        426 training and 143 test examples of 30 features; 2 classes.

    Raises:
        LabError: QRES-E802 without scikit-learn.

    Reference:
        W. H. Wolberg, W. N. Street, O. L. Mangasarian, Breast Cancer Wisconsin (Diagnostic), UCI
        Machine Learning Repository, 1995.
    """
    bunch = _scikit_learn("the cell nuclei").load_breast_cancer()
    x = _standardised(np.asarray(bunch.data, dtype=np.float64))
    return _stratified(x, np.asarray(bunch.target, dtype=np.int64), seed)


def synthetic(seed: int) -> DataSplit:
    """Eight classes, each a Gaussian cloud at a corner of a hypercube, with features that say none.

    Made by scikit-learn's ``make_classification``: 20 of 40 features say something, 10 are sums of
    these, and the classes overlap. Split and scaled as :func:`breast_cancer`.

    Args:
        seed: decides the examples and the split, 0..2**32 - 1.

    Returns:
        3000 training and 1000 test examples of 40 features, to within one a class; 8 classes.

    Raises:
        LabError: QRES-E802 without scikit-learn.
    """
    made, labels = _scikit_learn("the synthetic examples").make_classification(
        n_samples=4000,
        n_features=40,
        n_informative=20,
        n_redundant=10,
        n_classes=8,
        n_clusters_per_class=1,
        class_sep=1.5,
        random_state=seed,
    )
    x = _standardised(np.asarray(made, dtype=np.float64))
    return _stratified(x, np.asarray(labels, dtype=np.int64), seed)


def _rows_of_digits() -> NDArray[np.float64]:
    """Pixels and class of each digit; raises as :func:`_scikit_learn`.

    Read from the file in scikit-learn: to import it takes longer than all else that a command does.
    """
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        if (path := Path(folder, "datasets", "data", "digits.csv.gz")).is_file():
            return np.loadtxt(path, delimiter=",")
    bunch = _scikit_learn("the digits").load_digits()
    return np.column_stack((bunch.data, bunch.target))


def _scikit_learn(what: str) -> Any:
    """The data sets of scikit-learn. Raises LabError: QRES-E802 without it."""
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise LabError.of(
            "QRES-E802",
            "task.name",
            f"{what} come with scikit-learn, which cannot be imported: {error}",
            "pip install scikit-learn",
        ) from error


def _standardised(x: Features) -> Features:
    scaled: Features = (x - x.mean(axis=0)) / (2.0 * x.std(axis=0))
    return scaled


def _stratified(x: Features, y: Labels, seed: int) -> DataSplit:
    """Permuted, ordered by class and every fourth held out."""
    rng = stream(seed, Purpose.SPLIT)
    order = rng.permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    held_out = np.arange(len(y)) % _TEST_EVERY == 0
    train = rng.permutation(by_class[~held_out])
    test = by_class[held_out]
    return DataSplit(x[train], y[train], x[test], y[test])


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
            f'at most {examples // minimum} nodes; or the task "quadratic", which has no data',
        )


def partition_iid(labels: Labels, parts: int, rng: np.random.Generator) -> Parts:
    """Divide the examples at random into parts of equal size, to within one.

    Args:
        labels: int64, shape ``(N,)``.
        parts: number of parts, 1..N.
        rng: source of the permutation.

    Returns:
        ``parts`` index arrays; every example is in exactly one, none is empty.

    Raises:
        LabError: QRES-E105 with fewer examples than parts.

    Complexity: O(N).
    """
    _check_counts(len(labels), parts, 1)
    return tuple(np.array_split(rng.permutation(len(labels)), parts))


def partition_similarity(
    labels: Labels, parts: int, gamma: float, rng: np.random.Generator
) -> Parts:
    """Deal a share of the examples at random, and the rest sorted by class.

    Each part gets ``gamma`` of its examples from a common random deal. The others are sorted by
    class and cut into ``parts`` pieces of equal size: with ``gamma = 0`` and as many parts as
    classes, each part holds about one class.

    Args:
        labels: int64, shape ``(N,)``.
        parts: number of parts, 1..N.
        gamma: share that is dealt at random, 0..1.
        rng: source of the deal.

    Returns:
        ``parts`` index arrays; every example is in exactly one.

    Raises:
        LabError: QRES-E105 with fewer examples than parts, or ``gamma`` out of range.

    Complexity: O(N log N).

    Reference:
        S. P. Karimireddy et al., SCAFFOLD, ICML 2020, section 7.1: ``s`` % similar data.
    """
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


def partition_dirichlet(
    labels: Labels, parts: int, alpha: float, rng: np.random.Generator, minimum: int = 1
) -> Parts:
    """Divide the examples into parts of equal size whose classes are mixed unevenly.

    Each part draws its mixture of classes ``q ~ Dirichlet(alpha * p)``, with ``p`` the classes'
    shares in ``labels``, and then its examples without replacement by ``q``. A class that is used
    up leaves the mixture; where ``q`` has no mass on any class that is left, the part draws from
    all the examples left. Small ``alpha``: each part holds few classes; large: the parts are alike.

    Args:
        labels: int64, shape ``(N,)``.
        parts: number of parts.
        alpha: concentration, above 0.
        rng: source of mixtures and examples.
        minimum: fewest examples a part may have; parts have ``N / parts`` to within one.

    Returns:
        ``parts`` index arrays; every example is in exactly one.

    Raises:
        LabError: QRES-E105 where ``N < parts * minimum`` or ``alpha`` is not a finite number above
            0.

    Complexity: O(N + parts * classes**2).

    Reference:
        T.-M. H. Hsu, H. Qi, M. Brown, Measuring the Effects of Non-Identical Data Distribution for
        Federated Visual Classification, 2019, section 3.
    """
    _check_counts(len(labels), parts, minimum)
    if not (math.isfinite(alpha) and alpha > 0):
        raise LabError.of("QRES-E105", "alpha", f"must be a finite number above 0, got {alpha}")
    classes, counts = np.unique(labels, return_counts=True)
    prior = counts / counts.sum()
    piles = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
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
    """How many of each class: ``quota`` draws by ``mixture``, redrawn where the stock is out.

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
