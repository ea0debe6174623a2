"""The simulation of swarms in trouble: it replays exactly, and it sees what it is to see."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from itertools import filterfalse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from swarm_simulation.journals import KilledError, Notebook
from swarm_simulation.liars import Liar
from swarm_simulation.setting import (
    LIES,
    SHARD_LIES,
    Character,
    Cut,
    Kill,
    Setting,
    Shift,
    draw,
    sharded,
)
from swarm_simulation.stack import installed
from swarm_simulation.world import ViolationError, World

from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.machine.departure import Departure
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.shards.committees import ShardPlan

SCRIPTS = Path(__file__).parents[2] / "scripts"
INSTALLED = installed()
SEED = 4
MASKED = 249  # with secure aggregation, which draws secrets


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRES_NUMBA", "0")


def quiet(**changes: Any) -> Setting:
    """Four honest nodes, the mean, and nothing that goes wrong."""
    plain = attrs.evolve(
        draw(SEED),
        nodes=4,
        byzantine=1,
        plugins={"memory": {}, "tag": {}, "replay": {}, "mean": {"unprotected": True}},
        monna=False,
        training=0.1,
        offsets=(0.0,) * 4,
        rates=(1.0,) * 4,
        store="memory",
        loss=0.0,
        duplication=0.0,
        spread=0.01,
        cuts=(),
        ambushes=(),
        kills=(),
        liars={},
        spares=0,
        shifts=(),
        revocations=(),
        heals=3.0,
    )
    swarm = {
        **plain.swarm,
        "nodes": 4,
        "byzantine": 1,
        "quorum": 3,
        "topology": "gossip",
        "insecure": False,
        "proof_checks": "everyone",
    }
    return attrs.evolve(plain, **{"swarm": swarm, **changes})


def played(setting: Setting, plugins: Mapping[str, Any] = INSTALLED) -> World:
    world = World(setting, plugins)
    world.play()
    return world


def test_a_change_is_taken_by_a_node_that_lagged_when_it_came() -> None:
    """It is a file in the node's folder: given up at once, it would wait at the others for ever."""
    taken: list[object] = []
    later: list[Callable[[], None]] = []
    roster, change = SimpleNamespace(epoch=0), SimpleNamespace(epoch=1)
    changes = SimpleNamespace(roster=roster, offer=lambda item, _authentic: taken.append(item))
    node: Any = SimpleNamespace(kernel=object(), changes=changes, clock=lambda now: now)
    world: Any = SimpleNamespace(
        honest=[SimpleNamespace(machine=object())],
        clock=SimpleNamespace(now=0.0, after=lambda _seconds, again: later.append(again)),
        _top=lambda: SimpleNamespace(roster=SimpleNamespace(epoch=1)),
    )
    world._offer = partial(World._offer, world)
    world._offer(node, change)
    assert not taken
    roster.epoch = 1  # it has caught up
    (again,) = later
    again()
    assert taken == [change]


@pytest.mark.long
@pytest.mark.parametrize("seed", [SEED, MASKED])
def test_a_seed_replays_exactly_whatever_the_order_of_sets_and_maps(seed: int) -> None:
    assert ("secagg" in draw(seed).plugins) is (seed == MASKED)
    stories: set[str] = set()
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-P", "-m", "swarm_simulation", "--seed", str(seed), "--verbose"],
            env={**os.environ, "PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            check=False,
        )
        assert told.stdout.count(b"\n") > 100
        stories.add(hashlib.sha256(told.stdout).hexdigest())
    assert len(stories) == 1


def test_a_swarm_without_trouble_makes_models_and_nothing_is_found() -> None:
    world = played(quiet())
    assert world.counts["heights"] >= 3
    assert not [name for name in world.counts if name.startswith("blamed")]


@pytest.mark.parametrize("seed", range(1000, 1008))
def test_swarms_in_trouble_keep_their_promises_and_go_on(seed: int) -> None:
    played(draw(seed))


def test_a_sharded_swarm_without_trouble_makes_models_and_nothing_is_found() -> None:
    world = played(quiet(swarm={**quiet().swarm, "aggregation": "sharded"}))
    assert world.counts["heights"] >= 3
    assert not [name for name in world.counts if name.startswith("blamed")]


@pytest.mark.parametrize("seed", [*range(1000, 1004), 1010, 1020])
def test_sharded_swarms_in_trouble_keep_their_promises_and_go_on(seed: int) -> None:
    played(sharded(seed))


@pytest.mark.long
@pytest.mark.parametrize("first", range(2000, 2040, 10))
def test_many_sharded_swarms_in_trouble_keep_their_promises(first: int) -> None:
    for seed in range(first, first + 10):
        played(sharded(seed))


@pytest.mark.parametrize("guarded", [True, False])
def test_one_word_for_enough_lets_a_liar_make_models_and_that_is_found(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Control: what the simulation of sharded rounds is to see."""
    liar = Character(dict.fromkeys(SHARD_LIES[:1], 1.0), 0.4)
    setting = quiet(swarm={**quiet().swarm, "aggregation": "sharded"}, liars={1: liar})
    if guarded:
        assert played(setting).counts["right models"] > 0
        return
    monkeypatch.setattr(ShardPlan, "enough", 1)
    with pytest.raises(ViolationError):
        played(setting)


def test_nodes_that_die_over_their_journals_come_back_and_keep_their_promises() -> None:
    kills = tuple(
        Kill(node, 0.2 + 0.4 * number, 1 + number % 3, before=bool(number % 2), away=0.1)
        for number, node in enumerate((0, 1, 2, 3, 0, 1))
    )
    world = played(quiet(kills=kills))
    assert world.counts["deaths"] >= 3


def test_a_proposer_of_an_outcome_that_dies_over_it_proposes_nothing_else_in_that_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = Notebook.record_vote
    died: list[int] = []

    def dies(self: Notebook, round_number: int, kind: str, choice: bytes | None) -> None:
        record(self, round_number, kind, choice)
        if kind == "outcome/proposal" and not died:
            died.append(round_number)
            raise KilledError

    monkeypatch.setattr(Notebook, "record_vote", dies)
    # Half of the nodes cannot merge a set that the others merge: one attempt is not enough.
    plugins = {**quiet().plugins, "moody": {"lame": 0.5}}
    played(quiet(plugins={"moody": plugins.pop("moody"), **plugins}))
    assert died[0] > 1


# ── controls: what it is to see, it sees ──────────────────────────────────────────────────────────


@attrs.define
class Forgetful(Notebook):
    """A journal that keeps no vote."""

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        del round_number, kind, choice


def cut_short(writes: int) -> Setting:
    """All nodes die in their first round, and one of them is away when the others vote again."""
    kills = tuple(
        Kill(node, 0.25, writes, before=False, away=2.0 if node == 3 else 0.05) for node in range(4)
    )
    return quiet(kills=kills, training=0.2)


@pytest.mark.control("C-agreement-6")
def test_nodes_that_forget_their_votes_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_played() -> None:
        for writes in (1, 2, 3, 4):
            played(cut_short(writes))

    all_played()
    monkeypatch.setattr("swarm_simulation.world.Notebook", Forgetful)
    with pytest.raises(ViolationError, match=r"sends two|blames honest"):
        all_played()


@pytest.mark.control("C-agreement-2")
def test_a_fork_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves that hear nothing of each other, and each is thought to be enough."""
    halves = quiet(cuts=(Cut(0.0, 8.0, frozenset({0, 1}), holds=False),), heals=8.0)
    halves = attrs.evolve(halves, swarm={**halves.swarm, "quorum": 2})
    played(halves)
    begin = Consensus.__init__

    def begins(self: Consensus[bytes], *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self.threshold = 2

    monkeypatch.setattr(Consensus, "__init__", begins)
    monkeypatch.setattr(Roster, "threshold", 2)
    with pytest.raises(ViolationError, match="fork"):
        played(halves)


def test_more_silent_nodes_than_promised_are_seen_as_no_progress() -> None:
    silent = Character({"silent": 1.0}, 1.0)
    played(quiet(liars={1: silent}))
    with pytest.raises(ViolationError, match="no progress"):
        played(quiet(liars={1: silent, 2: silent}))


@pytest.mark.control("C-blame-1")
def test_blame_that_falls_on_an_honest_node_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The liar speaks with an honest node's key, as it never can."""

    def steals(self: Liar, *arguments: Any) -> None:
        del arguments
        world = self._world
        node, victim = world.nodes[0], world.nodes[2]
        if node.kernel is None:
            return  # not born yet
        made = self._make("choice/prevote", b"\xf7", *self._now())
        stolen = node.kernel.sign(attrs.evolve(made, sender=node.node_id))
        world.carry(node, victim, stolen.to_bytes(), stolen)

    monkeypatch.setattr(Liar, "_garbage", steals)
    with pytest.raises(ViolationError, match="blames honest node 0 for malformed-payload"):
        played(quiet(liars={1: Character({"garbage": 1.0}, 0.1)}))


def misled(seed: int, lie: str, *shifts: Shift) -> Setting:
    """Five members, of whom the last lies about the past, and one is cut off for long."""
    setting = quiet(
        seed=seed,
        nodes=5,
        spares=1,
        offsets=(0.0,) * 6,
        rates=(1.0,) * 6,
        cuts=(Cut(1.0, 7.0, frozenset({2}), holds=False),),
        shifts=shifts,
        heals=7.0,
        liars={4: Character({lie: 1.0}, 0.1)},
    )
    return attrs.evolve(setting, swarm={**setting.swarm, "nodes": 5, "quorum": 4})


def test_a_node_that_a_made_up_link_leads_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = misled(3, "made-up links", Shift(1.2, "add", 2))
    played(setting)
    monkeypatch.setattr(RoundMachine, "_is_ahead", lambda _self, _after: True)
    monkeypatch.setattr("qres_core.swarm.sync.catching_up.dropwhile", filterfalse)
    with pytest.raises(ViolationError, match=r"breaks a promise: height \d+ after"):
        played(setting)


def test_a_member_that_one_liar_stops_with_its_old_removal_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = misled(15, "old links", Shift(1.2, "remove", 2), Shift(2.5, "return", 2))
    played(setting)

    def at_once(self: Departure, after: Head, now: float) -> None:
        del now
        if self._context.is_member and self._context.node_id not in after.roster:
            self.stop(after.height)

    monkeypatch.setattr(Departure, "expect", at_once)
    with pytest.raises(ViolationError, match="liars tell node 2 that it is removed"):
        played(setting)


def test_liars_tell_what_they_are_asked_to() -> None:
    for seed in range(20):
        liars = draw(seed, LIES[-2:]).liars
        assert liars
        assert all({*LIES[-2:]} <= {*liar.rates} for liar in liars.values())
