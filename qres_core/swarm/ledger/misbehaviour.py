"""Signed messages that prove to everybody that a member lied, and where they wait for a decision.

The value and its codec only; when messages prove a fault is in
:mod:`qres_core.swarm.ledger.proving`. A set to agree on may carry such a proof, and its codec needs
this module and no more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope

QUOTED_BYTES: Final = 2**17
"""A longer message proves nothing: there is no room for it in a proposal. Votes have about 300
bytes, contributions to small models fit, those to large ones do not."""
MESSAGES: Final = {
    Fault.EQUIVOCATION: 2,
    Fault.MALFORMED_PAYLOAD: 1,
    Fault.NOT_THE_PROPOSER: 1,
    Fault.SET_BELOW_QUORUM: 1,
    Fault.SET_NAMES_STRANGER: 1,
    Fault.SET_OF_OTHER_ROUND: 1,
}
"""How many messages prove a fault; one for each fault that is transferable."""
_FAULTS: Final = {fault.value: fault for fault in MESSAGES}


def _bad(what: str) -> WireError:
    return WireError.of("QRES-E404", "payload.misbehaviour", what)


def _names(messages: tuple[Envelope, ...]) -> tuple[bytes, ...]:
    return tuple(message.signing_digest for message in messages)


@attrs.frozen
class Misbehaviour:
    """A fault and the signed messages that are to prove it; nothing is checked but the form.

    Two are equal if they state the same fault by messages that say the same, whatever signatures
    are on them.

    Attributes:
        fault: what is wrong; a key of :data:`MESSAGES`.
        messages: one or two of one sender, ascending by ``signing_digest``, distinct.

    Raises:
        WireError: QRES-E404 for another form.
    """

    fault: Fault
    messages: tuple[Envelope, ...] = attrs.field(eq=_names)

    def __attrs_post_init__(self) -> None:
        names = _names(self.messages)
        if len(names) != MESSAGES.get(self.fault):
            raise _bad("expected a fault that is transferable and the messages that prove it")
        if any(message.sender != self.subject for message in self.messages):
            raise _bad("expected messages of one sender")
        if names != tuple(sorted(set(names))):
            raise _bad("expected distinct messages, ascending by what is signed")

    @classmethod
    def of(cls, fault: Fault, *messages: Envelope) -> Misbehaviour:
        """The messages in any order. Raises WireError: QRES-E404 as above."""
        return cls(fault, tuple(sorted(messages, key=lambda message: message.signing_digest)))

    @property
    def subject(self) -> NodeId:
        """Member that misbehaved."""
        return self.messages[0].sender

    @property
    def head(self) -> bytes:
        """The head that the first message belongs to, 32 bytes."""
        return self.messages[0].head

    @property
    def digest(self) -> bytes:
        """Names the fault and what was signed; 32 bytes. The signatures are not covered."""
        body = canonical.dumps([self.fault.value, list(_names(self.messages))])
        return hashlib.sha256(b"qres/misbehaviour/v1\0" + body).digest()

    def raw(self) -> list[Any]:
        """Plain data for the codecs, with the signatures."""
        return [self.fault.value, [message.to_bytes() for message in self.messages]]

    @classmethod
    def from_raw(cls, value: object) -> Misbehaviour:
        """From plain data, whatever it is.

        Raises:
            WireError: QRES-E404 for anything but a fault and its messages, each of at most
                :data:`QUOTED_BYTES`.
        """
        if not canonical.is_list(value) or len(value) != 2:
            raise _bad("expected a fault and messages")
        fault, frames = value
        if type(fault) is not str or fault not in _FAULTS:
            raise _bad("expected a fault that is transferable")
        if not canonical.is_list(frames):
            raise _bad("expected messages")
        return cls(_FAULTS[fault], tuple(_message(frame) for frame in frames))


def _message(frame: object) -> Envelope:
    if type(frame) is not bytes:
        raise _bad("expected encoded messages")
    try:
        return Envelope.from_bytes(frame, max_bytes=QUOTED_BYTES)
    except WireError as error:
        raise _bad(f"a message cannot be decoded: {error.problems[0]}") from error


class MisbehaviourPool:
    """Proofs that a node knows of and the swarm has not decided yet; bounded.

    Only what is proven may be put in. A subject has one entry, and the smallest proof of it is
    kept: a liar could otherwise provide a proof of its lie that no proposal has room for.

    Args:
        most: entries at most; the size of the roster gives everybody room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[NodeId, tuple[int, Misbehaviour]] = {}  # with its bytes, oldest first

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, subject: object) -> bool:
        return subject in self._found

    def add(self, item: Misbehaviour) -> bool:
        """Keep what was proven; whether it is kept.

        False if a proof against its subject is here that is no larger, if the pool is full, or if
        no proposal could carry it.
        """
        frames = [len(message.to_bytes()) for message in item.messages]
        known = self._found.get(item.subject)
        kept = len(self._found) < self._most if known is None else sum(frames) < known[0]
        if not kept or max(frames) > QUOTED_BYTES:
            return False
        self._found[item.subject] = sum(frames), item
        return True

    def for_proposal(self, limit: int) -> tuple[Misbehaviour, ...]:
        """The oldest that fit together, ascending by subject.

        ``limit``: bytes of their messages together. What does not fit is left out, and what comes
        after it is not. Whoever proposes checks each of them again: what was proven once is not if
        its subject has replaced its key since.
        """
        chosen: list[Misbehaviour] = []
        for size, item in self._found.values():
            if size <= limit:
                chosen.append(item)
                limit -= size
        return tuple(sorted(chosen, key=lambda item: item.subject))

    def retain(self, keep: Callable[[Misbehaviour], bool]) -> None:
        """Forget the others: subjects that are banned or gone, heads that are too old."""
        self._found = {subject: entry for subject, entry in self._found.items() if keep(entry[1])}
