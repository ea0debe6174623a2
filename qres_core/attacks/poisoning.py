"""A task as it is under an attack on the data."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from qres_core.attacks.context import Attack, DataAttack, Measured
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import Wrapper
from qres_core.contract.training import evaluated
from qres_core.contract.types import Vector
from qres_core.training.table import users_own
from qres_core.training.tasks import Task


def _poisoned(attack: DataAttack, trainer: Trainer) -> Trainer:
    """A poisoned trainer, of which the same is made as of the honest one."""
    if isinstance(trainer, Wrapper):
        return attrs.evolve(trainer, inner=_poisoned(attack, trainer.inner))
    return attack.poison(trainer)


def under_attack(task: Task, attack: Attack | None, attackers: int) -> Task:
    """The task with the last ``attackers`` trainers poisoned and the attack's figures reported.

    Args:
        task: the honest task; left as it is.
        attack: what the attackers do; most attacks leave the data alone.
        attackers: how many of the nodes attack.

    Raises:
        LabError: QRES-E105 for a task without the data that the attack spoils.
    """
    trainers = task.trainers
    if isinstance(attack, DataAttack):
        honest = len(trainers) - attackers
        poisoned = tuple(_poisoned(attack, trainer) for trainer in trainers[honest:])
        task = attrs.evolve(task, trainers=trainers[:honest] + poisoned)
    measured: object = attack
    if isinstance(measured, Measured):
        evaluate, aim = task.evaluate, measured

        def figures(vector: Vector, round_info: RoundInfo) -> Mapping[str, float]:
            honest = evaluated(evaluate, vector, round_info)
            return {**honest, **aim.figures(users_own(trainers[0]), vector, round_info)}

        task = attrs.evolve(task, evaluate=figures)
    return task
