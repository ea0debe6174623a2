"""Messages of the dialogues of a round, as their authors signed them, kept to hand on.

A message is named by what it says (:func:`~qres_core.swarm.ledger.messages.said_id`), not by when
it was sent: one that is signed again is the same message. A node keeps what everybody may hear, and
what it said to others and they to it; so a third node never hands on what was addressed to another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from qres_core.contract.dialogue import MAX_STEP, DialogueMessage
from qres_core.contract.errors import WireError
from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.messages import DIALOGUE, MAX_SAID, said_bytes, said_id

_DIGITS: Final = 5
"""Of a rank; no roster has more than 65,536 nodes."""


@attrs.frozen(eq=False)
class Said:
    """A dialogue's message."""

    envelope: Envelope  # as its sender signed it
    plugin: str  # whose dialogue it belongs to
    step: int  # which of the plugin's message kinds it is
    to: NodeId | None  # whom it is addressed to, ``None`` for everybody
    id: bytes  # names it, 16 bytes

    @classmethod
    def read(cls, envelope: Envelope, roster: Sequence[NodeId]) -> Said | None:
        """Read ``dialogue/<plugin>/<step>`` or ``dialogue/<plugin>/<step>/<rank>``.

        ``roster``: ascending; a rank is a place in it. Returns the message, ``None`` where its kind
        names no dialogue.
        """
        parts = envelope.kind.split("/")
        if len(parts) not in (3, 4) or parts[0] + "/" != DIALOGUE:
            return None
        step = _number(parts[2], MAX_STEP)
        rank = _number(parts[3], len(roster) - 1) if len(parts) == 4 else None
        if step is None or (len(parts) == 4 and rank is None):
            return None
        to = None if rank is None else roster[rank]
        return cls(envelope, parts[1], step, to, said_id(envelope))

    def arrived(
        self, roster: Sequence[NodeId], authentic: Callable[[Envelope], bool]
    ) -> DialogueMessage:
        """Message that the dialogue is given.

        ``roster``: ascending; ``authentic``: whether a message that this one quotes was made by its
        sender.
        """
        envelope = self.envelope

        def opened(octets: bytes) -> DialogueMessage | None:
            try:
                quoted = Envelope.from_bytes(octets, max_bytes=len(octets))
            except WireError:
                return None
            said = Said.read(quoted, roster)
            here = (envelope.round, envelope.head, self.plugin)
            if said is None or (quoted.round, quoted.head, said.plugin) != here:
                return None
            return said.arrived(roster, authentic) if authentic(quoted) else None

        sender, body = envelope.sender, envelope.payload
        return DialogueMessage(sender, self.step, body, self.to, envelope.round, envelope, opened)


def _number(text: str, most: int) -> int | None:
    """A number in its one spelling."""
    if len(text) > _DIGITS or not text.isascii() or not text.isdigit() or str(int(text)) != text:
        return None
    return int(text) if int(text) <= most else None


def dialogue_kind(plugin: str, step: int, rank: int | None = None) -> str:
    """The kind of a dialogue's message, to everybody or to the node of that rank."""
    return f"{DIALOGUE}{plugin}/{step}" + ("" if rank is None else f"/{rank}")


class DialogueLog:
    """The messages of one round, bounded for each sender in number and bytes.

    ``head``: digest of the head of the round; ``nodes``: size of the roster.
    """

    def __init__(self, head: bytes, number: int, nodes: int) -> None:
        self.head, self.number, self.nodes = head, number, nodes
        self._limit = said_bytes(nodes)
        self._said: dict[bytes, Said] = {}
        self._counts: Counter[tuple[NodeId, NodeId | None]] = Counter()
        self._bytes: Counter[NodeId] = Counter()  # of payloads
        self._frames: Counter[NodeId] = Counter()  # of whole messages

    def __contains__(self, said: bytes) -> bool:
        return said in self._said

    def __iter__(self) -> Iterator[Said]:
        return iter(self._said.values())

    def is_of(self, envelope: Envelope) -> bool:
        """True if a message belongs to this round of this head."""
        return envelope.round == self.number and envelope.head == self.head

    def size_of(self, author: NodeId) -> int:
        """Bytes of what is kept of an author, envelopes included."""
        return self._frames[author]

    def add(self, said: Said) -> bool:
        """Keep a message that is not here yet; false where its sender has said too much."""
        sender, size = said.envelope.sender, len(said.envelope.payload)
        line = sender, said.to
        if self._counts[line] >= MAX_SAID or self._bytes[sender] + size > self._limit:
            return False
        self._counts[line] += 1
        self._bytes[sender] += size
        self._frames[sender] += len(said.envelope.to_bytes())
        self._said[said.id] = said
        return True

    def shared(self, own: NodeId, peer: NodeId) -> list[Said]:
        """Messages that two nodes may both hold: for everybody, or by one of them to the other."""
        return [
            said
            for said in self._said.values()
            if said.to is None or (said.envelope.sender, said.to) in ((own, peer), (peer, own))
        ]
