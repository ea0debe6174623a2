"""The example starts, runs and shows what it spent; the utility script reaches what it prints."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import attrs
import pytest
from click.testing import CliRunner
from qres_dp import accounting

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.cli.app import app
from qres_core.kernel.config import load
from qres_core.lab.simulator import simulate

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "dp.toml"

pytestmark = [
    pytest.mark.skipif(not EXAMPLE.exists(), reason="not in the repository"),
    pytest.mark.usefixtures("same_noise"),
]


def test_the_example_is_accepted() -> None:
    checked = CliRunner().invoke(app, ["check", str(EXAMPLE)])
    assert checked.exit_code == 0, checked.output
    assert "is consistent" in " ".join(checked.output.split())


def test_the_example_shows_what_it_spent() -> None:
    config = load(EXAMPLE, sections=SECTIONS)
    # A fifth of the nodes: masks take time, and what is spent does not depend on their number.
    swarm = attrs.evolve(config.swarm, nodes=20, quorum=20)
    plugins = {**config.plugins, "dp": {**config.plugins["dp"], "honest": 10}}
    config = attrs.evolve(config, swarm=swarm, plugins=plugins)
    scenario: Scenario = attrs.evolve(config.sections["simulation"], rounds=2)
    result = simulate(config, scenario)
    assert len(result.closed) == 2
    multiplier = accounting.calibrate(8.0, 1e-5, 12)
    shown = [record.plugins["dp"]["epsilon"] for record in result.closed]
    assert shown == [accounting.epsilon(multiplier, number, 1e-5) for number in (1, 2)]


def loaded(name: str) -> ModuleType:
    path = ROOT / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_privacy_of_records_leaves_the_digits_readable() -> None:
    script = loaded("dp_utility")
    names = {setting.name: setting for setting in script.SETTINGS}
    records = names["record, distributed, 10 nodes"]
    assert script.cell(records, 4.0, range(1)).mean > 0.90  # 93.5 over five seeds
    # The controls: a whole node as the unit, and a hundredth of the budget.
    nodes = names["node, distributed, 10 nodes"]
    assert script.cell(nodes, 4.0, range(1)).mean < 0.75
    short = attrs.evolve(records, rounds=10)
    assert script.cell(short, 0.02, range(1)).mean < 0.6


def test_the_plot_needs_nothing_but_itself() -> None:
    script = loaded("dp_utility")
    rows = [
        script.Row(setting, epsilon, 1.0, 0.9, 0.01, None)
        for setting, epsilon in (
            ("record, distributed, 10 nodes", 1.0),
            ("record, distributed, 10 nodes", 8.0),
            ("record, distributed, 10 nodes", math.inf),
            ("record, local, 10 nodes", 2.0),
        )
    ]
    picture = script.plot(rows)
    assert picture.startswith("<svg")
    assert "href" not in picture
    assert "<script" not in picture


def test_the_table_of_encoding_is_made_by_plugins_within_their_budgets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few rounds of a few nodes, with a budget that leaves little noise."""
    script = loaded("dp_encoding")
    for name, value in {"ROUNDS": 8, "AVERAGED": 2, "DIGITS": 44, "BAND": 4}.items():
        monkeypatch.setattr(script, name, value)
    for encoded in (True, False):
        found = script.row(script.Setting("", encoded, turns=2, dropout=0.0), 200.0, [0])
        assert found["spent"] <= 200.0
        assert found["mean"] > 0.7
