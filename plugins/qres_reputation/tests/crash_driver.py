"""Kills a node again and again while it keeps score, and holds what it finds against a replay.

Run as a program: ``crash_driver.py FOLDER KILLS SEED``. A child process plays a fixed sequence of
steps on the store in the folder and writes the number of each finished step to a pipe. It is killed
with SIGKILL at a random moment, also while it opens the store or writes. What is then on disk must
be the state after the last step it told of, or after the one it was in the middle of.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

from qres_lab.testing import make_node_ids
from qres_reputation import Reputation

from qres_core import Evidence, Merit, NodeInfo, Outcome, RoundInfo, RoundStatus

ROSTER = make_node_ids(7)
LONGEST = 1000


def start(folder: str | None) -> Reputation:
    plugin = Reputation(punish=0.15, ban_rounds=4)
    plugin.setup(NodeInfo(ROSTER[0], "crash", ROSTER, data_dir=folder))
    return plugin


def step(plugin: Reputation, number: int) -> None:
    """A round with one fault: two writes, three when a ban ends."""
    part, number = number % 3, number // 3 + 1
    info = RoundInfo("crash", number, bytes(32), 1, 0, ROSTER, 7)
    if part == 0:
        plugin.round_opened(info)
    elif part == 1:
        subject = ROSTER[1 + number * number % 6]
        plugin._number = number
        plugin.observe(Evidence(subject, f"crash:fault-{number}", "crash", number))
    else:
        plugin._number = number
        for member in ROSTER:
            plugin.observe(Evidence(member, Merit.CONTRIBUTED, "kernel", number))
        plugin.round_closed(Outcome(info, RoundStatus.CLOSED, bytes(32)))


def child(folder: str, first: int, pipe: int) -> None:
    plugin = start(folder)
    os.write(pipe, b".")
    for number in range(first, first + LONGEST):
        step(plugin, number)
        os.write(pipe, b".")


def state(folder: str) -> dict[Any, Any]:
    plugin = start(folder)
    found = dict(plugin._ledger.records)
    plugin.teardown()
    return found


def told(reader: int, wanted: int) -> int:
    """Wait for so many dots; how many came."""
    count = 0
    while count < wanted and (octets := os.read(reader, 64)):
        count += len(octets)
    return count


def kill_once(folder: str, first: int, wanted: int, seconds: float) -> int:
    """Start a child, kill it a little after so many dots; how many steps it told of."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            child(folder, first, writer)
        finally:
            os._exit(0)
    os.close(writer)
    dots = told(reader, wanted)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while octets := os.read(reader, 64):
        dots += len(octets)
    os.close(reader)
    return max(0, dots - 1)


def besiege(folder: str, kills: int, most: int, chance: random.Random) -> Counter[str]:
    """Kill so many times on one store, after so many steps at most, and check after each."""
    model = start(None)
    done = 0
    report: Counter[str] = Counter()
    for _ in range(kills):
        seconds = chance.uniform(0.0, 0.01)
        finished = kill_once(folder, done, chance.randint(0, most), seconds)
        for number in range(done, done + finished):
            step(model, number)
        done += finished
        found = state(folder)
        if found != model._ledger.records:
            step(model, done)  # the write had reached the disk and the word of it had not left
            done += 1
            report["in_flight"] += 1
        assert found == model._ledger.records, f"after step {done}: {found}"
        report["bans_seen"] += sum(record.banned for record in found.values())
        report["kills"] += 1
    report["steps"] = done
    return report


def main(folder: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    young = kills // 4
    report: Counter[str] = Counter()
    for index in range(young):  # while the store is made
        report += besiege(f"{folder}{index}", 1, 0, chance)
    report += besiege(folder, kills - young, 10, chance)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
