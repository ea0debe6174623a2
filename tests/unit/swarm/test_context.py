"""Where a node is: whether it takes part there, and whom it waits for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from qres_lab.testing import make_node_ids

from qres_core import Standing
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.roster import Roster

IDS = tuple(sorted(make_node_ids(5)))
HEAD = Head.first("swarm", bytes(32), Roster(IDS[:4], 1, 3), bytes(32))


def context(me: int, head: Head = HEAD, banned: tuple[int, ...] = ()) -> NodeContext:
    against = {IDS[index] for index in banned}
    kernel: Any = SimpleNamespace(standing=lambda who: Standing(banned=who in against))
    swarm: Any = SimpleNamespace(deadline=10.0, deadline_stretch=1.0, participants=0)
    return NodeContext(IDS[me], kernel, swarm, head)


@pytest.mark.parametrize(
    ("me", "height", "epoch", "member"),
    [
        (0, 0, 0, True),
        (0, 7, 2, True),
        (0, 0, 2, False),  # it was told of a later roster than the first, and has no link to it
        (4, 0, 0, False),
        (4, 7, 2, False),
    ],
)
def test_a_node_takes_part_where_it_is_a_member_and_has_followed(
    me: int, height: int, epoch: int, *, member: bool
) -> None:
    roster = attrs.evolve(HEAD.roster, epoch=epoch)
    assert context(me, attrs.evolve(HEAD, height=height, roster=roster)).is_member is member


@pytest.mark.parametrize(
    ("held", "banned", "done"),
    [
        ((0, 1, 2, 3), (), True),
        ((0, 1, 2), (), False),
        ((0, 1, 2), (3,), True),  # just a quorum
        ((0, 1), (2, 3), False),  # of a quorum one is missing, and may come
    ],
)
def test_nobody_is_missing_once_all_are_here_that_may_come_and_they_are_enough(
    held: tuple[int, ...], banned: tuple[int, ...], *, done: bool
) -> None:
    here = {IDS[index] for index in held}
    assert context(0, banned=banned).nobody_is_missing(here, 1) is done


@pytest.mark.parametrize(("past", "done"), [((3,), True), ((2,), False), ((), False)])
def test_nobody_waits_for_who_is_past_the_round(past: tuple[int, ...], *, done: bool) -> None:
    here = context(0)
    here.past = lambda number: [IDS[index] for index in past if number == 1]
    assert here.nobody_is_missing(set(IDS[:3]), 1) is done
    assert not here.nobody_is_missing(set(IDS[:2]), 1), "fewer than a quorum"
