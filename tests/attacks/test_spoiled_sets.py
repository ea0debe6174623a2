"""A liar proposes one set, and spoils its group's sum in it at every height.

After the sums of that set nothing else may be opened of the model: the liar left so many out of
each other group that the rest cannot come in later. Heights are played with what decides them,
which sets ``secagg`` permits and what ``zk`` makes of their sums, without the arithmetic of either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids, make_round_info
from qres_secagg import Secagg
from qres_secagg.graph import topology
from qres_zk.judging import SumJudge
from qres_zk.statement import NormStatement

from qres_core import Companion, Contribution, NodeId, NodeInfo, RoundInfo, Updates, Visibility
from qres_core.dialogues import RevelationError, VoidSet
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.kernel.kernel import Kernel

NODES, LIARS, QUORUM, LEAST, HEIGHTS = 32, 3, 23, 5, 5
SECAGG: Mapping[str, Any] = {"group_size": 8, "min_size": LEAST, "bound": 4.0, "patience": 1.0}
STATEMENT = NormStatement(1, 1000, 256, 0)


class Swarm:
    """The heights of one model, until it is followed by another."""

    def __init__(
        self,
        options: Mapping[str, Any] = SECAGG,
        *,
        nodes: int = NODES,
        liars: int = LIARS,
        quorum: int = QUORUM,
    ) -> None:
        self.plugin = Secagg(**options)
        info = make_round_info(1, nodes=nodes)
        roster = make_node_ids(nodes)
        self.info = attrs.evolve(info, byzantine=liars, quorum=quorum, roster=roster)

    @property
    def groups(self) -> list[list[NodeId]]:
        session = self.plugin._permission(self.info).session(0)
        return [[self.info.roster[rank] for rank in group] for group in topology(session).groups]

    def permitted(self) -> frozenset[NodeId]:
        """What an honest proposer proposes if all contribute."""
        return self.plugin._permission(self.info).permitted(self.info.roster)

    def decide(self, senders: Collection[NodeId], judge: SumJudge) -> Updates | None:
        """What a set merges; ``None`` if the height is void, and then the set is on record."""
        assert len(senders) >= QUORUM
        assert self.plugin._permission(self.info).permits(senders)
        inside = [sorted(set(group).intersection(senders)) for group in self.groups]
        rows = sorted(tuple(group) for group in inside if len(group) >= LEAST)
        updates = Updates(
            np.full((len(rows), 1), 100, dtype=np.int32),
            tuple(row[0] for row in rows),
            np.array([len(row) for row in rows], dtype=np.int64),
            Visibility.GROUP,
            members=tuple(rows),
            sums=np.array([[100 * len(row)] for row in rows], dtype=np.int64),
        )
        try:
            return judge.revealed(STATEMENT, updates, (), self.info).updates
        except RevelationError:
            self.note(senders)
            return None

    def note(self, senders: Collection[NodeId]) -> None:
        """The height made no model of a set."""
        roster = self.info.roster
        record = VoidSet(roster, roster, tuple(sorted(senders)), self.info.mismatches)
        sets = dict.fromkeys((*self.info.void_sets, record))
        self.info = attrs.evolve(
            self.info, void_sets=tuple(sets), mismatches=self.info.mismatches + 1
        )


def few_rows(rows: int) -> Swarm:
    """One liar, and a rule that needs three sums of three."""
    swarm = Swarm({**SECAGG, "corrupt": 0.05}, nodes=24, liars=1, quorum=15)
    info = NodeInfo(swarm.info.roster[0], swarm.info.swarm, swarm.info.roster, 1, rows=rows)
    swarm.plugin.setup(info)
    return swarm


@pytest.mark.parametrize("rows", [3, 1])
def test_a_liar_that_leaves_the_rule_too_few_sums_once_and_is_silent_does_not_stop_the_swarm(
    rows: int,
) -> None:
    """Members of one group are too few, and those of its own are so few that it needs them all."""
    swarm = few_rows(rows)
    first, second, third = swarm.groups
    liar = second[0]
    few = [*first, *second[:LEAST], *third[: LEAST - 1]]
    judge = swarm.plugin._permission(swarm.info)
    assert judge.permits(few), "a set that is decided may carry a removal of who is away"
    assert judge.opens(few) == (rows == 1)  # the control: they are opened, and the rule refuses
    swarm.note(few)
    honest = frozenset(swarm.info.roster) - {liar}
    judge = swarm.plugin._permission(swarm.info)
    left = judge.permitted(honest)
    assert judge.permits(left)
    opened = sum(len(left.intersection(group)) >= LEAST for group in swarm.groups)
    assert (opened == 3) == (rows == 3)


def rotated(info: RoundInfo, member: NodeId, heir: NodeId) -> RoundInfo:
    """The next height of a void one with everybody's sums, in which a member got a new key."""
    names = {node: heir if node == member else node for node in info.roster}
    record = VoidSet(info.roster, tuple(names.values()), info.roster, 0)
    return attrs.evolve(info, roster=tuple(sorted(names.values())), void_sets=(record,))


def test_a_new_key_that_would_leave_the_rule_too_few_sums_is_seen_ahead() -> None:
    """All groups are drawn anew. A quorum may be in a set, and too few groups are open in it."""
    swarm, found = few_rows(3), 0
    heirs = [bytes([200 + place]) * 32 for place in range(8)]
    for member, heir in zip(swarm.info.roster, heirs, strict=False):
        info = rotated(swarm.info, member, heir)
        made = tuple(
            Contribution(node, node, np.zeros(1, np.int32), 1, {}, {"secagg": Companion(bytes(32))})
            for node in info.roster
        )
        then = swarm.plugin.revealable(made, info)
        ahead = swarm.plugin.revealable(made, attrs.evolve(info, ahead=True))
        useful = swarm.plugin._permission(info).opens(then)
        assert ahead == (then if useful else ())
        found += len(then) >= info.quorum and not useful
    assert found, "the control: to count members alone would let these pass"


@pytest.fixture(name="liar")
def _liar(monkeypatch: pytest.MonkeyPatch) -> NodeId:
    """A member whose group's sum never is what was committed to."""
    liar = Swarm().groups[0][0]

    def holds(
        _self: SumJudge,
        _statement: NormStatement,
        updates: Updates,
        row: int,
        _sent: Mapping[NodeId, Contribution],
    ) -> bool:
        return liar not in updates.members[row]

    monkeypatch.setattr(SumJudge, "_opening", holds)
    return liar


def test_the_swarm_is_one_that_may_start_and_nothing_is_said_against_it() -> None:
    swarm = {
        "name": "spoiled", "nodes": NODES, "byzantine": LIARS, "quorum": QUORUM, "deadline": 10.0,
        "vote_timeout": 2.0,
    }  # fmt: skip
    plugins = {
        "memory": {}, "ed25519": {}, "replay": {}, "zk": {"bound": 4.0}, "secagg": SECAGG,
        "mean": {},
    }  # fmt: skip
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    notices = Kernel.from_config(config, installed=scan()).solution.notices
    assert not [text for text in notices if "spoil" in text or "stops the swarm" in text]


def refusing(_self: SumJudge, updates: Updates, _nothing: Any, failed: int, _info: Any) -> Updates:
    """The control makes no model of what liars may be too large a part of."""
    if QUORUM * (LIARS - failed) > LIARS * sum(map(len, updates.members)):
        raise RevelationError.of("QRES-E508", "plugins.zk", "liars may be too large a part")
    return updates


@pytest.mark.parametrize("thinned", [True, False])
def test_one_liar_does_not_stop_the_swarm_with_a_set_that_it_proposed_once(
    monkeypatch: pytest.MonkeyPatch, liar: NodeId, *, thinned: bool
) -> None:
    if not thinned:
        monkeypatch.setattr(SumJudge, "_thinned", refusing)
    swarm, judge = Swarm(), SumJudge(single=False)
    first, *others = swarm.groups
    assert liar in first
    made = swarm.decide([*first, *(node for group in others for node in group[:LEAST])], judge)
    for _ in range(HEIGHTS):
        made = made or swarm.decide(swarm.permitted(), judge)
    assert (made is not None) == thinned
    if made is not None:
        total, weight = int(made.sums[:, 0].sum()), int(made.weights.sum())  # type: ignore[index]
        assert (total, weight) == (100 * 3 * LEAST, 16)  # two liars of 16 are as three of 23
