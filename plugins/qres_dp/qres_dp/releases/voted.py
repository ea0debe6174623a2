"""Mode distributed with a clip that follows a quantile: each update has a vote beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import attrs
from qres_arithmetic import squared_norm

from qres_core import (
    Contribution,
    Extent,
    Needs,
    Outcome,
    OwnContributions,
    Problem,
    RoundError,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Update,
    Updates,
    fixed,
    vector_digest,
)
from qres_dp.adaptive import FINE, SPAN, AdaptiveClip, PrivacySplit, split
from qres_dp.clip import clip
from qres_dp.following import Following
from qres_dp.modes import Mechanism, steps
from qres_dp.releases.local import noised
from qres_dp.releases.shared import SharedRelease
from qres_dp.terms import Adaptation
from qres_dp.votes import VoteNoise, digest_of, named_bounds, sums_of


@attrs.define(eq=False)
class VotedRelease(SharedRelease):
    """As :class:`SharedRelease`, where update and vote are one release with one charge.

    Neighbours move the sum of updates by the sensitivity and the sum of votes by ``UNIT``, so both
    together are a Gaussian release of the terms' noise multiplier: see
    :attr:`~qres_dp.adaptive.PrivacySplit.together`.
    """

    adaptation: Adaptation
    _following: Following | None = attrs.field(init=False, default=None)
    _scale: int = attrs.field(init=False, default=0)

    # A node that does not hear of a set's votes does not know the next bound.
    needs: ClassVar[Needs] = attrs.evolve(SharedRelease.needs, outcomes=True)
    accompanies: ClassVar[bool] = True
    span: ClassVar[int] = SPAN

    # ── the mechanism ─────────────────────────────────────────────────────────────────────────

    @property
    def parts(self) -> PrivacySplit:
        """How a round's privacy is divided."""
        return split(self.terms.multiplier, max(1, self.terms.honest))

    @property
    def noise(self) -> VoteNoise:
        """The noise of the votes."""
        return VoteNoise.of(self.parts, max(1, self.terms.honest))

    @property
    def notices(self) -> tuple[str, ...]:
        """What a liar can do, and where the votes of so few nodes drown in their noise."""
        liars = (
            "votes are not proved: a liar in a sum, or liars in half of the groups, choose how the "
            "bound moves, by at most the factor exp(adaptive_rate) a round and between "
            f"clip / {SPAN} and clip * {SPAN}"
        )
        wide, honest = self.parts.votes, self.terms.honest
        if 2.0 * wide <= honest:
            return (liars,)
        few = (
            f"the noise of the votes has a deviation of {wide:.3g} nodes, and {honest} are counted "
            "on: the clip wanders. adaptive_quantile = 0 gives more for the same epsilon"
        )
        return liars, few

    def sized(self, bound: int, around: Surroundings) -> Mechanism:
        """See :meth:`Release.sized`: what is left for the vector."""
        return attrs.evolve(super().sized(bound, around), noise_multiplier=self.parts.vector)

    def mechanism(self, around: Surroundings) -> Mechanism:
        """See :meth:`Release.mechanism`; the grid holds every bound the clip may move to."""
        self.noise.check(around.nodes)
        return super().mechanism(around)

    def misfits(self, around: Surroundings) -> Iterator[Problem]:
        """See :meth:`Release.misfits`.

        Yields QRES-E314 too, where nodes that may collude could keep a set from naming one bound.
        """
        yield from super().misfits(around)
        honest = around.quorum - around.colluders
        if honest <= around.byzantine:
            what = (
                f"{honest} nodes of a quorum are sure to name the bound they clipped to, and "
                f"swarm.byzantine = {around.byzantine} may name another"
            )
            fix = "a larger swarm.quorum, or adaptive_quantile = 0"
            yield Problem("QRES-E314", "plugins.dp.adaptive_quantile", what, fix)

    def cautions(self, around: Surroundings) -> Iterator[str]:
        """A swarm that no node can sit out in stops when a node does not know the bound."""
        yield from super().cautions(around)
        if around.quorum == around.nodes:
            yield (
                f"swarm.quorum is {around.quorum}, all nodes: one that misses a model must sit out "
                "a round to learn the clip, and without it there is none. A smaller quorum goes on"
            )

    def extent(self, around: Surroundings) -> Extent:
        """See :meth:`Release.extent`: with the greatest bound."""
        usual = super().extent(around)
        return attrs.evolve(usual, length=usual.length * SPAN, noise=usual.noise * SPAN)

    def rule(self, around: Surroundings) -> AdaptiveClip:
        """How the bound moves, and how far it may get."""
        bound = self._first(around.scale)
        return AdaptiveClip(
            self.adaptation.quantile, self.adaptation.rate, max(1, bound // SPAN), bound * SPAN
        )

    def told(self, around: Surroundings) -> Mapping[str, object]:
        """How privacy is divided, and between which clips the bound moves."""
        step = 2.0 ** (around.scale - fixed.FRACTION_BITS)
        rule = self.rule(around)
        return {
            "noise": "independent",
            "adaptive_quantile": self.adaptation.quantile,
            "adaptive_rate": self.adaptation.rate,
            "lowest_clip": rule.lowest * step,
            "highest_clip": rule.highest * step,
            "vector_multiplier": self.parts.vector,
            "votes_multiplier": self.parts.votes,
            "variance_of_vote_share": str(self.noise.share),
        }

    def status(self) -> Mapping[str, object]:
        """The clip that was known last, in the model's units."""
        known = self._following.known if self._following is not None else None
        if known is None:
            return {"clip": self.terms.clip}
        step = 2.0 ** (self._scale - fixed.FRACTION_BITS)
        return {"clip": AdaptiveClip.radius(known.bound) * step}

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        """See :meth:`Release.opened`.

        Raises RoundError: QRES-E602 where the file of the bound is damaged or of other settings.
        """
        super().opened(round_info, contributed)
        shape = (round_info.swarm, self._first(round_info.scale), round_info.scale)
        if self._following is None:
            self._following, self._scale = Following(self.folder, shape), round_info.scale
        elif self._following.shape != shape:
            what = "the grid changed while the clip follows a quantile"
            raise RoundError.of("QRES-E602", "plugins.dp.adaptive_quantile", what)
        self._following.opened(round_info)

    def closed(self, outcome: Outcome) -> None:
        """The bound moves with the model. Raises RoundError: QRES-E602."""
        if outcome.status is RoundStatus.CLOSED and outcome.merged and self._following is not None:
            self._following.closed(outcome.round_info, outcome.model_digest)

    def close(self) -> None:
        """Let go of what it knows of the bound too; idempotent."""
        super().close()
        if self._following is not None:
            self._following.close()
        self._following = None

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    def out(self, update: Update, round_info: RoundInfo) -> Update:
        """See :meth:`Release.out`.

        Raises ValueRefusedError: QRES-E507 for a node that does not know the bound of the round.
        """
        terms, book, noise = self.terms, self.book, self.noise
        bound = self._held.of(round_info, self._first(round_info.scale) * FINE)
        mechanism = attrs.evolve(self.fitted(round_info), bound=AdaptiveClip.radius(bound))
        charge = attrs.evolve(terms.charge(mechanism, round_info, self.by), votes=noise.multiplier)
        book.after(charge, terms.budget)  # before the work
        noisy = noised(clip(update.vector, mechanism.length).vector, mechanism)
        ballot = noise.ballot(AdaptiveClip.vote(squared_norm(update.vector), bound), bound)
        content = digest_of(vector_digest(noisy), ballot)
        book.charge(attrs.evolve(charge, content=content), terms.budget)
        return attrs.evolve(update, vector=noisy, weight=1, companions=ballot)

    def revealed(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates:
        """See :meth:`SharedRelease.revealed`; the votes of the set tell how the bound moves.

        Raises ValueRefusedError: QRES-E505 where the set names no bound or two, or has no votes.
        """
        checked = super().revealed(updates, contributions, round_info)
        bound = AdaptiveClip.agreed(named_bounds(contributions), round_info.byzantine)
        moved = self.rule(self.around(round_info)).move(bound, sums_of(updates))
        self._held.decided(round_info, moved)
        return checked

    def _first(self, scale: int) -> int:
        """The clip of the options, in steps of the grid."""
        return max(1, steps(self.terms.clip, scale))

    @property
    def _held(self) -> Following:
        if self._following is None:
            raise RoundError.of("QRES-E602", "plugins.dp.adaptive_quantile", "no round was opened")
        return self._following
