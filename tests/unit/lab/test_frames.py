from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core.attacks.carried import opened, size
from qres_core.attacks.scenario import Scenario
from qres_core.contract.wire import Envelope
from qres_core.errors import WireError
from qres_core.kernel.config import SwarmConfig, parse
from qres_core.kernel.intake import Intake
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.merging import Merging
from qres_core.lab.frames import (
    KEPT,
    LARGE,
    VECTORS,
    SharedFindings,
    SharedFrames,
    SharedVectors,
)
from qres_core.lab.nodes import SharingIntake, WrappedKernel
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger import messages
from qres_core.swarm.machine.height import MadeModel
from qres_core.training.tasks import TaskConfig, make_task

NODES = 12
DIMENSION = 50_000


def swarm(nodes: int = NODES, **more: Any) -> Any:
    table = {"name": "frames", "nodes": nodes, "byzantine": 0, "quorum": nodes, "insecure": True}
    table |= more
    plugins: dict[str, Any] = {"memory": {}, "mean": {"unprotected": True}}
    if "aggregation" in more:  # what members of committees say is signed
        plugins["ed25519"] = {}
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


def test_all_nodes_have_the_same_envelope_of_a_small_frame(frames: SharedFrames) -> None:
    sent = frame(1)
    first = frames.read(sent)
    assert first.to_bytes() == sent
    assert frames.carried(sent) is sent
    assert frames.read(sent) is first
    assert frames.read(bytes(bytearray(sent))) is first  # the bytes count, not the object
    assert frames.read(frame(1, number=1)).to_bytes() != sent


def test_a_large_frame_is_carried_as_what_it_says(frames: SharedFrames) -> None:
    sent = frame(2 * LARGE)
    carried = frames.carried(sent)
    first = frames.read(carried)
    assert first.to_bytes() == sent
    assert frames.read(carried) is first
    assert opened(carried, 1) is first
    assert opened(sent, len(sent)).to_bytes() == sent
    assert (size(carried), len(carried)) == (len(sent), 0)


def test_messages_that_say_the_same_share_their_payload(frames: SharedFrames) -> None:
    first, again = frames.read(frame(2 * LARGE)), frames.read(frame(2 * LARGE, number=1))
    assert again is not first
    assert again.sequence == 1
    assert again.payload is first.payload
    del first
    assert frames.read(frame(2 * LARGE, number=2)).payload is again.payload
    other = frames.shared(opened(frame(2 * LARGE + 1), 10**6))
    assert len(other.payload) == 2 * LARGE + 1


def test_what_is_no_frame_is_refused_each_time(frames: SharedFrames) -> None:
    for bad in (b"", frame(1)[:-1], frame(10**6)):
        assert frames.carried(bad) is bad
        for _node in range(2):
            with pytest.raises(WireError):
                frames.read(bad)


def test_old_frames_are_forgotten(frames: SharedFrames) -> None:
    first = frames.read(frame(1))
    for number in range(1, KEPT):
        frames.read(frame(1, number))
    assert frames.read(frame(1)) is first
    for number in range(1, KEPT + 1):
        frames.read(frame(1, number))
    assert frames.read(frame(1)) is not first


def test_equal_vectors_become_one() -> None:
    vectors = SharedVectors()
    model, merged = np.zeros(5, dtype=np.int32), np.arange(5, dtype=np.int32)
    assert vectors.merged(merged) is merged
    assert vectors.merged(merged.copy()) is merged
    assert vectors.merged(merged + 1) is not merged
    made = vectors.made(model, 1, merged)
    oracle = MadeModel.of(model, 1, merged)
    assert made.digest == oracle.digest
    assert np.array_equal(made.model, oracle.model)
    assert vectors.made(model.copy(), 1, merged.copy()) is made
    for other in ((model, 2, merged), (model + 1, 1, merged), (model, 1, merged + 1)):
        assert vectors.made(*other).digest == MadeModel.of(*other).digest != made.digest
    for step in range(2, VECTORS + 2):
        vectors.made(model, step, merged)
    assert vectors.made(model, 1, merged) is not made  # old ones are forgotten


def test_what_is_found_is_found_again_while_somebody_holds_it_or_it_is_new() -> None:
    findings, found = SharedFindings(), list[object]()

    def find() -> Any:
        found.append(None)
        return np.zeros(1) if len(found) % 2 else [len(found)]

    array = findings.found(("a",), find)
    listed = findings.found(("b",), find)
    assert findings.found(("a",), find) is array
    assert findings.found(("b",), find) is listed
    del array
    gc.collect()
    findings.found(("a",), find)  # nobody held it any more
    for number in range(2 * KEPT):
        findings.found(("c", number), find)
    assert findings.found(("b",), find) is not listed


def test_what_cannot_be_found_is_tried_by_every_node() -> None:
    findings, tried = SharedFindings(), list[object]()

    def fail() -> Any:
        tried.append(None)
        raise WireError.of("QRES-E404", "payload", "nothing")

    for _node in range(3):
        with pytest.raises(WireError):
            findings.found(("a",), fail)
    assert len(tried) == 3


def held(nodes: int, most_of: Any = None, **scenario: Any) -> tuple[float, list[str]]:
    """The most memory of a simulation, in vectors of its model; and its models."""
    task = make_task(TaskConfig(name="quadratic", dimension=DIMENSION), nodes=nodes, seed=1)
    gc.collect()
    tracemalloc.start()
    try:
        config = swarm(nodes, **(most_of or {}))
        result = simulate(config, Scenario(rounds=2, seed=1, **scenario), task=task)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.unanimous
    return most / (4 * DIMENSION), [record.model_digest for record in result.closed]


@pytest.mark.parametrize(
    ("scenario", "most"), [({}, 3.8), ({"loss": 0.02}, 4.0), ({"engine": "vectorised"}, 3.2)]
)
def test_contributions_are_held_once_however_many_nodes_hold_them(
    scenario: Any, most: float
) -> None:
    few, _models = held(NODES // 2, **scenario)
    many, _models = held(NODES, **scenario)
    # A contribution, as it was sent too, and its row while they are merged; and answers under way
    # where messages are lost.
    assert many - few < most * (NODES // 2)


SHARDED: dict[str, Any] = {"aggregation": "sharded", "byzantine": 2}


@pytest.mark.parametrize("guarded", [True, False])
def test_shards_are_held_once_however_many_nodes_hold_them(
    monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """Control: where each node reads by itself, all of a committee have shards of their own."""
    if not guarded:
        unshare(monkeypatch)
        monkeypatch.setattr(WrappedKernel, "found", Kernel.found)
    few, _models = held(8, SHARDED)
    many, _models = held(14, SHARDED)
    # What a node trained in two rounds, and its shards, which three members serve first.
    assert (many - few < 4.0 * (14 - 8)) is guarded


@pytest.mark.parametrize("named", [(), ("mean.aggregate",)])
def test_what_shards_merge_to_is_found_once_if_the_rule_is_named(
    monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...]
) -> None:
    asked, merge = list[object](), Merging.aggregate_shard

    def counted(*arguments: Any) -> Any:
        asked.append(None)
        return merge(*arguments)

    monkeypatch.setattr(Merging, "aggregate_shard", counted)
    task = make_task(TaskConfig(name="quadratic", dimension=240), nodes=NODES, seed=1)
    result = simulate(swarm(**SHARDED), Scenario(rounds=1, seed=1, once=named), task=task)
    assert result.unanimous
    assert len(asked) == (4 if named else 4 * 3), "of four shards, each of which three serve"
    alone = simulate(swarm(byzantine=2), Scenario(rounds=1, seed=1), task=task)
    assert alone.model_digests == result.model_digests


class Forgetful(dict[object, object]):
    """Takes everything and holds nothing."""

    def __setitem__(self, _key: object, _value: object) -> None:
        pass


def unshare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each node decode every frame by itself."""

    def as_it_is(_frames: SharedFrames, frame: bytes) -> bytes:
        return frame

    monkeypatch.setattr(messages, "_UNPACKED", Forgetful())
    monkeypatch.setattr(SharingIntake, "read", Intake.read)
    monkeypatch.setattr(SharedFrames, "carried", as_it_is)


def test_without_sharing_each_node_holds_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    together, models = held(NODES)
    unshare(monkeypatch)
    alone, same = held(NODES)
    assert models == same
    assert alone - together > 0.5 * NODES**2


@pytest.mark.parametrize("attack", ["replay", "forge", "withhold", "sign_flip"])
def test_attackers_hear_and_send_the_same_however_frames_are_carried(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def played() -> Any:
        task = make_task(TaskConfig(name="quadratic", dimension=LARGE // 2), nodes=5, seed=1)
        scenario = Scenario(rounds=2, seed=1, attack=attack, attackers=1)
        return simulate(swarm(5), scenario, task=task).to_json()

    shared = played()
    unshare(monkeypatch)
    assert played() == shared
