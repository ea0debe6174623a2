"""What slow lines carry: each piece once; in virtual time, with bytes counted."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from qres_carrier import SharedBlobStore, Tally
from qres_transport_grpc import Grpc, blobs, frames
from qres_transport_grpc.blobs import PIECE, BlobPuller, HolderPace, PieceService
from qres_transport_grpc.exchanges import Exchanges
from qres_transport_grpc.frames import GrpcFrames
from qres_transport_grpc.network import FRAME, RECEIPT
from qres_transport_grpc.turns import Turns

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef

BLOB = b"".join(bytes([number]) * CHUNK for number in range(4))
REF = BlobRef.of(BLOB)
SLOW = 2e6 / 8
"""Bytes a second."""

pytestmark = pytest.mark.usefixtures("virtual_time")


def node(number: int) -> NodeId:
    return bytes([number]) * 32


class Wire:
    """Nodes over lines of their own: what one says leaves it at its rate, and comes after a delay.

    What is large waits in the sender's queue until its line is idle, as over a hub.
    """

    def __init__(self, rate: float = SLOW, delay: float = 0.2) -> None:
        self.rate, self.delay = rate, delay
        self.ends: dict[NodeId, End] = {}
        self.carried: Counter[NodeId] = Counter()  # bytes, by who sent them
        self.lose: Callable[[NodeId, int, bytes], bool] = lambda _node, _kind, _data: False


class End:
    """A node's network, as far as exchanges and frames see it."""

    def __init__(self, wire: Wire, me: NodeId) -> None:
        self.wire, self.me = wire, me
        self.tally = Tally()
        self.takers: dict[int, Callable[[Any, bytes], None]] = {}
        self.peers: dict[NodeId, Any] = {}
        self.free = 0.0
        self.turns = Turns(lambda _to, _attempt: self.idle, self._send)
        self.serve = lambda takers, _lost: self.takers.update(takers)
        self.session = object()
        wire.ends[me] = self

    def knows(self, *others: NodeId) -> None:
        for other in others:
            link = SimpleNamespace(session=self.session)
            self.peers[other] = SimpleNamespace(node=other, up=True, link=link)

    @property
    def idle(self) -> bool:
        return self.free <= asyncio.get_running_loop().time() + PIECE / self.wire.rate

    def _send(self, to: NodeId, _attempt: int, words: bytes) -> None:
        self.say(self.peers[to], words[0], words[1:])

    def say(self, peer: Any, kind: int, data: bytes, _attempt: int = 0) -> bool:
        loop, wire = asyncio.get_running_loop(), self.wire
        wire.carried[self.me] += len(data)
        large = len(data) > PIECE // 2
        if large:  # the small overtake it
            self.free = max(self.free, loop.time()) + len(data) / wire.rate
            loop.call_at(self.free, self.turns.go_on)
        if not wire.lose(self.me, kind, data):
            other = wire.ends[peer.node]
            taken = lambda: other.takers[kind](other.peers[self.me], data)  # noqa: E731
            loop.call_at((self.free if large else loop.time()) + wire.delay, taken)
        return True

    def say_in_turn(
        self, peer: Any, kind: int, number: bytes, make: Callable[[], bytes], attempt: int = 0
    ) -> bool:
        return self.turns.put(peer.node, (kind, number), lambda: bytes([kind]) + make(), attempt)

    def blame(self, _peer: Any, what: str) -> None:
        raise AssertionError(what)


def ends(wire: Wire, count: int) -> list[BlobPuller]:
    """Nodes that know each other; the last one has the blob."""
    made: list[BlobPuller] = []
    for number in range(count):
        end = End(wire, node(number))
        end.knows(*(node(other) for other in range(count) if other != number))
        store = SharedBlobStore(None, 2 * len(BLOB))
        asks: Any = Exchanges(
            end,
            Grpc(hubs=()),
            SimpleNamespace(),
            {},
            PieceService(store).answer,  # type: ignore[arg-type]
        )
        puller = BlobPuller(asks, Grpc(hubs=()), store, Tally(), lambda _node: True)
        puller.keep = asks.keep  # type: ignore[attr-defined]
        made.append(puller)
    made[-1].publish(REF, BLOB, CHUNK)
    return made


def pulled(wire: Wire, within: float = 10.0, receivers: int = 1) -> tuple[float, float]:
    """Seconds that pulls take over those of the line, and bytes that it carried over the blobs'."""

    async def main() -> tuple[float, float]:
        *pulling, _holder = ends(wire, receivers + 1)
        loop = asyncio.get_running_loop()
        began = loop.time()
        keeping = [loop.create_task(end.keep()) for end in pulling]  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as group:
            for end in pulling:
                group.create_task(end.fetch(REF, [node(receivers)], within))
        took = loop.time() - began
        for task in keeping:
            task.cancel()
        await asyncio.sleep(200.0)  # for what is still in the queue
        size = receivers * len(BLOB)
        return took * wire.rate / size, wire.carried[node(receivers)] / size

    result: tuple[float, float] = anyio.run(main)
    return result


@pytest.mark.claim("C-grpc-26")
@pytest.mark.parametrize("megabits", [1, 2, 5, 20, 100])
def test_a_slow_line_carries_each_piece_once(megabits: float) -> None:
    """Four receivers ask one holder: its line is full all the time, and with nothing twice."""
    seconds, carried = pulled(Wire(megabits * 1e6 / 8), receivers=4)
    assert carried < 1.05
    assert seconds < 1.2 if megabits < 100 else seconds < 2.0  # there the delay is longer


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for many pieces, and for each again and again, as if all had been lost."""
    monkeypatch.setattr(blobs, "HolderPace", partial(HolderPace, size=32))
    monkeypatch.setattr(Exchanges, "_is_lost", lambda _self, _node, item, now: now > item.asked + 4)


@pytest.mark.claim("C-grpc-26")
def test_a_question_that_comes_again_while_its_answer_waits_costs_no_second_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(monkeypatch)
    _seconds, carried = pulled(Wire())
    assert carried < 1.6  # those that are on the way and have not come


@pytest.mark.control("C-grpc-26")
def test_control_answered_each_time_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Turns.put

    def copied(self: Turns, to: NodeId, _key: object, *args: Any) -> bool:
        return put(self, to, object(), *args)

    impatient(monkeypatch)
    monkeypatch.setattr(Turns, "put", copied)
    _seconds, carried = pulled(Wire())
    assert carried > 2, carried


def test_less_is_asked_of_a_holder_that_gives_slowly_and_more_of_one_that_gives_fast() -> None:
    """About two seconds' worth of bytes are on their way from it."""

    def at_last(seconds_each: float, delay: float) -> int:
        pace, now = HolderPace(32), 0.0
        free, flying = 0.0, list[tuple[float, float]]()
        for _ in range(500):
            while pace.flying < pace.size:
                free = max(free, now) + seconds_each
                flying.append((now, free + delay))
                pace.flying += 1
            asked, now = flying.pop(0)
            pace.came(now - asked, now)
            pace.flying -= 1
        return pace.size

    assert at_last(0.001, 0.2) == 32  # the most
    for each in (0.1, 0.2, 0.5):
        assert 1.5 <= at_last(each, 0.2) * each + 0.2 <= 3.2
    assert at_last(5.0, 0.2) == 1


@pytest.mark.parametrize("once", [True, False])
def test_pieces_that_are_late_for_one_reason_make_room_for_one_less(
    monkeypatch: pytest.MonkeyPatch,
    once: bool,  # noqa: FBT001 - False is the control
) -> None:
    """The line is full for four seconds, as when all begin at once; then it carries what is asked.

    In the control each late piece counts. So few are asked for that the line idles afterwards.
    """
    if not once:
        came = HolderPace.came

        def forgets(pace: HolderPace, took: float, now: float) -> None:
            pace.shrunk = -math.inf
            came(pace, took, now)

        monkeypatch.setattr(HolderPace, "came", forgets)
    each, delay, many = 0.4, 0.4, 60
    pace, now, free = HolderPace(32, size=6), 0.0, 4.0
    flying = list[tuple[float, float]]()
    for left in range(many, 0, -1):
        while pace.flying < min(pace.size, left):
            free = max(free, now) + each
            flying.append((now, free + delay))
            pace.flying += 1
        asked, now = flying.pop(0)
        pace.came(now - asked, now)
        pace.flying -= 1
    idle = now - (4.0 + many * each + delay)
    assert (idle < 0.1) is once, (idle, pace.size)


@pytest.mark.claim("C-grpc-27")
def test_a_piece_that_comes_after_its_pull_was_given_up_is_kept() -> None:
    """The line stands still for longer than the pull's patience; nothing is asked for again."""
    asked, carried = _late()
    assert asked == 1.0
    assert carried == pytest.approx(1.0, abs=0.01)


@pytest.mark.control("C-grpc-27")
def test_control_forgotten_it_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    leave = BlobPuller._leave

    def forget(self: BlobPuller, root: bytes) -> None:
        leave(self, root)
        self._parts.clear()

    monkeypatch.setattr(BlobPuller, "_leave", forget)
    asked, carried = _late()
    assert asked > 1.0
    assert carried > 1.0


def _late() -> tuple[float, float]:
    """Questions over pieces, and bytes over the blob's, where a line stands still for 20 s."""
    wire, size = Wire(1e6, delay=20.0), CHUNK
    ref, questions = BlobRef.of(BLOB[:size]), 0

    async def main() -> None:
        nonlocal questions
        receiver, holder = ends(wire, 2)
        holder.publish(ref, BLOB[:size], CHUNK)
        want = receiver._exchanges.want

        def counted(*args: Any) -> Any:
            nonlocal questions
            questions += 1
            return want(*args)

        receiver._exchanges.want = counted  # type: ignore[method-assign]
        with pytest.raises(TransportError, match="QRES-E905"):
            await receiver.fetch(ref, [node(1)], 10.0)
        await asyncio.sleep(40.0)
        wire.delay = 0.2
        assert await receiver.fetch(ref, [node(1)], 10.0) == BLOB[:size]

    anyio.run(main)
    return questions / (size // PIECE), wire.carried[node(1)] / size


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_pieces_that_a_hub_drops_are_asked_for_again_and_no_others(share: float) -> None:
    wire, count = Wire(5e6 / 8), 0

    def lose(_node: NodeId, _kind: int, data: bytes) -> bool:
        nonlocal count
        count += len(data) > PIECE // 2
        return len(data) > PIECE // 2 and math.floor(count * share) > math.floor(
            (count - 1) * share
        )

    wire.lose = lose
    _seconds, carried = pulled(wire)
    assert carried < 1.1 / (1 - share), (_seconds, carried)


def test_frames_are_not_sent_twice_on_a_long_line() -> None:
    """How long a frame waits for its confirmation follows from how long the others took."""
    assert framed() <= 1.1


def test_control_after_a_fixed_time_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames._Waits, "confirmed", lambda *_args: None)
    monkeypatch.setattr(frames._Waits, "missed", lambda *_args: None)
    assert framed() > 2


def framed() -> float:
    """How often each of a hundred frames is sent, where there and back takes 0.8 s."""
    wire, got, sent = Wire(1e9, delay=0.4), list[bytes](), Counter[int]()

    async def main() -> None:
        first, second = End(wire, node(0)), End(wire, node(1))
        first.knows(node(1))
        second.knows(node(0))
        out = GrpcFrames(first, Grpc(hubs=()), lambda *_args: True)  # type: ignore[arg-type]
        GrpcFrames(second, Grpc(hubs=()), lambda _node, data: not got.append(data))  # type: ignore[arg-type]
        said = first.say

        def counted(peer: Any, kind: int, *args: Any) -> bool:
            sent[kind] += 1
            return said(peer, kind, *args)

        first.say = counted  # type: ignore[method-assign]
        keeping = asyncio.get_running_loop().create_task(out.keep())
        for number in range(100):
            out.send(first.peers[node(1)], bytes([number + 1]))
            await asyncio.sleep(0.3)
        await asyncio.sleep(10.0)
        keeping.cancel()

    anyio.run(main)
    assert len(got) == 100
    assert not sent[RECEIPT]
    return sent[FRAME] / 100
