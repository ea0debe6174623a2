"""Pubsub for a roster: what a peer sends costs at most its own connection, and a bounded amount.

Each override keeps one promise of the README's list, which names the test of each.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from enum import StrEnum
from typing import Any, Final

import attrs
import trio
from libp2p.abc import IHost, INetStream
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.score import ScoreParams
from libp2p.pubsub.validators import signature_validator
from libp2p.utils import encode_varint_prefixed
from libp2p.utils.varint import read_varint_prefixed_bytes_limited
from qres_carrier import SenderBuckets, TokenBucket

from qres_transport_libp2p.control import UNLISTED, FrugalGossipSub
from qres_transport_libp2p.identity import names_a_key
from qres_transport_libp2p.services import GOSSIPSUB, without_unlisted
from qres_transport_libp2p.wire import reset

HEARTBEAT_SECONDS: Final = 1
MAX_RPC_BYTES: Final = 128 * 1024
TOGETHER_BYTES: Final = 32 * 1024
"""RPCs that wait for a peer are written together until they are as large as this."""
SUBSCRIPTIONS: Final = 8
"""That are looked at in an RPC, and kept of a peer."""
SEEN_MESSAGES: Final = 4096
SEQNO_BYTES: Final = 8
TOO_FAST: Final = "too fast"
UNKNOWN_AUTHOR: Final = "author is no member"
RENEWAL_SECONDS: Final = 0.3
"""Least pause before a peer that is up and not reached is tried again; it doubles each time."""
RENEWAL_MOST: Final = 5.0


class _NoSeenCache(dict[Any, Any]):
    """Forgets what it is given: nothing here asks for the record of equivocations."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def tuned_gossipsub(degree: int) -> FrugalGossipSub:
    """A gossipsub 1.1 router for a roster.

    ``degree``: most neighbours that are asked to pass messages on.
    """
    router = FrugalGossipSub(
        protocols=[GOSSIPSUB],
        degree=degree,
        degree_low=0,  # both follow from the members that are missed
        degree_high=2 * degree,
        heartbeat_interval=HEARTBEAT_SECONDS,  # by default two minutes
        adaptive_gossip_enabled=False,  # a steady heartbeat
        eclipse_protection_enabled=False,  # the roster decides who is a neighbour
        spam_protection_enabled=False,  # the token buckets are the limit
        score_params=ScoreParams(accept_px_threshold=float("inf")),  # dial nobody a peer names
    )
    record: Any = _NoSeenCache()
    router.equivocation_detection = record
    return router


class ProtocolFault(StrEnum):
    """Fault by which a peer can break the protocol."""

    RPC = "malformed RPC"
    MESSAGE = "malformed message"
    TOPIC = "another topic"
    SIZE = "no data, or too much"
    NUMBER = "no sequence number"
    AUTHOR = "no author with a key"
    SIGNATURE = "wrong signature"
    CONTROL = "control flood"


@attrs.frozen(eq=False)
class Gate:
    """Questions of pubsub to the transport."""

    # whether the connection of a stream is admitted; waits until that is decided
    inbound: Callable[[INetStream], Awaitable[bool]]
    outbound: Callable[[ID], Awaitable[bool]]  # whether a peer is up; waits for a while until it is
    # whether a PeerId is of a member, this node among them
    author: Callable[[bytes], bool]
    # takes a message: who delivered it, whose signature it has, and the data
    deliver: Callable[[ID, ID, bytes], None]
    # told of peers that broke the protocol, how, and the detail
    bad: Callable[[ID, ProtocolFault, str], None]
    dropped: Callable[[str], None]  # told why a message is dropped that breaks no rule
    members: Callable[[], Collection[ID]] = tuple  # all the other members


def _framed(rpc: rpc_pb2.RPC) -> bytes:
    """An RPC for a stream.

    Without the addresses of this node, signed, that libp2p adds to each: neighbours would check
    that signature every time, and the configuration says where nodes are.
    """
    rpc.ClearField("senderRecord")
    return encode_varint_prefixed(rpc.SerializeToString())


class SafePubsub(Pubsub):
    """One topic, strictly signed, between admitted members of a roster.

    Args:
        host: libp2p's.
        router: from :func:`tuned_gossipsub`.
        topic: the only one.
        max_data: largest data of a message, bytes.
        queue: RPCs that may wait for each peer.
        bucket: makes the bucket of a peer.
        gate: what to ask.
    """

    def __init__(
        self,
        host: IHost,
        router: FrugalGossipSub,
        *,
        topic: str,
        max_data: int,
        queue: int,
        bucket: Callable[[], TokenBucket],
        gate: Gate,
    ) -> None:
        super().__init__(
            host,
            router,
            cache_size=SEEN_MESSAGES,
            strict_signing=True,
            max_subscriptions_per_rpc=SUBSCRIPTIONS,
            max_subscriptions_per_peer=SUBSCRIPTIONS,
            max_inbound_rpc_size=MAX_RPC_BYTES,
            allowed_topics={topic},
        )
        router.join_members(topic, gate.members, router.degree)
        router.keep_to(
            gate.dropped,
            lambda peer: gate.bad(peer, ProtocolFault.CONTROL, ProtocolFault.CONTROL),
        )
        # Higher than any number that a node with this key has used before a restart.
        self.counter = time.time_ns()
        self.topic = topic
        self._max_data = max_data
        self._queue = queue
        self._buckets = SenderBuckets(bucket)
        self._gate = gate
        self._locks: weakref.WeakKeyDictionary[INetStream, trio.Lock] = weakref.WeakKeyDictionary()
        self._carriers: dict[bytes, ID] = {}
        self._opening: dict[ID, trio.Event] = {}  # set when the attempt is over
        self._renewing: set[ID] = set()

    # ── inbound ───────────────────────────────────────────────────────────────────────────────

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's RPCs; whatever goes wrong in it ends that peer's connection alone."""
        peer = stream.muxed_conn.peer_id
        if not await self._gate.inbound(stream):
            await reset(stream)
            return
        try:
            await self.continuously_read_stream(stream)
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes provoke
            await reset(stream)
            self._gate.bad(peer, ProtocolFault.RPC, type(error).__name__)

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Read RPCs until the stream ends: only fields on the list go on, and only at their rate.

        libp2p's own keeps the addresses in each RPC before anything else looks at it, and starts a
        task for each message.
        """
        peer = stream.muxed_conn.peer_id
        router: Any = self.router
        while True:
            try:
                data = await read_varint_prefixed_bytes_limited(stream, MAX_RPC_BYTES)
            except MessageTooLarge:
                raise
            except (IOException, RawConnError, StreamError):  # the other end is done
                return
            rpc = rpc_pb2.RPC.FromString(data)
            if without_unlisted(rpc):
                self._gate.dropped(UNLISTED)
            for message in rpc.publish:
                if self._is_subscribed_to_msg(message) and self._passes(peer, message):
                    self.manager.run_task(self._take, peer, message)
            subscriptions = rpc.subscriptions
            if subscriptions and router.affords(peer, len(subscriptions)):
                for item in subscriptions[:SUBSCRIPTIONS]:
                    self.handle_subscription(peer, item)
            if rpc.HasField("control"):
                await router.handle_rpc(rpc, peer)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Take a message: rate and form first, then what costs more."""
        if msg_forwarder == self.my_id:
            msg.ClearField("key")  # the author's PeerId is the key, and the signature leaves it out
            await super().push_msg(msg_forwarder, msg)
        elif self._passes(msg_forwarder, msg):
            await self._take(msg_forwarder, msg)

    def _passes(self, peer: ID, msg: rpc_pb2.Message) -> bool:
        """True if a message comes at its rate, in its form and of a member."""
        if not self._buckets.of(peer).take():
            self._gate.dropped(TOO_FAST)
        elif fault := self._fault(msg):
            self._gate.bad(peer, fault, fault)
        elif not self._gate.author(msg.from_id):  # a neighbour at another height may know it
            self._gate.dropped(UNKNOWN_AUTHOR)
        else:
            return True
        return False

    async def _take(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        name = self.get_message_id(msg)
        if name in self._carriers:  # the same message, by way of another neighbour
            return
        self._carriers[name] = msg_forwarder
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:  # noqa: BLE001 - as in stream_handler
            self._gate.bad(msg_forwarder, ProtocolFault.MESSAGE, type(error).__name__)
        else:
            # libp2p drops it without a word. Who passes such a message on did not look at it, which
            # every node does, so the fault is the neighbour's and not that of who is named in it.
            if not self._is_msg_seen(msg) and not signature_validator(msg):
                self._gate.bad(msg_forwarder, ProtocolFault.SIGNATURE, ProtocolFault.SIGNATURE)
        finally:
            self._carriers.pop(name, None)

    def _fault(self, msg: rpc_pb2.Message) -> ProtocolFault | None:
        if list(msg.topicIDs) != [self.topic]:
            return ProtocolFault.TOPIC
        if not 1 <= len(msg.data) <= self._max_data:
            return ProtocolFault.SIZE
        if len(msg.seqno) != SEQNO_BYTES:
            return ProtocolFault.NUMBER
        if not names_a_key(msg.from_id):
            return ProtocolFault.AUTHOR
        return None

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Deliver at once, without the library's channel between."""
        carrier = self._carriers.get(self.get_message_id(publish_message))
        if carrier is not None:
            author = ID(publish_message.from_id)
            self._gate.deliver(carrier, author, publish_message.data)

    def _is_subscribed_to_msg(self, msg: rpc_pb2.Message) -> bool:
        """Look at nothing twice: each message comes by way of every neighbour."""
        return super()._is_subscribed_to_msg(msg) and not self._is_msg_seen(msg)

    # ── outbound ──────────────────────────────────────────────────────────────────────────────

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """Send nothing to a peer before it is admitted, and to each over one stream."""
        if peer_id in self.peers or peer_id in self._opening:
            return
        over = self._opening[peer_id] = trio.Event()
        try:
            if not await self._gate.outbound(peer_id):
                return
            await super()._handle_new_peer(peer_id)
            queue: Any = self.peer_queues.get(peer_id)
            if queue is not None:  # room for a burst of votes
                queue._queue.max_size = self._queue  # noqa: SLF001 - no argument leads there
        finally:
            del self._opening[peer_id]
            over.set()

    async def handle_sending_messages(
        self, peer_id: ID, stream: INetStream, queue: RpcQueue
    ) -> None:
        """Write what waits for a peer at once: votes come in bursts, and each write costs."""
        try:
            while (rpc := await queue.pop()) is not None:
                written = _framed(rpc)
                while len(queue) and len(written) < TOGETHER_BYTES:
                    more = await queue.pop()
                    written += b"" if more is None else _framed(more)
                async with self._locks.setdefault(stream, trio.Lock()):
                    await stream.write(written)
        except Exception:  # noqa: BLE001 - as in libp2p: whatever goes wrong, the peer is gone
            if self.peers.get(peer_id, stream) is stream:  # else it is reached another way by now
                self._handle_dead_peer(peer_id)

    def get_hello_packet(self) -> rpc_pb2.RPC:
        """Make the packet of this node's subscriptions, without its addresses."""
        packet = super().get_hello_packet()
        packet.ClearField("senderRecord")
        return packet

    async def write_msg(self, stream: INetStream, rpc_msg: rpc_pb2.RPC) -> bool:
        """Write an RPC as a whole: late joiners are sent the history beside the queue's task."""
        rpc_msg.ClearField("senderRecord")
        async with self._locks.setdefault(stream, trio.Lock()):
            return await super().write_msg(stream, rpc_msg)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Remember what a peer subscribed to for as long as it stays connected."""
        topics = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        super()._handle_dead_peer(peer_id)
        if topics and self._peer_is_connected(peer_id):
            for topic in topics:
                self.peer_topics.setdefault(topic, set()).add(peer_id)
            self._peer_subscription_count[peer_id] = len(topics)

    def _forget_subscription(self, peer_id: ID, topic: str) -> None:
        """Not that it was sent the history: else each word of two would be worth all of it."""
        replayed = topic in self._replayed_recent_topics.get(peer_id, ())
        super()._forget_subscription(peer_id, topic)
        if replayed:
            self._replayed_recent_topics.setdefault(peer_id, set()).add(topic)

    async def renew(self, peer: ID) -> None:
        """Reach a peer over a connection that it now has, if the stream to it runs over none.

        Goes on until it is reached, or not up any more; once for each peer, as one that comes again
        and again and takes no stream would have more and more of them.
        """
        if peer in self._renewing:  # that one looks again before it ends
            return
        self._renewing.add(peer)
        try:
            await self._renew(peer)
        finally:
            self._renewing.discard(peer)

    async def _renew(self, peer: ID) -> None:
        pause = RENEWAL_SECONDS
        while True:
            stream = self.peers.get(peer)
            if stream is not None:
                if await self._gate.inbound(stream):
                    return
                if self.peers.get(peer) is stream:
                    self._leave(peer)
            if not await self._gate.outbound(peer):
                return
            opening = self._opening.get(peer)
            if opening is not None:  # it may come to nothing
                await opening.wait()
            else:
                await self._handle_new_peer_with_retry(peer, 5.0)
            await trio.sleep(pause)
            pause = min(2 * pause, RENEWAL_MOST)

    def _leave(self, peer: ID) -> None:
        del self.peers[peer]
        queue = self.peer_queues.pop(peer, None)
        if queue is not None:
            queue.close()
        self.router.remove_peer(peer)

    def hears(self, peer: ID) -> bool:
        """True if a peer is reached and has subscribed."""
        return peer in self.peers and peer in self.peer_topics.get(self.topic, ())
