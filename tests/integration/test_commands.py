"""What a command of another distribution asks of a configuration, and of an exported model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qres_core import commands
from qres_core.errors import ConfigError, ModelError
from qres_core.swarm.storage.model_file import SwarmModel
from qres_core.training import Trainer

CANCER = Path(__file__).parents[2] / "examples" / "cancer.toml"


@pytest.mark.parametrize("momentum", ["0.0", "0.9"])
def test_the_trainer_that_a_file_names_is_given_as_it_was_made(momentum: str) -> None:
    named = commands.trained(CANCER, settings=[f"trainer.momentum={momentum}", "swarm.scale=-3"])
    assert type(named.trainer).__name__ == "Logistic"
    assert isinstance(named.trainer, Trainer)
    assert (named.first.size, named.scale) == (31, -3)


def test_a_file_that_names_no_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="QRES-E101"):
        commands.trained(tmp_path / "none.toml")
    (tmp_path / "bare.toml").write_text('[swarm]\nname = "x"\nnodes = 4\nquorum = 4\n')
    with pytest.raises(ConfigError, match="QRES-E103"):
        commands.trained(tmp_path / "bare.toml")


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_an_exported_model_is_read(tmp_path: Path, form: str) -> None:
    if form == "safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"model.{form}"
    vector = np.array([1, -2, 3], dtype=np.int32)
    SwarmModel("weather", 4, -3, vector).save(path)
    found = commands.read_model(path)
    assert (found.swarm, found.step, found.scale) == ("weather", 4, -3)
    np.testing.assert_array_equal(found.vector, vector)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="QRES-E605"):
        commands.read_model(path)
