"""Sharded rounds make the models of whole ones, where both draw the same lots.

What a round draws follows from the swarm's head, and the head holds the shared settings, of which
``swarm.aggregation`` is one. So other members train in a round, and the models differ.
"""

from __future__ import annotations

from typing import Any

import pytest

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.kernel.config import parse
from qres_core.kernel.settings import SharedSettings
from qres_core.lab.simulator import simulate


def models(aggregation: str, participants: int, **plugins: Any) -> list[str]:
    raw: dict[str, Any] = {
        "swarm": {
            "name": "x",
            "nodes": 7,
            "byzantine": 1,
            "quorum": 5,
            "aggregation": aggregation,
            "participants": participants,
        },
        "plugins": {"memory": {}, "ed25519": {}, "replay": {}, **plugins},
        "trainer": {"task": {"name": "quadratic", "dimension": 7}},
    }
    config = parse(raw, source="x", sections=SECTIONS)
    result = simulate(config, Scenario(rounds=3, seed=11))
    assert len(result.closed) == 3
    return [record.model_digest for record in result.rounds]


def same(participants: int, **plugins: Any) -> bool:
    both = [models(kind, participants, **plugins) for kind in ("everyone", "sharded")]
    return both[0] == both[1]


DRAWS: Any = [(6, {"median": {"f": 1}}), (0, {"quantize": {"bits": 2}, "median": {"f": 1}})]


@pytest.mark.parametrize(("participants", "plugins"), DRAWS)
def test_with_one_head_the_models_are_the_same(
    participants: int, plugins: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SharedSettings.__attrs_post_init__

    def alike(self: SharedSettings) -> None:
        made(self)
        object.__setattr__(self, "digest", bytes(32))

    if participants:
        assert not same(participants, **plugins), "control: the heads differ, and so the draw"
    monkeypatch.setattr(SharedSettings, "__attrs_post_init__", alike)
    assert same(participants, **plugins)


def test_where_nothing_is_drawn_the_models_are_the_same() -> None:
    assert same(0, median={"f": 1})
