"""The sets that were spoken of at a height: which are known, and which are here."""

from __future__ import annotations

from qres_core.contract.wire import Envelope
from qres_core.swarm.collecting import Collector
from qres_core.swarm.consensus import Consensus
from qres_core.swarm.messages import CandidateSet
from qres_core.swarm.votes import Step, Value, Voter


class KnownSets:
    """Sets by what votes call them, bounded by what the engine keeps.

    Args:
        head: digest of the node's head.
        engine: of the instance that decides on a set.
        collector: holds the contributions.
    """

    def __init__(self, head: bytes, engine: Consensus[Voter], collector: Collector) -> None:
        self._head, self._engine, self._collector = head, engine, collector
        self.known: dict[Value, CandidateSet] = {}
        self.proposed: dict[int, dict[Value, Envelope]] = {}  # by round; two at most
        self.here: set[Value] = set()  # those whose contributions are all here

    def know(self, candidate: CandidateSet) -> Value:
        """Keep a set; what votes call it."""
        value = candidate.digest(self._head)
        self.known.setdefault(value, candidate)
        return value

    def complete(self, value: Value) -> bool:
        """Whether all contributions of a known set are here."""
        return value in self.here or self._collector.complete(self.known[value])

    def forget_absent(self) -> None:
        """Some contributions were forgotten: the sets that named them are not here any more."""
        for value in list(self.here):
            if not self._collector.complete(self.known[value]):
                self.here.discard(value)
                self._engine.forget(value)

    def forget_old(self) -> None:
        """Forget the sets that no vote, lock or proposal of a round that is kept is about."""
        for old in [old for old in self.proposed if not self._engine.is_near(old)]:
            del self.proposed[old]
        kept = self._engine.values.union(*self.proposed.values())
        for value in [value for value in self.known if value not in kept]:
            del self.known[value]
            self.here.discard(value)
            self._engine.forget(value)

    def proposed_now(self) -> list[CandidateSet]:
        """Sets that are proposed in the engine's round."""
        return [self.known[value] for value in self.proposed.get(self._engine.round, ())]

    def proven(self) -> list[CandidateSet]:
        """Sets that a quorum voted for."""
        engine = self._engine
        found = {lock.value for lock in (engine.lock, engine.valid) if lock is not None}
        for number, step in engine.kept:
            found.update(v for v in engine.tally(number, step).winners if v is not None)
        return [self.known[value] for value in sorted(found) if value in self.known]

    def won(self) -> CandidateSet | None:
        """The set that a quorum precommitted, whether or not it is here."""
        for number, step in self._engine.kept:
            if step is Step.PRECOMMIT:
                for value in self._engine.tally(number, step).winners:
                    if value is not None and value in self.known:
                        return self.known[value]
        return None
