"""One instance of consensus on a value, as pure state: votes and time-outs in, votes out.

Source: Buchman, Kwon, Milosevic 2018, "The latest gossip on BFT consensus", algorithm 1; the
comments name its lines. The threshold is ``⌊(n + f) / 2⌋ + 1``, so that any two quorums share an
honest node. A round here is an attempt to decide; rounds count from 1.

The engine knows digests only. It does no I/O, reads no clock, checks no signature, and takes the
rules from nobody else: what it is told was authenticated, and what it answers is to be done in
order. Two of its inputs replace the paper's messages:

- :meth:`Consensus.judge` is ``valid(v)``, split in two: whether the value is *here*, which every
  step needs, and whether this node *accepts* it, which only its prevote needs.
- :meth:`Consensus.prove` is a quorum of votes that somebody quoted. It stands for these votes as if
  they had come one by one: where a liar told this node otherwise, its first vote counts here, and
  the quoted quorum counts all the same.

``docs/explanation/consensus.md`` has the protocol with its lemmas, line by line beside this file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic

import attrs

from qres_core.swarm.consensus.votes import (
    Action,
    Decide,
    Enter,
    Lock,
    Propose,
    Proposed,
    Refuse,
    Show,
    Step,
    Value,
    Vote,
    Voter,
    VoteSet,
    Wait,
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


class Consensus(Generic[Voter]):
    """One node's side of one instance.

    Args:
        me: this node.
        voters: all nodes, ``n`` of them.
        byzantine: how many of them may lie, ``f``.
        proposer: who may propose in a round; a function of the round alone.
        claims: whether every node prevotes its own value in the first round, without a proposal.

    Complexity: O(1) a vote, besides one pass over the rounds that are kept.
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

    # ── what is told ──────────────────────────────────────────────────────────────────────────

    def start(self, number: int = 1) -> list[Action]:
        """Begin with a round: the first, or after a restart the round of the highest vote.

        It is never a lower one. The vote that was written down last may be a late claim, whose
        round this node left long ago.
        """
        voted = max((of for of, _step in self._own), default=0)
        self._enter(max(number, voted, 0 if self.lock is None else self.lock.round))
        return self._run()

    def restore(
        self, lock: Lock | None, valid: Lock | None, own: Iterable[tuple[int, Step, Value | None]]
    ) -> None:
        """Take back what was written down, before :meth:`start`; its own votes count again."""
        self.lock = self.valid = lock
        if valid is not None and (lock is None or valid.round > lock.round):
            self.valid = valid
        for number, step, value in own if self.votes else ():
            self._own[number, step] = value
            self._tally(number, step).add(self.me, value)

    def propose(self, number: int, value: Value, valid_round: int = 0) -> list[Action]:
        """A proposal of a round's proposer, of which the first counts (lines 22 and 28)."""
        if self.decided is None and self.is_near(number) and number not in self._proposals:
            self._proposals[number] = Proposed(value, valid_round)
        return self._run()

    def forget(self, value: Value) -> None:
        """The value is here no more; it may come back."""
        self._judged.pop(value, None)

    def judge(self, value: Value, *, accepted: bool | None) -> list[Action]:
        """The value is here, and this node accepts it or not; ``None``: that is not known yet.

        What was refused may be accepted later, and not the other way round.
        """
        known = self._judged.get(value)
        if known is None or accepted:
            self._judged[value] = accepted
        return self._run()

    def claim(self, value: Value) -> list[Action]:
        """This node's own value, which it prevotes in the first round, whenever that is.

        Late, this vote still shows the others what the node found. It cannot hurt: it is the only
        one of its kind that the node ever sends, and no node precommits in a round that it left.
        """
        if self.claims and self._claim is None and self.decided is None:
            self._claim = value
            self._judged[value] = True
        return self._run()

    def vote(self, step: Step, number: int, voter: Voter, value: Value | None) -> bool:
        """Count another node's vote; :meth:`advance` draws the conclusions.

        Returns False if the voter said otherwise before.
        """
        self.see(voter, number)
        if voter not in self.voters or voter == self.me or not self.is_near(number):
            return True
        return self._tally(number, step).add(voter, value)

    def prove(self, step: Step, number: int, value: Value) -> None:
        """A quorum's votes for a value were quoted; :meth:`advance` draws the conclusions."""
        if number > 0 and self.decided is None:
            self._tally(number, step).prove(value)

    def see(self, voter: Voter, number: int) -> None:
        """Another node is known to be in a round, or past it (line 55)."""
        if voter in self.voters and voter != self.me and number > self._seen.get(voter, 0):
            self._seen[voter], self._furthest = number, max(number, self._furthest)

    def expire(self, step: Step, number: int) -> list[Action]:
        """The time of a step is over (lines 57 to 67)."""
        if self.decided is None and number == self.round:
            if step is Step.PROPOSE and self.step is Step.PROPOSE:
                self._vote(Step.PREVOTE, None)
            elif step is Step.PREVOTE and self.step is Step.PREVOTE:
                self._vote(Step.PRECOMMIT, None)
            elif step is Step.PRECOMMIT and (number, step) in self._waiting:
                self._enter(number + 1)
        return self._run()

    def advance(self) -> list[Action]:
        """Take every step whose condition holds."""
        return self._run()

    # ── what is known ─────────────────────────────────────────────────────────────────────────

    def proposal(self, number: int) -> Proposed | None:
        """Proposal of a round."""
        return self._proposals.get(number)

    def tally(self, number: int, step: Step) -> VoteSet[Voter]:
        """The votes of a step of a round."""
        found = self._tallies.get((number, step))  # which may hold a quoted quorum and no vote
        return VoteSet(self.threshold) if found is None else found

    @property
    def votes(self) -> bool:
        """True if this node is a voter. One that is none follows, and says nothing."""
        return self.me in self.voters

    @property
    def kept(self) -> frozenset[tuple[int, Step]]:
        """Rounds and steps of which votes are kept."""
        return frozenset(self._tallies)

    @property
    def values(self) -> frozenset[Value]:
        """Values that can still matter: locked, proposed, or voted for in rounds that are kept."""
        found = {lock.value for lock in (self.lock, self.valid) if lock is not None}
        found.update(proposed.value for proposed in self._proposals.values())
        for tally in self._tallies.values():
            found.update(value for value in tally.counts() if value is not None)
            found.update(value for value in tally.winners if value is not None)
        return frozenset(found if self._claim is None else {*found, self._claim})

    def may_be_won(self, number: int) -> bool:
        """True if a quorum may have prevoted for a value in a round, for all that is known here.

        Of the voters that are heard up to ``f`` may have said otherwise elsewhere. The others may
        have said anything.
        """
        tally = self.tally(number, Step.PREVOTE)
        counts = tally.counts()
        alike = max((count for value, count in counts.items() if value is not None), default=0)
        unheard, lied = len(self.voters) - len(tally), min(self.byzantine, len(tally) - alike)
        return bool(tally.winners - {None}) or alike + unheard + lied >= self.threshold

    def said(self, step: Step, number: int) -> tuple[bool, Value | None]:
        """Tell if this node voted, and for what."""
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
        """True if the quorum of prevotes that a proposal names is known here (line 28).

        That of a lock is, even if its votes were forgotten since, or in a restart.
        """
        number = proposed.valid_round
        if number == 0:
            return True
        known = Lock(proposed.value, number) in (self.lock, self.valid)
        proven = known or self.tally(number, Step.PREVOTE).has_quorum(proposed.value)
        return number < self.round and proven

    def _may_prevote(self, proposed: Proposed) -> bool:
        """True if the lock lets this node prevote for a proposal (lines 23 and 29)."""
        lock = self.lock
        return lock is None or lock.value == proposed.value or lock.round <= proposed.valid_round

    def _is_full(self, step: Step) -> bool:
        """True if a quorum voted in the step or left the round.

        Those that left it voted, but say it no more. A vote that was lost must not keep this node
        where it is.
        """
        voted = self.tally(self.round, step).votes
        if len(voted) >= self.threshold or self._furthest <= self.round:  # most often
            return len(voted) >= self.threshold
        left = sum(n > self.round and voter not in voted for voter, n in self._seen.items())
        return len(voted) + left >= self.threshold

    def _is_needed(self, number: int, step: Step) -> bool:
        """True if the votes of a step can still matter: a quorum that waits for something does."""
        if self.is_near(number):
            return True
        if not self.tally(number, step).winners - {None}:
            return False
        if step is Step.PRECOMMIT:
            return True
        named = {proposed.valid_round for proposed in self._proposals.values()}
        return number in named or self.valid is None or number > self.valid.round

    def is_near(self, number: int) -> bool:
        """True if what is said of a round is kept; there is no round before the first."""
        return number == 1 or max(self.round - BEHIND, 1) <= number <= self.round + AHEAD

    def _tally(self, number: int, step: Step) -> VoteSet[Voter]:
        key = (number, step)
        if key not in self._tallies:
            self._tallies[key] = VoteSet(self.threshold)
        return self._tallies[key]

    # ── the rules ─────────────────────────────────────────────────────────────────────────────

    def _run(self) -> list[Action]:
        """Apply the rules until none applies."""
        while self.decided is None and self.round and self._apply():
            pass
        actions, self._actions = self._actions, []
        return actions

    def _apply(self) -> bool:
        return (
            self._decide()
            or self._skip()
            or self._learn()
            or self._claim_late()
            or self._prevote()
            or self._lock()
            or self._precommit_nil()
            or self._await()
            or self._show()
            or self._next()
        )

    def _decide(self) -> bool:
        """Lines 49 to 54. Every round counts; the value must be here."""
        for (number, step), tally in self._tallies.items():
            if step is not Step.PRECOMMIT:
                continue
            for value in tally.winners:
                if value is not None and value in self._judged:
                    self.decided = Decide(number, value)
                    self._actions.append(self.decided)
                    return True
        return False

    def _skip(self) -> bool:
        """Lines 55 and 56: more than ``f`` others are further, so an honest one is."""
        if self._furthest <= self.round:  # most often, and asked after every vote
            return False
        ahead = sorted(self._seen.values(), reverse=True)
        if len(ahead) <= self.byzantine or ahead[self.byzantine] <= self.round:
            return False
        self._enter(ahead[self.byzantine])
        return True

    def _prevote(self) -> bool:
        """Lines 22 to 33."""
        if self.step is not Step.PROPOSE:
            return False
        if self.claims and self.round == 1:
            if self._claim is None:
                return False
            self._vote(Step.PREVOTE, self._claim)
            return True
        proposed = self._proposals.get(self.round)
        if proposed is None or not self._is_proven(proposed):
            return False
        # A quorum that prevoted for it has more than f honest nodes, and they accepted it. A node
        # that is locked on what it does not accept would otherwise keep all from deciding.
        proven = proposed.valid_round > 0 and proposed.value in self._judged
        accepted = proven or self._judged.get(proposed.value)
        if accepted is None:
            return False
        free = self._may_prevote(proposed)
        if accepted and not free and self.lock is not None:
            self._actions.append(Refuse(self.round, self.lock))
        self._vote(Step.PREVOTE, proposed.value if accepted and free else None)
        return True

    def _claim_late(self) -> bool:
        """Prevote the own value in the first round, though this node left it without a vote."""
        first = (1, Step.PREVOTE)
        if self._claim is None or self.round == 1 or first in self._own or not self.votes:
            return False
        self._own[first] = self._claim
        self._tally(*first).add(self.me, self._claim)
        self._actions.append(Vote(Step.PREVOTE, 1, self._claim))
        return True

    def _learn(self) -> bool:
        """Lines 42 and 43, of whatever round: the newest value that a quorum prevoted for.

        It only decides what this node proposes, so that what others quote counts as well.
        """
        best = 0 if self.valid is None else self.valid.round
        newest: Lock | None = None
        for (number, step), tally in self._tallies.items():
            if step is Step.PREVOTE and best < number <= self.round:
                for value in tally.winners:
                    if value is not None and value in self._judged:
                        best, newest = number, Lock(value, number)
        if newest is not None:
            self.valid = newest
        return newest is not None

    def _lock(self) -> bool:
        """Lines 36 to 41: a quorum prevoted for a value in this round, and it is here."""
        if self.step is not Step.PREVOTE:
            return False
        for value in self.tally(self.round, Step.PREVOTE).winners:
            if value is not None and value in self._judged:
                self.lock = Lock(value, self.round)
                self._vote(Step.PRECOMMIT, value)
                return True
        return False

    def _precommit_nil(self) -> bool:
        """Lines 44 to 46."""
        if self.step is Step.PREVOTE and self.tally(self.round, Step.PREVOTE).has_quorum(None):
            self._vote(Step.PRECOMMIT, None)
            return True
        return False

    def _await(self) -> bool:
        """Lines 34, 35, 47 and 48: a quorum is there, and has decided nothing yet."""
        prevotes = self.step is Step.PREVOTE and self._is_full(Step.PREVOTE)
        if prevotes and self._wait(Step.PREVOTE):
            return True
        return self._is_full(Step.PRECOMMIT) and self._wait(Step.PRECOMMIT)

    def _wait(self, step: Step) -> bool:
        if (self.round, step) in self._waiting:
            return False
        self._waiting.add((self.round, step))
        self._actions.append(Wait(step, self.round))
        return True

    def _show(self) -> bool:
        """Lemma 6, where the paper has gossip: a lock of a round that fails gets known to all."""
        lock, waited = self.lock, (self.round, Step.PRECOMMIT) in self._waiting
        if lock is None or lock.round != self.round or self._shown == self.round or not waited:
            return False
        self._shown = self.round
        self._actions.append(Show(self.round, lock))
        return True

    def _next(self) -> bool:
        """A quorum precommitted nil, or everybody voted: to wait longer brings nothing.

        But if somebody may have locked in this round on what is not known here, this node waits for
        that :class:`Show`. Whoever left at once would propose against the lock, for ever.
        """
        tally = self.tally(self.round, Step.PRECOMMIT)
        everybody = len(tally) == len(self.voters)
        over = tally.has_quorum(None) or (everybody and not tally.winners)
        known = (
            (self.valid is not None and self.valid.round == self.round)
            or self.tally(self.round, Step.PREVOTE).has_quorum(None)
            or (everybody and set(tally.counts()) == {None})
        )
        if over and known:
            self._enter(self.round + 1)
        return over and known

    # ── doing it ──────────────────────────────────────────────────────────────────────────────

    def _enter(self, number: int) -> None:
        """Lines 11 to 21."""
        self.round, self.step = number, Step.PROPOSE
        self._learn()
        for old in [old for old in self._proposals if not self.is_near(old)]:
            del self._proposals[old]
        for key in [key for key in self._tallies if not self._is_needed(*key)]:
            del self._tallies[key]
        self._own = {key: value for key, value in self._own.items() if self.is_near(key[0])}
        self._waiting = {waited for waited in self._waiting if waited[0] >= number}
        self._actions.append(Enter(number))
        if (number, Step.PRECOMMIT) in self._own:
            self.step = Step.PRECOMMIT
        elif (number, Step.PREVOTE) in self._own:
            self.step = Step.PREVOTE
        elif self._proposer(number) == self.me and not (self.claims and number == 1):
            self._actions.append(Propose(number, self.valid))

    def _vote(self, step: Step, value: Value | None) -> None:
        self.step = step
        if not self.votes:
            return
        self._own[self.round, step] = value
        self._tally(self.round, step).add(self.me, value)
        self._actions.append(Vote(step, self.round, value))
