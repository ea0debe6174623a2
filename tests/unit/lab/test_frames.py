from __future__ import annotations

import tracemalloc
from typing import Any

import attrs
import pytest

from qres_core import WireError
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import SwarmConfig, parse
from qres_core.lab.frames import KEPT, LARGE, SharedFrames
from qres_core.lab.nodes import WrappedKernel
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import TaskConfig, make_task
from qres_core.swarm import messages

NODES = 12
DIMENSION = 50_000


def swarm(nodes: int = NODES) -> Any:
    table = {"name": "frames", "nodes": nodes, "byzantine": 0, "quorum": nodes, "insecure": True}
    plugins: dict[str, Any] = {"memory": {}, "mean": {"unprotected": True}}
    return parse({"swarm": table, "plugins": plugins}, source="test")


def frame(size: int, number: int = 0) -> bytes:
    envelope = Envelope(
        swarm="frames",
        sender=bytes(32),
        round=1,
        sequence=number,
        time_ms=0,
        kind="contribution",
        head=bytes(32),
        payload=bytes(size),
        auth={},
    )
    return envelope.to_bytes()


@pytest.fixture
def frames() -> SharedFrames:
    limits: SwarmConfig = swarm().swarm
    return SharedFrames(attrs.evolve(limits, max_message_bytes=10**6))


@pytest.mark.parametrize("size", [1, 2 * LARGE])
def test_all_nodes_have_the_same_envelope(frames: SharedFrames, size: int) -> None:
    sent = frame(size)
    first = frames.read(sent)
    assert first.to_bytes() == sent
    assert frames.read(sent) is first
    assert frames.read(bytes(bytearray(sent))) is first  # the bytes count, not the object
    assert frames.read(frame(size, number=1)).to_bytes() != sent


def test_what_is_no_frame_is_refused_each_time(frames: SharedFrames) -> None:
    for bad in (b"", frame(1)[:-1], frame(10**6)):
        for _node in range(2):
            with pytest.raises(WireError):
                frames.read(bad)


@pytest.mark.parametrize(("size", "kept"), [(1, KEPT), (2 * LARGE, NODES)])
def test_old_frames_are_forgotten(frames: SharedFrames, size: int, kept: int) -> None:
    first = frames.read(frame(size))
    for number in range(1, kept):
        frames.read(frame(size, number))
    assert frames.read(frame(size)) is first
    for number in range(1, kept + 1):
        frames.read(frame(size, number))
    assert frames.read(frame(size)) is not first


class Forgetful(dict[object, object]):
    """Takes everything and holds nothing."""

    def __setitem__(self, _key: object, _value: object) -> None:
        pass


def held(monkeypatch: pytest.MonkeyPatch, *, shared: bool) -> tuple[float, list[bytes]]:
    """The most memory of a simulation, in vectors of its model; and its models."""
    if not shared:
        alone = WrappedKernel.__mro__[1].read
        monkeypatch.setattr(WrappedKernel, "read", alone)
        monkeypatch.setattr(messages, "_UNPACKED", Forgetful())
    task = make_task(TaskConfig(name="quadratic", dimension=DIMENSION), nodes=NODES, seed=1)
    tracemalloc.start()
    try:
        result = simulate(swarm(), Scenario(rounds=1, seed=1), task=task)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.unanimous
    return most / (4 * DIMENSION), [record.model_digest for record in result.closed]


def test_contributions_are_held_once_however_many_nodes_hold_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together, models = held(monkeypatch, shared=True)
    alone, same = held(monkeypatch, shared=False)  # the control
    assert models == same
    assert alone - together > 0.5 * NODES**2
    assert together < 12 * NODES
