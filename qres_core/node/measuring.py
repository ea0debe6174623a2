"""Measuring a node's models beside its rounds."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.to_thread
import attrs

from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer import Trainer
from qres_core.contract.training import TrainerError, evaluated
from qres_core.contract.types import Vector
from qres_core.node.status import StatusBoard
from qres_core.node.telling import Teller


@attrs.define(eq=False)
class Measurer:
    """Measures the newest model in a thread, skipping those that are no longer it."""

    trainer: Trainer  # whose ``evaluate`` measures
    board: StatusBoard  # where the figures are shown
    teller: Teller  # where they are logged
    # number of the last model that was measured, or could not be
    step: int = attrs.field(default=0, init=False)
    _newest: tuple[int, Vector, RoundInfo] | None = attrs.field(default=None, init=False)
    _wanted: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _done: anyio.Event = attrs.field(factory=anyio.Event, init=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def take(self, step: int, model: Vector, round_info: RoundInfo) -> None:
        """There is a newer model, of that round."""
        self._newest = step, model, round_info
        self._wanted.set()

    async def next(self) -> None:
        """Return when another model is measured."""
        self._done = anyio.Event()
        await self._done.wait()

    def stop(self) -> None:
        """Show and log nothing more, whatever is being measured."""
        self._stopped = True

    async def run(self) -> None:
        """Measure until cancelled."""
        limiter = anyio.CapacityLimiter(1)
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            if self._newest is None:
                continue
            step, model, round_info = self._newest
            try:
                metrics = await anyio.to_thread.run_sync(
                    partial(evaluated, self.trainer.evaluate, model, round_info),
                    abandon_on_cancel=True,
                    limiter=limiter,
                )
                if self._stopped:
                    return
                self.board.measured(step, metrics)
            except TrainerError as error:  # the node goes on
                self.board.failed(error.failure)
                self.teller.failed(error.failure)
            else:
                self.teller.log.info("model measured", step=step, metrics=self.board.metrics)
            self.step = step
            self._done.set()
