"""The demonstration: the same swarm clean, attacked without a defence, attacked with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

NODES: Final = 20
ATTACKERS: Final = 6
QUORUM: Final = 15
SELECTED: Final = 8
ROUNDS: Final = 12

FAILS_POINTS: Final = 30.0
"""Accuracy points below clean from which a run counts as failed."""
HOLDS_POINTS: Final = 5.0
"""Accuracy points below clean up to which a defence counts as holding."""


@attrs.frozen
class Arm:
    """One run of the demonstration."""

    label: str  # what the picture calls it
    plugins: Mapping[str, Mapping[str, Any]]  # the ``[plugins]`` tables
    attacked: bool  # whether the attackers attack


_MEAN: Final = {"memory": {}, "mean": {"unprotected": True}}
_KRUM: Final = {"memory": {}, "krum": {"f": ATTACKERS, "select": SELECTED}}

CLEAN: Final = Arm("mean, nobody attacks", _MEAN, attacked=False)
UNDEFENDED: Final = Arm("mean, attacked", _MEAN, attacked=True)
DEFENDED: Final = Arm("krum, attacked", _KRUM, attacked=True)


@attrs.frozen
class DemoResult:
    """Results of the demonstration."""

    clean: SimulationResult  # the swarm without attackers
    undefended: SimulationResult  # the mean under attack
    # Krum under attack, ``None`` where qres-krum is not installed
    defended: SimulationResult | None

    @property
    def runs(self) -> tuple[tuple[Arm, SimulationResult], ...]:
        """Every run with its arm."""
        runs = [(CLEAN, self.clean), (UNDEFENDED, self.undefended)]
        if self.defended is not None:
            runs.append((DEFENDED, self.defended))
        return tuple(runs)

    def points_below_clean(self, result: SimulationResult) -> float:
        """Final accuracy below the clean run's, in points."""
        clean, other = self.clean.final("accuracy"), result.final("accuracy")
        return 100.0 * ((clean or 0.0) - (other or 0.0))

    @property
    def shortfall(self) -> str:
        """Describe the result that was not as claimed, or return an empty string."""
        lost = self.points_below_clean(self.undefended)
        found: list[str] = []
        if lost < FAILS_POINTS:
            found.append(f"the mean lost {lost:.1f} points, less than {FAILS_POINTS:.0f}")
        if self.defended is None:
            found.append("no defence was run")
        elif (kept := self.points_below_clean(self.defended)) > HOLDS_POINTS:
            found.append(f"krum lost {kept:.1f} points, more than {HOLDS_POINTS:.0f}")
        found.extend(
            f"honest nodes disagree in {arm.label!r}"
            for arm, result in self.runs
            if not result.unanimous
        )
        return "; ".join(found)

    @property
    def as_claimed(self) -> bool:
        """True if the mean failed, Krum held and all honest nodes agree in every run."""
        return not self.shortfall


def arm_config(arm: Arm) -> Config:
    """The configuration of an arm, as a file would say it."""
    swarm = {
        "name": "demo",
        "nodes": NODES,
        "byzantine": ATTACKERS,
        "quorum": QUORUM,
        "insecure": True,
    }
    return parse({"swarm": swarm, "plugins": dict(arm.plugins)}, source="qres demo")


def run_arm(
    arm: Arm,
    scenario: Scenario,
    installed: Mapping[str, Installed],
    progress: Callable[[RoundRecord], None] | None,
) -> SimulationResult:
    """Run one arm of the scenario."""
    if not arm.attacked:
        scenario = attrs.evolve(scenario, attack="", attackers=0)
    return simulate(
        arm_config(arm), scenario, task=TaskConfig(), installed=installed, progress=progress
    )
