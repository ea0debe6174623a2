"""What the kernel costs: hooks, start-up, a simulated round.

Run ``python benchmarks/kernel.py [--quick] [--json]``. Times are process times.
"""

from __future__ import annotations

import compileall
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
from harness import Record, child_cpu_seconds, cpu_seconds, main

import qres_core
from qres_core import (
    ACCEPT,
    Claims,
    Contribution,
    Envelope,
    NodeId,
    NodeInfo,
    RoundInfo,
    Standing,
    Updates,
    Vector,
    Verdict,
    hookimpl,
)
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig
from qres_core.transport import Transport

SENDER = b"s" * 32


@attrs.frozen
class Signature:
    """A trivial authenticator."""

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        """A constant."""
        del envelope
        return b"signed"

    @hookimpl
    def authenticate(self, envelope: Envelope, source: NodeId) -> Verdict:
        """Accept."""
        del envelope, source
        return ACCEPT


@attrs.frozen
class Fresh:
    """A trivial replay check."""

    @hookimpl
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        """Accept."""
        del envelope, now
        return ACCEPT


@attrs.frozen
class Reputation:
    """A trivial reputation."""

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        """Full standing."""
        del sender
        return Standing()


@attrs.frozen
class Proof:
    """A trivial proof."""

    claims = Claims(tolerates=None)

    @hookimpl
    def verify(self, contribution: Contribution) -> Verdict:
        """Accept."""
        del contribution
        return ACCEPT


@attrs.frozen
class Rule:
    """A trivial rule, and no transport to speak of."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """The first update."""
        return updates.vectors[0]

    @hookimpl
    def transport(self, node_info: NodeInfo) -> Transport:
        """Never asked."""
        raise NotImplementedError(node_info)


PLUGINS = {"signature": Signature, "fresh": Fresh, "standing": Reputation, "proof": Proof}


def _kernel() -> Kernel:
    classes = {**PLUGINS, "rule": Rule}
    swarm = {"name": "bench", "nodes": 1, "byzantine": 0, "quorum": 1}
    config = parse({"swarm": swarm, "plugins": {name: {} for name in classes}}, source="benchmark")
    installed = {name: Installed.local(name, kind) for name, kind in classes.items()}
    kernel = Kernel.from_config(config, installed=installed)
    kernel.setup(NodeInfo(SENDER, "bench", (SENDER,)))
    return kernel


def _inbound(messages: int) -> float:
    """Microseconds for one message: decode, every check, verify."""
    kernel = _kernel()
    envelope = Envelope("bench", "contribution", 1, b"m" * 32, SENDER, 1, 1, b"p" * 1024)
    frame = kernel.sign(envelope).to_bytes()
    info = RoundInfo("bench", 1, b"m" * 32, 1, 0, (SENDER,), 1)
    contribution = Contribution(SENDER, b"d" * 32, np.ones(1, dtype=np.int32), 1)

    def run() -> None:
        for _message in range(messages):
            kernel.inbound(frame, SENDER, 0.0)
            kernel.verify(contribution, info)

    return 1e6 * cpu_seconds(run, repeats=7) / messages


def _import_cost(statement: str, repeats: int) -> float:
    """Milliseconds an import adds to one of numpy alone."""
    python = [sys.executable, "-P", "-c"]
    numpy = child_cpu_seconds([*python, "import numpy"], repeats=repeats)
    both = child_cpu_seconds([*python, f"import numpy\n{statement}"], repeats=repeats)
    return 1e3 * (both - numpy)


def _thousand_nodes(rounds: int) -> float:
    swarm = {"name": "bench", "nodes": 1000, "byzantine": 0, "quorum": 1000, "insecure": True}
    config = parse({"swarm": swarm, "plugins": {"memory": {}, "mean": {}}}, source="benchmark")
    task = TaskConfig(name="quadratic", dimension=10_000, local_epochs=1, learning_rate=0.2)
    scenario = Scenario(rounds=rounds, engine="vectorised")
    return cpu_seconds(lambda: simulate(config, scenario, task=task), repeats=1)


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure of the kernel."""
    repeats = 5 if quick else 20
    compileall.compile_dir(Path(qres_core.__file__).parent, quiet=2)  # as an installer does
    top = "import qres_core\nfor name in qres_core.__all__: getattr(qres_core, name)"
    families = (
        "\nfrom qres_core.contract.moved import HOMES"
        "\nfor name, home in HOMES.items(): getattr(importlib.import_module(home), name)"
    )
    qres = str(Path(sys.executable).with_name("qres"))
    return [
        Record("inbound pass, five trivial plugins, 1 KiB payload", _inbound(2000), "µs", 60),
        Record(
            "qres --help, whole process",
            child_cpu_seconds([qres, "--help"], repeats=repeats),
            "s",
            0.3,
        ),
        Record(
            "import qres_core, beyond numpy", _import_cost("import qres_core", repeats), "ms", 60
        ),
        Record(
            "every name at the top of qres_core, beyond numpy", _import_cost(top, repeats), "ms", 60
        ),
        Record(
            "every public name, with those of the families, beyond numpy",
            _import_cost(f"import importlib\n{top}{families}", repeats),
            "ms",
            60,
        ),
        Record("1,000 nodes, d = 10,000, 10 rounds, vectorised", _thousand_nodes(10), "s", 10),
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "numpy", "pluggy", "cbor2"))
