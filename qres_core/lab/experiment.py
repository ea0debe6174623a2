"""Experiments: the swarm to simulate, and the things to tell and keep of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import numpy as np

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_core.lab.checkpoint import Checkpoint, CheckpointFolder
from qres_core.lab.record import RoundRecord
from qres_core.swarm.storage.model_file import SwarmModel
from qres_core.training.tasks import Task
from qres_core.training.workers import MakeWorker

Progress = Callable[[RoundRecord], None]
OnModel = Callable[[SwarmModel], None]
Hostile = Callable[[int], Mapping[str, Installed]]
"""The plugins an attacker runs in place of those of the same name, by its number from 0."""


@attrs.frozen(eq=False)
class Experiment:
    """A simulation to be played."""

    config: Config  # the swarm and its plugins
    scenario: Scenario  # rounds, seed, network, attack
    task: Task  # what to learn
    installed: Mapping[str, Installed]  # plugins by name
    # plugins that the attackers run in place of the installed ones of the same name
    hostile: Hostile | None = None
    progress: Progress | None = None  # called with each round's record as it ends
    on_model: OnModel | None = None  # given each new model of the observer
    keeper: CheckpointFolder | None = None  # writes down what it takes to go on, after each round
    worker: MakeWorker | None = None  # makes a worker that trains; a process if left out

    @property
    def start(self) -> Checkpoint | None:
        """Checkpoint that it goes on from; ``None`` from the first round."""
        return None if self.keeper is None else self.keeper.start

    @property
    def honest(self) -> int:
        """Number of nodes that do not attack: the first ones."""
        return self.config.swarm.nodes - self.scenario.attackers

    def stream(self, *purpose: int) -> np.random.Generator:
        """A random stream of the seed.

        ``purpose``: 1 for the network, 2 for what attackers agree on and the first of them, 3 for
        dropouts, 4 for what attackers inject; 5 and a number for each other attacker.
        """
        entropy = np.random.SeedSequence((self.scenario.seed, *purpose))
        return np.random.Generator(np.random.PCG64(entropy))
