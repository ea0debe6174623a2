"""The fast path for large swarms: one observer, every contribution through every hook, no votes.

Each round, each node's update goes through ``privatize``, ``prove``, ``sign``, the wire, the whole
inbound path, ``verify``, ``reveal`` and ``aggregate`` of one kernel, as an observer would see it.
Dialogues of plugins are played by all nodes (:mod:`qres_core.lab.conversation`). What is left out
is the agreement (all contributions that pass are the set) and the network with its clock: delay and
jitter mean nothing here, and what would change the outcome (loss, duplication, churn, injected
messages) is refused rather than ignored. A node that drops out does so once all dialogues are
ready, before or after it contributes, and is back in the next round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from qres_core.contract.errors import LabError, QresError, WireError
from qres_core.contract.evidence import Evidence
from qres_core.contract.faults import KERNEL, Fault, Merit, of_plugin
from qres_core.contract.fixed import add_saturating, difference
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo, RoundStatus
from qres_core.contract.trainer import base_of
from qres_core.contract.types import Contribution, NodeId, Update, Vector, model_digest
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.lab.adversary import Adversary, hostile_plugins
from qres_core.lab.attacks import Attack
from qres_core.lab.checkpoint import Checkpoint, check_resumable, memories, plugin_memories, states
from qres_core.lab.clock import EPOCH
from qres_core.lab.conversation import Conversation
from qres_core.lab.experiment import Experiment
from qres_core.lab.meter import Meter
from qres_core.lab.nodes import WrappedKernel, identify, node_ids
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.recorder import Recorder
from qres_core.lab.sabotage import SABOTAGE
from qres_core.lab.scenario import Scenario
from qres_core.swarm.chain import Head
from qres_core.swarm.context import node_info, round_info
from qres_core.swarm.gathering import Gathering, Held
from qres_core.swarm.merge import Merger
from qres_core.swarm.messages import (
    CONTRIBUTION,
    CandidateSet,
    ContributionBody,
    contribution_digest,
)
from qres_core.swarm.model_file import SwarmModel
from qres_core.swarm.results import UNFINISHED, Merged, Void
from qres_core.swarm.roster import Roster

_OUTBOUND: Final = ("identity", "sign", "privatize", "prove")


def _refuse_network(scenario: Scenario) -> None:
    for key in ("loss", "duplication", "churn"):
        if getattr(scenario, key):
            what = "the vectorised engine has no network"
            fix = 'engine = "events", or leave the key out'
            raise LabError.of("QRES-E105", f"simulation.{key}", what, fix)
    for key in ("attack", "sabotage"):
        if (name := getattr(scenario, key)) in SABOTAGE:
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
        """How many models the current one follows."""
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
        """What the simulation came to."""
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
        """What every node sends that is not gone, attackers included, by index of the node."""
        for node in range(self._experiment.honest):
            if node not in gone and not self._trainings.idle(node, info, self._model):
                update = self._trainings.of(node, info, self._model)
                yield from self._protected(node, update, info)
        if self.adversary.attack is not None:
            for attacker in range(self._experiment.scenario.attackers):
                yield from self._lies(self.adversary.attack, attacker, info)

    def _protected(self, node: int, update: Update, info: RoundInfo) -> list[tuple[int, bytes]]:
        """An update as a node's own plugins send it; nothing if they refuse."""
        kernel = self.kernels[node]
        try:
            hidden = kernel.privatize(update, info)
            proofs = kernel.prove(hidden, info)
        except QresError as error:  # a node whose plugins refuse sits the round out
            self.recorder.refused[error.code] += 1
            return []
        weight = min(hidden.weight, self._swarm.weight_cap)
        body = ContributionBody(weight, hidden.vector, proofs, hidden.companions)
        return [(node, body.to_bytes())]

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

    def _take(self, node: int, payload: bytes, info: RoundInfo, gathering: Gathering) -> None:
        """Carry one contribution, and keep it if nothing speaks against it."""
        sender = self.ids[node]
        arrived = self._carry(self.kernels[node], sender, CONTRIBUTION, payload, info)
        if arrived is None:
            return
        try:
            body = ContributionBody.from_bytes(arrived.payload, info.dimension)
            self.kernel.check_beside(body.proofs, body.companions)
        except WireError:
            self._refuse(Fault.MALFORMED_PAYLOAD, sender, info)
            return
        weight, digest = min(body.weight, self._swarm.weight_cap), contribution_digest(arrived)
        contribution = Contribution(
            sender, digest, body.vector, weight, body.proofs, body.companions
        )
        verdict, source = self.kernel.verify(contribution, info)
        if verdict is not ACCEPT:
            self._refuse(verdict.reason, sender, info, source, verdict.blame)
        elif gathering.add(Held(contribution, arrived)):
            self._trainings.sent(node, arrived)
        else:
            self._refuse(Fault.EQUIVOCATION, sender, info)

    def _refuse(
        self,
        reason: str,
        sender: NodeId,
        info: RoundInfo,
        source: str = KERNEL,
        blame: Blame = Blame.SENDER,
    ) -> None:
        refusal = self.kernel.refuse(reason, blame, sender, source, info.number)
        self.recorder.refused[refusal.reason] += 1

    # ── a round ───────────────────────────────────────────────────────────────────────────────

    def play(self, number: int) -> RoundRecord:
        """Play a round."""
        head, gathering = self._head, Gathering()
        info = self._round_info(number)
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
            self._take(node, payload, info, gathering)
        held_out = HeldOut.of(self._trainings.task.trainers[0], self._model, info)
        merger = Merger(self.kernel, gathering, info, held_out)
        self._found = ""
        outcome, merged = self._end(merger, conversation)
        for kernel in dict.fromkeys(self.kernels):
            kernel.round_closed(outcome)
        record = self.recorder.note(outcome, self._model, merged, found=self._found)
        self.adversary.forget(number + 1)
        return record

    def _end(self, merger: Merger, conversation: Conversation) -> tuple[Outcome, Vector | None]:
        """How a round ends whose contributions are there, and what they merge to."""
        info = merger.info
        try:
            choice = merger.choose()
        except QresError as error:  # a node whose plugins cannot screen proposes nothing
            self.kernel.rejections[f"{KERNEL}:not-screened-{error.code.lower()}"] += 1
            return _aborted(info, f"screening refused: {error.problems[0]}")
        for evidence in choice.against:
            self.kernel.observe(evidence)
            self.recorder.refused[evidence.fact] += 1
        members = choice.members
        if len(members) < info.quorum:
            return _aborted(info, f"{len(members)} contributions, quorum {info.quorum}")
        try:
            verdict, plugin = merger.judge(members)
            if verdict is not ACCEPT:
                return _aborted(info, of_plugin(plugin, verdict.reason))
        except QresError as error:
            return _aborted(info, f"aggregation refused: {error.problems[0]}")
        return self._settled(merger, conversation, CandidateSet(info.number, members))

    def _settled(
        self, merger: Merger, conversation: Conversation, chosen: CandidateSet
    ) -> tuple[Outcome, Vector | None]:
        """What becomes of a set that is decided."""
        info, members = merger.info, chosen.members
        if not conversation.decide(merger.gathering.contributions(members), info):
            return self._void(info, chosen, UNFINISHED)
        try:
            merged = merger.merge(members)
        except QresError as error:
            self._found = f"{error.problems[0].where}: {error.problems[0].what}"
            return self._void(info, chosen, error.code)
        before, self._model = self._model, add_saturating(self._model, info.placed(merged)).vector
        senders = tuple(member.sender for member in members)
        for sender in senders:
            fact = Evidence(sender, Merit.CONTRIBUTED, KERNEL, info.number)
            self.kernel.observe(fact)
        digest = model_digest(self._model, self.step + 1)
        self._head = self._head.after(chosen, Merged(digest))
        change = difference(self._model, before)
        return Outcome(info, RoundStatus.CLOSED, digest, senders, change=change), merged

    def _void(self, info: RoundInfo, chosen: CandidateSet, code: str) -> tuple[Outcome, None]:
        """The height is over without a model."""
        result = Void(code)
        self._head = self._head.after(chosen, result)
        senders = tuple(member.sender for member in chosen.members)
        outcome = Outcome(
            info, RoundStatus.VOID, info.model_digest, senders, result.reason, result.code
        )
        return outcome, None


def _aborted(info: RoundInfo, reason: str) -> tuple[Outcome, None]:
    """The round changes nothing."""
    return Outcome(info, RoundStatus.ABORTED, info.model_digest, reason=reason), None
