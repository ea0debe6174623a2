"""Liars that send packed vectors: second encodings, claims of much, and little that costs much."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import packing
from qres_core.swarm.contributions.intake import Collector
from qres_core.swarm.ledger.messages import ContributionBody, encode_contribution
from qres_core.swarm.storage.kept_contributions import MAX_PER_SENDER

LIAR = 3
MANY = 40


@attrs.define
class Decoded:
    """How often nodes decoded a contribution of the liar, which alone claims this weight."""

    weight: int = 2
    times: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        decode = ContributionBody.from_bytes

        def counting(payload: bytes, dimension: int) -> ContributionBody:
            self.times += payload[1] == self.weight
            return decode(payload, dimension)

        patch.setattr(ContributionBody, "from_bytes", counting)


def flooded(harness: ModuleType, payloads: list[bytes], **more: Any) -> Any:
    """A swarm of four, in which the liar sends all this in the first round."""
    net = harness.Net(4, byzantine=1, puppets=(LIAR,), **more)
    net.start()
    model = net.machine(0).head.digest
    for at, payload in enumerate(payloads):
        forged = net.forge(LIAR, "contribution", payload, number=1, model=model)
        net.inject(forged, [0, 1, 2], delay=at / 10_000)
    assert net.run(until=lambda: min(net.steps()[:3]) >= 1)
    assert len({net.nodes[index].notebook.models[1] for index in range(3)}) == 1
    return net


def facts(net: Any) -> set[tuple[bytes, str]]:
    nodes = (net.nodes[index] for index in range(3))
    return {(e.subject, e.fact) for node in nodes for e in node.witness.evidence if e.against}


VECTOR = np.array([3, -6, 0], dtype=np.int32)
OTHERWISE = {
    "wider": bytes([0x85, 3, 0, 0, 0, 0x62, 0]),
    "without its factor": bytes([4, 0xB6, 0]),
    "claims much": bytes([0x20]),
    "a width of 63": bytes([0x3F]) + bytes(24),
    "with more behind": packing.pack(VECTOR) + b"\0",
    "four bytes a number": VECTOR.astype("<i4").tobytes(),
    "nothing": b"",
}


@pytest.mark.parametrize("kind", OTHERWISE)
def test_what_is_no_packed_vector_is_refused_and_its_sender_blamed(
    harness: ModuleType, kind: str
) -> None:
    net = flooded(harness, [encode_contribution(1, OTHERWISE[kind], {})])
    assert net.ids[LIAR] not in net.machine(0).contributions
    assert {fact for subject, fact in facts(net) if subject == net.ids[LIAR]}
    assert {subject for subject, _fact in facts(net)} == {net.ids[LIAR]}


def test_the_one_encoding_is_taken(harness: ModuleType) -> None:
    """The control of the test above."""
    net = flooded(harness, [encode_contribution(1, packing.pack(VECTOR), {})])
    assert facts(net) == set()


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("kind", ["different", "spoilt", "one spoilt"])
def test_a_flood_of_small_contributions_costs_little(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str, *, guarded: bool
) -> None:
    """Zeros take a byte for 256 numbers: to decode them takes a thousand times as much memory."""
    made = [packing.pack(VECTOR + at) for at in range(MANY)]
    if kind != "different":
        made = [octets + b"\0" for octets in made]
    if kind == "one spoilt":
        made = made[:1] * MANY
    decoded = Decoded()
    decoded.install(monkeypatch)
    if not guarded:
        monkeypatch.setattr(Collector, "_looks_at", lambda *_args: True)
        monkeypatch.setattr(Collector, "_spoilt", Nothing(), raising=False)
        monkeypatch.setattr(Collector, "__setattr__", _without_spoilt)
    net = flooded(harness, [encode_contribution(decoded.weight, octets, {}) for octets in made])
    assert net.ids[LIAR] in {subject for subject, _fact in facts(net)}
    most = 3 * (1 if kind == "one spoilt" else MAX_PER_SENDER)
    assert (decoded.times <= most) is guarded


class Nothing(set[bytes]):
    """Takes everything and holds nothing."""

    def add(self, element: bytes, /) -> None:
        pass


def _without_spoilt(self: Collector, name: str, value: object) -> None:
    object.__setattr__(self, name, Nothing() if name == "_spoilt" else value)
