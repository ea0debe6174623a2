"""Mode distributed with correlated noise: nodes encode their own updates, everybody decodes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import ClassVar, Final

import attrs

from qres_core import (
    Needs,
    Outcome,
    OwnContributions,
    RoundInfo,
    Surroundings,
    Update,
    Updates,
    Vector,
    Visibility,
    canonical,
)
from qres_core.errors import RoundError, ValueRefusedError
from qres_dp.accounting.limits import Kind
from qres_dp.clip import clip
from qres_dp.correlated import (
    EncodingMemory,
    EncodingShape,
    ModelChange,
    decode,
    encode,
    grain_of,
    longest_reach,
    reach,
)
from qres_dp.correlated.factor import ONE
from qres_dp.modes import Mechanism, Unit, steps
from qres_dp.releases.local import noised
from qres_dp.releases.shared import SharedRelease
from qres_dp.stream import StreamShape, shape_of, turn_of
from qres_dp.terms import Correlation

_STREAM: Final = b"qres/dp/encoded/v1\0"


@attrs.define(eq=False)
class EncodedRelease(SharedRelease):
    """As :class:`SharedRelease`, where a row holds the node's earlier updates too.

    The sum is decoded with the last changes of the model, so there must be one sum of all, and its
    mean must be what the model changes by.
    """

    correlation: Correlation
    _memory: EncodingMemory | None = attrs.field(init=False, default=None)

    needs: ClassVar[Needs] = Needs(equal_weights=True, at_most=Visibility.SUM, averaging=True)
    alters: ClassVar[bool] = True

    # ── the mechanism ─────────────────────────────────────────────────────────────────────────

    def sized(self, bound: int, around: Surroundings) -> Mechanism:
        """See :meth:`Release.sized`: the noise of a row, and how long a row is at most."""
        usual = super().sized(bound, around)
        shape = self._shape(around)
        longest = longest_reach(shape.factor, shape.separation)
        return attrs.evolve(usual, noise_multiplier=shape.deviation, stretch=Fraction(longest, ONE))

    def charges(self, rounds: int, around: Surroundings) -> Mapping[Kind, int]:
        """Each row at its price, for the earliest turn. O(rounds * band)."""
        shape = self._shape(around)
        every, factor = shape.separation, shape.factor

        def row(step: int) -> int:
            recent = range(step - step % every, max(-1, step - shape.band), -every)
            return reach(factor, recent, step)

        return Counter(shape.price_of(row(step)) for step in range(rounds))

    def told(self, around: Surroundings) -> Mapping[str, object]:
        """The matrix, what it gains, and how much longer a row is than an update."""
        shape = self._shape(around)
        return {
            "noise": "correlated",
            "band": shape.band,
            "separation": shape.separation,
            "gain": shape.gain,
            "stretch": float(self.sized(shape.bound, around).stretch),
        }

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        """See :meth:`Release.opened`.

        Raises RoundError: QRES-E602 where what it remembers is damaged or of other settings.
        """
        super().opened(round_info, contributed)
        mechanism = self.fitted(round_info)
        shape = EncodingShape(
            round_info.swarm,
            self.correlation.band,
            mechanism.length,
            round_info.scale,
            round_info.dimension,
            self.terms.unit.value,
            self.terms.units,
        )
        if self._memory is None:
            self._memory = EncodingMemory(self.folder, shape)
        elif self._memory.shape != shape:
            what = "the grid or the dimension changed in the middle of a stream of noise"
            raise RoundError.of("QRES-E602", "plugins.dp.noise", what)

    def closed(self, outcome: Outcome) -> None:
        """Take what the round added to the model. Raises RoundError: QRES-E602."""
        if outcome.change is not None and self._memory is not None:
            info = outcome.round_info
            change = ModelChange(info.model_digest, outcome.model_digest, outcome.change)
            self._memory.note(info.step, change)

    def close(self) -> None:
        """Let go of what it remembers too; idempotent."""
        super().close()
        if self._memory is not None:
            self._memory.close()
        self._memory = None

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    def out(self, update: Update, round_info: RoundInfo) -> Update:
        """See :meth:`Release.out`.

        The update is on the disk before the row is charged, and the charge before the row leaves.
        A row that is sent again, for another attempt or height, is another release: it is charged
        again, and its noise is fresh.
        """
        mechanism, terms, step = self.fitted(round_info), self.terms, round_info.step
        shape, memory = self._shape(self.around(round_info)), self._held
        if step >= shape.steps:
            what = f"the stream of correlated noise has {shape.steps} steps, and all are used"
            raise ValueRefusedError.of("QRES-E509", "plugins.dp.rounds", what)
        carries = self.carries(step)
        taken = [item for item in memory.own if item < step] + [step] * carries
        price = shape.price_of(reach(memory.factor, taken, step))
        charge = terms.charge(mechanism, round_info, self.by, None, price)
        self.book.after(charge, terms.budget)  # before anything is written
        memory.keep(step, clip(update.vector, mechanism.length).vector if carries else None)
        row = encode(memory.factor, memory.own, step, update.vector.size)
        noisy = noised(row, mechanism)
        charge = terms.charge(mechanism, round_info, self.by, noisy, price)
        charge = attrs.evolve(charge, stream=self._stream_of(shape, round_info), row=step)
        self.book.charge(charge, terms.budget)
        return attrs.evolve(update, vector=noisy, weight=1)

    def carries(self, step: int) -> bool:
        """True if the node's data are in a step: in its turn, and not too soon after the last one.

        A new key gives a node another turn.
        """
        separation = self.correlation.separation
        turn = turn_of(self.by.node, separation)
        others = (item for item in self._held.own if item != step)
        return step % separation == turn and all(abs(step - i) >= separation for i in others)

    def revealed(self, updates: Updates, round_info: RoundInfo) -> Updates:
        """See :meth:`SharedRelease.revealed`. Raises ValueRefusedError: QRES-E505 for two sums."""
        if len(updates.members) != 1:
            what = f"{len(updates.members)} sums, and what is decoded is one sum of all"
            raise ValueRefusedError.of("QRES-E505", "plugins.dp.noise", what)
        return super().revealed(updates, round_info)

    def merge(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """The decoded mean. Raises RoundError: QRES-E608 where this node lacks earlier changes."""
        memory = self._held
        changes: Sequence[Vector] = memory.changes(round_info.step, round_info.model_digest)
        return decode(memory.factor, proceed(updates), changes)

    @staticmethod
    def _stream_of(shape: StreamShape, round_info: RoundInfo) -> bytes:
        """Names the stream in charges, 32 bytes."""
        values = [value.hex() if type(value) is float else value for value in attrs.astuple(shape)]
        return hashlib.sha256(_STREAM + canonical.dumps([round_info.swarm, values])).digest()

    def _shape(self, around: Surroundings) -> StreamShape:
        terms, grain = self.terms, 0
        if terms.unit is Unit.RECORD:
            grain = grain_of(max(1, steps(terms.clip, around.scale)), around.dimension or 1)
        return shape_of(terms, self.correlation, around, grain=grain)

    @property
    def _held(self) -> EncodingMemory:
        assert self._memory is not None  # noqa: S101 - rounds are opened first
        return self._memory
