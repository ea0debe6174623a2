"""Contributions made, taken in and merged; and a round that one process ends alone, without votes.

A node of a swarm, the ends of a hosted round and the observer of a simulation make and read a
contribution, tell plugins what screening found, and praise whose updates were merged, by the same
functions. A coordinator and an observer do all that lies between in the same way too: a
:class:`LoneRound`.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.evidence import Evidence
from qres_core.contract.faults import KERNEL, Fault, Merit, of_plugin
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo, RoundStatus
from qres_core.contract.types import Contribution, NodeId, Update, Vector
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.contributions.merge import Members, Merger, Screened
from qres_core.swarm.ledger.messages import ContributionBody, contribution_digest
from qres_core.swarm.ledger.results import Void
from qres_core.swarm.shards.messages import ContributionHeader
from qres_core.swarm.storage.kept_contributions import Gathering, Held


def protected(kernel: Kernel, update: Update, info: RoundInfo) -> ContributionBody:
    """An update as it leaves a node: hidden, then proved, its weight capped.

    Raises QresError: what a plugin refused; then nothing may be sent.
    """
    hidden = kernel.privatize(update, info)
    proofs = kernel.prove(hidden, info)
    weight = min(hidden.weight, kernel.swarm.weight_cap)
    return ContributionBody(weight, hidden.vector, proofs, hidden.companions)


def held_of(
    kernel: Kernel,
    envelope: Envelope,
    body: ContributionBody | ContributionHeader,
    vector: Vector,
    root: bytes = b"",
    digest: bytes = b"",
) -> Held:
    """A contribution as it counts, its weight capped; nothing is judged yet.

    ``body``: what ``envelope`` says; ``vector``: int32, shape ``(d,)``; ``root``: of its shards;
    ``digest``: of the contribution, if it is known.
    Raises WireError: QRES-E404 where something is beside it that no plugin of the swarm sends.
    """
    kernel.check_beside(body.proofs, body.companions)
    weight, digest = (
        min(body.weight, kernel.swarm.weight_cap),
        digest or contribution_digest(envelope),
    )
    made = Contribution(envelope.sender, digest, vector, weight, body.proofs, body.companions, root)
    return Held(made, envelope)


def observed(kernel: Kernel, choice: Screened) -> Members:
    """Members whose updates may be proposed, once plugins know what screening brought to light."""
    for evidence in choice.against:
        kernel.observe(evidence)
    return choice.members


def not_screened(kernel: Kernel, error: QresError) -> None:
    """Count that plugins could not screen: whoever proposes then proposes nothing."""
    kernel.rejections[f"{KERNEL}:not-screened-{error.code.lower()}"] += 1


def praise(kernel: Kernel, senders: Iterable[NodeId], number: int) -> None:
    """Tell plugins whose updates made a new model, in a round of that number."""
    for sender in senders:
        kernel.observe(Evidence(sender, Merit.CONTRIBUTED, KERNEL, number))


def aborted(info: RoundInfo, reason: str) -> Outcome:
    """End of a round that changes nothing."""
    return Outcome(info, RoundStatus.ABORTED, info.model_digest, reason=reason)


@attrs.define(eq=False)
class LoneRound:
    """Contributions to a round, and what becomes of them: taken in, chosen, merged."""

    kernel: Kernel
    info: RoundInfo
    gathering: Gathering = attrs.field(factory=Gathering, init=False)
    members: Members = attrs.field(default=(), init=False)  # whose updates count, once chosen
    lost: str = attrs.field(default="", init=False)  # why nothing is merged, once chosen
    _merger: Merger = attrs.field(init=False)

    @property
    def senders(self) -> tuple[NodeId, ...]:
        """Members whose updates count, ascending."""
        return tuple(member.sender for member in self.members)

    @property
    def contributions(self) -> tuple[Contribution, ...]:
        """Their contributions, in the same order."""
        return self.gathering.contributions(self.members)

    def take(self, arrived: Envelope) -> Rejection | None:
        """Keep a contribution that arrived, or hold against its sender what speaks against it."""
        try:
            body = ContributionBody.from_bytes(arrived.payload, self.info.dimension)
            held = held_of(self.kernel, arrived, body, body.vector)
        except WireError:
            return self._refuse(arrived, Fault.MALFORMED_PAYLOAD)
        verdict, plugin = self.kernel.verify(held.contribution, self.info)
        if verdict is not ACCEPT:
            return self._refuse(arrived, verdict.reason, plugin, verdict.blame)
        return None if self.gathering.add(held) else self._refuse(arrived, Fault.EQUIVOCATION)

    def _refuse(
        self,
        arrived: Envelope,
        reason: str,
        plugin: str = KERNEL,
        blame: Blame = Blame.SENDER,
    ) -> Rejection:
        return self.kernel.refuse(reason, blame, arrived.sender, plugin, arrived.round)

    def choose(self, held_out: HeldOut | None) -> tuple[Evidence, ...]:
        """Choose whose updates are merged, and have plugins judge what they come to.

        ``held_out``: examples to judge by. Returns what screening brought to light; plugins know.
        """
        merger = self._merger = Merger(self.kernel, self.gathering, self.info, held_out)
        try:
            choice = merger.choose()
        except QresError as error:
            not_screened(self.kernel, error)
            self.lost = f"screening refused: {error.problems[0]}"
            return ()
        self.members, quorum = observed(self.kernel, choice), self.info.quorum
        if len(self.members) < quorum:
            self.lost = f"{len(self.members)} contributions, quorum {quorum}"
            return choice.against
        try:
            verdict, plugin = merger.judge(self.members)
            if verdict is not ACCEPT:
                self.lost = of_plugin(plugin, verdict.reason)
        except QresError as error:
            self.lost = f"aggregation refused: {error.problems[0]}"
        return choice.against

    def merge(self) -> Vector:
        """Merge the chosen updates; int32, shape ``(d,)``. Raises QresError."""
        return self._merger.merge(self.members)

    def closed(self, model: bytes, change: Vector) -> Outcome:
        """End of the round with a new model, whose members are praised.

        ``model``: its digest; ``change``: what it differs by, int32, shape ``(d,)``.
        """
        praise(self.kernel, self.senders, self.info.number)
        return Outcome(self.info, RoundStatus.CLOSED, model, self.senders, change=change)

    def void(self, code: str, detail: str = "") -> Outcome:
        """End of the round where the chosen updates merge to nothing.

        ``code``: of the error, for example ``QRES-E508``; ``detail``: more of it, for people.
        """
        reason = ": ".join(filter(None, (Void(code).reason, detail)))
        here, status = self.info.model_digest, RoundStatus.VOID
        return Outcome(self.info, status, here, self.senders, reason, code)
