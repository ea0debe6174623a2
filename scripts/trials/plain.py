"""Plain TCP between the nodes of a trial, as a measure of what their lines bear.

    python -P -m trials.plain LISTEN PORT INCOMING BYTES [TARGET ...]
    python -P -m trials.plain LISTEN PORT INCOMING BYTES --echo

Listens, says ``ready``, and waits for a line on standard input. Then it sends so many bytes to each
target, takes what comes over so many connections, and says ``done`` once it has all. With
``--echo`` it sends back what comes: so a hub's lines are measured, over one connection of each
node.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from typing import Final

BLOCK: Final = 2**16
SECONDS: Final = 1800.0


def _take(taken: socket.socket, octets: int) -> None:
    left = octets
    while left > 0 and (got := len(taken.recv(BLOCK))):
        left -= got


def _send(made: socket.socket, octets: int) -> None:
    block = bytes(BLOCK)
    for start in range(0, octets, BLOCK):
        made.sendall(block[: octets - start])


def _echo(taken: socket.socket, octets: int) -> None:
    left = octets
    while left > 0 and (data := taken.recv(BLOCK)):
        taken.sendall(data)
        left -= len(data)


def _all(works: Sequence[threading.Thread]) -> None:
    for work in works:
        work.start()
    for work in works:
        work.join()


def main() -> None:
    """Do what the command line asks for."""
    host, port, incoming, octets, *targets = sys.argv[1:]
    echo = targets == ["--echo"]
    listening = socket.create_server((host, int(port)), backlog=64)
    listening.settimeout(SECONDS)
    print("ready", flush=True)
    sys.stdin.readline()
    works: list[threading.Thread] = []
    for target in () if echo else targets:
        made = socket.create_connection((target, int(port)), timeout=SECONDS)
        works.append(threading.Thread(target=_send, args=(made, int(octets))))
        if not int(incoming):  # what was sent comes back
            works.append(threading.Thread(target=_take, args=(made, int(octets))))
        works[-1].daemon = True

    def accept() -> None:
        serving = [
            threading.Thread(target=_echo if echo else _take, args=(taken, int(octets)))
            for taken in (listening.accept()[0] for _ in range(int(incoming)))
        ]
        _all(serving)

    _all([*works, threading.Thread(target=accept)])
    print("done", flush=True)
    sys.stdin.readline()  # whoever still sends is not reset


if __name__ == "__main__":
    main()
