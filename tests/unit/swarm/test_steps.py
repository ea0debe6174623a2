"""The steps of a round that depend on one condition: each with everything else out of the way."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from qres_lab.testing import make_envelope, make_node_ids

from qres_core import Blame, Fault
from qres_core.errors import RoundError
from qres_core.swarm.ledger.messages import CandidateSet, Member
from qres_core.swarm.machine.steps import Round
from qres_core.swarm.sync.pace import Pace

IDS = make_node_ids(4)
MEMBERS = tuple(Member(sender, bytes([rank]) * 32) for rank, sender in enumerate(IDS))


def some(**parts: Any) -> Any:
    return SimpleNamespace(**parts)


@pytest.mark.parametrize(
    ("here", "complete", "lacks"), [(2, True, True), (3, True, False), (3, False, True)]
)
def test_a_round_lacks_a_quorum_or_what_a_set_names(
    here: int, *, complete: bool, lacks: bool
) -> None:
    collector = some(proposable=lambda: dict.fromkeys(IDS[:here]), has=lambda _set: complete)
    choice = some(sets=lambda: ["a set"])
    waiting: Any = some(collector=collector, context=some(quorum=3), choice=choice)
    assert Round.lacks.fget(waiting) is lacks  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "relies", "refused"),
    [("attestation", True, 0), ("attestation", False, 1), ("odd", True, 1), ("odd", False, 1)],
)
def test_a_kind_that_nobody_takes_is_refused(kind: str, *, relies: bool, refused: int) -> None:
    seen: list[Any] = []
    checks = some(attested=lambda _envelope: relies)
    speaker = some(outlet=some(refuse=lambda *what: seen.append(what)))
    running: Any = some(collector=some(checks=checks), speaker=speaker, number=1, begun=True)
    envelope = make_envelope(kind=kind)
    Round.take(running, envelope, 0.0)
    assert seen == [(envelope, Fault.UNKNOWN_KIND, Blame.SENDER)] * refused


@pytest.mark.parametrize(("others", "begins"), [(1, False), (2, True)])
def test_more_than_f_others_begin_a_round_early(
    monkeypatch: pytest.MonkeyPatch, others: int, *, begins: bool
) -> None:
    begun: list[float] = []
    pace = Pace()
    monkeypatch.setattr(pace, "begun", lambda _number, _head: others)
    context = some(head=some(digest=b""), byzantine=1)
    waiting: Any = some(context=context, pace=pace, begun=False, begins=9.0, number=1, needed=9.0)
    waiting._begin = begun.append
    Round._begin_if_due(waiting, 5.0)
    assert begun == [5.0] * begins


def test_a_round_that_plugins_do_not_open_is_sat_out() -> None:
    reasons: list[str] = []

    def refuses(*_what: Any, **_how: Any) -> None:
        raise RoundError.of("QRES-E508", "plugins.toy", "not this one")

    opening: Any = some(
        position=some(info=None),
        own=lambda: None,
        dialogues=some(open_round=refuses),
        sit_out=reasons.append,
    )
    assert Round._open_plugins(opening, 0.0) is False
    assert "not this one" in reasons[0]
    opening.dialogues.open_round = lambda *_what, **_how: None
    assert Round._open_plugins(opening, 0.0) is True


def test_what_is_gone_while_it_was_screened_is_not_proposed() -> None:
    held = dict.fromkeys(IDS[:3])
    merger = some(choose=lambda: some(members=MEMBERS, against=()))
    fresh: Any = some(
        opinions=some(waits_for=lambda _asked: False),
        context=some(quorum=3, kernel=some(has=lambda _hook: False)),
        collector=some(proposable=lambda: held),
        merger=merger,
        times=some(propose=0.0),
        number=1,
    )
    assert Round._fresh(fresh, 1.0) == CandidateSet(1, MEMBERS[:3])
    del held[IDS[0]]
    assert Round._fresh(fresh, 1.0) is None, "fewer than a quorum"


@pytest.mark.parametrize(
    ("here", "proposal", "objection", "reason"),
    [
        (2, None, "", "2 contributions, quorum 3"),
        (3, None, "", "no proposal"),
        (3, b"set", "", "no agreement"),
        (3, b"set", "it is worse", "it is worse"),
    ],
)
def test_a_round_without_a_decision_says_what_it_lacked(
    here: int, proposal: bytes | None, objection: str, reason: str
) -> None:
    collector = some(of_round=lambda: dict.fromkeys(IDS[:here]))
    engine = some(proposal=lambda _number: proposal)
    lost: Any = some(
        collector=collector,
        context=some(quorum=3),
        choice=some(engine=engine, objection=objection),
        number=1,
    )
    assert Round.why_lost(lost) == reason


def test_proofs_that_wait_are_checked_as_the_clock_goes_on(harness: ModuleType) -> None:
    """Where contributions are missing, those that are here are checked at the latest in time."""
    net = harness.Net(4, byzantine=1, puppets=[3], plugins={"bulk": {}})
    net.start()
    assert net.run(seconds=5.0, until=lambda: min(net.steps()) >= 1)
    net.run(seconds=0.2)
    assert not net.machine(0)._collector.proposable(), "control: they wait for the fourth"
    net.run(seconds=harness.DEADLINE)
    assert max(net.nodes[0].plugin("bulk").sizes) == 3
