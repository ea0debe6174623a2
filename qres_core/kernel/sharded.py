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
        elif merges and not plugin.claims.coordinatewise:
            what = f"does not claim to be coordinatewise, {_SAID}"
            other = (
                "use a rule that merges each coordinate by itself, such as median"
                if "aggregate" in plugin.hooks
                else f"remove [{where}]"
            )
            own = "if it does so, its authors state Claims(coordinatewise=True)"
            yield Problem(
                "QRES-E319", where, what, f'swarm.aggregation = "everyone", or {other}; {own}'
            )
