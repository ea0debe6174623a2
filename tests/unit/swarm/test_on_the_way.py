"""What is on its way to a node is not asked of others: on a slow line a second one delays it."""

from __future__ import annotations

from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from qres_lab.testing import make_node_ids

from qres_core.swarm.context.times import HeightPace, Stopwatch
from qres_core.swarm.machine.height import Height

LATE = 3
"""Whose contributions come late to node 0, and to nobody else."""


def played(
    harness: ModuleType, usual: float, late: float | None, *, knows: bool, answered: bool = True
) -> tuple[Any, Counter[str]]:
    """Three models; what node 0 asked for.

    ``usual``, ``late``: deadlines that contributions take, and that one; ``None``: it never comes.
    """
    asked = Counter[str]()

    def rule(message: Any) -> Any:
        if message.sender == 0 and message.kind in {"fetch", "fetch-model"}:
            asked[message.kind] += 1
            return None if answered or message.kind == "fetch-model" else []
        if message.kind == "contribution":
            at_issue = (message.sender, message.receiver) == (LATE, 0)
            share = late if at_issue else usual
            return [] if share is None else [(share * harness.DEADLINE, message.frame)]
        return None

    net = harness.Net(4, byzantine=1, quorum=3, rule=rule)
    for index in range(4):
        net.machine(index).waits.adapts = True
    if knows:
        net.machine(0).follow_arrivals(lambda: {net.nodes[LATE].node_id})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert not net.forks()
    assert not net.splits()
    return net, asked


@pytest.mark.parametrize("knows", [True, False], ids=["guarded", "control"])
def test_a_contribution_that_is_coming_is_not_asked_of_others(
    harness: ModuleType,
    knows: bool,  # noqa: FBT001 - the case
) -> None:
    _net, asked = played(harness, 0.3, 0.42, knows=knows)
    assert asked["fetch"] == (0 if knows else 3)
    assert asked["fetch-model"] == 0


@pytest.mark.parametrize("looks", [True, False], ids=["guarded", "control"])
def test_a_node_to_which_all_is_coming_asks_for_none_of_it_in_its_first_round(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    looks: bool,  # noqa: FBT001 - the case
) -> None:
    """Nothing comes to it before the proposal. In the control it takes the line for a quick one."""
    asked = Counter[str]()

    def rule(message: Any) -> Any:
        if message.sender == 0 and message.kind == "fetch":
            asked[message.kind] += 1
        if message.kind == "contribution":
            share = 0.42 if message.receiver == 0 else 0.3
            return [(share * harness.DEADLINE, message.frame)]
        return None

    if not looks:
        patience = HeightPace.patience
        monkeypatch.setattr(
            HeightPace, "patience", lambda pace, timeout, _so_far=0.0: patience(pace, timeout)
        )
    net = harness.Net(4, byzantine=1, quorum=3, rule=rule)
    for index in range(4):
        net.machine(index).waits.adapts = True
    others = {node.node_id for node in net.nodes[1:]}
    net.machine(0).follow_arrivals(lambda: others)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1)
    assert (asked["fetch"] == 0) is looks


@pytest.mark.parametrize("usual", [0.01, 0.3], ids=["quick", "slow"])
def test_a_liar_that_announces_what_never_comes_delays_a_node_by_little(
    harness: ModuleType, usual: float
) -> None:
    """Not at all where contributions are quick, and else by no more than twice their time."""
    made: list[float] = []
    for knows in (True, False):
        net, asked = played(harness, usual, None, knows=knows)
        assert asked["fetch"]
        made.append(net.nodes[0].made_at[max(net.nodes[0].made_at)] - harness.START)
    told, untold = made
    if usual < harness.VOTE_TIMEOUT / 4:
        assert told == untold
    else:
        assert told <= untold + 3 * harness.DEADLINE


@pytest.mark.parametrize("knows", [True, False], ids=["guarded", "control"])
def test_a_model_that_is_coming_is_asked_of_nobody_else(
    harness: ModuleType,
    knows: bool,  # noqa: FBT001 - the case
) -> None:
    """A node that was away asks one member, whose model takes longer than the pauses."""
    asked = Counter[bytes]()
    coming = set[bytes]()

    def rule(message: Any) -> Any:
        if message.sender == 0 and message.kind == "fetch-model":
            asked[message.envelope.payload] += 1
        if message.kind == "contribution":
            return [(0.9 * harness.DEADLINE, message.frame)]
        if message.receiver == 0 and message.kind == "model":
            coming.add(net.nodes[message.sender].node_id)
            return [(0.45 * harness.DEADLINE, message.frame)]
        return None

    net = harness.Net(4, byzantine=1, quorum=3, rule=rule)
    if knows:
        net.machine(0).follow_arrivals(lambda: coming)
    net.machine(0).waits.came = 0.9 * harness.DEADLINE  # it was there before
    net.start([1, 2, 3])
    assert net.run(until=lambda: min(net.steps([1, 2, 3])) >= 2)
    net.start([0])
    assert net.run(until=lambda: net.steps([0])[0] >= 2)
    assert asked
    assert (max(asked.values()) == 1) is knows


def take_all_for_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a node that waits in a round that is over take all that time for its line's."""
    seen: list[float] = []
    look, tell = Stopwatch.look, Stopwatch.tell

    def seeing(watch: Stopwatch, now: float, held: int, *, proposed: bool) -> None:
        seen.append(now)
        look(watch, now, held, proposed=proposed)

    def telling(watch: Stopwatch, _now: float, pace: HeightPace) -> None:
        tell(watch, seen[-1], pace)

    monkeypatch.setattr(Stopwatch, "look", seeing)
    monkeypatch.setattr(Stopwatch, "tell", telling)


@pytest.mark.parametrize("weakened", ["", "turns", "time"], ids=["guarded", "turns", "time"])
def test_a_liar_that_always_announces_keeps_no_node_from_a_model(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, weakened: str
) -> None:
    """A node that comes back hears of the model from a liar that never gives it.

    Without either half of the guard it asks the liar alone, and the swarm, which needs it, stands.
    """
    back, first, second, liar = range(4)
    lies = False
    if weakened == "turns":
        told_by = make_node_ids(4)[liar]
        monkeypatch.setattr(
            "qres_core.swarm.sync.catching_up.longest_ago", lambda _peers, _asked: told_by
        )
    elif weakened == "time":
        take_all_for_the_line(monkeypatch)

    def rule(message: Any) -> Any:
        if lies and message.sender == liar:
            gives = message.receiver == back and message.kind != "model"
            return [(harness.DELAY, message.frame)] if gives else []
        if lies and message.receiver == back and message.kind == "links":
            return [(4 * harness.DELAY, message.frame)]  # the liar's are there before
        return None

    net = harness.Net(4, byzantine=1, quorum=3, rule=rule)
    for index in range(4):
        net.machine(index).waits.adapts = True
    net.machine(back).follow_arrivals(lambda: {net.ids[liar]})
    net.start([first, second, liar])
    assert net.run(until=lambda: min(net.steps([first, second, liar])) >= 2)
    lies, base = True, min(net.steps([first, second]))
    net.start([back])
    told = net.machine(liar)
    told._catching_up._help(net.ids[back], 0, net.now)
    net.apply(net.nodes[liar], told._outlet.take())
    for count in (1, 2):
        word = net.forge(liar, "dialogue/x/y", b"", number=1, model=net.machine(back).head.digest)
        net.inject(word, [back], delay=0.09 * count)
    honest = [back, first, second]
    moved = net.run(until=lambda: min(net.steps(honest)) >= base + 2, events=400_000)
    assert moved is not bool(weakened)


@pytest.mark.parametrize("gives_up", [False, True], ids=["guarded", "control"])
def test_a_node_that_was_late_merges_what_it_has_by_now(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    gives_up: bool,  # noqa: FBT001 - the case
) -> None:
    """The others decided the outcome without it; a model is as large as what it waited for."""
    if gives_up:
        monkeypatch.setattr(
            "qres_core.swarm.machine.height.Height.is_settled",
            lambda height, _now: height.outcome.decision is not None,
        )
    _net, asked = played(harness, 0.01, 0.15, knows=False, answered=False)
    assert asked["fetch"]
    assert (asked["fetch-model"] == 0) is not gives_up


MODEL = b"m" * 32


@pytest.mark.parametrize(
    ("decision", "wanted", "pulls", "settled"),
    [
        (None, None, False, False),  # nothing is decided: it is to say what it found
        (None, MODEL, False, False),
        ("void", None, False, True),
        ("merged", MODEL, False, True),
        ("merged", b"other" * 6, False, False),  # the model is not here
        ("merged", MODEL, True, False),
        ("void", None, True, False),
    ],
)
def test_a_node_has_nothing_left_to_find_out_once_the_decided_model_is_here(
    decision: str | None, wanted: bytes | None, *, pulls: bool, settled: bool
) -> None:
    height: Any = SimpleNamespace(
        outcome=SimpleNamespace(decision=decision, wanted=wanted),
        catching_up=SimpleNamespace(held={MODEL: object()}),
        is_pulling=lambda _now: pulls,
    )
    assert Height.is_settled(height, 0.0) is settled
