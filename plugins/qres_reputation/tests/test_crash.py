"""``kill -9`` at 200 random moments never forgets a ban and never damages the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("crash_driver.py")


@pytest.mark.claim("C-trust-11")
@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_nothing_told_is_forgotten_by_a_kill(tmp_path: Path) -> None:
    # A process of its own: a fork must not carry this one's threads along.
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(tmp_path / "node"), "200", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 200
    assert report["steps"] > 200
    assert report["bans_seen"] > 50
