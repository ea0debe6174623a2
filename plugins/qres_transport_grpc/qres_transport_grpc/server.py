"""A hub: it passes sealed messages between members of one swarm, and keeps none.

It knows who says what size of message to whom, and no more. Each member has queues of a bounded
size, and each other member a share of them; what finds no room is dropped. Each member's messages
are read no faster than a rate.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from qres_carrier import SenderBuckets, TokenBucket, origin

from qres_core import NODE_ID_BYTES, NodeId
from qres_core.errors import RoundError
from qres_transport_grpc.dial import GRPC
from qres_transport_grpc.identity import HubIdentity
from qres_transport_grpc.options import MIB
from qres_transport_grpc.outbox import Outbox, OutboxPool
from qres_transport_grpc.roster import HubRoster
from qres_transport_grpc.wire import (
    CHALLENGE,
    CHALLENGE_BYTES,
    MESSAGE_BYTES,
    METHOD,
    READY,
    BadMessageError,
    HubProof,
    proof_statement,
)

PROOF_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 2.0
MEMORY_BYTES: Final = 1024 * MIB
"""Most bytes that wait for all members together; one has at most as many as are left."""
WAITING_BYTES: Final = 64 * MIB
"""Most bytes that wait for one member."""
SMALL_WAITING_BYTES: Final = 16 * MIB
SHARE_BYTES: Final = 12 * MIB
"""Most bytes that wait for one member from one other."""
MESSAGE_COST: Final = 4096
"""What a message costs of a member's rate beside its bytes."""
STRANGERS: Final = 64
"""Streams that have not proved anything yet; the oldest of the busiest address makes room."""
FAMILIAR_EACH: Final = 3
"""Of those, how many make no room, of each address at which a member proved its key."""
ADDRESSES_EACH: Final = 2
"""Addresses that are remembered of a member: a liar may have any number."""
LINES_BURST: Final = 10
LINES_PER_SECOND: Final = 0.1
"""Lines of the log about one member that comes and goes."""
TELL_SECONDS: Final = 60.0
"""Between two lines of the log about what was refused."""
STREAMS: Final = 8
"""Streams of one member, those included whose end it does not take."""

_LOG: Final = logging.getLogger(__name__)
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 30_000),  # of connections without a stream
    ("grpc.so_reuseport", 0),
)


@attrs.define(eq=False)
class MemberSeat:
    """A member that is connected."""

    outbox: Outbox
    more: asyncio.Event = attrs.field(factory=asyncio.Event)
    over: asyncio.Event = attrs.field(factory=asyncio.Event)
    why: str = ""

    def end(self, why: str) -> None:
        """Let its stream end."""
        self.why = why
        self.over.set()


class HubServer:
    """Serves one swarm.

    Args:
        identity: the hub's.
        roster: whom it serves.
        bytes_per_second: what one member may send, on average; each message counts 4096 more.
        memory: most bytes that wait for all members together.
    """

    def __init__(
        self,
        identity: HubIdentity,
        roster: HubRoster,
        bytes_per_second: float = 64 * MIB,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self._identity, self._roster = identity, roster
        self._rate = bytes_per_second
        self._pool = OutboxPool(memory)
        self._seats: dict[NodeId, MemberSeat] = {}
        self._strangers: list[tuple[str, asyncio.Timeout]] = []
        self._streams: Counter[NodeId] = Counter()
        self._buckets: dict[NodeId, TokenBucket] = {}  # of members: a new stream has no new one
        self._familiar: dict[NodeId, deque[str]] = {}  # where members proved their keys last
        self._lines = SenderBuckets(lambda: TokenBucket(LINES_PER_SECOND, LINES_BURST))
        self._untold: Counter[NodeId] = Counter()  # lines of a member since the last that was said
        self._server: Any = None
        self._keeping: asyncio.Task[None] | None = None
        self.passed = 0
        self.dropped = 0
        self.refused = 0
        self.reasons: Counter[str] = Counter()
        self._told = 0  # how many of them the log has

    @property
    def members(self) -> frozenset[NodeId]:
        """Members that are connected."""
        return frozenset(self._seats)

    @property
    def waiting(self) -> int:
        """Bytes that wait for members."""
        return self._pool.used

    async def start(self, listen: str) -> int:
        """Listen at ``host:port``; the port. Raises RoundError: QRES-E603 when it cannot."""
        handler = GRPC.stream_stream_rpc_method_handler(self._link)
        service, name = METHOD.strip("/").split("/")
        self._server = GRPC.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(
            (GRPC.method_handlers_generic_handler(service, {name: handler}),)
        )
        credentials = GRPC.ssl_server_credentials(
            [(self._identity.key, self._identity.certificate)]
        )
        try:
            port = int(self._server.add_secure_port(listen, credentials))
        except RuntimeError as error:
            what = f"cannot listen at {listen}: {error}"
            fix = "name another --listen HOST:PORT; ports below 1024 need a privilege"
            raise RoundError.of("QRES-E603", "hub", what, fix) from error
        await self._server.start()
        self._keeping = asyncio.create_task(self._keep())
        return port

    async def stop(self) -> None:
        """End every stream and stop listening."""
        self._tell_reasons()
        if self._keeping is not None:
            self._keeping.cancel()
        if self._server is not None:
            await self._server.stop(0)

    async def _keep(self) -> None:
        telling = 0.0
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            telling += REFRESH_SECONDS
            if telling >= TELL_SECONDS:
                telling = 0.0
                self._tell_reasons()
            before = self._roster.keys
            if self._roster.refresh():
                for node, seat in list(self._seats.items()):
                    if self._roster.keys.get(node) != before.get(node):
                        seat.end("no member any more, or by another key")
                for kept in (self._buckets, self._familiar, self._untold):
                    for node in kept.keys() - self._roster.keys.keys():
                        del kept[node]

    def _tell_reasons(self) -> None:
        """Say what was refused and dropped since the start, if more was since it was said last."""
        if self.reasons.total() > self._told:
            self._told = self.reasons.total()
            said = ", ".join(f"{why}: {count}" for why, count in sorted(self.reasons.items()))
            _LOG.info("refused or dropped so far: %s", said)

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self.reasons[why] += 1

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self.reasons[why] += 1

    # ── one stream ────────────────────────────────────────────────────────────────────────────

    async def _link(self, _requests: object, context: Any) -> None:
        node = await self._admitted(context)
        if node is None or self._streams[node] >= STREAMS:
            what = "not proved to be a member" if node is None else "too many streams"
            self._refuse(what)
            await context.abort(GRPC.StatusCode.PERMISSION_DENIED, what)
            return
        self._streams[node] += 1
        try:
            await self._serve(node, context)
        finally:
            self._streams[node] -= 1
            if not self._streams[node]:
                del self._streams[node]

    async def _serve(self, node: NodeId, context: Any) -> None:
        outbox = Outbox(WAITING_BYTES, SMALL_WAITING_BYTES, SHARE_BYTES, self._pool)
        seat, before = MemberSeat(outbox), self._seats.get(node)
        if before is not None:
            before.end("another connection of the same member took its place")
        self._seats[node] = seat
        self._tell(node, "here")
        tasks = [
            asyncio.create_task(work)
            for work in (self._read(node, context), self._write(seat, context), seat.over.wait())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outbox.clear()
            if self._seats.get(node) is seat:
                del self._seats[node]
                self._tell(node, "gone")
            await asyncio.gather(*tasks, return_exceptions=True)
        if seat.why:
            await context.abort(GRPC.StatusCode.ABORTED, seat.why)

    def _tell(self, node: NodeId, where: str) -> None:
        """Say where a member is, but not of all times that it comes and goes."""
        if not self._lines.of(node).take():
            self._untold[node] += 1
            return
        untold = self._untold.pop(node, 0)
        more = f" ({untold} more times not logged)" if untold else ""
        _LOG.info("member %s is %s%s", node.hex()[:16], where, more)

    async def _admitted(self, context: Any) -> NodeId | None:
        """Member at the other end, if it proves to be one."""
        address, challenge = _origin(context.peer()), secrets.token_bytes(CHALLENGE_BYTES)
        if len(self._strangers) >= STRANGERS:
            self._crowd_out()
        here = address, asyncio.timeout(PROOF_SECONDS)
        try:
            async with here[1]:
                self._strangers.append(here)
                # A header needs no window: a stranger that opens none can be refused all the same.
                await context.send_initial_metadata(((CHALLENGE, challenge),))
                message = await context.read()
            proof = HubProof.loads(message if isinstance(message, bytes) else b"")
            statement = proof_statement(
                self._roster.swarm, self._identity.digest, challenge, proof.node
            )
            key = Ed25519PublicKey.from_public_bytes(self._roster.keys[proof.node])
            key.verify(proof.signature, statement)
        except (TimeoutError, BadMessageError, KeyError, ValueError, InvalidSignature):
            return None
        finally:
            if here in self._strangers:
                self._strangers.remove(here)
        places = self._familiar.setdefault(proof.node, deque(maxlen=ADDRESSES_EACH))
        if address not in places:
            places.append(address)
        return proof.node

    def _crowd_out(self) -> None:
        """End the oldest stream of a stranger's, of the address that has most of them.

        Whoever has many addresses has one at each. So those at which members were stay, a few each.
        """
        crowds = Counter(address for address, _ in self._strangers)
        familiar = {address for places in self._familiar.values() for address in places}
        others = {
            address: count
            for address, count in crowds.items()
            if address not in familiar or count > FAMILIAR_EACH
        }
        crowd = max((others or crowds).items(), key=lambda item: item[1])[0]
        oldest = next(item for item in self._strangers if item[0] == crowd)
        self._strangers.remove(oldest)
        if not oldest[1].expired():
            oldest[1].reschedule(0.0)

    async def _read(self, node: NodeId, context: Any) -> None:
        bucket = self._buckets.setdefault(node, TokenBucket(self._rate, self._rate))
        while isinstance(message := await context.read(), bytes):
            if wait := bucket.wait(len(message) + MESSAGE_COST):
                await asyncio.sleep(wait)  # its window closes meanwhile
            self.route(node, message[:NODE_ID_BYTES], message[NODE_ID_BYTES:])

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        """Pass a message on, if its receiver is here and has room."""
        seat = self._seats.get(to)
        if seat is None or not seat.outbox.put(sender + message, sender):
            self._drop("its receiver is not here" if seat is None else "no room for it")
            return
        self.passed += 1
        seat.more.set()

    async def _write(self, seat: MemberSeat, context: Any) -> None:
        await context.write(READY)  # here, for a stream takes one message at a time
        while True:
            while (message := seat.outbox.pop()) is not None:
                await context.write(message)
            seat.more.clear()
            await seat.more.wait()


def _origin(peer: str) -> str:
    """Origin of a stream, of what gRPC calls its end, such as ``ipv6:%5B::1%5D:443``."""
    return origin(unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]"))


async def serve(
    server: HubServer, listen: str, ready: Callable[[int], None], until: asyncio.Event
) -> None:
    """Run a hub until an event; ``ready`` is told the port."""
    ready(await server.start(listen))
    try:
        await until.wait()
    finally:
        await server.stop()
