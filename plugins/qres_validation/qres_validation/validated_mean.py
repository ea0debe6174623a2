"""The ``validated_mean`` plugin: a mean whose weights come from held-out examples."""

from __future__ import annotations

import attrs
import numpy as np

from qres_core import (
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
)
from qres_validation.capped_mean import capped_mean
from qres_validation.endorsement import vote
from qres_validation.mixing import mixing_weights, shares
from qres_validation.options import at_least, count, help_text


@attrs.frozen
class ValidatedMean:
    """A mean of updates, weighted so that it comes nearest to what held-out examples ask for.

    In three steps:

    - **The proposer** (``screen``) trains from the round's model on its own held-out examples. It
      shortens every update to the median length and looks for weights, none above one part in
      ``n - f``, for which the weighted mean is nearest to that reference. At least ``n - f``
      updates keep some weight; the weights are part of the agreed set.
    - **Every node** (``endorse``) votes only for a set whose mean does not raise the loss on its
      own held-out examples by more than ``tolerance``.
    - **The rule** (``aggregate``) is the weighted mean of the shortened updates, exact, with no
      weight above one part in the quorum whatever the proposer said.

    Updates that point away from the reference lose their weight, and those that are needed to
    build it gain, however far apart they lie: the rule holds where honest data differ so much that
    geometry cannot tell a liar from a node with rare data. What it rests on is the proposer's
    held-out examples: they have to stand for the task. A lying proposer chooses weights to its
    liking, but only within the cap and only what a quorum endorses.

    Attributes:
        f: updates of a round that may be anything.
        tolerance: how much the merged update may raise a node's held-out loss, as a share of it.

    Raises:
        ValueError: an option is out of range; the message names it.

    Complexity: the proposer trains on its examples and takes O(n**2 d); each node evaluates two
        models; the rule is O(n d).

    Source:
        A trusted update from a small clean set: X. Cao, M. Fang, J. Liu, N. Gong, "FLTrust:
        Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021. Weights from a
        least-squares fit on a capped simplex, and the vote, are this plugin's own.
        ``(f, kappa)``-robustness is not claimed: no geometric bound holds for a rule that does not
        go by geometry.
    """

    f: int = attrs.field(
        validator=count(0),
        metadata=help_text("How many updates of a round may be anything (Byzantine senders)."),
    )
    tolerance: float = attrs.field(
        default=0.1,
        validator=at_least(0.0),
        metadata=help_text(
            "How much a merged update may raise the loss on this node's held-out examples before "
            "the node votes against it, as a share of the loss."
        ),
    )

    @property
    def needs(self) -> Needs:
        """Single updates and an honest majority of them."""
        return Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 1, tolerates=self.f)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Refuse a trainer that cannot make the reference.

        Raises:
            CompatibilityError: QRES-E311.
        """
        if not node_info.references:
            raise CompatibilityError.of(
                "QRES-E311",
                "plugins.validated_mean",
                "compares updates with one made from held-out examples, and the node's trainer "
                "makes none",
                "give the trainer reference(vector, round_info), or set simulation.task.held_out",
            )

    @hookimpl
    def screen(self, updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> Screening:
        """Weight what could be proposed by this node's held-out examples.

        Args:
            updates: int32, shape ``(n, d)``.
            held_out: the node's own examples.
            round_info: the round.

        Returns:
            a share for every sender; at least the quorum's number are above 0.

        Raises:
            ValueRefusedError: what the trainer's ``reference`` refuses.
        """
        fewest = max(round_info.quorum, len(updates) - self.f)
        rows = updates.vectors.astype(np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        median = float(np.sort(lengths)[(len(lengths) - 1) // 2])
        rows *= np.minimum(1.0, median / np.maximum(lengths, 1e-300))[:, None]
        weights = mixing_weights(rows, held_out.reference().astype(np.float64), fewest)
        return Screening(shares=dict(zip(updates.senders, shares(weights, fewest), strict=True)))

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        """Accept what does not raise this node's held-out loss beyond the tolerance."""
        return vote(merged, held_out, self.tolerance)

    @hookimpl
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Return the weighted mean of the updates, shortened to the median length.

        Args:
            updates: int32 of shape ``(n, d)``, with the weights of the agreed set. Not changed.
            round_info: the round.

        Returns:
            int32 of shape ``(d,)``, new memory; the same bits on every machine.

        Raises:
            ValueRefusedError: QRES-E505 if ``n < 2 f + 1``.
        """
        n = len(updates)
        if n < 2 * self.f + 1:
            raise ValueRefusedError.of(
                "QRES-E505",
                "updates",
                f"n = {n} updates, validated_mean with f = {self.f} needs n >= {2 * self.f + 1}",
                "raise swarm.quorum or lower plugins.validated_mean.f",
            )
        fewest = min(n, max(round_info.quorum, n - self.f))
        return capped_mean(updates.vectors, updates.weights, fewest)
