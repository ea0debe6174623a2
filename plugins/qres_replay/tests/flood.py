"""Run by the test of memory: a flood through the hook, and how much the process grew, in bytes."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qres_lab.testing import make_node_ids, make_node_info
from qres_replay import Replay

NODES = 64
IDS = make_node_ids(NODES)
NOW_MS = 1_700_000_000_000


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    count = int(sys.argv[1])
    data_dir = sys.argv[2] if len(sys.argv) > 2 else None
    replay = Replay()
    replay.setup(make_node_info(nodes=NODES, data_dir=data_dir))
    # What the hook reads of an envelope: to make a million real ones takes far longer.
    message: Any = SimpleNamespace(kind="contribution", round=1, payload=b"")
    accepted = refused = 0

    def send(sender: bytes, sequence: int, off_ms: int = 0) -> bool:
        message.sender, message.sequence, message.time_ms = sender, sequence, NOW_MS + off_ms
        return replay.replay_check(message, NOW_MS / 1000).accepted

    for sender in IDS:
        for sequence in range(2000):  # full windows: from here on nothing has to grow
            assert send(sender, sequence)
    before = resident()
    for step in range(count):
        if step % 2:  # new numbers, in leaps; old ones, repeated ones, wrong clocks, strangers
            accepted += send(IDS[0], 10_000 + 700 * step)
        else:
            kind = step // 2 % 4
            sender = step.to_bytes(32, "big") if kind == 0 else IDS[0]
            refused += not send(sender, (step, 0, 1999, 2**62)[kind], 10**6 * (kind == 3))
    growth = resident() - before
    caught = sum(not send(sender, sequence) for sender in IDS[1:] for sequence in (1999, 1000, 3))
    new = sum(send(sender, 2000) for sender in IDS[1:])
    replay.teardown()
    sys.stdout.write(json.dumps([accepted, refused, growth, caught, new]))


if __name__ == "__main__":
    main()
