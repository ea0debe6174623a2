"""Attacks that look at nothing but the attacker's own update, if that."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, send
from qres_core.attacks.registry import ATTACKS, NOTHING, OWN_DATA, register
from qres_core.contract.fixed import FRACTION_BITS


@register("sign_flip", summary="the negated update, four times over", knowledge=OWN_DATA)
@attrs.frozen
class SignFlip:
    """``-strength`` times the own update; 4 as in Li et al. 2019 (RSA, AAAI), section 6."""

    strength: float = 4.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Pull the model back the way it came."""
        return send(context, -self.strength * context.own.vector.astype(np.float64))


@register("scaled", summary="the update boosted a hundredfold", knowledge=OWN_DATA)
@attrs.frozen
class Scaled:
    """``strength`` times the own update (Bagdasaryan et al. 2020, model replacement)."""

    strength: float = 100.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Overshoot."""
        return send(context, self.strength * context.own.vector.astype(np.float64))


@register("noise", summary="Gaussian noise of ten times the update's size", knowledge=OWN_DATA)
@attrs.frozen
class Noise:
    """The own update plus Gaussian noise of ``strength`` times its root mean square."""

    strength: float = 10.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Drown the others."""
        own = context.own.vector.astype(np.float64)
        deviation = self.strength * float(np.sqrt(np.mean(own**2)))
        return send(context, own + context.rng.normal(0.0, deviation, own.size))


@register("gaussian", summary="Gaussian noise in place of an update", knowledge=NOTHING)
@attrs.frozen
class Gaussian:
    """Independent normal coordinates of mean 0."""

    # standard deviation in the model's units; 200 as in Blanchard et al. 2017 (Krum, NIPS), section
    # 5.
    strength: float = 200.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Noise that has nothing to do with the task."""
        info = context.round_info
        steps = float(np.ldexp(abs(self.strength), FRACTION_BITS - info.scale))
        return send(context, context.rng.normal(0.0, steps, info.dimension))


@register("duplicate", summary="two different contributions in one round", knowledge=OWN_DATA)
@attrs.frozen
class Duplicate:
    """The own update and its negation: to count twice, or to split the swarm."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Equivocate."""
        own = context.own.vector
        return (*send(context, own), *send(context, -own))


@register("sleeper", summary="honest until a round, then boosted a hundredfold", knowledge=OWN_DATA)
@attrs.frozen
class Sleeper:
    """Honest up to round ``strength`` (30), to earn trust; then :class:`Scaled`."""

    strength: float = 30.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Wait, then strike."""
        if context.round_info.number <= self.strength:
            return send(context, context.own.vector)
        return Scaled().forge(context)


@register("silent", summary="nothing at all", knowledge=NOTHING)
@attrs.frozen
class Silent:
    """Contribute nothing, to keep rounds from their quorum."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Stay away."""
        del context
        return ()


BUILT_IN: Final = frozenset(ATTACKS)
"""Names that no other distribution can take."""
