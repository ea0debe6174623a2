"""The plugin as the audits drive it: nodes, rounds, and the sum that is seen.

Every node runs a :class:`qres_dp.Dp` of its own, with the ledger in memory. What is released is
what an observer of the mode sees: in mode ``local`` the node's contribution, in mode
``distributed`` the sum of the contributions of nodes the observer does not know.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qres_core import NodeId, NodeInfo, RoundInfo, Update, Vector
from qres_dp.modes import Mechanism, Mode, Relation, relation_of, steps
from qres_dp.plugin import Dp

CLIP: Final = 1.0
_SWARM: Final = "audit"
_ROUNDS: Final = 10**6
_DELTA: Final = 1e-6
_SCALE: Final = 0

Sum = NDArray[np.int64]


def _identity(index: int) -> NodeId:
    return NodeId(hashlib.sha256(b"audit" + bytes([index])).digest())


class System:
    """A swarm of as many nodes as the mode needs.

    Args:
        mode: of the plugin.
        noise_multiplier: z, the claim.
    """

    def __init__(self, mode: Mode, noise_multiplier: float) -> None:
        self.mode = mode
        self.noise_multiplier = noise_multiplier
        # How many updates a release is made of.
        self.inputs = 1 if mode is Mode.LOCAL else 2
        # One more node is the observer; in mode distributed it knows its own share.
        total = self.inputs + 1
        self._roster = tuple(sorted(_identity(index) for index in range(total)))
        self._honest = self.inputs if mode is Mode.DISTRIBUTED else 0
        self._nodes = [self._node(node) for node in self._roster[: self.inputs]]
        self._number = 0
        relation = relation_of(mode, "", sampled=False)
        bound = steps(CLIP, _SCALE)
        self.mechanism = Mechanism(mode, relation, bound, noise_multiplier, max(1, self._honest))

    def _node(self, node: NodeId) -> Dp:
        plugin = Dp(
            mode=self.mode.value,
            clip=CLIP,
            delta=_DELTA,
            rounds=_ROUNDS,
            noise_multiplier=self.noise_multiplier,
            honest=self._honest,
        )
        plugin.setup(NodeInfo(node, _SWARM, self._roster))
        return plugin

    @property
    def bound(self) -> int:
        """Clipping bound in steps of the grid."""
        return self.mechanism.bound

    @property
    def deviation(self) -> float:
        """Standard deviation the noise of a release should have, in steps of the grid."""
        return math.sqrt(self.mechanism.share * max(1, self._honest))

    @property
    def replaces(self) -> bool:
        """Whether neighbours differ in the value of an update, not in its presence."""
        return self.mechanism.relation is Relation.REPLACE_ONE

    def release(self, vectors: Sequence[Vector]) -> Sum:
        """One round: what the observer sees of it.

        ``vectors``: the nodes' updates, int32, shape ``(d,)``, as many as :attr:`inputs`. Returns
        int64, shape ``(d,)``.
        """
        self._number += 1
        info = RoundInfo(
            _SWARM,
            self._number,
            bytes(32),
            vectors[0].size,
            _SCALE,
            self._roster,
            len(self._roster),
        )
        sent = [
            plugin.privatize(Update(vector, 1), info)
            for plugin, vector in zip(self._nodes, vectors, strict=True)
        ]
        total: Sum = np.stack([frame.vector for frame in sent]).sum(axis=0, dtype=np.int64)
        return total
