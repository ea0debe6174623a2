"""Survivors: the set U3 of the nodes in the sum, as the swarm agreed on it."""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import attrs
import numpy as np

from qres_core import NodeId
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.graph import Topology
from qres_secagg.parameters import corrupt_in_windows
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


def may_be_cut(
    circle: Sequence[int], survivors: Collection[int], window: int, corrupt: int
) -> bool:
    """True if so few corrupt nodes could cut the graph of the honest survivors in two.

    A circulant falls apart only where two windows of half its degree have no node that is left. If
    all the survivors in them are corrupt, the masks between the parts are known, and the sum of
    each part is open. Sums of parts are on no record, and the difference of two of them may be one
    update.

    Args:
        circle: the ranks in their order.
        survivors: ranks of the nodes whose inputs are summed.
        window: places on one side that a node masks against, half the degree.
        corrupt: most corrupt nodes in two windows.

    Returns:
        whether two windows apart from each other have together no more survivors than that.

    Complexity: O(n); O(n**2) additions where one window has at most half of them.
    """
    n = len(circle)
    if 2 * window >= n:
        return False
    there = np.array([rank in survivors for rank in circle], dtype=np.int64)
    sums = np.concatenate(([0], np.cumsum(np.concatenate((there, there[: window - 1])))))
    held = sums[window:] - sums[:-window]  # in the window that begins at a place
    if 2 * int(held.min()) > corrupt:
        return False
    apart = range(window, n - window + 1)
    return any(int((held + np.roll(held, -step)).min()) <= corrupt for step in apart)


def cut(session: Session, topology: Topology, survivors: Collection[int]) -> bool:
    """True if corrupt nodes could cut the one sum of a session, see :func:`may_be_cut`."""
    if topology.complete:
        return False
    n, k = len(session.roster), session.parameters.k
    corrupt = corrupt_in_windows(n, k, session.parameters.corrupt)
    return may_be_cut(topology.circle, survivors, k // 2, corrupt)


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
        survivors near it, itself counted, and the graph must hold together without the corrupt
        ones, see :func:`may_be_cut`.

        Args:
            session: the session.
            topology: its graphs.
            members: ranks of the listed nodes.
            list_hash: names the list.
            inputs: the hash of the masked input of every survivor, 32 bytes.

        Raises:
            SecaggError: ``NOT_LISTED``, a survivor is not in the list; ``BELOW_THRESHOLD``, no
                group has enough, a survivor of the one sum has too few survivors near it, or
                corrupt nodes could cut the sum in two.

        Complexity: O(n log n + u k) for ``u`` nodes that are gone; see :func:`may_be_cut`.
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
            if few := exposed(topology.peers, digests.keys(), t):
                what = f"{len(few)} survivors have fewer than {t} survivors near them"
                raise SecaggError(Reason.BELOW_THRESHOLD, what)
            if cut(session, topology, digests.keys()):
                what = "corrupt nodes could cut the survivors in two parts"
                raise SecaggError(Reason.BELOW_THRESHOLD, what)
        records = b"".join(struct.pack("<I", rank) + digests[rank] for rank in digests)
        parts = joined(DOMAIN, b"survivors", session.sid, list_hash, records)
        return cls(digests, large, hashlib.sha256(parts).digest())
