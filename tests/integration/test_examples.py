"""The example configurations start, run and do what their comments say."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.kernel.config import load
from qres_core.lab.simulator import simulate

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LONG = ("dp", "full-stack", "large", "secagg", "zk")
NOISY = {"dp": 0.3, "dp-records": 0.3}
"""How well a model has to follow the honest mean where noise is in it."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.long] if path.stem in LONG else [], id=path.stem)
        for path in sorted(EXAMPLES.glob("*.toml"))
    ],
)
def test_example(path: Path) -> None:
    config = load(path, sections=SECTIONS)
    scenario: Scenario = attrs.evolve(config.sections["simulation"], rounds=2)
    result = simulate(config, scenario)
    assert len(result.closed) == 2
    assert result.unanimous
    least = NOISY.get(path.stem, 0.9)
    assert all((record.alignment or 0) > least for record in result.closed)


@pytest.mark.claim("C-validation-6")
@pytest.mark.long
@pytest.mark.parametrize("attack", ["optimised_ipm", "min_sum"])
def test_validated_mean_learns_from_uneven_data_under_attack(attack: str) -> None:
    config = load(EXAMPLES / "validated.toml", sections=SECTIONS)
    result = simulate(config, attrs.evolve(config.sections["simulation"], attack=attack))
    assert result.unanimous
    assert result.final("accuracy") > 0.88


@pytest.mark.control("C-validation-6")
@pytest.mark.long
def test_what_the_readme_of_validation_says_of_its_limits_holds() -> None:
    """It rests on its held-out examples: where they lack classes a geometric rule is better."""
    text = (ROOT / "plugins/qres_validation/README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - the project's own page
