"""Means of an attacker, and the things that it sends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import LabError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.types import Update, Vector

Probe = Callable[[NDArray[np.int32]], Vector | None]
"""Maps forged rows, int32 of shape ``(m, d)``, to what the swarm would make of the round."""

Examined = tuple[float, NDArray[np.float64]]
"""A mean loss on test examples, and its gradient by the round's coordinates, shape ``(d,)``."""

Plan = TypeVar("Plan")


def _no_reference() -> Vector | None:
    return None


def _no_loss(merged: Vector) -> float | None:
    del merged
    return None


def _no_examination(merged: Vector, label: int | None) -> Examined | None:
    del merged, label
    return None


def _no_references() -> Sequence[Vector]:
    return ()


def no_probe(rows: NDArray[np.int32]) -> Vector | None:
    """The probe of a context that was given none: refuses, so that no attack searches in vain.

    Raises LabError: QRES-E105.
    """
    del rows
    what = "the attack probes the aggregation and was given no probe"
    raise LabError.of("QRES-E105", "simulation.attack", what, "say `probes = True` in its class")


@contextmanager
def _in_the_state_of(
    common: np.random.Generator | None, rng: np.random.Generator
) -> Generator[None]:
    """Have a stream stand where another one does, and move that one on by what is drawn."""
    if common is None or common is rng:
        yield
        return
    own, rng.bit_generator.state = rng.bit_generator.state, common.bit_generator.state
    try:
        yield
    finally:
        common.bit_generator.state, rng.bit_generator.state = rng.bit_generator.state, own


@attrs.frozen(eq=False)
class AttackContext:
    """Means of an attacker. An attack states how many of them it uses."""

    round_info: RoundInfo  # the round
    # the round's model, int32, shape ``(d,)``; as all of this the coordinates that the round covers
    model: Vector
    # what training on the attacker's own data gives; on poisoned data for a :class:`DataAttack`
    own: Update
    # updates of the honest nodes, int32, shape ``(h, d)``; an omniscient attacker's
    honest: NDArray[np.int32]
    attackers: int  # number of attackers, who may collude
    index: int  # which of them this is, from 0
    rng: np.random.Generator  # the attacker's randomness
    # what the swarm's aggregation, wrappers included, would make of the honest updates and of
    # forged rows, int32 of shape ``(m, d)`` with ``m`` at most ``attackers``, row ``k`` sent by
    # attacker ``k``; ``None`` where it would refuse. Asking changes nothing in any node. Only for
    # attacks whose class says ``probes = True``.
    probe: Probe = no_probe
    # what colluders tell each other in a round; one for all of them, empty at first
    board: dict[str, Any] = attrs.field(factory=dict[str, Any])
    # what training on the held-out examples of the round's proposer, and nothing else, would
    # change, int32, shape ``(d,)``; ``None`` where it holds none out
    reference: Callable[[], Vector | None] = _no_reference
    # loss on the test examples once a merged update, int32, shape ``(d,)``, is added to the model;
    # ``None`` where the task measures none
    loss: Callable[[Vector], float | None] = _no_loss
    # loss and gradient on the test examples of one class, or of all where the class is ``None``,
    # once a merged update, int32, shape ``(d,)``, is added to the model; ``None`` where the task
    # has no such examples, or its trainers show no gradient
    examined: Callable[[Vector, int | None], Examined | None] = _no_examination
    # what training on the held-out examples of each honest node would change, each int32, shape
    # ``(d,)``; of those that hold some out
    references: Callable[[], Sequence[Vector]] = _no_references
    # the randomness of what all colluders agree on; ``None`` where it is that of this attacker
    common: np.random.Generator | None = None

    @property
    def crowd(self) -> NDArray[np.int32]:
        """The updates to hide among: the honest ones, or where nobody is honest the own one."""
        return self.honest if len(self.honest) else self.own.vector[np.newaxis]

    def agreed(self, work_out: Callable[[], Plan]) -> Plan:
        """The plan of the colluders: worked out by the first who asks, the same for all others.

        Whoever that is: meanwhile ``rng`` draws what ``common`` would, so that the plan does not
        depend on which attacker was the first.
        """
        if "plan" not in self.board:
            with _in_the_state_of(self.common, self.rng):
                self.board["plan"] = work_out()
        plan: Plan = self.board["plan"]
        return plan


@attrs.frozen
class Forgery:
    """A contribution as the attacker sends it; nothing about it need be valid."""

    octets: bytes  # where the vector should be: little-endian int32, or no whole number of them
    weight: int = 1  # claimed number of examples


@runtime_checkable
class Attack(Protocol):
    """Makes the contributions one attacker sends in a round: none, one or several."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """The attacker's contributions."""
        ...


@runtime_checkable
class DataAttack(Attack, Protocol):
    """An attack whose attackers train on poisoned data; ``context.own`` comes from these."""

    def poison(self, trainer: Trainer) -> Trainer:
        """The trainer of one attacker, on spoilt data.

        Raises LabError: QRES-E105 for a trainer that has no such data.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """An attack with an aim of its own, which the figures of a round say something about."""

    def figures(
        self, trainer: Trainer, vector: Vector, round_info: RoundInfo
    ) -> Mapping[str, float]:
        """Measure of how far a model serves the attacker.

        ``vector``: the model, int32, shape ``(d,)``. Returns figures by name, to be reported beside
        the task's own.
        """
        ...


def on_grid(values: NDArray[np.float64]) -> Vector:
    """Real numbers in grid steps as int32: rounded half to even, saturating at ``±LIMIT``."""
    return np.clip(np.rint(values), -LIMIT, LIMIT).astype(np.int32)


def send(context: AttackContext, values: NDArray[np.float64] | Vector) -> tuple[Forgery, ...]:
    """One contribution of the attacker's honest weight.

    ``values``: what to contribute, in grid steps, shape ``(d,)``; real numbers are put on the grid.
    """
    row = values if values.dtype == np.int32 else on_grid(values.astype(np.float64))
    return (Forgery(row.astype("<i4").tobytes(), context.own.weight),)
