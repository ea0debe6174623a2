"""Whole sessions: the sum is the plain sum, whoever drops out and whenever."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qres_secagg.aggregator import Aggregator
from qres_secagg.failure import SecaggError
from qres_secagg.inputs import Input
from qres_secagg.masks import Residues

Make = Callable[..., Any]
SLOW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_exact(swarm: Any, rank: int = 0) -> None:
    for found in swarm.sums(rank):
        assert np.array_equal(found.total, swarm.plain(found.members))


@pytest.mark.claim("C-secagg-35")
@pytest.mark.control("C-secagg-35")
def test_a_coordinate_that_one_node_alone_changes_is_read_from_the_sum(make_swarm: Make) -> None:
    """A row of an embedding, say, for a word that one node alone has. Masks do not help.

    In the control all nodes change all coordinates: what stands there is no single node's.
    """
    alone, place, rng = 3, 7, np.random.default_rng(1)
    dense = {rank: rng.integers(1, 1000, 20).astype(np.int32) for rank in range(8)}
    sparse = {rank: vector.copy() for rank, vector in dense.items()}
    for rank in set(sparse) - {alone}:
        sparse[rank][place] = 0
    for vectors, read in ((sparse, True), (dense, False)):
        swarm = make_swarm(8, t=5)
        swarm.advertise()
        swarm.share()
        swarm.list()
        swarm.mask(vectors=vectors)
        swarm.state()
        swarm.unmask()
        (found,) = swarm.sums()
        assert bool(found.total[place] == vectors[alone][place]) is read
        assert not np.array_equal(swarm.masked[alone].vector, vectors[alone])


@pytest.mark.claim("C-secagg-1")
@SLOW
@given(st.data())
def test_sums_are_exact_over_all_shapes_and_dropouts(make_swarm: Make, data: st.DataObject) -> None:
    n = data.draw(st.integers(4, 11), "n")
    k = data.draw(st.sampled_from([*range(4, n - 1, 2), n - 1]), "k")
    t = (k + 1) // 2 + 1
    swarm = make_swarm(
        n,
        k=k,
        t=t,
        dimension=data.draw(st.integers(1, 70), "d"),
        ring_bits=data.draw(st.sampled_from([32, 64]), "ring"),
        prg=data.draw(st.sampled_from(["aes256ctr", "chacha20"]), "prg"),
    )
    left = list(range(n))
    gone: list[int] = []

    def drop(stage: str) -> list[int]:
        """Some of those that are left, so few that no neighbourhood falls below the threshold."""
        allowed = k + 1 - t - len(gone)
        some = data.draw(
            st.lists(st.sampled_from(left), unique=True, max_size=max(0, allowed)), stage
        )
        for rank in some:
            if len(left) > max(t, 3, n // 2 + 1):
                left.remove(rank)
                gone.append(rank)
        return left

    swarm.advertise(list(drop("advertise")))
    swarm.share(list(drop("share")))
    swarm.list(leader=left[0])
    swarm.mask(list(drop("masked input")))
    survivors = list(left)
    swarm.state(survivors, list(drop("survivors")))
    swarm.unmask(list(drop("unmask")))
    (found,) = swarm.sums(left[-1])
    assert [swarm.session.rank[node] for node in found.members] == survivors
    assert np.array_equal(found.total, swarm.plain(found.members))
    assert all(board.drain() == () for board in swarm.boards.values())


@pytest.mark.parametrize("ring", [32, 64])
def test_sums_of_ranges_are_ranges_of_the_sums(make_swarm: Make, ring: int) -> None:
    """Of every range, also after dropouts, whose masks are taken off by their opened keys."""
    swarm = make_swarm(9, t=5, dimension=23, ring_bits=ring)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(range(2, 9))
    swarm.state(range(2, 9))
    swarm.unmask()
    (whole,) = swarm.sums()
    assert np.array_equal(whole.total, swarm.plain(whole.members))
    for start, stop in ((0, 23), (0, 1), (5, 6), (4, 17), (22, 23), (7, 7)):
        aggregator = Aggregator(swarm.boards[0], span=range(start, stop))
        for rank in range(2, 9):
            sent = swarm.masked[rank]
            item = Input(sent.vector[start:stop], sent.residues, sent.digest)
            aggregator.add_input(swarm.node(rank), item)
        (found,) = aggregator.finish()
        assert np.array_equal(found.total, whole.total[start:stop])
    wrong = Aggregator(swarm.boards[0], span=range(3))
    with pytest.raises(SecaggError, match="not one of the agreed inputs"):
        wrong.add_input(swarm.node(2), Input(swarm.masked[2].vector, {}, swarm.masked[2].digest))


def test_dropouts_at_every_stage_of_one_round(make_swarm: Make) -> None:
    swarm = make_swarm(16, t=9)
    swarm.advertise(range(1, 16))
    swarm.share(range(2, 16))
    swarm.list(leader=15)
    swarm.mask(range(3, 16))
    swarm.state(range(3, 16), range(4, 16))
    swarm.unmask(range(5, 16))
    (found,) = swarm.sums(0)
    assert len(found.members) == 13
    assert np.array_equal(found.total, swarm.plain(found.members))


@pytest.mark.parametrize("stage", range(5))
def test_a_dropout_at_each_stage(make_swarm: Make, stage: int) -> None:
    swarm = make_swarm(8)
    ranks = [list(range(int(i >= stage), 8)) for i in range(5)]
    swarm.advertise(ranks[0])
    swarm.share(ranks[1])
    swarm.list(leader=7)
    swarm.mask(ranks[2])
    swarm.state(None, ranks[3])
    swarm.unmask(ranks[4])
    assert_exact(swarm, 7)
    assert len(swarm.boards[7].decided().survivors.digests) == (8 if stage > 2 else 7)


@settings(SLOW, max_examples=15)
@given(st.data())
def test_groups_are_summed_one_by_one(make_swarm: Make, data: st.DataObject) -> None:
    swarm = make_swarm(20, k=8, t=6, group_size=5, min_survivors=3)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask()
    late = data.draw(st.sets(st.integers(0, 19), max_size=6))
    survivors = [rank for rank in range(20) if rank not in late]
    swarm.state(survivors)
    swarm.unmask()
    topology = swarm.boards[0].topology
    sums = {found.group: found for found in swarm.sums()}
    for index, group in enumerate(topology.groups):
        present = [rank for rank in group if rank in survivors]
        assert (index in sums) == (len(present) >= 3)
        if index in sums:
            assert [swarm.session.rank[node] for node in sums[index].members] == present
            assert np.array_equal(sums[index].total, swarm.plain(sums[index].members))


def test_levels_make_finer_groups(make_swarm: Make) -> None:
    swarm = make_swarm(24, k=8, t=6, group_size=12, level=2)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask()
    swarm.state()
    swarm.unmask()
    assert len(swarm.sums()) == 8
    assert_exact(swarm)


def test_extreme_values_sum_exactly(make_swarm: Make) -> None:
    bound = (2**31 - 1) // 8
    swarm = make_swarm(8, bound=bound, dimension=3)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(vectors={i: np.array([bound, -bound, 0], np.int32) for i in range(8)})
    swarm.state()
    swarm.unmask()
    (found,) = swarm.sums()
    assert found.total.tolist() == [8 * bound, -8 * bound, 0]


def test_the_wide_ring_takes_wide_vectors(make_swarm: Make) -> None:
    swarm = make_swarm(4, ring_bits=64, bound=2**40, dimension=2)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(vectors={i: np.array([2**40, -(2**40)], np.int64) for i in range(4)})
    swarm.state()
    swarm.unmask()
    assert swarm.sums()[0].total.tolist() == [2**42, -(2**42)]


@SLOW
@given(st.data())
def test_residues_are_summed_modulo_their_own_number(make_swarm: Make, data: st.DataObject) -> None:
    modulus = data.draw(
        st.sampled_from([2, 97, 2**64, 2**252 + 27742317777372353535851937790883648493])
    )
    rows = {
        rank: data.draw(st.lists(st.integers(0, modulus - 1), min_size=3, max_size=3))
        for rank in range(5)
    }
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share()
    swarm.list()
    swarm.mask(
        residues={
            rank: {"zk": Residues(tuple(row), modulus), "open": Residues((1,), 10)}
            for rank, row in rows.items()
        }
    )
    swarm.state(range(1, 5))
    swarm.unmask()
    (found,) = swarm.sums()
    columns = zip(*(rows[rank] for rank in range(1, 5)), strict=True)
    assert found.residues["zk"].values == tuple(sum(column) % modulus for column in columns)
    assert found.residues["open"] == Residues((4,), 10)


def test_all_nodes_compute_the_same(make_swarm: Make) -> None:
    swarm = make_swarm(9).run()
    assert len({swarm.sums(rank)[0].total.tobytes() for rank in range(9)}) == 1


def test_messages_may_come_in_any_order_and_twice(make_swarm: Make) -> None:
    swarm = make_swarm(6).run()
    board = type(swarm.boards[0])(swarm.session)
    late = [(sender, kind, body) for (sender, kind), body in swarm.sent.items()]
    for sender, kind, body in reversed(late + late):
        board.receive(swarm.node(sender), kind, body)
    board.adopt(swarm.boards[0].compose())
    board.decide(swarm.digests(range(6)))
    swarm.boards[99] = board
    assert np.array_equal(swarm.sums(99)[0].total, swarm.sums(0)[0].total)
    assert board.drain() == ()


def test_progress_is_told(make_swarm: Make) -> None:
    swarm = make_swarm(16, k=8, t=6, group_size=4).run()
    aggregator = Aggregator(swarm.boards[0])
    for rank, sent in swarm.masked.items():
        aggregator.add(swarm.node(rank), sent.vector)
    told: list[tuple[int, int]] = []
    aggregator.finish(lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("n", [5, 12])
def test_who_sums_holds_one_accumulator_whatever_the_number_of_nodes(
    make_swarm: Make, n: int
) -> None:
    size = 4 * 200_000
    swarm = make_swarm(n, dimension=size // 4).run()
    board = swarm.boards[0]
    tracemalloc.start()
    aggregator = Aggregator(board)
    for rank in range(n):
        aggregator.add(swarm.node(rank), swarm.masked[rank].vector)
    held = tracemalloc.get_traced_memory()
    (found,) = aggregator.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held[1] < 1.2 * size
    assert peak < 4 * size  # the ring's sum and the int64 that is handed out
    assert np.array_equal(found.total, swarm.plain(found.members))
