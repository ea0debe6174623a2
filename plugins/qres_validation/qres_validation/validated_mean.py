"""The ``validated_mean`` plugin: a mean whose weights come from held-out examples."""

from __future__ import annotations

import attrs

from qres_core import (
    Claims,
    CompatibilityError,
    HeldOut,
    Needs,
    NodeInfo,
    RoundInfo,
    Screening,
    Updates,
    ValueRefusedError,
    Vector,
    Verdict,
    Visibility,
    hookimpl,
    options,
)
from qres_validation.capped_mean import capped_mean, cut_to_length, usual_rank
from qres_validation.endorsement import vote
from qres_validation.promise import Fit


@attrs.frozen
class ValidatedMean:
    """A mean of updates, weighted so that it comes nearest to what held-out examples ask for.

    In three steps:

    - **The proposer** (``screen``) trains from the round's model on its own held-out examples and
      looks for weights, none above one part in ``c``, the greater of ``n - f`` and the quorum, for
      which the weighted mean of the updates is nearest to that reference. At least ``c`` updates
      keep some weight; the weights are part of the agreed set.
    - **Every node** (``endorse``) votes only for a set whose mean does not raise the loss on its
      own held-out examples by more than ``tolerance``.
    - **The rule** (``aggregate``) is the weighted mean, exact, with no weight above one part in
      ``c`` of the agreed set, whatever the proposer said.

    Why it holds: where ``c`` updates or more are honest, equal weights on these alone are within
    the cap, so whatever the liars send, the best mean is no farther from the reference ``u`` than
    the honest mean ``h`` is, and ``|F - h| <= 2 |h - u|``. There is no term for how much honest
    data differ: the rule works where geometry cannot tell a liar from a node with rare data. What
    it rests on is that the proposer's held-out examples stand for the task: with classes missing
    from them it is worse than a geometric rule. A lying proposer chooses weights to its liking,
    but only within the cap and only what a quorum endorses.

    Attributes:
        f: updates of a round that may be anything.
        tolerance: how much the merged update may raise a node's held-out loss, as a share of it.

    Raises:
        OptionError: QRES-E105, an option is out of range; the message names it.

    Complexity: the proposer trains on its examples and takes O(n**2 d); each node evaluates two
        models; the rule is O(n d).

    Source:
        A trusted update from a small clean set: X. Cao, M. Fang, J. Liu, N. Gong, "FLTrust:
        Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021. Weights from a
        least-squares fit on a capped simplex, and the vote, are this plugin's own.
        ``(f, kappa)``-robustness is not claimed: the bound above is in terms of the reference, not
        of how the honest updates are spread.
    """

    f: int = attrs.field(**options.liars())
    tolerance: float = attrs.field(
        default=0.1,
        validator=options.real(0),
        metadata=options.help_text(
            "Share of the loss by which a merged update may raise the loss on this "
            "node's held-out examples before the node votes against it."
        ),
    )

    @property
    def claims(self) -> Claims:
        """Single updates and an honest majority of them."""
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Refuse a trainer that cannot make the reference: QRES-E311."""
        if not node_info.references:
            raise CompatibilityError.of(
                "QRES-E311",
                "plugins.validated_mean",
                "compares updates with one made from held-out examples, and the node's trainer "
                "makes none",
                "give the trainer reference(vector, round_info), or set trainer.task.held_out",
            )

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> Screening:
        """Weight what could be proposed by this node's held-out examples.

        At least the quorum's number of shares are above 0. Raises what the trainer's ``reference``
        refuses with.
        """
        fit = Fit.of(updates, held_out.reference(), self.f, round_info.quorum)
        return Screening(shares=fit.shares, check=fit.check)

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        """Accept what does not raise this node's held-out loss beyond the tolerance."""
        return vote(merged, held_out, self.tolerance)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Return the mean by the weights of the agreed set. Raises QRES-E505 if ``n < 2 f + 1``."""
        n = len(updates)
        if n < 2 * self.f + 1:
            raise ValueRefusedError.of(
                "QRES-E505",
                "updates",
                f"n = {n} updates, validated_mean with f = {self.f} needs n >= {2 * self.f + 1}",
                "raise swarm.quorum or lower plugins.validated_mean.f",
            )
        fewest = min(n, max(round_info.quorum, n - self.f))
        rows = cut_to_length(updates.vectors, usual_rank(self.f, round_info.quorum))
        return capped_mean(rows, updates.weights, fewest)
