"""Dialogues: what is sent, and what counts as one."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import attrs
import pytest

from qres_core.dialogues import Dialogue, DialogueMessage, Send
from qres_core.errors import ValueRefusedError

PARTS = ("ready", "finished", "start", "receive", "tick", "decided")


def nothing(*_: object) -> None:
    """Do nothing."""


def test_a_send_is_for_everybody_unless_told() -> None:
    assert Send(b"x") == Send(b"x", step=0, to=None)


def test_every_step_in_range_is_accepted() -> None:
    assert [Send(b"", step=step).step for step in range(100)] == list(range(100))


@pytest.mark.parametrize("step", [-1, 100, 2**70, True, False, 1.0, 1.5, "1", None])
def test_a_step_outside_its_range_is_refused(step: Any) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        Send(b"", step=step)
    assert (caught.value.code, caught.value.problems[0].where) == ("QRES-E404", "send.step")


def test_what_is_sent_and_what_arrives_cannot_be_changed() -> None:
    for fact in (Send(b"x"), DialogueMessage(b"\1" * 32, 0, b"x")):
        for field in attrs.fields(type(fact)):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(fact, field.name, None)


def test_a_class_with_every_part_is_a_dialogue(third_party: ModuleType) -> None:
    assert isinstance(third_party.Hello({b"\1" * 32}), Dialogue)


@pytest.mark.parametrize("missing", PARTS)
def test_a_class_without_one_part_is_none(missing: str) -> None:
    whole: Any = type("Whole", (), dict.fromkeys(PARTS, nothing))
    partial: Any = type("Partial", (), {part: nothing for part in PARTS if part != missing})
    assert isinstance(whole(), Dialogue)
    assert not isinstance(partial(), Dialogue)


@pytest.mark.parametrize("other", [None, object(), [], {}, b"", PARTS])
def test_other_objects_are_no_dialogues(other: object) -> None:
    assert not isinstance(other, Dialogue)


def test_a_conversation_of_three_ends(third_party: ModuleType) -> None:
    nodes = [bytes([i]) * 32 for i in range(3)]
    talks = {node: third_party.Hello(set(nodes) - {node}) for node in nodes}
    outbox = [(node, send) for node in nodes for send in talks[node].start()]
    while outbox:
        sender, send = outbox.pop()
        for node in [send.to] if send.to else [other for other in nodes if other != sender]:
            answer = talks[node].receive(DialogueMessage(sender, send.step, send.body))
            outbox.extend((node, reply) for reply in answer)
    assert all(talk.finished for talk in talks.values())
