"""Whether the honest nodes decide from a state, once messages arrive and times are long enough.

They begin with nothing but what is written down: everything that they heard is lost. From then on
the network is good: what is said is heard by all before any time is over, and a shorter time is
over before a longer one. The liar is silent, or it does the worst that is known: in each attempt it
gives its prevote to one node, which locks, and nil to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from exploration.nodes import HONEST, LIAR, PRECOMMIT, PREVOTE, A, B, Local, Node
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.consensus.votes import (
    Action,
    Lock,
    Propose,
    Proposed,
    Refuse,
    Show,
    Step,
)

NODES: Final = HONEST + 1


def rotating(number: int) -> int:
    """The proposer of a round: each in turn, the liar as well."""
    return (number - 1) % NODES


def _next_honest(number: int) -> int:
    """The next honest proposer after a round."""
    return next(who for who in map(rotating, range(number + 1, number + NODES)) if who != LIAR)


@attrs.define
class Swarm:
    """Three honest nodes in a good network."""

    engines: Sequence[Consensus[int]]
    splits: bool = False  # whether the liar gives its prevote to one node
    shows: bool = True  # whether locks are shown
    proposals: dict[int, tuple[bytes, int]] = attrs.field(factory=dict)
    proofs: set[Lock] = attrs.field(factory=set)

    def decides(self, most: int) -> int:
        """Attempts until all decide, from the highest round on; ``most + 1`` if they do not."""
        began = max(engine.round for engine in self.engines)
        while not all(engine.decided for engine in self.engines):
            if max(engine.round for engine in self.engines) > began + most:
                return most + 1
            if not (self._exchange() or self._time_passes()):
                return most + 1
        return max(engine.decided.round for engine in self.engines if engine.decided) - began + 1

    def _states(self) -> list[object]:
        return [engine.state for engine in self.engines]

    def _do(self, me: int, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Propose):
                again = action.again
                fresh = (B if me == HONEST - 1 else A, 0)
                said = fresh if again is None else (again.value, again.round)
                self.proposals.setdefault(action.round, said)
                if again is not None:
                    self.proofs.add(again)
            elif isinstance(action, (Show, Refuse)) and (self.shows or isinstance(action, Refuse)):
                self.proofs.add(action.lock)

    def _exchange(self) -> bool:
        """Everybody hears what was said so far. False if nothing is new."""
        before = self._states()
        if self.splits:
            self._lie(max(engine.round for engine in self.engines))
        proofs, proposals = set(self.proofs), dict(self.proposals)
        votes = [
            (engine.me, number, step, value)
            for engine in self.engines
            for number, step, value in engine.state.own
            if number in (1, engine.round)
        ]
        if self.splits:
            votes += [
                (LIAR, engine.round, int(PRECOMMIT), None)
                for engine in self.engines
                if (engine.round, PRECOMMIT) in {(of, step) for _me, of, step, _value in votes}
            ]
        rounds = [(engine.me, engine.round) for engine in self.engines]
        decided = [engine.decided for engine in self.engines if engine.decided]
        for engine in self.engines:
            for voter, number in rounds:
                engine.see(voter, number)
            for voter, number, step, value in votes:
                engine.vote(Step(step), number, voter, value)
            for lock in proofs:
                engine.prove(PREVOTE, lock.round, lock.value)
            for decision in decided:
                engine.prove(PRECOMMIT, decision.round, decision.value)
            if self.splits:
                self._split(engine, votes)
            actions = engine.advance()
            for number, (value, valid) in proposals.items():
                actions += engine.propose(number, value, valid)
            self._do(engine.me, actions)
        return before != self._states()

    def _lie(self, number: int) -> None:
        """The liar proposes what all honest nodes but one may prevote for, if there is such."""
        if rotating(number) != LIAR or number in self.proposals:
            return
        locks = [engine.lock for engine in self.engines if engine.lock is not None]
        newest = max(locks, key=lambda lock: lock.round, default=None)  # is proposed next
        for value, valid in [(lock.value, lock.round) for lock in locks] + [(A, 0), (B, 0)]:
            proposed = Proposed(value, valid)
            fans = [
                engine
                for engine in self.engines
                if engine._may_prevote(proposed)  # noqa: SLF001 - liars guess well
            ]
            other = newest is None or newest.value != value
            if valid < number and other and len(fans) == HONEST - 1:
                self.proposals[number] = (value, valid)
                if valid:
                    self.proofs.add(Lock(value, valid))
                return

    def _split(
        self, engine: Consensus[int], votes: list[tuple[int, int, int, bytes | None]]
    ) -> None:
        """The liar's prevote, once all honest ones are there."""
        number = engine.round
        cast = {voter: value for voter, of, step, value in votes if (of, step) == (number, PREVOTE)}
        if len(cast) < HONEST:
            return
        for value in (A, B):
            fans = [voter for voter in cast if cast[voter] == value]
            victims = [voter for voter in fans if voter != _next_honest(number)]
            if len(fans) == HONEST - 1 and engine.me == victims[0]:
                engine.vote(PREVOTE, number, LIAR, value)
        engine.vote(PREVOTE, number, LIAR, None)

    def _time_passes(self) -> bool:
        """The shortest time is over."""
        before = self._states()
        for step in Step:
            for engine in self.engines:
                waits = step is Step.PROPOSE or (engine.round, step) in engine.state.waiting
                if waits and (engine.step is step or step is PRECOMMIT):
                    self._do(engine.me, engine.expire(step, engine.round))
            if before != self._states():
                return True
        return False


def from_state(node: Node, locals_: Sequence[Local], most: int) -> int:
    """Attempts until honest nodes in these states decide, the liar being silent."""
    engines: list[Consensus[int]] = []
    swarm = Swarm(engines)
    for me, local in enumerate(locals_):
        engine = node.thaw(attrs.evolve(local, role=me))
        engine._proposer = rotating  # noqa: SLF001 - what was explored has few attempts
        engines.append(engine)
        for value in (A, B):
            swarm._do(me, engine.judge(value, accepted=True))  # noqa: SLF001
        for lock in (local.lock, local.valid):
            if lock is not None:
                engine.prove(PREVOTE, lock.round, lock.value)  # written down with it
    return swarm.decides(most)


def secretly_locked(kind: type[Consensus[int]]) -> list[Consensus[int]]:
    """Node 1 alone is locked, by the liar's prevote; node 2 proposes next, and does not know it."""
    engines = [kind(me, range(4), 1, rotating) for me in range(3)]
    for engine in engines:
        mine = A if engine.me else None
        lock = Lock(A, 1) if engine.me == 1 else None
        own = [(1, PREVOTE, mine), (1, PRECOMMIT, A if lock else None)]
        engine.restore(lock, None, [*own, (2, PREVOTE, None), (2, PRECOMMIT, None)])
        engine.start(2)
        for value in (A, B):
            engine.judge(value, accepted=True)
    return engines
