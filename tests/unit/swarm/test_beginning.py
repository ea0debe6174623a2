"""A node goes on where its journal says, and only in the swarm that the journal is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import NodeId, NodeInfo, Vector, model_digest
from qres_core.errors import CompatibilityError, RoundError
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Merged, Void
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.storage.journal import SqliteJournal

IDS = make_node_ids(6)
INITIAL: Vector = np.array([10, 20, 30], dtype=np.int32)
MODEL: Vector = np.array([11, 22, 33], dtype=np.int32)
Begin = Callable[..., Head]


@pytest.fixture
def begin(harness: ModuleType, tmp_path: Path) -> Begin:
    """The head at which a node of that configuration begins; it is started there."""

    def begin(
        members: Sequence[NodeId] = IDS[:4],
        byzantine: int = 1,
        quorum: int = 3,
        *,
        plugins: Any = None,
        ended: Callable[[Head], Sequence[Link]] | None = None,
        **options: Any,
    ) -> Head:
        swarm = {
            "name": harness.NAME, "nodes": len(members), "byzantine": byzantine,
            "quorum": quorum, **options,
        }  # fmt: skip
        tables = {
            "memory": {},
            "mac": {},
            "fresh": {},
            "mean": {"unprotected": True},
            **(plugins or {}),
        }
        config = parse({"swarm": swarm, "plugins": tables}, source="test")
        kernel = Kernel.from_config(config, installed=harness.INSTALLED)
        kernel.setup(NodeInfo(IDS[0], harness.NAME, tuple(members), byzantine=byzantine))
        with closing(
            SqliteJournal(tmp_path, swarm=harness.NAME, node_id=IDS[0], initial=INITIAL)
        ) as journal:
            machine = harness.RoundMachine(IDS[0], members, kernel, config.swarm, INITIAL, journal)
            head: Head = machine.head
            machine.start(0.0)
            for link in () if ended is None else ended(head):
                merged = isinstance(link.result, Merged)
                journal.record_height([link], MODEL if merged else None)
        return head

    return begin


def refusal(begin: Begin, *arguments: Any, **options: Any) -> str:
    with pytest.raises(RoundError) as caught:
        begin(*arguments, **options)
    (problem,) = caught.value.problems
    assert problem.code == "QRES-E602"
    assert problem.where == "journal"
    assert problem.fix
    return problem.what


def height(head: Head, *, add: NodeId | None = None, merged: bool = False) -> Link:
    """How a height ended; whoever reads its own journal does not count the votes again."""
    change = None if add is None else head.roster.change(head.swarm, "add", add)
    members = tuple(Member(member, bytes(32)) for member in head.roster.members)
    made = Merged(model_digest(MODEL, head.step + 1))
    chosen = CandidateSet(head.height + 1, members, (), change)
    return Link(head, chosen, made if merged else Void("QRES-E508"), 1, ())


def test_a_new_node_begins_at_the_first_head_and_goes_on_at_it(begin: Begin) -> None:
    first = begin()
    assert (first.height, first.step, first.model) == (0, 0, model_digest(INITIAL, 0))
    assert first.roster == Roster(tuple(sorted(IDS[:4])), 1, 3)
    assert begin() == first
    assert begin(tuple(reversed(IDS[:4]))) == first, "the order of the file says nothing"


def test_a_node_goes_on_where_its_journal_says(begin: Begin) -> None:
    ended: list[Link] = []

    def end(head: Head) -> Sequence[Link]:
        ended.append(height(head, merged=True))
        return ended

    begin(ended=end)
    head = begin()
    assert head == ended[0].next
    assert (head.height, head.step) == (1, 1)


@pytest.mark.parametrize(
    ("roster", "said"),
    [
        ((IDS[:5], 1, 4), "5 members"),
        ((IDS[:3], 0, 3), "3 members"),
        (((*IDS[:3], IDS[5]), 1, 3), IDS[5].hex()[:8]),
        ((IDS[:4], 0, 3), "f = 0"),
        ((IDS[:4], 1, 4), "quorum 4"),
    ],
)
def test_another_roster_than_the_journal_s_is_refused_with_both(
    begin: Begin, roster: tuple[Any, ...], said: str
) -> None:
    first = begin()
    what = refusal(begin, *roster)
    kept, given = what.split("and the configuration of")
    assert "it is of 4 members" in kept
    assert "f = 1, quorum 3" in kept
    assert said in given
    assert said not in kept
    assert begin() == first, "control: with the old file it goes on"


def test_the_first_members_and_those_of_now_are_both_accepted(begin: Begin) -> None:
    """A file is not rewritten by a change of the members; who writes a new one names those of now.

    The control: others are refused, before the change and after.
    """
    grown = (*IDS[:5],)
    begin()
    refusal(begin, grown, 1, 4)
    begin(ended=lambda head: [height(head, add=IDS[4])])
    first_named = begin()
    assert first_named.roster.members == tuple(sorted(grown))
    assert (first_named.roster.byzantine, first_named.roster.quorum) == (1, 4)
    assert begin(grown, 1, 4) == first_named
    refusal(begin, grown, 1, 3)
    refusal(begin, grown, 0, 4)
    refusal(begin, IDS[:6], 1, 5)
    # The link that changed the members is still there when others have followed.
    begin(ended=lambda head: [height(head), height(height(head).next, merged=True)])
    later = begin()
    assert later.height == first_named.height + 2
    assert begin(grown, 1, 4) == later


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scale": 1}, "swarm.scale is 1 here and 0 there"),
        ({"weight_cap": 7}, "swarm.weight_cap is 7 here and"),
        ({"plugins": {"checksum": {}}}, "the plugin checksum is enabled here and not there"),
    ],
)
def test_other_shared_settings_are_refused_with_both_values(
    begin: Begin, changed: dict[str, Any], said: str
) -> None:
    first = begin()
    assert said in refusal(begin, **changed)
    assert begin() == first, "control"


def test_what_is_a_node_s_own_may_change(begin: Begin) -> None:
    first = begin()
    assert begin(deadline=7.5, vote_timeout=3.0, interval=1.0) == first


def test_a_configuration_that_could_not_start_binds_a_node_to_nothing(begin: Begin) -> None:
    """Nobody has heard of the node. The control: once it has started, the settings are kept."""
    with pytest.raises(CompatibilityError, match=r"QRES-E105 swarm\.max_message_bytes"):
        begin(max_message_bytes=2048)
    first = begin()
    assert "swarm.max_message_bytes is" in refusal(begin, max_message_bytes=2**21)
    assert begin() == first


@pytest.mark.parametrize("other", [{}, {"swarm": "bed"}, {"settings": b"\x07" * 32}])
def test_a_head_of_another_swarm_or_with_other_settings_is_refused(
    begin: Begin, other: dict[str, Any]
) -> None:
    """The settings that stand beside it are the right ones: somebody has put a record there."""
    begin(ended=lambda head: [height(attrs.evolve(head, **other), merged=True)])
    if other:
        with pytest.raises(RoundError, match="QRES-E602 journal: its head is of another swarm"):
            begin()
    else:
        assert begin().step == 1, "control"
