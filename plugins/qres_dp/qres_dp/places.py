"""Places of a ledger: in a folder, or in that of the only node below it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from qres_core.errors import ConfigError
from qres_dp.ledger import PrivacyLedger

_IDENTITY: Final = re.compile("[0-9a-f]{64}")


def ledger_place(folder: Path) -> Path:
    """The folder of the ledger that a folder holds.

    Args:
        folder: of a data set or a node, or a ``node.data_dir``, in which each node has a folder
            that is named after its identity.

    Raises:
        ConfigError: QRES-E105 for a folder with the ledgers of several nodes.
    """
    if PrivacyLedger.exists(folder) or not folder.is_dir():
        return folder
    found = [
        below
        for below in sorted(folder.iterdir())
        if _IDENTITY.fullmatch(below.name) and PrivacyLedger.exists(below)
    ]
    if len(found) > 1:
        what = f"holds the ledgers of {len(found)} nodes"
        fix = f"name one of them, for example {found[0]}"
        raise ConfigError.of("QRES-E105", str(folder), what, fix)
    return found[0] if found else folder
