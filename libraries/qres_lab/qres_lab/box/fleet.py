"""The processes of a swarm in a box: started, watched, stopped by their ids."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import QresError
from qres_core.node.ask import ask
from qres_core.swarm.storage.model_file import SwarmModel, kept_model
from qres_lab.box.children import ask_to_end, close_pipes, end_child, start_child
from qres_lab.box.hub import BoxHub
from qres_lab.box.nodes import BoxNode, qres

POLL_SECONDS: Final = 1.0
"""For a node to answer; one that is busy is shown as it was."""
STOP_SECONDS: Final = 15.0
"""For a node to end after it was told to; then it is killed."""
LINGER: Final = "3600"
"""Nodes that made all models go on helping until the fleet stops them."""
PAUSES: Final = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each restart in a row. One that brings a new model begins another row."""
REFUSED: Final = 2
"""Exit code of a node that was refused before it took part: the next start would be too."""
ABORTED: Final = 3
"""Rounds in a row without a model after which a failing trainer is taken not to recover."""
LOG: Final = "log.jsonl"
LOG_TAIL: Final = 64 * 1024
"""Bytes of a log's end in which its last error is looked for."""
_ERROR: Final = re.compile(r"QRES-E[0-9]{3} |[A-Za-z_.]+(Error|Exception|Interrupt|Exit)\b")
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@attrs.define(eq=False)
class NodeProcess:
    """One node and its process, which may be another one after a restart."""

    seat: BoxNode  # its place in the box
    process: subprocess.Popen[bytes]  # the child
    report: dict[str, Any] | None = None  # its newest status; ``None`` before the first
    # digest of the model of every step it was seen at
    models: dict[int, str] = attrs.field(factory=dict[int, str])
    restarts: int = 0  # how often it was started again
    goal: str = ""  # what its status says of ``swarm.until``
    complaint: dict[str, Any] | None = None  # how its trainer failed last, as its status says it
    fate: str = ""  # why it is left dead; empty while it lives or is to live again
    done: bool = False  # whether it stopped by itself because its part was over
    _in_a_row: int = attrs.field(default=0, init=False)
    _step_then: int = attrs.field(default=0, init=False)
    _again_at: float | None = attrs.field(default=None, init=False)

    @property
    def starves(self) -> bool:
        """True if its trainer failed in the last rounds, and none of them made a model."""
        report: dict[str, Any] = self.report or {}
        failure: dict[str, Any] | None = report.get("trainer_error")
        last: list[dict[str, Any]] = report.get("history", [])[-ABORTED:]
        if failure is None or len(last) < ABORTED or any(ended["closed"] for ended in last):
            return False
        return bool(failure["times"] >= ABORTED and failure["round"] >= last[-1]["round"])

    @property
    def role(self) -> str:
        """``honest`` or ``attacker``, and what became of it if it does not run."""
        name = "attacker" if self.seat.hostile else "honest"
        state = "dead" if self.fate else "done" if self.done else ""
        state = state or ("restarting" if self._again_at is not None else "")
        return f"{name}, {state}" if state else name

    @property
    def step(self) -> int:
        """Its newest model's number."""
        return int(self.report["step"]) if self.report and "step" in self.report else 0

    @property
    def answers(self) -> bool:
        """True if it has said that it runs, since it was last started."""
        return self.report is not None and self.process.poll() is None

    @property
    def is_through(self) -> bool:
        """True if it says that it has made its last model."""
        return bool(self.report and self.report.get("through"))

    def measured(self, step: int) -> bool:
        """True if no more figures of the model of a step will come from it.

        It has measured that model or a later one, could not, or has stopped.
        """
        report: dict[str, Any] = self.report or {}
        if self.done or (report.get("metrics_step") or 0) >= step:
            return True
        failure: dict[str, Any] = report.get("trainer_error") or {}
        made_in = [ended["round"] for ended in report.get("history", []) if ended["step"] == step]
        return bool(
            failure.get("method") == "evaluate" and made_in and failure["round"] >= min(made_in)
        )

    def take(self, report: dict[str, Any] | None) -> None:
        """Remember what it said."""
        if report is None or report.get("state") != "running":
            return
        self.report = report
        self.goal = report.get("goal", "")
        self.complaint = report.get("trainer_error") or self.complaint
        self.models[int(report["step"])] = report["model_digest"]
        for ended in report["history"]:
            if ended["closed"]:
                self.models[int(ended["step"])] = ended["model_digest"]

    def ended(self, now: float, *, restart: bool) -> str:
        """Decide what follows on the end of the process; a sentence about it.

        ``now``: seconds on a clock that never goes back; ``restart``: whether it may be started
        again at all.
        """
        code = self.process.returncode
        if code == 0:
            self.done = True
            return f"{self.seat.name} finished and stopped"
        if max(self.models, default=0) > self._step_then:
            self._in_a_row = 0
        how = f"was killed ({_signal(-code)})" if code < 0 else f"ended with code {code}"
        reason = "" if code < 0 else refusal(self.seat) or last_error(self.seat.folder / LOG)
        how = f"{how}: {reason}" if reason else how
        if code == REFUSED:
            self.fate = f"was refused at start: {reason or 'see its log'}"
        elif not restart:
            self.fate = how
        elif self._in_a_row >= len(PAUSES):
            self.fate = f"{how}; it was restarted {self._in_a_row} times in a row"
        if self.fate:
            return f"{self.seat.name} {self.fate}; it is left dead ({self.seat.folder / LOG})"
        pause = PAUSES[self._in_a_row]
        self._again_at = now + pause
        return f"{self.seat.name} {how}, restarting{f' in {pause:g} s' if pause else ''}"

    def give_up(self, why: str) -> str:
        """Leave it dead; a sentence about it."""
        self.fate, self._again_at = why, None
        return f"{self.seat.name} {why}; it is left dead"

    def is_due(self, now: float) -> bool:
        """True if it is to be started again now."""
        return self._again_at is not None and now >= self._again_at

    @property
    def is_waiting(self) -> bool:
        """True if its process is gone and it is to be started again."""
        return self._again_at is not None

    def begin_again(self, process: subprocess.Popen[bytes]) -> None:
        """It has another process."""
        self.process, self.report, self._again_at = process, None, None
        self._step_then = max(self.models, default=0)
        self._in_a_row += 1
        self.restarts += 1


@attrs.define(eq=False)
class Fleet:
    """All processes of a box. A context manager: whatever happens, none is left behind.

    A child also ends by itself when this process is gone, however it went: its standard input is a
    pipe from here that then closes.
    """

    seats: Sequence[BoxNode]  # who to start
    rounds: int | None = None  # models to make; ``None`` to go on until stopped
    needed: int = 1  # honest nodes without which no round can close
    restart: bool = True  # whether a node that was killed or failed is started again
    members: list[NodeProcess] = attrs.field(factory=list[NodeProcess], init=False)

    def __enter__(self) -> Self:
        try:
            if self._hub is not None:
                self._hub.start()
            for seat in self.seats:
                self.members.append(NodeProcess(seat, self._start(seat)))
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
    def _hub(self) -> BoxHub | None:
        return self.seats[0].hub if self.seats else None

    @staticmethod
    def _start(seat: BoxNode) -> subprocess.Popen[bytes]:
        arguments = ["node", "run", str(seat.config), "--json", "--log-format", "json"]
        arguments += ["--linger", LINGER, "--until-eof"]
        # Small models: a thread for each core in every process only makes them wait for each other.
        environment = {**dict.fromkeys(_THREADS, "1"), **os.environ}
        with (seat.folder / "last.json").open("wb") as last, (seat.folder / LOG).open("ab") as log:
            return start_child(qres(*arguments), stdout=last, stderr=log, environment=environment)

    def poll(self) -> list[str]:
        """Ask every node that runs how it is, and start again those that are to run.

        Returns what happened to nodes, as sentences.
        """
        running = [member for member in self.members if member.process.poll() is None]
        with ThreadPoolExecutor(max_workers=max(1, len(running))) as threads:
            for member, report in zip(running, threads.map(_asked, running), strict=True):
                member.take(report)
        said = [] if self._hub is None else list(self._hub.look_after())
        return [*said, *(line for member in self.members for line in self._look_after(member))]

    def _look_after(self, member: NodeProcess) -> Iterator[str]:
        now = time.monotonic()
        if member.is_due(now):
            close_pipes(member.process)
            try:
                process = self._start(member.seat)
            except OSError as error:  # its folder is gone, or the machine has no room for it
                yield member.give_up(f"cannot be started again: {error}")
                return
            member.begin_again(process)
        gone = member.process.poll() is not None
        if gone and not (member.fate or member.done or member.is_waiting):
            yield member.ended(now, restart=self.restart)

    @property
    def honest(self) -> list[NodeProcess]:
        """Those that do not attack."""
        return [member for member in self.members if not member.seat.hostile]

    @property
    def living(self) -> list[NodeProcess]:
        """Honest nodes that are not left dead."""
        return [honest_node for honest_node in self.honest if not honest_node.fate]

    @property
    def dead(self) -> list[NodeProcess]:
        """Nodes that are left dead."""
        return [member for member in self.members if member.fate]

    @property
    def step(self) -> int:
        """The model that every living honest node has."""
        return min((max(living_node.models, default=0) for living_node in self.living), default=0)

    def digest(self, step: int) -> str:
        """Of the model of a step, hex, as an honest node was seen to hold it; empty for none."""
        return next(
            (honest_node.models[step] for honest_node in self.honest if step in honest_node.models),
            "",
        )

    @property
    def through(self) -> bool:
        """True if every living honest node says it has the last model, or stopped by itself."""
        rounds = self.rounds
        return all(
            living_node.done
            or living_node.is_through
            or (rounds is not None and living_node.step >= rounds)
            for living_node in self.living
        )

    @property
    def hopeless(self) -> bool:
        """True if so many honest nodes died that no round can close."""
        return len(self.living) < min(self.needed, len(self.honest))

    @property
    def starving(self) -> int:
        """Number of living honest nodes whose trainer fails, if the others are too few.

        0 as long as those whose trainers work can close a round.
        """
        failing = sum(living_node.starves for living_node in self.living)
        working = len(self.living) - failing
        return failing if working < min(self.needed, len(self.honest)) else 0

    def vouched(self) -> SwarmModel | None:
        """The newest model that an honest node kept with the votes that decided it."""
        found = [model for member in self.honest if (model := _kept(member)) is not None]
        return max(found, key=lambda model: model.step, default=None)

    def vouched_by_all(self) -> int:
        """Number of the newest model that every living honest node kept in this way; 0 for none."""
        found = [_kept(member) for member in self.living]
        return min((0 if model is None else model.step for model in found), default=0)

    def stop(self) -> None:
        """End every child: it is asked, and after a while killed. Idempotent."""
        for member in self.members:
            if member.process.poll() is None:
                with suppress(ProcessLookupError):
                    ask_to_end(member.process)
        end = time.monotonic() + STOP_SECONDS
        for member in self.members:
            end_child(member.process, max(0.0, end - time.monotonic()))
        if self._hub is not None:
            self._hub.stop()
        for member in self.members:
            member.take(_printed(member.seat))

    def verdict(self) -> FleetAgreement:
        """Verdict on the run; after :meth:`stop`. Too few are left if it is hopeless."""
        living = judge([living_node.models for living_node in self.living], self.rounds)
        split = judge([honest_node.models for honest_node in self.honest], None).split
        agreed = living.agreed and split is None and not self.hopeless and not self.starving
        return attrs.evolve(living, agreed=agreed, split=split)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def refusal(seat: BoxNode) -> str:
    """The first problem for which a node was refused, in one line; empty where it was not."""
    problems = (_printed(seat) or {}).get("problems")
    if not canonical.is_list(problems) or not problems or not canonical.is_map(problems[0]):
        return ""
    return " ".join(str(problems[0].get(key, "")) for key in ("code", "where", "what"))


def last_error(path: Path) -> str:
    """The last error that a node's log tells of, in one line; empty without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            lines = file.read(LOG_TAIL).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((said for line in reversed(lines) if (said := _error_of(line))), "")


def _error_of(line: str) -> str:
    """Find an error in a line of a log: an event, a refusal, a traceback."""
    try:
        event: object = json.loads(line)
    except ValueError:
        return line.strip() if _ERROR.match(line) else ""
    if not canonical.is_map(event) or event.get("level") != "error":
        return ""
    named = [str(event[key]) for key in ("code", "where", "what", "error") if event.get(key)]
    return " ".join(named) or str(event.get("event", ""))


def _kept(member: NodeProcess) -> SwarmModel | None:
    """The newest decided model in a node's folder; ``None`` where there is none to read."""
    with suppress(QresError):
        return kept_model(member.seat.folder)
    return None


def _asked(member: NodeProcess) -> dict[str, Any] | None:
    return ask(member.seat.url, POLL_SECONDS)


def _printed(seat: BoxNode) -> dict[str, Any] | None:
    """Last output of a node that ended: its last status, or why it was refused."""
    try:
        report: object = json.loads((seat.folder / "last.json").read_bytes())
    except (OSError, ValueError):
        return None
    return dict(report) if canonical.is_map(report) else None


@attrs.frozen
class FleetAgreement:
    """Agreement of the honest nodes."""

    # no two of them were seen with different models of one step, and with a number of rounds given
    # all of them have the last model
    agreed: bool
    step: int  # the last model that all of them have; 0 for none
    model_digest: str  # its digest, hex; empty for none, or where they differ
    split: int | None  # the first step at which they differ, or ``None``


def judge(models: Sequence[Mapping[int, str]], rounds: int | None) -> FleetAgreement:
    """Compare what honest nodes held.

    ``models``: for each of them the digest of its model by step, as far as it was seen; ``rounds``:
    models that were to be made, if that is known.
    """
    split = next(_splits(models), None)
    step = min((max(model, default=0) for model in models), default=0)
    # A node may have taken a snapshot over the step at which another was last seen.
    common = [at for at in range(step, -1, -1) if any(at in model for model in models)]
    digests = {model[common[0]] for model in models if common[0] in model} if common else set[str]()
    complete = bool(models) and all(models) and (rounds is None or step >= rounds)
    return FleetAgreement(
        agreed=complete and split is None,
        step=step,
        model_digest=digests.pop() if len(digests) == 1 else "",
        split=split,
    )


def _splits(models: Sequence[Mapping[int, str]]) -> Iterator[int]:
    for at in sorted({step for model in models for step in model}):
        if len({model[at] for model in models if at in model}) > 1:
            yield at
