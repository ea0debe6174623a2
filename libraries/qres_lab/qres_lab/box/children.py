"""Processes of nodes: started on a pipe from here, asked to end, and ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Final

_OWN_GROUP: Final[int] = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""Creation flag of a child that ctrl-C is not for; elsewhere ``start_new_session`` says so."""
_POSIX: Final = os.name == "posix"


def start_child(
    command: Sequence[str],
    *,
    stdout: IO[bytes] | int,
    stderr: IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command with ``--until-eof``, on a pipe from here: it ends when this process is gone.

    ``environment``: instead of that of this process.
    """
    return subprocess.Popen(  # noqa: S603 - this interpreter and this package
        command,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        start_new_session=True,  # ctrl-C is for this process, which stops them in order
        creationflags=_OWN_GROUP,
    )


def ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Ask a child that was started with ``--until-eof`` to end in order."""
    if _POSIX:
        process.send_signal(signal.SIGTERM)  # nothing where it has ended
    elif process.stdin is not None:
        process.stdin.close()  # SIGTERM would end it at once


def end_child(process: subprocess.Popen[bytes], within: float) -> None:
    """Wait for a child that was asked to end, and kill it after so many seconds."""
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    close_pipes(process)


def close_pipes(process: subprocess.Popen[bytes]) -> None:
    """Close the ends of a child's pipes that are here."""
    for end in (process.stdin, process.stdout):
        if end is not None:
            end.close()
