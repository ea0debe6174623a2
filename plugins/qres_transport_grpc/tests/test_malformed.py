"""Garbage of every kind, from members and from hubs: nothing crashes, nobody else is blamed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_transport_grpc.network import ANSWER, ASK, CREDENTIAL, FRAME, PONG, RECEIPT
from qres_transport_grpc.options import FRAME_MOST
from qres_transport_grpc.seal import GREETS, NAME_BYTES, SEALED, OnceWindow, SealedSession, StartKey
from qres_transport_grpc.server import HubServer
from qres_transport_grpc.wire import BadMessageError, Greeting, HubPlace, HubProof

from qres_core import canonical
from qres_core.transport import LinkReason, PeerChange

WORDS = st.recursive(
    st.none() | st.integers(0, 9) | st.binary(max_size=70) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=12,
)


@pytest.mark.claim("C-grpc-19")
@given(st.binary(max_size=600) | WORDS.map(canonical.dumps))
def test_decoders_take_anything_and_say_so(data: bytes) -> None:
    for kind in (HubProof, Greeting):
        try:
            found = kind.loads(data)
        except BadMessageError:
            continue
        assert found.dumps() == data


@pytest.mark.control("C-grpc-19")
def test_what_is_well_formed_comes_back() -> None:
    proof = HubProof(bytes(32), bytes(64))
    greeting = Greeting("s", bytes(32), bytes(16), bytes(32), b"", bytes(64))
    assert HubProof.loads(proof.dumps()) == proof
    assert Greeting.loads(greeting.dumps()) == greeting
    with pytest.raises(BadMessageError):
        Greeting.loads(Greeting("s" * 600, *(bytes(n) for n in (32, 16, 32, 16, 64))).dumps())


@pytest.mark.parametrize(
    "text", ["", "host", "host:443", "host:0#" + "0" * 64, "a b:1#" + "0" * 64]
)
def test_places_of_hubs_have_a_form(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT#SHA256"):
        HubPlace.of(text)
    assert HubPlace.of("[::1]:443#" + "0" * 64).address == "[::1]:443"


@given(st.lists(st.integers(0, 60), max_size=80))
def test_a_window_takes_each_number_once(numbers: list[int]) -> None:
    window, taken, newest = OnceWindow(16), set[int](), -1
    for number in numbers:
        fresh = number not in taken and newest - number < 16
        assert window.fresh(number) == fresh
        if fresh:
            window.take(number)
            taken.add(number)
            newest = max(newest, number)


def pair() -> tuple[SealedSession, SealedSession]:
    keys = [StartKey() for _ in range(2)]
    greetings = [
        Greeting("s", bytes([n]) * 32, bytes([n]) * 16, key.public, b"")
        for n, key in enumerate(keys)
    ]
    return (
        SealedSession(keys[0], greetings[0], greetings[1]),
        SealedSession(keys[1], greetings[1], greetings[0]),
    )


@given(st.binary(max_size=200), st.data())
def test_a_seal_opens_once_unchanged_and_at_the_other_end_alone(
    data: bytes, draw: st.DataObject
) -> None:
    first, second = pair()
    assert first.name == second.name
    message = first.seal(data)
    changed = bytearray(message)
    changed[draw.draw(st.integers(1, len(message) - 1))] ^= draw.draw(st.integers(1, 255))
    for wrong in (bytes(changed), message[:-1], message[:20]):
        with pytest.raises(BadMessageError):
            second.open(wrong)
    with pytest.raises(BadMessageError):
        first.open(message)  # a hub sends it back to whom it is from
    with pytest.raises(BadMessageError):
        pair()[1].open(message)
    assert second.open(message) == data
    assert second.open(message) is None


@pytest.mark.parametrize("remembers", [True, False])
def test_no_number_comes_twice_under_one_key(*, remembers: bool) -> None:
    """A session that was forgotten and made again has the same keys.

    AES-GCM breaks where a number comes again. No clock is asked: it may stand still, and it tells
    of the machine.
    """
    keys = [StartKey() for _ in range(2)]
    mine, theirs = (
        Greeting("s", bytes([n]) * 32, bytes([n]) * 16, key.public, b"")
        for n, key in enumerate(keys)
    )
    heads: list[bytes] = []
    for _ in range(3):
        session = SealedSession(keys[0], mine, theirs)
        heads += [session.seal(b"")[:17] for _ in range(4)]
        if not remembers:
            keys[0].newest = 0  # the control
    assert len(set(heads)) == (12 if remembers else 4)
    assert {head[:9] for head in heads} == {heads[0][:9]}
    assert int.from_bytes(heads[3][9:], "big") == 4


def test_a_key_that_gives_no_secret_is_refused() -> None:
    mine = Greeting("s", bytes(32), bytes(16), bytes(32), b"")
    with pytest.raises(BadMessageError):
        SealedSession(StartKey(), mine, mine)


# ── a member ──────────────────────────────────────────────────────────────────────────────────────

UNHEARD = [
    b"",
    b"\0",
    b"\xff" * 40,
    bytes([FRAME]),
    bytes([FRAME]) + bytes(8),
    bytes([FRAME]) + bytes(8 + FRAME_MOST + 1),
    bytes([ASK]),
    bytes([ASK]) + bytes(9),
    bytes([ANSWER]) + bytes(3),
    bytes([RECEIPT]) + bytes(3),
    bytes([ASK]) + bytes(8) + b"\0\x09",
    bytes([CREDENTIAL]) + bytes(9000),
]


@pytest.mark.claim("C-grpc-19")
@pytest.mark.parametrize("words", UNHEARD, ids=lambda words: f"{len(words)}-{words[:2].hex()}")
def test_a_member_that_breaks_the_protocol_is_blamed_and_linked_again(
    hub: Callable[..., Any], lab: SimpleNamespace, words: bytes
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            network = ends[1]._network
            peer = network.peers[roster[0].node_id]

            def say() -> None:
                network.lines.pass_on(peer, peer.link.session.seal(words))

            ends[1]._thread.post(say)
            with anyio.fail_after(lab.PATIENCE):
                while (event := await ends[0].event()).change is not PeerChange.BAD:
                    pass
                assert event.peer == roster[1].node_id
                down = await ends[0].event()
            assert (down.change, down.reason) == (PeerChange.DOWN, LinkReason.BROKE_PROTOCOL)
            await lab.linked(*ends)
            assert ends[0].stats().reasons["malformed: sealed"] == 1

    anyio.run(main)


def test_nodes_whose_options_differ_do_not_blame_each_other(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    """The options of a transport are no shared settings."""
    roster = lab.members(2)
    server = hub(roster)
    most = bytes(FRAME_MOST)
    large = lab.transport(roster[0], roster, [server], frame_bytes=FRAME_MOST)
    small = lab.transport(roster[1], roster, [server], frame_bytes=1024)

    async def main() -> None:
        async with lab.running(large, small):
            await large.broadcast(most)
            with anyio.fail_after(lab.PATIENCE):
                assert (await small.receive()).frame == most
                assert (await small.event()).change is PeerChange.UP
            assert small.peers()
            with anyio.move_on_after(0.1):
                raise AssertionError(await small.event())

    anyio.run(main)


def test_a_member_that_floods_fills_its_own_share_alone(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(3)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server], inbox_frames=50) for me in roster]
    asked: list[bytes] = []

    async def echo(asker: bytes, data: bytes) -> bytes:
        asked.append(asker)
        return data

    ends[0].handle("/echo", echo)

    async def main() -> None:
        async with lab.running(*ends):
            for number in range(3000):
                await ends[1].send(roster[0].node_id, b"%08d" % number)
            await lab.until(lambda: ends[0].stats().reasons.get("inbox full", 0) > 0)
            reply = await ends[2].request(roster[0].node_id, "/echo", b"?", lab.PATIENCE)
            assert reply == b"?"

    anyio.run(main)


# ── a hub ─────────────────────────────────────────────────────────────────────────────────────────


SPOILT = "not sealed by a member"


class Babbling(HubServer):
    """Sends to each member, for every message, some that no member sent."""

    def route(self, sender: bytes, to: bytes, message: bytes) -> None:
        super().route(sender, to, message)
        for words in (b"", b"\7", GREETS, GREETS + b"x", SEALED + bytes(NAME_BYTES) + bytes(30)):
            super().route(sender, to, words)
        super().route(bytes(32), to, message)
        super().route(sender, to, message[:-1] + bytes([message[-1] ^ 1]))


@pytest.mark.claim("C-grpc-7")
@pytest.mark.control("C-grpc-7")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_hub_that_babbles_gets_nobody_blamed(
    hub: Callable[..., Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """In the control whoever the hub names is blamed for it."""
    roster = lab.members(2)
    server = hub(roster, kind=Babbling)
    ends = [lab.transport(me, roster, [server]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            network = ends[1]._network
            if not guarded:
                peer = network.peers[roster[0].node_id]

                def blame(tally: Any, what: str) -> None:
                    if tally is network.tally and what == SPOILT:
                        network.blame(peer, what)

                monkeypatch.setattr(type(network.tally), "spoilt", blame)
                await ends[0].send(roster[1].node_id, b"and much else")
                with anyio.fail_after(lab.PATIENCE):
                    while (event := await ends[1].event()).change is not PeerChange.BAD:
                        pass
                assert event.peer == roster[0].node_id
                return
            for _ in range(100):
                await ends[0].send(roster[1].node_id, b"and much else")
            await heard_through(lab, ends, roster[1].node_id)
            assert ends[1].stats().reasons[SPOILT] >= 100
            with anyio.move_on_after(0.1):
                while True:
                    assert (await ends[1].event()).change is PeerChange.UP

    anyio.run(main)


async def heard_through(lab: SimpleNamespace, ends: Any, to: bytes) -> None:
    with anyio.fail_after(lab.PATIENCE):
        while True:
            await ends[0].send(to, b"again")
            with anyio.move_on_after(0.5):
                while (await ends[1].receive()).frame != b"again":
                    pass
                return


@pytest.mark.claim("C-grpc-9")
@pytest.mark.control("C-grpc-9")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_member_cannot_have_an_honest_hub_hung_up_on(
    hub: Callable[..., Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Nobody but the member knows that its garbage is not the hub's.

    In the control a node hangs up on the hub that brings it.
    """
    roster = lab.members(3)
    server = hub(roster)
    ends = [lab.transport(me, roster[:2], [server]) for me in roster[:2]]
    hostile = lab.transport(roster[2], roster, [server])

    async def main() -> None:
        async with lab.running(*ends):
            ends[1].follow([node.node_id for node in roster])
            await hostile.start()
            try:
                (uplink,) = hostile._network.lines._uplinks.values()
                await lab.until(lambda: uplink.up)
                given_up: list[str] = []
                (theirs,) = ends[1]._network.lines._uplinks.values()
                if not guarded:

                    def hang_up(tally: Any, what: str) -> None:
                        if tally is ends[1]._network.tally and what == SPOILT:
                            given_up.append(what)
                            theirs.hang_up()

                    monkeypatch.setattr(type(ends[1]._network.tally), "spoilt", hang_up)
                for words in (b"", b"\7", GREETS + b"x", b"garbage") * 100:
                    uplink.put(roster[1].node_id + words)
                if not guarded:  # it dials again at once, so that it may be up again already
                    with anyio.fail_after(lab.PATIENCE):
                        while (await ends[1].event()).change is not PeerChange.FAILED:
                            pass
                    assert given_up
                    return
                await lab.until(lambda: ends[1].stats().reasons.get(SPOILT, 0) >= 300)
                await heard_through(lab, ends, roster[1].node_id)
                with anyio.move_on_after(0.5):
                    while True:
                        assert (await ends[1].event()).change is not PeerChange.FAILED
            finally:
                await hostile.aclose()

    anyio.run(main)


def test_an_unknown_session_and_early_words_are_dropped_and_counted(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            network = ends[1]._network
            peer = network.peers[roster[0].node_id]
            stranger = pair()[0]

            def say() -> None:
                network.lines.pass_on(peer, stranger.seal(b"?"))
                network.say(peer, PONG, b"")

            before = ends[0].stats().reasons.get("of no session", 0)  # as the nodes met
            ends[1]._thread.post(say)
            await lab.until(lambda: ends[0].stats().reasons.get("of no session", 0) > before)

            def early() -> None:
                ends[0]._network.peers[roster[1].node_id].up = False

            with anyio.fail_after(lab.PATIENCE):
                while not ends[0].stats().reasons.get("before admission", 0):
                    ends[0]._thread.post(early)  # a verdict on its way may lift that again
                    await ends[1].send(roster[0].node_id, b"early")
                    await anyio.sleep(0.05)

    anyio.run(main)
