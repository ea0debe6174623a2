"""A round that is opened for a try: what a plugin does in it shows only there."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from qres_core.contract.types import DIGEST_BYTES, Vector
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_hosting.coordinator import Coordinator
from qres_hosting.host import Host, made_roster


class _UnaskedExamples:
    """Stands for the server's own: only whether there are any is looked at."""

    pooled = True

    def validate(self, vector: Vector) -> float:
        """Never asked."""
        raise NotImplementedError(vector.shape)

    def reference(self, vector: Vector, _round_info: object) -> Vector:
        """Never asked."""
        raise NotImplementedError(vector.shape)


def try_round(
    config: Config, enabled: tuple[Enabled, ...], installed: Mapping[str, Installed]
) -> None:
    """Open two rounds of a configuration, in memory; its members are made up where it has none.

    Raises QresError: QRES-E322 for a plugin whose nodes would talk to each other; what a plugin
    refused.
    """
    seed = 0
    roster = tuple(sorted(config.swarm.roster)) or made_roster(config, seed, installed)
    swarm = attrs.evolve(config.swarm, roster=roster)
    alone = attrs.evolve(config, swarm=swarm, node=attrs.evolve(config.node, data_dir=None))
    coordinator = Coordinator(Host(alone, enabled, seed, (), installed), _UnaskedExamples())
    try:
        for at in range(2):
            coordinator.begin(bytes([at]) * DIGEST_BYTES, 1024)
    finally:
        coordinator.stop()
