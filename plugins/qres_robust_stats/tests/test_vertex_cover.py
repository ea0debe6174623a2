"""Vertex covers against all subsets of the vertices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_robust_stats.vertex_cover import CoverSearch, adjacency, members

from qres_core.errors import ValueRefusedError

Graph = list[int]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    n = draw(st.integers(1, 11))
    pairs = list(itertools.combinations(range(n), 2))
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    joined = np.zeros((n, n), dtype=np.bool_)
    for a, b in edges:
        joined[a, b] = joined[b, a] = True
    return adjacency(joined)


def covers(graph: Graph, alive: int, chosen: int) -> bool:
    left = alive & ~chosen
    return not any(graph[vertex] & left for vertex in members(left))


def least_cover(graph: Graph, alive: int) -> int:
    vertices = list(members(alive))
    for size in range(len(vertices) + 1):
        for chosen in itertools.combinations(vertices, size):
            if covers(graph, alive, sum(1 << vertex for vertex in chosen)):
                return size
    raise AssertionError("all vertices together are a cover")


@pytest.mark.claim("C-robust-6")
@given(graph=graphs(), data=st.data())
@settings(max_examples=1000, deadline=None)
def test_finds_a_cover_exactly_if_there_is_one(graph: Graph, data: st.DataObject) -> None:
    alive = data.draw(st.integers(0, (1 << len(graph)) - 1))
    least = least_cover(graph, alive)
    search = CoverSearch(10_000)
    assert search.cover(graph, alive, least - 1) is None
    for limit in (least, least + 1, len(graph)):
        found = search.cover(graph, alive, limit)
        assert found is not None
        assert found.bit_count() <= limit
        assert found & ~alive == 0
        assert covers(graph, alive, found)


@pytest.mark.parametrize("length", [3, 4, 5, 8, 9])
def test_cycles(length: int) -> None:
    graph = [(1 << (i - 1) % length) | (1 << (i + 1) % length) for i in range(length)]
    everything = (1 << length) - 1
    least = (length + 1) // 2
    assert CoverSearch(100).cover(graph, everything, least - 1) is None
    found = CoverSearch(100).cover(graph, everything, least)
    assert found is not None
    assert covers(graph, everything, found)


def hard(n: int = 200, degree: float = 6.0) -> Graph:
    joined = np.triu(np.random.default_rng(0).random((n, n)) < degree / n, 1)
    return adjacency(joined | joined.T)


def test_the_budget_ends_a_hard_search_at_the_same_step_every_time() -> None:
    graph, everything = hard(), (1 << 200) - 1
    for _ in range(2):
        search = CoverSearch(300)
        with pytest.raises(ValueRefusedError, match=r"QRES-E507 budget: .* 300 steps"):
            search.cover(graph, everything, 112)
        assert search.steps == 300


def test_the_budget_is_shared_by_all_searches() -> None:
    search = CoverSearch(2)
    search.cover([2, 1], 3, 1)
    search.cover([2, 1], 3, 1)
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        search.cover([2, 1], 3, 1)


def test_members() -> None:
    assert list(members(0)) == []
    assert list(members(1 << 200 | 5)) == [0, 2, 200]
