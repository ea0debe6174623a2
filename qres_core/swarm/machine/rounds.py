"""Height after height as a sans-I/O state machine: messages and clock ticks in, effects out.

One machine is one node. It tells the story of a height:

1. It opens a round: it trains, contributes and gathers (:mod:`qres_core.swarm.machine.steps`).
2. The first instance of consensus decides which contributions are merged
   (:mod:`qres_core.swarm.agreement.choice`). A round without a decision is aborted, and the next
   one begins.
3. The dialogues of plugins run to their end, and the set is merged.
4. The second instance decides what became of it: a new model, or none
   (:mod:`qres_core.swarm.agreement.outcome`).
5. The decision and the votes for it are a link of the chain (:mod:`qres_core.swarm.ledger.chain`).
   The node writes it down and goes to the next head.

A node that lags skips all this: it is given links, and fetches the model that they name
(:mod:`qres_core.swarm.sync.catching_up`).

What dies with a height is in a :class:`~qres_core.swarm.machine.height.Height`. What the node has
behind it is in a :class:`~qres_core.swarm.ledger.chain.NodeHistory`, and what it does once it is
removed in a :class:`~qres_core.swarm.machine.departure.Departure`. The machine gives each message
to who takes it, and goes from height to height.

The machine does no I/O and reads no clock; :mod:`qres_core.swarm.runtime.node` drives it over a
transport and :mod:`qres_core.lab.simulator` on a virtual clock. What a node has said in a round
that does not end, it says again every half vote timeout, and asks again for what it lacks: messages
get lost. After a height it waits for the swarm's interval before it begins the next round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager

from qres_core.contract.errors import Problem, WireError
from qres_core.contract.faults import Fault
from qres_core.contract.fixed import difference
from qres_core.contract.rounds import Outcome, OwnContributions, RoundStatus
from qres_core.contract.trainer_abilities import TrainerAbilities, abilities_of
from qres_core.contract.types import Contribution, NodeId, NodeInfo, Update, Vector
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.agreement.choice import Choice, Waivers
from qres_core.swarm.agreement.judgements import Opinions
from qres_core.swarm.agreement.outcome import OutcomeVote
from qres_core.swarm.context.effects import (
    Agreed,
    AskTrainer,
    Effect,
    Refused,
    RoundEnded,
    Vouched,
)
from qres_core.swarm.context.outbox import Outlet, Speaker
from qres_core.swarm.context.times import HeightPace, Times
from qres_core.swarm.contributions.intake import Collector
from qres_core.swarm.contributions.lone_round import praise
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import (
    CERTIFICATE,
    CHOICE,
    CONTRIBUTION,
    ENOUGH,
    FETCH,
    FETCH_MODEL,
    FETCHED,
    HEAD,
    HOLDING,
    LINKS,
    MODEL,
    OUTCOME,
    OUTCOME_PREVOTE,
    RELAYED,
    STOP,
    SYNC,
    CandidateSet,
)
from qres_core.swarm.ledger.misbehaviour import MisbehaviourPool
from qres_core.swarm.ledger.results import UNFINISHED, Conclusion, Merged, Void
from qres_core.swarm.machine.departure import Departure
from qres_core.swarm.machine.dialogues import Dialogues
from qres_core.swarm.machine.goal_votes import Until
from qres_core.swarm.machine.height import Height, MadeModel, is_ahead_alone
from qres_core.swarm.machine.resuming import begin
from qres_core.swarm.machine.steps import TrainingAhead
from qres_core.swarm.members.amendments import Amendments
from qres_core.swarm.members.pending_changes import PendingChanges
from qres_core.swarm.shards.messages import SHARD
from qres_core.swarm.storage.journal import Journal
from qres_core.swarm.storage.model_file import SwarmModel
from qres_core.swarm.storage.shelf import Shelf
from qres_core.swarm.sync.catching_up import CatchingUp
from qres_core.swarm.sync.pace import Pace


def _said_of(outcome: Outcome, refused: Problem | None) -> str:
    """Finding of this node in place of a model, if the members agreed on it."""
    agreed = refused is not None and refused.code == outcome.code
    return f"{refused.where}: {refused.what}" if refused is not None and agreed else ""


class RoundMachine:
    """One node's heights.

    ``model``: the swarm's first, int32, shape ``(d,)``; the journal's supersedes it. ``roster``:
    the swarm's first members, or those of now. A node that is none of them follows the others and
    says nothing, until a decision of the swarm lets it take part. ``validator`` judges models for
    the plugins. Raises RoundError: QRES-E602 for a journal that cannot be read, or is of another
    roster or other settings. Raises CompatibilityError: plugins that do not fit a model of that
    many coordinates.
    """

    def __init__(
        self,
        node_id: NodeId,
        roster: Sequence[NodeId],
        kernel: Kernel,
        swarm: SwarmConfig,
        model: Vector,
        journal: Journal,
        validator: TrainerAbilities | None = None,
        changes: PendingChanges | None = None,
    ) -> None:
        self.node_id, self.kernel, self.swarm = node_id, kernel, swarm
        # whether it asks for training before the outcome is decided, where no interval is kept
        self.trains_ahead = True
        # adds what the set merged to to the model; a simulation does it once for all its nodes
        self.make_model: Callable[[Vector, int, Vector], MadeModel] = MadeModel.of
        self._context, self._position, self._history, self._resume = begin(
            node_id, roster, kernel, swarm, model, journal
        )
        self._journal, self._outlet = journal, Outlet(kernel)
        self._speaker = speaker = Speaker(self._context, self._position, journal, self._outlet)
        members = self._context.head.roster
        self.changes = PendingChanges(swarm.name, members) if changes is None else changes
        self.changes.settle(members)
        self._catching_up = CatchingUp(speaker, self._history)
        self.opinions = Opinions(kernel, self._outlet, validator)
        self._collector = Collector(speaker, Shelf.open(journal.folder, swarm.memory))
        self._dialogues = Dialogues(speaker)
        self._pool = MisbehaviourPool(len(members))
        self._waivers = Waivers(self._context)
        self._pace = Pace()
        self._context.past = lambda number: self._pace.past(number, self.head.digest)
        self._until = Until(speaker)
        self._ahead = TrainingAhead()
        self._departure = Departure(speaker, self._history, self._catching_up)
        self._height: Height
        self._aborts, self._stopped = 0, False
        self._ticked = 0.0  # when the clock was last looked at, seconds
        # what takes messages that are answered whatever head they are about, by kind
        self._takers: dict[str, Callable[[Envelope, float], None]] = {
            FETCH: self._collector.answer,
            HOLDING: self._dialogues.compare,
            RELAYED: self._dialogues.compare,
            SYNC: self._catching_up.answer_sync,
            FETCH_MODEL: self._answer_model,
            HEAD: self._catching_up.apart.take_head,
            LINKS: self._take_links,
            MODEL: self._take_model,
        }
        if swarm.until:
            self._takers |= {ENOUGH: self._until.take, STOP: self._until.take}

    # ── looking at it ─────────────────────────────────────────────────────────────────────────

    @property
    def head(self) -> Head:
        """Head of the swarm's history for this node."""
        return self._context.head

    @property
    def waits(self) -> HeightPace:
        """Waits of the node for others, as its own view."""
        return self._context.waits

    def follow_arrivals(self, arriving: Callable[[], Collection[NodeId]]) -> None:
        """Follow whose large messages are on their way here: what comes is not asked of others."""
        self._context.arriving = arriving

    @property
    def roster(self) -> tuple[NodeId, ...]:
        """The members at the node's head, ascending."""
        return self._context.roster

    @property
    def is_member(self) -> bool:
        """True if this node is a member at its head; it only follows the others if not."""
        return self._context.is_member

    @property
    def model(self) -> Vector:
        """The node's model, int32, shape ``(d,)``."""
        return self._position.model

    @property
    def model_digest(self) -> bytes:
        """Digest of the node's model, 32 bytes."""
        return self._context.head.model

    @property
    def step(self) -> int:
        """Number of models that were made before the node's, the first not counted."""
        return self._context.head.step

    @property
    def vouchers(self) -> tuple[Envelope, ...]:
        """The votes that decided the node's model, ascending by sender; none for the first."""
        return self._history.vouchers

    @property
    def model_round(self) -> int:
        """The round of the contributions that made the node's model, 0 for the first."""
        return self._history.model_round

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self._position.number

    @property
    def has_enough(self) -> bool:
        """True if so many nodes as decide a vote found a model good enough."""
        return self._until.reached

    @property
    def next_sequence(self) -> int:
        """The number of the node's next message, which may be the first of a new block."""
        return self._speaker.next_sequence

    @property
    def next_tick(self) -> float:
        """Time at which the clock next matters, in seconds; never, for a node that stopped.

        In the past where a message came when the clock already mattered: it waits for its tick.
        """
        if self._is_over:
            return math.inf
        # What fell due since the last tick is still to be done, though a message came meanwhile.
        repeats = [self._speaker.repeat_at, self._catching_up.due()]
        round_due = min((at for at in repeats if at > self._ticked), default=math.inf)
        return min(round_due, self._height.due(self._ticked), self._departure.due())

    @property
    def is_out(self) -> bool:
        """True if it has heard that it is no member any more, and of no decision that it is."""
        return self._departure.since is not None

    @property
    def waits_until(self) -> float | None:
        """Time at which the node begins its round, seconds; ``None`` once it has."""
        current = self._height.round
        return None if current.begun else current.begins

    @property
    def contributions(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        return self._collector.of_round()

    @property
    def found(self) -> Conclusion | None:
        """Finding of this node on the decided set of its height; ``None`` before."""
        return self._height.outcome.own

    @property
    def lost_attempts(self) -> int:
        """Attempts to agree on what the decided set comes to that came to nothing."""
        return self._height.outcome.attempts

    def proposer(self, number: int) -> NodeId:
        """Member that may propose in a round."""
        return self._context.proposer(number)

    def find_model(self, digest: bytes) -> Vector | None:
        """A model that this node holds: its own, or one of the next height."""
        if digest == self.model_digest:
            return self.model
        return self._catching_up.held.get(digest)

    @property
    def _is_over(self) -> bool:
        return self._stopped or self._departure.over or self._catching_up.diverged

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _recorded(self) -> Generator[None]:
        """Nothing leaves before all that the block records is safe.

        Votes, locks and decisions that come of one message thus cost one sync of the disk. Where
        the block raises, nothing of it is kept and nothing leaves: this node must not go on, since
        it would not know what it has not said.
        """
        try:
            with self._journal.together():
                yield
        except BaseException:
            self._stopped = True
            self._outlet.take()
            raise

    def start(self, now: float) -> list[Effect]:
        """Open the first round."""
        self._ticked = now
        wait = self.swarm.interval if self.step else 0.0  # when the model was made is not known
        number = 1 if self._resume is None else self._resume.last_round + 1
        with self._recorded():
            self._open_height(number, now, wait=wait)
            self._advance(now)
        return self._outlet.take()

    def receive(
        self, frame: bytes, source: NodeId, now: float, waited: float = 0.0
    ) -> list[Effect]:
        """Take a frame. Never raises for what it holds.

        ``frame``: bytes as delivered; ``source``: who answers for them: the author where the
        transport proves it, else the link; ``now``: this node's clock, seconds; ``waited``: seconds
        for which it was pulled.
        """
        if self._is_over:
            return []
        result = self.kernel.inbound(frame, source, now, waited)
        if isinstance(result, Rejection):
            self._outlet.put(Refused(self.number, result.subject, result.reason))
        elif result.sender != self.node_id:
            with self._recorded():
                self._dispatch(result, now)
                self._advance(now)
                self._departure.hear(result, now)
        return self._outlet.take()

    def tick(self, now: float) -> list[Effect]:
        """The clock is at ``now`` seconds."""
        if self._is_over:
            return []
        self._ticked = now
        with self._recorded():
            self._dialogues.tick(now)
            height = self._height
            wanted = None if height.is_pulling(now) else height.outcome.wanted
            self._catching_up.ask_if_behind(now, wanted)
            height.choice.tick(now)
            height.outcome.tick(now)
            self._advance(now)
            self._repeat(now)
            self._departure.stop_if_due(now)
        return self._outlet.take()

    def trained(self, update: Update, round_number: int, head: bytes, now: float) -> list[Effect]:
        """The result of :class:`Train`, for a round at a head; ignored if that will not be."""
        if self._is_of_now(round_number, head) and self._height.round.begun:
            self._height.round.update = update
            with self._recorded():
                self._advance(now)
        else:
            self._ahead.take(update, round_number, head)
        return self._outlet.take()

    def sit_out(self, reason: str, round_number: int, head: bytes, now: float) -> list[Effect]:
        """Training failed: contribute nothing to the round, but go on voting."""
        if not self._is_of_now(round_number, head) or not self._height.round.begun:
            self._ahead.take(reason, round_number, head)
        elif not self._height.round.contributed:
            self._height.round.sit_out(reason)
            with self._recorded():
                self._advance(now)
        return self._outlet.take()

    def answered(self, asked: AskTrainer, now: float) -> list[Effect]:
        """The trainer answered; ignored if nobody waits for it any more."""
        if not self._is_over and self.opinions.waits(asked):
            with self._recorded():
                self.opinions.answered(asked)
                self._advance(now)
        return self._outlet.take()

    def _is_of_now(self, round_number: int, head: bytes) -> bool:
        is_here = head == self._context.head.digest
        return not self._is_over and round_number == self.number and is_here

    def publish_raw(self, payload: bytes, round_number: int, now: float) -> list[Effect]:
        """Send a contribution made outside the machine, unchecked: how the lab plays a liar."""
        if not self._is_over and round_number == self.number:
            with self._recorded():
                self._height.round.publish(payload, now)
                self._advance(now)
        return self._outlet.take()

    def enough(self, step: int, now: float) -> list[Effect]:
        """The model of a step is good enough by this node's figures: tell the others."""
        if not self._is_over:
            self._until.found(step, now)
        return self._outlet.take()

    def stop(self) -> None:
        """Take no further part."""
        self._stopped = True
        self.opinions.leave()

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        return self._speaker.take_sequence()

    def _repeat(self, now: float) -> None:
        """Say it again, and ask others for what is missing."""
        if self._speaker.repeat(now):
            self._until.say(now)
            self._height.round.ask(now)

    # ── receiving ─────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, envelope: Envelope, now: float) -> None:
        self._pace.heard(envelope)
        try:
            self._take(envelope, now)
        except WireError as error:
            fault, where = Fault.MALFORMED_PAYLOAD, error.problems[0].where
            self._outlet.refuse(envelope, fault, Blame.SENDER, detail=where)

    def _take(self, envelope: Envelope, now: float) -> None:
        taker = self._takers.get(envelope.kind)
        if taker is not None:
            taker(envelope, now)
        elif envelope.head != self._context.head.digest:
            self._take_of_other_head(envelope, now)
        elif envelope.kind.startswith(OUTCOME):
            self._height.outcome.take(envelope, now)
        else:
            self._take_of_height(envelope, now)

    def _take_of_height(self, envelope: Envelope, now: float) -> None:
        height, kind, coming = self._height, envelope.kind, envelope.round > self.number
        height.choice.see(envelope.sender, envelope.round, now)
        if kind.startswith(CHOICE) or kind == CERTIFICATE:
            if height.choice.take(envelope, now):
                return
        elif kind.startswith(SHARD):
            # Who has decided goes to no other round, and members may answer it from a later one.
            waits = coming and height.choice.certificate is None
            if height.aggregation.take(envelope, now, waits=waits):
                return
        if coming and kind != FETCHED:
            self._pace.keep(envelope, int(self.model.size))
        else:
            height.round.take(envelope, now)

    def _take_of_other_head(self, envelope: Envelope, now: float) -> None:
        if envelope.kind == CONTRIBUTION:
            self._context.lateness.too_late(envelope.sender, envelope.head, now)
        if not self._catching_up.help_if_past(envelope, now):
            self._catching_up.saw_other_head(envelope.sender, now)
            self._pace.keep(envelope, int(self.model.size))

    def _answer_model(self, envelope: Envelope, now: float) -> None:
        self._catching_up.answer_model(envelope, now, self.find_model)

    def _take_links(self, envelope: Envelope, now: float) -> None:
        ahead = self._catching_up.take_links(envelope, now)
        if ahead is not None:
            model = ahead.last.next.model
            if self.find_model(model) is None:
                self._catching_up.fetch_model(model, ahead.told_by, now)

    def _take_model(self, envelope: Envelope, now: float) -> None:
        catching_up, wanted = self._catching_up, self._height.outcome.wanted
        if catching_up.take_model(envelope, wanted) and wanted in catching_up.held:
            self._journal.record_made(catching_up.held[wanted])
        self._height.outcome.look(now)

    # ── from height to height ─────────────────────────────────────────────────────────────────

    def _open_height(
        self, number: int, now: float, *, wait: float = 0.0, needed: float = math.inf
    ) -> None:
        """Begin the height of the node's head; its first round begins at once or after ``wait``."""
        speaker, head, last = self._speaker, self._context.head, self._history.last
        before = None if last is None else last.head
        self.kernel.enter(frozenset(head.roster.members), frozenset(head.bans))
        may_vote = speaker.may_say(OUTCOME_PREVOTE, now)
        self._context.votes = self._context.is_member and may_vote
        self.changes.refresh(lambda signed: self.kernel.authentic(signed, now))
        choice = Choice(
            speaker,
            self._collector,
            self._journal,
            self._pool,
            Amendments(self._context, self._pool, self.changes, before),
            self._waivers,
            self.opinions,
        )
        holds = self._catching_up.held.__contains__
        outcome = OutcomeVote(speaker, self._journal, self._pool, holds)
        self._height = Height(
            speaker=speaker,
            journal=self._journal,
            choice=choice,
            outcome=outcome,
            collector=self._collector,
            dialogues=self._dialogues,
            opinions=self.opinions,
            catching_up=self._catching_up,
            pace=self._pace,
            ahead=self._ahead,
            until=self._until,
            own=self._contributed,
            dispatch=self._dispatch,
            make_model=self.make_model,
            trains_ahead=self.trains_ahead,
            aborts=self._aborts,
        )
        if self._resume is not None:
            self._resume.give_back(choice, outcome)
            self._height.keep(self._resume.record.made)
            self._resume = None
        for peer, highest in self._pace.at(head.digest).items():
            choice.engine.see(peer, highest)
        if choice.certificate is None:
            choice.begin(number, now)
            number = choice.engine.round
        self._height.open(number, now, wait=wait, needed=needed)

    def _contributed(self) -> OwnContributions:
        """All that is known of the node's contributions so far."""
        kept = self._journal.contributions()
        return self._history.contributed(self._context.head, self.node_id, kept)

    def _advance(self, now: float) -> None:
        """Take every step whose condition holds, in as many rounds and heights as end by it."""
        while not self._is_over:
            before = self._context.head, self.number
            self._height.advance(now)
            self._conclude(now)
            if (self._context.head, self.number) == before:
                return

    def _conclude(self, now: float) -> None:
        """Go to the next head, if it is decided and its model is here."""
        links = self._height.links()
        if not links or self._catching_up.diverged:
            return
        last = links[-1]
        if not self._is_ahead(last.next):
            return
        if what := self._height.differs(last):
            self._catching_up.diverge(last, what)
            return
        vector = None
        if last.next.step > self.step:
            vector = self._catching_up.held.get(last.next.model)
            if vector is None:
                self._departure.expect(last.next, now)  # nobody may give it the model any more
                return
        made = self._height.made
        if made is not None and last.result != Merged(made.digest):
            made = None
        of_here = last.head.digest == self._context.head.digest
        self._go_on(links, vector, made if of_here else None, now)

    def _is_ahead(self, after: Head) -> bool:
        """True if a head is later than the node's: one that went back would vote again."""
        return after.height > self._context.head.height

    def _go_on(
        self, links: tuple[Link, ...], vector: Vector | None, made: MadeModel | None, now: float
    ) -> None:
        """The node is at another head, which is in the journal before anything is said of it."""
        height, last, info = self._height, links[-1], self._position.info
        after = last.next
        self._journal.record_height(links, vector)
        outcome = self._outcome_of(last, vector, made=made is not None)
        if vector is not None:
            praise(self.kernel, outcome.members, info.number)
        number, wait, needed = height.next_number, self.swarm.interval, math.inf
        if is_ahead_alone(number, last, height.choice, self._context, self._pace):
            needed = now + wait
            wait += Times.most(self.swarm, self._aborts, self._context.waits.stretch)
        height.round.close(outcome, now)
        self._collector.leave()
        was_member, before = self._context.is_member, self._context.head.roster
        self._context.head = after
        self._history.go_on(links, has_model=vector is not None)
        if vector is not None:
            self._position.model = vector
        self._tell(outcome, made, new=vector is not None)
        self._catching_up.moved_on(now)
        self.changes.settle(after.roster)
        self._pool.retain(lambda item: item.subject in after.roster)
        self._aborts = self._aborts + 1 if outcome.code == UNFINISHED else 0
        self._catching_up.tell_removed(before, now)
        self._departure.moved_on(now, was_member=was_member)
        if not self._is_over:
            self._collector.enter()
            self._open_height(number, now, wait=wait, needed=needed)
            if needed < math.inf:
                self._catching_up.say_where(now)

    def _outcome_of(self, last: Link, vector: Vector | None, *, made: bool) -> Outcome:
        """Outcome of the node's height: as it saw it, or as it was told of later ones.

        ``last``: the link to where it goes; ``vector``: the model there, if it is a new one;
        ``made``: whether it merged the set itself.
        """
        here, info = last.head.digest == self._context.head.digest, self._position.info
        status, void = RoundStatus.CLOSED, None
        if last.next.step == self.step:
            status = RoundStatus.VOID
            void = last.result if isinstance(last.result, Void) else None
        code, reason = ("", "") if void is None else (void.code, void.reason)
        members = senders_of(last.chosen) if here else ()
        reason = reason if here else "caught up from a snapshot"
        change = None
        if vector is not None and last.next.step == self.step + 1:
            change = difference(vector, self.model)
        return Outcome(info, status, last.next.model, members, reason, code, made, change)

    def _tell(self, outcome: Outcome, made: MadeModel | None, *, new: bool) -> None:
        """Report how the height ended, and a ``new`` model that a quorum decided."""
        merged, saturated = (None, 0) if made is None else (made.merged, made.saturated)
        found = _said_of(outcome, self._height.refused)
        self._outlet.put(RoundEnded(outcome, self.model, merged, saturated, found))
        if new and self._history.vouchers:
            self._outlet.put(Agreed(outcome.round_info.number, self.model_digest))
            swarm, votes = self.swarm, self._history.vouchers
            model = SwarmModel(swarm.name, self.step, swarm.scale, self.model, votes)
            self._outlet.put(Vouched(model))


def senders_of(candidate: CandidateSet) -> tuple[NodeId, ...]:
    """Senders of the contributions in a set, ascending."""
    return tuple(member.sender for member in candidate.members)


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
    able = abilities_of(trainer)
    validator = None if able.validate is None else able
    return RoundMachine(
        info.node_id, info.roster, kernel, swarm, initial, journal, validator, changes
    )
