"""Judgement of revealed rows by their commitments, and of the nodes that must have lied.

A row that fails is left out as a whole, with the inputs of its members. More than ``f`` failed rows
are not the doing of members alone, and then a quorum must be left. Each of ``k`` failed rows has a
liar of its own, so that at most ``f - k`` of the rest lie.

A mean is moved by liars as far as they are a part of its inputs, and the operators chose ``f`` of a
quorum. ``swarm.quorum`` is about the set, which was decided before. If liars may be a larger part
of the sums that hold, because others failed or were not opened, so many further inputs count as
nothing: as zeros, or as the center of the bound. To make no model would not do: after sums were
opened no other set may be left, and a liar that proposed that set once could spoil it for ever.

A rule that withstands ``f`` bad rows needs ``2 f + 1`` rows or more, and how many inputs they hold
is no matter. It may need more rows than are left. Failed rows then stay in, with the mean of those
that hold in their place. Together with the rows of liars that did not fail they are at most ``f``,
and the rule withstands whatever those are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray
from qres_arithmetic import round_half_even

from qres_core import Accusation, Companion, Contribution, NodeId, RoundInfo, Updates, fixed
from qres_core.dialogues import Revelation, RevelationError
from qres_core.errors import WireError
from qres_zk.aggregate import SumOpening, opening_failures
from qres_zk.bundle import commitments
from qres_zk.group import ORDER, Points
from qres_zk.statement import NormStatement
from qres_zk.suspicion import Suspicion

NAME: Final = "zk"
LIED: Final = "another-vector-than-committed"
REFUSED: Final = 3
"""Rounds for which a node takes nothing of who was proven to lie by a round that made no model.

Nodes that were restarted know less, and their proposals name the liar. To refuse it for ever would
have no round close if one of them is the coordinator.
"""


@attrs.define(eq=False)
class SumJudge:
    """Opens the commitments to sums, and remembers failures from round to round."""

    # whether single vectors are visible, so that each was compared on its way in
    single: bool = True
    rows: int = 1  # fewest rows that the rule and its wrappers work with
    failed: int = 0  # sums that failed so far
    _suspicion: Suspicion = attrs.field(init=False, factory=Suspicion)
    # who was proven to lie by a round that made no model, and the last round to refuse it in
    _refused: dict[NodeId, int] = attrs.field(init=False, factory=dict[NodeId, int])
    _points: dict[tuple[NodeId, bytes], Points] = attrs.field(
        init=False, factory=dict[tuple[NodeId, bytes], Points]
    )

    @property
    def suspects(self) -> frozenset[NodeId]:
        """Members of failed sums that nothing explains yet."""
        return self._suspicion.suspects

    def follow(self, roster: tuple[NodeId, ...]) -> None:
        """A round opens: nothing is held any more against those that are no members of it."""
        self._suspicion.follow(frozenset(roster))

    def refuses(self, node: NodeId, number: int) -> bool:
        """True if nothing of a node is taken in a round, by its number."""
        return number <= self._refused.get(node, 0)

    def revealed(
        self,
        statement: NormStatement,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Revelation:
        """Keep the rows that are sums of what their members committed to.

        The rows are the same on every node: they follow from the agreed contributions and sums.

        Args:
            statement: the round's.
            updates: rows as revealed by the plugins after the proof's.
            contributions: of the agreed members, with their proofs.
            round_info: the round.

        Returns:
            the rows that hold, as many failed ones replaced as the rule needs beside them, with
            inputs that count as nothing; and evidence against whoever must have lied.

        Raises:
            RevelationError: QRES-E508 if no row holds, or if more than ``f`` fail and fewer inputs
                than a quorum are left; with the evidence.

        Complexity: O(d) word operations a row, ``b`` additions a member and one multiplication of
            ``b`` points a row.
        """
        sent = {contribution.sender: contribution for contribution in contributions}
        openings: dict[int, SumOpening] = {}
        holds = [False] * len(updates)
        for row in range(len(updates)):
            found = self._opening(statement, updates, row, sent)
            if isinstance(found, SumOpening):
                openings[row] = found
            else:
                holds[row] = found
        failing = opening_failures(statement, list(openings.values()))
        for at, row in enumerate(openings):
            holds[row] = at not in failing
        failed = [members for members, good in zip(updates.members, holds, strict=True) if not good]
        nothing: NDArray[np.integer] | int = 0 if statement.center is None else statement.center
        if not failed:
            return Revelation(self._thinned(updates, nothing, 0, round_info))
        self.failed += len(failed)
        liars = self._suspicion.note(failed, round_info.byzantine)
        against = tuple(Accusation(liar, LIED) for liar in liars)
        kept = np.flatnonzero(holds)
        left = sum(len(updates.members[int(row)]) for row in kept)
        most = round_info.byzantine
        if not left or (len(failed) > most and left < round_info.quorum):
            what = (
                f"{len(failed)} of {len(updates)} sums fail; {left} contributions are left, the "
                f"quorum is {round_info.quorum}"
            )
            self._refused = dict.fromkeys(liars, round_info.number + REFUSED)
            raise RevelationError.of("QRES-E508", "plugins.zk", what).blaming(against)
        more = 0 if len(failed) > most else max(0, self.rows - len(kept))
        replaced = np.flatnonzero(np.logical_not(holds))[:more]
        vector = nothing
        if self._outvotes(most):
            vector = updates.vectors[kept].sum(axis=0, dtype=np.int64) // len(kept)
        given = _completed(updates, kept, replaced, vector)
        return Revelation(self._thinned(given, nothing, len(failed), round_info), against)

    def _outvotes(self, liars: int) -> bool:
        """True if the rule may withstand so many bad rows."""
        return self.rows > 2 * liars

    def _thinned(
        self,
        updates: Updates,
        nothing: NDArray[np.integer] | int,
        failed: int,
        round_info: RoundInfo,
    ) -> Updates:
        """Rows of which liars are no larger a part than ``f`` of a quorum. O(d).

        Inputs that count as nothing are put into the first row. ``failed``: rows that failed.
        """
        most, sums = round_info.byzantine, updates.sums
        if sums is None or self._outvotes(most) or failed >= most:
            return updates
        enough = -(-round_info.quorum * (most - failed) // most)
        added = enough - sum(map(len, updates.members))
        if added <= 0:
            return updates
        vectors, sums, weights = updates.vectors.copy(), sums.copy(), updates.weights.copy()
        sums[0] += added * np.asarray(nothing, dtype=np.int64)
        weights[0] += added
        vectors[0] = np.clip(round_half_even(sums[0], int(weights[0])), -fixed.LIMIT, fixed.LIMIT)
        return attrs.evolve(updates, vectors=vectors, sums=sums, weights=weights)

    def note(self, contribution: Contribution, points: Points) -> None:
        """Keep the row commitments of an accepted proof: to decode points is dear."""
        self._points[contribution.sender, contribution.digest] = points

    def forget(self) -> None:
        """The round is over; what a set of it still needs is decoded again."""
        self._points.clear()

    def commitments(self, contribution: Contribution, statement: NormStatement) -> Points:
        """The row commitments of a contribution. Raises WireError: it has none."""
        kept = self._points.get((contribution.sender, contribution.digest))
        if kept is not None and len(kept) == statement.rows:
            return kept
        return commitments(contribution.proofs.get(NAME, b""), statement)

    def _opening(
        self,
        statement: NormStatement,
        updates: Updates,
        row: int,
        sent: Mapping[bytes, Contribution],
    ) -> SumOpening | bool:
        """Condition of a row, or true or false where that is known."""
        members = [sent.get(member) for member in updates.members[row]]
        made = [member for member in members if member is not None]
        if len(made) != len(members):
            return False
        vector: NDArray[np.integer]
        weights: list[int] | None = None
        if updates.sums is None:
            vector = updates.vectors[row]
            if len(made) == 1 and self._stands_as_sent(made[0], vector):
                return True
        else:
            vector = updates.sums[row]
            weights = [item.weight for item in made]
            if sum(weights) != int(updates.weights[row]):
                weights = None
        companions = updates.companions.get(NAME)
        beside = companions[row] if companions is not None else None
        if not fits(beside, statement):
            return False
        try:
            points = [self.commitments(item, statement) for item in made]
        except WireError:
            return False
        return SumOpening(points, vector, blinds_of(beside), weights)

    def _stands_as_sent(self, contribution: Contribution, vector: NDArray[np.integer]) -> bool:
        """True if a row is one node's vector as it was sent.

        What is visible is compared with its commitment before it is accepted: by this node, by the
        honest ones of a committee, or, if this node catches up on a round that others decided, by
        the honest ones of that round's quorum.
        """
        if contribution.root:  # its shards were compared by those that hold them
            return self.single
        return self.single and np.array_equal(contribution.vector, vector)


def _completed(
    updates: Updates,
    kept: NDArray[np.intp],
    replaced: NDArray[np.intp],
    vector: NDArray[np.integer] | int,
) -> Updates:
    """The rows that hold, with a vector in the place of some others. O(n d)."""
    if not replaced.size:
        return updates.take(kept)
    taken = np.sort(np.concatenate([kept, replaced]))
    at = np.searchsorted(taken, replaced)
    rows = updates.take(taken)
    vectors, sums = rows.vectors.copy(), rows.sums
    vectors[at] = vector
    if sums is not None:
        sums = sums.copy()
        sums[at] = vectors[at] * rows.weights[at, None]
    return attrs.evolve(rows, vectors=vectors, sums=sums)


def fits(companion: Companion | None, statement: NormStatement) -> bool:
    """True if these are blinds for a statement's rows."""
    return (
        companion is not None
        and companion.modulus == ORDER
        and len(companion.body) == 32 * statement.rows
    )


def blinds_of(companion: Companion | None) -> tuple[int, ...]:
    """The blinds, none if there are none."""
    return companion.residues() if companion is not None else ()
