"""The router with real packets, and that nothing of it is left behind.

Bounds of time are from below, as the laws are: a slow machine only adds to them. How much is never
too late is a matter of `test_shaping.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from qres_lab.box.nodes import BoxNode
from trials import routed as module
from trials.processes import until
from trials.routed import Routed, address, unavailable
from trials.router import inhabitants
from trials.shaping import Fabric

FORMS = ("ip4", "ip6")
TALK = """
import socket, sys, time
what, host, port, *rest = sys.argv[1:]
kind = socket.AF_INET6 if ":" in host else socket.AF_INET
if what == "datagrams":
    out = socket.socket(kind, socket.SOCK_DGRAM)
    for number in range(int(rest[0])):
        out.sendto(b"%d" % number, (host, int(port)))
elif what == "status":
    server = socket.create_server((host, int(port)), family=kind)
    print("ready", flush=True)
    near, _ = server.accept()
    near.recv(2**16)
    body = b'{"version": 1, "state": "starting"}'
    near.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + body)
    near.close()
elif what == "listen":
    server = socket.create_server((host, int(port)), family=kind)
    print("ready", flush=True)
    near, _ = server.accept()
    total = 0
    while data := near.recv(2**16):
        total += len(data)
    near.sendall(b"%d" % total)
else:
    start = time.monotonic()
    out = socket.create_connection((host, int(port)), 600)
    met = time.monotonic() - start
    out.sendall(bytes(int(rest[0])))
    out.shutdown(socket.SHUT_WR)
    told = out.recv(64)
    print(met, time.monotonic() - start, told.decode(), flush=True)
"""


def words(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-c", TALK, *map(str, arguments)]


def sent(network: Routed, form: str, size: int) -> tuple[float, float, int]:
    """Over TCP from node 0 to node 1: seconds to connect, in all, and bytes that arrived."""
    there = address(1, form)
    listens = network.command(1, words("listen", there, 9000))
    with subprocess.Popen(listens, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            done = network.run(0, *words("send", there, 9000, size))
            met, took, arrived = done.stdout.split()
        finally:
            server.kill()
    return float(met), float(took), int(arrived)


@pytest.mark.parametrize("form", FORMS)
def test_packets_go_to_the_address_that_they_name(form: str, routed: Callable[..., Any]) -> None:
    network = routed(3)
    assert sent(network, form, 100_000)[2] == 100_000
    counts = network.counts()
    assert counts.paths[0, 1]["octets"] > 100_000
    assert counts.paths[1, 0]["packets"] > 0
    assert not any(counts.paths[pair]["packets"] for pair in counts.paths if 2 in pair)
    assert counts.unwritten == 0


def test_delay_and_rate_are_those_of_the_network(routed: Callable[..., Any]) -> None:
    network = routed(2)
    network.shape(delay=0.2)
    network.rate(100_000)
    met, took, arrived = sent(network, "ip4", 150_000)
    assert arrived == 150_000
    assert met >= 0.4  # there and back
    assert took >= 1.5
    assert network.counts().paths[0, 1]["delivered"] > 0


def test_a_network_loses_what_its_seed_says(routed: Callable[..., Any]) -> None:
    network, count = routed(2, seed=11), 400
    network.shape(loss=0.25)
    network.run(0, *words("datagrams", address(1, "ip4"), 9, count))
    fabric = Fabric(2, seed=11)
    fabric.paths[0, 1].loss = 0.25
    for _ in range(count):
        fabric.take(0.0, 0, 1, b".")
    expected = fabric.paths[0, 1].counts.lost
    assert until(lambda: network.counts().paths[0, 1]["packets"] == count, 600)
    assert network.counts().paths[0, 1]["lost"] == expected > 0


def test_nothing_passes_a_cut_and_other_pairs_are_not_cut(routed: Callable[..., Any]) -> None:
    network = routed(3)
    network.shape([(0, 1)], cut=True)
    for target in (1, 2):
        network.run(0, *words("datagrams", address(target, "ip6"), 9, 50))

    def met() -> tuple[int, int]:
        paths = network.counts().paths
        return paths[0, 1]["cut"], paths[0, 2]["delivered"]

    # What is answered that nobody listens are packets too, so that their sum tells nothing.
    assert until(lambda: met() == (50, 50), 600)
    assert network.counts().paths[0, 1]["delivered"] == 0
    network.heal()
    network.run(0, *words("datagrams", address(1, "ip6"), 9, 50))
    assert until(lambda: network.counts().paths[0, 1]["delivered"] == 50, 600)


def test_names_are_looked_up_in_the_namespaces_and_follow_a_node(
    routed: Callable[..., Any],
) -> None:
    network, outside = routed(2), Path("/etc/hosts").read_bytes()
    ask = "import socket, sys; print(socket.getaddrinfo(sys.argv[1], 1, int(sys.argv[2]))[0][4][0])"

    def found(family: int) -> str:
        name = address(1, "dns4")
        return network.run(0, sys.executable, "-c", ask, name, str(family)).stdout.strip()

    families = {"ip4": 2, "ip6": 10}
    for place in (0, 1, 0):
        for form, family in families.items():
            assert found(family) == address(1, form, place).replace(":0::", "::")
        network.move(1)
    assert Path("/etc/hosts").read_bytes() == outside


def test_tcp_is_as_it_is_told_to_be(routed: Callable[..., Any]) -> None:
    file = "/proc/sys/net/ipv4/tcp_congestion_control"
    outside = Path(file).read_text("ascii")
    network = routed(2, congestion="reno")
    assert [network.run(index, "cat", file).stdout for index in (0, 1)] == ["reno\n", "reno\n"]
    assert Path(file).read_text("ascii") == outside


def test_root_is_not_needed_where_everybody_may_make_user_namespaces() -> None:
    if why := unavailable():
        pytest.skip(why)
    try:
        network = Routed(2, user=True)
    except OSError as error:
        pytest.skip(f"no user namespaces: {error}")
    with network:
        assert sent(network, "ip4", 1000)[2] == 1000


@pytest.mark.parametrize("user", [None, True])
def test_each_node_is_asked_where_it_runs(user: Any) -> None:
    if why := unavailable():
        pytest.skip(why)
    try:
        network = Routed(2, user=user)
    except OSError as error:
        pytest.skip(f"no user namespaces: {error}")
    home = Path("nowhere")
    # The same address of loopback, and only one of them serves there.
    seats = [BoxNode(index, home, False, "", "", 0, 8470) for index in range(2)]  # noqa: FBT003
    with network:
        serves = network.command(1, words("status", "127.0.0.1", 8470))
        with subprocess.Popen(serves, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == "ready\n"
                told = network.ask(seats)
            finally:
                server.kill()
        assert told == {0: None, 1: {"version": 1, "state": "starting"}}


def test_it_is_said_why_there_are_no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "TOOLS", ("no-such-tool",))
        with pytest.raises(OSError, match=r"no no-such-tool on this machine|Linux's"):
            Routed(2)
    if not unavailable():
        monkeypatch.setattr(module, "address", lambda *_kind: "no address")
        with pytest.raises(OSError, match="ip -batch -: "):
            Routed(2)


# ── nothing is left behind ────────────────────────────────────────────────────────────────────────

HOLDER = """
import subprocess, sys
from trials.routed import Routed
network = Routed(2)
sleepers = [
    subprocess.Popen(network.command(index, ["sleep", "100000"]), start_new_session=True)
    for index in range(2)
]
print(network.process, *(sleeper.pid for sleeper in sleepers), flush=True)
sys.stdin.read()
"""


def alive(process: int) -> bool:
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{process}/stat").read_text("utf-8")
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return False


def sleeps(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"sleep")
    return False


@pytest.mark.parametrize("user", ["None", "True"])
def test_a_trial_that_is_killed_leaves_nothing_behind(user: str) -> None:
    if why := unavailable():
        pytest.skip(why)
    before = set(Path("/run/netns").glob("*"))
    text = HOLDER.replace("Routed(2)", f"Routed(2, user={user})")
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as holder:
        try:
            assert holder.stdout is not None
            line = holder.stdout.readline()
            if not line and user == "True":
                pytest.skip("no user namespaces")
            processes = list(map(int, line.split()))
            # nsenter becomes the program only after it is there.
            assert until(lambda: all(map(sleeps, processes[1:])), 600)
            os.kill(processes[1], signal.SIGSTOP)  # it could not even be asked to end
            assert all(map(alive, processes))
        finally:
            holder.kill()
    assert until(lambda: not any(map(alive, processes)), 600)
    # Those that another test makes meanwhile are gone when it ends.
    assert until(lambda: set(Path("/run/netns").glob("*")) <= before, 600)


def test_closing_ends_what_still_runs_in_the_namespaces(routed: Callable[..., Any]) -> None:
    network = routed(2)
    with subprocess.Popen(network.command(1, ["sleep", "100000"])) as sleeper:
        namespaces = [
            os.open(f"/proc/{network.process}/fd/{file}", os.O_RDONLY) for file in network._files
        ]
        try:
            # nsenter becomes the program only after it is there.
            there = {sleeper.pid, network.process}
            assert until(lambda: set(inhabitants(namespaces)) == there, 600)
        finally:
            for namespace in namespaces:
                os.close(namespace)
        network.close()
        assert sleeper.wait() == -signal.SIGKILL
    start = time.monotonic()
    network.close()  # again, and nothing happens
    assert time.monotonic() - start < 60
