"""Abilities that some operating systems lack: owners and modes of files, and flushing to disk.

Windows lacks some of these calls and macOS has some of its own. They are called here and nowhere
else. A protection that cannot be had is named by :func:`unprotected` or refused by whoever needs
it; nothing is taken for granted in silence.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

_fcntl: Any
try:
    _fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows
    _fcntl = None
_BYTES: Final[int] = getattr(os, "O_BINARY", 0)  # without it Windows changes the ends of lines
_NO_WAIT: Final[int] = getattr(os, "O_NONBLOCK", 0)  # Windows has no such flag, and no such pipes
# macOS: fsync alone leaves the data in the cache of the drive.
_FULL_SYNC: Final[int | None] = getattr(_fcntl, "F_FULLFSYNC", None)


def keeps_modes() -> bool:
    """True if a file has an owner, and a mode that keeps everybody else out."""
    return hasattr(os, "geteuid") and hasattr(os, "fchmod")


def unprotected() -> tuple[str, ...]:
    """Notices of the dangers that files are not protected against on this system; may be empty."""
    if keeps_modes():
        return ()
    return (
        (
            "this system has no file modes: everybody who can read the folder of a node can read "
            "its data; keep it where only your user has access"
        ),
    )


def open_now(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a file without waiting, even if it is a named pipe, as a file descriptor.

    Args:
        path: the file.
        flags: as of ``os.open``.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, flags | _BYTES | _NO_WAIT)


def create_now(path: Path, mode: int = 0o600) -> int:
    """Make a file that must not exist yet and open it to write, as a file descriptor.

    Args:
        path: the file.
        mode: who may read and write it from the first, less what the umask takes away.

    Raises:
        OSError: it cannot be made; ``FileExistsError`` if something is there, even a dangling link.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BYTES, mode)


def set_mode(handle: int, mode: int) -> None:
    """Say who may read and write an open file, whatever the umask. Nothing without modes.

    Raises:
        OSError: the disk refuses.
    """
    if keeps_modes():
        os.fchmod(handle, mode)


def loose(found: os.stat_result) -> str:
    """Name the rights that a file's mode gives to others; empty for none, or without modes.

    Args:
        found: the file, as ``os.fstat`` or ``Path.stat`` tells it.
    """
    mode = stat.S_IMODE(found.st_mode)
    if keeps_modes() and mode & 0o077:
        return f"mode {mode:04o}: others than the owner have access"
    return ""


def foreign(found: os.stat_result) -> str:
    """Name the file's owner, where it is not this user; empty if it is, or without owners."""
    if keeps_modes() and found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to this one ({os.geteuid()})"
    return ""


def sync(handle: int) -> None:
    """Wait until an open file is on the disk.

    Raises:
        OSError: the disk refuses.
    """
    os.fsync(handle)
    if _FULL_SYNC is not None:
        _fcntl.fcntl(handle, _FULL_SYNC)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system has a way to.

    Raises:
        OSError: the disk refuses.
    """
    if os.name == "posix":  # Windows opens no folders, and needs no such call
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Wait until nobody else is in this for the folder, where the system and the disk have locks.

    Args:
        folder: the folder; a process that ends leaves it free.
    """
    handle = None
    try:
        with suppress(OSError):
            if _fcntl is not None:
                handle = os.open(folder, os.O_RDONLY)
                _fcntl.flock(handle, _fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)
