"""kill -9 at 200 random moments: nothing that was accepted is accepted again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qres_lab.testing import make_node_ids, make_node_info
from qres_replay import Replay

IDS = make_node_ids(4)
KILLS, STORES = 200, 20
Said = tuple[int, int, int]


def reason(replay: Replay, said: Said, now_ms: int) -> str:
    sender, sequence, time_ms = said
    # What the hook reads of an envelope: hundreds of thousands are replayed.
    message: Any = SimpleNamespace(sender=IDS[sender], sequence=sequence, time_ms=time_ms)
    return replay.replay_check(message, now_ms / 1000).reason


@pytest.mark.claim("C-trust-8")
@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_two_hundred_kills(tmp_path: Path) -> None:
    script = Path(__file__).with_name("acceptor.py")
    rng = random.Random(9)
    said: list[list[Said]] = [[] for _ in range(STORES)]
    clock = [1_700_000_000_000] * STORES
    exact = 0
    with subprocess.Popen(
        [sys.executable, "-P", "-W", "ignore", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for trial in range(KILLS):
            store = trial % STORES
            folder = tmp_path / str(store)
            first = max((sequence for _, sequence, _ in said[store]), default=0)
            nursery.stdin.write(f"{folder} {first} {clock[store]} {trial}\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            # Some while they open the store, most at work.
            lines = [nursery.stdout.readline() for _ in range(rng.choice([0, 1, 20, 200]))]
            time.sleep(rng.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
            for line in [*lines, *iter(nursery.stdout.readline, "dead\n")]:
                sender, sequence, time_ms = map(int, line.split())
                said[store].append((sender, sequence, time_ms))
                clock[store] = max(clock[store], time_ms)
            if trial % 3 == 0:
                continue  # the next child finds what this one left
            replay = Replay()
            replay.setup(make_node_info(data_dir=str(folder)))
            refusals = {reason(replay, item, item[2]) for item in said[store]}
            assert refusals <= {"replayed", "sequence-too-old", "sent-before-the-restart"}
            # Exact, where the kill did not cut a write in two: what is new is not refused.
            highest = max((sequence for _, sequence, _ in said[store]), default=0)
            fresh = (0, highest + 100, clock[store])
            answer = reason(replay, fresh, clock[store])
            assert answer in ("", "sent-before-the-restart")
            exact += answer == ""
            if not answer:
                said[store].append(fresh)
            # And however a write was cut, this is soon over.
            clock[store] += 100_000
            later = (1, highest + 100, clock[store])
            assert reason(replay, later, clock[store]) == ""
            said[store].append(later)
            replay.teardown()
        nursery.stdin.close()
    assert sum(map(len, said)) > 10 * KILLS
    assert exact > KILLS / 3
