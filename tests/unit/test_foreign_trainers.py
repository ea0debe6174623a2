"""Apps of other frameworks, trained by what other distributions bring: ``simulate --trainer``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qres_core.cli import app, simulate
from qres_core.kernel import index
from qres_core.kernel.discovery import TRAINERS_GROUP, Installed, scan

ROOT = Path(__file__).parents[2]
MODULE = """
import numpy as np

from qres_core import Update

asked = []


class Halving:
    def fit(self, vector, round_info):
        return Update(-(vector >> 1))

    def evaluate(self, vector):
        return {}


def begin(app, index, nodes, start=8):
    asked.append((app, index, nodes))
    return Halving(), np.full(3, start, dtype=np.int32)
"""
CONFIG = """
[swarm]
name = "other"
nodes = 4
byzantine = 0
quorum = 4
insecure = true

[plugins.memory]

[plugins.mean]

[simulation]
rounds = 2
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command, where a distribution has the trainer ``half``; with an app in a folder."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def scan_here(*, group: str = "") -> Mapping[str, Installed]:
        if group != TRAINERS_GROUP:
            return scan()
        return scan(path=[str(tmp_path)], trusted=frozenset({tmp_path.resolve()}), group=group)

    for module in (simulate, index):
        monkeypatch.setattr(module, "scan", scan_here)
    folder = tmp_path / "half_dist-1.0.dist-info"
    folder.mkdir()
    head = "Metadata-Version: 2.1\nName: half_dist\nVersion: 1.0\nRequires-Dist: qres-core\n"
    folder.joinpath("METADATA").write_text(head)
    entry = f"[{TRAINERS_GROUP}]\nhalf = half_dist:begin\n"
    folder.joinpath("entry_points.txt").write_text(entry)
    tmp_path.joinpath("half_dist.py").write_text(MODULE)
    (tmp_path / "app").mkdir()

    def play(*words: str) -> Result:
        return CliRunner().invoke(app.app, ["simulate", *words, "--json"])

    yield play
    sys.modules.pop("half_dist", None)


def asked() -> list[Any]:
    found: list[Any] = sys.modules["half_dist"].asked
    return found


def models(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [record["model_digest"] for record in json.loads(result.stdout)["rounds"]]


def test_an_app_is_trained_in_the_swarm_of_its_folder(run: Run, tmp_path: Path) -> None:
    task = "\n[trainer]\nmomentum = 0.9\n\n[trainer.task]\nname = 'digits'\n"
    (tmp_path / "app/qres.toml").write_text(CONFIG + task)
    made = models(run("--trainer", "half", "app"))
    assert len(made) == 2
    assert asked() == [(str(tmp_path.resolve() / "app"), node, 4) for node in range(4)]
    other = models(run("--trainer", "half", "app", "--set", "trainer.options.start=16"))
    assert len({*made, *other}) == 4  # steps are part of a model's name


def test_a_configuration_that_is_named_counts_more_than_that_of_the_folder(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "app/qres.toml").write_text("[")
    (tmp_path / "mine.toml").write_text(CONFIG)
    assert len(models(run("mine.toml", "--trainer", "half", "app", "--rounds", "1"))) == 1


def test_without_a_configuration_there_is_the_minimal_profile(run: Run) -> None:
    result = run("--trainer", "half", "somewhere:else", "--rounds", "1")
    names = {plugin["name"] for plugin in json.loads(result.stdout)["pipeline"]}
    assert names == {"memory", "ed25519", "replay", "median"}
    assert asked()[0] == ("somewhere:else", 0, 7)


def test_without_a_configuration_and_a_trainer_there_is_nothing_to_play(run: Run) -> None:
    result = run()
    assert result.exit_code == 2
    assert "Missing argument 'CONFIG'" in result.output


def test_a_trainer_of_this_project_that_is_not_installed_is_named(run: Run) -> None:
    for name, distribution in index.plugin_index().brought[TRAINERS_GROUP].items():
        result = run("--trainer", name, "app")
        told = str(result.exception) + result.output
        assert f"QRES-E201 --trainer: '{name}' is not installed" in told
        (folder,) = ROOT.glob(f"integrations/{distribution.replace('-', '_')}")
        assert f"./integrations/{folder.name}" in told
    assert index.plugin_index().brought[TRAINERS_GROUP]


def test_a_name_that_nobody_knows_is_refused_with_the_nearest(run: Run) -> None:
    result = run("--trainer", "hal", "app")
    told = str(result.exception) + result.output
    assert "QRES-E801 --trainer: there is no trainer 'hal'" in told
    assert "did you mean 'half'" in told


def test_a_trainer_that_cannot_be_imported_is_named(run: Run, tmp_path: Path) -> None:
    tmp_path.joinpath("half_dist.py").write_text("raise RuntimeError('no')")
    result = run("--trainer", "half", "app")
    assert "QRES-E202 --trainer: half_dist 1.0" in str(result.exception) + result.output
