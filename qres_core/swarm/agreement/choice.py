"""The first instance of a height: which contributions are merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, Final

from qres_core.contract.errors import QresError
from qres_core.contract.faults import KERNEL, Fault
from qres_core.contract.types import FULL_STANDING, NodeId
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.agreement.instances import Instance
from qres_core.swarm.agreement.judgements import PATIENCE_TO_JUDGE, Opinions
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.consensus.votes import Decide, Lock, Propose, Step, Value, Voter
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.contributions.intake import Collector
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    CERTIFICATE,
    LOCK,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    CandidateSet,
    Certificate,
    Proposal,
    decode_vote,
    encode_vote,
)
from qres_core.swarm.ledger.misbehaviour import MisbehaviourPool
from qres_core.swarm.ledger.proving import set_flaws
from qres_core.swarm.members.amendments import Amendments
from qres_core.swarm.storage.journal import Journal, JournalEntry

WAIVED: Final = 3
"""Aborted attempts of a height after which a voter waives what it alone has against members."""
REMEMBERED: Final = 64
"""Heights for which it then waives that: to abort again at each height would help nobody."""


class Waivers:
    """The members against whom this node objects no more, for so many heights."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._until: dict[NodeId, int] = {}

    def covers(self, member: NodeId) -> bool:
        """True if an objection against a member is waived now."""
        return self._context.head.height < self._until.get(member, 0)

    def add(self, members: Iterable[NodeId]) -> None:
        """Waive what there is against some members, from now on."""
        height = self._context.head.height
        self._until = {who: until for who, until in self._until.items() if until > height}
        self._until.update((member, height + REMEMBERED) for member in members)

    def left(self, candidate: CandidateSet, attempts: int) -> str | None:
        """Objection of this node alone to a set that it does not waive after so many attempts."""
        against = objections(self._context, candidate)
        few = len(against) <= self._context.byzantine  # whoever is honest looks alike to all
        # What was waived of one after the other does not add up to more.
        left = [fault for who, fault in against.items() if not few or not self.covers(who)]
        if left and few and attempts >= WAIVED and self._context.kernel.has("reputation"):
            self.add(against)
            return None
        return str(left[0]) if left else None


class KnownSets:
    """Sets by what votes call them, bounded by what the engine keeps.

    Args:
        head: digest of the node's head.
        engine: of the instance that decides on a set.
        collector: holds the contributions.
    """

    def __init__(self, head: bytes, engine: Consensus[Voter], collector: Collector) -> None:
        self._head, self._engine, self._collector = head, engine, collector
        self.known: dict[Value, CandidateSet] = {}
        self.proposed: dict[int, dict[Value, Envelope]] = {}  # by round; two at most
        self.here: set[Value] = set()  # those whose contributions are all here

    def know(self, candidate: CandidateSet) -> Value:
        """Keep a set; what votes call it."""
        value = candidate.digest(self._head)
        self.known.setdefault(value, candidate)
        return value

    def complete(self, value: Value) -> bool:
        """True if all contributions of a known set are here."""
        return value in self.here or self._collector.complete(self.known[value])

    def forget_absent(self) -> None:
        """Some contributions were forgotten: the sets that named them are not here any more."""
        for value in list(self.here):
            if not self._collector.complete(self.known[value]):
                self.here.discard(value)
                self._engine.forget(value)

    def forget_old(self) -> None:
        """Forget the sets that no vote, lock or proposal of a round that is kept is about."""
        for old in [old for old in self.proposed if not self._engine.is_near(old)]:
            del self.proposed[old]
        kept = self._engine.values.union(*self.proposed.values())
        for value in [value for value in self.known if value not in kept]:
            del self.known[value]
            self.here.discard(value)
            self._engine.forget(value)

    def proposed_now(self) -> list[CandidateSet]:
        """Sets that are proposed in the engine's round."""
        return [self.known[value] for value in self.proposed.get(self._engine.round, ())]

    def proven(self) -> list[CandidateSet]:
        """Sets that a quorum voted for."""
        engine = self._engine
        found = {lock.value for lock in (engine.lock, engine.valid) if lock is not None}
        for number, step in engine.kept:
            found.update(v for v in engine.tally(number, step).winners if v is not None)
        return [self.known[value] for value in sorted(found) if value in self.known]

    def won(self) -> CandidateSet | None:
        """The set that a quorum precommitted, whether or not it is here."""
        for number, step in self._engine.kept:
            if step is Step.PRECOMMIT:
                for value in self._engine.tally(number, step).winners:
                    if value is not None and value in self.known:
                        return self.known[value]
        return None


class Choice(Instance):
    """The agreement on the set. The round says when a proposal may be made, and judges it."""

    prefix: ClassVar[str] = "choice/"

    def __init__(
        self,
        speaker: Speaker,
        collector: Collector,
        journal: Journal,
        pool: MisbehaviourPool,
        amendments: Amendments,
        waivers: Waivers,
        opinions: Opinions,
    ) -> None:
        super().__init__(speaker, journal, pool, speaker.context.proposer)
        self._collector, self._waivers, self._opinions = collector, waivers, opinions
        self._amendments = amendments
        self.known_sets = KnownSets(self._head, self.engine, collector)
        self._first = 0  # the round that this height began with here
        self._asked_for: Propose | None = None
        self._judged: set[tuple[int, Value]] = set()
        self._decided_at = -math.inf
        self._told: dict[NodeId, float] = {}  # when a node was last told of the decision
        self.merger: Merger | None = None  # of the round that is open
        self.objection: str | None = None  # why this node did not vote for what is proposed
        self.certificate: Certificate | None = None

    # ── beginning ─────────────────────────────────────────────────────────────────────────────

    def begin(self, number: int, now: float) -> None:
        """Begin with a round."""
        self._do(self.engine.start(number), now)
        self._first = self.engine.round  # what the others were through before was no abort here

    def restore(self, record: JournalEntry) -> None:
        """Take back the lock that the journal kept.

        Raises WireError: for a record that cannot be read.
        """
        proposal = Proposal.from_bytes(record.head, len(self._context.roster))
        self._collector.restore(record.messages)
        lock = Lock(self.known_sets.know(proposal.candidate), proposal.lock_round)
        self._proofs[lock.round, Step.PREVOTE, lock.value] = proposal.prevotes
        self.engine.restore(lock, lock, ())

    def restore_decided(self, record: JournalEntry) -> None:
        """Take back the set that was decided before this node stopped.

        Raises WireError: for a record that cannot be read.
        """
        self.certificate = Certificate.from_bytes(record.head, len(self._context.roster))
        self._collector.restore(record.messages)

    @property
    def attempts(self) -> int:
        """Rounds of this height that came to nothing here."""
        return max(0, self.engine.round - self._first)

    @property
    def _open(self) -> Merger | None:
        """The merger of the engine's round, once this node has opened it: a moment later."""
        return self.merger if self.merger and self.merger.info.number == self.engine.round else None

    def sets(self) -> list[CandidateSet]:
        """The sets whose contributions are needed: proposed, or proven to have a quorum's votes."""
        found = self.proven_sets()
        return found if self.certificate is not None else found + self.known_sets.proposed_now()

    def proven_sets(self) -> list[CandidateSet]:
        """The sets that a quorum voted for: locked, or decided elsewhere."""
        if self.certificate is not None:
            return [self.certificate.candidate]
        return self.known_sets.proven()

    @property
    def decided_set(self) -> CandidateSet | None:
        """The set that a quorum is known to have decided on, whether or not it is here."""
        if self.certificate is not None:
            return self.certificate.candidate
        return self.known_sets.won()

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take(self, envelope: Envelope, now: float) -> bool:
        """Take a message of this instance; whether it is one.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        if self.certificate is not None:
            return self._tell_of_decision(envelope, now)
        if envelope.kind == PROPOSAL:
            self._take_proposal(envelope, now)
        elif envelope.kind == LOCK:
            self._take_lock(envelope, now)
        elif envelope.kind == CERTIFICATE:
            self._take_certificate(envelope, now)
        else:
            return self.take_vote(envelope, now)
        return True

    def _tell_of_decision(self, envelope: Envelope, now: float) -> bool:
        """Give the certificate to a node that still votes; whether the message is of this instance.

        The votes of a quorum may have reached this node alone, and nobody repeats them. Not at
        once after the decision: the others may just not have heard yet.
        """
        if not envelope.kind.startswith(self.prefix) or self.certificate is None:
            return envelope.kind == CERTIFICATE
        peer, pause = envelope.sender, self._context.swarm.vote_timeout / 2
        if self.engine.votes and now >= self._told.get(peer, self._decided_at) + pause:
            self._told[peer] = now
            told = self._speaker.make(CERTIFICATE, self.certificate.to_bytes(), now)
            self._speaker.send(peer, told)
        return True

    def _refuse(self, envelope: Envelope, fault: Fault, now: float, *votes: Envelope) -> None:
        self._outlet.refuse(envelope, fault, self._blame_for(votes))
        self._amendments.note(fault, envelope, now)

    def _take_proposal(self, envelope: Envelope, now: float) -> None:
        number = envelope.round
        if not self.engine.is_near(number):
            return  # it is repeated, and a liar could fill this node up with rounds to come
        if envelope.sender != self._context.proposer(number):
            self._refuse(envelope, Fault.NOT_THE_PROPOSER, now)
            return
        self._context.lateness.mute.discard(envelope.sender)
        proposal = Proposal.from_bytes(envelope.payload, len(self._context.roster))
        value = proposal.candidate.digest(self._head)
        known = self.known_sets.proposed.setdefault(number, {})
        if value in known:
            return
        if known:
            self._equivocated(envelope, (value, next(iter(known.values()))))
            if len(known) > 1:
                return
        fault = self._fault_of(proposal, number, value, envelope.sender, now)
        if fault is not None:
            votes = proposal.prevotes if fault is Fault.UNPROVEN_LOCK else ()
            self._refuse(envelope, fault, now, *votes)
            return
        known[value] = envelope
        self.known_sets.know(proposal.candidate)
        self._speaker.repeat_soon(now)
        self._collector.fetch(proposal.candidate, envelope.sender, now)
        self._do(self.engine.propose(number, value, proposal.lock_round), now)

    def _fault_of(
        self, proposal: Proposal, number: int, value: Value, sender: NodeId, now: float
    ) -> Fault | None:
        """Fault of a proposal that is invalid for everybody."""
        head = self._context.head
        free = [member for member in head.roster.members if member not in head.bans]
        flaws = set_flaws(proposal, number, free, head.roster.quorum)
        if flaws:
            return flaws[0]
        lock_round, votes = proposal.lock_round, proposal.prevotes
        if lock_round:
            # A quorum looked at what it carries. Signatures in it, which the digest does not cover,
            # may have been bent on the way to a proposer that is honest.
            proven = self.quoted(Step.PREVOTE, lock_round, value, votes, sender, now)
            return None if proven else Fault.UNPROVEN_LOCK
        return None if self._amendments.hold(proposal.candidate, now) else Fault.UNPROVEN_CHANGE

    def _take_lock(self, envelope: Envelope, now: float) -> None:
        """Learn what another node is locked on: this one may have to propose it."""
        told = Proposal.from_bytes(envelope.payload, len(self._context.roster))
        shown = Lock(told.candidate.digest(self._head), told.lock_round)
        if self._is_of_quorum(Step.PREVOTE, shown, told.prevotes, envelope, now):
            self._learn(told.candidate, envelope.sender, now)

    def _take_certificate(self, envelope: Envelope, now: float) -> None:
        told = Certificate.from_bytes(envelope.payload, len(self._context.roster))
        shown = Lock(told.candidate.digest(self._head), told.round)
        if self._is_of_quorum(Step.PRECOMMIT, shown, told.precommits, envelope, now):
            self._learn(told.candidate, envelope.sender, now)

    def _learn(self, candidate: CandidateSet, by: NodeId, now: float) -> None:
        """A quorum voted for a set."""
        self.known_sets.know(candidate)
        self._collector.fetch(candidate, by, now)
        self.look(now)
        self._do(self.engine.advance(), now)  # a quorum was quoted

    # ── judging ───────────────────────────────────────────────────────────────────────────────

    def look(self, now: float) -> None:
        """Tell the engine which sets are here, and judge what is proposed now."""
        if self.certificate is not None or not self.engine.round:
            return
        if won := self.known_sets.won():  # it is merged whatever becomes of a proof that waits
            self._collector.checks.decided(member.digest for member in won.members)
        number, proposed = self.engine.round, self.engine.proposal(self.engine.round)
        for value, candidate in list(self.known_sets.known.items()):
            if not self.known_sets.complete(value):
                continue
            accepted: bool | None = None
            if proposed is not None and proposed.value == value and (merger := self._open):
                if (number, value) in self._judged:
                    continue
                accepted = proposed.valid_round > 0 or self._accepts(candidate, value, merger, now)
            if accepted is not None:
                self._judged.add((number, value))
            elif value in self.known_sets.here:
                continue
            self.known_sets.here.add(value)
            self._do(self.engine.judge(value, accepted=accepted), now)

    def _accepts(
        self, candidate: CandidateSet, value: Value, merger: Merger, now: float
    ) -> bool | None:
        """True if this node would have the set merged; asked once a round. ``None``: not known yet.

        A set with a proven lock was accepted by a quorum; asking again could only stall the swarm.
        """
        if not self._context.is_member:
            return False  # it has no vote
        if not self._collector.aggregation.available(candidate):
            self.objection = "too few of a committee hold a member's shard"
            return None
        question = ("judge", self.engine.round, value)
        if self._opinions.waits_for(question):
            return None
        ask = partial(self._opinions.ask, question)
        said = self._waivers.left(candidate, self.attempts)
        said = said or refusal(self._context, merger, candidate, ask)
        if said is None:
            self.objection = "not judged in time"
            self.expect(now + PATIENCE_TO_JUDGE * self.timeout)
            return None
        self.objection = said or self._amendments.objection(candidate, merger)
        return self.objection is None

    # ── proposing ─────────────────────────────────────────────────────────────────────────────

    def _asked(self, action: Propose, now: float) -> None:
        del now  # the round proposes, when it is time
        self._asked_for = action

    def propose_if_asked(self, now: float, fresh: Callable[[], CandidateSet | None]) -> None:
        """Propose what the engine asks for; ``fresh`` makes a set, or ``None`` for not yet."""
        asked, merger = self._asked_for, self._open
        if asked is None or merger is None or self.certificate is not None:
            return
        valid = self.engine.valid
        if valid is None:
            if (candidate := fresh()) is None:
                return
            added = self._amendments.added_to
            proposal = Proposal(added(candidate, merger, now, first=not self.attempts))
        else:
            prevotes = self.quorum(Step.PREVOTE, valid.round, valid.value)
            proposal = Proposal(self.known_sets.known[valid.value], valid.round, prevotes)
        self._asked_for = None
        value = self.known_sets.know(proposal.candidate)
        self._speaker.bind(asked.round, PROPOSAL, value)
        envelope = self._speaker.say(PROPOSAL, proposal.to_bytes(), now, round_number=asked.round)
        self.known_sets.proposed.setdefault(asked.round, {})[value] = envelope
        self._do(self.engine.propose(asked.round, value, proposal.lock_round), now)
        self.look(now)

    def withdraw(self) -> None:
        """Make no proposal in this round."""
        self._asked_for = None

    # ── the engine's wishes ───────────────────────────────────────────────────────────────────

    def _read(self, payload: bytes) -> Value | None:
        return decode_vote(payload)

    def _write(self, value: Value | None) -> bytes:
        return encode_vote(value)

    def _proposal(self, lock: Lock, prevotes: tuple[Envelope, ...]) -> bytes | None:
        candidate = self.known_sets.known.get(lock.value)
        return None if candidate is None else Proposal(candidate, lock.round, prevotes).to_bytes()

    def _record_lock(self, lock: Lock, prevotes: tuple[Envelope, ...]) -> None:
        candidate = self.known_sets.known[lock.value]
        messages = self._collector.messages(candidate.members)
        proposal = Proposal(candidate, lock.round, prevotes)
        self._journal.record_lock(JournalEntry(proposal.to_bytes(), messages))

    def _entered(self, number: int, now: float) -> None:
        """The machine sees that the engine has left its round, and opens the next."""
        del now
        self._asked_for = None
        self.known_sets.forget_old()
        self._judged = {key for key in self._judged if key[0] >= number}

    def _decided(self, action: Decide, now: float) -> None:
        self._decided_at = now
        precommits = self.quorum(Step.PRECOMMIT, action.round, action.value)
        candidate = self.known_sets.known[action.value]
        self.certificate = certificate = Certificate(candidate, action.round, precommits)
        messages = self._collector.messages(candidate.members)
        self._journal.record_chosen(JournalEntry(certificate.to_bytes(), messages))
        self._speaker.unsay(PROPOSAL, PREVOTE, PRECOMMIT, LOCK)
        if self._context.proposer(action.round) == self._context.node_id:
            self._speaker.broadcast(CERTIFICATE, certificate.to_bytes(), now)


def objections(context: NodeContext, candidate: CandidateSet) -> dict[NodeId, Fault]:
    """Objections of this node alone to members of a set, or to their standings in it.

    Others see it otherwise, and need not be wrong. So it makes this node vote against a set, but
    only for so long.
    """
    kernel = context.kernel
    tolerance = int(context.swarm.standing_tolerance * FULL_STANDING)
    exact = not kernel.has("reputation")
    # A proposer that screens may let an update count less, as it may leave it out altogether.
    lower = FULL_STANDING if kernel.has("screen") else 0
    found: dict[NodeId, Fault] = {}
    for member in candidate.members:
        own = kernel.standing(member.sender)
        bent = member.standing - own.weight
        least = -max(lower, 0 if exact else tolerance)
        if own.banned:
            found[member.sender] = Fault.SET_NAMES_BANNED
        elif not least <= bent <= (0 if exact else tolerance):
            found[member.sender] = Fault.STANDING_BENT
    return found


def refusal(
    context: NodeContext,
    merger: Merger,
    candidate: CandidateSet,
    ask: Callable[[Callable[[], str]], str | None],
) -> str | None:
    """Reason why this node would not have a set merged, whoever is in it; empty if it would.

    ``ask``: gives what a call that judges returns, or ``None`` if that is not known yet.
    """
    drawn = context.drawn(candidate.origin)
    if any(member.sender not in drawn for member in candidate.members):
        return "it names a member that was not drawn to train"
    try:
        if not merger.admits(candidate.members):
            return "a plugin would not have the set revealed"
    except QresError as error:
        context.kernel.rejections[f"{KERNEL}:proposal-not-revealed-{error.code.lower()}"] += 1
        return f"{error.problems[0]}"
    return ask(partial(unendorsed, context.kernel, merger, candidate))


def unendorsed(kernel: Kernel, merger: Merger, candidate: CandidateSet) -> str:
    """Reason why plugins would not have a set merged; empty if they would.

    That the rule refuses the set is no reason: then the outcome is void, which all agree on and
    which ends the height. Rounds that abort would never end it.
    """
    try:
        verdict, plugin = merger.judge(candidate.members)
    except QresError as error:
        kernel.rejections[f"{KERNEL}:proposal-not-merged-{error.code.lower()}"] += 1
        return ""
    if verdict is ACCEPT:
        return ""
    kernel.refuse(verdict.reason, Blame.NOBODY, None, plugin, merger.info.number)
    return "not endorsed here"
