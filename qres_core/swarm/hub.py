"""Where the nodes of one program meet, and where a test may part them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from typing import Generic, Protocol, Self, TypeVar

import attrs

from qres_core.contract.errors import RoundError
from qres_core.contract.types import NodeId


class End(Protocol):
    """A node's end of its links, as the hub needs it."""

    node_id: NodeId

    def admits(self, other: Self, /) -> bool:
        """Whether the neighbour may connect."""
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
    """The nodes of one swarm in this process. Every two are linked that admit each other.

    Attributes:
        name: the swarm's.
    """

    name: str
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

    def partition(self, sides: Sequence[Collection[NodeId]]) -> None:
        """Cut every link between nodes of different sides. It replaces the partition before it.

        What was under way still arrives. Nodes that connect anew are asked for admission again.

        Args:
            sides: identities on every side; nodes that are on none, and those that join later, are
                a side of their own together.
        """
        before = self._side
        self._side = {one: number for number, side in enumerate(sides, 1) for one in side}
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
