"""The attacks by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs

from qres_core.attacks.context import Attack
from qres_core.attacks.sabotage import SABOTAGE
from qres_core.contract.errors import LabError, PluginError

Factory = Callable[[float | None], Attack]
F = TypeVar("F", bound=type)

NOTHING: Final = "nothing"
OWN_DATA: Final = "its own data"
HONEST_UPDATES: Final = "all honest updates"
EVERYTHING: Final = "all honest updates and the whole aggregation"


@attrs.frozen
class RegisteredAttack:
    """An attack in the registry."""

    name: str  # its name on the command line
    summary: str  # one line
    knowledge: str  # what the attacker must know
    kind: type[Any]  # its class

    @property
    def strength(self) -> str:
        """The default strength as text; empty if the attack has none."""
        for field in attrs.fields(self.kind):
            if field.name == "strength":
                return "by formula" if field.default is None else f"{field.default:g}"
        return ""

    def make(self, strength: float | None) -> Attack:
        """Build the attack.

        ``strength``: ``None`` for the attack's default. Raises LabError: QRES-E105 for a strength
        that the attack does not take or is not finite.
        """
        where = "simulation.strength"
        if strength is None:
            attack: Attack = self.kind()
        elif not self.strength:
            raise LabError.of(
                "QRES-E105", where, f"attack {self.name!r} has no strength", "leave it out"
            )
        elif not math.isfinite(strength):
            raise LabError.of("QRES-E105", where, f"must be finite, got {strength}")
        else:
            attack = self.kind(strength=strength)
        return attack


ATTACKS: Final[dict[str, RegisteredAttack]] = {}
"""The attacks that come with QRES and those that :func:`register` added."""


def describe(name: str, kind: object, *, summary: object, knowledge: object) -> RegisteredAttack:
    """Check a class and describe it as an attack.

    Raises PluginError: QRES-E206 for anything but an attrs class with a method ``forge`` that can
    be built without arguments, and for missing texts.
    """
    where = f"attacks.{name}"
    wrong = ""
    if not isinstance(kind, type) or not attrs.has(kind):
        what = f"{kind!r} is not an attrs class"
        raise PluginError.of("QRES-E206", where, what, "decorate it with @attrs.frozen")
    required = [
        field.name for field in attrs.fields(kind) if field.init and field.default is attrs.NOTHING
    ]
    if not callable(getattr(kind, "forge", None)):
        wrong = f"{kind.__qualname__} has no method 'forge'"
    elif required:
        wrong = f"{kind.__qualname__} cannot be built without {', '.join(required)}"
    elif type(summary) is not str or type(knowledge) is not str or not (summary and knowledge):
        wrong = f"{kind.__qualname__} does not say its 'summary' and 'knowledge'"
    if wrong:
        fix = 'see "Add an attack" in the manual'
        raise PluginError.of("QRES-E206", where, wrong, fix)
    return RegisteredAttack(name, str(summary), str(knowledge), kind)


def register(name: str, *, summary: str, knowledge: str) -> Callable[[F], F]:
    """Class decorator: add an attack whose constructor takes at most ``strength``.

    ``summary``: one line: what it sends; ``knowledge``: what the attacker must know. Raises
    PluginError: QRES-E204 for a name that is taken, QRES-E206 for a class that is no attack.
    """

    def add(kind: F) -> F:
        if name in ATTACKS or name in SABOTAGE:
            what = "an attack of that name is there already"
            raise PluginError.of("QRES-E204", f"attacks.{name}", what, "choose another name")
        ATTACKS[name] = describe(name, kind, summary=summary, knowledge=knowledge)
        return kind

    return add
