"""``qres check --host``: a configuration inside another framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qres_core.kernel.discovery import Installed
from qres_core.kernel.policy import SitePolicy

if TYPE_CHECKING:
    from qres_core.kernel.diagnosis import Diagnosis

HOSTS = ("flower",)
"""Frameworks with a server that an integration puts our plugins into."""


def diagnose_hosted(
    raw: Mapping[str, Any],
    source: str,
    installed: Mapping[str, Installed],
    policies: tuple[SitePolicy, ...],
) -> Diagnosis:
    """What keeps it from starting there, and what one coordinator gives up.

    A round is opened for a try, in memory: a plugin whose nodes talk to each other shows there.
    """
    import attrs  # noqa: PLC0415 - time

    from qres_core.contract.errors import QresError  # noqa: PLC0415 - time
    from qres_core.hosting.host import inspect  # noqa: PLC0415 - numpy
    from qres_core.hosting.trying import try_round  # noqa: PLC0415 - numpy

    found = inspect(raw, source, installed, policies)
    if found.problems or found.config is None:
        return found
    try:
        try_round(found.config, found.enabled, installed)
    except QresError as error:
        return attrs.evolve(found, problems=error.problems)
    return found
