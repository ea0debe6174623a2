"""Training in other processes, several nodes at a time: ``[simulation] workers``.

The nodes are dealt to the workers in turn, and each stays with its own: a worker holds the trainers
of its nodes, and gets the model and the round of each training. The engine asks for a training as
soon as a node begins it, and for the result when the virtual clock says that it is done. So several
trainings run at once, and nothing that the swarm sees depends on how many.

Whatever else a trainer does, it does in the process of the simulation: it evaluates and judges.
What it keeps from round to round it says (:class:`~qres_core.training.RememberingTrainer`): it
travels along with a training, where the worker does not have it already. A training that began from
anything else than what the trainer keeps when its result is due is done again.

A worker is any :class:`concurrent.futures.Executor` that runs what it is given in order and in one
place. Its memory is what this module holds under :data:`_HELD`.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, Final, TypeAlias
from uuid import uuid4

import attrs

from qres_core.contract.errors import LabError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import abilities_of
from qres_core.contract.training import TrainerError, TrainerFailure, fitted
from qres_core.contract.types import Update, Vector

RESTARTS: Final = 2
"""How often in a row a worker is started anew that died."""
_WHERE: Final = "simulation.workers"
_TOLD: Final = 400
"""Characters that a message tells of why a worker died."""

Made: TypeAlias = tuple[Update | TrainerFailure | None, bytes | None]
"""What came of a training, and what the trainer keeps from now on."""
MakeWorker: TypeAlias = Callable[[], Executor]
"""Makes a worker. Its ``shutdown`` must not wait for what it still does."""
_Key: TypeAlias = tuple[int, bytes]


# ── in the worker ─────────────────────────────────────────────────────────────────────────────────

_HELD: Final[dict[str, Mapping[int, Trainer]]] = {}
"""The trainers of a worker's nodes, by its name."""


def _hold(name: str, trainers: bytes) -> None:
    _HELD[name] = pickle.loads(trainers)  # noqa: S301 - the simulation's own


def _fit(name: str, node: int, model: Vector, info: RoundInfo, memory: bytes | None) -> Made:
    trainer = _HELD[name][node]
    _recall(trainer, memory)
    model.flags.writeable = False
    try:
        made: Update | TrainerFailure | None = fitted(trainer, model, info)
    except TrainerError as error:
        made = error.failure
    return made, _memory(trainer)


def _memory(trainer: Trainer) -> bytes | None:
    keeping = abilities_of(trainer).memory
    return None if keeping is None else keeping.remember()


def _recall(trainer: Trainer, memory: bytes | None) -> None:
    keeping = abilities_of(trainer).memory
    if keeping is not None and memory is not None:
        keeping.recall(memory)


def _begin() -> None:
    """Leave Ctrl-C to the simulation, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


class TrainingProcess(ProcessPoolExecutor):
    """A process that trains. It begins with nothing of this one, not even its threads."""

    def __init__(self) -> None:
        super().__init__(1, mp_context=get_context("spawn"), initializer=_begin)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as the library has it
        """End the process at once, whatever it does."""
        known: Mapping[int, Any] | None = self._processes
        processes = list((known or {}).values())
        super().shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
            process.join()


# ── in the simulation ─────────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class _Job:
    """A training that was asked for."""

    model: Vector
    info: RoundInfo
    began: bytes | None  # what the trainer kept then
    future: Future[Made]


@attrs.define(eq=False)
class _Worker:
    """One worker, and the nodes that it trains."""

    make: MakeWorker
    name: str  # its own: several may be in one process
    trainers: Mapping[int, Trainer]
    deaths: int = attrs.field(default=0, init=False)  # in a row
    _executor: Executor | None = attrs.field(default=None, init=False)
    _held: Future[None] | None = attrs.field(default=None, init=False)

    def submit(
        self, node: int, model: Vector, info: RoundInfo, memory: bytes | None
    ) -> Future[Made]:
        """Have a node train."""
        assert self._executor is not None  # noqa: S101 - it is started first
        try:
            return self._executor.submit(_fit, self.name, node, model, info, memory)
        except BrokenExecutor as error:  # told where the result is asked for
            future: Future[Made] = Future()
            future.set_exception(error)
            return future

    @property
    def started(self) -> bool:
        """True if it has the trainers."""
        return self._executor is not None

    def start(self) -> None:
        """Give it the trainers. Raises LabError: QRES-E105 where one cannot be pickled."""
        octets = self._pickled()
        self._executor = self.make()
        self._held = self._executor.submit(_hold, self.name, octets)

    def _pickled(self) -> bytes:
        try:
            return pickle.dumps(dict(self.trainers))
        except Exception as error:
            what = f"a trainer cannot be sent to another process: {type(error).__name__}: {error}"
            fix = "workers = 1; or define the trainer, and what it holds, in a module"
            raise LabError.of("QRES-E105", _WHERE, what, fix) from error

    def failed(self, error: Exception) -> LabError:
        """Reason why a worker that lives gave no result."""
        first = None if self._held is None else self._held.exception()
        told = first or error
        what = f"a trainer does not work in another process: {type(told).__name__}: {told}"
        fix = "workers = 1; or see that a worker can import the trainer's module, and what it needs"
        return LabError.of("QRES-E105", _WHERE, what, fix)

    def died(self, error: BrokenExecutor) -> None:
        """Begin anew with the next training. Raises LabError: QRES-E804 after too many times."""
        self.close()
        self.deaths += 1
        if self.deaths > RESTARTS:
            nodes = ", ".join(f"node-{node}" for node in self.trainers)
            what = f"the process that trains {nodes} died {self.deaths} times in a row"
            if told := str(error):
                what = f"{what}: {told[:_TOLD]}"
            fix = "workers = 1, without an executor, shows what the trainer does"
            raise LabError.of("QRES-E804", _WHERE, what, fix) from error

    def close(self) -> None:
        """End it."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = None


class TrainingPool:
    """Trains the nodes of a simulation.

    Args:
        trainers: of all nodes. They are sent to the workers with the first training.
        workers: how many.
        make: makes one; by default a process of this machine.
    """

    def __init__(
        self, trainers: Sequence[Trainer], workers: int, make: MakeWorker = TrainingProcess
    ) -> None:
        self._trainers, name = trainers, uuid4().hex
        numbers = range(min(workers, len(trainers)))
        self._workers = [
            _Worker(
                make, f"{name}-{k}", {i: trainers[i] for i in range(k, len(trainers), len(numbers))}
            )
            for k in numbers
        ]
        # by node, what was asked for and not taken yet, in order
        self._jobs: dict[int, dict[_Key, _Job]] = {node: {} for node in range(len(trainers))}
        # what the worker's trainer keeps, where that is known
        self._known: dict[int, bytes | None] = {}

    def begin(self, node: int, info: RoundInfo, model: Vector) -> None:
        """A node begins to train. Raises LabError: QRES-E105, QRES-E804."""
        key, jobs = (info.number, info.model_digest), self._jobs[node]
        if key not in jobs:
            jobs[key] = self._submitted(node, info, model)

    def _submitted(self, node: int, info: RoundInfo, model: Vector) -> _Job:
        worker = self._of(node)
        if not worker.started:
            self._start(worker)
        memory, nothing = _memory(self._trainers[node]), not self._jobs[node]
        there = nothing and self._known.get(node) == memory
        future = worker.submit(node, model, info, None if there else memory)
        return _Job(model, info, memory, future)

    def _start(self, worker: _Worker) -> None:
        self._known.update({node: _memory(trainer) for node, trainer in worker.trainers.items()})
        worker.start()

    def take(self, node: int, info: RoundInfo, model: Vector) -> Update | None:
        """Result of a node's training; ``None`` where there was nothing new to train on.

        Raises TrainerError: QRES-E512. Raises LabError: QRES-E105, QRES-E804.
        """
        key, trainer = (info.number, info.model_digest), self._trainers[node]
        self.begin(node, info, model)
        made, memory = self._result(node, key)
        if self._jobs[node][key].began != _memory(trainer):  # it has come to keep something else
            self._jobs[node][key] = self._submitted(node, info, model)
            made, memory = self._result(node, key)
        del self._jobs[node][key]
        self._known[node] = memory
        _recall(trainer, memory)
        if isinstance(made, TrainerFailure):
            raise TrainerError.about(made, f"node-{node}")
        return made

    def forget(self, before: int) -> None:
        """Let go of what was asked for in rounds before one, and is taken by nobody.

        A node may drop out, or a round end without it.
        """
        for node, jobs in self._jobs.items():
            for key in [key for key in jobs if key[0] < before]:
                jobs.pop(key).future.cancel()
                self._known.pop(node, None)  # its worker may have trained, and keep more by now

    def _result(self, node: int, key: _Key) -> Made:
        worker = self._of(node)
        while True:
            try:
                made = self._jobs[node][key].future.result()
            except BrokenExecutor as error:
                self._restart(worker, error)
            except Exception as error:
                raise worker.failed(error) from error
            else:
                worker.deaths = 0
                return made

    def _restart(self, worker: _Worker, error: BrokenExecutor) -> None:
        """Begin anew with a worker that died: its nodes train again what was not taken yet."""
        worker.died(error)
        self._start(worker)
        for node in worker.trainers:
            for job in self._jobs[node].values():
                job.future = worker.submit(node, job.model, job.info, job.began)

    def _of(self, node: int) -> _Worker:
        return self._workers[node % len(self._workers)]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.close()


def pool_of(
    trainers: Sequence[Trainer], workers: int, make: MakeWorker | None
) -> TrainingPool | None:
    """A pool; ``None`` where nodes train one after the other in this process."""
    if make is None and workers == 1:
        return None
    return TrainingPool(trainers, workers, TrainingProcess if make is None else make)
