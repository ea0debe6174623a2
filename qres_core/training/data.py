"""Data sets, and the random streams behind them and behind how they are dealt to nodes.

Every random choice of a task comes from :func:`stream`, so that one seed names one experiment and
two nodes, rounds or purposes never share random numbers.
"""

from __future__ import annotations

import enum
import importlib.util
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

_DIGITS_BRIGHTEST: Final = 16.0
_TEST_EVERY: Final = 4
# Public figures of the data set that scikit-learn has, with all digits: `data.mean(axis=0)` and
# `2.0 * data.std(axis=0)`. They are written down, and not computed, because a figure of all nodes'
# examples would carry each example into the steps of the others.
_NUCLEI_MEAN: Final = """
    14.127291739894563 19.28964850615117 91.96903339191566 654.8891036906857 0.096360281195079
    0.10434098418277686 0.08879931581722322 0.048919145869947236 0.181161862917399
    0.06279760984182778 0.4051720562390161 1.2168534270650269 2.8660592267135288 40.33707908611603
    0.007040978910369071 0.025478138840070306 0.031893716344463946 0.011796137082601056
    0.020542298769771532 0.0037949038664323383 16.269189806678394 25.677223198594014
    107.2612126537786 880.5831282952545 0.13236859402460469 0.25426504393673144
    0.27218848330404205 0.11460622319859404 0.29007557117750454 0.08394581722319855
"""
_NUCLEI_WIDTH: Final = """
    7.041901521422125 8.594509274180842 48.55523858610635 703.2095081264596 0.028103528133182402
    0.10553265825071032 0.15929945069206375 0.0775374649229495 0.05478036172853706
    0.01410831176307469 0.5541378830507309 1.102326853807152 4.040154198291048 90.90202683127987
    0.005999756734228955 0.0357848717365639 0.06031904624394091 0.012329721492943396
    0.016518208775176273 0.005287489500809473 9.657985152121546 12.281708637178006
    67.14600313365185 1137.7129179065344 0.04562471387108928 0.31439634218910734
    0.41688174922341215 0.13134910902238636 0.12362615708910964 0.03609077861718999
"""


class Purpose(enum.IntEnum):
    """Use of a random stream."""

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
    # whether they are scaled by figures of all of them: each then moves the others
    fitted: bool = False


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
    return stratified(x, rows[:, -1].astype(np.int64), seed)


def breast_cancer(seed: int) -> DataSplit:
    """Measures of cell nuclei, benign or malignant, as bundled with scikit-learn; split 75/25.

    Stratified as :func:`digits`. Each measure is scaled by constants, and has the mean 0 and the
    deviation 1/2 over all examples.

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
    x = _nuclei_scaled(np.asarray(bunch.data, dtype=np.float64))
    return stratified(x, np.asarray(bunch.target, dtype=np.int64), seed)


def synthetic(seed: int) -> DataSplit:
    """Eight classes, each a Gaussian cloud at a corner of a hypercube, with features that say none.

    Made by scikit-learn's ``make_classification``: 20 of 40 features say something, 10 are sums of
    these, and the classes overlap. Split as :func:`breast_cancer`, and scaled to the mean 0 and the
    deviation 1/2 by figures of all examples: the seed decides what they are.

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
    x = standardised(np.asarray(made, dtype=np.float64))
    split = stratified(x, np.asarray(labels, dtype=np.int64), seed)
    return attrs.evolve(split, fitted=True)


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


def _nuclei_scaled(x: Features) -> Features:
    """By constants: what becomes of an example depends on that example alone."""
    mean, width = (
        np.array([float(each) for each in text.split()]) for text in (_NUCLEI_MEAN, _NUCLEI_WIDTH)
    )
    scaled: Features = (x - mean) / width
    return scaled


def standardised(x: Features) -> Features:
    """The examples with the mean 0 and the deviation 1/2 in each feature; none may be constant."""
    scaled: Features = (x - x.mean(axis=0)) / (2.0 * x.std(axis=0))
    return scaled


def stratified(x: Features, y: Labels, seed: int) -> DataSplit:
    """The examples permuted, ordered by class, and every fourth held out."""
    rng = stream(seed, Purpose.SPLIT)
    order = rng.permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]
    held_out = np.arange(len(y)) % _TEST_EVERY == 0
    train = rng.permutation(by_class[~held_out])
    test = by_class[held_out]
    return DataSplit(x[train], y[train], x[test], y[test])
