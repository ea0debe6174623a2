"""Streams over a line that carries little each way: none breaks, and votes do not wait long."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import DEFAULT_WINDOW_SIZE, YamuxStream
from qres_transport_libp2p.clock import spawn
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.slots import UNSENT_BYTES
from qres_transport_libp2p.yamux import (
    FRAME_BYTES,
    ROOM_SECONDS,
    GatheringStream,
    ShieldedYamux,
)

RATE = 25_000
"""Bytes a second: what TCP carries in a poor minute, at 200 ms there and back and 2 % loss."""
DELAY = 0.1
MODEL = 1_000_000
AT_ONCE = 2
"""Models under way in each direction."""
WORD = b"vote" * 100


class SlowEnd:
    """One end of a line; its kernel takes a little more than what is under way, and no more."""

    def __init__(self, *, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        self.other: SlowEnd
        self._sent_until = 0.0
        self._coming: deque[tuple[float, bytes]] = deque()
        self._came = trio.Event()

    async def write(self, data: bytes) -> None:
        now = trio.current_time()
        self._sent_until = max(now, self._sent_until) + len(data) / RATE
        self.other._coming.append((self._sent_until + DELAY, data))
        self.other._came.set()
        await trio.sleep(max(0.0, self._sent_until - now - UNSENT_BYTES / RATE))

    async def read(self, size: int | None = None) -> bytes:
        while not self._coming:
            self._came = trio.Event()
            await self._came.wait()
        at, data = self._coming.popleft()
        await trio.sleep(max(0.0, at - trio.current_time()))
        if size is not None and len(data) > size:
            self._coming.appendleft((at, data[size:]))
        return data[:size]

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()


def play(main: Callable[[ShieldedYamux, ShieldedYamux, trio.Nursery], Awaitable[None]]) -> None:
    async def run() -> None:
        ends = SlowEnd(is_initiator=True), SlowEnd(is_initiator=False)
        ends[0].other, ends[1].other = ends[1], ends[0]
        lower: list[Any] = list(ends)
        muxed = [
            ShieldedYamux(end, peer_id(bytes([number]) * 32), is_initiator=end.is_initiator)
            for number, end in enumerate(lower)
        ]
        async with trio.open_nursery() as nursery:
            for conn in muxed:
                spawn(nursery, conn.start)
                await conn.event_started.wait()
            await main(muxed[0], muxed[1], nursery)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))


async def whole(stream: Any, size: int) -> float:
    """Read so many bytes; when the last one came."""
    while size:
        size -= len(await stream.read(min(size, 2**18)))
    return trio.current_time()


@pytest.mark.parametrize("kind", [GatheringStream, YamuxStream])
def test_models_each_way_break_no_stream_and_take_what_the_line_takes(
    monkeypatch: pytest.MonkeyPatch, kind: type[YamuxStream]
) -> None:
    """The control is libp2p's own write. When it fails, ``GatheringStream.write`` may go."""
    monkeypatch.setattr(yamux, "YamuxStream", GatheringStream)
    if kind is YamuxStream:
        monkeypatch.delattr(GatheringStream, "write")
    broken: list[MuxedStreamError] = []
    took: list[float] = []
    late: list[float] = []

    async def give(conn: ShieldedYamux) -> None:
        try:
            stream = await conn.open_stream()
            await stream.write(bytes(MODEL))
        except MuxedStreamError as error:
            broken.append(error)

    async def main(left: ShieldedYamux, right: ShieldedYamux, nursery: trio.Nursery) -> None:
        word = await left.open_stream()
        heard = await right.accept_stream()
        done = trio.Event()

        async def take(conn: ShieldedYamux) -> None:
            stream = await conn.accept_stream()
            took.append(await whole(stream, MODEL))
            if len(took) == 2 * AT_ONCE:
                done.set()

        for conn in (left, right):
            for _ in range(AT_ONCE):
                spawn(nursery, give, conn)
                spawn(nursery, take, conn)
        with trio.move_on_after(3 * AT_ONCE * MODEL / RATE):
            for _ in range(3):
                await trio.sleep(5)
                said = trio.current_time()
                await word.write(WORD)
                late.append(await whole(heard, len(WORD)) - said)
            await done.wait()

    play(main)
    if kind is YamuxStream:
        assert broken
        return
    assert broken == []
    assert len(took) == 2 * AT_ONCE
    assert max(took) < 1.05 * AT_ONCE * MODEL / RATE
    # What the kernel has taken, and a frame of each stream.
    assert max(late) < (UNSENT_BYTES + (AT_ONCE + 2) * FRAME_BYTES) / RATE + 2 * DELAY


def test_a_stream_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "YamuxStream", GatheringStream)

    async def main(left: ShieldedYamux, right: ShieldedYamux, nursery: trio.Nursery) -> None:
        del right, nursery
        stream = await left.open_stream()
        await stream.write(b"")
        await stream.write(bytes(DEFAULT_WINDOW_SIZE))
        began = trio.current_time()
        with pytest.raises(MuxedStreamError, match="no room"):
            await stream.write(b"more")
        assert trio.current_time() - began == pytest.approx(ROOM_SECONDS, abs=0.1)

    play(main)


def test_a_stream_that_is_over_waits_for_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yamux, "YamuxStream", GatheringStream)

    async def main(left: ShieldedYamux, right: ShieldedYamux, nursery: trio.Nursery) -> None:
        del nursery
        stream = await left.open_stream()
        other = await right.accept_stream()
        await stream.write(bytes(DEFAULT_WINDOW_SIZE))
        await other.reset()
        began = trio.current_time()
        with pytest.raises(MuxedStreamError, match="closed"):
            await stream.write(b"more")
        assert trio.current_time() - began < ROOM_SECONDS / 2

    play(main)
