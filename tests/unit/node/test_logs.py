from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from qres_core.node import logs
from qres_core.node.logs import BURST, KINDS, PERIOD, Throttle


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger(logs.OWN)
    kept = root.handlers[:], root.level, own.level, logging.lastResort
    yield
    root.handlers, last = kept[0], kept[3]
    root.setLevel(kept[1])
    own.setLevel(kept[2])
    logging.lastResort = last
    structlog.reset_defaults()


def test_every_line_is_json_whoever_logs() -> None:
    stream = io.StringIO()
    log = logs.set_up("info", "json", stream)
    log.info("round closed", round=3)
    log.debug("not said")
    logging.getLogger("qres_core.swarm.runtime.node").warning("the outbox is %s", "full")
    logging.getLogger("asyncio").info("not said")
    apart = logging.getLogger("apart")
    apart.propagate = False
    apart.error("cut off from the root")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "round closed",
        "the outbox is full",
        "cut off from the root",
    ]
    assert lines[0]["round"] == 3
    assert lines[0]["level"] == "info"
    assert lines[1]["logger"] == "qres_core.swarm.runtime.node"
    assert all("timestamp" in line for line in lines)


def test_for_people() -> None:
    stream = io.StringIO()
    logs.set_up("debug", "console", stream).debug("round closed", round=3)
    assert "round closed" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()  # no terminal, no colours


def test_what_libraries_say_steers_no_terminal_and_makes_no_line() -> None:
    stream = io.StringIO()
    log = logs.set_up("info", "console", stream)
    evil = "\x1b]0;owned\x07\n2026-11-29 [info] round closed é"
    log.warning("peer refused", detail=evil)
    logging.getLogger("some.library").warning("what came: %s", evil)
    assert len(stream.getvalue().splitlines()) == 2
    try:
        {}[evil]
    except KeyError:
        log.exception("it broke")
    log.warning("it broke", exception=evil)
    said = stream.getvalue()
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "what came: \\x1b]0;owned\\x07\\x0a2026-11-29 [info] round closed é" in said


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values(form: str) -> None:
    stream = io.StringIO()
    log = logs.set_up("info", form, stream)

    def open_box(key: bytes) -> None:
        raise LookupError(len(key))

    try:
        open_box(b" ".join((b"a private", b"key")))
    except LookupError as error:
        caught = error
        log.exception("it broke")
    assert "open_box" in stream.getvalue()
    assert "LookupError: 13" in stream.getvalue()
    assert "a private key" not in stream.getvalue()
    control = io.StringIO()  # what structlog does unless it is told otherwise
    details = (LookupError, caught, caught.__traceback__)
    structlog.dev.RichTracebackFormatter(width=200)(control, details)
    assert "a private key" in control.getvalue()


def test_a_flood_is_not_a_flood_of_lines() -> None:
    now = 0.0
    throttle = Throttle(lambda: now)
    said = [throttle.admit("replayed") for _ in range(100)]
    assert said == [0] * BURST + [None] * (100 - BURST)
    assert throttle.admit("other") == 0
    now = PERIOD
    assert throttle.admit("replayed") == 100 - BURST
    assert throttle.admit("replayed") == 0


def test_kinds_without_end_share_one_allowance() -> None:
    throttle = Throttle(lambda: 0.0)
    said = [throttle.admit(str(kind)) for kind in range(KINDS + 100)]
    assert sum(item is not None for item in said) == KINDS + BURST
