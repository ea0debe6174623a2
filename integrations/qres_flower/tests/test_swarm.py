"""A ClientApp in whole swarms: as Flower's own mean, with workers, after a break, by command."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("flwr", reason="Flower is not installed")
from apps import CLIENT, SERVER, app_in
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAvg
from qres_flower.client import make

from qres_core import fixed
from qres_core.cli import app as commands
from qres_core.cli.options import SECTIONS
from qres_core.kernel.config import parse
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate

NODES = 5
RANDOM = CLIENT.replace(
    'arrays["weight"] +=',
    'arrays["weight"] += np.float32(np.random.rand() + random.random())\n    arrays["weight"] +=',
)


class StoppedError(Exception):
    """Somebody pulls the plug."""


def played(
    app: Path,
    *,
    rule: str = "mean",
    rounds: int = 4,
    workers: int = 1,
    stop_at: int | None = None,
    weight_cap: int = 1,
    **where: Any,
) -> SimulationResult:
    raw = {
        "swarm": {
            "name": "s",
            "nodes": NODES,
            "byzantine": 0,
            "quorum": NODES,
            "insecure": True,
            "weight_cap": weight_cap,
        },
        "plugins": {"memory": {}, rule: {} if rule == "mean" else {"f": 1}},
        "trainer": {
            "entry": "qres_flower.trainers:flower_app",
            "options": {"app": str(app)},
        },
        "simulation": {"rounds": rounds, "seed": 3, "workers": workers},
    }
    config = parse(raw, source="test", sections=SECTIONS)

    def progress(record: RoundRecord) -> None:
        if record.number == stop_at:
            raise StoppedError

    return simulate(config, config.sections["simulation"], progress=progress, **where)


def arrays(result: SimulationResult, app: Path) -> dict[str, Any]:
    trainer, _first = make(str(app), 0, NODES, 3, 0)
    record = trainer.shapes.record(fixed.decode(result.model.vector))
    return {name: each.numpy() for name, each in record.items()}


def by_flower(app: Path, rounds: int) -> dict[str, Any]:
    """The arrays after some rounds of the app's clients with Flower's own FedAvg."""
    client = importlib.import_module(f"{app.name}.client_app").app
    states = {index: importlib.import_module("flwr.app").RecordDict() for index in range(NODES)}
    flwr = importlib.import_module("flwr.app")
    now = {
        "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "bias": np.zeros(2),
        "steps": np.array(0),
    }
    strategy = FedAvg()
    for number in range(1, rounds + 1):
        replies = []
        for index in range(NODES):
            content = flwr.RecordDict()
            content["arrays"] = ArrayRecord({name: Array(each) for name, each in now.items()})
            content["config"] = flwr.ConfigRecord({"lr": 0.25, "server-round": number})
            metadata = flwr.Metadata(1, f"{index}", 1, 2 + index, "", "", 0.0, 1e12, "train")
            place = {"partition-id": index, "num-partitions": NODES}
            context = flwr.Context(1, 2 + index, place, states[index], {"rate": 0.25})
            replies.append(client(flwr.Message(content=content, metadata=metadata), context))
        merged, _figures = strategy.aggregate_train(number, replies)
        assert merged is not None
        now = {name: each.numpy() for name, each in merged.items()}
    return now


@pytest.mark.claim("C-flower-2")
def test_a_swarm_without_a_server_learns_what_flowers_own_mean_does(tmp_path: Path) -> None:
    app = app_in(tmp_path)
    result = played(app)
    assert result.unanimous
    assert len(result.closed) == 4
    mine, theirs = arrays(result, app), by_flower(app, 4)
    assert set(mine) == set(theirs) == {"weight", "bias", "steps"}
    for name, each in mine.items():
        # The first weights are no multiples of the grid's step.
        np.testing.assert_allclose(each, theirs[name], atol=2**-16)
    assert mine["steps"].dtype == np.int64
    assert mine["steps"].shape == ()
    assert mine["steps"] == 4 * 5
    assert mine["weight"].dtype == np.float32
    assert mine["bias"].tolist() == [10.0, 10.0]  # rounds 1 to 4


def digests(result: SimulationResult) -> list[str]:
    return [record.model_digest for record in result.closed]


def test_workers_change_nothing_of_a_client_that_draws_and_keeps(tmp_path: Path) -> None:
    app = app_in(tmp_path, RANDOM)
    alone = digests(played(app, rule="median"))
    assert len(set(alone)) == 4
    assert digests(played(app, rule="median", workers=2)) == alone
    assert digests(played(app, rule="median")) == alone


def test_a_simulation_goes_on_after_a_break_with_what_clients_keep(tmp_path: Path) -> None:
    app = app_in(tmp_path, RANDOM)
    whole = played(app, rule="median")
    with pytest.raises(StoppedError):
        played(app, rule="median", stop_at=2, save=tmp_path / "saved")
    resumed = played(app, rule="median", resume=tmp_path / "saved")
    assert resumed.model_digests == whole.model_digests


@pytest.mark.control("C-flower-2")
def test_weights_of_clients_count_as_far_as_the_swarm_lets_them(tmp_path: Path) -> None:
    client = CLIENT.replace('"num-examples": 10', '"num-examples": 1 + 9 * (figures["part"] == 4)')
    app = app_in(tmp_path, client.replace("loss=1.0", "part=part, loss=1.0"))
    first = np.linspace(-1, 1, 12).reshape(3, 4)
    for cap, shares in ((1, [1, 1, 1, 1, 1]), (4, [1, 1, 1, 1, 4]), (100, [1, 1, 1, 1, 10])):
        moved = arrays(played(app, rounds=1, weight_cap=cap), app)["weight"] - first
        expected = 0.25 * np.average([1, 2, 3, 4, 5], weights=shares)
        np.testing.assert_allclose(moved, expected, atol=2**-15)


def test_an_app_with_our_strategy_and_mod_trains_in_a_swarm_as_without(tmp_path: Path) -> None:
    config = tmp_path / "qres.toml"
    config.write_text(
        """
[swarm]
name = "both"
nodes = 5
byzantine = 1
quorum = 4

[plugins.ed25519]

[plugins.replay]

[plugins.median]
f = 1
"""
    )
    client = CLIENT.replace(
        "ClientApp()", f"ClientApp(mods=[qres_flower.QresMod({str(config)!r}, lab_seed=1)])"
    )
    server = SERVER.replace(
        "    config = ",
        f"    strategy = qres_flower.QresStrategy(strategy, {str(config)!r}, lab_seed=1)\n"
        "    config = ",
    )
    both = [f"import qres_flower\n{text}" for text in (client, server)]
    assert digests(played(app_in(tmp_path, *both))) == digests(played(app_in(tmp_path)))
    # Outside of a swarm the mod lets nothing through that no server of ours asked for.
    app = app_in(tmp_path, *both)
    trainer, first = make(str(app), 0, NODES, 3, 0)
    flwr = importlib.import_module("flwr.app")
    content = flwr.RecordDict({"arrays": trainer.shapes.record(fixed.decode(first))})
    metadata = flwr.Metadata(1, "1", 1, 2, "", "", 0.0, 1e12, "train")
    context = flwr.Context(1, 2, {"partition-id": 0}, flwr.RecordDict(), {})
    reply = trainer.project.client_app()(flwr.Message(content=content, metadata=metadata), context)
    assert "QRES-E604" in reply.error.reason


def test_the_command_trains_an_app_in_five_nodes(tmp_path: Path) -> None:
    app = app_in(tmp_path)
    words = ["simulate", "--trainer", "flower", str(app), "--json", "--seed", "3"]
    (app / "qres.toml").write_text(
        """
[swarm]
name = "five"
nodes = 5
byzantine = 0
quorum = 5
insecure = true

[plugins.memory]

[plugins.mean]

[simulation]
rounds = 2
"""
    )
    run = CliRunner().invoke(commands.app, words, catch_exceptions=False)
    assert run.exit_code == 0, run.output
    report = json.loads(run.stdout)
    assert len(report["rounds"]) == 2
    assert len(set(report["model_digests"])) == 1
    other = CliRunner().invoke(
        commands.app, [*words, "--set", "trainer.options.run_config={rate=0.5}"]
    )
    assert json.loads(other.stdout)["model_digests"] != report["model_digests"]
