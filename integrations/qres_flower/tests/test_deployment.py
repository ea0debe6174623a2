"""SuperLink and five SuperNodes as processes, with TLS and authentication, and every defence on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from deployed import RULE, SUMS, Deployment, kill, until

from qres_core import Fault


@pytest.fixture
def deployment(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    made = Deployment(tmp_path, *request.param)
    yield made
    made.stop()


def played(deployment: Deployment, roles: tuple[str, ...]) -> Any:
    """What the server found in three rounds; the last node dies while it trains in the third."""
    deployment.prepare(len(roles))
    deployment.superlink()
    nodes = [deployment.supernode(index, role) for index, role in enumerate(roles)]
    out, training = deployment.folder / "out.json", deployment.folder / "kept4.training"
    config = f'qres="{deployment.folder / "server.toml"}" out="{out}"'
    deployment.flwr("run", "app", "here", "--run-config", config)
    until(training.exists)
    kill(nodes[4])  # in the middle of the third round
    until(out.exists)
    return json.loads(out.read_text("utf-8"))


def nears_its_point(found: Any) -> bool:
    expected = np.arange(16) * (1 - 0.5**3)
    return bool(np.abs(np.array(found["w"]) - expected).max() < 2**-12)


def accuses(reasons: list[str]) -> bool:
    return any(str(fault) in why for why in reasons for fault in Fault)


@pytest.mark.long
@pytest.mark.parametrize("deployment", [RULE], indirect=True)
def test_a_node_that_lies_or_dies_is_left_out_by_name(deployment: Deployment) -> None:
    """Three rounds: all five count; two of them do not; one dies while it trains."""
    found = played(deployment, ("honest", "honest", "tampered", "replayed", "killed"))
    first, second, third = found["rounds"]
    assert first == [5, [], ""]
    assert second == [3, ["ed25519:bad-signature", "host:other-round"], ""]
    assert (third[0], third[2]) == (4, "")
    # The straggler is Flower's to report, and nobody accuses it of anything.
    assert not accuses(third[1])
    assert nears_its_point(found)


@pytest.mark.long
@pytest.mark.parametrize("deployment", [SUMS], indirect=True)
def test_a_sum_is_opened_without_a_node_that_lies_or_dies(deployment: Deployment) -> None:
    """The same with secure sums: the others take off the masks of whoever is left out."""
    found = played(deployment, ("honest", "honest", "honest", "tampered", "killed"))
    first, second, third = found["rounds"]
    assert first == [5, [], ""]
    assert second == [4, ["ed25519:bad-signature"], ""]
    assert (third[0], third[2]) == (4, "")
    assert not accuses(third[1])
    assert nears_its_point(found)
