"""libp2p beside gRPC over a hub: throughput, delay, processor time and what has to be installed.

Everything runs on the loopback interface, every node and the hub in a process of its own. One node
publishes a blob, and all others fetch it at once. Goodput is payload that arrived, of all receivers
together, over the time until the last one had it. Processor time is that of all processes, the
hub's included. The two transports take turns. Install size counts the files of all distributions
that one transport needs beyond those of qres-core.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from harness import Record, main
from qres_lab.box.nodes import free_ports
from transport import end, key, libp2p_end, meet

SIZE = 20_000_000
RECEIVERS = 4
FRAMES = 40
FRAME_BYTES = 1024
TICKS = os.sysconf("SC_CLK_TCK")


def _nodes() -> list[bytes]:
    return [bytes(key(index).verify_key) for index in range(RECEIVERS + 1)]


def _transport(kind: str, index: int, where: Sequence[str]) -> Any:
    """A node's end; ``where``: the hub, or every node's port."""
    if kind == "libp2p":
        return libp2p_end(index, where)
    from qres_transport_grpc import Grpc  # noqa: PLC0415 - takes a second

    return end(Grpc(hubs=tuple(where), ping_seconds=30.0), index, _nodes())


async def _receive(kind: str, index: int, where: Sequence[str]) -> None:
    """A receiver, in a process of its own."""
    from qres_core.transport import BlobRef  # noqa: PLC0415

    transport = _transport(kind, index, where)
    await transport.start()
    await meet(transport, RECEIVERS)
    print("up", flush=True)
    late: list[float] = []
    for _ in range(FRAMES):
        delivery = await transport.receive()
        late.append(time.monotonic() - float(delivery.frame[:20]))
    print(json.dumps(late), flush=True)
    holders = [node for item, node in enumerate(_nodes()) if item != index]
    while line := await anyio.to_thread.run_sync(sys.stdin.readline):
        if not line.strip():
            print(json.dumps(time.process_time()), flush=True)
            continue
        chunks = tuple(bytes.fromhex(word) for word in line.split())
        await transport.fetch_blob(BlobRef(SIZE, chunks), holders, 600)
        print(json.dumps(time.monotonic()), flush=True)
    await transport.aclose()


async def _lines(children: Sequence[subprocess.Popen[str]]) -> list[Any]:
    lines: list[Any] = []
    for child in children:
        assert child.stdout is not None  # noqa: S101 - a pipe
        line = await anyio.to_thread.run_sync(child.stdout.readline)
        lines.append(line if line == "up\n" else json.loads(line))
    return lines


def _tell(children: Sequence[subprocess.Popen[str]], words: str) -> None:
    for child in children:
        assert child.stdin is not None  # noqa: S101 - a pipe
        child.stdin.write(words + "\n")
        child.stdin.flush()


def _end(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        child.kill()
        child.communicate()


def _start(command: Sequence[object]) -> subprocess.Popen[str]:
    words = [sys.executable, "-P", *map(str, command)]
    return subprocess.Popen(  # noqa: S603 - this very file, or a hub
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _hub(folder: Path) -> tuple[subprocess.Popen[str], str]:
    ids = ", ".join(f'"{node.hex()}"' for node in _nodes())
    config = folder / "swarm.toml"
    config.write_text(f'[swarm]\nname = "bench"\nroster = [{ids}]\n', encoding="utf-8")
    identity = ("--identity", folder / "hub.pem", "--listen", "127.0.0.1:0", "--json")
    child = _start(["-m", "qres_core.cli", "hub", "run", config, *identity])
    assert child.stdout is not None  # noqa: S101 - a pipe
    said = json.loads(child.stdout.readline())
    return child, f"127.0.0.1:{said['port']}#{said['digest']}"


def _hub_cpu(hub: subprocess.Popen[str] | None) -> float:
    if hub is None:
        return 0.0
    fields = Path(f"/proc/{hub.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def _play(
    kind: str, where: Sequence[str], hub: subprocess.Popen[str] | None
) -> tuple[list[float], float, float]:
    """Delays of broadcasts in s, goodput in MB/s, processor time in s for each MB that arrived."""
    transport = _transport(kind, 0, where)
    await transport.start()
    roles = [(__file__, "receive", kind, index, *where) for index in range(1, RECEIVERS + 1)]
    children = [_start(role) for role in roles]
    try:
        await meet(transport, RECEIVERS)
        await _lines(children)
        for _ in range(FRAMES):
            frame = f"{time.monotonic():020.9f}".encode()
            await transport.broadcast(frame.ljust(FRAME_BYTES, b"."))
            await anyio.sleep(0.1)
        late = [delay for line in await _lines(children) for delay in line]
        ref = await transport.publish_blob(hashlib.shake_128(b"blob").digest(SIZE))

        async def spent() -> float:
            _tell(children, "")
            return sum(await _lines(children)) + time.process_time() + _hub_cpu(hub)

        before, start = await spent(), time.monotonic()
        _tell(children, " ".join(chunk.hex() for chunk in ref.chunks))
        took = max(await _lines(children)) - start
        cpu = await spent() - before
        return late, RECEIVERS * SIZE / took / 1e6, cpu / (RECEIVERS * SIZE / 1e6)
    finally:
        await transport.aclose()
        _end(children)


def _closure(name: str, found: set[str]) -> set[str]:
    """A distribution and all that it needs, extras left out."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name not in found:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            return found
        found.add(name)
        for need in needs:
            if "extra ==" not in need:
                _closure(re.split(r"[^\w.-]", need, maxsplit=1)[0], found)
    return found


def _size(names: set[str]) -> float:
    files = [file for name in names for file in metadata.files(name) or ()]
    paths = {Path(str(file.locate())) for file in files if file.suffix != ".pyc"}
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Both transports in turn."""
    found: dict[str, list[tuple[list[float], float, float]]] = {"libp2p": [], "grpc": []}
    for _ in range(1 if quick else 3):
        ports = [str(port) for port in free_ports(RECEIVERS + 1)]
        found["libp2p"].append(anyio.run(_play, "libp2p", ports, None))
        with tempfile.TemporaryDirectory() as folder:
            hub, option = _hub(Path(folder))
            try:
                found["grpc"].append(anyio.run(_play, "grpc", [option], hub))
            finally:
                _end([hub])
    records: list[Record] = []
    core = _closure("qres-core", set())
    for kind, runs in found.items():
        late = sorted(delay for delays, _goodput, _cpu in runs for delay in delays)
        needs = _closure(f"qres-transport-{kind}", set()) - core
        records += [
            Record(
                f"{kind}: {SIZE // 10**6} MB to {RECEIVERS} nodes, goodput of all together",
                statistics.median(goodput for _late, goodput, _cpu in runs),
                "MB/s",
            ),
            Record(
                f"{kind}: processor time for each MB that arrived",
                1e3 * statistics.median(cpu for _late, _goodput, cpu in runs),
                "ms",
            ),
            Record(
                f"{kind}: broadcast of {FRAME_BYTES} bytes, median",
                1e3 * statistics.median(late),
                "ms",
            ),
            Record(f"{kind}: distributions beyond qres-core's", len(needs), ""),
            Record(f"{kind}: install size beyond qres-core's", _size(needs), "MB"),
        ]
    return records


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        anyio.run(_receive, sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    else:
        dists = ("libp2p", "grpcio", "qres-transport-libp2p", "qres-transport-grpc")
        main(__doc__, measure, dists=dists)
