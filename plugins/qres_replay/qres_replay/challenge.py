"""The challenge: how a node whose clock is wrong shows that its messages are not old.

In every round the coordinator, the first of the roster, broadcasts a nonce that nobody could know
before. Each other node answers with a digest over the nonce, its identity and the round, and signs
the answer like every message. Sequence numbers increase, so what the node signed with a higher
number than its answer was made after the nonce: it is fresh, whatever its clock says.

The node with the wrong clock is in the same place: to it all others look early or late. It takes
the answers of the others as they take its own, and the nonce for the coordinator's.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Sequence
from typing import Final, Protocol

import attrs

from qres_core import Contribution, NodeId, RoundInfo
from qres_core.dialogues import DialogueMessage, Send

NAME: Final = "replay"
"""The plugin's entry point, and so the name of its dialogue."""
NONCE, ANSWER = 0, 1
"""Steps of the dialogue."""
NONCE_KIND: Final = f"dialogue/{NAME}/{NONCE}"
ANSWER_KIND: Final = f"dialogue/{NAME}/{ANSWER}"
NONCE_BYTES: Final = 32
RESEND_SECONDS: Final = 1.0

_ANSWER_DOMAIN: Final = b"qres/replay/answer/v1\0"
_LAB_DOMAIN: Final = b"qres/replay/lab-nonce/v1\0"


class Message(Protocol):
    """Parts of an envelope that the challenge looks at."""

    @property
    def kind(self) -> str:
        """As in :class:`qres_core.Envelope`."""
        ...

    @property
    def round(self) -> int:
        """As in :class:`qres_core.Envelope`."""
        ...

    @property
    def sender(self) -> NodeId:
        """As in :class:`qres_core.Envelope`."""
        ...

    @property
    def sequence(self) -> int:
        """As in :class:`qres_core.Envelope`."""
        ...

    @property
    def payload(self) -> bytes:
        """As in :class:`qres_core.Envelope`."""
        ...


def _is_kind(message: Message, kind: str) -> bool:
    """True if it is of a kind, to everybody or addressed to a node."""
    return message.kind == kind or message.kind.startswith(kind + "/")


def answer_to(nonce: bytes, node: NodeId, number: int) -> bytes:
    """Answer of a node to the nonce of a round; 32 bytes.

    ``nonce``: 32 bytes; ``node``: who answers, 32 bytes; ``number``: the round, 0..2**63-1.
    """
    return hashlib.sha256(_ANSWER_DOMAIN + nonce + node + number.to_bytes(8, "big")).digest()


def draw_nonce(seed: int | None, number: int) -> bytes:
    """The coordinator's nonce for a round; 32 bytes.

    ``seed``: that of a simulation, which has to be repeatable; ``None`` for a real node, whose
    nonce comes from the system's source of secrets.
    """
    if seed is None:
        return secrets.token_bytes(NONCE_BYTES)
    return hashlib.sha256(_LAB_DOMAIN + f"{seed}/{number}".encode()).digest()


@attrs.define(eq=False)
class Freshness:
    """Peers that have shown that they are awake, in the newest round known.

    A peer's entry is the sequence number of its answer, for the coordinator that of its nonce. It
    holds in the round it was made in and in the next, where the last words of a round arrive.
    Memory is bounded by the roster.
    """

    own: NodeId  # this node's identity
    coordinator: NodeId  # the first of the members
    round: int = 0  # the newest round this node opened or heard a nonce of
    nonce: bytes = b""  # the nonce of that round, empty while unknown
    # how often a nonce came. A dialogue is given each message once, and the coordinator asks again
    # where an answer was lost.
    asked: int = 0
    _fresh: dict[NodeId, int] = attrs.field(factory=dict[NodeId, int], init=False)
    _before: dict[NodeId, int] = attrs.field(factory=dict[NodeId, int], init=False)
    # Answers that came before the nonce they answer: sequence number and payload.
    _early: dict[NodeId, tuple[int, bytes]] = attrs.field(
        factory=dict[NodeId, tuple[int, bytes]], init=False
    )

    @property
    def leads(self) -> bool:
        """True if this node is the coordinator."""
        return self.own == self.coordinator

    def follow(self, roster: Collection[NodeId]) -> None:
        """The members are these from now on: the first of them leads, and who left is forgotten.

        So is the round that another leader named: it may have lied.
        """
        leader = min(roster)
        if leader != self.coordinator:
            self.coordinator, self.round, self.nonce = leader, 0, b""
        for known in (self._fresh, self._before, self._early):
            for node in known.keys() - set(roster):
                del known[node]

    def opened(self, number: int, nonce: bytes = b"") -> None:
        """This node opens a round; with the nonce it drew, if it is the coordinator."""
        self._advance(number)
        if nonce:
            self.nonce = nonce

    def answered(self, peer: NodeId) -> bool:
        """True if a peer is fresh by an answer to the nonce of the newest round."""
        return peer in self._fresh

    def excuses(self, message: Message) -> bool:
        """True if a message may be accepted whatever its time says. Changes nothing.

        True for what a fresh peer signed after its answer, and for the dialogue's own messages,
        which are bound to a round that is not over: the coordinator's nonce, an answer that is
        right, and an answer to a nonce that this node does not have yet.
        """
        since = self._before.get(message.sender, self._fresh.get(message.sender))
        if since is not None and message.sequence > since:
            return True
        if _is_kind(message, NONCE_KIND):
            return self._is_nonce(message)
        if _is_kind(message, ANSWER_KIND):
            return self._is_right(message.sender, message.payload) or self._is_early(message)
        return False

    def note(self, message: Message) -> None:
        """An accepted message: learn what it says about freshness."""
        if _is_kind(message, NONCE_KIND) and self._is_nonce(message):
            self._advance(message.round)
            self.asked += 1
            if not self.nonce:
                self.nonce = message.payload
                self._settle()
            if message.payload == self.nonce:
                self._since(message.sender, message.sequence)
        elif _is_kind(message, ANSWER_KIND):
            if self._is_right(message.sender, message.payload):
                self._since(message.sender, message.sequence)
            elif self._is_early(message):
                self._early[message.sender] = message.sequence, message.payload

    def _is_nonce(self, message: Message) -> bool:
        return (
            message.sender == self.coordinator
            and not self.leads
            and message.round >= self.round
            and len(message.payload) == NONCE_BYTES
        )

    def _is_right(self, sender: NodeId, payload: bytes) -> bool:
        # The digest names the round: a node that lags answers from an earlier one.
        return bool(self.nonce) and payload == answer_to(self.nonce, sender, self.round)

    def _is_early(self, message: Message) -> bool:
        awaited = message.round > self.round or (message.round == self.round and not self.nonce)
        return awaited and not self.leads and len(message.payload) == hashlib.sha256().digest_size

    def _advance(self, number: int) -> None:
        if number > self.round:
            self.round, self.nonce = number, b""
            self._before, self._fresh = self._fresh, {}

    def _settle(self) -> None:
        for sender, (sequence, payload) in self._early.items():
            if self._is_right(sender, payload):
                self._since(sender, sequence)
        self._early.clear()

    def _since(self, sender: NodeId, sequence: int) -> None:
        self._fresh[sender] = min(sequence, self._fresh.get(sender, sequence))


@attrs.define(eq=False)
class Challenge:
    """One round's dialogue, a :class:`qres_core.dialogues.Dialogue`.

    The coordinator repeats its nonce about once a second to those who did not answer; who is asked
    again answers again, to the coordinator alone.
    """

    peers: tuple[NodeId, ...]  # all members of the round but this node
    number: int  # the round
    freshness: Freshness  # what is known, kept from round to round
    _answered: int = attrs.field(default=0, init=False)  # the newest round answered
    _heard: int = attrs.field(default=0, init=False)  # nonces that had come by then
    _asked_at: float | None = attrs.field(default=None, init=False)

    @property
    def ready(self) -> bool:
        """True for the coordinator, and for others once they answered."""
        return self.freshness.leads or self._answered >= self.number

    @property
    def finished(self) -> bool:
        """True: no round waits for the answer of anybody."""
        return True

    def start(self) -> Sequence[Send]:
        """The nonce; or the answer, where the nonce was here before the round."""
        if self.freshness.leads:
            return [Send(self.freshness.nonce, step=NONCE)]
        return self._answer()

    def receive(self, message: DialogueMessage) -> Sequence[Send]:
        """Answer the nonce. What messages say was noted when they were accepted."""
        nonce = self.freshness.nonce
        if (message.step, message.sender, message.body) != (
            NONCE,
            self.freshness.coordinator,
            nonce,
        ):
            return []
        return self._answer_again() if self._has_answered else self._answer()

    def tick(self, now: float) -> Sequence[Send]:
        """Ask again who did not answer; answer the nonce of a round this node has yet to reach."""
        if not self.freshness.leads:
            again = self._has_answered and self.freshness.asked > self._heard
            return self._answer_again() if again else self._answer()
        if self._asked_at is None:
            self._asked_at = now
        if now < self._asked_at + RESEND_SECONDS:
            return []
        self._asked_at = now
        return [
            Send(self.freshness.nonce, step=NONCE, to=peer)
            for peer in self.peers
            if not self.freshness.answered(peer)
        ]

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send]:
        """Nothing to say about the agreed set."""
        del members, contributions, round_info
        return []

    @property
    def _has_answered(self) -> bool:
        return self._answered >= self.freshness.round

    def _answer_again(self) -> Sequence[Send]:
        """To the coordinator alone."""
        self._heard = self.freshness.asked
        answer = answer_to(self.freshness.nonce, self.freshness.own, self.freshness.round)
        return [Send(answer, step=ANSWER, to=self.freshness.coordinator)]

    def _answer(self) -> Sequence[Send]:
        freshness = self.freshness
        if not freshness.nonce or self._has_answered:
            return []
        self._answered, self._heard = freshness.round, freshness.asked
        return [Send(answer_to(freshness.nonce, freshness.own, freshness.round), step=ANSWER)]
