"""Blobs: from several holders, checked, spooled, within a quota."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from libp2p.io.trio import TrioTCPStream
from qres_carrier import KEPT_HEIGHTS, SharedBlobStore, Tally
from qres_transport_libp2p import blobs
from qres_transport_libp2p.blobs import Blobs
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.wire import Wire

from qres_core.errors import TransportError
from qres_core.transport import CHUNK, BlobRef, PeerChange

MIB = 2**20


def noise(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def spoil(transport: Any, ref: BlobRef, *chunks: int) -> None:
    memory = transport._network._store._blobs[ref.root].memory
    for index in chunks:
        memory[index] = bytes(len(memory[index]))


@pytest.mark.long
def test_forty_megabytes_reach_several_peers(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At most 5 % more than the payload goes over each wire."""
    roster = lab.members(4)
    data = noise(40 * MIB)
    wire = {"written": 0}
    write = TrioTCPStream.write

    async def counted(self: TrioTCPStream, sent: bytes) -> None:
        wire["written"] += len(sent)
        await write(self, sent)

    monkeypatch.setattr(TrioTCPStream, "write", counted)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            nodes = [
                lab.transport(me, roster, data_dir=tmp_path / str(number), ping_seconds=20.0)
                for number, me in enumerate(roster)
            ]
            await swarm.start(*nodes)
            await lab.connected(*nodes)
            ref = await nodes[0].publish_blob(data)
            before = wire["written"]

            async def fetch(node: Any) -> None:
                holders = [me.node_id for me in roster if me.node_id != node._info.node_id]
                assert await node.fetch_blob(ref, holders, 3 * lab.PATIENCE) == data

            async with anyio.create_task_group() as group:
                for node in nodes[1:]:
                    group.start_soon(fetch, node)
            assert wire["written"] - before <= 3 * len(data) * 1.05
            assert all(node.stats().blobs_fetched == 1 for node in nodes[1:])

    anyio.run(main)


@pytest.mark.claim("C-transport-6")
def test_a_holder_that_dies_is_replaced_by_another(lab: SimpleNamespace) -> None:
    roster = lab.members(3)
    data = noise(24 * MIB)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two, three = (lab.transport(me, roster, blob_sources=1) for me in roster)
            await swarm.start(item, two, three)
            await lab.connected(item, two, three)
            ref = await item.publish_blob(data)
            await two.publish_blob(data)
            holders = [roster[0].node_id, roster[1].node_id]
            got: list[bytes] = []

            async def fetch() -> None:
                got.append(await three.fetch_blob(ref, holders, lab.PATIENCE))

            async with anyio.create_task_group() as group:
                group.start_soon(fetch)
                while three.stats().bytes_received < 2 * MIB:  # noqa: ASYNC110
                    await anyio.sleep(0.001)
                await item.aclose()
            assert got == [data]

    anyio.run(main)


@pytest.mark.claim("C-transport-6")
def test_one_wrong_chunk_costs_the_liar_its_connection_and_nobody_the_blob(
    lab: SimpleNamespace,
) -> None:
    roster = lab.members(3)
    data = noise(5 * MIB)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            # One after the other: of two at once, the other may give all of it before the liar.
            item, two, three = (lab.transport(me, roster, blob_sources=1) for me in roster)
            await swarm.start(item, two, three)
            await lab.connected(item, two, three)
            ref = await item.publish_blob(data)
            await two.publish_blob(data)
            spoil(item, ref, *range(5))
            holders = [roster[0].node_id, roster[1].node_id]
            assert await three.fetch_blob(ref, holders, lab.PATIENCE) == data
            assert (await lab.noticed(three, PeerChange.BAD)).peer == roster[0].node_id
            assert three.stats().malformed == 1

    anyio.run(main)


@pytest.mark.long
def test_who_has_part_of_a_blob_serves_that_part(lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    data = noise(2 * MIB)
    ref = BlobRef.of(data)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            store = item._network._store
            with store.filling(ref):
                store.put(ref, 0, data[:CHUNK])
                with pytest.raises(TransportError, match=r"QRES-E904.*no holder has all"):
                    await two.fetch_blob(ref, [roster[0].node_id], lab.PATIENCE)
                assert two.stats().bytes_received >= CHUNK
            assert store.used == len(data)
            with two._network._store.filling(ref):
                assert two._network._store.held(ref) == {0}, "kept for another try"

    anyio.run(main)


def test_a_fetch_that_is_cancelled_or_late_can_be_repeated(
    lab: SimpleNamespace,
) -> None:
    roster = lab.members(2)
    data = noise(16 * MIB)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, two = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, two)
            await lab.connected(item, two)
            ref = await item.publish_blob(data)
            holder = [roster[0].node_id]
            for _ in range(5):
                with anyio.move_on_after(0.02):
                    await two.fetch_blob(ref, holder, lab.PATIENCE)
                with pytest.raises(TransportError, match="QRES-E905"):
                    await two.fetch_blob(ref, holder, 1e-6)  # nothing is so quick
            since = [peer.since for peer in two.peers()]
            assert await two.fetch_blob(ref, holder, lab.PATIENCE) == data
            assert [peer.since for peer in two.peers()] == since  # the connection outlived it all

    anyio.run(main)


# ── the store ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "blobs" if request.param == "disk" else None


def fill(store: SharedBlobStore, data: bytes) -> BlobRef:
    ref = BlobRef.of(data)
    with store.filling(ref):
        for index in range(len(ref.chunks)):
            store.put(ref, index, data[index * CHUNK : (index + 1) * CHUNK])
    return ref


def test_the_blob_used_longest_ago_makes_room(folder: Path | None) -> None:
    store = SharedBlobStore(folder, 3 * MIB)
    refs = [fill(store, noise(MIB, seed)) for seed in range(3)]
    assert store.chunk(refs[0].root, 0) is not None
    last = fill(store, noise(MIB, 9))
    assert [store.whole(ref.root) for ref in (*refs, last)] == [True, False, True, True]
    assert store.used == 3 * MIB
    if folder is not None:
        assert sum(path.stat().st_size for path in folder.iterdir()) == 3 * MIB


def test_what_is_being_fetched_is_not_thrown_out(folder: Path | None) -> None:
    store = SharedBlobStore(folder, 2 * MIB)
    ref = BlobRef.of(noise(2 * MIB))
    with store.filling(ref):
        other = store.filling(BlobRef.of(b"x"))
        with pytest.raises(TransportError, match="QRES-E902"):
            other.__enter__()
    with pytest.raises(TransportError, match="QRES-E901"):
        fill(store, noise(3 * MIB))
    assert store.used == 0


def test_blobs_outlive_a_restart_and_so_do_halves(tmp_path: Path) -> None:
    store = SharedBlobStore(tmp_path, 8 * MIB)
    whole = fill(store, noise(MIB + 1))
    data = noise(3 * MIB, 7)
    half = BlobRef.of(data)
    with store.filling(half):
        store.put(half, 2, data[2 * MIB :])
    (tmp_path / "half.part").write_bytes(b"half")
    (tmp_path / (whole.root.hex() + ".part")).write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours", encoding="utf-8")
    again = SharedBlobStore(tmp_path, 8 * MIB)
    assert again.read(whole) == noise(MIB + 1)
    assert again.used == 4 * MIB + 1
    kept = [whole.root.hex(), half.root.hex() + ".part", "notes.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert again.chunk(half.root, 2) is None, "nobody has looked at it yet"
    with again.filling(half):
        assert again.held(half) == {2}
        assert again.chunk(half.root, 2) == data[2 * MIB :]
        for index in range(2):
            again.put(half, index, data[index * MIB : (index + 1) * MIB])
    assert again.read(half) == data
    with again.filling(half):
        assert again.held(half) == {0, 1, 2}


@pytest.mark.claim("C-libp2p-23")
def test_a_half_that_was_changed_while_the_node_was_away_is_fetched_again(tmp_path: Path) -> None:
    data = noise(2 * MIB)
    ref = BlobRef.of(data)
    store = SharedBlobStore(tmp_path, 8 * MIB)
    with store.filling(ref):
        store.put(ref, 0, data[:MIB])
    (path,) = tmp_path.iterdir()
    for content, held in ((data[:MIB] + bytes(MIB), {0}), (bytes(2 * MIB), set()), (b"x", set())):
        path.write_bytes(content)
        again = SharedBlobStore(tmp_path, 8 * MIB)
        with again.filling(ref):
            assert again.held(ref) == held
            again.put(ref, 0, data[:MIB])
    path.write_bytes(data)  # whole, and not named so
    again = SharedBlobStore(tmp_path, 8 * MIB)
    with again.filling(ref):
        assert again.whole(ref.root)
    assert again.read(ref) == data


def test_a_half_makes_room_for_what_is_new_and_goes_with_its_height(folder: Path | None) -> None:
    data = noise(2 * MIB)
    ref = BlobRef.of(data)
    for full in (True, False):
        store = SharedBlobStore(folder, 3 * MIB)
        store.enter(1)
        with store.filling(ref):
            store.put(ref, 0, data[:MIB])
        assert store.chunk(ref.root, 0) == data[:MIB]
        if full:
            fill(store, noise(2 * MIB, 1))
        else:
            store.enter(2 + KEPT_HEIGHTS)
        assert store.chunk(ref.root, 0) is None


@pytest.mark.claim("C-libp2p-23")
def test_a_pull_goes_on_where_the_last_one_stopped(lab: SimpleNamespace, tmp_path: Path) -> None:
    """Over a time-out, a restart, and a change of the source: no chunk comes twice."""
    roster = lab.members(3)
    data = noise(8 * MIB)
    ref = BlobRef.of(data)
    has = {0: range(3), 1: range(3, 8)}

    async def main() -> None:
        async with lab.Swarm() as swarm:
            givers = [lab.transport(me, roster, dial=[]) for me in roster[:2]]
            await swarm.start(*givers)
            for number, giver in enumerate(givers):
                with giver._network._store.filling(ref):
                    for index in has[number]:
                        giver._network._store.put(ref, index, data[index * MIB : (index + 1) * MIB])
            received = 0
            for number in range(2):
                async with lab.Swarm() as run:
                    taker = lab.transport(
                        roster[2], roster, dial=roster[:2], data_dir=tmp_path, ping_seconds=60.0
                    )
                    await run.start(taker)
                    await lab.connected(taker, givers[number])
                    fetch = taker.fetch_blob(ref, [roster[number].node_id], lab.PATIENCE)
                    if number:
                        assert await fetch == data
                    else:
                        with pytest.raises(TransportError, match=r"QRES-E904.*no holder has all"):
                            await fetch
                    received += taker.stats().bytes_received
            assert received == len(data)

    anyio.run(main)


class Slow:
    """A holder's stream, which gives 256 KiB of what is asked every so often, and then stops."""

    def __init__(self, data: bytes, pause: float, most: int) -> None:
        self.data, self.pause, self.left = data, pause, most
        self.out = b""

    async def write(self, asked: bytes) -> None:
        await trio.lowlevel.checkpoint()
        for start in range(0, len(asked), blobs.REQUEST_BYTES):
            index = int.from_bytes(asked[start + 32 : start + blobs.REQUEST_BYTES], "big")
            chunk = self.data[index * MIB : (index + 1) * MIB]
            self.out += blobs.HERE + len(chunk).to_bytes(4, "big") + chunk

    async def read(self, size: int) -> bytes:
        if size > 4:
            await trio.sleep(self.pause)
            if self.left <= 0:
                await trio.sleep_forever()
        size = min(size, MIB // 4)
        given, self.out = self.out[:size], self.out[size:]
        self.left -= len(given)
        return given

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.claim("C-libp2p-23")
@pytest.mark.control("C-libp2p-23")
@pytest.mark.parametrize("most", [8 * (MIB + 5), 3 * (MIB + 5)])
def test_a_pull_lives_while_something_comes_and_no_longer(most: int) -> None:
    """It takes ten times as long as it may go without anything; or all stops after three chunks."""
    data, peer = noise(8 * MIB), peer_id(bytes(32))
    ref, within, pause = BlobRef.of(data), 3.0, 1.0
    store = SharedBlobStore(None, 16 * MIB)

    async def main() -> None:
        async def open_(_peer: object, _protocol: object) -> Wire:
            await trio.lowlevel.checkpoint()
            stream: Any = Slow(data, pause, most)
            return Wire(stream, 10.0)

        sessions: Any = SimpleNamespace(
            serve=lambda *_arguments: None,
            members=SimpleNamespace(peers={bytes(32): peer}),
            is_up=lambda _peer: True,
            open=open_,
            tally=Tally(),
        )
        pulling = Blobs(sessions, Libp2pOptions(), store)
        whole = most > 4 * MIB
        with nullcontext() if whole else pytest.raises(TransportError, match="QRES-E905"):
            assert await pulling.fetch(ref, [bytes(32)], within) == data
        taken = trio.current_time()
        assert taken == pytest.approx(32.0 if whole else 12.0 + within, abs=1.0)
        with store.filling(ref):
            assert len(store.held(ref)) == (8 if whole else 3)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Drip(Slow):
    """A liar's stream: all that is asked for begins, and goes on by a byte every nine seconds."""

    async def read(self, size: int) -> bytes:
        if size <= 4:
            return await super().read(size)
        await trio.sleep(9.0)
        return await super().read(1)


def pull_from(kinds: list[type[Slow]], data: bytes, within: float = 10.0) -> tuple[float, str]:
    """A pull, from holders of some kinds; how long it took, and the code of its error."""
    nodes = [bytes([number]) * 32 for number in range(len(kinds))]
    peers = {node: peer_id(node) for node in nodes}
    of = {peers[node]: kind for node, kind in zip(nodes, kinds, strict=True)}
    found: list[tuple[float, str]] = []

    async def main() -> None:
        async def open_(peer: Any, _protocol: object) -> Wire:
            await trio.sleep(0.01 * list(of).index(peer))  # the first one is asked first
            stream: Any = of[peer](data, 0.1, 100 * MIB)
            return Wire(stream, 10.0)

        sessions: Any = SimpleNamespace(
            serve=lambda *_arguments: None,
            members=SimpleNamespace(peers=peers),
            is_up=lambda _peer: True,
            open=open_,
            tally=Tally(),
        )
        pulling = Blobs(sessions, Libp2pOptions(), SharedBlobStore(None, 16 * MIB))
        code = ""
        try:
            assert await pulling.fetch(BlobRef.of(data), nodes, within) == data
        except TransportError as error:
            code = error.code
        found.append((trio.current_time(), code))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return found[0]


@pytest.mark.claim("C-libp2p-23")
@pytest.mark.control("C-libp2p-23")
@pytest.mark.parametrize("size", [MIB // 2, 3 * MIB, 8 * MIB])
def test_who_gives_a_byte_at_a_time_does_not_keep_a_blob_from_others(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It is asked first, and for all of a small blob; the control leaves it what it was asked."""
    data = noise(size)
    taken, code = pull_from([Drip, Slow], data)
    assert (taken < 15.0, code) == (True, "")
    monkeypatch.setattr(blobs, "HANDOVERS", 0)
    taken, _code = pull_from([Drip, Slow], data)
    assert taken > 90.0


def test_who_gives_a_byte_at_a_time_is_given_its_time_once() -> None:
    """One chunk's time, and not three times that; and the pull was late, not in vain."""
    taken, code = pull_from([Drip], noise(MIB // 2))
    assert 90.0 < taken < 130.0
    assert code == "QRES-E905"


def test_a_holder_that_falls_silent_is_asked_again_while_the_patience_lasts() -> None:
    """A gap in the line is longer than a stream lives; the source was given more time before."""
    gaps = [12.0]

    class Gap(Slow):
        async def read(self, size: int) -> bytes:
            if size > 4 and gaps:
                await trio.sleep(gaps.pop())
            return await super().read(size)

    taken, code = pull_from([Gap], noise(MIB), 60.0)
    assert code == ""
    assert 10.0 < taken < 13.0


def test_a_line_that_is_slow_for_all_loses_little_to_handovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each holder would be as slow: a chunk takes longer than a turn."""

    class Slower(Slow):
        async def read(self, size: int) -> bytes:
            if size > 4:
                await trio.sleep(4.9)
            return await super().read(size)

    data = noise(MIB)
    taken, code = pull_from([Slower] * 5, data)
    monkeypatch.setattr(blobs, "HANDOVERS", 0)
    assert code == ""
    assert taken - pull_from([Slower] * 5, data)[0] < 10.0 + 1.0


@pytest.mark.parametrize("before", [0.0, 8e6])
def test_who_brings_a_chunk_as_fast_as_its_line_goes_keeps_it(
    monkeypatch: pytest.MonkeyPatch, before: float
) -> None:
    """A chunk takes 16 s from each of three holders, and two have nothing to do meanwhile.

    The control had a blob far faster, so it takes the chunk from the first one, three times.
    """
    given: list[int] = []

    class Steady(Slow):
        async def read(self, size: int) -> bytes:
            if size <= 4:
                return await super().read(size)
            await trio.sleep(1.0)
            size = min(size, MIB // 16)
            part, self.out = self.out[:size], self.out[size:]
            given.append(len(part))
            return part

    init = SharedBlobStore.__init__

    def made(self: SharedBlobStore, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self._fastest = before

    monkeypatch.setattr(SharedBlobStore, "__init__", made)
    taken, code = pull_from([Steady] * 3, noise(MIB))
    assert code == ""
    if before:
        assert taken > 20.0
        assert sum(given) > 1.2 * MIB
    else:
        assert taken < 17.0
        assert sum(given) == MIB


@pytest.mark.claim("C-libp2p-6")
def test_a_blob_that_comes_far_slower_than_others_makes_room_for_them() -> None:
    """Its pull ends when its next chunk comes."""
    slow, fast, last = (noise(3 * MIB, seed) for seed in range(3))
    pauses = {slow: 8.0, fast: 0.01, last: 0.01}
    nodes = {data: bytes([number]) * 32 for number, data in enumerate(pauses)}
    of = {peer_id(node): data for data, node in nodes.items()}
    found: list[object] = []

    async def main() -> None:
        async def open_(peer: Any, _protocol: object) -> Wire:
            await trio.lowlevel.checkpoint()
            stream: Any = Slow(of[peer], pauses[of[peer]], 100 * MIB)
            return Wire(stream, 10.0)

        sessions: Any = SimpleNamespace(
            serve=lambda *_arguments: None,
            members=SimpleNamespace(peers={node: peer_id(node) for node in nodes.values()}),
            is_up=lambda _peer: True,
            open=open_,
            tally=Tally(),
        )
        store = SharedBlobStore(None, 5 * MIB, trio.current_time)
        pulling = Blobs(sessions, Libp2pOptions(), store)

        async def fetch(data: bytes, size: int) -> None:
            try:
                whole = await pulling.fetch(BlobRef.of(data[:size]), [nodes[data]], 20.0)
                found.append(whole == data[:size])
            except TransportError as error:
                found.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, slow, 3 * MIB)
            await fetch(fast, MIB)  # there is room for that beside
            await trio.sleep(20.0)
            await fetch(last, 3 * MIB)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert found[:2] == [True, True]
    assert "QRES-E905" in str(found[2])
    assert "blobs that come faster" in str(found[2])


def test_a_file_that_was_changed_is_not_taken_for_the_blob(tmp_path: Path) -> None:
    store = SharedBlobStore(tmp_path, 8 * MIB)
    ref = fill(store, noise(MIB))
    path = tmp_path / ref.root.hex()
    path.write_bytes(bytes(MIB))
    assert store.read(ref) is None
    assert not path.exists()
    assert store.chunk(ref.root, 0) is None


def test_what_is_published_again_is_held_anew(tmp_path: Path) -> None:
    """Its announcement is on its way; the control is published once."""
    first, second, third, fourth = (noise(1000, seed) for seed in range(4))
    store = SharedBlobStore(tmp_path, 3000)
    sessions: Any = SimpleNamespace(serve=lambda *_arguments: None)
    shared = Blobs(sessions, Libp2pOptions(), store)
    store.enter(1)
    again, left = BlobRef.of(first), BlobRef.of(second)
    shared.publish(again, first)
    shared.publish(left, second)
    store.enter(1 + KEPT_HEIGHTS)
    shared.publish(again, first)
    fill(store, third)
    fill(store, fourth)
    assert (store.whole(again.root), store.whole(left.root)) == (True, False), "the room was full"
    store.enter(2 + KEPT_HEIGHTS)
    assert store.whole(again.root)
    store.enter(2 + 2 * KEPT_HEIGHTS)
    assert not store.whole(again.root)


# ── asked for again ───────────────────────────────────────────────────────────────────────────────


async def asks_for(
    lab: SimpleNamespace, host: Any, node: Any, ref: BlobRef, times: int
) -> list[bytes]:
    """What a peer is answered that asks for the first chunk again and again."""
    stream = await host.new_stream(peer_id(node.node_id), [blobs.PROTOCOL])
    answers: list[bytes] = []
    with trio.fail_after(lab.PATIENCE):
        for _ in range(times):
            await stream.write(ref.root + bytes(4))
            head = b""
            while len(head) < 5:
                head += await stream.read(5 - len(head))
            left = int.from_bytes(head[1:], "big")
            while left:
                left -= len(await stream.read(left))
            answers.append(head[:1])
    await stream.reset()
    return answers


def asked_again(lab: SimpleNamespace, times: int) -> tuple[list[bytes], int]:
    """The answers, and how many were counted; then an honest node still gets the blob, twice."""
    roster = lab.members(3)
    data = noise(MIB)
    found: list[tuple[list[bytes], int]] = []

    async def main() -> None:
        async with lab.Swarm() as swarm, lab.stock_host(roster[2]) as host:
            entry = lab.transport(roster[0], roster, dial=[])
            await swarm.start(entry)
            ref = await entry.publish_blob(data)
            assert await lab.greet(host, roster[0]) == b"\1"
            answers = await asks_for(lab, host, roster[0], ref, times)
            found.append((answers, entry.stats().reasons.get(blobs.ASKED_AGAIN, 0)))
            for _ in range(2):  # a node without a folder that starts again has nothing
                two = lab.transport(roster[1], roster, dial=[roster[0]])
                await two.start()
                with trio.fail_after(lab.PATIENCE):
                    while not two.peers():  # noqa: ASYNC110
                        await trio.sleep(0.02)
                assert await two.fetch_blob(ref, [roster[0].node_id], lab.PATIENCE) == data
                await two.aclose()

    trio.run(main)
    return found[0]


@pytest.mark.claim("C-libp2p-37")
def test_a_peer_is_sent_a_blob_a_few_times_and_then_told_to_wait(lab: SimpleNamespace) -> None:
    answers, counted = asked_again(lab, 12)
    assert answers == [blobs.HERE] * blobs.TIMES + [blobs.BUSY] * (12 - blobs.TIMES)
    assert counted == 12 - blobs.TIMES


@pytest.mark.control("C-libp2p-37")
def test_control_without_a_limit_it_is_sent_as_often_as_it_asks(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "TIMES", 1000)
    assert asked_again(lab, 12) == ([blobs.HERE] * 12, 0)
