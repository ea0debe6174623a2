"""Merging by a rule in its wrappers: whole, or as committees merge updates in shards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.products import inner_products
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Updates, Vector
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.solver import Solution


def merged(
    plugins: Sequence[object],
    updates: Updates,
    round_info: RoundInfo,
    *,
    shards: int | None = None,
) -> Vector:
    """Merge updates as a node does, or as the committees of a sharded round do together.

    A rule whose claims are right, in wrappers whose claims are, merges to the same in any number of
    shards.

    Args:
        plugins: the wrappers, the outermost first, and the rule.
        updates: whole updates.
        round_info: the round.
        shards: ranges of coordinates that are merged each by itself, 1 to ``d``; ``None`` for whole
            updates.

    Returns:
        int32, shape ``(d,)``.

    Raises:
        QresError: what the rule or a wrapper refused.
        HookError: QRES-E702 if a wrapper calls ``proceed`` not just once.

    Example:
        >>> from qres_lab.testing import make_round_info, make_updates
        >>> from qres_core.builtin.mean import Mean
        >>> updates = make_updates([[1, 2, 3], [3, 4, 5]])
        >>> merged([Mean(unprotected=True)], updates, make_round_info(3), shards=2).tolist()
        [2, 3, 4]
    """
    n = len(updates)
    enabled = [enable(plugin, f"plugin_{place}") for place, plugin in enumerate(plugins)]
    kernel = Kernel(
        enabled,
        SwarmConfig(name="testing", nodes=n, byzantine=0, quorum=n),
        solution=Solution((), ()),
    )
    if shards is None:
        return kernel.aggregate(updates, round_info)
    cuts = [index * updates.dimension // shards for index in range(shards + 1)]
    parts = [
        attrs.evolve(updates, vectors=updates.vectors[:, a:b]) for a, b in itertools.pairwise(cuts)
    ]
    ranges = [(part, attrs.evolve(round_info, dimension=part.dimension)) for part in parts]
    sums: list[NDArray[Any]] = []
    while len(sums) < len(kernel.by_products):
        rows = (kernel.compared(part, here, sums).vectors for part, here in ranges)
        sums.append(np.sum([inner_products(part) for part in rows], axis=0))
    return np.concatenate([kernel.aggregate_shard(part, here, sums) for part, here in ranges])
