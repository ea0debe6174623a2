"""The steps of one round: begin, contribute, propose, and merge what was decided.

Each is taken at once when its condition holds, and at the latest at its time
(:mod:`qres_core.swarm.timeouts`). The votes are the instances' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.faults import KERNEL, Fault
from qres_core.contract.rounds import Outcome, OwnContributions, RoundInfo
from qres_core.contract.trainer import Validator
from qres_core.contract.types import NodeId, Update
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.ahead import TrainingAhead
from qres_core.swarm.chain import last_contributed, link_contributed, silent_since
from qres_core.swarm.choice import Choice, Waivers
from qres_core.swarm.collecting import Collector
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.dialogues import Dialogues
from qres_core.swarm.effects import SatOut, Train
from qres_core.swarm.journal import Journal
from qres_core.swarm.merge import Merger
from qres_core.swarm.messages import (
    ATTESTATION,
    CONTRIBUTION,
    DIALOGUE,
    FETCH,
    FETCHED,
    HOLDING,
    RELAYED,
    CandidateSet,
    Certificate,
    ContributionBody,
    contribution_digest,
)
from qres_core.swarm.misbehaviour import MisbehaviourPool
from qres_core.swarm.opinions import Opinions
from qres_core.swarm.outbox import Outlet, Speaker
from qres_core.swarm.pending import PendingChanges
from qres_core.swarm.shard_gathering import kept_rounds
from qres_core.swarm.shelf import Shelf
from qres_core.swarm.sync import CatchingUp, Pace
from qres_core.swarm.timeouts import Stopwatch, Times
from qres_core.swarm.until import Until

NOT_DRAWN: Final = "not among the participants of this round"


class Parts:
    """What a node makes its rounds with. Each keeps its own memory; none looks into another's."""

    def __init__(
        self,
        context: NodeContext,
        catching_up: CatchingUp,
        speaker: Speaker,
        journal: Journal,
        validator: Validator | None,
        changes: PendingChanges,
    ) -> None:
        self.context, self.journal = context, journal
        self.opinions = Opinions(context.kernel, speaker.outlet, validator)
        self.position: Position = speaker.position
        self.outlet: Outlet = speaker.outlet
        self.speaker, self.changes, self.catching_up = speaker, changes, catching_up
        shelf = Shelf.open(journal.folder, context.swarm.memory)
        self.collector = Collector(self.speaker, shelf)
        self.dialogues = Dialogues(self.speaker)
        self.pool = MisbehaviourPool(len(context.roster))
        self.waivers = Waivers(context)
        self.pace = Pace()
        context.past = lambda number: self.pace.past(number, context.head.digest)
        self.until = Until(self.speaker)
        self.ahead = TrainingAhead()
        # what takes messages that are answered whatever head they are about, by kind
        self.of_any_head: Mapping[str, Callable[[Envelope, float], None]] = {
            FETCH: self.collector.answer,
            HOLDING: self.dialogues.compare,
            RELAYED: self.dialogues.compare,
        }

    def contributed(self) -> OwnContributions:
        """What the journal and the node's head know of its contributions so far."""
        journal, rounds, last = self.journal.contributions()
        context, links = self.context, self.catching_up.links
        height = last_contributed(context.head, links, context.node_id)
        link = link_contributed(links, context.node_id, height)
        return OwnContributions(
            journal,
            rounds,
            last,
            height,
            decided_round=0 if link is None else link.chosen.origin,
            decided_head=b"" if link is None else link.head.digest,
            silent_since=silent_since(context.head, context.node_id),
        )


@attrs.define(eq=False)
class Round:
    """One round at one node, until a set is decided or its time is over."""

    parts: Parts  # of the node
    choice: Choice  # of the node's height
    dispatch: Callable[[Envelope, float], None]  # takes what came before the round was open
    aborts: int  # rounds aborted in a row before it; they make the steps longer
    begins: float  # when the node begins to train, seconds, unless more than f others begin before
    needed: float = math.inf  # from when on it may begin earlier, once few others are behind
    times: Times = attrs.field(init=False)
    merger: Merger = attrs.field(init=False)  # the data path of the round
    begun: bool = attrs.field(default=False, init=False)  # whether it has begun
    followed: bool = attrs.field(default=False, init=False)  # whether nobody heard of it
    _watch: Stopwatch | None = attrs.field(default=None, init=False)
    _opened: bool = attrs.field(default=False, init=False)  # whether the plugins know of it
    update: Update | None = attrs.field(default=None, init=False)  # what training gave
    contributed: bool = attrs.field(default=False, init=False)
    decided: Certificate | None = attrs.field(default=None, init=False)  # with the proof
    tried: bool = attrs.field(default=False, init=False)  # whether it was merged, or refused

    def __attrs_post_init__(self) -> None:
        parts, here, context = self.parts, self.parts.position, self.parts.context
        self.times = Times.of(context.swarm, self.begins, self.aborts, context.waits.stretch)
        held_out = parts.opinions.held_out(here.model, here.info)
        self.merger = Merger(context.kernel, parts.collector.gathering, here.info, held_out)
        self.choice.merger = self.merger

    @property
    def _number(self) -> int:
        return self.parts.position.number

    def advance(self, now: float) -> None:
        """Take every step whose condition holds."""
        parts = self.parts
        self._begin_if_due(now)
        self._contribute(now)
        parts.collector.check(now, self.times, self._named)
        if parts.collector.sharding is not None:
            is_decided, sets = self.decided is not None, self.choice.sets()
            parts.collector.sharding.parts.advance(now, sets, decided=is_decided)
        if self.begun:
            self.choice.propose_if_asked(now, lambda: self._fresh(now))
        self.choice.look(now)  # also before it has begun: others may decide in an earlier round
        if parts.context.waits.adapts and self._watch is not None:
            proposed = self.choice.engine.proposal(self._number) is not None
            self._watch.look(now, len(parts.collector.proposable()), proposed=proposed)
            self._watch.tell(min(now, self.times.vote), parts.context.waits)
        self._decide(now)

    @property
    def lacks(self) -> bool:
        """Whether something that the round needs has not come here."""
        collector = self.parts.collector
        if len(collector.proposable()) < self.parts.context.quorum:
            return True
        return not all(map(collector.has, self.choice.sets()))

    def take(self, envelope: Envelope, now: float) -> None:
        """Take a message about the node's head, of this round or what an earlier one left.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        kind, parts = envelope.kind, self.parts
        if kind == FETCHED:
            quoted = parts.collector.quoted(envelope, now, self.choice.proven_sets())
            if quoted is not None:
                self._take_contribution(quoted)
        elif kind == CONTRIBUTION:
            self._take_contribution(envelope)
        elif envelope.round < self._number:
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
        for candidate in self.choice.sets():
            self.parts.collector.fetch(candidate, holder, now)

    def _begin_if_due(self, now: float) -> None:
        if self.begun:
            return
        context, pace, holds = self.parts.context, self.parts.pace, now >= self.needed
        if now >= self.begins or pace.lets_begin(self._number, context, holds=holds):
            self._begin(now)

    def open(self, now: float) -> None:
        """Be open for what the others say; begin, or wait for the time to begin."""
        parts = self.parts
        named = self._named()
        if parts.collector.sharding is not None:
            # Others may have locked one since this node said that it holds shards of it.
            most, may_be = kept_rounds(parts.context.byzantine), self.choice.engine.may_be_won
            named |= parts.collector.gathering.made_in(most, chosen=may_be)
        parts.collector.open_round(named, now)
        self.choice.known_sets.forget_absent()
        parts.until.open_round(now)
        if self.begins > now:
            self._take_early(now)
        else:
            self._begin(now)

    def _begin(self, now: float) -> None:
        """Train, and let the times run from now."""
        context, decided = self.parts.context, self.choice.certificate
        self.followed = decided is not None and decided.round < self._number
        self._watch = Stopwatch(now, context.quorum)
        self.times = Times.of(context.swarm, now, self.aborts, context.waits.stretch)
        self.parts.collector.begin(now, self.times)
        if self.choice.certificate is None:
            self.choice.expect(self.times.vote)
        if not context.is_member:
            self.begun = self.contributed = True
        elif self._open_plugins(now, speak=not self.followed) and self.choice.certificate is None:
            self._train()
        self._take_early(now)

    def _train(self) -> None:
        """Ask for an update, or take the one that was asked for in time."""
        parts = self.parts
        if parts.context.node_id not in parts.context.drawn(self._number):
            self.sit_out(NOT_DRAWN)
            return
        is_ahead, result = parts.ahead.claim(parts.position.info)
        if not is_ahead:
            parts.outlet.put(Train(parts.position.info, parts.position.model))
        elif isinstance(result, str):
            self.sit_out(result)
        else:
            self.update = result

    def _take_early(self, now: float) -> None:
        """Take what came before its time, but nothing of whom the swarm has banned since.

        Others did not hear it: a decision with its vote would prove nothing to them.
        """
        for envelope in self.parts.pace.take():
            if envelope.sender not in self.parts.context.head.bans:
                self.dispatch(envelope, now)

    def _open_plugins(self, now: float, *, speak: bool = True) -> bool:
        """Open the round with the plugins; whether they take it. ``speak``: begin dialogues."""
        self.begun = self._opened = True
        try:
            info, own = self.parts.position.info, self.parts.contributed()
            self.parts.dialogues.open_round(info, own, now, speak=speak)
        except QresError as error:
            self.sit_out(f"round_opened: {error.problems[0]}")
            return False
        return True

    # ── contributing ──────────────────────────────────────────────────────────────────────────

    def _contribute(self, now: float) -> None:
        parts, info = self.parts, self.parts.position.info
        if self.contributed or self.update is None or self.decided is not None or not self.begun:
            return
        if self.choice.engine.round > self._number:
            return  # it may have voted there, and the journal takes nothing of an earlier round
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
        parts.speaker.bind(info.number, CONTRIBUTION, None)
        weight = min(update.weight, parts.context.swarm.weight_cap)
        self.update = None  # the contribution holds it from now on
        self.publish(ContributionBody(weight, update.vector, proofs, update.companions), now)

    def publish(self, made: ContributionBody | bytes, now: float) -> None:
        """Send a contribution, which may be encoded already."""
        self.contributed = True
        sharding, shards = self.parts.collector.sharding, None
        if sharding is not None:
            payload, shards = sharding.parts.cut(made)
        else:
            payload = made if isinstance(made, bytes) else made.to_bytes()
        envelope = self.parts.speaker.broadcast(CONTRIBUTION, payload, now)
        try:
            self._take_contribution(envelope)
        except WireError:  # only a liar's own; the others refuse it too
            return
        if sharding is not None and shards is not None:
            sharding.parts.contribute(contribution_digest(envelope), shards, now)

    def sit_out(self, reason: str) -> None:
        """Contribute nothing to the round."""
        self.contributed = True
        self.parts.outlet.put(SatOut(self._number, reason))

    def _take_contribution(self, envelope: Envelope) -> None:
        choice = self.choice
        self.parts.collector.take(envelope, decided=choice.decided_set, sets=choice.sets())

    def _named(self) -> set[bytes]:
        """Digests of the contributions that sets in question name: they must not be forgotten."""
        return {member.digest for known in self.choice.sets() for member in known.members}

    def _fresh(self, now: float) -> CandidateSet | None:
        """What to propose of this round's contributions; ``None`` for nothing, or not yet."""
        opinions, asked = self.parts.opinions, ("choose", self._number)
        if opinions.waits_for(asked):
            return None  # what has come since does not count: liars would send it one by one
        context, held = self.parts.context, self.parts.collector.proposable()
        if now < self.times.propose and not context.nobody_is_missing(held, self._number):
            return None
        kernel = context.kernel
        try:
            choose = self.merger.choose
            if kernel.has("screen"):
                choice = opinions.ask(asked, choose, of=self.merger.candidates)
            else:  # no trainer is asked; what is ``revealable`` may change with the dialogues
                choice = choose()
        except QresError as error:
            kernel.rejections[f"{KERNEL}:not-screened-{error.code.lower()}"] += 1
            self.choice.withdraw()
            return None
        if choice is None:
            return None
        for evidence in choice.against:
            kernel.observe(evidence)
        members = tuple(member for member in choice.members if member.sender in held)
        return CandidateSet(self._number, members) if len(members) >= context.quorum else None

    # ── the decided set ───────────────────────────────────────────────────────────────────────

    def _decide(self, now: float) -> None:
        certificate = self.choice.certificate
        if self.decided is not None or certificate is None:
            return
        parts = self.parts
        if not self.begun:  # the others were quicker
            self._begin(now)
        self.decided = certificate
        parts.opinions.leave()
        context, sharding = parts.context, parts.collector.sharding
        deadlines = 1.0 if sharding is None else sharding.merging.deadlines
        self.times.decide(now, deadlines * context.swarm.deadline * context.waits.stretch)
        if self._watch is not None:
            context.waits.took(self._watch.share(now, context.swarm))
        made = parts.collector.gathering.contributions(certificate.candidate.members)
        senders = tuple(contribution.sender for contribution in made)
        parts.dialogues.decided(senders, made, self.made_in(certificate), now)

    def made_in(self, certificate: Certificate) -> RoundInfo:
        """The round that the set's contributions were made in, which may be an earlier one."""
        info, origin = self.parts.position.info, certificate.candidate.origin
        return info if info.number == origin else attrs.evolve(info, number=origin)

    def due(self, after: float) -> float:
        """When the clock next matters to the node after a moment, seconds."""
        parts = self.parts
        times = [
            *self.times.upcoming(),
            math.inf if self.begun else self.begins,
            math.inf if self.begun else self.needed,
            parts.collector.checks.due(self.times),
            parts.speaker.repeat_at,
            math.inf if parts.collector.sharding is None else parts.collector.sharding.due(),
            parts.catching_up.due(),
            after + parts.context.swarm.vote_timeout / 4 if parts.dialogues else math.inf,
        ]
        return min(time for time in times if time > after)

    def why_lost(self) -> str:
        """What kept the round from a decision."""
        quorum = self.parts.context.quorum
        if (held := len(self.parts.collector.of_round())) < quorum:
            return f"{held} contributions, quorum {quorum}"
        if self.choice.engine.proposal(self._number) is None:
            return "no proposal"
        return self.choice.objection or "no agreement"

    def close(self, outcome: Outcome, now: float) -> None:
        """Tell the plugins how it ended. What is closed was opened, and asks no trainer."""
        self.parts.opinions.leave()
        if not self.begun and self.parts.context.is_member:
            self._open_plugins(now, speak=False)
        self.parts.dialogues.close()
        if self._opened:
            self.parts.context.kernel.round_closed(outcome)


def senders_of(candidate: CandidateSet) -> tuple[NodeId, ...]:
    """Whose contributions a set holds, ascending."""
    return tuple(member.sender for member in candidate.members)
