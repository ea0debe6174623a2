"""The steps of one round: begin, contribute, propose, prevote, precommit, decide.

Each is taken at once when its condition holds, and at the latest at its time
(:mod:`qres_core.swarm.timeouts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.faults import KERNEL, Fault
from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import Outcome, RoundInfo
from qres_core.contract.trainer import Validator
from qres_core.contract.types import NodeId, Update, Vector, check_vector, model_digest
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.agreement import (
    NO_QUORUM,
    Promises,
    VoteSet,
    is_decided,
    may_prevote,
    proposal_flaw,
)
from qres_core.swarm.collecting import Collector
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.dialogues import Dialogues
from qres_core.swarm.effects import SatOut, Train
from qres_core.swarm.journal import Journal
from qres_core.swarm.merge import Merger
from qres_core.swarm.messages import (
    ATTESTATION,
    CERTIFICATE,
    CONTRIBUTION,
    DIALOGUE,
    FETCH,
    FETCHED,
    HOLDING,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    RELAYED,
    SYNC,
    CandidateSet,
    Certificate,
    ContributionBody,
    Proposal,
    decode_vote,
    encode_vote,
)
from qres_core.swarm.outbox import Outlet, Speaker
from qres_core.swarm.sync import CatchingUp, Pace
from qres_core.swarm.timeouts import Times
from qres_core.swarm.until import Until
from qres_core.swarm.vouching import Vouchers

PATIENCE: Final = 1.0
"""Seconds between ticks when every time of the round has passed."""


class Parts:
    """What a node makes its rounds with. Each keeps its own memory; none looks into another's.

    ``model`` is the initial one, int32, shape ``(d,)``; the journal's supersedes it. Raises
    RoundError: QRES-E602 for a journal that cannot be read. Raises CompatibilityError: plugins that
    do not fit a model of that many coordinates.
    """

    def __init__(
        self, context: NodeContext, model: Vector, journal: Journal, validator: Validator | None
    ) -> None:
        resume = journal.resume()
        model = check_vector(model if resume is None else resume.model, "model")
        context.kernel.fit(int(model.size))
        step, made_in, last_round = 0, 0, 0
        if resume is not None:
            step, made_in, last_round = resume.step, resume.model_round, resume.last_round
        self.first_round = max(last_round, made_in) + 1
        self.context, self.journal, self.validator = context, journal, validator
        self.position = Position(model, model_digest(model, step), step, made_in)
        self.outlet = Outlet(context.kernel)
        self.speaker = Speaker(context, self.position, journal, self.outlet)
        self.collector = Collector(self.speaker)
        self.vouchers = Vouchers(self.speaker)
        self.dialogues = Dialogues(self.speaker)
        self.catching_up = CatchingUp(self.speaker, self.vouchers, self.collector)
        self.promises = Promises(self.speaker, self.collector, journal)
        self.pace = Pace()
        self.until = Until(self.speaker)
        # what takes messages that are answered whatever model they are about, by kind
        self.of_any_round: Mapping[str, Callable[[Envelope, float], None]] = {
            FETCH: self.collector.answer,
            SYNC: self.catching_up.help,
            HOLDING: self.dialogues.compare,
            RELAYED: self.dialogues.compare,
        }
        if resume is not None and resume.lock is not None:
            self.promises.restore(resume.lock)
        if resume is not None and resume.handover is not None:
            self.position.parent = self.catching_up.restore(resume.handover)


@attrs.define(eq=False)
class Voting:
    """The agreement of one round: proposal, prevotes, precommits."""

    parts: Parts  # of the node
    merger: Merger  # the data path of the round
    # what is proposed, once it is taken
    proposal: Proposal | None = attrs.field(default=None, init=False)
    _digest: bytes = attrs.field(default=b"", init=False)
    _proposed: bool = attrs.field(default=False, init=False)
    _endorsed: bool | None = attrs.field(default=None, init=False)
    _prevoted: bool = attrs.field(default=False, init=False)
    _precommitted: bool = attrs.field(default=False, init=False)
    prevotes: VoteSet = attrs.field(init=False)
    precommits: VoteSet = attrs.field(init=False)
    _hopeless: bool = attrs.field(init=False)  # the proposer is banned: what it says is not taken

    def __attrs_post_init__(self) -> None:
        context = self.parts.context
        self.prevotes = VoteSet(context.threshold)
        self.precommits = VoteSet(context.threshold)
        self._hopeless = context.kernel.standing(self._proposer).banned

    @property
    def _number(self) -> int:
        return self.parts.position.number

    @property
    def _proposer(self) -> NodeId:
        return self.parts.context.proposer(self._number)

    def advance(self, now: float, times: Times) -> None:
        """Propose and vote, where that is possible or its time has come."""
        self._propose(now, times)
        self._prevote(now, times)
        self._precommit(now, times)

    def take(self, envelope: Envelope, now: float) -> bool:
        """Take a proposal or a vote of this round; whether it is one.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        if envelope.kind == PROPOSAL:
            self._take_proposal(envelope, now)
        elif envelope.kind == PREVOTE:
            self._take_vote(self.prevotes, envelope)
        elif envelope.kind == PRECOMMIT:
            self._take_vote(self.precommits, envelope)
        else:
            return False
        return True

    def _refuse(self, envelope: Envelope, fault: Fault) -> None:
        self.parts.outlet.refuse(envelope, fault, Blame.SENDER)

    def sets(self) -> list[CandidateSet]:
        """The sets whose contributions are needed: one decided elsewhere, and the proposed one."""
        known = (self.parts.promises.pending, self.proposal)
        return [source.candidate for source in known if source is not None]

    # ── proposing ─────────────────────────────────────────────────────────────────────────────

    def _propose(self, now: float, times: Times) -> None:
        parts = self.parts
        if self._proposed or self.proposal is not None or self._proposer != parts.context.node_id:
            return
        lock = parts.promises.valid
        if lock is None:
            proposal = self._fresh(now, times)
        elif parts.collector.complete(lock.candidate):
            proposal = Proposal(lock.candidate, lock.round, lock.prevotes)
        else:
            return
        if proposal is None:
            return
        self._proposed = True
        envelope = parts.speaker.say(PROPOSAL, proposal.to_bytes(), now)
        self._take_proposal(envelope, now)

    def _fresh(self, now: float, times: Times) -> Proposal | None:
        """What to propose of this round's contributions; ``None`` for nothing, or not yet."""
        held = self.parts.collector.gathering.of_round(self._number)
        if now < times.propose and not self.parts.context.nobody_is_missing(held):
            return None
        kernel = self.parts.context.kernel
        try:
            choice = self.merger.choose()
        except QresError as error:
            kernel.rejections[f"{KERNEL}:not-screened-{error.code.lower()}"] += 1
            self._proposed = True  # no proposal of this node this round
            return None
        for evidence in choice.against:
            kernel.observe(evidence)
        if len(choice.members) < self.parts.context.swarm.quorum:
            return None
        return Proposal(CandidateSet(self._number, choice.members))

    def _take_proposal(self, envelope: Envelope, now: float) -> None:
        parts = self.parts
        if envelope.sender != self._proposer:
            self._refuse(envelope, Fault.NOT_THE_PROPOSER)
            return
        proposal = Proposal.from_bytes(envelope.payload, len(parts.context.roster))
        if self.proposal is not None:
            if proposal.candidate != self.proposal.candidate:
                self._refuse(envelope, Fault.EQUIVOCATION)
            return
        digest = parts.promises.digest(proposal.candidate)
        flaw = proposal_flaw(parts.context, parts.position, proposal, digest, now)
        if flaw is not None:
            self._refuse(envelope, flaw)
            return
        self.proposal, self._digest = proposal, digest
        parts.speaker.repeat_soon(now)
        parts.collector.fetch(proposal.candidate, envelope.sender, now)

    # ── voting ────────────────────────────────────────────────────────────────────────────────

    def _prevote(self, now: float, times: Times) -> None:
        if self._prevoted:
            return
        parts, proposal, digest = self.parts, self.proposal, self._digest
        if proposal is not None and parts.collector.complete(proposal.candidate):
            allowed = may_prevote(
                parts.promises.lock, digest, proposal.lock_round
            ) and self._endorses(proposal)
            self._vote(PREVOTE, digest if allowed else None, now)
        elif now >= times.prevote or self._hopeless:
            self._vote(PREVOTE, None, now)

    def _endorses(self, proposal: Proposal) -> bool:
        """Whether this node's plugins would have it vote for the set; asked once a round.

        A set with a proven lock was endorsed by a quorum; asking again could only stall the swarm.
        """
        if proposal.lock_round:
            return True
        kernel = self.parts.context.kernel
        self._endorsed = False
        try:
            verdict, plugin = self.merger.judge(proposal.candidate.members)
        except QresError as error:
            kernel.rejections[f"{KERNEL}:proposal-not-merged-{error.code.lower()}"] += 1
            return False
        if verdict is not ACCEPT:
            kernel.refuse(verdict.reason, Blame.NOBODY, None, plugin, self._number)
            return False
        self._endorsed = True
        return True

    def _precommit(self, now: float, times: Times) -> None:
        parts, proposal, digest = self.parts, self.proposal, self._digest
        winner = self.prevotes.winner()
        if (
            proposal is not None
            and winner == digest
            and parts.collector.complete(proposal.candidate)
        ):
            parts.promises.saw_quorum(proposal.candidate, digest, self.prevotes)
            if not self._precommitted and self._prevoted:
                parts.promises.keep()
                self._vote(PRECOMMIT, digest, now)
        elif not self._precommitted and (winner is None or now >= times.precommit):
            self._vote(PRECOMMIT, None, now)

    def _vote(self, kind: str, choice: bytes | None, now: float) -> None:
        if kind == PREVOTE:
            self._prevoted, votes = True, self.prevotes
        else:
            self._precommitted, votes = True, self.precommits
        self.parts.journal.record_vote(self._number, kind, choice)
        votes.add(choice, self.parts.speaker.say(kind, encode_vote(choice), now))

    def _take_vote(self, votes: VoteSet, envelope: Envelope) -> None:
        if not votes.add(decode_vote(envelope.payload), envelope):
            self._refuse(envelope, Fault.EQUIVOCATION)

    # ── deciding ──────────────────────────────────────────────────────────────────────────────

    def take_certificate(self, envelope: Envelope, now: float) -> None:
        """Take the proof that a quorum decided on a set.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        parts, pending = self.parts, self.parts.promises.pending
        if pending is not None:  # this one may hold what the first to tell did not give
            parts.collector.fetch(pending.candidate, envelope.sender, now)
            return
        certificate = Certificate.from_bytes(envelope.payload, len(parts.context.roster))
        digest = parts.promises.digest(certificate.candidate)
        if not is_decided(parts.context, parts.position, certificate, digest, now):
            self._refuse(envelope, Fault.UNPROVEN_CERTIFICATE)
            return
        parts.promises.must_merge(certificate)
        parts.collector.fetch(certificate.candidate, envelope.sender, now)

    def decision(self) -> Certificate | None:
        """The set that a quorum decided on, here or elsewhere, with the proof."""
        pending = self.parts.promises.pending
        if pending is not None or self.proposal is None:
            return pending
        if self.precommits.winner() != self._digest:
            return None
        precommits = self.precommits.messages(self._digest)
        return Certificate(self.proposal.candidate, self._number, precommits)

    def is_lost(self, now: float, times: Times) -> bool:
        """Whether nothing is decided, and nothing will be in this round."""
        winner = self.precommits.winner()
        everybody = len(self.precommits) == len(self.parts.context.roster)
        over = times.joined and now >= times.end
        return winner is None or (everybody and winner is NO_QUORUM) or over

    def why_lost(self) -> str:
        """What kept it from a decision."""
        held, quorum = len(self.parts.collector.of_round()), self.parts.context.swarm.quorum
        if held < quorum:
            return f"{held} contributions, quorum {quorum}"
        if self.proposal is None:
            return "no proposal"
        return "not endorsed here" if self._endorsed is False else "no agreement"


@attrs.define(eq=False)
class Round:
    """One round at one node, until a set is decided or its time is over."""

    parts: Parts  # of the node
    # takes a message that came before the round was open, as if it came now
    dispatch: Callable[[Envelope, float], None]
    aborts: int  # rounds aborted in a row before it; they make the steps longer
    begins: float  # when the node begins to train, seconds, unless more than f others begin before
    times: Times = attrs.field(init=False)
    voting: Voting = attrs.field(init=False)
    begun: bool = attrs.field(default=False, init=False)  # whether it has begun
    update: Update | None = attrs.field(default=None, init=False)  # what training gave
    contributed: bool = attrs.field(default=False, init=False)
    # the set that is merged, with the proof
    decided: Certificate | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.times = Times.of(self.parts.context.swarm, self.begins, self.aborts)
        parts, here = self.parts, self.parts.position
        held_out = None
        if parts.validator is not None:
            held_out = HeldOut.of(parts.validator, here.model, here.info)
        kernel, gathering = parts.context.kernel, parts.collector.gathering
        self.voting = Voting(parts, Merger(kernel, gathering, here.info, held_out))

    @property
    def _number(self) -> int:
        return self.parts.position.number

    def advance(self, now: float) -> None:
        """Take every step whose condition holds."""
        self._begin_if_due(now)
        if self.begun:
            self._join(now)
            self._contribute(now)
            self._check_contributions(now)
            self.voting.advance(now, self.times)
        self._decide(now)

    def take(self, envelope: Envelope, now: float) -> None:
        """Take a message about the node's model, of this round or what an earlier one left.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        kind, parts = envelope.kind, self.parts
        if kind == CERTIFICATE:
            if self.decided is None:
                self.voting.take_certificate(envelope, now)
        elif kind == FETCHED:
            decided = self.voting.decision() is not None
            quoted = parts.collector.quoted(envelope, now, decided=decided)
            if quoted is not None:
                self._take_contribution(quoted)
        elif kind == CONTRIBUTION:
            self._take_contribution(envelope)
        elif envelope.round < self._number or self.voting.take(envelope, now):
            return
        elif kind.startswith(DIALOGUE) and not self.begun:
            parts.pace.keep(envelope, int(parts.position.model.size))
        elif kind.startswith(DIALOGUE):
            parts.dialogues.take(envelope, now)
        elif kind != ATTESTATION or not parts.collector.checks.attested(envelope):
            parts.outlet.refuse(envelope, Fault.UNKNOWN_KIND, Blame.SENDER)

    def ask(self, now: float) -> None:
        """Ask another node, each in turn, for what is missing of the sets that are needed."""
        roster = self.parts.context.roster
        holder = roster[(self._number + self.parts.speaker.repeats) % len(roster)]
        for candidate in self.voting.sets():
            self.parts.collector.fetch(candidate, holder, now)

    # ── beginning ─────────────────────────────────────────────────────────────────────────────

    def _begin_if_due(self, now: float) -> None:
        """Begin the round when its time has come, or more than ``f`` others have begun it.

        One of them is honest, so that the swarm's interval is over by an honest clock. Nodes whose
        clocks differ, or that came late, thus begin together.
        """
        if self.begun:
            return
        others = self.parts.pace.begun(self._number, self.parts.position.model_digest)
        if now >= self.begins or others > self.parts.context.swarm.byzantine:
            self._begin(now)

    def open(self, now: float) -> None:
        """Be open for what the others say; begin, or wait for the time to begin."""
        parts = self.parts
        parts.speaker.open_round(self.times.timeout / 2)
        parts.collector.open_round(parts.promises.named())
        parts.until.open_round(now)
        if self.begins > now:
            self._take_early(now)
        else:
            self._begin(now)

    def _begin(self, now: float) -> None:
        """Train, and let the times run from now."""
        parts = self.parts
        self.times = Times.of(parts.context.swarm, now, self.aborts)
        if self._open_plugins(now):
            parts.outlet.put(Train(parts.position.info, parts.position.model))
        self._take_early(now)

    def _take_early(self, now: float) -> None:
        for envelope in self.parts.pace.take():
            self.dispatch(envelope, now)

    def _open_plugins(self, now: float) -> bool:
        """Open the round with the plugins; whether they take it."""
        self.begun = True
        try:
            self.parts.dialogues.open_round(self.parts.position.info, now)
        except QresError as error:
            self.sit_out(f"round_opened: {error.problems[0]}")
            return False
        return True

    def _join(self, now: float) -> None:
        """Count the end of the round from when a quorum of nodes is there."""
        there = self.parts.pace.others_in(self._number) + 1
        if not self.times.joined and there >= self.parts.context.threshold:
            self.times.join(now, self.parts.context.swarm.deadline)

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def _contribute(self, now: float) -> None:
        parts, info = self.parts, self.parts.position.info
        if self.contributed or self.update is None:
            return
        if not parts.dialogues.ready:
            if now >= self.times.propose:
                self.sit_out("a dialogue was not ready by the deadline")
            return
        if self.update.vector.size != info.dimension:
            self.sit_out("the trainer returned another dimension")
            return
        try:
            update = parts.context.kernel.privatize(self.update, info)
            proofs = parts.context.kernel.prove(update, info)
        except QresError as error:
            self.sit_out(str(error.problems[0]))
            return
        # A restarted node must not contribute to the round again, and otherwise.
        parts.journal.record_vote(info.number, CONTRIBUTION, None)
        weight = min(update.weight, parts.context.swarm.weight_cap)
        body = ContributionBody(weight, update.vector, proofs, update.companions)
        self.publish(body.to_bytes(), now)

    def publish(self, payload: bytes, now: float) -> None:
        """Send an encoded contribution."""
        self.contributed = True
        envelope = self.parts.speaker.broadcast(CONTRIBUTION, payload, now)
        try:
            self._take_contribution(envelope)
        except WireError:  # only a liar's own; the others refuse it too
            return

    def sit_out(self, reason: str) -> None:
        """Contribute nothing to the round."""
        self.contributed = True
        self.parts.outlet.put(SatOut(self._number, reason))

    def _take_contribution(self, envelope: Envelope) -> None:
        pending, proposal = self.parts.promises.pending, self.voting.proposal
        self.parts.collector.take(
            envelope,
            decided=None if pending is None else pending.candidate,
            proposed=None if proposal is None else proposal.candidate,
        )

    def _check_contributions(self, now: float) -> None:
        """Check those that wait, where something is about to depend on them."""
        collector = self.parts.collector
        if not collector.checks:
            return
        named = {member.digest for known in self.voting.sets() for member in known.members}
        collector.checks.advance(
            now,
            self.times,
            named,
            all_here=lambda: self.parts.context.nobody_is_missing(collector.here()),
        )

    # ── deciding ──────────────────────────────────────────────────────────────────────────────

    def _decide(self, now: float) -> None:
        certificate = None if self.decided is not None else self.voting.decision()
        if certificate is None:
            return
        parts = self.parts
        members = certificate.candidate.members
        parts.collector.checks.decided(member.digest for member in members)
        if not parts.collector.complete(certificate.candidate):
            return
        if not self.begun:  # the others were quicker
            self._begin(now)
        self.decided = certificate
        self.times.decide(now, parts.context.swarm.deadline)
        is_proposer = parts.context.proposer(self._number) == parts.context.node_id
        if is_proposer and parts.promises.pending is None:
            parts.speaker.broadcast(CERTIFICATE, certificate.to_bytes(), now)
        senders = tuple(member.sender for member in members)
        made = parts.collector.gathering.contributions(members)
        parts.dialogues.decided(senders, made, self._made_in(certificate), now)

    def merged(self, certificate: Certificate) -> Vector:
        """What the decided set merges to. Raises QresError for what a plugin refused."""
        members = certificate.candidate.members
        return self.voting.merger.merge(members, self._made_in(certificate))

    def _made_in(self, certificate: Certificate) -> RoundInfo:
        """The round that the set's contributions were made in, which may be an earlier one."""
        return attrs.evolve(self.parts.position.info, number=certificate.candidate.origin)

    def due(self, now: float) -> float:
        """When the clock matters to the node after ``now``, seconds."""
        parts = self.parts
        times = [
            *self.times.upcoming(),
            math.inf if self.begun else self.begins,
            parts.collector.checks.due(self.times),
            parts.speaker.repeat_at,
            parts.catching_up.due(),
            now + parts.context.swarm.vote_timeout / 4 if parts.dialogues else math.inf,
        ]
        return min((time for time in times if time > now), default=now + PATIENCE)

    def close(self, outcome: Outcome, now: float) -> None:
        """Tell the plugins how it ended. What is closed was opened."""
        if not self.begun:
            self._open_plugins(now)
        self.parts.dialogues.close()
        self.parts.context.kernel.round_closed(outcome)
