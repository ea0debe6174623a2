"""Finding the process of a node by its folder, and telling it to read its configuration again."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from qres_core.contract.errors import ConfigError

FILE: Final = "node.pid"
"""Names the process, which keeps it locked: a file that was left behind is locked by nobody."""
ATTEMPTS: Final = 100
PAUSE: Final = 0.2
"""Seconds between two looks at what came of it."""
MOMENT: Final = 0.01
"""Seconds between two attempts to lock the file."""
MOST: Final = 20
"""Bytes of it that are read."""


def _fcntl() -> Any:
    """The system's locks; ``None`` on Windows, which has no such signal either."""
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None


@contextmanager
def found_in(folder: Path) -> Generator[None]:
    """Have this process found in the folder of its node, where the system offers that."""
    locks = _fcntl()
    if locks is None:
        yield
        return
    path = folder / FILE
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(number, locks)
        try:
            os.ftruncate(number, 0)
            os.write(number, str(os.getpid()).encode())
            yield
        finally:
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(number)


def _lock(number: int, locks: Any) -> None:
    """Lock the file. Whoever looks whether a node runs holds its lock for a moment."""
    for attempt in range(ATTEMPTS):
        try:
            locks.flock(number, locks.LOCK_EX | locks.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(MOMENT)
        else:
            return


def call(folder: Path) -> int:
    """Tell the node of a folder to read its configuration again; the number of its process.

    Raises ConfigError: QRES-E105 where no node runs there, or it cannot be told.
    """
    locks, number = _fcntl(), getattr(signal, "SIGHUP", None)
    if locks is None or number is None:
        what = "this system has no signal by which a node is told"
        raise ConfigError.of("QRES-E105", "qres node reload", what, "restart the node")
    pid = _running(folder / FILE, locks)
    if pid is None:
        what = f"no node runs with the folder {folder}"
        fix = "start it with `qres node run`, on this machine and under this user"
        raise ConfigError.of("QRES-E105", "node.data_dir", what, fix)
    try:
        os.kill(pid, number)
    except OSError as error:
        what = f"process {pid} cannot be told: {error.strerror or error}"
        fix = "be the user that runs the node"
        raise ConfigError.of("QRES-E105", "node.data_dir", what, fix) from error
    return pid


def runs_in(folder: Path) -> bool:
    """True if a node runs with a folder; false where that cannot be known."""
    locks = _fcntl()
    return locks is not None and _running(folder / FILE, locks) is not None


def heard(
    ask: Callable[[], Mapping[str, Any] | None], before: Mapping[str, Any] | None, since: float
) -> dict[str, Any] | None:
    """Answer of a node that was told something; ``None`` if it says nothing in time.

    ``ask``: its status; ``before``: the same before it was told, ``None`` if it did not answer;
    ``since``: when it was told, seconds since 1970. What it read earlier, because others told it
    too, is no answer: it may have read another file.
    """
    times, _at = _last(before)
    for _attempt in range(ATTEMPTS):
        said = ask()
        now, at = _last(said)
        if said is not None and now > times and at >= since:
            found: dict[str, Any] = said["reload"]
            return {key: [str(item) for item in found[key]] for key in ("taken", "problems")}
        time.sleep(PAUSE)
    return None


def _last(report: Mapping[str, Any] | None) -> tuple[int, float]:
    """Number of times a node was told, and its last time to read, as its status says."""
    try:
        reload: dict[str, Any] = {} if report is None else report["reload"]
        times: object = reload["times"]
        at: object = reload["at"]
    except (KeyError, TypeError):
        return 0, 0.0
    return (times, at) if type(times) is int and type(at) is float else (0, 0.0)


def _running(path: Path, locks: Any) -> int | None:
    """Process that holds the lock of a file; ``None`` if there is none."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        locks.flock(number, locks.LOCK_SH | locks.LOCK_NB)
    except OSError:
        text = os.read(number, MOST)
        return int(text) if text.isdigit() and int(text) > 1 else None
    finally:
        os.close(number)
    return None
