"""Buckets, mailboxes and counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from qres_carrier import Mailbox, SenderBuckets, Tally, TokenBucket

from qres_core.errors import RoundError
from qres_core.transport import TransportStats

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def over() -> RoundError:
    return RoundError.of("QRES-E603", "transport", "over")


def poster(backend: str) -> Callable[[Callable[[], object]], None]:
    """What runs something in this loop, from any thread."""
    if backend == "trio":
        return trio.lowlevel.current_trio_token().run_sync_soon
    loop = asyncio.get_running_loop()
    return lambda function: loop.call_soon_threadsafe(function) and None


def test_a_bucket_lets_a_burst_and_then_the_rate_through() -> None:
    now = [0.0]
    bucket = TokenBucket(10.0, 3, clock=lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now[0] = 0.1
    assert bucket.take()
    assert not bucket.take()
    assert bucket.wait() == pytest.approx(0.1)
    assert bucket.wait() == pytest.approx(0.2)
    now[0] = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_a_bucket_may_be_paid_in_bytes() -> None:
    now = [0.0]
    bucket = TokenBucket(100.0, 50, clock=lambda: now[0])
    assert bucket.wait(50) == 0
    assert bucket.wait(200) == pytest.approx(2.0)
    now[0] = 2.0
    assert bucket.wait(0) == 0


def test_a_sender_s_bucket_is_kept_until_it_is_full_again() -> None:
    now = [0.0]
    buckets = SenderBuckets(lambda: TokenBucket(1.0, 3, clock=lambda: now[0]))
    assert buckets.of("a").wait(5) == pytest.approx(2.0)
    assert buckets.of("b").take(3)
    assert not buckets.of("b").take()
    assert len(buckets) == 2
    for number in range(100):  # of those that take nothing the newest alone is kept
        buckets.of(number)
    assert len(buckets) == 3
    now[0] = 3.0  # now the second is full again, and the first is not
    assert not buckets.of("a").take(2)
    buckets.of("c")
    assert len(buckets) == 2
    assert buckets.of("b").take(3)


@pytest.mark.claim("C-carrier-1")
@BACKENDS
def test_a_mailbox_is_filled_from_threads_and_bounded(backend: str) -> None:
    async def main() -> None:
        box: Mailbox[int] = Mailbox(2)
        box.bind(poster(backend))
        got: list[int] = []

        async def read() -> None:
            got.append(await box.get())

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.sleep(0.05)
            threading.Thread(target=box.put, args=(7,)).start()
        assert got == [7]
        assert [box.put(number) for number in range(3)] == [True, True, False]
        with anyio.move_on_after(0):
            await box.get()  # cancelled: takes nothing
        assert [await box.get(), await box.get()] == [0, 1]
        for _ in range(3):
            with anyio.move_on_after(0.01):
                await box.get()
        assert not box._waiting
        box.close(over)
        assert not box.put(1)
        with pytest.raises(RoundError, match="over"):
            await box.get()

    anyio.run(main, backend=backend)


def test_a_mailbox_may_drop_the_oldest() -> None:
    async def main() -> None:
        box: Mailbox[int] = Mailbox(2, drop_oldest=True)
        assert all(box.put(number) for number in range(5))
        assert [await box.get(), await box.get()] == [3, 4]

    anyio.run(main)


@pytest.mark.claim("C-carrier-1")
def test_no_source_of_a_mailbox_takes_the_room_of_others() -> None:
    """A source may have as many items as there is room left; sources take turns."""

    async def main() -> None:
        box: Mailbox[str] = Mailbox(12)
        assert sum(box.put(f"a{number}", "a") for number in range(50)) == 6
        assert sum(box.put(f"b{number}", "b") for number in range(50)) == 3
        assert len(box) == 9
        assert box.put("c0", "c")  # there is room for whoever has none
        got = [await box.get() for _ in range(4)]
        assert got == ["a0", "b0", "c0", "a1"]
        # Each keeps its own order.
        rest = [await box.get() for _ in range(len(box))]
        assert [item for item in rest if item[0] == "b"] == ["b1", "b2"]

    anyio.run(main)


def test_a_mailbox_may_keep_whatever_it_has() -> None:
    async def main() -> None:
        box: Mailbox[str] = Mailbox(4, keeps=True)
        assert [box.put(item, item[0]) for item in ("a0", "a1", "b0", "c0")] == [True] * 4
        assert not box.put("d0", "d")
        assert await box.get() == "a0"
        assert box.put("d0", "d")
        assert [await box.get() for _ in range(4)] == ["b0", "c0", "a1", "d0"]

    anyio.run(main)


@pytest.mark.control("C-carrier-1")
@example([1, 1, 1, 2, 3], 5)
@given(st.lists(st.integers(0, 4), max_size=200), st.integers(5, 40))
def test_whoever_has_nothing_in_a_mailbox_finds_room(puts: list[int], room: int) -> None:
    """Whatever up to four others did, one after the other too, each with half of what was left."""
    box: Mailbox[int] = Mailbox(room)
    for source in puts:
        if source:
            box.put(source, source)
        elif len(box):
            box._take()
    sources = {source for source in puts if source}
    assert box.put(0, 0)
    assert len(box) <= room
    left = [box._take() for _ in range(len(box))]
    assert 0 in left
    assert set(left) <= sources | {0}


def test_counts_have_their_reasons() -> None:
    tally = Tally(frames_sent=2)
    tally.drop("inbox full")
    tally.drop("inbox full")
    tally.refuse("stranger")
    tally.spoilt("garbage")
    assert tally.snapshot() == TransportStats(
        frames_sent=2,
        frames_dropped=2,
        refused=1,
        malformed=1,
        reasons={"inbox full": 2, "stranger": 1, "garbage": 1},
    )
