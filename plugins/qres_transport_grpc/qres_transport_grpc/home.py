"""The event loop of whoever uses the transport, and a loop of the transport's own in a thread.

Why a thread: a node may compute for seconds in its event loop, and others must get answers and
blobs meanwhile. The node's loop may be asyncio's or trio's; the thread's is asyncio's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from qres_core.errors import RoundError

T = TypeVar("T")


def closed(what: str = "closed") -> RoundError:
    """The error of whatever is called on a transport that does not run."""
    return RoundError.of("QRES-E603", "transport.grpc", what)


class HomeLoop:
    """Made in the node's loop; others reach that loop through it."""

    def __init__(self) -> None:
        self._portal: BlockingPortal | None = None
        self._ready = anyio.Event()
        self._over = anyio.Event()
        self._stop = anyio.Event()
        self._task: object = None
        self._post, self._spawn = _ways()

    def post(self, function: Callable[[], object]) -> None:
        """Run something soon, from any thread; nothing happens once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._post(function)

    async def open(self) -> None:
        """Begin to take calls from the other thread."""
        self._task = self._spawn(self._keep)
        await self._ready.wait()

    async def _keep(self) -> None:
        try:
            async with BlockingPortal() as portal:
                self._portal = portal
                self._ready.set()
                await self._stop.wait()
                self._portal = None
                await portal.stop(cancel_remaining=True)
        finally:
            self._portal = None
            self._over.set()

    async def close(self) -> None:
        """Cancel what others started here, and wait for its end."""
        if self._task is not None:
            self._stop.set()
            await self._over.wait()

    async def ask(self, function: Callable[..., Any], within: float, *args: Any) -> Any:
        """Call a function or coroutine function in the node's loop, from the other.

        Raises TimeoutError: not in time; a coroutine is cancelled. Raises Exception: what it
        raised.
        """
        portal = self._portal
        if portal is None:
            raise closed()
        future = portal.start_task_soon(function, *args)
        return await asyncio.wait_for(asyncio.wrap_future(future), within)

    async def landed(self, future: concurrent.futures.Future[T]) -> T:
        """Wait, in the node's loop, for what comes of something in the other."""
        done = anyio.Event()
        future.add_done_callback(lambda _future: self.post(done.set))
        try:
            await done.wait()
        except BaseException:
            future.cancel()
            raise
        if future.cancelled():
            raise closed("closed meanwhile")
        return future.result()


def _ways() -> tuple[
    Callable[[Callable[[], object]], object],
    Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
]:
    """Ways to run a function, and a task, in the loop that runs now."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # Whoever runs trio has it; nobody else needs it.
        trio: Any = importlib.import_module("trio").lowlevel
        return trio.current_trio_token().run_sync_soon, trio.spawn_system_task
    return loop.call_soon_threadsafe, lambda work: loop.create_task(work())


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class LoopThread:
    """A thread with an asyncio loop."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(_cancel_others())
        finally:
            self.loop.close()

    def call(self, work: Callable[..., Awaitable[T]], *args: Any) -> concurrent.futures.Future[T]:
        """Run a coroutine function in the thread; cancelling the future cancels it.

        Raises RoundError: QRES-E603 if the thread is over.
        """

        async def run() -> T:
            return await work(*args)

        coroutine = run()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError as error:
            coroutine.close()
            raise closed() from error

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Run a function in the thread soon; nothing happens once it is over."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def stop(self) -> None:
        """End the loop, and wait for the thread."""
        self.post(self.loop.stop)
        self._thread.join()
