"""Questions and answers over whatever hubs there are, for requests and for chunks of blobs.

A question is a number that this node never uses again, the attempt (1 byte), what is asked for
(1 byte) and a body; its answer is the number, a status byte and a body. A hub may drop either, so
the question is sent again, and answered once: who answers knows the numbers and keeps the last
replies. A seal binds both to the session, so no hub can swap, repeat or invent them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from qres_core import CHUNK, Handler, NodeId, TransportError
from qres_transport_grpc.home import HomeLoop
from qres_transport_grpc.network import ANSWER, ASK, GrpcNetwork
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.peers import Acquaintance
from qres_transport_grpc.seal import OnceWindow, SealedSession

REQUEST, CHUNK_OF = 1, 2
ANSWERED, REFUSED, BUSY, ABSENT = range(4)
NUMBER_BYTES: Final = 8
MAX_NAME: Final = 255
HANDLER_SECONDS: Final = 60.0
SLOW: Final = 4
"""A question is sent again after this many times what answers took lately, if that is longer."""
LONGEST_SECONDS: Final = 8.0
GROWTH: Final = 1.5

_LOG: Final = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Question:
    peer: NodeId
    answer: asyncio.Future[tuple[int, bytes]]


@attrs.define(eq=False)
class _Answered:
    """What a node asked in one session."""

    session: SealedSession
    numbers: OnceWindow = attrs.field(factory=OnceWindow)
    replies: OrderedDict[int, bytes] = attrs.field(factory=OrderedDict[int, bytes])


class Exchanges:
    """Asks and answers.

    Args:
        network: the links.
        options: limits.
        home: where handlers run.
        handlers: by protocol.
        chunk: what answers for chunks.
    """

    def __init__(
        self,
        network: GrpcNetwork,
        options: GrpcOptions,
        home: HomeLoop,
        handlers: Mapping[str, Handler],
        chunk: Callable[[bytes], tuple[int, bytes]],
    ) -> None:
        self._network, self._options, self._home = network, options, home
        self._handlers, self._chunk = handlers, chunk
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Question] = {}
        self._answered: dict[NodeId, _Answered] = {}
        self._answering: Counter[NodeId] = Counter()
        self._lately: dict[NodeId, float] = {}
        self._moved: dict[NodeId, float] = {}  # when an answer of a node came last
        self._asking = 0
        network.serve({ASK: self._questioned, ANSWER: self._answer}, self._lost)

    # ── asking ────────────────────────────────────────────────────────────────────────────────

    async def request(self, to: NodeId, protocol: str, data: bytes, within: float) -> bytes:
        """Ask a node's handler. Raises as :meth:`Transport.request`."""
        where = f"{protocol} at {to.hex()[:16]}"
        if self._asking >= self._options.requests_total:
            raise TransportError.of("QRES-E902", where, f"{self._asking} requests are under way")
        name = protocol.encode()
        self._asking += 1
        try:
            self._network.tally.bytes_sent += len(data)
            body = len(name).to_bytes(1, "big") + name + data
            status, reply = await self.ask(to, REQUEST, body, within, where)
        finally:
            self._asking -= 1
        if status == ANSWERED:
            self._network.tally.bytes_received += len(reply)
            return reply
        what = reply.decode(errors="replace")[:MAX_NAME]
        raise TransportError.of("QRES-E902" if status == BUSY else "QRES-E907", where, what)

    async def ask(
        self, to: NodeId, kind: int, body: bytes, within: float, where: str
    ) -> tuple[int, bytes]:
        """Ask until there is an answer. Raises TransportError: QRES-E904 or QRES-E905."""
        peer = self._network.peers.get(to)
        if peer is None or not peer.up:
            raise TransportError.of("QRES-E904", where, "not connected")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._asked[number] = _Question(to, answer)
        head, began = number.to_bytes(NUMBER_BYTES, "big"), loop.time()
        try:
            # A chunk takes long to come: one that is asked for twice makes all others wait.
            least = self._options.retry_seconds * (SLOW if kind == CHUNK_OF else 1)
            lately = min(SLOW * self._lately.get(to, 0.0), LONGEST_SECONDS)
            first = pause = max(least, lately)
            for attempt in itertools.count():
                words = head + bytes([min(attempt, 255), kind]) + body
                self._network.say(peer, ASK, words, attempt)
                asked = loop.time()
                while True:
                    left = began + within - loop.time()
                    with contextlib.suppress(TimeoutError):
                        found = await asyncio.wait_for(asyncio.shield(answer), min(pause, left))
                        if not attempt:  # of others it is not known which of them was answered
                            took = loop.time() - began
                            self._lately[to] = 0.8 * self._lately.get(to, took) + 0.2 * took
                        return found
                    now = loop.time()
                    moves = kind == CHUNK_OF and now - self._moved.get(to, 0.0) < pause
                    if now >= began + within or not moves or now > asked + SLOW * pause:
                        break
                if loop.time() >= began + within:
                    break
                pause = min(GROWTH * pause, SLOW * first)
            raise TransportError.of("QRES-E905", where, f"{within:g} seconds are over")
        finally:
            answer.cancel()
            del self._asked[number]

    def _lost(self, node: NodeId) -> None:
        what = f"{node.hex()[:16]} went away"
        for question in self._asked.values():
            if question.peer == node and not question.answer.done():
                error = TransportError.of("QRES-E904", "transport.grpc", what)
                question.answer.set_exception(error)

    def accuse(self, node: NodeId, what: str) -> None:
        """A node sealed an answer that is none."""
        peer = self._network.peers.get(node)
        if peer is not None and peer.up:
            self._network.blame(peer, what)

    # ── answering ─────────────────────────────────────────────────────────────────────────────

    def _answer(self, peer: Acquaintance, data: bytes) -> None:
        if len(data) <= NUMBER_BYTES:
            self._network.blame(peer, "an answer that is none")
            return
        question = self._asked.get(int.from_bytes(data[:NUMBER_BYTES], "big"))
        if question is not None and question.peer == peer.node and not question.answer.done():
            self._moved[peer.node] = asyncio.get_running_loop().time()
            question.answer.set_result((data[NUMBER_BYTES], data[NUMBER_BYTES + 1 :]))

    def _questioned(self, peer: Acquaintance, data: bytes) -> None:
        if len(data) < NUMBER_BYTES + 2:
            self._network.blame(peer, "a question that is none")
            return
        number = int.from_bytes(data[:NUMBER_BYTES], "big")
        attempt, wanted = data[NUMBER_BYTES], data[NUMBER_BYTES + 1 : NUMBER_BYTES + 2]
        body = data[NUMBER_BYTES + 2 :]
        if wanted == bytes([CHUNK_OF]):
            self._network.spawn(self._serve_chunk(peer, number, attempt, body))
        elif wanted == bytes([REQUEST]):
            self._request(peer, number, attempt, body)
        else:
            self._network.blame(peer, "a question of no kind")

    def _request(self, peer: Acquaintance, number: int, attempt: int, body: bytes) -> None:
        """Have a handler answer, once for each number of a session."""
        known = self._answered.get(peer.node)
        if peer.link is None:
            return
        if known is None or known.session is not peer.link.session:
            known = self._answered[peer.node] = _Answered(peer.link.session)
        if not known.numbers.fresh(number):
            reply = known.replies.get(number)
            if reply is not None:
                self._network.say(peer, ANSWER, reply, attempt)
            return
        busy = (
            self._answering[peer.node] >= self._options.requests_per_peer
            or self._answering.total() >= self._options.requests_total
        )
        if busy:
            words = bytes([BUSY]) + b"too many requests at once"
            self._network.say(peer, ANSWER, number.to_bytes(NUMBER_BYTES, "big") + words, attempt)
            return
        known.numbers.take(number)
        self._answering[peer.node] += 1
        self._network.spawn(self._run(peer, known, number, attempt, body))

    async def _run(
        self, peer: Acquaintance, known: _Answered, number: int, attempt: int, body: bytes
    ) -> None:
        try:
            status, reply = await self._handle(peer.node, body)
        finally:
            self._answering[peer.node] -= 1
            if not self._answering[peer.node]:
                del self._answering[peer.node]
        self._network.tally.bytes_sent += len(reply)
        words = number.to_bytes(NUMBER_BYTES, "big") + bytes([status]) + reply
        known.replies[number] = words
        while len(known.replies) > self._options.requests_per_peer:
            known.replies.popitem(last=False)
        if peer.link is not None and known.session is peer.link.session:
            self._network.say(peer, ANSWER, words, attempt)

    async def _handle(self, node: NodeId, body: bytes) -> tuple[int, bytes]:
        length = body[0] if body else 0
        name, data = body[1 : 1 + length].decode(errors="replace"), body[1 + length :]
        handler = self._handlers.get(name)
        if handler is None:
            return REFUSED, b"no such protocol"
        if not 1 <= len(data) <= self._options.request_bytes:
            return REFUSED, b"an empty request, or too large a one"
        self._network.tally.bytes_received += len(data)
        try:
            reply: bytes = await self._home.ask(handler, HANDLER_SECONDS, node, data)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            _LOG.warning("request %s failed: %s: %s", name, type(error).__name__, error)
            return REFUSED, type(error).__name__.encode()
        if len(reply) > self._options.request_bytes:
            return REFUSED, b"the reply is too large"
        return ANSWERED, reply

    async def _serve_chunk(
        self, peer: Acquaintance, number: int, attempt: int, body: bytes
    ) -> None:
        """Send a chunk as soon as there is room for it; who asks, asks again if there is none."""
        if not self._network.lines.fits(peer, CHUNK):
            return  # before it costs reading and sealing: questions are small, and many may come
        status, data = self._chunk(body)
        words = number.to_bytes(NUMBER_BYTES, "big") + bytes([status]) + data
        if self._network.say(peer, ANSWER, words, attempt):
            self._network.tally.bytes_sent += len(data)
