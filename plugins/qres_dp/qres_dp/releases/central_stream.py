"""Mode central with correlated noise: the noise of all models is one stream."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import Contribution, RoundInfo, Surroundings, Vector
from qres_dp import central
from qres_dp.central_stream import CentralStream
from qres_dp.clip import Clipped
from qres_dp.fitting import of_round
from qres_dp.ledger.record import Charge
from qres_dp.modes import Mechanism
from qres_dp.releases.central import CentralRelease, MergeBasis, RevealedRows
from qres_dp.stream import StreamShape, check_same, shape_of, turn_of, widened
from qres_dp.terms import Correlation


@attrs.define(eq=False)
class ModelStream(CentralRelease):
    """As :class:`CentralRelease`, where a round's noise takes back some of that of earlier ones."""

    correlation: Correlation
    _stream: CentralStream | None = attrs.field(init=False, default=None)

    # ── the mechanism ─────────────────────────────────────────────────────────────────────────

    def _shape(self, around: Surroundings) -> StreamShape:
        # Whose turn it is does not change the noise.
        return shape_of(self.terms, self.correlation, around)

    def sized(self, bound: int, around: Surroundings) -> Mechanism:
        return widened(super().sized(bound, around), self._shape(around))

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def closed(self) -> None:
        """The round's noise is in the model."""
        super().closed()
        if self._stream is not None:
            self._stream.closed()

    def forget(self) -> None:
        super().forget()
        if self._stream is not None:
            self._stream.forget()

    def close(self) -> None:
        super().close()
        self._stream = None

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    def stream(self, round_info: RoundInfo) -> CentralStream:
        """The stream, which begins or goes on where it was.

        Raises RoundError: QRES-E602 for a round that is not of the stream.
        """
        shape = self._shape(of_round(round_info))
        if self._stream is None:
            self._stream = CentralStream(self.book.owner.swarm, shape, self.folder)
        check_same(self._stream.shape, shape)
        return self._stream

    def chosen(self, vector: Vector, round_info: RoundInfo) -> Vector:
        """The update in the node's turn, else zeros."""
        separation = self.correlation.separation
        mine = turn_of(self.book.owner.node, separation) == round_info.step % separation
        return vector if mine else np.zeros_like(vector)

    def said(self, own: MergeBasis, clipped: Clipped, round_info: RoundInfo) -> bytes:
        """The keys of all noise so far."""
        del own, clipped
        return self.stream(round_info).testimony(round_info.step)

    def hear(self, contributions: Sequence[Contribution], round_info: RoundInfo) -> None:
        """Take the keys that more than ``byzantine`` contributions name."""
        said = (contribution.companions.get(central.NAME) for contribution in contributions)
        heard = [
            item.body[central.SEED_BYTES :]
            for item in said
            if item is not None and not item.modulus
        ]
        self.stream(round_info).hear(round_info.step, heard, round_info.byzantine)

    def charge(self, mechanism: Mechanism, round_info: RoundInfo) -> Charge:
        """Of a step of the model, however many attempts it takes."""
        stream, step = self.stream(round_info), round_info.step
        name, price = stream.release_name(step), stream.price(step)
        return self.terms.charge(mechanism, round_info, name, price)

    def noise(self, revealed: RevealedRows) -> NDArray[np.int32]:
        assert self._stream is not None  # noqa: S101 - `hear` came before
        return self._stream.draw(revealed.key)
