"""The thread, and calls into it and out of it."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import pytest
import trio
from qres_transport_libp2p.bridge import TrioThread
from qres_transport_libp2p.caller import Caller

from qres_core.errors import RoundError

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
def test_calls_cross_the_threads_with_results_errors_and_cancellation(backend: str) -> None:
    ended: list[str] = []

    async def main() -> None:
        thread = TrioThread(Caller(), "libp2p-test")

        async def program(ready: object, stop: trio.Event) -> None:
            assert callable(ready)
            ready()
            await stop.wait()

        async def answer(number: int) -> str:
            await trio.lowlevel.checkpoint()
            return f"{number} in {threading.current_thread().name}"

        async def fail() -> None:
            raise LookupError

        cancelled: list[bool] = []

        waiting: list[bool] = []

        async def wait() -> None:
            waiting.append(True)
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                cancelled.append(True)
                raise

        with pytest.raises(RoundError, match="not started"):
            await thread.call(answer, 1)
        await thread.start(program, ended.append)
        assert await thread.call(answer, 1) == "1 in libp2p-test"
        with pytest.raises(LookupError):
            await thread.call(fail)
        async with anyio.create_task_group() as group:
            group.start_soon(thread.call, wait)
            while not waiting:  # noqa: ASYNC110 - another thread's loop tells nobody
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        await thread.call(answer, 2)
        assert cancelled == [True]
        async with anyio.create_task_group() as group:

            async def interrupted() -> None:
                with pytest.raises(RoundError, match="QRES-E603"):
                    await thread.call(wait)

            group.start_soon(interrupted)
            await anyio.sleep(0.05)
            await thread.stop(60)
        with pytest.raises(RoundError, match="QRES-E603"):
            await thread.call(answer, 3)
        await thread.stop(60)

    anyio.run(main, backend=backend)
    assert ended == ["closed"]


@BACKENDS
def test_a_program_that_fails_says_why(backend: str) -> None:
    ended: list[str] = []

    async def program(_ready: object, _stop: trio.Event) -> None:
        what = "the reason"
        raise OSError(what)

    async def main() -> None:
        thread = TrioThread(Caller(), "libp2p-test")
        with pytest.raises(RoundError, match="OSError: the reason"):
            await thread.start(program, ended.append)

    anyio.run(main, backend=backend)
    assert ended == ["OSError: the reason"]


@BACKENDS
def test_questions_to_the_caller_s_loop_end_in_time(backend: str) -> None:
    async def main() -> None:
        caller = Caller()
        thread = TrioThread(caller, "libp2p-test")
        cancelled = anyio.Event()

        async def program(ready: object, stop: trio.Event) -> None:
            assert callable(ready)
            ready()
            await stop.wait()

        begun: list[bool] = []

        async def slow() -> None:
            begun.append(True)
            try:
                await anyio.sleep(60)
            finally:
                cancelled.set()

        async def double() -> int:
            await anyio.lowlevel.checkpoint()
            return 42

        async def ask() -> tuple[str, int]:
            return (
                await caller.ask(lambda: threading.current_thread().name, 60),
                await caller.serve(double, 60),
            )

        async def wait() -> None:
            while not begun:  # on a machine that halts, its time may pass before it begins
                with pytest.raises(TimeoutError):
                    await caller.serve(slow, 1.0)

        await thread.start(program, lambda _why: None)
        assert await thread.call(ask) == (threading.current_thread().name, 42)
        await thread.call(wait)
        await cancelled.wait()
        await caller.cancel_all()
        await thread.stop(60)

    anyio.run(main, backend=backend)
