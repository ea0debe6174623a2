"""The in-process transport keeps the contract of transports, in fair weather and in foul."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import pytest
from qres_lab.testing import Endpoint, TransportContract, make_node_ids
from qres_lab.testing.transport import Admission

from qres_core.builtin.hub import Faults
from qres_core.builtin.memory import MemoryTransport
from qres_core.transport import BlobRef, TransportLimits

LIMITS = TransportLimits(32 * 1024, 2**20, 2**24)
SWARMS = itertools.count()


@pytest.mark.usefixtures("virtual_time")
class TestMemory(TransportContract):
    faults = Faults()
    patience = 300.0

    def make(self, admissions: Sequence[Admission]) -> Sequence[Endpoint]:
        swarm = f"contract {next(SWARMS)}"
        return [
            Endpoint(
                node_id,
                MemoryTransport(node_id, swarm, 64, admission, faults=self.faults, limits=LIMITS),
            )
            for node_id, admission in zip(make_node_ids(len(admissions)), admissions, strict=True)
        ]

    def spoil(self, endpoint: Endpoint, ref: BlobRef) -> None:
        assert isinstance(endpoint.transport, MemoryTransport)
        endpoint.transport._blobs._held[ref.root] = bytes(ref.size)

    def test_nothing_is_left_in_the_process(self) -> None:
        assert not MemoryTransport._hubs


class TestMemoryInFoulWeather(TestMemory):
    """Frames are lost, late and doubled; whoever sends them again is heard."""

    faults = Faults(loss=0.3, duplicate=0.2, delay=0.01, jitter=0.02, seed=5)


class TestMemoryUnderTrio(TestMemory):
    backend = "trio"


def test_the_suite_s_defaults_are_for_a_busy_machine() -> None:
    assert TransportContract.patience >= 10
    assert {field.name for field in attrs.fields(Endpoint)} == {"node_id", "transport"}
