"""Signs of life: what counts, when to ask, and how long to wait for an answer."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from libp2p.stream_muxer.yamux.yamux import FLAG_ACK, FLAG_SYN, TYPE_PING, YAMUX_HEADER_FORMAT
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.pulse import MISSES, PATIENCE_SECONDS, SLOWEST, Pulse, PulseStep, Stretch
from qres_transport_libp2p.yamux import ShieldedYamux

PEER = peer_id(bytes(32))
LONGEST = 1.25
"""Most times the pause that silence is borne."""


def ask(pulse: Pulse, now: float) -> int:
    """A ping leaves because the pulse wants one; its number."""
    assert pulse.step(now, 5.0, 5.0) is PulseStep.ASK
    assert pulse.step(now + 100, 5.0, 5.0) is PulseStep.NOTHING, "while it is on its way out"
    pulse.sent(round(now), now)
    return round(now)


@pytest.mark.claim("C-libp2p-22")
@pytest.mark.control("C-libp2p-22")
def test_a_connection_in_use_is_never_asked() -> None:
    pulse = Pulse(0.0)
    for now in range(1000):
        pulse.heard = float(now)
        assert pulse.step(now + 1.0, 5.0, 5.0) is PulseStep.NOTHING
    assert pulse.step(999 + 5.0 * LONGEST, 5.0, 5.0) is PulseStep.ASK, "control: then it is quiet"


def test_silence_after_pings_ends_a_connection_and_anything_else_does_not() -> None:
    pulse = Pulse(0.0)
    now = 10.0
    for _ in range(MISSES):
        ask(pulse, now)
        assert pulse.step(now + 4.9, 5.0, 5.0) is PulseStep.NOTHING
        now += 5.0
    assert pulse.step(now, 5.0, 5.0) is PulseStep.GIVE_UP
    alive = Pulse(0.0)
    ask(alive, 10.0)
    ask(alive, 15.0)
    alive.heard = 19.9  # not the echo: anything
    assert alive.step(20.0, 5.0, 5.0) is PulseStep.NOTHING
    assert alive.missed == 0


@pytest.mark.claim("C-libp2p-22")
@pytest.mark.control("C-libp2p-22")
def test_an_answer_may_take_as_long_as_answers_take() -> None:
    pulse, now = Pulse(0.0), 10.0
    assert pulse.patience(5.0) == 5.0
    for _ in range(20):  # 20 s each: a line that is full, or a machine that is
        number = ask(pulse, now)
        now += 20.0
        pulse.answered(number, now)
        pulse.heard = now
        assert pulse.step(now, 5.0, 5.0) is PulseStep.NOTHING
        now += 10.0
    assert 20.0 <= pulse.patience(5.0) < 25.0
    ask(pulse, now)
    assert pulse.step(now + 19.0, 5.0, 5.0) is PulseStep.NOTHING
    assert pulse.step(now + 25.0, 5.0, 5.0) is PulseStep.ASK, "control: the second of them"
    pulse.round_trip = 1e6
    assert pulse.patience(5.0) == PATIENCE_SECONDS


def test_an_echo_of_nothing_tells_nothing() -> None:
    pulse = Pulse(0.0)
    pulse.answered(7, 3.0)
    assert pulse.round_trip == 0.0
    for number in range(100):
        pulse.sent(number, float(number))
    pulse.answered(3, 100.0)  # of long ago
    assert pulse.round_trip == 0.0
    pulse.answered(99, 100.0)
    assert pulse.round_trip == 1.0


def test_while_this_node_does_nothing_nobody_is_late() -> None:
    pulse = Pulse(0.0)
    ask(pulse, 10.0)
    pulse.forgive(60.0)
    assert pulse.step(70.0, 5.0, 5.0) is PulseStep.NOTHING
    assert pulse.step(75.0, 5.0, 5.0) is PulseStep.ASK
    quiet = Pulse(0.0)
    quiet.forgive(60.0)  # nothing is asked
    assert quiet.step(10.0, 5.0, 5.0) is PulseStep.ASK


def test_ends_that_are_quiet_at_once_do_not_ask_at_once() -> None:
    drawn: set[float] = set()
    pulse, now = Pulse(0.0), 0.0
    for _ in range(200):  # none of them in an outer fifth: once in 10**19
        now += 100.0
        ask(pulse, now)
        pulse.heard = now + 1
        pulse.step(now + 1, 5.0, 5.0)
        drawn.add(pulse._quiet)
    assert len(drawn) > 160
    assert 0.75 <= min(drawn) < 0.85
    assert 1.15 < max(drawn) <= LONGEST


@pytest.mark.claim("C-libp2p-29")
@pytest.mark.control("C-libp2p-29")
def test_a_limit_is_stretched_for_who_is_late_and_shrinks_again() -> None:
    stretch = Stretch()
    found: list[float] = []
    for _ in range(5):
        found.append(stretch.of(PEER))
        stretch.late(PEER)
    assert found == [1.0, 2.0, 4.0, SLOWEST, SLOWEST]
    assert stretch.of(peer_id(b"\1" * 32)) == 1.0, "of that peer alone"
    for expected in (4.0, 2.0, 1.0, 1.0):
        stretch.in_time(PEER)
        assert stretch.of(PEER) == expected


class Lower:
    """A secured connection that gives what it is told to, and notes what is written."""

    is_initiator = True

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.incoming: list[bytes] = []

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written.append(data)

    async def read(self, size: int | None = None) -> bytes:
        del size
        await trio.lowlevel.checkpoint()
        return self.incoming.pop(0)


def test_a_ping_is_a_header_and_its_echo_tells_the_round_trip() -> None:
    async def main() -> None:
        lower: Any = Lower()
        muxed = ShieldedYamux(lower, PEER, is_initiator=True)
        await trio.sleep(100)
        assert muxed.pulse.heard == 0.0
        await muxed.ping()
        assert lower.written == [struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_SYN, 0, 1)]
        assert len(lower.written[0]) == 12
        await trio.sleep(3)
        lower.incoming.append(struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_PING, FLAG_ACK, 0, 1))
        guarded: Any = muxed.secured_conn
        await guarded.read(12)
        assert (muxed.pulse.heard, muxed.pulse.round_trip) == (103.0, 3.0)
        lower.incoming.append(b"")  # the end is no sign of life
        await trio.sleep(1)
        await guarded.read(12)
        assert muxed.pulse.heard == 103.0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("says", [True, False])
def test_a_quiet_neighbour_is_asked_by_one_end_and_costs_no_stream(
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    says: bool,  # noqa: FBT001 - the case
) -> None:
    """Control: a neighbour from which frames come all the time is not asked at all."""
    roster = lab.members(2)
    pings: list[bytes] = []
    ping = ShieldedYamux.ping

    async def counted(conn: ShieldedYamux) -> None:
        pings.append(conn.peer_id.to_bytes())
        await ping(conn)

    monkeypatch.setattr(ShieldedYamux, "ping", counted)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            # With traffic the pause is longer than the test could take.
            pause = 0.4 if not says else 10 * lab.PATIENCE
            nodes = [lab.transport(me, roster, ping_seconds=pause) for me in roster]
            await swarm.start(*nodes)
            await lab.connected(*nodes)
            since = [peer.since for peer in nodes[0].peers()]
            if says:
                for number in range(20):
                    await nodes[0].broadcast(b"%d" % number)
                    await lab.heard(nodes[1], b"%d" % number)
                assert pings == []
                return
            with anyio.fail_after(lab.PATIENCE):
                while len(pings) < 10:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            assert [peer.since for peer in nodes[0].peers()] == since
            for node in nodes:
                assert node.stats().reasons == {}

    anyio.run(main)
