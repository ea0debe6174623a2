"""Dialogues' messages: carried, kept, handed on, quoted; and what liars make of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_envelope, make_node_ids

from qres_core import Accusation, Blame, Contribution, Fault, NodeId, RoundInfo, reject
from qres_core.contract import canonical
from qres_core.contract.wire import ENVELOPE_OVERHEAD
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import WireError
from qres_core.kernel.intake import Intake
from qres_core.swarm.context.effects import Refused
from qres_core.swarm.ledger.messages import (
    DIALOGUE,
    HOLDING,
    MAX_RELAYED,
    MAX_SAID,
    RELAY_BYTES,
    RELAYED,
    SAID_BYTES,
    decode_holding,
    decode_relayed,
    encode_holding,
    encode_relayed,
    said_bytes,
    said_id,
)
from qres_core.swarm.machine import dialogues as room
from qres_core.swarm.storage.dialogue_log import DialogueLog, Said, dialogue_kind

LIAR = 3


@attrs.define
class Chat:
    """Says its name to everybody and a secret to each, and waits until all have said theirs."""

    own: NodeId
    info: RoundInfo
    got: list[DialogueMessage] = attrs.field(factory=list)
    members: tuple[NodeId, ...] | None = None
    origin: int = 0

    def heard(self, step: int) -> set[NodeId]:
        return {answer.sender for answer in self.got if answer.step == step} | {self.own}

    @property
    def ready(self) -> bool:
        everybody = set(self.info.roster)
        return self.heard(0) == everybody and self.heard(1) == everybody

    @property
    def finished(self) -> bool:
        return self.members is not None and self.heard(2) == set(self.info.roster)

    def start(self) -> list[Send]:
        peers = [peer for peer in self.info.roster if peer != self.own]
        return [Send(b"name", 0), *(Send(b"secret for " + peer, 1, peer) for peer in peers)]

    def receive(self, message: DialogueMessage) -> list[Send]:
        self.got.append(message)
        return []

    def tick(self, now: float) -> list[Send]:
        del now
        return []

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> list[Send]:
        del contributions
        self.members, self.origin = members, round_info.number
        return [Send(b"bye", 2)]


@attrs.define
class Idle(Chat):
    """Says nothing and waits for nothing, but never finishes: the round stays open."""

    @property
    def ready(self) -> bool:
        return True

    @property
    def finished(self) -> bool:
        return False

    def start(self) -> list[Send]:
        return []

    def decided(self, *_agreed: Any) -> list[Send]:
        return []


@pytest.fixture
def make_net(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def make(script: Callable[..., Any] = Chat, nodes: int = 4, **more: Any) -> Any:
        monkeypatch.setattr(harness.Talk, "script", staticmethod(script))
        more = {"byzantine": (nodes - 1) // 3, "options": {"deadline": 8.0}, **more}
        return harness.Net(nodes, plugins={"talk": {}}, **more)

    return make


def talk(net: Any, index: int, number: int = 1) -> Any:
    return next(
        dialogue
        for dialogue in net.nodes[index].plugin("talk").dialogues
        if dialogue.info.number == number
    )


def closed(net: Any, index: int, number: int = 1) -> bool:
    """Whether a node finished the round itself, rather than taking another's model."""
    return any(
        ended_round.outcome.round_info.number == number and ended_round.merged is not None
        for ended_round in net.nodes[index].ended
    )


def undecided_until_all_finish(net: Any, rule: Callable[[Any], Any], number: int = 1) -> None:
    """Give the net a rule, and hold what decides back while a dialogue has not finished.

    Otherwise a node takes the model from those that were quicker.
    """

    def waiting(message: Any) -> Any:
        if message.kind == "outcome/precommit":
            chats = [
                chat
                for node in net.nodes
                for chat in node.plugin("talk").dialogues
                if chat.info.number == number and chat.finished
            ]
            if len(chats) < len(net.nodes):
                return ()
        return rule(message)

    net.rule = waiting


def each_once(chat: Any) -> bool:
    said = Counter((answer.sender, answer.step, answer.body, answer.to) for answer in chat.got)
    return set(said.values()) == {1}


# ── bad networks ──────────────────────────────────────────────────────────────────────────────────


def weather(seed: int, *, relays: bool) -> Callable[[Any], Any]:
    """Of dialogues 30 in 100 frames are lost, 30 doubled, and all are late by chance."""
    rng = random.Random(seed)

    def rule(message: Any) -> Any:
        if message.kind == RELAYED and not relays:
            return ()
        if not message.kind.startswith(("dialogue/", HOLDING, RELAYED)):
            return None
        copies = 1 + (rng.random() < 0.3)
        return [(rng.expovariate(20), message.frame) for _ in range(copies) if rng.random() >= 0.3]

    return rule


@pytest.mark.parametrize("seed", range(5))
def test_with_a_third_of_the_frames_lost_every_message_arrives_once(
    make_net: Callable[..., Any], seed: int
) -> None:
    net = make_net(nodes=7)
    undecided_until_all_finish(net, weather(seed, relays=True))
    net.start()
    assert net.run(until=lambda: all(closed(net, index) for index in range(7)))
    for index in range(7):
        chat = talk(net, index)
        assert len(chat.got) == 3 * 6
        assert each_once(chat)
        assert all(answer.to in (None, chat.own) for answer in chat.got)
        facts = {e.fact for e in net.nodes[index].witness.evidence if e.against}
        assert facts <= {"replayed"}  # the toy blames a network that doubles


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 5))]
)
def test_without_handing_on_the_same_dialogue_does_not_finish(
    make_net: Callable[..., Any], seed: int
) -> None:
    """The control."""
    net = make_net(nodes=7, rule=weather(seed, relays=False))
    net.start()
    net.run(until=lambda: all(node.ended for node in net.nodes))
    assert not any(closed(net, index) for index in range(7))


@pytest.mark.parametrize("relays", [True, False])
def test_what_a_node_says_to_one_other_alone_reaches_all(
    make_net: Callable[..., Any], *, relays: bool
) -> None:
    """It is alive and hands on nothing of it. The other case is the control."""

    def withhold(message: Any) -> Any:
        if message.kind == RELAYED and (message.sender == LIAR or not relays):
            return ()
        lost = message.sender == LIAR and message.kind.startswith("dialogue/talk/0")
        return () if lost and message.receiver != 0 else None

    net = make_net(rule=withhold)
    net.start()
    net.run(seconds=6.0)
    for index in range(3):
        assert (net.ids[LIAR] in talk(net, index).heard(0)) == (relays or index == 0)
        assert talk(net, index).ready == (relays or index == 0)


def test_what_a_node_said_to_one_other_before_it_died_reaches_all(
    make_net: Callable[..., Any],
) -> None:
    net = make_net(Idle, puppets=(LIAR,))
    net.start()
    model = net.machine(0).head.digest
    net.inject(net.forge(LIAR, "dialogue/talk/7", b"last", number=1, model=model), [1])
    net.run(seconds=4.0)
    for index in range(3):
        assert [(answer.sender, answer.body) for answer in talk(net, index).got] == [
            (net.ids[LIAR], b"last")
        ]


def test_on_a_network_that_loses_nothing_nobody_hands_anything_on(
    make_net: Callable[..., Any],
) -> None:
    net = make_net(nodes=7)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    kinds = Counter(message.kind for message in net.sent)
    assert kinds[RELAYED] == 0
    assert kinds[HOLDING] == 0


def test_a_quiet_dialogue_compares_less_and_less_often(make_net: Callable[..., Any]) -> None:
    net = make_net(Idle, train=lambda *_: None, options={"deadline": 100.0})
    net.start()
    net.run(seconds=40.0)
    told = [message.now for message in net.sent if message.kind == HOLDING and message.sender == 0]
    assert len(told) <= 2 * (40 / (2 * net.machine(0).swarm.vote_timeout) + 4)


# ── messages to one node ──────────────────────────────────────────────────────────────────────────


def test_what_is_addressed_to_a_node_is_handed_on_by_its_author_alone(
    make_net: Callable[..., Any],
) -> None:
    lost = Counter[str]()

    def first(message: Any) -> Any:
        lost[message.kind] += 1
        return () if message.kind.startswith("dialogue/talk/1/") else None

    net = make_net(rule=first)
    net.start()
    assert net.run(until=lambda: all(closed(net, index) for index in range(4)))
    for message in net.sent:
        if message.kind == RELAYED:
            for quoted in decode_relayed(message.envelope.payload, 4):
                said = Said.read(quoted, net.ids)
                assert said.to in (None, net.ids[message.receiver])
                assert said.to is None or quoted.sender == net.ids[message.sender]
    assert all(each_once(talk(net, index)) for index in range(4))


def test_a_message_that_is_addressed_to_another_node_is_not_taken(
    make_net: Callable[..., Any],
) -> None:
    """Whoever was told a secret passes it on as it was signed, or hands it on when it is asked."""
    net = make_net(Idle, puppets=(LIAR,))
    net.start()
    model = net.machine(0).head.digest
    secret = net.forge(0, dialogue_kind("talk", 1, LIAR), b"secret", number=1, model=model)
    net.inject(secret, [1], link=LIAR)
    told = net.run(until=lambda: told_to(net, 1, LIAR), seconds=10)
    assert told
    net.inject(relayed(net, LIAR, [secret], model), [1])
    net.run(seconds=0.1)
    assert not talk(net, 1).got
    assert net.nodes[1].refused["addressed-to-another"] == 1
    assert net.nodes[1].refused["unproven-dialogue-message"] == 1


def told_to(net: Any, sender: int, receiver: int) -> bool:
    return any(
        (frame.kind, frame.sender, frame.receiver) == (HOLDING, sender, receiver)
        for frame in net.sent
    )


def relayed(net: Any, index: int, quoted: list[Any], model: bytes, number: int = 1) -> Any:
    payload = encode_relayed([message.to_bytes() for message in quoted])
    return net.forge(index, RELAYED, payload, number=number, model=model)


def test_a_node_that_was_started_again_is_not_told_what_it_said_to_others(
    make_net: Callable[..., Any],
) -> None:
    """They bring it what it said before it forgot all; what it said to everybody is the control."""
    net = make_net(puppets=(LIAR,), options={"deadline": 30.0})
    net.start()
    net.run(seconds=0.5)
    net.restart(0)
    net.nodes[0].plugin("talk").dialogues[-1].got.clear()
    model = net.machine(0).head.digest
    for kind in ("dialogue/talk/7", dialogue_kind("talk", 7, 1)):
        net.inject(net.forge(0, kind, b"forgotten", number=1, model=model), [1])
    net.run(seconds=8.0)
    got = [(answer.step, answer.sender, answer.to) for answer in talk(net, 0).got]
    assert (7, net.ids[0], None) in got
    assert {to for _step, _sender, to in got} == {None, net.ids[0]}


# ── quoting ───────────────────────────────────────────────────────────────────────────────────────


@attrs.define
class Reporter(Idle):
    """Quotes to everybody what node 3 said, and opens what others quote."""

    opened: list[DialogueMessage | None] = attrs.field(factory=list)

    def receive(self, message: DialogueMessage) -> list[Send]:
        self.got.append(message)
        if message.step == 1:
            self.opened.append(message.quoted(message.body))
        return [Send(message.quote, 1)] if message.step == 0 and self.own == ORDER[0] else []


ORDER = make_node_ids(4)


def test_a_quoted_message_is_opened_as_its_author_signed_it(make_net: Callable[..., Any]) -> None:
    net = make_net(Reporter, puppets=(LIAR,))
    net.start()
    model = net.machine(0).head.digest
    net.inject(net.forge(LIAR, "dialogue/talk/0", b"a lie", number=1, model=model), [0])
    net.inject(net.forge(LIAR, "dialogue/talk/0", b"another", number=1, model=model), [0])
    net.run(seconds=0.1)
    for index in (1, 2):
        opened = talk(net, index).opened
        assert [(opening.sender, opening.body, opening.round) for opening in opened] == [
            (net.ids[LIAR], b"a lie", 1),
            (net.ids[LIAR], b"another", 1),
        ]


@pytest.mark.parametrize(
    "change",
    [
        {"number": 2},
        {"model": bytes(32)},
        {"swarm": "elsewhere"},
        {"kind": "dialogue/other/0"},
        {"kind": "choice/prevote"},
        {"kind": "dialogue/talk/0/9"},
        {"key": 2},
    ],
    ids=str,
)
def test_what_is_quoted_out_of_context_is_not_opened(
    make_net: Callable[..., Any], change: dict[str, Any]
) -> None:
    """Of another round, model, swarm or plugin, or not signed by its author."""
    net = make_net(Reporter, puppets=(LIAR,))
    net.start()
    model = net.machine(0).head.digest
    terms = {"kind": "dialogue/talk/0", "number": 1, "model": model, **change}
    quoted = net.forge(0, terms.pop("kind"), b"said", **terms).to_bytes()
    for body in (quoted, quoted[:-1], b"", b"\xff" * 40):
        net.inject(net.forge(LIAR, "dialogue/talk/1", body, number=1, model=model), [1])
    right = net.forge(0, "dialogue/talk/0", b"said", number=1, model=model).to_bytes()
    net.inject(net.forge(LIAR, "dialogue/talk/1", right, number=1, model=model), [1])
    net.run(seconds=0.1)
    opened = talk(net, 1).opened
    assert opened[:4] == [None] * 4
    assert opened[4] is not None, "the control"


def test_a_message_made_by_hand_quotes_nothing() -> None:
    message = DialogueMessage(ORDER[0], 0, b"body")
    assert message.quote == b""
    assert message.quoted(b"anything") is None


# ── liars ─────────────────────────────────────────────────────────────────────────────────────────


def lone(make_net: Callable[..., Any], **more: Any) -> tuple[Any, bytes]:
    """Three nodes that only listen, and a liar."""
    net = make_net(Idle, puppets=(LIAR,), train=lambda *_: None, **more)
    net.start()
    return net, net.machine(0).head.digest


def test_two_different_messages_of_one_kind_reach_every_node(make_net: Callable[..., Any]) -> None:
    """So that a dialogue that says one of a kind sees who said two, whatever it was told."""
    net, model = lone(make_net)
    for body, victims in ((b"list a", [0]), (b"list b", [1, 2])):
        net.inject(net.forge(LIAR, "dialogue/talk/2", body, number=1, model=model), victims)
    net.run(seconds=4.0)
    for index in range(3):
        assert {answer.body for answer in talk(net, index).got} == {b"list a", b"list b"}
        assert each_once(talk(net, index))


def test_a_message_that_is_signed_again_is_the_same_message(make_net: Callable[..., Any]) -> None:
    net, model = lone(make_net)
    for _again in range(100):
        net.inject(net.forge(LIAR, "dialogue/talk/0", b"hello", number=1, model=model), [0])
        net.run(seconds=0.01)
    assert [answer.body for answer in talk(net, 0).got] == [b"hello"]
    assert not net.nodes[0].refused


def test_a_flood_is_kept_within_bounds_and_others_are_heard(make_net: Callable[..., Any]) -> None:
    net, model = lone(make_net)
    for number in range(3 * MAX_SAID):
        body = number.to_bytes(2, "big")
        net.inject(net.forge(LIAR, "dialogue/talk/0", body, number=1, model=model), [0])
    large = bytes(said_bytes(4) // 3)
    for number in range(4):
        body = large + bytes([number])
        net.inject(net.forge(LIAR, "dialogue/talk/1/0", body, number=1, model=model), [0])
    net.inject(net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model), [0])
    net.run(seconds=0.1)
    got = Counter((answer.sender, answer.to) for answer in talk(net, 0).got)
    assert got[net.ids[LIAR], None] == MAX_SAID
    assert got[net.ids[LIAR], net.ids[0]] == 2
    assert got[net.ids[1], None] == 1
    assert net.nodes[0].refused["too-many-dialogue-messages"] == 2 * MAX_SAID + 2


@pytest.mark.claim("C-flood-1")
def test_memory_is_bounded_in_messages_bytes_and_rounds() -> None:
    log = DialogueLog(bytes(32), 1, 4)
    octets = said_bytes(4) // 16
    for step in range(100):
        for kind in (dialogue_kind("talk", step), dialogue_kind("talk", step, 1)):
            envelope = make_envelope(sender=ORDER[0], kind=kind, payload=bytes(octets))
            said = Said.read(envelope, ORDER)
            assert said is not None
            log.add(said)
    assert len(list(log)) == 16
    assert sum(len(said.envelope.payload) for said in log) <= said_bytes(4)


def test_the_messages_of_a_few_rounds_are_kept_and_no_more(make_net: Callable[..., Any]) -> None:
    net = make_net(Chat)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 8)
    logs = net.machine(0)._dialogues._logs
    assert len(logs) == room.KEPT_ROUNDS + 1
    assert max(logs) == net.machine(0).number


def test_relays_that_nobody_asked_for_are_not_looked_at(
    make_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, model = lone(make_net)
    quoted = net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model, key=LIAR)
    parsed: list[bytes] = []
    decode = room.decode_relayed
    monkeypatch.setattr(
        room,
        "decode_relayed",
        lambda payload, nodes: parsed.append(payload) or decode(payload, nodes),
    )
    for _flood in range(500):
        net.inject(relayed(net, LIAR, [quoted], model), [0])
    net.run(seconds=0.05)
    assert not parsed
    assert net.run(until=lambda: told_to(net, 0, LIAR), seconds=10)
    for _flood in range(500):
        net.inject(relayed(net, LIAR, [quoted], model), [0])
    net.run(seconds=0.05)
    assert len(parsed) == room.MAX_RELAYS
    assert not talk(net, 0).got
    (facts,) = {(e.subject, e.fact) for e in net.nodes[0].witness.evidence if e.against}
    assert facts == (net.ids[LIAR], "unproven-dialogue-message")


@pytest.mark.parametrize("replaced", [True, False])
def test_who_hands_on_what_a_replaced_key_signed_is_not_blamed(
    make_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    net, model = lone(make_net)
    kernel = net.machine(0).kernel
    monkeypatch.setattr(kernel, "is_of_old_key", lambda said: replaced and said.sequence < 2**48)
    assert net.run(until=lambda: told_to(net, 0, LIAR), seconds=10)
    quoted = net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model, key=LIAR)
    net.inject(relayed(net, LIAR, [quoted], model), [0])
    net.run(seconds=0.05)
    assert not talk(net, 0).got
    blamed = {item.subject for item in net.nodes[0].witness.evidence if item.against}
    assert blamed == (set() if replaced else {net.ids[LIAR]})


def test_a_forged_message_among_true_ones_is_left_out(make_net: Callable[..., Any]) -> None:
    """A leader makes up a key for a node, signs it itself, and hands it on as that node's."""
    net, model = lone(make_net)
    assert net.run(until=lambda: told_to(net, 0, LIAR), seconds=10)
    true = net.forge(2, "dialogue/talk/0", b"true", number=1, model=model)
    made_up = net.forge(1, "dialogue/talk/0", b"made up", number=1, model=model, key=LIAR)
    net.inject(relayed(net, LIAR, [made_up, true], model), [0])
    net.run(seconds=0.05)
    assert [(answer.sender, answer.body) for answer in talk(net, 0).got] == [(net.ids[2], b"true")]


@pytest.mark.parametrize(
    "change",
    [{"number": 7}, {"model": bytes(32)}, {"swarm": "elsewhere"}, {"kind": "choice/prevote"}],
)
def test_what_was_said_elsewhere_is_not_handed_on_as_said_here(
    make_net: Callable[..., Any], change: dict[str, Any]
) -> None:
    """Of another round, another model, another swarm; and no dialogue's message at all."""
    net, model = lone(make_net)
    assert net.run(until=lambda: told_to(net, 0, LIAR), seconds=10)
    terms = {"kind": "dialogue/talk/0", "number": 1, "model": model, **change}
    elsewhere = net.forge(1, terms.pop("kind"), b"old", **terms)
    net.inject(relayed(net, LIAR, [elsewhere], model), [0])
    net.run(seconds=0.05)
    assert not talk(net, 0).got
    assert net.nodes[0].refused["unproven-dialogue-message"] == 1


def test_yesterdays_message_is_nothing_in_todays_round(make_net: Callable[..., Any]) -> None:
    net = make_net(Chat)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 2)
    old = next(m for m in net.sent if m.kind == "dialogue/talk/0" and m.round == 1)
    today = net.machine(0).number
    before = list(talk(net, 0, today).got)
    # As it was, and within a relay that says it is of the old round, or of today's.
    for number in (1, today):
        model = old.envelope.head if number == 1 else net.machine(0).head.digest
        net.machine(0)._dialogues._awaited[net.ids[LIAR]] = 4
        net.inject(relayed(net, LIAR, [old.envelope], model, number), [0])
    net.inject(old.envelope, [0])
    net.run(seconds=0.001)
    added = talk(net, 0, today).got[len(before) :]
    assert all(item.round == today for item in added)


def test_a_plugin_that_a_node_lacks_is_none_of_its_business(make_net: Callable[..., Any]) -> None:
    net, model = lone(make_net)
    assert net.run(until=lambda: told_to(net, 0, LIAR), seconds=10)
    strange = net.forge(1, "dialogue/nobody/0", b"hello", number=1, model=model)
    net.inject(relayed(net, LIAR, [strange], model), [0])
    net.run(seconds=0.05)
    assert not talk(net, 0).got
    assert not net.nodes[0].refused


@pytest.mark.parametrize("kind", ["dialogue/nobody/0", "dialogue/talk/x", "dialogue/talk/0/9"])
def test_a_message_of_no_dialogue_that_is_open_is_refused_to_its_author(
    make_net: Callable[..., Any], kind: str
) -> None:
    net, model = lone(make_net)
    net.inject(net.forge(LIAR, kind, b"hello", number=1, model=model), [0])
    net.run(seconds=0.05)
    assert net.nodes[0].refused == {"unknown-dialogue": 1}
    assert not talk(net, 0).got


def test_what_is_addressed_to_one_is_sent_to_nobody_else(make_net: Callable[..., Any]) -> None:
    net = make_net()
    net.start()
    net.run(seconds=0.1)
    said = [message for message in net.sent if message.kind.startswith(DIALOGUE)]
    addressed = [message for message in said if message.kind.count("/") == 3]
    assert len(addressed) == 12
    assert all(message.kind.endswith(f"/{message.receiver}") for message in addressed)


def test_messages_are_handed_on_in_bundles_that_are_not_large(
    make_net: Callable[..., Any],
) -> None:
    net, model = lone(make_net)
    for step in range(6):
        body = bytes(100_000)
        net.inject(net.forge(1, f"dialogue/talk/{step}", body, number=1, model=model), [0])
    net.run(seconds=0.01)
    net.inject(net.forge(LIAR, HOLDING, b"", number=1, model=model), [0])
    net.run(seconds=0.05)
    sent = [len(m.frame) for m in net.sent if (m.kind, m.receiver) == (RELAYED, LIAR)]
    assert len(sent) == 3, "two in each"
    assert max(sent) <= RELAY_BYTES + ENVELOPE_OVERHEAD


@pytest.mark.parametrize(("spare", "sizes"), [(0, [2, 2, 1]), (-1, [1] * 5)])
def test_a_bundle_may_be_full(spare: int, sizes: list[int]) -> None:
    said = Said.read(make_envelope(sender=ORDER[0], kind="dialogue/talk/0"), ORDER)
    assert said is not None
    most = 2 * len(said.envelope.to_bytes()) + spare
    assert [len(bundle) for bundle in room._bundles([said] * 5, most)] == sizes


@pytest.mark.parametrize(("more", "sent"), [(0, 1), (1, 0)])
def test_a_node_is_sent_as_much_of_an_author_as_is_allowed(
    make_net: Callable[..., Any], more: int, sent: int
) -> None:
    net, model = lone(make_net)
    net.inject(net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model), [0])
    net.run(seconds=0.01)
    dialogues = net.machine(0)._dialogues
    (said,) = dialogues._logs[1]
    before = room.MAX_REPEATED * room.SMALL - len(said.envelope.to_bytes()) + more
    dialogues._sent[net.ids[LIAR], net.ids[1]] = before
    assert len(dialogues._due(net.ids[LIAR], dialogues._logs[1], [said])) == sent


def test_a_node_that_says_it_holds_nothing_is_sent_so_much_and_no_more(
    make_net: Callable[..., Any],
) -> None:
    net, model = lone(make_net)
    body = bytes(100_000)
    for step in range(10):
        net.inject(
            net.forge(1, f"dialogue/talk/{step}", body, number=1, model=model), [0], delay=0.001
        )
    net.run(seconds=0.01)
    for _again in range(50):
        net.inject(net.forge(LIAR, HOLDING, b"", number=1, model=model), [0])
        net.run(seconds=0.05)
    sent = sum(len(m.frame) for m in net.sent if (m.kind, m.receiver) == (RELAYED, LIAR))
    assert 1_000_000 < sent < (room.MAX_REPEATED + 1) * 1_100_000


def test_names_that_nobody_holds_are_not_asked_for_without_end(
    make_net: Callable[..., Any],
) -> None:
    net, model = lone(make_net)
    for number in range(200):
        made_up = encode_holding([bytes([number]) * SAID_BYTES])
        net.inject(net.forge(LIAR, HOLDING, made_up, number=1, model=model), [0])
        net.run(seconds=0.001)
    answers = [m for m in net.sent if (m.kind, m.receiver, m.sender) == (HOLDING, LIAR, 0)]
    assert len(answers) <= 3


# ── liars who use what hands messages on ──────────────────────────────────────────────────────────


@pytest.mark.parametrize("flood", [0, MAX_SAID])
def test_a_flood_that_differs_from_node_to_node_keeps_no_message_of_others_back(
    make_net: Callable[..., Any], flood: int
) -> None:
    """No node ever takes what others have of it. Node 1 says last what node 2 does not hear.

    The other case is the control.
    """
    net, model = lone(make_net)
    body = bytes(15_000)
    for receiver in (0, 1, 2):
        for number in range(flood):
            said = body + bytes([receiver, number])
            net.inject(net.forge(LIAR, "dialogue/talk/9", said, number=1, model=model), [receiver])
    net.run(seconds=5.0)
    net.inject(net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model), [0])
    net.run(seconds=3.0)
    assert net.ids[1] in talk(net, 2).heard(0)


@pytest.mark.long
def test_a_message_that_is_said_late_is_handed_on_after_a_flood_of_hours(
    make_net: Callable[..., Any],
) -> None:
    """What the liar makes of its own bound leaves that of others alone."""
    net, model = lone(make_net, options={"deadline": 1000.0})
    body = bytes(15_000)
    for receiver in (0, 1, 2):
        for number in range(MAX_SAID):
            said = body + bytes([receiver, number])
            net.inject(net.forge(LIAR, "dialogue/talk/9", said, number=1, model=model), [receiver])
    net.run(seconds=200.0)
    net.inject(net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model), [0])
    net.run(seconds=20.0)
    assert net.ids[1] in talk(net, 2).heard(0)
    sent = sum(len(m.frame) for m in net.sent if (m.kind, m.sender, m.receiver) == (RELAYED, 0, 2))
    assert sent < (room.MAX_REPEATED + 1) * 1_100_000


def test_small_frames_are_handed_on_where_the_swarm_allows_no_large_ones(
    make_net: Callable[..., Any],
) -> None:
    net, model = lone(make_net, options={"max_message_bytes": 50_000})
    for step in range(6):
        body = bytes(20_000)
        net.inject(net.forge(1, f"dialogue/talk/{step}", body, number=1, model=model), [0])
    net.run(seconds=8.0)
    assert {answer.step for answer in talk(net, 2).got} == set(range(6))
    assert max(len(frame.frame) for frame in net.sent) <= 50_000


@pytest.mark.parametrize("guarded", [True, False])
def test_what_a_liar_hangs_on_a_message_is_refused(
    make_net: Callable[..., Any], *, guarded: bool
) -> None:
    """No signature covers which authenticators there are. The control: a node that takes any."""
    net, model = lone(make_net)
    said = net.forge(1, "dialogue/talk/0", b"hello", number=1, model=model)
    junk = {f"junk{i}": bytes(4096) for i in range(7)}
    if not guarded:
        for index in (0, 1, 2):
            net.machine(index).kernel.intake.signers = frozenset({"mac", *junk})
    hung = said.with_auth({**said.auth, **junk})
    net.inject(hung, [0], link=LIAR)
    assert net.run(until=lambda: told_to(net, 2, LIAR), seconds=10)
    net.inject(relayed(net, LIAR, [hung], model), [2])
    net.run(seconds=4.0)
    kept = [answer.quote for index in (0, 2) for answer in talk(net, index).got]
    assert kept == ([] if guarded else [hung.to_bytes()] * 2)
    for index, fault in ((0, "unknown-authenticator"), (2, "unproven-dialogue-message")):
        against = {e.subject for e in net.nodes[index].witness.evidence if e.fact == fault}
        assert against == ({net.ids[LIAR]} if guarded else set())


def test_many_small_messages_are_all_handed_on(make_net: Callable[..., Any]) -> None:
    """What envelopes add is more than what they say."""
    net, model = lone(make_net)
    for number in range(MAX_SAID):
        body = bytes([number])
        net.inject(net.forge(1, "dialogue/talk/0", body, number=1, model=model), [0])
    net.run(seconds=4.0)
    assert len(talk(net, 2).got) == MAX_SAID


@pytest.mark.parametrize("blame", [Blame.NOBODY, Blame.LINK])
def test_who_hands_on_what_another_holds_for_revoked_is_not_blamed(
    make_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, blame: Blame
) -> None:
    """A list of revoked certificates reaches one node rounds before the others.

    The other case is the control: a verdict that every honest node would have come to.
    """
    net, model = lone(make_net)
    kernel = net.machine(0).kernel
    judge = kernel.intake.authenticate

    def authenticate(envelope: Any, source: NodeId, now: float, **how: bool) -> Any:
        if envelope.sender == net.ids[LIAR]:
            return reject("revoked", blame=blame), "mac"
        return judge(envelope, source, now, **how)

    monkeypatch.setattr(kernel.intake, "authenticate", authenticate)
    net.inject(net.forge(LIAR, "dialogue/talk/0", b"hello", number=1, model=model), [1])
    given = net.forge(LIAR, "contribution", b"", number=1, model=model)
    net.inject(net.forge(1, "fetched", given.to_bytes(), number=1, model=model), [0])
    net.run(seconds=6.0)
    assert net.machine(0).kernel.rejections["unproven-contribution"] == 1
    assert [answer.body for answer in talk(net, 2).got] == [b"hello"]
    assert not talk(net, 0).got
    blamed = {e.subject for e in net.nodes[0].witness.evidence if e.against}
    assert blamed == ({net.ids[1], net.ids[2]} if blame is Blame.LINK else set())


@pytest.mark.claim("C-pki-16")
@pytest.mark.control("C-pki-16")
@pytest.mark.parametrize("guarded", [True, False])
def test_who_was_revoked_speaks_through_nobody(
    make_net: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Two nodes refuse it. A third has an old list, takes what it says, and hands it on."""
    net, model = lone(make_net)
    for index in (0, 2):
        kernel = net.machine(index).kernel

        def authenticate(
            envelope: Any,
            source: NodeId,
            now: float,
            judge: Any = kernel.intake.authenticate,
            **how: bool,
        ) -> Any:
            if envelope.sender == net.ids[LIAR] and not how.get("quoted"):
                return reject("revoked", blame=Blame.NOBODY), "mac"
            return judge(envelope, source, now, **how)

        monkeypatch.setattr(kernel.intake, "authenticate", authenticate)
    if not guarded:
        monkeypatch.setattr(Intake, "takes_part", lambda *_: True)
    fresh = net.forge(LIAR, "dialogue/talk/0", b"after it went", number=1, model=model)
    net.inject(fresh, [0, 1, 2], link=LIAR)
    net.run(seconds=6.0)
    bodies = [[answer.body for answer in talk(net, index).got] for index in range(3)]
    through = [] if guarded else [b"after it went"]
    assert bodies == [through, [b"after it went"], through]
    assert not any(e.against for index in (0, 2) for e in net.nodes[index].witness.evidence)


@attrs.define
class Fragile(Idle):
    """Falls over what it was told, when the clock moves, or when it is asked what it says."""

    def receive(self, message: DialogueMessage) -> Iterator[Send]:  # type: ignore[override]
        self.got.append(message)
        if message.body == b"at once":
            raise ZeroDivisionError
        yield Send(b"fine", 1)

    def tick(self, now: float) -> list[Send]:
        if any(message.body == b"later" for message in self.got):
            raise ZeroDivisionError
        return super().tick(now)


@pytest.mark.parametrize("body", [b"at once", b"later"])
def test_a_dialogue_that_falls_over_a_message_takes_no_node_with_it(
    make_net: Callable[..., Any], body: bytes
) -> None:
    net = make_net(Fragile, puppets=(LIAR,), train=lambda *_: None)
    net.start()
    model = net.machine(0).head.digest
    net.inject(net.forge(LIAR, "dialogue/talk/0", body, number=1, model=model), [0])
    net.run(seconds=6.0)
    for index in range(3):
        assert net.machine(index).kernel.rejections["talk:dialogue-raised-zerodivisionerror"]
        named = {it.sender for it in net.nodes[index].effects if isinstance(it, Refused)}
        assert named == ({net.ids[LIAR]} if body == b"at once" else set())
        assert not any(e.against for e in net.nodes[index].witness.evidence)


@attrs.define
class Forger(Idle):
    """Accuses and says what nobody can be made to accuse of or to say, when it is spoken to."""

    made: ClassVar[Callable[[DialogueMessage], Any]]

    def receive(self, message: DialogueMessage) -> Any:
        self.got.append(message)
        return [type(self).made(message)] if message.step == 0 else []


@attrs.frozen
class Slander(Accusation):
    """A subclass may say anything of itself."""


def accusing(fact: Any, kind: type[Accusation] = Accusation) -> Callable[[DialogueMessage], Any]:
    def made(message: DialogueMessage) -> Any:
        accusation = kind(message.sender, "lied")
        object.__setattr__(accusation, "fact", fact)
        return accusation

    return made


@pytest.mark.parametrize(
    ("made", "against"),
    [
        (accusing("lied"), {"talk:lied"}),
        (accusing(Fault.EQUIVOCATION), set()),
        (accusing("other:lied"), set()),
        (accusing(["unhashable"]), set()),
        (accusing("lied", Slander), set()),
        (lambda _message: None, set()),
        (lambda _message: Send("text"), set()),
        (lambda _message: Send(bytearray(4)), set()),
    ],
    ids=["control", "kernel", "other", "no text", "subclass", "none", "text", "bytearray"],
)
def test_a_dialogue_speaks_in_its_own_name_and_peers_do_not_pay_for_its_errors(
    make_net: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[DialogueMessage], Any],
    against: set[str],
) -> None:
    monkeypatch.setattr(Forger, "made", staticmethod(made), raising=False)
    net = make_net(Forger, puppets=(LIAR,), train=lambda *_: None)
    net.start()
    model = net.machine(0).head.digest
    net.inject(net.forge(LIAR, "dialogue/talk/0", b"hello", number=1, model=model), [0])
    net.run(seconds=0.1)
    assert {e.fact for e in net.nodes[0].witness.evidence if e.against} == against
    assert {fact.split(":")[0] for fact in net.machine(0).kernel.rejections} == {"talk"}


@pytest.mark.parametrize("stranger", [True, False])
def test_a_dialogue_accuses_no_stranger(
    make_net: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    stranger: bool,  # noqa: FBT001 - False is the control
) -> None:
    def made(message: DialogueMessage) -> Accusation:
        return Accusation(bytes(32) if stranger else message.sender, "lied")

    monkeypatch.setattr(Forger, "made", staticmethod(made), raising=False)
    net = make_net(Forger, puppets=(LIAR,), train=lambda *_: None)
    net.start()
    model = net.machine(0).head.digest
    net.inject(net.forge(LIAR, "dialogue/talk/0", b"hello", number=1, model=model), [0])
    net.run(seconds=0.1)
    assert len(talk(net, 0).got) == 1
    assert bool(net.nodes[0].refused) is not stranger
    assert bool([e for e in net.nodes[0].witness.evidence if e.against]) is not stranger


# ── a set of an earlier round ─────────────────────────────────────────────────────────────────────


@attrs.define
class Late(Chat):
    """Says its name in the first round alone, and needs those names in whatever round."""

    @property
    def ready(self) -> bool:
        return True

    @property
    def finished(self) -> bool:
        names = {answer.sender for answer in self.got if answer.round == self.origin == 1}
        return self.members is not None and names | {self.own} == set(self.info.roster)

    def start(self) -> list[Send]:
        return [Send(b"name", 0)] if self.info.number == 1 else []


@pytest.mark.parametrize("kept", [4, 0])
def test_messages_of_the_round_that_a_set_was_made_in_are_given_in_a_later_one(
    make_net: Callable[..., Any], harness: ModuleType, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """Also to a node that has not heard a word of that round, as after a restart.

    The other case is the control: nodes that keep nothing of earlier rounds.
    """
    monkeypatch.setattr(room, "KEPT_ROUNDS", kept)

    def rule(message: Any) -> Any:
        way = message.kind, message.sender, message.receiver
        lost = message.round == 1 and (  # nodes 1 and 3 are locked alone, on a set of round 1
            way in {("choice/prevote", 3, 0), ("choice/prevote", 3, 2)}
            or (message.kind, message.receiver) == ("choice/proposal", 2)
        )
        deaf = message.kind == "dialogue/talk/0" or (
            message.kind == RELAYED and message.now < harness.START + 9
        )
        return () if lost or (deaf and message.receiver == 2) else None

    net = make_net(Late, rule=rule)
    if kept:
        undecided_until_all_finish(net, rule, 2)
    net.start()
    net.run(until=lambda: all(closed(net, index, 2) for index in range(4)), seconds=30.0)
    for index in range(4):
        assert closed(net, index, 2) == bool(kept)
        assert talk(net, index, 2).origin == 1
        assert each_once(talk(net, index, 2))
        assert {answer.round for answer in talk(net, index, 1).got} <= {1}


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────


@given(st.sets(st.binary(min_size=SAID_BYTES, max_size=SAID_BYTES), max_size=40))
def test_names_come_back_as_they_were(names: set[bytes]) -> None:
    assert decode_holding(encode_holding(names), 1) == names


def test_as_many_names_as_may_be_held_are_read_and_no_others() -> None:
    names = [number.to_bytes(SAID_BYTES, "big") for number in range(MAX_SAID * 3)]
    assert decode_holding(b"".join(names), 1) == frozenset(names)
    for wrong in ((names[1], names[0]), (names[1], names[1]), (names[0], b"x")):
        with pytest.raises(WireError, match=r"payload\.holding"):
            decode_holding(b"".join(wrong), 1)


def test_what_is_no_list_of_a_few_messages_is_no_relay() -> None:
    frames = [make_envelope().to_bytes()] * MAX_RELAYED
    assert [item.to_bytes() for item in decode_relayed(encode_relayed(frames), 1)] == frames
    for wrong in ([5], [b""], {}, [*frames, frames[0]]):
        with pytest.raises(WireError):
            decode_relayed(canonical.dumps(wrong), 1)


@given(st.binary(max_size=100))
def test_any_bytes_are_names_or_one_named_error(payload: bytes) -> None:
    try:
        names = decode_holding(payload, 1)
    except WireError:
        return
    assert encode_holding(names) == payload


@given(st.binary(max_size=200))
def test_any_bytes_are_relays_or_one_named_error(payload: bytes) -> None:
    try:
        frames = decode_relayed(payload, 1)
    except WireError:
        return
    assert encode_relayed([frame.to_bytes() for frame in frames]) == payload


def test_what_is_too_long_is_refused_before_it_is_parsed() -> None:
    for decode, size in (
        (decode_holding, SAID_BYTES * MAX_SAID * 3 + SAID_BYTES),
        (decode_relayed, 2 * said_bytes(1)),
    ):
        with pytest.raises(WireError) as caught:
            decode(bytes(size), 1)
        assert caught.value.code == "QRES-E401"


@given(
    step=st.integers(0, 99),
    rank=st.none() | st.integers(0, 3),
    body=st.binary(max_size=20),
)
def test_kinds_come_back_as_they_were(step: int, rank: int | None, body: bytes) -> None:
    envelope = make_envelope(kind=dialogue_kind("talk", step, rank), payload=body)
    said = Said.read(envelope, ORDER)
    assert said is not None
    to = None if rank is None else ORDER[rank]
    assert (said.plugin, said.step, said.to, said.id) == ("talk", step, to, said_id(envelope))


@pytest.mark.parametrize(
    "kind",
    [
        "dialogue/talk",
        "dialogue/talk/100",
        "dialogue/talk/01",
        "dialogue/talk/x",
        "dialogue/talk/0/4",
        "dialogue/talk/0/01",
        "dialogue/talk/0/999999",
        "dialogue/talk/0/0/0",
        "choice/prevote",
        "other/talk/0",
    ],
)
def test_a_kind_has_one_spelling(kind: str) -> None:
    assert Said.read(make_envelope(kind=kind), ORDER) is None
