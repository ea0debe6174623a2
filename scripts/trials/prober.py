"""Asks nodes in namespaces for their status: a thread in each namespace, for as long as it runs.

    python -P -m trials.prober ROUTER NAMESPACE...

``ROUTER`` is a process, and each ``NAMESPACE`` a file that it holds open. A line ``INDEX URL`` on
standard input is answered by a line of JSON, the index and the status or null, as it comes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Final

from qres_core.node.ask import ask
from trials.router import NEWNET, call

SECONDS: Final = 5.0
"""For each step of an answer: a node may be busy."""
TURN: Final = threading.Lock()
"""Of threads that write: a long line goes out in pieces."""


def serve(index: int, namespace: str, urls: queue.Queue[str]) -> None:
    """Ask in a namespace what is queued for it."""
    try:
        file = os.open(namespace, os.O_RDONLY)
        call("setns", file, NEWNET)  # this thread alone
        os.close(file)
    except OSError as error:  # whoever asks would wait for ever
        print(f"{namespace}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    while True:
        line = json.dumps([index, ask(urls.get(), SECONDS)])
        with TURN:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def main() -> None:
    """Until standard input ends."""
    process, *files = sys.argv[1:]
    queues = [queue.Queue[str]() for _ in files]
    for index, file in enumerate(files):
        where = f"/proc/{process}/fd/{file}"
        arguments = (index, where, queues[index])
        threading.Thread(target=serve, args=arguments, daemon=True).start()
    for line in sys.stdin:
        asked, url = line.split()
        queues[int(asked)].put(url)


if __name__ == "__main__":
    main()
