"""The example configurations start, run and do what their comments say."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from qres_core.kernel.config import load
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["digits", "large"])
def test_example(name: str) -> None:
    config = load(EXAMPLES / f"{name}.toml", sections={"simulation": Scenario})
    scenario: Scenario = attrs.evolve(config.sections["simulation"], rounds=2)
    result = simulate(config, scenario)
    assert len(result.closed) == 2
    assert result.unanimous
    assert all((record.alignment or 0) > 0.9 for record in result.closed)
