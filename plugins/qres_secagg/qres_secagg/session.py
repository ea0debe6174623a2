"""The session id: everything the nodes must have in common before their masks cancel."""

from __future__ import annotations

import hashlib
import struct
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import attrs

from qres_core import DIGEST_BYTES, NODE_ID_BYTES, NodeId
from qres_core.errors import ConfigError
from qres_secagg.parameters import MAX_NODES, Parameters

DOMAIN: Final = b"qres-secagg/1"
MAX_ROUND: Final = 2**63 - 1
MAX_LEVEL: Final = 16


def joined(*parts: bytes) -> bytes:
    """The parts with their lengths, so that different parts never give the same bytes."""
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def roster_root(roster: tuple[NodeId, ...]) -> bytes:
    """SHA-256 over the node ids in their order, 32 bytes."""
    return hashlib.sha256(joined(DOMAIN, b"roster", *roster)).digest()


def parameter_bytes(parameters: Parameters) -> bytes:
    """Every field by name, so that a field added later changes the session."""
    fields: dict[str, Any] = attrs.asdict(parameters)
    return joined(
        *(
            joined(name.encode(), value if type(value) is bytes else str(value).encode())
            for name, value in sorted(fields.items())
        )
    )


@attrs.frozen(slots=False)
class Session:
    """One secure aggregation.

    Keys, shares and survivor statements are bound to :attr:`sid`. Nodes that were shown another
    model, roster, head or parameter are in another session, and nothing of it fits into this one:
    no mask of theirs cancels and no share of theirs opens (against Pasquini et al., "Eluding Secure
    Aggregation in Federated Learning via Model Inconsistency", CCS 2022).

    Raises:
        ConfigError: QRES-E105, a field out of range or a roster not ascending.
    """

    swarm: str  # name of the swarm
    round: int  # number of the round, 0..2**63-1
    model_digest: bytes  # 32 bytes, the model the updates are for
    # all nodes, ascending, each once. A node's *rank* is its place in it.
    roster: tuple[NodeId, ...]
    parameters: Parameters  # the numbers
    # 32 bytes, the head of the swarm's history that the round belongs to; empty where there is none
    head: bytes = b""
    level: int = 0  # how often groups are halved, see :func:`qres_secagg.graph.split`

    def __attrs_post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise(self.roster))
        if (
            not ascending
            or not 3 <= len(self.roster) <= MAX_NODES
            or any(len(node) != NODE_ID_BYTES for node in self.roster)
            or len(self.model_digest) != DIGEST_BYTES
            or len(self.head) not in {0, DIGEST_BYTES}
            or not 0 <= self.round <= MAX_ROUND
            or not 0 <= self.level <= MAX_LEVEL
        ):
            raise ConfigError.of(
                "QRES-E105", "secagg.session", "roster, model, round or level not valid"
            )
        if self.parameters.k >= len(self.roster):
            what = f"degree {self.parameters.k} among {len(self.roster)} nodes"
            raise ConfigError.of("QRES-E105", "secagg.session", what)

    @cached_property
    def sid(self) -> bytes:
        """The session id, SHA-256, 32 bytes."""
        head = (self.head,) if self.head else ()
        return hashlib.sha256(
            joined(
                DOMAIN,
                b"session",
                self.swarm.encode(),
                struct.pack("<Q", self.round),
                self.model_digest,
                roster_root(self.roster),
                parameter_bytes(self.parameters),
                bytes([self.level]),
                *head,
            )
        ).digest()

    @cached_property
    def rank(self) -> MappingProxyType[NodeId, int]:
        """Place of every node in the roster, from 0."""
        return MappingProxyType({node: rank for rank, node in enumerate(self.roster)})
