"""From one height to the next: rounds are opened and left, and what was decided is concluded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial

import attrs

from qres_core.contract.errors import Problem, QresError
from qres_core.contract.evidence import Evidence
from qres_core.contract.faults import KERNEL, Merit
from qres_core.contract.rounds import Outcome, RoundStatus
from qres_core.contract.types import Vector, model_digest
from qres_core.contract.wire import Envelope
from qres_core.swarm.amendments import Amendments
from qres_core.swarm.chain import Head, Link
from qres_core.swarm.choice import Choice
from qres_core.swarm.context import round_info
from qres_core.swarm.effects import RoundEnded, Train
from qres_core.swarm.leaving import Leaving
from qres_core.swarm.machine_state import MadeModel
from qres_core.swarm.messages import (
    OUTCOME_PREVOTE,
    CandidateSet,
    Certificate,
)
from qres_core.swarm.numbers import is_ahead_alone, next_number
from qres_core.swarm.opinions import PATIENCE_TO_JUDGE
from qres_core.swarm.outcome import OutcomeVote
from qres_core.swarm.participants import participants
from qres_core.swarm.results import CANNOT_MERGE, UNFINISHED, Merged, Void
from qres_core.swarm.steps import Round
from qres_core.swarm.timeouts import Times, backoff


def _said_of(outcome: Outcome, refused: Problem | None) -> str:
    """What this node found in place of a model, if it is what the members agreed on."""
    agreed = refused is not None and refused.code == outcome.code
    return f"{refused.where}: {refused.what}" if refused is not None and agreed else ""


class Heights(Leaving, ABC):
    """How a node goes through its heights; what it is told is the round machine's business.

    Arguments and errors as for :class:`~qres_core.swarm.rounds.RoundMachine`.
    """

    @abstractmethod
    def _dispatch(self, envelope: Envelope, now: float) -> None:
        """Take a message as if it came now."""

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open_height(
        self, number: int, now: float, *, wait: float = 0.0, needed: float = math.inf
    ) -> None:
        """Begin the height of the node's head; its first round begins at once or after ``wait``."""
        parts, head, resume = self._parts, self._context.head, self._resume
        self._resume, self._made = None, None
        self.kernel.enter(frozenset(head.roster.members), frozenset(head.bans))
        may_vote = parts.speaker.may_say(OUTCOME_PREVOTE, now)
        self._context.votes = self._context.is_member and may_vote
        parts.changes.refresh(lambda signed: self.kernel.authentic(signed, now))
        last = self._catching_up.last
        previous = None if last is None else last.head
        self._choice = Choice(
            parts.speaker,
            parts.collector,
            parts.journal,
            parts.pool,
            Amendments(self._context, parts.pool, parts.changes, previous),
            parts.waivers,
            parts.opinions,
        )
        holds = self._catching_up.held.__contains__
        self._outcome = OutcomeVote(parts.speaker, parts.journal, parts.pool, holds)
        self._kept = self._refused = None
        if resume is not None:
            resume.give_back(self._choice, self._outcome)
            self._keep(resume.record.made)
        for peer, highest in parts.pace.at(head.digest).items():
            self._choice.engine.see(peer, highest)
        if self._choice.certificate is None:
            self._choice.begin(number, now)
            number = self._choice.engine.round
        self._open(number, now, wait=wait, needed=needed)

    def _keep(self, made: Vector | None) -> None:
        """Take back the model that the decided set merged to before this node stopped."""
        if made is not None:
            self._kept = model_digest(made, self.step + 1)
            self._catching_up.held[self._kept] = made

    def _open(
        self, number: int, now: float, *, wait: float = 0.0, needed: float = math.inf
    ) -> None:
        """Go to a round; it begins at once, or after ``wait`` seconds, as others let it."""
        parts = self._parts
        parts.opinions.leave()
        parts.position.enter(number, self._context)
        aborts = self._aborts + self._choice.attempts
        self._round = Round(parts, self._choice, self._dispatch, aborts, now + wait, needed)
        parts.speaker.open_round(self.swarm.vote_timeout * backoff(aborts) / 2, number)
        self._round.open(now)

    # ── going on ──────────────────────────────────────────────────────────────────────────────

    def _advance(self, now: float) -> None:
        """Take every step whose condition holds, in as many rounds and heights as end by it."""
        while not self._is_over:
            before = self._context.head, self.number
            self._round.advance(now)
            if self._choice.certificate is None and self._choice.engine.round > self.number:
                self._leave_round(now)
            if self._round.decided is not None:
                self._settle(now)
            self._conclude(now)
            if (self._context.head, self.number) == before:
                return

    def _leave_round(self, now: float) -> None:
        """The round came to nothing, or the swarm is further."""
        current, number = self._round, self._choice.engine.round
        if not current.begun:  # nobody heard of this one
            self._open(number, now, wait=current.begins - now, needed=current.needed)
            return
        info, lost = self._parts.position.info, current.why_lost()
        outcome = Outcome(info, RoundStatus.ABORTED, self.model_digest, reason=lost)
        waits = self._context.waits
        if waits.adapts and current.lacks:
            waits.lacked()
        else:
            waits.late(self.swarm.deadline)
        current.close(outcome, now)
        self._parts.outlet.put(RoundEnded(outcome, self.model))
        self._open(number, now)

    def _settle(self, now: float) -> None:
        """Merge what was decided, once its dialogues have finished, and say what came of it."""
        current, outcome = self._round, self._outcome
        certificate = current.decided
        if certificate is None:
            return
        if not outcome.chosen:
            head = self._context.head.digest
            outcome.begin(certificate.candidate.digest(head), certificate.candidate.origin, now)
        if self._is_settled(now) or not self._context.is_member:
            return  # who is no member has no part in the dialogues, and takes the model as it is
        if current.tried:
            if self._parts.collector.sharding is not None:
                members, info = certificate.candidate.members, current.made_in(certificate)
                self._parts.collector.sharding.merging.work(members, info, now)
            if outcome.own is None:
                self._follow(now)
        elif self._kept is not None:
            outcome.found(Merged(self._kept), now)  # before it stopped; its dialogues are over
        elif self._parts.dialogues.finished:
            current.tried = True
            try:
                merged = self._merged(certificate, now)
            except QresError as error:
                if error.code == CANNOT_MERGE:
                    self._follow(now)
                else:
                    self._refused = error.problems[0]
                    outcome.found(Void(error.code), now)
                return
            self._say_merged(certificate, merged, now)
        elif now >= current.times.result:
            outcome.found(Void(UNFINISHED), now)

    def _is_settled(self, now: float) -> bool:
        """Whether nothing is left to find out: the outcome is decided, and its model is here.

        A node that was late merges what it has by now: to be sent the model would take longer.
        """
        if self._outcome.decision is None or self._is_pulling(now):
            return False
        model = self._outcome.wanted
        return model is None or model in self._catching_up.held

    def _say_merged(
        self, certificate: Certificate, merged: Vector | Void | None, now: float
    ) -> None:
        """Say what the set merges to, or that it does not; or wait, if that is not known yet."""
        outcome = self._outcome
        if merged is None:
            self._wait_for_merged(now)
        elif isinstance(merged, Void):
            outcome.found(merged, now)
        else:
            info = self._parts.position.info
            made = self.make_model(self.model, self.step + 1, info.placed(merged))
            self._made = made if info.fragment is None else attrs.evolve(made, merged=merged)
            self._catching_up.held[self._made.digest] = self._made.model
            if self._runs_once:  # nobody could make the model again
                self._parts.journal.record_made(self._made.model)
            outcome.found(Merged(self._made.digest), now)
            outcome.look(now)
            self._train_ahead(certificate.candidate, self._made)

    @property
    def _runs_once(self) -> bool:
        """Whether the set is merged of what is gone once this node stops: dialogues, or shards."""
        return bool(self._parts.dialogues) or self._parts.collector.sharding is not None

    def _is_pulling(self, now: float) -> bool:
        """Whether this node is about to have the model shard by shard, and needs it from nobody."""
        sharding = self._parts.collector.sharding
        return sharding is not None and self._made is None and sharding.merging.is_busy(now)

    def _merged(self, certificate: Certificate, now: float) -> Vector | Void | None:
        """What the decided set merges to; ``None`` while others or the trainer are asked about it.

        Raises QresError for what a plugin refused.
        """
        current, opinions, what = self._round, self._parts.opinions, "merge"
        members, made_in = certificate.candidate.members, current.made_in(certificate)
        merge = partial(current.merger.merge, members, made_in)
        sharding = self._parts.collector.sharding
        if sharding is not None:
            shards = sharding.merging.merge(self._outcome.chosen, members, made_in, now)
            if shards is None or isinstance(shards, Void):
                return shards
            merge = partial(current.merger.merge_shards, members, shards, made_in)
        if opinions.waits_for(what):
            return None
        found = opinions.ask(what, merge)
        if opinions.waits_for(what):
            patience = PATIENCE_TO_JUDGE * self._choice.timeout
            current.times.result = max(current.times.result, now + patience)
        return found

    def _wait_for_merged(self, now: float) -> None:
        """A plugin judges what the set merges to: try again, unless that takes too long."""
        if now >= self._round.times.result:
            self._parts.opinions.leave()
            self._follow(now)
        else:
            self._round.tried = False

    def _follow(self, now: float) -> None:
        """This node cannot merge the set: claim what others found, or in the end no model."""
        common = self._outcome.common
        if common is not None:
            self._outcome.found(common, now)
        elif now >= self._round.times.result:
            self._outcome.found(Void(UNFINISHED), now)

    def _train_ahead(self, chosen: CandidateSet, made: MadeModel) -> None:
        """Begin to train from the node's own result; the others will hardly find another."""
        if self.swarm.interval or not self.trains_ahead:
            return
        head = self._context.head.after(chosen, Merged(made.digest))
        number, count = self._next_number, self.swarm.participants
        if self.node_id in participants(head, number, count):
            info = round_info(self.swarm, head, int(made.model.size), number)
            self._parts.ahead.begin(info)
            self._parts.outlet.put(Train(info, made.model))

    @property
    def _next_number(self) -> int:
        """The first round of the next height."""
        return next_number(self._round, self._choice, self._parts.position)

    def _conclude(self, now: float) -> None:
        """Go to the next head, if it is decided and its model is here."""
        links = self._links()
        if not links or self._catching_up.diverged:
            return
        last, certificate = links[-1], self._choice.certificate
        after, made = last.next, self._made
        if not self._is_ahead(after):
            return
        of_here = last.head.digest == self._context.head.digest
        if of_here and certificate is not None:
            own = certificate.candidate.digest(last.head.digest)
            if own != last.decision.chosen:  # what this node opened would not be on record
                what = "this node and others have proof of different sets"
                self._catching_up.diverge(last, what)
                return
        if of_here and made is not None and last.result != Merged(made.digest):
            if isinstance(last.result, Merged):
                what = f"the swarm decided model {after.model.hex()[:16]}, this node made "
                self._catching_up.diverge(last, what + made.digest.hex()[:16])
                return
            made = None
        vector = None
        if after.step > self.step:
            vector = self._catching_up.held.get(after.model)
            if vector is None:
                self._expect_removal(after, now)  # nobody may give it the model any more
                return
        self._go_on(links, vector, made if of_here else None, now)

    def _is_ahead(self, after: Head) -> bool:
        """Whether a head is later than the node's: one that went back would vote again."""
        return after.height > self._context.head.height

    def _go_on(
        self, links: tuple[Link, ...], vector: Vector | None, made: MadeModel | None, now: float
    ) -> None:
        """The node is at another head, which is in the journal before anything is said of it."""
        parts, last, info = self._parts, links[-1], self._parts.position.info
        after = last.next
        parts.journal.record_height(links, vector)
        outcome = self._outcome_of(last, vector, made=made is not None)
        for sender in outcome.members if vector is not None else ():
            self.kernel.observe(Evidence(sender, Merit.CONTRIBUTED, KERNEL, info.number))
        number, wait, needed = self._next_number, self.swarm.interval, math.inf
        if is_ahead_alone(number, last, self._choice, self._context, parts.pace):
            needed = now + wait
            wait += Times.most(self.swarm, self._aborts, self._context.waits.stretch)
        self._round.close(outcome, now)
        parts.collector.leave()
        was_member, before = self._context.is_member, self._context.head.roster
        self._context.head = after
        if vector is not None:
            parts.position.model = vector
            fresh = isinstance(last.result, Merged)
            self._proof = last.precommits if fresh else ()
            self._model_round = last.chosen.origin
        merged = None if made is None else made.merged
        saturated = 0 if made is None else made.saturated
        found, self._refused = _said_of(outcome, self._refused), None
        parts.outlet.put(RoundEnded(outcome, self.model, merged, saturated, found))
        if vector is not None and self._proof:
            self._tell(info.number)
        self._catching_up.moved_on(links, now)
        parts.changes.settle(after.roster)
        parts.pool.retain(lambda item: item.subject in after.roster)
        self._aborts = self._aborts + 1 if outcome.code == UNFINISHED else 0
        self._catching_up.tell_removed(before, now)
        if self._context.is_member:
            self._left = None
        elif was_member:
            self._is_out(after.height, now)
        if not self._is_over:
            self._open_height(number, now, wait=wait, needed=needed)
            if needed < math.inf:
                self._catching_up.say_where(now)
