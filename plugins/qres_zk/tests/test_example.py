"""The example starts, runs, and keeps the liars out."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.cli.app import app
from qres_core.kernel.config import load
from qres_core.lab.simulator import simulate

EXAMPLE = Path(__file__).parents[3] / "examples" / "zk.toml"

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="not in the repository")


def test_the_example_is_accepted() -> None:
    checked = CliRunner().invoke(app, ["check", str(EXAMPLE)])
    assert checked.exit_code == 0, checked.output
    assert "has not been reviewed" in " ".join(checked.output.split())


def test_the_example_learns_from_the_honest_alone() -> None:
    config = load(EXAMPLE, sections=SECTIONS)
    config = attrs.evolve(config, swarm=attrs.evolve(config.swarm, nodes=4, byzantine=1, quorum=3))
    scenario: Scenario = attrs.evolve(config.sections["simulation"], rounds=2, attackers=1)
    result = simulate(config, scenario)
    assert len(result.closed) == 2
