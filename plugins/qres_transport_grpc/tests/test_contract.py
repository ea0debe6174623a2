"""The transport keeps the contract of transports, under both event loops, over one hub and two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from qres_lab.testing import Endpoint, TransportContract

from qres_core.transport import BlobRef

MIB = 2**20


@pytest.mark.claim("C-grpc-1")
class TestContract(TransportContract):
    lab: SimpleNamespace
    hub: Callable[..., Any]
    patience = 300.0
    hubs: ClassVar[int] = 1

    @pytest.fixture(autouse=True)
    def _given(self, lab: SimpleNamespace, hub: Callable[..., Any]) -> None:
        self.lab, self.hub = lab, hub

    def make(self, admissions: Sequence[Any]) -> Sequence[Endpoint]:
        roster = self.lab.members(len(admissions))
        hubs = [self.hub(roster) for _ in range(self.hubs)]
        return [
            Endpoint(
                me.node_id,
                self.lab.transport(me, roster, hubs, admission=admission, blob_bytes=16 * MIB),
            )
            for me, admission in zip(roster, admissions, strict=True)
        ]

    def spoil(self, endpoint: Endpoint, ref: BlobRef) -> None:
        transport: Any = endpoint.transport
        chunks = transport._store._blobs[ref.root].memory
        for index, chunk in chunks.items():
            chunks[index] = bytes(len(chunk))


@pytest.mark.claim("C-grpc-1")
class TestContractOverTwoHubs(TestContract):
    hubs = 2


@pytest.mark.claim("C-grpc-1")
@pytest.mark.long
class TestContractUnderTrio(TestContract):
    backend = "trio"
