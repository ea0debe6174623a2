"""A node that has used up the number of the others' next round waits, and is with them again."""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from qres_lab.testing import make_envelope, make_node_ids

from qres_core import NodeId, RoundInfo, Update
from qres_core.swarm.context.lateness import Lateness
from qres_core.swarm.machine import rounds
from qres_core.swarm.machine.height import Height, is_ahead_alone
from qres_core.swarm.machine.steps import Round
from qres_core.swarm.sync.pace import Pace

DEADLINE = 10.0
SLOW = {"deadline": DEADLINE, "vote_timeout": 2.0}
HEAD, NEXT = bytes(32), bytes(31) + b"\1"
IDS = make_node_ids(5)


def small(index: int, info: RoundInfo) -> Update:
    rng = np.random.default_rng([index, info.height])
    return Update(rng.integers(-(2**16), 2**16, info.dimension).astype(np.int32))


def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node goes on one round after its own, and the others wait for it."""
    monkeypatch.setattr(rounds, "is_ahead_alone", lambda *_arguments: False)
    monkeypatch.setattr(Pace, "past", lambda *_arguments: set())
    monkeypatch.setattr(Lateness, "look", lambda *_arguments: False)


def seconds(net: Any, models: int) -> tuple[list[float], list[frozenset[NodeId]]]:
    """How long the others take for each model, and who is in the sets."""
    first = net.machine(0).step
    limit = (DEADLINE + 5) * (models + 2)
    net.run(until=lambda: net.machine(0).step >= first + models, seconds=limit)
    made = [net.nodes[0].made_at[step] for step in range(first, first + models + 1)]
    sets = [end.outcome.members for end in net.nodes[0].ended if end.outcome.members][-models:]
    took = [after - before for before, after in pairwise(made)]
    return took, [frozenset(found) for found in sets]


@pytest.mark.claim("C-agreement-10")
@pytest.mark.control("C-agreement-10")
@pytest.mark.parametrize("kind", ["everyone", "sharded", "coordinator"])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_that_is_started_again_in_a_round_is_with_the_others_soon(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str, *, guarded: bool
) -> None:
    """The control costs a deadline at every height, and the node is in no set any more."""
    if not guarded:
        unguarded(monkeypatch)
    more: dict[str, dict[str, Any]] = {
        "everyone": {},
        "sharded": {"aggregation": "sharded"},
        "coordinator": {"topology": "coordinator"},
    }
    victim = 2
    net = harness.Net(
        13, byzantine=1, options={**SLOW, **more[kind]}, train=small, initial=range(36)
    )
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2, seconds=600)
    assert net.run(until=lambda: net.machine(victim)._height.round.contributed, seconds=100)
    net.restart(victim)
    took, sets = seconds(net, 8)
    late = sum(net.ids[victim] in members for members in sets[3:])
    assert (max(took[3:]) < DEADLINE / 2) is guarded
    assert (late == 5) is guarded
    assert not any(item.against for node in net.nodes for item in node.witness.evidence)


@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_whose_line_was_slow_for_a_moment_is_with_the_others_soon(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A liar keeps its contribution from node 0 once, and what node 0 fetches is on its way."""
    if not guarded:
        unguarded(monkeypatch)
    net = harness.Net(13, byzantine=1, options=SLOW, train=small, initial=range(36))

    def rule(message: Any) -> Any:
        if message.receiver == 0 and message.kind == "model" and message.now < 1012:
            return [(3.0, message.frame)]
        if message.receiver == 0 and message.round == 3:
            if message.sender == 3 and message.kind == "contribution":
                return ()
            if message.kind == "fetched":
                return [(3.0, message.frame)]
        return None

    net.rule = rule
    net.start()
    gaps, before = list[float](), net.now
    for height in range(1, 11):
        assert net.run(until=lambda: sorted(net.steps())[1] >= height, seconds=60)  # noqa: B023
        gaps.append(net.now - before)
        before = net.now
    assert (max(gaps[6:]) < DEADLINE / 2) is guarded


@pytest.mark.parametrize("restarted", [1, 4, 7])
def test_nodes_started_again_after_the_decision_wait_for_nobody(
    harness: ModuleType, restarted: int
) -> None:
    net = harness.Net(7, byzantine=1, options=SLOW, train=small, initial=range(36))
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2, seconds=60)
    net.rule = harness.drop(kind="outcome/prevote")
    decided = lambda: all(node.machine._height.choice.certificate for node in net.nodes)  # noqa: E731
    assert net.run(until=decided, seconds=60)
    assert len({node.machine.head.height for node in net.nodes}) == 1
    for index in range(restarted):
        net.restart(index)
    net.rule, now = None, net.now
    assert net.run(until=lambda: min(net.steps()) >= 6, seconds=60)
    assert net.now - now < DEADLINE


def after_a_late_decision(
    harness: ModuleType, nodes: int, *, interval: float = 0.0, falls_silent: bool = False
) -> float:
    """A liar keeps back its precommit until all have left the round, at each of its turns.

    Returns how long the height takes that follows the first of these. The liar may be silent there.
    """
    options = {**SLOW, "interval": interval}
    net = harness.Net(nodes, byzantine=1, options=options, train=small, initial=range(12))
    honest, left_out = range(1, nodes), range(nodes - (nodes - 1) // 3, nodes)
    liar, kept = net.ids[0], list[tuple[int, int, bytes]]()
    silent = False

    def rule(message: Any) -> Any:
        machine = net.machine(1)
        at_its_turn = machine._context.proposer(message.round) == liar
        if message.sender == 0 and silent:
            return ()
        if message.sender != 0 or message.envelope.head != machine.head.digest:
            return None
        if message.kind in {"certificate", "links"}:
            return ()
        if at_its_turn and message.kind in {"choice/proposal", "choice/prevote"}:
            return () if message.receiver in left_out else None
        if at_its_turn and message.kind == "choice/precommit":
            if (message.round, message.receiver) not in [item[:2] for item in kept]:
                kept.append((message.round, message.receiver, message.frame))
            return ()
        return None

    net.rule = rule
    net.wait_for_all()
    net.start()
    took, before, step, late = math.inf, net.now, 0, 8
    while step <= late:
        net.run(seconds=0.02)
        if kept and all(net.machine(i).number > item[0] for i in honest for item in kept):
            for _round, receiver, frame in kept:
                net._push(net.now, receiver, "deliver", (liar, frame))
            kept.clear()
            silent, late = falls_silent, min(late, step + 1)
        if min(net.steps(honest)) > step:
            took, before, step = net.now - before, net.now, min(net.steps(honest))
    return took


def test_nodes_that_are_all_ahead_find_out(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They train, and none has spoken: each could take itself for the only one, and wait."""
    monkeypatch.setattr(harness, "TRAINING", 1.0)
    assert after_a_late_decision(harness, 4) < DEADLINE / 2


@pytest.mark.parametrize("guarded", [True, False])
def test_nodes_that_are_all_ahead_find_out_after_the_interval(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Nobody says anything when it is over. A node's own clock has to wake it."""
    monkeypatch.setattr(harness, "TRAINING", 1.0)
    if not guarded:
        original = Round.due

        def forgetful(self: Round, after: float) -> float:
            needed, self.needed = self.needed, -math.inf
            found = original(self, after)
            self.needed = needed
            return found

        monkeypatch.setattr(Round, "due", forgetful)
    took = after_a_late_decision(harness, 7, interval=3.0, falls_silent=True)
    # The silent liar costs a deadline, as in every height.
    assert (took < DEADLINE + 3.0 + 2.0) is guarded


@pytest.mark.parametrize("plugin", ["secagg", "bulk"])
def test_a_number_that_nobody_heard_of_is_opened_again_at_the_next_head(
    harness: ModuleType, plugin: str
) -> None:
    """Dialogues and proofs of the round begin anew there, and nobody is blamed.

    But for the round in which it was started again: the harness keeps no store of plugins.
    """
    from qres_core.kernel.discovery import scan  # noqa: PLC0415

    harness.INSTALLED.setdefault("secagg", scan()["secagg"])
    options = {"secagg": {"bound": 64.0, "patience": 0.2}, "bulk": {}}
    net = harness.Net(7, byzantine=1, options=SLOW, plugins={plugin: options[plugin]}, train=small)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2, seconds=600)
    opened: list[tuple[int, bytes]] = []
    number = net.machine(2).number
    net.restart(2)
    kernel, original = net.machine(2).kernel, net.machine(2).kernel.round_opened

    def watched(info: RoundInfo, *arguments: Any) -> Any:
        opened.append((info.number, info.head))
        return original(info, *arguments)

    kernel.round_opened = watched
    took, sets = seconds(net, 6)
    assert max(took[3:]) < DEADLINE / 2
    assert all(net.ids[2] in members for members in sets[3:])
    assert len(set(opened)) == len(opened), "never twice at one head"
    facts = [item for node in net.nodes for item in node.witness.evidence]
    assert not [item for item in facts if item.against and item.round > number]


def test_who_began_the_round_elsewhere_or_a_later_one_is_past_it() -> None:
    pace = Pace()
    said = [(0, 4, HEAD), (1, 5, HEAD), (2, 5, NEXT), (3, 6, NEXT)]
    for peer, number, head in said:
        pace.heard(
            make_envelope(sender=IDS[peer], kind="contribution", round_number=number, head=head)
        )
    # Of another head, and of a kind that says nothing of a round: neither counts.
    pace.heard(make_envelope(sender=IDS[4], kind="fetch", round_number=9, head=NEXT))
    assert pace.past(5, NEXT) == {IDS[1], IDS[3]}
    assert pace.past(5, HEAD) == {IDS[2], IDS[3]}
    assert pace.past(7, HEAD) == set()
    last = some(head=some(digest=HEAD), next=some(digest=NEXT))
    assert pace.went_on(4, last) == 2  # the fifth round of this head, and the sixth of the next
    assert pace.went_on(3, last) == 4
    pace.heard(make_envelope(sender=IDS[4], round_number=10**6, head=bytes(30) + b"no"))
    assert pace.went_on(4, last) == 2, "nobody knows of that head"
    context = some(head=some(digest=NEXT), roster=IDS, threshold=3)
    assert not pace.are_few_behind(6, context)  # two are, the node itself, and two more
    assert pace.are_few_behind(5, context)


def some(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


@pytest.mark.parametrize(
    ("number", "engine", "begun", "followed", "voted", "decided", "expected"),
    [
        (4, 4, True, False, 4, 4, 5),
        (4, 6, True, False, 6, 6, 7),  # it skipped rounds, and voted there
        (5, 5, False, False, 3, 4, 5),  # it waited: the others decided in the round before
        (5, 5, True, True, 3, 4, 5),
        (5, 0, True, True, 4, 4, 5),  # the set was decided before it was started
        (5, 5, True, True, 5, 4, 6),  # it voted there after all
        (5, 5, False, False, 3, 5, 6),  # the others were quicker than its clock
        (5, 5, False, False, 3, None, 5),
        (5, 5, True, False, 5, 7, 8),  # the others decided in a round that it was not in
        (5, 0, True, False, 4, 7, 8),
    ],
)
def test_the_next_number(
    number: int,
    engine: int,
    voted: int,
    decided: int | None,
    expected: int,
    *,
    begun: bool,
    followed: bool,
) -> None:
    certificate = None if decided is None else some(round=decided)
    choice = some(engine=some(round=engine), certificate=certificate)
    current = some(begun=begun, followed=followed)
    position = some(number=number, voted=voted)
    height = some(round=current, choice=choice, position=position)
    assert Height.next_number.fget(height) == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "certificate", "along", "here", "alone"),
    [
        (6, 4, 1, True, True),
        (5, 4, 1, True, False),  # it goes on with the others
        (6, 4, 2, True, False),  # the rest is too small to decide
        (6, 5, 1, False, True),  # the certificate is of another height: the set's own round counts
        (6, 5, 1, True, False),
        (5, None, 0, True, False),
        (6, None, 0, True, True),
    ],
)
def test_who_is_ahead_alone(
    number: int, certificate: int | None, along: int, *, here: bool, alone: bool
) -> None:
    last = some(head=some(digest=HEAD), chosen=some(origin=4))
    choice = some(certificate=None if certificate is None else some(round=certificate))
    head = some(digest=HEAD if here else NEXT)
    context = some(head=head, roster=IDS, threshold=3)
    pace = some(went_on=lambda _decided, _last: along)
    assert is_ahead_alone(number, last, choice, context, pace) is alone


@pytest.mark.parametrize(
    ("begun", "holds", "few", "begins"),
    [
        (0, False, True, False),
        (2, False, False, True),
        (1, True, False, False),
        (0, True, True, True),
    ],
)
def test_whether_the_others_let_a_round_begin(
    monkeypatch: pytest.MonkeyPatch, begun: int, *, holds: bool, few: bool, begins: bool
) -> None:
    pace, context = Pace(), some(head=some(digest=HEAD), byzantine=1)
    monkeypatch.setattr(pace, "begun", lambda *said: begun if said == (7, HEAD) else 9)
    monkeypatch.setattr(pace, "are_few_behind", lambda number, _context: few and number == 7)
    assert pace.lets_begin(7, context, holds=holds) is begins
