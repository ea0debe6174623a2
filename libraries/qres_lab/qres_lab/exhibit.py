"""Exhibits of the attack gallery, and their results.

The gallery knows no attack on a plugin's own protocol. A distribution that has one brings it as an
entry point of the group ``qres.gallery``: a :class:`GalleryEntry`, or a sequence of them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final

import attrs

TOLERANCE: Final = 0.05
"""Share of accuracy that an attack may take from a defence that is said to hold."""


class AttackFamily(enum.Enum):
    """Aim of an attack."""

    CLEAN = "no attack"
    POISONING = "poisoning"
    PROTOCOL = "protocol"
    PRIVACY = "privacy"
    INTEGRITY = "integrity"


class AttackOutcome(enum.Enum):
    """Fate of an attack."""

    HELD = "held"
    FAILED = "FAILED"
    IMPOSSIBLE = "cannot be set up"
    """The configuration that the attack needs is refused before it starts."""
    BASELINE = "no attack"


@attrs.frozen(kw_only=True)
class GalleryOutcome:
    """Result of one attack against one defence.

    Attributes:
        defence: what it was played against.
        measure: what ``value`` is, in words.
        value: the figure that decides; lower is better unless the entry has a baseline.
        limit: the largest value at which the defence held; ``None`` if a baseline decides.
        fate: held or failed.
        control: whether nothing defends here: the attack is to succeed, or it shows nothing.
        accuracy: of the final model, 0..1; ``None`` where nothing is trained.
        curve: accuracy after each closed round.
        detected: who or what noticed the attack, one short text each; empty if nobody did.
        reason: a sentence: why it failed, or what stopped it.
        messages: messages that were delivered, 0 where none were.
        octets: bytes of these messages; a cost, not part of the reproducible report.
        price: what the defence takes by itself, with nobody attacking: a share of accuracy.
    """

    defence: str
    measure: str
    value: float
    limit: float | None = None
    fate: AttackOutcome = AttackOutcome.HELD
    control: bool = False
    accuracy: float | None = None
    curve: tuple[float, ...] = ()
    detected: tuple[str, ...] = ()
    reason: str = ""
    messages: int = 0
    octets: int = 0
    price: float = 0.0

    @property
    def costly(self) -> bool:
        """True if the defence alone loses more than an attack is allowed to."""
        return self.price > TOLERANCE

    @classmethod
    def judged(
        cls,
        defence: str,
        measure: str,
        value: float,
        limit: float,
        *,
        control: bool = False,
        detected: tuple[str, ...] = (),
        reason: str = "",
    ) -> GalleryOutcome:
        """An outcome that held if ``value`` is at most ``limit``."""
        return cls(
            defence=defence,
            measure=measure,
            value=value,
            limit=limit,
            fate=AttackOutcome.HELD if value <= limit else AttackOutcome.FAILED,
            control=control,
            detected=detected,
            reason=reason,
        )


@attrs.frozen
class GallerySetting:
    """Setting in which the gallery is played.

    Attributes:
        seed: decides everything random.
        quick: fewer rounds and samples, for tests; the figures mean less.
    """

    seed: int = 1
    quick: bool = False


Play = Callable[[GallerySetting], GalleryOutcome]


@attrs.frozen(kw_only=True)
class GalleryEntry:
    """An attack and what it is played against.

    Attributes:
        name: on the command line.
        family: what it is aimed at.
        summary: one line: what the attackers do.
        aim: one line: when the attack has succeeded.
        plays: by defence, in the order shown; the first is played against nothing. A play uses
            no randomness but ``setting.seed`` and the operating system's, which is replayed.
        baseline: name of the entry without attack whose value, for the same defence, decides: the
            attack failed where it took at most ``tolerance`` of it away.
        tolerance: see ``baseline``.
    """

    name: str
    family: AttackFamily
    summary: str
    aim: str
    plays: Mapping[str, Play]
    baseline: str = ""
    tolerance: float = TOLERANCE

    def against(self, outcome: GalleryOutcome, clean: GalleryOutcome) -> GalleryOutcome:
        """The outcome, decided by what the same defence does without attackers."""
        if outcome.fate is AttackOutcome.IMPOSSIBLE:
            return outcome
        lost = clean.value - outcome.value
        failed = lost > self.tolerance
        reason = f"{100 * lost:+.1f} points lost to the same swarm without attackers"
        if outcome.reason:
            reason = f"{reason}; {outcome.reason}"
        return attrs.evolve(
            outcome, fate=AttackOutcome.FAILED if failed else AttackOutcome.HELD, reason=reason
        )
