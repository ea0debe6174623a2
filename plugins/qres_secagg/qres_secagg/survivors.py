"""Whose inputs are in the sum: the survivor set U3, as the swarm agreed on it."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import attrs

from qres_core import NodeId
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.graph import Topology
from qres_secagg.session import DOMAIN, Session, joined


def exposed(near: Sequence[Sequence[int]], survivors: Collection[int], least: int) -> list[int]:
    """The survivors that have fewer than ``least`` survivors in their neighbourhoods.

    The opened secrets of a survivor and of its neighbours that are gone take its mask off. What
    hides it are the neighbours that are left.

    Args:
        near: per rank, its neighbours; symmetric, and without the rank itself.
        survivors: ranks of the nodes whose inputs are summed.
        least: survivors that a neighbourhood must keep, the node itself counted.

    Returns:
        their ranks, ascending.

    Complexity: O(n + u k) for ``u`` nodes that are gone.
    """
    gone = Counter(
        rank for other in range(len(near)) if other not in survivors for rank in near[other]
    )
    return [rank for rank in sorted(survivors) if 1 + len(near[rank]) - gone[rank] < least]


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
        """The set of the inputs the swarm agreed on, if its sums hide every survivor.

        Every node checks this for every survivor, before it states the set and so before it opens
        anything for it. In groups, where everybody masks against everybody, a sum must have
        ``min_survivors`` inputs. In one sum every survivor must keep the threshold ``t`` of
        survivors near it, itself counted. An adversary that chooses who is left out may cut a
        sparse graph and learn the sums of parts. With ``c`` corrupt neighbours at most, each part
        then has ``t - c`` honest inputs or more.

        Args:
            session: the session.
            topology: its graphs.
            members: ranks of the listed nodes.
            list_hash: names the list.
            inputs: the hash of the masked input of every survivor, 32 bytes.

        Raises:
            SecaggError: ``NOT_LISTED``, a survivor is not in the list; ``BELOW_THRESHOLD``, no
                group has enough, or a survivor of the one sum has too few survivors near it.

        Complexity: O(n log n + u k) for ``u`` nodes that are gone.
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
        if len(topology.groups) == 1:
            t = session.parameters.t
            if cut := exposed(topology.peers, digests.keys(), t):
                what = f"{len(cut)} survivors have fewer than {t} survivors near them"
                raise SecaggError(Reason.BELOW_THRESHOLD, what)
        records = b"".join(struct.pack("<I", rank) + digests[rank] for rank in digests)
        parts = joined(DOMAIN, b"survivors", session.sid, list_hash, records)
        return cls(digests, large, hashlib.sha256(parts).digest())
