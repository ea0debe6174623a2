"""Reasons why rounds of a configuration cannot cover fragments of the model in turn, by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qres_core.contract.errors import Problem
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.remedies import leave_out, words_for

TAKING_PARTS: Final = frozenset(
    (
        *("privatize", "revealable", "reveal", "prove", "verify", "verify_all"),
        *("aggregate", "wrap_aggregate", "screen", "endorse"),
    )
)
"""Hooks that are called with updates, or with what they merge to."""


def unfragmented(
    enabled: Sequence[Enabled], swarm: SwarmConfig, dimension: int
) -> Iterator[Problem]:
    """Every reason why ``swarm.fragments`` cannot be kept with these plugins and this model.

    ``dimension``: coordinates of the model; 0 where they are not known.
    """
    count = swarm.fragments
    if count == 1:
        return
    if 0 < dimension < count:
        what = f"is {count}, and the model has {dimension} parameters"
        fix = f"swarm.fragments <= {dimension}, or a larger model"
        yield Problem("QRES-E320", "swarm.fragments", what, fix)
    for plugin in enabled:
        if TAKING_PARTS.isdisjoint(plugin.hooks) or plugin.claims.by_fragments:
            continue
        where = f"plugins.{plugin.name}"
        what = f"does not claim to work by_fragments, and swarm.fragments is {count}"
        yield Problem("QRES-E320", where, what, f"swarm.fragments = 1, or {_other(plugin)}")


def _other(plugin: Enabled) -> str:
    """Remedy for the plugin."""
    options = leave_out(plugin, lambda it: it.claims.by_fragments)
    if not options:
        options = words_for(plugin, lambda it: it.claims.by_fragments)
    if options:
        return " or ".join(options)
    rule = "aggregate" in plugin.hooks
    return "use another rule" if rule else f"remove [plugins.{plugin.name}]"
