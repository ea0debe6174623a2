"""Sums that were opened at void heights, and what may be opened of the same model after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg import Secagg
from qres_secagg.messages import Kind
from qres_secagg.permission import Permission
from qres_secagg.store import SessionStore
from secagg_swarm import PluginSwarm, plain_sum, recorded

from qres_core import Companion, NodeInfo, Update
from qres_core.dialogues import VoidSet
from qres_core.errors import QresError, RoundError

VOID = "QRES-E604"
LARGE: dict[str, Any] = {"corrupt": 0.1}


def after_a_void_height(
    n: int = 13, code: str = VOID, **more: Any
) -> tuple[PluginSwarm, dict[bytes, Update], np.ndarray]:
    """All were summed, and it made no model; the next height is open."""
    swarm = PluginSwarm(n, LARGE, **more).open()
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    swarm.pass_time(3)
    total = swarm.reveal(swarm.roster[0]).updates.sums[0].copy()
    swarm.close(code)
    swarm.open()
    return swarm, updates, total


# ── going on ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-secagg-14")
@pytest.mark.control("C-secagg-14")
@pytest.mark.parametrize(("code", "again"), [("QRES-E508", True), (VOID, True), (VOID, False)])
def test_a_trainer_that_gives_the_same_update_again_goes_on(
    monkeypatch: pytest.MonkeyPatch, code: str, *, again: bool
) -> None:
    """In the control a model's sums are opened once, and all are locked out."""
    if not again:
        monkeypatch.setattr(Permission, "permits", lambda self, _senders: not self.info.void_sets)
    swarm, updates, total = after_a_void_height(code=code)
    if not again:
        said = recorded(swarm, Kind.STATEMENT)
        swarm.contribute(updates).decide().pass_time(3)
        assert not said
        with pytest.raises(QresError, match="tell few members apart"):
            swarm.reveal(swarm.roster[0])
        return
    for _height in range(3):
        swarm.contribute(updates)
        assert swarm.revealable() == swarm.roster
        swarm.decide()
        assert swarm.finished() == list(swarm.roster)
        assert np.array_equal(swarm.reveal(swarm.roster[1]).updates.sums[0], total)
        swarm.close(code)
        swarm.open()
    assert not swarm.accused


def test_and_so_does_one_that_gives_another() -> None:
    swarm, updates, total = after_a_void_height()
    other = swarm.random_updates(77)
    swarm.contribute(other)
    assert swarm.revealable() == swarm.roster
    swarm.decide()
    found = swarm.reveal(swarm.roster[1]).updates.sums[0]
    assert np.array_equal(found, plain_sum(other, other))
    assert not np.array_equal(found, total)
    assert updates != other


def test_after_a_model_every_set_may_be_opened() -> None:
    swarm, _updates, _total = after_a_void_height()
    swarm.contribute(swarm.random_updates()).decide()
    swarm.close()
    swarm.open()
    swarm.contribute(swarm.random_updates())
    assert swarm.revealable(swarm.roster[1:]) == swarm.roster[1:]


def test_without_one_of_the_first_set_two_others_are_left_out_too() -> None:
    swarm, updates, total = after_a_void_height()
    gone = swarm.roster[4]
    members = [node for node in swarm.roster if node != gone]
    swarm.contribute(updates)
    kept = swarm.revealable(members)
    assert len(kept) == 10  # 13 nodes, one may be corrupt: three at once
    assert gone not in kept
    swarm.decide(kept)
    assert swarm.finished() == list(swarm.roster)
    rows = swarm.reveal(swarm.roster[0], kept).updates
    assert np.array_equal(rows.sums[0], plain_sum(updates, kept))
    rest = [node for node in swarm.roster if node not in kept]
    assert np.array_equal(total - rows.sums[0], plain_sum(updates, rest))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_that_has_more_examples_at_the_next_height_counts_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, guarded: bool, restarted: bool
) -> None:
    """The other case is the control: two sums of one set show its update."""
    if not guarded:
        monkeypatch.setattr(Secagg, "_weight_of", lambda _self, update, _info: update.weight)
    options = {**LARGE, "weights": "public", "max_weight": 60}
    swarm = PluginSwarm(13, options)
    victim = swarm.roster[4]
    node = NodeInfo(victim, "testing", swarm.roster, 0, data_dir=str(tmp_path))
    swarm.plugins[victim].setup(node)
    swarm.open()
    updates, sums = swarm.random_updates(limit=1 << 12), list[np.ndarray]()
    for more in (0, 2):
        grown = attrs.evolve(updates[victim], weight=updates[victim].weight + more)
        swarm.contribute({**updates, victim: grown})
        assert swarm.revealable() == swarm.roster
        swarm.decide()
        sums.append(swarm.reveal(swarm.roster[0]).updates.sums[0].copy())
        swarm.close(VOID)
        if restarted:
            swarm.plugins[victim].teardown()
            swarm.plugins[victim] = Secagg(**options)
            swarm.plugins[victim].setup(node)
        swarm.open()
    shown = (sums[1] - sums[0]) // 2
    assert np.array_equal(shown, updates[victim].vector) is not guarded
    assert bool(shown.any()) is not guarded


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("public", [True, False])
def test_a_member_with_a_new_key_is_taken_for_the_same_one_only_if_all_count_once(
    monkeypatch: pytest.MonkeyPatch, *, public: bool, guarded: bool
) -> None:
    """Its new folder does not know how often it counted, and two sums would show its update."""
    if not guarded:
        kept = Secagg._permission
        monkeypatch.setattr(
            Secagg,
            "_permission",
            lambda self, info: attrs.evolve(kept(self, info), weighted=False),
        )
    options = {**LARGE, **({"weights": "public", "max_weight": 60} if public else {})}
    swarm = PluginSwarm(13, options).open()
    updates = swarm.random_updates(limit=1 << 12)
    swarm.contribute(updates).decide()
    first = swarm.reveal(swarm.roster[0]).updates.sums[0].copy()
    swarm.close(VOID)
    old, new = swarm.roster[4], b"\x01" * 32
    names = tuple(new if node == old else node for node in swarm.roster)
    (void,) = swarm.void_sets
    swarm.void_sets = (attrs.evolve(void, names=names),)
    swarm.change(names)
    swarm.open()
    more = updates.pop(old)
    updates[new] = attrs.evolve(more, weight=more.weight + 2)
    swarm.contribute(updates)
    kept_in = swarm.revealable()
    if public and guarded:
        assert new not in kept_in
        assert len(swarm.roster) - len(kept_in) == 4  # one liar, and one more that came
        return
    assert kept_in == swarm.roster
    swarm.decide()
    shown = (swarm.reveal(swarm.roster[0]).updates.sums[0] - first) // 2
    assert np.array_equal(shown, more.vector) is public
    assert bool(shown.any()) is public


# ── differencing ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("guarded", [True, False])
def test_a_set_without_the_victim_is_stated_by_nobody(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """A set that was decided nevertheless: more than f lie, and each honest node looks itself."""
    if not guarded:
        monkeypatch.setattr(Permission, "permits", lambda *_: True)
    swarm, updates, total = after_a_void_height()
    victim = swarm.roster[4]
    members = [node for node in swarm.roster if node != victim]
    swarm.contribute(updates)
    said = recorded(swarm, Kind.STATEMENT)
    swarm.decide(members)
    swarm.pass_time(3)
    if guarded:
        assert not said
        assert not swarm.finished()
        with pytest.raises(QresError, match="tell few members apart") as caught:
            swarm.reveal(swarm.roster[0], members)
        assert caught.value.code == "QRES-E604"
    else:
        rows = swarm.reveal(swarm.roster[0], members).updates
        assert np.array_equal(total - rows.sums[0], updates[victim].vector)


@pytest.mark.claim("C-secagg-11")
@pytest.mark.parametrize("guarded", [True, False])
def test_in_a_history_without_the_set_that_they_stated_nodes_state_no_other(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """More than f liars led the nodes that opened a set to a head at which it was not decided.

    In the control nobody remembers, and the difference of two sums is the victim's update.
    """
    if not guarded:
        monkeypatch.setattr(SessionStore, "states", lambda *_: True)
    swarm, updates, total = after_a_void_height()
    victim, *others = swarm.roster
    swarm.void_sets = (VoidSet(swarm.roster, swarm.roster, tuple(others[3:])),)
    swarm.height += 2
    swarm.open()
    swarm.contribute(updates)
    assert swarm.revealable(others) == tuple(others)  # three that were in no sum there
    said = recorded(swarm, Kind.STATEMENT)
    swarm.decide(others)
    swarm.pass_time(3)
    if guarded:
        assert not said
        assert not swarm.finished()
        with pytest.raises(QresError, match="is not on record"):
            swarm.reveal(swarm.roster[0], others)
    else:
        rest = total - swarm.reveal(swarm.roster[0], others).updates.sums[0]
        assert np.array_equal(rest, updates[victim].vector)


def test_a_new_swarm_of_the_same_members_and_model_has_no_record() -> None:
    """As a page says: begun without a member of the old one, it shows the member's update."""
    old, updates, total = after_a_void_height()
    gone, *others = old.roster
    new = PluginSwarm(12, LARGE)
    new.plugins.clear()
    new.model = old.info.model_digest
    new.change(others)
    new.open().contribute({node: updates[node] for node in others})
    assert new.revealable() == new.roster
    new.decide()
    rest = total - new.reveal(others[0]).updates.sums[0]
    assert np.array_equal(rest, updates[gone].vector)


@pytest.mark.control("C-secagg-11")
@pytest.mark.parametrize("restarted", [False, True])
def test_who_remembers_no_set_states_one_of_the_other_history(
    tmp_path: Path, *, restarted: bool
) -> None:
    """The rest of the nodes were never elsewhere; who was restarted remembers all the same."""
    swarm = PluginSwarm(13, LARGE)
    node = swarm.roster[4]
    info = NodeInfo(node, "testing", swarm.roster, 0, data_dir=str(tmp_path))
    swarm.plugins[node].setup(info)
    swarm.open()
    swarm.contribute(swarm.random_updates()).decide()
    swarm.close(VOID)
    if restarted:
        swarm.plugins[node].teardown()
        swarm.plugins[node] = Secagg(**LARGE)
        swarm.plugins[node].setup(info)
    others = [other for other in swarm.roster if other != node]
    for other in others:
        swarm.plugins[other] = Secagg(**LARGE)
        swarm.plugins[other].setup(NodeInfo(other, "testing", swarm.roster, 0))
    swarm.void_sets = ()
    swarm.open()
    swarm.contribute(swarm.random_updates())
    said = recorded(swarm, Kind.STATEMENT)
    swarm.decide(swarm.roster[:-1])
    assert {sender for sender, _body in said} == {*others}


def test_where_it_cannot_be_kept_nothing_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    swarm = PluginSwarm(7).open()
    swarm.contribute(swarm.random_updates())
    said, node = recorded(swarm, Kind.STATEMENT), swarm.roster[2]
    kept = SessionStore.states

    def states(store: SessionStore, *what: Any) -> bool:
        if store is swarm.plugins[node]._store:
            raise RoundError.of("QRES-E602", "secagg.sqlite", "disk full")
        return kept(store, *what)

    monkeypatch.setattr(SessionStore, "states", states)
    swarm.decide()
    swarm.pass_time(3)
    assert {sender for sender, _body in said} == {*swarm.roster} - {node}
    assert swarm.finished() == [other for other in swarm.roster if other != node]
    with pytest.raises(QresError, match="disk full"):
        swarm.reveal(node)


def test_a_session_of_an_earlier_round_is_judged_too() -> None:
    swarm, updates, _total = after_a_void_height()
    swarm.contribute(updates)
    made = swarm.abort()
    swarm.open()
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(made, swarm.roster[1:])
    swarm.pass_time(10)
    assert not swarm.finished()
    assert not shares


def test_control_the_whole_set_of_the_earlier_round_is_opened() -> None:
    swarm, updates, total = after_a_void_height()
    swarm.contribute(updates)
    made = swarm.abort()
    swarm.open()
    swarm.decide_earlier(made)
    swarm.pass_time(10)
    rows = swarm.reveal(swarm.roster[3], earlier=made).updates
    assert np.array_equal(rows.sums[0], total)


def test_a_node_that_was_set_up_anew_judges_as_the_others_do() -> None:
    """It knows the record from the round, and of its own past it needs to know nothing."""
    swarm, updates, _total = after_a_void_height()
    swarm.contribute(updates)
    contributions = tuple(swarm.sent[node] for node in swarm.roster[1:])
    fresh = Secagg(**LARGE)
    fresh.setup(NodeInfo(swarm.roster[2], "testing", swarm.roster, 0))
    expected = swarm.plugins[swarm.roster[0]].revealable(contributions, swarm.info)
    assert fresh.revealable(contributions, swarm.info) == expected
    assert len(expected) == 10


# ── lists ─────────────────────────────────────────────────────────────────────────────────────


def test_a_set_holds_what_was_masked_under_one_list() -> None:
    """Else a leader with two lists could have one opened that is not the set on record."""
    swarm = PluginSwarm(7).open()
    swarm.contribute(swarm.random_updates())
    other = swarm.roster[3]
    for body in (b"", b"L" * 32, b"M" * 40):
        swarm.sent[other] = attrs.evolve(
            swarm.sent[other], companions={"secagg": Companion(body)} if body else {}
        )
        assert swarm.revealable() == tuple(node for node in swarm.roster if node != other)
    assert swarm.revealable([other]) == ()  # it is alone with its list, or has none


def test_nothing_can_be_revealed_of_what_names_no_list() -> None:
    swarm = PluginSwarm(7).open()
    swarm.contribute(swarm.random_updates())
    for node, made in swarm.sent.items():
        swarm.sent[node] = attrs.evolve(made, companions={})
    assert swarm.revealable() == ()
    assert swarm.revealable([]) == ()


# ── levels ────────────────────────────────────────────────────────────────────────────────────


def test_a_node_that_caught_up_works_in_groups_of_the_size_of_the_others() -> None:
    """It took the void height from others, and was not told the code by its own outcome."""
    options = {"bisect": True, "min_size": 4, "corrupt": 0.0}
    swarm = PluginSwarm(16, options).open()
    swarm.contribute(swarm.random_updates()).decide()
    swarm.close("QRES-E508")
    late = swarm.roster[2]  # the leader of the next round
    swarm.plugins[late] = Secagg(**options)
    swarm.plugins[late].setup(NodeInfo(late, "testing", swarm.roster, 0))
    swarm.open()
    assert swarm.leader == late
    assert swarm.ready() == list(swarm.roster)
    updates = swarm.random_updates()
    swarm.contribute(updates).decide()
    rows = swarm.reveal(late).updates
    assert sorted(map(len, rows.members)) == [8, 8]
    assert {plugin.status()["level"] for plugin in swarm.plugins.values()} == {1}


def test_nodes_at_different_levels_are_in_different_sessions() -> None:
    """A leader says nothing about it, and nothing of one session fits into the other."""
    swarm = PluginSwarm(16, {"bisect": True, "min_size": 4, "corrupt": 0.0})
    info = swarm.open().info
    finer = attrs.evolve(info, mismatches=1)
    plugin = swarm.plugins[swarm.roster[0]]
    sessions = [plugin._permission(item).session(1) for item in (info, finer)]
    assert [item.level for item in sessions] == [0, 1]
    assert sessions[0].sid != sessions[1].sid
