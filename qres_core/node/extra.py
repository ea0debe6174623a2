"""Imports of the daemon alone, and the message if a part of them is missing."""

from __future__ import annotations

import importlib
from typing import Final

from qres_core.contract.errors import LabError

NEEDED: Final = ("structlog", "prometheus_client", "h11")
"""Modules of the extra ``node``."""


def require() -> None:
    """Refuse to go on without the extra. Raises LabError: QRES-E802."""
    missing: list[str] = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        fix = f"pip install {' '.join(missing)}"
        what = f"{', '.join(missing)} not installed"
        raise LabError.of("QRES-E802", "qres node", what, fix)
