"""Bad weather on the links of the in-process transport, the same for the same seed.

What becomes of the k-th frame on the way from one node to another follows from the seed, the two
identities and k alone, so that other links, and how tasks take turns, change nothing.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import attrs

from qres_core.contract import options
from qres_core.contract.types import NodeId


def share(text: str) -> Any:
    """An attrs field: a probability, 0 by default."""
    return attrs.field(default=0.0, validator=options.real(0, 1), metadata=options.help_text(text))


def seconds(text: str) -> Any:
    """An attrs field: a time, 0 by default."""
    return attrs.field(
        default=0.0, validator=options.real(0, unit="seconds"), metadata=options.help_text(text)
    )


@attrs.define(eq=False)
class Weather:
    """What happens on the way from one node to another. Made by :meth:`Faults.between`."""

    faults: Faults
    _random: random.Random

    def frame(self) -> tuple[float, ...]:
        """Seconds that every copy of the next frame is under way; none if it is lost."""
        # Every frame takes the same number of draws, whatever becomes of it: a higher loss with
        # the same seed loses more frames and leaves the rest as they were.
        lost, doubled, first, second = (self._random.random() for _draw in range(4))
        faults = self.faults
        if lost < faults.loss:
            return ()
        times = (faults.delay + first * faults.jitter, faults.delay + second * faults.jitter)
        return times if doubled < faults.duplicate else times[:1]

    def passage(self) -> float:
        """Seconds that a part of a request or of a blob is under way; it always arrives."""
        return self.faults.delay + self._random.random() * self.faults.jitter


@attrs.frozen
class Faults:
    """How frames fare between two nodes. Requests and blobs are delayed too, and never lost.

    Attributes:
        loss: probability that a frame is lost, 0..1.
        duplicate: probability that a frame arrives twice, 0..1.
        delay: seconds that everything takes.
        jitter: up to this many seconds more, uniformly; later frames overtake earlier ones.
        seed: two runs with one seed treat the same frames the same way.
    """

    loss: float = share("")
    duplicate: float = share("")
    delay: float = seconds("")
    jitter: float = seconds("")
    seed: int = 0

    def between(self, sender: NodeId, receiver: NodeId) -> Weather:
        """The weather on the way from one node to another; lasts as long as their connection."""
        name = b"qres/faults/v1\0" + repr(self.seed).encode() + b"\0" + sender + receiver
        # Chance for tests and simulations, nothing secret.
        return Weather(self, random.Random(hashlib.sha256(name).digest()))  # noqa: S311
