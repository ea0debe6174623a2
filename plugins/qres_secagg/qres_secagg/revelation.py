"""Revelation of a session: the sums of its groups, as the rows of the round's updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import Accusation, Companion, NodeId, Updates, Visibility
from qres_core.dialogues import Revelation
from qres_core.errors import RoundError
from qres_secagg.aggregator import Aggregator, GroupSum
from qres_secagg.board import SessionMessages
from qres_secagg.inputs import Input, Inputs
from qres_secagg.ring import incoming, mean

ODD: Final = "companions-of-another-form"


@attrs.frozen(eq=False)
class SessionResult:
    """Result of a session."""

    revelation: Revelation  # rows and evidence
    saturated: int  # coordinates of means that left the grid


def open_sums(
    board: SessionMessages,
    inputs: Inputs,
    opened: NDArray[np.int64] | None = None,
    *,
    threads: int = 1,
) -> tuple[GroupSum, ...]:
    """Add up the inputs and take the masks off; ascending by the lowest member.

    ``opened``: the sums of the vectors, if committees opened them: int64, shape ``(groups, d)``.
    Raises SecaggError: QRES-E604, see :meth:`Aggregator.add_input` and :meth:`Aggregator.finish`.
    Raises RoundError: QRES-E604 where the committees' sums are not those of the groups.
    """
    aggregator = Aggregator(board, threads=threads, span=None if opened is None else range(0))
    for sender, item in inputs.by_sender.items():
        aggregator.add_input(sender, item)
    sums = _ordered(aggregator)
    if opened is None:
        return sums
    if opened.shape != (len(sums), board.session.parameters.dimension):
        what = f"{len(sums)} groups were opened, and committees have sums of {len(opened)}"
        raise RoundError.of("QRES-E604", "secagg", what)
    return tuple(attrs.evolve(item, total=row) for item, row in zip(sums, opened, strict=True))


def open_shard(
    board: SessionMessages, inputs: Inputs, updates: Updates, start: int, *, threads: int = 1
) -> NDArray[np.int64]:
    """The sums of a range of coordinates, in the order of :func:`open_sums`.

    ``inputs``: without their vectors; ``updates``: int32, shape ``(n, c)``, the masked coordinates
    from ``start`` on. Returns int64, shape ``(groups, c)``. Raises SecaggError: QRES-E604.
    """
    rows = dict(zip(updates.senders, updates.vectors, strict=True))
    span = range(start, start + updates.dimension)
    aggregator = Aggregator(board, threads=threads, span=span)
    for made in inputs.read_from:
        row = rows[made.sender]
        values, _right = incoming(row, made.companions, board.session.parameters, start)
        aggregator.add_input(made.sender, Input(values, {}, made.digest))
    return np.stack([item.total for item in _ordered(aggregator)])


def _ordered(aggregator: Aggregator) -> tuple[GroupSum, ...]:
    return tuple(sorted(aggregator.finish(), key=lambda item: item.members[0]))


def as_updates(
    sums: Sequence[GroupSum], weights: Mapping[NodeId, int], visibility: Visibility
) -> tuple[Updates, int]:
    """Rows for the rule: of each group the mean, the exact sums, the members.

    Args:
        sums: of the open groups, ascending by the lowest member.
        weights: by member; the weight its vector was multiplied by.
        visibility: ``SUM`` or ``GROUP``.

    Returns:
        the updates, and how many coordinates of means were saturated.
    """
    totals = [sum(weights[member] for member in item.members) for item in sums]
    means = [mean(item.total, weight) for item, weight in zip(sums, totals, strict=True)]
    names = set(sums[0].residues).intersection(*(item.residues for item in sums[1:]))
    companions = {
        name: tuple(
            Companion.of(item.residues[name].values, item.residues[name].modulus) for item in sums
        )
        for name in sorted(names)
    }
    updates = Updates(
        np.stack([row for row, _over in means]),
        tuple(item.members[0] for item in sums),
        np.array(totals, dtype=np.int64),
        visibility,
        members=tuple(item.members for item in sums),
        sums=np.stack([item.total for item in sums]),
        companions=companions,
    )
    return updates, sum(over for _row, over in means)


def reveal(
    board: SessionMessages,
    inputs: Inputs,
    *,
    equal: bool,
    visibility: Visibility,
    opened: NDArray[np.int64] | None = None,
    threads: int = 1,
) -> SessionResult:
    """Open a finished session.

    ``inputs``: of the agreed contributions; ``equal``: whether every input counts once, whatever it
    claims; ``opened``: see :func:`open_sums`. Raises SecaggError: QRES-E604; no partial sum is
    given out.
    """
    sums = open_sums(board, inputs, opened, threads=threads)
    weights = {message.sender: 1 if equal else message.weight for message in inputs.read_from}
    updates, saturated = as_updates(sums, weights, visibility)
    against = tuple(Accusation(sender, ODD) for sender in inputs.odd)
    return SessionResult(Revelation(updates, against), saturated)
