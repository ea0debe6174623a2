"""The key of a ledger: who does not have it cannot write a record that is taken for one.

It is a file of its own, for its owner alone. Whoever can read the files of the node's user can
forge a ledger all the same; a backup without this file cannot be turned into another ledger.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from qres_core import stores
from qres_core.errors import LabError, RoundError

FILE: Final = "dp-ledger.key"
KEY_BYTES: Final = 32
REMEDY: Final = "restore the file; without it nobody knows the privacy spent"
"""For a file of the ledger that is missing or damaged."""


def fresh() -> bytes:
    """32 bytes of the operating system, for a ledger in memory."""
    return os.urandom(KEY_BYTES)


def make(folder: Path) -> bytes:
    """Make the key of a new ledger, mode 0600, or take the one that a killed process left.

    Raises RoundError: QRES-E602 when the disk does not take it.
    """
    try:
        stores.make_folder(folder)
    except OSError as error:
        raise unusable(folder / FILE, str(error)) from error
    with suppress(LabError):  # there is one
        stores.create_file(folder / FILE, fresh())
    return read(folder)


def read(folder: Path) -> bytes:
    """The key of the ledger in a folder.

    Raises RoundError: QRES-E602 for one that is missing, damaged, or open to others.
    """
    path = folder / FILE
    try:
        stores.refuse_loose(path)
        with path.open("rb") as file:
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        what = error.strerror or str(error)
        raise unusable(path, f"the key of the ledger cannot be read: {what}") from error
    if len(key) != KEY_BYTES:
        raise unusable(path, "the key of the ledger is damaged")
    return key


def unusable(path: Path, what: str) -> RoundError:
    """QRES-E602 for a file of the ledger, with :data:`REMEDY`."""
    return RoundError.of("QRES-E602", str(path), what, REMEDY)
