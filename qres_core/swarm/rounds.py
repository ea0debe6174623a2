"""Height after height as a sans-I/O state machine: messages and clock ticks in, effects out.

One machine is one node. It tells the story of a height:

1. It opens a round: it trains, contributes and gathers (:mod:`qres_core.swarm.steps`).
2. The first instance of consensus decides which contributions are merged
   (:mod:`qres_core.swarm.choice`). A round without a decision is aborted, and the next one begins.
3. The dialogues of plugins run to their end, and the set is merged.
4. The second instance decides what became of it: a new model, or none
   (:mod:`qres_core.swarm.outcome`).
5. The decision and the votes for it are a link of the chain (:mod:`qres_core.swarm.chain`). The
   node writes it down and goes to the next head.

A node that lags skips all this: it is given links, and fetches the model that they name
(:mod:`qres_core.swarm.sync`).

The machine does no I/O and reads no clock; :mod:`qres_core.swarm.node` drives it over a transport
and :mod:`qres_core.lab.simulator` on a virtual clock. What a node has said in a round that does not
end, it says again every half vote timeout, and asks again for what it lacks: messages get lost.
After a height it waits for the swarm's interval before it begins the next round.
"""

from __future__ import annotations

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.evidence import Evidence
from qres_core.contract.faults import KERNEL, Fault, Merit
from qres_core.contract.rounds import Outcome, RoundStatus
from qres_core.contract.trainer import Validator
from qres_core.contract.types import NodeId, NodeInfo, Update, Vector
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.chain import Link
from qres_core.swarm.choice import Choice
from qres_core.swarm.context import round_info
from qres_core.swarm.effects import Effect, Refused, Removed, RoundEnded, Train
from qres_core.swarm.journal import Journal
from qres_core.swarm.machine_state import MachineState, MadeModel
from qres_core.swarm.messages import (
    ENOUGH,
    FETCH_MODEL,
    FETCHED,
    HEAD,
    LINKS,
    MODEL,
    OUTCOME,
    OUTCOME_PREVOTE,
    STOP,
    SYNC,
    CandidateSet,
)
from qres_core.swarm.outcome import OutcomeVote
from qres_core.swarm.pending import PendingChanges
from qres_core.swarm.results import UNFINISHED, Merged, Void
from qres_core.swarm.steps import Round, senders_of
from qres_core.swarm.timeouts import backoff


class RoundMachine(MachineState):
    """One node's heights.

    ``model``: the swarm's first, int32, shape ``(d,)``; the journal's supersedes it. ``roster``:
    the swarm's first members, or those of now. A node that is none of them follows the others and
    says nothing, until a decision of the swarm lets it take part. Raises RoundError: QRES-E602 for
    a journal that cannot be read, or is of another roster or other settings. Raises
    CompatibilityError: plugins that do not fit a model of that many coordinates.
    """

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def start(self, now: float) -> list[Effect]:
        """Open the first round."""
        self._now = now
        wait = self.swarm.interval if self.step else 0.0  # when the model was made is not known
        number = 1 if self._resume is None else self._resume.last_round + 1
        self._open_height(number, now, wait=wait)
        self._advance(now)
        return self._parts.outlet.take()

    def receive(self, frame: bytes, source: NodeId, now: float) -> list[Effect]:
        """Take a frame. Never raises for what it holds.

        ``frame``: bytes as delivered; ``source``: who answers for them: the author where the
        transport proves it, else the link; ``now``: this node's clock, seconds.
        """
        if self._is_over:
            return []
        self._now = now
        result = self.kernel.inbound(frame, source, now)
        if isinstance(result, Rejection):
            self._parts.outlet.put(Refused(self.number, result.subject, result.reason))
        elif result.sender != self.node_id:
            self._dispatch(result, now)
            self._advance(now)
        return self._parts.outlet.take()

    def tick(self, now: float) -> list[Effect]:
        """The clock is at ``now`` seconds."""
        if self._is_over:
            return []
        self._now = now
        self._parts.dialogues.tick(now)
        self._catching_up.ask_if_behind(now, self._outcome.wanted)
        self._choice.tick(now)
        self._outcome.tick(now)
        self._advance(now)
        self._repeat(now)
        return self._parts.outlet.take()

    def trained(
        self, update: Update, round_number: int, now: float, head: bytes = b""
    ) -> list[Effect]:
        """The result of :class:`Train`; ignored if the round is over, or will not be.

        ``head``: the head of its round; left out, the round's number alone tells what it is for.
        """
        if self._is_of_now(round_number, head):
            self._round.update = update
            self._advance(now)
        else:
            self._parts.ahead.take(update, round_number)
        return self._parts.outlet.take()

    def sit_out(
        self, round_number: int, reason: str, now: float, head: bytes = b""
    ) -> list[Effect]:
        """Training failed: contribute nothing to the round, but go on voting."""
        if not self._is_of_now(round_number, head):
            self._parts.ahead.take(reason, round_number)
        elif not self._round.contributed:
            self._round.sit_out(reason)
            self._advance(now)
        return self._parts.outlet.take()

    def _is_of_now(self, round_number: int, head: bytes) -> bool:
        here = head in {b"", self._context.head.digest}
        return not self._is_over and round_number == self.number and here

    def publish_raw(self, payload: bytes, round_number: int, now: float) -> list[Effect]:
        """Send a contribution made outside the machine, unchecked: how the lab plays a liar."""
        if not self._is_over and round_number == self.number:
            self._round.publish(payload, now)
            self._advance(now)
        return self._parts.outlet.take()

    def enough(self, step: int, now: float) -> list[Effect]:
        """The model of a step is good enough by this node's figures: tell the others."""
        if not self._is_over:
            self._parts.until.found(step, now)
        return self._parts.outlet.take()

    def stop(self) -> None:
        """Take no further part."""
        self._stopped = True

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        return self._parts.speaker.take_sequence()

    def _repeat(self, now: float) -> None:
        """Say it again, and ask others for what is missing."""
        if self._parts.speaker.repeat(now):
            self._parts.until.say(now)
            self._round.ask(now)

    # ── receiving ─────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, envelope: Envelope, now: float) -> None:
        self._parts.pace.heard(envelope)
        try:
            self._take(envelope, now)
        except WireError as error:
            fault, where = Fault.MALFORMED_PAYLOAD, error.problems[0].where
            self._parts.outlet.refuse(envelope, fault, Blame.SENDER, detail=where)

    def _take(self, envelope: Envelope, now: float) -> None:
        kind, parts = envelope.kind, self._parts
        if kind in parts.of_any_head:
            parts.of_any_head[kind](envelope, now)
        elif kind == SYNC:
            self._catching_up.answer_sync(envelope, now)
        elif kind == FETCH_MODEL:
            self._catching_up.answer_model(envelope, now, self.find_model)
        elif kind == HEAD:
            self._catching_up.take_head(envelope)
        elif kind == LINKS:
            self._take_links(envelope, now)
        elif kind == MODEL:
            self._catching_up.take_model(envelope, self._outcome.wanted)
            self._outcome.look(now)
        elif kind in {ENOUGH, STOP} and self.swarm.until:
            parts.until.take(envelope, now)
        elif envelope.head != self._context.head.digest:
            self._take_of_other_head(envelope, now)
        elif kind.startswith(OUTCOME):
            self._outcome.take(envelope, now)
        else:
            self._take_of_height(envelope, now)

    def _take_of_height(self, envelope: Envelope, now: float) -> None:
        self._choice.engine.see(envelope.sender, envelope.round)
        if self._choice.take(envelope, now):
            return
        if envelope.round > self.number and envelope.kind != FETCHED:
            self._parts.pace.keep(envelope, int(self.model.size))
        else:
            self._round.take(envelope, now)

    def _take_of_other_head(self, envelope: Envelope, now: float) -> None:
        if not self._catching_up.help_if_past(envelope, now):
            self._catching_up.saw_other_head(envelope.sender, now)
            self._parts.pace.keep(envelope, int(self.model.size))

    def _take_links(self, envelope: Envelope, now: float) -> None:
        ahead = self._catching_up.take_links(envelope, now)
        if ahead is not None:
            model = ahead.last.next.model
            if self.find_model(model) is None:
                self._catching_up.fetch_model(model, ahead.told_by, now)

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open_height(self, number: int, now: float, *, wait: float = 0.0) -> None:
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
            parts.changes,
            previous,
            parts.waivers,
        )
        holds = self._catching_up.held.__contains__
        self._outcome = OutcomeVote(parts.speaker, parts.journal, parts.pool, holds)
        if resume is not None:
            resume.give_back(self._choice, self._outcome)
        for peer, highest in parts.pace.at(head.digest).items():
            self._choice.engine.see(peer, highest)
        if self._choice.certificate is None:
            self._choice.begin(number, now)
            number = self._choice.engine.round
        self._open(number, now, wait=wait)

    def _open(self, number: int, now: float, *, wait: float = 0.0) -> None:
        """Go to a round; it begins at once, or after ``wait`` seconds."""
        parts = self._parts
        parts.position.enter(number, self._context)
        aborts = self._aborts + self._choice.attempts
        self._round = Round(parts, self._choice, self._dispatch, aborts, begins=now + wait)
        parts.speaker.open_round(self.swarm.vote_timeout * backoff(aborts) / 2)
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
            self._open(number, now, wait=current.begins - now)
            return
        outcome = Outcome(
            self._parts.position.info,
            RoundStatus.ABORTED,
            self.model_digest,
            reason=current.why_lost(),
        )
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
        if current.tried or outcome.decision is not None or not self._context.is_member:
            return  # who is no member has no part in the dialogues, and takes the model as it is
        if self._parts.dialogues.finished:
            current.tried = True
            try:
                self._made = MadeModel.of(self.model, self.step + 1, current.merged(certificate))
            except QresError as error:
                outcome.found(Void(error.code), now)
            else:
                self._catching_up.held[self._made.digest] = self._made.model
                outcome.found(Merged(self._made.digest), now)
                outcome.look(now)
                self._train_ahead(certificate.candidate, self._made)
        elif now >= current.times.result:
            outcome.found(Void(UNFINISHED), now)

    def _train_ahead(self, chosen: CandidateSet, made: MadeModel) -> None:
        """Begin to train from the node's own result; the others will hardly find another."""
        if self.swarm.interval or not self.trains_ahead:
            return
        head = self._context.head.after(chosen, Merged(made.digest))
        if self.node_id in head.roster:
            info = round_info(self.swarm, head, int(made.model.size), self.number + 1)
            self._parts.ahead.begin(info)
            self._parts.outlet.put(Train(info, made.model))

    def _conclude(self, now: float) -> None:
        """Go to the next head, if it is decided and its model is here."""
        links = self._links()
        if not links or self._catching_up.diverged:
            return
        last = links[-1]
        after, made = last.next, self._made
        of_here = last.head.digest == self._context.head.digest
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
                if self._context.is_member and self.node_id not in after.roster:
                    self._leave(after.height)  # nobody gives it the model any more
                return
        self._go_on(links, vector, made if of_here else None, now)

    def _go_on(
        self, links: tuple[Link, ...], vector: Vector | None, made: MadeModel | None, now: float
    ) -> None:
        """The node is at another head, which is in the journal before anything is said of it."""
        parts, last, info = self._parts, links[-1], self._parts.position.info
        after, here = last.next, last.head.digest == self._context.head.digest
        parts.journal.record_height(links, vector)
        members = senders_of(last.chosen) if here else ()
        for sender in members if vector is not None else ():
            self.kernel.observe(Evidence(sender, Merit.CONTRIBUTED, KERNEL, info.number))
        status = RoundStatus.VOID if vector is None else RoundStatus.CLOSED
        void = last.result if isinstance(last.result, Void) and vector is None else None
        code, reason = ("", "") if void is None else (void.code, void.reason)
        if not here:
            reason = "caught up from a snapshot"
        outcome = Outcome(info, status, after.model, members, reason, code, made is not None)
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
        parts.outlet.put(RoundEnded(outcome, self.model, merged, saturated))
        if vector is not None and self._proof:
            self._tell(info.number)
        self._catching_up.moved_on(links, now)
        parts.changes.settle(after.roster)
        parts.pool.retain(lambda item: item.subject in after.roster)
        self._aborts = self._aborts + 1 if code == UNFINISHED else 0
        self._catching_up.tell_removed(before, now)
        if was_member and not self._context.is_member:
            self._leave(after.height)
        if not self._is_over:
            self._open_height(self.number + 1, now, wait=self.swarm.interval)

    def _leave(self, height: int) -> None:
        """From this height on the node is no member any more."""
        self._parts.outlet.put(Removed(height))
        self.stop()


def round_machine(
    info: NodeInfo,
    kernel: Kernel,
    swarm: SwarmConfig,
    initial: Vector,
    journal: Journal,
    trainer: object,
    changes: PendingChanges | None = None,
) -> RoundMachine:
    """The machine of a node; ``trainer`` judges models for the plugins if it can."""
    validator = trainer if isinstance(trainer, Validator) else None
    return RoundMachine(
        info.node_id, info.roster, kernel, swarm, initial, journal, validator, changes
    )
