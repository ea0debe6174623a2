"""Pulls of blobs beside holders that say nothing, give slowly or lie; in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from qres_carrier import SharedBlobStore, Tally
from qres_transport_grpc import Grpc
from qres_transport_grpc import blobs as module
from qres_transport_grpc.blobs import PIECE, PIECES, BlobPuller
from qres_transport_grpc.exchanges import ABSENT, ANSWERED, AskedPiece

from qres_core import NodeId
from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef

BLOB = b"".join(bytes([number]) * CHUNK for number in range(8))
REF = BlobRef.of(BLOB)
HONEST = bytes([255]) * 32
WITHIN = 10.0

pytestmark = pytest.mark.usefixtures("virtual_time")


def silent(number: int) -> NodeId:
    return bytes([number]) * 32


class Holders:
    """Answers as exchanges do, after as many seconds as each holder takes."""

    def __init__(self, seconds: Callable[[NodeId], float]) -> None:
        self.seconds = seconds
        self.asked: Counter[NodeId] = Counter()
        self.lies: set[NodeId] = set()
        self.lack: set[NodeId] = set()
        self.accused: list[NodeId] = []

    def want(self, to: NodeId, body: bytes, came: Callable[[int, bytes, float], None]) -> Any:
        self.asked[to] += 1
        loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        seconds = self.seconds(to)
        index, piece = int.from_bytes(body[32:36], "big"), body[36]
        start = index * CHUNK + piece * PIECE
        data = b"lie" if to in self.lies else BLOB[start : start + PIECE]
        status = ABSENT if to in self.lack else ANSWERED
        if seconds < math.inf:
            loop.call_later(seconds, came, status, data, seconds)
        return AskedPiece(to, body, came, now, now)

    def accuse(self, holder: NodeId, _what: str) -> None:
        self.accused.append(holder)


def puller(holders: Any) -> BlobPuller:
    store = SharedBlobStore(None, 2 * len(BLOB))
    return BlobPuller(holders, Grpc(hubs=()), store, Tally(), lambda _node: True)


def pull(
    holders: Holders, names: Sequence[NodeId], within: float = WITHIN, chunks: int = 8
) -> float:
    """Seconds that it takes to have the blob, or as many of its first chunks."""
    blob = BLOB[: chunks * CHUNK]

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        assert await puller(holders).fetch(BlobRef.of(blob), names, within) == blob
        return asyncio.get_running_loop().time() - began

    seconds: float = anyio.run(main)
    return seconds


@pytest.mark.claim("C-grpc-11")
@pytest.mark.parametrize("chunks", [1, 8])
@pytest.mark.parametrize("liars", [1, 3, 6])
def test_holders_that_say_nothing_keep_no_blob_waiting(liars: int, chunks: int) -> None:
    """Also where there are as many of them as are asked at once, or more, and they come first."""
    holders = Holders(lambda node: 0.1 if node == HONEST else math.inf)
    names = [*map(silent, range(liars)), HONEST]
    turns = math.ceil(math.log2(liars + 1))
    assert pull(holders, names, chunks=chunks) < (turns + 0.5) * module.TURN * WITHIN
    assert holders.asked[HONEST] == chunks * PIECES


@pytest.mark.control("C-grpc-11")
def test_control_without_a_second_question_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN", math.inf)
    holders = Holders(lambda node: 0.1 if node == HONEST else math.inf)
    with pytest.raises(TransportError, match="QRES-E905"):
        pull(holders, [silent(0), HONEST])


def test_a_pull_lives_while_something_of_it_comes() -> None:
    """As the contract says: no line is too slow for a blob as long as chunks come."""

    class Line(Holders):
        """One chunk after the other."""

        free = 0.0

        def want(self, *args: Any) -> Any:
            now = asyncio.get_running_loop().time()
            self.free = max(now, self.free) + 0.8 * WITHIN
            self.seconds = lambda _node: self.free - now
            return super().want(*args)

    line = Line(lambda _node: 0.0)
    assert pull(line, [HONEST]) == pytest.approx(8 * PIECES * 0.8 * WITHIN, rel=0.01)
    assert line.asked.total() == 8 * PIECES  # and no piece was asked for twice
    with pytest.raises(TransportError, match=r"QRES-E905.*nothing of it came for 7 s"):
        pull(Line(lambda _node: 0.0), [HONEST], 7.0)


def test_holders_on_a_slow_line_are_not_asked_twice() -> None:
    """A chunk is late if it takes far longer than others, however long all of them take."""
    holders = Holders(lambda _node: 0.2 * WITHIN)
    pull(holders, [silent(0), silent(1), HONEST])
    assert holders.asked.total() == 8 * PIECES
    slow = Holders(lambda node: 0.24 * WITHIN if node == HONEST else 0.9 * WITHIN)
    pull(slow, [HONEST, silent(0)])
    assert slow.asked.total() <= 12 * PIECES


@pytest.mark.claim("C-grpc-11")
def test_a_holder_that_gives_one_chunk_after_the_other_slowly_is_overtaken() -> None:
    holders = Holders(lambda node: 0.05 if node == HONEST else 9.0)
    assert pull(holders, [silent(0), HONEST]) < 2 * module.TURN * WITHIN


def test_who_pulls_it_already_from_worse_holders_delays_no_other() -> None:
    holders = Holders(lambda node: 0.1 if node == HONEST else math.inf)

    async def main() -> None:
        end = puller(holders)
        async with asyncio.TaskGroup() as group:
            bad = group.create_task(end.fetch(REF, [silent(0)], 4 * WITHIN))
            await asyncio.sleep(0)
            good = group.create_task(end.fetch(REF, [HONEST], WITHIN))
            assert await good == BLOB
            assert asyncio.get_running_loop().time() < 1.5 * WITHIN
            bad.cancel()
        assert not end._fetching

    anyio.run(main)


def test_who_lies_and_who_has_nothing_is_asked_no_more() -> None:
    holders = Holders(lambda _node: 0.01)
    holders.lies, holders.lack = {silent(0)}, {silent(1)}
    pull(holders, [silent(0), silent(1), HONEST])
    assert holders.accused in ([silent(0)], [])  # or it was asked for nothing
    for lies, lack, code in (({HONEST}, set(), "E906"), (set(), {HONEST}, "E904")):
        holders.lies, holders.lack = lies, lack
        with pytest.raises(TransportError, match=code):
            pull(holders, [HONEST])


def test_a_blob_that_comes_far_slower_than_others_makes_room_for_them() -> None:
    """Its pull ends when its next chunk comes."""
    holders = Holders(lambda node: 0.01 if node == HONEST else 8.0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        store = SharedBlobStore(None, 12 * CHUNK, loop.time)
        end: Any = BlobPuller(
            holders, Grpc(hubs=(), blob_window=1), store, Tally(), lambda _node: True
        )
        slow = loop.create_task(end.fetch(REF, [silent(0)], WITHIN))
        small, large = (BlobRef.of(BLOB[: number * CHUNK]) for number in (1, 7))
        assert await end.fetch(small, [HONEST], WITHIN) == BLOB[:CHUNK]
        await asyncio.sleep(20.0)
        assert await end.fetch(large, [HONEST], WITHIN) == BLOB[: 7 * CHUNK]
        with pytest.raises(TransportError, match=r"QRES-E905.*blobs that come faster"):
            await slow

    anyio.run(main)


class Scripted(Holders):
    """Holders whose answers a function decides."""

    def __init__(self, answers: Callable[[int, int], tuple[int, bytes]], seconds: float) -> None:
        super().__init__(lambda _holder: seconds)
        self.answers = answers

    def want(self, to: NodeId, body: bytes, came: Callable[[int, bytes, float], None]) -> Any:
        self.asked[to] += 1
        loop, seconds = asyncio.get_running_loop(), self.seconds(to)
        status, data = self.answers(int.from_bytes(body[32:36], "big"), body[36])
        loop.call_later(seconds, came, status, data, seconds)
        return AskedPiece(to, body, came, loop.time(), loop.time())


def right(index: int, piece: int) -> bytes:
    start = index * CHUNK + piece * PIECE
    return BLOB[start : start + PIECE]


def test_two_holders_whose_pieces_came_late_give_the_blob_to_the_next_pull() -> None:
    """Both gave all of it after the pull had ended: one of them is used, and the other let go."""
    data = BLOB[: PIECE + 7]
    ref = BlobRef.of(data)

    async def main() -> None:
        holders = Scripted(
            lambda _index, piece: (ANSWERED, data[piece * PIECE : (piece + 1) * PIECE]), 12.0
        )
        end = puller(holders)
        with pytest.raises(TransportError, match="QRES-E905"):
            await end.fetch(ref, [silent(1), silent(2)], WITHIN)
        await asyncio.sleep(10.0)
        asked = holders.asked.total()
        assert await end.fetch(ref, [silent(1), silent(2)], WITHIN) == data
        assert holders.asked.total() == asked, "nothing was asked for again"

    anyio.run(main)


def test_a_holder_that_gives_all_but_the_last_piece_again_and_again_does_not_hold_a_pull() -> None:
    holders = Scripted(
        lambda index, piece: (
            (ABSENT, b"") if piece == PIECES - 1 else (ANSWERED, right(index, piece))
        ),
        1.0,
    )

    async def main() -> float:
        with pytest.raises(TransportError, match=r"QRES-E90[45]"):
            await puller(holders).fetch(REF, [silent(1)], WITHIN)
        return asyncio.get_running_loop().time()

    assert anyio.run(main) < 3600.0
    assert holders.asked.total() < 100 * len(REF.chunks) * PIECES


def test_a_piece_of_another_length_is_a_lie_and_takes_no_room() -> None:
    holders = Scripted(lambda _index, _piece: (ANSWERED, bytes(PIECE + 1)), 0.1)
    kept: list[int] = []

    async def main() -> None:
        end = puller(holders)
        with pytest.raises(TransportError, match="QRES-E906"):
            await end.fetch(REF, [silent(1)], WITHIN)
        kept.extend(len(piece) for parts in end._parts.values() for piece in parts.here.values())

    anyio.run(main)
    assert kept == []
    assert holders.accused == [silent(1)]
