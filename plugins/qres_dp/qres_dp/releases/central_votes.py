"""Mode central with a clip that follows a quantile: every node votes whether its update fitted."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from qres_core import Contribution, RoundInfo, Surroundings
from qres_dp import central
from qres_dp.adaptive import AdaptiveClip, ClippedIndicator, split
from qres_dp.clip import Clipped
from qres_dp.fitting import of_round
from qres_dp.following import Following, ballots, noisy_votes
from qres_dp.modes import Mechanism
from qres_dp.releases.central import CentralRelease, MergeBasis
from qres_dp.terms import Quantile


@attrs.define(eq=False)
class VotedRelease(CentralRelease):
    """As :class:`CentralRelease`, where part of a round's privacy is spent on the votes."""

    quantile: Quantile
    _following: Following = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._following = Following(self.quantile.share, self.quantile.rate, None)

    # ── the mechanism ─────────────────────────────────────────────────────────────────────────

    def sized(self, bound: int, around: Surroundings) -> Mechanism:
        """See :meth:`Release.sized`; the vector has what the votes leave of the privacy."""
        usual = super().sized(bound, around)
        multiplier = split(usual.noise_multiplier, around.nodes).vector
        return attrs.evolve(usual, noise_multiplier=multiplier)

    def mechanism(self, around: Surroundings) -> Mechanism:
        """See :meth:`Release.mechanism`; QRES-E313 too where the grid holds no bound."""
        made = super().mechanism(around)
        self._rule(made, around)
        return made

    def _rule(self, start: Mechanism, around: Surroundings) -> AdaptiveClip:
        return _rule(self.quantile, start, around.dimension or 1, around.nodes)

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def begin(self, folder: Path | None) -> None:
        super().begin(folder)
        self._following = Following(self.quantile.share, self.quantile.rate, folder)

    def closed(self) -> None:
        """The bound that the round's votes made is the next round's."""
        super().closed()
        self._following.closed()

    def forget(self) -> None:
        super().forget()
        self._following.forget()

    @property
    def status(self) -> Mapping[str, object]:
        """``clip_steps``, the bound in steps of the grid, where it is known."""
        radius = self._following.radius
        return {} if radius is None else {"clip_steps": radius}

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    def own(self, round_info: RoundInfo) -> MergeBasis:
        """See :meth:`CentralRelease.own`.

        Raises ValueRefusedError: QRES-E507 for a node that missed rounds.
        """
        start, around = self.fitted(round_info), of_round(round_info)
        bound = self._following.bound(self._rule(start, around), start.bound, round_info)
        return MergeBasis(self.sized(AdaptiveClip.radius(bound), around), bound)

    def agreed(self, contributions: Sequence[Contribution], round_info: RoundInfo) -> MergeBasis:
        """See :meth:`CentralRelease.agreed`.

        Raises ValueRefusedError: QRES-E505 where the contributions name no bound, or several.
        """
        around, cast = of_round(round_info), _ballots(contributions)
        self.fitted(round_info)
        bound = AdaptiveClip.agreed((vote.bound for vote in cast), round_info.byzantine)
        return MergeBasis(self.sized(AdaptiveClip.radius(bound), around), bound)

    def said(self, own: MergeBasis, clipped: Clipped, round_info: RoundInfo) -> bytes:
        """The node's ballot."""
        del round_info
        return ClippedIndicator(not clipped.was_outside, own.bound).to_bytes()

    def learn(
        self,
        agreed: MergeBasis,
        contributions: Sequence[Contribution],
        key: bytes,
        round_info: RoundInfo,
    ) -> None:
        """Note the bound that the votes make."""
        around, cast = of_round(round_info), _ballots(contributions)
        rule = self._rule(self.mechanism(around), around)
        votes = split(self.terms.multiplier, around.nodes).votes
        noisy = noisy_votes(cast, votes, self.terms.relation, key)
        self._following.learn(round_info.step, rule.move(agreed.bound, noisy, len(cast)))


def _ballots(contributions: Sequence[Contribution]) -> list[ClippedIndicator]:
    return ballots(contributions, central.NAME, central.SEED_BYTES)


@functools.lru_cache(maxsize=64)
def _rule(quantile: Quantile, start: Mechanism, dimension: int, nodes: int) -> AdaptiveClip:
    following = Following(quantile.share, quantile.rate, None)
    return following.rule(start, dimension=dimension, nodes=nodes)
