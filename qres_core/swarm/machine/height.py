"""One height at one node: its rounds, the set that is decided, and what becomes of it.

All that is here ends with the height. What outlives it is the machine's
(:mod:`qres_core.swarm.machine.rounds`).

Numbers of rounds run on over all heights. A node contributes, proposes and votes once under one
number, at whatever head. Who has used up a number that the others use next would go on a round
ahead of them at every height: it would contribute to rounds in which nobody is, and they would wait
for it. A start in the middle of a round leads there, and so does a line that is slow for a moment.
Such a node waits for the others (:func:`is_ahead_alone`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from qres_core.contract.errors import Problem, QresError
from qres_core.contract.fixed import add_saturating
from qres_core.contract.rounds import OwnContributions
from qres_core.contract.types import Vector, model_digest
from qres_core.contract.wire import Envelope
from qres_core.swarm.agreement.choice import Choice
from qres_core.swarm.agreement.judgements import PATIENCE_TO_JUDGE, Opinions
from qres_core.swarm.agreement.outcome import OutcomeVote
from qres_core.swarm.consensus.votes import Step
from qres_core.swarm.context.effects import RoundEnded, Train
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.context.position import NodeContext, Position, round_info
from qres_core.swarm.context.times import backoff
from qres_core.swarm.contributions.aggregation import Aggregation
from qres_core.swarm.contributions.intake import Collector
from qres_core.swarm.contributions.lone_round import aborted
from qres_core.swarm.ledger.chain import Link
from qres_core.swarm.ledger.messages import CandidateSet, Certificate
from qres_core.swarm.ledger.participants import participants
from qres_core.swarm.ledger.results import CANNOT_MERGE, UNFINISHED, Merged, Void
from qres_core.swarm.machine.dialogues import Dialogues
from qres_core.swarm.machine.goal_votes import Until
from qres_core.swarm.machine.steps import Round, TrainingAhead
from qres_core.swarm.storage.journal import Journal
from qres_core.swarm.sync.catching_up import CatchingUp
from qres_core.swarm.sync.pace import Pace


@attrs.frozen(eq=False)
class MadeModel:
    """Model that the decided set gives at this node."""

    merged: Vector  # what the rule gave, int32, of the coordinates that the round covers
    model: Vector  # the model with it, int32, shape ``(d,)``
    digest: bytes  # of that model
    saturated: int  # coordinates of it held at the grid's limit

    @classmethod
    def of(cls, model: Vector, step: int, merged: Vector) -> MadeModel:
        """Model of a rule's result on top of a model; ``step``: of the model it makes."""
        total = add_saturating(model, merged)
        return cls(merged, total.vector, model_digest(total.vector, step), total.saturated)


@attrs.define(eq=False, kw_only=True)
class Height:
    """A height, until the machine goes to the next head."""

    speaker: Speaker  # says what the node has to say, and knows where the node is
    journal: Journal
    choice: Choice  # which contributions are merged
    outcome: OutcomeVote  # what became of them
    collector: Collector
    dialogues: Dialogues
    opinions: Opinions
    catching_up: CatchingUp  # holds models of the next head, and what others prove of it
    pace: Pace  # of the others
    ahead: TrainingAhead
    until: Until
    own: Callable[[], OwnContributions]  # gives what is known of the node's contributions so far
    dispatch: Callable[[Envelope, float], None]  # takes a message as if it came now
    # adds what the set merged to to the model: the model, the step that it makes, what was merged
    make_model: Callable[[Vector, int, Vector], MadeModel]
    trains_ahead: bool  # whether it asks for training before the outcome is decided
    aborts: int  # heights in a row before this one that came to no end in time
    context: NodeContext = attrs.field(init=False)
    position: Position = attrs.field(init=False)
    aggregation: Aggregation = attrs.field(init=False)
    round: Round = attrs.field(init=False)  # the one that the node is in
    made: MadeModel | None = attrs.field(default=None, init=False)
    # why this node could not merge the decided set
    refused: Problem | None = attrs.field(default=None, init=False)
    # digest of the model that the journal kept of the height
    _kept: bytes | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.context, self.position = self.speaker.context, self.speaker.position
        self.aggregation = self.collector.aggregation

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    def keep(self, made: Vector | None) -> None:
        """Take back the model that the decided set merged to before this node stopped."""
        if made is not None:
            self._kept = model_digest(made, self.context.head.step + 1)
            self.catching_up.held[self._kept] = made

    def open(self, number: int, now: float, *, wait: float = 0.0, needed: float = math.inf) -> None:
        """Go to a round; it begins at once, or after ``wait`` seconds, as others let it."""
        self.opinions.leave()
        self.position.enter(number, self.context)
        aborts = self.aborts + self.choice.attempts
        self.round = Round(
            speaker=self.speaker,
            choice=self.choice,
            collector=self.collector,
            aggregation=self.aggregation,
            dialogues=self.dialogues,
            opinions=self.opinions,
            pace=self.pace,
            ahead=self.ahead,
            own=self.own,
            dispatch=self.dispatch,
            aborts=aborts,
            begins=now + wait,
            needed=needed,
        )
        self.speaker.open_round(self.context.swarm.vote_timeout * backoff(aborts) / 2, number)
        self.until.open_round(now)
        self.round.open(now)

    def advance(self, now: float) -> None:
        """Take every step of the round whose condition holds; go to another, or find the end."""
        self.round.advance(now)
        if self.choice.certificate is None and self.choice.engine.round > self.position.number:
            self._leave_round(now)
        if self.round.decided is not None:
            self._settle(self.round.decided, now)

    def _leave_round(self, now: float) -> None:
        """The round came to nothing, or the swarm is further."""
        current, number = self.round, self.choice.engine.round
        if not current.begun:  # nobody heard of this one
            self.open(number, now, wait=current.begins - now, needed=current.needed)
            return
        info, lost = self.position.info, current.why_lost()
        outcome = aborted(info, lost)
        waits = self.context.waits
        if waits.adapts and current.lacks:
            waits.lacked()
        else:
            waits.late(self.context.swarm.deadline)
        current.close(outcome, now)
        self.speaker.outlet.put(RoundEnded(outcome, self.position.model))
        self.open(number, now)

    @property
    def next_number(self) -> int:
        """The first round of the next height: later than all that the node may have voted in.

        Who skips a round may vote and decide in it at once, before its own round is that one. A
        round in which nobody heard this node may be opened again, at another head. Where the set
        was decided before the node was started, the choice has no round.
        """
        current, engine, number = self.round, self.choice.engine.round, self.position.number
        decided = 0 if self.choice.certificate is None else self.choice.certificate.round
        if engine not in (0, number) or (current.begun and not current.followed):
            return max(number, engine, decided) + 1
        return max(number, self.position.voted + 1, decided + 1)

    def due(self, after: float) -> float:
        """Moment at which the clock next matters to the height after a moment, seconds."""
        return min(self.round.due(after), self.choice.due(), self.outcome.due())

    # ── what the decided set comes to ─────────────────────────────────────────────────────────

    def _settle(self, certificate: Certificate, now: float) -> None:
        """Merge what was decided, once its dialogues have finished, and say what came of it."""
        current, outcome = self.round, self.outcome
        if not outcome.chosen:
            head = self.context.head.digest
            outcome.begin(certificate.candidate.digest(head), certificate.candidate.origin, now)
        if self.is_settled(now) or not self.context.is_member:
            return  # who is no member has no part in the dialogues, and takes the model as it is
        if current.tried:
            members, made_in = certificate.candidate.members, current.made_in(certificate)
            self.aggregation.work(members, made_in, now)
            if outcome.own is None:
                self._follow(now)
        elif self._kept is not None:
            outcome.found(Merged(self._kept), now)  # before it stopped; its dialogues are over
        elif self.dialogues.finished:
            current.tried = True
            try:
                merged = self._merged(certificate, now)
            except QresError as error:
                if error.code == CANNOT_MERGE:
                    self._follow(now)
                else:
                    self.refused = error.problems[0]
                    outcome.found(Void(error.code), now)
                return
            self._say_merged(certificate, merged, now)
        elif now >= current.times.result:
            outcome.found(Void(UNFINISHED), now)

    def is_settled(self, now: float) -> bool:
        """True if nothing is left to find out: the outcome is decided, and its model is here.

        A node that was late merges what it has by now: to be sent the model would take longer.
        """
        if self.outcome.decision is None or self.is_pulling(now):
            return False
        model = self.outcome.wanted
        return model is None or model in self.catching_up.held

    def is_pulling(self, now: float) -> bool:
        """True if this node is about to have the model shard by shard, and needs it from nobody."""
        return self.made is None and self.aggregation.is_busy(now)

    def _say_merged(
        self, certificate: Certificate, merged: Vector | Void | None, now: float
    ) -> None:
        """Say what the set merges to, or that it does not; or wait, if that is not known yet."""
        outcome = self.outcome
        if merged is None:
            self._wait_for_merged(now)
        elif isinstance(merged, Void):
            outcome.found(merged, now)
        else:
            step = self.context.head.step + 1
            made = self.make_model(self.position.model, step, merged)
            self.made = made
            self.catching_up.held[self.made.digest] = self.made.model
            # Where the set is merged of what is gone once this node stops, dialogues or shards,
            # nobody could make the model again.
            if self.dialogues or self.aggregation.merges_once:
                self.journal.record_made(self.made.model)
            outcome.found(Merged(self.made.digest), now)
            outcome.look(now)
            self._train_ahead(certificate.candidate, self.made)

    def _merged(self, certificate: Certificate, now: float) -> Vector | Void | None:
        """Merge the decided set; ``None`` while others or the trainer are asked about it.

        Raises QresError for what a plugin refused.
        """
        current, opinions, what = self.round, self.opinions, "merge"
        members, made_in = certificate.candidate.members, current.made_in(certificate)
        chosen = self.outcome.chosen
        merge = self.aggregation.merge_of(current.merger, members, chosen, made_in, now)
        if merge is None or isinstance(merge, Void):
            return merge
        if opinions.waits_for(what):
            return None
        found = opinions.ask(what, merge)
        if opinions.waits_for(what):
            patience = PATIENCE_TO_JUDGE * self.choice.timeout
            current.times.result = max(current.times.result, now + patience)
        return found

    def _wait_for_merged(self, now: float) -> None:
        """A plugin judges what the set merges to: try again, unless that takes too long."""
        if now >= self.round.times.result:
            self.opinions.leave()
            self._follow(now)
        else:
            self.round.tried = False

    def _follow(self, now: float) -> None:
        """This node cannot merge the set: claim what others found, or in the end no model."""
        common = self.outcome.common
        if common is not None:
            self.outcome.found(common, now)
        elif now >= self.round.times.result:
            self.outcome.found(Void(UNFINISHED), now)

    def _train_ahead(self, chosen: CandidateSet, made: MadeModel) -> None:
        """Begin to train from the node's own result; the others will hardly find another."""
        swarm = self.context.swarm
        if swarm.interval or not self.trains_ahead:
            return
        head = self.context.head.after(chosen, Merged(made.digest))
        number = self.next_number
        if self.context.node_id in participants(head, number, swarm.participants):
            info = round_info(swarm, head, int(made.model.size), number)
            self.ahead.begin(info)
            self.speaker.outlet.put(Train(info, made.model))

    # ── the way on ────────────────────────────────────────────────────────────────────────────

    def links(self) -> tuple[Link, ...]:
        """Links by which the swarm went on from the head: as it voted itself, or was told."""
        pending, outcome = self.catching_up.pending, self.outcome
        if pending is not None:
            return pending.links
        certificate = self.choice.certificate
        if outcome.decision is None or certificate is None:
            return ()
        decision, number = outcome.decision, outcome.round
        votes = outcome.quorum(Step.PRECOMMIT, number, decision.digest)
        head, chosen = self.context.head, certificate.candidate.bare()
        return (Link(head, chosen, decision.result, number, votes),)

    def differs(self, last: Link) -> str:
        """Difference between what the swarm decided and what this node found; else empty.

        ``last``: the link of the height, or of a later one.
        """
        certificate, made, result = self.choice.certificate, self.made, last.result
        if last.head.digest != self.context.head.digest:
            return ""
        if certificate is not None:
            own = certificate.candidate.digest(last.head.digest)
            if own != last.decision.chosen:  # what this node opened would not be on record
                return "this node and others have proof of different sets"
        if made is not None and isinstance(result, Merged) and result.model != made.digest:
            decided, found = result.model.hex()[:16], made.digest.hex()[:16]
            return f"the swarm decided model {decided}, this node made {found}"
        return ""


def is_ahead_alone(
    number: int, last: Link, choice: Choice, context: NodeContext, pace: Pace
) -> bool:
    """True if the others begin the next height with an earlier round than this node may.

    A quorum decided the set in a round that this node had left, and those that are not known to
    have left it too can decide without the rest. Then the node follows them until the next height,
    which all begin with one number; or until they cannot decide any more; or until more than ``f``
    others begin its round; or until theirs must be over. It says where it is, so that many which
    are ahead find out.

    Args:
        number: the round that the node may begin with.
        last: the height that is over.
        choice: the agreement on its set, if the node was at that height.
        context: at the head that the node leaves.
        pace: what the others were heard to say.
    """
    certificate = choice.certificate
    known = certificate if last.head.digest == context.head.digest else None
    decided = last.chosen.origin if known is None else known.round
    behind = len(context.roster) - 1 - pace.went_on(decided, last)
    return number > decided + 1 and behind >= context.threshold
