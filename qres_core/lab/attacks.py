"""Attacks on a round: what a liar sends in place of its update.

Each states what the attacker must know. More can be registered with :func:`register`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import LabError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.types import RoundInfo, Update, Vector
from qres_core.kernel.suggest import did_you_mean
from qres_core.lab.sabotage import SABOTAGE


@attrs.frozen(eq=False)
class AttackContext:
    """What an attacker may use. An attack states how much of it it does use.

    Attributes:
        round_info: the round.
        model: the round's model, int32, shape ``(d,)``.
        own: what honest training on the attacker's own data gives.
        honest: updates of the honest nodes, int32, shape ``(h, d)``; an omniscient attacker's.
        attackers: number of attackers, who may collude.
        index: which of them this is, from 0.
        rng: the attacker's randomness.
    """

    round_info: RoundInfo
    model: Vector
    own: Update
    honest: NDArray[np.int32]
    attackers: int
    index: int
    rng: np.random.Generator


@attrs.frozen
class Forgery:
    """A contribution as the attacker sends it; nothing about it need be valid.

    Attributes:
        octets: where the vector should be.
        weight: claimed number of examples.
    """

    octets: bytes
    weight: int = 1


class Attack(Protocol):
    """Makes the contributions one attacker sends in a round: none, one or several."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """The attacker's contributions."""
        ...


Factory = Callable[[float | None], Attack]
F = TypeVar("F", bound=type)


@attrs.frozen
class Registered:
    """An attack in the registry.

    Attributes:
        name: its name on the command line.
        summary: one line.
        knowledge: what the attacker must know.
        make: builds it from a strength, ``None`` for the attack's default.
    """

    name: str
    summary: str
    knowledge: str
    make: Factory


ATTACKS: Final[dict[str, Registered]] = {}


def register(name: str, *, summary: str, knowledge: str) -> Callable[[F], F]:
    """Class decorator: add an attack whose constructor takes at most ``strength``."""

    def add(kind: F) -> F:
        def make(strength: float | None) -> Attack:
            if strength is None:
                return kind()  # type: ignore[no-any-return]
            if not any(field.name == "strength" for field in attrs.fields(kind)):
                where = "simulation.strength"
                raise LabError.of("QRES-E105", where, f"attack {name!r} has no strength", "omit it")
            return kind(strength=strength)  # type: ignore[no-any-return]

        ATTACKS[name] = Registered(name, summary, knowledge, make)
        return kind

    return add


def make_attack(name: str, strength: float | None = None) -> Attack:
    """The attack of that name.

    Raises:
        LabError: QRES-E801 for an unknown name, QRES-E105 for a strength it does not take.
    """
    if name not in ATTACKS:
        hint = did_you_mean(name, [*ATTACKS, *SABOTAGE])
        raise LabError.of("QRES-E801", "simulation.attack", f"no attack {name!r}", hint)
    return ATTACKS[name].make(strength)


def _grid(values: NDArray[np.float64], weight: int) -> tuple[Forgery, ...]:
    held = np.clip(np.rint(values), -LIMIT, LIMIT)
    return (Forgery(held.astype("<i4").tobytes(), weight),)


@register("sign_flip", summary="the negated update, four times over", knowledge="its own data")
@attrs.frozen
class SignFlip:
    """``-strength`` times the own update; 4 as in Li et al. 2019 (RSA, AAAI), section 6."""

    strength: float = 4.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Pull the model back the way it came."""
        return _grid(-self.strength * context.own.vector.astype(np.float64), context.own.weight)


@register("scaled", summary="the update boosted a hundredfold", knowledge="its own data")
@attrs.frozen
class Scaled:
    """``strength`` times the own update (Bagdasaryan et al. 2020, model replacement)."""

    strength: float = 100.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Overshoot."""
        return _grid(self.strength * context.own.vector.astype(np.float64), context.own.weight)


@register(
    "noise", summary="Gaussian noise of ten times the update's size", knowledge="its own data"
)
@attrs.frozen
class Noise:
    """The own update plus Gaussian noise of ``strength`` times its root mean square."""

    strength: float = 10.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Drown the others."""
        own = context.own.vector.astype(np.float64)
        deviation = self.strength * float(np.sqrt(np.mean(own**2)))
        return _grid(own + context.rng.normal(0.0, deviation, own.size), context.own.weight)


@register("nan", summary="the bit pattern of NaN in every coordinate", knowledge="nothing")
@attrs.frozen
class NotANumber:
    """float32 NaNs where int32 is expected.

    There is no NaN on the grid: the pattern 0x7fc00000 reads as the finite value 32704, so it can
    pull a mean and cannot spread.
    """

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Poison whoever computes in floats."""
        octets = np.full(context.round_info.dimension, np.nan, dtype="<f4").tobytes()
        return (Forgery(octets, context.own.weight),)


@register("wrong_length", summary="a vector one coordinate short", knowledge="nothing")
@attrs.frozen
class WrongLength:
    """An update for another model."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Crash whoever stacks without looking."""
        return (Forgery(context.own.vector[:-1].astype("<i4").tobytes(), context.own.weight),)


@register("duplicate", summary="two different contributions in one round", knowledge="its own data")
@attrs.frozen
class Duplicate:
    """The own update and its negation: to count twice, or to split the swarm."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Equivocate."""
        own = context.own
        return tuple(
            Forgery((sign * own.vector).astype("<i4").tobytes(), own.weight) for sign in (1, -1)
        )


@register(
    "sleeper", summary="honest until a round, then boosted a hundredfold", knowledge="its own data"
)
@attrs.frozen
class Sleeper:
    """Honest up to round ``strength`` (30), to earn trust; then :class:`Scaled`."""

    strength: float = 30.0

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Wait, then strike."""
        if context.round_info.number <= self.strength:
            return (Forgery(context.own.vector.astype("<i4").tobytes(), context.own.weight),)
        return Scaled().forge(context)


@register("silent", summary="nothing at all", knowledge="nothing")
@attrs.frozen
class Silent:
    """Contribute nothing, to keep rounds from their quorum."""

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Stay away."""
        del context
        return ()
