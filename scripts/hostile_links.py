"""Hostile links: a swarm goes on while a peer breaks every rule below libp2p, and lines that flap.

    PYTHONPATH=scripts python -P scripts/hostile_links.py --seconds 20 --cuts 500

Five honest processes learn a tiny task over libp2p. The sixth node of the roster is no node but a
program with its key, and attacks all of them: it sends beyond its windows, asks for the same
message thousands of times, grafts topics that nobody has, offers records of thousands of addresses,
says hello without end, opens and resets streams, and sends frames of yamux and lines of multistream
that are none; sockets of strangers trickle, or start handshakes that are none. Then its name is
taken off the list of members, and it sends beyond its windows before any hello. In a second swarm,
whose updates travel as blobs, it asks for the same pieces again and again, and keeps those waiting
that ask it for some. A third swarm is linked by a hub: strangers send the hub what is no TLS, no
HTTP/2 and no proof of a member, and the sixth sends the others what nobody sealed, and pulls and
holds as before. Two more trials run in this process: lines between three nodes are cut hundreds of
times, and a node starts again while 2,000 silent sockets from another address are held against its
neighbour.

Exit code 0: every bound held. 1: not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from hostile_frames import tables
from nacl.signing import SigningKey
from qres_transport_libp2p import Libp2p
from qres_transport_libp2p.curves import without_fastecdsa
from trials.hub_links import HubPlan
from trials.links import LinksPlan
from trials.processes import end_in_order, has_model
from trials.usage import MIB, usage

with without_fastecdsa():
    from qres_transport_libp2p.identity import peer_id

from qres_lab.box.fleet import Fleet
from qres_lab.box.hub import HUB_LOG
from qres_lab.box.nodes import BoxNode, free_ports, prepare

from qres_core import ACCEPT, NodeInfo
from qres_core.transport import LinkKeys

ROOM: Final = 60 * MIB
HUB_ROOM: Final = 120 * MIB
HUB_FILES: Final = 300
"""Of a hub, whose connections of strangers without a stream last for seconds."""
START_SECONDS: Final = 120.0
WARM: Final = 10
COUNTED: Final = {
    "record": ("gossip: a field that is not used",),
    "hellos": ("hello: too often",),
    "resets": ("yamux: streams too fast",),
    "noise": ("yamux: beyond the window", "link: overran", "link: broke_protocol"),
    "trickle": ("too many handshakes", "handshake too slow"),
    "fuzz": ("handshake broken off", "handshake too slow"),
    "pull": ("blob: asked for again and again",),
    "hold": ("malformed: /qres/blob/1", "blobs failed"),
    "hub_fuzz": (),  # gRPC's own code ends these connections, and tells nobody
    "hub_calls": (),  # the hub counts them, and its log says so at the end
    "hub_junk": ("not sealed by a member", "of no session", "malformed: sealed"),
    "hub_pull": ("blob: asked for again and again",),
    "hub_hold": ("malformed: sealed", "blobs failed"),
}
"""Attacks under which rounds go on as before, and the reasons that are counted."""
BLOBS: Final = ("pull", "hold")
"""Attacks on a swarm whose updates travel as blobs."""
HUBS: Final = ("hub_fuzz", "hub_calls", "hub_junk", "hub_pull", "hub_hold")
"""Attacks on a swarm over a hub, and on the hub."""
SMALL: Final = tuple(mode for mode in COUNTED if mode not in {*BLOBS, *HUBS})
MODES: Final = (*SMALL, "iwant_amp", "graftx", "window", "window_nohello", *BLOBS, *HUBS)
DIMENSION: Final = 3000
"""Updates large enough for an amplifier, and small enough to travel in gossip."""
LARGE: Final = 60_000
"""Updates that travel as blobs."""
FILES: Final = 160
"""Most file descriptors of a node more than before: a bit more than the places for handshakes."""
LEFT: Final = 20
"""Most that are still open some seconds after an attack."""
AFTER_SECONDS: Final = 8.0
STEADY: Final = 0.9
"""Least share of the rate of rounds just before, under those that are counted."""
FLOODED: Final = 0.5
"""The same under ``hub_pull``: the hub, the nodes and who asks share the processors."""
SLOWEST: Final = 0.7
"""Least share of the undisturbed rate of rounds under ``graftx``."""
MOST_OUT: Final = 2.0
"""Most bytes that a node may send for each that it is sent, under ``iwant_amp``."""
UP_SECONDS: Final = 10.0
BACK_SECONDS: Final = 6.0
SOCKETS: Final = 2000
REFUSED: Final = "too many handshakes"
ALONE: Final = 3


# ── attacks on processes ──────────────────────────────────────────────────────────────────────────


def _tables(members: Path | None, dimension: int) -> dict[str, Any]:
    """``members``: the file that says who is a member; ``None`` for a swarm over a hub."""
    if members is not None:
        known = {"members_file": str(members), "reload_seconds": 0.5}
        return tables("links", {"pki": known}, dimension)
    made = tables("links", None, dimension)
    del made["plugins"]["libp2p"]
    return {**made, "plugins": {"grpc": {"reconnect_seconds": 0.5}, **made["plugins"]}}


@contextmanager
def attacked(plan: LinksPlan | HubPlan, folder: Path) -> Iterator[dict[str, int]]:
    """The attack runs; afterwards what it did is in the result."""
    path = folder / f"{plan.mode}.json"
    path.write_text(json.dumps(attrs.asdict(plan)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    did: dict[str, int] = {}
    with (folder / f"{plan.mode}.log").open("wb") as log:
        command = [sys.executable, "-P", "-m", type(plan).__module__, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        try:
            yield did
            with contextlib.suppress(subprocess.TimeoutExpired, ValueError):
                did.update(json.loads(process.communicate(timeout=plan.seconds + 60)[0]))
        finally:
            process.kill()
            process.wait()


@attrs.frozen
class Held:
    """The most that each node held at once, and the hub, if there is one, after them."""

    memory: list[int]  # bytes
    files: list[int]  # descriptors


def _held(fleet: Fleet) -> Held:
    hub = fleet.seats[0].hub
    processes = [member.process for member in fleet.members]
    if hub is not None and hub.process is not None:
        processes.append(hub.process)
    found = [usage(process.pid) for process in processes]
    return Held(
        [0 if item is None else item.memory for item in found],
        [0 if item is None else item.descriptors for item in found],
    )


def _watch(fleet: Fleet, seconds: float) -> tuple[float, Held]:
    """Rounds a second for a while, and the most that each node held."""
    first, started = fleet.step, time.monotonic()
    most = _held(fleet)
    while time.monotonic() < started + seconds:
        time.sleep(0.5)
        fleet.poll()
        now = _held(fleet)
        most = Held(list(map(max, most.memory, now.memory)), list(map(max, most.files, now.files)))
    return (fleet.step - first) / (time.monotonic() - started), most


def _reasons(fleet: Fleet) -> dict[str, int]:
    """What all nodes counted, by reason: of the transport, and of links that ended."""
    total: Counter[str] = Counter()
    for member in fleet.members:
        said = member.report or {}
        total.update(said.get("transport", {}).get("reasons", {}))
        total["blobs failed"] += said.get("transport", {}).get("blobs_failed", 0)
        for link in said.get("links", ()):
            total[f"link: {link['reason']}"] += link["count"]
    return total


def attack(
    fleet: Fleet, plan: LinksPlan | HubPlan, folder: Path, undisturbed: float, before: Held
) -> dict[str, Any]:
    """One attack on all nodes; its report."""
    was = _reasons(fleet)
    with attacked(plan, folder) as did:
        rate, most = _watch(fleet, plan.seconds)
    time.sleep(AFTER_SECONDS)
    fleet.poll()
    after = _held(fleet)
    reasons = {key: count - was.get(key, 0) for key, count in _reasons(fleet).items()}
    growth = [item - start for item, start in zip(most.memory, before.memory, strict=True)]
    files = [item - start for item, start in zip(most.files, before.files, strict=True)]
    left = [item - start for item, start in zip(after.files, before.files, strict=True)]
    nodes = len(fleet.members)
    bounds = {
        "memory": max(growth[:nodes]) <= ROOM and max(growth[nodes:], default=0) <= HUB_ROOM,
        "files": max(files[:nodes]) <= FILES and max(files[nodes:], default=0) <= HUB_FILES,
        "files afterwards": max(left) <= LEFT,
        "alive": not fleet.dead,
        "attacked": any(did.get(what) for what in ("connected", "opened", "calls"))
        or bool(reasons.get("barred")),
    }
    if plan.mode == "window":
        bounds["cut off"] = reasons.get("yamux: beyond the window", 0) > 0
    elif plan.mode == "window_nohello":
        bounds["barred"] = reasons.get("barred", 0) > 0
        bounds["not even once"] = not reasons.get("yamux: beyond the window", 0)
    elif plan.mode in COUNTED:
        least = FLOODED if plan.mode == "hub_pull" else STEADY
        bounds["rate"] = rate >= least * undisturbed
        if "pull" in plan.mode:
            bounds["turned down"] = did.get("turned down", 0) > did.get("asked", 0) / 2
        wanted = COUNTED[plan.mode]
        bounds["counted"] = not wanted or any(reasons.get(reason) for reason in wanted)
        bounds["not asked"] = not did.get("records asked", 0)
    elif plan.mode == "iwant_amp":
        bounds["asked"] = did.get("asked", 0) > 0
        bounds["answers"] = did.get("bytes in", 0) <= MOST_OUT * did.get("bytes out", 0)
    else:
        bounds["rate"] = rate >= SLOWEST * undisturbed
    return {
        "bounds": bounds,
        "rate": rate,
        "undisturbed": undisturbed,
        "growth": [item / MIB for item in growth],
        "files": {"before": before.files, "most": most.files, "afterwards": after.files},
        "did": did,
        "reasons": {key: count for key, count in reasons.items() if count},
    }


def processes(
    seconds: float, folder: Path, modes: Sequence[str], dimension: int = DIMENSION
) -> dict[str, Any]:
    """The attacks on five processes, one after the other; their reports."""
    folder.mkdir()
    members = folder / "members"
    members.write_text("", encoding="utf-8")
    _config, seats = prepare(_tables(members, dimension), "links", folder / "box")
    members.write_text("".join(f"{seat.node_id}\n" for seat in seats), encoding="utf-8")
    listed = f"members_file = {json.dumps(str(members))}\n"
    for seat in seats:  # the file alone says who is a member: it may change while they run
        text = seat.config.read_text("utf-8")
        text, count = re.subn(r"(?m)^members = \[[^\]]*\]\n", lambda _found: listed, text)
        if count != 1:
            raise ValueError(text)
        seat.config.write_text(text, encoding="utf-8")
    *honest, last = seats
    plan = LinksPlan("", "links", str(last.folder / "node.key"), _places(honest), seconds)
    found: dict[str, Any] = {}
    with Fleet(honest, restart=False) as fleet:
        if not has_model(fleet, WARM, START_SECONDS):
            return {"start": {"bounds": {"the swarm started": False}}}
        undisturbed, before = _watch(fleet, seconds)
        for mode in modes:
            if mode == "window_nohello":  # revoked, while the nodes run
                named = "".join(f"{seat.node_id}\n" for seat in honest)
                members.write_text(named, encoding="utf-8")
                time.sleep(2.0)  # they look at the file twice a second
            now = attrs.evolve(plan, mode=mode)
            if mode in COUNTED:  # the load changes: the control is measured just before
                before = _held(fleet)
                undisturbed, _most = _watch(fleet, seconds)
            if mode == "fuzz":
                now = attrs.evolve(now, sockets=20 * len(honest))
            elif mode == "trickle":  # from the nodes' own address
                now = attrs.evolve(now, sockets=45 * len(honest), source="127.0.0.1")
            found[mode] = attack(fleet, now, folder, undisturbed, before)
            tell(mode, found[mode])
        after = has_model(fleet, fleet.step + 3, 60)
    found["after"] = {"bounds": {"rounds": after, "agreed": fleet.verdict().agreed}}
    return found


def hubs(seconds: float, folder: Path, modes: Sequence[str]) -> dict[str, Any]:
    """The attacks on five processes over a hub, and on the hub; their reports."""
    folder.mkdir()
    _config, seats = prepare(_tables(None, LARGE), "links", folder / "box")
    *honest, last = seats
    hub = last.hub
    if hub is None:
        raise ValueError(last)
    roster = tuple(seat.node_id for seat in seats)
    plan = HubPlan("", "links", str(last.folder / "node.key"), hub.option, roster, seconds)
    found: dict[str, Any] = {}
    with Fleet(honest, restart=False) as fleet:
        if not has_model(fleet, WARM, START_SECONDS):
            return {"start": {"bounds": {"the swarm started": False}}}
        for mode in modes:
            before = _held(fleet)
            undisturbed, _most = _watch(fleet, seconds)  # the load changes
            now = attrs.evolve(plan, mode=mode)
            found[mode] = attack(fleet, now, folder, undisturbed, before)
            tell(mode, found[mode])
        after = has_model(fleet, fleet.step + 3, 60)
    bounds = {"rounds": after, "agreed": fleet.verdict().agreed}
    lines = (hub.folder / HUB_LOG).read_text("utf-8").splitlines()
    counts = [line for line in lines if "refused or dropped so far" in line]
    if "hub_calls" in modes:
        bounds["the hub counted"] = any("not proved to be a member" in line for line in counts)
    found["after"] = {"bounds": bounds, "the hub": counts[-1:]}
    return found


Play = Callable[[float, Path, Sequence[str]], dict[str, Any]]
"""The seconds of each attack, a folder and the attacks; their reports."""


def _places(seats: list[BoxNode]) -> tuple[str, ...]:
    return tuple(f"/ip4/127.0.0.1/tcp/{seat.port}/p2p/{seat.peer_id}" for seat in seats)


# ── lines, in this process ────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class CutLine:
    """A proxy between two nodes that can be cut."""

    to: int  # the port behind it
    port: int = 0  # its own
    made: int = 0  # connections through it
    _open: list[trio.SocketStream] = attrs.field(factory=list[trio.SocketStream])

    async def serve(self, nursery: trio.Nursery) -> None:
        """Listen."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._carry, listeners)

    async def _carry(self, near: trio.SocketStream) -> None:
        with contextlib.suppress(OSError):
            async with near, await trio.open_tcp_stream("127.0.0.1", self.to) as far:
                self.made += 1
                self._open += [near, far]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, near, far, nursery)
                    nursery.start_soon(self._copy, far, near, nursery)

    @staticmethod
    async def _copy(here: Any, there: Any, nursery: trio.Nursery) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in here:
                await there.send_all(data)
        nursery.cancel_scope.cancel()

    def cut(self) -> None:
        """Close whatever runs through it."""
        while self._open:
            self._open.pop().socket.close()


def _transport(keys: list[SigningKey], me: int, port: int, dial: dict[int, int]) -> Any:
    """A transport of one of some nodes: ``dial`` are ports by number."""
    names = [bytes(key.verify_key) for key in keys]
    plugin = Libp2p(
        listen=f"/ip4/127.0.0.1/tcp/{port}",
        peers=tuple(f"/ip4/127.0.0.1/tcp/{at}/p2p/{peer_id(names[n])}" for n, at in dial.items()),
        reconnect_seconds=0.05,
    )
    signed = LinkKeys(names[me], lambda said: keys[me].sign(said).signature, lambda node: node)
    info = NodeInfo(names[me], "links", tuple(sorted(names)))
    return plugin.transport(info, lambda _node, _shown: ACCEPT, bytes, signed)


@asynccontextmanager
async def running(*transports: Any) -> AsyncGenerator[None]:
    """Transports run meanwhile."""
    try:
        for item in transports:
            await item.start()
        yield
    finally:
        with trio.CancelScope(shield=True):
            for item in transports:
                await item.aclose()


async def _within(seconds: float, condition: Callable[[], bool]) -> float:
    """Seconds until something is so; infinite where it takes too long."""
    started = trio.current_time()
    with trio.move_on_after(seconds) as scope:
        while not condition():  # noqa: ASYNC110 - of another thread
            await trio.sleep(0.01)
    return float("inf") if scope.cancelled_caught else trio.current_time() - started


async def flap(cuts: int) -> dict[str, Any]:
    """Each line between three nodes is cut so many times."""
    keys = [SigningKey.generate() for _ in range(ALONE)]
    ports = free_ports(ALONE)
    slowest, done = 0.0, 0
    async with trio.open_nursery() as nursery:
        pairs = [(a, b) for b in range(ALONE) for a in range(b)]
        lines = {pair: CutLine(ports[pair[0]]) for pair in pairs}
        for line in lines.values():
            await line.serve(nursery)
        nodes = [
            _transport(keys, me, ports[me], {a: lines[a, b].port for a, b in pairs if b == me})
            for me in range(ALONE)
        ]

        def all_up() -> bool:
            return all(len(node.peers()) == ALONE - 1 for node in nodes)

        def again(count: int) -> bool:
            return sum(line.made for line in lines.values()) >= count

        async with running(*nodes):
            await _within(START_SECONDS, all_up)
            for _cut in range(cuts):
                made = sum(line.made for line in lines.values())
                for line in lines.values():
                    line.cut()
                wanted = made + len(lines)
                fresh = await _within(START_SECONDS, partial(again, wanted))
                slowest = max(slowest, fresh + await _within(UP_SECONDS, all_up))
                if slowest == float("inf"):
                    break
                done += 1
            last = await _within(UP_SECONDS, all_up)
        nursery.cancel_scope.cancel()
    return {
        "bounds": {"all cuts": done == cuts, "all up": last <= UP_SECONDS},
        "cuts": done,
        "slowest": slowest,
        "last": last,
    }


async def silence(seconds: float, folder: Path) -> dict[str, Any]:
    """A node starts again while sockets that say nothing are held against the other."""
    keys = [SigningKey.generate() for _ in range(2)]
    ports = free_ports(2)
    target = f"/ip4/127.0.0.1/tcp/{ports[0]}"
    times: dict[str, float] = {}
    hub = _transport(keys, 0, ports[0], {})

    async def start(what: str) -> None:
        node = _transport(keys, 1, ports[1], {0: ports[0]})
        started = trio.current_time()
        async with running(node):
            await _within(START_SECONDS, lambda: bool(node.peers() and hub.peers()))
            times[what] = trio.current_time() - started

    async with running(hub):
        await start("undisturbed")
        with attacked(LinksPlan("silent", "", "", (target,), seconds, SOCKETS), folder) as did:
            # They are more than there is room for: the others were cut off.
            await _within(seconds, lambda: hub.stats().reasons.get(REFUSED, 0) >= SOCKETS // 2)
            await start("silent")
            reasons = dict(hub.stats().reasons)
    return {
        "bounds": {
            "attacked": reasons.get(REFUSED, 0) >= SOCKETS // 2,
            "back": times["silent"] <= BACK_SECONDS,
        },
        **times,
        "did": did,
        "reasons": reasons,
    }


# ── all of it ─────────────────────────────────────────────────────────────────────────────────────


def tell(what: str, report: dict[str, Any]) -> None:
    """Print what came of one trial."""
    broken = [name for name, held in report["bounds"].items() if not held]
    figures = {
        name: round(value, 2) if isinstance(value, float) else value
        for name, value in report.items()
        if name not in {"bounds", "growth"}
    }
    if "growth" in report:
        figures["growth, MiB"] = ", ".join(f"{item:.1f}" for item in report["growth"])
    print(f"{what}: {'NOT SO: ' + ', '.join(broken) if broken else 'fine'}; {figures}", flush=True)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each attack")
    parser.add_argument("--cuts", type=int, default=500, help="of each line")
    parser.add_argument("--only", nargs="*", help="attacks on processes, and no other trial")
    parser.add_argument("--json", type=Path, help="write the report here")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="qres-links-"))
    found: dict[str, dict[str, Any]] = {}
    if not chosen.only:
        found["flap"] = trio.run(flap, chosen.cuts)
        tell("flap", found["flap"])
        found["silent"] = trio.run(silence, chosen.seconds, home)
        tell("silent", found["silent"])
    wanted = chosen.only or MODES
    over_libp2p = partial(processes, dimension=LARGE)
    plays: tuple[tuple[str, Play, Sequence[str]], ...] = (
        ("blobs", over_libp2p, BLOBS),
        ("small", processes, tuple(set(MODES).difference(BLOBS, HUBS))),
        ("hub", hubs, HUBS),
    )
    for name, play, modes in plays:
        if these := [mode for mode in wanted if mode in modes]:
            part = play(chosen.seconds, home / name, these)
            tell("afterwards", part["after"] if "after" in part else part["start"])
            found |= {
                f"{name}, {what}" if what in {"after", "start"} else what: said
                for what, said in part.items()
            }
    fine = all(all(report["bounds"].values()) for report in found.values())
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if fine:
        shutil.rmtree(home, ignore_errors=True)
    else:
        print(f"data and logs are in {home}", file=sys.stderr)
    return 0 if fine else 1


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
