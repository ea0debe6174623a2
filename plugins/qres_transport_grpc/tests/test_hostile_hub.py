"""A hostile hub achieves nothing but delay: every kind of hub, and the same without the guard."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import attrs
import pytest
from qres_transport_grpc.network import GrpcNetwork
from qres_transport_grpc.peers import CANDIDATES, Acquaintance
from qres_transport_grpc.seal import GREETS, NAME_BYTES, SEALED, OnceWindow, SealedSession
from qres_transport_grpc.server import HubServer
from qres_transport_grpc.wire import Greeting, HubPlace

from qres_core import NodeId
from qres_core.transport import PeerChange

FRAMES = 60
BLOB = bytes(range(256)) * 6000  # a chunk and a half
_HEAD = 1 + NAME_BYTES + 8


class Loud(HubServer):
    """Knows the loop, and what it passed on."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.chance = random.Random(7)
        self.kept: list[tuple[NodeId, NodeId, bytes]] = []
        self.count = 0

    def later(self, seconds: float, sender: NodeId, to: NodeId, message: bytes) -> None:
        asyncio.get_running_loop().call_later(seconds, super().route, sender, to, message)


class Honest(Loud):
    """The control of them all."""


class Dropping(Loud):
    """Drops a third."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        if self.chance.random() > 1 / 3:
            super().route(sender, to, message)


class Doubling(Loud):
    """Delivers everything twice at once, and once more later."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        super().route(sender, to, message)
        super().route(sender, to, message)
        self.later(0.3, sender, to, message)


class Reordering(Loud):
    """Delays each message by another time."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        self.later(self.chance.uniform(0.0, 0.2), sender, to, message)


class Corrupting(Loud):
    """Flips a bit of every third message."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        if self.chance.random() < 1 / 3:
            changed = bytearray(message)
            changed[self.chance.randrange(len(changed))] ^= 1 << self.chance.randrange(8)
            message = bytes(changed)
        super().route(sender, to, message)


class Misdirecting(Loud):
    """Delivers to everybody, in everybody's name."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        super().route(sender, to, message)
        for receiver in self.members:
            for claimed in self.members - {receiver}:
                if (receiver, claimed) != (to, sender):
                    super().route(claimed, receiver, message)


class Inventing(Loud):
    """Makes up messages in the name of members, of every kind and length."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        super().route(sender, to, message)
        self.count += 1
        if self.count % 4 == 0:
            size = self.chance.choice([0, 1, 16, 100, 5000])
            kind = self.chance.choice([b"\0", SEALED, b"\2", message[:_HEAD]])
            super().route(sender, to, kind + self.chance.randbytes(size))


Heard = dict[NodeId, list[tuple[NodeId, bytes]]]
KINDS = [Honest, Dropping, Doubling, Reordering, Corrupting, Misdirecting, Inventing]


@pytest.mark.claim("C-grpc-2")
def test_it_can_only_delay(hub: Callable[..., Any], lab: SimpleNamespace, kind: type) -> None:
    whole = kind in {Honest, Doubling}
    seen = play(hub, lab, kind, until=is_whole if whole else None)
    for me, deliveries in seen.items():
        assert len(deliveries) == len(set(deliveries)), "a frame came twice"
        for link, frame in deliveries:
            assert frame in {frame_of(link, me, number) for number in range(FRAMES)}
    assert is_whole(seen) or not whole


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        marks = {kind: pytest.mark.long for kind in KINDS if kind not in {Honest, Misdirecting}}
        kinds = [pytest.param(kind, marks=marks.get(kind, ())) for kind in KINDS]
        metafunc.parametrize("kind", kinds, ids=lambda kind: kind.__name__.lower())


def is_whole(seen: Heard) -> bool:
    """Whether every frame came that a hub can give."""
    return all(len(deliveries) == 2 * FRAMES for deliveries in seen.values())


def is_wrong(seen: Heard) -> bool:
    """Whether a frame came that nobody sent to this node, or not over this link."""
    return any(
        frame not in {frame_of(link, me, number) for number in range(FRAMES)}
        for me, heard in seen.items()
        for link, frame in heard
    )


def came_twice(seen: Heard) -> bool:
    """Whether a frame came to a node more than once."""
    return any(len(heard) > len(set(heard)) for heard in seen.values())


def frame_of(sender: NodeId, to: NodeId, number: int) -> bytes:
    return sender + to + number.to_bytes(4, "big")


def play(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    kind: type,
    *,
    only_frames: bool = False,
    until: Callable[[Heard], bool] | None = None,
) -> Heard:
    """Three nodes say and ask each other things; what each of them heard."""
    roster = lab.members(3)
    server = hub(roster, kind=kind)
    ends = [lab.transport(me, roster, [server], retry_seconds=0.1) for me in roster]
    seen: dict[NodeId, list[tuple[NodeId, bytes]]] = {me.node_id: [] for me in roster}

    async def echo(asker: NodeId, data: bytes) -> bytes:
        return asker + data

    async def listen(me: Any, end: Any) -> None:
        while True:
            delivery = await end.receive()
            seen[me.node_id].append((delivery.link, delivery.frame))

    async def main() -> None:
        async with lab.running(*ends), anyio.create_task_group() as group:
            for me, end in zip(roster, ends, strict=True):
                group.start_soon(listen, me, end)
            for number in range(FRAMES):
                for me, end in zip(roster, ends, strict=True):
                    for to in roster:
                        await end.send(to.node_id, frame_of(me.node_id, to.node_id, number))
            if not only_frames:
                await ask_and_fetch(lab, roster, ends)
            if until is None:
                await anyio.sleep(1.0)
            with anyio.move_on_after(lab.PATIENCE):
                while until is not None and not until(seen):  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.02)
            group.cancel_scope.cancel()

    for end in ends:
        end.handle("/echo", echo)
    anyio.run(main)
    return seen


async def ask_and_fetch(lab: SimpleNamespace, roster: Any, ends: Any) -> None:
    """Everybody asks everybody, and fetches a blob; nobody is blamed."""
    ref = await ends[0].publish_blob(BLOB)
    for me, end in zip(roster, ends, strict=True):
        for to in roster:
            if to is not me:
                question = me.node_id + to.node_id
                answer = await end.request(to.node_id, "/echo", question, lab.PATIENCE)
                assert answer == me.node_id + question
        holders = [roster[0].node_id]
        assert await end.fetch_blob(ref, holders, lab.PATIENCE) == BLOB
    for end in ends:
        assert end.stats().blobs_failed == 0
        with anyio.move_on_after(0.1):
            while True:  # nobody is blamed for what the hub did
                assert (await end.event()).change is not PeerChange.BAD


# ── the same without the guard ────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-grpc-2")
def test_without_the_window_a_frame_comes_twice(
    hub: Callable[..., Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnceWindow, "fresh", lambda _self, _number: True)
    assert came_twice(play(hub, lab, Doubling, only_frames=True, until=came_twice))


def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages go as they are, and all sessions have one name."""
    made = SealedSession.__init__

    def begin(self: Any, *args: Any) -> None:
        made(self, *args)
        self.name = bytes(NAME_BYTES)

    def seal(self: Any, data: bytes) -> bytes:
        self._number += 1
        return SEALED + self.name + self._number.to_bytes(8, "big") + data

    monkeypatch.setattr(SealedSession, "__init__", begin)
    monkeypatch.setattr(SealedSession, "seal", seal)
    monkeypatch.setattr(SealedSession, "open", lambda _self, message: message[_HEAD:])


@pytest.mark.control("C-grpc-2")
@pytest.mark.parametrize(
    "hostile", [pytest.param(Corrupting, marks=pytest.mark.long), Misdirecting]
)
def test_without_the_seal_frames_are_changed_or_another_s(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    hostile: type,
) -> None:
    unsealed(monkeypatch)
    assert is_wrong(play(hub, lab, hostile, only_frames=True, until=is_wrong))


# ── what it kept ──────────────────────────────────────────────────────────────────────────────────


class Keeping(Loud):
    """Keeps all that it passes on, and delivers it again when told."""

    def route(self, sender: NodeId, to: NodeId, message: bytes) -> None:
        self.kept.append((sender, to, message))
        super().route(sender, to, message)

    async def again(self) -> None:
        for sender, to, message in list(self.kept):
            HubServer.route(self, sender, to, message)
            await asyncio.sleep(0)


def restart(
    hub: Callable[..., Any], hub_loop: Any, lab: SimpleNamespace
) -> tuple[list[bytes], bool]:
    """A node says something and begins anew; the hub then delivers all of it again.

    Returns:
        what the other heard after that, and whether the two are linked in the end.
    """
    roster = lab.members(2)
    server = hub(roster, kind=Keeping)
    stays, first, second = (
        lab.transport(me, roster, [server]) for me in (roster[0], roster[1], roster[1])
    )
    heard: list[bytes] = []

    async def main() -> None:
        async with lab.running(stays):
            await first.start()
            await lab.linked(stays, first)
            await first.send(roster[0].node_id, b"before")
            assert (await stays.receive()).frame == b"before"
            await first.aclose()
            await lab.until(lambda: not stays.peers())  # else it may be linked with the first yet
            await second.start()
            await lab.linked(stays, second)
            await anyio.to_thread.run_sync(hub_loop.run, server.server.again())
            with anyio.fail_after(lab.PATIENCE):
                while heard[-1:] != [b"after"]:
                    await second.send(roster[0].node_id, b"after")
                    with anyio.move_on_after(1.0):
                        heard.append((await stays.receive()).frame)
            assert stays.peers()
            await second.aclose()

    anyio.run(main)
    return heard, True


@pytest.mark.claim("C-grpc-3")
def test_what_an_earlier_start_said_does_not_come_again(
    hub: Callable[..., Any], hub_loop: Any, lab: SimpleNamespace
) -> None:
    heard, _linked = restart(hub, hub_loop, lab)
    assert set(heard) == {b"after"}


@pytest.mark.control("C-grpc-3")
def test_without_the_seal_and_the_window_it_comes_again(
    hub: Callable[..., Any],
    hub_loop: Any,
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unsealed(monkeypatch)
    monkeypatch.setattr(OnceWindow, "fresh", lambda _self, _number: True)
    heard, _linked = restart(hub, hub_loop, lab)
    assert b"before" in heard


def withheld(hub: Callable[..., Any], hub_loop: Any, lab: SimpleNamespace, patience: float) -> bool:
    """What a node said in an earlier start comes once it has begun anew: is it still linked?

    ``patience``: seconds that its link may take to go down.
    """
    roster = lab.members(2)
    server = hub(roster, kind=Keeping)
    # The first start is seen by a hub that passes all on but its credential and what follows.
    stays, first, second = (
        lab.transport(me, roster, [server]) for me in (roster[0], roster[1], roster[1])
    )
    down: list[Any] = []

    async def main() -> None:
        async with lab.running(stays):
            hidden: list[tuple[NodeId, NodeId, bytes]] = []
            passed = server.server.route

            def hold(sender: NodeId, to: NodeId, message: bytes) -> None:
                if sender == roster[1].node_id and message[:1] == SEALED:
                    hidden.append((sender, to, message))
                else:
                    passed(sender, to, message)

            server.server.route = hold
            await first.start()
            await lab.until(lambda: len(hidden) > 2)
            await first.aclose()
            server.server.route = passed
            await second.start()
            await lab.linked(stays, second)

            async def release() -> None:
                for message in [*server.server.kept, *hidden]:
                    passed(*message)

            await anyio.to_thread.run_sync(hub_loop.run, release())
            with anyio.move_on_after(patience):
                while not down:
                    event = await stays.event()
                    if event.change is PeerChange.DOWN:
                        down.append(event)
            await second.aclose()

    anyio.run(main)
    return not down


@pytest.mark.claim("C-grpc-3")
def test_a_start_that_was_kept_back_does_not_take_the_place_of_the_newest(
    hub: Callable[..., Any], hub_loop: Any, lab: SimpleNamespace
) -> None:
    assert withheld(hub, hub_loop, lab, 2.0)


@pytest.mark.control("C-grpc-3")
def test_without_the_proof_of_being_there_it_does(
    hub: Callable[..., Any],
    hub_loop: Any,
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decide = GrpcNetwork._perhaps_up

    def anyway(self: Any, peer: Any, candidate: Any) -> None:
        candidate.proved = True
        decide(self, peer, candidate)

    monkeypatch.setattr(GrpcNetwork, "_perhaps_up", anyway)
    assert not withheld(hub, hub_loop, lab, lab.PATIENCE)


# ── two hubs, of which one is hostile ─────────────────────────────────────────────────────────────

HONEST, EVIL = (HubPlace("hub", port, f"{port}" * 64) for port in (1, 2))


class UplinkTo:
    """Stands for the connection to a hub."""

    def __init__(self, place: HubPlace) -> None:
        self.place = place


Work = Callable[[Any, Callable[..., None]], Awaitable[None]]


def brought(lab: SimpleNamespace, work: Work, **options: float) -> None:
    """Play with the network of a node, and with what hubs bring it of another node."""
    me, other = roster = lab.members(2)
    nowhere = SimpleNamespace(option="127.0.0.1:1#" + "0" * 64)
    end = lab.transport(me, roster, [nowhere], **options)

    def greeting(number: int, quoted: bytes) -> bytes:
        key = hashlib.sha256(b"%d" % number).digest()
        said = Greeting("test", other.node_id, key[:16], key, quoted)
        return attrs.evolve(said, signature=other.key.sign(said.statement())).dumps()

    async def main() -> None:
        await end.start()
        try:
            network = end._network

            def bring(hub: HubPlace, data: bytes | int, quoted: bytes = b"") -> None:
                words = data if isinstance(data, bytes) else greeting(data, quoted)
                network._take(UplinkTo(hub), other.node_id + GREETS + words)

            async def play() -> None:
                await work(network, bring)

            await end._call(play)
        finally:
            await end.aclose()

    anyio.run(main)


@pytest.mark.claim("C-grpc-4")
@pytest.mark.control("C-grpc-4", "C-grpc-12")
@pytest.mark.parametrize("answers", [True, False])
def test_what_a_hub_kept_of_a_node_that_is_gone_does_not_keep_its_link_up(
    lab: SimpleNamespace, *, answers: bool
) -> None:
    """It delivers some of it now and then: the node is not silent. The control is there, and is
    asked again before it is given up."""
    ended: list[float] = []

    async def work(network: Any, bring: Callable[..., None]) -> None:
        (peer,) = network.peers.values()
        options, heads = network._options, list[bytes]()
        network.lines.pass_on = lambda _peer, message, _attempt=0: heads.append(message[:_HEAD])
        bring(HONEST, 0, network._mine.session)
        (link,) = peer.candidates.values()
        clock = SimpleNamespace(now=network._loop.time())
        network._loop = SimpleNamespace(time=lambda: clock.now, call_later=None)
        network.spawn = asyncio.ensure_future

        def answer() -> None:
            link.draw(clock.now)
            network._judged(peer, link, link.nonce, admitted=True)

        link.admitted = True
        answer()
        assert peer.up
        began = clock.now
        while clock.now < began + 2 * (3 * options.readmit_seconds + options.hello_seconds):
            clock.now += options.ping_seconds / 2
            link.heard = clock.now  # something that was kept
            before = peer.shown
            network._tend(peer, clock.now)
            if answers and peer.shown > before:
                answer()
            if not peer.up:
                ended.append(clock.now - began)
                break
        await asyncio.sleep(0)

    brought(lab, work, ping_seconds=5.0, hello_seconds=15.0, readmit_seconds=60.0)
    assert (ended == []) == answers
    assert all(195 < after < 200 for after in ended)


def test_a_hub_that_drops_large_messages_does_not_choose_their_way(lab: SimpleNamespace) -> None:
    """Whoever brings small messages first, or not, as it likes, is asked first, or not."""

    async def work(network: Any, bring: Callable[..., None]) -> None:
        del bring
        (peer,), lines = network.peers.values(), network.lines
        taken: list[HubPlace] = []

        def connection(place: HubPlace) -> Any:
            def put(_message: bytes) -> bool:
                taken.append(place)
                return True

            made: Any = UplinkTo(place)
            made.up, made.put = True, put
            return made

        kept = lines._uplinks
        for order in ((HONEST, EVIL), (EVIL, HONEST)):
            evil, honest = connection(EVIL), connection(HONEST)
            lines._uplinks = {place: {EVIL: evil, HONEST: honest}[place] for place in order}
            taken.clear()
            for attempt in range(4):
                peer.via = {evil: float(attempt % 2 == 0), honest: float(attempt % 2)}
                lines.pass_on(peer, bytes(100_000), attempt)
            assert taken[0] is EVIL
            assert HONEST in taken
        lines._uplinks = kept

    brought(lab, work)


@pytest.mark.claim("C-grpc-8")
@pytest.mark.parametrize("flood", [b"forged", 1], ids=["forged", "old"])
def test_a_hub_that_floods_greetings_does_not_keep_those_of_another_hub_out(
    lab: SimpleNamespace, flood: bytes | int
) -> None:
    """Old ones are signed: they used up the answers, and then the honest one got none."""

    async def work(network: Any, bring: Callable[..., None]) -> None:
        answered: list[bytes] = []
        network._greet = lambda _peer, quoted: answered.append(quoted)
        for _ in range(100):
            bring(EVIL, flood)
        answered.clear()
        bring(HONEST, 2)
        assert answered == [hashlib.sha256(b"2").digest()[:16]]

    brought(lab, work)


@pytest.mark.claim("C-grpc-8")
def test_a_hub_that_brings_old_starts_does_not_push_out_what_another_hub_brought(
    lab: SimpleNamespace,
) -> None:
    async def work(network: Any, bring: Callable[..., None]) -> None:
        (peer,) = network.peers.values()
        mine = network._mine.session
        bring(EVIL, 0, mine)
        bring(HONEST, 0, mine)
        for number in range(1, 15):
            bring(EVIL, number, mine)
        kept = [hashlib.sha256(b"%d" % number).digest()[:16] for number in (0, 11, 12, 13, 14)]
        assert list(peer.candidates) == kept

    brought(lab, work)


@pytest.mark.claim("C-grpc-6")
def test_a_node_that_begins_anew_all_the_time_over_several_hubs_costs_a_few_sessions(
    lab: SimpleNamespace,
) -> None:
    """All of them are signed. Those that two hubs brought were once kept for ever."""

    async def work(network: Any, bring: Callable[..., None]) -> None:
        (peer,) = network.peers.values()
        for number in range(15):
            for hub in (EVIL, HONEST):
                bring(hub, number, network._mine.session)
        assert len(peer.candidates) == CANDIDATES
        for number in range(15, 19):  # other ones over each
            bring(HONEST, number, network._mine.session)
        assert len(peer.candidates) == 2 * CANDIDATES

    brought(lab, work)


@pytest.mark.control("C-grpc-6", "C-grpc-8")
@pytest.mark.parametrize("bounded", [True, False])
def test_control_without_a_bound_sessions_pile_up_and_one_hub_alone_pushes_out_its_own(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, *, bounded: bool
) -> None:
    if not bounded:
        monkeypatch.setattr("qres_transport_grpc.peers.CANDIDATES", 1000)

    async def work(network: Any, bring: Callable[..., None]) -> None:
        (peer,) = network.peers.values()
        for number in range(15):
            bring(EVIL, number, network._mine.session)
        assert len(peer.candidates) == (CANDIDATES if bounded else 15)
        assert (hashlib.sha256(b"0").digest()[:16] in peer.candidates) != bounded

    brought(lab, work)


@pytest.mark.claim("C-grpc-5")
@pytest.mark.control("C-grpc-5")
@pytest.mark.parametrize("guarded", [True, False])
def test_no_number_comes_again_in_a_session_that_a_hub_has_made_anew(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It pushes a session out and brings it again, while the first still waits for a plugin.

    Both have one key. AES-GCM under one number for two messages lets the hub read and forge.
    """
    if not guarded:
        monkeypatch.setattr(Acquaintance, "holds", lambda _self, _candidate: True)
    heads: list[bytes] = []

    async def work(network: Any, bring: Callable[..., None]) -> None:
        (peer,) = network.peers.values()
        network.lines.pass_on = lambda _peer, message, _attempt=0: heads.append(message[:_HEAD])
        for number in (*range(CANDIDATES + 1), 0):
            bring(EVIL, number, network._mine.session)
        shown = [task for task in network._tasks if task.get_coro().__name__ == "_show"]
        assert len(shown) == CANDIDATES + 2
        await asyncio.gather(*shown)
        first = peer.candidates[hashlib.sha256(b"0").digest()[:16]]
        assert first.session.name in {head[1 : 1 + NAME_BYTES] for head in heads}

    brought(lab, work, reconnect_seconds=lab.PATIENCE)  # it shows nothing by itself meanwhile
    sealed = [head for head in heads if head[:1] == SEALED]
    assert (len(sealed) == len(set(sealed))) == guarded
    assert len(set(sealed)) == (CANDIDATES if guarded else CANDIDATES + 1)


def test_what_came_before_a_member_was_removed_does_not_come_again_when_it_is_back(
    hub: Callable[..., Any], hub_loop: Any, lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster, kind=Keeping)
    ends = [lab.transport(me, roster, [server]) for me in roster]
    ids = [node.node_id for node in roster]
    heard: list[bytes] = []

    async def main() -> None:
        async with lab.running(*ends):
            await ends[1].send(ids[0], b"before")
            assert (await ends[0].receive()).frame == b"before"
            ends[0].follow(ids[:1])
            await lab.until(lambda: not ends[0]._network.peers)
            ends[0].follow(ids)
            await lab.linked(*ends)
            await anyio.to_thread.run_sync(hub_loop.run, server.server.again())
            with anyio.fail_after(lab.PATIENCE):
                while heard[-1:] != [b"after"]:
                    await ends[1].send(ids[0], b"after")
                    with anyio.move_on_after(1.0):
                        heard.append((await ends[0].receive()).frame)

    anyio.run(main)
    assert set(heard) == {b"after"}
