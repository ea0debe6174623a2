"""What a member tries against the others, over a hub that is honest."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from qres_carrier import TokenBucket
from qres_transport_grpc.blobs import PIECE, TIMES
from qres_transport_grpc.exchanges import ABSENT, ANSWERED, ASKED_AGAIN, BUSY
from qres_transport_grpc.frames import GrpcFrames
from qres_transport_grpc.network import CREDENTIAL
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.peers import NONCE_BYTES, Acquaintance, Candidate
from qres_transport_grpc.seal import WINDOW
from qres_transport_grpc.turns import TURNS_EACH
from qres_transport_grpc.uplink import AHEAD_BYTES

from qres_core import reject
from qres_core.errors import TransportError
from qres_core.transport import CHUNK, LinkReason, PeerChange


def test_a_holder_that_sends_another_chunk_is_blamed(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    """It sealed what it sent: no hub can have it blamed."""
    roster = lab.members(2)
    server = hub(roster)
    first, hostile = (lab.transport(me, roster, [server]) for me in roster)

    async def main() -> None:
        async with lab.running(first, hostile):
            ref = await hostile.publish_blob(b"blob")
            hostile._store._blobs[ref.root].memory[0] = b"another"
            with pytest.raises(TransportError, match="QRES-E906"):
                await first.fetch_blob(ref, [roster[1].node_id], lab.PATIENCE)
            with anyio.fail_after(lab.PATIENCE):
                while (event := await first.event()).change is not PeerChange.BAD:
                    pass
            assert event.peer == roster[1].node_id
            await lab.linked(first, hostile)  # what follows is for the plugins to say

    anyio.run(main)


def test_a_member_that_asks_for_more_pieces_than_leave_has_none_read_for_it(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    """A question of 37 bytes costs a piece of 128 KiB, read and sealed."""
    roster = lab.members(3)
    server = hub(roster)
    first, hostile, honest = (lab.transport(me, roster, [server]) for me in roster)
    read: list[bytes] = []

    async def main() -> None:
        async with lab.running(first, hostile, honest):
            ref = await first.publish_blob(bytes(CHUNK))
            network, exchanges = first._network, first._exchanges
            asks, other = (network.peers[me.node_id] for me in roster[1:])
            piece = exchanges._piece

            def counted(body: bytes) -> Any:
                read.append(body)
                return piece(body)

            exchanges._piece = counted
            question = ref.root + bytes(5)

            async def flood() -> None:
                (uplink,) = network.lines._uplinks.values()
                pop = uplink._outbox.pop
                uplink._outbox.pop = lambda: None  # the line is slow: nothing leaves
                for number in range(300):
                    exchanges._serve_piece(asks, number, 0, question)
                    exchanges._serve_piece(asks, number, 1, question)  # it waits already
                assert len(read) == AHEAD_BYTES // PIECE  # what leaves next
                assert network._turns.waits(asks.node) == TURNS_EACH
                exchanges._serve_piece(other, 0, 0, question)
                assert len(read) == AHEAD_BYTES // PIECE
                pop()
                network._turns.go_on()
                pop()
                network._turns.go_on()
                assert uplink._outbox._by_end[1][other.node] > PIECE  # it has its turn
                del uplink._outbox.pop

            await first._call(flood)

    anyio.run(main)


@pytest.mark.parametrize("bounded", [True, pytest.param(False, id="control")])
def test_a_member_that_asks_for_the_same_piece_again_and_again_is_sent_it_a_few_times(
    hub: Callable[..., Any], lab: SimpleNamespace, *, bounded: bool
) -> None:
    """Another member is sent the blob all the same, and nothing is counted of what is not here."""
    roster = lab.members(3)
    server = hub(roster)
    first, hostile, honest = (lab.transport(me, roster, [server]) for me in roster)
    statuses: Counter[int] = Counter()
    asked = 3 * TIMES

    async def main() -> None:
        async with lab.running(first, hostile, honest):
            ref = await first.publish_blob(bytes(PIECE))
            if not bounded:
                first._exchanges._allows = lambda _node, _question: True

            async def ask(root: bytes) -> None:
                def came(status: int, data: bytes, _took: float) -> None:
                    statuses[status] += 1
                    assert len(data) == (PIECE if status == ANSWERED else 0)

                assert hostile._exchanges.want(roster[0].node_id, root + bytes(5), came)

            for number in range(asked):  # each after the one before, so that none waits
                await hostile._call(ask, ref.root)
                await lab.until(lambda number=number: statuses.total() > number)
            sent = TIMES if bounded else asked
            assert statuses[ANSWERED] == sent
            assert statuses[BUSY] == asked - sent
            assert first.stats().reasons.get(ASKED_AGAIN, 0) == asked - sent
            found = await honest.fetch_blob(ref, [roster[0].node_id], lab.PATIENCE)
            assert found == bytes(PIECE)
            await hostile._call(ask, bytes(32))
            await lab.until(lambda: statuses[ABSENT] == 1)
            assert first.stats().reasons.get(ASKED_AGAIN, 0) == asked - sent

    anyio.run(main)


def test_a_frame_that_found_no_room_comes_again(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    """A member that fills the inbox does not keep the frames of others out of it for good."""
    roster = lab.members(3)
    server = hub(roster)
    first = lab.transport(roster[0], roster, [server], inbox_frames=1)
    hostile, honest = (lab.transport(me, roster, [server], retry_seconds=4) for me in roster[1:])

    async def main() -> None:
        async with lab.running(first, hostile, honest):
            await hostile.send(roster[0].node_id, b"flood")
            await lab.until(lambda: len(first._inbox) == 1)
            await honest.send(roster[0].node_id, b"frame")
            await lab.until(lambda: first.stats().reasons.get("inbox full", 0) > 0)
            with anyio.fail_after(lab.PATIENCE):
                assert [(await first.receive()).frame for _ in range(2)] == [b"flood", b"frame"]

    anyio.run(main)


@pytest.mark.parametrize("apart", [True, False])
def test_what_a_node_says_to_others_makes_no_frame_too_old_to_come_again(*, apart: bool) -> None:
    """With one count for all nodes, a frame that is sent again was taken for a copy: confirmed, and
    not delivered."""
    said: list[tuple[Any, bytes]] = []
    network: Any = SimpleNamespace(
        serve=lambda *_args: None, say=lambda peer, _kind, words: said.append((peer, words))
    )
    first, other = (Acquaintance(bytes([number]) * 32, time.monotonic) for number in range(2))
    session: Any = SimpleNamespace()
    first.link = Candidate(session, TokenBucket(1, 1))
    got: list[bytes] = []

    async def main() -> None:
        sends = GrpcFrames(network, GrpcOptions(), lambda _node, _frame: False)
        takes = GrpcFrames(network, GrpcOptions(), lambda _node, frame: not got.append(frame))
        if not apart:
            sends._numbers = dict.fromkeys((first.node, other.node), itertools.count(1))
        assert sends.send(first, b"lost")
        for _ in range(WINDOW):
            assert sends.send(other, b"x")
            sends._confirmed(other, said[-1][1][:8])
        assert sends.send(first, b"later")
        for words in (said[-1][1], said[0][1]):
            takes._take(first, words)

    asyncio.run(main())
    assert got == ([b"later", b"lost"] if apart else [b"later"])


@pytest.mark.parametrize("anew", [True, False])
def test_what_an_earlier_start_said_is_not_confirmed_to_the_next(*, anew: bool) -> None:
    """Its numbers begin again: a frame of the next start would count as delivered."""
    said: list[bytes] = []
    network: Any = SimpleNamespace(
        serve=lambda *_args: None, say=lambda _peer, _kind, words: said.append(words)
    )
    peer = Acquaintance(bytes(32), time.monotonic)
    sessions: list[Any] = [SimpleNamespace(), SimpleNamespace()]
    peer.link = Candidate(sessions[0], TokenBucket(1, 1))

    async def main() -> None:
        takes = GrpcFrames(network, GrpcOptions(), lambda _node, _frame: True)
        takes._take(peer, bytes(8) + b"frame")
        if anew:  # before the receipts were gathered
            peer.link = Candidate(sessions[1], TokenBucket(1, 1))
        takes._confirm(peer, takes._heard[peer.node])

    asyncio.run(main())
    assert said == ([] if anew else [bytes(8)])


@pytest.mark.claim("C-grpc-10")
@pytest.mark.control("C-grpc-10")
@pytest.mark.parametrize("shares", [True, False])
def test_a_member_that_floods_keeps_the_frames_of_others_out_of_no_inbox(
    hub: Callable[..., Any], lab: SimpleNamespace, *, shares: bool
) -> None:
    """As long as each source has a share of the inbox; without, the flood takes all of it."""
    roster = lab.members(3)
    server = hub(roster)
    first = lab.transport(roster[0], roster, [server], inbox_frames=8)
    hostile, honest = (lab.transport(me, roster, [server], retry_seconds=60) for me in roster[1:])
    put = first._inbox.put
    if not shares:
        first._inbox.put = lambda item, _source: put(item)

    async def main() -> None:
        async with lab.running(first, hostile, honest):
            for number in range(12):
                await hostile.send(roster[0].node_id, b"flood %d" % number)
            full = 4 if shares else 8
            await lab.until(lambda: first.stats().reasons.get("inbox full", 0) >= 12 - full)
            assert len(first._inbox) == full
            await honest.send(roster[0].node_id, b"frame")
            await lab.until(
                lambda: len(first._inbox) > full or first.stats().reasons["inbox full"] > 12 - full
            )
            with anyio.fail_after(lab.PATIENCE):
                got = [(await first.receive()).frame for _ in range(2)]
            # It does not even wait for the rest of the flood.
            assert got == [b"flood 0", b"frame" if shares else b"flood 1"]

    anyio.run(main)


async def nothing(*_args: Any) -> None:
    """A member that does not show its credential any more."""


@pytest.mark.claim("C-grpc-12")
@pytest.mark.control("C-grpc-12")
@pytest.mark.parametrize(("breaks", "asks"), [(True, True), (False, True), (False, False)], ids=str)
def test_who_is_banned_cannot_stay_by_showing_nothing_any_more(
    hub: Callable[..., Any], lab: SimpleNamespace, *, breaks: bool, asks: bool
) -> None:
    """Neither in the link that is up, nor in the next one where that went down.

    In the control nobody asks again by itself, and it stays.
    """
    roster = lab.members(2)
    server = hub(roster)
    banned: list[bytes] = []

    def admission(peer: bytes, credential: bytes) -> Any:
        return reject("banned") if peer in banned else lab.admit_everybody(peer, credential)

    soon = 0.5 if asks and not breaks else 3600.0
    first = lab.transport(roster[0], roster, [server], admission=admission, readmit_seconds=soon)
    hostile = lab.transport(roster[1], roster, [server], readmit_seconds=3600.0)

    async def main() -> None:
        async with lab.running(first, hostile):
            peer = first._network.peers[roster[1].node_id]
            network = hostile._network
            network._show = nothing
            banned.append(roster[1].node_id)
            if not asks:
                with anyio.move_on_after(1.5):
                    while (event := await first.event()).change is not PeerChange.DOWN:
                        pass
                    raise AssertionError(event)
                assert first.peers()
                return
            if breaks:
                me = network.peers[roster[0].node_id]
                hostile._thread.post(lambda: network._say(me, me.link, 0))
            with anyio.fail_after(lab.PATIENCE):
                while (event := await first.event()).change is not PeerChange.DOWN:
                    pass
            wanted = LinkReason.BROKE_PROTOCOL if breaks else LinkReason.REFUSED_HELLO
            assert event.reason is wanted
            await lab.until(lambda: peer.link.proved)  # it is there, and not admitted
            assert not first.peers()

    anyio.run(main)


def test_a_member_that_floods_credentials_does_not_keep_the_plugins_busy(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    asked: list[bytes] = []

    def admission(peer: bytes, credential: bytes) -> Any:
        asked.append(credential)
        return lab.admit_everybody(peer, credential)

    first = lab.transport(roster[0], roster, [server], admission=admission)
    hostile = lab.transport(roster[1], roster, [server])

    async def main() -> None:
        async with lab.running(first, hostile):
            network = hostile._network
            me = network.peers[roster[0].node_id]

            def flood() -> None:
                for _ in range(500):
                    network._say(me, me.link, CREDENTIAL, bytes(NONCE_BYTES))

            hostile._thread.post(flood)
            await lab.until(lambda: first.stats().reasons.get("credentials: too fast", 0) > 300)

    began = time.monotonic()
    anyio.run(main)
    assert len(asked) <= 20 + 5 * (time.monotonic() - began)
