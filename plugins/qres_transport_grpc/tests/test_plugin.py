"""The plugin: options, what it refuses, and what the doctor says of hubs."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import traceback
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import anyio
import attrs
import pytest
from qres_transport_grpc import Grpc
from qres_transport_grpc.dial import certificate
from qres_transport_grpc.wire import HubPlace

from qres_core import NodeInfo, RoundInfo, Surroundings
from qres_core.errors import ConfigError, Problem, RoundError
from qres_core.kernel.discovery import scan

MIB = 2**20
HUB = "hub.example.org:443#" + "0" * 64
FITS = Surroundings(nodes=4, byzantine=0, quorum=4, hooks=frozenset({"link_keys"}))


def test_it_is_found_by_its_name() -> None:
    assert scan()["grpc"].distribution == "qres-transport-grpc"


def test_every_option_has_a_help_and_a_default_that_is_valid() -> None:
    for field in (field for field in attrs.fields(Grpc) if field.init):
        assert field.metadata["help"].rstrip(")").endswith((".", "`")), field.name
    assert Grpc().hubs == ()


def make(lab: SimpleNamespace, *, keys: bool = True, **options: Any) -> Any:
    me, other = lab.members(2)
    info = NodeInfo(me.node_id, "test", tuple(sorted((me.node_id, other.node_id))))
    lent = me.keys if keys else None
    return Grpc(**options).transport(info, lab.admit_everybody, bytes, lent)


def test_without_a_hub_or_a_key_it_says_so(lab: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match=r"QRES-E103.*hubs.*qres hub run"):
        make(lab)
    with pytest.raises(ConfigError, match=r"QRES-E105.*hubs\[1\].*HOST:PORT#SHA256"):
        make(lab, hubs=(HUB, "nowhere"))
    with pytest.raises(ConfigError, match=r"QRES-E103.*link_keys.*ed25519"):
        make(lab, hubs=(HUB,), keys=False)


def test_what_does_not_fit_is_found_before_the_start() -> None:
    assert list(Grpc().check(FITS)) == []
    (problem,) = Grpc().check(attrs.evolve(FITS, hooks=frozenset({"admit"})))
    assert (problem.code, problem.where) == ("QRES-E305", "plugins.grpc")
    around = attrs.evolve(FITS, max_message_bytes=8 * MIB)
    problems = list(Grpc(blob_bytes=MIB, spool_bytes=2 * MIB).check(around))
    assert [problem.where for problem in problems] == [
        "plugins.grpc.blob_bytes",
        "plugins.grpc.spool_bytes",
    ]
    assert list(Grpc().check(around)) == []


def test_nothing_is_called_before_the_start_nor_after_the_end(lab: SimpleNamespace) -> None:
    end = make(lab, hubs=("127.0.0.1:1#" + "0" * 64,), dial_seconds=0.5)
    calls: list[Callable[[], Any]] = [
        end.receive,
        end.event,
        lambda: end.broadcast(b"x"),
        lambda: end.publish_blob(b"x"),
    ]

    async def main() -> None:
        for call in calls:
            with pytest.raises(RoundError, match="QRES-E603"):
                await call()
        await end.start()
        with pytest.raises(RoundError, match=r"QRES-E603.*already"):
            await end.start()
        await end.send(bytes(32), b"to nobody")
        failed = await end.event()
        assert str(failed.reason) == "dial_failed"
        await end.aclose()
        for call in calls:
            with pytest.raises(RoundError, match="QRES-E603"):
                await call()

    async def handler(_node: bytes, data: bytes) -> bytes:
        return data

    end.handle("ask", handler)
    for name in ("ask", "", "x" * 300):
        with pytest.raises(ValueError, match="protocol"):
            end.handle(name, handler)
    anyio.run(main)


def test_a_folder_that_cannot_be_made_is_named(lab: SimpleNamespace, tmp_path: Any) -> None:
    me, other = lab.members(2)
    (tmp_path / "data").write_bytes(b"a file")
    info = NodeInfo(
        me.node_id, "test", (me.node_id, other.node_id), data_dir=str(tmp_path / "data")
    )
    end = Grpc(hubs=(HUB,)).transport(info, lab.admit_everybody, bytes, me.keys)
    with pytest.raises(RoundError, match=r"QRES-E603.*folder of blobs"):
        anyio.run(end.start)


def test_the_doctor_knocks_at_every_hub(hub: Callable[..., Any], lab: SimpleNamespace) -> None:
    roster = lab.members(2)
    server = hub(roster)
    wrong = f"127.0.0.1:{server.port}#{'0' * 64}"
    plugin = Grpc(hubs=(server.option, wrong, "127.0.0.1:1#" + "0" * 64), dial_seconds=60.0)
    info = NodeInfo(roster[0].node_id, "test", (roster[0].node_id,))
    keys = roster[0].keys
    good, other, gone = plugin.examine(info, runs=False, link_keys=keys)
    assert isinstance(good, str)
    assert good.endswith("is the one that is meant; it knows this node")
    assert server.server.refused == 0
    unasked = next(plugin.examine(info, runs=True, link_keys=keys))
    assert unasked == next(plugin.examine(info, runs=False, link_keys=None))
    assert "not asked while the node runs" in str(unasked)
    assert isinstance(other, Problem)
    assert isinstance(gone, Problem)
    assert (other.code, gone.code) == ("QRES-E105", "QRES-E904")


def test_the_doctor_tells_of_a_hub_that_does_not_know_the_node(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    """It is in no roster, or has another key, or the hub serves another swarm."""
    roster = lab.members(3)
    server = hub(roster[:2])
    plugin = Grpc(hubs=(server.option,), dial_seconds=60.0)

    def found(me: Any, keys: Any, swarm: str = "test") -> Problem | str:
        info = NodeInfo(me.node_id, swarm, (me.node_id,))
        (item,) = plugin.examine(info, runs=False, link_keys=keys)
        return item

    assert isinstance(found(roster[0], roster[0].keys), str), "control"
    wrong = [
        found(roster[2], roster[2].keys),
        found(roster[0], roster[1].keys),
        found(roster[0], roster[0].keys, "another"),
    ]
    for item in wrong:
        assert isinstance(item, Problem)
        assert (item.code, item.where) == ("QRES-E904", "plugins.grpc.hubs[0]")
        assert "not proved to be a member" in item.what
    assert server.server.refused == len(wrong)


@pytest.mark.claim("C-grpc-23")
@pytest.mark.control("C-grpc-23")
def test_the_doctor_does_not_disturb_a_node_that_runs(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    """Control: to ask the hub ends the node's own connection."""
    roster = lab.members(2)
    server = hub(roster)
    ends = [lab.transport(me, roster, [server]) for me in roster]
    plugin = Grpc(hubs=(server.option,), dial_seconds=60.0)
    info = NodeInfo(roster[0].node_id, "test", (roster[0].node_id,))

    async def main() -> None:
        async with lab.running(*ends):
            seat = server.server._seats[roster[0].node_id]
            for runs, replaced in ((True, False), (False, True)):
                look = partial(plugin.examine, info, runs, roster[0].keys)
                await anyio.to_thread.run_sync(lambda look=look: list(look()))
                assert bool(seat.why) is replaced

    anyio.run(main)


def test_rounds_and_new_options_reach_the_transport(
    hub: Callable[..., Any], lab: SimpleNamespace
) -> None:
    roster = lab.members(2)
    server = hub(roster)
    plugin = Grpc(hubs=(server.option,))
    ids = tuple(sorted(node.node_id for node in roster))
    info = NodeInfo(roster[0].node_id, "test", ids[:1])
    end: Any = plugin.transport(info, lab.admit_everybody, bytes, roster[0].keys)
    told: list[Any] = []
    end.follow, end.enter, end.aim = told.append, told.append, told.append
    plugin.round_opened(SimpleNamespace(roster=ids, height=3))  # type: ignore[arg-type]
    plugin.retune(Grpc(hubs=(HUB,)))
    assert told == [ids, 3, (HUB,)]
    with pytest.raises(ConfigError):
        plugin.retune(Grpc())
    assert RoundInfo


PROXY_KEY = b"Basic " + base64.b64encode(b"a node:p@ss")


class Proxy:
    """Carries what it is asked for to a hub, for whoever shows a name and a password."""

    def __init__(self, port: int) -> None:
        self.onward = port
        self.asked: list[bytes] = []
        self.refused = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self.carry, args=(client,), daemon=True))
            self.threads[-1].start()

    def carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.onward)) as onward:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (more := client.recv(4096)):
                    return  # it was given up; the test would wait for this thread for ever
                request += more
            first, *lines = request.split(b"\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(b":") for line in lines)
            }
            if headers.get(b"proxy-authorization") != PROXY_KEY:
                self.refused += 1
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            self.asked.append(first)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.pump, args=(onward, client), daemon=True)
            back.start()
            self.pump(client, onward)
            back.join()

    @staticmethod
    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


def test_a_proxy_is_used_where_there_is_one_with_the_name_and_password_in_its_address(
    hub: Callable[..., Any], lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever fetches the certificate, and then by gRPC."""
    roster = lab.members(2)
    server = hub(roster)
    proxy = Proxy(server.port)
    monkeypatch.setenv("no_proxy", "")
    name = f"hub.example.org:443#{server.identity.digest}"
    place = HubPlace.of(name)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    with pytest.raises(OSError, match="407"):  # the control
        certificate(place, lab.PATIENCE)
    monkeypatch.setenv("https_proxy", f"http://a%20node:p%40ss@127.0.0.1:{proxy.port}")
    assert "BEGIN CERTIFICATE" in certificate(place, lab.PATIENCE)
    ends = [lab.transport(me, roster, [SimpleNamespace(option=name)]) for me in roster]

    async def main() -> None:
        async with lab.running(*ends):
            assert ends[0].peers()

    anyio.run(main)
    proxy.close()
    assert proxy.refused == 1
    assert all(item.startswith(b"CONNECT hub.example.org:443") for item in proxy.asked)
    assert len(proxy.asked) >= 5  # three certificates and two channels


@pytest.mark.parametrize("sign", ["/", "#", "?", "["])
def test_a_password_of_a_proxy_is_not_told(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """Signs that end an address make a port of it; the error goes into the log and the status."""
    address = f"http://node:hush{sign}hush@127.0.0.1:1"
    monkeypatch.setenv("https_proxy", address)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(OSError, match="https_proxy is no address") as told:
        certificate(HubPlace.of(HUB), 1.0)
    assert "hush" not in "".join(traceback.format_exception(told.value))
    if sign != "[":  # the control
        with pytest.raises(ValueError, match="hush"):
            _ = urlsplit(address).port


@pytest.mark.parametrize("proxy", ["http://[::1]:3128", "http://proxy:none"])
def test_a_proxy_that_cannot_be_used_is_told_and_tried_again(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """It ended the thread, and nobody heard of it."""
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    end = make(lab, hubs=(HUB,), reconnect_seconds=0.05)

    async def main() -> None:
        await end.start()
        try:
            with anyio.fail_after(lab.PATIENCE):
                for _ in range(2):
                    assert str((await end.event()).reason) == "dial_failed"
        finally:
            await end.aclose()

    anyio.run(main)
