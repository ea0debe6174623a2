"""Telling a node to stop: by signal, or because whoever started it is gone.

What Windows lacks is here and nowhere else: event loops that wait for signals and for pipes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Final

import anyio
import attrs
import structlog
from anyio.abc import TaskStatus

from qres_core.swarm.runtime.node import Node

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_POSIX: Final = os.name == "posix"
_PAUSE: Final = 0.2
"""How often to look for what cannot be waited for, seconds."""


@attrs.define(eq=False)
class Stopping:
    """Stops a node in order, once it runs, and everything before that."""

    log: structlog.stdlib.BoundLogger  # where it says why
    node: Node | None = None  # what is stopped; ``None`` until there is one
    told: bool = attrs.field(default=False, init=False)  # whether it was told to stop

    def begun(self, node: Node) -> None:
        """There is a node now; it stops at once if that was asked for before."""
        self.node = node
        if self.told:
            node.stop()

    async def at_signals(
        self,
        scope: anyio.CancelScope,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """The first signal stops the node, the second everything in ``scope``."""
        with _signals() as signals:
            task_status.started()
            async for number in signals:
                if self.told:
                    self.log.warning("stopping at once", signal=signal.Signals(number).name)
                    scope.cancel()
                    return
                self._stop(signal.Signals(number).name, scope)

    async def at_end_of(self, leash: int, scope: anyio.CancelScope) -> None:
        """Stop when there is no more to read from a file descriptor."""
        if _POSIX:
            with suppress(OSError):  # a file cannot be waited for, and has an end
                await anyio.wait_readable(leash)
                while os.read(leash, 4096):
                    await anyio.wait_readable(leash)
        else:
            await _end_of(leash)
        if not self.told:
            self._stop("standard input ended", scope)

    def _stop(self, why: str, scope: anyio.CancelScope) -> None:
        self.told = True
        self.log.info("stopping", why=why)
        if self.node is None:
            scope.cancel()
        else:
            self.node.stop()


async def at_hangups(
    told: Callable[[], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Call back at each SIGHUP, until cancelled; never where there is no such signal."""
    number: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if number is None:
        task_status.started()
        return
    with anyio.open_signal_receiver(number) as signals:
        task_status.started()
        async for _number in signals:
            told()


@contextmanager
def hangups_before(told: Callable[[], None]) -> Generator[None]:
    """Call back at a SIGHUP that comes before :func:`at_hangups` listens: it would end the process.

    systemd takes a process that SIGHUP ended for one that ended as it should, and starts no other.
    """
    number: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, lambda _number, _frame: told())
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def _signals() -> Generator[AsyncIterator[int]]:
    """Each of :data:`SIGNALS` that comes."""
    with ExitStack() as stack:
        try:
            signals = stack.enter_context(anyio.open_signal_receiver(*SIGNALS))
        except NotImplementedError:  # asyncio on Windows
            yield stack.enter_context(_noted_signals())
        else:
            yield signals


@contextmanager
def _noted_signals() -> Generator[AsyncIterator[int]]:
    """The same where the event loop cannot wait for signals: they are noted and looked for."""
    came = deque[int]()

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    async def each() -> AsyncGenerator[int]:
        while True:
            while came:
                yield came.popleft()
            await anyio.sleep(_PAUSE)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield each()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _end_of(leash: int) -> None:
    """Wait for the end of a pipe that the event loop cannot wait for: a thread reads it."""
    ended = threading.Event()

    def read() -> None:
        with suppress(OSError):
            while os.read(leash, 4096):
                pass
        ended.set()

    threading.Thread(target=read, name="qres-leash", daemon=True).start()
    while not ended.is_set():  # noqa: ASYNC110 - a thread tells nobody
        await anyio.sleep(_PAUSE)
