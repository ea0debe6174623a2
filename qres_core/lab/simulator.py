"""The simulator: a whole swarm in one process, on a virtual clock, decided by a seed.

Every node runs the same round machine and the same hooks as a real one; only the network and the
clock are played. Attackers run the machine too and lie in what they contribute: with ``lies =
"raw"`` they send the lie as it is, with ``"protocol"`` their own plugins clip, mask and prove it
first. They may run plugins of their own.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import canonical
from qres_core.contract.errors import LabError, QresError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.rounds import RoundStatus
from qres_core.contract.training import evaluated
from qres_core.contract.types import NodeId, Update
from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.slots import ALL_HOOKS
from qres_core.lab.attacks import Attack, AttackContext, Forgery, make_attack
from qres_core.lab.attacks.poisoning import under_attack
from qres_core.lab.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    check_resumable,
    notices,
    settings,
    states,
)
from qres_core.lab.once import Once
from qres_core.lab.record import Fate, RoundRecord, SimulationResult, alignment
from qres_core.lab.sabotage import MAX_HEARD, SABOTAGE, SabotageContext, Saboteur
from qres_core.lab.scenario import Scenario
from qres_core.lab.shadow import Sandbox, Shadow, probe_for
from qres_core.lab.tasks import Task, TaskConfig, Vanishing, make_task, trained
from qres_core.lab.trainer import swarm_task
from qres_core.lab.wrapped import WrappedKernel
from qres_core.swarm.effects import (
    NOTHING_NEW,
    Broadcast,
    Diverged,
    Effect,
    Refused,
    RoundEnded,
    SendTo,
    Train,
)
from qres_core.swarm.joining import node_info, round_machine
from qres_core.swarm.journal import Journal, MemoryJournal
from qres_core.swarm.messages import encode_contribution
from qres_core.swarm.model_file import SwarmModel
from qres_core.swarm.rounds import RoundMachine
from qres_core.swarm.times import MAX_BACKOFF

EPOCH: Final = 1_700_000_000.0
"""Where the virtual clock starts, seconds since 1970."""
TRAINING_SECONDS: Final = 0.2
DROPOUT_SECONDS: Final = 0.6
"""From a round's opening on: who drops out does so before it contributes, or after."""
COLLUSION_SECONDS: Final = 0.1
"""How much later than the others attackers send: they want to know what to lie about."""
ADMITTED: Final = "admitted"
MAX_ABORTED: Final = 20
"""Rounds in a row, aborted or as long as one, after which a simulation gives up."""

Progress = Callable[[RoundRecord], None]
OnModel = Callable[[SwarmModel], None]
Hostile = Callable[[int], Mapping[str, Installed]]
"""The plugins an attacker runs in place of those of the same name, by its number from 0."""


def node_ids(count: int, seed: int) -> list[NodeId]:
    """Identities for ``count`` simulated nodes, 32 bytes each; not keys, and no secrets."""
    return [
        hashlib.sha256(b"qres/lab/node/v1\0" + canonical.dumps([seed, index])).digest()
        for index in range(count)
    ]


def plugins_of(
    hostile: Hostile | None, nodes: int, attackers: int, installed: Mapping[str, Installed]
) -> Mapping[int, Mapping[str, Installed]]:
    """The plugins of each node that runs others than those installed, by its index."""
    if hostile is None:
        return {}
    honest = nodes - attackers
    return {honest + number: {**installed, **hostile(number)} for number in range(attackers)}


def lie_as_update(forgery: Forgery) -> Update:
    """A forged contribution in the form of an update, as an attacker's own plugins take it.

    Raises:
        ValueRefusedError: it has none.
    """
    octets = forgery.octets[: len(forgery.octets) // 4 * 4]
    vector = np.frombuffer(octets, dtype="<i4").astype(np.int32)
    return Update(np.clip(vector, -LIMIT, LIMIT), weight=max(1, forgery.weight))


def identify(
    config: Config,
    seed: int,
    installed: Mapping[str, Installed],
    *,
    outsiders: int = 0,
    theirs: Mapping[int, Mapping[str, Installed]] | None = None,
    once: Once | None = None,
) -> tuple[list[WrappedKernel], list[NodeId]]:
    """A kernel for every node of a simulated swarm, and who each says it is.

    Args:
        config: the swarm and its plugins.
        seed: of the simulated identities.
        installed: plugins by name.
        outsiders: the last so many nodes run without the plugins that decide who is admitted: they
            have no credential to show.
        theirs: plugins of single nodes by index, instead of those installed.
        once: verdicts that are computed once for all nodes.
    """
    kernels: list[WrappedKernel] = []
    ids: list[NodeId] = []
    everything = assemble(config, installed)
    gated = {plugin.name for plugin in everything if "admit" in plugin.hooks}
    tables = {name: table for name, table in config.plugins.items() if name not in gated}
    outside = attrs.evolve(config, plugins=tables)
    for index, fallback in enumerate(node_ids(config.swarm.nodes, seed)):
        inside = index < config.swarm.nodes - outsiders
        found = installed if theirs is None else theirs.get(index, installed)
        kernel = WrappedKernel(assemble(config if inside else outside, found), config.swarm)
        if once is not None:
            kernel.wrap(once.wrap)
        kernels.append(kernel)
        ids.append(kernel.identity(fallback) or fallback)
    return kernels, ids


def describe(kernel: Kernel) -> tuple[Mapping[str, Any], ...]:
    """The enabled plugins for a report, in file order."""
    return tuple(
        {
            "name": plugin.name,
            "distribution": plugin.origin.distribution,
            "version": plugin.origin.version,
            "hooks": [hook for hook in ALL_HOOKS if hook in plugin.hooks],
        }
        for plugin in kernel.enabled
    )


def _fate(effects: Sequence[Effect]) -> str:
    """What became of a frame: why it was refused, or ``admitted``."""
    for effect in effects:
        if isinstance(effect, Refused):
            return effect.reason
    return ADMITTED


@attrs.define(eq=False)
class _SimulatedNode:
    index: int
    node_id: NodeId
    kernel: WrappedKernel
    machine: RoundMachine
    attacker: int | None  # number among the attackers, or None
    online: bool = True
    tick_due: float = float("inf")


class Simulation:
    """A swarm being played; :func:`simulate` makes it, runs it and tells what came of it.

    Attributes:
        nodes: all nodes, the attackers last.
        honest: the nodes that do not attack.
        observer: the honest node whose rounds are recorded.
        records: a record for each of its rounds.
        start: what it goes on from; ``None`` from the first round.
        keeper: writes down what it takes to go on, after each round.
        on_model: given each new model of the observer.
    """

    start: Checkpoint | None = None
    keeper: CheckpointFolder | None = None
    on_model: OnModel | None = None

    def __init__(
        self,
        config: Config,
        scenario: Scenario,
        task: Task,
        installed: Mapping[str, Installed],
        hostile: Hostile | None = None,
        *,
        journal: Callable[[], Journal] = MemoryJournal,
    ) -> None:
        swarm = config.swarm
        if misfits := tuple(scenario.misfits(swarm)):
            raise LabError(misfits)
        self.scenario, self.swarm = scenario, swarm
        self.attack: Attack | None = None
        self.saboteur: Saboteur | None = None
        if scenario.attack in SABOTAGE:
            self.saboteur = SABOTAGE[scenario.attack].make()
        elif scenario.attack:
            self.attack = make_attack(scenario.attack, scenario.strength)
        self.task = under_attack(task, self.attack, scenario.attackers)
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((scenario.seed, 1))))
        self.lies = np.random.Generator(np.random.PCG64(np.random.SeedSequence((scenario.seed, 2))))
        outsiders = scenario.attackers if self.saboteur and not self.saboteur.credentials else 0
        once = Once(scenario.once)
        once.check(config)
        theirs = plugins_of(hostile, swarm.nodes, scenario.attackers, installed)
        kernels, ids = identify(
            config, scenario.seed, installed, outsiders=outsiders, theirs=theirs, once=once
        )
        for kernel in kernels[: swarm.nodes - scenario.attackers]:
            kernel.fit(int(task.initial.size))  # before anything is opened that must be closed
        honest = swarm.nodes - scenario.attackers
        self.nodes: list[_SimulatedNode] = []
        for index, (node_id, kernel) in enumerate(zip(ids, kernels, strict=True)):
            trainer = task.trainers[index]
            info = node_info(swarm, node_id, ids, trainer, seed=scenario.seed)
            kernel.setup(info)
            machine = round_machine(info, kernel, swarm, task.initial, journal(), trainer)
            attacker = index - honest if index >= honest else None
            self.nodes.append(_SimulatedNode(index, node_id, kernel, machine, attacker))
        self.by_id = {node.node_id: node for node in self.nodes}
        self.honest = [node for node in self.nodes if node.attacker is None]
        self.observer = self.honest[0] if self.honest else self.nodes[0]
        self.sandbox = Sandbox(self.observer.machine.kernel)
        self.events: list[tuple[float, int, int, str, Any]] = []
        self.counter = 0
        self.messages = 0
        self.now = EPOCH
        self.updates: dict[tuple[int, bytes], dict[int, Update]] = {}
        self.vanishing = Vanishing()
        self.idle: dict[int, set[int]] = {}  # by round: who had nothing new to train on
        self.boards: dict[tuple[int, bytes], dict[str, Any]] = {}
        self.records: list[RoundRecord] = []
        self.refused: Counter[str] = Counter()
        self.aborted = 0
        self.ended_at = self.now  # when the observer's last round ended
        longest = swarm.deadline + 3 * MAX_BACKOFF * swarm.vote_timeout
        self.patience = MAX_ABORTED * longest + swarm.interval
        self.diverged: QresError | None = None
        self.heard: deque[bytes] = deque(maxlen=MAX_HEARD)
        self.injected: Counter[str] = Counter()
        self.merged: Counter[NodeId] = Counter()

    def go_on(self, start: Checkpoint) -> None:
        """Go on from a checkpoint, whose model the journals of the nodes have given them.

        Raises:
            ModelError: QRES-E605 for a checkpoint of another engine.
            CompatibilityError: QRES-E317 for plugins that must not begin anew.
        """
        check_resumable(self.observer.machine.kernel)
        start.restore(self.streams)
        self.start = start
        self.messages, self.now, self.ended_at = start.counts["messages"], start.now, start.now
        self.records = list(start.records)

    @property
    def streams(self) -> dict[str, np.random.Generator]:
        """The random streams that go on from round to round."""
        return {"network": self.rng, "attack": self.lies}

    # ── the clock ─────────────────────────────────────────────────────────────────────────────

    def push(self, time: float, node: _SimulatedNode, kind: str, data: object = None) -> None:
        """Have something happen to a node at a time."""
        self.counter += 1
        heapq.heappush(self.events, (time, self.counter, node.index, kind, data))

    def run(self, progress: Progress | None) -> None:
        """Play until every honest node has made the scenario's rounds, or it is hopeless."""
        for node in self.nodes:
            self.apply(node, node.machine.start(self.now), progress)
        if self.scenario.churn:
            self.push(self.now + self.swarm.deadline, self.nodes[0], "churn")
        while self.events and not self.done:
            self.now, _order, index, kind, data = heapq.heappop(self.events)
            node = self.nodes[index]
            if kind == "churn":
                self.churn()
                self.push(self.now + self.swarm.deadline, node, "churn")
            elif kind == "drop":
                # Not if the round it was to fall silent in is over already.
                node.online = node.online and data < self.observer.machine.number
            elif not node.online:
                if kind != "deliver":  # ticks and training wait until the node is back
                    self.push(self.now + self.swarm.vote_timeout, node, kind, data)
            else:
                self.apply(node, self.handle(node, kind, data), progress)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to play."""
        if self.diverged is not None or self.aborted >= MAX_ABORTED:
            return True
        if self.now > self.ended_at + self.patience:  # too few nodes are there to end a round
            return True
        return all(node.machine.step >= self.scenario.rounds for node in self.honest or self.nodes)

    def churn(self) -> None:
        """Choose anew who is away."""
        for node in self.honest[1:]:  # the observer stays, so that there is a report
            node.online = bool(self.rng.random() >= self.scenario.churn)

    def handle(self, node: _SimulatedNode, kind: str, data: Any) -> list[Effect]:
        """What a node does about an event."""
        machine = node.machine
        if kind == "deliver":
            self.messages += 1
            link, frame, hostile = data
            if node.attacker is not None and self.saboteur is not None:
                self.heard.append(frame)
            effects = machine.receive(frame, link, self.now)
            if hostile and node.attacker is None:
                self.injected[_fate(effects)] += 1
            return effects
        if kind == "tick":
            if self.now < node.tick_due:
                return []
            node.tick_due = float("inf")
            return machine.tick(self.now)
        train: Train = data
        number = train.round_info.number
        if node.attacker is None or self.attack is None:
            update = self.update(node, train)
            if node.index in self.idle.get(number, ()):
                return machine.sit_out(number, NOTHING_NEW, self.now)
            return machine.trained(update, number, self.now)
        return self.lie(node, train, self.attack)

    # ── effects ───────────────────────────────────────────────────────────────────────────────

    def apply(
        self, node: _SimulatedNode, effects: Sequence[Effect], progress: Progress | None
    ) -> None:
        """Carry out what a node wants done."""
        for effect in effects:
            match effect:
                case Broadcast(frame):
                    for other in self.nodes:
                        if other is not node:
                            self.carry(node, other, frame)
                case SendTo(to, frame):
                    self.carry(node, self.by_id[to], frame)
                case Train():
                    self.schedule_training(node, effect)
                case RoundEnded():
                    self.ended(node, effect, progress)
                case Refused() if node is self.observer:
                    self.refused[effect.reason] += 1
                case Diverged(error) if node.attacker is None:
                    self.diverged = error
                case _:
                    pass
        due = node.machine.next_tick
        if due < node.tick_due:
            node.tick_due = due
            self.push(due, node, "tick")

    def carry(
        self,
        sender: _SimulatedNode,
        receiver: _SimulatedNode,
        frame: bytes,
        *,
        hostile: bool = False,
    ) -> None:
        """Put a frame on its way, or lose it."""
        scenario = self.scenario
        if scenario.loss and self.rng.random() < scenario.loss:
            return
        copies = 1
        if scenario.duplication and self.rng.random() < scenario.duplication:
            copies = 2
        for _copy in range(copies):
            delay = scenario.delay + scenario.jitter * float(self.rng.standard_exponential())
            self.push(self.now + delay, receiver, "deliver", (sender.node_id, frame, hostile))

    def schedule_training(self, node: _SimulatedNode, train: Train) -> None:
        """Have a node train, or attack."""
        if node.machine.step >= self.scenario.rounds:
            return
        if node.attacker is not None and self.saboteur is not None:
            self.sabotage(node, train, self.saboteur)
            if not self.saboteur.contributes:
                return
        self.maybe_drop(node, train.round_info.number)
        delay = TRAINING_SECONDS * (1.0 + 0.5 * float(self.rng.random()))
        if node.attacker is not None:
            delay = 1.5 * TRAINING_SECONDS + COLLUSION_SECONDS
        self.push(self.now + delay, node, "train", train)

    def maybe_drop(self, node: _SimulatedNode, number: int) -> None:
        """Have an honest node fall silent in the round it just opened, or not."""
        scenario = self.scenario
        if scenario.dropout and node.attacker is None and node is not self.observer:
            if self.observer.machine.step >= scenario.rounds:
                return  # it is over but for those who lag
            falls, when = self.rng.random(2)
            if falls < scenario.dropout:
                self.push(self.now + DROPOUT_SECONDS * float(when), node, "drop", number)

    def sabotage(self, node: _SimulatedNode, train: Train, saboteur: Saboteur) -> None:
        """Inject what a saboteur makes."""
        machine = node.machine
        context = SabotageContext(
            train.round_info,
            node.node_id,
            self.update(node, train),
            [one.node_id for one in self.honest],
            tuple(self.heard),
            self.now,
            machine.kernel.sign,
            machine.take_sequence,
            self.lies,
        )
        for injection in saboteur.act(context):
            for other in self.nodes:
                if other is not node and injection.to in (None, other.node_id):
                    self.carry(node, other, injection.frame, hostile=True)

    def update(self, node: _SimulatedNode, train: Train) -> Update:
        """The node's honest update; trained once however often it is asked for."""
        key = (train.round_info.number, train.round_info.model_digest)
        made = self.updates.setdefault(key, {})
        if node.index not in made:
            trainer = self.task.trainers[node.index]
            name = f"node-{node.index}"
            made[node.index], new = trained(trainer, train.model, train.round_info, node=name)
            if new and node.attacker is None:
                seen = self.vanishing
                seen.see(made[node.index], train.model, train.round_info, name)
            if not new:
                self.idle.setdefault(train.round_info.number, set()).add(node.index)
        return made[node.index]

    def honest_updates(self, train: Train) -> NDArray[np.int32]:
        """Updates of the honest nodes, int32, shape ``(h, d)``."""
        made = {node.index: self.update(node, train).vector for node in self.honest}
        idle = self.idle.get(train.round_info.number, ())
        rows = [row for index, row in made.items() if index not in idle]
        return np.stack(rows) if rows else np.empty((0, train.model.size), dtype=np.int32)

    def lie(self, node: _SimulatedNode, train: Train, attack: Attack) -> list[Effect]:
        """What an attacker contributes."""
        context = AttackContext(
            train.round_info,
            train.model,
            self.update(node, train),
            self.honest_updates(train),
            self.scenario.attackers,
            node.attacker or 0,
            self.lies,
            probe_for(attack, lambda: self.shadow(train)),
            self.boards.setdefault((train.round_info.number, train.round_info.model_digest), {}),
        )
        number = train.round_info.number
        forgeries = attack.forge(context)
        if not forgeries:
            return node.machine.sit_out(number, "silent", self.now)
        if self.scenario.lies == "protocol":
            return self.follow(node, forgeries[0], number)
        effects: list[Effect] = []
        for forgery in forgeries:
            weight = max(1, min(forgery.weight, self.swarm.weight_cap))
            payload = encode_contribution(weight, forgery.octets, {})
            effects += node.machine.publish_raw(payload, number, self.now)
        return effects

    def follow(self, node: _SimulatedNode, forgery: Forgery, number: int) -> list[Effect]:
        """Send a lie as an honest update is sent: through the attacker's own plugins."""
        try:
            update = lie_as_update(forgery)
        except QresError as error:  # what is no update cannot be hidden or proved
            return node.machine.sit_out(number, str(error.problems[0]), self.now)
        return node.machine.trained(update, number, self.now)

    def shadow(self, train: Train) -> Shadow:
        """The round as attackers may try it on the observer's plugins."""
        everybody = [(one, self.update(one, train)) for one in self.nodes]
        idle = self.idle.get(train.round_info.number, ())
        made = [(one, update) for one, update in everybody if one.index not in idle]
        trainer = self.task.trainers[self.observer.index]
        return Shadow(
            self.sandbox,
            train.round_info,
            train.model,
            {one.node_id: update for one, update in made if one.attacker is None},
            {one.node_id: update for one, update in made if one.attacker is not None},
            trainer,
        )

    # ── recording ─────────────────────────────────────────────────────────────────────────────

    def ended(self, node: _SimulatedNode, effect: RoundEnded, progress: Progress | None) -> None:
        """Record a round of the observer's."""
        outcome = effect.outcome
        closed = outcome.status is RoundStatus.CLOSED
        if node is not self.observer:
            return
        if self.scenario.dropout:  # who dropped out is back for the next round
            for one in self.nodes:
                one.online = True
        if not closed and node.machine.step >= self.scenario.rounds:
            return  # the simulation is over for this node; it only helps others
        self.aborted = 0 if closed else self.aborted + 1
        standing = node.machine.kernel.standing
        banned = [one for one in self.nodes if standing(one.node_id).banned]
        self.ended_at = self.now
        attackers = {one.node_id for one in self.nodes if one.attacker is not None}
        record = RoundRecord(
            number=outcome.round_info.number,
            closed=closed,
            reason=outcome.reason,
            metrics=self.figures(effect) if closed else {},
            accepted=len(outcome.members),
            attackers_accepted=len(attackers.intersection(outcome.members)),
            rejected=dict(sorted(self.refused.items())),
            banned_honest=sum(one.attacker is None for one in banned),
            banned_attackers=sum(one.attacker is not None for one in banned),
            alignment=self.alignment(effect),
            model_digest=outcome.model_digest.hex(),
            vanished=self.vanishing.of(outcome.round_info.number),
            plugins=node.machine.kernel.status(),
        )
        self.refused.clear()
        self.merged.update(outcome.members)
        self.records.append(record)
        if closed and self.keeper is not None:
            self.keeper.keep(self.checkpoint())
        if closed and self.on_model is not None:
            self.on_model(self.model())
        if progress is not None:
            progress(record)

    def checkpoint(self) -> Checkpoint:
        """The simulation as it goes on from here."""
        machine = self.observer.machine
        return Checkpoint(
            model=attrs.evolve(self.model(), vouchers=()),
            number=machine.model_round,
            now=self.now,
            streams=states(self.streams),
            counts={"messages": self.messages},
            records=tuple(self.records),
        )

    def model(self) -> SwarmModel:
        """The observer's model, and who vouches for it so far.

        A simulated node signs with a key that follows from the seed: its word proves nothing to
        others.
        """
        machine, swarm = self.observer.machine, self.swarm
        vouchers = {
            voucher.sender: voucher
            for node in self.honest
            if node.machine.model_digest == machine.model_digest
            for voucher in node.machine.vouchers
            if voucher.auth
        }
        signed = tuple(vouchers[sender] for sender in sorted(vouchers))
        return SwarmModel(swarm.name, machine.step, swarm.scale, machine.model, signed)

    def figures(self, effect: RoundEnded) -> dict[str, float]:
        """Figures of the model after a round."""
        name = f"node-{self.observer.index}"
        return evaluated(self.task.evaluate, effect.model, effect.outcome.round_info, node=name)

    def alignment(self, effect: RoundEnded) -> float | None:
        """Cosine between what was merged and the honest mean."""
        info = effect.outcome.round_info
        made = self.updates.get((info.number, info.model_digest), {})
        there = made.keys() - self.idle.pop(info.number, set())
        rows = [made[node.index].vector for node in self.honest if node.index in there]
        self.updates = {key: value for key, value in self.updates.items() if key[0] >= info.number}
        self.boards = {key: value for key, value in self.boards.items() if key[0] >= info.number}
        if effect.merged is None or not rows:
            return None
        return alignment(effect.merged, np.stack(rows))

    @property
    def said(self) -> tuple[str, ...]:
        """What came up while it ran."""
        return (self.vanishing.notice,) if self.vanishing.notice else ()

    def result(self) -> SimulationResult:
        """What the simulation came to."""
        kernel = self.observer.machine.kernel
        start = self.start
        resumed = () if start is None else notices(kernel, self.scenario, start, self.records)
        return SimulationResult(
            model=self.model(),
            trainer=self.task.name,
            nodes=self.swarm.nodes,
            attackers=self.scenario.attackers,
            attack=self.scenario.attack,
            seed=self.scenario.seed,
            pipeline=describe(kernel),
            notices=(*self.said, *self.task.notices, *kernel.solution.notices, *resumed),
            rounds=tuple(self.records),
            model_digests=tuple(
                node.machine.model_digest.hex() for node in self.honest or self.nodes
            ),
            virtual_seconds=round(self.now - EPOCH, 3),
            messages=self.messages,
            injected=dict(sorted(self.injected.items())),
            fates=tuple(self.fate(node) for node in self.nodes if node.attacker is not None),
        )

    def fate(self, node: _SimulatedNode) -> Fate:
        """What became of an attacker."""
        who = node.node_id
        held = self.observer.kernel.against.get(who, Counter[str]())
        return Fate(
            number=node.attacker or 0,
            node=who.hex(),
            merged=self.merged[who],
            against=dict(sorted(held.items())),
            banned_by=sum(one.kernel.standing(who).banned for one in self.honest),
        )


def simulate(  # noqa: PLR0913 - all but what is played by name
    config: Config,
    scenario: Scenario,
    *,
    task: Task | TaskConfig | None = None,
    installed: Mapping[str, Installed] | None = None,
    progress: Progress | None = None,
    hostile: Hostile | None = None,
    on_model: OnModel | None = None,
    save: Path | None = None,
    resume: Path | None = None,
) -> SimulationResult:
    """Play a swarm from its first round to the last.

    Args:
        config: the swarm and its plugins.
        scenario: rounds, seed, network, attack.
        task: what to learn; by default what the ``[trainer]`` table of ``config`` names, or else
            the digits. Of a built-in task the options are enough.
        installed: plugins by name instead of those installed in the environment.
        progress: called with each round's record as it ends.
        hostile: plugins that the attackers run in place of the installed ones of the same name.
        on_model: given each new model as it is made, before all nodes vouch for it.
        save: a new folder for ``model.npz`` and for a checkpoint after each round.
        resume: such a folder, to go on from; only ``rounds`` may be another than before.

    Returns:
        the records of all rounds and every honest node's final model digest. The same arguments
        give the same result, bit by bit.

    Raises:
        QresError: the configuration cannot start, or an honest node diverged (QRES-E601).
        ModelError: QRES-E605 for a checkpoint that cannot be read.
        ConfigError: QRES-E105 names what is other than when the checkpoint was written.
        CompatibilityError: QRES-E317 for plugins that must not begin anew.
    """
    if task is None:
        task = swarm_task(config, seed=scenario.seed)
    elif isinstance(task, TaskConfig):
        swarm = config.swarm
        task = make_task(task, nodes=swarm.nodes, seed=scenario.seed, scale=swarm.scale)
    installed = scan() if installed is None else installed
    keeper = None
    if resume is not None:
        keeper = CheckpointFolder.of(resume, settings(config, scenario, task.initial))
    elif save is not None:
        keeper = CheckpointFolder.new(save, settings(config, scenario, task.initial))
    if scenario.engine == "vectorised":
        from qres_core.lab.vectorised import simulate_vectorised  # noqa: PLC0415 - a cycle

        return simulate_vectorised(
            config, scenario, task, installed, progress, hostile, keeper=keeper, on_model=on_model
        )
    start = None if keeper is None else keeper.start
    journal = MemoryJournal if start is None else start.journal
    simulation = Simulation(config, scenario, task, installed, hostile, journal=journal)
    simulation.keeper, simulation.on_model = keeper, on_model
    begun = False
    try:
        if start is not None:
            simulation.go_on(start)
        begun = True
        simulation.run(progress)
    finally:
        # What is refused leaves the folder as it was.
        if begun and keeper is not None and simulation.observer.machine.step:
            keeper.finish(simulation.model())
        for node in simulation.nodes:
            node.machine.kernel.teardown()
    if simulation.diverged is not None:
        raise simulation.diverged
    return simulation.result()
