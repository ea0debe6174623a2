"""Who is to blame for a frame that is none: its author, not the neighbour that passed it on."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from qres_core.swarm.runtime.node import Node
from qres_core.transport import Delivery

NEIGHBOUR, LIAR = b"n" * 32, b"l" * 32


class Machine:
    """Notes whom it is told a frame is from."""

    swarm = SimpleNamespace(max_message_bytes=2**20, byzantine=1, memory=0)
    next_tick = math.inf

    def __init__(self) -> None:
        self.sources: list[bytes] = []

    def receive(self, frame: bytes, link: bytes, now: float, _waited: float) -> list[Any]:
        del frame, now
        self.sources.append(link)
        return []


@pytest.mark.claim("C-composition-6")
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("delivery", "source"),
    [
        (Delivery(NEIGHBOUR, b"noise", author=LIAR), LIAR),
        (Delivery(NEIGHBOUR, b"noise"), NEIGHBOUR),
    ],
)
async def test_a_frame_is_blamed_on_its_author(delivery: Delivery, source: bytes) -> None:
    machine: Any = Machine()
    transport: Any = SimpleNamespace(limits=SimpleNamespace(frame=1024))
    trainer: Any = None
    node = Node(machine=machine, transport=transport, trainer=trainer)
    node._take(delivery)
    assert machine.sources == [source]
