"""An adversary that chooses who drops out, on the sparse graph: how small a sum can it get?"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_secagg import graph, survivors
from qres_secagg.failure import SecaggError
from qres_secagg.parameters import choose
from qres_secagg.survivors import exposed

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


@pytest.mark.claim("C-secagg-26")
@pytest.mark.usefixtures("on_a_circle")
@pytest.mark.parametrize("guarded", [True, False])
def test_a_set_that_colluders_could_cut_is_opened_by_nobody(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Without the check, corrupt and dropped nodes on both sides lay the sum of a part open."""
    if not guarded:
        monkeypatch.setattr(survivors, "may_be_cut", lambda *_: False)
    corrupt, dropped, part = {0, 1, 10, 11}, {2, 12}, set(range(3, 10))
    swarm = make_swarm(N, k=K, t=T, corrupt=4)
    swarm.advertise()
    known = {rank: swarm.clients[rank]._mask for rank in corrupt}  # the colluders' own keys
    swarm.share()
    swarm.list()
    swarm.mask()
    stated = [rank for rank in range(N) if rank not in dropped]
    if guarded:
        for rank in stated:
            with pytest.raises(SecaggError, match="could cut the survivors in two parts"):
                swarm.clients[rank].state(swarm.digests(stated))
        return
    swarm.state(stated)
    swarm.unmask()
    spoils = Spoils.opened(swarm.boards[0]) | Spoils(keys=known)
    sent = {rank: swarm.masked[rank].vector for rank in part}
    total = unmasked(swarm.boards[0], sent, spoils)
    expected = swarm.plain([swarm.node(rank) for rank in part])
    assert np.array_equal(total, expected)


@given(st.data())
def test_whatever_corrupt_nodes_could_cut_is_found(data: st.DataObject) -> None:
    n = data.draw(st.integers(7, 11))
    k = data.draw(st.sampled_from([k for k in (2, 4, 6) if k < n - 1]))
    seed = data.draw(st.binary(min_size=1, max_size=2))
    near, circle = graph.circulant(n, k, seed), graph.circle(n, k, seed)
    present = data.draw(st.sets(st.integers(0, n - 1)))
    most = data.draw(st.integers(0, 3))
    cuts = any(
        len(parts(present - set(corrupt), near)) > 1
        for count in range(most + 1)
        for corrupt in combinations(sorted(present), count)
    )
    found = survivors.may_be_cut(circle, present, k // 2, most)
    assert found or not cuts
    windows = [{circle[(place + step) % n] for step in range(k // 2)} for place in range(n)]
    assert found == any(
        len(present & (one_side | other)) <= most
        for one_side, other in combinations(windows, 2)
        if not one_side & other
    )


@pytest.mark.usefixtures("on_a_circle")
def test_a_part_below_that_states_nothing_and_nor_does_anybody_else(make_swarm: Make) -> None:
    """Two honest nodes between corrupt and dropped ones."""
    dropped, part = {0, 2, 6, 7}, {3, 4}  # 1 and 5 are corrupt
    swarm = make_swarm(N, k=K, t=T, corrupt=2).until_masked()
    inputs = swarm.digests([rank for rank in range(N) if rank not in dropped])
    assert len(part) < T - MOST_CORRUPT
    for rank in range(N):
        with pytest.raises(SecaggError, match="fewer than 5 survivors near them"):
            swarm.clients[rank].state(inputs)


@given(st.data())
def test_survivors_with_too_few_near_them_are_those_that_counting_finds(
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(4, 30))
    k = data.draw(st.sampled_from([*range(2, n - 1, 2), n - 1]))
    near = graph.circulant(n, k, data.draw(st.binary(min_size=1, max_size=3)))
    present = data.draw(st.sets(st.integers(0, n - 1)))
    least = data.draw(st.integers(1, k + 1))
    counted = [i for i in sorted(present) if 1 + len(present.intersection(near[i])) < least]
    assert exposed(near, present, least) == counted


LONG = pytest.mark.long


@pytest.mark.claim("C-secagg-8")
@pytest.mark.control("C-secagg-8")
@pytest.mark.parametrize(
    ("n", "guarded"),
    [
        (70, True),
        (70, False),
        *(pytest.param(n, True, marks=LONG) for n in (100, 200)),
        *(pytest.param(n, False, marks=LONG) for n in (100, 200)),
    ],
)
def test_a_node_whose_neighbours_are_all_left_out_is_not_opened(
    make_swarm: Make, monkeypatch: pytest.MonkeyPatch, n: int, *, guarded: bool
) -> None:
    """They are there, and count as gone. Without the check a bystander reads the one update."""
    if not guarded:
        monkeypatch.setattr(survivors, "exposed", lambda *_: [])
        monkeypatch.setattr(survivors, "may_be_cut", lambda *_: False)  # finds it as well
    plan = choose(n, n // 10, n // 10)
    swarm = make_swarm(n, k=plan.k, t=plan.t, corrupt=n // 10)
    swarm.until_masked()
    victim = 7
    near = set(swarm.boards[0].topology.peers[victim])
    inputs = swarm.digests([rank for rank in range(n) if rank not in near])
    assert n - len(near) >= swarm.session.parameters.min_survivors
    others = [rank for rank in range(n) if rank != victim]
    if guarded:
        for rank in range(n):
            with pytest.raises(SecaggError, match=f"fewer than {plan.t} survivors near them"):
                swarm.clients[rank].state(inputs)
        assert all(board.opening is None for board in swarm.boards.values())
        return
    # The victim itself refused before, too. It was not asked.
    swarm.state([rank for rank in range(n) if rank not in near], others)
    swarm.unmask(others)
    bystander = swarm.boards[0]
    sent = {victim: swarm.masked[victim].vector}
    read = unmasked(bystander, sent, Spoils.opened(bystander))
    assert np.array_equal(read, swarm.inputs[victim])


@pytest.mark.usefixtures("on_a_circle")
def test_the_complete_graph_has_no_cut(make_swarm: Make) -> None:
    swarm = make_swarm(N).until_masked()
    alive = range(12)
    assert len(parts(alive, swarm.boards[0].topology.peers)) == 1
