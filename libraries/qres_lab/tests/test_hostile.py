from __future__ import annotations

import numpy as np
import pytest
from qres_lab.attacks.hostile import check_playable, make, playable

from qres_core import RoundInfo
from qres_core.attacks import catalogue, sabotages
from qres_core.contract.by_record import by_record
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.errors import LabError
from qres_core.training import RecordClip, RecordTrainer, Trainer
from qres_core.training.tasks import TaskConfig, make_task

TASK = {"name": "quadratic", "dimension": 5}


def info(dimension: int) -> RoundInfo:
    roster = tuple(bytes([index]) * 32 for index in range(4))
    return RoundInfo("s", 1, bytes(32), dimension, 0, roster, 3, 1, 0)


def hostile(attack: str) -> tuple[Trainer, np.ndarray]:
    table = {"local_epochs": 1} if attack in {"label_flip", "backdoor"} else TASK
    trainer, initial = make(
        attack=attack, nodes=4, attackers=1, index=3, trainer={"task": table}, seed=2, scale=0
    )
    return trainer, initial


@pytest.mark.parametrize("attack", [item for item in playable() if item != "silent"])
def test_every_attack_of_a_process_is_an_update(attack: str) -> None:
    trainer, initial = hostile(attack)
    update = trainer.fit(initial, info(initial.size))
    assert update.vector.shape == initial.shape
    assert trainer.evaluate(initial, info(initial.size))


def test_a_sign_flip_is_one() -> None:
    trainer, initial = hostile("sign_flip")
    honest = make_task(TaskConfig(**TASK), nodes=4, seed=2).trainers[3]
    own = honest.fit(initial, info(5)).vector.astype(np.int64)
    assert np.array_equal(trainer.fit(initial, info(5)).vector, -4 * own)


def test_a_silent_attacker_sits_out() -> None:
    trainer, initial = hostile("silent")
    with pytest.raises(LabError, match="stays away"):
        trainer.fit(initial, info(5))


def test_an_attacker_of_a_swarm_that_validates_judges() -> None:
    table = {"local_epochs": 1, "held_out": 10}
    trainer, initial = make(
        attack="scaled", nodes=4, attackers=1, index=3, trainer={"task": table}, seed=0, scale=0
    )
    able = abilities_of(trainer)
    assert able.validate is not None
    assert able.reference is not None
    assert abilities_of(by_record(trainer, RecordClip(0.1, 500))).validate is not None
    assert able.validate(initial) > 0
    assert able.reference(initial, info(initial.size)).shape == initial.shape


def test_an_attacker_where_examples_are_clipped_lies_as_far_as_it_may() -> None:
    trainer, initial = hostile("label_flip")
    assert isinstance(trainer, RecordTrainer)
    clip = RecordClip(0.01, trainer.records())
    update = by_record(trainer, clip).fit(initial, info(initial.size))
    assert update is not None
    wanted = trainer.fit(initial, info(initial.size)).vector.astype(np.float64)
    length = np.linalg.norm(update.vector.astype(np.float64))
    assert 0.95 * clip.most * clip.steps(0) < length <= clip.most * clip.steps(0)
    assert wanted @ update.vector > 0.99 * length * np.linalg.norm(wanted)


def test_what_a_process_cannot_play_is_refused_with_the_reason() -> None:
    others = {*catalogue(), *sabotages()} - set(playable())
    assert {"alie", "min_max", "optimised_ipm", "replay", "wrong_length", "duplicate"} <= others
    for name in others:
        with pytest.raises(LabError, match=r"QRES-E105.*cannot be played by a process"):
            check_playable(name)
    with pytest.raises(LabError, match="QRES-E801"):
        check_playable("sign_flp")
