"""Trainings of the nodes of a simulation, each of them once for a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import WireError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.training import finer_grid, vanishing
from qres_core.contract.types import Update, Vector
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.messages import CONTRIBUTION, ContributionBody
from qres_core.training.tasks import Task, or_nothing, trained
from qres_core.training.workers import TrainingPool


class Trainings:
    """The updates of a simulation.

    Args:
        task: what is learnt, with a trainer for each node.
        honest: how many of the nodes, the first ones, do not attack.
        pool: where the nodes train; here if it is left out.

    Attributes:
        notice: of the first update of an honest node that the grid swallowed, and what mends it;
            empty before.
        vanished: by round, how many updates of honest nodes the grid swallowed.
        trains: whether a node trains in a round; where all do, everybody.
    """

    def __init__(self, task: Task, honest: int, pool: TrainingPool | None = None) -> None:
        self.task = task
        self._pool = pool
        self.notice = ""
        self.vanished: Counter[int] = Counter()
        self.trains: Callable[[int, RoundInfo], bool] = lambda _node, _info: True
        self._honest = honest
        self._rows: dict[tuple[int, bytes], NDArray[np.int32]] = {}  # of the last round asked for
        self._made: dict[tuple[int, bytes], dict[int, tuple[Update, bool]]] = {}

    def begin(self, node: int, info: RoundInfo, model: Vector) -> None:
        """A node begins to train; its update is asked for later."""
        if self._pool is not None:
            made = self._made.get((info.number, info.model_digest), {})
            if node not in made:
                self._pool.begin(node, info, model)

    def close(self) -> None:
        """End what trains elsewhere."""
        if self._pool is not None:
            self._pool.close()

    def of(self, node: int, info: RoundInfo, model: Vector) -> Update:
        """A node's update; zeros where it had nothing new to train on."""
        return self._trained(node, info, model)[0]

    def idle(self, node: int, info: RoundInfo, model: Vector) -> bool:
        """True if a node had nothing new to train on."""
        return not self._trained(node, info, model)[1]

    def honest(self, info: RoundInfo, model: Vector) -> NDArray[np.int32]:
        """The updates of the honest nodes that had something new, int32, shape ``(h, d)``."""
        key = info.number, info.model_digest
        if key not in self._rows:  # every attacker asks
            rows = self.all_honest(info, model)
            empty = np.empty((0, info.dimension), dtype=np.int32)
            self._rows = {key: np.stack(rows) if rows else empty}
        return self._rows[key]

    def all_honest(self, info: RoundInfo, model: Vector) -> list[Vector]:
        """As :meth:`honest`, without a copy: each int32, shape ``(d,)``."""
        nodes = [node for node in range(self._honest) if self.trains(node, info)]
        for node in nodes:
            self.begin(node, info, model)
        made = [self._trained(node, info, model) for node in nodes]
        return [update.vector for update, new in made if new]

    def made(self, info: RoundInfo) -> list[Vector]:
        """Like :meth:`all_honest`, of the nodes that trained already."""
        made = sorted(self._made.get((info.number, info.model_digest), {}).items())
        return [update.vector for node, (update, new) in made if new and node < self._honest]

    def sent(self, node: int, envelope: Envelope) -> None:
        """A node sends a message: what it trained may be held as the others hold it."""
        if envelope.kind != CONTRIBUTION:
            return
        for (number, _model), made in self._made.items():
            if number == envelope.round and node in made:
                update, new = made[node]
                try:
                    body = ContributionBody.from_bytes(envelope.payload, update.vector.size)
                except WireError:  # a liar's
                    return
                if np.array_equal(body.vector, update.vector):  # no plugin hides it
                    made[node] = attrs.evolve(update, vector=body.vector), new

    def forget(self, before: int) -> None:
        """Forget the rounds before one."""
        self._made = {key: made for key, made in self._made.items() if key[0] >= before}
        if self._pool is not None:
            self._pool.forget(before)

    def _trained(self, node: int, info: RoundInfo, model: Vector) -> tuple[Update, bool]:
        made = self._made.setdefault((info.number, info.model_digest), {})
        if node not in made:
            name = f"node-{node}"
            if self._pool is None:
                made[node] = trained(self.task.trainers[node], model, info, node=name)
            else:
                made[node] = or_nothing(self._pool.take(node, info, model), info.dimension)
            update, new = made[node]
            if new and node < self._honest:
                self._see(update, model, info, name)
        return made[node]

    def _see(self, update: Update, model: Vector, info: RoundInfo, name: str) -> None:
        fix = finer_grid(update, model, info)
        if fix is not None:
            self.vanished[info.number] += 1
            told = f"{name}, round {info.number}: {vanishing(update, fix)}"
            self.notice = self.notice or told
