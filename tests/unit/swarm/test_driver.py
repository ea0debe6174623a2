"""The one driver hands on what a machine wants, in order, and knows when the machine is to look."""

from __future__ import annotations

import math
from typing import Any, cast, get_args

import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import Update
from qres_core.contract.errors import RoundError
from qres_core.swarm.context.effects import (
    AskTrainer,
    Broadcast,
    Diverged,
    Effect,
    Refused,
    SatOut,
    SendTo,
    Train,
)
from qres_core.swarm.runtime.driver import Driver, Ports, Told

INFO = make_round_info(2)
UPDATE = Update(np.zeros(2, dtype=np.int32))


class Machine:
    """One that wants what the test says, and notes what it is given."""

    def __init__(self, *wanted: Any) -> None:
        self.wanted, self.next_tick = list(wanted), math.inf
        self.given: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def take(*arguments: Any) -> list[Effect]:
            self.given.append((name, *arguments))
            return self.wanted

        return take


def driven(*wanted: Any) -> tuple[Driver, Machine, list[tuple[Any, ...]]]:
    """A driver, its machine, and what the ports were handed."""
    machine, said = Machine(*wanted), list[tuple[Any, ...]]()
    ports = Ports(
        broadcast=lambda frame: said.append(("broadcast", frame)),
        send=lambda to, frame: said.append(("send", to, frame)),
        train=lambda train: said.append(("train", train)),
        ask=lambda asked: said.append(("ask", asked)),
        tell=lambda told: said.append(("tell", told)),
        wake=lambda due: said.append(("wake", due)),
    )
    return Driver(cast("Any", machine), ports), machine, said


def test_each_port_gets_what_is_for_it_in_order() -> None:
    train, asked = Train(INFO, UPDATE.vector), AskTrainer(lambda: 0)
    refused, sat = Refused(1, None, "why"), SatOut(1, "why")
    wanted = (refused, Broadcast(b"a"), train, SendTo(b"x", b"b"), asked, Broadcast(b"c"), sat)
    driver, _machine, said = driven(*wanted)
    driver.start(5.0)
    assert said == [
        ("tell", refused),
        ("broadcast", b"a"),
        ("train", train),
        ("send", b"x", b"b"),
        ("ask", asked),
        ("broadcast", b"c"),
        ("tell", sat),
    ]


def test_what_is_told_is_every_effect_that_no_port_is_for() -> None:
    """An effect that is added is told, unless it gets a port."""
    assert {*get_args(Effect)} - {Broadcast, SendTo, Train, AskTrainer} == {*get_args(Told)}


def test_what_a_port_raises_stops_the_rest() -> None:
    driver, machine, said = driven(Diverged(RoundError.of("QRES-E601", "x", "y"), frozenset()))
    machine.next_tick = 7.0

    def refuse(told: Any) -> None:
        raise told.error

    driver.ports = Ports(broadcast=lambda _frame: None, send=lambda _to, _frame: None, tell=refuse)
    with pytest.raises(RoundError, match="QRES-E601"):
        driver.start(5.0)
    assert (said, driver.due) == ([], math.inf)


def test_the_machine_is_woken_when_its_clock_matters_and_asked_once() -> None:
    driver, machine, said = driven()
    machine.next_tick = 7.0
    driver.receive(b"frame", b"link", 5.0, 0.5)
    driver.receive(b"frame", b"link", 5.5)
    assert said == [("wake", 7.0)]
    machine.next_tick = 6.0  # sooner
    driver.carry_out([])
    machine.next_tick = 9.0  # the earlier call still comes
    driver.carry_out([])
    assert said == [("wake", 7.0), ("wake", 6.0)]
    driver.tick(5.9)
    assert [name for name, *_rest in machine.given] == ["receive", "receive"]
    driver.tick(6.0)
    driver.tick(7.0)  # that of before
    assert machine.given[2:] == [("tick", 6.0)]
    assert said[2:] == [("wake", 9.0)]
    driver.tick(9.0)
    assert machine.given[3:] == [("tick", 9.0)]


def test_a_machine_that_stopped_is_never_woken() -> None:
    driver, _machine, said = driven()
    driver.start(5.0)
    driver.tick(1e12)
    assert (said, driver.due) == ([], math.inf)


def test_a_round_is_sat_out_where_training_gave_a_reason() -> None:
    driver, machine, _said = driven()
    driver.trained(INFO, UPDATE, 5.0)
    driver.trained(INFO, "no data", 6.0)
    assert machine.given == [
        ("trained", UPDATE, INFO.number, INFO.head, 5.0),
        ("sit_out", "no data", INFO.number, INFO.head, 6.0),
    ]


def test_ports_that_are_left_out_do_nothing() -> None:
    ports = Ports(broadcast=lambda _frame: None, send=lambda _to, _frame: None)
    machine = Machine(Train(INFO, UPDATE.vector), AskTrainer(lambda: 0), SatOut(1, "why"))
    machine.next_tick = 1.0
    driver = Driver(cast("Any", machine), ports)
    driver.start(0.0)
    assert driver.due == 1.0
