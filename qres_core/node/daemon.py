"""The daemon: one node of a configuration, from its key to its last frame."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import attrs
import structlog
from anyio.abc import TaskStatus

from qres_core.contract.errors import CompatibilityError, ConfigError, QresError
from qres_core.contract.rounds import RoundStatus
from qres_core.contract.trainer import Trainer
from qres_core.contract.transport import PeerChange
from qres_core.contract.types import NodeId, Vector
from qres_core.kernel.compliance import enforce, remarks
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import Policy, in_force
from qres_core.node.logs import Throttle
from qres_core.node.server import StatusServer, parse_address
from qres_core.node.status import Board
from qres_core.node.trainer import guarded, make_work
from qres_core.swarm.effects import Agreed, Refused, RoundEnded, SatOut
from qres_core.swarm.node import Event, Node, run_node
from qres_core.swarm.rounds import RoundMachine

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
MEETING_SECONDS: Final = 30.0
"""How long a node waits for the others before it begins without them."""
MEASURING_SECONDS: Final = 30.0
"""How long the figures of the last model may take."""

Log = structlog.stdlib.BoundLogger


@attrs.frozen(eq=False)
class Prepared:
    """All that is known before the node starts. Nothing has been opened or connected.

    Attributes:
        config: the file.
        node_id: who the identity plugin says this node is.
        roster: identities of all nodes.
        trainer: what it trains.
        initial: the swarm's first model, int32, shape ``(d,)``.
        installed: plugins by name.
        notices: what the plugins want said, by plugin and as text.
    """

    config: Config
    node_id: NodeId
    roster: tuple[NodeId, ...]
    trainer: Trainer
    initial: Vector
    installed: Mapping[str, Installed]
    notices: tuple[str, ...] = ()


def prepare(
    config: Config,
    installed: Mapping[str, Installed] | None = None,
    policies: Sequence[Policy] | None = None,
) -> Prepared:
    """Work out who this node is, who the others are and what is trained.

    Args:
        config: the file.
        installed: plugins by name instead of those installed in the environment.
        policies: site policies to meet; left out, those of the system and the environment.

    Raises:
        ConfigError: QRES-E103 without a roster, a data folder or something to train, QRES-E105
            for a roster without this node.
        CompatibilityError: QRES-E301 where no plugin says who the node is; QRES-E315 for a policy
            that is not met; other QRES-E3xx.
        QresError: what a plugin or the trainer refuses.
    """
    found = scan() if installed is None else installed
    demanded = in_force() if policies is None else policies
    kernel = Kernel.from_config(config, installed=found)
    enforce(demanded, config, kernel.enabled)
    node_id = kernel.identity(None)
    if node_id is None:
        what = "no enabled plugin says who this node is"
        fix = "enable one that keeps a key: [plugins.ed25519]"
        raise CompatibilityError.of("QRES-E301", "identity", what, fix)
    if not config.swarm.roster:
        fix = "list the identities of all nodes; `qres key show` prints a key's"
        raise ConfigError.of("QRES-E103", "swarm.roster", "a real swarm must name its nodes", fix)
    roster = tuple(bytes.fromhex(text) for text in config.swarm.roster)
    if node_id not in roster:
        what = f"this node, {node_id.hex()}, is not in it"
        fix = "add it on every node, or start with the key of a node that is in it"
        raise ConfigError.of("QRES-E105", "swarm.roster", what, fix)
    if config.node.data_dir is None:
        fix = "name a folder on a local disk; a node that forgets its votes could vote twice"
        raise ConfigError.of("QRES-E103", "node.data_dir", "not set", fix)
    trainer, initial = make_work(config)
    kernel.fit(int(initial.size))
    notices = (*kernel.solution.notices, *remarks(demanded, config, found))
    return Prepared(config, node_id, roster, guarded(trainer), initial, found, notices)


@attrs.define(eq=False)
class Daemon:
    """Runs a node and answers for it.

    Attributes:
        prepared: what is run.
        log: where it says what happens.
        rounds: stop at the model of this number; ``None`` to run until told to stop.
        linger: seconds to go on helping the others after that.
        leash: a file descriptor; the node stops when there is no more to read from it.
        board: what is served.
        started: whether the node took part; errors before that are refusals to start.
    """

    prepared: Prepared
    log: Log
    rounds: int | None = None
    linger: float = 30.0
    leash: int | None = None
    board: Board = attrs.field(factory=Board, init=False)
    started: bool = attrs.field(default=False, init=False)
    _throttle: Throttle = attrs.field(factory=lambda: Throttle(time.monotonic), init=False)
    _node: Node | None = attrs.field(default=None, init=False)
    _told: bool = attrs.field(default=False, init=False)
    _newest: tuple[int, Vector] | None = attrs.field(default=None, init=False)
    _begun: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _measured: int = attrs.field(default=0, init=False)
    _measuring: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _measure: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    async def run(self) -> RoundMachine | None:
        """Take part until told to stop or all rounds are made.

        Returns:
            the machine, stopped; ``None`` if told to stop before it began.

        Raises:
            QresError: as :func:`run_node`, and QRES-E105 where the status cannot be served.
        """
        done: list[RoundMachine] = []
        try:
            async with anyio.create_task_group() as group:
                address = self.prepared.config.node.status
                if address:
                    names = frozenset(self.prepared.config.node.status_names)
                    server = StatusServer(parse_address(address), self.board.report, names)
                    url = await group.start(server.serve)
                    self.log.info("status", url=url)
                await group.start(self._signals, group.cancel_scope)
                if self.leash is not None:
                    group.start_soon(self._held, self.leash, group.cancel_scope)
                group.start_soon(self._evaluate)
                group.start_soon(self._neighbours)
                done.append(await self._run())
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failed:
            first, *others = failed.exceptions
            if others:
                raise
            raise first from first.__cause__
        return done[0] if done else None

    async def _run(self) -> RoundMachine:
        prepared = self.prepared
        swarm = prepared.config.swarm
        self.log.info(
            "node starting",
            node=prepared.node_id.hex(),
            swarm=swarm.name,
            nodes=swarm.nodes,
            byzantine=swarm.byzantine,
            dimension=int(prepared.initial.size),
        )
        for notice in prepared.notices:
            self.log.warning("notice", text=notice)
        machine = await run_node(
            prepared.config,
            node_id=prepared.node_id,
            roster=prepared.roster,
            trainer=prepared.trainer,
            initial=prepared.initial,
            steps=self.rounds,
            installed=prepared.installed,
            on_event=self._event,
            linger=self.linger,
            meet=MEETING_SECONDS,
            on_start=self._start,
            on_end=lambda _node: self.board.rest(),
        )
        with anyio.move_on_after(MEASURING_SECONDS):
            while self.rounds is not None and not self._told and self._measured < machine.step:
                self._measuring = anyio.Event()
                await self._measuring.wait()
        self.log.info("node stopped", step=machine.step, model_digest=machine.model_digest.hex())
        return machine

    def _start(self, node: Node) -> None:
        self._node = self.board.node = node
        self._begun.set()
        self.started = True
        machine = node.machine
        self.log.info(
            "node running",
            step=machine.step,
            resumed=machine.step > 0,
            model_digest=machine.model_digest.hex(),
        )
        if self._told:
            node.stop()
        if machine.step:
            self._newest = machine.step, machine.model
            self._measure.set()

    # ── being told to stop ────────────────────────────────────────────────────────────────────

    async def _signals(
        self,
        scope: anyio.CancelScope,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """The first signal stops the node, the second everything."""
        with anyio.open_signal_receiver(*STOPPING) as signals:
            task_status.started()
            async for number in signals:
                if self._told:
                    self.log.warning("stopping at once", signal=signal.Signals(number).name)
                    scope.cancel()
                    return
                self._stop(signal.Signals(number).name, scope)

    async def _held(self, leash: int, scope: anyio.CancelScope) -> None:
        """Stop when whoever started this process is gone."""
        with suppress(OSError):  # a file cannot be waited for, and has an end
            await anyio.wait_readable(leash)
            while os.read(leash, 4096):
                await anyio.wait_readable(leash)
        if not self._told:
            self._stop("standard input ended", scope)

    def _stop(self, why: str, scope: anyio.CancelScope) -> None:
        self._told = True
        self.log.info("stopping", why=why)
        if self._node is None:
            scope.cancel()
        else:
            self._node.stop()

    # ── telling ───────────────────────────────────────────────────────────────────────────────

    def _event(self, event: Event) -> None:
        self.board.note(event)
        match event:
            case RoundEnded(outcome):
                closed = outcome.status is RoundStatus.CLOSED
                say = self.log.info if closed else self.log.warning
                say(
                    "round closed" if closed else "round aborted",
                    round=outcome.round_info.number,
                    step=self._node.machine.step if self._node is not None else None,
                    members=len(outcome.members),
                    model_digest=outcome.model_digest.hex(),
                    **({"reason": outcome.reason} if outcome.reason else {}),
                    **({"saturated": event.saturated} if event.saturated else {}),
                )
                if closed and self._node is not None:
                    self._newest = self._node.machine.step, event.model
                    self._measure.set()
            case Agreed(number, digest):
                self.log.debug("model agreed", round=number, model_digest=digest.hex())
            case Refused(number, sender, reason):
                # Not said by the sender for sure: an impostor uses its name.
                self._throttled(
                    f"refused {reason}",
                    "message refused",
                    round=number,
                    claimed_sender=None if sender is None else sender.hex(),
                    reason=reason,
                )
            case SatOut(number, reason):
                self._throttled(f"sat out {reason}", "sat out", round=number, reason=reason)

    async def _neighbours(self) -> None:
        """Tell who comes, goes and is not let in."""
        await self._begun.wait()
        assert self._node is not None  # noqa: S101 - set before the event
        transport = self._node.transport
        while True:
            try:
                event = await transport.event()
            except Exception as error:  # noqa: BLE001 - a closed transport has no more to tell
                self.log.debug("no more events of the transport", error=type(error).__name__)
                return
            self.board.neighbour(event)
            peer = None if event.peer is None else event.peer.hex()
            kind = f"peer {event.change}"
            if event.change in {PeerChange.UP, PeerChange.DOWN}:
                self.log.info(kind, peer=peer, detail=event.detail)
            else:
                self._throttled(kind, kind, peer=peer, detail=event.detail)

    def _throttled(self, kind: str, event: str, **fields: Any) -> None:
        held_back = self._throttle.admit(kind)
        if held_back is not None:
            more = {"not_logged": held_back} if held_back else {}
            self.log.warning(event, **fields, **more)

    # ── measuring ─────────────────────────────────────────────────────────────────────────────

    async def _evaluate(self) -> None:
        """Measure the newest model in a thread, skipping those that are no longer it."""
        limiter = anyio.CapacityLimiter(1)
        while True:
            await self._measure.wait()
            self._measure = anyio.Event()
            if self._newest is None:
                continue
            step, model = self._newest
            try:
                metrics = await anyio.to_thread.run_sync(
                    partial(self.prepared.trainer.evaluate, model),
                    abandon_on_cancel=True,
                    limiter=limiter,
                )
                self.board.measured(step, metrics)
            except Exception as error:  # noqa: BLE001 - whatever a model raises, the node goes on
                what = f"{type(error).__name__}: {error}"
                self._throttled("evaluate", "evaluation failed", step=step, error=what)
            else:
                self.log.info("model measured", step=step, metrics=self.board.metrics)
            self._measured = step
            self._measuring.set()


def run(
    config: Config,
    log: Log,
    *,
    rounds: int | None = None,
    linger: float = 30.0,
    leash: int | None = None,
    installed: Mapping[str, Installed] | None = None,
    policies: Sequence[Policy] | None = None,
    report: Callable[[Mapping[str, Any]], None] | None = None,
) -> int:
    """Run a node to its end.

    Args:
        config: the file.
        log: where to tell.
        rounds: as :class:`Daemon`.
        linger: as :class:`Daemon`.
        leash: as :class:`Daemon`.
        installed: plugins by name instead of those installed in the environment.
        policies: as :func:`prepare`.
        report: given the last word: step, model digest, rejections.

    Returns:
        0 when it was stopped or made all rounds, 1 when it had to stop.

    Raises:
        QresError: it was refused before it took part.
    """
    daemon = Daemon(prepare(config, installed, policies), log, rounds, linger, leash)
    try:
        anyio.run(daemon.run)
    except QresError as error:
        if not daemon.started:
            raise
        for problem in error.problems:
            log.error(  # noqa: TRY400 - named errors need no traceback
                "node failed", code=problem.code, where=problem.where, what=problem.what
            )
        return 1
    finally:
        if report is not None and daemon.started:
            with suppress(Exception):  # what the status rests on may be what failed
                report(daemon.board.report())
    return 0
