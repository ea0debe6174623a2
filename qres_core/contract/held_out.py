"""A node's own held-out examples, as the plugins that validate see them, and what they conclude."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import attrs

from qres_core.contract.errors import ValueRefusedError
from qres_core.contract.evidence import Accusation
from qres_core.contract.fixed import add_saturating
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.training import answering, with_round
from qres_core.contract.types import FULL_STANDING, NodeId, Vector, check_vector


def _unknown() -> float | None:
    return None


def _no_vector() -> Vector | None:
    return None


@attrs.define(eq=False)
class HeldOut:
    """Scores of a model on examples that this node keeps for itself and does not train on.

    Nodes hold different examples, so two nodes may judge alike models differently. What they
    conclude may therefore decide how a node votes, and not what it merges, unless it is agreed that
    all hold the same examples.

    Attributes:
        model: the round's model, int32, shape ``(d,)``; of it the coordinates that the round
            covers. A score is that of the whole model with these coordinates in it.
        validate: mean loss of a model on the held-out examples, the trainer's ``validate``.
        train: what training on the held-out examples would change, the trainer's ``reference``;
            ``None`` where it has none.
        calls: how often ``validate`` was called through this object.
    """

    model: Vector
    validate: Callable[[Vector], float]
    train: Callable[[], Vector] | None = None
    calls: int = attrs.field(default=0, init=False)
    _now: float | None = attrs.field(factory=_unknown, init=False)
    _reference: Vector | None = attrs.field(factory=_no_vector, init=False)

    @classmethod
    def of(cls, trainer: object, model: Vector, round_info: RoundInfo) -> HeldOut | None:
        """Offer of a trainer for a round; ``None`` if it judges nothing."""
        able = abilities_of(trainer)
        if able.validate is None:
            return None
        method = with_round(able.validate)

        def validate(vector: Vector) -> float:
            with answering("validate", round_info):
                loss: float = method(vector, round_info)
            return loss

        reference = able.reference
        if reference is None:
            return cls(model, validate)

        def train() -> Vector:
            with answering("reference", round_info):
                return reference(model, round_info)

        return cls(model, validate, train)

    def loss(self) -> float:
        """Loss of the round's model itself; computed once."""
        if self._now is None:
            self._now = self._score(self.model)
        return self._now

    def loss_with(self, update: Vector) -> float:
        """Loss of the round's model plus ``update``.

        Args:
            update: int32, shape ``(d,)``; the sum is held within the grid's range.

        Returns:
            the loss, infinite where it is not a number.

        Raises:
            ValueRefusedError: QRES-E502 or QRES-E503 for another vector.
        """
        return self._score(add_saturating(self.model, update).vector)

    def reference(self) -> Vector:
        """The update that training on the held-out examples would make; computed once.

        Returns:
            int32, shape ``(d,)``.

        Raises:
            ValueRefusedError: QRES-E507 where the trainer has no ``reference``, QRES-E502 or
                QRES-E503 where it gives another vector.
        """
        if self._reference is None:
            if self.train is None:
                what = "the node's trainer has no reference(vector, round_info)"
                raise ValueRefusedError.of("QRES-E507", "trainer.reference", what, "give it one")
            self._reference = check_vector(
                self.train(), "trainer.reference", dimension=self.model.size
            )
        return self._reference

    def _score(self, model: Vector) -> float:
        self.calls += 1
        loss = float(self.validate(model))
        return math.inf if math.isnan(loss) else loss


def _frozen_shares(value: Mapping[NodeId, int]) -> Mapping[NodeId, int]:
    return MappingProxyType(dict(value))


def _no_shares() -> Mapping[NodeId, int]:
    return {}


def _check_shares(_instance: object, _attribute: object, value: Mapping[NodeId, int]) -> None:
    for share in value.values():
        if type(share) is not int or not 0 <= share <= FULL_STANDING:
            raise ValueRefusedError.of(
                "QRES-E506", "screening.shares", f"{share!r} is not in 0..{FULL_STANDING}"
            )


@attrs.frozen
class Screening:
    """Opinion of a proposer about the updates that it could propose.

    Attributes:
        against: what speaks against senders whose updates are to be left out, once each.
        shares: for other senders, how much of their weight the update should count, in units of
            2**-32: 2**32 is all of it, 0 leaves it out without a reproach. Who is not named counts
            fully.
        check: is given the merged update of what would be proposed, int32, shape ``(d,)``, and
            raises what it refuses it with: then nothing is proposed. ``None`` refuses nothing.

    Raises:
        ValueRefusedError: QRES-E506 for a share out of range.
    """

    against: tuple[Accusation, ...] = ()
    shares: Mapping[NodeId, int] = attrs.field(
        factory=_no_shares, converter=_frozen_shares, validator=_check_shares
    )
    check: Callable[[Vector], None] | None = attrs.field(default=None, eq=False)

    def of(self, sender: NodeId) -> int:
        """The share of a sender; 0 for one it speaks against."""
        if any(fact.subject == sender for fact in self.against):
            return 0
        return self.shares.get(sender, FULL_STANDING)
