"""A message that comes when a time-out is due does not swallow the time-out.

A real node looks at its clock once it has waited for messages in vain, and the time-outs of a swarm
fall due together. What the first node says of its own reaches the others just as theirs are due.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest

from qres_core.swarm.machine_state import MachineState

LATE = 0.001
"""Seconds after a time-out is due in which a node looks at its clock; the first node is quicker."""


def forgetful(machine: Any) -> float:
    """The next tick, if what was due when a message came were due no more."""
    now = max(machine._ticked, machine.heard_at)
    due = min(machine._choice.due(), machine._outcome.due())
    return float(min(machine._round.due(now), due if due > now else math.inf))


def drive_as_real_nodes(net: Any, first: int) -> None:
    """Ask each machine for its next tick anew after everything that happens to it."""
    handle, apply = net._handle, net.apply

    def handled(node: Any, life: int, what: str, data: Any) -> None:
        if what == "deliver" and node.machine is not None:
            node.machine.heard_at = net.now
        handle(node, life, what, data)

    def applied(node: Any, effects: Any) -> None:
        apply(node, effects)
        due = node.machine.next_tick + (0.0 if node.index == first else LATE)
        node.tick_due = due = max(due, net.now)  # what was asked for before is forgotten
        if due < math.inf:
            net._push(due, node.index, "tick")

    net._handle, net.apply = handled, applied


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "control"])
def test_votes_that_come_as_time_outs_are_due_do_not_stop_a_swarm(
    harness: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    guarded: bool,  # noqa: FBT001 - the case
) -> None:
    """The first proposer is away, so that all wait for their time-outs."""
    if not guarded:
        monkeypatch.setattr(MachineState, "next_tick", property(forgetful))
        monkeypatch.setattr(MachineState, "heard_at", 0.0, raising=False)
    net = harness.Net(4, byzantine=1)
    away = net.index_of[net.machine(0).proposer(1)]
    here = [index for index in range(4) if index != away]
    net.nodes[away].machine, net.rule = None, lambda message: [(0.0, message.frame)]
    drive_as_real_nodes(net, here[0])
    net.start(here)
    assert net.run(seconds=60.0, until=lambda: min(net.steps()) >= 2) is guarded
