"""Bytes that the nodes of a simulated swarm receive, by what they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from qres_core.contract.errors import WireError
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.messages import (
    ATTESTATION,
    CERTIFICATE,
    CHOICE,
    CONTRIBUTION,
    DIALOGUE,
    FETCH,
    FETCHED,
    HOLDING,
    OUTCOME,
    PRECOMMIT,
    RELAYED,
    decode_vote,
)
from qres_core.swarm.shards.merging import products_name
from qres_core.swarm.shards.messages import ASK, HELD, PART, PULL, RESULT, SHARD_MERGED, named_set

OTHER: Final = "other"
"""Models and links for nodes that lag, and what nobody can read."""
_OF_KIND: Final[Mapping[str, str]] = {
    CONTRIBUTION: "contributions",
    FETCH: "contributions",
    FETCHED: "contributions",
    ATTESTATION: "attestations",
    PART: "shards",
    ASK: "shards",
    HELD: "holdings",
    SHARD_MERGED: "results",
    PULL: "pulls",
    RESULT: "pulls",
    CERTIFICATE: "choice",
    HOLDING: "dialogues",
    RELAYED: "dialogues",
}
_OF_PREFIX: Final = {CHOICE: "choice", OUTCOME: "outcome", DIALOGUE: "dialogues"}
_OF_A_SET: Final = frozenset({SHARD_MERGED, PULL, RESULT})
_KEPT: Final = 16
"""Sets whose inner products are told apart from what they merge to."""


class Meter:
    """Counts what arrives at each node.

    Args:
        nodes: how many there are to count for.
        products: how many times a sharded round takes inner products.
    """

    def __init__(self, nodes: int, products: int = 0) -> None:
        self._nodes, self._times = nodes, products
        self._counts: dict[int, Counter[str]] = {}
        self._products: dict[bytes, None] = {}  # what messages call the inner products of a set

    def count(self, receiver: int, envelope: Envelope | None, octets: int) -> None:
        """A frame of so many bytes arrived.

        ``receiver``: the node's index; ``envelope``: what it says, if that can be read.
        """
        phase = OTHER if envelope is None else self._phase(envelope)
        self._counts.setdefault(receiver, Counter())[phase] += octets

    def _phase(self, envelope: Envelope) -> str:
        kind = envelope.kind
        if kind == PRECOMMIT:
            self._note(envelope)
        if kind in _OF_A_SET and named_set(envelope.payload) in self._products:
            return "products"
        prefix = kind.partition("/")[0] + "/"
        return _OF_KIND.get(kind) or _OF_PREFIX.get(prefix, OTHER)

    def _note(self, envelope: Envelope) -> None:
        """Remember the name of the inner products of a set that is about to be decided."""
        try:
            chosen = decode_vote(envelope.payload)
        except WireError:  # a liar's vote; the nodes refuse it themselves
            return
        if chosen is not None:
            for place in range(self._times):
                self._products[products_name(place, chosen)] = None
            while len(self._products) > _KEPT * self._times:
                del self._products[next(iter(self._products))]

    def take(self) -> tuple[dict[str, int], int]:
        """Return the counts since the last time.

        Returns the bytes of a node on average, by phase, and all bytes of the node with the most.
        """
        total: Counter[str] = Counter()
        for counts in self._counts.values():
            total.update(counts)
        most = max((sum(counts.values()) for counts in self._counts.values()), default=0)
        self._counts = {}
        return {phase: octets // self._nodes for phase, octets in sorted(total.items())}, most
