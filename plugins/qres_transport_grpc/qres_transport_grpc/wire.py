"""Messages between hubs and nodes, as bytes with limits.

A stream of gRPC carries whole messages. The hub begins with a challenge of 32 bytes in a header;
the node answers with a :class:`HubProof`, and the hub with :data:`READY`. From then on each message
is 32 bytes of an identity (the receiver's on the way to the hub, the sender's on the way from it)
and what one node says to another, which the hub cannot read: a :class:`Greeting` or something
sealed.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from qres_core import NODE_ID_BYTES, NodeId, canonical
from qres_core.errors import WireError

METHOD: Final = "/qres.hub.v1/Link"
VERSION: Final = 1
CHALLENGE: Final = "challenge-bin"
CHALLENGE_BYTES: Final = 32
READY: Final = b"ready"
HUB_NAME: Final = "hub.qres"
"""In every hub's certificate: nodes know a hub by its digest, wherever it is."""
MESSAGE_BYTES: Final = 2 * 2**20 + 4096
"""Largest message over a hub: the largest request, and what is put around it."""
SMALL_BYTES: Final = 64 * 1024
"""A message of at most this size overtakes larger ones, and goes over every hub."""
PROOF_BYTES: Final = 1024
GREETING_BYTES: Final = 512
SESSION_BYTES: Final = 16
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_PLACE: Final = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:#\[\]]+):(\d{1,5})#([0-9a-f]{64})")


class BadMessageError(Exception):
    """The other end sent what no node, or no hub, sends."""


@attrs.frozen
class HubPlace:
    """Address of a hub, and the certificate that it has."""

    host: str
    port: int
    digest: str  # SHA-256 of its certificate in DER, 64 hex digits

    @classmethod
    def of(cls, text: str) -> HubPlace:
        """Read ``HOST:PORT#SHA256``. Raises ValueError."""
        found = _PLACE.fullmatch(text)
        if found is None or not 1 <= int(found[2]) <= 65535:
            what = f"{text!r} is not of the form HOST:PORT#SHA256"
            raise ValueError(what)
        return cls(found[1], int(found[2]), found[3])

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


def proof_statement(swarm: str, digest: str, challenge: bytes, node: NodeId) -> bytes:
    """Statement that a node signs for a hub: for no other hub, challenge, swarm or use."""
    return canonical.dumps(["qres/hub/proof/v1", swarm, digest, challenge, node])


@attrs.frozen
class HubProof:
    """A node's answer to a hub's challenge."""

    node: NodeId
    signature: bytes  # of proof_statement, by the key that speaks for the node

    def dumps(self) -> bytes:
        """Canonical CBOR."""
        return canonical.dumps([VERSION, self.node, self.signature])

    @classmethod
    def loads(cls, data: bytes) -> HubProof:
        """Read one. Raises BadMessageError."""
        version, node, signature = _array(data, PROOF_BYTES, 3)
        _right(version == VERSION)
        return cls(
            _octets(node, NODE_ID_BYTES, NODE_ID_BYTES),
            _octets(signature, SIGNATURE_BYTES, SIGNATURE_BYTES),
        )


@attrs.frozen
class Greeting:
    """Greeting of a node to another, signed; it opens a session of both."""

    swarm: str
    node: NodeId  # who says it
    session: bytes  # 16 bytes, drawn when the node started
    key: bytes  # X25519, of this start
    quoted: bytes  # the session of whom it is said to; empty where that is not known
    signature: bytes = b""

    def statement(self) -> bytes:
        """Statement that the signature is over."""
        fields = [self.swarm, self.node, self.session, self.key, self.quoted]
        return canonical.dumps(["qres/hub/greeting/v1", *fields])

    def dumps(self) -> bytes:
        """Canonical CBOR."""
        fields = [self.swarm, self.node, self.session, self.key, self.quoted]
        return canonical.dumps([VERSION, *fields, self.signature])

    @classmethod
    def loads(cls, data: bytes) -> Greeting:
        """Read one. Raises BadMessageError."""
        version, swarm, node, session, key, quoted, signature = _array(data, GREETING_BYTES, 7)
        _right(version == VERSION and type(swarm) is str)
        _right(type(quoted) is bytes and len(quoted) in {0, SESSION_BYTES})
        return cls(
            str(swarm),
            _octets(node, NODE_ID_BYTES, NODE_ID_BYTES),
            _octets(session, SESSION_BYTES, SESSION_BYTES),
            _octets(key, KEY_BYTES, KEY_BYTES),
            _octets(quoted, 0, SESSION_BYTES),
            _octets(signature, SIGNATURE_BYTES, SIGNATURE_BYTES),
        )


def _array(data: bytes, limit: int, fields: int) -> list[object]:
    try:
        found: object = canonical.loads(data, max_bytes=limit)
    except WireError as error:
        raise BadMessageError(str(error)) from error
    if not canonical.is_list(found) or len(found) != fields:
        what = f"not an array of {fields}"
        raise BadMessageError(what)
    return found


def _octets(value: object, least: int, most: int) -> bytes:
    if type(value) is not bytes or not least <= len(value) <= most:
        what = f"a field is not {least} to {most} bytes"
        raise BadMessageError(what)
    return value


def _right(holds: bool) -> None:  # noqa: FBT001 - the condition itself
    if not holds:
        what = "another version or form"
        raise BadMessageError(what)
