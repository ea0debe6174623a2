"""What the log says of messages that were refused."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.testing import LogCapture

from qres_core import Fault
from qres_core.node.logs import BURST
from qres_core.node.telling import Teller
from qres_core.swarm.effects import Refused

SENDER = b"\x07" * 32


def told(*events: Refused) -> list[dict[str, Any]]:
    capture = LogCapture()
    teller = Teller(structlog.wrap_logger(None, processors=[capture]))
    for event in events:
        teller.event(event, 0)
    return [dict(entry) for entry in capture.entries]


def test_the_field_that_cannot_be_decoded_is_in_the_log() -> None:
    (line,) = told(Refused(3, SENDER, Fault.MALFORMED_PAYLOAD, "candidate.members"))
    assert line["event"] == "message refused"
    assert line["reason"] == "malformed-payload"
    assert line["claimed_sender"] == SENDER.hex()
    assert line["detail"] == "candidate.members"


def test_without_a_detail_the_line_has_none() -> None:
    (line,) = told(Refused(3, None, Fault.REPLAYED))
    assert "detail" not in line


def test_details_that_differ_make_no_lines_beyond_the_reasons() -> None:
    """A sender chooses which field it breaks; that opens no allowance of its own."""
    events = [Refused(1, SENDER, Fault.MALFORMED_PAYLOAD, f"field {n}") for n in range(9 * BURST)]
    assert len(told(*events)) == BURST
