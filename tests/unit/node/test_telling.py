"""What a node's log says: what happened, to whom, and not more often than anybody can read."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from structlog.testing import CapturingLogger

from qres_core import Outcome, RoundInfo, RoundStatus
from qres_core.contract.training import TrainerFailure
from qres_core.node.logs import BURST
from qres_core.node.telling import Teller
from qres_core.swarm.context.effects import (
    NOTHING_NEW,
    Agreed,
    Refused,
    Removed,
    RoundEnded,
    SatOut,
    Vanished,
)
from qres_core.swarm.runtime.node import Event
from qres_core.transport import LinkReason, PeerChange, TransportEvent

NODE = b"n" * 32
INFO = RoundInfo("s", 3, bytes(32), 2, 0, (NODE,), 1, step=3)
CLOSED = Outcome(INFO, RoundStatus.CLOSED, b"d" * 32, (NODE,))
ABORTED = Outcome(INFO, RoundStatus.ABORTED, b"d" * 32, (), "no quorum", "QRES-E505")
MODEL = np.zeros(2, np.int32)


def said(*events: Event | TransportEvent) -> list[tuple[str, str, dict[str, object]]]:
    """Level, event and fields of the lines."""
    log = CapturingLogger()
    logger: Any = log
    teller = Teller(logger)
    for event in events:
        if isinstance(event, TransportEvent):
            teller.neighbour(event)
        else:
            teller.event(event, 4)
    return [(call.method_name, call.args[0], dict(call.kwargs)) for call in log.calls]


def test_a_round_that_closed_is_news_and_one_that_did_not_is_a_warning() -> None:
    closed, aborted = said(RoundEnded(CLOSED, MODEL), RoundEnded(ABORTED, MODEL, saturated=2))
    assert closed == (
        "info",
        "round closed",
        {"round": 3, "height": 0, "step": 4, "members": 1, "model_digest": (b"d" * 32).hex()},
    )
    assert aborted[:2] == ("warning", "round aborted")
    assert aborted[2]["reason"] == "no quorum"
    assert aborted[2]["saturated"] == 2


def test_of_rounds_that_end_at_once_each_is_told_with_its_own_step() -> None:
    """The node has the model of the last one by the time it tells of the first."""
    first = attrs.evolve(CLOSED, round_info=attrs.evolve(INFO, step=2))
    told = said(RoundEnded(first, MODEL), RoundEnded(CLOSED, MODEL), RoundEnded(ABORTED, MODEL))
    assert [fields["step"] for _level, _event, fields in told] == [3, 4, 4]


def test_a_void_height_is_a_warning_with_the_code_that_was_agreed_on() -> None:
    void = Outcome(INFO, RoundStatus.VOID, b"d" * 32, (NODE,), "refused (QRES-E508)", "QRES-E508")
    ((level, event, fields),) = said(RoundEnded(void, MODEL))
    assert (level, event) == ("warning", "round void")
    assert (fields["reason"], fields["code"]) == ("refused (QRES-E508)", "QRES-E508")


def test_a_node_that_was_removed_says_so_once() -> None:
    ((level, event, fields),) = said(Removed(7))
    assert (level, event, fields["height"]) == ("warning", "no member any more", 7)


def test_a_refused_message_names_who_it_claims_to_be_from() -> None:
    known, unknown = said(
        Refused(3, NODE, "replayed"), Refused(3, None, "malformed", "field weight")
    )
    assert known[2] == {"round": 3, "claimed_sender": NODE.hex(), "reason": "replayed"}
    assert unknown[2]["claimed_sender"] is None
    assert unknown[2]["detail"] == "field weight"


@pytest.mark.parametrize(
    "event",
    [
        Refused(3, NODE, "replayed"),
        SatOut(3, "no session"),
        TrainerFailure("fit", 3, "ValueError: no data"),
        TransportEvent(PeerChange.REFUSED, NODE, "of another swarm"),
    ],
)
def test_what_others_or_a_trainer_cause_again_and_again_is_throttled(
    event: Event | TransportEvent,
) -> None:
    lines = said(*[event] * (BURST + 20))
    assert len(lines) == BURST
    assert {level for level, _event, _fields in lines} == {"warning"}


def test_a_neighbour_that_comes_and_goes_without_end_is_throttled_and_the_others_are_not() -> None:
    def coming(node: bytes) -> list[TransportEvent]:
        return [TransportEvent(change, node, "") for change in (PeerChange.UP, PeerChange.DOWN)]

    other = b"o" * 32
    lines = said(*coming(NODE) * (BURST + 20), *coming(other))
    assert [fields["peer"] for _level, _event, fields in lines] == [
        *[NODE.hex()] * BURST,
        *[other.hex()] * 2,
    ]
    assert {level for level, _event, _fields in lines} == {"info"}


def test_a_trainer_s_failure_comes_with_its_place_and_traceback() -> None:
    failure = TrainerFailure("fit", 3, "ValueError: no data", "mine.py", 12, "Traceback ...")
    ((level, event, fields),) = said(failure)
    assert (level, event) == ("warning", "trainer failed")
    assert (fields["file"], fields["line"]) == ("mine.py", 12)
    assert fields["traceback"] == "Traceback ..."
    assert failure.summary == "trainer failed in fit: ValueError: no data (mine.py, line 12)"
    assert attrs.evolve(failure, file="").summary == "trainer failed in fit: ValueError: no data"


def test_updates_that_vanish_are_told_once() -> None:
    vanished = Vanished(3, "9 of the 10 values vanish", "set swarm.scale = -4")
    assert said(vanished, vanished) == [
        ("warning", "updates vanish", {"round": 3, "what": "9 of the 10 values vanish"})
    ]


def test_nothing_new_is_no_warning_and_an_agreed_model_is_for_who_looks_closely() -> None:
    assert said(SatOut(3, NOTHING_NEW), Agreed(3, b"d" * 32)) == [
        ("info", "nothing new to train on", {"round": 3}),
        ("debug", "model agreed", {"round": 3, "model_digest": (b"d" * 32).hex()}),
    ]
    assert said(SatOut(3, "no session"))[0][0] == "warning"


def test_neighbours_come_and_go_without_a_warning() -> None:
    up, down, refused = said(
        TransportEvent(PeerChange.UP, NODE, "10.0.0.1:7"),
        TransportEvent(PeerChange.DOWN, NODE, "10.0.0.1:7", LinkReason.RESET),
        TransportEvent(PeerChange.FAILED, NODE, "", LinkReason.DIAL_FAILED),
        TransportEvent(PeerChange.REFUSED, None, "of another swarm"),
    )
    assert (up[0], down[0], refused[0]) == ("info", "info", "warning")
    assert up[2] == {"peer": NODE.hex(), "detail": "10.0.0.1:7"}
    assert down[2]["reason"] == "reset"
    assert refused[2]["peer"] is None
