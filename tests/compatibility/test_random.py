"""What passes the check runs: random plugins, options and swarms.

A swarm may still fail for a reason nobody could know before: how large the nodes' updates turn out,
or what their examples say of a model. Then the reason is one of those named below.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from compatibility.matrix import in_file_order
from compatibility.modes import MODES
from compatibility.playing import DIMENSION, play
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qres_core import QresError
from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.kernel.solver import solve
from qres_core.swarm.rounds import RoundMachine

EXAMPLES = int(os.environ.get("QRES_RANDOM_SWARMS", "60"))
INSTALLED = scan()
OF_THE_DATA = (
    "QRES-E507 secagg.bound",  # an update is larger than its owner allowed, and nothing clips
    "QRES-E510 plugins.zk.bound",  # the same, and told not to clip
    "QRES-E507 plugins.public_validation",  # the model got worse
    "not endorsed here",
    "QRES-E507 plugins.monna",  # the one node it rests on was late
)
"""Reasons that only training tells."""

SMALL = st.sampled_from([0, 1, 2])
REAL = st.sampled_from([1e-4, 0.01, 0.1, 1.0, 3.0, 40.0, 5000.0])
SIZE = st.sampled_from([0, 3, 4, 5, 8])
OPTIONS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "dp": {
        "mode": st.sampled_from(["local", "distributed", "central"]),
        "clip": REAL,
        "delta": st.sampled_from([1e-8, 1e-3]),
        "epsilon": st.sampled_from([0.5, 8.0, 200.0]),
        "rounds": st.sampled_from([1, 8]),
        "honest": st.sampled_from([0, 1, 2, 4, 7]),
        "noise": st.sampled_from(["independent", "independent", "correlated"]),
        "band": st.just(2),
        "relation": st.sampled_from(["", "add-remove", "replace-one"]),
        "adaptive_quantile": st.sampled_from([0.0, 0.0, 0.5]),
    },
    "zk": {
        "bound": REAL,
        "clip": st.booleans(),
        "security": st.just(40),
    },
    "secagg": {
        "group_size": SIZE,
        "min_size": SIZE,
        "ring": st.sampled_from([32, 64]),
        "bound": REAL,
        "noise_room": st.sampled_from([0.0, 10.0, 10_000.0]),
        "bisect": st.booleans(),
        "weights": st.sampled_from(["equal", "equal", "public"]),
        "max_weight": st.sampled_from([1, 1, 2]),
        "corrupt": st.sampled_from([0.0, 0.1, 0.4]),
        "dropout": st.sampled_from([0.0, 0.1, 0.4]),
        "patience": st.sampled_from([0.5, 2.0, 20.0]),
    },
    "reputation": {"exponent": st.sampled_from([0, 0, 2])},
    "validation": {"norm_factor": st.sampled_from([1.0, 3.0])},
    "public_validation": {},
    "clipping": {"bound": REAL},
    "arc": {"f": SMALL},
    "nnm": {"f": SMALL},
    "bucketing": {"f": SMALL, "size": st.sampled_from([1, 2, 3])},
    "mean": {"unprotected": st.booleans()},
    "median": {"f": SMALL, "weighted": st.booleans()},
    "trimmed_mean": {"f": SMALL},
    "meamed": {"f": SMALL},
    "geometric_median": {"f": SMALL},
    "centred_clipping": {"f": SMALL, "radius": REAL},
    "krum": {"f": SMALL, "select": st.sampled_from([1, 3])},
    "bulyan": {"f": SMALL},
    "mda": {"f": SMALL},
    "dnc": {"f": SMALL, "iterations": st.sampled_from([1, 4])},
    "caf": {"f": SMALL},
    "validated_mean": {"f": SMALL},
}
FAMILY = {mode.plugin: mode.family for mode in MODES.values()}
RULES = sorted(name for name, family in FAMILY.items() if family == "rule" and name in OPTIONS)
OTHERS = sorted(name for name in OPTIONS if name not in RULES)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration file, as tables; often one that is refused."""
    nodes = draw(st.integers(4, 9))
    swarm = {
        "name": "random",
        "nodes": nodes,
        "byzantine": draw(st.sampled_from([0, 0, 1, 2])),
        "quorum": draw(st.integers(max(1, nodes - 4), nodes)),
        "scale": draw(st.sampled_from([-12, -8, -4, 0, 6])),
        "weight_cap": draw(st.sampled_from([1, 1, 1, 2])),
    }
    chosen = [*draw(st.lists(st.sampled_from(OTHERS), unique=True, max_size=4))]
    chosen.append(draw(st.sampled_from(RULES)))
    first = {mode.plugin: mode for mode in reversed(MODES.values())}
    ordered = [mode.plugin for mode in in_file_order([first[name] for name in chosen])]
    if draw(st.sampled_from([False, False, False, True])):
        ordered = draw(st.permutations(ordered))
    plugins: dict[str, Any] = {"memory": {}, "ed25519": {}, "replay": {}}
    for name in ordered:
        kept = {key: draw(one) for key, one in OPTIONS[name].items()}
        if name == "dp" and kept["mode"] != "distributed":
            kept["honest"] = 0
        if name == "dp" and kept["noise"] == "independent":
            del kept["band"]
        plugins[name] = kept
    return {"swarm": swarm, "plugins": plugins}


def accepted(raw: dict[str, Any]) -> Config | None:
    """The configuration, if everything that can be checked before the start is in order."""
    try:
        config = parse(raw, source="random")
        found = solve(assemble(config, INSTALLED), config.swarm, dimension=DIMENSION)
    except QresError:
        return None
    return None if found.problems else config


SEEN: Counter[str] = Counter()


@given(tables())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="QRES_RANDOM_SWARMS" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
def test_what_passes_the_check_runs(raw: dict[str, Any]) -> None:
    config = accepted(raw)
    SEEN["accepted" if config else "refused"] += 1
    if config is None:
        return
    reasons: list[str] = []
    plain = RoundMachine._sit_out

    def noted(machine: RoundMachine, reason: str) -> None:
        reasons.append(reason)
        plain(machine, reason)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoundMachine, "_sit_out", noted)
        patch.setattr("qres_core.lab.simulator.MAX_ABORTED", 2)
        result = play(config, rounds=1)
    reasons += [record.reason for record in result.rounds if not record.closed]
    if not result.closed:
        assert any(known in reason for known in OF_THE_DATA for reason in reasons), reasons
    known = [one for one in reasons if any(code in one for code in OF_THE_DATA)]
    strange = [one for one in reasons if "QRES-E" in one and one not in known]
    assert not strange


def test_the_generator_finds_swarms_of_both_kinds() -> None:
    """Otherwise the test above says nothing."""
    assert SEEN["accepted"] > EXAMPLES / 20
    assert SEEN["refused"] > EXAMPLES / 20
