"""The plugin from options to revealed sums."""

from __future__ import annotations

import random
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_lab.testing import make_node_ids, make_round_info
from qres_lab.testing.hosting import host
from qres_secagg import Secagg
from qres_secagg.revelation import ODD
from qres_secagg.ring import MAX_WIDE_DIMENSION
from secagg_swarm import PluginSwarm, half_even, plain_sum

from qres_core import Companion, NodeInfo, Update, Updates, Visibility
from qres_core.errors import CompatibilityError, QresError, ValueRefusedError


def node_info(n: int, byzantine: int = 0, folder: str | None = None) -> NodeInfo:
    roster = make_node_ids(n)
    return NodeInfo(roster[0], "testing", roster, byzantine, data_dir=folder)


# ── options ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_size": 2}, "min_size"),
        ({"min_size": 1}, "min_size"),
        ({"group_size": 5}, "group_size"),
        ({"group_size": 9, "min_size": 10}, "group_size"),
        ({"group_size": True}, "group_size"),
        ({"ring": 48}, "ring"),
        ({"ring": 32.0}, "ring"),
        ({"prg": "mt19937"}, "prg"),
        ({"weights": "secret"}, "weights"),
        ({"max_weight": 4}, "max_weight"),
        ({"bound": 0.0}, "bound"),
        ({"bound": float("nan")}, "bound"),
        ({"corrupt": 0.6}, "corrupt"),
        ({"dropout": -0.1}, "dropout"),
        ({"patience": 0}, "patience"),
        ({"bisect": 1}, "bisect"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises((ValueError, TypeError), match=named):
        Secagg(**options)


def test_it_is_a_plugin_of_the_kernel() -> None:
    manager = host(Secagg(), name="secagg")
    assert manager.hook.privatize.get_hookimpls()
    assert manager.hook.reveal.get_hookimpls()
    # Whether a masked update is a good one nobody can see: it is no verifier of proofs.
    assert not manager.hook.verify.get_hookimpls()


def test_what_it_leaves_visible_follows_from_its_options() -> None:
    assert Secagg().claims.hides.leaves is Visibility.SUM
    # Groups of 12 make the rows, and one that has lost 4 is still opened.
    assert attrs.astuple(Secagg(group_size=12).claims.hides) == (Visibility.GROUP, 12, 8, 0.1)
    # One sum may become those of groups: who counts on the size counts on the least.
    assert attrs.astuple(Secagg(bisect=True).claims.hides) == (Visibility.GROUP, None, 8, 0.1)
    halved = Secagg(group_size=12, min_size=5, bisect=True)
    assert attrs.astuple(halved.claims.hides) == (Visibility.GROUP, 12, 5, 0.1)
    assert {"authenticate", "replay_check"} <= set(Secagg().claims.needs.families)


def test_a_bound_the_ring_has_no_room_for_is_refused_with_numbers() -> None:
    with pytest.raises(CompatibilityError) as caught:
        Secagg(bound=64.0).setup(node_info(600))
    assert caught.value.code == "QRES-E313"
    assert str(600 * 64 * 65536) in str(caught.value)
    Secagg(bound=64.0, ring=64).setup(node_info(600))
    groups = Secagg(bound=64.0, group_size=8, corrupt=0.01)  # sums of 8
    groups.setup(node_info(600))


def test_room_for_noise_counts() -> None:
    n, bound = 16, 1024.0
    room = (2**31 - 1 - n * int(bound) * 65536) / 65536
    Secagg(bound=bound, noise_room=room).setup(node_info(n))
    with pytest.raises(CompatibilityError) as caught:
        Secagg(bound=bound, noise_room=room + 1).setup(node_info(n))
    assert caught.value.code == "QRES-E313"


def test_no_safe_threshold_is_refused() -> None:
    with pytest.raises(CompatibilityError) as caught:
        Secagg(corrupt=0.33, dropout=0.5).setup(node_info(40))
    assert caught.value.code == "QRES-E314"


def test_a_swarm_smaller_than_its_groups_is_refused() -> None:
    with pytest.raises(CompatibilityError) as caught:
        Secagg(group_size=12).setup(node_info(10))
    assert caught.value.code == "QRES-E314"


def test_the_fault_bound_of_the_swarm_counts_as_corrupt() -> None:
    few = Secagg(corrupt=0.0).parameters(node_info(31, byzantine=8), 1)
    assert few.corrupt == 8
    assert few.min_survivors == 10
    assert 2 * few.t > few.k + 1 + 8
    assert few.acks == few.t + 8


def test_a_wide_ring_refuses_vectors_whose_high_words_do_not_fit() -> None:
    plugin = Secagg(ring=64)
    plugin.setup(node_info(4))
    plugin.round_opened(make_round_info(MAX_WIDE_DIMENSION, nodes=4))
    with pytest.raises(CompatibilityError) as caught:
        plugin.round_opened(make_round_info(MAX_WIDE_DIMENSION + 1, nodes=4))
    assert caught.value.code == "QRES-E313"


# ── sums ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-secagg-1")
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(4, 14),
    ring=st.sampled_from([32, 64]),
    prg=st.sampled_from(["aes256ctr", "chacha20"]),
    dimension=st.integers(1, 70),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_the_sum_is_exact_whoever_drops_out(
    n: int, ring: int, prg: str, dimension: int, seed: int, data: st.DataObject
) -> None:
    options = {"ring": ring, "prg": prg, "corrupt": 0.0, "dropout": 0.25, "min_size": 3}
    swarm = PluginSwarm(n, options, dimension=dimension)
    spare = n - swarm.plugins[swarm.roster[0]].parameters(node_info(n), 1).t
    gone = data.draw(
        st.lists(st.integers(0, n - 1), max_size=max(0, min(spare, n - 3)), unique=True)
    )
    stages = [data.draw(st.sampled_from(["open", "mask", "decide"])) for _ in gone]
    leader = 1 % n
    victims = [
        (swarm.roster[rank], stage)
        for rank, stage in zip(gone, stages, strict=True)
        if rank != leader
    ]
    swarm.away = {node for node, stage in victims if stage == "open"}
    swarm.open(seconds=6)
    assert swarm.ready() == swarm.others()
    silent = {node for node, stage in victims if stage == "mask"}
    updates = swarm.random_updates(
        seed, nodes=[node for node in swarm.ready() if node not in silent]
    )
    swarm.contribute(updates)
    swarm.away |= silent | {node for node, stage in victims if stage == "decide"}
    swarm.decide()
    assert swarm.finished() == swarm.others()
    for node in swarm.others():
        rows = swarm.reveal(node).updates
        assert rows.members == (tuple(sorted(updates)),)
        total = plain_sum(updates, updates)
        assert np.array_equal(rows.sums[0], total)
        assert np.array_equal(rows.vectors[0], half_even(total, len(updates)))
    assert not swarm.accused


def test_groups_are_rows_and_change_from_model_to_model() -> None:
    swarm = PluginSwarm(16, {"group_size": 5, "min_size": 3})
    seen = set()
    for number in range(3):
        swarm.model = bytes([number]) * 32
        swarm.open()
        updates = swarm.random_updates(1)
        swarm.contribute(updates).decide()
        rows = swarm.reveal(swarm.roster[3]).updates
        assert rows.visibility is Visibility.GROUP
        assert sorted(len(row) for row in rows.members) == [5, 5, 6]
        assert sorted(node for row in rows.members for node in row) == list(swarm.roster)
        for row, total, members in zip(rows.vectors, rows.sums, rows.members, strict=True):
            assert np.array_equal(total, plain_sum(updates, members))
            assert np.array_equal(row, half_even(total, len(members)))
        assert rows.weights.tolist() == [len(row) for row in rows.members]
        seen.add(rows.members)
        swarm.close()
    assert len(seen) == 3


def test_a_group_with_too_few_inputs_stays_closed_and_the_others_are_opened() -> None:
    swarm = PluginSwarm(15, {"group_size": 5, "min_size": 4, "dropout": 0.3}).open()
    updates = swarm.random_updates()
    group = swarm.dialogues[swarm.roster[0]].board.topology.groups[0]
    lost = {swarm.roster[rank] for rank in group[:2]}
    swarm.contribute({node: update for node, update in updates.items() if node not in lost})
    swarm.away = lost
    swarm.decide()
    rows = swarm.reveal(swarm.others()[0]).updates
    assert len(rows) == 2
    shown = {node for row in rows.members for node in row}
    assert shown.isdisjoint(swarm.roster[rank] for rank in group)
    # No share of any of its members left a node, dead or alive.
    board = swarm.dialogues[swarm.others()[0]].board
    assert len(board._unmasks) == 13
    assert all(unmask.shares.keys().isdisjoint(group) for unmask in board._unmasks.values())


@pytest.mark.control("C-secagg-28")
@pytest.mark.parametrize(("staying", "opened"), [(89, True), (53, False)])
def test_of_groups_on_a_sparse_graph_no_sum_is_opened_if_too_few_hold_shares(
    staying: int, *, opened: bool
) -> None:
    """100 nodes deal. 89 is the least quorum with which they start, and 53 may state a set."""
    options = {"group_size": 12, "min_size": 6, "corrupt": 0.04}
    swarm = PluginSwarm(100, options, byzantine=2).open(seconds=3)
    assert swarm.ready() == list(swarm.roster)
    stay = sorted(random.Random(1).sample(swarm.roster, staying))
    swarm.contribute(swarm.random_updates(nodes=stay))
    swarm.away = {*swarm.roster} - {*stay}
    swarm.decide().pass_time(2)
    board = swarm.dialogues[stay[0]].board
    assert board.opening is not None  # enough stated the set, and some groups have enough inputs
    assert bool(board.opening.missing) is not opened
    assert swarm.finished() == (stay if opened else [])


def test_public_weights_weigh_the_sum() -> None:
    options = {"weights": "public", "max_weight": 20, "bound": 16.0}
    swarm = PluginSwarm(6, options).open()
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    rows = swarm.reveal(swarm.roster[2]).updates
    capped = {node: min(20, update.weight) for node, update in updates.items()}
    assert {frame.sender: frame.weight for frame in swarm.sent.values()} == capped
    total = np.sum(
        [update.vector.astype(np.int64) * capped[node] for node, update in updates.items()], axis=0
    )
    assert np.array_equal(rows.sums[0], total)
    assert rows.weights.tolist() == [sum(capped.values())]
    assert np.array_equal(rows.vectors[0], half_even(total, sum(capped.values())))


def test_with_equal_weights_a_claim_counts_for_nothing() -> None:
    swarm = PluginSwarm(6).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    assert {frame.weight for frame in swarm.sent.values()} == {1}
    liar = swarm.roster[0]
    swarm.sent[liar] = attrs.evolve(swarm.sent[liar], weight=1000)
    swarm.decide()
    rows = swarm.reveal(swarm.roster[1]).updates
    assert rows.weights.tolist() == [6]
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


@pytest.mark.parametrize("ring", [32, 64])
def test_extremes_add_up(ring: int) -> None:
    swarm = PluginSwarm(4, {"bound": 4096.0, "ring": ring}, dimension=3).open()
    limit = 4096 * 65536
    updates = {node: Update(np.array([limit, -limit, 0], np.int32)) for node in swarm.roster}
    swarm.contribute(updates).decide()
    rows = swarm.reveal(swarm.roster[0]).updates
    assert rows.sums.tolist() == [[4 * limit, -4 * limit, 0]]
    assert rows.vectors.tolist() == [[limit, -limit, 0]]


def test_an_input_beyond_the_bound_is_refused_and_nothing_is_clipped() -> None:
    swarm = PluginSwarm(4, {"bound": 1.0}).open()
    vector = np.zeros(17, np.int32)
    vector[5] = 65537
    with pytest.raises(ValueRefusedError) as caught:
        swarm.plugins[swarm.roster[0]].privatize(Update(vector), swarm.info)
    assert caught.value.code == "QRES-E507"
    vector[5] = -65536
    swarm.plugins[swarm.roster[0]].privatize(Update(vector), swarm.info)


def test_a_mean_that_leaves_the_grid_is_held_and_counted() -> None:
    # Only a liar can bring it about: its masked input is any element of the ring.
    swarm = PluginSwarm(4, {"ring": 64}, dimension=2).open()
    updates = {node: Update(np.zeros(2, np.int32)) for node in swarm.roster}
    swarm.contribute(updates)
    liar = swarm.roster[0]
    beside = swarm.sent[liar].companions["secagg"].body
    high = np.frombuffer(beside[32:], np.uint32).copy()
    high += np.array([2**29, 0], np.uint32)  # 2**61 more
    swarm.sent[liar] = attrs.evolve(
        swarm.sent[liar], companions={"secagg": Companion(beside[:32] + high.tobytes())}
    )
    swarm.decide()
    rows = swarm.reveal(swarm.roster[1]).updates
    assert rows.vectors.tolist() == [[2**31 - 1, 0]]
    assert swarm.plugins[swarm.roster[1]].status()["saturated"] == 1


# ── what travels beside ───────────────────────────────────────────────────────────────────────


def test_residues_are_masked_and_their_sum_revealed() -> None:
    modulus = 2**252 + 27742317777372353535851937790883648493
    swarm = PluginSwarm(12, {"group_size": 4, "min_size": 3}).open()
    updates = {
        node: attrs.evolve(
            update,
            companions={
                "zk": Companion.of([rank, modulus - 1 - rank], modulus),
                "open": Companion(b"for everybody"),
            },
        )
        for rank, (node, update) in enumerate(swarm.random_updates().items())
    }
    swarm.contribute(updates)
    for node, sent in swarm.sent.items():
        assert sent.companions["open"] == updates[node].companions["open"]
        assert sent.companions["zk"].residues() != updates[node].companions["zk"].residues()
    swarm.away = {swarm.roster[5]}
    members = [node for node in swarm.roster if node != swarm.roster[5]]
    swarm.decide(members)
    rows = swarm.reveal(swarm.roster[0], members).updates
    assert set(rows.companions) == {"zk"}
    for companion, row in zip(rows.companions["zk"], rows.members, strict=True):
        ranks = [swarm.roster.index(node) for node in row]
        expected = (sum(ranks) % modulus, sum(modulus - 1 - rank for rank in ranks) % modulus)
        assert companion.residues() == expected


def test_who_leaves_out_residues_cannot_keep_the_sums_closed() -> None:
    swarm = PluginSwarm(6).open()
    updates = {
        node: attrs.evolve(update, companions={"zk": Companion.of([7], 97)})
        for node, update in swarm.random_updates().items()
    }
    liar = swarm.roster[4]
    updates[liar] = attrs.evolve(updates[liar], companions={"zk": Companion.of([7, 7], 101)})
    swarm.contribute(updates).decide()
    honest = next(node for node in swarm.roster if node != liar)
    revealed = swarm.reveal(honest)
    assert np.array_equal(revealed.updates.sums[0], plain_sum(updates, updates))
    assert [(fact.subject, fact.fact) for fact in revealed.against] == [(liar, ODD)]


def test_a_companion_under_its_own_name_is_refused() -> None:
    swarm = PluginSwarm(4).open()
    update = Update(np.zeros(17, np.int32), companions={"secagg": Companion(b"")})
    with pytest.raises(ValueRefusedError) as caught:
        swarm.plugins[swarm.roster[0]].privatize(update, swarm.info)
    assert caught.value.code == "QRES-E507"


# ── levels ────────────────────────────────────────────────────────────────────────────────────


def test_after_a_sum_that_failed_its_check_groups_are_halved_and_then_whole_again() -> None:
    swarm = PluginSwarm(16, {"bisect": True, "min_size": 4})
    sizes = []
    for code in ("QRES-E508", "QRES-E604", "QRES-E508", "QRES-E508", "", ""):
        swarm.open()
        swarm.contribute(swarm.random_updates()).decide()
        rows = swarm.reveal(swarm.roster[0]).updates
        assert rows.visibility is Visibility.GROUP
        sizes.append(sorted(len(row) for row in rows.members))
        swarm.close(code)
    assert sizes == [[16], [8, 8], [8, 8], [4] * 4, [4] * 4, [16]]


def test_without_bisect_groups_stay_as_they_are() -> None:
    swarm = PluginSwarm(16, {"group_size": 8})
    for code in ("QRES-E508", ""):
        swarm.open()
        swarm.contribute(swarm.random_updates()).decide()
        assert len(swarm.reveal(swarm.roster[0]).updates) == 2
        swarm.close(code)


def test_a_set_of_another_round_is_not_opened() -> None:
    swarm = PluginSwarm(5).open()
    swarm.contribute(swarm.random_updates()).decide()
    swarm.info = attrs.evolve(swarm.info, number=77)
    with pytest.raises(QresError) as caught:
        swarm.reveal(swarm.roster[0])
    assert caught.value.code == "QRES-E604"


def test_before_it_is_set_up_and_before_a_round_there_is_no_session() -> None:
    info = make_round_info(17, nodes=6)
    with pytest.raises(QresError, match=r"QRES-E604 .*not set up"):
        Secagg().round_opened(info)
    swarm = PluginSwarm(6)
    node = swarm.roster[0]
    masked = Updates(np.zeros((1, 17), np.int32), (node,), np.ones(1, np.int64))
    with pytest.raises(QresError, match=r"QRES-E604 .*no session in this round"):
        swarm.plugins[node].reveal(masked, (), info)
    swarm.open()
    with pytest.raises(QresError, match=r"QRES-E604 .*no session of round 9 for this model"):
        swarm.plugins[node].reveal(masked, (), attrs.evolve(swarm.info, number=9))
    with pytest.raises(QresError, match=r"QRES-E604 .*not finished"):
        swarm.plugins[node].reveal(masked, (), swarm.info)
