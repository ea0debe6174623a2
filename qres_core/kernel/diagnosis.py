"""Everything that is wrong with a configuration, at once, and what it would run if nothing is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs

from qres_core.contract.errors import Problem, QresError
from qres_core.contract.stores import unprotected
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.compliance import remarks, unmet
from qres_core.kernel.config import Config, SwarmConfig, parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.policy import SitePolicy
from qres_core.kernel.settings import SharedSettings, shared_settings
from qres_core.kernel.solver import solve


@attrs.frozen
class Diagnosis:
    """Findings of :func:`diagnose`."""

    problems: tuple[Problem, ...]  # reasons the configuration would not start; empty if it would
    notices: tuple[str, ...]  # true things an operator should know
    # the plugins it would run, in file order; empty if any cannot be used
    enabled: tuple[Enabled, ...]
    config: Config | None  # the structured configuration, ``None`` if it could not be read
    # what must be the same on all nodes, ``None`` if it could not be told
    settings: SharedSettings | None = None


def _plugins_only(raw: Mapping[str, Any], source: str) -> Config:
    """The plugin tables alone, so that they are looked at even where the rest is wrong."""
    tables = raw.get("plugins", {})
    named = cast("dict[str, Any]", tables) if isinstance(tables, dict) else {}
    usable: dict[str, Any] = {name: t for name, t in named.items() if isinstance(t, dict)}
    swarm = SwarmConfig(name="unread", nodes=1, byzantine=0, quorum=1)
    return Config(source, swarm, plugins=usable)


def diagnose(
    raw: Mapping[str, Any],
    *,
    source: str,
    sections: Mapping[str, type],
    installed: Mapping[str, Installed],
    policies: Sequence[SitePolicy] = (),
) -> Diagnosis:
    """Collect the problems of the tables, of the plugins, of their combination and with policies.

    ``source``: where it came from, for messages; ``policies``: site policies that the configuration
    must meet.
    """
    problems: list[Problem] = []
    config: Config | None = None
    try:
        config = parse(raw, source=source, sections=sections)
    except QresError as error:
        problems.extend(error.problems)
    enabled: tuple[Enabled, ...] = ()
    try:
        enabled = assemble(config or _plugins_only(raw, source), installed)
    except QresError as error:
        problems.extend(error.problems)
        if config is not None:
            problems.extend(unmet(policies, config, None))
        return Diagnosis(tuple(problems), (), (), config)
    if config is None:
        return Diagnosis(tuple(problems), (), enabled, None)
    solution = solve(enabled, config.swarm)
    problems.extend(solution.problems)
    problems.extend(unmet(policies, config, enabled))
    settings: SharedSettings | None = None
    try:
        settings = shared_settings(config.swarm, enabled)
    except QresError as error:
        problems.extend(error.problems)
    demanded = () if problems else remarks(policies, config, installed)
    notices = (*solution.notices, *unprotected(), *demanded)
    return Diagnosis(tuple(problems), notices, enabled, config, settings)
