"""A thread with a trio loop of its own, and calls into it from another loop.

Why a thread: libp2p resets a stream whose reader rests for five seconds, and a node may compute for
longer than that in its event loop; libp2p runs on trio alone, and a node may run on asyncio; and
what goes wrong inside libp2p must not end the node.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
import attrs
import trio

from qres_core.errors import RoundError
from qres_transport_libp2p.caller import Caller
from qres_transport_libp2p.clock import cancel_scope, first_error, run_soon, run_trio, spawn
from qres_transport_libp2p.steps import Steps

T = TypeVar("T")


def closed(what: str = "closed") -> RoundError:
    """The error of whatever is called on a transport that does not run."""
    return RoundError.of("QRES-E603", "transport.libp2p", what)


@attrs.define(eq=False)
class _Pending(Generic[T]):
    done: anyio.Event
    value: list[T] = attrs.field(factory=list[T])
    error: BaseException | None = None


class TrioThread:
    """Runs one trio program; made and used in the caller's loop.

    Args:
        caller: the loop that calls.
        name: of the thread.
    """

    def __init__(self, caller: Caller, name: str) -> None:
        self.steps = Steps()
        self._caller = caller
        self._name = name
        self._lock = threading.Lock()
        self._pending: set[_Pending[Any]] = set()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._over: str | None = None
        self._started: _Pending[None] | None = None
        self._ended: anyio.Event | None = None
        self._stop: trio.Event | None = None
        self._thread: threading.Thread | None = None

    async def start(
        self,
        program: Callable[[Callable[[], None], trio.Event], Awaitable[None]],
        on_end: Callable[[str], None],
    ) -> None:
        """Start the thread; returns once the program has said that it is ready.

        ``program``: gets a function to call when it is ready, and an event that tells it to end;
        ``on_end``: told why, in the thread, when the program is over. Raises RoundError: QRES-E603,
        with what ended the program before it was ready.
        """
        self._started = started = _Pending[None](anyio.Event())
        self._ended = anyio.Event()
        with self._lock:
            self._pending.add(started)
        self._thread = threading.Thread(
            target=self._run, args=(program, on_end), name=self._name, daemon=True
        )
        self._thread.start()
        await started.done.wait()
        if started.error is not None:
            raise started.error

    def _run(
        self,
        program: Callable[[Callable[[], None], trio.Event], Awaitable[None]],
        on_end: Callable[[str], None],
    ) -> None:
        reason = "closed"
        try:
            run_trio(self._main, program, instruments=[self.steps])
        except BaseException as error:  # noqa: BLE001 - the thread's last word
            first = first_error(error)
            reason = f"{type(first).__name__}: {first}"
        on_end(reason)
        with self._lock:
            self._over = reason
            rest, self._pending = self._pending, set()
        for other in rest:
            other.error = closed(reason)
            self._caller.post(other.done.set)
        if self._ended is not None:
            self._caller.post(self._ended.set)

    async def _main(
        self, program: Callable[[Callable[[], None], trio.Event], Awaitable[None]]
    ) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await program(self._ready, self._stop)
            nursery.cancel_scope.cancel()

    def _ready(self) -> None:
        if self._started is not None:
            self._finish(self._started)

    def _finish(self, pending: _Pending[Any]) -> None:
        with self._lock:
            if pending not in self._pending:
                return
            self._pending.discard(pending)
        self._caller.post(pending.done.set)

    async def call(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run a coroutine function in the thread and wait for its result.

        A cancelled caller cancels it too; it is up to ``work`` to leave streams in a known state.
        Raises RoundError: QRES-E603 if the program does not run, or ends meanwhile. Raises
        Exception: what ``work`` raised.
        """
        scope = cancel_scope()
        pending = _Pending[T](anyio.Event())

        async def run() -> None:
            try:
                with scope:
                    pending.value.append(await work(*arguments))
            except Exception as error:  # noqa: BLE001 - raised again in the other thread
                pending.error = error
            finally:
                if not pending.value and pending.error is None:
                    pending.error = closed("closed meanwhile")
                self._finish(pending)

        def begin() -> None:
            if self._nursery is not None:
                spawn(self._nursery, run)

        with self._lock:
            if self._over is not None or self._token is None:
                raise closed(self._over or "not started")
            self._pending.add(pending)
            token = self._token
        with contextlib.suppress(trio.RunFinishedError):
            run_soon(token, begin)
        try:
            await pending.done.wait()
        except BaseException:
            with contextlib.suppress(trio.RunFinishedError):
                run_soon(token, scope.cancel)
            raise
        if pending.error is not None:
            raise pending.error
        return pending.value[0]

    def post(self, work: Callable[[], object]) -> None:
        """Have a function called in the thread soon, and wait for nothing; not if it is over."""
        with self._lock:
            token = None if self._over is not None else self._token
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                run_soon(token, work)

    async def stop(self, within: float) -> None:
        """Tell the program to end, and wait for the thread; one that lasts is left behind."""
        if self._thread is None or self._ended is None:
            return
        with contextlib.suppress(trio.RunFinishedError):
            if self._token is not None and self._stop is not None:
                run_soon(self._token, self._stop.set)
        with anyio.move_on_after(within):
            await self._ended.wait()
            self._thread.join(
                1.0
            )  # its last statement is done; only the interpreter's part is left
