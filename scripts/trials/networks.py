"""Where the nodes of a trial meet: namespaces of the kernel's network, or relays on loopback.

Namespaces, of ``trials.routed``, are what some machines do not let us make. Relays need nothing:
each node dials the others through sockets that hold what they carry while a partition lasts, and
delay it in bad weather.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from qres_lab.box.nodes import BoxNode, free_ports

from .routed import Routed
from .shaping import DELAY, LOSS

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


def networks(wanted: str, nodes: int) -> list[type[Routed | Relays]]:
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
        Routed(nodes).close()
    except OSError:
        if wanted == "namespaces":
            raise
        return [Relays]
    return [Routed] if wanted == "namespaces" else [Routed, Relays]
