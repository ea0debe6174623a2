"""Task of the thread that runs now, and its peer: to be named when it does not come to an end."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

import trio
from libp2p.peer.id import ID

PEER: Final[ContextVar[ID | None]] = ContextVar("qres_libp2p_peer", default=None)
"""The peer that a task works for: set when its key is proved, and taken over by what it starts."""


class Steps(trio.abc.Instrument):
    """Notes the task that trio runs; read from any thread."""

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task begins to run."""
        self._task = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It waits, or is over."""
        del task
        self._task = None

    @property
    def words(self) -> str:
        """The task and its peer; empty while none runs."""
        task = self._task
        if task is None:
            return ""
        peer = task.context.get(PEER)
        return f"the task {task.name}" + ("" if peer is None else f" for {peer}")
