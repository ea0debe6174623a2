"""Workers of a simulation that are Ray actors: each trains its share of the nodes.

A simulation gives a worker what to run in order, and expects it to run that in one place. An actor
does so: it is one process somewhere in the cluster, and holds the trainers of its nodes.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from importlib import import_module, metadata
from typing import Any, Final

import attrs
import numpy as np

from qres_core import options
from qres_core.errors import LabError

_WHERE: Final = "simulation.executor_options"
_STARTS: Final = 5
"""How often a cluster of this machine is started before it is given up."""
_LARGE: Final = 2**17
"""From so many bytes on, Ray keeps a value once for each machine."""


def imported() -> Any:
    """Ray, untyped: this project is checked where it is not installed.

    Raises LabError: QRES-E802 where it cannot be imported.
    """
    try:
        return import_module("ray")
    except ImportError as error:
        what = f"ray cannot be imported: {error}"
        raise LabError.of("QRES-E802", "qres-ray", what, "pip install ray") from error


def versions() -> Mapping[str, str]:
    """Versions that must be the same on all machines, for equal bits."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "qres-core": metadata.version("qres-core"), "numpy": np.__version__}


class Seat:
    """Class of an actor: it runs what it is given.

    Args:
        paths: where the simulation's process looks for modules.
        expected: the versions there.
    """

    def __init__(self, paths: Sequence[str], expected: Mapping[str, str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        here = versions()
        self._other = [
            f"{name} is {version} in the simulation and {here[name]} on {platform.node()}"
            for name, version in expected.items()
            if here[name] != version
        ]

    def run(self, call: Callable[..., object], /, *arguments: object, **named: object) -> object:
        """Call a function here."""
        if self._other:
            raise RuntimeError("; ".join(self._other))
        return call(*arguments, **named)


@attrs.define(kw_only=True)
class RayWorkers:
    """Makes the workers of a simulation, each a Ray actor: ``executor = "ray"``.

    An instance makes one worker when it is called. Raises LabError: QRES-E802 without Ray,
    QRES-E105 for a cluster that cannot be reached or has too little.
    """

    address: str = attrs.field(
        default="",
        metadata={
            "help": "Address of a Ray cluster, as `ray.init` takes it. Empty: RAY_ADDRESS, or a "
            "cluster that runs on this machine, or a new one."
        },
    )
    num_cpus: float = attrs.field(
        default=1.0,
        validator=options.real(0),
        metadata={"help": "Cores that a worker takes, of those that Ray counts."},
    )
    num_gpus: float = attrs.field(
        default=0.0,
        validator=options.real(0),
        metadata={"help": "GPUs that a worker takes; 0.5 lets two workers share one."},
    )
    _workers: list[RayWorker] = attrs.field(init=False, factory=list["RayWorker"])
    _last: tuple[Any, Any] = attrs.field(init=False, default=(None, None))

    def __call__(self) -> Executor:
        """Make a worker."""
        ray = imported()
        if not ray.is_initialized():
            self._connect(ray)
        self._workers = [worker for worker in self._workers if not worker.closed]
        self._see(ray.cluster_resources())
        wanted = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        kind = ray.remote(max_restarts=0, scheduling_strategy="SPREAD", **wanted)(Seat)
        self._workers.append(RayWorker(ray, kind.remote(sys.path, versions()), self._kept))
        return self._workers[-1]

    def _connect(self, ray: Any) -> None:
        # A cluster that is started here tells nobody of it.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        remote = self.address.startswith("ray://")
        own = {} if remote else {"include_dashboard": False, "logging_level": "ERROR"}
        starts = self.address in {"", "local"}
        for left in reversed(range(_STARTS if starts else 1)):
            try:
                ray.init(address=self.address or None, log_to_driver=False, **own)
            except Exception as error:
                if left:  # Ray gives up after half a minute, which a busy machine may take
                    ray.shutdown()
                    continue
                place = "on this machine" if starts else f"at {self.address}"
                what = f"no Ray cluster {place}: {error}"
                fix = "start it with `ray start --head`, or leave the address out"
                raise LabError.of("QRES-E105", f"{_WHERE}.address", what, fix) from error
            else:
                return

    def _see(self, there: Mapping[str, float]) -> None:
        """Refuse a worker that would wait for ever."""
        count = len(self._workers) + 1
        for key, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            wanted, found = count * getattr(self, key), there.get(name, 0.0)
            if wanted > found:
                what = f"{count} workers take {wanted:g} {name}s, and the Ray cluster has {found:g}"
                fix = f"a smaller {key}, fewer simulation.workers, or more machines"
                raise LabError.of("QRES-E105", f"{_WHERE}.{key}", what, fix)

    def _kept(self, value: Any) -> Any:
        """A model that many nodes train from is sent to a machine once."""
        if type(value) is not np.ndarray:
            return value
        model: Any = value
        if model.nbytes < _LARGE or model.flags.writeable:
            return model
        if self._last[0] is not model:
            self._last = model, imported().put(model)
        return self._last[1]


class RayWorker(Executor):
    """One actor. What it is given it runs in order.

    Args:
        ray: the module.
        actor: handle of a :class:`Seat`.
        kept: what travels in place of an argument.
    """

    def __init__(self, ray: Any, actor: Any, kept: Callable[[object], object]) -> None:
        self._ray, self._actor, self._kept = ray, actor, kept
        self.closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """As :meth:`concurrent.futures.Executor.submit`."""
        if self.closed:
            raise RuntimeError("the actor has ended")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        reference = self._actor.run.remote(fn, *map(self._kept, args), **kwargs)
        reference.future().add_done_callback(partial(self._settle, future))
        return future

    def _settle(self, future: Future[Any], done: Future[Any]) -> None:
        errors = self._ray.exceptions
        try:
            future.set_result(done.result())
        except errors.RayTaskError as error:  # what it ran raised
            future.set_exception(error.cause)
        except errors.RayError as error:  # the actor, its machine or the cluster is gone
            future.set_exception(BrokenExecutor(" ".join(str(error).split())))
        except BaseException as error:  # noqa: BLE001 - such as a result that cannot be read here
            future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - as the library has it
        """End the actor at once, whatever it does."""
        if not self.closed and self._ray.is_initialized():
            self._ray.kill(self._actor)
        self.closed = True
