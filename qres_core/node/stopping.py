"""Telling a node to stop: by signal, or because whoever started it is gone."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Final

import anyio
import attrs
import structlog
from anyio.abc import TaskStatus

from qres_core.swarm.node import Node

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@attrs.define(eq=False)
class Stopping:
    """Stops a node in order, once it runs, and everything before that.

    Attributes:
        log: where it says why.
        node: what is stopped; ``None`` until there is one.
        told: whether it was told to stop.
    """

    log: structlog.stdlib.BoundLogger
    node: Node | None = None
    told: bool = attrs.field(default=False, init=False)

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
        with anyio.open_signal_receiver(*SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                if self.told:
                    self.log.warning("stopping at once", signal=signal.Signals(number).name)
                    scope.cancel()
                    return
                self._stop(signal.Signals(number).name, scope)

    async def at_end_of(self, leash: int, scope: anyio.CancelScope) -> None:
        """Stop when there is no more to read from a file descriptor."""
        with suppress(OSError):  # a file cannot be waited for, and has an end
            await anyio.wait_readable(leash)
            while os.read(leash, 4096):
                await anyio.wait_readable(leash)
        if not self.told:
            self._stop("standard input ended", scope)

    def _stop(self, why: str, scope: anyio.CancelScope) -> None:
        self.told = True
        self.log.info("stopping", why=why)
        if self.node is None:
            scope.cancel()
        else:
            self.node.stop()
