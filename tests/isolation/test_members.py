"""Members change while sums are opened for one model: heads, records and the rule of the plugin.

Who trains is the oracle's business: a person keeps its data whatever its key is. Nothing here looks
at how the record names members.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import attrs
import pytest
from isolation import algebra
from qres_secagg import Secagg
from qres_secagg.graph import topology
from qres_secagg.permission import Permission

from qres_core.contract.errors import RosterError
from qres_core.contract.types import NodeId
from qres_core.kernel.config import SwarmConfig, parse
from qres_core.swarm.context.position import round_info
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Void
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.ledger.unmerged_sets import Record

NODES, CORRUPT, HEIGHTS = 9, 1, 6


@attrs.define
class History:
    """Void heights of one model, with the persons whose updates each open sum holds."""

    seed: int
    swarm: SwarmConfig
    options: dict[str, Any] = attrs.field(factory=dict)
    head: Head = attrs.field(init=False)
    persons: dict[NodeId, int] = attrs.field(init=False, factory=dict)  # of every identity so far
    # how often each person counts in each open sum, by its number
    sums: list[dict[int, int]] = attrs.field(init=False, factory=list)
    weights: dict[NodeId, int] = attrs.field(init=False, factory=dict)  # of every identity
    changes: int = attrs.field(init=False, default=0)
    rng: random.Random = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        members = tuple(sorted(self.key() for _ in range(NODES)))
        self.persons = {member: index for index, member in enumerate(members)}
        roster = Roster(members, CORRUPT, 5)
        self.head = Head.first("members", bytes(32), roster, bytes(32))

    def key(self) -> NodeId:
        return self.rng.randbytes(32)

    def weight(self, member: NodeId) -> int:
        """How often an identity counts: a new folder does not know how often an old one did."""
        most = self.options.get("max_weight", 1)
        return self.weights.setdefault(member, 1 + len(self.weights) % most)

    def height(self) -> None:
        """A set without some members, of which what may be opened is opened."""
        head, rng = self.head, self.rng
        plugin = Secagg(**self.options)
        permission: Permission = plugin._permission(round_info(self.swarm, head, 1, 1))
        members = head.roster.members
        asked = set(rng.sample(members, rng.randint(len(members) - 4, len(members))))
        kept = permission.permitted(asked)
        if not kept:
            return  # nobody votes for any of it
        for group in topology(permission.session(1)).groups:
            inside = [members[rank] for rank in group if members[rank] in kept]
            if len(inside) >= permission.parameters(len(members)).min_survivors:
                self.sums.append({self.persons[m]: self.weight(m) for m in inside})
        change = self.change()
        chosen = tuple(Member(member, bytes(32)) for member in sorted(kept))
        candidate = CandidateSet(head.height + 1, chosen, change=change)
        try:
            self.head = head.after(candidate, Void("QRES-E508"))
        except RosterError:
            self.head = head.after(attrs.evolve(candidate, change=None), Void("QRES-E508"))
        else:
            self.changes += change is not None
        after = plugin._permission(round_info(self.swarm, self.head, 1, 1)).record
        assert after.startswith(permission.record)  # what nodes that state the next set ask for
        assert permission.entry(kept) in {after[i : i + 32] for i in range(0, len(after), 32)}

    def change(self) -> RosterChange | None:
        """One that the members may want; an identity of before comes back at times."""
        roster, rng = self.head.roster, self.rng
        away = [who for who in self.persons if who not in roster]
        there = {self.persons[member] for member in roster.members}
        back = [who for who in away if self.persons[who] not in there]
        action = rng.choice(("add", "remove", "rotate", "rotate"))
        member = rng.choice(roster.members)
        if action == "remove":
            return roster.change("members", "remove", member) if len(roster) > 7 else None
        if action == "add":
            new = rng.choice(back) if back and rng.random() < 0.5 else self.key()
            self.persons.setdefault(new, len(self.persons))
            return roster.change("members", "add", new) if len(roster) < 11 else None
        if back and rng.random() < 0.4:  # its owner takes a seat that was another's
            return roster.change("members", "rotate", member, rng.choice(back))
        new = self.key()
        self.persons[new] = self.persons[member]
        return roster.change("members", "rotate", member, new)

    def play(self) -> int:
        """How many persons the smallest combination of all sums is about; 0 without a sum."""
        for _ in range(HEIGHTS):
            self.height()
        found = algebra.smallest([dict[Hashable, int](item) for item in self.sums])
        return 0 if found is None else found.size


@pytest.fixture
def swarm() -> SwarmConfig:
    table = {"name": "members", "nodes": NODES, "byzantine": CORRUPT, "quorum": 5}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    return parse({"swarm": table, "plugins": plugins}, source="test").swarm


@pytest.mark.claim("C-secagg-10")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"group_size": 4, "min_size": 3},
        {"bisect": True, "min_size": 3},
        {"weights": "public", "max_weight": 9},
    ],
)
def test_no_combination_is_about_fewer_than_two_honest_persons(
    swarm: SwarmConfig, options: dict[str, Any]
) -> None:
    histories = [History(seed, swarm, options) for seed in range(150)]
    found = [history.play() for history in histories]
    assert min(size for size in found if size) >= CORRUPT + 2
    assert sum(history.changes for history in histories) > 100
    assert max(len(history.sums) for history in histories) >= 4


class Returning(History):
    """Two members leave and come back, and get new keys; sets are without them at times."""

    def height(self) -> None:
        rng, some = self.rng, self.rng.sample

        def without(members: tuple[NodeId, ...], _many: int) -> list[NodeId]:
            return [m for m in members if self.persons[m] not in (2, 4) or rng.random() < 0.5]

        rng.sample = without  # type: ignore[assignment, method-assign]
        try:
            super().height()
        finally:
            rng.sample = some  # type: ignore[method-assign]

    def change(self) -> RosterChange | None:
        roster, rng = self.head.roster, self.rng
        mine = [member for member in roster.members if self.persons[member] in (2, 4)]
        there = {self.persons[member] for member in roster.members}
        away = [who for who, person in self.persons.items() if person not in there]
        if away and rng.random() < 0.5:
            return roster.change("members", "add", rng.choice(away))
        if not mine:
            return None
        member, new = rng.choice(mine), self.key()
        if rng.random() < 0.4 and len(roster) > 7:
            return roster.change("members", "remove", member)
        self.persons[new] = self.persons[member]
        return roster.change("members", "rotate", member, new)


def test_nor_where_the_same_members_leave_and_come_back_with_new_keys(swarm: SwarmConfig) -> None:
    for options in ({}, {"weights": "public", "max_weight": 9}, {"group_size": 4, "min_size": 3}):
        found = [Returning(seed, swarm, options).play() for seed in range(150)]
        assert min(size for size in found if size) >= CORRUPT + 2


@pytest.mark.control("C-secagg-10")
def test_control_where_seats_go_to_whoever_was_there_before_some_are_alone(
    swarm: SwarmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Record, "must_take", lambda _self, _change: None)
    assert min(History(seed, swarm).play() for seed in range(150)) < CORRUPT + 2


def test_control_where_a_new_key_may_count_otherwise_in_the_same_class_some_are_alone(
    swarm: SwarmConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Secagg._permission
    monkeypatch.setattr(
        Secagg, "_permission", lambda self, info: attrs.evolve(made(self, info), weighted=False)
    )
    options = {"weights": "public", "max_weight": 9}
    assert min(filter(None, (History(s, swarm, options).play() for s in range(150)))) == 1
