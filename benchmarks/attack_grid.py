"""Rules against attacks: what is left of accuracy, how many rounds are aborted, what backdoors win.

Run ``python benchmarks/attack_grid.py [--quick] [--json] [--keep FILE] [--only-print]
[--data NAME ...] [--gammas 0.33,0] [--honest 10] [--liars 4] [--rules NAME ...]
[--attacks NAME ...] [--seeds 11,12,13] [--rounds N] [--engine events|vectorised]
[--table FILE]``.

Every cell is a whole swarm in the simulator's engine of events: ten honest nodes and f liars, real
agreement, every node proposes in turn and votes. The learning is that of the ByzFL benchmark (arXiv
2505.24802): client momentum 0.9, batches of 25, step 0.1, weight decay 1e-4, softmax regression.
The honest nodes' data are gamma-similar: a share gamma is dealt at random, the rest sorted by
class, so that gamma = 0 gives a node one or two classes. The quorum is the number of honest nodes.

Under every attack but ``none`` the liars also act in bad faith: they vote for nothing that an
honest node proposes, and propose what serves them. They know all updates, all held-out examples and
the plugins of all nodes. ``bad_faith`` is that alone, beside honest updates.

What a rule knows: ``pool``: each node holds out up to 100 examples of a fifth of the training data,
which nobody trains on; ``own``: up to 30 % of its own share; ``nothing``. The row ``held-out
examples alone`` is what one node learns from its pooled examples without a swarm. No rule was tuned
on ``breast_cancer`` and ``synthetic``, and none on seeds 12 and 13: the tolerance of 0.02 was
chosen with seed 11.

``--engine vectorised`` is the grid without agreement, and a tenth of the work: the first node alone
proposes and votes, and it is honest. ``bad_faith`` cannot be played there.

A cell is one line of JSON in ``--keep``; cells that are there are not played again, so that a run
that was stopped goes on. They are played in the order that says most: the recommended rule first.

The figures of a cell: test accuracy after the last of ``--rounds`` rounds, aborted ones included,
and recall of the worst class; the share of rounds that were aborted; and the share of stamped test
examples that the model takes for the attackers' class, which is not 0 without a backdoor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("QRES_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import attrs
import numpy as np
from harness import Record, machine
from qres_lab.attacks.data import Backdoor

from qres_core import RoundInfo, Vector, fixed, vector_digest
from qres_core.attacks.scenario import Scenario
from qres_core.errors import CompatibilityError
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.lab.record import RoundRecord
from qres_core.lab.simulator import simulate
from qres_core.training.data import DataSplit, standardised, stratified
from qres_core.training.momentum_trainer import MomentumTrainer
from qres_core.training.numpy_trainer import NumpyTrainer, ValidatingTrainer
from qres_core.training.tasks import Task, TaskConfig, labelled, make_task

HONEST: Final = 10
ROUNDS: Final = 100
HELD: Final[Mapping[str, tuple[int, int]]] = {
    "digits": (100, 40),
    "breast_cancer": (60, 12),
    "synthetic": (100, 90),
    "topics": (100, 40),
    "cover": (100, 40),
}
"""Examples that a node holds out: of the pool, of its own share."""
ATTACKS: Final = (
    *("none", "backdoor_aside", "searched", "aside", "mirror", "drift", "bad_faith", "cancel"),
    *("foe", "optimised_ipm", "optimised_alie", "backdoor_hidden", "mimic", "label_flip"),
    *("ascent", "one_class", "steady"),
)
BACKDOORS: Final = ("backdoor_aside", "backdoor_hidden")
ALONE: Final = "held-out examples alone"
RECOMMENDED: Final = "validation + nnm + trimmed_mean, own"
FITTED: Final = "validated_mean, pool, tolerance 0.02"
USUAL: Final = "validated_mean, pool"
BY_LOSS: Final = "validated_mean, pool, by loss alone"
OWN: Final = "validated_mean, own"
GUARDED: Final = "validation + nnm + trimmed_mean, pool, tolerance 0.02"
ARC: Final = "validation + arc + nnm + trimmed_mean, pool"
ARC_OWN: Final = "validation + arc + nnm + trimmed_mean, own"
KNOWS: Final[Mapping[str, str]] = {
    RECOMMENDED: "own",
    ALONE: "pool",
    FITTED: "pool",
    USUAL: "pool",
    BY_LOSS: "pool",
    GUARDED: "pool",
    "geometric_median": "nothing",
    "arc + nnm + trimmed_mean": "nothing",
    OWN: "own",
    ARC: "pool",
    ARC_OWN: "own",
    "mean": "nothing",
    "krum": "nothing",
    "multi_krum": "nothing",
    "median": "nothing",
    "trimmed_mean": "nothing",
    "meamed": "nothing",
    "centred_clipping": "nothing",
    "mda": "nothing",
    "nnm + trimmed_mean": "nothing",
    "nnm + geometric_median": "nothing",
    "caf": "nothing",
}
"""Every row of the grid, and what it knows."""
LEFT: Final = 0.90
"""Of the accuracy without an attack, what the rules with a target should keep."""
FEW: Final = 5
"""The recommended rule has targets where at most one node in so many lies."""
MARGIN: Final = 0.02
"""Differences of accuracy that another seed may turn round."""


def tables(rule: str, f: int, honest: int = HONEST) -> Mapping[str, Mapping[str, Any]]:
    """Plugin tables of a row, outermost first."""
    mixed = {"nnm": {"f": f}, "trimmed_mean": {"f": f}}
    made: dict[str, dict[str, dict[str, Any]]] = {
        FITTED: {"validated_mean": {"f": f, "tolerance": 0.02}},
        USUAL: {"validated_mean": {"f": f, "tolerance": 0.1}},
        BY_LOSS: {"validated_mean": {"f": f, "tolerance": 0.1, "farthest": 0.0}},
        OWN: {"validated_mean": {"f": f}},
        GUARDED: {"validation": {"tolerance": 0.02}, **mixed},
        RECOMMENDED: {"validation": {}, **mixed},
        ARC: {"validation": {}, "arc": {"f": f}, **mixed},
        ARC_OWN: {"validation": {}, "arc": {"f": f}, **mixed},
        "geometric_median": {"geometric_median": {"f": f}},
        "arc + nnm + trimmed_mean": {"arc": {"f": f}, **mixed},
        "mean": {"mean": {"unprotected": True}},
        "krum": {"krum": {"f": f}},
        "multi_krum": {"krum": {"f": f, "select": honest}},
        "centred_clipping": {"centred_clipping": {"f": f, "radius": 0.1, "iterations": 3}},
        "nnm + trimmed_mean": mixed,
        "nnm + geometric_median": {"nnm": {"f": f}, "geometric_median": {"f": f}},
    }
    return made.get(rule, {rule: {"f": f}})


FIGURES: Final = (
    ("accuracy", ".2f"),
    ("worst_class", ".2f"),
    ("aborted", ".0%"),
    ("backdoor", ".0%"),
)

Place = tuple[str, float, int, int, str]
"""Data, gamma, honest nodes, f and engine."""


@attrs.frozen
class Cell:
    """What is played."""

    data: str
    gamma: float
    f: int
    rule: str
    attack: str
    seed: int
    rounds: int
    engine: str = "events"
    honest: int = HONEST

    @property
    def place(self) -> Place:
        """Where it belongs."""
        return self.data, self.gamma, self.honest, self.f, self.engine


@attrs.frozen
class Found:
    """What came of it."""

    accuracy: float  # after the last round
    aborted: float  # share of the rounds that were aborted
    backdoor: float  # share of stamped test examples taken for the attackers' class
    played: int  # rounds; fewer than asked for where twenty in a row were aborted
    refused: str = ""  # why the combination cannot start
    worst_class: float = math.nan  # recall of the class that the model finds least of


def topics(seed: int) -> DataSplit:
    """Bags of forty words on one of six topics, the rarest one in sixteen; made, not collected.

    Words are drawn with Zipf's frequencies, which each topic changes by factors of its own. A
    feature is the square root of how often a word comes, less its mean.
    """
    rng = np.random.default_rng((seed, 1))
    words = np.exp(rng.normal(0.0, 0.6, (6, 200))) / np.arange(1, 201)
    words /= words.sum(axis=1, keepdims=True)
    y = rng.choice(6, 3000, p=(0.3, 0.22, 0.18, 0.14, 0.1, 0.06))
    x = np.stack([np.sqrt(rng.multinomial(40, words[kind])) for kind in y])
    return stratified(x - x.mean(axis=0), y.astype(np.int64), seed)


def cover(seed: int) -> DataSplit:
    """Seven kinds of land, two of them common, by ten measures and twenty marks; made as well."""
    rng = np.random.default_rng((seed, 2))
    y = rng.choice(7, 4000, p=(0.36, 0.4, 0.07, 0.03, 0.04, 0.05, 0.05))
    measures, marks = rng.normal(size=(7, 10)), rng.beta(0.6, 1.5, size=(7, 20))
    noisy = measures[y] + rng.normal(0.0, 1.2, (4000, 10))
    x = np.hstack([noisy, rng.random((4000, 20)) < marks[y]])
    return stratified(standardised(x.astype(np.float64)), y.astype(np.int64), seed)


MADE: Final = {"topics": topics, "cover": cover}


def not_now(_vector: Vector) -> dict[str, float]:
    """A model is scored once, after the last round."""
    return {"accuracy": 0.0}


def task_of(cell: Cell) -> Task:
    """Honest trainers with data of their own; liars' trainers have copies of the first ones'."""
    pooled = KNOWS[cell.rule] != "own"
    config = TaskConfig(
        name=cell.data,
        partition="similarity",
        gamma=cell.gamma,
        held_out=HELD[cell.data][0 if pooled else 1],
        held_out_from="pool" if pooled else "own",
    )
    if cell.data in MADE:
        made = labelled(MADE[cell.data], config, cell.honest, cell.seed, 0)
    else:
        made = make_task(config, nodes=cell.honest, seed=cell.seed)
    trainers: list[MomentumTrainer] = []
    for node in range(cell.honest + cell.f):
        trainer = made.trainers[node % cell.honest]
        if not isinstance(trainer, ValidatingTrainer):
            raise TypeError(trainer)
        shared = {field.name: getattr(trainer, field.name) for field in attrs.fields(NumpyTrainer)}
        kept = {name: shared[name] for name in ("model", "x", "y", "test_x", "test_y", "seed")}
        trainers.append(
            MomentumTrainer(
                **kept,
                held_x=trainer.held_x,
                held_y=trainer.held_y,
                weight_decay=1e-4,
                node=node,
                pooled=trainer.pooled,
            )
        )
    initial = np.zeros(trainers[0].model.dimension, dtype=np.int32)
    return Task(cell.data, initial, tuple(trainers), evaluate=not_now)


class _EnoughError(Exception):
    """All rounds are played."""


def play(cell: Cell) -> Found:
    """Play one cell."""
    task = task_of(cell)
    if cell.rule == ALONE:
        return scored(task, alone(task, cell.rounds), [])
    swarm = {
        "name": "grid",
        "nodes": cell.honest + cell.f,
        "byzantine": 0 if cell.rule == "mean" else cell.f,
        "quorum": cell.honest,
        "insecure": True,
    }
    plugins: dict[str, Any] = {"memory": {}, **tables(cell.rule, cell.f, cell.honest)}
    config = parse({"swarm": swarm, "plugins": plugins}, source="attack_grid")
    lies = cell.attack not in {"none", "bad_faith"}
    scenario = Scenario(
        rounds=cell.rounds,
        seed=cell.seed,
        engine=cell.engine,
        attack="" if cell.attack == "none" else cell.attack,
        attackers=0 if cell.attack == "none" else cell.f,
        sabotage="bad_faith" if lies and cell.engine == "events" else "",
    )
    records: list[RoundRecord] = []
    last = [task.initial]

    def noted(record: RoundRecord) -> None:
        records.append(record)
        if len(records) >= cell.rounds:  # the simulator counts models, and we count rounds
            raise _EnoughError

    try:
        simulate(
            config,
            scenario,
            task=task,
            installed=INSTALLED,
            progress=noted,
            on_model=lambda model: last.__setitem__(0, model.vector),
        )
    except _EnoughError:
        pass
    except CompatibilityError as error:
        return Found(0.0, 0.0, 0.0, 0, str(error.problems[0]))
    return scored(task, last[0], records)


def alone(task: Task, rounds: int) -> Vector:
    """The model that the first node makes of its held-out examples and nothing else."""
    trainer, model = task.trainers[0], task.initial
    if not isinstance(trainer, MomentumTrainer):
        raise TypeError(trainer)
    for number in range(1, rounds + 1):
        info = info_of(model, number)
        model = fixed.add_saturating(model, trainer.reference(model, info)).vector
    return model


def info_of(model: Vector, number: int) -> RoundInfo:
    """A round of nobody."""
    return RoundInfo("grid", number, vector_digest(model), int(model.size), 0, (), 1)


def scored(task: Task, model: Vector, records: Sequence[RoundRecord]) -> Found:
    """The figures of a model and of the rounds that led to it."""
    trainer, info = task.trainers[0], info_of(model, 1)
    accuracy = float(trainer.evaluate(model)["accuracy"])
    backdoor = Backdoor().figures(trainer, model, info)["backdoor"]
    aborted = sum(not record.closed for record in records) / max(1, len(records))
    if not isinstance(trainer, MomentumTrainer):
        raise TypeError(trainer)
    called = trainer.model.predict(fixed.decode(model, scale=0), trainer.test_x)
    right = called == trainer.test_y
    worst = min(float(right[trainer.test_y == kind].mean()) for kind in np.unique(trainer.test_y))
    return Found(accuracy, aborted, float(backdoor), len(records), worst_class=worst)


INSTALLED: Final = scan()
Cells = dict[Cell, Found]


def kept(path: Path | None) -> Cells:
    """The cells of a file; the last line may be cut off where a run was stopped."""
    found: Cells = {}
    if path is None or not path.exists():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            said = json.loads(line)
            found[Cell(**said["cell"])] = Found(**said["found"])
        except (ValueError, TypeError, KeyError):
            print(f"left out, no cell: {line[:60]}", file=sys.stderr, flush=True)
    return found


def play_all(cells: Iterable[Cell], path: Path | None) -> Cells:
    """Play those that are not kept yet, and keep each as it ends."""
    there, asked = kept(path), list(cells)
    if path is not None and path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    for number, cell in enumerate(asked, 1):
        if cell in there:
            continue
        there[cell] = found = play(cell)
        if path is not None:
            line = json.dumps({"cell": attrs.asdict(cell), "found": attrs.asdict(found)})
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        print(f"{number}/{len(asked)} {cell} {found}", file=sys.stderr, flush=True)
    return {cell: there[cell] for cell in asked}


def plan(options: argparse.Namespace) -> Iterator[Cell]:
    """All cells that are asked for, those that say most first."""
    rules = [rule for rule in KNOWS if rule in options.rules]
    for seed in options.seeds:
        for group in (rules[:2], rules[2:]):
            for gamma in options.gammas:
                for data in options.data:
                    for rule in group:
                        for attack in ("none",) if rule == ALONE else options.attacks:
                            yield Cell(
                                *(data, gamma, options.liars, rule, attack, seed),
                                *(options.rounds, options.engine, options.honest),
                            )


# ── what is printed ───────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Row:
    """A rule in one place: means over the seeds that played all of its attacks."""

    plain: float  # accuracy without an attack
    worst: float  # accuracy under the worst attack
    by: str  # which that is
    aborted: float  # greatest share of aborted rounds under an attack
    base: float  # what a backdoor wins without an attack
    backdoor: float | None  # what it wins at most under one; ``None`` where none was played
    seeds: int
    attacks: int
    rarest: float  # recall of the worst class without an attack
    lost: float  # and the least under one


def row_of(cells: Cells, place: Place, rule: str) -> Row | None:
    """The row of a rule; ``None`` where it was not played."""
    by_attack: dict[str, list[Found]] = {}
    for cell, found in cells.items():
        if cell.place == place and cell.rule == rule and not found.refused:
            by_attack.setdefault(cell.attack, []).append(found)
    if "none" not in by_attack:
        return None

    def mean(attack: str, figure: str) -> float:
        return float(np.mean([getattr(found, figure) for found in by_attack[attack]]))

    lies = [attack for attack in by_attack if attack != "none"] or ["none"]
    by = min(lies, key=lambda attack: mean(attack, "accuracy"))
    recalls = [mean(attack, "worst_class") for attack in lies]
    return Row(
        mean("none", "accuracy"),
        mean(by, "accuracy"),
        by,
        max(mean(attack, "aborted") for attack in lies),
        mean("none", "backdoor"),
        max((mean(attack, "backdoor") for attack in lies if attack in BACKDOORS), default=None),
        min(len(found) for found in by_attack.values()),
        len(lies) if "none" not in lies else 0,
        mean("none", "worst_class"),
        min((recall for recall in recalls if not math.isnan(recall)), default=math.nan),
    )


def rows_of(cells: Cells) -> Iterator[tuple[Place, str, Row]]:
    """All rows that were played."""
    for place in dict.fromkeys(cell.place for cell in cells):
        for rule in KNOWS:
            row = row_of(cells, place, rule)
            if row is not None:
                yield place, rule, row


def table(cells: Cells) -> str:
    """The grid in Markdown."""
    lines = [
        (
            "| data | gamma | honest, f | engine | rule | knows | no attack | worst attack "
            "| aborted | backdoor (without) | worst class (without) | attacks, seeds |"
        ),
        "|---|---:|---:|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (data, gamma, honest, f, engine), rule, row in rows_of(cells):
        worst = f"{row.worst:.2f} `{row.by}`" if row.attacks else "-"
        won = "-" if row.backdoor is None else f"{row.backdoor:.0%}"
        stopped = f"{row.aborted:.0%}" if row.attacks else "-"
        lost = "-" if math.isnan(row.lost) or not row.attacks else f"{row.lost:.2f}"
        rarest = "-" if math.isnan(row.rarest) else f"{row.rarest:.2f}"
        lines.append(
            f"| {data} | {gamma:g} | {honest}, {f} | {engine} | {rule} | {KNOWS[rule]} "
            f"| {row.plain:.2f} | {worst} | {stopped} | {won} ({row.base:.0%}) | {lost} ({rarest}) "
            f"| {row.attacks}, {row.seeds} |"
        )
    return "\n".join(lines) + "\n"


def details(cells: Cells, rule: str) -> str:
    """One rule attack by attack in Markdown: the :data:`FIGURES`."""
    places = [place for place, name, _row in rows_of(cells) if name == rule]
    head = " | ".join(
        f"{data}, gamma = {gamma:g}, {engine}" for data, gamma, _honest, _f, engine in places
    )
    lines = [f"| attack | {head} |", "|---|" + "---:|" * len(places)]
    for attack in ATTACKS:
        shown: list[str] = []
        for place in places:
            found = [
                result
                for cell, result in cells.items()
                if (cell.place, cell.rule, cell.attack) == (place, rule, attack)
            ]
            figures = [
                f"{np.mean([getattr(item, name) for item in found]):{form}}"
                for name, form in FIGURES
                if found
            ]
            shown.append("; ".join(figures) or "-")
        lines.append(f"| `{attack}` | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def records(cells: Cells, *, short: bool = False) -> list[Record]:
    """A figure for every row; targets for two rules, fewer if rounds are ``short``."""
    found: list[Record] = []
    rows = {(place, rule): row for place, rule, row in rows_of(cells)}
    for (place, rule), row in rows.items():
        data, gamma, honest, f, engine = place
        title = f"{data}, gamma = {gamma:g}, f = {f} of {honest + f}, {engine}: {rule}"
        if not row.attacks:
            found.append(Record(title, row.plain, ""))
            continue
        found.append(Record(f"{title}, worst attack", row.worst, ""))
        found.append(Record(f"{title}, aborted", row.aborted, ""))
        if row.backdoor is not None:
            found.append(Record(f"{title}, backdoor", row.backdoor, ""))
        mean = rows.get((place, "mean"))
        if rule != FITTED and (rule != RECOMMENDED or FEW * f > honest + f):
            continue
        if mean is not None:
            title_of = f"{title}, less a plain mean"
            found.append(Record(title_of, row.worst - mean.worst, "", 0.1, at_least=True))
        if short:
            continue
        share = row.worst / max(row.plain, 1e-9)
        found.append(Record(f"{title}, of no attack", share, "", LEFT, at_least=True))
        solitary = rows.get((place, ALONE))
        if solitary is not None:
            more = row.worst - solitary.plain
            found.append(Record(f"{title}, less {ALONE}", more, "", -MARGIN, at_least=True))
    return found


def gammas_of(text: str) -> tuple[float, ...]:
    """Numbers on the command line."""
    return tuple(float(word) for word in text.split(","))


def seeds_of(text: str) -> tuple[int, ...]:
    """Whole numbers on the command line."""
    return tuple(int(word) for word in text.split(","))


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small cells, nothing kept")
    parser.add_argument("--json", action="store_true", help="print a list of records")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="cells played, one a line")
    parser.add_argument(
        "--only-print", action="store_true", help="play nothing, print what is kept"
    )
    parser.add_argument("--data", nargs="*", default=list(HELD), choices=HELD)
    parser.add_argument("--gammas", type=gammas_of, default=(0.33, 0.0))
    parser.add_argument("--honest", type=int, default=HONEST)
    parser.add_argument("--liars", type=int, default=4)
    parser.add_argument("--rules", nargs="*", default=list(KNOWS), choices=KNOWS)
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--seeds", type=seeds_of, default=(11, 12, 13))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--engine", choices=("events", "vectorised"), default="events")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the grid in Markdown")
    options = parser.parse_args(arguments)
    if options.quick:
        options.data, options.gammas, options.seeds = ["digits"], (0.33,), (11,)
        options.rules, options.attacks = [FITTED, ALONE, "mean"], ["none", "mirror", "foe"]
        options.rounds, options.keep = 10, None
    return options


def main() -> None:
    """Play and print; exit 1 if a target does not hold."""
    options = options_of()
    if options.only_print:
        there = kept(options.keep)
        cells = {cell: there[cell] for cell in plan(options) if cell in there}
    else:
        cells = play_all(plan(options), options.keep)
    found = records(cells, short=options.quick)
    text = table(cells)
    for rule in (RECOMMENDED, FITTED, USUAL):
        if any(cell.rule == rule for cell in cells):
            text += f"\n{rule}: accuracy; worst class; aborted; backdoor\n\n" + details(cells, rule)
    if options.table:
        options.table.write_text(text, encoding="utf-8")
    if options.json:
        print(json.dumps([{**attrs.asdict(item), "holds": item.holds} for item in found], indent=2))
    else:
        print(machine("qres-core", "qres-robust-stats", "qres-validation", "numpy"))
        print(text)
        for item in found:
            if item.target is not None:
                mark = "holds" if item.holds else "DOES NOT HOLD"
                print(f"{item.name:80} {item.value:7.3f}  target >= {item.target:g}  {mark}")
    sys.exit(not all(item.holds for item in found))


if __name__ == "__main__":
    main()
