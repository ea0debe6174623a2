"""What one instance of consensus knows: the state of the engine, without its rules."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic

import attrs

from qres_core.swarm.votes import (
    Action,
    Decide,
    Lock,
    Proposed,
    Step,
    Value,
    Voter,
    VoteSet,
)

AHEAD: Final = 2
"""Votes are kept up to so many rounds ahead of the current one; they are repeated anyway."""
BEHIND: Final = 16
"""And of so many rounds behind it."""


@attrs.frozen
class State:
    """All that an engine knows, hashable and printable."""

    round: int
    step: Step
    lock: Lock | None
    valid: Lock | None
    decided: Decide | None
    own: tuple[tuple[int, int, Value | None], ...]  # round, step, value of each vote of the node
    proposals: tuple[tuple[int, Proposed], ...]
    votes: tuple[tuple[int, int, Hashable, Value | None], ...]  # round, step, voter, value
    proven: tuple[tuple[int, int, Value], ...]  # round, step, value
    judged: tuple[tuple[Value, bool | None], ...]
    waiting: tuple[tuple[int, int], ...]  # round, step of the time-outs asked for
    seen: tuple[tuple[Hashable, int], ...]  # the highest round of each voter
    claim: Value | None
    shown: int  # the last round in which the lock was shown


class Knowledge(Generic[Voter]):
    """Votes, proposals and locks of one node, bounded by what can still matter.

    Arguments as for :class:`~qres_core.swarm.consensus.Consensus`, which alone changes it.
    """

    def __init__(
        self,
        me: Voter,
        voters: Iterable[Voter],
        byzantine: int,
        proposer: Callable[[int], Voter],
        *,
        claims: bool = False,
    ) -> None:
        self.me, self.voters = me, frozenset(voters)
        self.byzantine, self.claims = byzantine, claims
        self.threshold = (len(self.voters) + byzantine) // 2 + 1
        self._proposer = proposer
        self.round = 0
        self.step = Step.PROPOSE
        self.lock: Lock | None = None
        self.valid: Lock | None = None
        self.decided: Decide | None = None
        self._own: dict[tuple[int, Step], Value | None] = {}
        self._proposals: dict[int, Proposed] = {}
        self._tallies: dict[tuple[int, Step], VoteSet[Voter]] = {}
        self._judged: dict[Value, bool | None] = {}
        self._waiting: set[tuple[int, Step]] = set()
        self._seen: dict[Voter, int] = {}
        self._furthest = 0  # the highest round of these
        self._claim: Value | None = None
        self._shown = 0
        self._actions: list[Action] = []

    # ── what is known ─────────────────────────────────────────────────────────────────────────

    def proposal(self, number: int) -> Proposed | None:
        """What was proposed in a round."""
        return self._proposals.get(number)

    def tally(self, number: int, step: Step) -> VoteSet[Voter]:
        """The votes of a step of a round."""
        found = self._tallies.get((number, step))  # which may hold a quoted quorum and no vote
        return VoteSet(self.threshold) if found is None else found

    @property
    def votes(self) -> bool:
        """Whether this node is a voter. One that is none follows, and says nothing."""
        return self.me in self.voters

    @property
    def kept(self) -> frozenset[tuple[int, Step]]:
        """Rounds and steps of which votes are kept."""
        return frozenset(self._tallies)

    @property
    def values(self) -> frozenset[Value]:
        """What can still matter: locked, proposed, or voted for in the rounds that are kept."""
        found = {lock.value for lock in (self.lock, self.valid) if lock is not None}
        found.update(proposed.value for proposed in self._proposals.values())
        for tally in self._tallies.values():
            found.update(value for value in tally.counts() if value is not None)
            found.update(value for value in tally.winners if value is not None)
        return frozenset(found if self._claim is None else {*found, self._claim})

    def may_be_won(self, number: int) -> bool:
        """Whether a quorum may have prevoted for a value in a round, for all that is known here.

        Of the voters that are heard up to ``f`` may have said otherwise elsewhere. The others may
        have said anything.
        """
        tally = self.tally(number, Step.PREVOTE)
        counts = tally.counts()
        alike = max((count for value, count in counts.items() if value is not None), default=0)
        unheard, lied = len(self.voters) - len(tally), min(self.byzantine, len(tally) - alike)
        return bool(tally.winners - {None}) or alike + unheard + lied >= self.threshold

    def said(self, step: Step, number: int) -> tuple[bool, Value | None]:
        """Whether this node voted, and for what."""
        return (number, step) in self._own, self._own.get((number, step))

    @property
    def state(self) -> State:
        """All of it."""
        tallies = sorted(self._tallies.items())
        return State(
            self.round,
            self.step,
            self.lock,
            self.valid,
            self.decided,
            tuple((r, int(s), v) for (r, s), v in sorted(self._own.items())),
            tuple(sorted(self._proposals.items())),
            tuple(
                (r, int(s), voter, value)
                for (r, s), tally in tallies
                for voter, value in sorted(tally.votes.items(), key=repr)
            ),
            tuple(
                (r, int(s), value)
                for (r, s), tally in tallies
                for value in sorted(tally.winners, key=repr)
                if value is not None
            ),
            tuple(sorted(self._judged.items())),
            tuple(sorted((r, int(s)) for r, s in self._waiting)),
            tuple(sorted(self._seen.items(), key=repr)),
            self._claim,
            self._shown,
        )

    def _is_proven(self, proposed: Proposed) -> bool:
        """Whether the quorum of prevotes that a proposal names is known here (line 28).

        That of a lock is, even if its votes were forgotten since, or in a restart.
        """
        number = proposed.valid_round
        if number == 0:
            return True
        known = Lock(proposed.value, number) in (self.lock, self.valid)
        proven = known or self.tally(number, Step.PREVOTE).has_quorum(proposed.value)
        return number < self.round and proven

    def _may_prevote(self, proposed: Proposed) -> bool:
        """Whether the lock lets this node prevote for a proposal (lines 23 and 29)."""
        lock = self.lock
        return lock is None or lock.value == proposed.value or lock.round <= proposed.valid_round

    def _is_full(self, step: Step) -> bool:
        """Whether a quorum voted in the step or left the round.

        Those that left it voted, but say it no more. A vote that was lost must not keep this node
        where it is.
        """
        voted = self.tally(self.round, step).votes
        if len(voted) >= self.threshold or self._furthest <= self.round:  # most often
            return len(voted) >= self.threshold
        left = sum(n > self.round and voter not in voted for voter, n in self._seen.items())
        return len(voted) + left >= self.threshold

    def _is_needed(self, number: int, step: Step) -> bool:
        """Whether the votes of a step can still matter: a quorum that waits for something does."""
        if self.is_near(number):
            return True
        if not self.tally(number, step).winners - {None}:
            return False
        if step is Step.PRECOMMIT:
            return True
        named = {proposed.valid_round for proposed in self._proposals.values()}
        return number in named or self.valid is None or number > self.valid.round

    def is_near(self, number: int) -> bool:
        """Whether what is said of a round is kept."""
        return number == 1 or self.round - BEHIND <= number <= self.round + AHEAD

    def _tally(self, number: int, step: Step) -> VoteSet[Voter]:
        key = (number, step)
        if key not in self._tallies:
            self._tallies[key] = VoteSet(self.threshold)
        return self._tallies[key]
