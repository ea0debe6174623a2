"""Where the nodes of a trial meet: namespaces of the kernel's network, or relays on loopback.

Namespaces need root and ``ip``; their bad weather needs ``tc`` with netem. Relays need nothing:
each node dials the others through sockets that hold what they carry while a partition lasts, and
delay it in bad weather.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from qres_core.node.box import BoxNode, free_ports

DELAY = 0.1
"""Seconds that everything takes one way in bad weather."""
LOSS = 0.05
"""Share of packets lost in bad weather."""
RETRANSMISSION = 0.2
"""Seconds that TCP takes, at least, to see that a packet is lost: what a loss costs in a relay."""


class Network(Protocol):
    """Where nodes meet."""

    name: str
    weathers: bool

    @property
    def means(self) -> str:
        """How bad weather is made here, or why there is none; for people."""
        ...

    def wiring(self, seat: BoxNode, seats: Sequence[BoxNode]) -> dict[str, Any]:
        """Where a node listens and whom it dials: keys of ``[plugins.libp2p]``."""
        ...

    def command(self, index: int, words: Sequence[str]) -> list[str]:
        """The command line of a node."""
        ...

    def part(self, away: Collection[int]) -> None:
        """Part some nodes from all others."""
        ...

    def heal(self) -> None:
        """Join all again."""
        ...

    def weather(self, *, bad: bool) -> None:
        """Delay and lose packets, or stop it."""
        ...

    def close(self) -> None:
        """Undo everything; idempotent."""
        ...


def _run(*words: str) -> bool:
    done = subprocess.run(words, capture_output=True, check=False)
    return done.returncode == 0


class Namespaces:
    """A network namespace for every node, joined by a bridge in one more.

    Args:
        nodes: how many.

    Raises:
        OSError: it cannot be made here.
    """

    name = "namespaces"

    def __init__(self, nodes: int) -> None:
        self._names = [f"qres-{os.getpid()}-{index}" for index in range(nodes)]
        self._hub = f"qres-{os.getpid()}-hub"
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        self.weathers = self._netem(0, bad=True) and self._netem(0, bad=False)

    def _make(self) -> None:
        if os.geteuid() or shutil.which("ip") is None:
            msg = "namespaces need root and ip"
            raise OSError(msg)
        hub = ("ip", "-n", self._hub, "link")
        steps: list[tuple[str, ...]] = [("ip", "netns", "add", self._hub)]
        for bridge in ("main", "apart"):
            steps += [(*hub, "add", bridge, "type", "bridge"), (*hub, "set", bridge, "up")]
        for index, name in enumerate(self._names):
            port, inside = f"port{index}", ("ip", "-n", name)
            steps += [
                ("ip", "netns", "add", name),
                (*hub, "add", port, "type", "veth", "peer", "name", "eth0", "netns", name),
                (*hub, "set", port, "master", "main", "up"),
                (*inside, "addr", "add", f"{self._address(index)}/24", "dev", "eth0"),
                (*inside, "link", "set", "lo", "up"),
                (*inside, "link", "set", "eth0", "up"),
            ]
        for step in steps:
            if not _run(*step):
                msg = f"{' '.join(step)} failed"
                raise OSError(msg)

    @property
    def means(self) -> str:
        """Of bad weather."""
        if self.weathers:
            return f"tc netem, {DELAY * 1000:.0f} ms delay and {LOSS:.0%} of packets lost"
        why = "the kernel has no netem" if shutil.which("tc") else "there is no tc"
        return f"none: {why}, so delay and loss are left out of the faults"

    @staticmethod
    def _address(index: int) -> str:
        return f"10.213.77.{index + 1}"

    def wiring(self, seat: BoxNode, seats: Sequence[BoxNode]) -> dict[str, Any]:
        """Every node dials every other."""
        return {
            "listen": f"/ip4/{self._address(seat.index)}/tcp/{seat.port}",
            "peers": [
                f"/ip4/{self._address(item.index)}/tcp/{item.port}/p2p/{item.peer_id}"
                for item in seats
                if item is not seat
            ],
        }

    def command(self, index: int, words: Sequence[str]) -> list[str]:
        """``ip netns exec`` becomes the node: it has the id of the process."""
        return ["ip", "netns", "exec", self._names[index], *words]

    def _move(self, index: int, bridge: str) -> None:
        _run("ip", "-n", self._hub, "link", "set", f"port{index}", "master", bridge)

    def part(self, away: Collection[int]) -> None:
        """Put them on another bridge."""
        for index in away:
            self._move(index, "apart")

    def heal(self) -> None:
        """Put all on one bridge."""
        for index in range(len(self._names)):
            self._move(index, "main")

    def _netem(self, index: int, *, bad: bool) -> bool:
        if shutil.which("tc") is None:
            return False
        device = ("dev", "eth0", "root")
        tc = ("tc", "-n", self._names[index], "qdisc")
        if not bad:
            return _run(*tc, "del", *device)
        how = ("delay", f"{DELAY * 1000:.0f}ms", "loss", f"{LOSS * 100:.0f}%")
        return _run(*tc, "replace", *device, "netem", *how)

    def weather(self, *, bad: bool) -> None:
        """By netem, on what every node sends."""
        for index in range(len(self._names)):
            self._netem(index, bad=bad)

    def close(self) -> None:
        """Namespaces take their devices with them."""
        for name in (*self._names, self._hub):
            _run("ip", "netns", "del", name)


class Relays:
    """A relay on loopback for every ordered pair of nodes, in a thread of this process.

    Args:
        nodes: how many.
        seed: of the weather.
    """

    name = "relays"
    weathers = True
    means = (
        f"relays that hold back what they carry, {DELAY * 1000:.0f} ms delay and for {LOSS:.0%} of "
        f"reads {RETRANSMISSION * 1000:.0f} ms more, as TCP takes for a loss; no packet is lost"
    )

    def __init__(self, nodes: int, seed: int = 0) -> None:
        pairs = [(a, b) for a in range(nodes) for b in range(nodes) if a != b]
        self._ports = dict(zip(pairs, free_ports(len(pairs)), strict=True))
        self._targets: dict[int, int] = {}
        self._away: frozenset[int] = frozenset()
        self._bad = False
        self._chance = random.Random(seed)  # noqa: S311 - weather
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._servers = [self._soon(self._serve(pair)) for pair in pairs]

    def _soon(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def wiring(self, seat: BoxNode, seats: Sequence[BoxNode]) -> dict[str, Any]:
        """Every node dials the others' relays."""
        self._targets[seat.index] = seat.port
        return {
            "listen": f"/ip4/127.0.0.1/tcp/{seat.port}",
            "peers": [
                f"/ip4/127.0.0.1/tcp/{self._ports[seat.index, item.index]}/p2p/{item.peer_id}"
                for item in seats
                if item is not seat
            ],
        }

    def command(self, index: int, words: Sequence[str]) -> list[str]:
        """As it is."""
        del index
        return list(words)

    def part(self, away: Collection[int]) -> None:
        """What is on its way between the parts waits, as packets that are sent again do."""
        self._away = frozenset(away)

    def heal(self) -> None:
        """Let it pass."""
        self._away = frozenset()

    def weather(self, *, bad: bool) -> None:
        """Delay everything, and what is lost by the time TCP takes to send it again."""
        self._bad = bad

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._soon(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, pair: tuple[int, int]) -> asyncio.Server:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a callback of asyncio runs in a task
            self._tasks.add(task)
            try:
                await self._connect(pair, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                self._tasks.discard(task)
                writer.close()

        return await asyncio.start_server(accepted, "127.0.0.1", self._ports[pair])

    def _parted(self, pair: tuple[int, int]) -> bool:
        return (pair[0] in self._away) != (pair[1] in self._away)

    async def _passable(self, pair: tuple[int, int]) -> None:
        while self._parted(pair):  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.05)

    async def _connect(
        self,
        pair: tuple[int, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        await self._passable(pair)
        back, forth = await asyncio.open_connection("127.0.0.1", self._targets[pair[1]])
        ways = [
            asyncio.ensure_future(self._carry(pair, reader, forth)),
            asyncio.ensure_future(self._carry(pair, back, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            forth.close()

    async def _carry(
        self, pair: tuple[int, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def arrive() -> None:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                await self._passable(pair)
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        arriving = asyncio.ensure_future(arrive())
        try:
            data = b"."
            while data and not arriving.done():
                data = await reader.read(2**16)
                lost = self._bad and self._chance.random() < LOSS
                delay = (DELAY if self._bad else 0.0) + (RETRANSMISSION if lost else 0.0)
                await under_way.put((self._loop.time() + delay, data))
            await arriving
        except OSError:
            return
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)


def networks(wanted: str, nodes: int) -> list[type[Namespaces | Relays]]:
    """The kinds of network to use in turn.

    Args:
        wanted: ``namespaces``, ``relays``, or ``auto`` for all that can be made here.
        nodes: of each.

    Raises:
        OSError: ``namespaces`` cannot be made here.
    """
    if wanted == "relays":
        return [Relays]
    try:
        made = Namespaces(nodes)
    except OSError:
        if wanted == "namespaces":
            raise
        return [Relays]
    made.close()
    return [Namespaces] if wanted == "namespaces" else [Namespaces, Relays]
