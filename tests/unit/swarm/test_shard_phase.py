"""What a member of a committee computes, gives away and blames: one question at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_envelope, make_node_ids

from qres_core import ACCEPT, Blame, Fault, NodeId, reject
from qres_core.errors import QresError, RoundError
from qres_core.swarm.contributions.aggregation import Sharded
from qres_core.swarm.ledger.merkle import leaf_hash
from qres_core.swarm.ledger.messages import Member
from qres_core.swarm.ledger.results import CANNOT_MERGE, RAISED
from qres_core.swarm.shards.checks import ShardChecks
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import (
    ASK,
    PULL,
    MergedShard,
    ShardPart,
    encode_ask,
)
from qres_core.swarm.shards.missed import MissedShards
from qres_core.swarm.shards.phase import ShardPhase, is_own_trouble
from qres_core.swarm.shards.tallies import ShardTally

IDS = make_node_ids(12)
PLAN = ShardPlan.of(bytes(32), IDS, 2, 8)
NAME, MADE = b"n" * 32, b"m" * 32
INDEX = 0
COMMITTEE = PLAN.committees[INDEX]
ME = COMMITTEE[0]

LATE = 8.0
"""Seconds after which others step in: more than the patience of the stage."""


@attrs.define(eq=False)
class Stage:
    """A node with a voice, and nobody who hears it."""

    me: NodeId = ME
    said: list[tuple[NodeId, str, bytes]] = attrs.field(factory=list)
    refused: list[Any] = attrs.field(factory=list)
    blamed: list[Any] = attrs.field(factory=list)
    missing: list[Any] = attrs.field(factory=list)

    @property
    def context(self) -> Any:
        return SimpleNamespace(
            node_id=self.me,
            roster=IDS,
            byzantine=2,
            swarm=SimpleNamespace(vote_timeout=4.0, deadline=60.0),
            waits=SimpleNamespace(stretch=1.0),
            kernel=SimpleNamespace(refuse=lambda *what: self.blamed.append(what)),
            nobody_is_missing=lambda held, _number: len(held) == 2,
        )

    @property
    def speaker(self) -> Any:
        return SimpleNamespace(
            context=self.context,
            position=SimpleNamespace(number=1),
            outlet=SimpleNamespace(refuse=lambda *what: self.refused.append(what)),
            make=lambda kind, payload, _now: (kind, payload),
            send=lambda to, made: self.said.append((to, *made)),
            say=lambda kind, payload, _now, **_slot: self.said.append((b"all", kind, payload)),
        )

    def phase(self, tally: ShardTally | None = None) -> ShardPhase:
        parts: Any = SimpleNamespace(
            missing=lambda _members, _index: self.missing, ask=lambda _wanted, _now: math.inf
        )
        return ShardPhase(self.speaker, parts, PLAN, tally or settled())


def settled(result: Any = None, by: int = 3) -> ShardTally:
    tally = ShardTally(PLAN, 1)
    for member in COMMITTEE[-by:]:
        if result is not None:
            tally.take(member, NAME, {INDEX: result})
    return tally


def computes(index: int) -> MergedShard:
    return MergedShard(NAME, index, b"right")


# ── results ───────────────────────────────────────────────────────────────────────────────────────


def test_a_result_is_kept_if_it_is_the_one_that_is_settled() -> None:
    stage = Stage()
    phase = stage.phase(settled(leaf_hash(b"right")))
    phase.name = NAME
    wrong, envelope = MergedShard(NAME, INDEX, b"wrong"), make_envelope()
    phase.take_result(wrong, envelope)
    assert stage.refused == [(envelope, Fault.WRONG_SHARD, Blame.SENDER)]
    assert not phase._results
    phase.take_result(MergedShard(NAME, INDEX, b"right"), envelope)
    assert [made.octets for made in phase._results.values()] == [b"right"]
    assert len(stage.refused) == 1


def test_what_a_node_found_otherwise_than_the_rest_is_replaced() -> None:
    stage = Stage()
    phase = stage.phase(settled(leaf_hash(b"right")))
    own = MergedShard(NAME, INDEX, b"own")
    phase._mine, phase._results, phase._tried = {INDEX: own.leaf}, {INDEX: own}, {INDEX}
    phase.run(NAME, (), computes, 0.0)
    assert INDEX not in phase._results
    assert INDEX not in phase._mine
    assert PULL in {kind for _to, kind, _payload in stage.said}
    same = Stage().phase(settled(leaf_hash(b"own")))
    same._mine, same._results, same._tried = {INDEX: own.leaf}, {INDEX: own}, {INDEX}
    same.run(NAME, (), computes, 0.0)
    assert same._results[INDEX] is own, "control"


def test_who_said_otherwise_than_what_is_settled_is_blamed_once() -> None:
    stage, tally = Stage(), settled(leaf_hash(b"right"))
    tally.take(COMMITTEE[1], NAME, {INDEX: leaf_hash(b"wrong")})
    phase = stage.phase(tally)
    phase.name = NAME
    for _time in range(2):
        phase.heard = True
        phase._blame({INDEX: tally.settled(NAME, INDEX)})
    assert [(what[0], what[2]) for what in stage.blamed] == [(Fault.WRONG_SHARD, COMMITTEE[1])]


@pytest.mark.parametrize(
    ("is_settled", "doubts", "asked"),
    [(False, 0, True), (True, 0, False), (True, 1, True)],
    ids=["to compute", "settled", "settled, and somebody hears too little"],
)
def test_who_serves_first_computes_what_is_not_settled_or_not_heard(
    *, is_settled: bool, doubts: int, asked: bool
) -> None:
    me = PLAN.serving(INDEX)[0]
    phase = Stage(me).phase(settled(leaf_hash(b"right") if is_settled else None))
    phase.name, phase._since = NAME, 0.0
    phase._doubted = {INDEX: set(IDS[:doubts])}
    assert phase._is_asked(INDEX, LATE) is asked


def test_who_does_not_serve_yet_computes_nothing() -> None:
    me = COMMITTEE[-1]
    phase = Stage(me).phase()
    phase.name, phase._since = NAME, 0.0
    assert me not in PLAN.serving(INDEX, 0)
    assert not phase._is_asked(INDEX, 0.0)
    assert phase._is_asked(INDEX, 1000.0), "control"


@pytest.mark.parametrize("seated", [True, False])
def test_who_asks_for_a_result_makes_a_member_of_its_committee_compute_it(*, seated: bool) -> None:
    mine = PLAN.seats(ME)
    others = [index for index in range(len(PLAN)) if index not in mine]
    index = mine[0] if seated else others[0]
    phase = Stage().phase()
    phase.answer(IDS[1], [index], 0.0)
    assert (index in phase._doubted) is seated


def test_only_silent_members_that_serve_are_asked_and_never_oneself() -> None:
    stage = Stage()
    phase = stage.phase()
    phase.name, phase._since, phase._missed = NAME, 0.0, 0.0
    phase._miss([INDEX], 0.0)
    asked = {to for to, kind, _payload in stage.said if kind == PULL}
    assert asked == set(PLAN.serving(INDEX, 0)) - {ME}


@pytest.mark.parametrize(
    ("code", "cause", "own"),
    [
        (CANNOT_MERGE, None, True),
        ("QRES-E602", None, True),
        ("QRES-E604", None, False),
        (RAISED, MemoryError(), True),
        (RAISED, ValueError(), False),
        ("QRES-E508", None, False),
        ("QRES-E508", OSError(), False),
    ],
)
def test_what_one_node_alone_cannot_do_says_nothing_of_the_set(
    code: str, cause: Exception | None, *, own: bool
) -> None:
    error: QresError = RoundError.of(code, "plugins.toy", "no")
    error.__cause__ = cause
    assert is_own_trouble(error) is own


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────

CUT = PLAN.cut(np.arange(8, dtype=np.int32))


def part(*, octets: bytes | None = None) -> ShardPart:
    shard = bytes(CUT.shards[INDEX]) if octets is None else octets
    return ShardPart(MADE, INDEX, shard, CUT.path(INDEX))


@attrs.define(eq=False)
class Parts:
    """Shards of one contribution at a node."""

    stage: Stage
    node: ShardGathering
    here: dict[bytes, Any]


@pytest.fixture(name="parts")
def _parts() -> Parts:
    held = SimpleNamespace(
        contribution=SimpleNamespace(digest=MADE, root=CUT.root),
        envelope=make_envelope(sender=IDS[1]),
    )
    here: dict[bytes, Any] = {MADE: held}
    gathering: Any = SimpleNamespace(get=here.get, firsts=lambda _number: {IDS[1]: held})
    stage = Stage()
    return Parts(stage, ShardGathering(stage.speaker, gathering, PLAN), here)


def judged(parts: Parts, verdict: Any) -> None:
    checks: Any = parts.node._checks
    checks.judge = lambda *_what: (verdict, "zk")


def test_a_part_is_kept_if_its_path_proves_it_and_no_plugin_refuses_it(parts: Parts) -> None:
    envelope = make_envelope()
    judged(parts, reject("wrong-row", blame=Blame.SENDER))
    parts.node._accept(part(), envelope, 0.0)
    judged(parts, ACCEPT)
    parts.node._accept(part(octets=b"other"), envelope, 0.0)
    members = (Member(IDS[1], MADE),)
    assert parts.node.missing(members, INDEX) == [(MADE, INDEX)]
    assert [what[1:3] for what in parts.stage.refused] == [
        ("wrong-row", Blame.SENDER),
        (Fault.UNPROVEN_CONTRIBUTION, Blame.SENDER),
    ]
    parts.node._accept(part(), envelope, 0.0)
    assert parts.node.missing(members, INDEX) == []
    assert len(parts.stage.refused) == 2


def test_a_node_waits_for_contributions_and_for_the_shards_that_it_serves(parts: Parts) -> None:
    context: Any = parts.node._context
    for everybody, whole, full in ((True, True, True), (False, True, False), (True, False, False)):
        context.nobody_is_missing = lambda _held, _number, all_=everybody: all_
        parts.node._masks[MADE] = parts.node._serving if whole else 0
        assert parts.node._is_full is full


def test_a_set_is_available_if_all_its_members_are(parts: Parts) -> None:
    holders: Any = parts.node.holders
    holders.available = lambda digest: digest == MADE
    good, bad = Member(IDS[1], MADE), Member(IDS[2], bytes(32))
    for members, there in (((good,), True), ((good, bad), False), ((bad,), False)):
        candidate: Any = SimpleNamespace(members=members)
        assert parts.node.available(candidate) is there


def test_a_part_is_given_to_a_member_of_its_committee_not_too_often(parts: Parts) -> None:
    asked = make_envelope(kind=ASK, sender=COMMITTEE[1], payload=encode_ask([(MADE, INDEX)]))
    unknown = make_envelope(
        kind=ASK, sender=COMMITTEE[1], payload=encode_ask([(bytes([9]) * 32, INDEX)])
    )
    noted: list[Any] = []
    missed: Any = parts.node._missed
    missed.note = lambda peer, shard: noted.append((peer, shard))
    parts.node.answer(unknown, 0.0)
    assert (parts.stage.said, noted) == ([], []), "nobody made it"
    parts.node.answer(asked, 0.0)
    assert (parts.stage.said, noted) == ([], [(COMMITTEE[1], (MADE, INDEX))])
    judged(parts, ACCEPT)
    parts.node._accept(part(), make_envelope(), 0.0)
    for _time in range(2):
        parts.node.answer(asked, 0.0)
    assert [to for to, _kind, _payload in parts.stage.said] == [COMMITTEE[1]]
    parts.node.answer(asked, 1000.0)
    assert len(parts.stage.said) == 2


@pytest.mark.parametrize("kind", ["contribution", "shard/odd", "dialogue/talk/0"])
def test_what_is_no_message_of_shards_is_left_to_others(kind: str) -> None:
    """And nothing looks at it."""
    sharding: Any = object()
    assert not Sharded.take(sharding, make_envelope(kind=kind), 0.0, waits=False)


def test_what_was_not_refused_is_looked_at() -> None:
    speaker: Any = Stage().speaker
    checks = ShardChecks(speaker, PLAN)
    assert not checks.refuses((MADE, INDEX))


# ── what is missed ────────────────────────────────────────────────────────────────────────────────


def missed(me: NodeId, here: Callable[[bytes], Any], *, at_hand: bool = False) -> MissedShards:
    gathering: Any = SimpleNamespace(get=here, firsts=lambda _number: {})
    holders: Any = SimpleNamespace(
        at_hand=lambda _digest: at_hand,
        short=lambda _digest: [INDEX],
        of=lambda _digest, _index: [],
    )
    return MissedShards(Stage(me).context, gathering, PLAN, holders)


@pytest.mark.parametrize(
    ("there", "at_hand", "asks"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_a_member_asks_for_shards_of_what_somebody_made_and_too_few_hold(
    *, there: bool, at_hand: bool, asks: bool
) -> None:
    asking = missed(ME, lambda _digest: "made" if there else None, at_hand=at_hand)
    named: Any = SimpleNamespace(members=(Member(IDS[1], MADE),))
    asking.questions([named], 1, 0.0)
    assert bool(asking.questions([named], 1, 100.0)) is asks


def test_a_shard_is_fetched_for_oneself_or_more_than_f_others() -> None:
    me = next(who for who in IDS if who not in PLAN.serving(INDEX, 1))
    node = missed(me, lambda _digest: "made")
    others = [who for who in IDS if who != me]
    assert [node._is_asked(INDEX, others[:count]) for count in (1, 2, 3)] == [False, False, True]
    assert node._is_asked(INDEX, [me])
    first = missed(PLAN.serving(INDEX, 1)[0], lambda _digest: "made")
    assert first._is_asked(INDEX, others[:1])
