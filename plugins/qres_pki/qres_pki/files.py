"""Writing files so that a crash leaves the old one or the new one, and never half of one."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from qres_core import LabError, RoundError


def _write_beside(path: Path, content: bytes, mode: int) -> Path:
    """A new file beside ``path`` that is on the disk when this returns."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123 - a mode from the first moment
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return beside


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file over an old one, atomically."""
    beside = _write_beside(path, content, mode)
    try:
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file that must not exist yet.

    Raises:
        LabError: QRES-E803, it exists; it is left alone.
    """
    beside = _write_beside(path, content, mode)
    try:
        os.link(beside, path)
    except FileExistsError as error:
        raise LabError.of("QRES-E803", str(path), "exists", "name another place") from error
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def refuse_loose(path: Path) -> None:
    """Refuse a secret that others than its owner may read or write.

    Raises:
        RoundError: QRES-E602.
        OSError: it is not there.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        what = f"mode {mode:04o}: others than the owner have access"
        fix = f"chmod 600 {path}; if others could read it, make a new CA"
        raise RoundError.of("QRES-E602", str(path), what, fix)
