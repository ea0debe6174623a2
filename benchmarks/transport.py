"""The libp2p transport: what a large update costs to reach seven peers, and how late gossip is.

Everything runs on the loopback interface, every node in a process of its own. The yardstick is one
stream between two hosts of libp2p as it comes (TCP, Noise, yamux, 256 KiB a write), measured in the
same run. Goodput is payload that arrived, of all receivers together, over the time until the last
one had it.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import trio
from harness import Record, main
from nacl.signing import SigningKey
from qres_lab.box.nodes import free_ports
from qres_transport_libp2p.pin import check_libp2p

MIB = 2**20
SIZE = 40_000_000
RECEIVERS = 7
FRAMES = 40
FRAME_BYTES = 1024
SINK = "/sink/1"


def key(index: int) -> SigningKey:
    """The key of a node."""
    return SigningKey(hashlib.sha256(b"bench %d" % index).digest())


def libp2p_end(index: int, ports: Sequence[Any]) -> Any:
    """A node's end; every node listens on a port of its own."""
    from qres_transport_libp2p import Libp2p  # noqa: PLC0415 - takes a second

    check_libp2p()  # imports libp2p, without what it does not need
    from qres_transport_libp2p.identity import peer_id  # noqa: PLC0415

    nodes = [bytes(key(node).verify_key) for node in range(len(ports))]
    plugin = Libp2p(
        listen=f"/ip4/127.0.0.1/tcp/{ports[index]}",
        peers=tuple(
            f"/ip4/127.0.0.1/tcp/{ports[node]}/p2p/{peer_id(nodes[node])}" for node in range(index)
        ),
        ping_seconds=30.0,
    )
    return end(plugin, index, nodes)


def end(plugin: Any, index: int, nodes: Sequence[bytes]) -> Any:
    """A node's end of a plugin's transport; it admits everybody."""
    from qres_core import ACCEPT, NodeInfo  # noqa: PLC0415 - takes a second
    from qres_core.transport import LinkKeys  # noqa: PLC0415 - takes a second

    mine = key(index)
    links = LinkKeys(nodes[index], lambda told: mine.sign(told).signature, lambda node: node)
    info = NodeInfo(nodes[index], "bench", tuple(sorted(nodes)))
    return plugin.transport(info, lambda _peer, _shown: ACCEPT, bytes, links)


async def meet(transport: Any, count: int) -> None:
    """Wait until so many peers are up."""
    with anyio.fail_after(120):
        while len(transport.peers()) < count:  # noqa: ASYNC110 - a transport tells nobody
            await anyio.sleep(0.05)
    await anyio.sleep(2)  # two heartbeats: the mesh


# ── a receiver, in a process of its own ───────────────────────────────────────────────────────────


def _count_reads() -> list[int]:
    from libp2p.io.trio import TrioTCPStream  # noqa: PLC0415

    total = [0]
    read = TrioTCPStream.read

    async def counted(self: Any, size: int | None = None) -> bytes:
        data = await read(self, size)
        total[0] += len(data)
        return data

    TrioTCPStream.read = counted  # type: ignore[method-assign]
    return total


async def _receive(index: int, ports: Sequence[int]) -> None:
    from qres_core.transport import BlobRef  # noqa: PLC0415

    transport = libp2p_end(index, ports)
    total = _count_reads()
    await transport.start()
    await meet(transport, len(ports) - 1)
    print("up", flush=True)
    late: list[float] = []
    for _ in range(FRAMES):
        delivery = await transport.receive()
        late.append(time.monotonic() - float(delivery.frame[:20]))
    print(json.dumps(late), flush=True)
    nodes = [bytes(key(index).verify_key) for index in range(len(ports))]
    holders = [node for item, node in enumerate(nodes) if item != index]
    while line := await anyio.to_thread.run_sync(sys.stdin.readline):
        chunks = tuple(bytes.fromhex(word) for word in line.split())
        before = total[0]
        data = await transport.fetch_blob(BlobRef(SIZE, chunks), holders, 300)
        print(json.dumps([time.monotonic(), len(data), total[0] - before]), flush=True)
    await transport.aclose()


# ── the sender, and the yardstick ─────────────────────────────────────────────────────────────────


def _start(*role: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", str(Path(__file__)), *map(str, role)]
    return subprocess.Popen(  # noqa: S603 - this very file
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


async def _lines(children: Sequence[subprocess.Popen[str]]) -> list[str]:
    lines: list[str] = []
    for child in children:
        assert child.stdout is not None  # noqa: S101 - a pipe
        lines.append(await anyio.to_thread.run_sync(child.stdout.readline))
    return lines


def _end(children: Sequence[subprocess.Popen[str]]) -> None:
    for child in children:
        if child.stdin is not None:
            child.stdin.close()
    for child in children:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def _send(repeats: int) -> tuple[list[float], list[float], list[float]]:
    """Latencies of gossip, goodputs of blobs in MB/s, overheads of the receivers in percent."""
    ports = free_ports(RECEIVERS + 1)
    transport = libp2p_end(0, ports)
    await transport.start()
    children = [_start("receive", index, *ports) for index in range(1, RECEIVERS + 1)]
    try:
        await meet(transport, RECEIVERS)
        await _lines(children)
        for _ in range(FRAMES):
            frame = f"{time.monotonic():020.9f}".encode()
            await transport.broadcast(frame.ljust(FRAME_BYTES, b"."))
            await anyio.sleep(0.1)
        late = [load for line in await _lines(children) for load in json.loads(line)]
        goodputs: list[float] = []
        overheads: list[float] = []
        for repeat in range(repeats):
            data = hashlib.shake_128(b"%d" % repeat).digest(SIZE)
            ref = await transport.publish_blob(data)
            told = " ".join(chunk.hex() for chunk in ref.chunks) + "\n"
            start = time.monotonic()
            for child in children:
                assert child.stdin is not None  # noqa: S101 - a pipe
                child.stdin.write(told)
                child.stdin.flush()
            results = [json.loads(line) for line in await _lines(children)]
            last = max(end for end, _size, _wire in results) - start
            goodputs.append(RECEIVERS * SIZE / last / 1e6)
            overheads += [100 * (wire / SIZE - 1) for _end, _size, wire in results]
        return late, goodputs, overheads
    finally:
        await transport.aclose()
        _end(children)


async def _sink(port: int) -> None:
    from libp2p import new_host  # noqa: PLC0415
    from libp2p.crypto.ed25519 import create_new_key_pair  # noqa: PLC0415
    from multiaddr import Multiaddr  # noqa: PLC0415

    host = new_host(key_pair=create_new_key_pair(bytes(key(1))))
    done = trio.Event()

    async def read(stream: Any) -> None:
        left = SIZE
        while left:
            left -= len(await stream.read(min(left, 2**18)))
        await stream.write(b"!")
        await stream.read(1)
        done.set()

    host.set_stream_handler(SINK, read)  # type: ignore[arg-type]
    async with host.run([Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")]):
        print(str(host.get_id()), flush=True)
        with trio.move_on_after(120):
            await done.wait()
        await host.close()


async def _plain() -> float:
    """Goodput of one plain stream, MB/s."""
    from libp2p import new_host  # noqa: PLC0415
    from libp2p.peer.peerinfo import info_from_p2p_addr  # noqa: PLC0415
    from multiaddr import Multiaddr  # noqa: PLC0415

    mine, port = free_ports(2)
    child = _start("sink", port)
    host = new_host()
    try:
        (line,) = await _lines([child])
        async with host.run([Multiaddr(f"/ip4/127.0.0.1/tcp/{mine}")]):
            to = info_from_p2p_addr(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/p2p/{line.strip()}"))
            await host.connect(to)
            stream = await host.new_stream(to.peer_id, [SINK])  # type: ignore[list-item]
            block = bytes(2**18)
            start = time.monotonic()
            for sent in range(0, SIZE, len(block)):
                await stream.write(block[: SIZE - sent])
            await stream.read(1)
            took = time.monotonic() - start
            await stream.write(b".")
            await host.close()
        return SIZE / took / 1e6
    finally:
        _end([child])


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """The yardstick before and after, and the transport in between."""
    repeats = 1 if quick else 3
    plain = [trio.run(_plain) for _ in range(repeats)]
    late, goodputs, overheads = anyio.run(_send, repeats)
    os.environ.pop("PY_YAMUX_RELEASE_ON_READ", None)  # the transport tunes libp2p; plain is untuned
    plain += [trio.run(_plain) for _ in range(repeats)]
    yardstick, goodput = statistics.median(plain), statistics.median(goodputs)
    late.sort()
    blob = f"{SIZE // 10**6} MB to {RECEIVERS} peers"
    return [
        Record("one plain stream of libp2p, goodput", yardstick, "MB/s"),
        Record(f"{blob}, goodput of all together", goodput, "MB/s"),
        Record(f"{blob}, share of the plain stream", goodput / yardstick, "", 0.5, at_least=True),
        Record(f"{blob}, bytes beyond the payload, worst", max(overheads), "%", 5.0),
        Record(f"gossip of {FRAME_BYTES} bytes, median", 1e3 * statistics.median(late), "ms"),
        Record(f"gossip of {FRAME_BYTES} bytes, 95 %", 1e3 * late[len(late) * 95 // 100], "ms"),
    ]


if __name__ == "__main__":
    check_libp2p()
    if sys.argv[1:2] == ["receive"]:
        anyio.run(_receive, int(sys.argv[2]), [int(word) for word in sys.argv[3:]])
    elif sys.argv[1:2] == ["sink"]:
        trio.run(_sink, int(sys.argv[2]))
    else:
        main(__doc__, measure, dists=("libp2p", "trio", "qres-transport-libp2p"))
