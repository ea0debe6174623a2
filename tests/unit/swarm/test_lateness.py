"""For whom a node waits before it proposes: for quick members always, for late ones at times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids

from qres_core import NodeId
from qres_core.swarm.context.lateness import (
    MOST_VAIN,
    MULTIPLE,
    PROBATION,
    SHARE,
    LateMember,
    Lateness,
)
from qres_core.swarm.machine.steps import Round

IDS = make_node_ids(7)
HONEST, LIARS = IDS[:5], IDS[5:]
QUORUM = 5
MOST = 10.0
VOTING = 0.2
Delays = Mapping[NodeId, float]


@attrs.define
class Proposed:
    """What a proposer did in a round."""

    waited: float  # seconds after all quick members were here
    took: float  # seconds from the beginning
    members: set[NodeId]


def play(lateness: Lateness, now: float, delays: Delays, head: bytes) -> Proposed:
    """One round of a node that always proposes. ``delays``: seconds until a contribution comes."""
    lateness.open(now, IDS)
    here: set[NodeId] = set()
    base = math.inf
    moments = sorted({now + delay for delay in delays.values() if delay < math.inf})
    at = now
    while True:
        here = {who for who, delay in delays.items() if now + delay <= at}
        missing = [who for who in IDS if who not in here]
        if lateness.look(at, here, missing, QUORUM):
            base = at
        if len(here) >= QUORUM and lateness.given_up.issuperset(missing):
            break
        due = [moment for moment in (*moments, lateness.due, now + MOST) if moment > at]
        at = min(due)
        if at >= now + MOST:
            break
    lateness.proposed(at)
    end = at + VOTING
    lateness.look(end, {who for who, delay in delays.items() if now + delay <= end}, (), QUORUM)
    lateness.close(end, head)
    return Proposed(max(0.0, at - base), at - now, here)


def rounds(
    count: int, delays: Callable[[int], Delays], lateness: Lateness | None = None
) -> list[Proposed]:
    """So many rounds; who comes after a round tells the node so with an old head."""
    lateness = Lateness(MOST) if lateness is None else lateness
    found: list[Proposed] = []
    now, late = 0.0, list[tuple[float, NodeId, bytes]]()
    for number in range(count):
        head = number.to_bytes(32, "big")
        for at, who, of in sorted(late):
            if at <= now:
                lateness.too_late(who, of, at)
        late = [item for item in late if item[0] > now]
        chosen = delays(number)
        found.append(play(lateness, now, chosen, head))
        after = found[-1].took + VOTING
        late += [(now + d, who, head) for who, d in chosen.items() if after < d < math.inf]
        now += after
    return found


def alike(slow: float, count: int = 2, usual: float = 1.0) -> Delays:
    """The first take as long as usual, and the last ``count`` so long."""
    few = len(IDS) - count
    return {who: usual if at < few else slow for at, who in enumerate(IDS)}


@given(
    st.lists(
        st.lists(st.sampled_from([0.1, 0.9, 2.5, 4.0, 9.9, math.inf]), min_size=2, max_size=2),
        min_size=1,
        max_size=80,
    )
)
def test_liars_cost_the_others_a_sixth_of_the_time_whenever_they_speak(
    schedule: list[list[float]],
) -> None:
    def delays(number: int) -> Delays:
        return {**dict.fromkeys(HONEST, 1.0), **dict(zip(LIARS, schedule[number], strict=True))}

    found = rounds(len(schedule), delays)
    elapsed = sum(it.took + VOTING for it in found)
    assert sum(it.waited for it in found) <= MOST + SHARE * elapsed + 1e-6
    assert all(set(HONEST) <= it.members for it in found), "honest members are in every set"


@pytest.mark.parametrize("slow", [1.0, 1.5, MULTIPLE])
def test_whoever_is_quick_is_in_every_set(slow: float) -> None:
    assert all(len(it.members) == len(IDS) for it in rounds(200, lambda _number: alike(slow)))


@pytest.mark.parametrize(("slow", "least"), [(3.0, 15), (4.0, 10), (8.0, 4)])
def test_whoever_is_slow_has_its_turn_again_and_again(slow: float, least: int) -> None:
    found = rounds(300, lambda _number: alike(slow))[50:]
    turns = [number for number, it in enumerate(found) if len(it.members) == len(IDS)]
    assert len(turns) >= least
    assert max(b - a for a, b in zip([0, *turns], [*turns, 250], strict=True)) <= 80
    assert sum(it.took for it in found) <= 250 / (1 - SHARE) + MOST


def test_whoever_is_silent_is_waited_for_ever_more_rarely() -> None:
    found = rounds(2000, lambda _number: alike(math.inf))
    long = [number for number, it in enumerate(found) if it.waited > 1.0]
    assert 3 <= len(long) < 30
    assert sum(it.waited for it in found[1000:]) < 0.05 * 1000


@pytest.mark.parametrize("after", [lambda _number: 0.0, lambda number: number % 7 / 100])
def test_whoever_is_back_is_in_every_set_at_once(after: Callable[[int], float]) -> None:
    """Also if it comes at uneven moments shortly after the others."""

    def delays(number: int) -> Delays:
        return alike(math.inf if 10 <= number < 300 else 1.0 + after(number))

    back = rounds(400, delays)[300:]
    assert all(len(it.members) == len(IDS) for it in back[after(300) > 0 :])
    assert all(it.waited < 0.1 for it in back)


def test_it_is_quick_again_after_its_probation() -> None:
    lateness = Lateness(MOST)
    rounds(20, lambda number: alike(9.0 if number == 10 else 1.0), lateness)
    assert lateness.late.keys() == set(LIARS)
    rounds(PROBATION, lambda _number: alike(1.0), lateness)
    assert not lateness.late


def test_who_will_not_contribute_is_not_waited_for() -> None:
    lateness = Lateness(MOST)
    lateness.open(0.0, IDS)
    for liar in LIARS:
        lateness.absent(liar)
    assert lateness.look(1.0, set(HONEST), LIARS, QUORUM)
    assert lateness.given_up == set(LIARS)


def test_before_a_quorum_nobody_is_given_up() -> None:
    lateness = Lateness(MOST)
    lateness.open(0.0, IDS)
    assert not lateness.look(9.0, set(HONEST[:4]), IDS[4:], QUORUM)
    assert not lateness.given_up
    assert lateness.due == math.inf


def test_the_pause_between_vain_waits_has_a_limit() -> None:
    lateness, known = Lateness(MOST), LateMember(MOST)
    for _time in range(40):
        lateness._missed(known, 0.0)
    assert known.vain == MOST_VAIN
    assert known.again == MOST / SHARE * 2.0**MOST_VAIN


@pytest.mark.parametrize(("aborts", "hurries"), [(0, True), (3, True), (4, False), (9, False)])
def test_after_as_many_aborts_as_there_are_members_the_deadline_holds(
    aborts: int, *, hurries: bool
) -> None:
    asked: list[float] = []
    lateness = SimpleNamespace(until=1.0, patience=2.0, mute=set(), late={})
    context = SimpleNamespace(
        roster=IDS[:4],
        proposer=lambda _number: IDS[0],
        lateness=lateness,
        kernel=SimpleNamespace(has=lambda _hook: False),
    )
    fake: Any = SimpleNamespace(
        context=context,
        number=1,
        aborts=aborts,
        times=SimpleNamespace(propose=10.0, vote=13.0),
        choice=SimpleNamespace(expect_by=asked.append),
    )
    Round._expect_proposal(fake, [])
    assert asked == ([6.0] if hurries else [])


def test_who_is_no_member_any_more_is_forgotten() -> None:
    lateness = Lateness(MOST)
    rounds(3, lambda _number: alike(math.inf), lateness)
    assert lateness.late.keys() == set(LIARS)
    lateness.open(100.0, HONEST)
    assert not lateness.late


def seconds(harness: ModuleType, liar: str = "") -> float:
    """What forty heights take three members beside one that is a liar."""

    def rule(message: object) -> Sequence[object] | None:
        kind, sender = getattr(message, "kind", ""), getattr(message, "sender", 0)
        quiet = "choice/proposal" if liar == "no proposals" else "contribution"
        if sender != 3 or not liar or (liar != "silent" and kind != quiet):
            return None
        late = [(0.95 * harness.DEADLINE, getattr(message, "frame", b""))]
        return late if liar == "last moment" else []

    net = harness.Net(4, byzantine=1, rule=rule)
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 15)
    begun = net.now
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 55)
    assert not net.forks([0, 1, 2])
    return float(net.now - begun)


def test_one_member_does_not_slow_the_others_down(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the control the others wait for it, at each height until the deadline."""
    alone = seconds(harness)
    assert all(alone / seconds(harness, liar) >= 0.75 for liar in ("silent", "mute", "last moment"))
    assert alone / seconds(harness, "no proposals") >= 0.5
    monkeypatch.setattr(Round, "_expect_proposal", lambda *_args: None)
    assert alone / seconds(harness, "no proposals") < 0.3, "control: all its turns"
    monkeypatch.setattr(Lateness, "look", lambda *_args: False)
    assert alone / seconds(harness, "silent") < 0.35, "control: it is, in each height"
