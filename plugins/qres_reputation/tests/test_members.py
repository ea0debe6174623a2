"""Members that change from round to round: standings, bans and the store follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from qres_reputation import Reputation

from qres_core import FULL_STANDING, NodeId, NodeInfo
from qres_core.errors import RoundError

NodeMaker = Callable[..., Any]
NEW = b"\1" * 32


@pytest.fixture(params=["in memory", "on disk"])
def seven(request: pytest.FixtureRequest, node: NodeMaker, tmp_path: Path) -> Iterator[Any]:
    item = node(str(tmp_path) if request.param == "on disk" else None, punish=0.2)
    yield item
    item.plugin.teardown()


def now_with(item: Any, *, joined: Iterable[NodeId] = (), left: Iterable[NodeId] = ()) -> None:
    item.roster = tuple(sorted({*item.roster, *joined} - {*left}))


def test_who_joins_is_neutral_and_earns_and_loses_as_the_others_do(seven: Any) -> None:
    for _ in range(5):
        seven.play(seven.roster)
    old = seven.roster[1]
    seven.against(NEW)
    now_with(seven, joined=[NEW])
    seven.open()
    assert seven.score(NEW) == 500_000, "what was said against a stranger does not count"
    assert seven.score(old) > 500_000
    assert not seven.banned(NEW)
    seven.against(NEW)
    seven.close()
    assert seven.score(NEW) < 310_000
    seven.open()
    seven.against(NEW)
    assert seven.banned(NEW)


def test_who_leaves_keeps_its_record_as_it_was_and_its_ban(seven: Any) -> None:
    liar, quiet, *_ = seven.roster[1:]
    for _ in range(2):
        seven.open()
        seven.against(liar)
        seven.close()
    seven.play([quiet])
    assert seven.banned(liar)
    score = seven.score(quiet)
    now_with(seven, left=[liar, quiet])
    for _ in range(9):
        seven.play(seven.roster)
    assert seven.state().keys() == set(seven.roster)
    seven.against(liar)  # about somebody who is no member
    now_with(seven, joined=[liar, quiet])
    seven.open()
    assert seven.banned(liar), "leaving and coming back makes nobody new"
    assert seven.score(quiet) == score


def test_a_ban_that_ended_while_a_node_was_away_ends_when_it_is_back(seven: Any) -> None:
    liar = seven.roster[1]
    for _ in range(2):
        seven.open()
        seven.against(liar)
        seven.close()
    now_with(seven, left=[liar])
    seven.play(number=100)
    now_with(seven, joined=[liar])
    seven.open(400)
    assert not seven.banned(liar)
    assert seven.score(liar) == 200_000


def test_weights_are_shares_among_the_members_of_the_round(node: NodeMaker) -> None:
    item = node(exponent=1, influence_cap=1.0)
    for _ in range(20):
        item.play(item.roster[:1])
    first, second, *_ = item.roster
    before = item.plugin.reputation(second).weight
    assert item.plugin.reputation(first).weight == FULL_STANDING
    assert before < FULL_STANDING
    now_with(item, joined=[NEW], left=[first])
    item.open()
    assert item.plugin.reputation(second).weight == FULL_STANDING
    assert item.plugin.reputation(NEW).weight == pytest.approx(FULL_STANDING, rel=0.02)


def test_the_records_of_changed_members_are_there_after_a_restart_with_either_roster(
    node: NodeMaker, tmp_path: Path
) -> None:
    item = node(str(tmp_path), punish=0.4)
    left, whole = item.roster[1], item.roster
    now_with(item, joined=[NEW], left=[left])
    item.open()
    item.against(NEW)
    assert item.banned(NEW)
    item.plugin.teardown()
    for roster in (item.roster, whole, (*whole, NEW), whole[:4]):
        again = Reputation(punish=0.4)
        again.setup(NodeInfo(whole[0], "lab", tuple(sorted(roster)), data_dir=str(tmp_path)))
        for number in (item.number, item.number + 1):
            info = attrs.evolve(item.info, number=number, roster=tuple(sorted({*whole, NEW})))
            again.round_opened(info)
            assert again.reputation(NEW).banned
            assert not again.reputation(left).banned
        again.teardown()


def test_a_disk_that_refuses_a_member_leaves_the_members_as_they_were(
    node: NodeMaker, tmp_path: Path
) -> None:
    item = node(str(tmp_path))
    before = item.state()
    store = item.plugin._ledger._store
    assert store is not None
    store._db.execute("PRAGMA query_only=ON")
    now_with(item, joined=[NEW])
    with pytest.raises(RoundError, match="QRES-E602"):
        item.open()
    assert item.state() == before
    store._db.execute("PRAGMA query_only=OFF")
    item.open()
    assert item.state().keys() == {*before, NEW}
    item.plugin.teardown()
