"""Clients with their own keys, as in a deployment, and replies of another form than ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from click.testing import CliRunner
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from qres_flower import QresMod, QresStrategy
from small_flower import MemoryGrid, client, honest, initial, write

from qres_core.cli.app import app
from qres_core.errors import OptionError

pytestmark = pytest.mark.usefixtures("in_run")


def deployed(folder: Path) -> tuple[Path, MemoryGrid]:
    """The server's configuration, and four clients whose operators name one each."""
    run, roster = CliRunner(), list[str]()
    for index in range(4):
        key = str(folder / f"{index}.key")
        made = run.invoke(app, ["keygen", key, "--no-passphrase", "--json"])
        roster.append(json.loads(made.output)["public_key"])
    listed = f"roster = {json.dumps(roster)}"
    server = write(folder / "server.toml", "[plugins.median]\nf = 1", swarm=listed)
    for index in range(4):
        key = f'[plugins.ed25519]\nkey = "{folder}/{index}.key"'
        text = server.read_text("utf-8").replace("[plugins.ed25519]", key)
        (folder / f"{index}.toml").write_text(text, "utf-8")
    clients = {100 + at: client(honest(at), folder / "no.toml", seed=None) for at in range(4)}
    configs = {100 + at: {"qres": str(folder / f"{at}.toml")} for at in range(4)}
    return server, MemoryGrid(clients, configs)


def test_the_operator_of_a_node_names_its_key(tmp_path: Path) -> None:
    config, grid = deployed(tmp_path)
    strategy = QresStrategy(FedAvg(), config)
    strategy.start(grid, initial(), num_rounds=1)
    assert strategy.rounds[0].merged == (100, 101, 102, 103)
    assert strategy.rounds[0].left_out == {}


def test_one_key_counts_once(tmp_path: Path) -> None:
    config, grid = deployed(tmp_path)
    grid.node_configs = {**grid.node_configs, 103: grid.node_configs[102]}
    strategy = QresStrategy(FedAvg(), config)
    strategy.start(grid, initial(), num_rounds=1)
    assert len(strategy.rounds[0].merged) == 3
    (reason,) = strategy.rounds[0].left_out.values()
    assert "QRES-E604 round.nonce" in reason


def test_an_experiment_numbers_its_clients(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    strategy = QresStrategy(FedAvg(), config, lab_seed=5)
    grid = MemoryGrid.of([honest(at) for at in range(4)], config)
    grid.node_configs = {**grid.node_configs, 103: {}}
    strategy.start(grid, initial(), num_rounds=1)
    assert "node-config.partition-id" in strategy.rounds[0].left_out[103]


@pytest.mark.parametrize(
    "frames", [[b"one", b"two", b"three"], ["text"], "text", [], [b"no frame"]]
)
def test_a_reply_of_another_form_is_left_out(tmp_path: Path, frames: Any) -> None:
    config = write(tmp_path / "qres.toml")
    strategy = QresStrategy(FedAvg(), config, lab_seed=5)
    grid = MemoryGrid.of([honest(at) for at in range(4)], config)

    def on_the_way(replies: list[Message]) -> list[Message]:
        for reply in replies:
            if reply.metadata.src_node_id == 103:
                record = ConfigRecord({} if frames == [] else {"frames": frames})
                reply.content = RecordDict({"qres": record})
        return replies

    grid.on_the_way = on_the_way
    result = strategy.start(grid, initial(), num_rounds=1)
    assert strategy.rounds[0].merged == (100, 101, 102)
    assert 103 in strategy.rounds[0].left_out
    # The figures of the others are put together without it.
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx(0.5)


def test_messages_that_are_not_of_rounds_pass(tmp_path: Path) -> None:
    asked = Message(RecordDict(), 7, "query")
    mod = QresMod(write(tmp_path / "qres.toml"), lab_seed=5)
    context = Context(1, 7, {"partition-id": 0}, RecordDict(), {})
    assert mod(asked, context, lambda message, _context: message) is asked


def test_what_is_no_strategy_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path / "qres.toml")
    with pytest.raises(OptionError, match="QRES-E105"):
        QresStrategy(object(), config, lab_seed=5)
    with pytest.raises(OptionError, match="QRES-E105"):
        QresStrategy(FedAvg(), config, lab_seed=5, reference=lambda arrays: arrays)
