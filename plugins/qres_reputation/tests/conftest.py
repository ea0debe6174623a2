"""Builders the tests of this plugin share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from qres_lab.testing import make_node_ids, make_updates
from qres_reputation import Reputation

from qres_core import (
    Evidence,
    Fault,
    Merit,
    NodeId,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Updates,
    Vector,
)

NODES = 7


@attrs.define(eq=False)
class Node:
    """A plugin set up in a roster, and the calls the kernel makes."""

    plugin: Reputation
    roster: tuple[NodeId, ...]
    number: int = 0

    def open(self, number: int | None = None) -> None:
        self.number = self.number + 1 if number is None else number
        self.plugin.round_opened(self.info)

    @property
    def info(self) -> RoundInfo:
        return RoundInfo("lab", self.number, bytes(32), 2, 0, self.roster, len(self.roster))

    def against(
        self, subject: NodeId, fact: str = Fault.EQUIVOCATION, round_number: int = 0
    ) -> None:
        evidence = Evidence(subject, fact, "kernel", round_number)
        self.plugin.observe(evidence)

    def contributed(self, subject: NodeId) -> None:
        evidence = Evidence(subject, Merit.CONTRIBUTED, "kernel", self.number)
        self.plugin.observe(evidence)

    def merge(self, updates: Updates) -> None:
        def proceed(passed: Updates) -> Vector:
            assert passed is updates
            return updates.vectors[0]

        merged = self.plugin.wrap_aggregate(proceed, updates, self.info)
        assert merged.tolist() == updates.vectors[0].tolist()

    def close(self, status: RoundStatus = RoundStatus.CLOSED) -> None:
        self.plugin.round_closed(Outcome(self.info, status, bytes(32)))

    def play(
        self,
        members: Sequence[NodeId] = (),
        updates: Updates | None = None,
        number: int | None = None,
    ) -> None:
        """A whole round in the order of the round machine."""
        self.open(number)
        if updates is not None:
            self.merge(updates)
        for member in members:
            self.contributed(member)
        self.close()

    def score(self, node: NodeId) -> int:
        return self.plugin._ledger.records[node].belief.score

    def streak(self, node: NodeId) -> int:
        return self.plugin._ledger.records[node].streak

    def banned(self, node: NodeId) -> bool:
        return self.plugin.reputation(node).banned

    def state(self) -> dict[NodeId, Any]:
        return dict(self.plugin._ledger.records)


def _node(data_dir: str | None = None, *, nodes: int = NODES, **options: Any) -> Node:
    roster = make_node_ids(nodes)
    plugin = Reputation(**options)
    plugin.setup(NodeInfo(roster[0], "lab", roster, data_dir=data_dir))
    return Node(plugin, roster)


@pytest.fixture(scope="session")
def node() -> Callable[..., Node]:
    """A set-up plugin with the given options; ``data_dir`` first."""
    return _node


@pytest.fixture(scope="session")
def spread() -> Callable[..., Updates]:
    """Updates of the roster around zero, the ones at ``far`` a hundred times as far."""

    def build(
        nodes: int, far: Sequence[int] = (), senders: Sequence[NodeId] | None = None
    ) -> Updates:
        rows = [[100 * (-1) ** i, 10 * i] for i in range(nodes)]
        rows = [[100 * v for v in row] if i in far else row for i, row in enumerate(rows)]
        return make_updates(rows, senders=senders)

    return build
