"""Frames, each with a number: sent again until the other end says that it came, for some seconds.

How long that waits follows from how long confirmations take, as in TCP (RFC 6298): on a long line
every frame would else be sent twice. A hub that drops some messages then only delays frames; a link
between two nodes over TCP loses none either. Acknowledgements are gathered for a moment: many
numbers of 8 bytes in one message.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from qres_core import NodeId
from qres_transport_grpc.network import FRAME, RECEIPT, GrpcNetwork
from qres_transport_grpc.options import FRAME_MOST, GrpcOptions
from qres_transport_grpc.peers import Acquaintance
from qres_transport_grpc.seal import OnceWindow, SealedSession

NUMBER_BYTES: Final = 8
RECEIPTS: Final = 256
"""Most numbers in one acknowledgement."""
ATTEMPTS: Final = 7
SLOW: Final = 2
"""A frame is sent again after this many times what confirmations took lately."""
LONGEST_SECONDS: Final = 4.0
GATHER_SECONDS: Final = 0.02
TICK_SECONDS: Final = 0.05


@attrs.define(eq=False)
class _Unconfirmed:
    words: bytes
    sent: float
    due: float
    pause: float
    attempts: int = 1


@attrs.define(eq=False)
class _Waits:
    """Times that confirmations of a node take."""

    pause: float  # seconds until a frame is sent again
    took: float = 0.0  # smoothed; 0 before the first

    def confirmed(self, took: float, least: float) -> None:
        """A frame was confirmed that was sent once; of others it is not known which one was."""
        self.took = 0.8 * (self.took or took) + 0.2 * took
        self.pause = min(max(least, SLOW * self.took), LONGEST_SECONDS)

    def missed(self, pause: float) -> None:
        """A frame is sent again: the next ones wait as long, until one is confirmed at once."""
        self.pause = min(max(self.pause, pause), LONGEST_SECONDS)


@attrs.define(eq=False)
class _Heard:
    """Frames that came in one session."""

    session: SealedSession
    numbers: OnceWindow = attrs.field(factory=OnceWindow)
    receipts: list[bytes] = attrs.field(factory=list[bytes])


class GrpcFrames:
    """Sends and delivers.

    Args:
        network: the links.
        options: limits.
        deliver: takes frames; false where there is no room.
    """

    def __init__(
        self,
        network: GrpcNetwork,
        options: GrpcOptions,
        deliver: Callable[[NodeId, bytes], bool],
    ) -> None:
        self._network, self._options, self._deliver = network, options, deliver
        # One for each node: what is said to others must not make a number too old to be known.
        self._numbers: dict[NodeId, Iterator[int]] = {}
        self._unconfirmed: dict[NodeId, OrderedDict[int, _Unconfirmed]] = {}
        self._heard: dict[NodeId, _Heard] = {}
        self._waits: dict[NodeId, _Waits] = {}
        network.serve({FRAME: self._take, RECEIPT: self._confirmed}, self._lost)

    def send(self, peer: Acquaintance, frame: bytes) -> bool:
        """Send a frame to a node that is linked; false where too many are not confirmed yet."""
        waiting = self._unconfirmed.setdefault(peer.node, OrderedDict())
        if len(waiting) >= self._options.outbox_frames:
            return False
        number = next(self._numbers.setdefault(peer.node, itertools.count(1)))
        words, now = number.to_bytes(NUMBER_BYTES, "big") + frame, asyncio.get_running_loop().time()
        pause = self._waits_of(peer.node).pause
        waiting[number] = _Unconfirmed(words, now, now + pause, pause)
        self._network.say(peer, FRAME, words)
        return True

    def _waits_of(self, node: NodeId) -> _Waits:
        if node not in self._waits:
            self._waits[node] = _Waits(self._options.retry_seconds / 2)
        return self._waits[node]

    async def keep(self) -> None:
        """Send again what is not confirmed."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = loop.time()
            for node, waiting in list(self._unconfirmed.items()):
                peer = self._network.peers.get(node)
                for number, item in list(waiting.items()):
                    if peer is None or item.attempts >= ATTEMPTS:
                        del waiting[number]
                        self._network.tally.drop("not confirmed")
                    elif item.due <= now:
                        item.pause *= 1.5
                        self._waits_of(node).missed(item.pause)
                        item.due, item.attempts = now + item.pause, item.attempts + 1
                        self._network.say(peer, FRAME, item.words)

    def _lost(self, node: NodeId) -> None:
        for _item in self._unconfirmed.pop(node, ()):
            self._network.tally.drop("not confirmed")

    def _take(self, peer: Acquaintance, data: bytes) -> None:
        frame = data[NUMBER_BYTES:]
        if not 1 <= len(frame) <= FRAME_MOST:
            self._network.blame(peer, "no frame, or too large a one")
            return
        if peer.link is None:
            return
        heard = self._heard.get(peer.node)
        if heard is None or heard.session is not peer.link.session:
            heard = self._heard[peer.node] = _Heard(peer.link.session)
        number = int.from_bytes(data[:NUMBER_BYTES], "big")
        if heard.numbers.fresh(number):
            if not self._deliver(peer.node, frame):
                return  # no room: it is sent again
            heard.numbers.take(number)
        if not heard.receipts:
            loop = asyncio.get_running_loop()
            loop.call_later(GATHER_SECONDS, self._confirm, peer, heard)
        heard.receipts.append(data[:NUMBER_BYTES])

    def _confirm(self, peer: Acquaintance, heard: _Heard) -> None:
        receipts, heard.receipts = heard.receipts, []
        if peer.link is None or heard.session is not peer.link.session:
            return  # its next start has frames of the same numbers
        for start in range(0, len(receipts), RECEIPTS):
            self._network.say(peer, RECEIPT, b"".join(receipts[start : start + RECEIPTS]))

    def _confirmed(self, peer: Acquaintance, data: bytes) -> None:
        if not data or len(data) % NUMBER_BYTES or len(data) > NUMBER_BYTES * RECEIPTS:
            self._network.blame(peer, "no acknowledgement")
            return
        waiting = self._unconfirmed.get(peer.node)
        if waiting is None:
            return
        now = asyncio.get_running_loop().time()
        for start in range(0, len(data), NUMBER_BYTES):
            item = waiting.pop(int.from_bytes(data[start : start + NUMBER_BYTES], "big"), None)
            if item is not None and item.attempts == 1:
                least = self._options.retry_seconds / 2
                self._waits_of(peer.node).confirmed(now - item.sent, least)
