"""Bytes that simulated nodes receive, counted beside the machine and compared with what came."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest

from qres_core import canonical
from qres_core.attacks.scenario import Scenario
from qres_core.cli.display import octets_of, summary
from qres_core.contract.wire import Envelope
from qres_core.errors import WireError
from qres_core.kernel.config import parse
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Progress
from qres_core.lab.meter import OTHER, Meter
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.messages import encode_vote
from qres_core.swarm.shards.merging import products_name
from qres_core.swarm.shards.messages import encode_pull, encode_shard_results, named_set
from qres_core.training.tasks import TaskConfig

NODES = 5
D = 40_000
TASK = TaskConfig(name="quadratic", dimension=D, local_epochs=1, learning_rate=0.3)
PHASES = {
    "contribution": "contributions",
    "fetch": "contributions",
    "fetched": "contributions",
    "choice": "choice",
    "certificate": "choice",
    "outcome": "outcome",
}


def played(progress: Progress | None = None, **scenario: Any) -> SimulationResult:
    swarm = {"name": "m", "nodes": NODES, "byzantine": 1, "quorum": 4, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="test")
    how: dict[str, Any] = {"rounds": 2, "seed": 3, **scenario}
    return simulate(config, Scenario(**how), task=TASK, progress=progress)


def test_the_phases_are_what_arrived_at_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    came: Counter[str] = Counter()
    sizes: dict[int, int] = {}

    original = EventEngine._deliver

    def watched(engine: EventEngine, sender: Any, receiver: Any, frame: Any, **more: Any) -> None:
        octets = frame or frame.envelope.to_bytes()  # a large one is carried empty
        try:
            kind = Envelope.from_bytes(octets, max_bytes=2**26).kind.partition("/")[0]
        except WireError:
            kind = ""
        came[PHASES.get(kind, OTHER)] += len(octets)
        sizes[receiver.index] = sizes.get(receiver.index, 0) + len(octets)
        original(engine, sender, receiver, frame, **more)

    monkeypatch.setattr(EventEngine, "_deliver", watched)
    seen: list[tuple[Counter[str], int]] = []

    def ended(_record: RoundRecord) -> None:
        seen.append((came.copy(), max(sizes.values())))

    result = played(ended, rounds=1, attack="flood", attackers=1)
    record, (came, most) = result.rounds[0], seen[0]
    assert came[OTHER] > 0
    assert dict(record.received) == {key: came[key] // NODES for key in sorted(came)}
    assert record.received_most == most


def test_every_node_takes_in_all_updates_and_the_fast_engine_counts_the_same_ones() -> None:
    events, fast = played(), played(engine="vectorised")
    whole = (NODES - 1) * 4 * D
    for record in (*events.rounds, *fast.rounds):
        # Packed, a vector takes less than 4 bytes a coordinate.
        assert 0.2 * whole < record.received["contributions"] < 1.01 * whole
    assert fast.rounds[0].received.keys() == {"contributions"}
    first, same = (item.rounds[0].received["contributions"] for item in (events, fast))
    assert abs(first - same) < 0.05 * whole  # of all nodes, and of one
    assert events.rounds[0].received["choice"] > 0


def test_the_summary_says_what_a_node_received_in_a_round() -> None:
    result = played()
    assert result.received["contributions"] == pytest.approx(
        sum(item.received["contributions"] for item in result.rounds) / 2
    )
    assert "received by a node in a round: " in summary(result)
    assert "(contributions " in summary(result)
    assert "received by" not in summary(attrs.evolve(result, rounds=()))


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_000, "1.23 MB"), (4e9, "4 GB")],
)
def test_bytes_for_people(count: float, said: str) -> None:
    assert octets_of(count) == said


def said(kind: str, payload: bytes) -> Envelope:
    return Envelope("m", kind, 1, bytes(32), bytes(32), 1, 1, payload)


def test_inner_products_are_told_apart_from_what_a_set_merges_to() -> None:
    meter, chosen = Meter(2, 1), b"\7" * 32
    products = products_name(0, chosen)
    meter.count(0, said("choice/precommit", encode_vote(chosen)), 10)
    meter.count(1, said("choice/precommit", b"\xff"), 10)  # a liar's
    meter.count(0, said("choice/precommit", encode_vote(None)), 10)
    for name in (chosen, products):
        meter.count(0, said("shard/merged", encode_shard_results(name, {0: b"r" * 32})), 100)
        meter.count(1, said("shard/pull", encode_pull(name, [0])), 1000)
    meter.count(1, None, 4)
    received, most = meter.take()
    assert received == {"choice": 15, "other": 2, "products": 550, "pulls": 500, "results": 50}
    assert most == 10 + 2000 + 4
    assert meter.take() == ({}, 0)


def test_only_so_many_sets_are_remembered() -> None:
    meter = Meter(1, 1)
    sets = [bytes([number]) * 32 for number in range(17)]
    for chosen in sets:
        meter.count(0, said("choice/precommit", encode_vote(chosen)), 1)
    for chosen in (sets[0], sets[-1]):
        meter.count(0, said("shard/pull", encode_pull(products_name(0, chosen), [0])), 7)
    received, _most = meter.take()
    assert (received["pulls"], received["products"]) == (7, 7)


def test_a_payload_that_names_no_set_has_no_name() -> None:
    assert named_set(encode_pull(b"s" * 32, [1])) == b"s" * 32
    assert named_set(b"") == named_set(canonical.dumps([1])) == b""
