"""Round after round as a sans-I/O state machine: messages and clock ticks in, effects out.

One machine is one node. It owns the current model and runs round after round: open, take the steps
of the round (:mod:`qres_core.swarm.steps`), close with a new model or abort with nothing changed.
It does no I/O and reads no clock; :mod:`qres_core.swarm.node` drives it over a transport and
:mod:`qres_core.lab.simulator` on a virtual clock.

What a node has said in a round that does not end, it says again every half vote timeout, and asks
again for what it lacks: messages get lost. After a model it waits for the swarm's interval before
it begins the next round. What concerns models, catching up and what others say of the round is
taken meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from qres_core.contract.errors import QresError, WireError
from qres_core.contract.evidence import Evidence
from qres_core.contract.faults import KERNEL, Fault, Merit
from qres_core.contract.fixed import add_saturating
from qres_core.contract.rounds import Outcome, RoundStatus
from qres_core.contract.trainer import Validator
from qres_core.contract.types import (
    Contribution,
    NodeId,
    NodeInfo,
    Update,
    Vector,
    model_digest,
)
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context import NodeContext
from qres_core.swarm.effects import Effect, Refused, RoundEnded
from qres_core.swarm.journal import Journal, JournalEntry
from qres_core.swarm.messages import (
    CERTIFICATE,
    DIGEST,
    ENOUGH,
    FETCHED,
    SNAPSHOT,
    STOP,
    Certificate,
    Handover,
    Snapshot,
)
from qres_core.swarm.steps import Parts, Round
from qres_core.swarm.vouching import is_vouched


class Succession:
    """How a node comes from one model to the next: by merging a set, or from a snapshot."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def merged(self, certificate: Certificate, merged: Vector) -> RoundEnded:
        """Go on by what a decided set merges to.

        The new model is in the journal before anything is said of it. ``merged``: int32, shape
        ``(d,)``.
        """
        parts, here = self._parts, self._parts.position
        members = certificate.candidate.members
        total = add_saturating(here.model, merged)
        parent, step = here.model_digest, here.step + 1
        child = model_digest(total.vector, step)
        head = Handover(parent, certificate).to_bytes()
        handover = JournalEntry(head, parts.collector.messages(members))
        parts.journal.record_model(certificate.round, step, total.vector, handover)
        parts.catching_up.remember(parent, certificate)
        parts.vouchers.made(parent, child)
        self._move(total.vector, child, step, certificate.round, parent)
        senders = tuple(member.sender for member in members)
        for sender in senders:
            fact = Evidence(sender, Merit.CONTRIBUTED, KERNEL, here.number)
            parts.context.kernel.observe(fact)
        outcome = Outcome(here.info, RoundStatus.CLOSED, child, senders)
        return RoundEnded(outcome, here.model, merged, total.saturated)

    def caught_up(self, envelope: Envelope, now: float) -> RoundEnded | None:
        """Take a model that others made without this node; ``None`` if it is not taken.

        Raises WireError: QRES-E401 to QRES-E404.
        """
        parts, here, swarm = self._parts, self._parts.position, self._parts.context.swarm
        roster, dimension = parts.context.roster, int(here.model.size)
        snapshot = Snapshot.from_bytes(envelope.payload, len(roster), dimension)
        if not is_vouched(parts.context, snapshot, now):
            parts.outlet.refuse(envelope, Fault.UNPROVEN_SNAPSHOT, Blame.SENDER)
            return None
        if snapshot.step <= here.step:
            return None  # not newer than what this node has
        # The highest that an honest voucher can have said: liars may say anything.
        rounds = sorted((voucher.round for voucher in snapshot.vouchers), reverse=True)
        made_in = rounds[swarm.byzantine]
        parent = snapshot.vouchers[0].head
        child = model_digest(snapshot.vector, snapshot.step)
        parts.journal.record_model(made_in, snapshot.step, snapshot.vector, None)
        self._move(snapshot.vector, child, snapshot.step, made_in, parent)
        parts.vouchers.accept(parent, child, snapshot.vouchers)
        reason = "caught up from a snapshot"
        outcome = Outcome(here.info, RoundStatus.CLOSED, child, reason=reason)
        return RoundEnded(outcome, here.model)

    def _move(
        self, model: Vector, digest: bytes, step: int, model_round: int, parent: bytes
    ) -> None:
        parts, here = self._parts, self._parts.position
        parts.collector.leave(here.model_digest)
        here.model, here.model_digest, here.parent = model, digest, parent
        here.step, here.model_round = step, model_round
        parts.promises.void()
        parts.catching_up.moved_on()


class RoundMachine:
    """One node's rounds; ``model``, ``validator`` and errors as for :class:`Parts`."""

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
        self.node_id, self.roster = node_id, tuple(sorted(roster))
        self.kernel, self.swarm = kernel, swarm
        here = NodeContext(node_id, self.roster, kernel, swarm)
        self._parts = Parts(here, model, journal, validator)
        self._succession = Succession(self._parts)
        self._round: Round
        self._aborts, self._now, self._stopped = 0, 0.0, False

    # ── driving ───────────────────────────────────────────────────────────────────────────────

    def start(self, now: float) -> list[Effect]:
        """Open the first round."""
        self._now = now
        wait = self.swarm.interval if self.step else 0.0  # when the model was made is not known
        self._open(self._parts.first_round, now, wait=wait)
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
        self._parts.catching_up.ask_if_behind(now, decided=self._round.decided is not None)
        self._advance(now)
        self._repeat(now)
        return self._parts.outlet.take()

    def trained(self, update: Update, round_number: int, now: float) -> list[Effect]:
        """The result of :class:`Train`; ignored if the round is over."""
        if not self._is_over and round_number == self.number:
            self._round.update = update
            self._advance(now)
        return self._parts.outlet.take()

    def sit_out(self, round_number: int, reason: str, now: float) -> list[Effect]:
        """Training failed: contribute nothing to the round, but go on voting."""
        if not self._is_over and round_number == self.number and not self._round.contributed:
            self._round.sit_out(reason)
            self._advance(now)
        return self._parts.outlet.take()

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

    def _advance(self, now: float) -> None:
        """Take every step whose condition holds, in as many rounds as end by it."""
        while True:
            before = self.number
            self._round.advance(now)
            if self._round.begun:
                self._finish(now)
            if self._is_over:
                return
            if self.number == before:
                self._overtaken(now)
            if self.number == before:
                return

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
        kind = envelope.kind
        if kind in self._parts.of_any_round:
            self._parts.of_any_round[kind](envelope, now)
        elif kind == DIGEST and self._parts.vouchers.knows(envelope.head):
            self._parts.vouchers.take(envelope)
        elif kind == SNAPSHOT:
            ended = self._succession.caught_up(envelope, now)
            if ended is not None:
                self._go_on(ended, now)
        elif kind in {ENOUGH, STOP} and self.swarm.until:
            self._parts.until.take(envelope, now)
        elif envelope.head != self.model_digest:
            self._take_of_other_model(envelope, now)
        elif envelope.round > self.number and kind not in {CERTIFICATE, FETCHED}:
            self._parts.pace.keep(envelope, int(self.model.size))
        else:
            self._round.take(envelope, now)

    def _take_of_other_model(self, envelope: Envelope, now: float) -> None:
        if not self._parts.catching_up.help_if_past(envelope, now):
            self._parts.catching_up.saw_other_model(envelope.sender, now)
            if envelope.round >= self.number:
                self._parts.pace.keep(envelope, int(self.model.size))

    # ── opening ───────────────────────────────────────────────────────────────────────────────

    def _open(self, number: int, now: float, *, wait: float = 0.0) -> None:
        """Go to a round; it begins at once, or after ``wait`` seconds."""
        self._parts.position.enter(number, self._parts.context)
        self._round = Round(self._parts, self._dispatch, self._aborts, begins=now + wait)
        self._round.open(now)

    def _overtaken(self, now: float) -> None:
        """Jump to a round that more than ``f`` nodes with this model have reached.

        One of them is honest. Nodes with a later model do not count: in their round this node could
        do nothing.
        """
        current = self._round
        number = self._parts.pace.reached_by_more_than(self.swarm.byzantine, self.model_digest)
        if current.decided is not None or number <= self.number:
            return
        if current.begun:
            self._abort("overtaken by the swarm", now, number=number)
        else:  # they may be waiting in that round; nobody heard of this one
            self._open(number, now, wait=current.begins - now)

    # ── ending ────────────────────────────────────────────────────────────────────────────────

    def _finish(self, now: float) -> None:
        current = self._round
        if current.decided is None:
            if current.voting.is_lost(now, current.times):
                self._abort(current.voting.why_lost(), now)
        elif self._parts.dialogues.finished:
            self._close(current.decided, now)
        elif now >= current.times.end:
            self._parts.promises.free()
            self._abort("a dialogue did not finish", now, code="QRES-E604")

    def _close(self, certificate: Certificate, now: float) -> None:
        try:
            merged = self._round.merged(certificate)
        except QresError as error:
            self._parts.promises.free()
            self._abort(f"aggregation refused: {error}", now, code=error.code)
        else:
            self._go_on(self._succession.merged(certificate, merged), now)

    def _go_on(self, ended: RoundEnded, now: float) -> None:
        """The node has a new model: tell of it, and go to the next round."""
        self._round.close(ended.outcome, now)
        self._parts.outlet.put(ended)
        self._aborts = 0
        self._parts.vouchers.vouch(now)
        if not self._is_over:
            number = max(self.number, self.model_round) + 1
            self._open(number, now, wait=self.swarm.interval)

    def _abort(self, reason: str, now: float, *, number: int | None = None, code: str = "") -> None:
        info = self._parts.position.info
        outcome = Outcome(info, RoundStatus.ABORTED, self.model_digest, reason=reason, code=code)
        self._round.close(outcome, now)
        self._parts.outlet.put(RoundEnded(outcome, self.model))
        self._aborts += 1
        if self._parts.position.parent:
            self._parts.vouchers.vouch(now)  # again: what is lost is why rounds abort
        self._open(self.number + 1 if number is None else number, now)

    # ── looking at it ─────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> Vector:
        """The node's model, int32, shape ``(d,)``."""
        return self._parts.position.model

    @property
    def model_digest(self) -> bytes:
        """Digest of the node's model, 32 bytes."""
        return self._parts.position.model_digest

    @property
    def step(self) -> int:
        """How many rounds closed before the node's model."""
        return self._parts.position.step

    @property
    def vouchers(self) -> tuple[Envelope, ...]:
        """Messages that vouch for the node's model, its own among them, ascending by sender."""
        return self._parts.vouchers.of_model()

    @property
    def model_round(self) -> int:
        """The round that made the node's model, 0 for the initial one."""
        return self._parts.position.model_round

    @property
    def number(self) -> int:
        """Number of the current round."""
        return self._parts.position.number

    @property
    def has_enough(self) -> bool:
        """Whether so many nodes as decide a vote found a model good enough."""
        return self._parts.until.reached

    @property
    def next_sequence(self) -> int:
        """The number of the node's next message, which may be the first of a new block."""
        return self._parts.speaker.next_sequence

    @property
    def next_tick(self) -> float:
        """When the clock next matters, in seconds; never, for a node that stopped."""
        if self._is_over:
            return math.inf
        return self._round.due(self._now)

    @property
    def waits_until(self) -> float | None:
        """When the node begins its round, seconds; ``None`` once it has."""
        return None if self._round.begun else self._round.begins

    @property
    def contributions(self) -> Mapping[NodeId, Contribution]:
        """The first valid contribution of each sender in the current round."""
        return self._parts.collector.of_round()

    def proposer(self, number: int) -> NodeId:
        """Who may propose in a round."""
        return self._parts.context.proposer(number)

    @property
    def _is_over(self) -> bool:
        return self._stopped or self._parts.vouchers.diverged


def round_machine(
    info: NodeInfo,
    kernel: Kernel,
    swarm: SwarmConfig,
    initial: Vector,
    journal: Journal,
    trainer: object,
) -> RoundMachine:
    """The machine of a node; ``trainer`` judges models for the plugins if it can."""
    validator = trainer if isinstance(trainer, Validator) else None
    return RoundMachine(info.node_id, info.roster, kernel, swarm, initial, journal, validator)
