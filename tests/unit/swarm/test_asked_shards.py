"""What asking for shards costs: whoever asks, and however often."""

from __future__ import annotations

import math
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qres_lab.testing import make_node_ids

from qres_core import ACCEPT, NodeId, RoundInfo, RoundStatus, Update, reject
from qres_core.swarm.shards.checks import ShardChecks
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.gathering import ShardGathering
from qres_core.swarm.shards.messages import (
    ASK,
    ASKS_WHO,
    HELD,
    PART,
    ShardPart,
    encode_ask,
    held_name,
)
from qres_core.swarm.shards.missed import MissedShards, ShardOf, pause
from qres_core.swarm.shards.tallies import Holders

LIAR = 1


def varied(index: int, info: RoundInfo) -> Update:
    rng = np.random.default_rng([index, info.height])
    wide = rng.integers(-(2**31) + 1, 2**31, info.dimension, dtype=np.int64)
    return Update(wide.astype(np.int32))


SLOW = {"aggregation": "sharded", "weight_cap": 5, "deadline": 6.0, "vote_timeout": 1.0}


def nothing(*_arguments: object) -> tuple[()]:
    return ()


def never(_context: object) -> float:
    return math.inf


def shard_octets(net: Any, head: bytes, honest: set[int]) -> Counter[int]:
    """Bytes of shards that honest nodes got of honest nodes at a head."""
    octets: Counter[int] = Counter()
    for message in net.sent:
        them = {message.sender, message.receiver}
        if message.kind == PART and message.envelope.head == head and them <= honest:
            octets[message.receiver] += len(message.frame)
    return octets


@pytest.mark.parametrize("guarded", [True, False])
def test_headers_for_half_of_the_members_have_nobody_given_what_it_has(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Nobody can read what the other half says, so all ask who holds the shards."""
    tell: Any = vars(ShardGathering)["_tell"]

    def and_give(parts: Any, peer: NodeId, held: Any, now: float) -> None:
        """What it was: who asks is given all shards of its committees that are here."""
        tell(parts, peer, held, now)
        for digest, its in parts._parts.items():
            for index in set(its) & {*parts._plan.seats(peer)}:
                if held_name(digest) in held:
                    parts._give(its[index], [peer], now)

    if not guarded:
        monkeypatch.setattr(ShardGathering, "_tell", and_give)
        monkeypatch.setattr("qres_core.swarm.shards.availability.pause", never)
    n, f, d = 12, 3, 3000
    net = harness.Net(n, byzantine=f, initial=range(d), options=SLOW, train=varied)
    head, honest = net.machine(0).head.digest, {*range(f, n)}

    def rule(message: Any) -> Any:
        if message.sender >= f or message.kind not in ("contribution", PART):
            return None
        if message.sender == 0:
            return ()  # so that the round lasts until its deadline
        hidden = message.receiver % (f - 1) == message.sender - 1
        return () if hidden and message.kind == "contribution" else None

    net.rule = rule
    net.start()
    assert net.run(until=lambda: min(net.steps([*honest])) >= 1, seconds=40)
    most = max(shard_octets(net, head, honest).values())
    assert (most < 1.2 * (2 * f + 1) * 4 * d) is guarded


@pytest.mark.parametrize("guarded", [True, False])
def test_one_that_asks_who_holds_shards_makes_nobody_say_more_to_all(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It asks each node about one more contribution every quarter of the patience."""

    def to_all(parts: Any, _peer: NodeId, held: Any, now: float) -> None:
        parts._statements._disputed |= {0} if held else set()
        parts._changed = min(parts._changed, now)

    if not guarded:
        monkeypatch.setattr(ShardGathering, "_tell", to_all)

    def said(*, asks: bool) -> tuple[int, int]:
        net = harness.Net(9, byzantine=2, initial=range(99), options=SLOW, train=varied)
        head = net.machine(0).head
        plan = ShardPlan.at(head, 99)

        def silent(message: Any) -> Any:
            return () if message.sender == LIAR and message.kind != HELD else None

        net.rule = silent
        net.start()
        for turn in range(8):
            net.run(seconds=0.26)
            here = [*net.machine(LIAR)._collector.gathering.of_round(1).values()]
            for to in range(9) if asks and turn < len(here) else ():
                seats = plan.seats(net.ids[to])
                pairs = [(here[turn].contribution.digest, index) for index in seats]
                asked = encode_ask([ASKS_WHO, *pairs])
                for _again in range(3):
                    made = net.forge(LIAR, ASK, asked, number=1, model=head.digest)
                    net.inject(made, [to])
        honest = [m for m in net.sent if m.kind == HELD and m.sender != LIAR]
        to_all = sum(len(m.frame) for m in honest if m.receiver != LIAR)
        return to_all, sum(len(m.frame) for m in honest if m.receiver == LIAR)

    quiet, told = said(asks=False)
    asked, answered = said(asks=True)
    assert (asked <= quiet) is guarded
    if guarded:
        assert told < answered < told + 9 * 8 * 400, "each question is answered once"


def a_context(plan: ShardPlan, me: NodeId) -> Any:
    swarm = SimpleNamespace(vote_timeout=4.0, deadline=60.0)
    waits = SimpleNamespace(stretch=1.0)
    return SimpleNamespace(node_id=me, byzantine=plan.needed - 1, swarm=swarm, waits=waits)


def a_gathering(here: Any, found: Any) -> Any:
    """Of a round: who made what is here, and what is found by any digest."""

    def firsts(_number: int) -> Any:
        return here

    def get(_digest: bytes) -> Any:
        return found

    return SimpleNamespace(firsts=firsts, get=get)


@pytest.mark.parametrize("guarded", [True, False])
def test_what_is_asked_for_is_not_looked_at_with_every_message(*, guarded: bool) -> None:
    """A liar asks a reserve for all shards. The reserve looks at them once it would ask itself."""
    members = make_node_ids(40)
    plan = ShardPlan.of(bytes(32), members, 2, 999, silent=20)
    me = members[0]
    digests = [bytes([number]) * 32 for number in range(40)]
    made = dict(zip(members, digests, strict=True))
    here: Any = {
        who: SimpleNamespace(contribution=SimpleNamespace(digest=digest))
        for who, digest in made.items()
    }
    gathering = a_gathering(here, None)
    missed = MissedShards(a_context(plan, me), gathering, plan, Holders(plan))
    missed.questions([], 1, 0.0)
    for digest in digests:
        for index in plan.seats(me):
            missed.note(members[1], (digest, index))
    looked: list[ShardOf] = []

    def lacks(shard: ShardOf) -> bool:
        looked.append(shard)
        return True

    def messages(start: float, stop: float) -> list[ShardOf]:
        found: list[ShardOf] = []
        for number in range(1000):
            now = start + number * (stop - start) / 1000
            if not guarded:
                missed.fetch_at = now
            found = missed.to_fetch(lacks, now) or found
        return found

    assert not messages(0.0, 7.9)
    assert not looked, "nobody fetches before the time at which it would ask itself"
    found = messages(8.1, 8.9)
    serving = [index for index in plan.seats(me) if me in plan.serving(index, 1)]
    assert found == [(digest, index) for digest in digests for index in serving]
    assert (len(looked) <= 2 * len(digests) * len(plan.seats(me))) is guarded


def test_shards_that_are_missed_are_fetched_as_soon_as_if_all_were_looked_at_each_time() -> None:
    """The oracle looks at everything whenever it is asked, within a sixteenth of the patience."""
    members = make_node_ids(10)
    plan = ShardPlan.of(bytes(32), members, 1, 99)
    me, context = plan.committees[0][0], a_context(plan, plan.committees[0][0])
    digest = bytes(32)
    made: Any = SimpleNamespace(contribution=SimpleNamespace(digest=digest))
    gathering = a_gathering({me: made}, made)
    holders = Holders(plan)  # enough hold it: only another member misses it
    for member in members[1:]:
        holders.take(member, {held_name(digest): (1 << len(plan.seats(member))) - 1})
    assert not holders.short(digest)
    for noted in (0.0, 3.0, 7.9, 8.0, 8.3):
        missed = MissedShards(context, gathering, plan, holders)
        fetched, now = 0.0, 0.0
        while not fetched:
            missed.questions([], 1, now)
            if now >= noted:
                missed.note(members[1], (digest, 0))
            if (digest, 0) in missed.to_fetch(lambda _shard: True, now):
                fetched = now
            now += 0.05
        assert max(8.0, noted) - 0.01 <= fetched <= max(8.0, noted) + pause(context) / 4 + 0.06


@pytest.mark.parametrize("guarded", [True, False])
def test_who_gets_a_header_after_the_set_that_names_it_asks_who_holds_its_shards(
    *, guarded: bool
) -> None:
    """A liar sends it to some nodes alone, and tells them alone what it holds.

    In the control nobody looks again at what was not here when a set named it.
    """
    members = make_node_ids(10)
    plan = ShardPlan.of(bytes(32), members, 1, 99)
    digest, found = bytes(32), list[object]()
    gathering: Any = SimpleNamespace(
        firsts=lambda _number: {}, get=lambda _digest: found[0] if found else None
    )
    missed = MissedShards(a_context(plan, members[0]), gathering, plan, Holders(plan))
    named: Any = SimpleNamespace(members=[SimpleNamespace(digest=digest)])
    assert not missed.questions([named], 1, 0.0)
    assert missed.wake <= 2.0
    for now in (2.1, 2.5):
        assert not missed.questions([named], 1, now), "nobody may have made it"
    if not guarded:
        missed._look_at = math.inf
    found.append(object())  # no first one of its sender: the round's others are as many as before
    asked = missed.questions([named], 1, 3.2)
    assert ({index for pairs in asked.values() for _name, index in pairs} != set()) is guarded


def test_a_shard_that_could_not_be_checked_here_is_checked_again() -> None:
    """And what a plugin refused is not: to send it again would cost nothing."""
    members = make_node_ids(4)
    plan = ShardPlan.of(bytes(32), members, 1, 8)
    verdicts = [reject("verify-shard-raised"), reject("wrong-row"), ACCEPT]
    asked = list[object]()

    def verify(*_arguments: object) -> Any:
        asked.append(None)
        return verdicts[len(asked) - 1], "zk"

    info = RoundInfo("ward", 1, bytes(32), 8, 0, members, 3)
    context = a_context(plan, members[0])
    context.kernel = SimpleNamespace(verify_shard=verify, has=lambda _hook: True)
    speaker: Any = SimpleNamespace(context=context, position=SimpleNamespace(info=info))
    checks = ShardChecks(speaker, plan)
    zeros = plan.cut(np.zeros(8, dtype=np.int32))
    part = ShardPart(bytes(32), 0, zeros.shards[0], zeros.path(0))
    envelope: Any = SimpleNamespace(round=1)
    held: Any = SimpleNamespace(contribution=None, envelope=envelope)
    for _twice in range(2):
        assert checks.judge(part, held, envelope, 0.0)[0].reason == "verify-shard-raised"
    assert len(asked) == 1
    assert checks.refuses((bytes(32), 0))
    assert checks.due() == 4.0
    assert not checks.take_again(3.9)
    assert checks.take_again(4.0) == [(part, envelope)]
    for _twice in range(2):
        assert checks.judge(part, held, envelope, 4.0)[0].reason == "wrong-row"
    assert len(asked) == 2
    assert not checks.take_again(1000.0), "it is remembered"


@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_whose_memory_was_short_for_a_moment_holds_its_shards_all_the_same(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """It is needed: one of the two others of a committee is a liar that holds nothing."""
    if not guarded:
        monkeypatch.setattr(ShardChecks, "take_again", nothing)
    net = harness.Net(4, byzantine=1, initial=range(8), options=SLOW, train=varied)
    plan = ShardPlan.at(net.machine(0).head, 8)
    liar, sick = (net.index_of[plan.committees[0][place]] for place in (2, 0))
    unpack, failed = ShardPlan.unpack, list[int]()
    checks = net.machine(sick)._collector.aggregation.parts._checks

    def short(plan: ShardPlan, index: int, octets: bytes) -> Any:
        if len(failed) < 4:
            failed.append(index)
            raise MemoryError
        return unpack(plan, index, octets)

    judged = checks._judged

    def judge(*arguments: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(ShardPlan, "unpack", short)
            return judged(*arguments)

    checks._judged = judge

    def silent(message: Any) -> Any:
        return () if message.sender == liar and message.kind.startswith("shard/") else None

    net.rule = silent
    net.start()
    net.run(until=lambda: net.nodes[sick].ended, seconds=9.0)
    honest = [index for index in range(4) if index != liar]
    assert len(failed) == 4
    closed = [node.ended[0].outcome.status for node in net.nodes if node.ended]
    assert (RoundStatus.CLOSED in closed) is guarded
    evidence = [item for index in honest for item in net.nodes[index].witness.evidence]
    assert not [item for item in evidence if item.against]
