"""A box waits at its end for the figures of the last model, and says so when it gives up."""

from __future__ import annotations

import io
from pathlib import Path
from subprocess import Popen
from typing import Any

import attrs
import pytest
from qres_lab.box.fleet import Fleet, NodeProcess
from qres_lab.box.nodes import BoxNode
from qres_lab.commands import swarm

SLOW = 120.0
"""Seconds that a model takes to measure."""


class Running(Popen[bytes]):
    """A process that goes on."""

    def __init__(self) -> None:
        self.returncode, self.stdin = None, io.BytesIO()

    def __del__(self) -> None:
        """Nothing was started."""

    def poll(self) -> None:
        return None


def report(now: float, **changes: Any) -> dict[str, Any]:
    """What a node says that has model 2, whose figures take long."""
    ended = {"closed": True, "step": 2, "round": 5, "model_digest": "cc" * 32, "metrics": {}}
    measured = {"metrics_step": 2, "metrics": {"accuracy": 0.75}} if now >= SLOW else {}
    base = {"state": "running", "step": 2, "model_digest": "cc" * 32, "history": [ended]}
    return {**base, "metrics": {}, "metrics_step": 1, "trainer_error": None, **measured, **changes}


@attrs.define
class Clock:
    """Virtual seconds: half of one passes with each look at the nodes."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@attrs.define
class Never:
    """Nobody presses ctrl-C."""

    clock: Clock

    def wait(self, seconds: float) -> bool:
        self.clock.now += seconds
        return False


def watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **changes: Any
) -> tuple[float, str, str]:
    """When the watch over a swarm of two ended, and what it said."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    seats = [BoxNode(each, Path(), False, "aa", "bb", 1, 2) for each in range(2)]  # noqa: FBT003 - order
    fleet = Fleet(seats, rounds=2)
    fleet.members = [NodeProcess(seat, Running()) for seat in seats]

    def poll(_fleet: Fleet) -> list[str]:
        for member in fleet.members:
            member.take(report(clock.now, **changes))
        return []

    monkeypatch.setattr(Fleet, "poll", poll)
    told: Any = swarm.Told()
    told.event = Never(clock)
    swarm.Watch(fleet, told, "box", None, as_json=False).run()
    said = capsys.readouterr()
    return clock.now, said.out, said.err


def test_the_figures_of_the_last_model_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = watched(monkeypatch, capsys)
    assert SLOW <= ended < SLOW + 1
    assert "model 2  75.0%" in out
    assert "still waiting: every node has model 2, and its figures are computed" in out
    assert "gave up" not in err


def test_without_the_wait_a_slow_model_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control; and the end of the patience is said."""
    monkeypatch.setattr(swarm, "MEASURED_WITHIN", 5.0)
    ended, out, err = watched(monkeypatch, capsys)
    assert 5 <= ended < SLOW
    assert "model 2  not measured" in out
    assert "gave up on the figures of model 2 after 5 s" in err


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics_step": 2, "metrics": {}},
        {"trainer_error": {"method": "evaluate", "error": "no", "round": 5, "times": 1}},
    ],
    ids=["no figures", "evaluate failed"],
)
def test_what_will_never_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("qres_core.cli.live.trainer_error", lambda _failure: "evaluate failed")
    ended, out, _err = watched(monkeypatch, capsys, **changes)
    assert ended < 5
    assert "model 2  not measured" in out


def test_a_failure_of_an_earlier_round_does_not_end_the_wait() -> None:
    seat = BoxNode(0, Path(), False, "aa", "bb", 1, 2)  # noqa: FBT003 - order
    node = NodeProcess(seat, Running())
    earlier = {"method": "evaluate", "error": "no", "round": 4, "times": 1}
    node.take(report(0.0, trainer_error=earlier))
    assert not node.measured(2)
    node.take(report(0.0, trainer_error={**earlier, "round": 5}))
    assert node.measured(2)
    assert node.measured(1)
