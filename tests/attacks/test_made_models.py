"""Dialogues run once: a model that they made must survive the nodes that made it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from test_agreement import harness  # noqa: F401 - the fixture

from qres_core import DialogueMessage, NodeId, RoundInfo, Send
from qres_core.swarm.messages import OUTCOME_PRECOMMIT


class Once:
    """A dialogue that finishes before the nodes are killed, and never again."""

    over = False
    ready = True

    def __init__(self) -> None:
        self._decided = False

    @property
    def finished(self) -> bool:
        return self._decided and not Once.over

    def start(self) -> list[Send]:
        return [Send(b"here")]

    def receive(self, message: DialogueMessage) -> list[Send]:
        del message
        return []

    def tick(self, now: float) -> list[Send]:
        del now
        return []

    def decided(self, *_agreed: Any) -> list[Send]:
        self._decided = True
        return []


def models_after_a_power_cut(swarm: ModuleType, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """All nodes stop when they have voted for a model, and before it is decided."""

    def open_one(own: NodeId, info: RoundInfo) -> Once:
        del own, info
        return Once()

    held = [True]

    def rule(message: Any) -> Any:
        return () if held[0] and message.kind == OUTCOME_PRECOMMIT else None

    Once.over = False
    patch.setattr(swarm.Talk, "script", staticmethod(open_one))
    net = swarm.Net(4, byzantine=1, plugins={"talk": {}}, rule=rule)
    net.start()
    net.run(seconds=0.4)
    assert all(net.machine(index)._outcome.engine.lock is not None for index in range(4))
    Once.over = True
    for index in range(4):
        net.restart(index)
    held[0] = False
    net.run(seconds=40)
    heads = [net.machine(index).head for index in range(4)]
    assert len({head.digest for head in heads if head.height == heads[0].height}) == 1
    return min(head.height for head in heads), min(net.steps())


def test_a_model_that_was_voted_for_survives_a_power_cut(
    harness: ModuleType,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heights, models = models_after_a_power_cut(harness, monkeypatch)
    assert models == 1, "what was locked became the model"
    assert heights > 1, "and the swarm goes on, in void heights here"


def test_a_model_that_is_not_written_down_stops_the_swarm(
    harness: ModuleType,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: nodes are locked on a model that nobody has any more."""
    monkeypatch.setattr(harness.Notebook, "record_made", lambda *_arguments: None)
    assert models_after_a_power_cut(harness, monkeypatch) == (0, 0)
