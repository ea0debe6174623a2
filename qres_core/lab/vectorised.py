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

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qres_core.contract.errors import LabError, QresError, ValueRefusedError, WireError
from qres_core.contract.evidence import Evidence
from qres_core.contract.fixed import add_saturating
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo, RoundStatus
from qres_core.contract.training import evaluated
from qres_core.contract.types import (
    Contribution,
    NodeId,
    Update,
    Vector,
    model_digest,
)
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.lab.attacks import AttackContext, make_attack
from qres_core.lab.attacks.poisoning import under_attack
from qres_core.lab.checkpoint import Checkpoint, CheckpointFolder, check_resumable, notices, states
from qres_core.lab.conversation import Conversation
from qres_core.lab.record import Fate, RoundRecord, SimulationResult, alignment
from qres_core.lab.sabotage import SABOTAGE
from qres_core.lab.scenario import Scenario
from qres_core.lab.shadow import Sandbox, Shadow, probe_for
from qres_core.lab.simulator import (
    EPOCH,
    describe,
    identify,
    lie_as_update,
    node_ids,
    plugins_of,
)
from qres_core.lab.tasks import Task, Vanishing, trained
from qres_core.swarm.gathering import Gathering, Held
from qres_core.swarm.joining import node_info
from qres_core.swarm.merge import Merger
from qres_core.swarm.messages import (
    CONTRIBUTION,
    ContributionBody,
    contribution_digest,
    encode_contribution,
)
from qres_core.swarm.model_file import SwarmModel

if TYPE_CHECKING:
    from qres_core.lab.simulator import Hostile, OnModel, Progress


_OUTBOUND: Final = ("identity", "sign", "privatize", "prove")


def _refuse_network(scenario: Scenario) -> None:
    for key in ("loss", "duplication", "churn"):
        if getattr(scenario, key):
            what = "the vectorised engine has no network"
            fix = 'engine = "events", or leave the key out'
            raise LabError.of("QRES-E105", f"simulation.{key}", what, fix)


class _Observer:
    """One node's view of a swarm whose messages all arrive."""

    def __init__(
        self,
        config: Config,
        scenario: Scenario,
        task: Task,
        installed: Mapping[str, Installed],
        hostile: Hostile | None = None,
        *,
        start: Checkpoint | None = None,
    ) -> None:
        self.config, self.scenario = config, scenario
        self.attack = make_attack(scenario.attack, scenario.strength) if scenario.attack else None
        self.task = under_attack(task, self.attack, scenario.attackers)
        swarm = config.swarm
        self.honest = swarm.nodes - scenario.attackers
        self.against: dict[NodeId, Counter[str]] = {}
        self.kernel = Kernel.from_config(config, installed=installed)
        self.kernel.fit(int(task.initial.size))
        if any(self.kernel.has(hook) for hook in _OUTBOUND):
            theirs = plugins_of(hostile, swarm.nodes, scenario.attackers, installed)
            found, self.ids = identify(config, scenario.seed, installed, theirs=theirs)
            self.kernels: list[Kernel] = list(found)
            self.kernel, self.against = found[0], found[0].against
        else:  # nothing differs between the nodes, so one kernel speaks for all
            self.ids = node_ids(swarm.nodes, scenario.seed)
            self.kernels = [self.kernel] * swarm.nodes
        self.sandbox = Sandbox(self.kernel)
        self.roster = tuple(sorted(self.ids))
        for node_id, kernel in zip(self.ids, self.kernels, strict=True):
            info = node_info(swarm, node_id, self.roster, task.trainers[0], seed=scenario.seed)
            kernel.setup(info)
        self.lies = np.random.Generator(np.random.PCG64(np.random.SeedSequence((scenario.seed, 2))))
        self.falls = np.random.Generator(
            np.random.PCG64(np.random.SeedSequence((scenario.seed, 3)))
        )
        self.model: Vector = task.initial
        self.step = 0
        self.sequence = 0
        self.messages = 0
        self.vanishing = Vanishing()
        self.idle: set[int] = set()  # who had nothing new to train on in this round
        self.sat_out: Counter[str] = Counter()
        self.merged: Counter[NodeId] = Counter()
        if start is not None:
            start.restore(self.streams)
            self.model, self.step = start.model.vector, start.model.step
            self.sequence, self.messages = start.counts["sequence"], start.counts["messages"]

    @property
    def streams(self) -> dict[str, np.random.Generator]:
        """The random streams that go on from round to round."""
        return {"attack": self.lies, "dropouts": self.falls}

    def saved(self) -> SwarmModel:
        """The model; there is no vote, and nobody vouches for it."""
        swarm = self.config.swarm
        return SwarmModel(swarm.name, self.step, swarm.scale, self.model)

    def checkpoint(self, records: Sequence[RoundRecord]) -> Checkpoint:
        """The simulation as it goes on from here."""
        return Checkpoint(
            model=self.saved(),
            number=records[-1].number,
            now=EPOCH,
            streams=states(self.streams),
            counts={"messages": self.messages, "sequence": self.sequence},
            records=tuple(records),
        )

    def round_info(self, number: int) -> RoundInfo:
        swarm = self.config.swarm
        return RoundInfo(
            swarm.name,
            number,
            model_digest(self.model, self.step),
            int(self.model.size),
            swarm.scale,
            self.roster,
            swarm.quorum,
            swarm.byzantine,
            self.step,
        )

    def protected(self, node: int, update: Update, info: RoundInfo) -> bytes:
        """An update as a node's own plugins send it."""
        hidden = self.kernels[node].privatize(update, info)
        proofs = self.kernels[node].prove(hidden, info)
        weight = min(hidden.weight, self.config.swarm.weight_cap)
        return ContributionBody(weight, hidden.vector, proofs, hidden.companions).to_bytes()

    def payloads(
        self, info: RoundInfo, updates: Sequence[Update], gone: Collection[int] = ()
    ) -> list[tuple[int, bytes]]:
        """What every node sends that is not gone, attackers included, by index of the node."""
        made: list[tuple[int, bytes]] = []
        cap = self.config.swarm.weight_cap
        for node, update in enumerate(updates[: self.honest]):
            if node in gone:
                continue
            try:
                made.append((node, self.protected(node, update, info)))
            except QresError as error:  # a node whose plugins refuse sits the round out
                self.sat_out[error.code] += 1
        if self.attack is None:
            return made
        rows = [updates[node].vector for node in range(self.honest) if node not in self.idle]
        honest = np.stack(rows) if rows else np.empty((0, info.dimension), dtype=np.int32)
        probe = probe_for(self.attack, lambda: self.shadow(info, updates))
        board: dict[str, Any] = {}
        for index, own in enumerate(updates[self.honest :]):
            context = AttackContext(
                info,
                self.model,
                own,
                honest,
                self.scenario.attackers,
                index,
                self.lies,
                probe,
                board,
            )
            forgeries = self.attack.forge(context)
            if forgeries and self.scenario.lies == "protocol":
                try:
                    lie = lie_as_update(forgeries[0])
                    node = self.honest + index
                    made.append((node, self.protected(node, lie, info)))
                except QresError as error:
                    self.sat_out[error.code] += 1
                continue
            for forgery in forgeries:
                weight = max(1, min(forgery.weight, cap))
                payload = encode_contribution(weight, forgery.octets, {})
                made.append((self.honest + index, payload))
        return made

    def shadow(self, info: RoundInfo, updates: Sequence[Update]) -> Shadow:
        """The round as attackers may try it on the observer's plugins."""
        there = [node for node in range(len(updates)) if node not in self.idle]
        honest = {self.ids[node]: updates[node] for node in there if node < self.honest}
        attackers = {self.ids[node]: updates[node] for node in there if node >= self.honest}
        return Shadow(self.sandbox, info, self.model, honest, attackers, self.task.trainers[0])

    def carry(
        self, kernel: Kernel, sender: NodeId, kind: str, payload: bytes, info: RoundInfo
    ) -> Envelope | Rejection:
        """Sign and encode a message, and take it in."""
        now = EPOCH + info.number
        envelope = Envelope(
            info.swarm,
            kind,
            info.number,
            info.model_digest,
            sender,
            self.sequence,
            int(now * 1000),
            payload,
        )
        self.sequence += 1
        self.messages += 1
        return self.kernel.inbound(kernel.sign(envelope).to_bytes(), sender, now)

    def converse(self, info: RoundInfo, refused: Counter[str]) -> Conversation:
        """Open the round at every node whose plugins take part in it."""
        kernels = dict(zip(self.ids, self.kernels, strict=True))
        if len(set(self.kernels)) < len(self.kernels):  # one kernel speaks for all
            kernels = {self.ids[0]: self.kernel}

        def carry(sender: NodeId, kind: str, payload: bytes) -> Envelope | None:
            arrived = self.carry(kernels[sender], sender, kind, payload, info)
            if isinstance(arrived, Rejection):
                refused[arrived.reason] += 1
                return None
            return arrived

        conversation = Conversation(kernels, carry)
        conversation.open(info, 0.0)
        return conversation

    def dropouts(self) -> tuple[set[int], set[int]]:
        """Honest nodes that fall silent in the round: before they contribute, and after."""
        share = self.scenario.dropout
        if not share:
            return set(), set()
        drawn = self.falls.random((self.honest, 2))
        fell = [node for node in range(1, self.honest) if drawn[node, 0] < share]
        before = {node for node in fell if drawn[node, 1] < 0.5}
        return before, set(fell) - before

    def deliver(self, node: int, payload: bytes, info: RoundInfo, gathering: Gathering) -> str:
        """Sign, encode, and take in one contribution; why it was refused, or an empty string."""
        sender = self.ids[node]
        arrived = self.carry(self.kernels[node], sender, CONTRIBUTION, payload, info)
        if isinstance(arrived, Rejection):
            return arrived.reason
        try:
            body = ContributionBody.from_bytes(arrived.payload, info.dimension)
        except WireError as error:
            return self.refuse(f"malformed {error.problems[0].where}", sender, info, "kernel")
        weight = min(body.weight, self.config.swarm.weight_cap)
        digest = contribution_digest(arrived)
        contribution = Contribution(
            sender, digest, body.vector, weight, body.proofs, body.companions
        )
        verdict, source = self.kernel.verify(contribution, info)
        if verdict is not ACCEPT:
            return self.refuse(verdict.reason, sender, info, source, verdict.blame)
        if not gathering.add(Held(contribution, arrived)):
            return self.refuse("equivocation", sender, info, "kernel")
        return ""

    def refuse(
        self,
        reason: str,
        sender: NodeId,
        info: RoundInfo,
        source: str,
        blame: Blame = Blame.SENDER,
    ) -> str:
        return self.kernel.refuse(reason, blame, sender, source, info.number).reason

    def fates(self) -> tuple[Fate, ...]:
        """What became of the attackers; bans are the observer's alone."""
        return tuple(
            Fate(
                number=number,
                node=who.hex(),
                merged=self.merged[who],
                against=dict(sorted(self.against.get(who, Counter()).items())),
                banned_by=int(self.kernel.standing(who).banned),
            )
            for number, who in enumerate(self.ids[self.honest :])
        )

    def close(self, outcome: Outcome) -> None:
        """Tell every node how the round ended."""
        for kernel in dict.fromkeys(self.kernels):
            kernel.round_closed(outcome)

    def aborted(self, info: RoundInfo, reason: str, refused: Counter[str]) -> RoundRecord:
        """The round changes nothing."""
        self.close(Outcome(info, RoundStatus.ABORTED, info.model_digest, reason=reason))
        return RoundRecord(
            number=info.number,
            closed=False,
            reason=reason,
            rejected=dict(sorted(refused.items())),
            model_digest=info.model_digest.hex(),
            plugins=self.kernel.status(),
        )

    def play(self, number: int) -> RoundRecord:
        info = self.round_info(number)
        gathering, refused = Gathering(), Counter[str]()
        conversation = self.converse(info, refused)
        fitted = [
            trained(trainer, self.model, info, node=f"node-{node}")
            for node, trainer in enumerate(self.task.trainers)
        ]
        updates = [update for update, _new in fitted]
        self.idle = {node for node, (_update, new) in enumerate(fitted) if not new}
        for node in sorted(set(range(self.honest)) - self.idle):
            self.vanishing.see(updates[node], self.model, info, f"node-{node}")
        before, after = self.dropouts()
        conversation.silent.update(self.ids[node] for node in before | after)
        for node, payload in self.payloads(info, updates, before | self.idle):
            if reason := self.deliver(node, payload, info, gathering):
                refused[reason] += 1
        held_out = HeldOut.of(self.task.trainers[0], self.model, info)
        merger = Merger(self.kernel, gathering, info, held_out)
        choice = merger.choose()
        for evidence in choice.against:
            self.kernel.observe(evidence)
            refused[evidence.fact] += 1
        members, quorum = choice.members, info.quorum
        refused.update(self.sat_out)  # by the error that kept a node out
        self.sat_out.clear()
        senders = tuple(member.sender for member in members)
        if len(members) < quorum:
            return self.aborted(info, f"{len(members)} contributions, quorum {quorum}", refused)
        try:
            verdict, _plugin = merger.judge(members)
            if verdict is not ACCEPT:
                return self.aborted(info, verdict.reason, refused)
            if not conversation.decide(gathering.contributions(members), info):
                return self.aborted(info, "a dialogue did not finish", refused)
            merged = merger.merge(members)
        except ValueRefusedError as error:
            return self.aborted(info, f"aggregation refused: {error.problems[0]}", refused)
        rejected = dict(sorted(refused.items()))
        self.model = add_saturating(self.model, merged).vector
        self.step += 1
        digest = model_digest(self.model, self.step)
        for sender in senders:
            fact = Evidence(sender, "contributed", "kernel", against=False, round=number)
            self.kernel.observe(fact)
        self.merged.update(senders)
        self.close(Outcome(info, RoundStatus.CLOSED, digest, senders))
        there = [updates[node].vector for node in range(self.honest) if node not in self.idle]
        return RoundRecord(
            number=number,
            closed=True,
            metrics=evaluated(self.task.evaluate, self.model, info, node="node-0"),
            accepted=len(members),
            attackers_accepted=len(set(senders) & set(self.ids[self.honest :])),
            rejected=rejected,
            alignment=alignment(merged, np.stack(there)) if there else None,
            model_digest=digest.hex(),
            vanished=self.vanishing.of(number),
            plugins=self.kernel.status(),
        )


def simulate_vectorised(
    config: Config,
    scenario: Scenario,
    task: Task,
    installed: Mapping[str, Installed],
    progress: Progress | None,
    hostile: Hostile | None = None,
    *,
    keeper: CheckpointFolder | None = None,
    on_model: OnModel | None = None,
) -> SimulationResult:
    """Like :func:`qres_core.lab.simulator.simulate`, seen by one observer.

    Raises:
        LabError: QRES-E105 for network options.
        QresError: what the configuration or the aggregation refuses.

    Complexity: O(rounds · (n · (training + hooks) + aggregation)).
    """
    _refuse_network(scenario)
    if scenario.attack in SABOTAGE:
        what = f"{scenario.attack!r} injects messages, and the vectorised engine has no network"
        raise LabError.of("QRES-E105", "simulation.attack", what, 'engine = "events"')
    start = None if keeper is None else keeper.start
    observer = _Observer(config, scenario, task, installed, hostile, start=start)
    records: list[RoundRecord] = [] if start is None else list(start.records)
    begun = False
    try:
        if start is not None:
            check_resumable(observer.kernel)
        begun = True
        for number in range(1 if start is None else start.number + 1, scenario.rounds + 1):
            records.append(observer.play(number))
            if keeper is not None:
                keeper.keep(observer.checkpoint(records))
            if on_model is not None and records[-1].closed:
                on_model(observer.saved())
            if progress is not None:
                progress(records[-1])
    finally:
        # What is refused leaves the folder as it was.
        if begun and keeper is not None and observer.step:
            keeper.finish(observer.saved())
        for kernel in dict.fromkeys(observer.kernels):
            kernel.teardown()
    resumed = () if start is None else notices(observer.kernel, scenario, start, records)
    return SimulationResult(
        model=observer.saved(),
        trainer=task.name,
        nodes=config.swarm.nodes,
        attackers=scenario.attackers,
        attack=scenario.attack,
        seed=scenario.seed,
        pipeline=describe(observer.kernel),
        notices=(
            *filter(None, (observer.vanishing.notice,)),
            *task.notices,
            *observer.kernel.solution.notices,
            *resumed,
        ),
        rounds=tuple(records),
        model_digests=(model_digest(observer.model, observer.step).hex(),),
        virtual_seconds=0.0,
        messages=observer.messages,
        fates=observer.fates(),
    )
