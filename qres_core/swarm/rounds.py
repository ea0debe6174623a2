"""The round as a sans-I/O state machine: messages and clock ticks in, effects out.

One machine is one node. It owns the current model and runs round after round: open, gather
contributions, agree on a set, close with a new model or abort with nothing changed. It does no I/O
and reads no clock; :mod:`qres_core.swarm.node` drives it over a transport and
:mod:`qres_core.lab.simulator` on a virtual clock.

Each step of a round is taken at once when its condition holds, and at the latest at its time
(:mod:`qres_core.swarm.times`). What a node has said in a round that does not end, it says again
every half vote timeout, and asks again for what it lacks: messages get lost.

After a model a node waits for the swarm's interval before it begins the next round: it trains, and
its times run, from then on. What concerns models, catching up and what others say of the round is
taken meanwhile.

What the machine needs for it has a part each:

====================================  ==========================================================
:mod:`~qres_core.swarm.place`         who the node is, which model and round it is at
:mod:`~qres_core.swarm.outlet`        effects and refusals on their way out
:mod:`~qres_core.swarm.speaking`      signing, numbering, saying again
:mod:`~qres_core.swarm.dialogues`     the plugins' own messages
:mod:`~qres_core.swarm.collecting`    contributions: taken in, fetched, handed on
:mod:`~qres_core.swarm.checking`      their proofs: checked, or others' word taken for them
:mod:`~qres_core.swarm.judging`       this node's opinion, by held-out examples
:mod:`~qres_core.swarm.proving`       whether proposals, decisions and models are proven
:mod:`~qres_core.swarm.promises`      the sets it is bound by
:mod:`~qres_core.swarm.pace`          how far the others are
:mod:`~qres_core.swarm.vouching`      which model follows on which
:mod:`~qres_core.swarm.catching_up`   nodes that lag, itself among them
====================================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import attrs

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.evidence import Evidence
from qres_core.contract.fixed import add_saturating
from qres_core.contract.rounds import Outcome, RoundInfo, RoundStatus
from qres_core.contract.trainer import Validator
from qres_core.contract.types import (
    Contribution,
    NodeId,
    Update,
    Vector,
    check_vector,
    model_digest,
)
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.goal import Goal
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.agreement import NO_QUORUM, VoteSet, may_prevote
from qres_core.swarm.catching_up import CatchingUp
from qres_core.swarm.collecting import Collector
from qres_core.swarm.dialogues import Dialogues
from qres_core.swarm.effects import Effect, Refused, RoundEnded, SatOut, Train
from qres_core.swarm.journal import Journal, JournalEntry
from qres_core.swarm.judging import Judge
from qres_core.swarm.messages import (
    ATTESTATION,
    CERTIFICATE,
    CONTRIBUTION,
    DIALOGUE,
    DIGEST,
    ENOUGH,
    FETCH,
    FETCHED,
    HOLDING,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    RELAYED,
    SNAPSHOT,
    STOP,
    SYNC,
    CandidateSet,
    Certificate,
    ContributionBody,
    Handover,
    Proposal,
    Snapshot,
    decode_stop,
    decode_vote,
    encode_enough,
    encode_stop,
    encode_vote,
    goal_digest,
)
from qres_core.swarm.outlet import Outlet
from qres_core.swarm.pace import Pace
from qres_core.swarm.place import NodeContext, Position
from qres_core.swarm.promises import Promises
from qres_core.swarm.proving import is_decided, is_for_goal, is_over, is_vouched, proposal_flaw
from qres_core.swarm.speaking import Speaker
from qres_core.swarm.times import Times
from qres_core.swarm.vouching import Vouchers

PATIENCE: Final = 1.0
"""Seconds between ticks when every time of the round has passed."""


@attrs.define(eq=False)
class _RoundProgress:
    """How far the current round is."""

    times: Times
    prevotes: VoteSet
    precommits: VoteSet
    hopeless: bool  # the proposer is banned here: its proposal will not be taken
    begins: float  # when the node begins to train, unless more than f others begin before
    begun: bool = False
    update: Update | None = None
    contributed: bool = False
    proposed: bool = False
    proposal: Proposal | None = None
    proposal_digest: bytes = b""
    prevoted: bool = False
    precommitted: bool = False
    decided: Certificate | None = None


class RoundMachine:
    """One node's rounds.

    Args:
        node_id: this node's identity, 32 bytes, in the roster.
        roster: identities of all nodes.
        kernel: the node's plugins, set up.
        swarm: the swarm's promises.
        model: initial model, int32, shape ``(d,)``; superseded by the journal's.
        journal: durable memory.
        validator: judges models by held-out examples, for plugins that validate; they are refused
            without one.

    Raises:
        RoundError: QRES-E602 for a journal that cannot be read.
        CompatibilityError: plugins that do not fit a model of that many coordinates.
    """

    def __init__(
        self,
        node_id: NodeId,
        roster: Sequence[NodeId],
        kernel: Kernel,
        swarm: SwarmConfig,
        model: Vector,
        journal: Journal,
        validator: Validator | None = None,
    ) -> None:
        self.node_id = node_id
        self.roster = tuple(sorted(roster))
        self.kernel = kernel
        self.swarm = swarm
        self._journal = journal
        resume = journal.resume()
        model = check_vector(model if resume is None else resume.model, "model")
        kernel.fit(int(model.size))
        step, model_round, last_round = 0, 0, 0
        if resume is not None:
            step, model_round, last_round = resume.step, resume.model_round, resume.last_round
        self._first_round = max(last_round, model_round) + 1

        seat = self._seat = NodeContext(node_id, self.roster, kernel, swarm)
        here = self._position = Position(model, model_digest(model, step), step, model_round)
        self._outlet = Outlet(kernel)
        self._speaker = Speaker(seat, here, journal, self._outlet)
        self._dialogues = Dialogues(seat, here, self._speaker, self._outlet)
        self._collector = Collector(seat, here, self._speaker, self._outlet)
        self._judge = Judge(seat, here, self._collector, validator)
        self._promises = Promises(seat, here, self._collector, journal)
        self._pace = Pace()
        self._vouchers = Vouchers(seat, here, self._speaker, self._outlet)
        self._catching_up = CatchingUp(seat, here, self._speaker, self._vouchers, self._collector)
        self._of_any_round: Mapping[str, Callable[[Envelope, float], None]] = {
            FETCH: self._collector.answer,
            SYNC: self._catching_up.help,
            HOLDING: self._dialogues.compare,
            RELAYED: self._dialogues.compare,
        }
        self._round: _RoundProgress
        self._goal = goal_digest(str(Goal.parse(swarm.until)))
        self._good: int | None = None  # the model that this node found good enough
        self._enough: dict[NodeId, Envelope] = {}  # who found one good enough, and says so
        self._stopping: set[NodeId] = set()  # who is known to know that as many as decide do
        self._aborts = 0
        self._now = 0.0
        self._stopped = False
        if resume is not None and resume.lock is not None:
            self._promises.restore(resume.lock)
        if resume is not None and resume.handover is not None:
            here.parent = self._catching_up.restore(resume.handover)

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def start(self, now: float) -> list[Effect]:
        """Open the first round."""
        self._now = now
        # When a node that was away made its model is not known: the whole interval counts, unless
        # others begin before.
        self._open(self._first_round, now, wait=self.swarm.interval if self.step else 0.0)
        self._advance(now)
        return self._outlet.take()

    def receive(self, frame: bytes, source: NodeId, now: float) -> list[Effect]:
        """Take a frame. Never raises for what it holds.

        Args:
            frame: bytes as delivered.
            source: who answers for them: the author, where the transport proves who sent a frame
                first, else the neighbour that delivered it.
            now: this node's clock, seconds.
        """
        if self._is_over:
            return []
        self._now = now
        result = self.kernel.inbound(frame, source, now)
        if isinstance(result, Rejection):
            self._outlet.put(Refused(self.number, result.subject, result.reason))
        elif result.sender != self.node_id:
            self._dispatch(result, now)
            self._advance(now)
        return self._outlet.take()

    def tick(self, now: float) -> list[Effect]:
        """The clock is at ``now`` seconds."""
        if self._is_over:
            return []
        self._now = now
        self._dialogues.tick(now)
        self._catching_up.ask_if_behind(now, decided=self._round.decided is not None)
        self._advance(now)
        self._repeat(now)
        return self._outlet.take()

    def trained(self, update: Update, round_number: int, now: float) -> list[Effect]:
        """The result of :class:`Train`; ignored if the round is over."""
        if not self._is_over and round_number == self.number:
            self._round.update = update
            self._advance(now)
        return self._outlet.take()

    def sit_out(self, round_number: int, reason: str, now: float) -> list[Effect]:
        """Training failed: contribute nothing to the round, but go on voting."""
        if not self._is_over and round_number == self.number and not self._round.contributed:
            self._sit_out(reason)
            self._advance(now)
        return self._outlet.take()

    def publish_raw(self, payload: bytes, round_number: int, now: float) -> list[Effect]:
        """Send a contribution made outside the machine, unchecked: how the lab plays a liar."""
        if not self._is_over and round_number == self.number:
            self._round.contributed = True
            self._publish(payload, now)
            self._advance(now)
        return self._outlet.take()

    def enough(self, step: int, now: float) -> list[Effect]:
        """The model of a step is good enough by this node's figures: tell the others."""
        if not self._is_over and self._good in (None, step):
            self._good = step
            self._say_enough(now)
        return self._outlet.take()

    def stop(self) -> None:
        """Take no further part."""
        self._stopped = True

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        return self._speaker.take_sequence()

    # ── looking at it ─────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> Vector:
        """The node's model, int32, shape ``(d,)``."""
        return self._position.model

    @property
    def model_digest(self) -> bytes:
        """Digest of the node's model, 32 bytes."""
        return self._position.model_digest

    @property
    def step(self) -> int:
        """How many rounds closed before the node's model."""
        return self._position.step

    @property
    def vouchers(self) -> tuple[Envelope, ...]:
        """Messages that vouch for the node's model, its own among them, ascending by sender."""
        return self._vouchers.of_model()

    @property
    def model_round(self) -> int:
        """The round that made the node's model, 0 for the initial one."""
        return self._position.model_round

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self._position.number

    @property
    def has_enough(self) -> bool:
        """Whether so many nodes as decide a vote found a model good enough."""
        return len(self._enough) >= self.threshold

    @property
    def threshold(self) -> int:
        """Votes that decide."""
        return self._seat.threshold

    @property
    def next_sequence(self) -> int:
        """The number of the node's next message, which may be the first of a new block."""
        return self._speaker.next_sequence

    @property
    def next_tick(self) -> float:
        """When the clock next matters, in seconds; never, for a node that stopped."""
        if self._is_over:
            return math.inf
        times = [*self._round.times.upcoming(), self._speaker.repeat_at]
        if not self._round.begun:
            times.append(self._round.begins)
        times.append(self._collector.checks.due(self._round.times))
        look = self._catching_up.due()
        if look is not None:
            times.append(look)
        if self._dialogues:
            times.append(self._now + self.swarm.vote_timeout / 4)
        return min((time for time in times if time > self._now), default=self._now + PATIENCE)

    @property
    def waits_until(self) -> float | None:
        """When the node begins its round, seconds; ``None`` once it has."""
        return None if self._round.begun else self._round.begins

    @property
    def contributions(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        return self._collector.of_round()

    def proposer(self, number: int) -> NodeId:
        """Who may propose in a round."""
        return self._seat.proposer(number)

    @property
    def _is_proposer(self) -> bool:
        return self.proposer(self.number) == self.node_id

    @property
    def _is_over(self) -> bool:
        return self._stopped or self._vouchers.diverged

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open(self, number: int, now: float, *, wait: float = 0.0) -> None:
        """Go to a round; it begins at once, or after ``wait`` seconds."""
        self._position.info = RoundInfo(
            self.swarm.name,
            number,
            self.model_digest,
            int(self.model.size),
            self.swarm.scale,
            self.roster,
            self.swarm.quorum,
            self.swarm.byzantine,
            self.step,
        )
        self._round = _RoundProgress(
            Times.of(self.swarm, now + wait, self._aborts),
            VoteSet(self.threshold),
            VoteSet(self.threshold),
            hopeless=self.kernel.standing(self.proposer(number)).banned,
            begins=now + wait,
        )
        self._speaker.open_round(self._round.times.timeout / 2)
        self._collector.open_round(self._promises.named())
        self._judge.open_round()
        self._stopping = set()  # one that was started again has forgotten it
        self._say_enough(now)
        if wait > 0:
            self._take_early(now)
        else:
            self._begin(now)

    def _begin_if_due(self, now: float) -> None:
        """Begin the round when its time has come, or more than ``f`` others have begun it.

        One of them is honest, so that the swarm's interval is over by an honest clock. Nodes whose
        clocks differ, or that came late, thus begin together.
        """
        current = self._round
        if current.begun:
            return
        others = self._pace.begun(self.number, self.model_digest)
        if now >= current.begins or others > self.swarm.byzantine:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self._round.times = Times.of(self.swarm, now, self._aborts)
        if self._open_plugins(now):
            self._outlet.put(Train(self._position.info, self.model))
        self._take_early(now)

    def _open_plugins(self, now: float) -> bool:
        """Open the round with the plugins; whether they take it."""
        self._round.begun = True
        try:
            self._dialogues.open_round(self._position.info, now)
        except QresError as error:
            self._sit_out(f"round_opened: {error.problems[0]}")
            return False
        return True

    def _take_early(self, now: float) -> None:
        for envelope in self._pace.take():
            self._dispatch(envelope, now)

    # ── receiving ─────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, envelope: Envelope, now: float) -> None:
        self._pace.heard(envelope)
        try:
            self._take(envelope, now)
        except WireError as error:
            self._refuse(envelope, f"malformed {error.problems[0].where}")

    def _take(self, envelope: Envelope, now: float) -> None:
        kind = envelope.kind
        if kind in self._of_any_round:
            self._of_any_round[kind](envelope, now)
        elif kind == DIGEST and self._vouchers.knows(envelope.model_digest):
            self._vouchers.take(envelope)
        elif kind == SNAPSHOT:
            self._on_snapshot(envelope, now)
        elif kind == ENOUGH and self.swarm.until:
            self._on_enough(envelope, now)
        elif kind == STOP and self.swarm.until:
            self._on_stop(envelope, now)
        elif envelope.model_digest != self.model_digest:
            self._on_other_model(envelope, now)
        elif kind == CERTIFICATE:
            self._on_certificate(envelope, now)
        elif kind == FETCHED:
            quoted = self._collector.quoted(envelope, now)
            if quoted is not None:
                self._on_contribution(quoted)
        elif kind == CONTRIBUTION and envelope.round <= self.number:
            self._on_contribution(envelope)
        elif envelope.round > self.number:
            self._pace.keep(envelope, int(self.model.size))
        elif envelope.round == self.number:
            self._on_round_message(envelope, now)

    def _on_round_message(self, envelope: Envelope, now: float) -> None:
        kind = envelope.kind
        if kind == PROPOSAL:
            self._on_proposal(envelope, now)
        elif kind == PREVOTE:
            self._on_vote(self._round.prevotes, envelope)
        elif kind == PRECOMMIT:
            self._on_vote(self._round.precommits, envelope)
        elif kind.startswith(DIALOGUE) and not self._round.begun:
            self._pace.keep(envelope, int(self.model.size))
        elif kind.startswith(DIALOGUE):
            self._dialogues.take(envelope, now)
        elif kind != ATTESTATION or not self._collector.checks.attested(envelope):
            self._refuse(envelope, "unknown kind")

    def _on_other_model(self, envelope: Envelope, now: float) -> None:
        if self._catching_up.help_if_past(envelope, now):
            return
        self._catching_up.saw_other_model(envelope.sender, now)
        if envelope.round >= self.number:
            self._pace.keep(envelope, int(self.model.size))

    def _on_contribution(self, envelope: Envelope) -> None:
        pending, proposal = self._promises.pending, self._round.proposal
        self._collector.take(
            envelope,
            decided=None if pending is None else pending.candidate,
            proposed=None if proposal is None else proposal.candidate,
        )

    def _refuse(self, envelope: Envelope, reason: str) -> None:
        self._outlet.refuse(envelope, reason, Blame.SENDER)

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def _contribute(self, now: float) -> None:
        current, info = self._round, self._position.info
        if current.contributed or current.update is None:
            return
        if not self._dialogues.ready:
            if now >= current.times.propose:
                self._sit_out("a dialogue was not ready by the deadline")
            return
        if current.update.vector.size != info.dimension:
            self._sit_out("the trainer returned another dimension")
            return
        try:
            update = self.kernel.privatize(current.update, info)
            proofs = self.kernel.prove(update, info)
        except QresError as error:
            self._sit_out(str(error.problems[0]))
            return
        current.contributed = True
        # A restarted node must not contribute to the round again, and otherwise.
        self._journal.record_vote(self.number, CONTRIBUTION, None)
        weight = min(update.weight, self.swarm.weight_cap)
        body = ContributionBody(weight, update.vector, proofs, update.companions)
        self._publish(body.to_bytes(), now)

    def _publish(self, payload: bytes, now: float) -> None:
        envelope = self._speaker.broadcast(CONTRIBUTION, payload, now)
        try:
            self._on_contribution(envelope)
        except WireError:  # only a liar's own; the others refuse it too
            return

    def _sit_out(self, reason: str) -> None:
        self._round.contributed = True
        self._outlet.put(SatOut(self.number, reason))

    # ── agreeing ──────────────────────────────────────────────────────────────────────────────

    def _advance(self, now: float) -> None:
        """Take every step whose condition holds."""
        while True:
            before = self.number
            self._begin_if_due(now)
            if self._round.begun:
                self._join(now)
                self._contribute(now)
                self._check_contributions(now)
                self._propose(now)
                self._prevote(now)
                self._precommit(now)
            self._decide(now)
            if self._round.begun:
                self._finish(now)
            if self._is_over:
                return
            if self.number == before:
                self._overtaken(now)
            if self.number == before:
                return

    def _join(self, now: float) -> None:
        """Count the end of the round from when a quorum of nodes is there."""
        times = self._round.times
        if not times.joined and self._pace.others_in(self.number) + 1 >= self.threshold:
            times.join(now, self.swarm.deadline)

    def _check_contributions(self, now: float) -> None:
        """Check those that wait, where something is about to depend on them."""
        checks = self._collector.checks
        if not checks:
            return
        sets = [one for one in (self._round.proposal, self._promises.pending) if one is not None]
        named = {member.digest for one in sets for member in one.candidate.members}
        checks.advance(
            now,
            self._round.times,
            named,
            all_here=lambda: self._nobody_is_missing(self._collector.here()),
        )

    def _propose(self, now: float) -> None:
        current = self._round
        if current.proposed or current.proposal is not None or not self._is_proposer:
            return
        lock = self._promises.valid
        if lock is None:
            proposal = self._fresh(now)
        elif self._collector.complete(lock.candidate):
            proposal = Proposal(lock.candidate, lock.round, lock.prevotes)
        else:
            return
        if proposal is None:
            return
        current.proposed = True
        envelope = self._speaker.say(PROPOSAL, proposal.to_bytes(), now)
        self._on_proposal(envelope, now)

    def _fresh(self, now: float) -> Proposal | None:
        """What to propose of this round's contributions; ``None`` for nothing, or not yet."""
        held = self._collector.gathering.of_round(self.number)
        if now < self._round.times.propose and not self._nobody_is_missing(held):
            return None
        members = self._judge.chosen()
        if members is None:
            self._round.proposed = True  # no proposal of this node this round
            return None
        if len(members) < self.swarm.quorum:
            return None
        return Proposal(CandidateSet(self.number, members))

    def _nobody_is_missing(self, held: Collection[NodeId]) -> bool:
        """Whether waiting longer can bring nothing: what banned nodes send is never proposed."""
        return len(held) >= self.swarm.quorum and all(
            one in held or self.kernel.standing(one).banned for one in self.roster
        )

    def _on_proposal(self, envelope: Envelope, now: float) -> None:
        current = self._round
        if envelope.sender != self.proposer(self.number):
            self._refuse(envelope, "not the proposer")
            return
        proposal = Proposal.from_bytes(envelope.payload, len(self.roster))
        if current.proposal is not None:
            if proposal.candidate != current.proposal.candidate:
                self._refuse(envelope, "equivocation")
            return
        digest = self._promises.digest(proposal.candidate)
        flaw = proposal_flaw(self._seat, self._position, proposal, digest, now)
        if flaw:
            self._refuse(envelope, flaw)
            return
        current.proposal, current.proposal_digest = proposal, digest
        self._speaker.repeat_soon(now)
        self._collector.fetch(proposal.candidate, envelope.sender, now)

    def _prevote(self, now: float) -> None:
        current = self._round
        if current.prevoted:
            return
        proposal, digest = current.proposal, current.proposal_digest
        if proposal is not None and self._collector.complete(proposal.candidate):
            allowed = may_prevote(
                self._promises.lock, digest, proposal.lock_round
            ) and self._judge.endorses(proposal)
            self._vote(PREVOTE, digest if allowed else None, now)
        elif now >= current.times.prevote or current.hopeless:
            self._vote(PREVOTE, None, now)

    def _precommit(self, now: float) -> None:
        current = self._round
        winner = current.prevotes.winner()
        proposal, digest = current.proposal, current.proposal_digest
        if (
            proposal is not None
            and winner == digest
            and self._collector.complete(proposal.candidate)
        ):
            self._promises.saw_quorum(proposal.candidate, digest, current.prevotes)
            if not current.precommitted and current.prevoted:
                self._promises.keep()
                self._vote(PRECOMMIT, digest, now)
        elif not current.precommitted and (winner is None or now >= current.times.precommit):
            self._vote(PRECOMMIT, None, now)

    def _vote(self, kind: str, choice: bytes | None, now: float) -> None:
        current = self._round
        if kind == PREVOTE:
            current.prevoted, ballot = True, current.prevotes
        else:
            current.precommitted, ballot = True, current.precommits
        self._journal.record_vote(self.number, kind, choice)
        ballot.add(choice, self._speaker.say(kind, encode_vote(choice), now))

    def _say_enough(self, now: float) -> None:
        if self._good is not None:
            said = self._speaker.broadcast(ENOUGH, encode_enough(self._good, self._goal), now)
            self._enough[self.node_id] = said
        self._say_stop(now)

    def _say_stop(self, now: float) -> None:
        """Prove to the others that it is over.

        A liar may have said enough to some and not to the rest, who could make no model any more.
        """
        if not self.has_enough:
            return
        self._stopping.add(self.node_id)
        others = [peer for peer in self.roster if peer not in self._stopping]
        if others:
            # A word that is no longer taken, of a revoked member, would have the whole refused.
            said = self._enough.values()
            quoted = [word for word in said if self.kernel.authentic(word, now)][: self.threshold]
            envelope = self._speaker.make(STOP, encode_stop(quoted), now)
            for peer in others:
                self._speaker.send(peer, envelope)

    def _on_enough(self, envelope: Envelope, now: float) -> None:
        if not is_for_goal(envelope, self._goal):
            self._refuse(envelope, "another goal")
            return
        first = not self.has_enough
        self._enough[envelope.sender] = envelope
        if first:
            self._say_stop(now)

    def _on_stop(self, envelope: Envelope, now: float) -> None:
        quoted = decode_stop(envelope.payload, len(self.roster))
        if not is_over(self._seat, quoted, self._goal, now):
            self._refuse(envelope, "unproven stop")
            return
        first = not self.has_enough
        self._stopping.add(envelope.sender)
        for said in quoted:
            self._enough.setdefault(said.sender, said)
        if first:
            self._say_stop(now)

    def _on_vote(self, ballot: VoteSet, envelope: Envelope) -> None:
        if not ballot.add(decode_vote(envelope.payload), envelope):
            self._refuse(envelope, "equivocation")

    def _repeat(self, now: float) -> None:
        """Say it again, and ask others for what is missing."""
        if not self._speaker.repeat(now):
            return
        self._say_enough(now)
        turn = self.number + self._speaker.repeats
        holder = self.roster[turn % len(self.roster)]
        for source in (self._promises.pending, self._round.proposal):
            if source is not None:
                self._collector.fetch(source.candidate, holder, now)

    # ── deciding ──────────────────────────────────────────────────────────────────────────────

    def _on_certificate(self, envelope: Envelope, now: float) -> None:
        if self._round.decided is not None:
            return
        pending = self._promises.pending
        if pending is not None:  # this one may hold what the first to tell did not give
            self._collector.fetch(pending.candidate, envelope.sender, now)
            return
        certificate = Certificate.from_bytes(envelope.payload, len(self.roster))
        digest = self._promises.digest(certificate.candidate)
        if not is_decided(self._seat, self._position, certificate, digest, now):
            self._refuse(envelope, "unproven certificate")
            return
        self._promises.must_merge(certificate)
        self._collector.fetch(certificate.candidate, envelope.sender, now)

    def _decide(self, now: float) -> None:
        current = self._round
        if current.decided is not None:
            return
        certificate = self._promises.pending
        if certificate is None and current.proposal is not None:
            if current.precommits.winner() != current.proposal_digest:
                return
            precommits = current.precommits.messages(current.proposal_digest)
            certificate = Certificate(current.proposal.candidate, self.number, precommits)
        if certificate is not None:
            self._collector.checks.decided(one.digest for one in certificate.candidate.members)
        if certificate is None or not self._collector.complete(certificate.candidate):
            return
        if not current.begun:  # the others were quicker
            self._begin(now)
        current.decided = certificate
        current.times.decide(now, self.swarm.deadline)
        if self._is_proposer and self._promises.pending is None:
            self._speaker.broadcast(CERTIFICATE, certificate.to_bytes(), now)
        members = certificate.candidate.members
        senders = tuple(member.sender for member in members)
        made = self._collector.gathering.contributions(members)
        self._dialogues.decided(senders, made, self._made_in(certificate), now)

    def _made_in(self, certificate: Certificate) -> RoundInfo:
        """The round that the set's contributions were made in, which may be an earlier one."""
        return attrs.evolve(self._position.info, number=certificate.candidate.origin)

    # ── ending ────────────────────────────────────────────────────────────────────────────────

    def _finish(self, now: float) -> None:
        current = self._round
        certificate = current.decided
        if certificate is not None:
            if self._dialogues.finished:
                self._close(certificate, now)
            elif now >= current.times.end:
                self._promises.free()
                self._abort("a dialogue did not finish", now, code="QRES-E604")
            return
        winner = current.precommits.winner()
        everybody = len(current.precommits) == len(self.roster)
        over = current.times.joined and now >= current.times.end
        if winner is None or (everybody and winner is NO_QUORUM) or over:
            self._abort(self._why(), now)

    def _why(self) -> str:
        held = len(self._collector.of_round())
        if held < self.swarm.quorum:
            return f"{held} contributions, quorum {self.swarm.quorum}"
        if self._round.proposal is None:
            return "no proposal"
        return "not endorsed here" if self._judge.refused else "no agreement"

    def _close(self, certificate: Certificate, now: float) -> None:
        members = certificate.candidate.members
        try:
            merged = self._judge.merged(members, self._made_in(certificate))
        except QresError as error:
            self._promises.free()
            self._abort(f"aggregation refused: {error}", now, code=error.code)
            return
        total = add_saturating(self.model, merged)
        parent, child = self.model_digest, model_digest(total.vector, self.step + 1)
        head = Handover(parent, certificate).to_bytes()
        handover = JournalEntry(head, self._collector.messages(members))
        self._journal.record_model(certificate.round, self.step + 1, total.vector, handover)
        self._catching_up.remember(parent, certificate)
        self._vouchers.made(parent, child)
        self._replace_model(total.vector, child, self.step + 1, certificate.round, parent)
        senders = tuple(member.sender for member in members)
        for sender in senders:
            fact = Evidence(sender, "contributed", "kernel", against=False, round=self.number)
            self.kernel.observe(fact)
        outcome = Outcome(self._position.info, RoundStatus.CLOSED, child, senders)
        self._go_on(RoundEnded(outcome, self.model, merged, total.saturated), now)

    def _replace_model(
        self, model: Vector, digest: bytes, step: int, model_round: int, parent: bytes
    ) -> None:
        here = self._position
        self._collector.leave(here.model_digest)
        here.model, here.model_digest, here.parent = model, digest, parent
        here.step, here.model_round = step, model_round
        self._promises.void()
        self._catching_up.moved_on()

    def _go_on(self, ended: RoundEnded, now: float) -> None:
        """The node has a new model: tell of it, and go to the next round."""
        self._close_plugins(ended.outcome, now)
        self._outlet.put(ended)
        self._aborts = 0
        number = max(self.number, self.model_round) + 1
        self._vouchers.vouch(now)
        if not self._is_over:
            self._open(number, now, wait=self.swarm.interval)

    def _close_plugins(self, outcome: Outcome, now: float) -> None:
        if not self._round.begun:  # what is closed was opened
            self._open_plugins(now)
        self._dialogues.close()
        self.kernel.round_closed(outcome)

    def _abort(self, reason: str, now: float, *, number: int | None = None, code: str = "") -> None:
        info = self._position.info
        outcome = Outcome(info, RoundStatus.ABORTED, self.model_digest, reason=reason, code=code)
        self._close_plugins(outcome, now)
        self._outlet.put(RoundEnded(outcome, self.model))
        self._aborts += 1
        if self._position.parent:
            self._vouchers.vouch(now)  # again: what is lost is why rounds abort
        self._open(self.number + 1 if number is None else number, now)

    def _overtaken(self, now: float) -> None:
        """Jump to a round that more than ``f`` nodes with this model have reached.

        One of them is honest. Nodes with a later model do not count: in their round this node could
        do nothing, and once it had caught up it would have to wait for the round after.
        """
        if self._round.decided is not None:
            return
        number = self._pace.reached_by_more_than(self.swarm.byzantine, self.model_digest)
        if number <= self.number:
            return
        current = self._round
        if current.begun:
            self._abort("overtaken by the swarm", now, number=number)
        else:  # they may be waiting in that round; nobody heard of this one
            self._open(number, now, wait=current.begins - now)

    def _on_snapshot(self, envelope: Envelope, now: float) -> None:
        """Take a model that others made without this node."""
        dimension = int(self.model.size)
        snapshot = Snapshot.from_bytes(envelope.payload, len(self.roster), dimension)
        if not is_vouched(self._seat, snapshot, now):
            self._refuse(envelope, "unproven snapshot")
            return
        if snapshot.step <= self.step:
            return  # not newer than what this node has
        # The highest that an honest voucher can have said: liars may say anything.
        rounds = sorted((voucher.round for voucher in snapshot.vouchers), reverse=True)
        made_in = rounds[self.swarm.byzantine]
        model, step, parent = snapshot.vector, snapshot.step, snapshot.vouchers[0].model_digest
        digest = model_digest(model, step)
        self._journal.record_model(made_in, step, model, None)
        self._replace_model(model, digest, step, made_in, parent)
        self._vouchers.accept(parent, digest, snapshot.vouchers)
        reason = "caught up from a snapshot"
        outcome = Outcome(self._position.info, RoundStatus.CLOSED, digest, reason=reason)
        self._go_on(RoundEnded(outcome, self.model), now)
