"""Journals that outlive the machines that write them, and that a node may die over."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from qres_core import Vector
from qres_core.swarm.ledger.chain import Head, Link
from qres_core.swarm.ledger.messages import OUTCOME, OUTCOME_PREVOTE
from qres_core.swarm.storage.journal import SEQUENCE_BLOCK, JournalEntry, Resume


class KilledError(BaseException):
    """The node is dead. Nothing of a plugin's or the core's is to catch this."""


class BrokenPromiseError(Exception):
    """A node was about to vote twice, or to go back."""


@attrs.define(eq=False)
class Notebook:
    """A journal in memory, with the rules of the one on disk."""

    model: Vector
    head: Head | None = None
    settings: bytes = b""
    links: dict[int, Link] = attrs.field(factory=dict)  # by height
    last_round: int = 0
    votes: dict[str, bytes | None] = attrs.field(factory=dict)
    ballots: dict[tuple[int, str], Any] = attrs.field(factory=dict)
    lock: JournalEntry | None = None
    chosen: JournalEntry | None = None
    outcome_lock: bytes | None = None
    made: Vector | None = None
    next_sequence: int = 0
    folder: None = attrs.field(default=None, init=False)  # nothing lies on a disk
    _safe: dict[str, Any] | None = attrs.field(default=None, init=False)

    @contextmanager
    def together(self) -> Generator[None]:
        """Keep all that is recorded in the block or, where the node dies in it, nothing."""
        self._safe = self._kept()
        try:
            yield
        except BaseException:
            for name, value in self._safe.items():
                setattr(self, name, value)
            raise
        finally:
            self._safe = None

    def _kept(self) -> dict[str, Any]:
        # Only the maps are changed in place. This happens twice a message.
        kept = {name: getattr(self, name) for name in _KEPT}
        return {
            name: dict[Any, Any](held) if isinstance(held, dict) else held
            for name, held in kept.items()
        }

    def resume(self) -> Resume | None:
        """Where the node stopped."""
        if self.head is None:
            return None
        return Resume(
            self.head,
            self.model,
            tuple(link for _height, link in sorted(self.links.items())),
            self.last_round,
            self.lock,
            self.chosen,
            max((number for number, _kind in self.ballots), default=0),
            tuple((number, kind, said) for (number, kind), said in sorted(self.ballots.items())),
            self.outcome_lock,
            self.made,
        )

    def begin(self, head: Head, settings: bytes) -> bytes:
        """The first head, once."""
        if self.head is None:
            self.head, self.settings = head, settings
        return self.settings

    def record_vote(self, round_number: int, kind: str, choice: bytes | None) -> None:
        """Keep a vote; raises for one that would be equivocation."""
        if kind.startswith(OUTCOME):
            self._record_ballot(round_number, kind, choice)
            return
        if round_number < self.last_round:
            what = f"a {kind} of round {round_number} after one of round {self.last_round}"
            raise BrokenPromiseError(what)
        if round_number > self.last_round:
            self.votes = {}
        if self.votes.setdefault(kind, choice) != choice:
            raise BrokenPromiseError(f"a second, different {kind} of round {round_number}")
        self.last_round = round_number

    def _record_ballot(self, attempt: int, kind: str, choice: bytes | None) -> None:
        if self.ballots.get((attempt, kind), choice) != choice:
            raise BrokenPromiseError(f"a second, different {kind} of attempt {attempt}")
        last = max((number for number, _of in self.ballots), default=0)
        if attempt < last and (attempt != 1 or kind != OUTCOME_PREVOTE):
            raise BrokenPromiseError(f"a {kind} of attempt {attempt} after one of {last}")
        self.ballots[attempt, kind] = choice
        last = max(last, attempt)
        self.ballots = {
            key: said
            for key, said in self.ballots.items()
            if key[0] == last or key == (1, OUTCOME_PREVOTE)
        }

    def record_lock(self, lock: JournalEntry | None) -> None:
        """Keep the lock."""
        self.lock = lock

    def record_outcome_lock(self, lock: bytes) -> None:
        """Keep the outcome that the node is locked on."""
        self.outcome_lock = lock

    def record_chosen(self, chosen: JournalEntry) -> None:
        """Keep the decided set."""
        self.chosen = chosen

    def record_made(self, model: Vector) -> None:
        """Keep what the decided set merges to."""
        self.made = model

    def record_height(self, links: Sequence[Link], model: Vector | None) -> None:
        """Keep the next head; raises for one that is not later."""
        after = links[-1].next
        if self.head is not None and after.height <= self.head.height:
            raise BrokenPromiseError(f"height {after.height} after {self.head.height}")
        last = max(self.links, default=None)
        if last is not None and not self.links[last].changes_members:
            del self.links[last]
        self.links.update({link.head.height: link for link in links})
        self.head, self.model = after, self.model if model is None else model
        self.lock = self.chosen = self.outcome_lock = None
        self.ballots = {}
        self.made = None
        if self._safe is not None:  # safe at once
            self._safe = self._kept()

    def contributions(self) -> tuple[bytes, int, int]:
        """No plugin of a simulated swarm compares anything with it."""
        return b"", 0, 0

    def reserve_sequence(self) -> int:
        """First of a block of numbers."""
        first = self.next_sequence
        self.next_sequence += SEQUENCE_BLOCK
        return first


_KEPT = tuple(field.name for field in attrs.fields(Notebook) if field.name != "_safe")


class Fuse:
    """A journal over which its node may die: just before a write, or when it is done.

    What is recorded together is a write more: the node dies before any of it is safe, or when all
    of it is and nothing was said yet. ``writes`` left until then; ``None`` for never.
    """

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self._has_written = False
        self.writes: int | None = None
        self.before = False

    @contextmanager
    def together(self) -> Generator[None]:
        """A block of the journal."""
        self._has_written = dies = False
        with self._journal.together():
            yield
            dies = self._has_written and self._burns_down()
            if dies and self.before:
                raise KilledError
        if dies:
            raise KilledError

    def _burns_down(self) -> bool:
        """Whether the node dies over this write."""
        if self.writes is None:
            return False
        self.writes -= 1
        if self.writes > 0:
            return False
        self.writes = None
        return True

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        writes = name == "begin" or name.startswith(("record_", "reserve_"))
        return self._fused(found) if writes else found

    def _fused(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*arguments: Any, **named: Any) -> Any:
            self._has_written = True
            dies = self._burns_down()
            if dies and self.before:
                raise KilledError
            result = write(*arguments, **named)
            if dies:
                raise KilledError
            return result

        return fused
