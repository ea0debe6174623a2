"""Momentum at the node, for trainers of any kind."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.attacks.data import LabelFlip
from qres_lab.testing import make_round_info

from qres_core import RoundInfo, Update, Vector, fixed
from qres_core.attacks.poisoning import under_attack
from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.contract.by_record import by_record
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.errors import LabError
from qres_core.kernel.config import Config, parse
from qres_core.lab.simulator import simulate
from qres_core.training import Trainer
from qres_core.training.momentum import FadingMean, FadingTrainer, with_momentum
from qres_core.training.table import make_work, swarm_task


@attrs.define
class Said:
    """A trainer that sends what it is told to."""

    values: list[int]

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        del vector, round_info
        value = self.values.pop(0)
        return None if value < 0 else Update(np.int32([value]), weight=7, metrics={"loss": 1.0})

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"at": float(vector[0])}


class Judge(Said):
    def validate(self, vector: Vector) -> float:
        return float(vector[0])


class Referring(Judge):
    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        made = self.fit(vector, round_info)
        assert made is not None
        return made.vector


@attrs.define
class Around:
    """A user's own wrapper, which keeps nothing of its own."""

    inner: Any

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        made: Update | None = self.inner.fit(vector, round_info)
        return made

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        figures: Mapping[str, float] = self.inner.evaluate(vector)
        return figures


@attrs.define
class PublicJudge(Around):
    """A quadratic node that judges models by the distance from an optimum that all nodes know."""

    known: Vector

    def validate(self, vector: Vector) -> float:
        way = fixed.decode(vector) - fixed.decode(self.known)
        return float(way @ way)


MODEL = np.zeros(1, dtype=np.int32)
JUDGED = """
    [swarm]
    name = "swinging"
    nodes = 5
    byzantine = 1
    quorum = 4
    insecure = true
    [plugins.memory]
    [plugins.public_validation]
    [plugins.median]
    f = 1
    """


def at(step: int, number: int | None = None, *, voids: int = 0) -> RoundInfo:
    info = make_round_info(number=number or step + 1)
    return attrs.evolve(info, step=step, height=step + voids)


def sent(trainer: Trainer, info: RoundInfo) -> int:
    made = trainer.fit(MODEL, info)
    assert made is not None
    assert (made.weight, made.metrics) == (7, {"loss": 1.0})
    return int(made.vector[0])


def test_it_sends_the_mean_of_algorithm_2() -> None:
    trainer = with_momentum(Said([1000, 0, 0, 2000, fixed.LIMIT]), 0.9)
    m = [1000.0, 900.0, 810.0, 0.1 * 2000 + 0.9 * 810]
    assert [sent(trainer, at(step)) for step in range(4)] == [round(value) for value in m]
    assert sent(trainer, at(4)) == round((1.0 - 0.9) * fixed.LIMIT + 0.9 * m[3])


def test_a_model_that_is_trained_on_again_counts_once() -> None:
    again, once = (
        with_momentum(Said([10, 999, 20, 40]), 0.5),
        with_momentum(Said([10, 20, 40]), 0.5),
    )
    for trainer in (again, once):
        sent(trainer, at(0))
    sent(again, at(1))
    assert sent(again, at(1, number=3)) == sent(once, at(1)) == 15
    assert sent(again, at(2)) == sent(once, at(2)) == 28  # 27.5, to even


def test_after_a_height_without_a_model_it_begins_anew() -> None:
    """It may have been trained ahead; or a plugin refused the mean, and would again."""
    trainer = with_momentum(Said([10, 20, 999, 30, 30, 40, 50]), 0.5)
    for step in range(3):
        sent(trainer, at(step))  # step 2 is ahead of a height that made no model
    assert sent(trainer, at(1, number=4, voids=1)) == 30
    assert sent(trainer, at(1, number=5, voids=1)) == 30  # an aborted round
    assert sent(trainer, at(2, number=6, voids=1)) == 35
    assert sent(trainer, at(5, number=11, voids=3)) == 50  # while it was away


def test_a_trainer_that_is_used_for_another_swarm_begins_anew() -> None:
    trainer = with_momentum(Said([10, 20, 30, 40, 60]), 0.5)
    assert [sent(trainer, at(step)) for step in (0, 5, 2, 2, 3)] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_a_mean_that_a_plugin_refused_does_not_come_again(
    beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a mean that outlasts a height without a model leaves the swarm there."""

    def rounds() -> list[bool]:
        config = parse(tomllib.loads(JUDGED), source="test", sections=SECTIONS)
        task = swarm_task(configured(0.0), seed=1)
        optima: list[Any] = [item.optimum for item in task.trainers]  # type: ignore[attr-defined]
        known = np.median(np.stack(optima), axis=0).astype(np.int32)
        judges = [PublicJudge(item, known) for item in task.trainers]
        task = attrs.evolve(task, trainers=tuple(with_momentum(item, beta) for item in judges))
        scenario = Scenario(rounds=60, seed=1, engine="vectorised")
        return [record.closed for record in simulate(config, scenario, task=task).rounds]

    found = rounds()
    assert not all(found)
    assert found.count(True) > 40
    with monkeypatch.context() as patch:
        after = FadingMean.after

        def kept(mean: FadingMean, info: RoundInfo, vector: Any) -> Any:
            return after(mean, attrs.evolve(info, height=info.step), vector)

        patch.setattr(FadingMean, "after", kept)
        assert not any(rounds()[20:])


def test_the_mean_fades_while_a_node_is_away() -> None:
    """Or it would send nine parts in ten of what it found for a model of long ago."""
    trainer = with_momentum(Said([1000, 0, 0]), 0.9)
    assert [sent(trainer, at(step)) for step in (0, 1, 51)] == [1000, 900, round(900 * 0.9**50)]


def test_a_reference_fades_while_others_propose() -> None:
    """Only who proposes asks for its reference: the control is the node that always does."""
    now_and_then, always = (
        with_momentum(Referring(values), 0.9) for values in ([1000, 0], [1000] + [0] * 10)
    )
    for trainer, steps in ((now_and_then, (0, 10)), (always, range(11))):
        reference = abilities_of(trainer).reference
        assert reference is not None
        found = [reference(MODEL, at(step)).tolist() for step in steps]
        assert found[-1] == [round(1000 * 0.9**10)]


def test_nothing_new_to_train_on_stays_nothing() -> None:
    trainer = with_momentum(Said([10, -1, 10]), 0.5)
    sent(trainer, at(0))
    assert trainer.fit(MODEL, at(1)) is None
    assert sent(trainer, at(2)) == 10


def test_it_judges_if_the_trainer_does_and_its_references_fade_by_themselves() -> None:
    plain, judge = with_momentum(Said([]), 0.5), with_momentum(Judge([]), 0.5)
    both = with_momentum(Referring([10, 100, 20, 200]), 0.5)
    able = [abilities_of(item) for item in (plain, judge, both)]
    assert [item.validate is not None for item in able] == [False, True, True]
    assert [item.reference is not None for item in able] == [False, False, True]
    validate, reference = able[2].validate, able[2].reference
    assert validate is not None
    assert reference is not None
    assert (validate(MODEL), both.evaluate(MODEL, at(0))) == (0.0, {"at": 0.0})
    found = [(sent(both, at(n)), reference(MODEL, at(n)).tolist()) for n in range(2)]
    assert found == [(10, [100]), (15, [150])]


class Keeper(Said):
    """It keeps what it has yet to send."""

    def remember(self) -> bytes:
        return bytes(self.values)

    def recall(self, memory: bytes) -> None:
        self.values = list(memory)


@pytest.mark.parametrize("wraps", [False, True])
def test_what_the_trainer_keeps_is_kept_through_what_is_around_it(*, wraps: bool) -> None:
    def made(keeper: Any) -> FadingTrainer:
        faded = with_momentum(Around(keeper) if wraps else keeper, 0.5)
        assert isinstance(faded, FadingTrainer)
        return faded

    again = Keeper([])
    made(again).recall(made(Keeper([3, 5])).remember())
    assert again.values == [3, 5]


def test_none_is_the_trainer_itself() -> None:
    trainer = Said([])
    assert with_momentum(trainer, 0.0) is trainer


def test_single_examples_are_not_clipped_behind_it() -> None:
    trainer = with_momentum(Said([]), 0.5)
    with pytest.raises(LabError, match=r"QRES-E105 trainer\.momentum: is 0\.5, and where single"):
        by_record(trainer, RecordClip(1.0, 4))


def configured(momentum: float, **task: Any) -> Config:
    text = f"""
        [swarm]
        name = "fading"
        nodes = 5
        byzantine = 1
        quorum = 5
        insecure = true
        [plugins.memory]
        [plugins.mean]
        unprotected = true
        [trainer]
        momentum = {momentum}
        [trainer.task]
        name = "quadratic"
        dimension = 6
        """
    raw = tomllib.loads(text)
    raw["trainer"]["task"] |= task
    return parse(raw, source="test", sections=SECTIONS)


def test_the_table_gives_it_to_every_node() -> None:
    plain, faded = (swarm_task(configured(beta), seed=1) for beta in (0.0, 0.9))
    assert not any(isinstance(item, FadingTrainer) for item in plain.trainers)
    assert all(isinstance(item, FadingTrainer) for item in faded.trainers)
    assert isinstance(make_work(configured(0.9))[0], FadingTrainer)
    with pytest.raises(Exception, match=r"momentum"):
        configured(1.0)


def test_engines_agree_on_it() -> None:
    digests = {
        digest
        for engine in ("events", "vectorised")
        for digest in simulate(
            configured(0.9), Scenario(rounds=4, seed=1, engine=engine)
        ).model_digests
    }
    plain = simulate(configured(0.0), Scenario(rounds=4, seed=1, engine="vectorised"))
    assert len(digests) == 1
    assert digests.isdisjoint(plain.model_digests)


def test_data_are_poisoned_inside_of_it() -> None:
    config = configured(0.9, name="digits")
    attack = LabelFlip()
    task = under_attack(swarm_task(config, seed=1), attack, 1)
    last: Any = task.trainers[-1]
    assert isinstance(last, FadingTrainer)
    assert not np.array_equal(last.inner.y, swarm_task(config, seed=1).trainers[-1].inner.y)  # type: ignore[attr-defined]
