"""The few names of trio and libp2p whose types checkers get wrong, behind types that are right.

libp2p installs ``trio-typing``, stubs of an old trio, which win over trio's own types.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import trio


def patience(
    seconds: float, *, shield: bool = False
) -> AbstractContextManager[trio.CancelScope, bool]:
    """Give up after some seconds, without an error; ``shield`` keeps out other cancellations."""
    make: Any = trio.CancelScope
    scope: AbstractContextManager[trio.CancelScope, bool] = make(
        deadline=trio.current_time() + seconds, shield=shield
    )
    return scope


def shielded() -> AbstractContextManager[trio.CancelScope, None]:
    """Keep cancellations out; for what ends by itself."""
    make: Any = trio.CancelScope
    scope: AbstractContextManager[trio.CancelScope, None] = make(shield=True)
    return scope


def cancel_scope() -> trio.CancelScope:
    """A scope to be entered and cancelled later."""
    make: Any = trio.CancelScope
    scope: trio.CancelScope = make()
    return scope


def run_soon(token: trio.lowlevel.TrioToken, function: Callable[..., object], *args: Any) -> None:
    """Run a function in a trio loop, from any thread. Raises trio.RunFinishedError."""
    untyped: Any = token
    untyped.run_sync_soon(function, *args)


def spawn(nursery: trio.Nursery, work: Callable[..., Awaitable[object]], *args: Any) -> None:
    """Start a task."""
    untyped: Any = nursery
    untyped.start_soon(work, *args)


def spawn_system(work: Callable[[], Awaitable[object]]) -> None:
    """Start a task of the loop itself."""
    untyped: Any = trio.lowlevel
    untyped.spawn_system_task(work)


def first_error(error: BaseException) -> BaseException:
    """The first leaf of an exception group, or the error itself."""
    found: Any = error
    while hasattr(found, "exceptions"):
        found = found.exceptions[0]
    leaf: BaseException = found
    return leaf


def run_trio(
    work: Callable[..., Awaitable[None]], *args: Any, instruments: Sequence[object] = ()
) -> None:
    """Run a loop of its own in this thread."""
    untyped: Any = trio
    untyped.run(work, *args, instruments=instruments)
