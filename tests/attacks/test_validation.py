"""An update that every geometric rule lets through, and that halves the accuracy.

The liars copy one vector: the honest mean plus a step up the loss that is as long as an honest
update is far from the mean. In many dimensions honest updates scatter in all directions, and a
step of that length in the one direction that harms is nearer to all than they are to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_krum import krum
from qres_robust_stats import mda
from qres_validation.gate import oversized

from qres_core import fixed
from qres_core.attacks import ATTACKS, AttackContext, Forgery, RegisteredAttack
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.numpy_trainer import NumpyTrainer
from qres_core.training.tasks import TaskConfig, make_task

TASK = TaskConfig(model="mlp", local_epochs=2, held_out=60)
NODES, LIARS, SEED = 12, 3, 1
QUIET = 8
"""The liars wait until there is something to spoil."""


@attrs.frozen
class Hidden:
    """A step up the loss, no longer than honest updates are wide."""

    trainer: NumpyTrainer
    seen: list[NDArray[np.int32]]

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        if context.round_info.number < QUIET:
            return (Forgery(context.own.vector.astype("<i4").tobytes()),)
        honest = context.honest.astype(np.float64)
        centre = honest.mean(axis=0)
        reach = 0.9 * float(np.sqrt(((honest - centre) ** 2).sum(axis=1)).mean()) / 2**16
        base = fixed.decode(context.model) + centre / 2**16
        w = base.copy()
        for _step in range(60):
            _loss, gradient = self.trainer.model.loss_and_gradient(
                w, self.trainer.x, self.trainer.y
            )
            w += 0.1 * gradient / np.linalg.norm(gradient)
            moved = w - base
            w = base + moved * min(1.0, reach / float(np.linalg.norm(moved)))
        lie = fixed.encode(w - fixed.decode(context.model)).vector
        self.seen.append(np.vstack([context.honest, *[lie] * LIARS]))
        return (Forgery(lie.astype("<i4").tobytes()),)


Played = tuple[SimulationResult, list[NDArray[np.int32]]]


def play(monkeypatch: pytest.MonkeyPatch, tables: Mapping[str, Mapping[str, Any]]) -> Played:
    task = make_task(TASK, nodes=NODES, seed=SEED)
    liar = task.trainers[-1]
    assert isinstance(liar, NumpyTrainer)
    seen: list[NDArray[np.int32]] = []
    hidden = RegisteredAttack("hidden", "", "everything", lambda: Hidden(liar, seen))
    monkeypatch.setitem(ATTACKS, "hidden", hidden)
    swarm = {"name": "v", "nodes": NODES, "byzantine": LIARS, "quorum": 9, "insecure": True}
    plugins = {"memory": {}, **tables, "krum": {"f": LIARS}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    scenario = Scenario(rounds=QUIET + 3, seed=SEED, attack="hidden", attackers=LIARS)
    return simulate(config, scenario, task=task), seen


def accuracies(result: SimulationResult) -> tuple[float, list[float]]:
    """The last before the attack, and those of all rounds that closed under it."""
    closed = [record for record in result.rounds if record.closed]
    before = [record.metrics["accuracy"] for record in closed if record.number < QUIET]
    return before[-1], [record.metrics["accuracy"] for record in closed if record.number >= QUIET]


@pytest.mark.control("C-validation-1")
@pytest.mark.long
def test_without_validation_the_accuracy_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    result, seen = play(monkeypatch, {})
    before, after = accuracies(result)
    assert before > 0.8
    assert min(after) < before / 2
    for rows in seen[::LIARS][:1]:
        # It passes: the nearest to all by Krum, in the tightest set, of ordinary length.
        assert np.array_equal(krum(rows, LIARS), rows[-1])
        tightest = mda(np.vstack([rows, rows[-1:]]), LIARS)
        assert not np.array_equal(tightest, mda(rows[:-LIARS], 0))
        assert oversized(rows, Fraction(2), LIARS) == []


@pytest.mark.claim("C-validation-1")
@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [{}, {"candidate_tolerance": 1e6}],
    ids=["proposers screen", "proposers let all pass"],
)
def test_with_validation_it_is_never_merged(
    monkeypatch: pytest.MonkeyPatch, options: Mapping[str, Any]
) -> None:
    result, seen = play(monkeypatch, {"validation": options})
    assert seen
    before, after = accuracies(result)
    assert before > 0.8
    assert min(after, default=before) > before - 0.05
    assert len(set(result.model_digests)) == 1
    struck = [record for record in result.rounds if record.number >= QUIET]
    assert all(record.attackers_accepted == 0 for record in struck if record.closed)
    if options:
        # Only the votes are left to stop it: the round ends with the model it began with.
        digests = [record.model_digest for record in result.rounds]
        undone = [record for record in struck if not record.closed]
        assert undone
        assert all(record.model_digest == digests[record.number - 2] for record in undone)
