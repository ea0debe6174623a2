"""Which contributions are proposed, judged and merged: one question at a time, past every other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids, make_round_info

from qres_core import ACCEPT, Standing, Vector, reject
from qres_core.kernel.config import SwarmConfig
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import Member
from qres_core.swarm.ledger.roster import Roster
from qres_core.training import HeldOut, Screening

IDS = make_node_ids(4)
MEMBERS = tuple(Member(sender, bytes([rank]) * 32) for rank, sender in enumerate(IDS))
EXAMPLES: Any = object()


@attrs.define(eq=False)
class Hooks:
    """Stands for the plugins: what they say, and what they were asked."""

    named: tuple[str, ...] = ()
    standings: dict[bytes, Standing] = attrs.field(factory=dict)
    hidden: tuple[bytes, ...] = ()
    calls: list[str] = attrs.field(factory=list)
    merges_in_ranges: ClassVar[bool] = False
    opens_shards: ClassVar[bool] = False
    swarm: ClassVar[SwarmConfig] = SwarmConfig(
        name="ward", nodes=4, byzantine=1, quorum=3, insecure=True
    )

    def has(self, hook: str) -> bool:
        return hook in self.named

    def standing(self, sender: bytes) -> Standing:
        return self.standings.get(sender, Standing())

    def revealable(self, made: Any, info: Any) -> Any:
        del info
        return tuple(item for item in made if item.sender not in self.hidden)

    def screen(self, updates: Any, held_out: Any, info: Any) -> Any:
        del updates, held_out, info
        self.calls.append("screen")
        return Screening(), ()

    def endorse(self, updates: Any, merged: Vector, held_out: Any, info: Any) -> Any:
        del updates, merged, info
        assert held_out is EXAMPLES
        self.calls.append("endorse")
        return reject("worse"), "toy"

    def reveal(self, updates: Any, made: Any, info: Any) -> Any:
        del made, info
        return updates

    def aggregate(self, updates: Any, info: Any, held_out: Any) -> Vector:
        del info, held_out
        self.calls.append("aggregate")
        return np.full(3, len(updates), dtype=np.int32)

    def check_unseen(self, updates: Any, made: Any, made_in: Any) -> None:
        del updates, made, made_in
        self.calls.append("check_unseen")

    def wrap_merged(self, found: Vector, updates: Any, made_in: Any, held_out: Any) -> Vector:
        del updates, made_in, held_out
        return found


class Gathered:
    """Stands for the contributions that are here."""

    @staticmethod
    def contributions(members: Any) -> Any:
        return tuple(Made(member.sender, member.digest) for member in members)

    @staticmethod
    def of_round(number: int) -> Any:
        del number
        return {
            member.sender: SimpleNamespace(contribution=Made(member.sender, member.digest))
            for member in MEMBERS
        }

    @staticmethod
    def stack(members: Any, weight_cap: int) -> Any:
        del weight_cap
        return members

    unseen = stack


@attrs.frozen
class Made:
    sender: bytes
    digest: bytes


def merger(hooks: Hooks, held_out: HeldOut | None = None, quorum: int = 3) -> Merger:
    info = attrs.evolve(make_round_info(3, nodes=4), quorum=quorum)
    gathered: Any = Gathered()
    kernel: Any = hooks
    return Merger(kernel, gathered, info, held_out)


def test_who_is_banned_or_counts_nothing_is_no_candidate() -> None:
    hooks = Hooks(standings={IDS[0]: Standing(banned=True), IDS[1]: Standing(weight=0)})
    assert merger(hooks).candidates() == MEMBERS[2:]
    assert merger(Hooks()).candidates() == MEMBERS, "control"


def test_what_plugins_would_not_reveal_is_neither_proposed_nor_admitted() -> None:
    hooks = Hooks(named=("revealable",), hidden=(IDS[3],))
    assert merger(hooks).choose().members == MEMBERS[:3]
    assert not merger(hooks).admits(MEMBERS)
    assert merger(hooks).admits(MEMBERS[:3]), "control"


@pytest.mark.parametrize(("quorum", "calls"), [(4, ["screen"]), (5, [])])
def test_a_quorum_is_screened_and_fewer_are_not(quorum: int, calls: list[str]) -> None:
    hooks = Hooks(named=("screen",))
    assert merger(hooks, EXAMPLES, quorum).choose().members == MEMBERS
    assert hooks.calls == calls


def test_who_is_banned_or_gone_at_the_other_head_does_not_remain() -> None:
    hooks = Hooks(named=("revealable",))
    roster = Roster(tuple(sorted(IDS)), 1, 3)
    head = Head.first("ward", bytes(32), roster, bytes(32))
    head = attrs.evolve(head, bans=(IDS[1],))
    names = {IDS[0]: None, IDS[1]: IDS[1], IDS[2]: IDS[2], IDS[3]: IDS[3]}
    assert merger(hooks).remain(MEMBERS, head, names) == IDS[2:]


@pytest.mark.parametrize(
    ("named", "held_out", "verdict", "calls"),
    [
        (("endorse",), EXAMPLES, (reject("worse"), "toy"), ["aggregate", "endorse"]),
        (("endorse",), None, (ACCEPT, ""), []),
        ((), EXAMPLES, (ACCEPT, ""), []),
    ],
    ids=["control", "no examples", "nobody endorses"],
)
def test_a_set_is_judged_where_somebody_can(
    named: tuple[str, ...], held_out: Any, verdict: Any, calls: list[str]
) -> None:
    hooks = Hooks(named=named)
    assert merger(hooks, held_out).judge(MEMBERS) == verdict
    assert hooks.calls == calls


def test_a_set_that_was_judged_is_not_merged_again_and_no_other_is_taken_for_it() -> None:
    hooks = Hooks(named=("endorse",))
    judging = merger(hooks, EXAMPLES)
    for _time in range(2):
        judging.judge(MEMBERS)
    assert judging.merge(MEMBERS).tolist() == [4, 4, 4]
    assert hooks.calls == ["aggregate", "endorse", "endorse"]
    assert judging.merge(MEMBERS[:3]).tolist() == [3, 3, 3]
    judging.judge(MEMBERS[1:])
    assert hooks.calls[3:] == ["aggregate", "aggregate", "endorse"]


def test_what_shards_merge_to_is_checked_by_what_sees_no_updates() -> None:
    hooks = Hooks()
    found = np.zeros(3, dtype=np.int32)
    sharded = merger(hooks)
    assert sharded.merge_shards(MEMBERS, found, sharded.info) is found
    assert hooks.calls == ["check_unseen"]
