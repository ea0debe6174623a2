"""Chaos for a few seconds: real nodes, and a control in which one of them forgets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trials.networks import Relays
from trials.routed import Routed

pytest.importorskip("qres_transport_libp2p")

SCRIPTS = Path(__file__).parents[2] / "scripts"
FIRST_A_KILL = 3
"""A seed whose first fault is ``kill -9`` of one node."""


def chaos(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    report = tmp_path / "report.json"
    command = [sys.executable, "-P", str(SCRIPTS / "chaos.py"), "--json", str(report)]
    command += ["--seeds", str(FIRST_A_KILL), "--seconds", "1", "--nodes", "4"]
    command += ["--rule", "median", "--network", "relays", "--keep", str(tmp_path / "kept")]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run([*command, *options], env=environment, timeout=900, check=False)
    (read,) = json.loads(report.read_bytes())
    return done.returncode, read


@pytest.mark.claim("C-transport-8")
@pytest.mark.long
def test_nodes_that_are_killed_stay_of_one_mind(tmp_path: Path) -> None:
    code, report = chaos(tmp_path, "--patience", "600")
    assert report["violations"] == []
    assert code == 0
    assert report["kills"] == 1
    assert report["rounds"] >= 2
    assert report["accepted"] > 0
    assert report["weather_by"].startswith("relays")


def test_it_is_said_how_delay_and_loss_are_made() -> None:
    assert Routed.means == "our router, 100 ms delay and 5% of packets lost"
    assert "no packet is lost" in Relays.means


@pytest.mark.control("C-agreement-6", "C-replay-13", "C-transport-8")
@pytest.mark.long
def test_control_a_node_that_forgets_its_journal_is_noticed(tmp_path: Path) -> None:
    code, report = chaos(tmp_path, "--forget", "journal", "--patience", "5")
    assert code == 1
    assert "forgot a model" in {violation["kind"] for violation in report["violations"]}
