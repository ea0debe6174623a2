"""Limits of one coordinator: plugins that rest on agreement are refused before the start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from qres_core.contract.errors import Problem
from qres_core.contract.types import Visibility
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.chain import having
from qres_core.kernel.config import NodeConfig, SwarmConfig

_NEEDS: Final = (
    ("aggregation", "everyone", "committees of members merge a sharded round"),
    ("proof_checks", "everyone", "committees of members check each other's proofs"),
    ("participants", 0, "members draw from an agreed head who trains"),
    ("authority", "members", "members decide who joins and who leaves"),
    ("memory", 0, "a node keeps the contributions of a height on its disk"),
    ("until", "", "members agree that the goal is reached"),
    ("rounds", 0, "the framework says how many rounds there are"),
    ("roster_epoch", 0, "members decide who joins and who leaves"),
)
"""Keys of ``[swarm]``, the one value that means the same without agreement, and who it asks."""

_ALONE: Final = (
    "one coordinator takes the place of agreement: it says who is in a round and what the model "
    "is, and nobody checks that"
)
_LIES: Final = (
    "a coordinator that lies can leave updates out, and hand out any model; the plugins protect "
    "against clients that lie"
)

_SUMS: Final = (
    "a coordinator that lies can ask for sums of other clients of a model that hardly differs, and "
    "take one from the other; what hides an update then is noise"
)


def unhosted(enabled: Sequence[Enabled], swarm: SwarmConfig) -> Iterator[Problem]:
    """Find keys of a configuration that need agreement among nodes, QRES-E322."""
    for key, value, asks in _NEEDS:
        if getattr(swarm, key) != value:
            what = f"{asks}, and here is one coordinator and no agreement"
            fix = f"leave swarm.{key} out, or run a swarm: qres node run"
            yield Problem("QRES-E322", f"swarm.{key}", what, fix)
    for plugin in enabled:
        where, remove = f"plugins.{plugin.name}", f"remove [plugins.{plugin.name}]"
        if plugin.claims.needs.outcomes:
            what = "must hear what became of a client's updates, and clients are told nothing"
            fix = f"leave out the option that needs it, or {remove}"
            yield Problem("QRES-E322", where, what, fix)
        if plugin.claims.needs.records is not None:
            what = "protects single examples, and the framework's own code trains"
            yield Problem("QRES-E318", where, what, 'unit = "node", or use a trainer of QRES')


def forgetful(enabled: Sequence[Enabled], node: NodeConfig) -> Iterator[Problem]:
    """Find plugins that must keep something and have no place: each message may get a process."""
    for plugin in enabled:
        hides = plugin.claims.hides.leaves is not Visibility.INDIVIDUAL
        if (hides or plugin.claims.needs.folder) and node.data_dir is None:
            what = f"not set, and plugins.{plugin.name} keeps what must outlive the process"
            yield Problem("QRES-E103", "node.data_dir", what, "name a folder")


def speaks(name: str) -> Problem:
    """A plugin whose members talk to each other in a round."""
    what = "its nodes talk to each other in a round, and here is one coordinator and no agreement"
    fix = f"leave out the option that needs it, or remove [plugins.{name}]"
    return Problem("QRES-E322", f"plugins.{name}", what, fix)


def gives_up(enabled: Sequence[Enabled]) -> tuple[str, ...]:
    """Losses with a coordinator in the place of agreement, one sentence each."""
    said = [_ALONE, _LIES, "if the coordinator is away, nothing goes on"]
    if having(enabled, "reputation"):
        said.append("bans are the coordinator's own; no member agrees to them")
    if having(enabled, "screen") or having(enabled, "endorse"):
        said.append("the coordinator's examples alone judge updates; no member votes")
    hidden = any(each.claims.hides.leaves is not Visibility.INDIVIDUAL for each in enabled)
    said.append(_SUMS if hidden else "the coordinator sees every update singly")
    return tuple(said)
