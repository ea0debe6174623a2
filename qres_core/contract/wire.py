"""The envelope: what every message between nodes travels in.

A deterministic CBOR map with integer keys. Everything but the authenticators is covered by
:attr:`Envelope.signing_digest`, which binds the swarm, the kind, the round, the head, the sender,
the sequence number, the time and the payload, so that nothing signed in one place means anything in
another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.types import DIGEST_BYTES, NODE_ID_BYTES, NodeId

VERSION: Final = 3
SIGNING_DOMAIN: Final = b"qres/envelope/v3\0"
MAX_NAME: Final = 64
MAX_AUTHENTICATOR: Final = 4096
MAX_AUTHENTICATORS: Final = 8
NUMBERS_PER_KEY: Final = 2**48
"""Sequence numbers that belong to each key of a node, in the order it had them. Who has stolen a
key can use up the numbers of that key, and none of the next."""
MAX_KEYS: Final = 2**15
QUOTED_KINDS: Final = frozenset({"roster/change"})
"""Kinds of messages that are signed to be quoted, and never sent. Their numbers are no sequence:
delivered by itself, such a message would use up a number of its author, or get the author blamed
for it."""
ENVELOPE_OVERHEAD: Final = 1024 + MAX_AUTHENTICATORS * (MAX_AUTHENTICATOR + MAX_NAME + 8)
"""Most bytes an envelope adds to its payload."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_U63 = 2**63 - 1
_MAX_ITEMS: Final = 256
"""Of a whole envelope, which holds 38; what has a few more is refused with a better word."""
_NO_AUTH: Mapping[str, bytes] = MappingProxyType({})


def _bad(field: str, what: str) -> WireError:
    return WireError.of("QRES-E404", f"envelope.{field}", what)


def _frozen_auth(auth: object) -> Mapping[str, bytes]:
    """A checked copy, so that a message never changes after it was made."""
    if not isinstance(auth, Mapping):
        raise _bad("auth", "expected a map")
    frozen = dict(cast("Mapping[str, bytes]", auth))
    if len(frozen) > MAX_AUTHENTICATORS:
        raise _bad("auth", f"more than {MAX_AUTHENTICATORS} authenticators")
    for name, octets in frozen.items():
        if type(name) is not str or not _NAME.fullmatch(name):
            raise _bad("auth", "expected plugin names")
        if type(octets) is not bytes or len(octets) > MAX_AUTHENTICATOR:
            raise _bad("auth", f"expected at most {MAX_AUTHENTICATOR} bytes each")
    return MappingProxyType(frozen)


@attrs.frozen(slots=False, eq=False)
class Envelope:
    """One message.

    Attributes:
        swarm: the swarm's name, 1..64 of ``A-Za-z0-9._/-``.
        kind: message kind, same alphabet: ``contribution``, ``proposal``, ``dialogue/secagg/1``.
        round: round number, 0..2**63-1.
        head: 32 bytes, the head of the swarm's history that the message belongs to: it fixes model,
            members and settings.
        sender: 32 bytes, the identity that signs.
        sequence: 0..2**63-1, increases with every message of the sender; divided by 2**48, the
            number of keys that the sender had before the one that it signs with.
        time_ms: sender's clock, milliseconds since 1970, 0..2**63-1.
        payload: the content.
        payload_digest: SHA-256 of the payload; filled in.
        auth: authenticator bytes by plugin name, at most 8 of at most 4096 bytes.

    Raises:
        WireError: QRES-E404 names the field.
    """

    swarm: str
    kind: str
    round: int
    head: bytes
    sender: NodeId
    sequence: int
    time_ms: int
    payload: bytes
    payload_digest: bytes = attrs.field(init=False)
    auth: Mapping[str, bytes] = attrs.field(default=_NO_AUTH)

    def __attrs_post_init__(self) -> None:
        for field in ("swarm", "kind"):
            text = getattr(self, field)
            if type(text) is not str or not _NAME.fullmatch(text):
                raise _bad(field, "expected 1..64 of A-Za-z0-9._/-")
        for field in ("round", "sequence", "time_ms"):
            number = getattr(self, field)
            if type(number) is not int or not 0 <= number <= _U63:
                raise _bad(field, "expected an integer in 0..2**63-1")
        for field, size in (("head", DIGEST_BYTES), ("sender", NODE_ID_BYTES)):
            octets = getattr(self, field)
            if type(octets) is not bytes or len(octets) != size:
                raise _bad(field, f"expected {size} bytes")
        if type(self.payload) is not bytes:
            raise _bad("payload", "expected bytes")
        object.__setattr__(self, "auth", _frozen_auth(self.auth))
        object.__setattr__(self, "payload_digest", hashlib.sha256(self.payload).digest())

    @cached_property
    def signing_digest(self) -> bytes:
        """SHA-256 over a domain tag and everything but ``auth``; what ``sign`` signs.

        The payload enters through its own digest. 32 bytes; also names the message.
        """
        body = canonical.dumps([VERSION, *self._head(), self.payload_digest])
        return hashlib.sha256(SIGNING_DOMAIN + body).digest()

    def _head(self) -> list[Any]:
        return [
            self.swarm,
            self.kind,
            self.round,
            self.head,
            self.sender,
            self.sequence,
            self.time_ms,
        ]

    def with_auth(self, auth: Mapping[str, bytes]) -> Envelope:
        """The same message with these authenticators; the payload is not hashed again."""
        made = object.__new__(Envelope)
        kept = self.__dict__  # no digest covers the authenticators
        made.__dict__.update(kept, payload=self.payload, auth=_frozen_auth(auth))
        return made

    def to_bytes(self) -> bytes:
        """The frame to send. O(len(payload))."""
        fields = [VERSION, *self._head(), self.payload_digest, self.payload, dict(self.auth)]
        return canonical.dumps(dict(enumerate(fields)))

    @classmethod
    def from_bytes(cls, frame: bytes, *, max_bytes: int) -> Envelope:
        """Decode a frame.

        Args:
            frame: the bytes as they came from a neighbour.
            max_bytes: refuse longer frames before parsing.

        Returns:
            the envelope; nothing about it is authenticated yet.

        Raises:
            WireError: QRES-E401 to QRES-E406, whatever the bytes.

        Complexity: O(len(frame)).
        """
        decoded = canonical.loads(frame, max_bytes=max_bytes, max_items=_MAX_ITEMS)
        if type(decoded) is not dict or list(cast("Any", decoded)) != list(range(11)):
            raise WireError.of("QRES-E402", "envelope", "expected a map of keys 0..10")
        value = cast("dict[int, Any]", decoded)
        if value[0] != VERSION or type(value[0]) is not int:
            raise WireError.of("QRES-E406", "envelope.version", f"this node speaks {VERSION}")
        if type(value[8]) is not bytes:
            raise _bad("payload_digest", "expected bytes")
        envelope = cls(*(value[key] for key in (1, 2, 3, 4, 5, 6, 7, 9, 10)))
        if envelope.payload_digest != value[8]:
            raise WireError.of("QRES-E405", "envelope.payload", "digest of another payload")
        return envelope
