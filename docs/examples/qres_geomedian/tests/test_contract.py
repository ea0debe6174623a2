"""The conformance suite of aggregation rules, at several bounds."""

from __future__ import annotations

from qres_lab.testing import AggregatorContract

from qres_geomedian import Geomedian


class TestGeomedian(AggregatorContract):
    def make(self) -> object:
        return Geomedian(f=2)


class TestHalfOfThemLie(AggregatorContract):
    def make(self) -> object:
        return Geomedian(f=5)


class TestNobodyLies(AggregatorContract):
    def make(self) -> object:
        return Geomedian(f=0)
