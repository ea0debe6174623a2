"""A transport that stands still is noticed, said once, and makes a node not ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from qres_core import NodeId
from qres_core.errors import RoundError
from qres_core.node.watchdog import CODE, LOOK_SECONDS, STUCK_SECONDS, Watchdog
from qres_core.transport import AttendedTransport


class Said:
    """A log that is only looked at."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    warning = error


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def looks(dog: Watchdog, clock: Clock, count: int, every: float = LOOK_SECONDS) -> None:
    for _ in range(count):
        clock.now += every
        dog.look(lambda: "adding up, for the peer X")


@pytest.mark.claim("C-watchdog-1")
def test_a_transport_that_does_nothing_for_long_is_named_once(clock: Clock) -> None:
    said = Said()
    dog = Watchdog(said, clock)
    dog.asked()
    looks(dog, clock, int(STUCK_SECONDS) - 1)
    assert not dog.trouble
    assert not said.lines
    looks(dog, clock, 5)
    what = "transport stands still for 10 s: adding up, for the peer X"
    assert said.lines == [("transport stands still", {"code": CODE, "what": what})]
    assert dog.trouble == f"{CODE} {what.replace('10 s', '14 s')}"
    dog.answered()
    assert not dog.trouble
    assert said.lines[1:] == [("transport runs again", {"code": CODE})]


@pytest.mark.control("C-watchdog-1")
def test_control_a_transport_that_answers_is_not(clock: Clock) -> None:
    said = Said()
    dog = Watchdog(said, clock)
    for _ in range(10):
        dog.asked()
        looks(dog, clock, int(STUCK_SECONDS) - 1)
        dog.answered()
        looks(dog, clock, int(STUCK_SECONDS) + 1)  # nobody is asked meanwhile
    assert (dog.trouble, said.lines) == ("", [])


def test_a_process_that_was_stopped_itself_blames_nobody(clock: Clock) -> None:
    said = Said()
    dog = Watchdog(said, clock)
    dog.asked()
    looks(dog, clock, 1, every=3600.0)
    assert not dog.trouble
    looks(dog, clock, int(STUCK_SECONDS))  # control: and now nothing comes
    assert dog.trouble


class Slow:
    """A transport that shows no sign of life before it is let."""

    def __init__(self) -> None:
        self.runs = anyio.Event()
        self.times = 0

    async def attend(self) -> None:
        self.times += 1
        await self.runs.wait()
        if self.times == 3:
            raise RoundError.of("QRES-E603", "transport", "closed")

    def doing(self) -> str:
        return "nothing"

    def dials(self) -> Mapping[NodeId, float]:
        return {}


@pytest.mark.usefixtures("virtual_time")
def test_a_transport_is_asked_again_and_again_until_it_is_over() -> None:
    said = Said()

    async def main() -> None:
        slow = Slow()
        assert isinstance(slow, AttendedTransport)
        dog = Watchdog(said, anyio.current_time)
        async with anyio.create_task_group() as group:
            group.start_soon(dog.run, slow)
            await anyio.sleep(STUCK_SECONDS + 5)
            assert dog.trouble
            slow.runs.set()
        assert slow.times == 3
        assert not dog.trouble
        await dog.run(object())  # offers nothing

    anyio.run(main, backend="trio")
    assert [event for event, _fields in said.lines] == [
        "transport stands still",
        "transport runs again",
    ]
