"""The ``validation`` plugin: its options and its three hooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction

import attrs
import numpy as np

from qres_core import (
    Accusation,
    Claims,
    Needs,
    RoundInfo,
    Updates,
    Vector,
    Verdict,
    Visibility,
    hookimpl,
    options,
)
from qres_core.training import HeldOut, Screening
from qres_validation.endorsement import highest, vote
from qres_validation.gate import capped, cut_to_size, oversized
from qres_validation.screening import ScreeningBudget, harmful, losses, sample


@attrs.frozen
class Validation:
    """Try updates on the node's own held-out examples before they are merged.

    Three checks, each where it belongs:

    - **The gate** (``wrap_aggregate``, the same on every node): rows whose norm is more than
      ``norm_factor`` times the median norm are shortened to that, and weights are held at
      ``weight_limit`` times the median weight. It needs no examples and works on means of groups
      as well.
    - **Screening** (``screen``, on the round's proposer): each candidate, or a sample within the
      budget, is tried alone on the held-out examples. Those that raise the loss by more than
      ``candidate_tolerance`` are left out of the proposal, the worst ``swarm.byzantine`` of them
      at most and never below the quorum, and are told to reputation.
    - **Endorsement** (``endorse``, on every node before its vote): a set whose merged update raises
      the loss on this node's examples by more than ``tolerance`` gets no vote. What no quorum
      endorses is never merged: the model stays the one it was.

    A merged set has the votes of a quorum of nodes that each tried it on examples of their own, so
    it takes more than a lying proposer and one careless node to merge what harms. Losses in
    floating point are compared on one node only; nothing merged depends on them.

    Attributes:
        tolerance: how much the merged update may raise this node's held-out loss, as a share of it.
        candidate_tolerance: the same for one update alone. Looser: an honest update from other data
            may well be worse alone.
        norm_factor: how many times the median norm an update may have, 1 or more.
        weight_limit: how many times the median weight a weight may count, 1 or more.
        candidates: most updates a proposer tries in a round.
        seconds: time for it; what is not tried by then stays in.

    Raises:
        OptionError: QRES-E105, an option out of range; the message names it.

    Source:
        C. Xie, S. Koyejo, I. Gupta, "Zeno: Distributed Stochastic Gradient Descent with
        Suspicion-based Fault-tolerance", ICML 2019, section 3: ranking candidates by the loss they
        lead to. Voting by held-out examples of every node is this plugin's own.
    """

    tolerance: float = attrs.field(
        default=0.1,
        validator=options.real(0),
        metadata=options.help_text(
            "Share of the loss by which a merged update may raise the loss on this "
            "node's held-out examples before the node votes against it."
        ),
    )
    candidate_tolerance: float = attrs.field(
        default=0.5,
        validator=options.real(0),
        metadata=options.help_text(
            "The same share for a single update before a proposer leaves it out."
        ),
    )
    norm_factor: float = attrs.field(
        default=10.0,
        validator=options.real(1),
        metadata=options.help_text(
            "An update may be this many times as long as the median update."
        ),
    )
    weight_limit: float = attrs.field(
        default=10.0,
        validator=options.real(1),
        metadata=options.help_text("A weight counts at most this many times the median weight."),
    )
    candidates: int = attrs.field(
        default=64,
        validator=options.whole(1),
        metadata=options.local(
            "Most updates a proposer tries alone in a round; a sample if there are more."
        ),
    )
    seconds: float = attrs.field(
        default=10.0,
        validator=options.real(0),
        metadata=options.local("Seconds that a proposer takes for that; untried updates stay in."),
    )

    @property
    def claims(self) -> Claims:
        """Rows to measure: single updates or means of groups."""
        needs = Needs(visibility=Visibility.GROUP, min_updates=1)
        return Claims(tolerates=None, needs=needs)

    # ── the same on every node ────────────────────────────────────────────────────────────────

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Pass the updates on, none of them oversized, with weights held. O(n d)."""
        return proceed(self._gated(updates, round_info.byzantine))

    def _gated(self, updates: Updates, liars: int) -> Updates:
        vectors = cut_to_size(updates.vectors, Fraction(self.norm_factor), liars)
        weights = capped(updates.weights, Fraction(self.weight_limit))
        if vectors is updates.vectors and np.array_equal(weights, updates.weights):
            return updates
        return attrs.evolve(updates, vectors=vectors, weights=weights)

    # ── this node's own opinion ───────────────────────────────────────────────────────────────

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> Screening:
        """Name what is oversized, the longest first, or harmful by this node's examples.

        The evidence is against at most ``swarm.byzantine`` senders, and no more than the quorum can
        spare. It takes ``candidates + 1`` evaluations of a model, and O(n d) besides.
        """
        spare = min(round_info.byzantine, len(updates) - round_info.quorum)
        if spare <= 0:
            return Screening()
        far = oversized(updates.vectors, Fraction(self.norm_factor), round_info.byzantine)
        rows = [row for row in sample(updates, self.candidates, round_info) if row not in far]
        limit = highest(held_out.loss(), self.candidate_tolerance)
        budget = ScreeningBudget(self.candidates, self.seconds, time.monotonic)
        worse = harmful(losses(updates, rows, held_out, budget), limit, spare - len(far))
        named = [(row, "oversized-update") for row in far[:spare]]
        named += [(row, "harmful-update") for row in worse]
        return Screening(tuple(Accusation(updates.senders[row], fact) for row, fact in named))

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        """Accept what does not raise this node's held-out loss beyond the tolerance.

        It takes two evaluations of a model.
        """
        return vote(merged, held_out, self.tolerance)
