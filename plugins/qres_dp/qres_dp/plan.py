"""Plan of the plugin in a swarm, and its cost, before anything is started.

A plan is what the plugin does with the same options, in numbers: the clipping bound and the noise
in steps of the grid, what they are in the model's units, every charge of the ledger, and what all
of them come to. What cannot be done is refused by name; there is no plan with a warning in its
place.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs

from qres_core import Surroundings, fixed
from qres_core.errors import CompatibilityError
from qres_dp import accounting, grid
from qres_dp.account import PrivacyAccount
from qres_dp.fitting import refuse
from qres_dp.modes import Mechanism, Unit
from qres_dp.releases import Release
from qres_dp.terms import ReleaseTerms
from qres_dp.trust import trust_of

VERSION: Final = 2
"""Of the JSON of a plan; raised when a key changes its meaning or goes."""


@attrs.frozen
class PrivacyPlan:
    """Plan that options give in a swarm."""

    terms: ReleaseTerms  # what the options say
    around: Surroundings  # the swarm
    mechanism: Mechanism  # clipping and noise of one round, in steps of the grid
    account: PrivacyAccount  # every charge of a run of the planned rounds
    details: dict[str, Any]  # what the mode adds

    @property
    def epsilon(self) -> float:
        """Of all rounds together, an upper bound; at most the budget."""
        return self.account.epsilon

    @property
    def step(self) -> float:
        """One step of the grid in the model's units."""
        return math.ldexp(1.0, self.around.scale - fixed.FRACTION_BITS)

    @property
    def noise_of_share(self) -> float:
        """Standard deviation of the noise drawn at once, per coordinate, in the model's units."""
        return math.sqrt(self.mechanism.share) * self.step

    @property
    def noise_of_sum(self) -> float:
        """Standard deviation of the noise in a sum of all nodes, per coordinate."""
        return self.noise_of_share * math.sqrt(self.around.nodes)

    @property
    def noise_of_mean(self) -> float:
        """Standard deviation of the noise in the mean of all nodes, per coordinate."""
        return self.noise_of_sum / self.around.nodes

    @property
    def longest(self) -> float:
        """Greatest L2 norm of an update, and so of the mean of all, in the model's units."""
        return self.terms.clip * self.mechanism.units

    @property
    def signal_to_noise(self) -> float | None:
        """Longest mean over the length of its noise; ``None`` for an unknown dimension."""
        if not self.around.dimension:
            return None
        return self.longest / (self.noise_of_mean * math.sqrt(self.around.dimension))

    @property
    def room(self) -> float:
        """The part of the grid's range that clipped updates and the noise beside them take."""
        return grid.room(self.mechanism, self.around.nodes) / fixed.LIMIT

    def to_json(self) -> dict[str, Any]:
        """The plan as ``qres dp plan --json`` prints it: see docs/reference/privacy-plan.md."""
        mechanism, around, terms = self.mechanism, self.around, self.terms
        return {
            "version": VERSION,
            "noise_multiplier": terms.multiplier,
            **self.account.to_json(),
            "budget": attrs.asdict(terms.budget),
            "mechanism": {
                "mode": terms.mode.value,
                "unit": terms.unit.value,
                "relation": terms.relation.value,
                "clip": terms.clip,
                "records": terms.units if terms.unit is Unit.RECORD else None,
                "scale": around.scale,
                "nodes": around.nodes,
                "members": around.members,
                "colluders": around.colluders,
                "honest": mechanism.honest,
                "dimension": around.dimension,
                "bound_steps": mechanism.bound,
                "sensitivity_steps": mechanism.sensitivity,
                "variance_of_share_steps": str(mechanism.share),
                "noise_of_share_steps": math.sqrt(mechanism.share),
                "noise_of_share": self.noise_of_share,
                "noise_of_sum": self.noise_of_sum,
                "noise_of_mean": self.noise_of_mean,
                "signal_to_noise": self.signal_to_noise,
                "room_used": self.room,
                **self.details,
            },
            "trust": trust_of(terms, around).to_json(),
        }


def plan_of(release: Release, rounds: int, around: Surroundings) -> PrivacyPlan:
    """Plan a plugin, with every check of precision, headroom and the swarm's numbers.

    Args:
        release: of the plugin, made from its options.
        rounds: the option; 0 for as many as the budget lasts for.
        around: the swarm.

    Returns:
        a plan whose epsilon is at most the budget's.

    Raises:
        CompatibilityError: QRES-E314 for parameters that keep no such promise; QRES-E313 for a grid
            that does not hold them, with the scale that would.

    Complexity: O(1).
    """
    terms = release.terms
    refuse(release.misfits(around))
    if not rounds:
        budget = terms.budget
        rounds = accounting.most_rounds(terms.multiplier, budget.epsilon, budget.delta)
    account = PrivacyAccount(release.charges(rounds, around), terms.budget.delta)
    made = PrivacyPlan(
        terms, around, release.mechanism(around), account, dict(release.told(around))
    )
    if not made.epsilon <= terms.budget.epsilon:  # written so that a NaN refuses
        what = f"the plan comes to epsilon {made.epsilon:.9g}, over {terms.budget.epsilon:.9g}"
        raise CompatibilityError.of(
            "QRES-E314", "plugins.dp.epsilon", what, "this is a fault of QRES"
        )
    return made
