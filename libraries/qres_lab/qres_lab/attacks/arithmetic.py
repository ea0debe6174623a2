"""Attacks on the numbers: on whoever computes in floats, or in integers that wrap.

There is no NaN and no infinity on the grid: their bit patterns read as finite values near its
limit, so that they can pull a mean and cannot spread.
"""

from __future__ import annotations

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, send
from qres_core.attacks.registry import NOTHING, OWN_DATA, register
from qres_core.contract.fixed import FRACTION_BITS, LIMIT


@register("nan", summary="the bit pattern of NaN in every coordinate", knowledge=NOTHING)
@attrs.frozen
class NotANumber:
    """float32 NaNs where int32 is expected; 0x7fc00000 reads as the finite value 32704."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Poison whoever computes in floats."""
        octets = np.full(context.round_info.dimension, np.nan, dtype="<f4").tobytes()
        return (Forgery(octets, context.own.weight),)


@register("inf", summary="the bit patterns of +Inf and -Inf in turn", knowledge=NOTHING)
@attrs.frozen
class Infinite:
    """float32 infinities where int32 is expected: 0x7f800000 reads as 32640, 0xff800000 as -128."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Make differences of infinities, which are NaN."""
        values = np.full(context.round_info.dimension, np.inf, dtype="<f4")
        values[1::2] = -np.inf
        return (Forgery(values.tobytes(), context.own.weight),)


@register("cancellation", summary="the largest value and its negation, in pairs", knowledge=NOTHING)
@attrs.frozen
class Cancellation:
    """Attackers in turn send ``+LIMIT`` and ``-LIMIT`` everywhere.

    An exact sum of a pair is 0. A float32 sum has lost the low 8 bits of every honest update by
    the time the second of them arrives, an int32 sum wraps, and squared distances overflow what is
    narrower than 65 bits. An attacker without a partner sends ``+LIMIT`` alone.
    """

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Swamp the honest digits and take back the swamp."""
        value = -LIMIT if context.index % 2 else LIMIT
        return send(context, np.full(context.round_info.dimension, value, dtype=np.int32))


@register("offset", summary="the update moved by one huge constant", knowledge=OWN_DATA)
@attrs.frozen
class Offset:
    """All attackers add the same constant to every coordinate of their updates.

    They stay as near to each other as honest nodes are, and far from all others: whoever centres
    on the mean or takes distances from norms and inner products in floats loses the honest
    distances to rounding.
    """

    strength: float = 16384.0  # the constant in the model's units

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Move together."""
        steps = float(np.ldexp(self.strength, FRACTION_BITS - context.round_info.scale))
        return send(context, context.own.vector.astype(np.float64) + steps)


@register("wrong_length", summary="a vector one coordinate short", knowledge=NOTHING)
@attrs.frozen
class WrongLength:
    """An update for another model."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Crash whoever stacks without looking."""
        return send(context, context.own.vector[:-1])
