"""A short simulation of a combination that the solver accepts: does it do what it promises?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import attrs
import numpy as np

from compatibility.modes import SCALE, SEED
from qres_core.attacks.scenario import Scenario
from qres_core.contract import fixed
from qres_core.contract.errors import QresError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Vector
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import scan
from qres_core.lab.record import SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.numpy_trainer import QuadraticTrainer
from qres_core.training.tasks import Task, TaskConfig, make_task

ROUNDS: Final = 2
DIMENSION: Final = 20
TURNING: Final = ("dp", "fedadam", "fedyogi")
"""Plugins after which the model need not move the way that the nodes trained: noise, or a rate for
each coordinate."""


@attrs.frozen(eq=False, kw_only=True)
class JudgingTrainer(QuadraticTrainer):
    """A quadratic node that judges models by its own optimum, or by one that all nodes know.

    Attributes:
        known: the optimum it judges by, int32, shape ``(d,)``.
    """

    pooled: ClassVar[bool] = True  # all know the same

    known: Vector

    def validate(self, vector: Vector) -> float:
        """Mean squared distance from what is known."""
        way = fixed.decode(vector, scale=self.scale) - fixed.decode(self.known, scale=self.scale)
        return float(way @ way) / way.size

    def reference(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """A step towards what is known."""
        return attrs.evolve(self, optimum=self.known).fit(vector, round_info).vector


def quadratic(nodes: int, scale: int, dimension: int = DIMENSION) -> Task:
    """A cheap task whose nodes can also judge models, all by the same optimum."""
    options = TaskConfig(name="quadratic", dimension=dimension, learning_rate=0.2)
    task = make_task(options, nodes=nodes, seed=SEED, scale=scale)
    optima: list[Any] = [getattr(trainer, "optimum") for trainer in task.trainers]  # noqa: B009
    known = np.median(np.stack(optima), axis=0).astype(np.int32)
    trainers = tuple(
        JudgingTrainer(optimum=item, known=known, learning_rate=0.2, scale=scale) for item in optima
    )
    return attrs.evolve(task, trainers=trainers)


def play(config: Config, *, rounds: int = ROUNDS, dimension: int = DIMENSION) -> SimulationResult:
    """Simulate a swarm of honest nodes.

    Raises:
        QresError: it does not start, or its nodes diverge.
    """
    scale = config.swarm.scale
    task = quadratic(config.swarm.nodes, scale, dimension)
    scenario = Scenario(rounds=rounds, seed=SEED, jitter=0.005)
    return simulate(config, scenario, task=task, installed=_installed())


def faults(config: Config, result: SimulationResult, rounds: int = ROUNDS) -> list[str]:
    """What a swarm of honest nodes failed to do; empty if it did all.

    Args:
        config: its configuration.
        result: what :func:`play` returned.
        rounds: models it was to make.
    """
    found: list[str] = []
    if len(result.closed) != rounds:
        reasons = sorted({record.reason for record in result.rounds if not record.closed})
        found.append(f"{len(result.closed)} of {rounds} rounds closed: {'; '.join(reasons)}")
    if not result.unanimous:
        found.append("honest nodes hold different models")
    for record in result.closed:
        if record.accepted < config.swarm.quorum:
            found.append(f"a round of {record.accepted} contributions")
        if record.rejected:
            found.append(f"honest messages were refused: {dict(record.rejected)}")
        if record.banned_honest:
            found.append(f"{record.banned_honest} honest nodes are banned")
        for name, shown in record.plugins.items():
            # Where members are drawn to train, the observer may not be one of them.
            if name != "dp" or not config.swarm.participants:
                found += _oddities(name, shown)
        if not set(TURNING) & set(config.plugins) and (record.alignment or 0.0) < 0.9:
            found.append(f"the merged update points elsewhere: {record.alignment}")
    return list(dict.fromkeys(found))


def _oddities(name: str, shown: Mapping[str, object]) -> list[str]:
    """What a plugin's own counts say: each hook that matters did its work."""
    worked: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
        "dp": lambda counts: counts["releases"] > 0,
        "secagg": lambda counts: counts["rounds_opened"] > 0 and not counts["saturated"],
        "zk": lambda counts: (
            counts["proofs_accepted"] > 0
            and not counts["proofs_refused"]
            and not counts["sums_failed"]
        ),
    }
    if "error" in shown or (name in worked and not worked[name](shown)):
        return [f"{name} shows {dict(shown)}"]
    return []


def tried(config: Config, *, rounds: int = ROUNDS) -> list[str]:
    """Simulate a swarm and say what it failed to do."""
    try:
        return faults(config, play(config, rounds=rounds), rounds)
    except QresError as error:
        return [str(error)]


_CACHE: dict[str, Mapping[str, Any]] = {}


def _installed() -> Mapping[str, Any]:
    if "found" not in _CACHE:
        _CACHE["found"] = scan()
    return _CACHE["found"]


__all__ = ["DIMENSION", "ROUNDS", "SCALE", "faults", "play", "quadratic", "tried"]
