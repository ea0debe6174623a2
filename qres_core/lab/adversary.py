"""The attackers of a simulation: what they see, and what they send instead of their updates.

With ``lies = "raw"`` they send a lie as it is; with ``"protocol"`` their own plugins clip, mask and
prove it first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np

from qres_core.attacks import Attack, AttackContext, Forgery, make_attack
from qres_core.attacks.carried import opened
from qres_core.attacks.context import Examined, Probe, no_probe
from qres_core.attacks.installed import find_sabotage, on_protocol
from qres_core.attacks.memory import recall, remember
from qres_core.attacks.poisoning import under_attack
from qres_core.attacks.sabotage import (
    MAX_HEARD,
    Chooser,
    Injection,
    Outgoing,
    SabotageContext,
    Saboteur,
    Withholder,
)
from qres_core.contract import packing
from qres_core.contract.errors import LabError, WireError
from qres_core.contract.fixed import LIMIT, add_saturating, decode
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.training import evaluated
from qres_core.contract.types import NodeId, Update, Updates, Vector
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.lab.checkpoint import states
from qres_core.lab.experiment import Experiment
from qres_core.lab.nodes import SimulatedNode
from qres_core.lab.parts import part
from qres_core.lab.trainings import Trainings
from qres_core.swarm.context.position import vote_threshold
from qres_core.swarm.ledger.messages import PREVOTE, encode_contribution
from qres_core.swarm.storage.model_file import unusable
from qres_core.training.executors import make_executor
from qres_core.training.momentum_trainer import MomentumTrainer
from qres_core.training.numpy_trainer import NumpyTrainer
from qres_core.training.workers import pool_of


def hostile_plugins(experiment: Experiment) -> Mapping[int, Mapping[str, Installed]]:
    """The plugins of each node that runs others than those installed, by its index."""
    hostile, installed, honest = experiment.hostile, experiment.installed, experiment.honest
    if hostile is None:
        return {}
    numbers = range(experiment.scenario.attackers)
    return {honest + number: {**installed, **hostile(number)} for number in numbers}


def _numbers(octets: bytes) -> Vector:
    """The whole numbers in what stands where a vector should be."""
    return np.frombuffer(octets[: len(octets) // 4 * 4], dtype="<i4").astype(np.int32)


def as_update(forgery: Forgery) -> Update:
    """A forged contribution in the form of an update, as an attacker's own plugins take it.

    Raises ValueRefusedError: it has none.
    """
    vector = np.clip(_numbers(forgery.octets), -LIMIT, LIMIT)
    return Update(vector, weight=max(1, forgery.weight))


def as_payload(forgery: Forgery, cap: int) -> bytes:
    """A forged contribution as it is sent. What is no vector stays as the attacker made it.

    ``cap``: largest weight that it claims.
    """
    is_vector = len(forgery.octets) % 4 == 0
    packed = packing.pack(_numbers(forgery.octets)) if is_vector else forgery.octets
    return encode_contribution(max(1, min(forgery.weight, cap)), packed, {})


def _reference_of(trainer: object, info: RoundInfo, model: Vector) -> Vector | None:
    held_out = HeldOut.of(trainer, model, info)
    return None if held_out is None or held_out.train is None else held_out.reference()


@attrs.frozen
class AttackerState:
    """Memory of attackers between two rounds."""

    memory: bytes  # the attack's, see :mod:`qres_core.attacks.memory`
    streams: Mapping[str, Any]  # states of their random streams by name


class Adversary:
    """All attackers of a simulation; they know everything and may collude.

    Raises:
        LabError: QRES-E201 for an attack that is not installed, QRES-E801 for one that nobody
            knows, QRES-E105 for more attackers than nodes
            and for a task without the data that the attack spoils.

    Attributes:
        attack: what they contribute, if they lie in that.
        saboteur: what they inject beside it, if anything.
        trainings: the updates of all nodes, on data that the attack may have poisoned.
        heard: the last frames of others that reached them.
        streams: their randomness by name: "attack" for all and the first of them, "attack.1" and so
            on for each other one, "sabotage" for what they inject. Whoever acts first in a round,
            each draws the same.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._scenario, swarm = experiment.scenario, experiment.config.swarm
        if misfits := tuple(self._scenario.misfits(swarm)):
            raise LabError(misfits)
        self.attack: Attack | None = None
        self.saboteur: Saboteur | None = None
        attack, sabotage = self._scenario.attack, self._scenario.sabotage
        if attack in on_protocol():
            attack, sabotage = "", attack
        if attack:
            self.attack = make_attack(attack, self._scenario.strength)
        if sabotage:
            self.saboteur = find_sabotage(sabotage).make()
        task = under_attack(experiment.task, self.attack, self._scenario.attackers)
        make = experiment.worker
        if make is None and self._scenario.executor:
            make = make_executor(self._scenario.executor, self._scenario.executor_options)
        pool = pool_of(task.trainers, self._scenario.workers, make)
        self.trainings = Trainings(task, experiment.honest, pool)
        others = range(1, self._scenario.attackers)
        self.streams = {
            "attack": experiment.stream(2),
            "sabotage": experiment.stream(4),
            **{f"attack.{other}": experiment.stream(5, other) for other in others},
        }
        self.heard: deque[bytes] = deque(maxlen=MAX_HEARD)
        self._cap = swarm.weight_cap
        self._honest = experiment.honest
        self._ids: Sequence[NodeId] = ()
        self._places: Mapping[NodeId, int] = {}
        self._kernels: Sequence[Kernel] = ()
        # For an attack that tries the whole aggregation: what plays a round for it.
        probes = getattr(self.attack, "probes", False) is True
        self._trial: Any = part("shadow", "simulation.attack") if probes else None
        self._sandboxes: dict[int, object] = {}
        self._swarm = swarm
        self._proposer: Callable[[int], NodeId] | None = None
        self._boards: dict[tuple[int, bytes], dict[str, Any]] = {}
        self._is_kept = experiment.keeper is not None
        # By round: what attackers kept before the first of them lied in it, the oldest first.
        self._kept: dict[int, AttackerState] = {}

    @property
    def outsiders(self) -> int:
        """Number of nodes that have no credential to show."""
        outside = self.saboteur is not None and not self.saboteur.credentials
        return self._scenario.attackers if outside else 0

    def spy_on(
        self,
        kernels: Sequence[Kernel],
        ids: Sequence[NodeId],
        proposer: Callable[[int], NodeId] | None = None,
    ) -> None:
        """Learn the plugins and the identities of all nodes, by index.

        ``proposer``: says who may propose in a round; ``None`` where the first node alone proposes
        and votes.
        """
        self._kernels, self._ids, self._proposer = kernels, ids, proposer
        self._places = {node_id: place for place, node_id in enumerate(sorted(ids))}

    def forge(
        self, attack: Attack, number: int, info: RoundInfo, model: Vector
    ) -> tuple[Forgery, ...]:
        """Contributions of attacker ``number`` in a round; none if it stays away."""
        if self._is_kept and info.number not in self._kept:
            self._kept[info.number] = self._now()
        context = AttackContext(
            info,
            model,
            self.trainings.of(self._honest + number, info, model),
            self.trainings.honest(info, model),
            self._scenario.attackers,
            number,
            self.streams[f"attack.{number}" if number else "attack"],
            self._probe(info, model),
            self._boards.setdefault((info.number, info.model_digest), {}),
            partial(self._reference, info, model),
            partial(self._loss, info, model),
            partial(self._examined, model),
            partial(self._references, info, model),
            self.streams["attack"],
        )
        return attack.forge(context)

    def kept(self, number: int) -> AttackerState:
        """Memory of attackers after a round: some may have lied in later ones already."""
        return next((kept for made, kept in self._kept.items() if made > number), self._now())

    def _now(self) -> AttackerState:
        return AttackerState(remember(self.attack), states(self.streams))

    def recall(self, memory: bytes) -> None:
        """Give the attack what it kept.

        Raises ModelError: QRES-E605 where it is not this attack's. Raises CompatibilityError:
        QRES-E317 where a checkpoint does not hold what the attack keeps.
        """
        name = self._scenario.attack
        try:
            recall(self.attack, name, memory)
        except (ValueError, WireError) as error:
            raise unusable(f"what the attack {name!r} kept cannot be restored") from error

    def _proposing(self, info: RoundInfo) -> int:
        """The index of the node that proposes in a round."""
        return 0 if self._proposer is None else self._ids.index(self._proposer(info.number))

    def _screener(self, info: RoundInfo) -> object:
        """The trainer of the node that proposes in a round."""
        return self.trainings.task.trainers[self._proposing(info)]

    def _reference(self, info: RoundInfo, model: Vector) -> Vector | None:
        """Change that the proposer's held-out examples alone would make, if it holds any out."""
        return _reference_of(self._screener(info), info, model)

    def _references(self, info: RoundInfo, model: Vector) -> Sequence[Vector]:
        """The same of every honest node that holds any out."""
        trainers = self.trainings.task.trainers[: self._honest]
        made = (_reference_of(trainer, info, model) for trainer in trainers)
        return tuple(item for item in made if item is not None)

    def _examined(self, model: Vector, merged: Vector, label: int | None) -> Examined | None:
        """Loss and gradient on the test examples after a merge, where the trainer shows them."""
        trainer: Any = self.trainings.task.trainers[0]
        if not isinstance(trainer, NumpyTrainer | MomentumTrainer):
            return None
        chosen = slice(None) if label is None else trainer.test_y == label
        x, y = trainer.test_x[chosen], trainer.test_y[chosen]
        if not len(y):
            return None
        moved = add_saturating(model, merged).vector
        with np.errstate(over="ignore", invalid="ignore"):  # a lie may be as long as it likes
            found = trainer.model.loss_and_gradient(decode(moved, scale=trainer.scale), x, y)
        return float(found[0]), found[1]

    def _loss(self, info: RoundInfo, model: Vector, merged: Vector) -> float | None:
        """The loss on the test examples after a merge, if the task measures one."""
        moved = add_saturating(model, merged).vector
        figures = evaluated(self.trainings.task.trainers[0].evaluate, moved, info)
        return figures.get("loss")

    def dressed(self, forgeries: Sequence[Forgery]) -> Sequence[Update | bytes]:
        """Forged contributions as they are sent: payloads, or an update for the own plugins.

        Raises ValueRefusedError: a lie for the own plugins has not the form of an update.
        """
        if self._scenario.lies == "protocol":
            return [as_update(forgery) for forgery in forgeries[:1]]
        return [as_payload(forgery, self._cap) for forgery in forgeries]

    def inject(
        self, saboteur: Saboteur, node: SimulatedNode, info: RoundInfo, model: Vector, now: float
    ) -> Sequence[Injection]:
        """Messages that an attacker injects at the opening of a round."""
        context = SabotageContext(
            info,
            node.machine.head,
            node.node_id,
            self.trainings.of(node.index, info, model),
            self._ids[: self._honest],
            tuple(self.heard),
            now,
            node.kernel.sign,
            node.machine.take_sequence,
            self.streams["sabotage"],
        )
        return saboteur.act(context)

    def withholds(self, to: NodeId, frame: bytes) -> bool:
        """True if an attacker keeps a frame of its own from a node."""
        saboteur: object = self.saboteur
        if not isinstance(saboteur, Withholder):
            return False
        said = opened(frame, len(frame))
        place, nodes = self._places[to], len(self._places)
        accomplice = self._accomplice_proposes(said.round)
        return saboteur.withholds(Outgoing(said.kind, said.round, nodes, place, accomplice))

    def _accomplice_proposes(self, number: int) -> bool:
        """True if one of the attackers is the one who may propose in a round."""
        return self._proposer is not None and self._proposer(number) in self._ids[self._honest :]

    def screening(self, updates: Updates, info: RoundInfo) -> Screening:
        """Proposal of an attacker whose saboteur is a :class:`Chooser`."""
        saboteur: object = self.saboteur
        assert isinstance(saboteur, Chooser)  # noqa: S101 - the engine asks no other
        kept = saboteur.chosen(updates, self._ids[self._honest :], info.quorum)
        return Screening(shares=dict.fromkeys(set(updates.senders) - kept, 0))

    def forget(self, before: int) -> None:
        """Forget the rounds before one."""
        self._boards = {key: board for key, board in self._boards.items() if key[0] >= before}
        self._kept = {number: kept for number, kept in self._kept.items() if number >= before}
        self.trainings.forget(before)

    def _probe(self, info: RoundInfo, model: Vector) -> Probe:
        """The round as attackers may try it on the proposer's plugins; for an attack that does."""
        if self._trial is None:
            return no_probe
        proposing = self._proposing(info)
        if proposing not in self._sandboxes:
            self._sandboxes[proposing] = self._trial.copies_of(self._kernels[proposing])
        made = {
            who: self.trainings.of(node, info, model)
            for node, who in enumerate(self._ids)
            if self.trainings.trains(node, info) and not self.trainings.idle(node, info, model)
        }
        ours = set(self._ids[self._honest :])
        probe: Probe = self._trial(
            self._sandboxes[proposing],
            info,
            model,
            {who: update for who, update in made.items() if who not in ours},
            {who: update for who, update in made.items() if who in ours},
            self._screener(info),
            *self._voters(info.number),
            self.screening if self.chooses and self._accomplice_proposes(info.number) else None,
        ).probe
        return probe

    @property
    def chooses(self) -> bool:
        """True if attackers propose what they like."""
        return isinstance(self.saboteur, Chooser)

    def _voters(self, number: int) -> tuple[Sequence[object], int]:
        """The trainers of the honest nodes, and how many votes of theirs a set needs."""
        if self._proposer is None:
            return (), 1
        swarm, voters = self._swarm, self.trainings.task.trainers[: self._honest]
        saboteur: object = self.saboteur
        accomplice = self._accomplice_proposes(number)
        vote = Outgoing(PREVOTE, number, swarm.nodes, 0, accomplice)
        withheld = isinstance(saboteur, Withholder) and saboteur.withholds(vote)
        lent = 0 if withheld else self._scenario.attackers
        needed = vote_threshold(swarm.nodes, swarm.byzantine) - lent
        return voters, max(1, min(needed, len(voters)))
