"""Why a configuration cannot run sharded rounds: what is not supported is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from qres_core.contract.errors import Problem
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.chain import having
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.remedies import enable

_SAID: Final = 'and swarm.aggregation is "sharded"'
_WHOLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "privatize": "changes or hides whole updates",
        "reveal": "reveals whole updates",
        "verify": "checks proofs of whole updates",
        "screen": "judges whole updates before the vote",
        "endorse": "judges before the vote what whole updates merge to",
    }
)
"""Hooks that are called with whole updates, which no node of a sharded round has."""


def unsharded(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    """Every reason why ``swarm.aggregation = "sharded"`` cannot be kept with these plugins."""
    if swarm.aggregation != "sharded":
        return
    if not having(enabled, "authenticate"):
        what = 'is "sharded", and no enabled plugin signs what members of committees say'
        fix = f'{enable("authenticate")}; or set it to "everyone"'
        yield Problem("QRES-E319", "swarm.aggregation", what, fix)
    for plugin in enabled:
        where = f"plugins.{plugin.name}"
        merges = not {"aggregate", "wrap_aggregate"}.isdisjoint(plugin.hooks)
        whole = next((why for hook, why in _WHOLE.items() if hook in plugin.hooks), None)
        if whole is not None:
            fix = f'swarm.aggregation = "everyone", or remove [{where}]'
            yield Problem("QRES-E319", where, f"{whole}, {_SAID}", fix)
        elif merges and not (plugin.claims.coordinatewise or _by_products(plugin, enabled)):
            what = f"claims neither to be coordinatewise nor by_products, {_SAID}"
            if plugin.claims.by_products:
                what = f"compares whole updates, which a wrapper changes before it, {_SAID}"
            other = (
                "use a rule that merges each coordinate by itself, such as median"
                if "aggregate" in plugin.hooks
                else f"remove [{where}]"
            )
            own = "if it needs no whole updates, its authors state so in its claims"
            yield Problem(
                "QRES-E319", where, what, f'swarm.aggregation = "everyone", or {other}; {own}'
            )


def _by_products(plugin: Enabled, enabled: Sequence[Enabled]) -> bool:
    """Whether a rule can do with inner products, which are those of the updates as they came."""
    return (
        plugin.claims.by_products
        and "aggregate" in plugin.hooks
        and not having(enabled, "wrap_aggregate")
    )
