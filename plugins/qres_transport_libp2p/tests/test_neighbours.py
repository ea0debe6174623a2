"""The table of connections, and who looks after them, with hosts that do as they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from multiaddr import Multiaddr
from qres_carrier import Tally
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.network import Network
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.pulse import MISSES, Pulse
from qres_transport_libp2p.reconnect import DEAF, LOOKS, Reconnector
from qres_transport_libp2p.sessions import PeerConnection, Sessions
from qres_transport_libp2p.wire import BrokenStreamError

from qres_core.errors import TransportError
from qres_core.transport import LinkReason, PeerChange, TransportEvent

NODE = bytes(32)
PEER = peer_id(NODE)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Time passes when nobody has anything to do."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Muxed:
    """A connection; ``place`` is where the peer is, or an error."""

    peer_id = PEER

    def __init__(self, place: Any = ("10.0.0.1", 7), *, secured: Any = None) -> None:
        self.place, self.secured_conn = place, secured
        self.is_closed = False

    def get_remote_address(self) -> Any:
        if isinstance(self.place, Exception):
            raise self.place
        return self.place

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.is_closed = True


class Host:
    """Opens what it is told to."""

    def __init__(self, opened: Any = None) -> None:
        self.opened = opened

    async def new_stream(self, _peer: object, _protocols: object) -> Any:
        if self.opened is None:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if isinstance(self.opened, Exception):
            raise self.opened
        return self.opened


def sessions(host: Any = None) -> tuple[Sessions, list[TransportEvent], list[Any]]:
    events: list[TransportEvent] = []
    tasks: list[Any] = []
    members: Any = SimpleNamespace(nodes={PEER: NODE}, peers={NODE: PEER})

    async def nothing(_of: object) -> None:
        await trio.lowlevel.checkpoint()

    made = Sessions(
        host,
        members,
        Libp2pOptions(read_seconds=2.0),
        Tally(),
        events.append,
        lambda *task: tasks.append(task),
        nothing,
        nothing,
    )
    return made, events, tasks


def admitted(made: Sessions, muxed: Any) -> PeerConnection:
    link = made.link(muxed)
    made.admit(link, bytes(16))
    return link


@pytest.mark.parametrize(
    ("place", "said"),
    [(("10.0.0.1", 7), "10.0.0.1:7"), (None, ""), (OSError("closed"), "")],
)
def test_where_a_peer_is_is_said_as_far_as_it_is_known(place: object, said: str) -> None:
    async def main() -> None:
        await trio.lowlevel.checkpoint()
        made, events, _tasks = sessions()
        admitted(made, Muxed(place))
        assert [(event.change, event.detail) for event in events] == [(PeerChange.UP, said)]

    run(main)


def test_a_peer_that_does_not_answer_is_down_and_its_connections_are_closed() -> None:
    async def main() -> None:
        made, events, tasks = sessions()
        muxed = Muxed()
        link = admitted(made, muxed)
        tasks.clear()
        made.lost(PEER)
        assert link.over
        assert not made.is_up(PEER)
        assert events[-1].change is PeerChange.DOWN
        for work, *arguments in tasks:
            await work(*arguments)
        assert muxed.is_closed
        made.lost(PEER)  # nobody is there: nothing happens
        assert len(events) == 2

    run(main)


def test_a_connection_that_is_given_up_let_its_deadline_pass() -> None:
    async def main() -> None:
        made, events, _tasks = sessions()
        muxed: Any = Muxed(("10.0.0.1", 7))
        link = made.link(muxed)
        await made.give_up(link, "no hello")
        await made.give_up(link, "no hello")  # once is enough
        assert (link.over, link.reason, muxed.is_closed) == (True, LinkReason.TIMED_OUT, True)
        said = "no hello (10.0.0.1:7)"
        assert events == [TransportEvent(PeerChange.FAILED, NODE, said, LinkReason.TIMED_OUT)]

    run(main)


def test_what_is_under_a_connection_is_closed_first_and_an_error_there_keeps_nothing() -> None:
    async def main() -> None:
        made, _events, _tasks = sessions()
        lower = Muxed()
        await made.abort(admitted(made, Muxed(secured=lower)))
        assert lower.is_closed

        class Stuck(Muxed):
            async def close(self) -> None:
                await trio.lowlevel.checkpoint()
                what = "stuck"
                raise OSError(what)

        muxed: Any = Stuck()
        await made.abort(admitted(made, muxed))
        assert muxed not in made._links

    run(main)


def test_connections_that_closed_without_a_word_are_swept_away() -> None:
    async def main() -> None:
        made, events, _tasks = sessions()
        muxed = Muxed()
        admitted(made, muxed)
        made.sweep()
        assert made.is_up(PEER)  # control
        await muxed.close()
        made.sweep()
        assert not made.is_up(PEER)
        assert events[-1].change is PeerChange.DOWN

    run(main)


def test_a_connection_that_is_over_is_not_taken_into_the_table_again() -> None:
    """Who asks about it late, a stream of it for one, would leave it there for ever."""

    async def main() -> None:
        made, _events, _tasks = sessions()
        muxed: Any = Muxed()
        await muxed.close()
        link = made.link(muxed)
        assert not await link.wait(1000.0)
        assert trio.current_time() == 0.0, "it is decided"
        assert made.of(PEER) == []

    run(main)


def test_streams_are_opened_over_the_newest_connection_that_is_admitted() -> None:
    async def main() -> None:
        made, _events, tasks = sessions()
        first, second, third, closed = (admitted(made, Muxed()) for _ in range(4))
        undecided: Any = Muxed()
        for number, link in enumerate((first, second, closed, made.link(undecided))):
            conn: Any = number
            link.conn = conn
        await closed.muxed.close()
        assert made.connections(PEER) == [1, 0]
        assert third.conn is None, "control: libp2p has not named it yet"
        tasks.clear()
        made.sweep()  # the closed one
        assert [arguments for _work, *arguments in tasks] == [[PEER]], "the others are looked at"

    run(main)


@pytest.mark.parametrize(
    ("opened", "said"),
    [(None, "no stream in time"), (OSError("reset"), "OSError: reset")],
)
def test_a_stream_that_cannot_be_had_is_a_named_error(opened: object, said: str) -> None:
    async def main() -> None:
        made, _events, _tasks = sessions(Host(opened))
        protocol: Any = "/test/1"
        with pytest.raises(BrokenStreamError, match="not connected"):
            await made.open(PEER, protocol)
        muxed: Any = Muxed()
        admitted(made, muxed)
        with pytest.raises(BrokenStreamError, match=said):
            await made.open(PEER, protocol)

    run(main)


def test_who_is_not_there_is_named() -> None:
    made, _events, _tasks = sessions()
    with pytest.raises(TransportError, match=r"QRES-E904.*not in the roster"):
        made.peer_of(b"x" * 32)
    with pytest.raises(TransportError, match=r"QRES-E904.*not connected"):
        made.peer_of(NODE)


# ── looking after neighbours ──────────────────────────────────────────────────────────────────────

PAUSE = 10.0


class Watched(Muxed):
    """A connection that answers pings, or does not."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        self.answers, self.pings = answers, 0
        self.pulse = Pulse(0.0)

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self.pings += 1
        self.pulse.sent(self.pings, trio.current_time())
        if self.answers:
            self.pulse.answered(self.pings, trio.current_time())
            self.pulse.heard = trio.current_time()


@attrs.define
class Keeping:
    """A keeper that watches some connections of a peer for a while."""

    connections: list[Watched]
    greeted: bool = True
    hears: bool = True
    freezes: float = 0.0  # seconds for which this node does nothing, after the first half
    seconds: float = 1000.0
    renewed: int = 0
    lost_at: float | None = None  # when the peer went down
    table: Any = None
    events: list[TransportEvent] = attrs.field(factory=list[TransportEvent])

    def run(self) -> Keeping:
        run(self._main)
        return self

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            made, self.events, _tasks = sessions()
            self.table = made
            for muxed in self.connections:
                if self.greeted:
                    admitted(made, muxed)
                else:
                    made.link(muxed)
            made.start = nursery.start_soon

            async def renew(_peer: object) -> None:
                await trio.lowlevel.checkpoint()
                self.renewed += 1

            made.on_up = renew
            pubsub = SimpleNamespace(hears=lambda _peer: self.hears, renew=renew)
            gossip: Any = SimpleNamespace(pubsub=pubsub)
            options = Libp2pOptions(ping_seconds=PAUSE)
            nothing: Any = None
            keeper = Reconnector(made, nothing, gossip, options, nothing)
            nursery.start_soon(keeper.watch)
            clock: Any = trio.lowlevel.current_clock()
            for half in range(2):
                with trio.move_on_after(self.seconds / 2):
                    while made.of(PEER):
                        await made._changed.wait()
                    self.lost_at = self.lost_at or trio.current_time()
                if not half:
                    clock.jump(self.freezes)
            nursery.cancel_scope.cancel()


def test_who_answers_and_hears_is_left_alone() -> None:
    (muxed,) = Keeping([Watched(answers=True)]).run().connections
    assert not muxed.is_closed
    assert 1000 / (1.25 * PAUSE + PAUSE / LOOKS) - 2 <= muxed.pings <= 1000 / (0.75 * PAUSE)


def test_who_does_not_answer_is_lost_after_two_pings() -> None:
    keeping = Keeping([Watched(answers=False)]).run()
    assert keeping.connections[0].pings == MISSES
    assert keeping.connections[0].is_closed
    assert keeping.lost_at is not None
    assert 2.75 * PAUSE <= keeping.lost_at <= 4.5 * PAUSE
    assert keeping.table.stretch.of(PEER) == 2.0, "the next time it may take longer"


@pytest.mark.parametrize("answers", [True, False])
def test_a_connection_that_says_nothing_before_its_hello_ends_as_soon_as_others(
    *, answers: bool
) -> None:
    """It keeps the peer from being dialled. Who answers pings has as long as a hello may take."""
    keeping = Keeping([Watched(answers=answers)], greeted=False).run()
    assert (keeping.lost_at is None) == answers
    assert keeping.connections[0].is_closed != answers
    if keeping.lost_at is not None:
        assert keeping.lost_at <= 4.5 * PAUSE
        found = [(event.change, event.reason) for event in keeping.events]
        assert found == [(PeerChange.FAILED, LinkReason.TIMED_OUT)]


@pytest.mark.parametrize("both", [True, False])
def test_who_says_hello_again_is_in_time_whichever_end_began(*, both: bool) -> None:
    """Else a liar that always begins would be given eight times the time for ever."""

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        made, _events, _tasks = sessions()
        link = admitted(made, Muxed())
        made.stretch.late(PEER)
        made.stretch.late(PEER)
        made.admit(link, bytes(16) if both else b"a restart" + bytes(7))
        assert made.stretch.of(PEER) == (2.0 if both else 4.0)

    run(main)


@pytest.mark.claim("C-libp2p-21")
def test_a_connection_that_is_dead_ends_alone() -> None:
    dead, alive = Watched(answers=False), Watched(answers=True)
    keeping = Keeping([dead, alive]).run()
    assert (dead.is_closed, alive.is_closed, keeping.lost_at) == (True, False, None)
    assert keeping.renewed == 1, "what ran over it is reached over the other"


@pytest.mark.claim("C-libp2p-21")
@pytest.mark.control("C-libp2p-21")
@pytest.mark.parametrize(("freezes", "lives"), [(100 * PAUSE, True), (0.0, False)])
def test_nobody_is_lost_because_this_node_did_nothing(
    freezes: float,
    lives: bool,  # noqa: FBT001 - the case
) -> None:
    """It froze for long: nothing was read, and no ping was answered. The control did not."""

    class Resumes(Watched):
        """Answers only before the half, and in the control never again."""

        async def ping(self) -> None:
            self.answers = trio.current_time() < 490 or (lives and trio.current_time() > 1000)
            await super().ping()

    keeping = Keeping([Resumes(answers=True)], freezes=freezes).run()
    assert (keeping.lost_at is None) == lives


def test_who_answers_and_does_not_hear_is_reached_anew_and_then_lost() -> None:
    keeping = Keeping([Watched(answers=True)], hears=False).run()
    assert keeping.renewed == 1, "that goes on while it is up"
    assert keeping.lost_at is not None
    assert DEAF * PAUSE <= keeping.lost_at <= (DEAF + 1) * PAUSE


@pytest.mark.parametrize("stranger", [True, False])
def test_a_stranger_that_takes_a_dial_and_says_nothing_gets_no_more_time(
    stranger: bool,  # noqa: FBT001 - the case
) -> None:
    """Anybody in the local network may name its own place for a peer; the operator's is slow."""
    taken: list[float] = []
    place = Multiaddr("/ip4/192.0.2.7/tcp/4001")

    async def nothing(*_arguments: object) -> None:
        await trio.lowlevel.checkpoint()

    async def for_ever(*_arguments: object) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        made, _events, _tasks = sessions()
        store = SimpleNamespace(clear_addrs=lambda _peer: None)
        net = SimpleNamespace(close_peer=nothing, unblock_peer=lambda _peer: None)
        host: Any = SimpleNamespace(
            get_network=lambda: net, get_peerstore=lambda: store, connect=for_ever
        )
        made.host = host
        unused: Any = None
        keeper = Reconnector(made, unused, unused, Libp2pOptions(), lambda *_arguments: None)
        (keeper._found if stranger else keeper._told)[PEER] = [place]
        for _ in range(3):
            began = trio.current_time()
            await keeper._dial(PEER)
            taken.append(trio.current_time() - began)

    run(main)
    assert taken == ([20.0, 20.0, 20.0] if stranger else [20.0, 40.0, 80.0])


# ── the program ───────────────────────────────────────────────────────────────────────────────────


def network(emit: Callable[[TransportEvent], object], once: Callable[..., Awaitable[None]]) -> Any:
    class Program(Network):
        """One of which the test says what libp2p does."""

        async def _run_once(self, *arguments: Any) -> None:
            await once(*arguments)

    nothing: Any = None
    deliver: Any = None
    return Program(
        nothing, nothing, "test", Libp2pOptions(), nothing, {}, None, Tally(), deliver, emit
    )


def test_libp2p_that_fails_after_the_start_is_started_again_where_the_others_know_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[TransportEvent] = []
    listened: list[str] = []

    async def once(listen: object, ready: Callable[[], None], stop: trio.Event) -> None:
        listened.append(str(listen))
        ready()
        program.addresses = (f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}",)
        if len(listened) < 3:
            what = "the muxer broke"
            raise OSError(what)
        stop.set()
        await trio.lowlevel.checkpoint()

    program = network(events.append, once)

    async def main() -> None:
        await program.run(lambda: None, trio.Event())

    run(main)
    bound = "/ip4/127.0.0.1/tcp/4001"
    assert listened == ["/ip4/127.0.0.1/tcp/0", bound, bound]
    said = "libp2p failed and is started again: OSError: the muxer broke"
    assert [(event.change, event.detail) for event in events] == [(PeerChange.BAD, said)] * 2
    assert "started again" in caplog.text
    assert program.parts is None
    assert program.infos == ()


def test_libp2p_that_fails_before_it_is_ready_is_not_started_again() -> None:
    events: list[TransportEvent] = []

    async def once(_listen: object, _ready: object, _stop: object) -> None:
        await trio.lowlevel.checkpoint()
        what = "the port is taken"
        raise OSError(what)

    with pytest.raises(OSError, match="the port is taken"):
        run(lambda: network(events.append, once).run(lambda: None, trio.Event()))
    assert events == []


def test_told_to_stop_while_it_waits_to_start_again_it_ends() -> None:
    async def once(_listen: object, ready: Callable[[], None], stop: trio.Event) -> None:
        await trio.lowlevel.checkpoint()
        ready()
        starts.append(stop)
        raise OSError

    starts: list[trio.Event] = []

    async def main() -> None:
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network(lambda _event: None, once).run, lambda: None, stop)
            await trio.testing.wait_all_tasks_blocked()
            stop.set()
        assert len(starts) == 1

    run(main)
