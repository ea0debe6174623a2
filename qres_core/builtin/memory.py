"""The in-process transport ``memory``: nodes of one program, connected by bounded queues."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Final

import anyio
import anyio.lowlevel
import attrs

from qres_core.builtin.blobs import BlobStore, pull
from qres_core.builtin.hub import Faults, Hub, Weather, seconds, share
from qres_core.builtin.inbox import Inbox, Notices
from qres_core.contract import options
from qres_core.contract.errors import RoundError, TransportError
from qres_core.contract.hookspecs import hookimpl
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.transport import (
    CHUNK,
    BlobRef,
    Delivery,
    Handler,
    LinkReason,
    PeerChange,
    PeerInfo,
    TransportEvent,
    TransportLimits,
    TransportStats,
)
from qres_core.contract.types import NodeId, NodeInfo
from qres_core.contract.verdict import ACCEPT, Verdict

EVENTS: Final = 1024
"""Events kept for a reader; a swarm of hundreds may come and go once before any is lost."""
REQUESTS: Final = 8
"""Requests of one neighbour that are being answered at once."""
REQUEST_BYTES: Final = 2**20
BLOB_BYTES: Final = 2**28
"""By default; four messages of the default ``swarm.max_message_bytes``."""
_ENDINGS: Final = {"no member": LinkReason.NO_MEMBER, "out of reach": LinkReason.RESET}
LIMITS: Final = TransportLimits(CHUNK, REQUEST_BYTES, BLOB_BYTES)


def _admit_everybody(peer: NodeId, credential: bytes) -> Verdict:
    del peer, credential
    return ACCEPT


def _refused(code: str, where: str, what: str) -> TransportError:
    return TransportError.of(code, f"transport.{where}", what)


def _fits(size: int, limit: int, where: str) -> None:
    if size > limit:
        raise _refused("QRES-E901", where, f"{size} bytes, limit {limit}")


def _short(node_id: NodeId) -> str:
    return node_id.hex()[:16]


@attrs.define(eq=False)
class _Pipe:
    """A neighbour, as one end sees it."""

    end: MemoryTransport
    weather: Weather
    since: float
    answering: set[anyio.CancelScope] = attrs.field(factory=set[anyio.CancelScope])


@attrs.define(eq=False)
class MemoryTransport:
    """One node's end."""

    _hubs: ClassVar[dict[str, Hub[MemoryTransport]]] = {}

    node_id: NodeId  # this node
    swarm: str  # nodes meet in the hub of this name
    # frames that may wait for this node, those still under way included; further ones are dropped
    # and counted
    capacity: int
    # asked about every neighbour when it connects, and again when it connects anew; what it raises
    # is a refusal
    admission: Callable[[NodeId, bytes], Verdict] = _admit_everybody
    credential: Callable[[], bytes] = bytes  # what this node shows its neighbours
    faults: Faults = attrs.field(factory=Faults)  # how what this node sends fares on the way
    # what is too large; ``limits.blob`` is also what all held blobs may take together
    limits: TransportLimits = LIMITS
    _links: dict[NodeId, _Pipe] = attrs.field(factory=dict[NodeId, _Pipe], init=False)
    _handlers: dict[str, Handler] = attrs.field(factory=dict[str, Handler], init=False)
    _counts: Counter[str] = attrs.field(factory=Counter[str], init=False)
    _events: Notices[TransportEvent] = attrs.field(init=False)
    _blobs: BlobStore = attrs.field(init=False)
    _inbox: Inbox[Delivery] | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._events = Notices(EVENTS)
        self._blobs = BlobStore(self.limits.blob)

    @classmethod
    def hub(cls, swarm: str) -> Hub[MemoryTransport]:
        """The meeting place of a swarm that has started, to part and heal it.

        Raises RoundError: QRES-E603 where nobody is there.
        """
        try:
            return cls._hubs[swarm]
        except KeyError:
            what = f"nobody is in the hub {swarm!r}"
            raise RoundError.of("QRES-E603", "transport.memory", what) from None

    async def start(self) -> None:
        """Join the hub. Raises RoundError QRES-E603 if the identity is taken."""
        hub = self._hubs.get(self.swarm, Hub(self.swarm))
        self._events.open()
        hub.join(self)
        self._hubs[self.swarm] = hub
        self._inbox = Inbox(self.capacity)
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave the hub, forget blobs and what was not received."""
        hub = self._hubs.get(self.swarm)
        if hub is not None:
            hub.leave(self)
            if not len(hub):
                self._hubs.pop(self.swarm, None)
        if self._inbox is not None:
            self._inbox.close()
            self._events.close()
        self._inbox = None
        self._blobs.clear()
        await anyio.lowlevel.checkpoint()

    # ── frames ────────────────────────────────────────────────────────────────────────────────

    async def broadcast(self, frame: bytes) -> None:
        """Put the frame into every other queue."""
        _fits(len(frame), self.limits.frame, "broadcast")
        for link in list(self._links.values()):
            self._dispatch(link, frame)
        await anyio.lowlevel.checkpoint()

    async def send(self, to: NodeId, frame: bytes) -> None:
        """Put the frame into one queue; nothing if the node is not there."""
        _fits(len(frame), self.limits.frame, "send")
        link = self._links.get(to)
        if link is not None:
            self._dispatch(link, frame)
        await anyio.lowlevel.checkpoint()

    def _dispatch(self, link: _Pipe, frame: bytes) -> None:
        self._counts.update(frames_sent=1, bytes_sent=len(frame))
        now = anyio.current_time()
        for under_way in link.weather.frame():
            link.end._deliver(Delivery(self.node_id, frame), now + under_way)  # noqa: SLF001

    def _deliver(self, delivery: Delivery, due: float) -> None:
        if self._inbox is not None and not self._inbox.put(delivery, due):
            self._counts["frames_dropped"] += 1

    async def receive(self) -> Delivery:
        """The next frame. Raises RoundError QRES-E603 when not started, or closed meanwhile."""
        if self._inbox is None:
            raise RoundError.of("QRES-E603", "transport.receive", "not started", "call start first")
        delivery = await self._inbox.take()
        self._counts.update(frames_received=1, bytes_received=len(delivery.frame))
        return delivery

    # ── requests ──────────────────────────────────────────────────────────────────────────────

    def handle(self, protocol: str, handler: Handler) -> None:
        """Answer requests of a protocol. Raises RoundError QRES-E603 for a second handler."""
        if protocol in self._handlers:
            raise RoundError.of("QRES-E603", "transport.handle", f"{protocol!r} has a handler")
        self._handlers[protocol] = handler

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Ask a node; its handler runs in this task, with the other's limits."""
        _fits(len(data), self.limits.request, "request")
        link = self._link(to, "request")
        self._counts["bytes_sent"] += len(data)
        with anyio.move_on_after(within):
            await anyio.sleep(link.weather.passage())
            reply = await link.end._answer(self.node_id, protocol, data)  # noqa: SLF001
            await anyio.sleep(link.weather.passage())
            self._link(to, "request")
            self._counts["bytes_received"] += len(reply)
            return reply
        raise _refused("QRES-E905", "request", f"{_short(to)} did not answer within {within} s")

    async def _answer(self, asker: NodeId, protocol: str, data: bytes) -> bytes:
        link = self._link(asker, "request")
        handler = self._handlers.get(protocol)
        if handler is None:
            raise _refused("QRES-E907", "request", f"{protocol!r} is not answered")
        if len(link.answering) >= REQUESTS:
            raise _refused("QRES-E902", "request", f"{REQUESTS} are being answered")
        self._counts["bytes_received"] += len(data)
        with anyio.CancelScope() as scope:
            link.answering.add(scope)
            try:
                reply: object = await handler(asker, data)
            except Exception as error:
                # The kind alone: a message may hold what the asker must not see.
                what = f"the handler raised {type(error).__name__}"
                raise _refused("QRES-E907", "request", what) from error
            finally:
                link.answering.discard(scope)
            if type(reply) is not bytes or not 1 <= len(reply) <= self.limits.request:
                raise _refused("QRES-E907", "request", "the handler gave no reply of allowed size")
            self._counts["bytes_sent"] += len(reply)
            return reply
        raise _refused("QRES-E904", "request", f"{_short(self.node_id)} went")

    # ── blobs ─────────────────────────────────────────────────────────────────────────────────

    async def publish_blob(self, data: bytes) -> BlobRef:
        """Hold a blob until newer ones need its room."""
        _fits(len(data), self.limits.blob, "publish_blob")
        ref = BlobRef.of(data)
        self._blobs.put(ref, bytes(data))
        await anyio.lowlevel.checkpoint()
        return ref

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[NodeId], within: float) -> bytes:
        """Pull a blob, and hold it."""
        _fits(ref.size, self.limits.blob, "fetch_blob")
        held = self._blobs.get(ref.root)
        if held is not None:
            await anyio.lowlevel.checkpoint()
            return held

        async def ask(holder: NodeId, index: int) -> bytes:
            link = self._link(holder, "fetch_blob")
            await anyio.sleep(link.weather.passage())
            chunk = link.end._serve(ref.root, index)  # noqa: SLF001
            await anyio.sleep(link.weather.passage())
            self._link(holder, "fetch_blob")
            self._counts["bytes_received"] += len(chunk)
            return chunk

        reachable = [fromkey for fromkey in dict.fromkeys(holders) if fromkey in self._links]
        try:
            data = await pull(ref, reachable, ask, within, self._blame)
        except TransportError:
            self._counts["blobs_failed"] += 1
            raise
        self._counts["blobs_fetched"] += 1
        self._blobs.put(ref, data)
        return data

    def _serve(self, root: bytes, index: int) -> bytes:
        chunk = self._blobs.chunk(root, index)
        if chunk is None:
            raise _refused("QRES-E904", "fetch_blob", f"{_short(self.node_id)} does not hold it")
        self._counts["bytes_sent"] += len(chunk)
        return chunk

    def _blame(self, holder: NodeId, what: str) -> None:
        self._counts["malformed"] += 1
        self._events.put(TransportEvent(PeerChange.BAD, holder, what))

    # ── neighbours ────────────────────────────────────────────────────────────────────────────

    def _link(self, node_id: NodeId, where: str) -> _Pipe:
        link = self._links.get(node_id)
        if link is None:
            raise _refused("QRES-E904", where, f"{_short(node_id)} is not connected")
        return link

    def peers(self) -> Sequence[PeerInfo]:
        """Neighbours that are connected and admitted, ascending."""
        links = sorted(self._links.items())
        return tuple(PeerInfo(item, f"memory:{self.swarm}", link.since) for item, link in links)

    async def event(self) -> TransportEvent:
        """The next event. Raises RoundError QRES-E603 once closed and read to the end."""
        return await self._events.take()

    def stats(self) -> TransportStats:
        """Counts since this object was made."""
        counts: dict[str, Any] = {**self._counts}
        return TransportStats(**counts)

    def follow(self, roster: Collection[NodeId]) -> None:
        """The members are these from now on: others are cut off, new ones are asked for."""
        hub = self._hubs.get(self.swarm)
        if hub is not None:
            hub.follow(self, roster)

    def admits(self, other: MemoryTransport) -> bool:
        """Ask the admission; for the hub."""
        try:
            verdict = self.admission(other.node_id, other.credential())
            accepted, why = verdict.accepted, verdict.reason
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises, nobody slips in
            accepted, why = False, f"admission raised {type(error).__name__}"
        if not accepted:
            self._counts["refused"] += 1
            reason = LinkReason.REFUSED_HELLO
            self._events.put(TransportEvent(PeerChange.REFUSED, other.node_id, why, reason))
        return accepted

    def linked(self, node_id: NodeId) -> bool:
        """True if a neighbour is connected; for the hub."""
        return node_id in self._links

    def link_up(self, other: MemoryTransport) -> None:
        """Take a neighbour on; for the hub."""
        weather = self.faults.between(self.node_id, other.node_id)
        self._links[other.node_id] = _Pipe(other, weather, time.time())
        self._events.put(TransportEvent(PeerChange.UP, other.node_id))

    def link_down(self, node_id: NodeId, why: str) -> None:
        """Let a neighbour go; for the hub."""
        link = self._links.pop(node_id, None)
        if link is not None:
            for scope in list(link.answering):
                scope.cancel()
            reason = _ENDINGS.get(why, LinkReason.CLOSED_BY_PEER)
            self._events.put(TransportEvent(PeerChange.DOWN, node_id, why, reason))


def _option(default: int, text: str) -> Any:
    return attrs.field(
        default=default, validator=options.whole(1), metadata=options.help_text(text)
    )


@attrs.frozen
class Memory:
    """Carries frames between nodes of one process."""

    capacity: int = _option(4096, "Frames that may wait for a node; more are dropped and counted.")
    frame_bytes: int = _option(
        CHUNK, "Largest frame that is sent as it is; larger messages are pulled as blobs."
    )
    blob_bytes: int = _option(
        BLOB_BYTES, "Bytes of blobs that a node holds for others, the newest; also the largest."
    )
    loss: float = share("Probability that a frame is lost, 0..1. For experiments.")
    duplicate: float = share("Probability that a frame arrives twice, 0..1. For experiments.")
    delay: float = seconds("Delay of every frame in seconds. For experiments.")
    jitter: float = seconds(
        "Greatest additional random delay in seconds; frames overtake each other. For experiments."
    )
    seed: int = attrs.field(default=0, metadata={"help": "Seed of losses, duplicates and delays."})
    # the transport of the node, once it is made, and the members that it knows
    _made: list[tuple[MemoryTransport, frozenset[NodeId]]] = attrs.field(
        factory=list[tuple[MemoryTransport, frozenset[NodeId]]],
        init=False,
        eq=False,
        repr=False,
    )

    @hookimpl
    def transport(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
    ) -> MemoryTransport:
        """This node's end of the hub named after the swarm."""
        made = MemoryTransport(
            node_info.node_id,
            node_info.swarm,
            self.capacity,
            admission,
            credential,
            Faults(self.loss, self.duplicate, self.delay, self.jitter, self.seed),
            TransportLimits(self.frame_bytes, REQUEST_BYTES, self.blob_bytes),
        )
        self._made[:] = [(made, frozenset(node_info.roster))]
        return made

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Cut off who is no member any more, and connect to those that are new."""
        roster = frozenset(round_info.roster)
        for made, known in self._made:
            if roster != known:
                made.follow(roster)
                self._made[:] = [(made, roster)]
