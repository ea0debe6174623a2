"""``kill -9`` at random moments: whatever was released had been charged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from qres_dp.correlated import EncodingMemory, EncodingShape
from qres_dp.ledger import PrivacyLedger
from qres_dp.stream import turn_of
from qres_lab.testing import make_node_ids

DRIVER = Path(__file__).with_name("kill_driver.py")
ROSTER, BAND, SEPARATION = make_node_ids(3), 6, 3  # those of the driver


posix = pytest.mark.skipif(os.name != "posix", reason="kill -9")


def kill_once(folder: Path, seconds: float, *arguments: str, least: int = 1) -> tuple[int, int]:
    """How many releases a process made until it was killed, and how many it had charged.

    It lives on for so many seconds after its first ``least`` releases.
    """
    before = len(PrivacyLedger.read(folder)[1]) if PrivacyLedger.exists(folder) else 0
    with subprocess.Popen(
        [sys.executable, str(DRIVER), str(folder), *arguments], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        octets = b""
        while len(octets) < least and (more := os.read(process.stdout.fileno(), 1)):
            octets += more
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        octets += process.stdout.read()
    return len(octets), len(PrivacyLedger.read(folder)[1]) - before


@pytest.mark.claim("C-dp-8")
@posix
def test_what_was_released_had_been_charged(tmp_path: Path) -> None:
    chance = random.Random(1)
    for _ in range(4):
        released, charged = kill_once(tmp_path, chance.uniform(0.0, 0.1))
        # Killed between the charge and the release, it counts as charged.
        assert 1 <= released <= charged <= released + 1


@pytest.mark.claim("C-dp-19")
@posix
def test_a_row_was_charged_and_the_updates_in_it_are_on_the_disk(tmp_path: Path) -> None:
    chance = random.Random(2)
    for _ in range(3):
        released, charged = kill_once(tmp_path, chance.uniform(0.0, 0.1), "encoded", least=3)
        assert 1 <= released <= charged <= released + 1
        last = PrivacyLedger.read(tmp_path)[1][-1].charge
        shape = EncodingShape("kill", BAND, last.bound, last.scale, last.dimension)
        memory = EncodingMemory(tmp_path, shape)
        # Killed after the next step was kept and before it was charged, the oldest may be gone.
        inside = range(max(0, last.row - BAND + 2), last.row + 1)
        turn = turn_of(ROSTER[0], SEPARATION)
        assert {step for step in inside if step % SEPARATION == turn} <= memory.own.keys()
        memory.close()
    assert len({record.charge.row for record in PrivacyLedger.read(tmp_path)[1]}) > BAND


@pytest.mark.control("C-dp-8")
@posix
def test_charging_after_the_release_would_be_noticed(tmp_path: Path) -> None:
    """Positive control of the test above."""
    for attempt in range(40):
        # At once after the first release, and then a little later each time.
        released, charged = kill_once(tmp_path, 0.0005 * (attempt // 2), "late")
        if released > charged:
            return
    pytest.fail("never killed between release and charge")
