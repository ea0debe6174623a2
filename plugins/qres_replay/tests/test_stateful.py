"""Any order of messages, restarts, kills and power losses, against a set of everything accepted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import qres_replay.store as store_module
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from qres_lab.testing import make_envelope, make_node_ids
from qres_replay import Replay
from qres_replay.store import FILE, LEAD_MS

from qres_core import NodeInfo

IDS = make_node_ids(3)
WINDOW = 32
SKEW_MS = 60_000
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mkdtemp is safe
SENDERS = st.integers(0, 2)
OFFS = st.integers(-70_000, 70_000) | st.sampled_from([-60_001, -60_000, 0, 60_000, 60_001])


def below(seen: set[int], sequence: int) -> bool:
    return bool(seen) and sequence <= max(seen) - WINDOW


@pytest.mark.claim("C-trust-7")
class Deliveries(RuleBasedStateMachine):
    """The oracle knows every accepted message, and what the window and the clock say of others."""

    stored = False

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=SCRATCH))
        self.folders = 0
        self.boots = 0
        self.boot = patch.object(store_module, "boot_id", lambda: f"boot {self.boots}")
        self.boot.start()
        self.now_ms = 1_700_000_000_000
        self.ever: list[set[int]] = [set(), set(), set()]
        self.seen: list[set[int]] = [set(), set(), set()]  # since the last power loss
        self.said: list[tuple[int, int, int]] = []
        # Nothing that was accepted is later than this, nor refused because of a power loss.
        self.ceilings = [-1, -1, -1]
        self.floors = [-1, -1, -1]
        self.lost = False

    @initialize()
    def begin(self) -> None:
        self.folder = self.home / "0"
        self.open()

    def open(self) -> None:
        self.replay = Replay(window=WINDOW)
        data_dir = str(self.folder) if self.stored else None
        self.replay.setup(NodeInfo(IDS[0], "testing", IDS, data_dir=data_dir))

    def teardown(self) -> None:
        if hasattr(self, "replay"):
            self.replay.teardown()
        self.boot.stop()
        shutil.rmtree(self.home)

    def send(self, sender: int, sequence: int, time_ms: int) -> None:
        envelope = make_envelope(sender=IDS[sender], sequence=sequence, time_ms=time_ms)
        verdict = self.replay.replay_check(envelope, self.now_ms / 1000)
        seen, ever = self.seen[sender], self.ever[sender]
        timely = abs(time_ms - self.now_ms) <= SKEW_MS
        fresh = sequence not in ever and not below(ever, sequence)
        if fresh and timely and time_ms > self.floors[sender]:
            assert verdict.accepted, verdict.reason
        if not timely:
            assert not verdict.accepted
        # A power loss may take numbers, so that a liar can use one again for something else.
        assert (sender, sequence, time_ms) not in self.said or not verdict.accepted
        if below(seen, sequence):
            assert verdict.reason == "sequence-too-old"
        elif sequence in seen:
            assert verdict.reason == "replayed"
        elif not timely and not self.lost:
            assert verdict.reason in ("clock-behind", "clock-ahead")
        if verdict.accepted:
            seen.add(sequence)
            ever.add(sequence)
            self.said.append((sender, sequence, time_ms))
            ahead = time_ms - self.now_ms
            if ahead <= LEAD_MS:  # the ceiling that all share
                self.ceilings = [max(ceiling, time_ms + LEAD_MS) for ceiling in self.ceilings]
            else:
                self.ceilings[sender] = max(self.ceilings[sender], time_ms + ahead)

    @rule(sender=SENDERS, sequence=st.integers(0, 100), off=OFFS)
    def any_message(self, sender: int, sequence: int, off: int) -> None:
        self.send(sender, sequence, self.now_ms + off)

    @rule(sender=SENDERS, step=st.integers(-40, 40), off=OFFS)
    def message_near_the_highest(self, sender: int, step: int, off: int) -> None:
        high = max(self.ever[sender], default=0)
        self.send(sender, min(max(0, high + step), 2**63 - 1), self.now_ms + off)

    @rule(sender=SENDERS, jump=st.sampled_from([1024, 2**40, 2**63 - 1]))
    def jump(self, sender: int, jump: int) -> None:
        high = max(self.ever[sender], default=0)
        self.send(sender, min(high + jump, 2**63 - 1), self.now_ms)

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def replay_one(self, data: st.DataObject) -> None:
        self.send(*data.draw(st.sampled_from(self.said)))

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds: int) -> None:
        self.now_ms += 1000 * seconds

    @precondition(lambda self: self.stored)
    @rule()
    def restart(self) -> None:
        self.replay.teardown()
        self.open()

    @precondition(lambda self: self.stored)
    @rule()
    def reboot_in_order(self) -> None:
        self.replay.teardown()
        self.boots += 1
        self.open()

    @precondition(lambda self: self.stored)
    @rule()
    def kill(self) -> None:
        self.leave([FILE, f"{FILE}-wal"])

    @precondition(lambda self: self.stored)
    @rule(log_survives=st.booleans())
    def lose_power(self, *, log_survives: bool) -> None:
        self.boots += 1
        self.floors, self.lost = list(self.ceilings), True
        self.seen = [set(), set(), set()]
        self.leave([FILE, f"{FILE}-wal"] if log_survives else [FILE])

    def leave(self, names: list[str]) -> None:
        """Go on with a copy of the files as they are now."""
        self.folders += 1
        copy = self.home / str(self.folders)
        copy.mkdir()
        for name in names:
            shutil.copy(self.folder / name, copy / name)
        assert self.replay._store is not None
        self.replay._store._db.close()
        self.replay._store = None
        self.folder = copy
        self.open()


class StoredDeliveries(Deliveries):
    """The same with a store, and all that may happen to one."""

    stored = True


Deliveries.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
StoredDeliveries.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestInMemory = Deliveries.TestCase
TestStored = StoredDeliveries.TestCase
