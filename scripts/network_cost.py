"""What a swarm over libp2p costs: at rest, in bytes for a round, and with many nodes on few cores.

    PYTHONPATH=scripts python -P scripts/network_cost.py idle --nodes 10 20 40
    PYTHONPATH=scripts python -P scripts/network_cost.py bytes --nodes 10 --dimension 1000 7500 9000
    PYTHONPATH=scripts python -P scripts/network_cost.py crowd --nodes 20 --seconds 120
    PYTHONPATH=scripts python -P scripts/network_cost.py crowd --profile high-security

``idle``: transports alone, a process each, all connected: the share of a core that one uses, and
the links that were lost meanwhile. ``bytes``: real nodes with Krum: what goes into a node's sockets
for a round, relative to its update, once for every other node. ``crowd``: real nodes with default
options: when the first model is there, how many follow, and the links that were lost. Bytes are
counted where they go into the socket, headers of TCP left out.

Exit code 0: within the bounds of ``--most``, where it is given. 1: not so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs
from nacl.signing import SigningKey
from qres_lab.box.fleet import Fleet
from qres_lab.box.nodes import free_ports, prepare
from qres_transport_libp2p import Libp2p
from qres_transport_libp2p.pin import check_libp2p
from trials.processes import end_in_order, has_model

from qres_core import ACCEPT, NodeInfo
from qres_core.kernel.config import read_toml
from qres_core.transport import LinkKeys, PeerChange, Transport

COUNTER: Final = """
import atexit, os, threading, time
import trio

class Count:
    total = 0

plain = trio.SocketStream.send_all

async def send_all(self, data):
    await plain(self, data)
    Count.total += len(data)

def tell():
    path = os.path.join(os.environ["QRES_WIRE"], str(os.getpid()))
    while True:
        with open(path + ".new", "w") as file:
            file.write(str(Count.total))
        os.replace(path + ".new", path)
        time.sleep(0.25)

trio.SocketStream.send_all = send_all
threading.Thread(target=tell, daemon=True).start()
"""
"""Runs in every node before anything else: counts what is written to sockets."""
WORD: Final = 4
"""Bytes of a coordinate."""
SETTLE: Final = 20.0
"""Seconds after the last link is up before an idle node is measured."""


# ── transports alone ──────────────────────────────────────────────────────────────────────────────


def _transport(index: int, ports: Sequence[int]) -> Transport:
    check_libp2p()
    from qres_transport_libp2p.identity import peer_id  # noqa: PLC0415 - imports libp2p

    keys = [
        SigningKey(hashlib.sha256(b"cost %d" % number).digest()) for number in range(len(ports))
    ]
    nodes = [bytes(key.verify_key) for key in keys]
    places = [f"/ip4/127.0.0.1/tcp/{port}" for port in ports]
    others = tuple(f"{places[k]}/p2p/{peer_id(nodes[k])}" for k in range(index))
    plugin = Libp2p(listen=places[index], peers=others)
    links = LinkKeys(nodes[index], lambda told: keys[index].sign(told).signature, lambda node: node)
    info = NodeInfo(nodes[index], "cost", tuple(sorted(nodes)))
    return plugin.transport(info, lambda _peer, _shown: ACCEPT, bytes, links)


async def _rest(index: int, ports: Sequence[int]) -> None:
    """One transport, which says nothing; tells when it is connected, and again when asked to."""
    made = _transport(index, ports)
    await made.start()
    while len(made.peers()) < len(ports) - 1:  # noqa: ASYNC110
        await anyio.sleep(0.2)
    print("up", flush=True)
    while await anyio.to_thread.run_sync(sys.stdin.readline):
        used = time.process_time()
        lost = 0
        with anyio.move_on_after(0.01):
            while True:
                lost += (await made.event()).change is PeerChange.DOWN
        print(json.dumps([used, lost]), flush=True)
    await made.aclose()


def idle(nodes: int, seconds: float) -> dict[str, float]:
    """The share of a core that a node at rest uses, in percent, and how many links are lost."""
    ports = free_ports(nodes)
    command = [sys.executable, "-P", __file__, "rest", json.dumps(ports)]
    children = [
        subprocess.Popen(
            [*command, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for index in range(nodes)
    ]

    def told() -> list[str]:
        return [child.stdout.readline() for child in children if child.stdout]

    def ask() -> list[list[float]]:
        for child in children:
            if child.stdin:
                child.stdin.write("\n")
                child.stdin.flush()
        return [json.loads(line) for line in told()]

    try:
        started = time.monotonic()
        told()
        met = time.monotonic() - started
        time.sleep(SETTLE)
        before, began = ask(), time.monotonic()
        time.sleep(seconds)
        after, took = ask(), time.monotonic() - began
    finally:
        for child in children:
            child.kill()
            child.wait()
    shares = sorted(
        100 * (end[0] - start[0]) / took for start, end in zip(before, after, strict=True)
    )
    return {
        "nodes": nodes,
        "connected after": met,
        "percent, median": shares[len(shares) // 2],
        "percent, most": shares[-1],
        "links lost": sum(end[1] for end in after),
    }


# ── real nodes ────────────────────────────────────────────────────────────────────────────────────


def tables(nodes: int, dimension: int) -> dict[str, Any]:
    """The configuration of a plain swarm with the options that nobody set."""
    return {
        "swarm": {"name": "cost", "nodes": nodes, "byzantine": 1, "quorum": nodes},
        "plugins": {
            "libp2p": {},
            "ed25519": {},
            "replay": {"window": 4096},
            "reputation": {},
            "krum": {"f": 1},
        },
        "trainer": {"task": {"name": "quadratic", "dimension": dimension, "learning_rate": 0.002}},
    }


def _profile(name: str) -> dict[str, Any]:
    text = resources.files("qres_core.cli").joinpath("profiles", f"{name}.toml")
    with resources.as_file(text) as path:
        return read_toml(path)


def _wire(folder: Path, fleet: Fleet) -> list[int]:
    found: list[int] = []
    for member in fleet.members:
        path = folder / str(member.process.pid)
        found.append(int(path.read_text()) if path.exists() else 0)
    return found


@attrs.frozen
class Count:
    """What a fleet has done at a moment."""

    at: float
    step: int
    wire: list[int]
    said: list[int]  # payload of each node, as its transport counts it

    @classmethod
    def of(cls, folder: Path, fleet: Fleet) -> Count:
        """Now."""
        fleet.poll()
        reports = [member.report or {} for member in fleet.members]
        said = [int(report.get("transport", {}).get("bytes_sent", 0)) for report in reports]
        return cls(time.monotonic(), fleet.step, _wire(folder, fleet), said)


def lost(fleet: Fleet) -> Counter[str]:
    """Why links ended, of all nodes together, by their logs."""
    found: Counter[str] = Counter()
    for member in fleet.members:
        for line in (member.seat.folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if told.get("event") == "peer down":
                found[str(told.get("reason"))] += 1
            elif told.get("event") == "round ended" and not told.get("closed", True):
                found["rounds without a model"] += 1
    return found


def measured(home: Path, dimension: int, nodes: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Bytes for a round."""
    wire = home / f"wire-{dimension}"
    wire.mkdir()
    (wire / "sitecustomize.py").write_text(COUNTER, encoding="utf-8")
    _config, seats = prepare(tables(nodes, dimension), "cost", home / f"box-{dimension}")
    os.environ.update(QRES_WIRE=str(wire), PYTHONPATH=str(wire))
    try:
        with Fleet(seats, None, restart=False) as fleet:
            if not has_model(fleet, 2, seconds):
                return {"nodes": nodes, "dimension": dimension, "no model in seconds": seconds}
            before = Count.of(wire, fleet)
            has_model(fleet, before.step + rounds, seconds)
            after = Count.of(wire, fleet)
            links = dict(lost(fleet))
    finally:
        del os.environ["QRES_WIRE"], os.environ["PYTHONPATH"]
    made = max(1, after.step - before.step)
    sent = sum(after.wire) - sum(before.wire)
    each = sent / made / nodes
    return {
        "nodes": nodes,
        "dimension": dimension,
        "rounds": after.step - before.step,
        "seconds a round": (after.at - before.at) / made,
        "MB a node and round": each / 1e6,
        "of the updates": each / ((nodes - 1) * WORD * dimension),
        # Votes and all; a blob counts once for each node that pulled it from this one.
        "payload, MB": (sum(after.said) - sum(before.said)) / made / nodes / 1e6,
        "links": links,
    }


def crowd(home: Path, config: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Many nodes on this machine."""
    _config, seats = prepare(config, "crowd", home / "crowd")
    first: float | None = None
    with Fleet(seats, None, restart=False) as fleet:
        began = time.monotonic()
        while time.monotonic() - began < seconds and not fleet.dead:
            time.sleep(1.0)
            fleet.poll()
            # Some are away, and the rest goes on.
            if first is None and sum(1 for member in fleet.members if member.step) > len(seats) / 2:
                first = time.monotonic() - began
        steps = sorted(member.step for member in fleet.members)
        links = dict(lost(fleet))
        dead = [f"{member.seat.name} {member.fate}" for member in fleet.dead]
    return {
        "nodes": len(seats),
        "seconds": seconds,
        "first model after": first,
        "models": steps[len(steps) // 2],
        "links": links,
        "dead": dead,
    }


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("idle", "bytes", "crowd"):
        command = commands.add_parser(name)
        command.add_argument("--nodes", type=int, nargs="+", default=[10])
        command.add_argument("--dimension", type=int, nargs="+", default=[10_000])
        command.add_argument("--rounds", type=int, default=5, help="to measure, after two")
        command.add_argument("--seconds", type=float, default=60.0, help="to measure, or give up")
        command.add_argument("--profile", help="of `qres init`, for crowd")
        command.add_argument("--most", type=float, help="percent of a core, or times the ideal")
    rest = commands.add_parser("rest")
    rest.add_argument("ports")
    rest.add_argument("index", type=int)
    chosen = parser.parse_args()
    if chosen.command == "rest":
        anyio.run(_rest, chosen.index, json.loads(chosen.ports))
        return 0
    home = Path(tempfile.mkdtemp(prefix="qres-cost-"))
    fine = True
    try:
        if chosen.command == "idle":
            for nodes in chosen.nodes:
                report = idle(nodes, chosen.seconds)
                print(json.dumps(report), flush=True)
                fine = fine and report["percent, median"] <= (chosen.most or float("inf"))
        elif chosen.command == "bytes":
            for dimension in chosen.dimension:
                found = measured(home, dimension, chosen.nodes[0], chosen.rounds, chosen.seconds)
                print(json.dumps(found), flush=True)
                ratio = found.get("of the updates", float("inf"))
                fine = fine and ratio <= (chosen.most or float("inf"))
        else:
            config = (
                _profile(chosen.profile)
                if chosen.profile
                else tables(chosen.nodes[0], chosen.dimension[0])
            )
            print(json.dumps(crowd(home, config, chosen.seconds)), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0 if fine else 1


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
