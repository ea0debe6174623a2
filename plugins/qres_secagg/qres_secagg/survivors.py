"""Whose inputs are in the sum: the survivor set U3, as the swarm agreed on it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import attrs

from qres_core import NodeId
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.graph import Topology
from qres_secagg.session import DOMAIN, Session, joined


@attrs.frozen
class Survivors:
    """The survivor set."""

    digests: Mapping[int, bytes]  # hash of the masked input by rank
    # indices of the groups with at least ``min_survivors`` of them, whose sums are opened; the
    # others stay closed for ever
    groups: frozenset[int]
    statement: bytes  # digest of session, list and survivors: what nodes state

    @classmethod
    def agreed(
        cls,
        session: Session,
        topology: Topology,
        members: Mapping[int, object],
        list_hash: bytes,
        inputs: Mapping[NodeId, bytes],
    ) -> Survivors:
        """The set of the inputs the swarm agreed on.

        Args:
            session: the session.
            topology: its graphs, at the list's level.
            members: ranks of the listed nodes.
            list_hash: names the list.
            inputs: the hash of the masked input of every survivor, 32 bytes.

        Raises:
            SecaggError: ``NOT_LISTED``, a survivor is not in the list; ``BELOW_THRESHOLD``, no
                group has enough.

        Complexity: O(n log n).
        """
        outside = [node for node in inputs if session.rank.get(node, -1) not in members]
        if outside:
            raise SecaggError(Reason.NOT_LISTED, f"{len(outside)} survivors", outside)
        digests = {session.rank[node]: inputs[node] for node in sorted(inputs)}
        least = session.parameters.min_survivors
        large = frozenset(
            index
            for index, group in enumerate(topology.groups)
            if sum(rank in digests for rank in group) >= least
        )
        if not large:
            what = f"{len(digests)} survivors, no group with {least}"
            raise SecaggError(Reason.BELOW_THRESHOLD, what)
        records = b"".join(struct.pack("<I", rank) + digests[rank] for rank in digests)
        parts = joined(DOMAIN, b"survivors", session.sid, list_hash, records)
        return cls(digests, large, hashlib.sha256(parts).digest())
