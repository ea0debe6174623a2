"""What a node must not forget, whoever keeps it.

A vote is recorded before the message that carries it leaves, so that a node that was killed and
restarted cannot vote twice.
"""

from __future__ import annotations

from typing import Final, Protocol

import attrs

from qres_core.contract.types import Vector
from qres_core.contract.wire import Envelope

SEQUENCE_BLOCK: Final = 1024
"""Sequence numbers are reserved in blocks, so that not every message costs a sync to disk."""


@attrs.frozen(eq=False)
class JournalEntry:
    """A set that a node must not forget.

    Attributes:
        head: what was said of it: an encoded proposal or handover.
        messages: those that the set's contributions came in, of any size together.
    """

    head: bytes
    messages: tuple[Envelope, ...] = ()


@attrs.frozen(eq=False)
class Resume:
    """Where a node stopped.

    Attributes:
        model: its model.
        step: how many rounds closed before it.
        model_round: round that made the model, 0 for the initial one.
        last_round: highest round it voted in; it never votes in that or an earlier one again.
        lock: the proposal it is locked on, or ``None``. Were its contributions not kept, a swarm
            that restarts while a quorum is locked could neither merge the set nor vote for another.
        handover: what made the model, to help nodes that lack it; ``None`` for the initial model
            and one taken from a snapshot.
    """

    model: Vector
    step: int
    model_round: int
    last_round: int
    lock: JournalEntry | None
    handover: JournalEntry | None = None


class Journal(Protocol):
    """Durable memory of one node. Every method returns only once the fact is safe."""

    def resume(self) -> Resume | None:
        """Where the node stopped, or ``None`` for a new one."""
        ...

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """The node is about to vote."""
        ...

    def record_lock(self, lock: JournalEntry | None) -> None:
        """The node is locked on a proposal, or free."""
        ...

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: JournalEntry | None
    ) -> None:
        """The node has a new model, made by ``handover``; its lock is void."""
        ...

    def reserve_sequence(self) -> int:
        """First of the next :data:`SEQUENCE_BLOCK` sequence numbers, never given before."""
        ...


class MemoryJournal:
    """A journal for simulations: nothing survives the process."""

    def __init__(self) -> None:
        self._next = 0

    def resume(self) -> Resume | None:
        """Always a new node."""
        return None

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Nothing to keep."""

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Nothing to keep."""

    def record_model(
        self, round_number: int, step: int, model: Vector, handover: JournalEntry | None
    ) -> None:
        """Nothing to keep."""

    def reserve_sequence(self) -> int:
        """Counts within the process."""
        first = self._next
        self._next += SEQUENCE_BLOCK
        return first
