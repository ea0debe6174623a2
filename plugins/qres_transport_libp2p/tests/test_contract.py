"""The transport keeps the contract of transports, under both event loops."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from qres_lab.testing import Endpoint, TransportContract

from qres_core.transport import BlobRef

MIB = 2**20


@pytest.mark.claim("C-libp2p-26")
class TestContract(TransportContract):
    lab: SimpleNamespace
    patience = 300.0

    @pytest.fixture(autouse=True)
    def _given(self, lab: SimpleNamespace) -> None:
        self.lab = lab

    def make(self, admissions: Sequence[Any]) -> Sequence[Endpoint]:
        roster = self.lab.members(len(admissions))
        return [
            Endpoint(
                me.node_id,
                self.lab.transport(
                    me,
                    roster,
                    admission=admission,
                    blob_bytes=16 * MIB,
                    ingress_per_second=5000.0,
                ),
            )
            for me, admission in zip(roster, admissions, strict=True)
        ]

    def spoil(self, endpoint: Endpoint, ref: BlobRef) -> None:
        transport: Any = endpoint.transport
        chunks = transport._network._store._blobs[ref.root].memory
        for index, chunk in chunks.items():
            chunks[index] = bytes(len(chunk))


@pytest.mark.long
class TestContractUnderTrio(TestContract):
    backend = "trio"
