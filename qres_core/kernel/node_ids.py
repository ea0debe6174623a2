"""Identities for nodes to which no plugin gives one."""

from __future__ import annotations

import hashlib

from qres_core.contract import canonical
from qres_core.contract.types import NodeId


def node_ids(count: int, seed: int) -> list[NodeId]:
    """Identities for ``count`` simulated nodes, 32 bytes each; not keys, and no secrets."""
    return [
        hashlib.sha256(b"qres/lab/node/v1\0" + canonical.dumps([seed, index])).digest()
        for index in range(count)
    ]
