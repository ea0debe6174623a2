"""The ``validated_mean`` plugin: a mean whose weights come from held-out examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from qres_core import (
    Claims,
    Needs,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Updates,
    Vector,
    Verdict,
    Visibility,
    hookimpl,
    options,
    reject,
)
from qres_core.errors import Problem
from qres_core.training import HeldOut, Screening
from qres_validation.capped_mean import capped_mean, cut_to_length, halvings
from qres_validation.endorsement import too_far, vote
from qres_validation.promise import Fit

MOST_HALVINGS: Final = 8
FARTHEST: Final = 1.25
"""Lengths of a reference; above 1, so that a step which is halved often enough is near enough."""
TOLERANCE: Final = 0.1
"""Examples of a node's own share see other classes than the update learned: a looser vote."""
POOLED_TOLERANCE: Final = 0.02
"""Examples of a pool see what the swarm learns, and liars propose in their turn."""
CALM: Final = 2
"""Sets of a node that must close in a row before its steps are doubled again."""


@attrs.define
class StepLength:
    """Length of the step that this node proposes.

    Voters refuse a step that is too long for them, and would refuse the same step for ever: the
    model that they judge it by stays as it was. A line search that backtracks ends that. A node
    lengthens and shortens its own proposals alone, so nothing has to be agreed on.

    The sets of other nodes do not count. A liar can show a good set to too few nodes: these would
    endorse it and see it fail, and would take ever shorter steps.
    """

    halvings: int = 0  # how often a step is halved, 0..MOST_HALVINGS
    mine: int = 0  # the last round in which this node proposed a set
    _closed: int = attrs.field(default=0, init=False)

    def after(self, outcome: Outcome) -> None:
        """A round is over."""
        if outcome.round_info.number != self.mine:
            return
        if outcome.status is RoundStatus.CLOSED:
            self._closed += 1
            if self._closed >= CALM:
                self._closed, self.halvings = 0, max(0, self.halvings - 1)
        elif outcome.status is RoundStatus.ABORTED:
            self._closed, self.halvings = 0, min(MOST_HALVINGS, self.halvings + 1)


@attrs.define
class Reach:
    """Limits of this node's votes: decided when it starts, by the kind of its held-out examples."""

    lengths: float = 0.0  # of the reference, from it; 0 is any distance
    tolerance: float = TOLERANCE  # largest rise of the loss where the file names none


@attrs.frozen
class ValidatedMean:
    """A mean of updates, weighted so that it comes nearest to what held-out examples ask for.

    In three steps:

    - **The proposer** (``screen``) trains from the round's model on its own held-out examples and
      looks for weights, none above one part in ``c``, the greater of ``n - f`` and the quorum, for
      which the weighted mean of the updates is nearest to that reference. At least ``c`` updates
      keep some weight; the weights are part of the agreed set. It proposes the set only if what
      every node would merge passes :meth:`Fit.check <qres_validation.promise.Fit.check>`.
    - **Every node** (``endorse``) votes only for a set whose mean does not raise the loss on its
      own held-out examples by more than ``tolerance``. A node whose own set was refused halves the
      step of its next ones.
    - **The rule** (``aggregate``) is the weighted mean, exact, with no weight above one part in
      ``c`` of the agreed set, whatever the proposer said. Updates above ten times the usual length
      are shortened to that.

    Why it holds: where ``c`` updates or more are honest, equal weights on these alone are within
    the cap. So whatever the liars send, the merged vector ``F`` is no farther from the reference
    ``u`` than the honest mean ``h`` is, and ``|F - h| <= 2 |h - u|``, up to one step of the grid in
    each coordinate. There is no term for how much honest data differ: the rule works where geometry
    cannot tell a liar from a node with rare data. What it rests on is that the proposer's held-out
    examples stand for the task: with classes missing from them it is worse than a geometric rule. A
    lying proposer chooses weights to its liking, but only within the cap and only what a quorum
    endorses.

    Attributes:
        f: updates of a round that may be anything.
        tolerance: how much the merged update may raise a node's held-out loss, as a share of it.
            Left out, it is 0.02 with pooled examples, and 0.1 without.

    Raises:
        OptionError: QRES-E105, an option is out of range; the message names it.

    Complexity: the proposer trains on its examples and takes O(n**2 d), and O(n**3) for each of at
        most 1000 steps of the fit; each node evaluates two models; the rule is O(n d).

    Source:
        A trusted update from a small clean set: X. Cao, M. Fang, J. Liu, N. Gong, "FLTrust:
        Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021. Weights from a
        least-squares fit on a capped simplex, and the vote, are this plugin's own.
        ``(f, kappa)``-robustness is not claimed: the bound above is in terms of the reference, not
        of how the honest updates are spread.
    """

    f: int = attrs.field(**options.liars())
    tolerance: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(options.real(0)),
        metadata=options.help_text(
            "Share of the loss by which a merged update may raise the loss on this "
            "node's held-out examples before the node votes against it. Left out: 0.02 if the "
            "trainer says that its held-out examples come from a pool of all kinds and no plugin "
            "adds noise, and 0.1 if not."
        ),
    )

    farthest: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(options.real(1, or_zero=True)),
        metadata=options.help_text(
            "A node votes against a merged update that is farther from its own reference than this "
            "many lengths of the reference. 0 is any distance. Left out: 1.25 if the trainer says "
            "that its held-out examples come from a pool of all kinds and no plugin adds noise, "
            "and 0 if not."
        ),
    )

    _step: StepLength = attrs.field(factory=StepLength, init=False, eq=False)
    _reach: Reach = attrs.field(factory=Reach, init=False, eq=False)

    @property
    def claims(self) -> Claims:
        """Single updates, an honest majority of them, and no weights but those that are fitted.

        If honest updates may not weigh alike, their mean is none of the means that are tried.
        """
        needs = Needs(
            visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 1, equal_weights=True
        )
        return Claims(tolerates=self.f, needs=needs)

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Refuse wrappers that change what was fitted: no proposal would pass its check."""
        for name in around.altered_by:
            what = f"fits weights to updates as they were sent, and plugins.{name} changes them"
            yield Problem("QRES-E303", "plugins.validated_mean", what, f"remove [plugins.{name}]")

    def preflight(self, node_info: NodeInfo) -> Iterator[Problem]:
        """Refuse a trainer that cannot make the reference: yields QRES-E311.

        The same for a ``farthest`` that asks for a reference which stands for the whole task.
        """
        if not node_info.references:
            yield Problem(
                "QRES-E311",
                "plugins.validated_mean",
                "compares updates with one made from held-out examples, and the node's trainer "
                "makes none",
                "give the trainer reference(vector, round_info), or set trainer.task.held_out",
            )
        elif self.farthest and not node_info.pooled:
            yield Problem(
                "QRES-E311",
                "plugins.validated_mean.farthest",
                "holds others to this node's reference, and its held-out examples are not of a "
                "pool of all kinds: honest nodes would refuse most of what honest nodes propose",
                "leave it out; or let the trainer say pooled = True, or set "
                'trainer.task.held_out_from = "pool"',
            )
        elif self.farthest and node_info.noised:
            yield Problem(
                "QRES-E311",
                "plugins.validated_mean.farthest",
                "holds others to this node's reference, and a plugin adds noise to what they send: "
                "honest nodes would refuse what honest nodes propose",
                "leave it out",
            )

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Note how far from the reference a merged update may be."""
        near = node_info.pooled and not node_info.noised
        usual = FARTHEST if near else 0.0
        self._reach.lengths = usual if self.farthest is None else self.farthest
        self._reach.tolerance = POOLED_TOLERANCE if near else TOLERANCE

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> Screening:
        """Weight what could be proposed by this node's held-out examples.

        At least the quorum's number of shares are above 0. Raises what the trainer's ``reference``
        refuses with.
        """
        reference, shorter = held_out.reference(), self._step.halvings
        fit = Fit.of(updates, reference, self.f, round_info.quorum, shorter)

        def check(merged: Vector) -> None:
            fit.check(merged)
            self._step.mine = round_info.number  # only now the set is proposed

        return Screening(shares=fit.shares, check=check)

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        """Accept what is near enough to this node's reference and does not raise its loss.

        Raises what the trainer's ``reference`` refuses with.
        """
        # The reference is made in every round: a trainer may keep a momentum of it.
        if self._reach.lengths and too_far(merged, held_out.reference(), self._reach.lengths):
            return reject("far-from-reference")
        usual = self._reach.tolerance
        return vote(merged, held_out, usual if self.tolerance is None else self.tolerance)

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Take shorter steps after a set that this node proposed was refused."""
        self._step.after(outcome)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Return the mean by the weights of the agreed set."""
        n = len(updates)
        fewest = min(n, max(round_info.quorum, n - self.f))
        rows = cut_to_length(updates.vectors, self.f, round_info.quorum)
        return capped_mean(rows, updates.weights, fewest, halvings(updates.weights))
