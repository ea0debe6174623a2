"""The conformance suite of aggregation rules, at several bounds."""

from __future__ import annotations

import pytest
from qres_krum import Bulyan, Krum
from qres_lab.testing import AggregatorContract


@pytest.mark.claim("C-krum-7")
class TestKrum(AggregatorContract):
    def make(self) -> object:
        return Krum(f=2)


@pytest.mark.claim("C-krum-7")
class TestMultiKrum(AggregatorContract):
    def make(self) -> object:
        return Krum(f=2, select=5)


@pytest.mark.claim("C-krum-7")
class TestBulyan(AggregatorContract):
    def make(self) -> object:
        return Bulyan(f=2)


class TestBulyanOfMany(AggregatorContract):
    updates = 31

    def make(self) -> object:
        return Bulyan(f=7)


class TestBulyanWithoutLiars(AggregatorContract):
    def make(self) -> object:
        return Bulyan(f=0)
