"""How long a node waits follows what it measured, within bounds, and is its own view."""

from __future__ import annotations

import math
import random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import RoundStatus
from qres_core.kernel.config import SwarmConfig
from qres_core.swarm.context.times import HeightPace, Stopwatch, Times, backoff, next_asked

SWARM = SwarmConfig(name="waits", nodes=4, byzantine=1, quorum=3, deadline=10.0, vote_timeout=2.0)


def test_what_is_configured_is_the_least_and_the_stretch_the_most() -> None:
    pace = HeightPace(8.0, adapts=True)
    found: list[float] = []
    for _ in range(5):
        found.append(pace.stretch)
        pace.lacked()
    assert found == [1.0, 2.0, 4.0, 8.0, 8.0]
    pace.took(3.0)  # three deadlines, until the last contribution came
    assert pace.stretch == 6.0
    pace.took(100.0)
    assert pace.stretch == 8.0
    for expected in (2.0, 1.0, 1.0):
        pace.took(0.1)
        assert pace.stretch == expected
    still = HeightPace(8.0)
    still.lacked()
    still.took(3.0)
    assert still.stretch == 1.0, "the control: a simulated node has no real line"


def test_what_came_too_late_is_given_twice_its_time_though_it_is_here_by_now() -> None:
    """Else each round would be lost as the one before: all is here just when the votes are over."""
    for adapts, expected in ((True, [2.4, 2.4, 8.0]), (False, [1.0, 1.0, 1.0])):
        pace = HeightPace(8.0, adapts=adapts)
        found: list[float] = []
        for pace.came in (36.0, 3.0, 300.0):
            pace.late(30.0)
            found.append(pace.stretch)
        assert found == expected


@pytest.mark.parametrize("learns", [True, False], ids=["guarded", "control"])
def test_contributions_that_come_just_before_the_votes_are_over_cost_few_rounds(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    learns: bool,  # noqa: FBT001 - the case
) -> None:
    """All is here whenever a round is left, so nothing else says that it came too late."""
    monkeypatch.setattr("qres_core.swarm.machine.steps.Round.lacks", False)
    if not learns:
        monkeypatch.setattr(HeightPace, "late", lambda _pace, _deadline: None)

    def slow(message: Any) -> Any:
        if message.kind == "contribution":
            return [(3 * harness.DEADLINE, message.frame)]
        return None

    net = harness.Net(4, byzantine=1, quorum=4, rule=slow)
    for index in range(4):
        net.machine(index).waits.adapts = True
    net.start()
    assert net.run(until=lambda: min(len(node.ended) for node in net.nodes) >= 8)
    lost = [event.outcome.status is RoundStatus.ABORTED for event in net.nodes[0].ended][:8]
    assert not net.forks()
    assert (sum(lost) <= 4) is learns


def test_the_vote_timeout_grows_with_aborts_up_to_its_most() -> None:
    assert [backoff(aborts) for aborts in (0, 2, 14, 15, 1000)] == [1.0, 2.0, 8.0, 8.0, 8.0]


def test_both_times_are_stretched() -> None:
    plain, longer = Times.of(SWARM, 100.0, 1), Times.of(SWARM, 100.0, 1, 3.0)
    assert (plain.attest, plain.propose, plain.vote) == (105.0, 110.0, 113.0)
    assert (longer.attest, longer.propose, longer.vote) == (115.0, 130.0, 139.0)


def test_the_share_is_of_what_came_and_not_of_what_was_waited_for_in_vain() -> None:
    watch = Stopwatch(100.0, 3)
    assert watch.share(200.0, SWARM) == 0.0, "nothing came, and nothing was proposed"
    pace = HeightPace(8.0, adapts=True)
    watch.tell(107.0, pace)
    assert pace.came == 7.0, "it takes so long at least"
    watch.look(101.0, 1, proposed=False)
    watch.look(104.0, 3, proposed=False)
    watch.look(109.0, 4, proposed=False)
    watch.tell(110.0, pace)
    assert pace.came == 4.0
    Stopwatch(200.0, 3).tell(201.0, pace)
    assert pace.came == 4.0, "nothing can be here so soon"
    assert watch.share(109.0, SWARM) == pytest.approx(0.4)
    watch.look(110.0, 3, proposed=True)
    watch.look(111.0, 3, proposed=True)
    assert watch.share(114.0, SWARM) == pytest.approx(1.0), "two steps of two seconds"
    assert watch.proposed == 110.0
    assert math.isinf(Stopwatch(0.0, 3).proposed)


@pytest.mark.parametrize("adapts", [True, False])
def test_a_slow_line_costs_no_height_once_the_nodes_know_it(
    harness: ModuleType,
    adapts: bool,  # noqa: FBT001 - the case
) -> None:
    """Contributions need three deadlines; in the control most rounds are lost."""

    def late(message: Any) -> Any:
        if message.kind == "contribution":
            return [(3 * harness.DEADLINE, message.frame)]
        return None

    net = harness.Net(4, byzantine=1, quorum=4, rule=late)
    for index in range(4):
        net.machine(index).waits.adapts = adapts
    net.start()
    assert net.run(
        until=lambda: (
            min(net.steps()) >= 8 if adapts else min(len(node.ended) for node in net.nodes) >= 20
        )
    )
    assert not net.forks()
    for node in net.nodes:
        aborted = [e.outcome.status is RoundStatus.ABORTED for e in node.ended]
        assert aborted[0], "the first height does not know it"
        after = aborted[[at for at, lost in enumerate(aborted) if not lost][2] :] if adapts else []
        assert not any(after)
        assert adapts or aborted.count(True) > 15


def test_a_node_that_stays_away_makes_nobody_wait_for_ever(harness: ModuleType) -> None:
    net = harness.Net(4, byzantine=1, quorum=3, puppets=(3,))
    for index in range(3):
        net.machine(index).waits.adapts = True
        net.machine(index).waits.stretch = 10.0  # after an outage
    net.start()
    assert net.run(until=lambda: min(net.steps([0, 1, 2])) >= 6)
    assert {net.machine(index).waits.stretch for index in range(3)} == {1.0}


def test_nodes_that_wait_differently_agree(harness: ModuleType) -> None:
    """It decides when a node gives up, and never what it accepts."""
    net = harness.Net(4, byzantine=1)
    net.rule = harness.Chaos(net, random.Random(1), {}, heals=harness.START + 20.0)
    for index, stretch in enumerate((1.0, 3.0, 10.0, 10.0)):
        net.machine(index).waits.adapts = True
        net.machine(index).waits.stretch = stretch
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 6)
    assert not net.forks()
    assert not net.splits()


@pytest.mark.parametrize("waits_for_all", [False, True], ids=["guarded", "control"])
def test_one_liar_that_contributes_late_makes_nobody_wait_longer(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    waits_for_all: bool,  # noqa: FBT001 - the case
) -> None:
    """It comes when the others are about to give it up, later and later."""
    if waits_for_all:
        monkeypatch.setattr(
            "qres_core.swarm.machine.steps.Stopwatch", lambda now, _quorum: Stopwatch(now, 4)
        )

    def late(message: Any) -> Any:
        if message.kind == "contribution" and message.sender == 3:
            stretch = net.machine(0).waits.stretch
            return [(0.9 * harness.DEADLINE * stretch, message.frame)]
        return None

    net = harness.Net(4, byzantine=1, quorum=3, rule=late)
    for index in range(4):
        net.machine(index).waits.adapts = True
    net.wait_for_all()
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 8)
    stretch = max(net.machine(index).waits.stretch for index in range(3))
    assert stretch > 2.0 if waits_for_all else stretch < 1.5


@given(st.integers(1, 400))
def test_of_f_liars_and_an_honest_node_the_honest_one_is_asked_after_log2_f_pauses(f: int) -> None:
    sources = range(f + 1)
    asked: list[int] = []
    for count in range((f + 1).bit_length()):
        before = len(asked)
        asked += next_asked(sources, count)
        assert len(asked) - before <= 2**count
    assert asked == [*sources]  # each once, in their order
    assert next_asked(sources, (f + 1).bit_length()) == sources
    assert not next_asked([], 3)
