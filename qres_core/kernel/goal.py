"""Goal of a training: a figure, a relation and a number."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

import attrs

PATTERN: Final = (
    r"(?P<figure>[A-Za-z_][A-Za-z0-9_.-]{0,63}) *(?P<relation>>=|<=|>|<) *"
    r"(?P<bound>[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?)"
)
"""``accuracy >= 0.95``."""
_RELATIONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@attrs.frozen
class Goal:
    """Bound that a model's figures must reach."""

    figure: str  # name of one that the trainer's ``evaluate`` returns
    relation: str  # ``>=``, ``>``, ``<=`` or ``<``
    bound: float  # the number on the right

    @classmethod
    def parse(cls, text: str) -> Goal | None:
        """Read ``swarm.until``; ``None`` where it is empty.

        Raises:
            ValueError: the text is no goal.

        Example:
            >>> Goal.parse("loss < 0.1").is_reached({"loss": 0.05})
            True
        """
        if not text:
            return None
        found = re.fullmatch(PATTERN, text)
        if found is None:
            raise ValueError(text)
        return cls(found["figure"], found["relation"], float(found["bound"]))

    def __str__(self) -> str:
        """The same for all texts that mean it."""
        return f"{self.figure} {self.relation} {self.bound!r}"

    def is_reached(self, figures: Mapping[str, float]) -> bool:
        """True if the figures reach it; one that is missing, or not a number, does not."""
        value = figures.get(self.figure)
        return value is not None and _RELATIONS[self.relation](value, self.bound)
