"""All defences at once over real processes, a quarter of which drop out of every round."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CONFIG = Path(__file__).with_name("full_stack_processes.toml")
PATIENCE = 1500.0
"""Seconds for what takes three minutes: rounds wait for those who are silent."""


@pytest.mark.claim("C-composition-8")
@pytest.mark.long
@pytest.mark.skipif(find_spec("qres_transport_libp2p") is None, reason="needs the libp2p transport")
def test_the_whole_stack_over_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "qres_core.cli", "swarm", "up", str(CONFIG)]
    command += ["--rounds", "5", "--attack", "silent", "--attackers", "2", "--json"]
    command += ["--timeout", str(PATIENCE), "--folder", str(tmp_path / "box")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE + 30, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["agreed"] is True
    assert report["step"] >= 5
    assert len(report["nodes"]) == 8
    honest = [node for node in report["nodes"] if not node["hostile"]]
    assert len(honest) == 6
    for honest_node in honest:
        shown = honest_node["status"]["shown"]
        assert shown["dp"]["epsilon"] <= 8.0
        assert shown["zk"]["proofs_refused"] == 0
        assert shown["secagg"]["rounds_opened"] >= 5
