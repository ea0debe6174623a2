"""Sums of one model, opened at heights that made no new one: what do they show together?

Thirteen whole nodes in one sum, with signatures, replay windows and votes. The rule refuses the
first two heights, so that the model stays. Everybody can read the sums, and subtracts them. In the
controls no node looks at the sums on record.
"""

from __future__ import annotations

import contextlib
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import leaving_out
from qres_secagg import Secagg
from qres_secagg import plugin as secagg
from qres_secagg.permission import Classes
from qres_secagg.revelation import SessionResult
from qres_zk import Zk

from qres_core import RoundInfo, Update, Updates, Vector, hookimpl
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import Mean
from qres_core.contract.errors import RosterError
from qres_core.dialogues import VoidSet
from qres_core.errors import ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.swarm.context.position import round_info
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.ledger.results import Void
from qres_core.swarm.ledger.roster import Roster, RosterChange
from qres_core.swarm.ledger.unmerged_sets import Record
from qres_core.training.tasks import TaskConfig, make_task

NODES, VICTIM, VOID = 13, 4, 2
EXACT = TaskConfig(name="quadratic", dimension=20, learning_rate=0.2)
SHUFFLED = TaskConfig(name="digits")


@attrs.define
class Refusing(Mean):
    """A mean that refuses the sets of the first heights."""

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        if round_info.height < VOID:
            raise ValueRefusedError.of("QRES-E505", "updates", "not yet")
        return Mean.aggregate(self, updates)


def config(*, quorum: int = 10, **plugins: Any) -> Config:
    table = {
        "name": "void", "nodes": NODES, "byzantine": 1, "quorum": quorum, "deadline": 6.0,
        "vote_timeout": 1.0,
    }  # fmt: skip
    tables = {
        "memory": {}, "ed25519": {}, "replay": {}, **plugins,
        "secagg": {"bound": 64.0, "patience": 1.0}, "mean": {"unprotected": "zk" not in plugins},
    }  # fmt: skip
    return parse({"swarm": table, "plugins": tables}, source="test")


@attrs.define
class Reader:
    """What a bystander reads, and what was hidden."""

    masked: dict[tuple[bytes, bytes], Any] = attrs.field(factory=dict)  # by head and node
    sums: dict[bytes, tuple[frozenset[bytes], Any]] = attrs.field(factory=dict)  # by head
    liar: bytes = b""
    left_out: bytes = b""

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask, reveal = secagg.masked, secagg.reveal

        def masking(update: Update, dialogue: Any, **options: Any) -> Update:
            self.masked[dialogue.session.head, dialogue._me] = update.vector.astype(np.int64)
            return mask(update, dialogue, **options)

        def revealing(board: Any, *arguments: Any, **options: Any) -> SessionResult:
            found = reveal(board, *arguments, **options)
            rows = found.revelation.updates
            self.sums[board.session.head] = frozenset(rows.members[0]), rows.sums[0].copy()
            return found

        monkeypatch.setattr(secagg, "masked", masking)
        monkeypatch.setattr(secagg, "reveal", revealing)

    def absent(self, me: bytes, info: RoundInfo) -> set[bytes]:
        """The first proposer of the second height is a liar, and leaves one out."""
        first = info.roster[info.number % len(info.roster)]
        if info.height != 1 or me != first or self.liar not in (b"", me):
            return set()
        self.liar, self.left_out = me, info.roster[VICTIM]
        return {self.left_out}

    @property
    def difference(self) -> tuple[frozenset[bytes], Any]:
        """Who is in one of the first model's two sums only, and how the two differ."""
        (a, first), (b, second), *_of_later_models = self.sums.values()
        return a ^ b, first - second


def play(task: TaskConfig, reader: Reader) -> SimulationResult:
    liar = Installed.local("secagg", leaving_out(Secagg, reader.absent))
    installed = {**scan(), "mean": Installed.local("mean", Refusing), "secagg": liar}
    scenario = Scenario(rounds=1, seed=0, jitter=0.005, once=("ed25519.authenticate",))
    return simulate(config(), scenario, task=task, installed=installed)


def unguard(monkeypatch: pytest.MonkeyPatch) -> None:
    """The controls: any set may follow any other."""
    monkeypatch.setattr(Classes, "permitted", lambda _self, present, *_: frozenset(present))


@pytest.mark.claim("C-secagg-10")
@pytest.mark.long
@pytest.mark.parametrize("guarded", [True, False])
def test_a_set_without_the_victim_gives_its_update_to_nobody(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    if not guarded:
        unguard(monkeypatch)
    reader = Reader()
    reader.watch(monkeypatch)
    result = play(EXACT, reader)
    assert reader.left_out
    assert result.closed
    assert result.unanimous
    apart, difference = reader.difference
    updates = {node: vector for (_head, node), vector in reader.masked.items()}
    if guarded:
        assert not apart or len(apart) >= 3
        assert not any(np.array_equal(difference, vector) for vector in updates.values())
        reasons = [record.reason for record in result.rounds]
        assert "a plugin would not have the set revealed" in reasons
    else:
        assert apart == {reader.left_out}
        assert np.array_equal(difference, updates[reader.left_out])


@pytest.mark.long
@pytest.mark.parametrize("guarded", [True, False])
def test_nor_does_it_where_the_trainers_shuffle(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """The sums differ by what each node trained otherwise, too: the victim still shows in them."""
    if not guarded:
        unguard(monkeypatch)
    reader = Reader()
    reader.watch(monkeypatch)
    assert play(SHUFFLED, reader).closed
    apart, difference = reader.difference
    head = next(iter(reader.sums))
    first = {node: vector for (at, node), vector in reader.masked.items() if at == head}
    mean = np.mean(list(first.values()), axis=0)
    own = first[reader.left_out] - mean
    rest = difference - len(apart) * mean
    cosine = float(rest @ own / np.linalg.norm(rest) / np.linalg.norm(own))
    if guarded:
        assert not apart or len(apart) >= 3
        assert abs(cosine) < 0.2
    else:
        assert apart == {reader.left_out}
        assert cosine > 0.25


@pytest.mark.parametrize("guarded", [True, False])
def test_no_seat_goes_to_who_had_another_one_for_the_same_model(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Node 5 leaves, and gets the seat of node 8 then: one name for two members of the first set.

    In the control the sums with both and with one of them look the same, and node 8 is alone.
    """
    if not guarded:
        monkeypatch.setattr(Record, "must_take", lambda _self, _change: None)
    nodes = [bytes([index]) * 32 for index in range(1, 10)]
    head = Head.first("void", bytes(32), Roster(tuple(nodes), 1, 6), bytes(32))

    def void(present: tuple[bytes, ...], change: RosterChange) -> Head:
        members = tuple(Member(sender, bytes(32)) for sender in present)
        chosen = CandidateSet(head.height + 1, members, change=change)
        return head.after(chosen, Void("QRES-E508"))

    everybody = head.roster.members
    head = void(everybody, head.roster.change("void", "remove", nodes[5]))
    again = head.roster.change("void", "rotate", nodes[8], nodes[5])
    if guarded:
        with pytest.raises(RosterError, match="had another seat"):
            void(head.roster.members, again)
        return
    second = tuple(node for node in everybody if node not in (nodes[5], nodes[7], nodes[8]))
    head = void(second, again)
    permission = Secagg()._permission(round_info(config().swarm, head, 1, 3))
    assert permission.permits(head.roster.members)
    assert {*everybody} - {*head.roster.members} == {nodes[8]}


@pytest.mark.parametrize("guarded", [True, False])
def test_who_was_removed_and_added_again_is_one_member_after_a_new_key_too(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """In the control the first set names it otherwise than the third one, in which it is again.

    Then it is a class of its own, and a set without it may follow one with it.
    """
    if not guarded:
        told = Record.void_sets

        def forgetful(record: Record, members: tuple[bytes, ...]) -> tuple[VoidSet, ...]:
            first, *later = told(record, members) or [None]
            return () if first is None else (attrs.evolve(first, names=first.roster), *later)

        monkeypatch.setattr(Record, "void_sets", forgetful)
    nodes = tuple(bytes([index]) * 32 for index in range(1, 10))
    head = Head.first("void", bytes(32), Roster(nodes, 1, 6), bytes(32))
    victim, heir, sums = nodes[4], b"\x63" * 32, list[frozenset[bytes]]()

    def void(present: tuple[bytes, ...], *change: Any) -> Head:
        info = round_info(config().swarm, head, 1, 1)
        sums.append(Secagg()._permission(info).permitted(present))
        members = tuple(Member(sender, bytes(32)) for sender in sorted(sums[-1]))
        wanted = head.roster.change("void", *change) if change else None
        chosen = CandidateSet(head.height + 1, members, change=wanted)
        return head.after(chosen, Void("QRES-E604"))

    head = void(nodes, "remove", victim)
    head = void(head.roster.members, "add", victim)
    head = void(head.roster.members, "rotate", victim, heir)
    void(tuple(node for node in head.roster.members if node != heir))
    assert [len(item) for item in sums] == [9, 6, 9, 6 if guarded else 8]
    assert (sums[2] - sums[3] == {victim}) is not guarded


# ── rounds go on ──────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Leaving:
    """A trainer that has nothing to give once the first height is void."""

    inner: Any

    def fit(self, model: Vector, round_info: RoundInfo) -> Update | None:
        made: Update = self.inner.fit(model, round_info)
        return None if round_info.height else made


@pytest.mark.long
@pytest.mark.parametrize(("quorum", "closes"), [(10, True), (11, False)])
def test_a_node_that_leaves_after_a_void_height_takes_two_others_along(
    quorum: int, *, closes: bool
) -> None:
    """With one seat less the swarm waits for it, as the check says before the start."""
    task = make_task(EXACT, nodes=NODES, seed=0)
    trainers = [*task.trainers]
    trainers[7] = Leaving(trainers[7])
    installed = {**scan(), "mean": Installed.local("mean", Refusing)}
    seen: list[RoundRecord] = []

    def enough(record: RoundRecord) -> None:
        seen.append(record)
        if len(seen) >= 6:
            raise StopPlayingError

    made = config(quorum=quorum)
    notices = Kernel.from_config(made, installed=installed).solution.notices
    assert any("stops the swarm until it is back" in text for text in notices) != closes
    with contextlib.suppress(StopPlayingError):
        simulate(
            made,
            Scenario(rounds=1, seed=0, jitter=0.005, once=("ed25519.authenticate",)),
            task=attrs.evolve(task, trainers=tuple(trainers)),
            installed=installed,
            progress=enough,
        )
    assert (seen[0].void, seen[0].accepted) == (True, NODES)
    assert any(record.closed for record in seen) == closes
    assert [record.accepted for record in seen if record.closed] == ([10] if closes else [])


class StopPlayingError(Exception):
    """Enough was seen."""


# ── after a lie ───────────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class Once(Zk):
    """Masks another vector than it proved, in the first round only."""

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        made = Zk.privatize(self, update, round_info)
        if round_info.number > 1:
            return made
        return attrs.evolve(made, vector=(-2 * made.vector.astype(np.int64)).astype(np.int32))


@pytest.mark.claim("C-secagg-14")
@pytest.mark.long
@pytest.mark.parametrize("task", [EXACT, SHUFFLED], ids=["exact", "shuffled"])
def test_after_a_sum_that_failed_its_check_the_same_updates_are_summed_again(
    task: TaskConfig,
) -> None:
    """A trainer that gives the same update for the same model was locked out for ever."""
    proof = {"bound": 64.0, "k": 256, "security": 40}
    scenario = Scenario(
        rounds=3, seed=0, jitter=0.005, attack="ipm", attackers=1, lies="protocol",
        once=("ed25519.authenticate", "zk.verify"),
    )  # fmt: skip
    result = simulate(
        config(reputation={"exponent": 0}, zk=proof),
        scenario,
        task=task,
        hostile=lambda _index: {"zk": Installed.local("zk", Once)},
    )
    assert "QRES-E508" in result.rounds[0].reason
    assert [record.closed for record in result.rounds[1:]] == [True, True, True]
    assert result.unanimous
