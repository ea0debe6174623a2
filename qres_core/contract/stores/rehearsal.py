"""Rehearsal of a store, before anybody opens it: on a copy that is thrown away."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from qres_core.contract.errors import Problem, QresError
from qres_core.contract.stores.database import LOGS, StoreKind, is_open_here

_ATTEMPTS: Final = 3
"""How often a copy is made where the file changes meanwhile."""
_FIX: Final = "name another folder"


def no_room(folder: Path) -> str:
    """Reason why no store could be made or changed in a folder, or the folder not made.

    Empty where that could be. Nothing is written. Whether the disk has room is not known.

    Args:
        folder: of a node; it need not be there.
    """
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
        if not there.is_dir():
            return os.strerror(errno.EEXIST if there == folder else errno.ENOTDIR)
        ours = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
        writable = os.access(there, os.R_OK | os.W_OK | os.X_OK, **ours)
    except OSError as error:
        return error.strerror or str(error)
    return "" if writable else os.strerror(errno.EACCES)


def rehearse(
    folder: str | Path | None,
    kind: StoreKind,
    opens: Callable[[Path], object],
    beside: Sequence[str] = (),
) -> tuple[Problem, ...]:
    """Find a start's objections to a store; for ``preflight`` of a plugin.

    The store's files are copied to a folder for this user alone, and opened there. So everything is
    read as at a start, and nothing in the node's own folder is made or changed. A store that this
    process has open is left alone, and so is one that another keeps changing: a node runs with it.
    That a node runs with it is no reason to refuse here.

    Args:
        folder: the store's own; ``None`` where a node may keep nothing.
        kind: of the store.
        opens: opens it in the folder given and closes it again, as the start does.
        beside: names of further files that it reads. They are copied first.

    Returns:
        the problems that ``opens`` raised, with the places of the node's own folder; QRES-E602
        where nothing can be written there, and where there is no room for the copy.

    Complexity: O(size of the files).
    """
    if folder is None:
        return ()
    folder = Path(folder)
    path = folder / kind.file
    if why := no_room(folder):
        return (Problem("QRES-E602", str(path), why, _FIX),)
    names = (*beside, kind.file, *(f"{kind.file}{tail}" for tail in LOGS))
    try:
        # What is not there, a start begins anew, and nothing can be wrong with that.
        there = any(_looks(folder, names).values())
        return _tried(folder, names, kind.file, opens) if there else ()
    except OSError as error:
        what = f"cannot be copied to look at it: {error.strerror or error}"
        fix = "let the node's user read the folder, and see that TMPDIR has room"
        return (Problem("QRES-E602", str(path), what, fix),)


def _tried(
    folder: Path, names: Sequence[str], store: str, opens: Callable[[Path], object]
) -> tuple[Problem, ...]:
    with tempfile.TemporaryDirectory(prefix="qres-") as made:
        copy = Path(made)
        if _copied(folder, copy, names, store):
            try:
                opens(copy)
            except QresError as error:
                return tuple(_placed(error.problems, made, str(folder)))
    return ()


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _copied(folder: Path, copy: Path, names: Sequence[str], store: str) -> bool:
    """True if the files could be copied as they are together; false where they are in use."""
    for _attempt in range(_ATTEMPTS):
        before = _looks(folder, names)
        if before[store] is not None and is_open_here(folder / store):
            return False
        for name in names:
            (copy / name).unlink(missing_ok=True)
            if before[name] is not None and not _copy(folder / name, copy / name):
                break
        else:
            if _looks(folder, names) == before:
                return True
    return False


def _looks(folder: Path, names: Sequence[str]) -> dict[str, tuple[int, ...] | None]:
    """Marks that change when a file does, by name."""
    return {name: _look(folder / name) for name in names}


def _look(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _copy(path: Path, new: Path) -> bool:
    """Copy a file with its mode; false where it went. What is no file is made as a folder."""
    if not path.is_file():
        new.mkdir()  # no store either, and never read
        return True
    try:
        shutil.copy(path, new)
    except FileNotFoundError:
        return False
    return True


def _placed(problems: Sequence[Problem], made: str, folder: str) -> Iterator[Problem]:
    for problem in problems:
        where, what, fix = (
            text.replace(made, folder) for text in (problem.where, problem.what, problem.fix)
        )
        yield attrs.evolve(problem, where=where, what=what, fix=fix)
