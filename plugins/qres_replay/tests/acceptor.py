"""Run by the test that kills: forks children that accept messages and print those they accepted.

Each line of input is a folder, a first sequence number, a start time in milliseconds and a seed. A
child answers with its process id and one line per accepted message, written after the hook
returned. When it is dead, its parent prints ``dead``.
"""

from __future__ import annotations

import itertools
import os
import random
import sys

import qres_replay.store as store_module
from qres_lab.testing import make_envelope, make_node_ids, make_node_info
from qres_replay import Replay

IDS = make_node_ids(4)


def say(text: str) -> None:
    os.write(1, text.encode())


def accept(folder: str, first: int, time_ms: int, seed: int) -> None:
    rng = random.Random(seed)
    store_module.CHECKPOINT_EVERY = rng.choice([5, 60, 1024])
    pace = rng.choice([0, 3, 2000])  # how often a ceiling has to be raised
    replay = Replay()
    replay.setup(make_node_info(data_dir=folder))
    for step in itertools.count():  # until it is killed
        time_ms += rng.randrange(pace + 1)
        sender, sequence = rng.randrange(4), first + step + rng.randrange(30)
        ahead = rng.choice([0, 0, 0, 40_000])
        envelope = make_envelope(
            sender=IDS[sender], sequence=sequence, time_ms=time_ms + ahead, payload=b""
        )
        if replay.replay_check(envelope, time_ms / 1000).accepted:
            say(f"{sender} {sequence} {time_ms + ahead}\n")
        else:
            # What the last kill left may refuse all that is older than its ceiling: get past it.
            time_ms += 100


def main() -> None:
    for line in sys.stdin:
        folder, *numbers = line.rsplit(maxsplit=3)
        child = os.fork()
        if child == 0:
            say(f"{os.getpid()}\n")
            try:
                accept(folder, *map(int, numbers))
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        say("dead\n")


if __name__ == "__main__":
    main()
