"""The guards of the engine, each taken out by a change of its text, and what goes wrong then."""

from __future__ import annotations

import inspect
import re
import sys
import types
from typing import Final

import attrs

from exploration.nodes import LIAR, A, Instance
from qres_core.swarm.consensus import engine as consensus
from qres_core.swarm.consensus import votes

LIARS: Final = Instance("choice, two attempts of a liar", (LIAR, LIAR))
BAD: Final = Instance("choice, nobody accepts B", (LIAR, LIAR), accepted=(A,))
CLAIMS: Final = Instance("outcome, two attempts", (LIAR, LIAR), claims=True)
HONEST_FIRST: Final = Instance("choice, an honest proposer and a liar", (0, LIAR))
HONEST_LAST: Final = Instance("choice, a liar and an honest proposer", (LIAR, 0))
_OF_EACH_OTHER: Final = re.compile(
    r"^from (?:__future__|qres_core\.swarm\.consensus\.votes) import (?:\([^)]*\)|.*)\n",
    re.MULTILINE,
)


@attrs.frozen
class Guard:
    """A line of the engine that something rests on."""

    name: str
    old: str
    new: str
    instance: Instance = LIARS


SAFETY: Final = (
    Guard(
        "a lock binds the prevote (lines 23 and 29)",
        "return lock is None or lock.value == proposed.value or lock.round <= proposed.valid_round",
        "return True",
    ),
    Guard(
        "the lock is no newer than the quorum that a proposal names",
        "lock.round <= proposed.valid_round",
        "lock.round <= proposed.valid_round + 1",
    ),
    Guard(
        "the quorum that a proposal names is known here",
        "return number < self.round and proven",
        "return number < self.round",
    ),
    Guard(
        "... and is for the proposed value",
        "self.tally(number, Step.PREVOTE).has_quorum(proposed.value)",
        "bool(self.tally(number, Step.PREVOTE).winners)",
    ),
    Guard(
        "the threshold",
        "(len(self.voters) + byzantine) // 2 + 1",
        "(len(self.voters) + byzantine) // 2",
    ),
    Guard(
        "the first vote of a voter counts alone",
        "        if voter in self.votes:\n            return self.votes[voter] == value\n",
        "",
    ),
    Guard("only members vote", "voter not in self.voters or voter == self.me", "voter == self.me"),
    Guard(
        "nobody votes in this node's name",
        "voter not in self.voters or voter == self.me",
        "voter not in self.voters",
    ),
    Guard(
        "a prevote before a lock",
        "        if self.step is not Step.PREVOTE:\n"
        "            return False\n        for value in self.tally",
        "        if self._own.get((self.round, Step.PRECOMMIT)) is not None:\n"
        "            return False\n        for value in self.tally",
    ),
    Guard(
        "a precommit is a lock",
        "                self.lock = Lock(value, self.round)\n",
        "",
    ),
    Guard(
        "no prevote outside of the first step",
        "        if self.step is not Step.PROPOSE:\n            return False\n",
        "        if self.step > 1 or self._own.get((self.round, Step.PREVOTE)) is not None:\n"
        "            return False\n",
    ),
    Guard(
        "the time of the first step ends that step only",
        "if step is Step.PROPOSE and self.step is Step.PROPOSE:",
        "if step is Step.PROPOSE:",
    ),
    Guard(
        "the time of the second step ends that step only",
        "elif step is Step.PREVOTE and self.step is Step.PREVOTE:",
        "elif step is Step.PREVOTE:",
    ),
    Guard(
        "a decision needs precommits",
        "            if step is not Step.PRECOMMIT:\n                continue\n",
        "",
    ),
    Guard(
        "no decision on what is not here",
        "value in self._judged:\n                    self.decided",
        "True:\n                    self.decided",
    ),
    Guard(
        "no lock on what is not here",
        "value in self._judged:\n                self.lock",
        "True:\n                self.lock",
    ),
    Guard(
        "what is accepted is prevoted for (validity)",
        "proposed.value if accepted and free else None",
        "proposed.value if free else None",
        BAD,
    ),
    Guard(
        "what is valid never gets older",
        "step is Step.PREVOTE and best < number <= self.round",
        "step is Step.PREVOTE and number <= self.round and best != number",
    ),
    Guard(
        "what is valid never gets older than the lock (restart)",
        "if valid is not None and (lock is None or valid.round > lock.round):",
        "if True:",
    ),
    Guard(
        "a restart knows its votes",
        "            self._own[number, step] = value\n"
        "            self._tally(number, step).add(self.me, value)",
        "            self._tally(number, step).add(self.me, value)",
    ),
    Guard(
        "... and that it precommitted",
        "        if (number, Step.PRECOMMIT) in self._own:\n"
        "            self.step = Step.PRECOMMIT\n        elif",
        "        if",
    ),
    Guard(
        "... and that it prevoted",
        "        elif (number, Step.PREVOTE) in self._own:\n            self.step = Step.PREVOTE\n",
        "",
    ),
    Guard(
        "... and its lock",
        "self.lock = self.valid = lock\n",
        "self.lock = self.valid = None\n",
    ),
    Guard(
        "a restart does not go back behind its votes",
        "self._enter(max(number, voted, 0 if self.lock is None else self.lock.round))",
        "self._enter(number)",
        CLAIMS,
    ),
    Guard(
        "one claim, and none after a vote",
        "or self.round == 1 or first in self._own or",
        "or self.round == 1 or self._own.get(first, 0) == self._claim or",
        CLAIMS,
    ),
)
"""Each is needed for safety."""

AT_ONCE: Final = Guard(
    "a round is left early only if it hides no lock", "if over and known:", "if over:"
)
"""A liar stops a perfect network without it, see `progress`."""

SPARE: Final = (
    Guard(
        "nil is precommitted in the second step only",
        "if self.step is Step.PREVOTE and self.tally(self.round, Step.PREVOTE).has_quorum(None)",
        "if None not in (self._own.get((self.round, Step.PRECOMMIT), 0),) and "
        "self.tally(self.round, Step.PREVOTE).has_quorum(None)",
    ),
    Guard(
        "the quorum that a proposal names is of an earlier round",
        "return number < self.round and proven",
        "return proven",
    ),
    Guard(
        "the first proposal of a round counts",
        " and number not in self._proposals:",
        ":",
    ),
    Guard(
        "the lock gives way to a quorum of its own round",
        "lock.round <= proposed.valid_round",
        "lock.round < proposed.valid_round",
    ),
    Guard(
        "more than f are ahead",
        "ahead = sorted(self._seen.values(), reverse=True)\n",
        "ahead = sorted(self._seen.values(), reverse=True)[:1] * (self.byzantine + 1)\n",
    ),
    Guard(
        "the votes of a quorum are there before a round times out",
        "elif step is Step.PRECOMMIT and (number, step) in self._waiting:",
        "elif step is Step.PRECOMMIT:",
    ),
    AT_ONCE,
    Guard(
        "no vote is forgotten that matters",
        "return number == 1 or max(self.round",
        "return max(self.round",
    ),
)
"""Safety does not need them: they serve progress, memory or clarity."""


def _source() -> str:
    """The modules of the engine as the text of one: a guard may be in any of them."""
    text = "".join(inspect.getsource(part) for part in (votes, consensus))
    return "from __future__ import annotations\n" + _OF_EACH_OTHER.sub("", text)


def without(guard: Guard) -> type[consensus.Consensus[int]]:
    """The engine without a guard. Raises LookupError if its text is not there exactly once."""
    source = _source()
    if source.count(guard.old) != 1:
        message = f"the engine has changed; look again at the guard: {guard.name}"
        raise LookupError(message)
    module = types.ModuleType("consensus_without_a_guard")
    sys.modules[module.__name__] = module
    code = compile(source.replace(guard.old, guard.new), module.__name__, "exec")
    exec(code, module.__dict__)  # noqa: S102 - our own module, changed
    changed = module.Consensus
    for name in (
        "Step",
        "Lock",
        "Proposed",
        "Enter",
        "Propose",
        "Vote",
        "Wait",
        "Refuse",
        "Show",
        "Decide",
    ):
        setattr(module, name, getattr(consensus, name))
    return changed  # type: ignore[no-any-return]
