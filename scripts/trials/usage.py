"""What a process holds: memory and file descriptors, read from ``/proc``."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

MIB = 2**20
_PAGE = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Usage:
    """At one moment.

    Attributes:
        memory: resident set, bytes.
        descriptors: open files and sockets.
        threads: threads.
    """

    memory: int
    descriptors: int
    threads: int


def usage(process: int) -> Usage | None:
    """Of the process with an id; ``None`` where there is none, or no ``/proc``."""
    place = Path("/proc", str(process))
    try:
        resident = int((place / "statm").read_text().split()[1]) * _PAGE
        descriptors = sum(1 for _ in (place / "fd").iterdir())
        threads = sum(1 for _ in (place / "task").iterdir())
    except (OSError, IndexError):
        return None
    return Usage(resident, descriptors, threads)
