"""What a session reveals: the sums of its groups, as the rows of the round's updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np

from qres_core import (
    Accusation,
    Companion,
    NodeId,
    Revelation,
    Updates,
    Visibility,
)
from qres_secagg.aggregator import Aggregator, GroupSum
from qres_secagg.board import SessionMessages
from qres_secagg.inputs import Inputs
from qres_secagg.ring import mean

ODD: Final = "companions-of-another-form"


@attrs.frozen(eq=False)
class SessionResult:
    """What a session came to."""

    revelation: Revelation  # rows and evidence
    saturated: int  # coordinates of means that left the grid


def open_sums(board: SessionMessages, inputs: Inputs, *, threads: int = 1) -> tuple[GroupSum, ...]:
    """Add up the inputs and take the masks off.

    Raises SecaggError: QRES-E604, see :meth:`Aggregator.add_input` and :meth:`Aggregator.finish`.
    """
    aggregator = Aggregator(board, threads=threads)
    for sender, item in inputs.by_sender.items():
        aggregator.add_input(sender, item)
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
    ordered = sorted(sums, key=lambda item: item.members[0])
    totals = [sum(weights[member] for member in item.members) for item in ordered]
    means = [mean(item.total, weight) for item, weight in zip(ordered, totals, strict=True)]
    names = set(ordered[0].residues).intersection(*(item.residues for item in ordered[1:]))
    companions = {
        name: tuple(
            Companion.of(item.residues[name].values, item.residues[name].modulus)
            for item in ordered
        )
        for name in sorted(names)
    }
    updates = Updates(
        np.stack([row for row, _over in means]),
        tuple(item.members[0] for item in ordered),
        np.array(totals, dtype=np.int64),
        visibility,
        members=tuple(item.members for item in ordered),
        sums=np.stack([item.total for item in ordered]),
        companions=companions,
    )
    return updates, sum(over for _row, over in means)


def reveal(
    board: SessionMessages,
    inputs: Inputs,
    *,
    equal: bool,
    visibility: Visibility,
    threads: int = 1,
) -> SessionResult:
    """Open a finished session.

    ``inputs``: of the agreed contributions; ``equal``: whether every input counts once, whatever it
    claims. Raises SecaggError: QRES-E604; no partial sum is given out.
    """
    sums = open_sums(board, inputs, threads=threads)
    weights = {message.sender: 1 if equal else message.weight for message in inputs.read_from}
    updates, saturated = as_updates(sums, weights, visibility)
    against = tuple(Accusation(sender, ODD) for sender in inputs.odd)
    return SessionResult(Revelation(updates, against), saturated)
