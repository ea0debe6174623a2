"""Rounds in which a sample of the members trains, and all vote."""

from __future__ import annotations

from collections import Counter
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import RoundInfo, RoundStatus, Update
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.participants import participants
from qres_core.swarm.ledger.roster import Roster

NODES, F, SAMPLE, QUORUM = 7, 2, 4, 3


def head(n: int = 10, quorum: int = 3) -> Head:
    roster = Roster(tuple(sorted(make_node_ids(n))), 3, quorum)
    return Head.first("sample", bytes(32), roster, bytes(32))


def test_a_sample_has_its_size_and_nobody_is_in_it_more_often() -> None:
    at, rounds = head(), 4000
    found: Counter[bytes] = Counter()
    for number in range(rounds):
        sample = participants(at, number, 4)
        assert len(sample) == 4
        found.update(sample)
    mean = rounds * 4 / 10
    spread = mean * (1 - 4 / 10)
    assert found.keys() == {*at.roster.members}
    assert sum((count - mean) ** 2 / spread for count in found.values()) < 33.7
    assert participants(at, 1, 4) == participants(at, 1, 4) != participants(at, 2, 4)


def test_none_and_too_many_are_all_and_there_is_always_a_quorum() -> None:
    at = head(quorum=7)
    assert participants(at, 1, 0) == participants(at, 1, 10) == {*at.roster.members}
    assert len(participants(at, 1, 4)) == 7


def varied(index: int, info: RoundInfo) -> Update:
    return Update(np.full(info.dimension, index, dtype=np.int32))


def swarm(harness: ModuleType, **options: Any) -> Any:
    chosen = {"participants": SAMPLE, "quorum": QUORUM, **options}
    return harness.Net(NODES, byzantine=F, initial=range(5), options=chosen, train=varied)


def sets(net: Any, honest: list[int]) -> list[tuple[Any, set[bytes]]]:
    """Each closed round at honest nodes, with the members of its set."""
    return [
        (item.outcome.round_info, set(item.outcome.members))
        for index in honest
        for item in net.nodes[index].ended
        if item.outcome.status is RoundStatus.CLOSED
    ]


@pytest.mark.parametrize("aggregation", ["everyone", "sharded"])
def test_those_that_are_drawn_train_and_all_vote(harness: ModuleType, aggregation: str) -> None:
    net = swarm(harness, aggregation=aggregation)
    heads = watch_heads(net)
    net.start()
    assert net.run(until=lambda: min(net.steps(None)) >= 3)
    assert not net.forks(None)
    for info, members in sets(net, [*range(NODES)]):
        assert members == participants(heads[info.head], info.number, SAMPLE)


def watch_heads(net: Any) -> dict[bytes, Head]:
    """All heads that node 0 comes to, by digest; filled while the swarm runs."""
    heads: dict[bytes, Head] = {}

    def rule(message: Any) -> Any:
        for index in range(NODES):
            at = net.machine(index).head
            heads[at.digest] = at
        return () if message.sender in net.away else None

    net.away = set()
    net.rule = rule
    return heads


def test_members_that_are_away_do_not_stop_the_swarm(harness: ModuleType) -> None:
    """A sample with both of them is below the quorum, and the next round has another."""
    net = swarm(harness)
    watch_heads(net)
    net.away = {1, 2}
    honest = [0, *range(3, NODES)]
    net.start()
    assert net.run(until=lambda: min(net.steps(honest)) >= 3)


@pytest.mark.parametrize("guarded", [True, False])
def test_who_was_not_drawn_gets_into_no_set(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The liar trains in every round, and proposes itself and everybody that it hears."""

    def everybody(context: NodeContext, number: int) -> frozenset[bytes]:
        del number
        return frozenset(context.roster)

    net = swarm(harness)
    heads = watch_heads(net)
    if guarded:
        context = net.machine(1)._context
        monkeypatch.setattr(NodeContext, "drawn", of_all_but(NodeContext.drawn, context, everybody))
    else:
        monkeypatch.setattr(NodeContext, "drawn", everybody)
    honest = [0, *range(2, NODES)]
    net.start()
    assert net.run(until=lambda: min(net.steps(honest)) >= 3)
    closed = sets(net, honest)
    within = [
        members <= participants(heads[info.head], info.number, SAMPLE) for info, members in closed
    ]
    assert all(within) is guarded


def of_all_but(drawn_by: Any, liar: NodeContext, everybody: Any) -> Any:
    def chosen(context: NodeContext, number: int) -> frozenset[bytes]:
        found: frozenset[bytes] = (everybody if context is liar else drawn_by)(context, number)
        return found

    return chosen


def test_who_is_banned_is_in_no_sample() -> None:
    at = head()
    banned = at.roster.members[0]
    assert any(banned in participants(at, number, 4) for number in range(40)), "control"
    out = attrs.evolve(at, bans=(banned,))
    assert not any(banned in participants(out, number, 4) for number in range(40))
