from __future__ import annotations

import pytest

from qres_core.contract.errors import ConfigError
from qres_core.kernel.config import parse
from qres_core.kernel.goal import Goal


def swarm(until: str) -> dict[str, object]:
    return {"name": "g", "nodes": 1, "byzantine": 0, "quorum": 1, "until": until}


@pytest.mark.parametrize(
    ("text", "reaching", "missing"),
    [
        ("accuracy >= 0.95", 0.95, 0.9499),
        ("accuracy > 0.95", 0.951, 0.95),
        ("loss<=1e-3", 1e-3, 1.1e-3),
        ("loss < -2", -2.5, -2.0),
    ],
)
def test_a_goal_is_reached_at_its_bound(text: str, reaching: float, missing: float) -> None:
    parse({"swarm": swarm(text)}, source="test")
    goal = Goal.parse(text)
    assert goal is not None
    assert goal.is_reached({goal.figure: reaching, "other": 0.0})
    assert not goal.is_reached({goal.figure: missing})
    assert not goal.is_reached({goal.figure: float("nan")})
    assert not goal.is_reached({"other": reaching})


def test_no_goal_is_no_goal() -> None:
    assert Goal.parse("") is None


@pytest.mark.parametrize(
    "text",
    ["accuracy", "accuracy = 0.9", "accuracy == 0.9", "0.9 <= accuracy", "accuracy >= 95%",
     "accuracy >= high", "accuracy >= nan", "accuracy >= 0.9 and loss < 1", " ", "accuracy >= .9"],
)  # fmt: skip
def test_what_is_no_goal_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"swarm\.until"):
        parse({"swarm": swarm(text)}, source="test")
