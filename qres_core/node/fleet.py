"""The processes of a swarm in a box: started, watched, stopped by their ids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Final, Self

import attrs

from qres_core.contract import canonical
from qres_core.node.ask import ask
from qres_core.node.box import Seat, qres

POLL_SECONDS: Final = 1.0
"""For a node to answer; one that is busy is shown as it was."""
STOP_SECONDS: Final = 15.0
"""For a node to end after it was told to; then it is killed."""
LINGER: Final = "3600"
"""Nodes that made all models go on helping until the fleet stops them."""
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@attrs.define(eq=False)
class Member:
    """One process.

    Attributes:
        seat: its place in the box.
        process: the child.
        report: its newest status; ``None`` before the first.
        models: digest of the model of every step it was seen at.
    """

    seat: Seat
    process: subprocess.Popen[bytes]
    report: dict[str, Any] | None = None
    models: dict[int, str] = attrs.field(factory=dict[int, str])

    @property
    def role(self) -> str:
        """``honest`` or ``attacker``, and that it is gone, if it is."""
        name = "attacker" if self.seat.hostile else "honest"
        code = self.process.poll()
        return name if code is None else f"{name}, ended with {code}"

    @property
    def step(self) -> int:
        """Its newest model's number."""
        return int(self.report["step"]) if self.report and "step" in self.report else 0

    def take(self, report: dict[str, Any] | None) -> None:
        """Remember what it said."""
        if report is None or report.get("state") != "running":
            return
        self.report = report
        self.models[int(report["step"])] = report["model_digest"]
        for one in report["history"]:
            if one["closed"]:
                self.models[int(one["step"])] = one["model_digest"]


@attrs.define(eq=False)
class Fleet:
    """All processes of a box. A context manager: whatever happens, none is left behind.

    A child also ends by itself when this process is gone, however it went: its standard input is a
    pipe from here that then closes.

    Attributes:
        seats: who to start.
        rounds: models to make; ``None`` to go on until stopped.
        fallen: honest nodes that ended before they were told to.
    """

    seats: Sequence[Seat]
    rounds: int | None = None
    members: list[Member] = attrs.field(factory=list[Member], init=False)
    fallen: list[Member] = attrs.field(factory=list[Member], init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _open: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        try:
            for seat in self.seats:
                self.members.append(Member(seat, self._start(seat)))
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

    def _start(self, seat: Seat) -> subprocess.Popen[bytes]:
        arguments = ["node", "run", str(seat.config), "--json", "--log-format", "json"]
        arguments += ["--linger", LINGER, "--until-eof"]
        if self.rounds is not None:
            arguments += ["--rounds", str(self.rounds)]
        last = self._open.enter_context((seat.folder / "last.json").open("wb"))
        log = self._open.enter_context((seat.folder / "log.jsonl").open("wb"))
        # Small models: a thread for each core in every process only makes them wait for each other.
        environment = {**dict.fromkeys(_THREADS, "1"), **os.environ}
        return subprocess.Popen(  # noqa: S603 - this interpreter and this package
            qres(*arguments),
            stdin=subprocess.PIPE,
            stdout=last,
            stderr=log,
            env=environment,
            start_new_session=True,  # ctrl-C is for this process, which stops the others in order
        )

    def poll(self) -> None:
        """Ask every node that runs how it is."""
        running = [one for one in self.members if one.process.poll() is None]
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as threads:
            for member, report in zip(running, threads.map(_asked, running), strict=True):
                member.take(report)

    @property
    def honest(self) -> list[Member]:
        """Those that do not attack."""
        return [one for one in self.members if not one.seat.hostile]

    @property
    def step(self) -> int:
        """The model that every honest node has."""
        return min((one.step for one in self.honest), default=0)

    @property
    def lost(self) -> list[Member]:
        """Honest nodes that ended without having been told to."""
        return [one for one in self.honest if one.process.poll() is not None]

    def stop(self) -> None:
        """End every child: it is asked, and after a while killed. Idempotent."""
        if not self._stopped:
            self.fallen, self._stopped = self.lost, True
        for member in self.members:
            if member.process.poll() is None:
                with suppress(ProcessLookupError):
                    member.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        for member in self.members:
            try:
                member.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            if member.process.stdin is not None:
                member.process.stdin.close()
        self._open.close()
        for member in self.members:
            member.take(_last(member.seat))

    def verdict(self) -> Verdict:
        """What came of the run; after :meth:`stop`. Who fell did not agree."""
        verdict = judge([one.models for one in self.honest], self.rounds)
        return attrs.evolve(verdict, agreed=verdict.agreed and not self.fallen)


def _asked(member: Member) -> dict[str, Any] | None:
    return ask(member.seat.url, POLL_SECONDS)


def _last(seat: Seat) -> dict[str, Any] | None:
    """What a node said when it ended."""
    try:
        report: object = json.loads((seat.folder / "last.json").read_bytes())
    except (OSError, ValueError):
        return None
    return dict(report) if canonical.is_map(report) else None


@attrs.frozen
class Verdict:
    """Whether the honest nodes agreed.

    Attributes:
        agreed: no two of them were seen with different models of one step, and with a number of
            rounds given all of them have the last model.
        step: the last model that all of them have; 0 for none.
        model_digest: its digest, hex; empty for none, or where they differ.
        split: the first step at which they differ, or ``None``.
    """

    agreed: bool
    step: int
    model_digest: str
    split: int | None


def judge(models: Sequence[Mapping[int, str]], rounds: int | None) -> Verdict:
    """Compare what honest nodes held.

    Args:
        models: for each of them the digest of its model by step, as far as it was seen.
        rounds: models that were to be made, if that is known.
    """
    split = next(_splits(models), None)
    step = min((max(one, default=0) for one in models), default=0)
    # A node may have taken a snapshot over the step at which another was last seen.
    common = [at for at in range(step, -1, -1) if any(at in one for one in models)]
    digests = {one[common[0]] for one in models if common[0] in one} if common else set[str]()
    complete = bool(models) and all(models) and (rounds is None or step >= rounds)
    return Verdict(
        agreed=complete and split is None,
        step=step,
        model_digest=digests.pop() if len(digests) == 1 else "",
        split=split,
    )


def _splits(models: Sequence[Mapping[int, str]]) -> Iterator[int]:
    for at in sorted({step for one in models for step in one}):
        if len({one[at] for one in models if at in one}) > 1:
            yield at
