"""Journals that outlive the machines that write them, and that a node may die over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from qres_core import Vector, model_digest
from qres_core.swarm.journal import SEQUENCE_BLOCK, JournalEntry, Resume


class KilledError(BaseException):
    """The node is dead. Nothing of a plugin's or the core's is to catch this."""


class BrokenPromiseError(Exception):
    """A node was about to vote twice, or to go back."""


@attrs.define(eq=False)
class Notebook:
    """A journal in memory, with the rules of the one on disk."""

    initial: Vector
    model: Vector | None = None
    step: int = 0
    model_round: int = 0
    lock: JournalEntry | None = None
    handover: JournalEntry | None = None
    last_round: int = 0
    votes: dict[str, bytes | None] = attrs.field(factory=dict)
    next_sequence: int = 0

    def resume(self) -> Resume | None:
        """Where the node stopped."""
        if not self.last_round and self.model is None and self.lock is None:
            return None
        model = self.initial if self.model is None else self.model
        return Resume(model, self.step, self.model_round, self.last_round, self.lock, self.handover)

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote; raises for one that would be equivocation."""
        if round_number < self.last_round:
            what = f"a {kind} of round {round_number} after one of round {self.last_round}"
            raise BrokenPromiseError(what)
        if round_number > self.last_round:
            self.votes = {}
        if self.votes.setdefault(kind, choice) != choice:
            raise BrokenPromiseError(f"a second, different {kind} of round {round_number}")
        self.last_round = round_number

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Keep the lock."""
        self.lock = lock

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: JournalEntry | None
    ) -> None:
        """Keep the model; raises for one that is not newer."""
        if step <= self.step:
            digest = model_digest(model, step).hex()[:8]
            raise BrokenPromiseError(f"model {digest} of step {step} after one of {self.step}")
        self.model, self.step, self.model_round = model, step, round_number
        self.lock, self.handover = None, handover

    def reserve_sequence(self) -> int:
        """First of a block of numbers."""
        first = self.next_sequence
        self.next_sequence += SEQUENCE_BLOCK
        return first


class Fuse:
    """A journal over which its node may die: just before a write, or when it is done.

    ``writes`` left until then; ``None`` for never.
    """

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self.writes: int | None = None
        self.before = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        return self._fused(found) if name.startswith(("record_", "reserve_")) else found

    def _fused(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*arguments: Any, **named: Any) -> Any:
            if self.writes is None:
                return write(*arguments, **named)
            self.writes -= 1
            if self.writes > 0:
                return write(*arguments, **named)
            self.writes = None
            if not self.before:
                write(*arguments, **named)
            raise KilledError

        return fused
