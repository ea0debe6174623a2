"""Hostile frames: a swarm goes on while a raw peer sends it ten thousand things that are none.

    PYTHONPATH=scripts python -P scripts/hostile_frames.py --pieces 10000

Five honest processes learn a tiny task over libp2p; the sixth node of the roster is no node but a
raw peer with its key. It opens sockets and sends garbage, half handshakes and bytes one at a time;
admitted by its key, it sends garbage, truncated and oversized blocks on every protocol, requests
nobody answers and frames that are none. All honest nodes must live, agree and make new models while
it does, and hold at most 50 MiB more than before.

Exit code 0: so it was. 1: not so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from qres_lab.box.fleet import Fleet
from qres_lab.box.nodes import BoxNode, prepare
from trials.processes import end_in_order, has_model
from trials.raw import Plan
from trials.usage import MIB, usage

NODES: Final = 6
ROOM: Final = 50 * MIB
START_SECONDS: Final = 90.0
WARM: Final = 20
"""Models that are made before memory is compared."""
SHARES: Final = {"sockets": 0.5, "requests": 0.25, "streams": 0.02, "frames": 0.25}


def tables(
    name: str = "hostile", credentials: Mapping[str, Any] | None = None, dimension: int = 16
) -> dict[str, Any]:
    """The configuration of a swarm; ``credentials``: plugins that say who is a member."""
    return {
        "swarm": {
            "name": name,
            "nodes": NODES,
            "byzantine": 1,
            "quorum": NODES - 1,
            # The sixth never contributes: every round waits so long for it.
            "deadline": 0.5,
            "vote_timeout": 2.0,
        },
        "plugins": {
            "libp2p": {"reconnect_seconds": 0.5},
            "ed25519": {},
            **(credentials or {}),
            "replay": {"window": 4096},
            # So lightly that no ban comes to the nodes' help.
            "reputation": {"punish": 0.0001},
            "krum": {"f": 1},
        },
        "trainer": {"task": {"name": "quadratic", "dimension": dimension, "learning_rate": 0.002}},
    }


def attack(
    seats: list[BoxNode], pieces: int, seconds: float, folder: Path
) -> subprocess.Popen[bytes]:
    """Start the hostile peer with the last seat's key."""
    *honest, last = seats
    plan = Plan(
        swarm="hostile",
        key=str(last.folder / "node.key"),
        targets=tuple(
            f"/ip4/127.0.0.1/tcp/{honest_node.port}/p2p/{honest_node.peer_id}"
            for honest_node in honest
        ),
        held=min(200, pieces // 10),
        seconds=seconds,
        **{name: int(share * pieces) for name, share in SHARES.items()},
    )
    path = folder / "plan.json"
    path.write_text(json.dumps(attrs.asdict(plan)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with (folder / "raw.json").open("wb") as out, (folder / "raw.log").open("wb") as log:
        command = [sys.executable, "-P", "-m", "trials.raw", str(path)]
        return subprocess.Popen(command, stdout=out, stderr=log, env=environment)


def _memory(fleet: Fleet) -> list[int]:
    found = [usage(member.process.pid) for member in fleet.members]
    return [0 if item is None else item.memory for item in found]


def run(pieces: int, seconds: float, folder: Path) -> dict[str, Any]:
    """The trial; its report."""
    _config, seats = prepare(tables(), "hostile", folder / "box")
    with Fleet(seats[:-1], restart=False) as fleet:
        if not has_model(fleet, WARM, START_SECONDS):
            return {"fine": False, "what": "the swarm did not start"}
        before, first, started = _memory(fleet), fleet.step, time.monotonic()
        raw = attack(seats, pieces, seconds, folder)
        most, longest, last, seen = before, 0.0, fleet.step, time.monotonic()
        try:
            while raw.poll() is None and time.monotonic() < started + seconds + 30:
                time.sleep(0.5)
                fleet.poll()
                most = [max(pair) for pair in zip(most, _memory(fleet), strict=True)]
                if fleet.step > last:
                    last, seen = fleet.step, time.monotonic()
                longest = max(longest, time.monotonic() - seen)
        finally:
            raw.kill()
            raw.wait()
        during, took = fleet.step - first, time.monotonic() - started
        after = has_model(fleet, fleet.step + 3, 60)
        reports = [member.report or {} for member in fleet.members]
        lost = [item.seat.name for item in fleet.dead]
    verdict = fleet.verdict()
    try:
        sent = json.loads((folder / "raw.json").read_bytes())
    except ValueError:
        sent = {}
    honest = {seat.node_id for seat in seats[:-1]}
    banned = [
        item["id"] in honest
        for said in reports
        for item in said.get("members", ())
        if item["banned"]
    ]
    growth = [item - was for item, was in zip(most, before, strict=True)]
    fine = verdict.agreed and after and not lost and during > 0 and max(growth) <= ROOM
    return {
        "fine": fine and not any(banned) and bool(sent),
        "sent": sent,
        "pieces": sum(sent.get(name, 0) for name in SHARES) + sent.get("held", 0),
        "seconds": took,
        "rounds": during,
        "longest": longest,
        "after": after,
        "lost": lost,
        "agreed": verdict.agreed,
        "growth": growth,
        "bans": {"hostile": banned.count(False), "honest": banned.count(True)},
        "rejections": [said.get("rejections", {}) for said in reports],
    }


def tell(report: dict[str, Any]) -> None:
    """Print what came of it."""
    if "sent" not in report:
        print(report["what"])
        return
    print(f"{report['pieces']} pieces in {report['seconds']:.0f} s: {report['sent']}")
    print(
        f"meanwhile {report['rounds']} rounds, the longest {report['longest']:.1f} s; "
        f"nodes lost: {report['lost'] or 'none'}; afterwards "
        f"{'rounds go on' if report['after'] else 'NO ROUND'}, "
        f"{'all agree' if report['agreed'] else 'THEY DO NOT AGREE'}"
    )
    growth = ", ".join(f"{item / MIB:.1f}" for item in report["growth"])
    print(f"memory grew by {growth} MiB; banned: {report['bans']}")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pieces", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="stop sending after so many")
    parser.add_argument("--json", type=Path, help="write the report here")
    chosen = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="qres-hostile-"))
    report: dict[str, Any] = {"fine": False}
    try:
        report = run(chosen.pieces, chosen.seconds, home)
        tell(report)
        if chosen.json:
            chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    finally:
        if report["fine"]:
            shutil.rmtree(home, ignore_errors=True)
        else:
            print(f"data and logs are in {home}", file=sys.stderr)
    return 0 if report["fine"] else 1


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
