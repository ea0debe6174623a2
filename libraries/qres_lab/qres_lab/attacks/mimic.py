"""The attack that sends nothing wrong: copies of one honest node's updates."""

from __future__ import annotations

import attrs
import numpy as np

from qres_core.attacks.context import AttackContext, Forgery, send
from qres_core.attacks.registry import HONEST_UPDATES, register
from qres_core.contract.types import Vector
from qres_lab.attacks.moments import Real, Rows, centred_blocks, mean


@register("mimic", summary="copies of one honest node's update", knowledge=HONEST_UPDATES)
@attrs.define(eq=False)
class Mimic:
    """All attackers copy one honest node, so that its data count for too much.

    Whom, is learned in the first ``strength`` rounds: the direction ``z`` in which the honest
    updates vary most, by one step of Oja's rule a round, and the node that lies farthest along it,
    ``argmax_i |sum_t <z_t, x_i - mean>|``. In these rounds they copy the farthest so far; after
    them the choice stays. Told from the paper's heuristic: the updates are centred on the mean of
    their own round, not on the mean over all rounds so far.

    Attributes:
        strength: rounds of learning.

    Reference:
        S. P. Karimireddy, L. He, M. Jaggi, Byzantine-Robust Learning on Heterogeneous Datasets via
        Bucketing, ICLR 2022, section 4 and appendix B.
    """

    strength: float = 10.0
    _rounds: int = attrs.field(default=0, init=False)
    _axis: Real = attrs.field(factory=lambda: np.zeros(0), init=False)
    _along: Real = attrs.field(factory=lambda: np.zeros(0), init=False)

    def forge(self, context: AttackContext) -> tuple[Forgery, ...]:
        """Speak for somebody else."""
        return send(context, context.agreed(lambda: self._chosen(context)))

    def _chosen(self, context: AttackContext) -> Vector:
        rows = context.crowd
        if (self._along.size, self._axis.size) != rows.shape:
            self._rounds, self._along = 0, np.zeros(len(rows))
            drawn = np.asarray(context.rng.normal(size=(rows.shape[1],)))
            self._axis = drawn / np.linalg.norm(drawn)
        if self._rounds < self.strength:
            self._learn(rows)
            self._rounds += 1
        row: Vector = rows[int(np.argmax(np.abs(self._along)))]
        return row

    def _learn(self, rows: Rows) -> None:
        """Move the axis by one round's updates, and the nodes along it."""
        centre, axis = mean(rows), self._axis
        along, drawn = np.zeros(len(rows)), np.zeros_like(axis)
        for columns, block in centred_blocks(rows, centre):
            along += block @ axis[columns]
        for columns, block in centred_blocks(rows, centre):
            drawn[columns] = along @ block
        self._along = self._along + along
        size = float(np.linalg.norm(drawn))
        if size:  # one step of power iteration on the covariance of all rounds so far
            axis = self._rounds * axis + drawn / size
            self._axis = axis / np.linalg.norm(axis)
