"""The steps of one round: begin, contribute, propose, and merge what was decided.

Each is taken at once when its condition holds, and at the latest at its time
(:mod:`qres_core.swarm.context.times`). The votes are the instances' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Final

import attrs

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.faults import Fault
from qres_core.contract.rounds import Outcome, OwnContributions, RoundInfo
from qres_core.contract.types import NodeId, Update
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.agreement.choice import Choice
from qres_core.swarm.agreement.judgements import Opinions
from qres_core.swarm.context.effects import SatOut, Train
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.position import NodeContext, Position
from qres_core.swarm.context.times import Stopwatch, Times
from qres_core.swarm.contributions.aggregation import Aggregation
from qres_core.swarm.contributions.intake import Collector
from qres_core.swarm.contributions.lone_round import not_screened, observed, protected
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    ATTESTATION,
    CONTRIBUTION,
    DIALOGUE,
    FETCHED,
    CandidateSet,
    Certificate,
    ContributionBody,
)
from qres_core.swarm.machine.dialogues import Dialogues
from qres_core.swarm.sync.pace import Pace

HARDLY: Final = 8
"""How many times less a proposal is waited for of whom none came at its last turn."""
NOT_DRAWN: Final = "not among the participants of this round"


TrainingResult = Update | str
"""An update, or why the node contributes nothing."""


@attrs.define(eq=False)
class TrainingAhead:
    """The one training, at most, that is ahead of its round.

    A node that merged the decided set knows what the next model will be, unless the others found
    something else. It trains from it while they vote. If the swarm goes on otherwise, what came of
    it is thrown away, and the node trains anew.
    """

    _round: RoundInfo | None = attrs.field(default=None, init=False)
    _result: TrainingResult | None = attrs.field(default=None, init=False)

    def begin(self, info: RoundInfo) -> None:
        """A training for this round was asked for; what was ahead before is thrown away."""
        self._round, self._result = info, None

    def take(self, result: TrainingResult, round_number: int, head: bytes) -> None:
        """Keep what came of it."""
        ahead = self._round
        if ahead is not None and (ahead.number, ahead.head) == (round_number, head):
            self._result = result

    def claim(self, info: RoundInfo) -> tuple[bool, TrainingResult | None]:
        """Tell if it was for the round that opens now, and what came of it so far.

        Nothing is ahead afterwards.
        """
        fits, result = self._round == info, self._result
        self._round = self._result = None
        return fits, result if fits else None


@attrs.define(eq=False)
class Round:
    """One round at one node, until a set is decided or its time is over."""

    speaker: Speaker  # says what the node has to say, and knows where the node is
    choice: Choice  # of the node's height
    collector: Collector
    aggregation: Aggregation  # of the node's height
    dialogues: Dialogues
    opinions: Opinions
    pace: Pace  # of the others
    ahead: TrainingAhead
    own: Callable[[], OwnContributions]  # gives what is known of the node's contributions so far
    dispatch: Callable[[Envelope, float], None]  # takes what came before the round was open
    aborts: int  # rounds aborted in a row before it; they make the steps longer
    begins: float  # when the node begins to train, seconds, unless more than f others begin before
    needed: float = math.inf  # from when on it may begin earlier, once few others are behind
    context: NodeContext = attrs.field(init=False)
    position: Position = attrs.field(init=False)
    number: int = attrs.field(init=False)
    times: Times = attrs.field(init=False)
    merger: Merger = attrs.field(init=False)  # the data path of the round
    begun: bool = attrs.field(default=False, init=False)  # whether it has begun
    followed: bool = attrs.field(default=False, init=False)  # whether nobody heard of it
    _seen: set[NodeId] | None = attrs.field(default=None, init=False)  # who was here at last look
    _watch: Stopwatch | None = attrs.field(default=None, init=False)
    _opened: bool = attrs.field(default=False, init=False)  # whether the plugins know of it
    update: Update | None = attrs.field(default=None, init=False)  # what training gave
    contributed: bool = attrs.field(default=False, init=False)
    decided: Certificate | None = attrs.field(default=None, init=False)  # with the proof
    tried: bool = attrs.field(default=False, init=False)  # whether it was merged, or refused

    def __attrs_post_init__(self) -> None:
        self.context, self.position = context, here = self.speaker.context, self.speaker.position
        self.number = here.number
        self.times = Times.of(context.swarm, self.begins, self.aborts, context.waits.stretch)
        held_out = self.opinions.held_out(here.model, here.info)
        self.merger = Merger(context.kernel, self.collector.gathering, here.info, held_out)
        self.choice.merger = self.merger

    def advance(self, now: float) -> None:
        """Take every step whose condition holds."""
        self._begin_if_due(now)
        self._contribute(now)
        self._look(now)
        if self.collector.checks.waiting:
            self.collector.check(now, self.times, self._named)
        self.aggregation.advance(now, self.choice.sets, decided=self.decided is not None)
        if self.begun:
            self.choice.propose_if_asked(now, lambda: self._fresh(now))
        self.choice.look(now)  # also before it has begun: others may decide in an earlier round
        if self.context.waits.adapts and self._watch is not None:
            proposed = self.choice.engine.proposal(self.number) is not None
            self._watch.look(now, len(self.collector.proposable()), proposed=proposed)
            self._watch.tell(min(now, self.times.vote), self.context.waits)
        self._decide(now)

    def _look(self, now: float) -> None:
        """See who is here, and decide for whom this node waits."""
        context, lateness, collector = self.context, self.context.lateness, self.collector
        if not self.begun:
            return
        proposed = self.choice.engine.proposal(self.number) is not None
        if proposed:
            lateness.proposed(now)
        here = collector.proposable() | collector.checks.senders()
        if len(here) < context.quorum:
            return
        if here == self._seen and now < lateness.due and not proposed:
            return  # nothing has changed
        self._seen = here
        missing = context.missing(here, self.number)
        if lateness.look(now, here, missing, context.quorum) and not proposed:
            self._expect_proposal(missing)

    def _expect_proposal(self, missing: Collection[NodeId]) -> None:
        """Wait for a proposal no longer than it may take now.

        After as many rounds without a decision as there are members, the deadline holds: something
        takes longer here than this node can see.
        """
        context, proposer = self.context, self.context.proposer(self.number)
        if self.aborts >= len(context.roster):
            return
        lateness, voting = context.lateness, self.times.vote - self.times.propose
        is_late = proposer in missing and proposer in lateness.late
        if proposer in lateness.mute or is_late:
            at = lateness.until + voting / HARDLY
        elif context.kernel.has("screen"):
            return  # its trainer may judge for long
        else:
            at = lateness.until + lateness.patience + voting
        self.choice.expect_by(at)

    @property
    def lacks(self) -> bool:
        """True if something that the round needs has not come here."""
        collector = self.collector
        if len(collector.proposable()) < self.context.quorum:
            return True
        return not all(map(collector.has, self.choice.sets()))

    def take(self, envelope: Envelope, now: float) -> None:
        """Take a message about the node's head, of this round or what an earlier one left.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        kind = envelope.kind
        if kind == FETCHED:
            quoted = self.collector.quoted(envelope, now, self.choice.proven_sets())
            if quoted is not None:
                self._take_contribution(quoted)
        elif kind == CONTRIBUTION:
            self._take_contribution(envelope)
        elif envelope.round < self.number:
            return
        elif kind.startswith(DIALOGUE) and not self.begun:
            self.pace.keep(envelope, int(self.position.model.size))
        elif kind.startswith(DIALOGUE):
            self.dialogues.take(envelope, now)
        elif kind != ATTESTATION or not self.collector.checks.attested(envelope):
            self.speaker.outlet.refuse(envelope, Fault.UNKNOWN_KIND, Blame.SENDER)

    def ask(self, now: float) -> None:
        """Ask another node, each in turn, for what is missing of the sets that are needed."""
        roster = self.context.roster
        holder = roster[(self.number + self.speaker.repeats) % len(roster)]
        for candidate in self.choice.sets():
            self.collector.fetch(candidate, holder, now)

    def _begin_if_due(self, now: float) -> None:
        if self.begun:
            return
        context, pace, holds = self.context, self.pace, now >= self.needed
        if now >= self.begins or pace.lets_begin(self.number, context, holds=holds):
            self._begin(now)

    def open(self, now: float) -> None:
        """Be open for what the others say; begin, or wait for the time to begin."""
        named = self._named() | self.aggregation.kept(self.choice.engine.may_be_won)
        self.collector.open_round(named, now)
        self.choice.known_sets.forget_absent()
        if self.begins > now:
            self._take_early(now)
        else:
            self._begin(now)

    def _begin(self, now: float) -> None:
        """Train, and let the times run from now."""
        context, decided = self.context, self.choice.certificate
        self.followed = decided is not None and decided.round < self.number
        self._watch = Stopwatch(now, context.quorum)
        self.times = Times.of(context.swarm, now, self.aborts, context.waits.stretch)
        self.collector.begin(now, self.times)
        context.lateness.open(now, context.roster)
        if self.choice.certificate is None:
            self.choice.expect(self.times.vote)
        if not context.is_member:
            self.begun = self.contributed = True
        elif self._open_plugins(now, speak=not self.followed) and self.choice.certificate is None:
            self._train()
        self._take_early(now)

    def _train(self) -> None:
        """Ask for an update, or take the one that was asked for in time."""
        if self.context.node_id not in self.context.drawn(self.number):
            self.sit_out(NOT_DRAWN)
            return
        is_ahead, result = self.ahead.claim(self.position.info)
        if not is_ahead:
            self.speaker.outlet.put(Train(self.position.info, self.position.model))
        elif isinstance(result, str):
            self.sit_out(result)
        else:
            self.update = result

    def _take_early(self, now: float) -> None:
        """Take what came before its time, but nothing of whom the swarm has banned since.

        Others did not hear it: a decision with its vote would prove nothing to them.
        """
        for envelope in self.pace.take():
            if envelope.sender not in self.context.head.bans:
                self.dispatch(envelope, now)

    def _open_plugins(self, now: float, *, speak: bool = True) -> bool:
        """Open the round with the plugins; whether they take it. ``speak``: begin dialogues."""
        self.begun = self._opened = True
        try:
            info, own = self.position.info, self.own()
            self.dialogues.open_round(info, own, now, speak=speak)
        except QresError as error:
            self.sit_out(f"round_opened: {error.problems[0]}")
            return False
        return True

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def _contribute(self, now: float) -> None:
        info = self.position.info
        if self.contributed or self.update is None or self.decided is not None or not self.begun:
            return
        if self.choice.engine.round > self.number:
            return  # it may have voted there, and the journal takes nothing of an earlier round
        if not self.dialogues.ready:
            if now >= self.times.propose:
                self.sit_out("a dialogue was not ready by the deadline")
            return
        if self.update.vector.size != info.dimension:
            self.sit_out("the trainer returned another dimension")
            return
        try:
            made = protected(self.context.kernel, self.update, info)
        except QresError as error:
            self.sit_out(str(error.problems[0]))
            return
        # A restarted node must not contribute to the round again, and otherwise.
        self.speaker.bind(info.number, CONTRIBUTION, None)
        self.update = None  # the contribution holds it from now on
        self.publish(made, now)

    def publish(self, made: ContributionBody | bytes, now: float) -> None:
        """Send a contribution, which may be encoded already."""
        self.contributed = True
        envelope = self.speaker.broadcast(CONTRIBUTION, self.aggregation.encoded(made), now)
        try:
            self._take_contribution(envelope)
        except WireError:  # only a liar's own; the others refuse it too
            return
        self.aggregation.contributed(envelope, now)

    def sit_out(self, reason: str) -> None:
        """Contribute nothing to the round."""
        self.contributed = True
        self.context.lateness.absent(self.context.node_id)
        self.speaker.outlet.put(SatOut(self.number, reason))

    def _take_contribution(self, envelope: Envelope) -> None:
        choice = self.choice
        self.collector.take(envelope, decided=choice.decided_set, sets=choice.sets())

    def _named(self) -> set[bytes]:
        """Digests of the contributions that sets in question name: they must not be forgotten."""
        return {member.digest for known in self.choice.sets() for member in known.members}

    def _fresh(self, now: float) -> CandidateSet | None:
        """Set to propose of this round's contributions; ``None`` for nothing, or not yet."""
        opinions, asked = self.opinions, ("choose", self.number)
        if opinions.waits_for(asked):
            return None  # what has come since does not count: liars would send it one by one
        context, held = self.context, self.collector.proposable()
        if now < self.times.propose and not context.nobody_is_missing(held, self.number):
            return None
        kernel = context.kernel
        try:
            choose = self.merger.choose
            if kernel.has("screen"):
                choice = opinions.ask(asked, choose, of=self.merger.candidates)
            else:  # no trainer is asked; what is ``revealable`` may change with the dialogues
                choice = choose()
        except QresError as error:
            not_screened(kernel, error)
            self.choice.withdraw()
            return None
        if choice is None:
            return None
        members = tuple(member for member in observed(kernel, choice) if member.sender in held)
        return CandidateSet(self.number, members) if len(members) >= context.quorum else None

    # ── the decided set ───────────────────────────────────────────────────────────────────────

    def _decide(self, now: float) -> None:
        certificate = self.choice.certificate
        if self.decided is not None or certificate is None:
            return
        if not self.begun:  # the others were quicker
            self._begin(now)
        self.decided = certificate
        self.opinions.leave()
        context, deadlines = self.context, self.aggregation.deadlines
        self.times.decide(now, deadlines * context.swarm.deadline * context.waits.stretch)
        if self._watch is not None:
            context.waits.took(self._watch.share(now, context.swarm))
        made = self.collector.gathering.contributions(certificate.candidate.members)
        senders = tuple(contribution.sender for contribution in made)
        self.dialogues.decided(senders, made, self.made_in(certificate), now)

    def made_in(self, certificate: Certificate) -> RoundInfo:
        """The round that the set's contributions were made in, which may be an earlier one."""
        info, origin = self.position.info, certificate.candidate.origin
        return info if info.number == origin else attrs.evolve(info, number=origin)

    def due(self, after: float) -> float:
        """Time after a moment at which the clock next matters to the node, seconds."""
        times = [
            *self.times.upcoming(),
            self.context.lateness.due,
            math.inf if self.begun else self.begins,
            math.inf if self.begun else self.needed,
            self.collector.checks.due(self.times),
            self.aggregation.due(),
            after + self.context.swarm.vote_timeout / 4 if self.dialogues else math.inf,
        ]
        return min(time for time in times if time > after)

    def why_lost(self) -> str:
        """Reason why the round came to no decision."""
        quorum = self.context.quorum
        if (held := len(self.collector.of_round())) < quorum:
            return f"{held} contributions, quorum {quorum}"
        if self.choice.engine.proposal(self.number) is None:
            return "no proposal"
        return self.choice.objection or "no agreement"

    def close(self, outcome: Outcome, now: float) -> None:
        """Tell the plugins how it ended. What is closed was opened, and asks no trainer."""
        context = self.context
        self.opinions.leave()
        proposed = self.choice.engine.proposal(self.number) is not None
        if not proposed and context.lateness.until < math.inf:
            context.lateness.mute.add(context.proposer(self.number))
        context.lateness.close(now, context.head.digest)
        if not self.begun and self.context.is_member:
            self._open_plugins(now, speak=False)
        self.dialogues.close()
        if self._opened:
            self.context.kernel.round_closed(outcome)
