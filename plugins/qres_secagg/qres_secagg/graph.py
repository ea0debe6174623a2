"""Graph of nodes that share with each other and mask against each other.

Both graphs are circulants (Harary graphs) on a permutation of the roster that a *beacon* seeds.
The beacon is a hash of what all nodes agreed on before the model's first round: the digest of the
model and the roster. The number of the round is not in it. So a round that is aborted, or a height
that ends without a model, is no new draw, and the same members of one model are never grouped
twice. Nobody chooses the model: whoever wants another one must change the last aggregate, which was
agreed on before it could be opened. Its limits: a node that takes part can try out updates of its
own for the one before, knowing nothing of the others' (so it steers only by chance); with a first
model that one party made up, that party chose the first beacon; and it is public, so who depends on
whom is known as soon as the model is. Who joins or takes a new key when the model is known, because
it is the first one or heights end without another, can try out keys. What a sum must hold is
therefore counted for the worst draw, with every colluder in one group
(:class:`~qres_secagg.parameters.Parameters`), and what chance puts on the circle for very many
draws (:func:`~qres_secagg.parameters.corrupt_in_windows`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from functools import lru_cache

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_secagg.session import DOMAIN, Session, joined, roster_root


def beacon(model_digest: bytes, roster: bytes, label: bytes) -> bytes:
    """32 bytes that no single node chooses, from the model's digest and the roster's."""
    return hashlib.sha256(joined(DOMAIN, b"beacon", label, model_digest, roster)).digest()


def permutation(n: int, seed: bytes) -> tuple[int, ...]:
    """The ranks ``0..n-1`` in an order given by ``seed``.

    Sorted by SHA-256 under the seed: uniform as far as SHA-256 is. O(n log n).
    """
    return tuple(
        sorted(range(n), key=lambda rank: hashlib.sha256(seed + struct.pack("<Q", rank)).digest())
    )


@lru_cache(maxsize=8)
def circle(n: int, k: int, seed: bytes) -> tuple[int, ...]:
    """The order of the ranks in the circle of :func:`circulant`. Cached."""
    return tuple(range(n)) if k >= n - 1 else permutation(n, seed)


@lru_cache(maxsize=8)
def circulant(n: int, k: int, seed: bytes) -> tuple[tuple[int, ...], ...]:
    """Neighbours of every rank, ascending: the ``k/2`` on both sides in a permuted circle.

    Args:
        n: nodes.
        k: degree, even; ``n - 1`` or more for the complete graph.
        seed: of the permutation; unused for the complete graph.

    Returns:
        one tuple of ranks per rank; symmetric, without the rank itself. Cached. O(n k log k).
    """
    if k >= n - 1:
        return tuple(tuple(j for j in range(n) if j != i) for i in range(n))
    order = circle(n, k, seed)
    half = k // 2
    found: list[tuple[int, ...]] = [()] * n
    for place, rank in enumerate(order):
        around = (order[(place + step) % n] for step in range(-half, half + 1) if step)
        found[rank] = tuple(sorted(around))
    return tuple(found)


@lru_cache(maxsize=16)
def _around(n: int, k: int, seed: bytes) -> NDArray[np.intp]:
    """As :func:`circulant`, in an array."""
    found = np.array(circulant(n, k, seed), np.intp)
    found.flags.writeable = False
    return found


def split(
    n: int, size: int, seed: bytes, *, level: int = 0, least: int = 1
) -> tuple[tuple[int, ...], ...]:
    """The ranks in groups of ``size`` or a few more, so that none is smaller.

    Args:
        n: nodes.
        size: least members of a group; 0 or above ``n / 2`` for a single group.
        seed: of the order in which they are dealt.
        level: how often the groups are halved then, each where both halves keep ``least``. So
            every group lies within one of the level before.
        least: fewest members of a group that was halved.

    Returns:
        groups of ascending ranks. Before they are halved their sizes differ by at most one.
    """
    count = max(1, n // size) if size else 1
    order = permutation(n, seed)
    groups = [order[place::count] for place in range(count)]
    for _ in range(level):
        groups = [
            half
            for group in groups
            for half in ((group[::2], group[1::2]) if len(group) // 2 >= least else (group,))
        ]
    return tuple(tuple(sorted(group)) for group in groups)


@attrs.frozen
class Topology:
    """The graphs of a session, by rank."""

    # per rank, who holds a share of its secrets, without itself; over all the swarm
    holders: tuple[tuple[int, ...], ...]
    # the same, int64, shape ``(n, k)``
    around: NDArray[np.intp] = attrs.field(eq=False, repr=False)
    circle: tuple[int, ...]  # the ranks in an order in which neighbours share most of their holders
    # the groups, each of ascending ranks; one for all without groups
    groups: tuple[tuple[int, ...], ...]
    group_of: tuple[int, ...]  # per rank, the index of its group
    peers: tuple[tuple[int, ...], ...]  # per rank, whom it masks against; within its group
    complete: bool  # whether everybody in a group masks against everybody in it


def _grouped(n: int, groups: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    peers: list[tuple[int, ...]] = [()] * n
    for group in groups:
        for rank in group:
            peers[rank] = tuple(other for other in group if other != rank)
    return tuple(peers)


def topology(session: Session) -> Topology:
    """The graphs all nodes of a session compute alike.

    With one group, masks and shares are on the same graph of degree ``k``. With several, masks are
    within complete groups, and shares on the graph of degree ``k`` over the swarm: a small group
    may have an unlucky share of corrupt nodes, the swarm has not.
    """
    n, k = len(session.roster), session.parameters.k
    roster, parameters = roster_root(session.roster), session.parameters
    seed = beacon(session.model_digest, roster, b"holders")
    holders = circulant(n, k, seed)
    groups = split(
        n,
        parameters.group_size,
        beacon(session.model_digest, roster, b"groups"),
        level=session.level,
        least=parameters.min_survivors,
    )
    group_of = [0] * n
    for index, group in enumerate(groups):
        for rank in group:
            group_of[rank] = index
    several = len(groups) > 1
    peers = _grouped(n, groups) if several else holders
    return Topology(
        holders,
        _around(n, k, seed),
        circle(n, k, seed),
        groups,
        tuple(group_of),
        peers,
        several or k >= n - 1,
    )
