"""Attackers in real processes: a trainer that lies.

The simulator's attackers may know everything. One in a process of its own knows its data and
nothing else, so only attacks that need no more are played here, and only lies that have the form of
an update: what is no vector of the right length cannot leave through a trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.attacks import Attack, AttackContext, DataAttack, catalogue, make_attack
from qres_core.attacks.installed import on_protocol
from qres_core.attacks.registry import NOTHING, OWN_DATA
from qres_core.contract import fixed
from qres_core.contract.errors import LabError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import TrainerAbilities, Wrapper
from qres_core.contract.types import Update, Vector
from qres_core.kernel.config import structure
from qres_core.training.table import TrainerConfig, share
from qres_core.training.tasks import trained

ENTRY: Final = "qres_lab.attacks.hostile:make"
"""The ``trainer.entry`` of a hostile node."""
_ALONE: Final = (NOTHING, OWN_DATA, "its own data, and how many take part")
_NO_UPDATE: Final = ("duplicate", "wrong_length")


def playable() -> tuple[str, ...]:
    """Names of the attacks that a process can play by itself."""
    return tuple(
        item.name
        for item in catalogue().values()
        if item.knowledge in _ALONE and item.name not in _NO_UPDATE
    )


def check_playable(name: str) -> None:
    """Refuse an attack that a process cannot play by itself.

    Raises LabError: QRES-E105 with the reason, QRES-E801 for an unknown name.
    """
    if name in playable():
        return
    if name in on_protocol():
        why = "it forges messages, which only the simulator's attackers do"
    elif name in _NO_UPDATE:
        why = "what it sends is not one update"
    elif name in catalogue():
        why = f"it must know {catalogue()[name].knowledge}"
    else:
        make_attack(name, None)  # names the error
        why = "unknown"
    fix = f"one of {', '.join(playable())}; or `qres simulate`"
    raise LabError.of(
        "QRES-E105", "--attack", f"{name!r} cannot be played by a process: {why}", fix
    )


@attrs.define(eq=False)
class HostileTrainer(Wrapper):
    """Trains, and hands on what an attack makes of it. It judges the others as it should.

    Where single examples are clipped, each asks for its share of the lie.
    """

    attack: Attack  # what it does
    attackers: int  # how many attack
    index: int  # which of them this is, from 0
    rng: np.random.Generator  # the attacker's randomness

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """Lie.

        Raises LabError: QRES-E105 where the attack stays away; the node then sits the round out.
        """
        own, _new = trained(self.inner, vector, round_info)
        nobody = np.empty((0, vector.size), dtype=np.int32)
        context = AttackContext(
            round_info, vector, own, nobody, self.attackers, self.index, self.rng
        )
        forgeries = self.attack.forge(context)
        if not forgeries:
            raise LabError.of("QRES-E105", "attack", "it stays away", "nothing: it is meant to")
        lie = np.frombuffer(forgeries[0].octets, dtype="<i4").astype(np.int32)
        return Update(lie, weight=max(1, forgeries[0].weight))

    def can(self, inner: TrainerAbilities) -> TrainerAbilities:
        """All that the honest trainer can; the steps of examples are its own."""
        return inner if inner.records is None else attrs.evolve(inner, records=self)

    def records(self) -> int:
        """As many as the honest trainer has."""
        count: int = self.inner.records()
        return count

    def record_steps(self, vector: Vector, round_info: RoundInfo) -> Iterator[NDArray[np.float64]]:
        """Rows that add up to the lie."""
        rows = self.records()
        lie = fixed.decode(self.fit(vector, round_info).vector, scale=round_info.scale)
        yield np.tile(lie / rows, (rows, 1))


def make(
    *,
    index: int,
    nodes: int,
    seed: int,
    scale: int,
    attack: str,
    attackers: int,
    trainer: Mapping[str, Any],
    strength: float | None = None,
) -> tuple[Trainer, Vector]:
    """A hostile node's trainer and the first model.

    Args:
        index: this node's index, from 0.
        nodes: number of nodes.
        seed: decides data, first model and the attacker's randomness.
        scale: power-of-two exponent of the grid.
        attack: a name of :func:`playable`.
        attackers: how many of the nodes attack: the last ones.
        trainer: an honest node's ``[trainer]`` table; its ``path`` absolute.
        strength: strength of the attack; ``None`` for its own.

    Raises:
        LabError: QRES-E105 or QRES-E801; QRES-E105 too for an attack that poisons data which the
            trainer does not show.
        ConfigError: what is wrong with the honest trainer.
    """
    check_playable(attack)
    table = structure(dict(trainer), TrainerConfig, "trainer")
    honest, initial = share(
        table, Path(table.path), index=index, nodes=nodes, seed=seed, scale=scale
    )
    hostile = turned(
        honest,
        attack=attack,
        nodes=nodes,
        attackers=attackers,
        index=index,
        seed=seed,
        strength=strength,
    )
    return hostile, initial


def turned(
    trainer: Trainer,
    *,
    attack: str,
    nodes: int,
    attackers: int,
    index: int,
    seed: int = 0,
    strength: float | None = None,
) -> Trainer:
    """An honest trainer turned hostile; arguments as :func:`make`.

    Raises LabError: QRES-E105 or QRES-E801; QRES-E105 too for an attack that poisons data which the
    trainer does not show.
    """
    check_playable(attack)
    played = make_attack(attack, strength)
    if isinstance(played, DataAttack):
        trainer = played.poison(trainer)
    entropy = np.random.SeedSequence((seed, 2, index))
    rng = np.random.Generator(np.random.PCG64(entropy))
    return HostileTrainer(trainer, played, attackers, index - (nodes - attackers), rng)
