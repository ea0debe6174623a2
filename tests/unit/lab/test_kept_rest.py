"""A node goes on from what it learned about fragments that are not due.

The oracle is a replica, as the method has it: a copy of the model that the node trains, of which
each fragment is set to the swarm's once it was due.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.attacks.data import LabelFlip
from qres_lab.testing import make_round_info

from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.poisoning import under_attack
from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.contract.by_record import by_record
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.training import fitted, with_round
from qres_core.errors import LabError, ModelError
from qres_core.kernel.config import Config, parse
from qres_core.lab.simulator import simulate
from qres_core.training import Fragment, Trainer
from qres_core.training.kept_rest import RestKeeper, keeping_rest
from qres_core.training.momentum import FadingTrainer
from qres_core.training.table import make_work, swarm_task

WHOLE, COUNT = 7, 3


@attrs.define
class Towards:
    """A step of a third of the way to an optimum, whatever the model: it depends on the start."""

    optimum: Vector = attrs.field(factory=lambda: np.arange(1, 8, dtype=np.int32) * 900)
    idle: bool = False

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        del round_info
        return None if self.idle else Update((self.optimum - vector) // 3, weight=7)

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"at": float(vector[0])}


class Judge(Towards):
    def validate(self, vector: Vector) -> float:
        return float(vector[0])


class Referring(Judge):
    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        del round_info
        return vector


def round_of(step: int, voids: int = 0, count: int = COUNT) -> RoundInfo:
    part = Fragment.of_step(step, count, WHOLE)
    info = make_round_info(WHOLE if part is None else part.dimension, number=step + 1)
    return attrs.evolve(info, step=step, height=step + voids, fragment=part)


@attrs.define(eq=False)
class Replica:
    """A swarm of the node and of others, and the node's copy of the model."""

    keeper: Trainer = attrs.field(factory=lambda: keeping_rest(Towards()))
    model: Vector = attrs.field(factory=lambda: np.zeros(WHOLE, dtype=np.int32))
    own: Vector = attrs.field(factory=lambda: np.zeros(WHOLE, dtype=np.int32))
    step: int = 0
    voids: int = 0

    def sent(self) -> tuple[list[int], list[int], Vector]:
        """What the node sends, what it should, and its copy after training."""
        info = round_of(self.step, self.voids)
        update = fitted(self.keeper, self.model, info)
        assert update is not None
        copy = self.own + (Towards().optimum - self.own) // 3
        expected = info.cut((copy - self.model).astype(np.int32))
        return update.vector.tolist(), expected.tolist(), copy

    def goes_on(self, copy: Vector) -> None:
        """The swarm merges something about the fragment that is due."""
        part = Fragment.of_step(self.step, COUNT, WHOLE)
        assert part is not None
        merged = np.random.default_rng(self.step).integers(-50, 50, part.dimension, dtype=np.int32)
        self.model = self.model + part.placed(merged)
        self.own = part.placed(part.cut(self.model), copy)
        self.step += 1


EVENTS = st.sampled_from(["merged", "aborted", "void", "away", "idle", "restarted"])


@given(st.lists(EVENTS, max_size=12))
def test_what_is_sent_is_what_the_replica_learned_since_the_fragment_was_due(
    events: list[str],
) -> None:
    towards = Towards()
    swarm = Replica(keeping_rest(towards))
    for event in events:
        sent, expected, copy = swarm.sent()
        assert sent == expected
        if event == "merged":
            swarm.goes_on(copy)
        elif event == "void":
            swarm.voids += 1
            swarm.own = swarm.model.copy()
        elif event == "away":  # two heights at once
            swarm.goes_on(copy)
            swarm.goes_on(swarm.own)
        elif event == "idle":  # the trainer has nothing new for the next model
            swarm.goes_on(copy)
            towards.idle = True
            assert fitted(swarm.keeper, swarm.model, round_of(swarm.step, swarm.voids)) is None
            towards.idle = False
            swarm.goes_on(swarm.own)
        elif event == "restarted":
            kept: Any = swarm.keeper
            towards = Towards()
            swarm.keeper = keeping_rest(towards)
            swarm.keeper.recall(kept.remember())  # type: ignore[attr-defined]
    sent, expected, _copy = swarm.sent()
    assert sent == expected


def test_without_the_rest_a_node_sends_less() -> None:
    """The control of the oracle: a node that begins each round with the agreed model alone."""
    swarm = Replica(Towards())
    swarm.goes_on(swarm.sent()[2])
    sent, expected, _copy = swarm.sent()
    assert sent != expected


def test_where_rounds_cover_everything_nothing_is_kept() -> None:
    keeper, plain, model = keeping_rest(Towards()), Towards(), np.zeros(WHOLE, dtype=np.int32)
    for step in range(3):
        info = round_of(step, count=1)
        mine, other = fitted(keeper, model, info), fitted(plain, model, info)
        assert mine is not None
        assert other is not None
        assert mine.vector.tolist() == other.vector.tolist()


def test_a_trainer_with_nothing_new_sends_nothing_and_keeps_the_rest() -> None:
    towards = Towards()
    swarm = Replica(keeping_rest(towards))
    swarm.goes_on(swarm.sent()[2])
    towards.idle = True
    assert fitted(swarm.keeper, swarm.model, round_of(swarm.step)) is None
    towards.idle = False
    sent, expected, _copy = swarm.sent()
    assert sent == expected


def test_a_wrong_update_is_told_as_the_trainers_own() -> None:
    class Short(Towards):
        def fit(self, vector: Vector, round_info: RoundInfo) -> Any:
            del vector, round_info
            return Update(np.int32([1]))

    with pytest.raises(Exception, match="returned 1 coordinates, and the model has 7"):
        fitted(keeping_rest(Short()), np.zeros(WHOLE, dtype=np.int32), round_of(0))


@pytest.mark.parametrize(
    ("trainer", "judges", "refers"),
    [(Towards(), False, False), (Judge(), True, False), (Referring(), True, True)],
)
def test_it_judges_and_refers_where_the_trainer_does(
    trainer: Trainer, *, judges: bool, refers: bool
) -> None:
    keeper: Any = keeping_rest(trainer)
    able = abilities_of(keeper)
    assert (able.validate is not None) == judges
    assert (able.reference is not None) == refers
    model = np.full(WHOLE, 3, dtype=np.int32)
    fitted(keeper, model, round_of(0))
    fitted(keeper, model, round_of(1))
    assert keeper.evaluate(model, round_of(1)) == {"at": 3.0}
    if able.validate is not None:
        judged = with_round(able.validate)(model, round_of(1))
        assert judged == 3.0  # the agreed model's, not the copy's
    if able.reference is not None:
        assert able.reference(model, round_of(1)).tolist() == [3] * WHOLE


@pytest.mark.parametrize("memory", [b"", b"\x80", b"\x82\x80\x40", b"\x82\x84\x40\x40\x40\x00\x40"])
def test_a_memory_of_another_form_is_refused(memory: bytes) -> None:
    keeper: Any = keeping_rest(Towards())
    with pytest.raises(ModelError, match="QRES-E605"):
        keeper.recall(memory)


def test_single_examples_are_not_clipped_over_several_rounds() -> None:
    with pytest.raises(LabError, match="keep_rest = false"):
        by_record(keeping_rest(Towards()), RecordClip(1.0, 9))
    keeper: Any = keeping_rest(Towards())
    with pytest.raises(LabError, match=r"QRES-E105 trainer\.keep_rest"):
        keeper.record_steps(np.zeros(WHOLE, dtype=np.int32), round_of(0))


def configured(fragments: int = 4, more: str = "") -> Config:
    text = f"""
        [swarm]
        name = "rest"
        nodes = 4
        byzantine = 0
        quorum = 4
        insecure = true
        fragments = {fragments}
        [plugins.memory]
        [plugins.mean]
        unprotected = true
        [trainer]
        {more}
        [trainer.task]
        name = "digits"
        local_epochs = 1
        """
    return parse(tomllib.loads(text), source="test", sections=SECTIONS)


def test_the_table_decides_where_there_are_fragments() -> None:
    assert isinstance(make_work(configured())[0], RestKeeper)
    assert not isinstance(make_work(configured(1))[0], RestKeeper)
    assert not isinstance(make_work(configured(more="keep_rest = false"))[0], RestKeeper)
    trainer: Any = swarm_task(configured(more="momentum = 0.5"), seed=1).trainers[0]
    assert isinstance(trainer, RestKeeper)
    assert isinstance(trainer.inner, FadingTrainer)


def test_a_poisoned_trainer_keeps_its_rest_too() -> None:
    task = swarm_task(configured(more="momentum = 0.5"), seed=1)
    spoilt: Any = under_attack(task, LabelFlip(), 1).trainers[-1]
    assert isinstance(spoilt, RestKeeper)
    assert isinstance(spoilt.inner, FadingTrainer)
    assert spoilt.inner.inner is not task.trainers[-1].inner.inner  # type: ignore[attr-defined]


def test_as_many_rounds_learn_more_with_the_rest() -> None:
    scene = Scenario(rounds=8, seed=1, engine="vectorised")
    left_out = simulate(configured(more="keep_rest = false"), scene).final("loss")
    kept = simulate(configured(), scene).final("loss")
    assert kept < 0.9 * left_out


def test_a_resumed_simulation_has_the_rest(tmp_path: Any) -> None:
    scene = Scenario(rounds=6, seed=1, engine="vectorised")
    whole = simulate(configured(), scene)
    simulate(configured(), attrs.evolve(scene, rounds=3), save=tmp_path / "kept")
    assert simulate(configured(), scene, resume=tmp_path / "kept").rounds == whole.rounds
