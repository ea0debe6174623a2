"""Additions to a set beside contributions: evidence against members, and a change of them.

Both cost the swarm members, from the next height on. Where plugins tell which sets may be revealed
after those on record, that can leave no set at all: a sum without one member, after a sum of
everybody, would show the member's update. Nothing could be decided then, not even to take the
member in again. So such a set leaves out whom it takes away, or what it carries waits for a model,
whose record is empty: a change holds only if the set makes one, a ban with the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

import attrs

from qres_core.contract.errors import QresError, RosterError
from qres_core.contract.faults import Fault
from qres_core.contract.types import DIGEST_BYTES, NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import EVIDENCE_BYTES, CandidateSet, Member
from qres_core.swarm.ledger.misbehaviour import QUOTED_BYTES, Misbehaviour, MisbehaviourPool
from qres_core.swarm.ledger.proving import Premises, proves
from qres_core.swarm.ledger.results import UNFINISHED, Merged, Void
from qres_core.swarm.ledger.roster import Roster, RosterChange, authorised
from qres_core.swarm.ledger.unmerged_sets import MAX_MISMATCHES, MISMATCH
from qres_core.swarm.members.pending_changes import PendingChanges


def evidence_room(max_message_bytes: int) -> int:
    """Most bytes of messages that a set quotes as evidence, all together.

    A quarter of a message: the votes for the set stand beside them, in proposals and in links. One
    liar could else hand all others a proof of its lie that makes each of their proposals too large.
    """
    return min(EVIDENCE_BYTES, max_message_bytes // 4)


def _size(item: Misbehaviour) -> int:
    return sum(len(message.to_bytes()) for message in item.messages)


def goes_on(head: Head, remain: Callable[[Head], Collection[NodeId]]) -> bool:
    """True if a set could be decided at a head and, if it makes no model, at those that follow.

    A set that may be decided again as it is divides nothing more. So what counts are heights after
    which plugins work in smaller groups. ``remain``: of whom updates could be revealed at a head.
    At most :data:`~qres_core.swarm.ledger.unmerged_sets.MAX_MISMATCHES` more calls of it.
    """
    while len(left := remain(head)) >= head.roster.quorum:
        if head.record.mismatches == MAX_MISMATCHES:
            return True
        chosen = CandidateSet(1, tuple(Member(sender, bytes(DIGEST_BYTES)) for sender in left))
        head = head.after(chosen, Void(MISMATCH))
    return False


class Amendments:
    """Additions that are possible at the node's height, and those that this node has to carry.

    Args:
        context: of the node.
        pool: what it knows against members.
        changes: what it was asked to change.
        previous: the head before the node's, ``None`` at the first.
    """

    def __init__(
        self,
        context: NodeContext,
        pool: MisbehaviourPool,
        changes: PendingChanges,
        previous: Head | None,
    ) -> None:
        self._context, self._pool, self._changes = context, pool, changes
        self._previous = previous
        self._room = evidence_room(context.swarm.max_message_bytes)

    def hold(self, candidate: CandidateSet, now: float) -> bool:
        """True if the evidence proves what it says, and the change is wanted and possible."""
        context = self._context
        head = context.head
        if sum(map(_size, candidate.evidence)) > self._room:
            return False
        if any(not self.proves(item, now) for item in candidate.evidence):
            return False
        change = candidate.change
        if change is None:
            return True
        try:
            head.changed(change)
        except QresError:
            return False
        kernel = context.kernel
        return authorised(
            change,
            head.roster,
            head.swarm,
            lambda signed: kernel.authentic(signed, now),
            kernel.authority(now),
        )

    def objection(self, candidate: CandidateSet, merger: Merger) -> str | None:
        """Objection to a set's additions, whatever it merges to; ``None`` for none."""
        change = candidate.change
        if change is not None and not self._work_with(self._context.head.roster.after(change)):
            return "the plugins do not work with the changed members"
        if not self.leave_sets(candidate, merger):
            return "no set would be left to decide on without those who leave"
        return None

    def leave_sets(self, candidate: CandidateSet, merger: Merger) -> bool:
        """True if the swarm could decide again with what the set carries, once that holds.

        Where it does not wait for a model, that is if the set made none. The same on every node
        that has the set's contributions. O(n), and what plugins take.
        """
        context, change = self._context, candidate.change
        if not (change or candidate.evidence):
            return True
        if not (candidate.waits or context.kernel.has("revealable")):
            return True
        try:
            # With a model the bans hold that wait since earlier heights.
            head = context.head.after(candidate, Merged(bytes(DIGEST_BYTES)))
            if len(head.roster) - len(head.bans) < head.roster.quorum:
                return False
            if candidate.waits:
                return True
            names = {m: m if change is None else change.renamed(m) for m in context.roster}
            remain = partial(merger.remain, candidate.members, names=names)
            return all(goes_on(head, remain) for head in self._after_void(candidate))
        except QresError:
            return False

    def _after_void(self, candidate: CandidateSet) -> Iterator[Head]:
        """Head that the set leads to if it makes no model: liars choose why it makes none.

        What may follow is looked at from each. After a sum that was not what was committed to,
        plugins may work in smaller groups, and after many in the smallest.
        """
        yield self._context.head.after(candidate, Void(UNFINISHED))
        head = self._context.head.after(candidate, Void(MISMATCH))
        yield head
        yield attrs.evolve(head, record=attrs.evolve(head.record, mismatches=MAX_MISMATCHES))

    def _work_with(self, roster: Roster) -> bool:
        kernel = self._context.kernel
        return not kernel.refusals(roster.members, roster.byzantine, roster.quorum)

    def proves(self, item: Misbehaviour, now: float) -> bool:
        """True if messages of this height or the one before prove a fault."""
        context = self._context
        for head in (context.head, self._previous):
            if head is None or head.digest != item.head or item.subject in context.head.bans:
                continue
            coordinator = context.swarm.topology == "coordinator"
            premises = Premises(
                head.swarm,
                head.digest,
                frozenset(head.roster.members),
                head.roster.quorum,
                partial(head.proposer, coordinator=coordinator),
            )
            return proves(item, premises, partial(self._signed, head=head, now=now))
        return False

    def _signed(self, message: Envelope, head: Head, now: float) -> bool:
        """True if a member at that head signed a message."""
        return self._context.kernel.authentic(message, now, head.roster.members)

    def note(self, fault: Fault, envelope: Envelope, now: float) -> None:
        """Keep a refused message for a proposal, if it proves the fault to everybody."""
        if fault.transferable and len(envelope.to_bytes()) <= min(QUOTED_BYTES, self._room):
            item = Misbehaviour.of(fault, envelope)
            if self.proves(item, now):
                self._pool.add(item)

    def added_to(
        self, candidate: CandidateSet, merger: Merger, now: float, *, first: bool
    ) -> CandidateSet:
        """The set with what this node knows against members, and a change that is wanted.

        ``first``: whether this is the height's first attempt. Later ones carry no change: others
        may see a signature or an approval otherwise, and what they refuse must not cost more.
        What would :meth:`leave no sets <leave_sets>` waits for the set's model, or is not carried.
        """
        self._pool.retain(lambda item: item.subject not in self._context.head.bans)
        chosen = tuple(
            item for item in self._pool.for_proposal(self._room) if self.proves(item, now)
        )
        change = self._wanted(now) if first else None
        some = [
            attrs.evolve(candidate, evidence=evidence, change=wanted)
            for evidence, wanted in ((chosen, change), (chosen, None), ((), change))
            if evidence or wanted
        ]
        for full in some:
            for carrying in (full, self._without_leavers(full)):
                if self._may_be_proposed(carrying, candidate, merger):
                    return carrying
        waiting = (self._that_waits(full) for full in some)
        return next((full for full in waiting if self.leave_sets(full, merger)), candidate)

    def _that_waits(self, full: CandidateSet) -> CandidateSet:
        """The set with what it carries for its model alone, and no ban that waits already."""
        known = self._context.head.waiting
        fresh = tuple(item for item in full.evidence if item.subject not in known)
        return attrs.evolve(full, evidence=fresh, waits=bool(fresh or full.change))

    def _without_leavers(self, candidate: CandidateSet) -> CandidateSet:
        """The set without those whom what it carries takes away."""
        change = candidate.change
        leave = {item.subject for item in candidate.evidence}
        if change is not None and change.renamed(change.member) is None:
            leave.add(change.member)
        kept = tuple(member for member in candidate.members if member.sender not in leave)
        return attrs.evolve(candidate, members=kept)

    def _may_be_proposed(self, carrying: CandidateSet, plain: CandidateSet, merger: Merger) -> bool:
        """True if others would take what was made of a set that they would take."""
        if carrying.members != plain.members:
            if len(carrying.members) < self._context.quorum:
                return False
            try:
                if not merger.admits(carrying.members):
                    return False
            except QresError:
                return False
        return self.leave_sets(carrying, merger)

    def _wanted(self, now: float) -> RosterChange | None:
        kernel = self._context.kernel

        def authentic(signed: Envelope) -> bool:
            return kernel.authentic(signed, now)

        self._changes.refresh(authentic)
        return self._changes.ready(authentic, kernel.authority(now), self._would_work)

    def _would_work(self, change: RosterChange) -> bool:
        """True if the change is possible, and the plugins work with the members after it."""
        try:
            return self._work_with(self._context.head.changed(change))
        except RosterError:
            return False
