"""A flood of one sender: it costs no memory and takes nothing from the others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from qres_lab.testing import make_envelope, make_node_ids, make_node_info
from qres_replay import Replay

OTHERS = 63


@pytest.mark.claim("C-trust-9")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("count", "stored"), [(2_000_000, False), (100_000, True)])
@pytest.mark.long
def test_a_flood_grows_nothing_and_evicts_nobody(
    tmp_path: Path, count: int, *, stored: bool
) -> None:
    script = Path(__file__).with_name("flood.py")
    arguments = [str(count), *([str(tmp_path / "home")] if stored else [])]
    done = subprocess.run(
        [sys.executable, "-P", str(script), *arguments], check=True, capture_output=True, text=True
    )
    accepted, refused, growth, caught, new = json.loads(done.stdout)
    assert accepted == refused == count / 2
    assert growth <= 2**20
    assert caught == 3 * OTHERS
    assert new == OTHERS


@pytest.mark.claim("C-trust-9")
def test_real_envelopes_fare_no_otherwise() -> None:
    ids = make_node_ids(4)
    replay = Replay()
    replay.setup(make_node_info())
    victim = make_envelope(sender=ids[1], sequence=17)
    now = victim.time_ms / 1000
    assert replay.replay_check(victim, now).accepted
    for sequence in range(20_000):
        assert replay.replay_check(make_envelope(sender=ids[0], sequence=sequence), now).accepted
    assert replay.replay_check(victim, now).reason == "replayed"
    assert replay.replay_check(make_envelope(sender=ids[0]), now).reason == "sequence-too-old"


@pytest.mark.control("C-trust-9")
def test_control_a_memory_that_all_senders_share_forgets_under_a_flood() -> None:
    ids = make_node_ids(4)
    seen: deque[tuple[bytes, int]] = deque(maxlen=4 * 1024)  # as many as four windows hold
    seen.append((ids[1], 17))
    seen.extend((ids[0], sequence) for sequence in range(20_000))
    assert (ids[1], 17) not in seen
