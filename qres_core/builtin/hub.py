"""Meeting point of one program's nodes, in which a test may part them, and weather on their links.

What becomes of the k-th frame on the way from one node to another follows from the seed, the two
identities and k alone, so that other links, and how tasks take turns, change nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Any, Generic, Protocol, Self, TypeVar

import attrs

from qres_core.contract import options
from qres_core.contract.errors import RoundError
from qres_core.contract.types import NodeId


class End(Protocol):
    """A node's end of its links, as the hub needs it."""

    node_id: NodeId

    def admits(self, other: Self, /) -> bool:
        """True if the neighbour may connect."""
        ...

    def linked(self, node_id: NodeId, /) -> bool:
        """True if the neighbour is connected."""
        ...

    def link_up(self, other: Self, /) -> None:
        """Both have admitted each other."""
        ...

    def link_down(self, node_id: NodeId, why: str, /) -> None:
        """The neighbour is gone, or out of reach."""
        ...


E = TypeVar("E", bound=End)


@attrs.define(eq=False)
class Hub(Generic[E]):
    """The nodes of one swarm in this process. Every two are linked that admit each other."""

    name: str  # the swarm's
    _members: dict[NodeId, E] = attrs.field(factory=dict[NodeId, E])
    _side: dict[NodeId, int] = attrs.field(factory=dict[NodeId, int])

    def __len__(self) -> int:
        return len(self._members)

    def join(self, end: E) -> None:
        """Link a node with all within reach. Raises RoundError QRES-E603 for a taken identity."""
        if end.node_id in self._members:
            what = f"{end.node_id.hex()[:16]} is already in the hub {self.name!r}"
            raise RoundError.of("QRES-E603", "transport.memory", what, "one node per identity")
        for other in self._members.values():
            self._connect(end, other)
        self._members[end.node_id] = end

    def leave(self, end: E) -> None:
        """Cut a node's links; nothing happens if it is not there."""
        if self._members.get(end.node_id) is not end:
            return
        del self._members[end.node_id]
        for other in self._members.values():
            other.link_down(end.node_id, "closed")
            end.link_down(other.node_id, "closed")

    def follow(self, end: E, roster: Collection[NodeId]) -> None:
        """Cut a node's links to those that are no members for it, and link it with those that are.

        Both ends are asked again before they are linked. Nothing happens if it is not there.
        """
        if self._members.get(end.node_id) is not end:
            return
        for other in [item for item in self._members.values() if item is not end]:
            if other.node_id not in roster:
                other.link_down(end.node_id, "no member")
                end.link_down(other.node_id, "no member")
            elif not end.linked(other.node_id):
                self._connect(end, other)

    def partition(self, sides: Sequence[Collection[NodeId]]) -> None:
        """Cut every link between nodes of different sides. It replaces the partition before it.

        What was under way still arrives. Nodes that connect anew are asked for admission again.
        ``sides``: identities on every side; nodes that are on none, and those that join later, are
        a side of their own together.
        """
        before = self._side
        self._side = {item: number for number, side in enumerate(sides, 1) for item in side}
        for a, b in combinations(list(self._members.values()), 2):
            was = before.get(a.node_id, 0) == before.get(b.node_id, 0)
            now = self._together(a, b)
            if was and not now:
                a.link_down(b.node_id, "out of reach")
                b.link_down(a.node_id, "out of reach")
            elif now and not was:
                self._connect(a, b)

    def heal(self) -> None:
        """End the partition."""
        self.partition(())

    def _together(self, a: E, b: E) -> bool:
        return self._side.get(a.node_id, 0) == self._side.get(b.node_id, 0)

    def _connect(self, a: E, b: E) -> None:
        # Both are asked, so that both learn whom they refused.
        if self._together(a, b) and all([a.admits(b), b.admits(a)]):
            a.link_up(b)
            b.link_up(a)


def share(text: str) -> Any:
    """An attrs field: a probability, 0 by default."""
    return attrs.field(default=0.0, validator=options.real(0, 1), metadata=options.help_text(text))


def seconds(text: str) -> Any:
    """An attrs field: a time, 0 by default."""
    return attrs.field(
        default=0.0, validator=options.real(0, unit="seconds"), metadata=options.help_text(text)
    )


@attrs.define(eq=False)
class Weather:
    """Conditions on the way from one node to another. Made by :meth:`Faults.between`."""

    faults: Faults
    _random: random.Random

    def frame(self) -> tuple[float, ...]:
        """Seconds that every copy of the next frame is under way; none if it is lost."""
        # Every frame takes the same number of draws, whatever becomes of it: a higher loss with
        # the same seed loses more frames and leaves the rest as they were.
        lost, doubled, first, second = (self._random.random() for _draw in range(4))
        faults = self.faults
        if lost < faults.loss:
            return ()
        times = (faults.delay + first * faults.jitter, faults.delay + second * faults.jitter)
        return times if doubled < faults.duplicate else times[:1]

    def passage(self) -> float:
        """Seconds that a part of a request or of a blob is under way; it always arrives."""
        return self.faults.delay + self._random.random() * self.faults.jitter


@attrs.frozen
class Faults:
    """Fates of frames between two nodes. Requests and blobs are delayed too, and never lost."""

    loss: float = share("")  # probability that a frame is lost, 0..1
    duplicate: float = share("")  # probability that a frame arrives twice, 0..1
    delay: float = seconds("")  # seconds that everything takes
    # up to this many seconds more, uniformly; later frames overtake earlier ones
    jitter: float = seconds("")
    seed: int = 0  # two runs with one seed treat the same frames the same way

    def between(self, sender: NodeId, receiver: NodeId) -> Weather:
        """The weather on the way from one node to another; lasts as long as their connection."""
        name = b"qres/faults/v1\0" + repr(self.seed).encode() + b"\0" + sender + receiver
        # Chance for tests and simulations, nothing secret.
        return Weather(self, random.Random(hashlib.sha256(name).digest()))  # noqa: S311
