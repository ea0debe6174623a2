"""The fast path for large swarms: one observer, every contribution through every hook, no votes.

Each round, each node's update goes through ``privatize``, ``prove``, ``sign``, the wire, the whole
inbound path, ``verify``, ``reveal`` and ``aggregate`` of one kernel, as an observer would see it.
What is left out is the agreement (all contributions that pass are the set) and the network with its
clock: delay and jitter mean nothing here, and what would change the outcome (loss, duplication,
churn, injected messages, plugins that need dialogues) is refused rather than ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from qres_core.contract.errors import LabError, WireError
from qres_core.contract.fixed import add_saturating
from qres_core.contract.held_out import HeldOut
from qres_core.contract.trainer import Reference, Validator
from qres_core.contract.types import (
    Contribution,
    Evidence,
    NodeId,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Update,
    Vector,
    model_digest,
)
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel, Rejection
from qres_core.lab.attacks import AttackContext, make_attack
from qres_core.lab.attacks.poisoning import under_attack
from qres_core.lab.record import RoundRecord, SimulationResult, alignment
from qres_core.lab.sabotage import SABOTAGE
from qres_core.lab.scenario import Scenario
from qres_core.lab.shadow import Sandbox, Shadow, probe_for
from qres_core.lab.simulator import EPOCH, describe, identify, node_ids
from qres_core.lab.tasks import Task
from qres_core.swarm.gathering import Gathering, Held, screened
from qres_core.swarm.messages import (
    CONTRIBUTION,
    ContributionBody,
    Member,
    contribution_digest,
    encode_contribution,
)

if TYPE_CHECKING:
    from qres_core.lab.simulator import Progress


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
        self, config: Config, scenario: Scenario, task: Task, installed: Mapping[str, Installed]
    ) -> None:
        self.config, self.scenario = config, scenario
        self.attack = make_attack(scenario.attack, scenario.strength) if scenario.attack else None
        self.task = under_attack(task, self.attack, scenario.attackers)
        swarm = config.swarm
        self.honest = swarm.nodes - scenario.attackers
        self.kernel = Kernel.from_config(config, installed=installed)
        if any(self.kernel.has(hook) for hook in _OUTBOUND):
            self.kernels, self.ids = identify(config, scenario.seed, installed)
            self.kernel = self.kernels[0]
        else:  # nothing differs between the nodes, so one kernel speaks for all
            self.ids = node_ids(swarm.nodes, scenario.seed)
            self.kernels = [self.kernel] * swarm.nodes
        self.sandbox = Sandbox(self.kernel)
        self.roster = tuple(sorted(self.ids))
        for node_id, kernel in zip(self.ids, self.kernels, strict=True):
            kernel.setup(
                NodeInfo(
                    node_id,
                    swarm.name,
                    self.roster,
                    swarm.byzantine,
                    seed=scenario.seed,
                    validates=isinstance(task.trainers[0], Validator),
                    references=isinstance(task.trainers[0], Reference),
                )
            )
        self.lies = np.random.Generator(np.random.PCG64(np.random.SeedSequence((scenario.seed, 2))))
        self.model: Vector = task.initial
        self.step = 0
        self.sequence = 0
        self.messages = 0

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

    def payloads(self, info: RoundInfo, updates: Sequence[Update]) -> list[tuple[int, bytes]]:
        """What every node sends, attackers included, by index of the node."""
        made: list[tuple[int, bytes]] = []
        cap = self.config.swarm.weight_cap
        for node, update in enumerate(updates[: self.honest]):
            hidden = self.kernels[node].privatize(update, info)
            proofs = self.kernels[node].prove(hidden, info)
            body = ContributionBody(min(hidden.weight, cap), hidden.vector, proofs)
            made.append((node, body.to_bytes()))
        if self.attack is None:
            return made
        rows = [update.vector for update in updates[: self.honest]]
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
            for forgery in self.attack.forge(context):
                weight = max(1, min(forgery.weight, cap))
                payload = encode_contribution(weight, forgery.octets, {})
                made.append((self.honest + index, payload))
        return made

    def shadow(self, info: RoundInfo, updates: Sequence[Update]) -> Shadow:
        """The round as attackers may try it on the observer's plugins."""
        made = list(zip(self.ids, updates, strict=True))
        honest, attackers = dict(made[: self.honest]), dict(made[self.honest :])
        return Shadow(self.sandbox, info, self.model, honest, attackers, self.task.trainers[0])

    def deliver(self, node: int, payload: bytes, info: RoundInfo, gathering: Gathering) -> str:
        """Sign, encode, and take in one contribution; why it was refused, or an empty string."""
        sender, now = self.ids[node], EPOCH + info.number
        envelope = Envelope(
            info.swarm,
            CONTRIBUTION,
            info.number,
            info.model_digest,
            sender,
            self.sequence,
            int(now * 1000),
            payload,
        )
        self.sequence += 1
        self.messages += 1
        arrived = self.kernel.inbound(self.kernels[node].sign(envelope).to_bytes(), sender, now)
        if isinstance(arrived, Rejection):
            return arrived.reason
        try:
            body = ContributionBody.from_bytes(arrived.payload, info.dimension)
        except WireError as error:
            return self.refuse(f"malformed {error.problems[0].where}", sender, info, "kernel")
        weight = min(body.weight, self.config.swarm.weight_cap)
        digest = contribution_digest(arrived)
        contribution = Contribution(sender, digest, body.vector, weight, body.proofs)
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

    def aborted(self, info: RoundInfo, reason: str, refused: Counter[str]) -> RoundRecord:
        """The round changes nothing."""
        outcome = Outcome(info, RoundStatus.ABORTED, info.model_digest, reason=reason)
        self.kernel.round_closed(outcome)
        return RoundRecord(
            number=info.number,
            closed=False,
            reason=reason,
            rejected=dict(sorted(refused.items())),
            model_digest=info.model_digest.hex(),
        )

    def play(self, number: int) -> RoundRecord:
        info = self.round_info(number)
        if self.kernel.round_opened(info):
            what = "an enabled plugin needs dialogues, and the vectorised engine has no messages"
            raise LabError.of("QRES-E105", "simulation.engine", what, 'engine = "events"')
        updates = [trainer.fit(self.model, info) for trainer in self.task.trainers]
        gathering, refused = Gathering(), Counter[str]()
        for node, payload in self.payloads(info, updates):
            if reason := self.deliver(node, payload, info, gathering):
                refused[reason] += 1
        members: list[Member] = []
        for sender, held in gathering.of_round(number).items():
            standing = self.kernel.standing(sender)
            if not standing.banned and standing.weight:
                members.append(Member(sender, held.contribution.digest, standing.weight))
        quorum, cap = self.config.swarm.quorum, self.config.swarm.weight_cap
        judge = HeldOut.of(self.task.trainers[0], self.model, info)
        if judge is not None and len(members) >= quorum:
            screening = self.kernel.screen(gathering.stack(members, cap), judge, info)
            for one in screening.against:
                self.kernel.observe(one)
                refused[one.fact] += 1
            members = screened(members, screening)
        senders = tuple(member.sender for member in members)
        if len(members) < quorum:
            return self.aborted(info, f"{len(members)} contributions, quorum {quorum}", refused)
        revealed = self.kernel.reveal(gathering.stack(members, cap), info)
        merged = self.kernel.aggregate(revealed, info)
        if judge is not None:
            verdict, _source = self.kernel.endorse(revealed, merged, judge, info)
            if verdict is not ACCEPT:
                return self.aborted(info, verdict.reason, refused)
        rejected = dict(sorted(refused.items()))
        self.model = add_saturating(self.model, merged).vector
        self.step += 1
        digest = model_digest(self.model, self.step)
        for sender in senders:
            fact = Evidence(sender, "contributed", "kernel", against=False, round=number)
            self.kernel.observe(fact)
        self.kernel.round_closed(Outcome(info, RoundStatus.CLOSED, digest, senders))
        honest = np.stack([update.vector for update in updates[: self.honest]])
        return RoundRecord(
            number=number,
            closed=True,
            metrics=dict(self.task.evaluate(self.model)),
            accepted=len(members),
            attackers_accepted=len(set(senders) & set(self.ids[self.honest :])),
            rejected=rejected,
            alignment=alignment(merged, honest),
            model_digest=digest.hex(),
        )


def simulate_vectorised(
    config: Config,
    scenario: Scenario,
    task: Task,
    installed: Mapping[str, Installed],
    progress: Progress | None,
) -> SimulationResult:
    """Like :func:`qres_core.lab.simulator.simulate`, seen by one observer.

    Raises:
        LabError: QRES-E105 for network options and for plugins with dialogues.
        QresError: what the configuration or the aggregation refuses.

    Complexity: O(rounds · (n · (training + hooks) + aggregation)).
    """
    _refuse_network(scenario)
    if scenario.attack in SABOTAGE:
        what = f"{scenario.attack!r} injects messages, and the vectorised engine has no network"
        raise LabError.of("QRES-E105", "simulation.attack", what, 'engine = "events"')
    observer = _Observer(config, scenario, task, installed)
    records: list[RoundRecord] = []
    try:
        for number in range(1, scenario.rounds + 1):
            records.append(observer.play(number))
            if progress is not None:
                progress(records[-1])
    finally:
        for kernel in dict.fromkeys(observer.kernels):
            kernel.teardown()
    return SimulationResult(
        task=task.name,
        nodes=config.swarm.nodes,
        attackers=scenario.attackers,
        attack=scenario.attack,
        seed=scenario.seed,
        pipeline=describe(observer.kernel),
        notices=observer.kernel.solution.notices,
        rounds=tuple(records),
        model_digests=(model_digest(observer.model, observer.step).hex(),),
        virtual_seconds=0.0,
        messages=observer.messages,
    )
