"""The part of ``qres check --host`` that reads a configuration as a framework's ends would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from qres_core.contract.errors import QresError
from qres_core.kernel.diagnosis import Diagnosis
from qres_core.kernel.discovery import Installed
from qres_core.kernel.policy import SitePolicy
from qres_hosting.host import inspect
from qres_hosting.trying import try_round


def diagnose_hosted(
    raw: Mapping[str, Any],
    source: str,
    installed: Mapping[str, Installed],
    policies: tuple[SitePolicy, ...],
) -> Diagnosis:
    """Find reasons not to start there, and say what one coordinator gives up.

    A round is opened for a try, in memory: a plugin whose nodes talk to each other shows there.
    """
    found = inspect(raw, source, installed, policies)
    if found.problems or found.config is None:
        return found
    try:
        try_round(found.config, found.enabled, installed)
    except QresError as error:
        return attrs.evolve(found, problems=error.problems)
    return found
