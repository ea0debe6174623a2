"""A simulation with any plugin goes on after a break as without it, or says what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compatibility.matrix import answer
from compatibility.modes import MODES, SEED
from compatibility.playing import quadratic

from qres_core.attacks.scenario import Scenario
from qres_core.errors import CompatibilityError
from qres_core.kernel.config import Config
from qres_core.kernel.kernel import Kernel
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate

ROUNDS, BROKEN_AFTER = 4, 2
AGREED = ("centred_clipping", "fedadam", "fedavgm", "fedyogi")
ANEW = "plugins lose their memory of earlier rounds: "


class StoppedError(Exception):
    """Somebody pulls the plug."""


def played(config: Config, engine: str, stop_at: int = 0, **folders: Any) -> SimulationResult:
    def progress(record: RoundRecord) -> None:
        if record.number == stop_at:
            raise StoppedError

    task = quadratic(config.swarm.nodes, config.swarm.scale)
    scenario = Scenario(rounds=ROUNDS, seed=SEED, engine=engine)
    return simulate(config, scenario, task=task, progress=progress, **folders)


def models(result: SimulationResult) -> list[str]:
    return [record.model_digest for record in result.rounds]


def fault(label: str, engine: str, folder: Path) -> str:
    """What is wrong with how a mode goes on; empty where nothing is."""
    config = answer((label,)).config
    with pytest.raises(StoppedError):
        played(config, engine, stop_at=BROKEN_AFTER, save=folder)
    try:
        again = played(config, engine, resume=folder)
    except CompatibilityError as error:  # an account of privacy is not begun anew
        return "" if error.code == "QRES-E317" else str(error)
    if not all(record.closed for record in again.rounds):
        return f"{label}: a height without a model"
    told = [name for note in again.notices if note.startswith(ANEW) for name in _names(note)]
    if models(again) != models(played(config, engine)) and MODES[label].plugin not in told:
        return f"{label}: other models, and nobody is told"
    return ""


def _names(note: str) -> list[str]:
    return note.removeprefix(ANEW).split(", ")


@pytest.mark.parametrize("label", AGREED)
def test_what_follows_from_agreed_models_goes_on(label: str, tmp_path: Path) -> None:
    assert fault(label, "vectorised", tmp_path / "run") == ""


@pytest.mark.parametrize(
    ("label", "closed"),
    [("fedavgm", [True] * 2 + [False] + [True]), ("centred_clipping", [True] * 2 + [False] * 2)],
)
def test_without_its_memory_a_height_is_lost(
    label: str, closed: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the optimisers one height makes no model, with the history none does."""
    monkeypatch.setattr(Kernel, "recall", lambda *_args: None)
    assert fault(label, "vectorised", tmp_path / "run") == f"{label}: a height without a model"
    again = played(answer((label,)).config, "vectorised", resume=tmp_path / "run")
    assert [record.closed for record in again.rounds] == closed


@pytest.mark.long
@pytest.mark.parametrize("label", MODES)
def test_every_mode_goes_on_or_says_what_it_lost(label: str, tmp_path: Path) -> None:
    assert fault(label, "events", tmp_path / "run") == ""
