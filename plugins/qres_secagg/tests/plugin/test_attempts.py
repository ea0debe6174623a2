"""Sets of a round that ended without a decision, decided in a later one for the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg import Secagg
from qres_secagg.attempts import MAX_KEPT
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.messages import SID_BYTES, Kind, decode_unmask
from qres_secagg.store import SessionStore
from secagg_swarm import Earlier, PluginSwarm, plain_sum, recorded

from qres_core import NodeInfo, Update
from qres_core.attacks.scenario import Scenario
from qres_core.dialogues import Send
from qres_core.errors import QresError
from qres_core.kernel.config import parse
from qres_core.lab import simulator
from qres_core.lab.record import SimulationResult
from qres_core.swarm.consensus.engine import Consensus, Step
from qres_core.training.tasks import TaskConfig


def sessions(messages: list[tuple[bytes, bytes]]) -> set[bytes]:
    return {body[:SID_BYTES] for _sender, body in messages}


def two_rounds(n: int = 6, **more: Any) -> tuple[PluginSwarm, Earlier, dict[bytes, Update]]:
    """A round in which all contributed and nothing was decided, and the next one, masked too."""
    swarm = PluginSwarm(n, **more).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    made = swarm.abort()
    swarm.open()
    return swarm, made, updates


# ── what is opened ────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-secagg-9")
def test_a_set_of_an_earlier_round_is_opened_by_the_session_it_was_masked_in() -> None:
    swarm, made, updates = two_rounds()
    first = swarm.dialogues[swarm.roster[0]].session.sid
    swarm.contribute(swarm.random_updates())  # masked again, for nothing
    statements = recorded(swarm, Kind.STATEMENT)
    gone = swarm.roster[2]
    members = [node for node in swarm.roster if node != gone]
    swarm.decide_earlier(made, members)
    assert swarm.finished() == list(swarm.roster)
    for node in swarm.roster:
        rows = swarm.reveal(node, members, made).updates
        assert rows.members == (tuple(members),)
        assert np.array_equal(rows.sums[0], plain_sum(updates, members))
    assert first not in sessions(statements)
    assert len(sessions(statements)) == 1
    assert not swarm.accused


def test_without_what_was_kept_nothing_of_it_is_opened() -> None:
    """The control: secrets that were dropped with their round."""
    swarm = PluginSwarm(6).open()
    swarm.contribute(swarm.random_updates())
    made = swarm.abort()
    for plugin in swarm.plugins.values():
        plugin._kept = ()
    swarm.open()
    swarm.decide_earlier(made)
    swarm.pass_time(10)
    assert not swarm.finished()
    with pytest.raises(QresError) as caught:
        swarm.reveal(swarm.roster[0], earlier=made)
    assert caught.value.code == "QRES-E604"


def test_rounds_in_between_and_lost_messages_do_not_matter() -> None:
    swarm, made, updates = two_rounds()
    for _ in range(MAX_KEPT - 1):
        swarm.abort()
        swarm.open()
    lost: set[tuple[bytes, bytes, int]] = set()

    def lose_first(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        if (sender, receiver, send.step) in lost:
            return send
        lost.add((sender, receiver, send.step))
        return None

    swarm.carry = lose_first
    swarm.decide_earlier(made)
    assert not swarm.finished()
    swarm.pass_time(20)
    assert swarm.finished() == list(swarm.roster)
    rows = swarm.reveal(swarm.roster[1], earlier=made).updates
    assert np.array_equal(rows.sums[0], plain_sum(updates, updates))


def test_only_so_many_sessions_are_kept_and_none_of_another_model() -> None:
    swarm, _made, _updates = two_rounds()
    node = swarm.roster[0]
    for _ in range(MAX_KEPT + 2):
        swarm.abort()
        swarm.open()
    kept = swarm.plugins[node]._kept
    assert [item.session.round for item in kept] == list(
        range(swarm.number - MAX_KEPT, swarm.number)
    )
    other = attrs.evolve(swarm.info, number=swarm.number + 1, model_digest=b"n" * 32)
    attempts = swarm.plugins[node].round_opened(other)
    assert not attempts._earlier
    swarm.close()  # a new model
    assert swarm.plugins[node]._kept == ()


def test_a_node_that_was_restarted_opens_the_sums_with_the_others(tmp_path: Path) -> None:
    folders = {node: str(tmp_path / node.hex()[:8]) for node in PluginSwarm(7).roster}
    swarm = PluginSwarm(7, folders=folders).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    made = swarm.abort()
    # Also the leader of that round: it must not make a second list.
    again = {swarm.roster[1], swarm.roster[5]}
    for node in again:
        swarm.plugins[node].teardown()
        swarm.plugins[node] = Secagg()
        swarm.held[swarm.number].pop(node)
        swarm.plugins[node].setup(
            NodeInfo(node, "testing", swarm.roster, 0, data_dir=folders[node])
        )
    swarm.open()
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(made)
    swarm.pass_time(20)
    assert swarm.finished() == list(swarm.roster)
    for node in again:
        rows = swarm.reveal(node, earlier=made).updates
        assert np.array_equal(rows.sums[0], plain_sum(updates, updates))
    assert not again.intersection(sender for sender, _body in shares)
    assert not swarm.accused


def test_a_session_that_is_kept_masks_nothing() -> None:
    swarm, _made, _updates = two_rounds()
    (kept,) = swarm.rounds[swarm.roster[0]]._earlier.values()
    assert not kept.ready
    with pytest.raises(QresError) as caught:
        kept.mask(np.zeros(17, np.int32), {})
    assert caught.value.code == "QRES-E604"


# ── attacks ───────────────────────────────────────────────────────────────────────────────────


def test_two_sets_of_one_session_are_not_both_opened_however_many_rounds_there_are() -> None:
    swarm, made, _updates = two_rounds(8)
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(made)
    assert swarm.finished() == list(swarm.roster)
    swarm.abort()
    swarm.open()
    victim = swarm.roster[3]
    swarm.decide_earlier(made, [node for node in swarm.roster if node != victim])
    swarm.pass_time(10)
    assert not swarm.finished()
    assert len({decode_unmask(body)[1].statement for _sender, body in shares}) == 1


@pytest.mark.claim("C-secagg-9")
@pytest.mark.control("C-secagg-9")
@pytest.mark.parametrize("drops", [True, False])
def test_of_two_sessions_that_a_node_has_it_opens_one(
    *, drops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same updates, masked in two rounds; a set of each is decided, one without the victim.

    The other case is the control: nodes that state a set of either lay the victim's update open.
    """
    if not drops:
        monkeypatch.setattr(SecaggDialogue, "retire", lambda *_: None)
        monkeypatch.setattr(SessionStore, "states", lambda *_: True)  # would stop it, too
    swarm, first, updates = two_rounds(8)
    swarm.contribute(updates)  # as before: no sum holds them yet
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(first)
    whole = swarm.reveal(swarm.roster[0], earlier=first).updates.sums[0]
    second = swarm.abort()
    swarm.open()
    victim = swarm.roster[3]
    rest = [node for node in swarm.roster if node != victim]
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(second, rest)
    swarm.pass_time(10)
    assert bool(shares) != drops
    assert swarm.finished() == ([] if drops else list(swarm.roster))
    if not drops:
        part = swarm.reveal(swarm.roster[0], rest, second).updates.sums[0]
        assert np.array_equal(whole - part, updates[victim].vector)


@pytest.mark.claim("C-secagg-4")
@pytest.mark.parametrize(("n", "opened"), [(8, 0), (9, 1)])
def test_of_the_sets_of_two_rounds_shown_to_two_halves_at_most_one_is_opened(
    n: int, opened: int
) -> None:
    swarm, made, updates = two_rounds(n)
    swarm.contribute(updates)
    shares = recorded(swarm, Kind.UNMASK)
    for index, node in enumerate(swarm.roster):
        if index % 2:
            swarm.tell(node)
        else:
            swarm.tell_earlier(node, made)
    swarm.deliver()
    swarm.pass_time(20)
    assert len(sessions(shares)) == opened
    # Whom the others leave alone in a later round: it has dropped the session.
    late = swarm.abort()
    swarm.open()
    more = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(late)
    swarm.pass_time(20)
    assert len(sessions(shares) | sessions(more)) <= 1


def test_after_a_void_height_no_other_set_of_it_is_opened() -> None:
    """Its session is of another head: the same updates are masked anew, under new masks."""
    swarm = PluginSwarm(6).open()
    updates = swarm.random_updates()
    swarm.contribute(updates)
    made = Earlier(swarm.info, dict(swarm.sent))
    swarm.decide()
    assert swarm.finished() == list(swarm.roster)
    swarm.close("QRES-E507")
    assert not any(plugin._kept for plugin in swarm.plugins.values())
    swarm.open()
    swarm.contribute(updates)
    shares = recorded(swarm, Kind.UNMASK)
    swarm.decide_earlier(made)
    swarm.pass_time(10)
    assert not swarm.finished()
    assert not shares


def test_a_session_of_another_head_is_another_session() -> None:
    swarm, made, _updates = two_rounds()
    node = swarm.roster[0]
    moved = attrs.evolve(made.info, head=b"h" * 32)
    assert swarm.rounds[node].of(made.info) is not None
    assert swarm.rounds[node].of(moved) is None
    assert not swarm.plugins[node].round_opened(attrs.evolve(swarm.info, head=moved.head))._earlier


# ── with the kernel's agreement ───────────────────────────────────────────────────────────────


def play(monkeypatch: pytest.MonkeyPatch, plugins: dict[str, Any]) -> SimulationResult:
    """Six nodes; what decides the first round stays unseen: its set is locked, not decided."""
    decide = Consensus._decide

    def unseeing(self: Any) -> bool:
        first = (1, Step.PRECOMMIT)
        unseen = None if self.claims else self._tallies.pop(first, None)
        try:
            return decide(self)
        finally:
            if unseen is not None:
                self._tallies[first] = unseen

    swarm = {"name": "c", "nodes": 6, "byzantine": 1, "quorum": 6, "deadline": 4.0}
    trust = {"memory": {}, "ed25519": {}, "replay": {}}
    tables = {**trust, **plugins, "mean": {"unprotected": True}}
    config = parse({"swarm": swarm, "plugins": tables}, source="test")
    task = TaskConfig(name="quadratic", dimension=20, learning_rate=0.2)
    with monkeypatch.context() as patch:
        patch.setattr(Consensus, "_decide", unseeing)
        return simulator.simulate(config, Scenario(rounds=2, seed=3), task=task)


@pytest.mark.claim("C-secagg-9")
def test_a_locked_set_is_merged_as_it_is_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = play(monkeypatch, {})
    assert [(record.number, record.closed) for record in plain.rounds][:2] == [
        (1, False),
        (2, True),
    ]
    hidden = play(monkeypatch, {"secagg": {"bound": 64.0, "patience": 0.5}})
    assert [(record.number, record.closed) for record in hidden.rounds][:2] == [
        (1, False),
        (2, True),
    ]
    assert hidden.unanimous
    assert hidden.model_digests == plain.model_digests


def test_a_session_that_is_kept_masks_nothing_that_came_late() -> None:
    swarm = PluginSwarm(7).open()
    late = swarm.roster[0]
    swarm.contribute(swarm.random_updates(nodes=swarm.roster[1:]))
    swarm.abort()
    swarm.open()
    (kept,) = swarm.rounds[late]._earlier.values()
    with pytest.raises(QresError, match="QRES-E604"):
        kept.mask(np.zeros(17, np.int32), {})


def test_sessions_without_a_list_and_those_that_are_over_are_not_kept() -> None:
    swarm = PluginSwarm(6)
    swarm.carry = lambda _sender, _receiver, send: None if send.step == Kind.LIST else send
    swarm.relay = lambda _holder, _receiver, _author, send: send.step != Kind.LIST
    swarm.open()
    swarm.abort()
    assert [node for node in swarm.roster if swarm.plugins[node]._kept] in ([], [swarm.roster[1]])
    swarm, made, _updates = two_rounds()
    swarm.decide_earlier(made)
    swarm.abort()
    for plugin in swarm.plugins.values():
        assert [item.session.round for item in plugin._kept] == [1]
