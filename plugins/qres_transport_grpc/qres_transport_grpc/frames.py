"""Frames, each with a number: sent again until the other end says that it came, for some seconds.

A hub that drops some messages then only delays frames; a link between two nodes over TCP loses none
either. Acknowledgements are gathered for a moment: many numbers of 8 bytes in one message.
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
GATHER_SECONDS: Final = 0.02
TICK_SECONDS: Final = 0.05


@attrs.define(eq=False)
class _Unconfirmed:
    words: bytes
    due: float
    pause: float
    attempts: int = 1


@attrs.define(eq=False)
class _Heard:
    """What came in one session."""

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
        network.serve({FRAME: self._take, RECEIPT: self._confirmed}, self._lost)

    def send(self, peer: Acquaintance, frame: bytes) -> bool:
        """Send a frame to a node that is linked; false where too many are not confirmed yet."""
        waiting = self._unconfirmed.setdefault(peer.node, OrderedDict())
        if len(waiting) >= self._options.outbox_frames:
            return False
        number = next(self._numbers.setdefault(peer.node, itertools.count(1)))
        words, pause = number.to_bytes(NUMBER_BYTES, "big") + frame, self._options.retry_seconds / 2
        due = asyncio.get_running_loop().time() + pause
        waiting[number] = _Unconfirmed(words, due, pause)
        self._network.say(peer, FRAME, words)
        return True

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
        for start in range(0, len(data), NUMBER_BYTES):
            waiting.pop(int.from_bytes(data[start : start + NUMBER_BYTES], "big"), None)
