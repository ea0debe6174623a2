"""Terms of the options: the noise and the budget that every round is made by."""

from __future__ import annotations

import functools

import attrs

from qres_core import NodeId, OwnContributions, RoundInfo, Vector, vector_digest
from qres_core.errors import CompatibilityError
from qres_core.training import RecordClip
from qres_dp import accounting
from qres_dp.ledger import PrivacyBudget
from qres_dp.ledger.record import NOTHING_LEFT, Charge
from qres_dp.modes import Mechanism, Mode, Relation, Unit


@attrs.frozen
class Correlation:
    """Noise that takes back some of that of the rounds before."""

    rounds: int  # releases of the whole stream
    band: int  # rounds whose noise is taken back
    separation: int  # a node's data are in one of so many rounds


@attrs.frozen
class Releaser:
    """Releaser: the owner that a charge names beside the mechanism and the round."""

    node: NodeId  # the node's identity
    contributed: OwnContributions  # what journal and chain knew when the round opened


@attrs.frozen
class ReleaseTerms:
    """Terms of the options, for one swarm or another."""

    mode: Mode  # who adds the noise
    relation: Relation  # what it hides
    clip: float  # greatest L2 norm of what one unit adds to an update, in the model's units
    multiplier: float  # z of a round, or of a whole stream of correlated noise
    budget: PrivacyBudget  # what may be spent in all
    honest: int = 0  # shares the noise of a sum is counted on; 0 where nothing is shared
    correlation: Correlation | None = None  # where noise is correlated between rounds
    unit: Unit = Unit.NODE  # whose presence is hidden
    units: int = 1  # most units of a node; 1 where the node is the unit

    @property
    def records(self) -> RecordClip | None:
        """Bound for a trainer, where the unit is a record."""
        return RecordClip(self.clip, self.units) if self.unit is Unit.RECORD else None

    def charge(
        self,
        mechanism: Mechanism,
        round_info: RoundInfo,
        releaser: Releaser,
        content: Vector | None = None,
        multiplier: float | None = None,
    ) -> Charge:
        """Charge of the ledger for a release.

        Args:
            mechanism: clipping and noise.
            round_info: of the release.
            releaser: who releases.
            content: what leaves, int32, shape ``(d,)``; ``None`` before it is made.
            multiplier: noise multiplier, where it is not that of the terms.
        """
        return Charge(
            swarm=round_info.swarm,
            node=releaser.node,
            journal=releaser.contributed.journal,
            height=round_info.height,
            round=round_info.number,
            head=round_info.head,
            mode=self.mode.value,
            relation=self.relation.value,
            unit=self.unit.value,
            noise_multiplier=self.multiplier if multiplier is None else multiplier,
            bound=mechanism.bound,
            scale=round_info.scale,
            dimension=round_info.dimension,
            nodes=len(round_info.roster),
            honest=mechanism.honest,
            units=mechanism.units,
            content=NOTHING_LEFT if content is None else vector_digest(content),
        )


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, rounds: int) -> float:
    return accounting.calibrate(epsilon, delta, rounds)


def settle(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    noise_multiplier: float,
    stream: bool = False,
) -> tuple[float, PrivacyBudget]:
    """The noise multiplier and the budget, from the two of three numbers that are set.

    Args:
        epsilon: of all rounds together; 0 if it is to follow.
        delta: of the guarantee.
        rounds: how many; 0 if it is to follow.
        noise_multiplier: of a round; 0 if it is to follow.
        stream: whether all rounds together are one release, of correlated noise.

    Raises:
        CompatibilityError: QRES-E314 where not two are set, and for a budget that is below a single
            round.
    """
    numbers = {"epsilon": epsilon, "rounds": rounds, "noise_multiplier": noise_multiplier}
    names = [name for name, value in numbers.items() if value]
    if len(names) != 2:
        what = f"sets {' and '.join(names) or 'neither epsilon nor rounds nor noise_multiplier'}"
        fix = "two of epsilon, rounds and noise_multiplier: the third follows from them"
        raise CompatibilityError.of("QRES-E314", "plugins.dp", what, fix)
    if not noise_multiplier:
        releases = 1 if stream else rounds
        return _calibrated(epsilon, delta, releases), PrivacyBudget(epsilon, delta)
    multiplier = float(noise_multiplier)
    cost = accounting.epsilon(multiplier, rounds or 1, delta)
    if rounds:
        return multiplier, PrivacyBudget(cost, delta)
    if cost > epsilon:
        what = f"a single round spends epsilon {cost:.6g}, and the budget is {epsilon:g}"
        fix = "a larger noise_multiplier"
        raise CompatibilityError.of("QRES-E314", "plugins.dp.epsilon", what, fix)
    return multiplier, PrivacyBudget(epsilon, delta)
