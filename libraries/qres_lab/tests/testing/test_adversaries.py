"""The liars that plugin authors play: each does what it says, and nothing without its lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.attacks import Withhold
from qres_lab.testing import (
    LyingDialogue,
    changed,
    first_draw,
    host,
    leaving_out,
    left_of_sums,
    lying,
    make_node_ids,
    make_node_info,
    make_round_info,
    sabotage,
    silent,
)

from qres_core import (
    Accusation,
    Claims,
    Contribution,
    NodeId,
    NodeInfo,
    RoundInfo,
    Update,
    Updates,
    Visibility,
    hookimpl,
)
from qres_core.attacks.sabotage import SABOTAGE, Outgoing
from qres_core.attacks.scenario import Scenario
from qres_core.dialogues import Dialogue, DialogueMessage, Send
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.swarm.machine.dialogues import Dialogues
from qres_core.training.tasks import TaskConfig

TASK = TaskConfig(name="quadratic", dimension=5, learning_rate=0.2)
NODES, HELLO, BYE = 7, 1, 2
HEARD: Counter[tuple[NodeId, bytes]] = Counter()


class _EnoughError(Exception):
    """No further round is needed."""


@attrs.define(eq=False)
class Greeting:
    """Ready when all others have said hello, finished when all but one of them have said bye."""

    nodes: int
    heard: dict[int, dict[NodeId, bytes]] = attrs.field(factory=dict)

    @property
    def ready(self) -> bool:
        return len(self.heard.get(HELLO, {})) == self.nodes - 1

    @property
    def finished(self) -> bool:
        return len(self.heard.get(BYE, {})) >= self.nodes - 2

    def start(self) -> list[Send | Accusation]:
        return [Send(b"hello", HELLO)]

    def receive(self, message: DialogueMessage) -> list[Send | Accusation]:
        self.heard.setdefault(message.step, {})[message.sender] = message.body
        HEARD[message.sender, message.body] += 1
        return []

    def tick(self, now: float) -> list[Send | Accusation]:
        del now
        return []

    def decided(self, *_agreed: object) -> list[Send | Accusation]:
        return [Send(b"bye", BYE)]


@attrs.define(eq=False)
class Polite:
    """Talks, and hides nothing."""

    @property
    def claims(self) -> Claims:
        return Claims(tolerates=None)

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Dialogue:
        return Greeting(len(round_info.roster))


def config() -> Config:
    swarm = {
        "name": "foes", "nodes": NODES, "byzantine": 1, "quorum": 5, "insecure": True,
        "deadline": 4.0, "vote_timeout": 1.0,
    }  # fmt: skip
    plugins: dict[str, Any] = {"memory": {}, "polite": {}, "mean": {"unprotected": True}}
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


def play(
    *,
    attack: str = "scaled",
    hostile: type = Polite,
    everybody: type = Polite,
    attackers: int = 1,
    progress: Callable[[RoundRecord], None] | None = None,
) -> SimulationResult:
    HEARD.clear()
    return simulate(
        config(),
        Scenario(rounds=2, seed=0, attack=attack, attackers=attackers, lies="protocol"),
        task=TASK,
        installed={**scan(), "polite": Installed.local("polite", everybody)},
        hostile=lambda _number: {"polite": Installed.local("polite", hostile)},
        progress=progress,
    )


def said(body: bytes) -> int:
    """By how many nodes something was heard to be said."""
    return len({sender for sender, heard in HEARD if heard == body})


# ── dialogues ─────────────────────────────────────────────────────────────────────────────────


def test_a_silent_liar_says_nothing_of_a_step_and_all_the_rest() -> None:
    result = play(hostile=lying(Polite, silent(BYE)))
    assert result.closed
    assert (said(b"hello"), said(b"bye")) == (NODES, NODES - 1)
    assert play().closed
    assert (said(b"hello"), said(b"bye")) == (NODES, NODES)


def test_a_liar_says_something_else_in_a_step() -> None:
    play(hostile=lying(Polite, changed(HELLO, lambda body: body + b"?")))
    assert (said(b"hello"), said(b"hello?"), said(b"bye")) == (NODES - 1, 1, NODES)


def test_a_lying_dialogue_is_a_dialogue_and_accuses_as_before() -> None:
    accusation = Accusation(make_node_ids(1)[0], "lied")
    inner = Greeting(1)
    dialogue = LyingDialogue(inner, silent(HELLO, BYE))
    assert isinstance(dialogue, Dialogue)
    assert dialogue.start() == []
    assert dialogue._said([Send(b"x", 9), accusation]) == [Send(b"x", 9), accusation]
    assert dialogue.ready == inner.ready
    assert dialogue.finished == inner.finished


def test_a_plugin_without_a_dialogue_may_be_turned() -> None:
    class Quiet(Polite):
        @hookimpl
        def round_opened(self, round_info: RoundInfo) -> None:
            del round_info

    assert lying(attrs.define(eq=False)(Quiet), silent(1))().round_opened(make_round_info()) is None


# ── sets ──────────────────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class Choosy(Polite):
    """Would have nobody but the first five of the members."""

    started: list[NodeInfo] = attrs.field(init=False, factory=list)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self.started.append(node_info)

    @hookimpl
    def revealable(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> tuple[NodeId, ...]:
        return tuple(c.sender for c in contributions if c.sender in round_info.roster[:5])


@attrs.define(eq=False)
class Plain(Polite):
    """Has a setup, and reveals what it is given."""

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        del node_info

    @hookimpl
    def privatize(self, update: Update) -> Update:
        return update

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        return updates


@pytest.mark.parametrize(("kind", "most"), [(Choosy, 5), (Plain, 6)])
def test_who_leaves_out_names_fewer_than_an_honest_node_would(kind: type, most: int) -> None:
    info = make_round_info(1, nodes=6)
    asked: list[NodeId] = []

    def absent(me: NodeId, _info: RoundInfo) -> Collection[NodeId]:
        asked.append(me)
        return {info.roster[0]}

    plugin = leaving_out(kind, absent)()
    hook = host(plugin).hook
    hook.setup(node_info=make_node_info(nodes=6, index=3))
    sent = tuple(Contribution(node, bytes(32), np.zeros(1, np.int32), 1) for node in info.roster)
    (named,) = hook.revealable(contributions=sent, round_info=info)
    assert named == info.roster[1:most]
    # What it proposes it stands by, whatever an honest node would make of that.
    (again,) = hook.revealable(contributions=sent[1:], round_info=info)
    assert again == info.roster[1:]
    assert set(asked) == {info.roster[3]}


def test_a_proposer_leaves_members_out_that_are_alive() -> None:
    def absent(me: NodeId, info: RoundInfo) -> Collection[NodeId]:
        proposes = info.number == 1 and me == info.roster[1]
        return info.roster[3:5] if proposes else ()

    left = play(everybody=leaving_out(Plain, absent), attackers=0, attack="")
    assert [record.accepted for record in left.closed] == [NODES - 2, NODES]
    control = play(everybody=leaving_out(Plain, lambda *_: ()), attackers=0, attack="")
    assert [record.accepted for record in control.closed] == [NODES, NODES]


# ── messages that are kept back ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("relays", [True, False])
def test_what_is_said_to_one_node_alone_stops_nobody_where_others_hand_it_on(
    monkeypatch: pytest.MonkeyPatch, *, relays: bool
) -> None:
    if not relays:
        monkeypatch.setattr(Dialogues, "_relay", lambda *_: None)
    ended: list[bool] = []

    def progress(record: RoundRecord) -> None:
        ended.append(record.closed)
        if len(ended) == 2:
            raise _EnoughError

    with pytest.raises(_EnoughError):
        play(attack="withhold", progress=progress)
    assert ended == [relays, relays]


def test_whom_a_withholder_tells_is_a_choice() -> None:
    saboteur = Withhold(tells=lambda message: message.place % 3 != 1)
    kept = [
        message.place
        for message in (Outgoing("dialogue/x/1", 4, 6, place) for place in range(6))
        if saboteur.withholds(message)
    ]
    assert kept == [1, 4]
    first = [Withhold().withholds(Outgoing("relayed", 10, 6, place)) for place in range(6)]
    assert first == [True, True, True, True, False, True]
    assert not Withhold().withholds(Outgoing("contribution", 1, 6, 5))


def test_a_saboteur_is_known_for_a_while() -> None:
    with sabotage(lambda: Withhold(tells=lambda message: message.place != 0)) as name:
        assert name in SABOTAGE
        assert len(play(attack=name).closed) == 2
    assert name not in SABOTAGE


# ── what colluders learn ──────────────────────────────────────────────────────────────────────


def test_what_is_left_of_sums_is_the_others_inputs() -> None:
    roster = make_node_ids(6)
    rows = np.arange(18, dtype=np.int64).reshape(6, 3) - 9
    groups = (roster[:2], roster[2:5], roster[5:])
    sums = np.stack([rows[:2].sum(0), rows[2:5].sum(0), rows[5:].sum(0)])
    updates = Updates(
        np.zeros((3, 3), np.int32),
        tuple(group[0] for group in groups),
        np.array([2, 3, 1]),
        Visibility.GROUP,
        members=groups,
        sums=sums,
    )
    own = {roster[at]: rows[at].astype(np.int32) for at in (0, 1, 3)}
    found = left_of_sums(updates, own)
    assert [rest.members for rest in found] == [(roster[2], roster[4]), (roster[5],)]
    assert np.array_equal(found[0].total, rows[2] + rows[4])
    assert np.array_equal(found[1].total, rows[5])
    with pytest.raises(ValueError, match="no sums"):
        left_of_sums(attrs.evolve(updates, sums=None), own)


@pytest.mark.parametrize(("tries", "found"), [(2, None), (3, 3), (9, 3)])
def test_the_draw_that_suits_colluders_is_found(tries: int, found: int | None) -> None:
    roster = make_node_ids(4)

    def draw(number: int) -> list[Collection[NodeId]]:
        pair = {roster[0], roster[number % 4]}
        return [pair, set(roster) - pair]

    assert first_draw(draw, {roster[0], roster[3]}, tries) == found
