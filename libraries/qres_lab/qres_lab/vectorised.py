"""The fast path for large swarms: one observer, every contribution through every hook, no votes.

Each round, each node's update goes through ``privatize``, ``prove``, ``sign``, the wire, the whole
inbound path, ``verify``, ``reveal`` and ``aggregate`` of one kernel, as an observer would see it.
Dialogues of plugins are played by all nodes (:mod:`qres_lab.conversation`). What is left out
is the agreement (all contributions that pass are the set) and the network with its clock: delay and
jitter mean nothing here, and what would change the outcome (loss, duplication, churn, injected
messages) is refused rather than ignored. A node that drops out does so once all dialogues are
ready, before or after it contributes, and is back in the next round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from qres_core.attacks import Attack
from qres_core.attacks.installed import on_protocol
from qres_core.attacks.scenario import Scenario
from qres_core.contract.errors import LabError, QresError
from qres_core.contract.fixed import add_saturating, difference
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo
from qres_core.contract.trainer_abilities import base_of
from qres_core.contract.types import NodeId, Update, Vector, model_digest
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.node_ids import node_ids
from qres_core.lab.adversary import Adversary, hostile_plugins
from qres_core.lab.checkpoint import Checkpoint, check_resumable, memories, plugin_memories, states
from qres_core.lab.clock import EPOCH
from qres_core.lab.experiment import Experiment
from qres_core.lab.meter import Meter
from qres_core.lab.nodes import WrappedKernel, identify
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.recorder import Recorder
from qres_core.swarm.context.position import node_info, round_info
from qres_core.swarm.contributions.lone_round import LoneRound, aborted, protected
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    CandidateSet,
)
from qres_core.swarm.ledger.results import UNFINISHED, Merged, Void
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.storage.model_file import SwarmModel
from qres_lab.conversation import Conversation

_OUTBOUND: Final = ("identity", "sign", "privatize", "prove")


def _refuse_network(scenario: Scenario) -> None:
    for key in ("loss", "duplication", "churn"):
        if getattr(scenario, key):
            what = "the vectorised engine has no network"
            fix = 'engine = "events", or leave the key out'
            raise LabError.of("QRES-E105", f"simulation.{key}", what, fix)
    for key in ("attack", "sabotage"):
        if (name := getattr(scenario, key)) in on_protocol():
            what = f"{name!r} is about messages, and the vectorised engine has no network"
            raise LabError.of("QRES-E105", f"simulation.{key}", what, 'engine = "events"')


def _refuse_shards(swarm: SwarmConfig) -> None:
    if swarm.participants:
        what = "swarm.participants is set, and in the vectorised engine everybody trains"
        fix = 'engine = "events", or swarm.participants = 0'
        raise LabError.of("QRES-E105", "simulation.engine", what, fix)
    if swarm.aggregation == "sharded":
        what = 'swarm.aggregation is "sharded", and the vectorised engine plays no committees'
        fix = 'engine = "events", or swarm.aggregation = "everyone"'
        raise LabError.of("QRES-E105", "simulation.engine", what, fix)


class VectorisedEngine:
    """One node's view of a swarm whose messages all arrive.

    Raises:
        LabError: QRES-E105 for network options.
        QresError: the configuration cannot start, or not with this attack.

    Attributes:
        ids: the nodes' identities, the attackers last.
        kernels: of the nodes; one for all where nothing differs between them.
        kernel: of the observer, the first node, whose rounds the ``recorder`` notes.
    """

    def __init__(self, experiment: Experiment) -> None:
        _refuse_network(experiment.scenario)
        _refuse_shards(experiment.config.swarm)
        self._experiment, self._swarm = experiment, experiment.config.swarm
        self.adversary = Adversary(experiment)
        self._trainings = self.adversary.trainings
        self.kernels, self.ids = self._made(experiment)
        self.kernel = self.kernels[0]
        self.adversary.spy_on(self.kernels, self.ids)
        attackers = self.ids[experiment.honest :]
        self.recorder = Recorder(experiment, self.kernel, attackers, self._trainings, Meter(1))
        self._falls = experiment.stream(3)
        self._streams = {**self.adversary.streams, "dropouts": self._falls}
        self._model: Vector = experiment.task.initial
        self._sequence = self._messages = 0
        self._found = ""  # what the observer found in place of a model
        roster = Roster(tuple(sorted(self.ids)), self._swarm.byzantine, self._swarm.quorum)
        first = model_digest(self._model, 0)
        settings = self.kernel.settings.on_top_of(base_of(experiment.task.trainers[0]))
        self._head = Head.first(self._swarm.name, first, roster, settings.digest)

    @property
    def step(self) -> int:
        """Number of models that the current one follows."""
        return self._head.step

    def _made(self, experiment: Experiment) -> tuple[Sequence[Kernel], list[NodeId]]:
        """The nodes' kernels, set up, and their identities."""
        config, seed, installed = experiment.config, experiment.scenario.seed, experiment.installed
        kernel = Kernel.from_config(config, installed=installed)
        kernel.fit(int(experiment.task.initial.size))
        kernels: Sequence[Kernel] = [kernel] * config.swarm.nodes
        if any(kernel.has(hook) for hook in _OUTBOUND):
            theirs = hostile_plugins(experiment)
            kernels, ids = identify(config, seed, installed, theirs=theirs)
        else:  # nothing differs between the nodes, so one kernel speaks for all
            ids = node_ids(config.swarm.nodes, seed)
        for node_id, each in zip(ids, kernels, strict=True):
            trainer = experiment.task.trainers[0]
            each.setup(node_info(config.swarm, node_id, ids, trainer, seed=seed))
        return kernels, ids

    def go_on(self, start: Checkpoint) -> None:
        """Go on from the experiment's checkpoint."""
        check_resumable(self.kernel)
        start.restore(self._streams)
        start.recall(self.recorder.trainings.task.trainers, self.kernels)
        self.adversary.recall(start.attack)
        self._model, self._head = start.model.vector, start.head
        self._sequence, self._messages = start.counts["sequence"], start.counts["messages"]
        self.recorder.records = list(start.records)

    def run(self) -> None:
        """Play the rounds that are left: O(rounds · (n · (training + hooks) + aggregation))."""
        records = self.recorder.records
        first = records[-1].number + 1 if records else 1
        for number in range(first, self._experiment.scenario.rounds + 1):
            self.play(number)
            self.recorder.tell(self.model, self._checkpoint)
            if self.recorder.is_hopeless:
                return

    def model(self) -> SwarmModel:
        """The model; there is no vote on it."""
        return SwarmModel(self._swarm.name, self.step, self._swarm.scale, self._model)

    def _checkpoint(self) -> Checkpoint:
        """The simulation as it goes on from here."""
        number = self.recorder.records[-1].number
        return Checkpoint(
            model=self.model(),
            head=self._head,
            number=number,
            now=EPOCH,
            streams=states(self._streams),
            counts={"messages": self._messages, "sequence": self._sequence},
            records=tuple(self.recorder.records),
            memories=memories(self.recorder.trainings.task.trainers, number),
            plugins=plugin_memories(self.kernels, self.kernels[0]),
            attack=self.adversary.kept(number).memory,
        )

    def result(self) -> SimulationResult:
        """Result of the simulation."""
        return self.recorder.result(
            model=self.model(),
            digests=[model_digest(self._model, self.step)],
            judges=[self.kernel],
            against=self.kernel.against if isinstance(self.kernel, WrappedKernel) else {},
            messages=self._messages,
        )

    # ── what the nodes send ───────────────────────────────────────────────────────────────────

    def _round_info(self, number: int) -> RoundInfo:
        """A round at the engine's head: nobody votes, and the history is the observer's alone."""
        return round_info(self._swarm, self._head, int(self._model.size), number)

    def _dropouts(self) -> tuple[set[int], set[int]]:
        """Honest nodes that fall silent in the round: before they contribute, and after."""
        share, honest = self._experiment.scenario.dropout, self._experiment.honest
        if not share:
            return set(), set()
        drawn = self._falls.random((honest, 2))
        fell = [node for node in range(1, honest) if drawn[node, 0] < share]
        before = {node for node in fell if drawn[node, 1] < 0.5}
        return before, set(fell) - before

    def _payloads(self, info: RoundInfo, gone: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Payloads of every node that is not gone, attackers included, by index of the node."""
        for node in range(self._experiment.honest):
            if node not in gone and not self._trainings.idle(node, info, self._model):
                update = self._trainings.of(node, info, self._model)
                yield from self._protected(node, update, info)
        if self.adversary.attack is not None:
            for attacker in range(self._experiment.scenario.attackers):
                yield from self._lies(self.adversary.attack, attacker, info)

    def _protected(self, node: int, update: Update, info: RoundInfo) -> list[tuple[int, bytes]]:
        """An update as a node's own plugins send it; nothing if they refuse."""
        try:
            made = protected(self.kernels[node], update, info)
        except QresError as error:  # a node whose plugins refuse sits the round out
            self.recorder.refused[error.code] += 1
            return []
        return [(node, made.to_bytes())]

    def _lies(self, attack: Attack, attacker: int, info: RoundInfo) -> list[tuple[int, bytes]]:
        forgeries = self.adversary.forge(attack, attacker, info, self._model)
        node = self._experiment.honest + attacker
        try:
            lies = self.adversary.dressed(forgeries)
        except QresError as error:
            self.recorder.refused[error.code] += 1
            return []
        sent: list[tuple[int, bytes]] = []
        for lie in lies:
            if isinstance(lie, bytes):
                sent.append((node, lie))
            else:
                sent += self._protected(node, lie, info)
        return sent

    # ── what the observer takes in ────────────────────────────────────────────────────────────

    def _carry(
        self, kernel: Kernel, sender: NodeId, kind: str, payload: bytes, info: RoundInfo
    ) -> Envelope | None:
        """Sign and encode a message, and take it in; ``None`` if the observer refuses it."""
        now, sequence = EPOCH + info.number, self._sequence
        self._sequence += 1
        self._messages += 1
        head, sent = info.head, int(now * 1000)
        envelope = Envelope(info.swarm, kind, info.number, head, sender, sequence, sent, payload)
        frame = kernel.sign(envelope).to_bytes()
        if sender != self.ids[0]:  # the observer's own
            self.recorder.meter.count(0, envelope, len(frame))
        arrived = self.kernel.inbound(frame, sender, now)
        if isinstance(arrived, Rejection):
            self.recorder.refused[arrived.reason] += 1
            return None
        return arrived

    def _converse(self, info: RoundInfo) -> Conversation:
        """Open the round at every node whose plugins take part in it."""
        kernels = dict(zip(self.ids, self.kernels, strict=True))
        if len(set(self.kernels)) < len(self.kernels):  # one kernel speaks for all
            kernels = {self.ids[0]: self.kernel}

        def carry(sender: NodeId, kind: str, payload: bytes) -> Envelope | None:
            return self._carry(kernels[sender], sender, kind, payload, info)

        conversation = Conversation(kernels, carry)
        conversation.open(info, 0.0)
        return conversation

    def _take(self, node: int, payload: bytes, lone: LoneRound) -> None:
        """Carry one contribution, and keep it if nothing speaks against it."""
        sender = self.ids[node]
        arrived = self._carry(self.kernels[node], sender, CONTRIBUTION, payload, lone.info)
        if arrived is None:
            return
        refusal = lone.take(arrived)
        if refusal is None:
            self._trainings.sent(node, arrived)
        else:
            self.recorder.refused[refusal.reason] += 1

    # ── a round ───────────────────────────────────────────────────────────────────────────────

    def play(self, number: int) -> RoundRecord:
        """Play a round."""
        head, info = self._head, self._round_info(number)
        lone = LoneRound(self.kernel, info)
        for kernel in dict.fromkeys(self.kernels):
            kernel.enter(frozenset(head.roster.members), frozenset(head.bans))
        conversation = self._converse(info)
        if self.adversary.attack is not None:
            for attacker in range(self._experiment.scenario.attackers):
                self._trainings.begin(self._experiment.honest + attacker, info, self._model)
        self._trainings.all_honest(info, self._model)  # those that drop out train too
        before, after = self._dropouts()
        conversation.silent.update(self.ids[node] for node in before | after)
        for node, payload in self._payloads(info, before):
            self._take(node, payload, lone)
        held_out = HeldOut.of(self._trainings.task.trainers[0], self._model, info)
        for evidence in lone.choose(held_out):
            self.recorder.refused[evidence.fact] += 1
        self._found = ""
        outcome, merged = aborted(info, lone.lost), None
        if not lone.lost:
            outcome, merged = self._settled(lone, conversation)
        for kernel in dict.fromkeys(self.kernels):
            kernel.round_closed(outcome)
        record = self.recorder.note(outcome, self._model, merged, found=self._found)
        self.adversary.forget(number + 1)
        return record

    def _settled(
        self, lone: LoneRound, conversation: Conversation
    ) -> tuple[Outcome, Vector | None]:
        """Fate of a set that is decided."""
        info, chosen = lone.info, CandidateSet(lone.info.number, lone.members)
        code, merged = UNFINISHED, None
        if conversation.decide(lone.contributions, info):
            try:
                merged = lone.merge()
            except QresError as error:
                self._found = f"{error.problems[0].where}: {error.problems[0].what}"
                code = error.code
        if merged is None:  # the height is over without a model
            self._head = self._head.after(chosen, Void(code))
            return lone.void(code), None
        before, self._model = self._model, add_saturating(self._model, merged).vector
        digest = model_digest(self._model, self.step + 1)
        outcome = lone.closed(digest, difference(self._model, before))
        self._head = self._head.after(chosen, Merged(digest))
        return outcome, merged
