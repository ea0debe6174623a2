"""What leaves the round machine: effects in their order, messages signed and repeated, refusals."""

from __future__ import annotations

import math

from qres_core.contract.faults import KERNEL
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.effects import Broadcast, Effect, Refused, SendTo
from qres_core.swarm.journal import SEQUENCE_BLOCK, Journal


class Speaker:
    """A node's voice.

    Args:
        context: who speaks.
        position: the round and model that messages are about unless told otherwise.
        journal: gives sequence numbers that no earlier run of the node has used.
        outlet: where the messages go.
    """

    def __init__(
        self, context: NodeContext, position: Position, journal: Journal, outlet: Outlet
    ) -> None:
        self._context = context
        self._position = position
        self._journal = journal
        self._outlet = outlet
        self._next: int = journal.reserve_sequence()
        self._reserved_to = self._next + SEQUENCE_BLOCK
        self._said: list[tuple[str, bytes]] = []
        self._pause = math.inf
        self._repeat_at = math.inf
        self._repeats = 0

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    @property
    def next_sequence(self) -> int:
        """The number of the node's next message, which may be the first of a new block."""
        return self._next

    def take_sequence(self) -> int:
        """The node's next sequence number; no other message of the node, ever, has it."""
        if self._next == self._reserved_to:
            self._next = self._journal.reserve_sequence()
            self._reserved_to = self._next + SEQUENCE_BLOCK
        self._next += 1
        return self._next - 1

    def make(
        self,
        kind: str,
        payload: bytes,
        now: float,
        *,
        round_number: int | None = None,
        model: bytes | None = None,
    ) -> Envelope:
        """A signed message.

        ``now``: this node's clock, seconds; ``round_number``: the round it is about, the current
        one if not given; ``model``: digest of the model it is about, the node's own if not given.
        """
        envelope = Envelope(
            self._context.swarm.name,
            kind,
            self._position.number if round_number is None else round_number,
            self._position.model_digest if model is None else model,
            self._context.node_id,
            self.take_sequence(),
            int(now * 1000),
            payload,
        )
        return self._context.kernel.sign(envelope)

    def send(self, to: NodeId, envelope: Envelope) -> None:
        """To one node."""
        self._outlet.put(SendTo(to, envelope.to_bytes()))

    def send_all(self, envelope: Envelope) -> None:
        """To every other node."""
        self._outlet.put(Broadcast(envelope.to_bytes()))

    def broadcast(self, kind: str, payload: bytes, now: float) -> Envelope:
        """Make a message about the current round and model and send it to every other node."""
        envelope = self.make(kind, payload, now)
        self.send_all(envelope)
        return envelope

    # ── saying it again ───────────────────────────────────────────────────────────────────────

    def open_round(self, pause: float) -> None:
        """A round begins: what was said in the one before is not repeated.

        ``pause``: seconds between repetitions.
        """
        self._said = []
        self._pause = pause
        self._repeat_at = math.inf
        self._repeats = 0

    def say(self, kind: str, payload: bytes, now: float) -> Envelope:
        """Broadcast what is repeated until the round is over."""
        self._said.append((kind, payload))
        self._repeat_at = now + self._pause
        return self.broadcast(kind, payload, now)

    def repeat_soon(self, now: float) -> None:
        """Repeat after one pause at the latest, even if nothing was said yet."""
        self._repeat_at = min(self._repeat_at, now + self._pause)

    @property
    def repeat_at(self) -> float:
        """When :meth:`repeat` is due, seconds; never, while there is nothing to repeat."""
        return self._repeat_at

    @property
    def repeats(self) -> int:
        """How often the round's messages were repeated."""
        return self._repeats

    def repeat(self, now: float) -> bool:
        """Say it all again, to whoever was not there or did not hear; whether it was due."""
        if now < self._repeat_at:
            return False
        self._repeat_at = now + self._pause
        self._repeats += 1
        for kind, payload in self._said:
            self.broadcast(kind, payload, now)
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
