"""Conclusions of a node's plugins from held-out examples, while the node goes on.

The hooks that judge are plain functions, and in the middle of them they ask the trainer: for the
loss of a model, or for a reference. That may take seconds, in which the node must answer and vote.
So such a call has a thread of its own, but it never runs beside the machine. It works while the
machine waits for it. Where it asks the trainer, it is suspended, and the machine goes on until
somebody hands it the trainer's answer. That is what a coroutine does, for plugins that need not
know of it, and everything happens in the order in which the machine is told of it.

One call is under way at most. A later one takes its place, and so does the end of the round: a call
that nobody waits for is not given the answer, and comes to no end of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar, cast

from qres_core.contract.held_out import HeldOut
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.trainer_abilities import TrainerAbilities
from qres_core.contract.types import Vector
from qres_core.kernel.guard import PassingError
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.effects import AskTrainer
from qres_core.swarm.context.outbox import Outlet

PATIENCE_TO_JUDGE: Final = 8.0
"""Vote timeouts for which a node waits for its own opinion, before it goes on without it."""
_JUDGING: Final = "screen", "endorse", "wrap_aggregate"

Found = TypeVar("Found")


class _AbandonedError(PassingError):
    """Nobody waits any more. No plugin takes it for an error of its own."""


class _Suspended(Generic[Found]):
    """A call in a thread, which works only while its owner waits for it."""

    def __init__(self, call: Callable[[], Found]) -> None:
        self._call = call
        self._found: list[Found] = []
        self._error: BaseException | None = None
        self._is_left = False
        self._answers: SimpleQueue[AskTrainer | None] = SimpleQueue()
        self._questions: SimpleQueue[AskTrainer | None] = SimpleQueue()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._work,), name="qres-judging", daemon=True
        )
        self.asks: AskTrainer | None = None  # what it asks now; ``None`` once it is over

    # ── in the owner's thread ─────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Let it work until it asks."""
        self._thread.start()
        self._wait()

    def go_on(self, answer: AskTrainer) -> None:
        """Let it work with the answer to what it asks, until it asks again."""
        self._answers.put(answer)
        self._wait()

    def _wait(self) -> None:
        self.asks = self._questions.get()
        if self.asks is None:
            self._thread.join()  # the last that it does is to say so

    def abandon(self) -> None:
        """Have it end. What it comes to all the same is of no use, and not kept.

        Whatever it does now, and even if something was raised in the owner while it waited.
        """
        if self.asks is not None:
            self.asks.answer.cancel()  # not begun yet, it never is
        self._is_left = True
        self._answers.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._found, self._error, self.asks = [], None, None

    def found(self) -> Found:
        """Result of the call, once it is over; or raises what it raised.

        An error names the call's frames, and so all that these hold. It is told once, so that
        nothing keeps them: a collection of cycles may be long in coming.
        """
        error, self._error = self._error, None
        if error is None:
            return self._found[0]
        try:
            raise error
        finally:
            del error

    # ── in its own ────────────────────────────────────────────────────────────────────────────

    @property
    def is_here(self) -> bool:
        """True if it is this thread."""
        return threading.current_thread() is self._thread

    def ask(self, call: Callable[[], object]) -> object:
        """Ask the trainer's method, and return or raise as it does."""
        answered = None
        if not self._is_left:
            self._questions.put(AskTrainer(call))
            answered = self._answers.get()
        if answered is None:
            raise _AbandonedError
        try:
            return answered.answer.result()
        finally:
            del answered  # it holds the error that holds this frame

    def _work(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # noqa: BLE001 - whose it is, the owner learns
            self._error = error
        self._questions.put(None)


class Opinions:
    """The calls that judge, one after the other.

    Args:
        kernel: the plugins.
        outlet: takes what the trainer is asked.
        validator: what the trainer can; ``None`` if it judges nothing.
    """

    def __init__(self, kernel: Kernel, outlet: Outlet, validator: TrainerAbilities | None) -> None:
        self._outlet, self._validator = outlet, validator
        self._judges = validator is not None and any(kernel.has(hook) for hook in _JUDGING)
        # whether calls are suspended; if not, the machine waits for the trainer, and asks nobody
        self.apart = False
        self._what: Hashable = None
        self._of: Hashable = None
        self._running: _Suspended[Any] | None = None

    def held_out(self, model: Vector, info: RoundInfo) -> HeldOut | None:
        """Offer of the trainer in a round; a call that is suspended waits where it asks it."""
        held = None if self._validator is None else HeldOut.of(self._validator, model, info)
        if held is not None:
            held.validate = partial(self._ask_trainer, held.validate)
            held.train = None if held.train is None else partial(self._ask_trainer, held.train)
        return held

    def _ask_trainer(self, method: Callable[..., Any], *arguments: object) -> Any:
        running, call = self._running, partial(method, *arguments)
        return call() if running is None or not running.is_here else running.ask(call)

    def ask(
        self,
        what: Hashable,
        call: Callable[[], Found],
        of: Callable[[], Hashable] = lambda: None,
    ) -> Found | None:
        """Result of a call, once: ``None`` if it is not known yet, or was told before.

        Args:
            what: names the question; while it is under way, the call that began it counts.
            call: gives the answer, which is never ``None``.
            of: what the answer rests on: once it is told, the same question of another is new.

        Raises what the call raises.
        """
        if not (self.apart and self._judges):
            return call()
        if what != self._what or (self._running is None and of() != self._of):
            self.leave()
            self._what, self._of = what, of()
            self._running = _Suspended(call)
            self._running.begin()
            self._put()
        running = self._running
        if running is None or running.asks is not None:
            return None
        self._running = None
        return cast("Found", running.found())

    def waits_for(self, what: Hashable) -> bool:
        """True if the answer to a question is still to come."""
        return self._running is not None and what == self._what and self._running.asks is not None

    def waits(self, asked: AskTrainer) -> bool:
        """True if a call waits for this answer."""
        return self._running is not None and self._running.asks is asked

    def answered(self, asked: AskTrainer) -> None:
        """The trainer answered what a call waits for."""
        if self._running is not None:
            self._running.go_on(asked)
            self._put()

    def _put(self) -> None:
        if self._running is not None and self._running.asks is not None:
            self._outlet.put(self._running.asks)

    def leave(self) -> None:
        """Nobody waits for an answer any more."""
        if self._running is not None:
            self._running.abandon()
        self._what = self._of = self._running = None
