"""The laws of a small network: delay, rate, loss and cuts, on a clock that the caller gives.

Every node has a line to the middle, with a rate each way. Every ordered pair of nodes has a path
between their lines, with a delay, a share of packets that it loses, and a cut::

    source ── line up (rate, queue) ── path (loss, delay, cut) ── line down (rate, queue) ── target

Nothing here reads a clock or touches a device: the same packets at the same times with the same
seed meet the same fate.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

DELAY: Final = 0.1
"""Seconds that everything takes one way in bad weather."""
LOSS: Final = 0.05
"""Share of packets lost in bad weather."""
QUEUE: Final = 0.25
"""Seconds of traffic that may wait at a line; what comes later is dropped."""


@attrs.frozen
class NetworkPlan:
    """What is to be made."""

    nodes: int
    seed: int
    mtu: int  # bytes
    user: bool  # in a user namespace: what root is not needed for
    addresses: Sequence[Sequence[str]]  # of each node, IPv4 and IPv6
    prefixes: tuple[int, int]  # of the network, IPv4 and IPv6
    hosts: str  # what /etc/hosts says in the namespaces
    congestion: str = ""  # how TCP reacts to losses there; by default as on the machine


@attrs.define(eq=False)
class ShapedLine:
    """One way of a node's line: packets leave one after the other."""

    rate: float = 0.0  # bytes a second; 0: as fast as they come
    queue: float = QUEUE  # seconds
    _free: float = 0.0

    def leave(self, at: float, size: int) -> float | None:
        """When a packet that came at a time has left; ``None`` where it found no room."""
        start = max(at, self._free)
        if self.rate and start - at > self.queue:
            return None
        self._free = start + size / self.rate if self.rate else start
        return self._free


@attrs.define(eq=False)
class PathCounts:
    """What became of the packets of one path."""

    packets: int = 0  # that the source sent
    octets: int = 0  # bytes in them, headers included
    lost: int = 0  # by chance
    full: int = 0  # packets that found a queue full
    cut: int = 0  # packets sent or under way while it was cut
    delivered: int = 0
    delivered_octets: int = 0


@attrs.define(eq=False)
class ShapedPath:
    """From one node to another."""

    target: int
    chance: random.Random
    delay: float = 0.0  # seconds, one way
    loss: float = 0.0  # share of the packets
    cut: bool = False
    counts: PathCounts = attrs.field(factory=PathCounts)


class Fabric:
    """All lines and paths, and the packets under way.

    Args:
        nodes: how many.
        seed: of the losses. Each path draws its own, so what others send changes nothing.
    """

    def __init__(self, nodes: int, seed: int = 0) -> None:
        self.up = [ShapedLine() for _ in range(nodes)]
        self.down = [ShapedLine() for _ in range(nodes)]
        self.paths = {
            pair: ShapedPath(pair[1], random.Random(f"{seed} {pair}"))  # noqa: S311 - weather
            for pair in itertools.permutations(range(nodes), 2)
        }
        self._numbers = itertools.count()  # those that are due at once leave as they came
        self._heap: list[tuple[float, int, ShapedPath, bytes, bool]] = []

    def take(self, now: float, source: int, target: int, packet: bytes) -> None:
        """A node sends a packet."""
        path = self.paths[source, target]
        counts, size = path.counts, len(packet)
        counts.packets += 1
        counts.octets += size
        at = self.up[source].leave(now, size)
        if at is None:
            counts.full += 1
        elif path.cut:
            counts.cut += 1
        elif path.loss and path.chance.random() < path.loss:
            counts.lost += 1
        else:
            self._push(at + path.delay, path, packet, arrived=False)

    def _push(self, at: float, path: ShapedPath, packet: bytes, *, arrived: bool) -> None:
        heapq.heappush(self._heap, (at, next(self._numbers), path, packet, arrived))

    @property
    def next(self) -> float | None:
        """When there is something to do; ``None`` where no packet is under way."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[tuple[float, int, bytes]]:
        """Packets that are there by now: when each was due, for whom, and what it is."""
        while self._heap and self._heap[0][0] <= now:
            at, _number, path, packet, arrived = heapq.heappop(self._heap)
            counts = path.counts
            if path.cut:
                counts.cut += 1
                continue
            if not arrived:
                left = self.down[path.target].leave(at, len(packet))
                if left is None:
                    counts.full += 1
                    continue
                if left > at:  # also where it is past: what came before is still in the heap
                    self._push(left, path, packet, arrived=True)
                    continue
            counts.delivered += 1
            counts.delivered_octets += len(packet)
            yield at, path.target, packet
