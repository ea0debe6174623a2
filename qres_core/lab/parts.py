"""Parts of the simulator that another distribution brings: what only a study needs."""

from __future__ import annotations

from typing import Any

from qres_core.contract.errors import LabError
from qres_core.kernel.discovery import ENGINES_GROUP, load, scan
from qres_core.kernel.index import absent


def part(name: str, where: str) -> Any:
    """The part of that name, imported.

    Args:
        name: of an entry point: ``vectorised`` (an engine) or ``shadow`` (a trial of a round).
        where: what asks for it, for messages.

    Raises:
        LabError: QRES-E201 says which distribution to install.
        PluginError: QRES-E202 to QRES-E205 for one that cannot be used.
    """
    if (problem := absent(name, ENGINES_GROUP, where)) is not None:
        raise LabError((problem,))
    return load(scan(group=ENGINES_GROUP)[name], where)
