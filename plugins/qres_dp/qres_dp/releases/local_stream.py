"""Mode local with correlated noise: a node's releases are one stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs

from qres_core import RoundInfo, Surroundings, Update, Vector
from qres_dp.accounting.limits import Kind
from qres_dp.ledger.record import Charge
from qres_dp.modes import Mechanism
from qres_dp.releases.base import Release
from qres_dp.stream import Stream, check_same, shape_of, turn_of, widened
from qres_dp.terms import Correlation


@attrs.define(eq=False)
class LocalStream(Release):
    """The next step of the node's stream, which begins or goes on where it was."""

    correlation: Correlation
    _stream: Stream | None = attrs.field(init=False, default=None)

    def sized(self, bound: int, around: Surroundings) -> Mechanism:
        usual = super().sized(bound, around)
        return widened(usual, shape_of(self.terms, self.correlation, around))

    def charges(self, rounds: int, around: Surroundings) -> Mapping[Kind, int]:
        """Each step at its price. O(rounds^2)."""
        shape = shape_of(self.terms, self.correlation, around)
        return Counter((shape.price(step), 1.0) for step in range(rounds))

    def told(self, around: Surroundings) -> Mapping[str, object]:
        """The matrix, and what it gains."""
        shape = shape_of(self.terms, self.correlation, around)
        return {
            "noise": "correlated",
            "band": shape.band,
            "separation": shape.separation,
            "variance_of_stream_steps": str(shape.variance),
            "gain": shape.gain,
        }

    def out(self, update: Update, round_info: RoundInfo) -> Update:
        mechanism, terms = self.fitted(round_info), self.terms
        turn = turn_of(self.by.node, self.correlation.separation)
        shape = shape_of(terms, self.correlation, self.around(round_info), offset=turn)
        if self._stream is None:
            place = round_info.swarm, self.by.node
            self._stream = Stream(*place, self.book, shape, self.folder)
        check_same(self._stream.shape, shape)

        def charge(multiplier: float, content: Vector | None) -> Charge:
            return terms.charge(mechanism, round_info, self.by, content, multiplier)

        released = self._stream.release(update.vector, terms.budget, charge)
        return attrs.evolve(update, vector=released, weight=1)

    def close(self) -> None:
        """Let go of the keys too; idempotent."""
        super().close()
        if self._stream is not None:
            self._stream.close()
        self._stream = None
