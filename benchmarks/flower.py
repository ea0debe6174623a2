"""Flower alone and with our defences around it, in one run: accuracy, lines, import and masks.

Run it where Flower is installed, after ``make flower``:
``PYTHONPATH=benchmarks .venv-flower/bin/python -P benchmarks/flower.py [--quick] [--json]``.
Elsewhere it says so and measures nothing.

The app is ``examples/flower_numpy``, as ten clients in one process; three of them may lie. One that
flips the sign sends what is as far on the other side of the model, four times. ALIE sends what lies
just inside the spread of the others: the liars see all that honest clients send. The last sends
NaN. Flower's Krum is told how many lie. Without ``--quick``, the last figures are of secure
aggregation, and take minutes.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from harness import Record, child_cpu_seconds, main

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "examples/flower_numpy"
NODES, LIARS, SEED = 10, 3, 1
CONFIG = f"""
[swarm]
name = "benchmark"
nodes = {NODES}
byzantine = {{byzantine}}
quorum = {{quorum}}

[plugins.ed25519]

[plugins.replay]

{{rule}}
"""
MEAN = CONFIG.format(byzantine=0, quorum=NODES, rule="[plugins.mean]")
ROBUST = CONFIG.format(
    byzantine=LIARS,
    quorum=NODES - LIARS,
    rule=f"[plugins.nnm]\nf = {LIARS}\n\n[plugins.trimmed_mean]\nf = {LIARS}",
)
Arrays = dict[str, np.ndarray]
Lie = Callable[[Arrays, list[Arrays]], Arrays]


def flipped(before: Arrays, honest: list[Arrays]) -> Arrays:
    """The step of the honest in the other direction, four times as long."""
    means = {name: np.mean([each[name] for each in honest], axis=0) for name in before}
    return {name: before[name] - 4 * (means[name] - before[name]) for name in before}


def a_little(before: Arrays, honest: list[Arrays]) -> Arrays:
    """ALIE: as far from the mean as many honest ones are."""
    supporters = NODES // 2 + 1 - LIARS
    far = NormalDist().inv_cdf((NODES - LIARS - supporters) / (NODES - LIARS))
    return {
        name: np.mean([each[name] for each in honest], axis=0)
        - far * np.std([each[name] for each in honest], axis=0)
        for name in before
    }


def nothing(before: Arrays, honest: list[Arrays]) -> Arrays:
    """No number at all."""
    del honest
    return {name: np.full_like(array, np.nan) for name, array in before.items()}


LIES: Mapping[str, Lie | None] = {
    "nobody": None,
    "sign flip": flipped,
    "ALIE": a_little,
    "NaN": nothing,
}


def arrays_of(content: Any) -> Arrays:
    """The arrays of a message, by name."""
    return {name: each.numpy().copy() for name, each in content["arrays"].items()}


class OneProcess:
    """A grid whose nodes are in this process; the liars train last, and see what others made."""

    def __init__(self, lie: Lie | None, mods: list[Any]) -> None:
        self.flwr = importlib.import_module("flwr.app")
        client_app = importlib.import_module("digits_numpy.client_app")
        self.made: list[Arrays] = []
        self.lie = lie
        self.app = importlib.import_module("flwr.clientapp").ClientApp(mods=mods)
        self._train = client_app.train
        self.app.train()(self.train)
        self.app.evaluate()(client_app.evaluate)

    def train(self, message: Any, context: Any) -> Any:
        """An honest client, or a liar that trains and then sends something else."""
        reply = self._train(message, context)
        if self.lie is None or context.node_config["partition-id"] < NODES - LIARS:
            self.made.append(arrays_of(reply.content))
            return reply
        lied = self.lie(arrays_of(message.content), self.made)
        made = {name: self.flwr.Array(each.astype(np.float32)) for name, each in lied.items()}
        reply.content["arrays"] = self.flwr.ArrayRecord(made)
        return reply

    def get_node_ids(self) -> list[int]:
        """The nodes, by their partition."""
        return list(range(NODES))

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """What the nodes reply, the honest first."""
        del timeout
        self.made, replies = [], []
        for message in sorted(messages, key=lambda each: each.metadata.dst_node_id):
            node = message.metadata.dst_node_id
            message.content = self.flwr.RecordDict(dict(message.content.items()))
            place = {"partition-id": node, "num-partitions": NODES}
            settings = {"local-epochs": 2}
            state = self.flwr.RecordDict()
            context = self.flwr.Context(1, node, place, state, settings)
            replies.append(self.app(message, context))
        return replies


def accuracy(kind: str, lie: Lie | None, rounds: int, folder: Path) -> float:
    """Of the last model on what no honest client trained on; of one that is no number, 0."""
    flwr = importlib.import_module("flwr.app")
    task = importlib.import_module("digits_numpy.task")
    strategies = importlib.import_module("flwr.serverapp.strategy")
    ours = importlib.import_module("qres_flower")
    np.random.seed(SEED)  # noqa: NPY002 - the app draws from it
    mods: list[Any] = []
    some = {"min_available_nodes": NODES, "fraction_evaluate": 0.0}
    if kind == "Krum of Flower":
        strategy = strategies.Krum(num_malicious_nodes=LIARS, **some)
    else:
        strategy = strategies.FedAvg(**some)
    if kind in {"ours", "ours, mean"}:
        path = folder / f"{kind}.toml"
        path.write_text(ROBUST if kind == "ours" else MEAN, "utf-8")
        strategy = ours.QresStrategy(strategy, path, lab_seed=SEED)
        mods = [ours.QresMod(path, lab_seed=SEED)]
    grid = OneProcess(lie, mods)
    first = {name: flwr.Array(each) for name, each in task.first_model().items()}
    result = strategy.start(
        grid,
        flwr.ArrayRecord(first),
        num_rounds=rounds,
        train_config=flwr.ConfigRecord({"lr": 0.5}),
    )
    model = {name: each.numpy() for name, each in result.arrays.items()}
    if not model or not all(np.isfinite(each).all() for each in model.values()):
        return 0.0
    examples = [task.load_data(node, NODES) for node in range(NODES)]
    x, y = (np.concatenate([each[part] for each in examples]) for part in (2, 3))
    return float(task.test(model, x, y)[1])


def table(rounds: int) -> list[Record]:
    """The accuracy under every attack."""
    sys.path.append(str(APP))
    identity = importlib.import_module("flwr.supercore.task_identity").TaskIdentity
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    identity.run_id, identity.task_id, identity.node_id = 1, 1, 1
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as name:
        found = {
            (attack, kind): accuracy(kind, lie, rounds, Path(name))
            for attack, lie in LIES.items()
            for kind in ("FedAvg", "Krum of Flower", "ours")
        }
        mean = accuracy("ours, mean", None, rounds, Path(name))
    apart = abs(mean - found["nobody", "FedAvg"])
    records.append(Record("nobody lies: FedAvg and our mean, apart", 100 * apart, "%", 0.5))
    for (attack, kind), value in found.items():
        least = 100 * found["nobody", "ours"] - 3.0
        held = kind == "ours" and attack != "nobody"
        target = least if held else None
        records.append(Record(f"{attack}: {kind}", 100 * value, "% right", target, at_least=True))
    return records


def lines() -> Record:
    """How many lines of the app the wrapper changes, blank ones left out."""
    text = (APP / "qres.diff").read_text("utf-8").splitlines()
    new = [line for line in text if line.startswith("+") and not line.startswith("+++")]
    return Record("lines that change", float(sum(line != "+" for line in new)), "lines", 10.0)


def imports(repeats: int) -> list[Record]:
    """Seconds of an import, above those of the interpreter."""
    code = {"": "", "qres_flower": "import qres_flower", "flwr": "import flwr.serverapp.strategy"}
    code["QresStrategy"] = "from qres_flower import QresStrategy"
    spent = {
        name: child_cpu_seconds([sys.executable, "-c", text], repeats=repeats)
        for name, text in code.items()
    }
    bare = spent.pop("")
    targets = {"qres_flower": 50.0}
    return [
        Record(f"import of {name}", 1e3 * (each - bare), "ms", targets.get(name))
        for name, each in spent.items()
    ]


def masks() -> list[Record]:
    """Secure aggregation of 50 clients and a million numbers: Flower's SecAgg+, and ours."""
    os.environ["QRES_FLWR_PYTHON"] = sys.executable
    secagg = importlib.import_module("secagg")
    n, d = 50, 10**6
    client, summing, _size = secagg.client_round(n, d, complete=True)
    client += secagg.authentication(n)
    theirs = secagg.flower(n, d)
    return [
        Record(f"secagg, n = {n}, d = 1e6: our client", 1e3 * client, "ms"),
        Record("secagg: client of Flower", 1e3 * theirs["client"], "ms"),
        Record("secagg: Flower's client against ours", theirs["client"] / client, "times"),
        Record("secagg: our server", 1e3 * summing, "ms"),
        Record("secagg: server of Flower", 1e3 * theirs["server"], "ms"),
        Record("secagg: Flower's server against ours", theirs["server"] / summing, "times"),
    ]


def measure(quick: bool) -> list[Record]:  # noqa: FBT001 - an option of the command line
    """All figures; none without Flower."""
    if importlib.util.find_spec("flwr") is None:
        print("Flower is not installed here: see the top of this file", file=sys.stderr)
        return []
    records = [lines(), *table(5 if quick else 15), *imports(1 if quick else 5)]
    return records if quick else [*records, *masks()]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=["flwr", "qres-flower", "qres-core", "numpy"])
