"""Carriers of bytes between nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeAlias, runtime_checkable

import attrs

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.types import NodeId

CHUNK: Final = 2**20
"""Bytes in every chunk of a blob but the last."""


@attrs.frozen
class Delivery:
    """A frame as it arrived.

    Attributes:
        link: identity of the neighbour that delivered it, as the transport knows it. Blame for
            forged messages falls here where there is no author.
        frame: the bytes, not yet looked at.
        author: who sent it first, where the transport proves that and neighbours pass frames on;
            ``None`` where it is the link, or not proved. Blame for forged messages falls here.
        waited: seconds since it was announced, where it was pulled; no transport sets it.
    """

    link: NodeId
    frame: bytes
    author: NodeId | None = None
    waited: float = attrs.field(default=0.0, eq=False)


@attrs.frozen
class BlobRef:
    """The name of a blob: everything needed to know whether bytes are it, chunk by chunk.

    Attributes:
        size: bytes in all, 1 or more.
        chunks: SHA-256 of every chunk of :data:`CHUNK` bytes, in order; the last may be shorter.
        root: SHA-256 over the domain ``qres/blob/v1``, the size and the chunk hashes.

    Raises:
        ValueRefusedError: QRES-E506 where size and number of chunks do not fit together.
    """

    size: int
    chunks: tuple[bytes, ...]
    root: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.size < 1 or len(self.chunks) != -(-self.size // CHUNK):
            what = f"{len(self.chunks)} chunks for {self.size} bytes"
            raise ValueRefusedError.of("QRES-E506", "blob.chunks", what, f"{CHUNK} bytes each")
        if any(len(chunk) != 32 for chunk in self.chunks):
            raise ValueRefusedError.of("QRES-E506", "blob.chunks", "a hash is not 32 bytes", "")
        named = hashlib.sha256(b"qres/blob/v1\0" + self.size.to_bytes(8, "big"))
        for chunk in self.chunks:
            named.update(chunk)
        object.__setattr__(self, "root", named.digest())

    @classmethod
    def of(cls, data: bytes) -> BlobRef:
        """The name of ``data``, 1 byte or more.

        Raises:
            ValueRefusedError: QRES-E506 for no bytes.

        Complexity: O(n), one pass.
        """
        view = memoryview(data)
        starts = range(0, len(view), CHUNK)
        hashes = tuple(hashlib.sha256(view[start : start + CHUNK]).digest() for start in starts)
        return cls(len(view), hashes)

    def length(self, index: int) -> int:
        """Bytes in a chunk."""
        return min(CHUNK, self.size - index * CHUNK)


@attrs.frozen
class TransportLimits:
    """Most that a transport takes at once, in bytes.

    Attributes:
        frame: largest frame of ``broadcast`` and ``send``.
        request: largest request and largest reply.
        blob: largest blob, published or fetched.
        inline: frames larger than this cost fewer bytes as blobs, at present; 0: none does.
    """

    frame: int
    request: int
    blob: int
    inline: int = 0


@attrs.frozen
class LinkKeys:
    """Keys by which a transport proves this node's identity and knows the other nodes.

    The private key stays with the plugin that loaded it: a transport gets signatures. It may call
    all of this from a thread of its own.

    Attributes:
        public: the Ed25519 public key that speaks for this node now, 32 bytes.
        sign: the signature of a statement by its private key, 64 bytes. A statement of exactly 32
            bytes is refused with a ValueError: that is what the signatures of messages are over, so
            a connection can never be made to sign a message.
        key_of: the Ed25519 public key that now speaks for a node of the roster.
    """

    public: bytes
    sign: Callable[[bytes], bytes]
    key_of: Callable[[NodeId], bytes]


class PeerChange(StrEnum):
    """Event at a neighbour."""

    UP = "up"
    DOWN = "down"
    REFUSED = "refused"
    BAD = "bad"
    FAILED = "failed"


class LinkReason(StrEnum):
    """Reason why a link to a neighbour ended, or did not come to be.

    Attributes:
        DIAL_FAILED: nobody answers there, or not as a node does.
        REFUSED_KEY: it proved a key that is no member's.
        REFUSED_HELLO: it proved a member's key, and this node did not admit it.
        REFUSED_BY_PEER: it did not admit this node.
        TIMED_OUT: it let a deadline pass.
        RESET: the connection broke.
        CLOSED_BY_PEER: it closed the connection.
        OVERRAN: it took or sent more than a limit allows.
        BROKE_PROTOCOL: it sent what no node sends.
        NO_MEMBER: it is a member no more.
        REPLACED: a newer connection to it took the place.
        CLOSED_HERE: this node closed it, for none of these reasons.
    """

    DIAL_FAILED = "dial_failed"
    REFUSED_KEY = "refused_key"
    REFUSED_HELLO = "refused_hello"
    REFUSED_BY_PEER = "refused_by_peer"
    TIMED_OUT = "timed_out"
    RESET = "reset"
    CLOSED_BY_PEER = "closed_by_peer"
    OVERRAN = "overran"
    BROKE_PROTOCOL = "broke_protocol"
    NO_MEMBER = "no_member"
    REPLACED = "replaced"
    CLOSED_HERE = "closed_here"


@attrs.frozen
class TransportEvent:
    """Something an operator, or a reputation plugin, may want to know.

    Attributes:
        change: it came, it went, it was not admitted, it broke the protocol, or a connection to it
            did not come up.
        peer: its identity, as far as the transport could prove one; else ``None``.
        detail: for people: an address, a reason.
        reason: why a link ended or did not come to be, in the one event that tells so; ``None`` in
            others. ``DOWN`` has always one.
    """

    change: PeerChange
    peer: NodeId | None
    detail: str = ""
    reason: LinkReason | None = None


@attrs.frozen
class PeerInfo:
    """A neighbour that is connected now.

    Attributes:
        node_id: its proved identity.
        address: where it is, for people.
        since: when it connected, seconds since 1970.
    """

    node_id: NodeId
    address: str
    since: float


@attrs.frozen
class TransportStats:
    """Counts since the start.

    Attributes:
        frames_sent: frames handed to the network, once for each receiver or each gossip publish.
        frames_received: frames that came out of ``receive``.
        frames_dropped: frames that came and found no room, or came too fast.
        bytes_sent: payload, blobs included.
        bytes_received: payload, blobs included.
        blobs_fetched: blobs that came whole.
        blobs_failed: fetches that came to nothing.
        refused: connections that admission turned away.
        malformed: what broke the protocol.
        reasons: how often something was dropped, refused or malformed, by reason: a few names that
            the transport makes, none of which a peer can choose.
    """

    frames_sent: int = 0
    frames_received: int = 0
    frames_dropped: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    blobs_fetched: int = 0
    blobs_failed: int = 0
    refused: int = 0
    malformed: int = 0
    reasons: Mapping[str, int] = attrs.field(factory=dict[str, int])


Handler: TypeAlias = Callable[[NodeId, bytes], Awaitable[bytes]]
"""Answers a request: gets the proved identity of who asks, and the request."""


@runtime_checkable
class Transport(Protocol):
    """An asynchronous carrier, made by the ``transport`` hook.

    Queues are bounded; what a slow receiver cannot take is refused to the sender or dropped and
    counted, never held without limit. Frames are best effort. A blob is pulled by who wants it,
    checked chunk by chunk and never lost in silence: ``fetch_blob`` returns all of it or raises.
    """

    @property
    def limits(self) -> TransportLimits:
        """Bounds of sizes."""
        ...

    async def start(self) -> None:
        """Connect. Raises RoundError QRES-E603 when it cannot."""
        ...

    async def broadcast(self, frame: bytes) -> None:
        """Send to every other node, best effort.

        Raises:
            TransportError: QRES-E901 for more than ``limits.frame`` bytes.
        """
        ...

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Send to one node, best effort; nothing happens if it is not there.

        Raises:
            TransportError: QRES-E901 for more than ``limits.frame`` bytes.
        """
        ...

    async def receive(self) -> Delivery:
        """The next frame; waits for it."""
        ...

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Ask a node and wait for its answer.

        Args:
            to: an identity of the roster.
            protocol: what :meth:`handle` was given there.
            data: 1 byte or more.
            within: seconds, for all of it.

        Raises:
            TransportError: QRES-E901 too large, QRES-E902 too many at once, QRES-E904 not
                connected, QRES-E905 no answer in time, QRES-E907 the other refused.
        """
        ...

    def handle(self, protocol: str, handler: Handler) -> None:
        """Answer requests of a protocol; once for each, before ``start``."""
        ...

    async def publish_blob(self, data: bytes) -> BlobRef:
        """Hold a blob for others to fetch, until newer ones need its room.

        Raises:
            TransportError: QRES-E901 for more than ``limits.blob`` bytes.
        """
        ...

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob, in chunks, from those who may have it, in turn where one fails.

        Who has fetched a blob holds it for others. A pull lives while something of it comes, and
        the next one need not fetch again what came of it.

        Args:
            ref: which.
            holders: who may have it, the likeliest first.
            within: seconds that may pass without anything of it.

        Raises:
            TransportError: QRES-E901 too large, QRES-E905 nothing came in time, QRES-E906 whoever
                answered sent something else, QRES-E904 no holder is connected.
        """
        ...

    def peers(self) -> Sequence[PeerInfo]:
        """Neighbours that are connected and admitted, ascending."""
        ...

    async def event(self) -> TransportEvent:
        """The next event; waits for it. The oldest are dropped when nobody asks."""
        ...

    def stats(self) -> TransportStats:
        """Counts since the start."""
        ...

    async def aclose(self) -> None:
        """Disconnect; idempotent."""
        ...


@runtime_checkable
class AttendedTransport(Protocol):
    """Extension of :class:`Transport`, so that a node sees it stand still.

    The node calls all of it in the thread of its event loop.
    """

    async def attend(self) -> None:
        """Have whatever carries the bytes do nothing, once; returns when it did.

        Raises RoundError: QRES-E603 where it is over.
        """
        ...

    def doing(self) -> str:
        """Work at this moment, in words: task, peer, place in the code.

        Called while :meth:`attend` has not returned for long.
        """
        ...

    def dials(self) -> Mapping[NodeId, float]:
        """Seconds until each node that is away, and dialled again and again, is dialled next."""
        ...
