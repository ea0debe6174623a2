"""The sums of a session as the round's updates: a row for each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import (
    Companion,
    Contribution,
    Evidence,
    NodeId,
    Revelation,
    Updates,
    Visibility,
)
from qres_secagg.aggregator import Aggregator, GroupSum
from qres_secagg.board import Board
from qres_secagg.inputs import input_digest
from qres_secagg.masks import Residues
from qres_secagg.parameters import Parameters
from qres_secagg.ring import incoming, mean

NAME: Final = "secagg"
"""Under which the high words of a wide ring travel."""
ODD: Final = "companions of another form"


@attrs.frozen(eq=False)
class Opened:
    """What a session came to.

    Attributes:
        revelation: rows and evidence.
        saturated: coordinates of means that left the grid.
    """

    revelation: Revelation
    saturated: int


Form = tuple[tuple[str, int, int], ...]
"""Name, modulus and number of every list of residues beside an input."""


def _beside(companions: Mapping[str, Companion]) -> dict[str, Residues]:
    """The residues among companions; open ones are nobody's to sum."""
    return {
        name: Residues(one.residues(), one.modulus)
        for name, one in companions.items()
        if one.modulus
    }


def _form(residues: Mapping[str, Residues]) -> Form:
    return tuple((name, one.modulus, len(one.values)) for name, one in sorted(residues.items()))


@attrs.frozen(eq=False)
class Inputs:
    """The masked inputs of the agreed contributions, in one form.

    What a liar leaves out, or adds, beside its vector must not keep the others' sums from being
    opened: the residues count in the form that most inputs have them in, and of who has them in
    another form as zeros. Its group's sum of residues is then not what it should be, which is for
    the plugin they belong to to see.

    Attributes:
        vectors: ring elements by sender.
        residues: by sender, all of one form.
        odd: who sent another form.
    """

    vectors: Mapping[NodeId, NDArray[Any]]
    residues: Mapping[NodeId, Mapping[str, Residues]]
    odd: tuple[NodeId, ...]

    @classmethod
    def of(cls, contributions: Sequence[Contribution], parameters: Parameters) -> Inputs:
        """Read contributions. High words that are not there count as zeros. O(d) for each."""
        vectors: dict[NodeId, NDArray[Any]] = {}
        found: dict[NodeId, dict[str, Residues]] = {}
        odd: set[NodeId] = set()
        for one in contributions:
            values = incoming(one.vector, one.companions.get(NAME), parameters)
            if values is None:
                values = one.vector.view(np.uint32).astype(np.uint64)
                odd.add(one.sender)
            vectors[one.sender], found[one.sender] = values, _beside(one.companions)
        counted = Counter(_form(residues) for residues in found.values())
        most = max(counted.values(), default=0)
        form = min((one for one, count in counted.items() if count == most), default=())
        zeros = {name: Residues((0,) * count, modulus) for name, modulus, count in form}
        residues = {sender: one if _form(one) == form else zeros for sender, one in found.items()}
        odd.update(sender for sender, one in found.items() if _form(one) != form)
        return cls(vectors, residues, tuple(sorted(odd)))

    def digests(self) -> dict[NodeId, bytes]:
        """What the survivor statement binds: the hash of each. O(d) for each."""
        return {
            sender: input_digest(values, self.residues[sender])
            for sender, values in self.vectors.items()
        }


def survivors(board: Board, contributions: Sequence[Contribution]) -> list[Contribution]:
    """The contributions of listed nodes: others were not masked in this session."""
    listed, rank = board.listed().members, board.session.rank
    return [one for one in contributions if rank.get(one.sender, -1) in listed]


def open_sums(board: Board, inputs: Inputs, *, threads: int = 1) -> tuple[GroupSum, ...]:
    """Add up the inputs and take the masks off.

    Raises:
        SecaggError: QRES-E604, see :meth:`Aggregator.add` and :meth:`Aggregator.finish`.
    """
    aggregator = Aggregator(board, threads=threads)
    for sender, values in inputs.vectors.items():
        aggregator.add(sender, values, inputs.residues[sender])
    return aggregator.finish()


def as_updates(
    sums: Sequence[GroupSum], weights: Mapping[NodeId, int], visibility: Visibility
) -> tuple[Updates, int]:
    """Rows for the rule: of each group the mean, the exact sums, the members.

    Args:
        sums: of the open groups.
        weights: by member; the weight its vector was multiplied by.
        visibility: ``SUM`` or ``GROUP``.

    Returns:
        the updates, ascending by the lowest member, and how many coordinates of means were
        saturated.
    """
    ordered = sorted(sums, key=lambda one: one.members[0])
    totals = [sum(weights[member] for member in one.members) for one in ordered]
    means = [mean(one.total, weight) for one, weight in zip(ordered, totals, strict=True)]
    names = set(ordered[0].residues).intersection(*(one.residues for one in ordered[1:]))
    companions = {
        name: tuple(
            Companion.of(one.residues[name].values, one.residues[name].modulus) for one in ordered
        )
        for name in sorted(names)
    }
    updates = Updates(
        np.stack([row for row, _over in means]),
        tuple(one.members[0] for one in ordered),
        np.array(totals, dtype=np.int64),
        visibility,
        members=tuple(one.members for one in ordered),
        sums=np.stack([one.total for one in ordered]),
        companions=companions,
    )
    return updates, sum(over for _row, over in means)


def open_updates(
    board: Board,
    contributions: Sequence[Contribution],
    *,
    equal: bool,
    number: int,
    visibility: Visibility,
    threads: int = 1,
) -> Opened:
    """Open a finished session.

    Args:
        board: its public side, with survivors and shares.
        contributions: the agreed ones.
        equal: whether every input counts once, whatever it claims.
        number: of the round, for evidence.
        visibility: what the plugin promises to leave visible.
        threads: threads that expand masks.

    Raises:
        SecaggError: QRES-E604; no partial sum is given out.
    """
    inputs = Inputs.of(survivors(board, contributions), board.session.parameters)
    sums = open_sums(board, inputs, threads=threads)
    weights = {one.sender: 1 if equal else one.weight for one in contributions}
    updates, saturated = as_updates(sums, weights, visibility)
    against = tuple(
        Evidence(sender, ODD, NAME, against=True, round=number) for sender in inputs.odd
    )
    return Opened(Revelation(updates, against), saturated)
