"""A swarm that runs until it is good enough: whose words count, and how it is proven to others."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from qres_core import Envelope, Fault
from qres_core.swarm.context.effects import SendTo
from qres_core.swarm.ledger.messages import (
    ENOUGH,
    STOP,
    decode_stop,
    encode_enough,
    encode_stop,
    goal_digest,
)
from qres_core.swarm.machine.goal_votes import Until

GOAL = goal_digest("loss < 1.0")


@pytest.fixture(name="net")
def _net(harness: ModuleType) -> Any:
    """Four members, three of whom decide; the test speaks for all but node 0, and a stranger."""
    made = harness.Net(
        5, members=4, byzantine=1, puppets=[1, 2, 3, 4], options={"until": "loss < 1"}
    )
    made.start()
    made.machine(0)._outlet.take()
    return made


def until(net: Any) -> Until:
    found = net.machine(0)._until
    assert isinstance(found, Until)
    return found


def word(
    net: Any, by: int, *, kind: str = ENOUGH, goal: bytes = GOAL, key: int | None = None
) -> Any:
    head = net.machine(0).head.digest
    return net.forge(by, kind, encode_enough(1, goal), number=1, model=head, key=key)


def test_only_authentic_words_are_quoted_to_others(net: Any) -> None:
    """A key may be revoked after its word came; the whole would be refused for it."""
    taken: list[Envelope] = [word(net, 1, key=2), word(net, 2), word(net, 3)]
    for said in taken:
        until(net).take(said, net.now)
    assert until(net).reached
    effects = [e for e in net.machine(0)._outlet.take() if isinstance(e, SendTo)]
    stops = [Envelope.from_bytes(effect.frame, max_bytes=2**20) for effect in effects]
    assert [stop.kind for stop in stops] == [STOP] * 3
    for stop in stops:
        quoted = decode_stop(stop.payload, 4)
        assert [said.sender for said in quoted] == [net.ids[2], net.ids[3]]


def test_the_words_of_as_many_as_decide_are_enough(net: Any) -> None:
    for by in (1, 2, 4):
        until(net).take(word(net, by), net.now)
        assert not until(net).reached, "the last one is of no member"
    until(net).take(word(net, 3), net.now)
    assert until(net).reached


def test_a_word_about_another_goal_is_refused(net: Any) -> None:
    until(net).take(word(net, 1, goal=goal_digest("loss < 2.0")), net.now)
    assert net.nodes[0].refused[Fault.OTHER_GOAL] == 1
    assert not until(net)._enough


def test_of_what_is_quoted_each_authentic_word_of_a_member_counts_once(net: Any) -> None:
    good = [word(net, by) for by in (1, 2, 3)]
    bad = [
        word(net, 1),
        word(net, 4),
        word(net, 3, key=2),
        word(net, 3, goal=goal_digest("loss < 2.0")),
        word(net, 3, kind="odd"),
    ]
    for other in bad:
        assert until(net)._proven([*good[:2], other], net.now) == good[:2]
    assert until(net)._proven(good, net.now) == good, "control"
    assert until(net)._proven([*good, word(net, 0)], net.now) == good, "as many as decide"


@pytest.mark.parametrize("replaced", [True, False])
def test_who_quotes_words_of_a_key_that_was_replaced_since_is_not_blamed(
    net: Any, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    kernel, author = net.machine(0).kernel, net.ids[2]
    authentic = kernel.authentic
    monkeypatch.setattr(kernel.intake, "key_index", lambda who: int(replaced and who == author))
    monkeypatch.setattr(
        kernel, "authentic", lambda word, now: word.sender != author and authentic(word, now)
    )
    quoted = encode_stop([word(net, index) for index in (1, 2, 3)])
    made = net.forge(3, STOP, quoted, number=1, model=net.machine(0).head.digest)
    until(net).take(made, net.now)
    assert not until(net).reached
    blamed = [item.subject for item in net.nodes[0].witness.evidence]
    assert blamed == ([] if replaced else [net.ids[3]])


@pytest.mark.parametrize("here", [True, False])
def test_a_stop_with_too_few_words_is_refused_and_blamed_where_the_members_are_known(
    net: Any, *, here: bool
) -> None:
    head = net.machine(0).head.digest if here else bytes(32)

    def stop(*by: int) -> Envelope:
        quoted = encode_stop([word(net, index) for index in by])
        made = net.forge(3, STOP, quoted, number=1, model=head)
        assert isinstance(made, Envelope)
        return made

    until(net).take(stop(1, 2), net.now)
    assert not until(net).reached
    assert net.nodes[0].refused[Fault.UNPROVEN_STOP] == 1
    blamed = [item.subject for item in net.nodes[0].witness.evidence]
    assert blamed == ([net.ids[3]] if here else [])
    until(net).take(stop(1, 2, 3), net.now)
    assert until(net).reached
