"""The hub: who gets in, what a member can cost it, and what it reads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import resource
import secrets
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import attrs
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from qres_carrier import SenderBuckets, TokenBucket
from qres_transport_grpc import dial
from qres_transport_grpc.cli import MOST_FILES
from qres_transport_grpc.cli import hub as hub_command
from qres_transport_grpc.dial import GRPC, WrongHubError, certificate, channel
from qres_transport_grpc.identity import HubIdentity
from qres_transport_grpc.outbox import Outbox, OutboxPool
from qres_transport_grpc.roster import HubRoster
from qres_transport_grpc.server import LINES_BURST, LINES_PER_SECOND, HubServer
from qres_transport_grpc.wire import CHALLENGE, METHOD, READY, HubPlace, HubProof, proof_statement

from qres_core.errors import ConfigError, RoundError

MIB = 2**20


class Line:
    """A stream to a hub, message by message."""

    def __init__(self, server: Any) -> None:
        place = HubPlace.of(server.option)
        self._channel = channel(place, certificate(place, 60.0))
        self._more: list[bytes] = []
        self._over = False
        self.call = self._channel.stream_stream(METHOD)(self._sent())
        self.challenge: bytes = dict(self.call.initial_metadata())[CHALLENGE]

    def _sent(self) -> Iterator[bytes]:
        while not self._over:
            if self._more:
                yield self._more.pop(0)
            else:
                time.sleep(0.01)

    def say(self, message: bytes) -> None:
        self._more.append(message)

    def prove(self, me: Any, server: Any, **other: Any) -> None:
        words = {"swarm": "test", "digest": server.identity.digest, "challenge": self.challenge}
        statement = proof_statement(**{**words, **other}, node=me.node_id)
        self.say(HubProof(me.node_id, me.key.sign(statement)).dumps())

    def get_in(self, me: Any, server: Any) -> None:
        self.prove(me, server)
        assert next(self.call) == READY

    def status(self) -> str:
        """Why the hub ended it."""
        with pytest.raises(GRPC.RpcError):
            for _message in self.call:
                pass
        self.close()
        return str(self.call.code().name)

    def close(self) -> None:
        self._over = True
        self.call.cancel()
        self._channel.close()


@pytest.fixture
def lines() -> Iterator[Callable[[Any], Line]]:
    made: list[Line] = []

    def make(server: Any) -> Line:
        made.append(Line(server))
        return made[-1]

    yield make
    for line in made:
        line.close()


def wait(done: Callable[[], bool], patience: float) -> None:
    end = time.monotonic() + patience
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


# ── who gets in ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-grpc-13")
def test_a_member_gets_in_and_an_old_proof_does_not(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    caplog: pytest.LogCaptureFixture,
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    line = lines(server)
    line.get_in(roster[0], server)
    again = lines(server)
    again.prove(roster[0], server, challenge=line.challenge)
    assert again.status() == "PERMISSION_DENIED"
    assert server.server.refused == 1
    assert server.server.reasons == {"not proved to be a member": 1}
    with caplog.at_level(logging.INFO, logger="qres_transport_grpc.server"):
        for _ in range(2):
            server.server._tell_reasons()
    said = [item.message for item in caplog.records if "refused or dropped" in item.message]
    assert said == ["refused or dropped so far: not proved to be a member: 1"], "once"
    assert server.server._familiar == {roster[0].node_id: deque(["127.0.0.1"])}


@pytest.mark.claim("C-grpc-13")
@pytest.mark.parametrize(
    "other", [{"swarm": "another"}, {"digest": "0" * 64}, {"challenge": bytes(32)}]
)
def test_a_proof_is_for_one_hub_one_swarm_and_one_challenge(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    other: dict[str, Any],
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    line = lines(server)
    line.prove(roster[0], server, **other)
    assert line.status() == "PERMISSION_DENIED"


@pytest.mark.claim("C-grpc-13")
def test_strangers_and_garbage_stay_out(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    *roster, stranger = lab.members(3)
    server = hub(roster)
    line = lines(server)
    line.prove(stranger, server)
    assert line.status() == "PERMISSION_DENIED"
    named = lines(server)  # a member's name, and the stranger's signature
    statement = proof_statement("test", server.identity.digest, named.challenge, roster[0].node_id)
    named.say(HubProof(roster[0].node_id, stranger.key.sign(statement)).dumps())
    assert named.status() == "PERMISSION_DENIED"
    for size in (0, 1, 200, 2000):
        garbage = lines(server)
        garbage.say(secrets.token_bytes(size))
        assert garbage.status() == "PERMISSION_DENIED"
    assert server.server.members == frozenset()


def test_a_message_beyond_the_limit_ends_its_stream(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    line = lines(server)
    line.get_in(roster[0], server)
    line.say(bytes(3 * MIB))
    assert line.status() in {"RESOURCE_EXHAUSTED", "CANCELLED"}
    wait(lambda: not server.server.members, lab.PATIENCE)


def test_the_newest_connection_of_a_member_takes_the_place(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    first, second = lines(server), lines(server)
    for line in (first, second):
        line.get_in(roster[0], server)
    assert first.status() == "ABORTED"
    assert server.server.members == {roster[0].node_id}


@pytest.mark.claim("C-grpc-20")
@pytest.mark.control("C-grpc-20")
def test_who_leaves_the_roster_is_cut_off_and_a_new_key_counts(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_transport_grpc.server.REFRESH_SECONDS", 0.05)
    first, second, new = lab.members(3)
    server = hub([first, second])
    ends = [lines(server), lines(server)]
    for line, me in zip(ends, (first, second), strict=True):
        line.get_in(me, server)
    refreshed, refresh = list[bool](), server.server._roster.refresh
    monkeypatch.setattr(
        server.server._roster, "refresh", lambda: refreshed.append(refresh()) or refreshed[-1]
    )
    server.write([second, first], "test")  # the control: who stays in it keeps its connection
    wait(lambda: len(refreshed) > 2, lab.PATIENCE)
    assert server.server.members == {first.node_id, second.node_id}
    server.write([second], "test")
    assert ends[0].status() == "ABORTED"
    assert server.server.members == {second.node_id} == server.server._familiar.keys()
    with server.config.open("a", encoding="utf-8") as file:
        file.write(f'[hub.keys]\n"{second.node_id.hex()}" = "{new.node_id.hex()}"\n')
    assert ends[1].status() == "ABORTED"
    renewed = lines(server)
    statement = proof_statement("test", server.identity.digest, renewed.challenge, second.node_id)
    renewed.say(HubProof(second.node_id, new.key.sign(statement)).dumps())
    assert next(renewed.call) == READY


@pytest.mark.claim("C-grpc-17")
@pytest.mark.control("C-grpc-17")
def test_a_node_talks_to_no_hub_with_another_certificate(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    place = HubPlace.of(server.option)
    assert hashlib.sha256(server.identity.certificate).hexdigest() != place.digest  # PEM, not DER
    assert certificate(place, 60.0).encode() == server.identity.certificate  # the control
    with pytest.raises(WrongHubError):
        certificate(attrs.evolve(place, digest="0" * 64), 60.0)

    fake = SimpleNamespace(option=f"127.0.0.1:{server.port}#{'0' * 64}")

    async def refused() -> None:
        end = lab.transport(roster[0], roster, [fake])
        await end.start()
        try:
            with anyio.fail_after(lab.PATIENCE):
                event = await end.event()
            assert "another certificate" in event.detail
            assert str(event.reason) == "refused_key"
        finally:
            await end.aclose()

    anyio.run(refused)


# ── what a member can cost it ─────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-grpc-15")
def test_a_silent_member_costs_a_bounded_amount_of_memory(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    silent, talks = lines(server), lines(server)
    for line, me in ((silent, roster[0]), (talks, roster[1])):
        line.get_in(me, server)
    for _ in range(60):  # the silent end reads none of them
        talks.say(roster[0].node_id + bytes(MIB))
    counts = server.server
    wait(lambda: counts.passed + counts.dropped == 60, lab.PATIENCE)
    assert counts.dropped > 0
    assert counts.reasons == {"no room for it": counts.dropped}
    assert counts.waiting <= 12 * MIB  # the share of one sender
    talks.say(roster[1].node_id + b"to itself")  # the hub serves on
    assert next(talks.call).endswith(b"to itself")


def test_a_queue_is_shared_among_senders_and_small_messages_go_first() -> None:
    box = Outbox(10_000_000, 1000, share=700_000)
    assert [box.put(bytes(300_000), sender) for sender in "aaab"] == [True, True, False, True]
    assert box.put(b"small", "a")
    assert not box.put(bytes(1000), "b")  # small messages have a room of their own
    assert box.pop() == b"small"
    assert [len(box.pop() or b"") for _ in range(4)] == [300_000, 300_000, 300_000, 0]
    assert box.waiting == 0
    assert box.put(bytes(300_000), "a")
    assert all(Outbox(10_000_000, 1000).put(bytes(300_000)) for _ in range(4))  # the control


@pytest.mark.parametrize("shared", [True, False])
def test_queues_that_nobody_empties_leave_room_for_others(*, shared: bool) -> None:
    """Each has at most what is left of the pool: a half, a quarter, and so on; without, all."""
    pool = OutboxPool(9_000_000)
    boxes = [Outbox(8_000_000, 8_000_000, None, pool if shared else None) for _ in range(3)]
    for size in (100_000, 1000):  # large and small ones
        for box in boxes[:2]:
            while box.put(bytes(size), "floods"):
                pass
    waiting = sum(box.waiting for box in boxes)
    if not shared:
        assert waiting > 9_000_000
        return
    assert waiting == pool.used <= 6_800_000
    for _ in range(100):
        assert boxes[2].put(bytes(100_000), "honest")
        assert boxes[2].pop()
    assert boxes[0].put(bytes(100_000), "honest")  # in the place of the flood's
    for box in boxes:
        box.clear()
    assert pool.used == 0


@pytest.mark.claim("C-grpc-15")
def test_silent_members_together_cost_a_bounded_amount_of_memory(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(4)
    server = hub(roster, kind=partial(HubServer, memory=12 * MIB))
    silent = [lines(server) for _ in range(3)]
    talks = lines(server)
    for line, me in zip([*silent, talks], roster, strict=True):
        line.get_in(me, server)
    for _ in range(12):
        for me in roster[:3]:
            talks.say(me.node_id + bytes(MIB))
    counts = server.server
    wait(lambda: counts.passed + counts.dropped == 36, lab.PATIENCE)
    assert 4 * MIB < counts.waiting <= 11 * MIB  # of 33
    talks.say(roster[3].node_id + bytes(MIB))  # and whoever reads has room
    assert len(next(talks.call)) == 32 + MIB
    for line in silent:
        line.close()
    wait(lambda: counts.waiting == 0, lab.PATIENCE)


@pytest.mark.control("C-grpc-15")
def test_control_with_a_larger_bound_silent_members_cost_more(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(4)
    server = hub(roster, kind=partial(HubServer, memory=100 * MIB))
    ends = [lines(server) for _ in roster]
    for line, me in zip(ends, roster, strict=True):
        line.get_in(me, server)
    for _ in range(16):  # gRPC itself takes some of them, now more and now less
        for me in roster[:3]:
            ends[3].say(me.node_id + bytes(MIB))
    counts = server.server
    wait(lambda: counts.passed + counts.dropped == 48, lab.PATIENCE)
    assert counts.waiting > 11 * MIB


@pytest.mark.claim("C-grpc-15")
def test_nobody_waits_behind_a_flood_nor_is_kept_out_by_one() -> None:
    box = Outbox(10_000_000, 20 * 257)
    assert all(box.put(b"x", "floods") for _ in range(20))  # all the room of small messages
    assert not box.put(b"x", "floods")
    assert [box.put(b"y", "honest") for _ in range(11)] == [True] * 10 + [False]
    assert box.waiting == 20 * 257
    assert [box.pop() for _ in range(21)] == [b"x", b"y"] * 10 + [None]
    assert box.waiting == 0


@pytest.mark.claim("C-grpc-15")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_flood_of_small_messages_holds_up_no_large_one(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A member takes so many small ones a second; a flood of more kept every blob from it."""
    if not guarded:
        monkeypatch.setattr("qres_transport_grpc.outbox.SMALL_RUN", math.inf)
    box = Outbox(10_000_000, 1_000_000)
    assert all(box.put(bytes(100_000), "honest") for _ in range(3))
    left: list[int] = []
    for _ in range(1000):  # it is never empty of small ones
        assert box.put(b"x", "floods")
        assert box.put(b"y", "floods")
        left.append(len(box.pop() or b""))
    large = [index for index, size in enumerate(left) if size > 1]
    assert large == ([64, 129, 194] if guarded else [])


@pytest.mark.claim("C-grpc-15")
def test_a_member_that_floods_is_slowed(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(2)
    narrow = partial(HubServer, bytes_per_second=20_000)
    for kind, slowed in ((narrow, True), (HubServer, False)):
        server = hub(roster, kind=kind)
        line = lines(server)
        line.get_in(roster[0], server)
        began = time.monotonic()
        for _ in range(12):  # 4096 bytes each beside their own: 1.5 s more than at once
            line.say(roster[1].node_id + b"x")
        wait(lambda counts=server.server: counts.dropped == 12, lab.PATIENCE)
        if slowed:
            assert time.monotonic() - began > 1.0


def test_a_member_that_floods_does_not_escape_by_a_new_connection(
    hub: Callable[..., Any], lab: SimpleNamespace, lines: Callable[[Any], Line]
) -> None:
    roster = lab.members(2)
    server = hub(roster, kind=partial(HubServer, bytes_per_second=20_000))
    began = time.monotonic()
    for number in range(3):
        line = lines(server)
        line.get_in(roster[0], server)
        for _ in range(4):
            line.say(roster[1].node_id + b"x")
        wait(lambda most=4 * number + 4: server.server.dropped == most, lab.PATIENCE)
        line.close()
    assert time.monotonic() - began > 1.0


# ── what holds a stream open ──────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-grpc-14")
def test_strangers_that_wait_do_not_keep_a_member_out(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_transport_grpc.server.STRANGERS", 2)
    monkeypatch.setattr("qres_transport_grpc.server.PROOF_SECONDS", lab.PATIENCE)
    roster = lab.members(2)
    server = hub(roster)
    strangers = [lines(server) for _ in range(3)]
    member = lines(server)
    member.get_in(roster[0], server)
    assert strangers[0].status() == "PERMISSION_DENIED"  # the oldest made room


class Crowded(HubServer):
    """Counts members, too, among those that may have to make room."""

    async def _admitted(self, context: Any) -> bytes | None:
        node = await super()._admitted(context)
        if node is not None:
            ends = SimpleNamespace(
                expired=lambda: False, reschedule=lambda _when: self._seats[node].end("no room")
            )
            self._strangers.append(("", ends))  # at no address that it knows
        return node


@pytest.mark.claim("C-grpc-25")
@pytest.mark.control("C-grpc-25")
@pytest.mark.parametrize(
    ("kind", "addresses"), [(HubServer, "one"), (HubServer, "many"), (Crowded, "many")]
)
def test_strangers_that_wait_push_out_each_other_and_no_member(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[HubServer],
    addresses: str,
) -> None:
    """In the control the hub takes a member for one more that waits."""
    if addresses == "many":
        monkeypatch.setattr("qres_transport_grpc.server._origin", lambda peer: peer)
    monkeypatch.setattr("qres_transport_grpc.server.STRANGERS", 2)
    monkeypatch.setattr("qres_transport_grpc.server.PROOF_SECONDS", lab.PATIENCE)
    roster = lab.members(1)
    server = hub(roster, kind=kind)
    member = lines(server)
    member.get_in(roster[0], server)
    strangers = [lines(server) for _ in range(6)]
    if kind is Crowded:
        assert member.status() == "ABORTED"
        assert not server.server.members
        return
    assert strangers[0].status() == "PERMISSION_DENIED"
    member.say(roster[0].node_id + b"to itself")
    assert next(member.call).endswith(b"to itself")


class Waiting:
    """A stream that has not proved anything."""

    def __init__(self, address: str) -> None:
        self._address = address

    def peer(self) -> str:
        return self._address

    async def send_initial_metadata(self, _metadata: object) -> None:
        """The challenge."""

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""


# a host has 2**64 addresses of IPv6; others have some of IPv4
NETWORK = [f"ipv6:%5B2001:db8::{number:x}%5D:7" for number in range(1, 9)]
HOSTS = [f"ipv4:192.0.2.{number}:7" for number in range(1, 9)]


@pytest.mark.claim("C-grpc-14")
@pytest.mark.control("C-grpc-14")
@pytest.mark.parametrize(
    ("strangers", "networks", "familiar", "stays"),
    [
        (NETWORK, True, False, True),
        (NETWORK, False, False, False),  # the controls: nothing tells it from them
        (HOSTS, True, True, True),
        (HOSTS, True, False, False),
        (["ipv4:198.51.100.7:9"] * 8, True, True, False),  # from the member's own address
    ],
)
def test_strangers_with_many_addresses_do_not_keep_a_member_out(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    strangers: list[str],
    *,
    networks: bool,
    familiar: bool,
    stays: bool,
) -> None:
    if not networks:
        monkeypatch.setattr("qres_transport_grpc.server._origin", lambda peer: peer)
    monkeypatch.setattr("qres_transport_grpc.server.STRANGERS", 4)
    monkeypatch.setattr("qres_transport_grpc.server.PROOF_SECONDS", lab.PATIENCE)
    (member,) = lab.members(1)
    server = hub([member]).server

    async def main() -> None:
        if familiar:
            server._familiar[member.node_id] = deque(["198.51.100.7"])
        streams = [Waiting("ipv4:198.51.100.7:7"), *map(Waiting, strangers)]
        tasks = []
        for stream in streams:
            tasks.append(asyncio.create_task(server._admitted(stream)))
            for _ in range(5):
                await asyncio.sleep(0)
        waiting = [not task.done() for task in tasks]
        assert (waiting[0], sum(waiting)) == (stays, 4)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_a_stranger_that_takes_no_data_is_refused_all_the_same(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A status waits for data before it, and a stream that has not ended is one of the hub's."""
    closed = (("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0))
    options: Any = vars(dial)["_OPTIONS"]
    monkeypatch.setattr("qres_transport_grpc.dial._OPTIONS", (*options, *closed))
    monkeypatch.setattr("qres_transport_grpc.server.PROOF_SECONDS", 0.2)
    stranger = lines(hub(lab.members(2)))
    wait(stranger.call.done, lab.PATIENCE)
    assert stranger.call.code().name == "PERMISSION_DENIED"


class Stream:
    """What gRPC hands the hub: it takes one message at a time, and perhaps none."""

    def __init__(self, takes: int) -> None:
        self.takes, self.took, self.ended = takes, list[bytes](), False
        self._busy = False

    async def write(self, message: bytes) -> None:
        assert not self._busy, "too many operations"
        self._busy = True
        if len(self.took) == self.takes:
            await asyncio.Event().wait()
        for _ in range(5):
            await asyncio.sleep(0)
        self.took.append(message)
        self._busy = False

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def abort(self, *_status: object) -> None:
        self.ended = True


@pytest.mark.parametrize("takes", [0, 5])
def test_a_member_is_written_to_in_order_and_cut_off_whatever_it_takes(
    hub: Callable[..., Any], lab: SimpleNamespace, takes: int
) -> None:
    """Others speak to it at once; who took no greeting could not be removed."""
    first, second = lab.members(2)
    server = hub([first, second]).server

    async def main() -> None:
        stream = Stream(takes)
        serving = asyncio.create_task(server._serve(first.node_id, stream))
        await asyncio.sleep(0)
        for _ in range(4):
            server.route(second.node_id, first.node_id, b"hello")
        for _ in range(100):
            await asyncio.sleep(0)
        assert stream.took == [READY, *[second.node_id + b"hello"] * 4][:takes]
        assert server.members == {first.node_id}
        server._seats[first.node_id].end("no member any more")
        await asyncio.wait_for(serving, lab.PATIENCE)
        assert (server.members, stream.ended) == (frozenset(), True)

    asyncio.run(main())


@pytest.mark.parametrize("throttled", [True, False])
def test_a_member_that_comes_and_goes_without_end_does_not_fill_the_log(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    throttled: bool,  # noqa: FBT001 - the case
) -> None:
    first, second = lab.members(2)
    server = hub([first, second]).server
    now = [0.0]
    burst = LINES_BURST if throttled else math.inf

    def bucket() -> TokenBucket:
        return TokenBucket(LINES_PER_SECOND, burst, clock=lambda: now[0])

    async def come_and_go(node: bytes) -> None:
        serving = asyncio.create_task(server._serve(node, Stream(5)))
        await asyncio.sleep(0)
        server._seats[node].end("gone")
        await serving

    def lines() -> list[str]:
        return [text for text in caplog.messages if text.startswith("member ")]

    async def main() -> None:
        for _ in range(50):
            await come_and_go(first.node_id)
        assert len(lines()) == (LINES_BURST if throttled else 100)
        await come_and_go(second.node_id)  # has lines of its own
        assert lines()[-1] == f"member {second.node_id.hex()[:16]} is gone"
        if throttled:
            now[0] = LINES_BURST / LINES_PER_SECOND
            await come_and_go(first.node_id)
            assert lines()[-2].endswith(f" is here ({100 - LINES_BURST} more times not logged)")
            assert lines()[-1] == f"member {first.node_id.hex()[:16]} is gone"

    server._lines = SenderBuckets(bucket)
    with caplog.at_level("INFO", "qres_transport_grpc.server"):
        asyncio.run(main())


def test_a_member_has_a_few_streams_at_most(
    hub: Callable[..., Any],
    lab: SimpleNamespace,
    lines: Callable[[Any], Line],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may leave those open that the hub has ended: each costs something."""

    class Stuck(HubServer):
        async def _serve(self, node: Any, context: Any) -> None:
            del node
            await context.write(READY)
            await asyncio.Event().wait()

    monkeypatch.setattr("qres_transport_grpc.server.STREAMS", 2)
    roster = lab.members(2)
    server = hub(roster, kind=Stuck)
    for me, most in ((roster[0], 2), (roster[1], 1)):  # the other has its own
        for _ in range(most):
            line = lines(server)
            line.get_in(me, server)
    third = lines(server)
    third.prove(roster[0], server)
    assert third.status() == "PERMISSION_DENIED"


# ── files and the command ─────────────────────────────────────────────────────────────────────────


def test_the_identity_is_made_once_and_guarded(tmp_path: Path) -> None:
    path = tmp_path / "hub.pem"
    made = HubIdentity.read(path)
    assert HubIdentity.read(path) == made
    assert "PRIVATE" not in repr(made)
    path.chmod(0o644)
    with pytest.raises(RoundError, match="QRES-E602"):
        HubIdentity.read(path)
    path.chmod(0o600)
    path.write_text("something else", encoding="utf-8")
    with pytest.raises(ConfigError, match="QRES-E105"):
        HubIdentity.read(path)


def test_an_identity_of_two_halves_is_refused(tmp_path: Path) -> None:
    """Every handshake would fail."""
    first, second, path = HubIdentity.generate(), HubIdentity.generate(), tmp_path / "hub.pem"
    path.write_bytes(first.key + second.certificate)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"QRES-E105.*another key"):
        HubIdentity.read(path)


@pytest.mark.claim("C-grpc-13")
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not toml [", "QRES-E101"),
        pytest.param("a = " + "[" * 100_000, "QRES-E101", id="deep"),
        ('[swarm]\nname = "s"\n', "QRES-E103"),
        ("swarm = 3\n", "QRES-E103"),
        ('[swarm]\nname = "s"\nroster = []\n', "QRES-E103"),
        ('[swarm]\nname = "s"\nroster = ["00"]\n', "QRES-E105"),
        ('[swarm]\nname = "s"\nroster = [1]\n', "QRES-E105"),
        (f'[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n[hub.keys]\nx = "y"\n', "QRES-E105"),
        (f'[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n[hub.key]\nx = "y"\n', "QRES-E102"),
        (f'hub = 3\n[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n', "QRES-E102"),
        pytest.param(
            f'[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n'
            f'[hub.keys]\n{"1" * 64} = "{"2" * 64}"\n',
            "QRES-E105",
            id="a stranger's key",
        ),
        (f'[swarm]\nname = "s"\nroster = ["01{"0" * 62}"]\n', "QRES-E105.*of small order"),
        (f'[swarm]\nname = "s"\nroster = ["{"f" * 64}"]\n', "QRES-E105.*not canonical"),
        pytest.param(
            f'[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n'
            f'[hub.keys]\n{"3" * 64} = "{"0" * 62}80"\n',
            "QRES-E105.*of small order",
            id="a newer key of small order",
        ),
    ],
)
def test_a_roster_that_is_none_is_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=code):
        HubRoster(path)


@pytest.mark.control("C-grpc-13")
def test_control_one_signature_by_nobody_fits_a_key_of_small_order() -> None:
    """Whoever likes is the member with that key, if the library is asked alone."""
    nobody = bytes([1]) + bytes(31)
    for challenge in (b"this one", b"and that one"):
        Ed25519PublicKey.from_public_bytes(nobody).verify(nobody + bytes(32), challenge)


def test_a_roster_that_breaks_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text(f'[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n', encoding="utf-8")
    roster = HubRoster(path)
    assert not roster.refresh()
    path.write_text("broken [", encoding="utf-8")
    assert not roster.refresh()
    assert roster.keys == {b"\x33" * 32: b"\x33" * 32}
    assert "stay as they were" in caplog.text
    path.write_text(f'[swarm]\nname = "other"\nroster = ["{"1" * 64}"]\n', encoding="utf-8")
    assert not roster.refresh()
    assert roster.keys == {b"\x33" * 32: b"\x33" * 32}
    path.unlink()
    assert not roster.refresh()
    path.write_text(f'[swarm]\nname = "s"\nroster = ["{"1" * 64}"]\n', encoding="utf-8")
    assert roster.refresh()
    assert roster.keys == {b"\x11" * 32: b"\x11" * 32}


def test_a_roster_that_could_not_be_read_is_read_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that was removed must not stay because no file descriptor was free at that look."""
    path = tmp_path / "swarm.toml"
    path.write_text(f'[swarm]\nname = "s"\nroster = ["{"3" * 64}", "{"1" * 64}"]\n', "utf-8")
    roster = HubRoster(path)
    path.write_text(f'[swarm]\nname = "s"\nroster = ["{"3" * 64}"]\n', "utf-8")

    def refused(path: Path, limit: int) -> str:
        raise ConfigError.of("QRES-E101", str(path), "Too many open files", f"{limit} at most")

    with monkeypatch.context() as broken:
        broken.setattr("qres_core.stores.read_text", refused)
        for _ in range(3):
            assert not roster.refresh()
    assert caplog.text.count("stay as they were") == 1  # not with every look
    assert len(roster.keys) == 2
    assert roster.refresh()
    assert roster.keys == {b"\x33" * 32: b"\x33" * 32}
    assert not roster.refresh()
    path.unlink()
    for _ in range(3):
        assert not roster.refresh()
    assert caplog.text.count("stay as they were") == 2


def test_a_limit_that_is_no_number_is_refused(tmp_path: Path) -> None:
    words = ["run", "x.toml", "--identity", str(tmp_path / "hub.pem")]
    result = CliRunner().invoke(hub_command, [*words, "--megabytes-per-second", "nan"])
    assert (result.exit_code, "no limit" in result.output) == (2, True)


def test_the_command_makes_a_key_once_and_prints_its_digest(tmp_path: Path) -> None:
    place = tmp_path / "hub.pem"
    first = CliRunner().invoke(hub_command, ["key", str(place)])
    again = CliRunner().invoke(hub_command, ["key", str(place), "--json"])
    assert (first.exit_code, again.exit_code) == (0, 0)
    digest = HubIdentity.read(place).digest
    assert first.output == f"{digest}\n"
    assert json.loads(again.output) == {"ok": True, "digest": digest}


def test_it_says_where_it_cannot_listen(
    hub: Callable[..., Any], hub_loop: Any, lab: SimpleNamespace
) -> None:
    server = hub(lab.members(2))
    second = HubServer(server.identity, HubRoster(server.config))
    with pytest.raises(RoundError, match=r"QRES-E603.*cannot listen"):
        hub_loop.run(second.start(f"127.0.0.1:{server.port}"))
    hub_loop.run(second.stop())


@pytest.mark.parametrize("end", ["signal", "eof"])
def test_the_command_serves_until_it_is_told_to_end(
    tmp_path: Path, lab: SimpleNamespace, end: str
) -> None:
    config = tmp_path / "swarm.toml"
    ids = ", ".join(f'"{node.node_id.hex()}"' for node in lab.members(2))
    config.write_text(f'[swarm]\nname = "test"\nroster = [{ids}]\n', encoding="utf-8")
    command = [
        *(sys.executable, "-P", "-m", "qres_core.cli", "hub", "run", str(config)),
        *("--identity", str(tmp_path / "hub.pem"), "--listen", "127.0.0.1:0", "--json"),
        *(["--until-eof"] if end == "eof" else []),
    ]
    few = ["sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh"]  # open files, as a shell may have it
    pipe = subprocess.PIPE
    process = subprocess.Popen([*few, *command], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert '"ok": true' in line
        digest = HubIdentity.read(tmp_path / "hub.pem").digest
        assert digest in line
        port = int(line.partition('"port": ')[2].partition(",")[0])
        with contextlib.ExitStack() as strangers:
            for _ in range(100):  # without it they take all there are, and a member waits
                place = "127.0.0.1", port
                strangers.enter_context(socket.create_connection(place, timeout=lab.PATIENCE))
            assert "BEGIN CERTIFICATE" in certificate(HubPlace("127.0.0.1", port, digest), 60.0)
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            assert soft == min(hard, MOST_FILES)
    finally:
        if end == "signal":
            process.terminate()
        process.communicate(timeout=lab.PATIENCE)  # closes its standard input
    assert process.returncode == 0
