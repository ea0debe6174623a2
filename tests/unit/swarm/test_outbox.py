"""What a node may say: as a member, and as its plugins would take it from somebody else."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from qres_core import ACCEPT, Blame, reject
from qres_core.swarm.context.outbox import Speaker


@pytest.mark.parametrize(
    ("verdict", "may"),
    [
        (ACCEPT, True),
        (reject("expired", blame=Blame.NOBODY), True),
        (reject("revoked", blame=Blame.SENDER), False),
        (reject("bad-tag", blame=Blame.LINK), False),
    ],
    ids=["accepted", "of an own view", "against the sender", "against the link"],
)
def test_a_node_says_what_others_would_not_hold_against_it(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, verdict: Any, *, may: bool
) -> None:
    net = harness.Net(4, byzantine=1)
    speaker = net.machine(0)._speaker
    kernel = speaker.context.kernel
    monkeypatch.setattr(kernel.intake, "authenticate", lambda *_what: (verdict, "toy"))
    before = speaker.next_sequence
    assert speaker.may_say("outcome/prevote", net.now) is may
    assert speaker.next_sequence == before


@pytest.mark.parametrize("member", [True, False])
@pytest.mark.parametrize(
    ("kind", "helps"),
    [
        *((kind, True) for kind in ("sync", "fetch-model", "links", "model")),
        *((kind, False) for kind in ("outcome/prevote", "contribution", "enough")),
    ],
)
def test_who_is_no_member_asks_and_helps_and_says_nothing_else(
    kind: str, *, helps: bool, member: bool
) -> None:
    speaker: Any = SimpleNamespace(context=SimpleNamespace(is_member=member))
    envelope: Any = SimpleNamespace(kind=kind)
    assert Speaker._may_say(speaker, envelope) is (member or helps)
