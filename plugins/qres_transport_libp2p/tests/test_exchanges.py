"""Each protocol against a stream that breaks, ends, is slow or is wrong; on a virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from qres_carrier import SenderBuckets, Tally, TokenBucket
from qres_transport_libp2p import frames, hello, requests
from qres_transport_libp2p.frames import Frames
from qres_transport_libp2p.hello import Greeter, Hello
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.pulse import Stretch
from qres_transport_libp2p.requests import Requests
from qres_transport_libp2p.sessions import PeerConnection
from qres_transport_libp2p.wire import (
    BadBytesError,
    BrokenStreamError,
    SilentPeerError,
    SlowPeerError,
    TooManyBytesError,
    Wire,
    closing,
    reset,
)

from qres_core import ACCEPT, Verdict, canonical, reject
from qres_core.errors import TransportError
from qres_core.transport import LinkReason

NODE = bytes(32)
PEER = peer_id(NODE)
OTHER = peer_id(bytes([1]) * 32)
NO_HELLO = ("bad", "no hello", "malformed: /qres/hello/1", LinkReason.BROKE_PROTOCOL)


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Time passes when nobody has anything to do."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Stream:
    """Says what it is told to, piece by piece, then fails, ends or is silent."""

    def __init__(
        self, *says: bytes, then: Exception | float | None = None, pause: float = 0.0
    ) -> None:
        self.says, self.then, self.pause = list(says), then, pause
        self.heard = b""
        self.closed = self.was_reset = False

    async def read(self, size: int) -> bytes:
        await trio.sleep(self.pause)
        if self.says:
            piece, self.says[:1] = self.says[0][:size], [self.says[0][size:]]
            self.says = [said for said in self.says if said]
            return piece
        return await self._end()

    async def _end(self) -> bytes:
        if isinstance(self.then, Exception):
            raise self.then
        if self.then is not None:
            await trio.sleep(self.then)
        return b""

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.heard += data

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.was_reset = True


def wire(stream: Any, patience: float = 1.0) -> Wire:
    return Wire(stream, patience)


def block(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


# ── streams ───────────────────────────────────────────────────────────────────────────────────────


def test_a_block_arrives_whole_however_it_is_cut() -> None:
    async def main() -> None:
        for size in (1, 3, 100):
            data = block(b"some words")
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert await wire(Stream(*pieces)).block(10) == b"some words"
        assert await wire(Stream(block(b""))).block(10) == b""

    run(main)


@pytest.mark.parametrize(
    ("stream", "error", "said"),
    [
        (Stream(b"\0\0"), BrokenStreamError, "the stream ended"),
        (Stream(then=OSError("gone")), BrokenStreamError, "OSError: gone"),
        (Stream(b"\0\0\0\x09abc", then=OSError("gone")), BrokenStreamError, "OSError: gone"),
        (Stream(then=60.0), SilentPeerError, ""),
        (Stream(*[b"\0"] * 60, b"x", pause=0.9), SlowPeerError, ""),
        (Stream(b"\0\0\0\x0b"), TooManyBytesError, "a block of 11 bytes, at most 10 are allowed"),
    ],
)
def test_what_is_no_block_is_refused_by_name(
    stream: Stream, error: type[Exception], said: str
) -> None:
    async def main() -> None:
        slow = 60 if stream.pause else 10
        with pytest.raises(error) as caught:
            await (wire(stream).exactly(slow) if stream.pause else wire(stream).block(slow))
        assert type(caught.value) is error
        assert said in str(caught.value)

    run(main)


def test_a_write_that_fails_or_hangs_ends_in_a_named_error() -> None:
    async def fails(_data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        what = "gone"
        raise OSError(what)

    async def hangs(_data: bytes) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        stream = Stream()
        await wire(stream).send(b"abc", before=b"\1")
        assert stream.heard == b"\1\0\0\0\x03abc"
        stream.write = fails
        with pytest.raises(BrokenStreamError, match="OSError: gone"):
            await wire(stream).send(b"abc")
        stream.write = hangs
        begun = trio.current_time()
        with pytest.raises(SilentPeerError):
            await wire(stream, 2.0).send(b"abc")
        assert trio.current_time() - begun == pytest.approx(20.0)

    run(main)


def test_a_stream_is_closed_after_use_and_reset_where_that_fails() -> None:
    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        what = "gone"
        raise OSError(what)

    async def hangs() -> None:
        await trio.sleep_forever()

    async def used(stream: Any) -> Any:
        async with closing(stream):
            pass
        return stream

    async def main() -> None:
        fine = await used(Stream())
        assert (fine.closed, fine.was_reset) == (True, False)
        for close in (fails, hangs):
            stream = Stream()
            stream.close = close
            assert (await used(stream)).was_reset
        broken: Any = Stream()
        with pytest.raises(LookupError):
            async with closing(broken):
                raise LookupError
        assert (broken.closed, broken.was_reset) == (False, True)
        broken.reset = fails
        await reset(broken)  # there is nothing left to reset

    run(main)


# ── sessions that do as they are told ─────────────────────────────────────────────────────────────


class Sessions:
    """Of the sessions what the protocols ask; ``streams`` are opened one after the other."""

    def __init__(self, *streams: Stream | Exception) -> None:
        self.streams = list(streams)
        self.members = SimpleNamespace(peers={NODE: PEER}, nodes={PEER: NODE})
        self.tally = Tally()
        self.calls: list[tuple[object, ...]] = []
        self.links = [link()]
        self.served: list[object] = []
        self.here = True
        self.stretch = Stretch()
        self.tasks: list[tuple[Callable[..., Awaitable[None]], tuple[object, ...]]] = []

    def serve(self, protocol: object, _handle: object) -> None:
        self.served.append(protocol)

    def start(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        self.tasks.append((work, arguments))

    def is_up(self, _peer: object) -> bool:
        return self.here

    def peer_of(self, _node: bytes) -> object:
        return PEER

    def of(self, _peer: object) -> list[PeerConnection]:
        return self.links

    async def open(self, _peer: object, _protocol: object) -> Wire:
        await trio.lowlevel.checkpoint()
        stream = self.streams.pop(0)
        if isinstance(stream, Exception):
            raise stream
        return wire(stream)

    async def give_up(self, gone: PeerConnection, why: str) -> None:
        await trio.lowlevel.checkpoint()
        self.calls.append(("give_up", gone, why))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda _link, *details, **more: self.calls.append((name, *details, *more.items()))


def link(peer: ID = PEER) -> PeerConnection:
    nothing: Any = None
    return PeerConnection(nothing, peer, NODE, 0.0)


class Caller:
    """Asks in this thread."""

    async def ask(self, function: Callable[[], object], _within: float) -> object:
        await trio.lowlevel.checkpoint()
        return function()

    async def serve(self, function: Callable[[], Awaitable[object]], _within: float) -> object:
        return await function()


# ── hello ─────────────────────────────────────────────────────────────────────────────────────────

THEIRS = Hello("test", bytes(16), b"their credential")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no hello"),
        (b"\xff" * 9, "no hello"),
        (canonical.dumps(7), "no hello"),
        (canonical.dumps([1, "test", bytes(16)]), "no hello"),
        (canonical.dumps([2, "test", bytes(16), b""]), "another version or form"),
        (canonical.dumps([1, b"test", bytes(16), b""]), "another version or form"),
        (canonical.dumps([1, "test", bytes(15), b""]), "another version or form"),
        (canonical.dumps([1, "test", bytes(16), "x"]), "another version or form"),
    ],
)
def test_what_is_no_hello_is_refused(data: bytes, said: str) -> None:
    assert Hello.loads(THEIRS.dumps()) == THEIRS  # control
    with pytest.raises(BadBytesError, match=said):
        Hello.loads(data)


class _Greeter(Greeter):
    """Without slots: a test may replace its methods."""


def greeter(sessions: Sessions, admit: Any = lambda _node, _shown: ACCEPT, **more: Any) -> Greeter:
    caller: Any = Caller()
    made = _Greeter("test", admit, more.get("credential", bytes), caller, Libp2pOptions())
    use: Any = sessions
    made.sessions = use
    return made


def asked(stream: Stream, **how: Any) -> Sessions:
    """What came of saying hello over a stream."""
    sessions = Sessions()
    made = greeter(sessions, **how)

    async def opened(_link: object) -> Stream:
        await trio.lowlevel.checkpoint()
        return stream

    made._open = opened

    async def main() -> None:
        await made.hello(sessions.links[0])

    run(main)
    return sessions


def welcome(theirs: Hello = THEIRS) -> Stream:
    return Stream(hello.WELCOME, block(theirs.dumps()))


def test_whoever_is_welcomed_and_welcomes_is_admitted() -> None:
    stream = welcome()
    assert asked(stream).calls == [("admit", bytes(16))]
    assert Hello.loads(stream.heard[4:]).swarm == "test"
    assert stream.closed


@pytest.mark.parametrize(
    ("stream", "admit", "called"),
    [
        (
            Stream(hello.REFUSED),
            None,
            ("refuse", "the other end refused us", ("ours", False)),
        ),
        (welcome(Hello("other", bytes(16), b"")), None, ("refuse", "of another swarm")),
        (welcome(), reject("unknown-here"), ("refuse", "unknown-here")),
        (welcome(), LookupError("lost"), ("refuse", "admission failed: LookupError: lost")),
        (
            Stream(hello.WELCOME, block(b"nonsense")),
            None,
            NO_HELLO,
        ),
    ],
)
def test_whoever_is_not_admitted_is_refused_with_the_reason(
    stream: Stream, admit: object, called: tuple[object, ...]
) -> None:
    def judge(_node: bytes, shown: bytes) -> Verdict:
        assert shown == THEIRS.credential
        if isinstance(admit, Exception):
            raise admit
        assert isinstance(admit, Verdict)
        return admit

    assert asked(stream, admit=judge).calls == [called]


def test_a_node_that_computes_refuses_nobody() -> None:
    def busy(_node: bytes, _shown: bytes) -> Verdict:
        raise TimeoutError

    with pytest.raises(SilentPeerError):
        asked(welcome(), admit=busy)


def test_without_a_credential_to_show_there_is_no_hello() -> None:
    def expired() -> bytes:
        what = "expired"
        raise LookupError(what)

    with pytest.raises(BrokenStreamError, match="no credential to show: LookupError: expired"):
        asked(welcome(), credential=expired)


def answered(stream: Any, **how: Any) -> Sessions:
    """What came of a hello that the other end said."""
    sessions = Sessions()
    made = greeter(sessions, **how)
    found = sessions.links[0]
    sessions.link = lambda _muxed: found
    stream.muxed_conn = None
    run(lambda: made._answer(stream))
    return sessions


def test_a_hello_is_answered_with_a_hello() -> None:
    stream = Stream(block(THEIRS.dumps()))
    assert answered(stream).calls == [("admit", bytes(16))]
    assert stream.heard[:1] == hello.WELCOME
    assert Hello.loads(stream.heard[5:]).swarm == "test"


@pytest.mark.parametrize(
    ("said", "calls", "heard"),
    [
        (
            block(Hello("other", bytes(16), b"").dumps()),
            [("refuse", "of another swarm", ("linger", hello.LINGER_SECONDS))],
            hello.REFUSED,
        ),
        (
            block(b"x"),
            [NO_HELLO],
            b"",
        ),
        (b"\0\0", [], b""),  # it went away: nobody's fault
    ],
)
def test_a_hello_that_is_wrong_is_answered_with_no_hello(
    said: bytes, calls: list[object], heard: bytes
) -> None:
    stream = Stream(said)
    assert answered(stream).calls == calls
    assert stream.heard == heard


def test_an_error_in_answering_ends_that_stream_alone(caplog: pytest.LogCaptureFixture) -> None:
    stream: Any = Stream()
    stream.muxed_conn = None
    made = greeter(Sessions())

    def unknown(_muxed: object) -> PeerConnection:
        raise KeyError

    made.sessions.link = unknown
    run(lambda: made._answer(stream))
    assert "answering a hello" in caplog.text


@pytest.mark.parametrize("direction", ["INBOUND", "OUTBOUND"])
def test_a_connection_without_a_hello_is_given_up(direction: str) -> None:
    sessions = Sessions()
    made = greeter(sessions)

    async def broken(_link: object) -> None:
        await trio.lowlevel.checkpoint()
        raise BrokenStreamError

    made.hello = broken
    silent = link()
    silent.conn = SimpleNamespace(direction=SimpleNamespace(name=direction))
    run(lambda: made.greet(silent))
    why = "no hello" if direction == "INBOUND" else "no hello in time"
    assert sessions.calls == [("give_up", silent, why)]


def test_no_stream_is_opened_where_there_is_no_connection() -> None:
    class Deaf:
        async def new_stream(self) -> None:
            await trio.lowlevel.checkpoint()
            what = "the muxer is gone"
            raise OSError(what)

    async def main() -> None:
        sessions = Sessions()
        sessions.host = SimpleNamespace(multiselect_client=None)
        made, gone = greeter(sessions), link()
        with pytest.raises(BrokenStreamError, match="not connected"):
            await made._open(gone)
        gone.conn = Deaf()
        with pytest.raises(BrokenStreamError, match="OSError: the muxer is gone"):
            await made._open(gone)

    run(main)


# ── frames ────────────────────────────────────────────────────────────────────────────────────────


def carrying(sessions: Sessions, delivered: list[object] | None = None, **options: Any) -> Frames:
    kept: list[object] = [] if delivered is None else delivered
    use: Any = sessions
    return Frames(use, Libp2pOptions(**options), lambda *delivery: kept.append(delivery))


def test_a_frame_for_nobody_is_dropped_in_silence_and_one_too_many_is_counted() -> None:
    async def main() -> None:
        sessions = Sessions()
        made = carrying(sessions, outbox_frames=2)
        await made.send(b"another node", b"frame")
        sessions.here = False
        await made.send(NODE, b"frame")
        assert not sessions.tasks
        sessions.here = True
        for _ in range(3):
            await made.send(NODE, b"frame")
        assert len(sessions.tasks) == 1  # one writer for each neighbour
        tally = sessions.tally
        assert (tally.frames_sent, tally.bytes_sent, tally.frames_dropped) == (2, 10, 1)
        assert tally.reasons == {"outbox full": 1}

    run(main)


def written(streams: Iterable[Stream | Exception], *sent: bytes) -> Sessions:
    sessions = Sessions(*streams)

    async def main() -> None:
        made = carrying(sessions)
        for frame in sent:
            await made.send(NODE, frame)
        ((work, arguments),) = sessions.tasks
        with trio.move_on_after(5):
            await work(*arguments)

    run(main)
    return sessions


def test_a_stream_that_broke_is_opened_again_and_the_frame_is_sent() -> None:
    class Broken(Stream):
        async def write(self, data: bytes) -> None:
            await super().write(data)
            raise OSError

    broken, fine = Broken(), Stream()
    sessions = written([broken, fine], b"first", b"second")
    assert broken.was_reset
    assert fine.heard == block(b"first") + block(b"second")
    assert not sessions.tally.frames_dropped


def test_a_frame_whose_streams_all_break_is_dropped_and_the_next_tries_again() -> None:
    fine = Stream()
    sessions = written([BrokenStreamError("a"), BrokenStreamError("b"), fine], b"first", b"second")
    assert sessions.tally.reasons == {"stream broke": 1}
    assert fine.heard == block(b"second")


def test_frames_are_delivered_with_their_sender_and_an_empty_one_breaks_the_protocol() -> None:
    delivered: list[object] = []

    async def main() -> None:
        sessions = Sessions()
        made = carrying(sessions, delivered)
        assert sessions.served == [frames.PROTOCOL]
        with pytest.raises(BadBytesError, match="an empty frame"):
            await made._read(link(), wire(Stream(block(b"a"), block(b"b"), block(b""))))
        assert not made._reading

    run(main)
    assert delivered == [(NODE, b"a", None), (NODE, b"b", None)]


def test_frames_that_come_too_fast_wait() -> None:
    async def main() -> None:
        made = carrying(Sessions(), ingress_per_second=1.0, ingress_burst=1)
        begun = trio.current_time()
        with pytest.raises(BrokenStreamError, match="the stream ended"):
            await made._read(link(), wire(Stream(*[block(b"a")] * 4)))
        assert trio.current_time() - begun > 2.0

    run(main)


class Forgetful(SenderBuckets):
    """Makes a new bucket each time that it is asked, as a new stream once had."""

    def of(self, sender: Hashable) -> TokenBucket:
        del sender
        return self.make()


@pytest.mark.claim("C-flood-1", "C-libp2p-12")
@pytest.mark.control("C-flood-1", "C-libp2p-12")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_new_stream_of_frames_is_no_new_burst(
    guarded: bool,  # noqa: FBT001 - the case
) -> None:
    """The control is a bucket for each stream: here it is asked once in each."""

    async def main() -> None:
        delivered: list[object] = []
        made = carrying(Sessions(), delivered, ingress_per_second=1.0, ingress_burst=4)
        if not guarded:
            made._buckets = Forgetful(made._buckets.make)
        begun = trio.current_time()
        for _ in range(20):
            with pytest.raises(BrokenStreamError, match="the stream ended"):
                await made._read(link(), wire(Stream(block(b"a"))))
        took = trio.current_time() - begun
        assert len(delivered) == 20
        assert took == pytest.approx(16.0 if guarded else 0.0)
        begun = trio.current_time()  # the control: another member has its own burst
        with pytest.raises(BrokenStreamError, match="the stream ended"):
            await made._read(link(OTHER), wire(Stream(*[block(b"a")] * 4)))
        assert trio.current_time() == begun

    run(main)


def test_a_third_stream_of_frames_is_refused_while_two_are_read() -> None:
    async def main() -> None:
        made, here = carrying(Sessions()), link()
        async with trio.open_nursery() as nursery:
            for _ in range(frames.STREAMS_PER_PEER):
                nursery.start_soon(made._read, here, wire(Stream(then=9e9)))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(BrokenStreamError, match="too many streams"):
                await made._read(here, wire(Stream()))
            nursery.cancel_scope.cancel()
        assert not made._reading

    run(main)


# ── requests ──────────────────────────────────────────────────────────────────────────────────────


def asking(sessions: Sessions, handlers: Any = None, **options: Any) -> Requests:
    use: Any = sessions
    caller: Any = Caller()
    return Requests(use, Libp2pOptions(**options), caller, handlers or {})


def test_an_answer_is_returned_and_the_question_was_sent() -> None:
    async def main() -> None:
        stream = Stream(requests.ANSWERED, block(b"answer"))
        assert await asking(Sessions(stream)).ask(NODE, "ask", b"question", 5.0) == b"answer"
        assert stream.heard == block(b"ask") + block(b"question")

    run(main)


@pytest.mark.parametrize(
    ("stream", "code", "said"),
    [
        (Stream(requests.BUSY, block(b"too many")), "QRES-E902", "too many"),
        (Stream(requests.REFUSED, block(b"no such protocol")), "QRES-E907", "no such protocol"),
        (Stream(requests.ANSWERED, b"\x7f\xff\xff\xff"), "QRES-E907", "2147483647 bytes"),
        (Stream(requests.ANSWERED), "QRES-E904", "the stream ended"),
        (BrokenStreamError("not connected"), "QRES-E904", "not connected"),
        (Stream(then=9e9), "QRES-E905", "5 seconds are over"),
    ],
)
def test_a_question_without_an_answer_ends_in_a_named_error(
    stream: Stream | Exception, code: str, said: str
) -> None:
    sessions = Sessions(stream)

    async def main() -> None:
        with pytest.raises(TransportError) as caught:
            await asking(sessions).ask(NODE, "ask", b"question", 5.0)
        assert caught.value.code == code
        assert said in str(caught.value)
        assert f"ask at {NODE.hex()[:16]}" in str(caught.value)

    run(main)
    # Only bytes that break the protocol are held against the peer.
    malformed = [call for call in sessions.calls if call[0] == "bad"]
    assert len(malformed) == ("2147483647" in said)


def test_more_questions_than_may_be_under_way_are_refused_at_once() -> None:
    async def main() -> None:
        made = asking(Sessions(Stream(then=9e9)), requests_total=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, NODE, "ask", b"q", 1e6)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(TransportError, match=r"QRES-E902.*1 requests are under way"):
                await made.ask(NODE, "ask", b"q", 5.0)
            nursery.cancel_scope.cancel()

    run(main)


async def _echo(_node: bytes, data: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return data


async def _fails(_node: bytes, _data: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    what = "not for others to read"
    raise LookupError(what)


async def _long(_node: bytes, _data: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return bytes(5000)


@pytest.mark.parametrize(
    ("name", "data", "status", "reply"),
    [
        (b"echo", b"abc", requests.ANSWERED, b"abc"),
        (b"\xff", b"abc", requests.REFUSED, b"no such protocol"),
        (b"echo", b"", requests.REFUSED, b"an empty request"),
        (b"fails", b"abc", requests.REFUSED, b"LookupError"),
        (b"long", b"abc", requests.REFUSED, b"the reply is too large"),
    ],
)
def test_every_question_is_answered_and_a_failure_says_its_kind_alone(
    name: bytes, data: bytes, status: bytes, reply: bytes
) -> None:
    handlers = {"echo": _echo, "fails": _fails, "long": _long}
    stream = Stream(block(name), block(data))

    async def main() -> None:
        made = asking(Sessions(), handlers, request_bytes=4096)
        await made._answer(link(), wire(stream))
        assert not made._answering

    run(main)
    assert stream.heard == status + block(reply)


def hellos_said(count: int) -> Sessions:
    """What comes of so many hellos of a peer, one after the other."""
    sessions = Sessions()
    made = greeter(sessions)
    found = sessions.links[0]
    sessions.link = lambda _muxed: found

    async def main() -> None:
        for _ in range(count):
            stream: Any = Stream(block(THEIRS.dumps()))
            stream.muxed_conn = None
            await made._answer(stream)

    run(main)
    return sessions


@pytest.mark.claim("C-libp2p-38")
def test_hellos_have_a_rate() -> None:
    calls = hellos_said(hello.HELLOS_BURST + 3).calls
    assert [name for name, *_rest in calls] == ["admit"] * hello.HELLOS_BURST + ["bad"] * 3
    told = ("bad", hello.TOO_OFTEN, hello.TOO_OFTEN, LinkReason.OVERRAN)
    assert calls[-1] == told


@pytest.mark.control("C-libp2p-38")
def test_control_without_a_rate_each_is_asked_of_all_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hello, "HELLOS_BURST", 1e9)
    assert {name for name, *_rest in hellos_said(100).calls} == {"admit"}
