"""What noise by encoding does to learning: test accuracy on the handwritten digits.

    python -P scripts/dp_encoding.py [--seeds 3] [--epsilon 4] [--json]

134 nodes with ten digits each train a softmax (650 parameters) for 60 rounds. Each node is the
plugin itself, by its hooks, and each has its ledger. Masks are left out: what the nodes send is
added up as it is, which secure aggregation gives too. The noise counts on eight shares in ten; in
the small sums of one turn, with dropouts, on 65 in a hundred.

- ``every round``: independent noise, and all nodes take part in every round.
- ``independent, one in s``: a node takes part in one of s rounds, and is away in the others.
- ``encoded, one in s``: the same turns. A node sends rows in all rounds.

With dropouts, every node is away from a round with that probability. The step size and the clip
were chosen on such splits, the same for all rows, so the table compares and claims no more.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_dp import Dp
from qres_lab.testing import make_node_ids

from qres_core import (
    NodeInfo,
    Outcome,
    OwnContributions,
    RoundInfo,
    RoundStatus,
    Update,
    Updates,
    Vector,
    Visibility,
    fixed,
    model_digest,
)
from qres_core.builtin.mean import weighted_mean
from qres_core.training.data import DataSplit, digits

DELTA: Final = 1e-5
ROUNDS: Final = 60
DIGITS: Final = 10
BAND: Final = 16
CLIP: Final = 0.25
RATE: Final = 3.0
COUNTED_ON: Final = 0.8
FEWER: Final = 0.65
AVERAGED: Final = 18
BRIGHTNESS: Final = 0.3
"""Taken off every pixel: a constant, not a figure of the data."""


@attrs.frozen
class Setting:
    """One row of the table."""

    name: str
    encoded: bool  # or independent noise
    turns: int  # a node's data are in one of so many rounds
    dropout: float  # probability that a node is away from a round

    def options(self, nodes: int, epsilon: float) -> dict[str, Any]:
        """Of the plugin."""
        length = RATE * CLIP * (self.turns if self.encoded else 1)
        common = {"mode": "distributed", "delta": DELTA, "epsilon": epsilon, "clip": length}
        if self.encoded:
            honest = int(COUNTED_ON * nodes)
            noise = {"noise": "correlated", "band": BAND, "separation": self.turns}
            return {**common, **noise, "rounds": ROUNDS, "honest": honest}
        # Sums are smaller, so that chance leaves a larger part of them out.
        part = COUNTED_ON if self.turns == 1 or not self.dropout else FEWER
        honest = int(part * (nodes // self.turns))
        return {**common, "rounds": -(-ROUNDS // self.turns), "honest": honest}


@functools.cache
def _split(seed: int) -> DataSplit:
    return digits(seed)


def _features(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.hstack([pixels - BRIGHTNESS, np.ones((len(pixels), 1))])


class Federation:
    """The nodes, their data and their one model."""

    def __init__(self, setting: Setting, seed: int, epsilon: float) -> None:
        split = _split(seed)
        examples, count = _features(split.train_x), len(split.train_x) // DIGITS
        shape = (count, DIGITS, -1)
        self.setting, self.count = setting, count
        self.x = examples[: count * DIGITS].reshape(shape)
        self.y = np.eye(10)[split.train_y[: count * DIGITS]].reshape(shape)
        self.test_x, self.test_y = _features(split.test_x), split.test_y
        self.chance = np.random.default_rng(seed)
        self.dimension = self.x.shape[2] * 10
        self.roster = make_node_ids(count)
        self.nodes = [Dp(**setting.options(count, epsilon)) for _ in range(count)]
        self.honest = self.nodes[0].honest
        for node_id, node in zip(self.roster, self.nodes, strict=True):
            node.setup(NodeInfo(node_id, "digits", self.roster))
        self.model: Vector = np.zeros(self.dimension, dtype=np.int32)

    def updates(self) -> list[Vector]:
        """A step of every node along its own gradient, on the grid."""
        weights = fixed.decode(self.model).reshape(self.x.shape[2], 10)
        logits = self.x @ weights
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        steps = np.einsum("npi,npj->nij", self.x, self.y - shares) / DIGITS
        steps *= RATE * (self.setting.turns if self.setting.encoded else 1)
        return [fixed.encode(step.ravel()).vector for step in steps]

    def play(self, step: int) -> None:
        """A round; one with too few nodes for the noise makes no model."""
        info = RoundInfo(
            "digits",
            step + 1,
            model_digest(self.model, step),
            self.dimension,
            0,
            self.roster,
            self.honest + 1,
            step=step,
        )
        turns, here = self.setting.turns, self.chance.random(self.count) >= self.setting.dropout
        if not self.setting.encoded:
            here &= np.arange(self.count) % turns == step % turns
        rows: list[Vector] = []
        for node, update, present in zip(self.nodes, self.updates(), here, strict=True):
            node.round_opened(info, OwnContributions())
            if present:
                rows.append(node.privatize(Update(update), info).vector)
        members = tuple(node for node, present in zip(self.roster, here, strict=True) if present)
        sums = np.sum(rows, axis=0, dtype=np.int64)
        mean = np.rint(sums / len(rows)).astype(np.int32)[None]
        weights = np.array([len(rows)], dtype=np.int64)
        found = Updates(mean, members[:1], weights, Visibility.SUM, members=(members,))

        def rule(updates: Updates) -> Vector:
            return weighted_mean(updates.vectors, updates.weights)

        judge = self.nodes[0]
        merged = judge.wrap_aggregate(rule, judge.reveal(found, (), info), info)
        before, self.model = self.model, fixed.add_saturating(self.model, merged).vector
        digest = model_digest(self.model, step + 1)
        change = fixed.difference(self.model, before)
        for node in self.nodes:
            node.round_closed(Outcome(info, RoundStatus.CLOSED, digest, members, change=change))

    def train(self) -> tuple[float, float]:
        """Test accuracy of the mean of the last models, and the most that a node has spent."""
        average = np.zeros(self.dimension)
        for step in range(ROUNDS):
            self.play(step)
            if step >= ROUNDS - AVERAGED:
                average += fixed.decode(self.model)
        guessed: NDArray[np.int64] = (self.test_x @ average.reshape(-1, 10)).argmax(axis=1)
        spent = max(float(str(node.status()["epsilon"])) for node in self.nodes)
        for node in self.nodes:
            node.teardown()
        return int(np.count_nonzero(guessed == self.test_y)) / len(self.test_y), spent


SETTINGS: Final = (
    Setting("every round", encoded=False, turns=1, dropout=0.0),
    *(
        Setting(f"{name}, one in {turns}", encoded=encoded, turns=turns, dropout=dropout)
        for turns in (4, 8)
        for dropout in (0.0, 0.1)
        for name, encoded in (("independent", False), ("encoded", True))
    ),
)


def row(setting: Setting, epsilon: float, seeds: Sequence[int]) -> dict[str, Any]:
    """A row of the table."""
    results = [Federation(setting, seed, epsilon).train() for seed in seeds]
    scores = [score for score, _spent in results]
    return {
        **attrs.asdict(setting),
        "mean": statistics.fmean(scores),
        "spread": statistics.pstdev(scores),
        "spent": max(spent for _score, spent in results),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many splits")
    parser.add_argument("--epsilon", type=float, default=4.0, help="of the whole training")
    parser.add_argument("--json", action="store_true", help="print one object a line")
    options = parser.parse_args()
    started = time.perf_counter()
    for setting in SETTINGS:
        found = row(setting, options.epsilon, range(options.seeds))
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        accuracy = f"{100 * found['mean']:5.1f} ± {100 * found['spread']:3.1f}"
        away = f"{setting.dropout:4.0%} away"
        print(f"{setting.name:24} {away}   {accuracy}   spent {found['spent']:.4f}", flush=True)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
