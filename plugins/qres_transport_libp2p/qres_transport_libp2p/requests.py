"""Questions to one node, each on a stream of its own, with an answer.

A request is the protocol's name (a block), then the data (a block). The answer is a status byte and
a block.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import Handler
from qres_transport_libp2p.caller import Caller
from qres_transport_libp2p.clock import patience
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.sessions import PeerConnection, Sessions
from qres_transport_libp2p.wire import BadBytesError, BrokenStreamError, Wire, closing

PROTOCOL: Final = TProtocol("/qres/request/1")
MAX_NAME: Final = 256
ANSWERED: Final = b"\0"
REFUSED: Final = b"\1"
BUSY: Final = b"\2"
HANDLER_SECONDS: Final = 60.0

_LOG: Final = logging.getLogger(__name__)


class Requests:
    """Asks and answers.

    Args:
        sessions: who is admitted.
        options: limits.
        caller: where handlers run.
        handlers: by protocol.
    """

    def __init__(
        self,
        sessions: Sessions,
        options: Libp2pOptions,
        caller: Caller,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._sessions = sessions
        self._options = options
        self._caller = caller
        self._handlers = handlers
        self._answering: Counter[ID] = Counter()
        self._asking = 0
        sessions.serve(PROTOCOL, self._answer)

    async def ask(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Ask and wait for the answer. Raises as :meth:`Transport.request`."""
        where = f"{protocol} at {to.hex()[:16]}"
        peer = self._sessions.peer_of(to)
        if self._asking >= self._options.requests_total:
            raise TransportError.of("QRES-E902", where, f"{self._asking} requests are under way")
        self._asking += 1
        try:
            with patience(within):
                return await self._exchange(peer, where, protocol, data)
        finally:
            self._asking -= 1
        raise TransportError.of("QRES-E905", where, f"{within:g} seconds are over")

    async def _exchange(self, peer: ID, where: str, protocol: str, data: bytes) -> bytes:
        try:
            wire = await self._sessions.open(peer, PROTOCOL)
            async with closing(wire.stream):
                name = protocol.encode()
                self._sessions.tally.bytes_sent += len(data)
                await wire.send(data, before=len(name).to_bytes(4, "big") + name)
                status = await wire.exactly(1, HANDLER_SECONDS)
                reply = await wire.block(self._options.request_bytes)
        except BadBytesError as error:
            for link in self._sessions.of(peer)[:1]:
                self._sessions.bad(
                    link, f"{PROTOCOL}: {error}", f"malformed: {PROTOCOL}", error.reason
                )
            raise TransportError.of("QRES-E907", where, str(error)) from error
        except BrokenStreamError as error:
            what = f"{type(error).__name__}: {error}"
            raise TransportError.of("QRES-E904", where, what) from error
        if status == ANSWERED:
            self._sessions.tally.bytes_received += len(reply)
            return reply
        what = reply.decode(errors="replace")[:MAX_NAME]
        raise TransportError.of("QRES-E902" if status == BUSY else "QRES-E907", where, what)

    async def _answer(self, link: PeerConnection, wire: Wire) -> None:
        busy = (
            self._answering[link.peer] >= self._options.requests_per_peer
            or self._answering.total() >= self._options.requests_total
        )
        self._answering[link.peer] += 1
        try:
            if busy:
                # Answered at once: reading the request would let a flood fill the memory. The
                # stream is not reset, or the answer could be lost.
                await wire.send(b"too many requests at once", before=BUSY)
                return
            name = (await wire.block(MAX_NAME)).decode(errors="replace")
            data = await wire.block(self._options.request_bytes)
            self._sessions.tally.bytes_received += len(data)
            status, reply = await self._handle(link.node, name, data)
            self._sessions.tally.bytes_sent += len(reply)
            await wire.send(reply, before=status)
        finally:
            self._answering[link.peer] -= 1
            if not self._answering[link.peer]:
                del self._answering[link.peer]

    async def _handle(self, node: NodeId, name: str, data: bytes) -> tuple[bytes, bytes]:
        handler = self._handlers.get(name)
        if handler is None:
            return REFUSED, b"no such protocol"
        if not data:
            return REFUSED, b"an empty request"
        try:
            reply = await self._caller.serve(lambda: handler(node, data), HANDLER_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            _LOG.warning("request %s failed: %s: %s", name, type(error).__name__, error)
            return REFUSED, type(error).__name__.encode()
        if len(reply) > self._options.request_bytes:
            return REFUSED, b"the reply is too large"
        return ANSWERED, reply
