"""What privacy costs: test accuracy on the handwritten digits at several epsilons.

    python scripts/dp_utility.py [--quick] [--json] [--plot FILE.svg]

A federation of 1347 nodes with one example each trains a softmax (650 parameters) in full
participation. Clipping, noise, accounting and the checks of the grid are those of the plugin; only
the sending is left out, and all nodes are computed at once. Preset: 60 rounds, clip 0.4, step size
10 epsilon but no more than 40 (1 in mode local, whose noise would overwhelm a larger one), and the
tested model is the mean of those of the last 18 rounds. It was chosen on such splits, so the
figures compare modes and budgets and do not claim more.

Modes: distributed (a node is added or removed; noise in shares, of which nine in ten are counted
on), local (a node's example is replaced by any other). Noise comes from keys of the operating
system, so accuracies differ a little from run to run.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_dp import accounting, grid
from qres_dp.clip import clip
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.modes import Mechanism, Mode, Relation, steps
from qres_dp.randomness import fresh_key

from qres_core import fixed
from qres_core.lab.data import DataSplit, digits
from qres_core.reporting import Axis, Chart, Line, svg_file

DELTA: Final = 1e-5
EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
ROUNDS: Final = 60
CLIP: Final = 0.4
RATE: Final = 10.0
GREATEST_RATE: Final = 40.0
LOCAL_RATE: Final = 1.0
AVERAGED: Final = 18
BRIGHTNESS: Final = 0.3
"""Taken off every pixel: a constant, not a figure of the data."""
COUNTED_ON: Final = 0.9
TARGETS: Final = {
    ("distributed", 1.0): 0.88,
    ("distributed", 2.0): 0.91,
    ("distributed", 4.0): 0.93,
}


@attrs.frozen
class Row:
    """One cell of the table.

    Attributes:
        mode: ``none`` for training without privacy.
        epsilon: of the whole training; infinite without privacy.
        multiplier: noise multiplier of a round.
        mean: test accuracy, mean over the seeds.
        spread: its standard deviation.
        target: what the mean has to reach, or ``None``.
    """

    mode: str
    epsilon: float
    multiplier: float
    mean: float
    spread: float
    target: float | None

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.target is None or self.mean >= self.target


@functools.cache
def _split(seed: int) -> DataSplit:
    return digits(seed)


def _mechanism(mode: Mode, epsilon: float, nodes: int, dimension: int) -> Mechanism:
    """Clipping and noise of a round, refused where the grid would not hold them."""
    relation = Relation.REPLACE_ONE if mode is Mode.LOCAL else Relation.ADD_REMOVE
    honest = int(COUNTED_ON * nodes) if mode is Mode.DISTRIBUTED else 1
    multiplier = accounting.calibrate(epsilon, DELTA, ROUNDS)
    mechanism = Mechanism(mode, relation, steps(CLIP, 0), multiplier, honest)
    grid.check(mechanism, CLIP, dimension=dimension, nodes=nodes)
    return mechanism


def _clip_rows(rows: NDArray[np.int32], bound: int) -> None:
    """Clip every row; rows inside the ball are found at once."""
    wide = rows.astype(np.int64)  # gradients of a softmax are below 2**18 grid steps
    for row in np.flatnonzero(np.einsum("ij,ij->i", wide, wide) > bound * bound):
        rows[row] = clip(rows[row], bound).vector


def _noise(mechanism: Mechanism, nodes: int, dimension: int) -> NDArray[np.int64]:
    """What the sum of the nodes' vectors holds of noise, int64, shape ``(dimension,)``."""
    gaussian = discrete_gaussian(mechanism.share)
    # Each node adds its own; here they are drawn from one key, one after the other.
    shares = gaussian.sample(nodes * dimension, fresh_key()).reshape(nodes, dimension)
    total: NDArray[np.int64] = shares.sum(axis=0, dtype=np.int64)
    return total


def _features(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([pixels - BRIGHTNESS, np.ones((len(pixels), 1))])


def train(mechanism: Mechanism | None, split: DataSplit, rate: float) -> float:
    """Train once and return the test accuracy.

    Args:
        mechanism: of a round; ``None`` trains without clipping or noise.
        split: examples; every training example is a node.
        rate: step size.
    """
    x, test = _features(split.train_x), _features(split.test_x)
    labels = np.eye(10)[split.train_y]
    nodes, dimension = len(x), x.shape[1] * 10
    model: NDArray[np.float64] = np.zeros((x.shape[1], 10))
    average: NDArray[np.float64] = np.zeros_like(model)
    for number in range(ROUNDS):
        logits = x @ model
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        updates = np.einsum("ni,nj->nij", x, labels - shares).reshape(nodes, dimension)
        rows = fixed.encode(updates.ravel()).vector.reshape(nodes, dimension).copy()
        if mechanism is not None:
            _clip_rows(rows, mechanism.bound)
        total = rows.sum(axis=0, dtype=np.int64)
        if mechanism is not None:
            total += _noise(mechanism, nodes, dimension)
            if mechanism.mode is Mode.DISTRIBUTED:  # what a ring of 2**32 makes of the sum
                total = (total + 2**31) % 2**32 - 2**31
        model += rate / nodes * (total / 2**fixed.FRACTION_BITS).reshape(model.shape)
        if number >= ROUNDS - AVERAGED:
            average += model
    guessed: NDArray[np.int64] = (test @ average).argmax(axis=1)
    return int(np.count_nonzero(guessed == split.test_y)) / len(split.test_y)


def _row(mode: Mode | None, epsilon: float, seeds: Sequence[int]) -> Row:
    first = _split(seeds[0])
    nodes, dimension = len(first.train_y), (first.train_x.shape[1] + 1) * 10
    mechanism = None if mode is None else _mechanism(mode, epsilon, nodes, dimension)
    rate = LOCAL_RATE if mode is Mode.LOCAL else min(RATE * epsilon, GREATEST_RATE)
    scores = [train(mechanism, _split(seed), rate) for seed in seeds]
    name = "none" if mode is None else mode.value
    return Row(
        name,
        epsilon,
        mechanism.noise_multiplier if mechanism is not None else 0.0,
        statistics.fmean(scores),
        statistics.pstdev(scores),
        TARGETS.get((name, epsilon)),
    )


def table(*, quick: bool) -> list[Row]:
    """Every cell; ``quick`` has fewer seeds and no mode local."""
    seeds = range(3 if quick else 10)
    rows = [_row(None, math.inf, seeds)]
    rows += [_row(Mode.DISTRIBUTED, epsilon, seeds) for epsilon in EPSILONS]
    if not quick:
        rows += [_row(Mode.LOCAL, epsilon, seeds[:4]) for epsilon in EPSILONS]
    return rows


def plot(rows: Sequence[Row]) -> str:
    """Accuracy over epsilon as an SVG file."""
    lines: list[Line] = []
    for mode in ("distributed", "local"):
        cells = [row for row in rows if row.mode == mode]
        if cells:
            points = [(row.epsilon, row.mean) for row in cells]
            lines.append(Line(points, mode, spread=[row.spread for row in cells]))
    free = next(row.mean for row in rows if row.mode == "none")
    ends = [(EPSILONS[0], free), (EPSILONS[-1], free)]
    lines.append(Line(ends, f"no privacy: {free:.1%}", dashed=True))
    across = Axis(f"epsilon at delta {DELTA:g}", logarithmic=True)
    up = Axis("test accuracy", low=0.0, high=1.0, form=".0%")
    return svg_file([Chart(lines, "", across, up, width=640, height=400)])


def main() -> None:
    """Print the table; exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three seeds, without mode local")
    parser.add_argument("--json", action="store_true", help="print a list of cells")
    parser.add_argument("--plot", type=Path, help="write the plot to this SVG file")
    options = parser.parse_args()
    started = time.perf_counter()
    rows = table(quick=options.quick)
    if options.json:
        print(json.dumps([{**attrs.asdict(row), "holds": row.holds} for row in rows], indent=2))
    else:
        print(f"{'mode':12} {'epsilon':>7} {'z':>7}   accuracy      target")
        for row in rows:
            target = "" if row.target is None else f">= {100 * row.target:.1f}"
            mark = "" if row.target is None else "  holds" if row.holds else "  DOES NOT HOLD"
            accuracy = f"{100 * row.mean:5.1f} ± {100 * row.spread:3.1f}"
            cell = f"{row.mode:12} {row.epsilon:7g} {row.multiplier:7.2f}"
            print(f"{cell}   {accuracy}   {target}{mark}")
        print(f"{time.perf_counter() - started:.0f} s")
    if options.plot is not None:
        options.plot.write_text(plot(rows), encoding="utf-8")
    sys.exit(not all(row.holds for row in rows))


if __name__ == "__main__":
    main()
