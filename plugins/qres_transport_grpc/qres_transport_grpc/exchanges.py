"""Questions and answers over whatever hubs there are, for requests and for pieces of blobs.

A question is a number that this node never uses again, the attempt (1 byte), what is asked for
(1 byte) and a body; its answer is the number, a status byte and a body. A hub may drop either, so
the question is sent again, and answered once: who answers knows the numbers and keeps the last
replies. While an answer waits for the line, a question that comes again costs nothing. A seal binds
both to the session, so no hub can swap, repeat or invent them.

A piece is asked for again when later ones have come, or when nothing has come for far longer than
pieces take. Its question stays known: a late piece is as good as another.
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

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import Handler
from qres_transport_grpc.home import HomeLoop
from qres_transport_grpc.network import ANSWER, ASK, GrpcNetwork
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.peers import Acquaintance
from qres_transport_grpc.seal import OnceWindow, SealedSession
from qres_transport_grpc.wire import SMALL_BYTES

REQUEST, PIECE_OF = 1, 2
ANSWERED, REFUSED, BUSY, ABSENT = range(4)
NUMBER_BYTES: Final = 8
MAX_NAME: Final = 255
HANDLER_SECONDS: Final = 60.0
SLOW: Final = 4
"""A question is sent again after this many times what answers took lately, if that is longer."""
LONGEST_SECONDS: Final = 8.0
GROWTH: Final = 1.5
PATIENCE: Final = 8
"""A piece takes longer than a word: it is asked for again after this many times as long."""
LOST_SECONDS: Final = 60.0
"""A piece that nobody wants any more is not waited for longer."""
OVERTAKEN: Final = 3
"""A piece is asked for again once so many came that were asked for later: the last piece of a chunk
is small, and may overtake others."""
TICK_SECONDS: Final = 0.25
ASKED_AGAIN: Final = "blob: asked for again and again"

_LOG: Final = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Question:
    peer: NodeId
    answer: asyncio.Future[tuple[int, bytes]]


@attrs.define(eq=False)
class AskedPiece:
    """A piece that was asked for."""

    peer: NodeId
    body: bytes
    came: Callable[[int, bytes, float], None]
    """Told the status, the bytes and the seconds that it took; ``ABSENT`` where none comes."""
    first: float  # when it was asked for, seconds of the loop's clock
    asked: float  # when it was asked for last
    attempt: int = 0
    overtaken: int = 0
    wanted: bool = True  # whether it is asked for again


@attrs.define(eq=False)
class _Answered:
    """Answers of a node in one session."""

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
        piece: what answers for pieces.
        allows: whether a node may have the answer to a question for one.
    """

    def __init__(
        self,
        network: GrpcNetwork,
        options: GrpcOptions,
        home: HomeLoop,
        handlers: Mapping[str, Handler],
        piece: Callable[[bytes], tuple[int, bytes]],
        allows: Callable[[NodeId, bytes], bool] = lambda _node, _question: True,
    ) -> None:
        self._network, self._options, self._home = network, options, home
        self._handlers, self._piece, self._allows = handlers, piece, allows
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Question] = {}
        self._answered: dict[NodeId, _Answered] = {}
        self._answering: Counter[NodeId] = Counter()
        self._lately: dict[NodeId, float] = {}
        self._pieces: dict[NodeId, dict[int, AskedPiece]] = {}
        self._moved: dict[NodeId, float] = {}  # when a piece of a node came last
        self._took: dict[NodeId, float] = {}  # seconds that its pieces take, smoothed
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
            status, reply = await self._ask(to, body, within, where)
        finally:
            self._asking -= 1
        if status == ANSWERED:
            self._network.tally.bytes_received += len(reply)
            return reply
        what = reply.decode(errors="replace")[:MAX_NAME]
        raise TransportError.of("QRES-E902" if status == BUSY else "QRES-E907", where, what)

    async def _ask(self, to: NodeId, body: bytes, within: float, where: str) -> tuple[int, bytes]:
        """Ask until there is an answer. Raises TransportError: QRES-E904 or QRES-E905."""
        peer = self._network.peers.get(to)
        if peer is None or not peer.up:
            raise TransportError.of("QRES-E904", where, "not connected")
        loop = asyncio.get_running_loop()
        number = next(self._numbers)
        answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._asked[number] = _Question(to, answer)
        began = loop.time()
        try:
            lately = min(SLOW * self._lately.get(to, 0.0), LONGEST_SECONDS)
            first = pause = max(self._options.retry_seconds, lately)
            for attempt in itertools.count():
                self._question(peer, number, attempt, REQUEST, body)
                left = began + within - loop.time()
                with contextlib.suppress(TimeoutError):
                    found = await asyncio.wait_for(asyncio.shield(answer), min(pause, left))
                    # Of others it is not known which of them was answered: the next question waits
                    # as long as this one.
                    took = pause / SLOW if attempt else loop.time() - began
                    self._lately[to] = 0.8 * self._lately.get(to, took) + 0.2 * took
                    return found
                if loop.time() >= began + within:
                    break
                pause = min(GROWTH * pause, SLOW * first)
            raise TransportError.of("QRES-E905", where, f"{within:g} seconds are over")
        finally:
            answer.cancel()
            del self._asked[number]

    def _question(
        self, peer: Acquaintance, number: int, attempt: int, kind: int, body: bytes
    ) -> None:
        head = number.to_bytes(NUMBER_BYTES, "big")
        self._utter(peer, ASK, head, bytes([min(attempt, 255), kind]) + body, attempt)

    def _utter(self, peer: Acquaintance, kind: int, head: bytes, rest: bytes, attempt: int) -> None:
        """Say something: at once if it is small, and else in its turn."""
        if len(rest) <= SMALL_BYTES // 2:
            self._network.say(peer, kind, head + rest, attempt)
        else:
            self._network.say_in_turn(peer, kind, head, lambda: head + rest, attempt)

    def want(
        self, to: NodeId, body: bytes, came: Callable[[int, bytes, float], None]
    ) -> AskedPiece | None:
        """Ask a node for a piece of a blob; ``None`` where it is not linked."""
        peer = self._network.peers.get(to)
        if peer is None or not peer.up:
            return None
        now, number = asyncio.get_running_loop().time(), next(self._numbers)
        item = AskedPiece(to, body, came, now, now)
        self._pieces.setdefault(to, {})[number] = item
        self._question(peer, number, 0, PIECE_OF, body)
        return item

    async def keep(self) -> None:
        """Ask for pieces again that were lost."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = asyncio.get_running_loop().time()
            for node, pieces in list(self._pieces.items()):
                for number, item in list(pieces.items()):
                    if not item.wanted and now - item.first > LOST_SECONDS:
                        del pieces[number]
                        item.came(ABSENT, b"", 0.0)
                    elif item.wanted and self._is_lost(node, item, now):
                        self._again(number, item, now)

    def _is_lost(self, node: NodeId, item: AskedPiece, now: float) -> bool:
        least = PATIENCE * self._options.retry_seconds
        pause = max(least, min(SLOW * self._took.get(node, 0.0), LOST_SECONDS / SLOW))
        if item.attempt:
            return now - item.asked > pause * GROWTH ** min(item.attempt, SLOW)
        return now - max(item.asked, self._moved.get(node, 0.0)) > pause

    def _again(self, number: int, item: AskedPiece, now: float) -> None:
        peer = self._network.peers.get(item.peer)
        if peer is not None:
            item.asked, item.overtaken, item.attempt = now, 0, item.attempt + 1
            self._question(peer, number, item.attempt, PIECE_OF, item.body)

    def _lost(self, node: NodeId) -> None:
        what = f"{node.hex()[:16]} went away"
        for question in self._asked.values():
            if question.peer == node and not question.answer.done():
                error = TransportError.of("QRES-E904", "transport.grpc", what)
                question.answer.set_exception(error)
        for item in self._pieces.pop(node, {}).values():
            item.came(ABSENT, b"", 0.0)

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
        number = int.from_bytes(data[:NUMBER_BYTES], "big")
        status, rest = data[NUMBER_BYTES], data[NUMBER_BYTES + 1 :]
        question = self._asked.get(number)
        if question is not None:
            if question.peer == peer.node and not question.answer.done():
                question.answer.set_result((status, rest))
            return
        item = self._pieces.get(peer.node, {}).pop(number, None)
        if item is not None:
            self._came(peer.node, number, item, status, rest)

    def _came(self, node: NodeId, number: int, item: AskedPiece, status: int, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        # From the last question on: the one before was lost, or the answer takes at least so long.
        self._moved[node], took = now, now - item.asked
        self._took[node] = 0.8 * self._took.get(node, took) + 0.2 * took
        item.came(status, data, took)
        for earlier, other in list(self._pieces.get(node, {}).items()):
            if earlier < number and other.wanted:
                other.overtaken += 1
                if other.overtaken >= OVERTAKEN and not other.attempt:
                    self._again(earlier, other, now)

    def _questioned(self, peer: Acquaintance, data: bytes) -> None:
        if len(data) < NUMBER_BYTES + 2:
            self._network.blame(peer, "a question that is none")
            return
        number = int.from_bytes(data[:NUMBER_BYTES], "big")
        attempt, wanted = data[NUMBER_BYTES], data[NUMBER_BYTES + 1 : NUMBER_BYTES + 2]
        body = data[NUMBER_BYTES + 2 :]
        if wanted == bytes([PIECE_OF]):
            self._serve_piece(peer, number, attempt, body)
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
                self._utter(peer, ANSWER, reply[:NUMBER_BYTES], reply[NUMBER_BYTES:], attempt)
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
            self._utter(peer, ANSWER, words[:NUMBER_BYTES], words[NUMBER_BYTES:], attempt)

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

    def _serve_piece(self, peer: Acquaintance, number: int, attempt: int, body: bytes) -> None:
        """Send a piece in its turn; it is read and sealed then, for a question costs little."""
        head = number.to_bytes(NUMBER_BYTES, "big")

        def made() -> bytes:
            if not self._allows(peer.node, body):
                self._network.tally.drop(ASKED_AGAIN)
                return head + bytes([BUSY])
            status, data = self._piece(body)
            self._network.tally.bytes_sent += len(data)
            return head + bytes([status]) + data

        if not self._network.say_in_turn(peer, ANSWER, head, made, attempt):
            self._network.tally.drop("too many questions")
