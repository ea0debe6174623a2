"""Frames of any size over the in-process transport, and links that try to hold them up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import anyio
import attrs
import pytest

from qres_core.builtin.memory import MemoryTransport
from qres_core.contract.transport import CHUNK
from qres_core.errors import ConfigError, RoundError, TransportError
from qres_core.swarm.runtime import carrier as carrier_module
from qres_core.swarm.runtime.carrier import (
    LONGEST_PULL,
    MOST_PULLS,
    PENDING,
    PULL_SECONDS,
    PULLED_BYTES,
    PULLS,
    Announce,
    Carrier,
    PullPace,
)
from qres_core.transport import BlobRef, Delivery, PeerChange, TransportLimits

A, B, C = (bytes([letter]) * 32 for letter in b"abc")
MAX = 4 * CHUNK
LIMITS = TransportLimits(4096, 4096, 2 * MAX)
BIG = b"\xab" + bytes(range(256)) * 8000  # about two chunks


pytestmark = pytest.mark.usefixtures("virtual_time")


@attrs.define(eq=False)
class End(MemoryTransport):
    """An end on bad terms with some of its neighbours.

    Attributes:
        serves: what it gives instead of a chunk.
        hangs: neighbours that let it wait for blobs.
        broken: the method that fails.
        slow: seconds that a blob takes.
        full: how often it has no room for one.
        fetched: roots it asked for, and whom it asked.
    """

    serves: Callable[[bytes], bytes] | None = None
    hangs: tuple[bytes, ...] = ()
    broken: str = ""
    slow: float = 0.0
    full: int = 0
    fetched: list[tuple[bytes, tuple[bytes, ...]]] = attrs.field(factory=list)

    def _serve(self, root: bytes, index: int) -> bytes:
        chunk = super()._serve(root, index)
        return chunk if self.serves is None else self.serves(chunk)

    async def receive(self) -> Delivery:
        if self.broken == "receive":
            raise OSError
        return await super().receive()

    async def fetch_blob(self, ref: BlobRef, holders: Sequence[bytes], within: float) -> bytes:
        self.fetched.append((ref.root, tuple(holders)))
        if self.broken == "fetch_blob":
            raise OSError
        if self.full > 0:
            self.full -= 1
            raise TransportError.of("QRES-E902", "test", "no room now")
        if set(holders) & set(self.hangs):
            await anyio.sleep(within)
            rest = [holder for holder in holders if holder not in self.hangs]
            try:
                return await super().fetch_blob(ref, rest, within)
            except TransportError:
                raise TransportError.of("QRES-E905", "test", "too slow") from None
        await anyio.sleep(self.slow)
        return await super().fetch_blob(ref, holders, within)


def end(node_id: bytes, limits: TransportLimits = LIMITS, **options: Any) -> End:
    return End(node_id, "carrier", 256, limits=limits, **options)


async def until(done: Callable[[], object]) -> None:
    while not done():  # noqa: ASYNC110 - what it waits for tells nobody
        await anyio.sleep(0.005)


@attrs.define(eq=False)
class Listener:
    """A node that only listens."""

    end: End
    carrier: Carrier
    heard: list[Delivery] = attrs.field(factory=list)

    async def take(self, delivery: Delivery) -> None:
        self.heard.append(delivery)

    async def hears(self, count: int) -> list[Delivery]:
        await until(lambda: len(self.heard) >= count)
        return self.heard


def play(scene: Callable[..., Awaitable[Any]], *ends: End) -> None:
    """Start all ends, let each listen, and run the scene."""

    async def main() -> None:
        listeners = [Listener(end, Carrier(end, MAX, liars=1)) for end in ends]
        try:
            for item in ends:
                await item.start()
            async with anyio.create_task_group() as group:
                for listener in listeners:
                    group.start_soon(listener.carrier.listen, listener.take)
                with anyio.fail_after(100):
                    await scene(*listeners)
                group.cancel_scope.cancel()
        finally:
            for item in ends:
                await item.aclose()

    anyio.run(main)


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, CHUNK, CHUNK + 1, MAX])
def test_frames_of_every_size_arrive(size: int) -> None:
    frame = (b"\xab" * size)[:size]

    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        await a.carrier.broadcast(frame)
        assert await b.hears(1) == await c.hears(1) == [Delivery(A, frame)]
        await b.carrier.send(A, frame)
        assert await a.hears(1) == [Delivery(B, frame)]
        large = int(size > LIMITS.frame)
        assert a.carrier.pulls.announced == b.carrier.pulls.announced == large
        assert b.carrier.pulls.pulled == len(b.end.fetched) == large

    play(scene, end(A), end(B), end(C))


def test_it_is_said_for_how_long_a_frame_was_pulled() -> None:
    async def scene(a: Listener, b: Listener) -> None:
        await a.carrier.broadcast(b"\xab")
        await a.carrier.broadcast(BIG)
        small, large = await b.hears(2)
        assert small.waited == 0.0
        assert large.waited == pytest.approx(90.0)

    play(scene, end(A), end(B, slow=90.0))


def test_a_frame_that_no_blob_holds_is_refused_to_its_sender() -> None:
    async def scene(a: Listener) -> None:
        with pytest.raises(TransportError, match="QRES-E901"):
            await a.carrier.broadcast(bytes(LIMITS.blob + 1))

    play(scene, end(A))


@pytest.mark.parametrize(
    ("limits", "fine"),
    [
        (TransportLimits(MAX, 1, 1), True),
        (TransportLimits(1024, 1, MAX), True),
        (TransportLimits(1024, 1, MAX - 1), False),
        (TransportLimits(64, 1, MAX), False),
    ],
)
def test_a_transport_that_cannot_carry_every_message_is_refused(
    limits: TransportLimits, *, fine: bool
) -> None:
    checked = Carrier(end(A, limits), MAX)
    if fine:
        checked.check()
        return
    with pytest.raises(ConfigError, match="QRES-E105") as caught:
        checked.check()
    (problem,) = caught.value.problems
    assert problem.where == "swarm.max_message_bytes"
    assert "lower swarm.max_message_bytes" in problem.fix


def test_a_frame_travels_as_the_transport_says_it_costs_less() -> None:
    small = attrs.evolve(LIMITS, inline=100)

    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        for size, announced in ((100, 0), (101, 1), (4096, 2)):
            frame = bytes([0xAB]) * size
            await a.carrier.broadcast(frame)
            for item in (b, c):
                assert (await item.hears(1)).pop() == Delivery(A, frame)
            assert a.carrier.pulls.announced == announced
        await c.carrier.broadcast(b"\xab" * 4096)  # the control
        await b.hears(1)
        assert c.carrier.pulls.announced == 0

    play(scene, end(A, small), end(B), end(C))


def test_what_was_announced_is_known_to_arrive_until_it_is_here() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        b.end.hangs = (A, C)
        await a.carrier.broadcast(BIG)
        await until(lambda: b.end.fetched)
        assert b.carrier.arriving() == {A}
        await c.hears(1)
        await until(lambda: not c.carrier.arriving())

    play(scene, end(A), end(B), end(C))


# ── how many at once ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("size", "most"),
    [
        (1000, MOST_PULLS),
        (PULLED_BYTES // MOST_PULLS, MOST_PULLS),
        (PULLED_BYTES // 8, 8),
        (PULLED_BYTES, PULLS),
    ],
)
def test_more_small_blobs_are_pulled_at_once_while_they_come(size: int, most: int) -> None:
    pace = PullPace(spare=2)
    assert pace.slots.total_tokens == PULLS + 2
    for _ in range(1000):
        pace.came(A, size)
    assert pace.slots.total_tokens == most + 2
    pace.came(A, PULLED_BYTES)
    assert pace.slots.total_tokens == PULLS + 2, "a large one is in memory"


def pulled_at_once(pace: PullPace, size: int) -> int:
    """The most slots that are taken when thirty blobs of a size are announced."""
    most = 0

    async def pull() -> None:
        nonlocal most
        async with pace.slot(size):
            most = max(most, pace.slots.borrowed_tokens)
            await anyio.sleep(1)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(pull)

    anyio.run(main)
    return most


@pytest.mark.parametrize("budget", [0, 10**12])
@pytest.mark.parametrize("size", [PULLED_BYTES, PULLED_BYTES // MOST_PULLS])
def test_small_blobs_that_came_let_no_more_large_ones_in(size: int, budget: int) -> None:
    """The control are small ones, of which so many are pulled. However much memory there is."""
    pace = PullPace(spare=2, budget=budget)
    for _ in range(1000):
        pace.came(A, 1000)
    assert pulled_at_once(pace, size) == (PULLS if size == PULLED_BYTES else MOST_PULLS) + 2


@pytest.mark.parametrize(
    ("size", "budget", "most"),
    [
        (1000, 0, PULLS),  # control: no budget
        (1000, 3500, 3),
        (1000, 10**9, PULLS),
        (1000, 10, 1),  # one must come, however little memory there is
    ],
)
def test_no_more_are_pulled_at_once_than_the_budget_of_memory_holds(
    size: int, budget: int, most: int
) -> None:
    assert pulled_at_once(PullPace(spare=2, budget=budget), size) == most + 2


def test_with_a_budget_fewer_small_blobs_are_pulled_at_once() -> None:
    for budget, most in ((0, MOST_PULLS), (8000, 8), (10**9, MOST_PULLS)):
        pace = PullPace(spare=2, budget=budget)
        for _ in range(1000):
            pace.came(A, 1000)
        assert pace.slots.total_tokens == most + 2


def test_fewer_are_pulled_at_once_after_one_stalls_and_its_source_is_given_more_time() -> None:
    pace = PullPace(spare=1)
    found: list[tuple[float, float]] = []
    for _ in range(5):
        found.append((pace.slots.total_tokens, pace.patience(A)))
        pace.stalled(A, pace.count)
    assert found == [(5, 10.0), (3, 20.0), (2, 40.0), (2, LONGEST_PULL), (2, LONGEST_PULL)]
    assert pace.patience(B) == PULL_SECONDS, "a source that stalls costs no other"
    pace.came(A, 1000)
    assert pace.patience(A) == PULL_SECONDS
    for _ in range(10):
        pace.came(A, 1000)
    assert pace.slots.total_tokens >= PULLS + 1


@pytest.mark.parametrize("others", [True, False])
def test_a_source_that_stalls_while_others_come_takes_no_slots_from_them(
    monkeypatch: pytest.MonkeyPatch,
    others: bool,  # noqa: FBT001 - the case
) -> None:
    """A liar would halve them as often as it likes. Control: nothing else comes over the line."""
    monkeypatch.setattr(carrier_module, "PULL_SECONDS", 1.0)

    def failed(listener: Listener, count: int) -> bool:
        return listener.carrier.pulls.failed == count

    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        for number in range(1, 4):
            nothing = BlobRef(1, (bytes([number]) * 32,))
            await a.end.send(B, Announce(nothing, private=True).to_bytes())
            await until(lambda: any(holders == (A,) for _root, holders in b.end.fetched))
            b.end.fetched.clear()
            if others:
                await c.carrier.send(B, BIG + bytes([number]))
                await b.hears(number)
            await until(partial(failed, b, number))
        assert (b.carrier._pace.at_once >= PULLS) is others
        assert b.carrier._pace.patience(A) > PULL_SECONDS / 10

    play(scene, end(A), end(B, hangs=(A,)), end(C))


@pytest.mark.parametrize("alone", [True, False])
def test_a_source_that_stalls_is_asked_on_beside_others_and_given_more_time(
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,  # noqa: FBT001 - the case
) -> None:
    """The others may not have the blob yet. Where there are none, it is not asked twice at once."""
    monkeypatch.setattr(carrier_module, "PULL_SECONDS", 1.0)

    async def scene(a: Listener, b: Listener, *_others: Listener) -> None:
        nothing = BlobRef(1, (bytes(32),))
        await a.end.send(B, Announce(nothing, private=False).to_bytes())
        await until(lambda: b.carrier.pulls.failed)
        asked = [holders for _root, holders in b.end.fetched]
        assert asked == ([(A,)] if alone else [(A,), (A, C)])
        assert b.carrier._pace.patience(A) > 1.0

    play(scene, end(A), end(B, hangs=(A,)), *(() if alone else (end(C),)))


# ── who is asked ──────────────────────────────────────────────────────────────────────────────────


def test_a_sender_that_left_is_replaced_by_who_has_the_frame() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        ref = await c.end.publish_blob(BIG)
        await a.end.send(B, Announce(ref, private=False).to_bytes())
        MemoryTransport.hub("carrier").partition([{A}])
        assert await b.hears(1) == [Delivery(A, BIG)]
        assert [holders for _root, holders in b.end.fetched] == [(A, C)]

    play(scene, end(A), end(B), end(C))


def test_who_passes_on_for_an_author_out_of_reach_is_not_the_only_one_asked() -> None:
    """It may be slow on purpose. The control is an author that is a neighbour."""

    async def scene(_a: Listener, b: Listener, c: Listener) -> None:
        announcement = Announce(await c.end.publish_blob(BIG), private=False).to_bytes()
        b.end._deliver(Delivery(A, announcement, author=A), 0.0)
        await b.hears(1)
        b.end._deliver(Delivery(C, announcement, author=b"?" * 32), 0.0)
        await b.hears(2)
        assert [holders for _root, holders in b.end.fetched] == [(A,), (C,), (b"?" * 32, C, A)]

    play(scene, end(A), end(B), end(C))


def test_a_private_frame_is_asked_of_its_sender_alone() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        ref = await c.end.publish_blob(BIG)
        await a.end.send(B, Announce(ref, private=True).to_bytes())
        await until(lambda: b.carrier.pulls.failed)
        assert [holders for _root, holders in b.end.fetched] == [(A,)]
        await c.carrier.send(B, BIG)
        assert await b.hears(1) == [Delivery(C, BIG)]
        assert b.end.fetched[1:] == [(ref.root, (C,))]

    play(scene, end(A), end(B), end(C))


def test_who_only_passes_an_announcement_on_is_asked_after_its_author() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        ref = await a.end.publish_blob(BIG)
        announcement = Announce(ref, private=False).to_bytes()
        b.end._deliver(Delivery(C, announcement, author=A), 0.0)
        assert await b.hears(1) == [Delivery(C, BIG, author=A)]
        assert b.end.fetched == [(ref.root, (A, C))]
        assert len(c.heard) == 0

    play(scene, end(A), end(B), end(C))


def test_an_author_that_gives_nothing_does_not_hold_up_who_passes_its_frames_on() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        nothing = Announce(BlobRef(1, (b"n" * 32,)), private=False).to_bytes()
        b.end._deliver(Delivery(C, nothing, author=A), 0.0)
        await until(lambda: b.end.fetched)
        await c.carrier.broadcast(BIG)
        assert await b.hears(1) == [Delivery(C, BIG)]
        assert len(a.heard) <= 1

    play(scene, end(A), end(B, hangs=(A,)), end(C))


def test_a_frame_that_nobody_has_yet_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier_module, "PAUSES", (0.05, 0.05, 0.05))

    async def scene(a: Listener, b: Listener) -> None:
        ref = BlobRef.of(BIG)
        await a.end.send(B, Announce(ref, private=False).to_bytes())
        await until(lambda: b.carrier.pulls.failed == 2)
        await a.end.publish_blob(BIG)
        assert await b.hears(1) == [Delivery(A, BIG)]
        await a.end.send(B, Announce(BlobRef.of(b"?"), private=False).to_bytes())
        await until(lambda: b.carrier.pulls.failed == 6)
        await anyio.sleep(0.1)
        assert b.carrier.pulls.failed == 6

    play(scene, end(A), end(B))


@pytest.mark.parametrize("again", [True, False])
def test_what_a_source_announced_and_then_stalls_is_asked_of_it_again(
    monkeypatch: pytest.MonkeyPatch,
    again: bool,  # noqa: FBT001 - False is the control
) -> None:
    """Its line is full for longer than the patience. In the control the frame is lost."""
    if not again:
        monkeypatch.setattr(carrier_module, "PAUSES", ())

    async def scene(a: Listener, b: Listener) -> None:
        await a.carrier.broadcast(BIG)
        await until(lambda: b.carrier.pulls.failed)
        b.end.hangs = ()
        with anyio.move_on_after(LONGEST_PULL):
            await b.hears(1)
        assert b.heard == ([Delivery(A, BIG)] if again else [])
        assert b.carrier.pulls.failed == 1

    play(scene, end(A), end(B, hangs=(A,)))


def test_what_a_link_passed_on_and_stalls_holds_up_its_queue_once() -> None:
    """Whoever announced it may give nothing, and the link did no wrong."""

    async def scene(_a: Listener, b: Listener, c: Listener) -> None:
        nothing = BlobRef(1, (b"n" * 32,))
        b.end._deliver(Delivery(C, Announce(nothing, private=True).to_bytes(), author=A), 0.0)
        announcement = Announce(await c.end.publish_blob(BIG), private=True).to_bytes()
        b.end._deliver(Delivery(C, announcement, author=b"?" * 32), 0.0)
        await b.hears(1)
        assert b.carrier.pulls.failed == 1
        assert [root for root, _holders in b.end.fetched].count(nothing.root) == 1

    play(scene, end(A), end(B, hangs=(A,)), end(C))


def test_a_frame_that_has_no_room_now_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier_module, "PAUSES", (0.05, 0.05, 0.05))

    async def scene(a: Listener, b: Listener) -> None:
        b.end.full = 3
        await a.carrier.broadcast(BIG)
        assert await b.hears(1) == [Delivery(A, BIG)]

    play(scene, end(A), end(B))


def test_a_sender_of_something_else_is_named_and_passed_over() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        a.end.serves = lambda chunk: chunk[:-1] + b"?"
        await c.end.publish_blob(BIG)
        await a.carrier.broadcast(BIG)
        assert await b.hears(1) == [Delivery(A, BIG)]
        assert b.end.stats().malformed == 1
        events = [await b.end.event() for _ in range(3)]
        assert (events[-1].change, events[-1].peer) == (PeerChange.BAD, A)

    play(scene, end(A), end(B), end(C))


# ── hostile links ─────────────────────────────────────────────────────────────────────────────────


def test_a_malformed_announcement_is_counted_and_handed_on_to_be_blamed() -> None:
    async def scene(a: Listener, b: Listener) -> None:
        large = Announce(BlobRef(MAX + 1, (b"h" * 32,) * 5), private=False).to_bytes()
        hostile = [b"\0", b"\1\xff", b"\0" * 4000, large]
        for frame in hostile:
            await a.end.send(B, frame)
        assert await b.hears(4) == [Delivery(A, frame) for frame in hostile]
        assert b.carrier.pulls.malformed == 4
        assert not b.end.fetched

    play(scene, end(A), end(B))


def test_each_link_gives_a_frame_once() -> None:
    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        ref = await a.end.publish_blob(BIG)
        announcement = Announce(ref, private=False).to_bytes()
        for _time in range(3):
            await a.end.send(B, announcement)
        await b.hears(1)
        await a.end.send(B, announcement)
        # A relayed frame is judged again, for its own link: the first may have been refused.
        await c.end.send(B, announcement)
        assert await b.hears(2) == [Delivery(A, BIG), Delivery(C, BIG)]
        assert b.carrier.pulls.repeated == 3
        assert b.end.stats().blobs_fetched == 1

    play(scene, end(A), end(B), end(C))


@pytest.mark.claim("C-flood-1")
def test_a_link_that_announces_too_much_is_cut_short() -> None:
    async def scene(a: Listener, b: Listener) -> None:
        for number in range(PENDING + 5):
            ref = BlobRef(1, (bytes([number]) * 32,))
            await a.end.send(B, Announce(ref, private=True).to_bytes())
        await until(lambda: b.carrier.pulls.dropped >= 5)
        assert len(b.end.fetched) == 1
        assert b.carrier.pulls.dropped == 5

    play(scene, end(A), end(B, hangs=(A,)))


@pytest.mark.control("C-flood-1")
def test_a_link_without_a_bound_has_all_that_it_announces_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carrier_module, "PENDING", 10 * PENDING)

    async def scene(a: Listener, b: Listener) -> None:
        for number in range(PENDING + 5):
            ref = BlobRef(1, (bytes([number]) * 32,))
            await a.end.send(B, Announce(ref, private=True).to_bytes())
        await until(lambda: sum(map(len, b.carrier._queues.values())) == PENDING + 5)
        assert b.carrier.pulls.dropped == 0

    play(scene, end(A), end(B, hangs=(A,)))


def test_a_link_that_gives_nothing_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by announcements of its own, nor by repeating those of another."""
    monkeypatch.setattr(carrier_module, "PULLS", 1)

    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        for number in range(PENDING - 1):
            nothing = BlobRef(1, (bytes([number]) * 32,))
            await a.end.send(B, Announce(nothing, private=True).to_bytes())
        await anyio.sleep(0.05)
        await c.carrier.send(B, BIG)
        assert await b.hears(1) == [Delivery(C, BIG)]
        assert {holders for _root, holders in b.end.fetched} == {(A,), (C,)}

    play(scene, end(A), end(B, hangs=(A,)), end(C))


@pytest.mark.parametrize("mended", [True, False])
def test_who_repeats_old_announcements_of_others_holds_up_none_of_them(
    monkeypatch: pytest.MonkeyPatch,
    mended: bool,  # noqa: FBT001 - the case
) -> None:
    """Nobody has those blobs any more. The control has a queue for each author alone."""
    monkeypatch.setattr(carrier_module, "PULL_SECONDS", 1.0)
    if not mended:
        by_author = property(lambda waiting: (waiting.source, True))
        monkeypatch.setattr(carrier_module._Waiting, "queue", by_author)

    async def scene(a: Listener, b: Listener, _c: Listener) -> None:
        for author in (A, *(bytes([number]) * 32 for number in range(20))):
            old = Announce(BlobRef(1, (author,)), private=False).to_bytes()
            b.end._deliver(Delivery(C, old, author=author), 0.0)
        await until(lambda: b.end.fetched)
        await a.carrier.broadcast(BIG)
        with anyio.move_on_after(0.9):
            await b.hears(1)
        assert len(b.heard) == mended

    play(scene, end(A), end(B, hangs=(C,)), end(C))


def test_repeating_an_announcement_first_delays_it_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carrier_module, "PULL_SECONDS", 2.0)

    async def scene(a: Listener, b: Listener, c: Listener) -> None:
        ref = await c.end.publish_blob(BIG)
        await a.end.send(B, Announce(ref, private=True).to_bytes())
        await until(lambda: b.end.fetched)
        began = anyio.current_time()
        await c.carrier.broadcast(BIG)
        assert await b.hears(1) == [Delivery(C, BIG)]
        assert 0.5 < anyio.current_time() - began < 3

    play(scene, end(A), end(B, hangs=(A,)), end(C))


# ── failures of the transport ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("broken", ["receive", "fetch_blob"])
def test_a_transport_that_fails_otherwise_is_named(broken: str) -> None:
    item, other = end(A, broken=broken), end(B)

    async def main() -> None:
        try:
            await item.start()
            await other.start()
            await Carrier(other, MAX).broadcast(BIG)
            with anyio.fail_after(5):
                await Carrier(item, MAX).listen(Listener(item, Carrier(item, MAX)).take)
        finally:
            await item.aclose()
            await other.aclose()

    with pytest.raises(RoundError, match=rf"QRES-E603 transport\.{broken}"):
        anyio.run(main)


@pytest.mark.parametrize("count", [1, 2])
def test_one_error_is_raised_as_it_is_and_several_are_kept_together(count: int) -> None:
    """Of several none may get lost: the first may be what the others led to."""

    async def fail() -> None:
        await anyio.sleep(1)
        raise OSError

    async def main() -> None:
        async with carrier_module.task_group() as group:
            for _ in range(count):
                group.start_soon(fail)

    with pytest.raises(OSError if count == 1 else BaseExceptionGroup) as caught:
        anyio.run(main)
    if count > 1:
        assert isinstance(caught.value, BaseExceptionGroup)
        assert len(caught.value.exceptions) == count
