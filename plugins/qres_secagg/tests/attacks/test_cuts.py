"""An adversary that chooses who drops out, on the sparse graph: how small a sum can it get?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg import graph
from qres_secagg.failure import SecaggError
from qres_secagg.keys import X25519Pair, pair_key, self_key
from qres_secagg.masks import apply

Make = Callable[..., Any]
N, K, T = 16, 6, 5
MOST_CORRUPT = 2 * T - K - 2
"""Corrupt neighbours the threshold is made for: t = (k + 1 + c) / 2 + 1, rounded down."""


def parts(honest: Collection[int], near: tuple[tuple[int, ...], ...]) -> list[set[int]]:
    """Connected parts of the honest survivors: each one's sum is laid open, and no less."""
    left, found = set(honest), []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            part |= edge
            edge = {j for i in edge for j in near[i] if j in left and j not in part}
            left -= edge
        found.append(part)
    return found


@given(st.data())
def test_every_part_holds_the_threshold_less_the_corrupt(data: st.DataObject) -> None:
    n = data.draw(st.integers(10, 40))
    k = data.draw(st.sampled_from([k for k in (4, 6, 8, 12) if k < n - 1]))
    near = graph.circulant(n, k, data.draw(st.binary(min_size=1, max_size=3)))
    t = data.draw(st.integers(k // 2 + 1, k + 1))
    corrupt = data.draw(st.sets(st.integers(0, n - 1), max_size=n // 3))
    alive = set(range(n)) - data.draw(st.sets(st.integers(0, n - 1), max_size=n // 2))
    alive |= corrupt
    for part in parts(alive - corrupt, near):
        for rank in part:
            if 1 + sum(j in alive for j in near[rank]) < t:
                break  # it states nothing
        else:
            assert all(len(part) >= t - len(corrupt & set(near[rank])) for rank in part)


@pytest.fixture(name="on_a_circle")
def _on_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks in their own order, so that a test can name neighbours."""
    monkeypatch.setattr(graph, "permutation", lambda n, _seed: tuple(range(n)))
    graph.circulant.cache_clear()
    yield
    graph.circulant.cache_clear()


@pytest.mark.usefixtures("on_a_circle")
def test_a_cut_gives_the_sum_of_a_part_and_of_no_less(make_swarm: Make) -> None:
    """A limit of sparse graphs: with enough corrupt nodes on both sides, a part is cut out."""
    corrupt, dropped, part = {0, 1, 10, 11}, {2, 12}, set(range(3, 10))
    swarm = make_swarm(N, k=K, t=T, corrupt=4)
    swarm.advertise()
    known = {rank: swarm.clients[rank]._mask for rank in corrupt}  # the colluders' own keys
    swarm.share()
    swarm.list()
    swarm.mask()
    swarm.state([rank for rank in range(N) if rank not in dropped])
    swarm.unmask()
    board, sid = swarm.boards[0], swarm.session.sid
    opening = board.decided()
    total = np.sum([swarm.masked[rank].vector for rank in part], axis=0, dtype=np.uint32)
    keys = [(self_key(opening.secret(rank), sid, swarm.node(rank)), -1) for rank in sorted(part)]
    for rank in part:
        for other in board.partners(rank):
            if other in part:
                continue
            pair = known[other] if other in corrupt else X25519Pair(opening.secret(other))
            public = board.advert(rank).mask
            key = pair_key(
                pair.exchange(public),
                sid,
                (swarm.node(rank), public),
                (swarm.node(other), pair.public),
            )
            keys.append((key, -1 if rank < other else 1))
    apply(total, keys)
    expected = swarm.plain([swarm.node(rank) for rank in part])
    assert np.array_equal(total.view(np.int32), expected)
    assert len(part) >= swarm.session.parameters.least_part == T - MOST_CORRUPT


@pytest.mark.usefixtures("on_a_circle")
def test_a_part_below_that_states_nothing(make_swarm: Make) -> None:
    """Two honest nodes between corrupt and dropped ones."""
    dropped, part = {0, 2, 6, 7}, {3, 4}  # 1 and 5 are corrupt
    swarm = make_swarm(N, k=K, t=T, corrupt=2).until_masked()
    inputs = swarm.digests([rank for rank in range(N) if rank not in dropped])
    assert len(part) < T - MOST_CORRUPT
    for rank in part:
        with pytest.raises(SecaggError, match="too few survivors"):
            swarm.clients[rank].state(inputs)


@pytest.mark.usefixtures("on_a_circle")
def test_the_complete_graph_has_no_cut(make_swarm: Make) -> None:
    swarm = make_swarm(N).until_masked()
    survivors = range(12)
    assert len(parts(survivors, swarm.boards[0].topology.peers)) == 1
