"""The event loop of whoever uses the transport, asyncio's or trio's, seen from another thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

import anyio
import attrs
import trio

from qres_transport_libp2p.clock import cancel_scope, patience, run_soon, spawn_system

T = TypeVar("T")
Cancel = Callable[[], object]


class _Loop(Protocol):
    def post(self, function: Callable[[], object]) -> None:
        """Run something soon; from any thread. Nothing happens once the loop is closed."""
        ...

    def launch(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Cancel:
        """Start a task; from the loop's thread. ``work`` handles its own errors."""
        ...


class _Asyncio:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly

    def post(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def launch(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Cancel:
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task.cancel


class _Trio:
    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def post(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            run_soon(self._token, function)

    def launch(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Cancel:
        scope = cancel_scope()

        async def run() -> None:
            with scope:
                await work()

        spawn_system(run)
        return scope.cancel


def _running_loop() -> _Loop:
    try:
        return _Asyncio()
    except RuntimeError:
        return _Trio()


@attrs.define(eq=False)
class _Answer(Generic[T]):
    """Result of something that ran in the other loop."""

    value: list[T] = attrs.field(factory=list[T])
    error: Exception | None = None
    ready: trio.Event = attrs.field(factory=trio.Event)
    cancel: Cancel | None = None
    unwanted: bool = False

    def take(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value[0]


class Caller:
    """Made in the caller's loop; all but :meth:`cancel_all` is for the transport's thread."""

    def __init__(self) -> None:
        self._loop = _running_loop()
        self._running: set[_Answer[Any]] = set()
        self._idle: anyio.Event | None = None

    @property
    def post(self) -> Callable[[Callable[[], object]], None]:
        """Run something soon in the caller's loop; from any thread."""
        return self._loop.post

    async def ask(self, function: Callable[[], T], within: float) -> T:
        """Call a plain function in the caller's thread and wait for what it returns.

        Raises TimeoutError: not in time; the function may still run. Raises Exception: what the
        function raised.
        """
        token = trio.lowlevel.current_trio_token()
        answer: _Answer[T] = _Answer()

        def run() -> None:
            try:
                answer.value.append(function())
            except Exception as error:  # noqa: BLE001 - raised again in the other thread
                answer.error = error
            _wake(token, answer)

        self._loop.post(run)
        with patience(within):
            await answer.ready.wait()
            return answer.take()
        raise TimeoutError

    async def serve(self, function: Callable[[], Awaitable[T]], within: float) -> T:
        """Run a coroutine function as a task of the caller's loop and wait for its result.

        Raises TimeoutError: not in time; the task is cancelled. Raises Exception: what the function
        raised.
        """
        token = trio.lowlevel.current_trio_token()
        answer: _Answer[T] = _Answer()

        async def work() -> None:
            answer.error = TimeoutError("cancelled")
            try:
                answer.value.append(await function())
                answer.error = None
            except Exception as error:  # noqa: BLE001 - raised again in the other thread
                answer.error = error
            finally:
                self._forget(answer)
                _wake(token, answer)

        def begin() -> None:
            if not answer.unwanted:
                self._running.add(answer)
                answer.cancel = self._loop.launch(work)

        def end() -> None:
            answer.unwanted = True
            if answer.cancel is not None:
                answer.cancel()

        self._loop.post(begin)
        try:
            with patience(within):
                await answer.ready.wait()
                return answer.take()
            raise TimeoutError
        finally:
            if not answer.ready.is_set():
                self._loop.post(end)

    def _forget(self, answer: _Answer[Any]) -> None:
        self._running.discard(answer)
        if self._idle is not None and not self._running:
            self._idle.set()

    async def cancel_all(self) -> None:
        """Cancel the tasks that :meth:`serve` started, and wait for their end."""
        self._idle = anyio.Event()
        for answer in list(self._running):
            if answer.cancel is not None:
                answer.cancel()
        if self._running:
            await self._idle.wait()


def _wake(token: trio.lowlevel.TrioToken, answer: _Answer[Any]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        run_soon(token, answer.ready.set)
