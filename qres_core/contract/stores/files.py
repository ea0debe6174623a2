"""Small files that are there whole or not at all, also after a crash and a power loss."""

from __future__ import annotations

import codecs
import os
import secrets
import shlex
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from qres_core.contract.errors import ConfigError, LabError, RoundError
from qres_core.contract.stores.system import create_now, loose, open_now, sync, sync_folder

_NEW = ".new-"
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


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
    """Refuse a file that others than its owner may read or write, where files have modes.

    Args:
        path: the file.
        fix: what to do about it, where there is more to do than to close it.

    Raises:
        RoundError: QRES-E602.
        OSError: it is not there.
    """
    if what := loose(path.stat()):
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

    Where the disk has no hard links, as a memory stick has none, a crash may leave an empty file.

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
            try:
                os.link(new, path)
            except FileExistsError:
                raise
            except OSError:  # no hard links: take the name first, so that nobody else can
                os.close(create_now(path, mode))
                new.replace(path)
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


def read_file(path: Path, limit: int) -> bytes:
    """Read a file that somebody named. It is refused at once where reading could wait or not end.

    Args:
        path: the file.
        limit: most bytes it may have.

    Raises:
        ConfigError: QRES-E101: it is not there, cannot be read, is no regular file (a folder, a
            pipe, a device), or is larger.
    """
    where = str(path)
    try:
        # Looked at before it is opened: opening a pipe waits, and opening a device may do things.
        if other := _other_kind(path.stat().st_mode):
            raise _unreadable(where, f"is {other}, not a file", "write it to a file, and name that")
        with open(path, "rb", opener=open_now) as file:
            if other := _other_kind(os.fstat(file.fileno()).st_mode):  # exchanged since
                raise _unreadable(where, f"is {other}, not a file", "name a file")
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = "holds a null byte"  # the one ValueError of a path; Python's words for it differ
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        raise _unreadable(where, reason, "name a readable file") from error
    if len(content) > limit:
        fix = "keep data in separate files, and name them"
        raise _unreadable(where, f"larger than {limit} bytes", fix)
    return content


def read_text(path: Path, limit: int) -> str:
    """Read a text file in UTF-8 that somebody named; a byte order mark at its start is skipped.

    Raises:
        ConfigError: QRES-E101, as :func:`read_file`, and for another encoding with what it seems to
            be and how to convert it.
    """
    content = read_file(path, limit)
    encoding, what = _foreign(content)
    if not encoding:
        return content.decode("utf-8-sig")
    convert = f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > NEW"
    fix = f"save it as UTF-8 in your editor, or: {convert}"
    raise _unreadable(str(path), f"not UTF-8: {what}", fix)


def _unreadable(where: str, what: str, fix: str) -> ConfigError:
    return ConfigError.of("QRES-E101", where, what, fix)


def _other_kind(mode: int) -> str:
    """Name the kind of something by its mode, if it is no regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")


def _foreign(content: bytes) -> tuple[str, str]:
    """The encoding of a text that is not UTF-8, as iconv calls it, and how one sees it."""
    for mark, encoding in _MARKS:  # the longer ones first
        if content.startswith(mark):
            return encoding, f"it begins with the byte order mark of {encoding}"
    even, odd = content[::2].count(0), content[1::2].count(0)
    if 2 * max(even, odd) > len(content) // 2:
        encoding = "UTF-16LE" if odd > even else "UTF-16BE"
        return encoding, f"every other byte is zero, as in {encoding}"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        return "LATIN1", f"byte 0x{byte:02x} in line {line}; it may be Latin-1 (Windows-1252)"
    return "", ""


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Generator[Path]:
    """A synced file beside ``path``; the folder is synced once the body has given it its name."""
    try:
        new = beside(path)
        handle = create_now(new, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                sync(file.fileno())
            yield new
        finally:
            new.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        what = error.strerror or str(error)
        fix = "see that the folder is there, that it may be written to and that the disk has room"
        raise RoundError.of("QRES-E602", str(path), what, fix) from error


def new_folder(folder: Path, fix: str = "name another folder") -> None:
    """Make a folder for what is saved.

    Args:
        folder: where; an empty one is taken.
        fix: what to do about one that is not empty.

    Raises:
        LabError: QRES-E803 for a folder with something in it, or that cannot be made.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise LabError.of("QRES-E803", str(folder), "is not empty", fix)
        make_folder(folder.resolve())
    except OSError as error:
        what = error.strerror or str(error)
        raise LabError.of("QRES-E803", str(folder), what, "name another folder") from error
