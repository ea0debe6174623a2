"""Processes of nodes that are killed, frozen and started again, and are all gone in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs
from qres_lab.box import nodes as box
from qres_lab.box.fleet import Fleet
from qres_lab.box.nodes import BoxNode

from . import invariants, witness
from .invariants import Line
from .networks import Network

STOP_SECONDS: Final = 120.0
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@attrs.define(eq=False)
class Place:
    """One node: its folder, and its process while it runs.

    Attributes:
        seat: its place in the box.
        network: where it meets the others.
        folder: of the witnesses.
        witnessed: whether it runs with a witness.
        environment: more of it for the process.
        process: the child.
        starts: how often it was started.
        begun_before: how often it had begun its rounds when it was started last.
        frozen: whether it is stopped by SIGSTOP.
    """

    seat: BoxNode
    network: Network
    folder: Path
    witnessed: bool = True
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str])
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    begun_before: int = 0
    frozen: bool = False

    @property
    def path(self) -> Path:
        """What its witness writes."""
        return self.folder / f"{self.seat.node_id}.jsonl"

    @property
    def data(self) -> Path:
        """Its data folder."""
        return self.seat.folder / "data" / self.seat.node_id

    @property
    def alive(self) -> bool:
        """Whether its process runs, frozen or not."""
        return self.process is not None and self.process.poll() is None

    def testimony(self) -> list[Line]:
        """What its witness wrote."""
        return invariants.read(self.path)

    def step(self) -> int:
        """Its newest model's number, as the witness knows it."""
        return invariants.newest(self.path)[0]

    def begun(self) -> int:
        """How often it has begun its rounds; its last line may be half written."""
        return self.path.read_bytes().count(b'{"kind":"start"') if self.path.exists() else 0

    @property
    def up(self) -> bool:
        """Whether it has begun its rounds since it was started last."""
        return self.begun() > self.begun_before

    def start(self, *options: str) -> None:
        """Start it, again if it ran before."""
        self.starts += 1
        self.begun_before = self.begun()
        program = ["-m", "trials.witness"] if self.witnessed else box.PROGRAM
        words = [sys.executable, "-P", *program, "node", "run", str(self.seat.config)]
        words += ["--log-format", "json", "--until-eof", *options]
        environment = {
            **dict.fromkeys(_THREADS, "1"),
            **os.environ,
            **self.environment,
            witness.FOLDER: str(self.folder),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        with ExitStack() as stack:
            log = stack.enter_context((self.seat.folder / "log.jsonl").open("ab"))
            self.process = subprocess.Popen(
                self.network.command(self.seat.index, words),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            self.frozen = number == signal.SIGSTOP or (self.frozen and number != signal.SIGCONT)

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        if self.process is not None:
            self.send(signal.SIGKILL)
            self._gone(None)

    def _gone(self, patience: float | None) -> None:
        assert self.process is not None  # noqa: S101 - asked by those who know
        self.process.wait(patience)
        self.frozen = False
        if self.process.stdin is not None:
            self.process.stdin.close()

    def stop(self, until: float) -> int | None:
        """Wait for one that was told to stop; killed when it is too late. Its exit code."""
        if self.process is None:
            return None
        try:
            self._gone(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
        return self.process.returncode

    def last_words(self, count: int = 3) -> str:
        """The end of its log."""
        path = self.seat.folder / "log.jsonl"
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        return " | ".join(line[:400] for line in lines[-count:])


@attrs.define(eq=False)
class Swarm:
    """All processes of a trial. A context manager: whatever happens, none is left behind.

    Attributes:
        places: of all nodes.
        liars: indices of those that are hostile.
        codes: exit codes by index, after the end.
    """

    places: Sequence[Place]
    liars: frozenset[int] = frozenset()
    codes: dict[int, int | None] = attrs.field(factory=dict[int, "int | None"], init=False)

    def __enter__(self) -> Self:
        try:
            for place in self.places:
                place.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def honest(self) -> list[Place]:
        """Those that are not hostile."""
        return [place for place in self.places if place.seat.index not in self.liars]

    def steps(self) -> list[int]:
        """The newest model of every honest node."""
        return [honest_node.step() for honest_node in self.honest]

    def stop(self) -> None:
        """End every child: it is asked, and after a while killed. Idempotent."""
        if self.codes:
            return
        for place in self.places:
            place.send(signal.SIGCONT)
            place.send(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        self.codes = {place.seat.index: place.stop(end) for place in self.places}


def end_in_order() -> None:
    """Have SIGTERM end this program as an exception does: whatever it started is stopped."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def until(what: Callable[[], bool], patience: float, every: float = 0.25) -> bool:
    """Wait for something; whether it came in time."""
    end = time.monotonic() + patience
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def has_model(fleet: Fleet, step: int, patience: float) -> bool:
    """Wait until all living nodes have a model, or one is dead; whether they have it."""

    def over() -> bool:
        fleet.poll()
        return fleet.step >= step or bool(fleet.dead)

    return until(over, patience, 0.5) and fleet.step >= step


def prepare(raw: Mapping[str, Any], network: Network, folder: Path) -> list[BoxNode]:
    """The folders, keys and configurations of nodes that meet in a network."""
    before = dict(box.WIRINGS)
    box.WIRINGS.update(dict.fromkeys(before, network.wiring))
    try:
        _config, seats = box.prepare(raw, "trial", folder)
    finally:
        box.WIRINGS.update(before)
    return seats
