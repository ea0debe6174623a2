"""Small Flower apps for tests, each in a package with a name that no other test has."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

_NUMBERS: Final = itertools.count()
SERVER: Final = """
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()
WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@app.main()
def main(grid, context):
    arrays = {"weight": Array(WEIGHT), "bias": Array(np.zeros(2)), "steps": Array(np.array(0))}
    strategy = FedAvg(min_available_nodes=2)
    config = ConfigRecord({"lr": context.run_config["rate"]})
    strategy.start(grid, ArrayRecord(arrays), num_rounds=3, train_config=config)
"""
CLIENT: Final = """
import random

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def arrays_of(msg):
    return {name: each.numpy() for name, each in msg.content["arrays"].items()}


def reply(msg, arrays, **figures):
    metrics = MetricRecord({"num-examples": 10, **figures})
    made = ArrayRecord({name: Array(np.asarray(each)) for name, each in arrays.items()})
    return Message(RecordDict({"arrays": made, "metrics": metrics}), reply_to=msg)


@app.train()
def train(msg, context):
    arrays, config = arrays_of(msg), msg.content["config"]
    part = context.node_config["partition-id"]
    kept = context.state.config_records.setdefault("kept", ConfigRecord({"rounds": 0}))
    kept["rounds"] += 1
    # to the bit on the grid, so that a mean of them has one value
    arrays["weight"] += np.float32(config["lr"] * (part + 1) * kept["rounds"])
    arrays["bias"] = arrays["bias"] + config["server-round"]
    arrays["steps"] = arrays["steps"] + 5
    return reply(msg, arrays, loss=1.0 / kept["rounds"])


@app.evaluate()
def evaluate(msg, context):
    weight = float(arrays_of(msg)["weight"].sum())
    figures = MetricRecord({"eval_loss": weight, "num-examples": 3})
    return Message(RecordDict({"metrics": figures}), reply_to=msg)
"""


def app_in(folder: Path, client: str = CLIENT, server: str = SERVER, more: str = "") -> Path:
    """Write an app, and return its folder; ``more``: lines of ``[tool.flwr.app.config]``."""
    name = f"flower_app_{next(_NUMBERS)}"
    home = folder / name
    package = home / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "client_app.py").write_text(client)
    (package / "server_app.py").write_text(server)
    served = f'serverapp = "{name}.server_app:app"' if server else ""
    (home / "pyproject.toml").write_text(
        f"""
[project]
name = "{name}"
version = "1.0.0"

[tool.flwr.app]
publisher = "tests"

[tool.flwr.app.components]
{served}
clientapp = "{name}.client_app:app"

[tool.flwr.app.config]
rate = 0.25
{more}
"""
    )
    return home
