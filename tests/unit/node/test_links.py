"""Why links ended: kept by neighbour and reason, logged once a minute for each."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import CapturingLogger

from qres_core.node import links, logs, metrics
from qres_core.node.links import LinkBook
from qres_core.node.status import StatusBoard
from qres_core.node.telling import Teller
from qres_core.transport import LinkReason, PeerChange, TransportEvent

ANNA, BELA = b"a" * 32, b"b" * 32


def failed(peer: bytes | None, reason: LinkReason = LinkReason.DIAL_FAILED) -> TransportEvent:
    return TransportEvent(PeerChange.FAILED, peer, "connection refused", reason)


def told(book: LinkBook) -> list[tuple[str, dict[str, Any]]]:
    """Level and fields of the lines that a book has to say now."""
    log: Any = CapturingLogger()
    book.tell(Teller(log))
    assert {call.args for call in log.calls} <= {("links ended",)}
    return [(call.method_name, dict(call.kwargs)) for call in log.calls]


def test_each_reason_of_each_neighbour_is_counted_with_its_last_time() -> None:
    board = StatusBoard(clock=lambda: 7.0)
    for event in (
        failed(ANNA),
        failed(ANNA),
        TransportEvent(PeerChange.DOWN, ANNA, "10.0.0.1:7", LinkReason.RESET),
        TransportEvent(PeerChange.REFUSED, None, "no key", LinkReason.REFUSED_KEY),
        TransportEvent(PeerChange.UP, BELA, "10.0.0.2:7"),
    ):
        board.neighbour(event)
    report = board.report()
    assert [(item["peer"], item["reason"], item["count"]) for item in report["links"]] == [
        (ANNA.hex(), "dial_failed", 2),
        (ANNA.hex(), "reset", 1),
        (None, "refused_key", 1),
    ]
    assert {item["at"] for item in report["links"]} == {7.0}
    # What fails again and again while a peer is away does not push out who came and went.
    assert [item["change"] for item in report["connections"]] == ["down", "refused", "up"]
    assert [item["reason"] for item in report["connections"]] == ["reset", "refused_key", None]
    json.dumps(report)


def test_the_metrics_count_them() -> None:
    board = StatusBoard()
    for _ in range(3):
        board.neighbour(failed(ANNA))
    report = {**board.report(), "state": "starting"}
    text = metrics.render(report).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (sample,) = families["qres_links_ended"].samples
    assert sample.labels == {"node": ANNA.hex(), "reason": "dial_failed"}
    assert (sample.name, sample.value) == ("qres_links_ended_total", 3)


def test_the_log_has_one_line_a_minute_for_each_neighbour() -> None:
    book = LinkBook()
    for _ in range(500):
        book.note(failed(ANNA), 1.0)
    book.note(failed(ANNA, LinkReason.TIMED_OUT), 2.0)
    book.note(failed(None, LinkReason.REFUSED_KEY), 3.0)
    assert told(book) == [
        (
            "info",
            {
                "peer": ANNA.hex(),
                "reasons": {"dial_failed": 500, "timed_out": 1},
                "detail": "connection refused",
            },
        ),
        ("info", {"peer": None, "reasons": {"refused_key": 1}, "detail": "connection refused"}),
    ]
    assert told(book) == [], "what was told is not told again"
    book.note(failed(ANNA), 4.0)
    ((_level, fields),) = told(book)
    assert fields["reasons"] == {"dial_failed": 1}


@pytest.mark.usefixtures("virtual_time")
def test_it_is_told_every_minute() -> None:
    log: Any = CapturingLogger()
    book, at = LinkBook(), list[float]()

    async def main() -> None:
        start = anyio.current_time()
        with anyio.move_on_after(3.5 * links.EVERY):
            async with anyio.create_task_group() as group:
                group.start_soon(book.tell_often, Teller(log))
                while True:
                    book.note(failed(ANNA), 0.0)
                    if len(log.calls) > len(at):
                        at.append(anyio.current_time() - start)
                    await anyio.sleep(1.0)

    anyio.run(main)
    assert len(at) == 3
    for minute, seconds in enumerate(at, 1):
        assert abs(seconds - minute * links.EVERY) <= 1.0


def test_where_json_is_asked_for_the_line_is_json() -> None:
    kept = logging.getLogger().handlers[:]
    stream = io.StringIO()
    book = LinkBook()
    book.note(failed(ANNA), 1.0)
    try:
        book.tell(Teller(logs.set_up("info", "json", stream)))
    finally:
        logging.getLogger().handlers = kept
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"]) == ("links ended", "info")
    assert line["reasons"] == {"dial_failed": 1}


def test_what_is_kept_does_not_grow_with_who_comes() -> None:
    book = LinkBook()
    for number in range(links.PEERS + 10):
        book.note(failed(number.to_bytes(32, "big")), 0.0)
    found = {item["peer"] for item in book.facts()}
    assert len(found) == links.PEERS
    assert (0).to_bytes(32, "big").hex() not in found
    book.note(TransportEvent(PeerChange.FAILED, ANNA, "x" * 10_000, LinkReason.RESET), 0.0)
    assert max(len(item["detail"]) for item in book.facts()) == links.MAX_DETAIL
