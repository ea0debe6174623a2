"""A CA that is killed in the middle of a revocation leaves the old CRL or the new one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qres_pki.authority import Authority

from qres_core.errors import RoundError

POINTS = 200
NOW = 1_700_000_000


@pytest.mark.claim("C-pki-12")
@pytest.mark.long
def test_kill_at_any_moment(swarm: Any) -> None:
    for number in range(5):
        swarm.issue(bytes([number]) * 32)
    program = Path(__file__).with_name("crash.py")
    command = [sys.executable, "-P", str(program), str(swarm.folder), str(POINTS), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{POINTS} kills")
    swarm.renew_crl()
    with Authority.open(swarm.folder) as authority:
        assert authority.published
        # Left behind by the killed: nothing reads them.
        strays = [path.name for path in swarm.folder.iterdir() if ".new-" in path.name]
        assert all(name.startswith("crl.pem.new-") for name in strays)


@pytest.mark.claim("C-pki-12")
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_between_commit_and_publication(
    swarm: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The deterministic case: the index knows of the revocation and crl.pem does not."""
    swarm.issue(swarm.b)
    before = swarm.crl.read_bytes()

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        if step == "fsync":
            broken.setattr(os, "fsync", fail)
        else:
            broken.setattr(Path, "replace", fail)
        with pytest.raises(RoundError, match="No space left"):
            swarm.revoke(swarm.b)
    assert swarm.crl.read_bytes() == before
    swarm.revoke(swarm.b)
    with Authority.open(swarm.folder) as authority:
        found = authority.issuer.read_crl(swarm.crl.read_bytes())
        assert found.number == 3
        assert len(found.serials) == 1
