"""Exit of the round machine: effects in their order, messages signed and repeated, refusals."""

from __future__ import annotations

import math

from qres_core.contract.faults import KERNEL
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import NUMBERS_PER_KEY, Envelope
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.effects import Broadcast, Effect, Refused, SendTo
from qres_core.swarm.context.position import NodeContext, Position
from qres_core.swarm.ledger.messages import CHOICE, FETCH_MODEL, LINKS, MODEL, OUTCOME, SYNC
from qres_core.swarm.storage.journal import SEQUENCE_BLOCK, Journal


class Speaker:
    """A node's voice, with what its other parts share: who and where it is, and where effects go.

    Messages are about the round of ``position`` and the node's head unless told otherwise.
    """

    def __init__(
        self, context: NodeContext, position: Position, journal: Journal, outlet: Outlet
    ) -> None:
        self.context, self.position, self.outlet = context, position, outlet
        self._journal = journal  # gives numbers that no earlier run of the node has used
        # where the numbers of the node's present key begin
        self._first = context.kernel.key_index(context.node_id) * NUMBERS_PER_KEY
        self.next_sequence: int = self._reserve()  # may be the first of a new block
        self._reserved_to = self.next_sequence + SEQUENCE_BLOCK
        self._said: dict[str, tuple[str, bytes, int]] = {}
        self.pause = math.inf  # seconds between repetitions
        self.repeat_at = math.inf  # when :meth:`repeat` is due, seconds
        self.repeats = 0  # how often the round's messages were repeated

    def bind(self, number: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote, a proposal or a contribution to a round before it is said.

        Arguments and errors as for :meth:`~qres_core.swarm.storage.journal.Journal.record_vote`.
        """
        self._journal.record_vote(number, kind, choice)
        if not kind.startswith(OUTCOME):  # which counts attempts
            self.position.voted = max(self.position.voted, number)

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        if self.next_sequence == self._reserved_to:
            self.next_sequence = self._reserve()
            self._reserved_to = self.next_sequence + SEQUENCE_BLOCK
        self.next_sequence += 1
        return self.next_sequence - 1

    def _reserve(self) -> int:
        return self._first + self._journal.reserve_sequence()

    def make(
        self,
        kind: str,
        payload: bytes,
        now: float,
        *,
        round_number: int | None = None,
        head: bytes | None = None,
    ) -> Envelope:
        """A signed message.

        ``now``: this node's clock, seconds; ``round_number``: the round it is about, the current
        one if not given; ``head``: digest of the head it is about, the node's own if not given.
        """
        envelope = Envelope(
            self.context.swarm.name,
            kind,
            self.position.number if round_number is None else round_number,
            self.context.head.digest if head is None else head,
            self.context.node_id,
            self.take_sequence(),
            int(now * 1000),
            payload,
        )
        return self.context.kernel.sign(envelope)

    def may_say(self, kind: str, now: float) -> bool:
        """True if this node may say a kind of message at all.

        Plugins may give members other rights, and what a node says without the right to is held
        against whoever hands it on. What blames nobody is no such thing: a certificate that has
        expired may be renewed, and the others may see it otherwise. Nothing is sent here, and no
        number is used up.
        """
        context = self.context
        probe = Envelope(
            context.swarm.name,
            kind,
            0,
            context.head.digest,
            context.node_id,
            self.next_sequence,
            int(now * 1000),
            b"",
        )
        verdict, _plugin = context.kernel.authenticate(
            context.kernel.sign(probe), context.node_id, now
        )
        return verdict.blame is Blame.NOBODY

    def send(self, to: NodeId, envelope: Envelope) -> None:
        """To one node."""
        if self._may_say(envelope):
            self.outlet.put(SendTo(to, envelope.to_bytes()))

    def send_all(self, envelope: Envelope) -> None:
        """To every other node."""
        if self._may_say(envelope):
            self.outlet.put(Broadcast(envelope.to_bytes()))

    def _may_say(self, envelope: Envelope) -> bool:
        """True if this node may say it: one that is no member asks or says how the swarm went on.

        It may be a member for those who are further, and for those who are behind.
        """
        asks_or_helps = envelope.kind in {SYNC, FETCH_MODEL, LINKS, MODEL}
        return self.context.is_member or asks_or_helps

    def broadcast(
        self, kind: str, payload: bytes, now: float, *, round_number: int | None = None
    ) -> Envelope:
        """Make a message about the current head and send it to every other node."""
        envelope = self.make(kind, payload, now, round_number=round_number)
        self.send_all(envelope)
        return envelope

    # ── saying it again ───────────────────────────────────────────────────────────────────────

    def open_round(self, pause: float, number: int) -> None:
        """A round begins: what was said in the one before is not repeated.

        Votes of this round may have been said a moment before it opened; they stay. ``pause``:
        seconds between repetitions; ``number``: of the round.
        """
        said = self._said.items()
        early = {slot: it for slot, it in said if it[0].startswith(CHOICE) and it[2] >= number}
        self._said, self.pause, self.repeats = early, pause, 0
        if not early:
            self.repeat_at = math.inf

    def say(
        self,
        kind: str,
        payload: bytes,
        now: float,
        *,
        round_number: int | None = None,
        slot: str = "",
    ) -> Envelope:
        """Broadcast what is repeated until the round is over.

        ``slot``: what is said later under the same name takes its place; the kind if not given.
        """
        number = self.position.number if round_number is None else round_number
        self._said[slot or kind] = kind, payload, number
        self.repeat_at = now + self.pause
        return self.broadcast(kind, payload, now, round_number=number)

    def unsay(self, *slots: str) -> None:
        """Repeat something no more."""
        for slot in slots:
            self._said.pop(slot, None)

    def repeat_soon(self, now: float) -> None:
        """Repeat after one pause at the latest, even if nothing was said yet."""
        self.repeat_at = min(self.repeat_at, now + self.pause)

    def repeat(self, now: float) -> bool:
        """Say it all again, to whoever was not there or did not hear; whether it was due."""
        if now < self.repeat_at:
            return False
        self.repeat_at = now + self.pause
        self.repeats += 1
        for kind, payload, number in self._said.values():
            self.broadcast(kind, payload, now, round_number=number)
        return True


class Outlet:
    """Effects that wait to be taken."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._effects: list[Effect] = []

    def put(self, effect: Effect) -> None:
        """One more, after those before it."""
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """All of them, in order; none is left."""
        taken, self._effects = self._effects, []
        return taken

    def refuse(
        self, envelope: Envelope, reason: str, blame: Blame, by: str = KERNEL, detail: str = ""
    ) -> None:
        """Refuse a message whose sender is proven: count it, blame, and report it.

        ``reason``: a :class:`Fault`, or an id of the plugin that refuses it; ``detail``: for the
        log alone.
        """
        made = self._kernel.refuse(reason, blame, envelope.sender, by, envelope.round)
        self.put(Refused(envelope.round, envelope.sender, made.reason, detail))
