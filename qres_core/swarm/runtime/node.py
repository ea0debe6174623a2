"""A real node: the thin asynchronous shell around a round machine.

The machine decides everything; the shell carries frames, keeps the clock and lends two threads to
the trainer: one to train, one to judge. One task touches the machine. Around it::

    transport ──► listen ──► inputs ──► drive: machine ──► outbox ──► speak ──► transport
                  train (thread) ──► inputs        ▲  │
                  judge (thread) ──► answer        ▲  │
                ▲                                  │  └──► on_event
                └── newest Train, AskTrainer ──────┴─ clock, next_tick

Every queue is bounded. A full ``inputs`` holds the listener up, so that the transport refuses or
drops; a full ``outbox`` drops and counts, because a node that waited for its neighbours while they
wait for it would stop them all.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import anyio
import anyio.to_thread
import attrs
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from qres_core.contract.by_record import by_record
from qres_core.contract.errors import ConfigError, LabError, ModelError, TransportError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.stores import clear_leftovers, make_folder, sync_folder
from qres_core.contract.trainer import Trainer
from qres_core.contract.trainer_abilities import base_of
from qres_core.contract.training import (
    TrainerError,
    TrainerFailure,
    finer_grid,
    fitted,
    vanishing,
)
from qres_core.contract.transport import Delivery, Transport
from qres_core.contract.types import NodeId, NodeInfo, Update, Vector, model_digest
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.effects import (
    NOTHING_NEW,
    Agreed,
    AskTrainer,
    Broadcast,
    Diverged,
    Refused,
    Removed,
    RoundEnded,
    SatOut,
    SendTo,
    Train,
    Vanished,
    Vouched,
)
from qres_core.swarm.context.position import node_info
from qres_core.swarm.machine.resuming import known_roster
from qres_core.swarm.machine.rounds import RoundMachine, round_machine
from qres_core.swarm.members.pending_changes import PendingChanges, RosterFolder
from qres_core.swarm.runtime.carrier import Carrier, task_group, transport_errors
from qres_core.swarm.runtime.driver import Driver, Ports, Told
from qres_core.swarm.storage.journal import Journal, MemoryJournal, SqliteJournal, refuse_lost
from qres_core.swarm.storage.model_file import KEPT, SwarmModel
from qres_core.swarm.storage.trainer_memory import TrainerMemory

INPUTS: Final = 64
"""Frames taken from the transport and not yet looked at."""
OUTBOX_FRAMES: Final = 4096
OUTBOX_MESSAGES: Final = 8
"""The outbox holds as many bytes as this many messages of the largest size."""
PAUSES: Final = (0.05, 0.2, 0.5)
"""Seconds to wait before a frame is offered again to a transport that is busy."""
MEETING_SECONDS: Final = 0.05
"""Between two looks at who is there."""
CLOSING_SECONDS: Final = 5.0
"""How long the last frames may take to leave, and the transport to disconnect."""

_FULL: Final = "the transport does not keep up: the outbox is full, frames are dropped"
_LOG: Final = logging.getLogger(__name__)

Event: TypeAlias = RoundEnded | Agreed | Refused | SatOut | TrainerFailure | Vanished | Removed
Outgoing: TypeAlias = Broadcast | SendTo


@attrs.frozen(eq=False)
class _Trained:
    """Result of a :class:`Train`: an update, or why there is none."""

    round: RoundInfo
    result: Update | TrainerFailure | str
    vanished: Vanished | None = None


def _lost(train: Train, result: Update | TrainerFailure | str) -> Vanished | None:
    """Part of an update that the grid swallowed."""
    if not isinstance(result, Update):
        return None
    fix = finer_grid(result, train.model, train.round_info)
    if fix is None:
        return None
    return Vanished(train.round_info.number, vanishing(result, fix), fix)


def _fitted(train: Train, trainer: Trainer, remembered: TrainerMemory | None) -> Update | None:
    update = fitted(trainer, train.model, train.round_info)
    if remembered is not None:
        remembered.keep(train.round_info)
    return update


@attrs.frozen
class _Wake:
    """There is something to do beside the inputs."""


_Input: TypeAlias = Delivery | _Trained | _Wake


@attrs.define(eq=False)
class _JudgingThread:
    """Thread in which a trainer judges: one model at a time, and the newest that was asked for."""

    answered: AskTrainer | None = attrs.field(default=None, init=False)  # and not taken yet
    _asked: AskTrainer | None = attrs.field(default=None, init=False)
    _work: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def put(self, asked: AskTrainer) -> None:
        """Ask this next."""
        self._asked = asked
        self._work.set()

    def take(self) -> AskTrainer | None:
        """Return the answers since the last time."""
        taken, self.answered = self.answered, None
        return taken

    async def run(self, wake: Callable[[], None]) -> None:
        """Answer, and wake the node each time, until cancelled.

        An answer goes before the frames that wait. A proposer may ask once for each candidate, and
        whoever floods the node would make it wait as often behind a full queue.
        """
        limiter = anyio.CapacityLimiter(1)  # as for training
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            asked, self._asked = self._asked, None
            if asked is not None:
                await anyio.to_thread.run_sync(asked.run, abandon_on_cancel=True, limiter=limiter)
                self.answered = asked  # of one before, nobody waits for it any more
                wake()


@attrs.define(eq=False)
class _TrainingThread:
    """Thread of a node's trainer: one round at a time, and the newest that was wanted."""

    trainer: Trainer
    remembered: TrainerMemory | None  # what it keeps, written down before an update leaves
    _wanted: Train | None = attrs.field(default=None, init=False)
    _work: anyio.Event = attrs.field(factory=anyio.Event, init=False)

    def put(self, wanted: Train) -> None:
        """Train this next."""
        self._wanted = wanted
        self._work.set()

    async def run(self, inlet: MemoryObjectSendStream[_Input]) -> None:
        """Train, and give what comes of it to the node, until cancelled."""
        limiter = anyio.CapacityLimiter(1)  # the nodes of one process do not queue for each other
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            train, self._wanted = self._wanted, None
            if train is not None:
                result = await self._fit(train, limiter)
                lost = _lost(train, result)
                await inlet.send(_Trained(train.round_info, result, lost))

    async def _fit(
        self, train: Train, limiter: anyio.CapacityLimiter
    ) -> Update | TrainerFailure | str:
        try:
            training = partial(_fitted, train, self.trainer, self.remembered)
            update = await anyio.to_thread.run_sync(
                training, abandon_on_cancel=True, limiter=limiter
            )  # a node that is told to stop does not wait for an epoch
        except TrainerError as error:  # the node goes on voting
            if isinstance(error.__cause__, LabError):  # an attacker that stays away does not fail
                return str(error.__cause__.problems[0])
            return error.failure
        return NOTHING_NEW if update is None else update


@attrs.define(eq=False, kw_only=True)
class Node:
    """Drives one machine over one transport. :func:`run_node` makes it with all around it."""

    machine: RoundMachine  # the node's rounds, not started
    transport: Transport  # started
    trainer: Trainer  # trains in a worker thread, one round at a time
    remembered: TrainerMemory | None = None  # what it keeps, written down before an update leaves
    # stop once the machine has made this many models; ``None``: when cancelled
    steps: int | None = None
    # told what happens, in order, in the event loop's thread; what it raises stops the node
    on_event: Callable[[Event], None] | None = None
    # given each new model once it is decided, with the votes; as ``on_event``
    on_model: Callable[[SwarmModel], None] | None = None
    # writes such a model down, in a worker thread; of two that come while it writes, only the
    # newer. What it raises stops the node.
    keep: Callable[[SwarmModel], None] | None = None
    forget: Callable[[frozenset[bytes]], None] | None = None
    clock: Callable[[], float] = time.time  # seconds since 1970
    linger: float = 0.0  # seconds to go on helping the others after the last model
    # seconds to wait at most, before the first round, for as many neighbours as a round needs: what
    # is said before they are there is lost, and the round with it
    meet: float = 0.0
    # whether it waits for them now, or has not begun; the machine is in no round yet
    meeting: bool = attrs.field(default=True, init=False)
    # frames that a full outbox dropped or the transport refused; the first is logged
    dropped: int = attrs.field(default=0, init=False)
    _now: float = attrs.field(default=-math.inf, init=False)
    _at: float = attrs.field(default=0.0, init=False)
    _good: int | None = attrs.field(default=None, init=False)
    _training: _TrainingThread = attrs.field(init=False)
    _judging: _JudgingThread = attrs.field(factory=_JudgingThread, init=False)
    _vouched: SwarmModel | None = attrs.field(default=None, init=False)
    _disowned: frozenset[bytes] = attrs.field(default=frozenset(), init=False)
    _to_keep: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _outgoing_bytes: int = attrs.field(default=0, init=False)
    _driving: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    _outbox: MemoryObjectSendStream[Outgoing] = attrs.field(init=False)
    _driver: Driver = attrs.field(init=False)
    carrier: Carrier = attrs.field(init=False)  # for frames of any size; counts the large ones
    _inlet: MemoryObjectSendStream[_Input] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        swarm = self.machine.swarm
        self.carrier = Carrier.of(self.transport, swarm)
        self._training = _TrainingThread(self.trainer, self.remembered)
        ports = Ports(
            broadcast=lambda frame: self._post(Broadcast(frame)),
            send=lambda to, frame: self._post(SendTo(to, frame)),
            train=self._want,
            ask=self._judging.put,
            tell=self._tell,
        )
        self._driver = Driver(self.machine, ports)

    async def run(self) -> None:
        """Take part until the last model is made and the linger is over.

        Raises RoundError: QRES-E601 when a quorum holds another model, QRES-E602 when the journal
        fails, QRES-E603 when the transport does. Raises HookError: a plugin failed where the
        machine cannot go on without it.
        """
        inlet, inputs = anyio.create_memory_object_stream[_Input](INPUTS)
        self._outbox, outgoing = anyio.create_memory_object_stream[Outgoing](OUTBOX_FRAMES)
        self._inlet = inlet
        sent = anyio.Event()
        try:
            with inlet, inputs, self._outbox, outgoing:
                async with task_group() as group:
                    group.start_soon(self._listen, inlet)
                    group.start_soon(self._training.run, inlet)
                    group.start_soon(self._judging.run, self._wake)
                    group.start_soon(self._speak, outgoing, sent)
                    group.start_soon(self._keep)
                    try:
                        with self._driving:
                            await self._meet()
                            self.meeting = False
                            await self._drive(inputs)
                    finally:
                        self.machine.stop()
                    self._outbox.close()
                    with anyio.move_on_after(CLOSING_SECONDS):
                        await sent.wait()
                    group.cancel_scope.cancel()
        finally:
            if self._disowned and self.forget is not None:  # nothing is being written any more
                self.forget(self._disowned)
        if self._vouched is not None and self.keep is not None:
            self.keep(self._vouched)

    def enough(self, step: int) -> None:
        """The model of a step reached ``swarm.until`` here: tell the others.

        Once so many say so as decide a vote, the node stops as after the last of its ``steps``.
        """
        self._good = step
        self._wake()

    def _wake(self) -> None:
        """Have the machine see to what comes by no input. Full, the inputs need no waking."""
        with suppress(anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._inlet.send_nowait(_Wake())

    @property
    def is_through(self) -> bool:
        """True if the node has made its last model, and only helps the others."""
        return self.steps is not None and self.machine.step >= self.steps

    def stop(self) -> None:
        """Have :meth:`run` return: what is in the outbox still leaves, nothing more is taken in.

        At any time: what the node must not forget is in its journal before it is said.
        """
        self._driving.cancel()

    # ── the machine ───────────────────────────────────────────────────────────────────────────

    async def _meet(self) -> None:
        if self.is_through or not self.machine.is_member:
            return
        began, roster = anyio.current_time(), self.machine.head.roster
        with anyio.move_on_after(self.meet) as limit:
            await self._have_met(roster.quorum)
            # Who comes later does not hear what is said at first, and is sent it one by one. So the
            # others may take as long again, and no more: they may be away.
            limit.deadline = min(limit.deadline, 2 * anyio.current_time() - began)
            await self._have_met(len(roster))

    async def _have_met(self, count: int) -> None:
        while len(self.transport.peers()) + 1 < count:  # noqa: ASYNC110
            await anyio.sleep(MEETING_SECONDS)

    async def _drive(self, inputs: MemoryObjectReceiveStream[_Input]) -> None:
        machine, driver = self.machine, self._driver
        driver.start(self._time())
        end = math.inf
        while True:
            if self._good is not None:
                good, self._good = self._good, None
                driver.carry_out(machine.enough(good, self._time()))
            if (asked := self._judging.take()) is not None:
                driver.carry_out(machine.answered(asked, self._time()))
            if machine.has_enough and not self.is_through:
                self.steps = machine.step
            if end == math.inf and self.is_through:
                end = anyio.current_time() + self.linger
            remaining = end - anyio.current_time()
            if remaining <= 0:
                return
            due = machine.next_tick  # asked anew: more than the machine's own steps may change it
            if self._time() >= due:
                driver.carry_out(machine.tick(self._now))
                due = machine.next_tick
            wait = due - self._now
            item = await self._next(inputs, min(wait, remaining))
            if item is not None:
                self._take(item)
            elif wait <= remaining:
                # The loop has slept the whole time, whatever became of the clock meanwhile.
                self._now = max(self._time(), due)
                driver.carry_out(machine.tick(self._now))

    def _time(self) -> float:
        """The clock's time, except that it never goes back: timeouts must come to an end.

        While a clock that was set back is behind, time runs at half the event loop's speed, until
        the clock has caught up.
        """
        at = anyio.current_time()
        self._now = max(self.clock(), self._now + (at - self._at) / 2)
        self._at = at
        return self._now

    async def _next(self, inputs: MemoryObjectReceiveStream[_Input], wait: float) -> _Input | None:
        try:
            # First, so that a late tick does not starve what is already here.
            return inputs.receive_nowait()
        except anyio.WouldBlock:
            with anyio.move_on_after(wait):
                return await inputs.receive()
        return None

    def _take(self, item: _Input) -> None:
        now = self._time()
        if isinstance(item, Delivery):
            # Neighbours pass on what they cannot judge: who made a frame is to blame for it.
            source = item.author or item.link
            self._driver.receive(item.frame, source, now, item.waited)
        elif isinstance(item, _Trained):
            self._take_trained(item, now)

    def _take_trained(self, item: _Trained, now: float) -> None:
        made = item.result
        if item.vanished is not None:
            self._note(item.vanished)
        if isinstance(made, TrainerFailure):
            self._note(made)
            made = made.summary
        self._driver.trained(item.round, made, now)

    def _want(self, train: Train) -> None:
        if self.steps is None or train.round_info.step < self.steps:
            self._training.put(train)

    def _tell(self, told: Told) -> None:
        match told:
            case Diverged(error, models):
                self._disowned = models
                raise error
            case Vouched(model):
                self._hand_out(model)
            case _:
                self._note(told)
                if isinstance(told, Removed):
                    self.stop()  # its last votes still leave

    def _note(self, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def _hand_out(self, model: SwarmModel) -> None:
        if self.keep is not None:
            self._vouched = model
            self._to_keep.set()
        if self.on_model is not None:
            self.on_model(model)

    # ── the world ─────────────────────────────────────────────────────────────────────────────

    async def _listen(self, inlet: MemoryObjectSendStream[_Input]) -> None:
        await self.carrier.listen(inlet.send)

    def _post(self, outgoing: Outgoing) -> None:
        size = len(outgoing.frame)
        limit = OUTBOX_MESSAGES * self.machine.swarm.max_message_bytes
        if self._outgoing_bytes + size > limit:
            self._drop()
            return
        try:
            self._outbox.send_nowait(outgoing)
        except anyio.WouldBlock:
            self._drop()
        else:
            self._outgoing_bytes += size

    def _drop(self, why: str = _FULL) -> None:
        if not self.dropped:
            _LOG.warning(why)
        self.dropped += 1

    async def _speak(
        self, outgoing: MemoryObjectReceiveStream[Outgoing], sent: anyio.Event
    ) -> None:
        async for message in outgoing:
            with transport_errors("send"):
                await self._send(message)
            self._outgoing_bytes -= len(message.frame)
        sent.set()

    async def _send(self, outgoing: Outgoing) -> None:
        for pause in (*PAUSES, None):
            try:
                if isinstance(outgoing, Broadcast):
                    await self.carrier.broadcast(outgoing.frame)
                else:
                    await self.carrier.send(outgoing.to, outgoing.frame)
            except TransportError as error:
                if pause is None or error.code not in {"QRES-E902", "QRES-E903"}:
                    self._drop(f"the transport refused a frame, and the node dropped it: {error}")
                    return
                await anyio.sleep(pause)
            else:
                return

    async def _keep(self) -> None:
        while True:
            await self._to_keep.wait()
            self._to_keep = anyio.Event()
            model = self._vouched
            if model is not None and self.keep is not None:
                await anyio.to_thread.run_sync(self.keep, model)
            if self._vouched is model:  # else there is a newer one by now
                self._vouched = None


@contextmanager
def _while_stopping(reason: BaseException | None) -> Generator[None]:
    """Let what fails in cleaning up not hide the error that stopped the node."""
    try:
        yield
    except Exception as error:
        if not isinstance(reason, Exception):
            raise
        reason.add_note(f"while stopping: {type(error).__name__}: {error}")


@asynccontextmanager
async def _plugins(kernel: Kernel, node_info: NodeInfo) -> AsyncGenerator[None]:
    reason: BaseException | None = None
    try:
        kernel.setup(node_info)
        yield
    except BaseException as error:
        reason = error
        raise
    finally:
        with _while_stopping(reason):
            kernel.teardown()


@asynccontextmanager
async def _connection(kernel: Kernel, node_info: NodeInfo) -> AsyncGenerator[Transport]:
    transport = kernel.transport(node_info)
    with transport_errors("limits"):
        Carrier(transport, kernel.swarm.max_message_bytes).check()
    reason: BaseException | None = None
    try:
        with transport_errors("start"):
            await transport.start()
        yield transport
    except BaseException as error:
        reason = error
        raise
    finally:
        with (
            _while_stopping(reason),
            transport_errors("aclose"),
            anyio.move_on_after(CLOSING_SECONDS, shield=True),
        ):
            await transport.aclose()


@contextmanager
def _memory(
    config: Config, node_id: NodeId, initial: Vector, folder: Path | None
) -> Generator[Journal]:
    """The journal of a node that was given none."""
    if folder is None:
        yield MemoryJournal()
        return
    refuse_lost(folder, folder / KEPT)
    journal = SqliteJournal(folder, swarm=config.swarm.name, node_id=node_id, initial=initial)
    with closing(journal):
        clear_leftovers(folder / KEPT)
        yield journal


@contextmanager
def _trainer_memory(
    trainer: Trainer, info: NodeInfo, initial: Vector, journal: Journal
) -> Generator[TrainerMemory | None]:
    """Memory of the trainer, given back to it; ``None`` where there is none."""
    opened = None
    if info.data_dir is not None:
        owner = info.swarm, info.node_id, model_digest(initial, 0)
        begun = journal.contributions()[1] > 0
        opened = TrainerMemory.open(trainer, Path(info.data_dir), owner, begun=begun)
    with nullcontext() if opened is None else closing(opened):
        yield opened


def _keep_in(folder: Path, model: SwarmModel) -> None:
    make_folder(folder)  # there already, where the journal is in it
    model.keep(folder)


def _forget_in(folder: Path, models: frozenset[bytes]) -> None:
    """Remove the kept model if it is one of these, by digest."""
    path = folder / KEPT
    with suppress(ModelError):  # there is none, or nobody can use it
        if SwarmModel.load(path).digest in models:
            path.unlink(missing_ok=True)
            sync_folder(folder)


async def run_node(  # noqa: PLR0913 - all but the configuration by name
    config: Config,
    *,
    node_id: NodeId,
    roster: Sequence[NodeId],
    trainer: Trainer,
    initial: Vector,
    steps: int | None,
    journal: Journal | None = None,
    installed: Mapping[str, Installed] | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_model: Callable[[SwarmModel], None] | None = None,
    clock: Callable[[], float] = time.time,
    linger: float = 0.0,
    meet: float = 0.0,
    on_start: Callable[[Node], None] | None = None,
    on_end: Callable[[Node], None] | None = None,
) -> RoundMachine:
    """Run one node of a swarm, from its plugins' ``setup`` to their ``teardown``.

    A node that stopped goes on where its journal says, and catches up with the others. It returns
    early when the members remove this node.

    Args:
        config: the swarm, the node and its plugins.
        node_id: this node's identity, 32 bytes. A node that is not in the roster joins: it follows
            the others, and takes part once a decision of theirs makes it a member.
        roster: identities of the first members, distinct, ``config.swarm.nodes`` of them; or of
            those of a later roster, see ``swarm.roster_epoch``.
        trainer: trains in a worker thread; judges models in another, where it has ``validate``.
            What its ``fit`` raises makes the node sit the round out, with the reason in
            :class:`SatOut`. A node that stops does not wait for what is under way; the threads end
            by themselves, their results unused. What a
            :class:`~qres_core.training.RememberingTrainer` keeps is in the node's folder, and given
            back to it. Where a plugin protects single examples it is a
            :class:`~qres_core.training.RecordTrainer`: sums of its clipped steps are sent.
        initial: the swarm's first model, int32, shape ``(d,)``, the same on every node.
        steps: stop at the model of this number, counted from the swarm's first; ``None`` to run
            until cancelled.
        journal: durable memory; the caller closes it. If not given, a :class:`SqliteJournal` in
            the subfolder of ``node.data_dir`` named after the identity in hex, or nothing durable
            where ``data_dir`` is not set.
        installed: plugins by name instead of those installed in the environment.
        on_event: told of :class:`RoundEnded`, :class:`Agreed`, :class:`Refused`,
            :class:`SatOut` and :class:`Removed`, in order. It runs in the event loop's thread and
            must be quick.
        on_model: given each new model once it is decided, with the votes that decided it; as
            ``on_event``. A node with a folder also keeps the newest one there, see
            :func:`qres_core.swarm.storage.model_file.kept_model`.
        clock: seconds since 1970, what messages are stamped with.
        linger: seconds to go on helping nodes that lag after the last model.
        meet: seconds to wait at most for a quorum of neighbours before the first round; for the
            others as long again as that took.
        on_start: given the node once it is connected, before its first round; to look at it while
            it runs, and to stop it.
        on_end: given the node when its last round is over, whatever ended it, and before its
            plugins are torn down; for a last look.

    Returns:
        the machine, stopped: its model, step and rejections.

    Raises:
        ConfigError: QRES-E105 for a roster that is not the swarm's, and where the transport cannot
            carry messages of ``swarm.max_message_bytes``. QRES-E103 without a folder where a plugin
            needs one.
        PluginError: QRES-E2xx.
        CompatibilityError: QRES-E3xx.
        RoundError: QRES-E601 to QRES-E603.
        HookError: QRES-E7xx.
        ExceptionGroup: of what plugins' ``teardown`` raised.
    """
    swarm = config.swarm
    members = tuple(sorted(set(roster)))
    if len(members) != len(roster) or len(members) != swarm.nodes:
        what = f"{len(members)} distinct identities of {len(roster)}, swarm.nodes {swarm.nodes}"
        fix = "name every member once"
        raise ConfigError.of("QRES-E105", "swarm.roster", what, fix)
    folder = Path(config.node.data_dir, node_id.hex()) if config.node.data_dir else None
    place = None if folder is None else str(folder)
    kernel = Kernel.from_config(config, installed=installed)
    for plugin in kernel.enabled if folder is None else ():
        if plugin.claims.needs.folder:
            what = f"not set, and plugins.{plugin.name} keeps what must outlive the process"
            raise ConfigError.of("QRES-E103", "node.data_dir", what, "name a folder of the node")
    kernel.fit(int(initial.size))
    kernel.settings = kernel.settings.on_top_of(base_of(trainer))
    trainer = by_record(trainer, kernel.record_clip)
    info = node_info(swarm, node_id, members, trainer, data_dir=place)
    changes: PendingChanges | None = None
    if config.node.data_dir:
        known = known_roster(members, swarm)
        changes = RosterFolder(swarm.name, known, Path(config.node.data_dir))
    kept = _memory(config, node_id, initial, folder) if journal is None else nullcontext(journal)
    with kept as memory, _trainer_memory(trainer, info, initial, memory) as remembered:
        async with _plugins(kernel, info), _connection(kernel, info) as transport:
            machine = round_machine(info, kernel, swarm, initial, memory, trainer, changes)
            machine.waits.adapts = machine.opinions.apart = True
            node = Node(
                machine=machine,
                transport=transport,
                trainer=trainer,
                remembered=remembered,
                steps=steps,
                on_event=on_event,
                on_model=on_model,
                keep=None if folder is None else partial(_keep_in, folder),
                forget=None if folder is None else partial(_forget_in, folder),
                clock=clock,
                linger=linger,
                meet=meet,
            )
            machine.follow_arrivals(node.carrier.arriving)
            if on_start is not None:
                on_start(node)
            try:
                await node.run()
            finally:
                if on_end is not None:
                    on_end(node)
            return node.machine
