"""validated_mean where nodes hold out examples of their own share, and liars propose and vote.

Run ``python benchmarks/own_held_out.py [--seeds 101,102,103] [--attacks NAME ...]
[--tolerance SHARE] [--held-out own|pool] [--farthest LENGTHS] [--full-steps]``.

The setting is that of ``attack_grid.py`` (10 honest nodes, 4 liars, 200 rounds, digits), but every
node proposes in turn and votes, and judges by up to 100 examples of its own share. The liars know
all updates and all losses. They vote for nothing that an honest node proposes, so that a set needs
the vote of every honest node. The plugin is the real one, an instance for each honest node; the
agreement itself is only played: who proposes, and that 10 of 14 votes decide.

============  =====================================================================================
attack        what the liars send; what they propose
============  =====================================================================================
foe           minus ten times the honest mean; their own updates and six honest ones
drift         the honest mean; of 40 random steps the most harmful that six honest nodes accept
hunt          the honest mean; the same along the loss of the test examples and of some victims
mirror        what makes the mean the proposer's own reference; as hunt
silent        as mirror; nothing
============  =====================================================================================

``--held-out pool`` draws the examples from a fifth of all digits, which no node trains on.
With a pool, ``--farthest`` has the nodes vote by the distance from their references too.
``--full-steps`` is the control: proposers never halve a step.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("QRES_THREADS", "1")

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_validation import ValidatedMean
from qres_validation.capped_mean import longest

from qres_core import (
    ACCEPT,
    FULL_STANDING,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Updates,
    Vector,
    fixed,
)
from qres_core.contract import partition
from qres_core.errors import QresError
from qres_core.training import HeldOut
from qres_core.training.data import Purpose, digits, stream
from qres_core.training.models import Softmax
from qres_core.training.momentum_trainer import MomentumTrainer

HONEST, LIARS, ROUNDS, HELD = 10, 4, 200, 100
NODES, VOTES = HONEST + LIARS, (HONEST + 2 * LIARS) // 2 + 1
SILENT = 8  # decided sets without a member after which it does not propose
IDS = tuple(bytes([node]) * 32 for node in range(NODES))
ATTACKS = ("foe", "drift", "hunt", "mirror", "silent")
Floats = NDArray[np.float64]


def trainers(gamma: float, seed: int, *, pool: bool) -> list[MomentumTrainer]:
    """Honest nodes with examples held out: of a common pool, or of their own shares."""
    split = digits(seed)
    common = len(split.train_y) // 5 if pool else 0
    labels = split.train_y[common:]
    parts = partition.similarity(labels, HONEST, gamma, stream(seed, Purpose.PARTITION))
    made = []
    for node, part in enumerate(parts):
        rng = stream(seed, Purpose.HELD_OUT, node)
        if pool:
            held, kept = rng.permutation(common)[:HELD], common + part
        else:
            order = rng.permutation(part)
            count = min(HELD, len(order) // 3)
            held, kept = order[:count], order[count:]
        made.append(
            MomentumTrainer(
                model=Softmax(64, 10),
                x=split.train_x[kept],
                y=split.train_y[kept],
                test_x=split.test_x,
                test_y=split.test_y,
                held_x=split.train_x[held],
                held_y=split.train_y[held],
                weight_decay=1e-4,
                seed=seed,
                node=node,
            )
        )
    return made


def grid(values: Floats) -> Vector:
    """The nearest vector of the grid."""
    return np.clip(np.rint(values), -fixed.LIMIT, fixed.LIMIT).astype(np.int32)


@attrs.define(eq=False)
class Swarm:
    """A swarm being played."""

    attack: str
    gamma: float
    seed: int
    tolerance: float = 0.1
    full_steps: bool = False
    pool: bool = False
    farthest: float = 0.0
    nodes: list[MomentumTrainer] = attrs.field(init=False)
    rules: list[ValidatedMean] = attrs.field(init=False)
    rng: np.random.Generator = attrs.field(init=False)
    model: Vector = attrs.field(init=False)
    missed: list[int] = attrs.field(init=False)
    counts: Counter[str] = attrs.field(factory=Counter[str], init=False)

    def __attrs_post_init__(self) -> None:
        self.nodes = trainers(self.gamma, self.seed, pool=self.pool)
        self.rules = [
            ValidatedMean(f=LIARS, tolerance=self.tolerance, farthest=self.farthest)
            for _node in range(HONEST)
        ]
        for rule, node_id in zip(self.rules, IDS, strict=False):
            rule.setup(NodeInfo(node_id, "own", IDS, LIARS, references=True, pooled=self.pool))
        self.rng = np.random.default_rng((self.seed, 5))
        self.model = np.zeros(self.nodes[0].model.dimension, dtype=np.int32)
        self.missed = [0] * NODES

    def play(self) -> float:
        """Play all rounds; the mean test accuracy of the last twenty."""
        order = self.rng.permutation(NODES)
        scores = []
        for number in range(1, ROUNDS + 1):
            heard = [int(node) for node in order if self.missed[node] < SILENT]
            self._round(number, heard[number % len(heard)])
            scores.append(self.nodes[0].evaluate(self.model)["accuracy"])
        return float(np.mean(scores[-20:]))

    def _round(self, number: int, proposer: int) -> None:
        info = RoundInfo(
            "own", number, bytes(32), self.model.size, 0, IDS, HONEST, LIARS, height=number
        )
        judges = [HeldOut.of(node, self.model, info) for node in self.nodes]
        known = [judge for judge in judges if judge is not None]
        honest = np.stack([node.fit(self.model, info).vector for node in self.nodes])
        target = known[proposer if proposer < HONEST else 0].reference()
        for judge in known:
            judge.reference()
        rows = np.vstack([honest, self._lies(honest, target)])
        if proposer < HONEST:
            chosen, merged = self._proposed(proposer, rows, known[proposer], info)
            passed = merged is not None and self._passes(merged, known, liars=0)
            self.counts["honest"] += 1
            self.counts["honest aborted"] += not passed
        else:
            chosen, merged = self._lied(rows, known, info)
            passed = merged is not None and self._passes(merged, known, liars=LIARS)
            self.counts["lying passed"] += passed
        self.counts["aborted"] += not passed
        if passed and merged is not None:
            self.model = fixed.add_saturating(self.model, merged).vector
            for node in range(NODES):
                self.missed[node] = 0 if node in chosen else min(self.missed[node] + 1, SILENT)
        status = RoundStatus.CLOSED if passed else RoundStatus.ABORTED
        for rule in self.rules:
            if not self.full_steps:
                rule.round_closed(Outcome(info, status, info.model_digest))

    def _proposed(
        self, node: int, rows: NDArray[np.int32], judge: HeldOut, info: RoundInfo
    ) -> tuple[list[int], Vector | None]:
        """An honest node's set, and what it merges to; ``None`` if the node refuses that."""
        updates = Updates(rows, IDS, np.ones(NODES, dtype=np.int64))
        screening = self.rules[node].screen(updates, judge, info)
        shares = np.array([screening.of(sender) for sender in IDS], dtype=np.int64)
        chosen = np.flatnonzero(shares)
        merged = self._merge(rows[chosen], shares[chosen], chosen, info)
        try:
            if screening.check is not None:
                screening.check(merged)
        except QresError:
            self.counts["refused"] += 1
            return [], None
        return chosen.tolist(), merged

    def _merge(
        self,
        rows: NDArray[np.int32],
        shares: NDArray[np.int64],
        chosen: NDArray[np.intp],
        info: RoundInfo,
    ) -> Vector:
        """What a set merges to; its standings become weights as in a swarm."""
        full = bool((shares == FULL_STANDING).all())
        weights = np.ones_like(shares) if full else np.maximum(1, shares >> 2)
        senders = tuple(IDS[node] for node in chosen)
        return self.rules[0].aggregate(Updates(rows, senders, weights), info)

    def _passes(self, merged: Vector, judges: list[HeldOut], *, liars: int) -> bool:
        """Whether a set gets the votes."""
        votes = [
            rule.endorse(merged, judge) is ACCEPT
            for rule, judge in zip(self.rules, judges, strict=True)
        ]
        return sum(votes) + liars >= VOTES

    # ── the liars ─────────────────────────────────────────────────────────────────────────────

    def _lies(self, honest: NDArray[np.int32], target: Vector) -> NDArray[np.int32]:
        centre = honest.mean(axis=0)
        if self.attack == "foe":
            row = -10.0 * centre
        elif self.attack in {"mirror", "silent"}:
            row = (target - (1 - LIARS / HONEST) * centre) * HONEST / LIARS
        else:
            row = centre
        return np.tile(grid(row), (LIARS, 1))

    def _lied(
        self, rows: NDArray[np.int32], judges: list[HeldOut], info: RoundInfo
    ) -> tuple[list[int], Vector | None]:
        """A liar's set: six honest updates and four of its choice."""
        honest = self.rng.permutation(HONEST)[: HONEST - LIARS]
        chosen = np.sort(np.append(honest, np.arange(HONEST, NODES)))
        if self.attack == "silent":
            return [], None
        if self.attack == "foe":
            full = np.full(len(chosen), FULL_STANDING, dtype=np.int64)
            return chosen.tolist(), self._merge(rows[chosen], full, chosen, info)
        best: tuple[float, Vector | None] = (0.0, None)
        start = fixed.decode(self.model)
        for step in self._steps(rows[:HONEST], judges, start):
            merged = self._reached(rows[np.sort(honest)], step)
            if sum(self._accepts(judge, merged) for judge in judges) + LIARS >= VOTES:
                harm = self.nodes[0].evaluate(fixed.add_saturating(self.model, merged).vector)
                best = max(best, (harm["loss"], merged), key=lambda item: item[0])
        return chosen.tolist(), best[1]

    def _accepts(self, judge: HeldOut, merged: Vector) -> bool:
        """Whether a node would vote for it."""
        return judge.loss_with(merged) <= (1.0 + self.tolerance) * judge.loss()

    def _reached(self, honest: NDArray[np.int32], step: Floats) -> Vector:
        """What comes nearest to a step, with rows of the greatest length that counts."""
        share = LIARS / HONEST
        huge = np.full((LIARS, honest.shape[1]), 2**30, dtype=np.int32)
        _squares, most = longest(np.vstack([honest, huge]), LIARS, HONEST)
        row = (step - (1 - share) * honest.mean(axis=0)) / share
        row *= min(1.0, float(most) ** 0.5 / max(1.0, float(np.linalg.norm(row))))
        return grid((1 - share) * honest.mean(axis=0) + share * row)

    def _steps(
        self, honest: NDArray[np.int32], judges: list[HeldOut], start: Floats
    ) -> Iterator[Floats]:
        """Steps that liars try."""
        centre = honest.mean(axis=0)
        length, size = float(np.linalg.norm(centre)), float(np.abs(centre).mean())
        draw: Callable[[], Floats] = lambda: self.rng.standard_normal(centre.size)  # noqa: E731
        if self.attack == "drift":
            for attempt in range(40):
                ways = (-centre, np.sign(-centre) * size, draw() * size, -start * 6553.6)
                yield 2.0 ** self.rng.uniform(-4, 5) * ways[attempt % 4]
            return
        first = self.nodes[0]
        gradient = first.model.loss_and_gradient(start, first.test_x, first.test_y)[1]
        ways = (-centre, gradient, draw())
        wanted = np.stack([judge.reference().astype(np.float64) for judge in judges])
        harmful = list[Floats](ways)
        for _group in range(8):
            victims = self.rng.permutation(HONEST)[: self.rng.integers(1, LIARS + 1)]
            others = np.delete(wanted, victims, axis=0).T
            harm = -wanted[victims].sum(axis=0)
            harmful += [harm, harm - others @ np.linalg.lstsq(others, harm, rcond=None)[0]]
        for way in harmful:
            for power in range(-3, 8):
                yield way / max(1e-12, float(np.linalg.norm(way))) * length * 2.0**power


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", default="101,102,103")
    parser.add_argument("--attacks", nargs="*", default=list(ATTACKS), choices=ATTACKS)
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--held-out", choices=("own", "pool"), default="own")
    parser.add_argument("--farthest", type=float, default=0.0)
    parser.add_argument("--full-steps", action="store_true", help="the control")
    options = parser.parse_args()
    print("| gamma | attack | accuracy | aborted | of honest proposals | lying sets merged |")
    print("|---|---|---:|---:|---:|---:|")
    for gamma in (0.33, 0.0):
        for attack in options.attacks:
            played = [
                Swarm(
                    attack,
                    gamma,
                    int(seed),
                    options.tolerance,
                    options.full_steps,
                    options.held_out == "pool",
                    options.farthest,
                )
                for seed in options.seeds.split(",")
            ]
            score = float(np.mean([swarm.play() for swarm in played]))
            total = sum((swarm.counts for swarm in played), Counter[str]())
            rounds, lying = ROUNDS * len(played), ROUNDS * len(played) - total["honest"]
            print(
                f"| {gamma:g} | {attack} | {score:.2f} | {total['aborted'] / rounds:.0%} "
                f"| {total['honest aborted'] / total['honest']:.0%} "
                f"| {total['lying passed']} of {lying} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
