"""`qres check` compares a round of training with the reference that others are held to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from qres_core import Update
from qres_core.cli import app
from qres_core.contract.training import TrainerError
from qres_core.training.first_round import FAR, reach

pytest.importorskip("qres_validation")
CONFIG = """
[swarm]
name = "far"
nodes = 4
byzantine = 1
quorum = 3
insecure = true
[plugins.memory]
[plugins.validated_mean]
f = 1
[trainer]
entry = "judged:make"
"""
MODULE = """
import numpy as np
from qres_core import Update


class Judged:
    def __init__(self, steps, pooled, fails):
        self.steps, self.pooled, self.fails = steps, pooled, fails

    def fit(self, vector, round_info):
        return Update(np.full(4, 100, dtype=np.int32))

    def evaluate(self, vector):
        return {}

    def validate(self, vector):
        return 1.0

    def reference(self, vector, round_info):
        if self.fails:
            raise RuntimeError("no examples")
        return np.full(4, 100 * self.steps // 12, dtype=np.int32)


def make(steps=12, pooled=True, fails=False):
    return Judged(steps, pooled, fails), np.zeros(4, dtype=np.int32)
"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    (tmp_path / "judged.py").write_text(MODULE, encoding="utf-8")
    config = tmp_path / "far.toml"
    config.write_text(CONFIG, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*settings: str, plain: bool = False) -> Result:
        given = [word for each in settings for word in ("--set", each)]
        return CliRunner().invoke(
            app.app, ["check", str(config), *given, *([] if plain else ["--json"])]
        )

    return run


def test_a_training_that_is_long_beside_its_reference_is_said_with_the_key(
    check: Callable[..., Result],
) -> None:
    report = json.loads(check("trainer.options.steps=3").output)
    assert report["reach"] == pytest.approx(4.0)
    said = check("trainer.options.steps=3", plain=True).output
    assert "4 times as long as the reference" in said
    assert "plugins.validated_mean.farthest = 0" in said
    assert "would start" in said
    # The control: a reference of as many steps.
    said = check(plain=True).output
    assert "1 times as long" in said
    assert "farthest" not in said
    assert json.loads(check().output)["reach"] == 1.0 < FAR


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.options.pooled=false",
        "plugins.validated_mean.farthest=0",
    ],
)
def test_nothing_is_trained_for_a_rule_that_holds_nobody_to_a_reference(
    check: Callable[..., Result], setting: str
) -> None:
    report = json.loads(check(setting, "trainer.options.fails=true").output)
    assert "reach" not in report
    assert "reach" not in check(setting, "trainer.options.fails=true", plain=True).output


def test_a_reference_that_raises_is_named(check: Callable[..., Result]) -> None:
    result = check("trainer.options.fails=true")
    assert result.exit_code == 2
    assert "QRES-E512" in result.output
    assert "no examples" in result.output


class Judged:
    """Has as much of a trainer as is asked."""

    pooled = True

    def __init__(self, own: int | None, judged: int) -> None:
        self.own, self.judged = own, judged

    def fit(self, _vector: object, _round_info: object) -> Update | None:
        return None if self.own is None else Update(np.full(4, self.own, dtype=np.int32))

    def evaluate(self, _vector: object) -> dict[str, float]:
        return {}

    def reference(self, _vector: object, _round_info: object) -> object:
        return np.full(4, self.judged, dtype=np.int32)


@pytest.mark.parametrize(
    ("own", "judged", "expected"), [(6, 2, 3.0), (0, 2, 0.0), (6, 0, None), (None, 2, None)]
)
def test_reach_is_a_ratio_of_lengths(own: int | None, judged: int, expected: float | None) -> None:
    trainer: object = Judged(own, judged)
    assert reach(trainer, np.zeros(4, dtype=np.int32), 0) == expected  # type: ignore[arg-type]
    assert reach(object(), np.zeros(4, dtype=np.int32), 0) is None  # type: ignore[arg-type]


def test_a_training_that_raises_is_named() -> None:
    trainer: object = Judged(2**40, 1)
    with pytest.raises(TrainerError, match="QRES-E512"):
        reach(trainer, np.zeros(4, dtype=np.int32), 0)  # type: ignore[arg-type]
