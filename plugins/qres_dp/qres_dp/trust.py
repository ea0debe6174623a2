"""Trust in a mode: protected parties and trusted ones, in sentences for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from qres_core import Surroundings
from qres_dp.fitting import watchers
from qres_dp.modes import Mode, Relation, Unit
from qres_dp.terms import ReleaseTerms


@attrs.frozen
class Trust:
    """Basis of a promise."""

    unit: str  # whose data are protected as a whole
    neighbours: str  # what must not be told apart
    protects_from: str  # who cannot tell it
    assumes: tuple[str, ...]  # what has to be true for that

    def to_json(self) -> dict[str, object]:
        """As ``qres dp plan --json`` tells it."""
        return {**attrs.asdict(self), "assumes": list(self.assumes)}


_UNITS: Final[Mapping[Unit, str]] = {
    Unit.NODE: "all data of a node, in all rounds together",
    Unit.RECORD: "a single record (one training example) of a node, in all rounds together",
}
_NEIGHBOURS: Final[Mapping[Relation, str]] = {
    Relation.ADD_REMOVE: "what the {unit} adds, and nothing in its place; which nodes "
    "take part is public",
    Relation.REPLACE_ONE: "what the {unit} adds, and what any other might add; which nodes "
    "take part is public",
}
_FROM: Final[Mapping[Mode, str]] = {
    Mode.LOCAL: "everybody who sees what the node sends, all other nodes among them",
    Mode.DISTRIBUTED: "everybody who sees only sums of updates or models, other nodes among them",
}
_SELF: Final = "The node's own software and machine do what they say, and keep its data to itself."


def trust_of(terms: ReleaseTerms, around: Surroundings) -> Trust:
    """Basis of the promise of some options, in a swarm."""
    assumes = [_SELF]
    if terms.unit is Unit.RECORD:
        steps = "its trainer says which step each of them asks for"
        assumes.append(f"No node has more than {terms.units} records, and {steps}.")
    if terms.mode is Mode.DISTRIBUTED:
        hider = f"plugins.{around.hidden_by}" if around.hidden_by else "the swarm"
        known = watchers(around.colluders)
        hides = f"{hider} opens sums of at least {around.members} updates only"
        assumes.append(f"Single updates stay hidden: {hides}.")
        keep = f"at least {terms.honest} nodes add their share of the noise and tell it to nobody"
        assumes.append(f"In every such sum, {keep}.")
        assumes.append(f"At most {known} of the nodes in a sum work together to learn more.")
    return Trust(
        _UNITS[terms.unit],
        _NEIGHBOURS[terms.relation].format(unit=terms.unit.value),
        _FROM[terms.mode],
        tuple(assumes),
    )
