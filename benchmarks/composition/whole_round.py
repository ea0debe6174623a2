"""A round of the whole stack: the process time of every hook of one node."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import numpy as np

from composition.parts import K
from qres_core import RoundInfo, Update, Vector
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.calls import Caller
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.once import Once
from qres_core.training.tasks import Task

GROUP: Final = 8
OTHERS: Final = "others"


@attrs.define(eq=False)
class Clock:
    """Process time by plugin, without that of what it calls; one thread."""

    spent: dict[str, float] = attrs.field(factory=lambda: defaultdict[str, float](float))
    _inner: list[float] = attrs.field(factory=lambda: [0.0])

    def timed(self, name: str, run: Callable[[], Any]) -> Any:
        """Run, and add the time to the name's."""
        self._inner.append(0.0)
        start = time.process_time()
        try:
            return run()
        finally:
            whole = time.process_time() - start
            self.spent[name] += whole - self._inner.pop()
            self._inner[-1] += whole

    def of_node(self, plugin: Enabled, hook: str, ask: Caller) -> Caller:
        """What a hook costs the node that is looked at."""
        return self._timing(plugin.name, hook, ask)

    def of_others(self, _plugin: Enabled, hook: str, ask: Caller) -> Caller:
        """What it costs the others, which share verdicts."""
        return self._timing(OTHERS, hook, ask)

    def _timing(self, name: str, hook: str, ask: Caller) -> Caller:
        if hook == "transport":
            return ask

        def run(**arguments: Any) -> list[Any]:
            results: list[Any] = self.timed(name, lambda: ask(**arguments))
            if hook == "round_opened" and results and results[0] is not None:
                results[0] = _Timed(results[0], self, name)
            return results

        return run


class _Timed:
    """A dialogue whose time is kept."""

    def __init__(self, inner: Any, clock: Clock, label: str) -> None:
        self._inner, self._clock, self._label = inner, clock, label

    @property
    def ready(self) -> bool:
        return bool(self._inner.ready)

    @property
    def finished(self) -> bool:
        return bool(self._inner.finished)

    def start(self) -> Any:
        return self._clock.timed(self._label, self._inner.start)

    def receive(self, message: Any) -> Any:
        return self._clock.timed(self._label, lambda: self._inner.receive(message))

    def tick(self, now: float) -> Any:
        return self._clock.timed(self._label, lambda: self._inner.tick(now))

    def decided(self, *agreed: Any) -> Any:
        return self._clock.timed(self._label, lambda: self._inner.decided(*agreed))


@attrs.frozen
class _Trainer:
    """Costs nothing; judges by a norm."""

    index: int

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update:
        """A small update."""
        rng = np.random.default_rng((round_info.number, self.index))
        return Update(rng.integers(-20, 21, vector.size).astype(np.int32))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """Nothing."""
        del vector
        return {}

    def validate(self, vector: Vector) -> float:
        """The same for every model."""
        return 1.0 + 0.0 * float(vector[0])


def whole_round(n: int, d: int, proof_checks: str = "committee") -> dict[str, float]:
    """Seconds of one node by plugin; ``kernel`` is all else, the simulator among it, by node."""
    f = min((n // GROUP - 1) // 2, GROUP - 2)  # each of them can spoil one group
    swarm = {
        "name": "bench",
        "nodes": n,
        "byzantine": f,
        "quorum": n,
        "deadline": 30.0,
        "max_message_bytes": 2**24,
        "proof_checks": proof_checks,
    }
    tables: dict[str, dict[str, Any]] = {
        "memory": {},
        "ed25519": {},
        "replay": {},
        "reputation": {"exponent": 0},
        "dp": {
            "mode": "distributed",
            "clip": 0.5,
            "noise_multiplier": 0.5,
            "delta": 1e-6,
            "rounds": 50,
            "honest": GROUP - f,
        },
        "zk": {"bound": 300.0, "k": K, "clip": False},
        "secagg": {
            "group_size": GROUP,
            "min_size": GROUP,
            "corrupt": 0.0,
            "dropout": 0.0,
            "noise_room": 64.0,
        },
        "public_validation": {},
        "median": {"f": f},
    }
    config = parse({"swarm": swarm, "plugins": tables}, source="benchmark")
    trainers = tuple(_Trainer(index) for index in range(n))
    task = Task("none", np.zeros(d, dtype=np.int32), trainers, trainers[0].evaluate)
    engine = EventEngine(Experiment(config, Scenario(rounds=1), task, scan()))
    clock, once = Clock(), Once(("ed25519.authenticate", "zk.verify"))
    *others, looked_at = engine.nodes  # the last: what is compiled at first use is by then
    looked_at.kernel.wrap(clock.of_node)
    for node in others:
        node.kernel.wrap(clock.of_others)
        node.kernel.wrap(once.wrap)
    try:
        clock.timed("kernel", engine.run)
    finally:
        for kernel in engine.kernels:
            kernel.teardown()
    records = engine.recorder.records
    if not (records and records[-1].closed):
        raise SystemExit(f"the round did not close: {records}")
    del clock.spent[OTHERS]
    clock.spent["kernel"] /= n
    return dict(clock.spent)
