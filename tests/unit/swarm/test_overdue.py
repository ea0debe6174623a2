"""A message that comes when a time-out is due does not swallow the time-out.

A real node looks at its clock once it has waited for messages in vain, and the time-outs of a swarm
fall due together. What the first node says of its own reaches the others just as theirs are due.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from qres_core.swarm.machine.rounds import RoundMachine

LATE = 0.001
"""Seconds after a time-out is due in which a node looks at its clock; the first node is quicker."""


def forgetful(machine: Any) -> float:
    """The next tick, if what was due when a message came were due no more."""
    now = max(machine._ticked, machine.heard_at)
    height, repeats = machine._height, [machine._speaker.repeat_at, machine._catching_up.due()]
    due = [height.choice.due(), height.outcome.due(), *repeats]
    return float(min(height.round.due(now), *(at for at in due if at > now), math.inf))


def drive_as_real_nodes(net: Any, first: int, patch: pytest.MonkeyPatch) -> None:
    """Ask each machine for its next tick anew after everything that happens to it."""
    handle, kind = net._handle, type(net.nodes[first].driver)
    carry_out = kind.carry_out

    def handled(node: Any, life: int, what: str, data: Any) -> None:
        if what == "deliver" and node.machine is not None:
            node.machine.heard_at = net.now
        handle(node, life, what, data)

    def carried_out(driver: Any, effects: Any) -> None:
        carry_out(driver, effects)
        index = driver.node.index
        due = driver.machine.next_tick + (0.0 if index == first else LATE)
        driver.due = due = max(due, net.now)  # what was asked for before is forgotten
        if due < math.inf:
            net._push(due, index, "tick")

    net._handle = handled
    patch.setattr(kind, "carry_out", carried_out)


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_votes_that_come_as_time_outs_are_due_do_not_stop_a_swarm(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    guarded: bool,  # noqa: FBT001 - the case
) -> None:
    """The first proposer is away, so that all wait for their time-outs."""
    if not guarded:
        monkeypatch.setattr(RoundMachine, "next_tick", property(forgetful))
        monkeypatch.setattr(RoundMachine, "heard_at", 0.0, raising=False)
    net = harness.Net(4, byzantine=1)
    away = net.index_of[net.machine(0).proposer(1)]
    here = [index for index in range(4) if index != away]
    net.nodes[away].driver, net.rule = None, lambda message: [(0.0, message.frame)]
    net.wait_for_all()
    drive_as_real_nodes(net, here[0], monkeypatch)
    net.start(here)
    assert net.run(seconds=60.0, until=lambda: min(net.steps()) >= 2) is guarded
