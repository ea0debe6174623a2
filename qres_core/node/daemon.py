"""The daemon: one node of a configuration, from its key to its last frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import attrs
import structlog

from qres_core.contract.by_record import by_record
from qres_core.contract.errors import CompatibilityError, ConfigError, QresError
from qres_core.contract.rounds import RoundStatus
from qres_core.contract.stores import unprotected
from qres_core.contract.trainer import Trainer
from qres_core.contract.types import NodeId, Vector
from qres_core.kernel.compliance import enforce, remarks
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.goal import Goal
from qres_core.kernel.index import plugin_index
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import SitePolicy, in_force
from qres_core.node.calling import found_in
from qres_core.node.measuring import Measurer
from qres_core.node.readiness import Readiness
from qres_core.node.reloading import Reloader
from qres_core.node.server import StatusServer, parse_address
from qres_core.node.status import StatusBoard
from qres_core.node.stopping import Stopping, at_hangups, hangups_before
from qres_core.node.telling import Teller
from qres_core.node.trainer import guarded
from qres_core.node.watchdog import Watchdog
from qres_core.swarm.context.effects import RoundEnded
from qres_core.swarm.context.position import round_info
from qres_core.swarm.machine.rounds import RoundMachine
from qres_core.swarm.runtime.node import Event, Node, run_node
from qres_core.training.table import make_work

MEETING_SECONDS: Final = 30.0
"""How long a node waits for the others before it begins without them."""
REACHED: Final = "is reached at model"
MEASURING_SECONDS: Final = 30.0
"""How long the figures of the last model may take."""

Log = structlog.stdlib.BoundLogger


@attrs.frozen(eq=False)
class Prepared:
    """All that is known before the node starts. Nothing has been opened or connected."""

    config: Config  # the file
    node_id: NodeId  # who the identity plugin says this node is
    roster: tuple[NodeId, ...]  # identities of all nodes
    trainer: Trainer  # what it trains
    initial: Vector  # the swarm's first model, int32, shape ``(d,)``
    installed: Mapping[str, Installed]  # plugins by name
    notices: tuple[str, ...] = ()  # what the plugins want said, by plugin and as text
    policies: tuple[SitePolicy, ...] = ()  # what the site demands


def prepare(
    config: Config,
    installed: Mapping[str, Installed] | None = None,
    policies: Sequence[SitePolicy] | None = None,
) -> Prepared:
    """Work out who this node is, who the others are and what is trained.

    ``policies``: site policies to meet; left out, those of the system and the environment. A node
    that is not in the roster joins the swarm. Raises ConfigError: QRES-E103 without a roster, a
    data folder or something to train. Raises CompatibilityError: QRES-E301 where no plugin says who
    the node is; QRES-E315 for a policy that is not met; other QRES-E3xx. Raises QresError: what a
    plugin or the trainer refuses.
    """
    found = scan() if installed is None else installed
    demanded = in_force() if policies is None else policies
    kernel = Kernel.from_config(config, installed=found)
    enforce(demanded, config, kernel.enabled)
    node_id = kernel.identity(None)
    if node_id is None:
        what = "no enabled plugin gives this node an identity"
        fix = f"enable a plugin that keeps a key: {plugin_index().example('identity')}"
        raise CompatibilityError.of("QRES-E301", "identity", what, fix)
    if not config.swarm.roster:
        fix = "list the identities of all nodes; `qres key show` prints a key's"
        raise ConfigError.of("QRES-E103", "swarm.roster", "a real swarm must name its nodes", fix)
    roster = tuple(bytes.fromhex(text) for text in config.swarm.roster)
    if config.node.data_dir is None:
        fix = "name a folder on a local disk; a node that forgets its votes could vote twice"
        raise ConfigError.of("QRES-E103", "node.data_dir", "not set", fix)
    trainer, initial = make_work(config)
    kernel.fit(int(initial.size))
    trainer = by_record(trainer, kernel.record_clip)
    notices = (*kernel.solution.notices, *unprotected(), *remarks(demanded, config, found))
    work = guarded(trainer)
    return Prepared(config, node_id, roster, work, initial, found, notices, tuple(demanded))


@attrs.define(eq=False)
class Daemon:
    """Runs a node and answers for it."""

    prepared: Prepared  # what is run
    log: Log  # where it says what happens
    # stop at the model of this number; ``None`` for what ``swarm.rounds`` says
    rounds: int | None = None
    linger: float = 30.0  # seconds to go on helping the others after that
    # a file descriptor; the node stops when there is no more to read from it
    leash: int | None = None
    # reads the configuration again, at SIGHUP; ``None`` where there is nothing to read
    reread: Callable[[], Config] | None = None
    board: StatusBoard = attrs.field(factory=StatusBoard, init=False)  # what is served
    # whether the node took part; errors before that are refusals to start
    started: bool = attrs.field(default=False, init=False)
    _stopping: Stopping = attrs.field(init=False)
    _teller: Teller = attrs.field(init=False)
    _watchdog: Watchdog = attrs.field(init=False)
    _measurer: Measurer = attrs.field(init=False)
    _reloader: Reloader | None = attrs.field(default=None, init=False)
    _begun: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _while_running: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __attrs_post_init__(self) -> None:
        if self.rounds is None:
            self.rounds = self.prepared.config.swarm.rounds or None
        self.board.on_measured = self._measured
        self.board.name = self.prepared.config.node.name
        self._stopping = Stopping(self.log)
        self._teller = Teller(self.log)
        self._watchdog = Watchdog(self.log)
        self._measurer = Measurer(self.prepared.trainer, self.board, self._teller)

    async def run(self) -> RoundMachine | None:
        """Take part until told to stop or all rounds are made.

        Returns the machine, stopped; ``None`` if told to stop before it began. Raises QresError: as
        :func:`run_node`, and QRES-E105 where the status cannot be served.
        """
        done: list[RoundMachine] = []
        try:
            async with anyio.create_task_group() as group:
                address = self.prepared.config.node.status
                if address:
                    names = frozenset(map(str.lower, self.prepared.config.node.status_names))
                    stuck = lambda: self._watchdog.trouble  # noqa: E731 - asked again each time
                    ready = Readiness(self.board, self._folder, stuck=stuck)
                    report = self.board.report
                    server = StatusServer(parse_address(address), report, ready.trouble, names)
                    url = await group.start(server.serve)
                    self.log.info("status", url=url)
                await group.start(self._stopping.at_signals, group.cancel_scope)
                if self.reread is not None:
                    await group.start(at_hangups, self.reload)
                if self.leash is not None:
                    group.start_soon(self._stopping.at_end_of, self.leash, group.cancel_scope)
                group.start_soon(self._measurer.run)
                group.start_soon(self._neighbours)
                group.start_soon(self._watch)
                group.start_soon(self.board.links.tell_often, self._teller)
                with ExitStack() as self._while_running:
                    done.append(await self._run())
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failed:
            first, *others = failed.exceptions
            if others:
                raise
            raise first from first.__cause__
        return done[0] if done else None

    @property
    def _folder(self) -> Path | None:
        """Folder in which the node keeps its journal."""
        place = self.prepared.config.node.data_dir
        return None if place is None else Path(place, self.prepared.node_id.hex())

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
        if self.rounds is not None or swarm.until:
            await self._last_figures(machine.step)
        self.board.links.tell(self._teller)
        self._measurer.stop()  # that a node stopped is the last that it says
        self.log.info("node stopped", step=machine.step, model_digest=machine.model_digest.hex())
        return machine

    async def _last_figures(self, step: int) -> None:
        with anyio.move_on_after(MEASURING_SECONDS):
            while not self._stopping.told and self._measurer.step < step:
                await self._measurer.next()

    def _start(self, node: Node) -> None:
        self.board.node = node
        self._begun.set()
        self.started = True
        machine, prepared = node.machine, self.prepared
        self._reloader = Reloader(
            prepared.config, machine.kernel, prepared.installed, prepared.policies
        )
        if self.reread is not None and self._folder is not None:
            try:
                self._while_running.enter_context(found_in(self._folder))
            except OSError as error:  # it runs all the same
                what = f"{error.strerror or error}: `qres node reload` does not find this node"
                self.log.warning("not to be found", what=what, folder=str(self._folder))
        self.log.info(
            "node running",
            step=machine.step,
            resumed=machine.step > 0,
            model_digest=machine.model_digest.hex(),
        )
        if not machine.is_member:
            what = "this node is no member where its history is; it follows until it is one"
            self.log.warning("no member", what=what, height=machine.head.height)
        self._stopping.begun(node)
        if machine.step:
            dimension = int(machine.model.size)
            made_in = round_info(machine.swarm, machine.head, dimension, machine.model_round)
            self._measurer.take(machine.step, machine.model, made_in)

    def reload(self) -> None:
        """Read the configuration again and take what changed, or nothing; say which."""
        if self._reloader is None or self.reread is None:
            _too_early(self.log)
            return
        begun = self.board.clock()
        try:
            taken, problems = self._reloader.reload(self.reread), list[str]()
        except QresError as error:
            taken, problems = (), [str(item) for item in error.problems]
            self.log.error("reload refused", problems=problems)  # noqa: TRY400 - named errors
        except Exception as error:  # whatever it is, the node runs on as before
            taken, problems = (), [f"{type(error).__name__}: see the node's log"]
            self.log.exception("reload refused", problems=problems)
        else:
            self.log.info("reloaded", taken=list(taken))
        self.board.reloaded(taken, problems, begun)

    def _event(self, event: Event) -> None:
        self.board.note(event)
        node = self._stopping.node
        step = None if node is None else node.machine.step
        self._teller.event(event, step)
        if step is None or not isinstance(event, RoundEnded):
            return
        if event.outcome.status is RoundStatus.CLOSED:
            self._measurer.take(step, event.model, event.outcome.round_info)

    def _measured(self, step: int, figures: Mapping[str, float]) -> None:
        """See whether a model is good enough, and say so."""
        goal = Goal.parse(self.prepared.config.swarm.until)
        node = self._stopping.node
        if goal is None or node is None:
            return
        if goal.is_reached(figures):
            if REACHED not in self.board.goal:
                until = self.prepared.config.swarm.until
                self.board.goal = f"{until} {REACHED} {step}"
                self.log.info("goal reached", until=until, step=step)
            node.enough(step)
        elif goal.figure not in figures and not self.board.goal:
            known = ", ".join(sorted(figures)) or "nothing"
            self.board.goal = f"swarm.until asks for {goal.figure}, and evaluate returns {known}"
            self.log.error("goal names no figure of the trainer", what=self.board.goal)

    async def _watch(self) -> None:
        """Say when the transport stands still."""
        await self._begun.wait()
        if self._stopping.node is not None:
            await self._watchdog.run(self._stopping.node.transport)

    async def _neighbours(self) -> None:
        """Tell who comes, goes and is not let in."""
        await self._begun.wait()
        assert self._stopping.node is not None  # noqa: S101 - set before this runs on
        transport = self._stopping.node.transport
        while True:
            try:
                event = await transport.event()
            except Exception as error:  # noqa: BLE001 - a closed transport has no more to tell
                self.log.debug("the transport sends no more events", error=type(error).__name__)
                return
            self.board.neighbour(event)
            self._teller.neighbour(event)


def run(  # noqa: PLR0913 - all but the first two by name
    config: Config,
    log: Log,
    *,
    rounds: int | None = None,
    linger: float = 30.0,
    leash: int | None = None,
    installed: Mapping[str, Installed] | None = None,
    policies: Sequence[SitePolicy] | None = None,
    report: Callable[[Mapping[str, Any]], None] | None = None,
    reread: Callable[[], Config] | None = None,
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
        reread: as :class:`Daemon`.

    Returns:
        0 when it was stopped, made all rounds or is no member any more, 1 when it had to stop.

    Raises:
        QresError: it was refused before it took part.
    """
    with ExitStack() as stack:
        if reread is not None:
            stack.enter_context(hangups_before(lambda: _too_early(log)))
        daemon = Daemon(prepare(config, installed, policies), log, rounds, linger, leash, reread)
        return _run(daemon, log, report)


def _too_early(log: Log) -> None:
    log.warning("reload refused", problems=["the node is starting"])


def _run(daemon: Daemon, log: Log, report: Callable[[Mapping[str, Any]], None] | None) -> int:
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
