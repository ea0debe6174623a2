"""Transports: what counts as one."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import attrs
import pytest

from qres_core import Delivery, Transport

METHODS = ("start", "broadcast", "send", "receive", "aclose")


async def nothing(*_: object) -> None:
    """Do nothing."""


def test_a_class_with_every_method_is_a_transport(third_party: ModuleType) -> None:
    assert isinstance(third_party.Loopback(b"\1" * 32), Transport)
    whole: Any = type("Whole", (), dict.fromkeys(METHODS, nothing))
    assert isinstance(whole(), Transport)


@pytest.mark.parametrize("missing", METHODS)
def test_a_class_without_one_method_is_none(missing: str) -> None:
    partial: Any = type("Partial", (), {name: nothing for name in METHODS if name != missing})
    assert not isinstance(partial(), Transport)


@pytest.mark.parametrize("other", [None, object(), [], b"", METHODS])
def test_other_objects_are_no_transports(other: object) -> None:
    assert not isinstance(other, Transport)


def test_every_method_is_asynchronous() -> None:
    assert all(inspect.iscoroutinefunction(getattr(Transport, name)) for name in METHODS)


def test_a_delivery_cannot_be_changed() -> None:
    delivery = Delivery(b"\1" * 32, b"frame")
    for field in attrs.fields(Delivery):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(delivery, field.name, b"")
