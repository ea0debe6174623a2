"""A node with another history says what it goes by, and this one says how that differs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import attrs
import pytest

from qres_core import Fault
from qres_core.contract import canonical
from qres_core.errors import WireError
from qres_core.swarm.context.effects import Refused, SendTo
from qres_core.swarm.ledger.chain import Head, beginning

OTHER = 1


@pytest.fixture(name="net")
def _net(harness: ModuleType) -> Any:
    net = harness.Net(4, byzantine=1, puppets=(OTHER,))
    net.start()
    return net


def told(
    net: Any,
    *,
    settings: bytes | None = None,
    first: bytes | None = None,
    **other: Any,
) -> list[Any]:
    """What a node says whose head, settings or first model are others; its head fits them."""
    context = net.machine(0)._context
    own = context.kernel.settings
    octets = own.to_bytes() if settings is None else settings
    first = context.first_model if first is None else first
    digest = own.digest if settings is None else own.from_bytes(settings).digest
    head = attrs.evolve(context.head, settings=beginning(digest, first), **other)
    return [head.raw(), octets, first]


def say(net: Any, value: object) -> list[str]:
    """Have node 0 take it; what it says then."""
    outlet = net.machine(0)._outlet
    outlet.take()
    message = net.forge(OTHER, "head", canonical.dumps(value), number=0, model=bytes(32))
    net.machine(0)._catching_up.apart.take_head(message, net.now)
    made = outlet.take()
    refused = [effect for effect in made if isinstance(effect, Refused)]
    assert {effect.reason for effect in refused} <= {Fault.OTHER_SETTINGS}
    # Who differs is told what this node goes by, so that it says what differs there, too.
    answers = [effect.to for effect in made if isinstance(effect, SendTo)]
    assert answers == [net.ids[OTHER]] * len(refused)
    return [effect.detail for effect in refused]


def test_what_differs_is_said_once_for_each_node(net: Any) -> None:
    other = told(net, first=b"\x07" * 32)
    assert say(net, other) == ["it began with another model"]
    assert say(net, other) == []


def test_only_what_differs_is_said(net: Any) -> None:
    assert say(net, told(net)) == [], "the control: nothing differs"
    roster = net.machine(0).head.roster
    assert say(net, told(net, roster=attrs.evolve(roster, quorum=4))) == [
        "it has another roster, f or quorum"
    ]


def test_settings_that_differ_are_named_each(net: Any) -> None:
    own = net.machine(0)._context.kernel.settings
    other = type(own)({**own.values, "swarm.scale": 7})
    (detail,) = say(net, told(net, settings=other.to_bytes()))
    assert detail.startswith("swarm.scale is ")
    assert "roster" not in detail


def test_a_head_that_is_not_of_the_settings_beside_it_says_nothing(net: Any) -> None:
    head, settings, _first = told(net)
    assert say(net, [head, settings, b"\x07" * 32]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda _good: 7,
        lambda _good: b"head",
        lambda _good: [],
        lambda good: good[:2],
        lambda good: [*good, b""],
        lambda good: [good[0], 7, good[2]],
        lambda good: [good[0], good[1], 7],
        lambda good: [7, good[1], good[2]],
    ],
)
def test_what_is_no_head_with_settings_and_a_model_is_refused(net: Any, change: Any) -> None:
    good = told(net)
    assert Head.from_raw(good[0]).swarm == net.machine(0).head.swarm, "control"
    with pytest.raises(WireError, match=r"QRES-E40"):
        say(net, change(good))
