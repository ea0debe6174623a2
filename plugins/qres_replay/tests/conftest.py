"""Toy plugins and a swarm of round machines with clocks of their own, for the tests to share."""

from __future__ import annotations

import hashlib
import heapq
import hmac
import os
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids
from qres_replay import Replay

from qres_core import (
    ACCEPT,
    Blame,
    Envelope,
    Evidence,
    NodeId,
    NodeInfo,
    Update,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.effects import Effect, Refused, RoundEnded
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.runtime.driver import Driver, Ports, Told
from qres_core.swarm.storage.journal import MemoryJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SWARM = "testing"
START = 1_700_000_000.0
# Memory where there is a file system for it: a killed process leaves the same there as on a disk,
# and hundreds of stores are opened, each of which waits for the disk a few times.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mkdtemp is safe


def tag(node: NodeId, envelope: Envelope) -> bytes:
    """What only ``node`` is supposed to be able to make."""
    key = hashlib.sha256(b"key" + node).digest()
    return hmac.digest(key, envelope.signing_digest, "sha256")


@attrs.define
class Mac:
    """Each node has a key, and the toy's verifiers know all keys."""

    _own: NodeId = attrs.field(default=b"", init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return tag(self._own, envelope)

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        if hmac.compare_digest(tag(envelope.sender, envelope), envelope.auth.get("mac", b"")):
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)


@attrs.define
class Witness:
    """Writes down all evidence of all nodes."""

    evidence: ClassVar[list[Evidence]] = []

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self.evidence.append(evidence)


def _installed() -> dict[str, Installed]:
    own = {"mac": Mac, "witness": Witness, "replay": Replay}
    return {**scan(), **{name: Installed.local(name, kind) for name, kind in own.items()}}


def _config(
    nodes: int, replay: Mapping[str, Any] | None, swarm: Mapping[str, Any] | None = None
) -> Any:
    table = {
        "name": SWARM,
        "nodes": nodes,
        "byzantine": 0,
        "quorum": max(1, nodes - 1),
        "deadline": 1.0,
        "vote_timeout": 1.0,
        "insecure": replay is None,
        **(swarm or {}),
    }
    plugins: dict[str, Mapping[str, Any]] = {"memory": {}, "mac": {}, "witness": {}}
    if replay is not None:
        plugins["replay"] = replay
    plugins["mean"] = {"unprotected": True}
    return parse({"swarm": table, "plugins": plugins}, source="test")


def _kernel(
    nodes: int = 4,
    *,
    index: int = 0,
    replay: Mapping[str, Any] | None = None,
    unprotected: bool = False,
    swarm: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
) -> Kernel:
    config = _config(nodes, None if unprotected else replay or {}, swarm)
    kernel = Kernel.from_config(config, installed=_installed())
    ids = make_node_ids(nodes)
    kernel.setup(NodeInfo(ids[index], config.swarm.name, ids, data_dir=data_dir))
    return kernel


class Net:
    """A swarm on virtual time; every node reads the clock with an offset of its own.

    Args:
        nodes: how many.
        replay: options of the plugin.
        offsets: seconds by which a node's clock is wrong, by index.
        swarm: further keys of ``[swarm]``.
        seed: decides delay, duplication and loss.
        duplication: share of messages delivered twice.
        loss: share of messages lost.
    """

    def __init__(
        self,
        nodes: int,
        replay: Mapping[str, Any],
        *,
        offsets: Mapping[int, float] | None = None,
        swarm: Mapping[str, Any] | None = None,
        seed: int = 0,
        duplication: float = 0.0,
        loss: float = 0.0,
    ) -> None:
        self.ids = make_node_ids(nodes)
        self.rng = random.Random(seed)
        self.duplication, self.loss = duplication, loss
        self.offsets = [(offsets or {}).get(index, 0.0) for index in range(nodes)]
        self.now = START
        self.events: list[tuple[float, int, int, str, Any]] = []
        self.count = 0
        self.sent: list[Envelope] = []
        self.hold: Callable[[int, int, Envelope], bool] = lambda *_: False
        self.held: list[bytes] = []
        self.refused: list[tuple[int, str]] = []
        self.ended: list[list[RoundEnded]] = [[] for _ in range(nodes)]
        config = _config(nodes, replay, swarm)
        initial = np.array([10, 20, 30], dtype=np.int32)
        self.machines: list[RoundMachine] = []
        self.drivers: list[Driver] = []
        for index, node_id in enumerate(self.ids):
            kernel = Kernel.from_config(config, installed=_installed())
            kernel.setup(NodeInfo(node_id, SWARM, self.ids))
            machine = RoundMachine(
                node_id, self.ids, kernel, config.swarm, initial, MemoryJournal()
            )
            self.machines.append(machine)
            self.drivers.append(Driver(machine, self.around(index)))
        for index, driver in enumerate(self.drivers):
            driver.start(self.clock(index))

    def around(self, index: int) -> Ports:
        """What does what a node wants done."""
        return Ports(
            broadcast=partial(self.broadcast, index),
            send=lambda to, frame: self.carry(index, self.ids.index(to), frame),
            train=lambda wanted: self.push(0.05, index, "train", wanted.round_info),
            tell=partial(self.told, index),
            wake=partial(self.wake, index),
        )

    def clock(self, index: int) -> float:
        return self.now + self.offsets[index]

    def push(self, delay: float, index: int, what: str, data: object = None) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, index, what, data))

    def deliver(self, index: int, frame: bytes, source: int) -> list[Effect]:
        """Hand a frame to a node now, and carry out what it does."""
        effects = self.machines[index].receive(frame, self.ids[source], self.clock(index))
        self.drivers[index].carry_out(effects)
        return effects

    def run(self, until: Callable[[], bool], seconds: float = 120.0) -> bool:
        """Run on until the condition holds; false if it does not in that many seconds."""
        end = self.now + seconds
        while self.events and not until():
            self.now, _, index, what, data = heapq.heappop(self.events)
            if self.now > end:
                return False
            driver, now = self.drivers[index], self.clock(index)
            if what == "deliver":
                self.deliver(index, *data)
            elif what == "tick":
                driver.tick(now)
            elif what == "train":
                vector = np.full(3, index + data.number, dtype=np.int32)
                driver.trained(data, Update(vector, 1), now)
        return until()

    def broadcast(self, index: int, frame: bytes) -> None:
        for other in range(len(self.ids)):
            if other != index:
                self.carry(index, other, frame)

    def told(self, index: int, told: Told) -> None:
        if isinstance(told, RoundEnded):
            self.ended[index].append(told)
        elif isinstance(told, Refused):
            self.refused.append((index, told.reason))

    def wake(self, index: int, due: float) -> None:
        self.push(max(0.001, due - self.clock(index) + 1e-6), index, "tick")

    def carry(self, sender: int, receiver: int, frame: bytes) -> None:
        envelope = Envelope.from_bytes(frame, max_bytes=2**20)
        self.sent.append(envelope)
        if self.hold(sender, receiver, envelope):
            self.held.append(frame)
            return
        if self.rng.random() < self.loss:
            return
        for _ in range(1 + (self.rng.random() < self.duplication)):
            self.push(0.01 + self.rng.expovariate(50), receiver, "deliver", (frame, sender))

    def steps(self) -> list[int]:
        return [machine.step for machine in self.machines]


@pytest.fixture
def make_kernel() -> Callable[..., Kernel]:
    """A node's kernel with the toy authenticator and, unless told otherwise, the plugin."""
    return _kernel


@pytest.fixture
def make_net() -> Callable[..., Net]:
    """A running swarm."""
    return Net


@pytest.fixture
def signed() -> Callable[[Envelope], bytes]:
    """The frame of a message, signed by its sender."""

    def frame(envelope: Envelope) -> bytes:
        return envelope.with_auth({"mac": tag(envelope.sender, envelope)}).to_bytes()

    return frame


@pytest.fixture
def evidence() -> Iterator[list[Evidence]]:
    """All evidence of all nodes of the test."""
    Witness.evidence.clear()
    yield Witness.evidence
    Witness.evidence.clear()


@pytest.fixture
def make_config() -> Callable[..., Any]:
    """A configuration for the simulator."""
    return _config


@pytest.fixture
def installed() -> dict[str, Installed]:
    """What is installed, and the toys."""
    return _installed()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """An empty folder, gone after the test."""
    folder = Path(tempfile.mkdtemp(prefix="qres-replay-", dir=SCRATCH))
    yield folder
    shutil.rmtree(folder)
