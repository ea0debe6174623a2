"""The simulator: a swarm, a scenario and a task in, what came of it out; decided by a seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.lab.checkpoint import CheckpointFolder, settings
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment, Hostile, OnModel, Progress
from qres_core.lab.parts import part
from qres_core.lab.record import SimulationResult
from qres_core.training.table import swarm_task
from qres_core.training.tasks import Task, TaskConfig, by_records, make_task
from qres_core.training.workers import MakeWorker

_ENGINE: Final = "simulation.engine"


def simulate(  # noqa: PLR0913 - all but what is played by name
    config: Config,
    scenario: Scenario,
    *,
    task: Task | TaskConfig | None = None,
    installed: Mapping[str, Installed] | None = None,
    progress: Progress | None = None,
    hostile: Hostile | None = None,
    on_model: OnModel | None = None,
    save: Path | None = None,
    resume: Path | None = None,
    worker: MakeWorker | None = None,
) -> SimulationResult:
    """Play a swarm from its first round to the last.

    Args:
        config: the swarm and its plugins.
        scenario: rounds, seed, network, attack.
        task: what to learn; by default what the ``[trainer]`` table of ``config`` names, or else
            the digits. Of a built-in task the options are enough.
        installed: plugins by name instead of those installed in the environment.
        progress: called with each round's record as it ends.
        hostile: plugins that the attackers run in place of the installed ones of the same name.
        on_model: given each new model as it is decided, before all nodes have it.
        save: a new folder for ``model.npz`` and for a checkpoint after each round.
        resume: such a folder, to go on from; only ``rounds``, ``workers`` and the executor may be
            others than before.
        worker: makes one of ``workers``, for example an executor of another machine; by default
            what ``executor`` names, or a process of this one.

    Returns:
        the records of all rounds and every honest node's final model digest. The same arguments
        give the same result, bit by bit.

    Raises:
        QresError: the configuration cannot start, or an honest node diverged (QRES-E601).
        ModelError: QRES-E605 for a checkpoint that cannot be read.
        ConfigError: QRES-E105 names what is other than when the checkpoint was written.
        CompatibilityError: QRES-E317 for plugins that must not begin anew.
        LabError: QRES-E804 for a worker that keeps dying.
    """
    if task is None:
        task = swarm_task(config, seed=scenario.seed)
    elif isinstance(task, TaskConfig):
        swarm = config.swarm
        task = make_task(task, nodes=swarm.nodes, seed=scenario.seed, scale=swarm.scale)
    installed = scan() if installed is None else installed
    task = by_records(task, Kernel.from_config(config, installed=installed).record_clip)
    keeper = None
    if resume is not None:
        keeper = CheckpointFolder.of(resume, settings(config, scenario, task.initial))
    elif save is not None:
        keeper = CheckpointFolder.new(save, settings(config, scenario, task.initial))
    experiment = Experiment(
        config, scenario, task, installed, hostile, progress, on_model, keeper, worker
    )
    kind = EventEngine if scenario.engine == "events" else part(scenario.engine, _ENGINE)
    engine = kind(experiment)
    begun = False
    try:
        if experiment.start is not None:
            engine.go_on(experiment.start)
        begun = True
        engine.run()
    finally:
        engine.adversary.trainings.close()  # first: a disk that takes no model leaves no worker
        # What is refused leaves the folder as it was.
        if begun and keeper is not None and engine.step:
            keeper.finish(engine.model())
        for kernel in dict.fromkeys(engine.kernels):
            kernel.teardown()
    return engine.result()
