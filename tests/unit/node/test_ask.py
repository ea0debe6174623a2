"""What is served where a node was: anything at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import create_server
from threading import Event, Thread
from typing import Any

import pytest

from qres_core.errors import ConfigError
from qres_core.node.ask import ask

WHOLE: dict[str, Any] = {
    "version": 1,
    "state": "running",
    "node": {"id": "ab"},
    "swarm": {},
    "rounds": {},
    "round": 2,
    "step": 1,
    "model_digest": "cd",
    "history": [{"closed": True}],
    "metrics": {"loss": 0.5},
    "members": [{}],
    "peers": [],
    "plugins": ["mean"],
    "rejections": {},
    "privacy": None,
}


@pytest.fixture
def answer() -> Generator[Callable[[bytes], dict[str, Any] | None]]:
    """What is made of bytes that are served."""
    body = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            del format, args

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def asked(said: bytes) -> dict[str, Any] | None:
        nonlocal body
        body = said
        return ask(f"127.0.0.1:{server.server_port}", 30.0)

    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_status_is_taken_as_it_is(answer: Callable[[bytes], Any]) -> None:
    assert answer(json.dumps(WHOLE).encode()) == WHOLE
    starting = {"version": 1, "state": "starting"}
    assert answer(json.dumps(starting).encode()) == starting


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "version"])
@pytest.mark.parametrize("wrong", [3.5, [1]], ids=["number", "list"])
def test_what_lacks_a_part_of_a_status_is_none(
    answer: Callable[[bytes], Any], name: str, wrong: object
) -> None:
    without = {key: value for key, value in WHOLE.items() if key != name}
    assert answer(json.dumps(without).encode()) is None
    if (name, wrong) != ("plugins", [1]):
        assert answer(json.dumps({**WHOLE, name: wrong}).encode()) is None


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"", b"9" * 5000, b" " * (2**22 + 1)])
def test_no_bytes_break_it(answer: Callable[[bytes], Any], body: bytes) -> None:
    assert answer(body) is None


def test_what_would_steer_a_terminal_is_taken_out(answer: Callable[[bytes], Any]) -> None:
    said = {**WHOLE, "goal": "\x1b]0;owned\x07", "deep": json.loads("[" * 90 + "]" * 90)}
    made = answer(json.dumps(said).encode())
    assert made["goal"] == "�]0;owned�"
    assert len(json.dumps(made["deep"])) < 90


CHANGE: dict[str, Any] = {
    "action": "add",
    "member": "ab" * 32,
    "successor": None,
    "signed": 1,
    "approved": False,
}
ROSTER: dict[str, Any] = {"epoch": 0, "digest": "cd" * 32, "threshold": 3, "waiting": [CHANGE]}


def test_changes_that_wait_are_taken_as_they_are(answer: Callable[[bytes], Any]) -> None:
    for roster in (None, ROSTER, {**ROSTER, "waiting": []}):
        said = {**WHOLE, "roster": roster}
        assert answer(json.dumps(said).encode()) == said


@pytest.mark.parametrize(
    "roster",
    [
        3,
        [],
        {},
        {**ROSTER, "threshold": "3"},
        {**ROSTER, "waiting": None},
        {**ROSTER, "waiting": [3]},
        {**ROSTER, "waiting": [{**CHANGE, "member": 3}]},
        {**ROSTER, "waiting": [{**CHANGE, "successor": 3}]},
        {**ROSTER, "waiting": [{}]},
    ],
)
def test_changes_of_another_form_are_no_status(
    answer: Callable[[bytes], Any], roster: object
) -> None:
    assert answer(json.dumps({**WHOLE, "roster": roster}).encode()) is None


@pytest.mark.parametrize("url", ["http://[::1", "http://[::g]", "http://a:b", "ftp://a"])
def test_what_is_no_address_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match=r"QRES-E105 --url"):
        ask(url)


def test_a_byte_now_and_then_wins_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps(WHOLE).encode()
    said = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 60 + b"\r\n\r\n" + body
    # Each byte comes long before a step's time is over; the clock is what this test says it is.
    now = 0.0
    monkeypatch.setattr("qres_core.node.ask.time.monotonic", lambda: now)

    def served(step: float) -> dict[str, Any] | None:
        nonlocal now
        now, over = 0.0, Event()
        with create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                nonlocal now
                connection, _address = server.accept()
                with connection:
                    connection.recv(4096)
                    for index in range(len(said)):
                        now += step
                        try:
                            connection.sendall(said[index : index + 1])
                        except OSError:  # the other end has had enough
                            break
                over.set()

            thread = Thread(target=serve)
            thread.start()
            made = ask(f"127.0.0.1:{server.getsockname()[1]}", 30.0)
            assert over.wait(300)
            thread.join()
        return made

    assert served(0.0) == WHOLE, "control: it is whole where time stands still"
    assert served(29.0) is None
