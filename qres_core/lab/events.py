"""The engine of every node and every message: a whole swarm in one process, on a virtual clock.

Every node runs the same round machine and the same hooks as a real one; only the network and the
clock are played. Attackers run the machine too and lie in what they contribute. They may run
plugins of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from qres_core.attacks import Attack
from qres_core.attacks.carried import CarriedFrame, size
from qres_core.attacks.sabotage import Saboteur
from qres_core.contract.errors import QresError, RoundError, WireError
from qres_core.contract.rounds import RoundInfo, RoundStatus
from qres_core.contract.trainer_abilities import abilities_of, base_of
from qres_core.contract.types import NodeId, Vector
from qres_core.kernel.kernel import Kernel
from qres_core.lab.adversary import Adversary, hostile_plugins
from qres_core.lab.checkpoint import Checkpoint, check_resumable, memories, plugin_memories, states
from qres_core.lab.clock import EPOCH, Clock
from qres_core.lab.experiment import Experiment
from qres_core.lab.meter import Meter
from qres_core.lab.network import SimulatedNetwork
from qres_core.lab.nodes import SimulatedNode, identify
from qres_core.lab.once import Once
from qres_core.lab.record import SimulationResult
from qres_core.lab.recorder import Recorder
from qres_core.swarm.context.effects import (
    NOTHING_NEW,
    Diverged,
    Effect,
    Refused,
    RoundEnded,
    Train,
)
from qres_core.swarm.context.position import node_info
from qres_core.swarm.context.times import MAX_BACKOFF
from qres_core.swarm.ledger.participants import participants
from qres_core.swarm.ledger.results import Merged
from qres_core.swarm.machine.rounds import round_machine
from qres_core.swarm.runtime.driver import Driver, Ports, Told
from qres_core.swarm.storage.journal import MemoryJournal
from qres_core.swarm.storage.model_file import SwarmModel

TRAINING_SECONDS: Final = 0.2
COLLUSION_SECONDS: Final = 0.03
"""How much later than the others attackers send: they want to know what to lie about."""
ADMITTED: Final = "admitted"
MERGING: Final = frozenset(("aggregate", "wrap_aggregate", "reveal", "reveal_shard"))
"""Hooks that decide what a set merges to."""
MAX_ABORTED: Final = 20
"""Rounds in a row, aborted or as long as one, after which a simulation gives up; so it does after
as many attempts to agree on what one set merges to."""


class EventEngine:
    """A swarm being played.

    Raises:
        QresError: the configuration cannot start, or not with this attack.

    Attributes:
        nodes: all nodes, the attackers last; ``honest``: those that do not attack.
        observer: the first node, whose rounds the ``recorder`` notes.
        rounds: models to make.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._scenario, self._swarm = experiment.scenario, experiment.config.swarm
        self.rounds = self._scenario.rounds
        self.adversary = Adversary(experiment)
        self.nodes = self._made(experiment)
        self.honest = self.nodes[: experiment.honest]
        self.observer = self.nodes[0]
        self._by_id = {node.node_id: node for node in self.nodes}
        ids = [node.node_id for node in self.nodes]
        self.adversary.spy_on(self.kernels, ids, self.observer.machine.proposer)
        if self._swarm.participants:
            self.adversary.trainings.trains = self._trains
        self.clock = Clock()
        self.network = SimulatedNetwork(
            self._scenario,
            self.clock,
            experiment.stream(1),
            self._deliver,
            self._swarm.vote_timeout,
        )
        self.recorder = Recorder(
            experiment,
            self.observer.kernel,
            ids[experiment.honest :],
            self.adversary.trainings,
            Meter(len(self.nodes), len(self.observer.kernel.by_products)),
        )
        self._streams = {"network": self.network.rng, **self.adversary.streams}
        self._aborted = 0
        self._ended_at = self.clock.now  # when the observer's last round ended
        longest = self._swarm.deadline + 3 * MAX_BACKOFF * self._swarm.vote_timeout
        self._patience = MAX_ABORTED * longest + self._swarm.interval
        self._diverged: QresError | None = None
        # What the first honest node made of each decided set, by digest, and which node that was.
        self._made_of: dict[bytes, tuple[SimulatedNode, bytes]] = {}

    def _made(self, experiment: Experiment) -> list[SimulatedNode]:
        """The nodes, set up."""
        config, scenario, task = experiment.config, experiment.scenario, experiment.task
        once = Once(scenario.once)
        once.check(config)
        kernels, ids = identify(
            config,
            scenario.seed,
            experiment.installed,
            outsiders=self.adversary.outsiders,
            theirs=hostile_plugins(experiment),
            once=once,
        )
        for kernel in kernels:  # as a node's, whose heads its head is to equal
            kernel.settings = kernel.settings.on_top_of(base_of(task.trainers[0]))
        for kernel in kernels[: experiment.honest]:
            kernel.fit(int(task.initial.size))  # before anything is opened that must be closed
        start, nodes = experiment.start, list[SimulatedNode]()
        for index, (node_id, kernel) in enumerate(zip(ids, kernels, strict=True)):
            trainer = task.trainers[index]  # honest, also where the attack poisons data
            info = node_info(config.swarm, node_id, ids, trainer, seed=scenario.seed)
            kernel.setup(info)
            journal = MemoryJournal() if start is None else start.journal()
            attacker = index - experiment.honest if index >= experiment.honest else None
            judge: object = trainer
            if attacker is not None and self.adversary.chooses:
                kernel.propose_by(self.adversary.screening)
                judge = _Blind() if abilities_of(trainer).validate is None else trainer
            machine = round_machine(info, kernel, config.swarm, task.initial, journal, judge)
            # Who lies, or falls silent in a round, does so once it is open.
            machine.trains_ahead = attacker is None and not scenario.dropout
            machine.make_model = kernel.vectors.made
            node = SimulatedNode(index, node_id, kernel, machine, attacker)
            node.driver = Driver(machine, self._around(node))
            nodes.append(node)
        return nodes

    def _around(self, node: SimulatedNode) -> Ports:
        """Ports through which a node's wishes are carried out."""
        return Ports(
            broadcast=partial(self._broadcast, node),
            send=partial(self._send_to, node),
            train=partial(self._open, node),
            tell=partial(self._told, node),
            wake=partial(self._wake, node),
        )

    def _trains(self, node: int, info: RoundInfo) -> bool:
        """True if a node is drawn to train in a round: attackers see no update of another one."""
        heads = (other.machine.head for other in self.nodes)
        head = next((head for head in heads if head.digest == info.head), None)
        if head is None:  # everybody is further
            return True
        return self.nodes[node].node_id in participants(head, info.number, self._swarm.participants)

    @property
    def kernels(self) -> Sequence[Kernel]:
        """Of all nodes."""
        return [node.kernel for node in self.nodes]

    @property
    def step(self) -> int:
        """Number of models that the observer's follows."""
        return self.observer.machine.step

    def go_on(self, start: Checkpoint) -> None:
        """Go on from the experiment's checkpoint; the journals have given the nodes its model."""
        check_resumable(self.observer.kernel)
        start.restore(self._streams)
        start.recall(self.recorder.trainings.task.trainers, self.kernels)
        self.adversary.recall(start.attack)
        self.network.messages = start.counts["messages"]
        self.clock.now = self._ended_at = start.now
        self.recorder.records = list(start.records)

    # ── playing ───────────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Play until every honest node has made all models, or it is hopeless.

        Raises RoundError: QRES-E601 if an honest node diverged.
        """
        for node in self.nodes:
            node.driver.start(self.clock.now)
            self._compare(node)
        if self._scenario.churn:
            self.clock.after(self._swarm.deadline, self._churn)
        while not self._done and self.clock.advance():
            pass
        if self._diverged is not None:
            raise self._diverged

    @property
    def _done(self) -> bool:
        """True if there is nothing left to play."""
        if self._diverged is not None or self._aborted >= MAX_ABORTED:
            return True
        if self.recorder.is_hopeless:
            return True
        if self.observer.machine.lost_attempts >= MAX_ABORTED:
            self.recorder.stalled = (
                f"stopped in height {self.observer.machine.head.height}: {MAX_ABORTED} attempts to "
                "agree on what the decided set merges to came to nothing"
            )
            return True
        if self.clock.now > self._ended_at + self._patience:
            return True  # too few nodes are there to end a round
        return all(node.machine.step >= self.rounds for node in self.honest or self.nodes)

    def _churn(self) -> None:
        # The observer stays, so that there is a report.
        self.network.churn(self.honest[1:])
        self.clock.after(self._swarm.deadline, self._churn)

    def _deliver(
        self, sender: SimulatedNode, receiver: SimulatedNode, frame: bytes, *, hostile: bool
    ) -> None:
        self._count(receiver, frame)
        if receiver.attacker is not None and self.adversary.saboteur is not None:
            self.adversary.heard.append(frame)
        effects = receiver.machine.receive(frame, sender.node_id, self.clock.now)
        if hostile and receiver.attacker is None:
            self.recorder.injected[_fate(effects)] += 1
        self._apply(receiver, effects)

    def _count(self, receiver: SimulatedNode, frame: bytes) -> None:
        try:
            envelope = receiver.kernel.read(frame)
        except WireError:
            envelope = None
        self.recorder.meter.count(receiver.index, envelope, size(frame))

    def _tick(self, node: SimulatedNode) -> None:
        node.driver.tick(self.clock.now)
        self._compare(node)

    def _train(self, node: SimulatedNode, train: Train) -> None:
        if node.attacker is not None and self.adversary.attack is not None:
            self._apply(node, self._lie(node, train, self.adversary.attack, node.attacker))
            return
        info, trainings = train.round_info, self.adversary.trainings
        update = trainings.of(node.index, info, train.model)
        idle = trainings.idle(node.index, info, train.model)
        node.driver.trained(info, NOTHING_NEW if idle else update, self.clock.now)
        self._compare(node)

    def _lie(
        self, node: SimulatedNode, train: Train, attack: Attack, attacker: int
    ) -> list[Effect]:
        """Lie that an attacker contributes."""
        machine, now = node.machine, self.clock.now
        number, head = train.round_info.number, train.round_info.head
        forgeries = self.adversary.forge(attack, attacker, train.round_info, train.model)
        if not forgeries:
            return machine.sit_out("silent", number, head, now)
        try:
            lies = self.adversary.dressed(forgeries)
        except QresError as error:  # what is no update cannot be hidden or proved
            return machine.sit_out(str(error.problems[0]), number, head, now)
        effects: list[Effect] = []
        for lie in lies:
            if isinstance(lie, bytes):
                effects += machine.publish_raw(lie, number, now)
            else:
                effects += machine.trained(lie, number, head, now)
        return effects

    # ── effects ───────────────────────────────────────────────────────────────────────────────

    def _apply(self, node: SimulatedNode, effects: Sequence[Effect]) -> None:
        """Carry out what a node wants done."""
        node.driver.carry_out(effects)
        self._compare(node)

    def _broadcast(self, node: SimulatedNode, frame: bytes) -> None:
        carried = node.kernel.frames.carried(frame)
        if isinstance(carried, CarriedFrame):
            self.adversary.trainings.sent(node.index, carried.envelope)
        for other in self.nodes:
            if other is not node:
                self._send(node, other, carried)

    def _send_to(self, node: SimulatedNode, to: NodeId, frame: bytes) -> None:
        self._send(node, self._by_id[to], node.kernel.frames.carried(frame))

    def _told(self, node: SimulatedNode, told: Told) -> None:
        match told:
            case RoundEnded():
                if told.outcome.status is RoundStatus.CLOSED:
                    node.merged = told.merged is not None
                if node is self.observer:
                    self._ended(told)
            case Refused() if node is self.observer:
                self.recorder.refused[told.reason] += 1
            case Diverged(error) if node.attacker is None:
                self._diverged = error
            case _:
                pass

    def _wake(self, node: SimulatedNode, due: float) -> None:
        tick = partial(self.network.act, node, partial(self._tick, node))
        self.clock.at(max(due, self.clock.now), tick)

    def _compare(self, node: SimulatedNode) -> None:
        """End the simulation if a node made another model of a set than one before it."""
        if node.attacker is None and self._diverged is None:
            self._diverged = self._other_than_before(node)

    def _other_than_before(self, node: SimulatedNode) -> QresError | None:
        """Error for a node that made another model of a set than one before it."""
        own = node.machine.found
        if own is None or not isinstance(own.result, Merged):
            return None
        first, model = self._made_of.setdefault(own.chosen, (node, own.result.model))
        if model == own.result.model:
            return None
        names = [f"plugins.{each.name}" for each in node.kernel.enabled if MERGING & {*each.hooks}]
        what = (
            f"nodes {first.index} and {node.index} merged the same set to different models: "
            f"{' or '.join(names)} is not deterministic"
        )
        fix = "draw no random numbers and read no clock; run AggregatorContract of qres_lab.testing"
        return RoundError.of("QRES-E601", " and ".join(names), what, fix)

    def _send(self, node: SimulatedNode, to: SimulatedNode, frame: bytes) -> None:
        """Have the network carry a frame, unless its sender would rather not say that."""
        if node.attacker is None or not self.adversary.withholds(to.node_id, frame):
            self.network.carry(node, to, frame)

    def _open(self, node: SimulatedNode, train: Train) -> None:
        """Have a node train, or attack, in a round that it opened."""
        if train.round_info.step >= self.rounds:
            return
        saboteur = self.adversary.saboteur
        if node.attacker is not None and saboteur is not None:
            self._inject(node, train, saboteur)
            if not saboteur.contributes:
                return
        self.adversary.trainings.begin(node.index, train.round_info, train.model)
        self._may_drop(node, train.round_info.number)
        delay = TRAINING_SECONDS * (1.0 + 0.5 * float(self.network.rng.random()))
        if node.attacker is not None:
            delay = 1.5 * TRAINING_SECONDS + COLLUSION_SECONDS
        work = partial(self._train, node, train)
        self.clock.after(delay, partial(self.network.act, node, work))

    def _inject(self, node: SimulatedNode, train: Train, saboteur: Saboteur) -> None:
        now = self.clock.now
        made = self.adversary.inject(saboteur, node, train.round_info, train.model, now)
        for injection in made:
            for other in self.nodes:
                if other is not node and injection.to in (None, other.node_id):
                    self.network.carry(node, other, injection.frame, hostile=True)

    def _may_drop(self, node: SimulatedNode, number: int) -> None:
        """Have an honest node fall silent in the round it just opened, or not."""
        over = self.observer.machine.step >= self.rounds  # but for those that lag
        if (
            self._scenario.dropout
            and node.attacker is None
            and node is not self.observer
            and not over
        ):
            self.network.may_drop(node, lambda: number < self.observer.machine.number)

    # ── recording ─────────────────────────────────────────────────────────────────────────────

    def _ended(self, effect: RoundEnded) -> None:
        """Note how a round of the observer ended."""
        outcome, machine = effect.outcome, self.observer.machine
        closed = outcome.status is RoundStatus.CLOSED
        decided = outcome.status is not RoundStatus.ABORTED
        if self._scenario.dropout:  # who dropped out is back for the next round
            for node in self.nodes:
                node.online = True
        if not closed and machine.step >= self.rounds:
            return  # the simulation is over for this node; it only helps others
        self._aborted = 0 if closed else self._aborted + 1
        self._ended_at = self.clock.now
        standing = machine.kernel.standing
        banned = [node for node in self.nodes if standing(node.node_id).banned]
        attackers = sum(node.attacker is not None for node in banned)
        bans = len(banned) - attackers, attackers
        self.recorder.note(outcome, effect.model, effect.merged, bans, found=effect.found)
        # Only attackers ask again for what others trained in a round that the observer has left.
        over = self.adversary.attack is None
        self.adversary.forget(outcome.round_info.number + over)
        agreed = self._agreed if decided else None
        made = None if agreed is None else partial(self._checkpoint, agreed)
        self.recorder.tell(self.model, made)

    @property
    def _agreed(self) -> Kernel | None:
        """The kernel of a node that has what all keep alike; ``None`` where no node has.

        A node that took its model from others lacks what its rule would have kept.
        """
        first = self.observer
        if not any(plugin.keeps_agreed for plugin in first.kernel.enabled):
            return first.kernel
        head = first.machine.head.digest
        found = (node for node in self.honest if node.merged and node.machine.head.digest == head)
        return next((node.kernel for node in found), None)

    def _checkpoint(self, agreed: Kernel) -> Checkpoint:
        """The simulation as it goes on from here. ``agreed``: has what all nodes keep alike."""
        number = self.recorder.records[-1].number
        kept = self.adversary.kept(number)
        return Checkpoint(
            model=attrs.evolve(self.model(), vouchers=()),
            head=self.observer.machine.head,
            number=number,
            now=self.clock.now,
            streams={**states(self._streams), **kept.streams},
            counts={"messages": self.network.messages},
            records=tuple(self.recorder.records),
            memories=memories(self.recorder.trainings.task.trainers, number),
            plugins=plugin_memories(self.kernels, agreed),
            attack=kept.memory,
        )

    def model(self) -> SwarmModel:
        """The observer's model with the votes for it: by keys that prove nothing to others."""
        machine, swarm = self.observer.machine, self._swarm
        vouchers = {
            voucher.sender: voucher
            for node in self.honest
            if node.machine.model_digest == machine.model_digest
            for voucher in node.machine.vouchers
            if voucher.auth
        }
        signed = tuple(vouchers[sender] for sender in sorted(vouchers))
        return SwarmModel(swarm.name, machine.step, swarm.scale, machine.model, signed)

    def result(self) -> SimulationResult:
        """Result of the simulation."""
        return self.recorder.result(
            model=self.model(),
            digests=[node.machine.model_digest for node in self.honest or self.nodes],
            judges=[node.kernel for node in self.honest],
            against=self.observer.kernel.against,
            messages=self.network.messages,
            seconds=self.clock.now - EPOCH,
        )


@attrs.frozen
class _Blind:
    """Judges nothing, for an attacker that has no examples: only who judges may screen."""

    def validate(self, vector: Vector) -> float:
        """No loss at all."""
        del vector
        return 0.0


def _fate(effects: Sequence[Effect]) -> str:
    """Fate of a frame: why it was refused, or ``admitted``."""
    for effect in effects:
        if isinstance(effect, Refused):
            return effect.reason
    return ADMITTED
