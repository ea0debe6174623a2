from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import SocketListener, SocketStream

from qres_core.errors import ConfigError
from qres_core.node import metrics, server
from qres_core.node.ask import ask
from qres_core.node.server import StatusServer, host_allowed, parse_address
from qres_core.node.status import StatusBoard


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks may take its time; tests of who takes too long say how long that is."""
    monkeypatch.setattr(server, "SECONDS", 300.0)


def report() -> Mapping[str, Any]:
    return StatusBoard(clock=lambda: 7.0).report()


def served(
    scene: Callable[[int], Any], *, made: Callable[[], Any] = report, trouble: str = ""
) -> Any:
    """What ``scene`` returns, called in a thread with the port of a server that runs."""

    async def play() -> Any:
        names = frozenset({"node.example"})
        serving = StatusServer(("127.0.0.1", 0), made, lambda: trouble, names)
        async with anyio.create_task_group() as group:
            url: str = await group.start(serving.serve)
            result = await anyio.to_thread.run_sync(scene, int(url.rpartition(":")[2]))
            group.cancel_scope.cancel()
        return result

    return anyio.run(play)


def talk(port: int, *parts: bytes, timeout: float = 300.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:  # closed with something of ours unread
            pass
        return answer


def get(target: str, *, host: str = "127.0.0.1", method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()


def test_the_page_the_status_and_the_metrics_are_served() -> None:
    def scene(port: int) -> list[bytes]:
        return [talk(port, get(target)) for target in ("/", "/status?x=1", "/metrics")]

    page, status, text = served(scene)
    assert page.startswith(b"HTTP/1.1 200")
    assert b"<!doctype html>" in page
    head, _, body = status.partition(b"\r\n\r\n")
    assert json.loads(body) == report()
    assert b"content-type: application/json" in head.lower()
    assert b"access-control" not in head.lower()
    assert b"qres_start_time_seconds 7.0" in text
    assert metrics.CONTENT_TYPE.encode() in text


def test_a_node_that_answers_is_well_and_one_that_takes_part_is_ready() -> None:
    def scene(port: int) -> list[bytes]:
        return [talk(port, get(target)) for target in ("/healthz", "/readyz")]

    well, ready = served(scene)
    assert well.startswith(b"HTTP/1.1 200")
    assert ready.startswith(b"HTTP/1.1 200")
    well, ready = served(scene, trouble="2 of the 3 nodes that a round needs are connected")
    assert well.startswith(b"HTTP/1.1 200")
    assert ready.startswith(b"HTTP/1.1 503")
    assert ready.endswith(b"\r\n\r\n2 of the 3 nodes that a round needs are connected\n")


@pytest.mark.parametrize("path", server.PATHS)
def test_head_answers_as_get_does_without_the_body(path: str) -> None:
    def scene(port: int) -> list[bytes]:
        return [talk(port, get(path, method=method)) for method in ("GET", "HEAD")]

    whole, head = served(scene)
    first, _, body = whole.partition(b"\r\n\r\n")
    assert head == first + b"\r\n\r\n"
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert body


def test_the_page_may_do_nothing_but_what_is_in_it() -> None:
    head, _, body = served(lambda port: talk(port, get("/"))).partition(b"\r\n\r\n")
    (policy,) = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Security")]
    for part in (b"default-src 'none'", b"frame-ancestors 'none'", b"connect-src 'self'"):
        assert part in policy
    assert b"unsafe" not in policy
    # Nothing from elsewhere, and nothing of a node's is ever taken for markup.
    for part in (b"http://", b"https://", b"src=", b"innerHTML", b"eval(", b"onclick"):
        assert part not in body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/", host="evil.example"), 421),
        (get("/", host="evil.example:8470"), 421),
        (get("/", host="127.0.0.1.evil.example"), 421),
        (get("/", more="Host: 127.0.0.1\r\n"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 421),
        (get("/", host="node.example"), 200),
        (get("/", host="localhost:80"), 200),
        (get("/", host="[::1]:80"), 200),
        (get("/", method="POST"), 405),
        (get("/", method="OPTIONS"), 405),
        (get("/../etc/passwd"), 404),
        (get("//status"), 404),
        (get("/nothing", method="HEAD"), 404),
        (get("/readyz", host="evil.example"), 421),
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (get("/", more=f"X: {'x' * server.MAX_HEAD}\r\n"), 431),
        (get(f"/{'x' * server.MAX_HEAD}"), 431),
    ],
)
def test_what_is_asked_wrongly_is_refused(request_: bytes, status: int) -> None:
    answer = served(lambda port: talk(port, request_))
    assert answer.split(b" ", 2)[1] == str(status).encode()


def end_of(connection: socket.socket) -> bytes:
    """Nothing, once the other side has closed; with a reset, if it had not read everything."""
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


@pytest.mark.long
def test_slow_and_many_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 3.0)
    monkeypatch.setattr(server, "CONNECTIONS", 2)

    def scene(port: int) -> tuple[list[bytes], bytes]:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=300) for _ in range(3)]
        for item in idle:
            item.sendall(b"GET / HT")
        ends = [end_of(item) for item in idle]  # each is closed: one makes room, two after a while
        for item in idle:
            item.close()
        monkeypatch.setattr(server, "SECONDS", 300.0)  # who asks may take its time
        return ends, talk(port, get("/status"))

    ends, after = served(scene)
    assert ends == [b"", b"", b""]
    assert after.startswith(b"HTTP/1.1 200")


def test_whoever_holds_connections_open_keeps_nobody_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "SECONDS", 3600.0)  # nothing ends by itself here
    monkeypatch.setattr(server, "CONNECTIONS", 4)

    def scene(port: int) -> tuple[bytes, list[bool]]:
        with ExitStack() as stack:
            held: list[socket.socket] = []
            for _ in range(4):
                item = socket.create_connection(("127.0.0.1", port), timeout=300)
                held.append(stack.enter_context(item))
                item.sendall(b"GET / HT")
            answer = talk(port, get("/healthz"))
            assert end_of(held[0]) == b"", "the one that lasted longest made room"
            for item in held:
                item.settimeout(0)
            ended: list[bool] = []
            for item in held[1:]:  # the request that made room is over, and nobody else had to go
                try:
                    ended.append(item.recv(1) == b"")
                except BlockingIOError:
                    ended.append(False)
        return answer, ended

    answer, ended = served(scene)
    assert answer.startswith(b"HTTP/1.1 200")
    assert ended == [False] * 3


class Listener:
    """Fails as it is told to, then takes what comes."""

    def __init__(self, inner: SocketListener, faults: list[BaseException]) -> None:
        self.inner, self.faults = inner, faults

    serve: Any = SocketListener.serve

    async def accept(self) -> SocketStream:
        await anyio.lowlevel.checkpoint()
        if self.faults:
            raise self.faults.pop(0)
        return await self.inner.accept()


def failing(monkeypatch: pytest.MonkeyPatch, faults: list[BaseException]) -> None:
    create = anyio.create_tcp_listener

    async def made(**where: Any) -> Any:
        multi: Any = await create(**where)
        multi.listeners = [Listener(each, faults) for each in multi.listeners]
        for each in multi.listeners:
            each.extra, each.aclose = each.inner.extra, each.inner.aclose
        return multi

    monkeypatch.setattr(anyio, "create_tcp_listener", made)


def test_a_shortage_of_files_does_not_end_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "PAUSE", 0.001)
    broken = anyio.BrokenResourceError()
    broken.__cause__ = OSError(errno.ENFILE, "as trio says it")
    many = [OSError(errno.EMFILE, "too many files") for _ in range(50)]
    failing(monkeypatch, [*many, OSError(errno.ECONNABORTED, "it left"), broken])
    assert served(lambda port: talk(port, get("/healthz"))).startswith(b"HTTP/1.1 200")
    (line,) = [each for each in caplog.messages if "takes no connections" in each]
    assert "too many files" in line


def test_control_with_the_library_s_own_loop_a_shortage_ends_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def accept(self: StatusServer, listener: Any, group: Any) -> None:
        await listener.serve(self._connection, group)

    monkeypatch.setattr(StatusServer, "_accept", accept)
    failing(monkeypatch, [OSError(errno.EMFILE, "too many files")])
    with pytest.raises(ExceptionGroup) as caught:
        served(lambda port: talk(port, get("/healthz")))
    assert "too many files" in str(caught.value.exceptions)


def test_what_else_fails_where_connections_are_taken_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a listener that was closed ends the server, and is not asked for ever."""
    failing(monkeypatch, [anyio.ClosedResourceError()])
    serving = StatusServer(("127.0.0.1", 0), report, str)
    with pytest.raises(ExceptionGroup) as caught:
        anyio.run(serving.serve)
    assert [type(each) for each in caught.value.exceptions] == [anyio.ClosedResourceError]


def test_a_report_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Any:
        raise LookupError

    answers = served(
        lambda port: [talk(port, get("/status")), talk(port, get("/metrics"))], made=fail
    )
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 500"] * 2
    assert b"LookupError" not in answers[0]
    assert "could not be made" in caplog.text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8470", ("127.0.0.1", 8470)),
        ("[::1]:0", ("::1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),  # noqa: S104 - it is only parsed
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "8470", "127.0.0.1", "::1:80", "[127.0.0.1]:80", "localhost:80", "1.1.1.1:65536"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="QRES-E105"):
        parse_address(text)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        serving = StatusServer(holder.getsockname(), report, str)
        with pytest.raises(ConfigError, match="cannot listen"):
            anyio.run(serving.serve)


def test_odd_hosts_are_not_allowed() -> None:
    for host in ("", "[::1", "[::1]x", "[evil]", "127.0.0.1@evil", "2130706433"):
        assert not host_allowed(host, frozenset())


def test_asking() -> None:
    assert served(lambda port: ask(f"http://127.0.0.1:{port}", 300.0)) == report()
    assert served(lambda port: ask(f"127.0.0.1:{port}", 300.0)) == report()
    assert served(lambda port: ask(f"http://127.0.0.1:{port}"), made=lambda: [1]) is None
    assert served(lambda port: ask(f"http://127.0.0.1:{port}"), made=lambda: {"version": 2}) is None
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert ask(f"http://127.0.0.1:{nobody.getsockname()[1]}", 0.5) is None


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1", "", "http://", "http://x/y", "http://x:99999", "ftp://x"]
)
def test_what_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="QRES-E105"):
        ask(url)
