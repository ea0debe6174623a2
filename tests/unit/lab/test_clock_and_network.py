"""The rooms of the lab that are played instead of real: the clock and the network."""

from __future__ import annotations

from typing import cast

import attrs
import numpy as np
import pytest

from qres_core.attacks.scenario import Scenario
from qres_core.lab.clock import EPOCH, Clock
from qres_core.lab.network import SimulatedNetwork
from qres_core.lab.nodes import SimulatedNode


@attrs.define(eq=False)
class Dummy:
    """As much of a node as the network looks at."""

    online: bool = True


def node(*, online: bool = True) -> SimulatedNode:
    return cast("SimulatedNode", Dummy(online))


def network(clock: Clock, arrived: list[float], **scenario: float) -> SimulatedNetwork:
    def deliver(
        sender: SimulatedNode, receiver: SimulatedNode, frame: bytes, *, hostile: bool
    ) -> None:
        del sender, receiver, frame, hostile
        arrived.append(clock.now - EPOCH)

    rng = np.random.Generator(np.random.PCG64(1))
    return SimulatedNetwork(Scenario(**scenario), clock, rng, deliver, 1.0)  # type: ignore[arg-type]


def test_events_happen_in_the_order_of_their_times_and_then_as_they_were_put_in() -> None:
    clock, happened = Clock(), list[str]()
    clock.after(2.0, lambda: happened.append("late"))
    clock.after(1.0, lambda: happened.append("first"))
    clock.after(1.0, lambda: happened.append("second"))
    while clock.advance():
        pass
    assert happened == ["first", "second", "late"]
    assert clock.now == EPOCH + 2.0


def test_a_message_arrives_after_its_delay() -> None:
    clock, arrived = Clock(), list[float]()
    played = network(clock, arrived, delay=0.5, jitter=0.0)
    played.carry(node(), node(), b"frame")
    assert clock.advance()
    assert arrived == [0.5]
    assert (played.messages, played.octets) == (1, 5)


def test_links_carry_so_many_bits_a_second_one_message_after_the_other() -> None:
    """Three messages of a second each, to one node and to another: the slower link decides."""
    clock, arrived = Clock(), list[float]()
    played = network(clock, arrived, delay=0.5, jitter=0.0, bandwidth=0.008)
    first, other, last = node(), node(), node()
    played.carry(first, other, bytes(1000))
    while clock.advance():
        pass
    assert arrived == [pytest.approx(1.5)], "the end follows the beginning"
    arrived.clear()
    clock.now = EPOCH + 10
    for sender, receiver in ((first, other), (first, last), (last, other)):
        played.carry(sender, receiver, bytes(1000))
    while clock.advance():
        pass
    assert arrived == [pytest.approx(at) for at in (11.5, 12.5, 12.5)]


def test_messages_are_lost_and_doubled_in_the_share_asked_for() -> None:
    for scenario, expected in (({"loss": 0.25}, 750), ({"duplication": 0.25}, 1250)):
        clock, arrived = Clock(), list[float]()
        played = network(clock, arrived, **scenario)
        for _message in range(1000):
            played.carry(node(), node(), b"frame")
        while clock.advance():
            pass
        assert abs(len(arrived) - expected) < 70
        assert played.octets == 5000


def test_a_node_that_is_away_hears_nothing_and_works_when_it_is_back() -> None:
    clock, arrived, worked = Clock(), list[float](), list[float]()
    played, away = network(clock, arrived), node(online=False)
    played.carry(node(), away, b"frame")
    played.act(away, lambda: worked.append(clock.now - EPOCH))
    assert clock.advance()
    assert (arrived, worked) == ([], [])
    away.online = True
    while clock.advance():
        pass
    assert (arrived, worked) == ([], [1.0])


def test_a_node_does_not_drop_out_of_a_round_that_is_over() -> None:
    for over in (False, True):
        clock = Clock()
        played, dropping = network(clock, [], dropout=0.999), node()
        played.may_drop(dropping, lambda over=over: over)  # type: ignore[misc]
        assert clock.advance()
        assert dropping.online is over
