"""Watch over the loop that carries a node's messages: if it stands still, nothing comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import anyio
import attrs

from qres_core.contract.errors import ERRORS, RoundError
from qres_core.contract.transport import AttendedTransport

STUCK_SECONDS: Final = 10.0
"""How long a transport may do nothing else before it counts as standing still."""
LOOK_SECONDS: Final = 1.0
"""Between two looks at it."""
CODE: Final = "QRES-E909"


@attrs.define(eq=False)
class Watchdog:
    """Asks a transport for signs of life, and says when none comes."""

    log: Any  # where it says so
    clock: Callable[[], float] = time.monotonic  # seconds
    trouble: str = attrs.field(default="", init=False)  # in words; empty where all is well
    _waits: float = attrs.field(default=0.0, init=False)  # seconds without a sign, of this process
    _waiting: bool = attrs.field(default=False, init=False)
    _looked: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._looked = self.clock()

    async def run(self, transport: object) -> None:
        """Watch until cancelled, or until the transport is over; one that offers nothing is not."""
        if not isinstance(transport, AttendedTransport):
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._look_often, transport)
            try:
                while True:
                    self.asked()
                    await transport.attend()
                    self.answered()
                    await anyio.sleep(LOOK_SECONDS)
            except RoundError:  # it is closed
                self.answered()
            group.cancel_scope.cancel()

    async def _look_often(self, transport: AttendedTransport) -> None:
        while True:
            await anyio.sleep(LOOK_SECONDS)
            self.look(transport.doing)

    def asked(self) -> None:
        """A sign of life is asked for."""
        self._waiting, self._waits = True, 0.0

    def answered(self) -> None:
        """It came."""
        self._waiting, self._waits = False, 0.0
        if self.trouble:
            self.trouble = ""
            self.log.warning("transport runs again", code=CODE)

    def look(self, doing: Callable[[], str]) -> None:
        """See how long it has been waited for, once each :data:`LOOK_SECONDS`.

        A look that comes late counts for no more than twice that: this process did not run either,
        and the transport may have had no more time than it. ``doing``: what the transport does.
        """
        now = self.clock()
        passed, self._looked = now - self._looked, now
        if not self._waiting:
            return
        self._waits += min(passed, 2 * LOOK_SECONDS)
        if self._waits < STUCK_SECONDS:
            return
        what = f"{ERRORS[CODE][0]} for {self._waits:.0f} s: {doing()}"
        if not self.trouble:
            self.log.error("transport stands still", code=CODE, what=what)
        self.trouble = f"{CODE} {what}"
