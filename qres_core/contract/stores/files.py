"""Small files that are there whole or not at all, also after a crash and a power loss."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from qres_core.contract.errors import LabError, RoundError

_NEW = ".new-"


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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, mode 0700, durably. One that is there is left as it is.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir():
        return
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    sync_folder(folder.parent)


def refuse_loose(path: Path, fix: str | None = None) -> None:
    """Refuse a file that others than its owner may read or write.

    Args:
        path: the file.
        fix: what to do about it, where there is more to do than to close it.

    Raises:
        RoundError: QRES-E602.
        OSError: it is not there.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        what = f"mode {mode:04o}: others than the owner have access"
        close = f"chmod 600 {path}, if nobody else has read or changed it"
        raise RoundError.of("QRES-E602", str(path), what, fix or close)


def beside(path: Path) -> Path:
    """A name nobody uses, for what is to become ``path``; :func:`clear_leftovers` knows it."""
    return path.with_name(f"{path.name}{_NEW}{secrets.token_hex(8)}")


def clear_leftovers(path: Path) -> None:
    """Remove what a process that was killed while it wrote ``path`` left beside it.

    Raises:
        OSError: the disk refuses.
    """
    for leftover in path.parent.glob(f"{path.name}{_NEW}*"):
        leftover.unlink(missing_ok=True)


def create_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not exist yet; on the disk when this returns.

    Args:
        path: where. Its folder exists.
        content: all of it.
        mode: who may read it, less what the process's umask takes away.

    Raises:
        LabError: QRES-E803 where there is one; it is left alone.
        RoundError: QRES-E602 when the disk does not take it.
    """
    with _written(path, content, mode) as new:
        try:
            os.link(new, path)
        except FileExistsError as error:
            raise LabError.of("QRES-E803", str(path), "exists", "name another place") from error


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file over an old one or a new one; on the disk when this returns.

    Whoever reads it meanwhile, and whoever starts after a crash, finds the old content or the new.

    Args:
        path: where. Its folder exists.
        content: all of it.
        mode: who may read it, less what the process's umask takes away.

    Raises:
        RoundError: QRES-E602 when the disk does not take it; the old file is as it was.
    """
    with _written(path, content, mode) as new:
        new.replace(path)


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Generator[Path]:
    """A synced file beside ``path``; the folder is synced once the body has given it its name."""
    try:
        new = beside(path)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)  # the mode from the first
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            yield new
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        what = error.strerror or str(error)
        fix = "see that the folder is there, that it may be written to and that the disk has room"
        raise RoundError.of("QRES-E602", str(path), what, fix) from error
