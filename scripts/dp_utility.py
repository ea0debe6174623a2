"""What privacy costs: test accuracy on the handwritten digits at several epsilons.

    python scripts/dp_utility.py [--quick] [--json] [--plot FILE.svg]

All nodes together have 1347 examples and train a softmax (650 parameters) in full participation:
1347 nodes of one example, 134 of ten, or 10 of 135. The unit of privacy is a node or a record.
Clipping, noise, accounting and the checks of the grid are those of the plugin; only the sending is
left out, and all nodes are computed at once.

Modes: distributed (a unit is added or removed; noise in shares, of which nine in ten are counted
on) and local (each node adds all the noise). Noise comes from keys of the operating system, so
accuracies differ a little from run to run.

Each setting has the rounds, the clip and the step size that did best for it at epsilon 4 on three
other splits of the same examples, of some dozens tried; step sizes grow with epsilon. The tested
model is the mean of those of the last three tenths of the rounds. So figures compare units, modes
and budgets and do not claim more. "no privacy" is the same setting without clipping and noise.
The last lines have ten nodes with six shares counted on, and 1,000 rounds without privacy.
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
from qres_dp.modes import Mechanism, Mode, Unit, relation_of, steps
from qres_dp.randomness import fresh_key

from qres_core import fixed
from qres_core.contract.by_record import clipped_sum
from qres_core.reporting import Axis, Chart, Line, svg_file
from qres_core.training.data import DataSplit, digits

DELTA: Final = 1e-5
EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
AVERAGED: Final = 0.3
"""Share of the rounds, the last ones, whose models are averaged."""
BRIGHTNESS: Final = 0.3
"""Taken off every pixel: a constant, not a figure of the data."""


@attrs.frozen
class Setting:
    """Who trains, and what is protected from whom."""

    unit: Unit  # whose presence is hidden
    mode: Mode  # who adds the noise
    nodes: int  # how many nodes the examples are dealt to
    pace: float  # the step size is this times epsilon …
    fastest: float  # … and no more than this
    rounds: int = 60  # of the whole training
    clip: float = 0.4  # greatest L2 norm of a unit's gradient
    # what the mean over the seeds has to reach, by epsilon
    targets: tuple[tuple[float, float], ...] = ()
    counted_on: float = 0.9  # shares of noise over nodes, in mode distributed

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.unit.value}, {self.mode.value}, {self.nodes} nodes"

    def rate(self, epsilon: float) -> float:
        """The step size; without privacy, that of the largest budget."""
        return min(self.pace * min(epsilon, EPSILONS[-1]), self.fastest)


SETTINGS: Final = (
    Setting(
        Unit.NODE,
        Mode.DISTRIBUTED,
        1347,
        10.0,
        40.0,
        targets=((1.0, 0.88), (2.0, 0.91), (4.0, 0.93)),
    ),
    Setting(Unit.NODE, Mode.DISTRIBUTED, 134, 5.0, 40.0, clip=0.1),
    Setting(Unit.NODE, Mode.DISTRIBUTED, 10, 0.25, 2.0, rounds=15, clip=0.2),
    Setting(Unit.RECORD, Mode.DISTRIBUTED, 134, 10.0, 40.0, targets=((4.0, 0.92),)),
    Setting(Unit.RECORD, Mode.DISTRIBUTED, 10, 10.0, 40.0, targets=((4.0, 0.90),)),
    Setting(Unit.NODE, Mode.LOCAL, 1347, 1.0, 1.0),
    Setting(Unit.RECORD, Mode.LOCAL, 10, 2.5, 20.0),
)


BESIDE: Final = (
    (attrs.evolve(SETTINGS[4], counted_on=0.6, targets=()), EPSILONS),
    (attrs.evolve(SETTINGS[4], rounds=1000, pace=1.0, fastest=4.0, targets=()), (math.inf,)),
)
"""Records of ten nodes once more: with the shares of ``examples/dp-records.toml``, and without
privacy until it converges."""


@attrs.frozen
class Row:
    """One cell of the table."""

    setting: str  # name of the setting
    epsilon: float  # of the whole training; infinite without privacy
    multiplier: float  # noise multiplier of a round; 0 without privacy
    mean: float  # test accuracy, mean over the seeds
    spread: float  # its standard deviation
    target: float | None  # what the mean has to reach, or ``None``

    @property
    def holds(self) -> bool:
        """Whether the target is reached."""
        return self.target is None or self.mean >= self.target


@functools.cache
def _split(seed: int) -> DataSplit:
    return digits(seed)


def _mechanism(setting: Setting, epsilon: float, examples: int, dimension: int) -> Mechanism:
    """Clipping and noise of a round, refused where the grid would not hold them."""
    relation = relation_of(setting.mode, "", unit=setting.unit)
    honest = int(setting.counted_on * setting.nodes) if setting.mode is Mode.DISTRIBUTED else 1
    multiplier = accounting.calibrate(epsilon, DELTA, setting.rounds)
    units = -(-examples // setting.nodes) if setting.unit is Unit.RECORD else 1
    bound = steps(setting.clip, 0)
    mechanism = Mechanism(setting.mode, relation, bound, multiplier, honest, units)
    grid.check(mechanism, setting.clip, dimension=dimension, nodes=setting.nodes)
    return mechanism


def _of_nodes(
    gradients: NDArray[np.float64], nodes: int, mechanism: Mechanism | None
) -> NDArray[np.int64]:
    """The sum of the nodes' updates, each the mean of its gradients."""
    parts = np.array_split(gradients, nodes)
    means = np.stack([part.mean(axis=0) for part in parts])
    rows = fixed.encode(means.ravel()).vector.reshape(means.shape).copy()
    if mechanism is not None:
        wide = rows.astype(np.int64)  # gradients of a softmax are below 2**18 grid steps
        longer = np.flatnonzero(np.einsum("ij,ij->i", wide, wide) > mechanism.bound**2)
        for row in longer:
            rows[row] = clip(rows[row], mechanism.bound).vector
    total: NDArray[np.int64] = rows.sum(axis=0, dtype=np.int64)
    return total


def _noise(mechanism: Mechanism, nodes: int, dimension: int) -> NDArray[np.int64]:
    """What the sum of the nodes' vectors holds of noise, int64, shape ``(dimension,)``."""
    gaussian = discrete_gaussian(mechanism.share)
    # Each node adds its own; here they are drawn from one key, one after the other.
    shares = gaussian.sample(nodes * dimension, fresh_key()).reshape(nodes, dimension)
    total: NDArray[np.int64] = shares.sum(axis=0, dtype=np.int64)
    return total


def _features(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([pixels - BRIGHTNESS, np.ones((len(pixels), 1))])


def train(setting: Setting, epsilon: float, data: DataSplit) -> float:
    """Train once and return the test accuracy. ``epsilon``: infinite for no privacy."""
    x, test = _features(data.train_x), _features(data.test_x)
    labels = np.eye(10)[data.train_y]
    examples, dimension = len(x), x.shape[1] * 10
    mechanism = None
    if epsilon != math.inf:
        mechanism = _mechanism(setting, epsilon, examples, dimension)
    units = examples if setting.unit is Unit.RECORD else setting.nodes
    rate = setting.rate(epsilon) / units / 2**fixed.FRACTION_BITS
    model: NDArray[np.float64] = np.zeros((x.shape[1], 10))
    average: NDArray[np.float64] = np.zeros_like(model)
    for number in range(setting.rounds):
        logits = x @ model
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        gradients = np.einsum("ni,nj->nij", x, labels - shares).reshape(examples, dimension)
        if setting.unit is Unit.RECORD:  # what nodes add up, and then all of them, is one sum
            total = clipped_sum(gradients, mechanism.bound if mechanism else fixed.LIMIT)
        else:
            total = _of_nodes(gradients, setting.nodes, mechanism)
        if mechanism is not None:
            total = total + _noise(mechanism, setting.nodes, dimension)
            if mechanism.mode is Mode.DISTRIBUTED:  # what a ring of 2**32 makes of the sum
                total = (total + 2**31) % 2**32 - 2**31
        model += rate * total.reshape(model.shape)
        if number >= (1.0 - AVERAGED) * setting.rounds:
            average += model
    guessed: NDArray[np.int64] = (test @ average).argmax(axis=1)
    return int(np.count_nonzero(guessed == data.test_y)) / len(data.test_y)


def cell(setting: Setting, epsilon: float, seeds: Sequence[int]) -> Row:
    """Train on several splits. ``epsilon``: infinite for no privacy."""
    scores = [train(setting, epsilon, _split(seed)) for seed in seeds]
    private = epsilon != math.inf
    multiplier = accounting.calibrate(epsilon, DELTA, setting.rounds) if private else 0.0
    return Row(
        setting.name,
        epsilon,
        multiplier,
        statistics.fmean(scores),
        statistics.pstdev(scores),
        dict(setting.targets).get(epsilon),
    )


def table(*, quick: bool) -> list[Row]:
    """Every cell; ``quick`` has epsilon 4 alone, fewer seeds, and not 1347 nodes in mode local."""
    rows: list[Row] = []
    for setting in SETTINGS:
        costly = setting.mode is Mode.LOCAL and setting.nodes > 1000  # 60 times 1347 whole noises
        if quick and costly:
            continue
        seeds = range(2 if quick else 3 if costly else 5)
        epsilons = (4.0,) if quick else EPSILONS
        rows += [cell(setting, epsilon, seeds) for epsilon in (*epsilons, math.inf)]
    return rows


def beside(*, quick: bool) -> list[Row]:
    """The cells of :data:`BESIDE`; none if ``quick``."""
    found: list[Row] = []
    for setting, epsilons in () if quick else BESIDE:
        told = f"{setting.counted_on:g} counted on, {setting.rounds} rounds"
        cells = [cell(setting, epsilon, range(5)) for epsilon in epsilons]
        found += [attrs.evolve(item, setting=told) for item in cells]
    return found


def plot(rows: Sequence[Row]) -> str:
    """Accuracy over epsilon as an SVG file."""
    lines: list[Line] = []
    for name in dict.fromkeys(row.setting for row in rows):
        cells = [row for row in rows if row.setting == name and row.epsilon != math.inf]
        points = [(row.epsilon, row.mean) for row in cells]
        lines.append(Line(points, name, spread=[row.spread for row in cells]))
    across = Axis(f"epsilon at delta {DELTA:g}", logarithmic=True)
    up = Axis("test accuracy", low=0.0, high=1.0, form=".0%")
    return svg_file([Chart(lines, "", across, up, width=640, height=400)])


def _print(rows: Sequence[Row]) -> None:
    print(f"{'setting':30} {'epsilon':>10} {'z':>7}   accuracy      target")
    for row in rows:
        target = "" if row.target is None else f">= {100 * row.target:.1f}"
        mark = "" if row.target is None else "  holds" if row.holds else "  DOES NOT HOLD"
        epsilon = "no privacy" if row.epsilon == math.inf else f"{row.epsilon:g}"
        accuracy = f"{100 * row.mean:5.1f} ± {100 * row.spread:3.1f}"
        print(f"{row.setting:30} {epsilon:>10} {row.multiplier:7.2f}   {accuracy}   {target}{mark}")


def main() -> None:
    """Print the table; exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="epsilon 4 alone, two seeds")
    parser.add_argument("--json", action="store_true", help="print a list of cells")
    parser.add_argument("--plot", type=Path, help="write the plot to this SVG file")
    options = parser.parse_args()
    started = time.perf_counter()
    rows = table(quick=options.quick)
    more = beside(quick=options.quick)
    if options.json:
        shown = [{**attrs.asdict(row), "holds": row.holds} for row in [*rows, *more]]
        print(json.dumps(shown, indent=2).replace("Infinity", "null"))
    else:
        _print([*rows, *more])
        print(f"{time.perf_counter() - started:.0f} s")
    if options.plot is not None:
        options.plot.write_text(plot(rows), encoding="utf-8")
    sys.exit(not all(row.holds for row in rows))


if __name__ == "__main__":
    main()
