"""Frames for everybody: one gossipsub topic for each swarm."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service
from qres_carrier import TokenBucket

from qres_core import NodeId
from qres_core.transport import LinkReason
from qres_transport_libp2p.options import FRAME_MOST, Libp2pOptions
from qres_transport_libp2p.pubsub import Gate, ProtocolFault, SafePubsub, tuned_gossipsub
from qres_transport_libp2p.sessions import Sessions


def topic_of(swarm: str) -> str:
    """The topic of a swarm."""
    return f"/qres/frames/1/{swarm}"


class Gossip:
    """Publishes and delivers.

    Args:
        sessions: who is admitted.
        swarm: name of the swarm.
        options: limits.
        deliver: takes a frame with the neighbour that delivered it and the node that signed it.
    """

    def __init__(
        self,
        sessions: Sessions,
        swarm: str,
        options: Libp2pOptions,
        deliver: Callable[[NodeId, bytes, NodeId | None], None],
    ) -> None:
        members = sessions.members

        async def inbound(stream: INetStream) -> bool:
            muxed = stream.muxed_conn
            # A connection is closed some time before libp2p says so.
            return not muxed.is_closed and await sessions.link(muxed).wait(options.hello_seconds)

        async def outbound(peer: ID) -> bool:
            return await sessions.wait_up(peer, 2 * options.hello_seconds)

        def take(peer: ID, author: ID, data: bytes) -> None:
            node = members.nodes.get(peer)
            if node is not None:
                deliver(node, data, members.nodes.get(author))

        def bad(peer: ID, fault: ProtocolFault, detail: str) -> None:
            why = (
                LinkReason.OVERRAN if fault is ProtocolFault.CONTROL else LinkReason.BROKE_PROTOCOL
            )
            sessions.bad_peer(peer, f"gossip: {detail}", f"gossip: {fault}", why)

        def dropped(why: str) -> None:
            sessions.tally.drop(f"gossip: {why}")

        def others() -> Collection[ID]:
            return members.nodes.keys()

        gate = Gate(inbound, outbound, members.knows, take, bad, dropped, others)
        self._pace = TokenBucket(options.publish_per_second, options.publish_burst)
        self._tally = sessions.tally
        self._router = tuned_gossipsub(options.mesh_degree)
        self.pubsub = SafePubsub(
            sessions.host,
            self._router,
            topic=topic_of(swarm),
            max_data=FRAME_MOST,
            queue=options.outbox_frames,
            bucket=lambda: TokenBucket(options.ingress_per_second, options.ingress_burst),
            gate=gate,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run the services, subscribed."""
        router: Any = self._router
        try:
            async with background_trio_service(self.pubsub), background_trio_service(router):
                await self.pubsub.wait_until_ready()
                await self.pubsub.subscribe(self.pubsub.topic)
                yield
        finally:
            self.pubsub.seen_messages.stop()  # or its thread is left behind

    @property
    def passed_on(self) -> bool:
        """True if what is said goes over the line more than once, because a link is missing."""
        return self._router.passed_on

    async def publish(self, frame: bytes) -> None:
        """Send a frame to everybody; waits while frames go out faster than the limit."""
        wait = self._pace.wait()
        if wait:
            await trio.sleep(wait)
        await self.pubsub.publish(self.pubsub.topic, frame)
        self._tally.frames_sent += 1
        self._tally.bytes_sent += len(frame)
