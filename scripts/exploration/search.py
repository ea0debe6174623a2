"""Breadth first through all states of three honest nodes and a liar.

The state of the whole is the states of the three honest nodes, and nothing else. What was sent is
what they said, and everything sent can be told at any time, once or often, or be lost. The liar's
words are there from the start. So there is no list of messages on their way, and the order of
deliveries needs no exploring: a node moves only when that changes what it said or what binds it.

*Order.* A step is at a level: how far the node is after it, or the round and step of the votes that
it was told, if they are later. Nodes never go back, and a step reads only votes of its level or
earlier. So the steps of any run can be sorted by level, those of one level in their old order, and
the sorted run is a run with the same steps. It is enough to explore runs with rising levels. That
no step reads what is later than what its node does next is asserted for every step. In such a run,
a node whose round the others left can do one thing only, which is to follow them: it is moved to
their round at once. And a decision may come last, because it says nothing.

*Symmetry.* Honest nodes that never propose differ in nothing but their states, so these are sorted.
Where all proposers lie, nothing tells the two values apart either: a state and its mirror image are
one. A liar as the proposer of every round is the strongest choice for safety: it may propose to
everybody what an honest proposer would have proposed.

*Heights.* Each is explored on its own. A vote names the head of its height, and an engine is told
the votes of its own height alone, so engines of two heights share no input. What binds them is that
the second height begins at all: that needs a decision, and agreement was shown of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import attrs

from exploration.nodes import PREVOTE, After, Instance, Local, Node, Offer, Slot

_BITS: Final = 21
_MASK: Final = (1 << _BITS) - 1
Triple: TypeAlias = tuple[int, int, int]


@attrs.frozen
class Move:
    """A step of one node, by numbers."""

    to: int
    level: Slot
    label: str
    broken: str


@attrs.frozen
class Options:
    """What a node can do."""

    moves: tuple[Move, ...]
    decisions: dict[bytes, str]  # each value that it can decide, and how


@attrs.frozen
class Found:
    """What an exploration ends with."""

    instance: Instance
    states: int  # of the whole, symmetric ones once
    locals: int  # of one node
    steps: int  # of one node, from a state of the whole
    asked: int  # batches that the engine was told
    depth: int  # steps of the longest of the shortest ways
    seconds: float
    broken: str = ""
    way: tuple[str, ...] = ()  # the shortest way to what is broken
    complete: bool = True


class Explorer:
    """Explores one instance; ``ordered``: runs with rising levels only.

    ``strict`` asserts what that rests on; an engine without a guard may break it.
    """

    def __init__(self, instance: Instance, *, ordered: bool = True, strict: bool = True) -> None:
        self.instance, self.ordered, self.strict = instance, ordered, strict
        self.node = Node(instance)
        self.locals: list[Local] = []
        self.came: dict[int, int] = {}
        self._ids: dict[Local, int] = {}
        self._mirrors: dict[int, int] = {}
        self._public: list[int] = []  # of each local state: what others can hear of it
        self._publics: dict[object, int] = {}
        self._alone: dict[object, tuple[Move, ...]] = {}
        self._told: dict[object, tuple[Move, ...]] = {}
        self._next: dict[Triple, Options] = {}
        self._lagging: dict[tuple[int, int], int] = {}
        self._places: list[Slot] = []

    # ── numbers for states ────────────────────────────────────────────────────────────────────

    def number(self, local: Local) -> int:
        """The number of a node's state."""
        found = self._ids.get(local)
        if found is None:
            found = self._ids[local] = len(self.locals)
            self.locals.append(local)
            self._places.append(local.place)
            heard = (local.said, local.offers)
            self._public.append(self._publics.setdefault(heard, len(self._publics)))
        return found

    def _mirror(self, number: int) -> int:
        found = self._mirrors.get(number)
        if found is None:
            found = self.number(self.locals[number].mirror())
            self._mirrors[number], self._mirrors[found] = found, number
        return found

    def whole(self, first: int, second: int, third: int) -> int:
        """The number of a state of the whole."""
        if self.ordered:
            places = self._places
            number, _step = max(places[first], places[second], places[third])
            first, second, third = (
                of if places[of][0] >= number else self._hurried(of, number)
                for of in (first, second, third)
            )
        if self.instance.alike:
            first, second, third = sorted((first, second, third))
            if self.instance.mirrored:
                turned = sorted((self._mirror(first), self._mirror(second), self._mirror(third)))
                first, second, third = min([first, second, third], turned)
        return first << 2 * _BITS | second << _BITS | third

    def _hurried(self, mine: int, number: int) -> int:
        """A node that others left behind: all that it can still do is to follow them.

        A proposer is not hurried: it proposes as it enters.
        """
        found = self._lagging.get((mine, number))
        if found is None:
            found, local = mine, self.locals[mine]
            if local.role not in self.instance.proposers[:number]:
                found = self.number(self.node.hurried(local, number))
            self._lagging[mine, number] = found
        return found

    @staticmethod
    def triple(whole: int) -> Triple:
        """The nodes' states."""
        return whole >> 2 * _BITS, whole >> _BITS & _MASK, whole & _MASK

    # ── steps ─────────────────────────────────────────────────────────────────────────────────

    def options(self, mine: int, other: int, another: int) -> Options:
        """What a node can do, by what the others said."""
        heard, also = self._public[other], self._public[another]
        if self.instance.alike and heard > also:
            other, another, heard, also = another, other, also, heard
        found = self._next.get((mine, heard, also))
        if found is None:
            found = self._next[mine, heard, also] = self._ask(mine, other, another)
        return found

    def _ask(self, mine: int, *others: int) -> Options:
        local, (one_other, another) = self.locals[mine], (self.locals[other] for other in others)
        offers: tuple[Offer, ...] = tuple(
            offer
            for other in (one_other, another)
            for offer in other.offers
            if offer[0] == local.round
        )
        moves: dict[int, Move] = {}
        key: object = (mine, offers)
        if key not in self._alone:
            self._alone[key] = self._taken(self.node.alone(local, offers))
        _merge(moves, self._alone[key])
        for slot in self.node.slots(local):
            # whose votes they are makes no difference to a tally
            heard = (one_other.votes(slot), another.votes(slot))
            heard = min(heard, heard[::-1], key=repr)
            key = (mine, slot, heard, offers)
            if key not in self._told:
                self._told[key] = self._taken(self.node.told(local, slot, heard, offers))
            _merge(moves, self._told[key])
        decisions: dict[bytes, str] = {}
        for number, move in list(moves.items()):
            decided = self.locals[number].decided
            if decided is not None and not move.broken:
                decisions[decided] = moves.pop(number).label
            elif self.strict and not move.broken and not self._is_in_order(move):
                message = f"a step is told what its node cannot use yet: {move.label}"
                raise AssertionError(message)
        return Options(tuple(moves.values()), decisions)

    def _is_in_order(self, move: Move) -> bool:
        """Whether all that the node does next is at this level or later."""
        local = self.locals[move.to]
        at_once = (local.round, int(PREVOTE)) if local.step == 0 else local.place
        return move.level <= at_once

    def _taken(self, steps: Iterable[After]) -> tuple[Move, ...]:
        taken: dict[int, Move] = {}
        for after in steps:
            number = self.number(after.local)
            _merge(taken, (Move(number, after.level, after.label, after.broken),))
        return tuple(taken.values())

    # ── the search ────────────────────────────────────────────────────────────────────────────

    def first(self) -> int:
        """Where everybody begins."""
        roles = (0, 0, 0) if self.instance.alike else (0, 1, 2)
        numbers = [self.number(self.node.first(role)) for role in roles]
        return self.whole(*numbers)

    def run(
        self, *, most: int = 1 << 40, told: Callable[[int, int, int], None] | None = None
    ) -> Found:
        """Visit everything; or stop at what is broken first, or at so many states."""
        began = time.perf_counter()
        start = self.first()
        self.came = {start: -1}
        level, depth, count = [start], 0, 0
        while level:
            if told is not None:
                told(depth, len(level), len(self.came))
            following: list[int] = []
            for whole in level:
                forked = self._forked(whole)
                if forked:
                    way = (*self._way(whole), *forked)
                    return self._found(began, depth + 2, count, "agreement", way)
                for before, after, move in self._from(whole):
                    count += 1
                    if move.broken:
                        way = (*self._way(whole), f"n{before}: {move.label}")
                        return self._found(began, depth + 1, count, move.broken, way)
                    reached = self.whole(*after)
                    if reached not in self.came:
                        self.came[reached] = whole
                        following.append(reached)
            if len(self.came) > most:
                return attrs.evolve(self._found(began, depth, count), complete=False)
            level, depth = following, depth + 1
        return self._found(began, depth - 1, count, *self._restarts())

    def _from(self, whole: int) -> Iterable[tuple[int, Triple, Move]]:
        first, second, third = self.triple(whole)
        places, alike = self._places, self.instance.alike
        reached = max(places[first], places[second], places[third]) if self.ordered else (0, 0)
        for move in self.options(first, second, third).moves:
            if move.level >= reached:
                yield 0, (move.to, second, third), move
        if not alike or second != first:
            for move in self.options(second, first, third).moves:
                if move.level >= reached:
                    yield 1, (first, move.to, third), move
        if not alike or third not in (first, second):
            for move in self.options(third, first, second).moves:
                if move.level >= reached:
                    yield 2, (first, second, move.to), move

    def _forked(self, whole: int) -> tuple[str, ...]:
        """How nodes decide differently, if they can.

        Who decided says no more, so that a decision may as well come last: a node that can decide
        can still do so later. The states after decisions need no visit.
        """
        first, second, third = self.triple(whole)
        decisions: dict[bytes, str] = {}
        for place, options in enumerate(
            (
                self.options(first, second, third),
                self.options(second, first, third),
                self.options(third, first, second),
            )
        ):
            for value, label in options.decisions.items():
                decisions.setdefault(value, f"n{place} decides {value.decode()}: {label}")
        return tuple(decisions.values()) if len(decisions) > 1 else ()

    def _restarts(self) -> tuple[str, tuple[str, ...]]:
        """Whether a restart leads to a state that is not known without one."""
        for local in list(self.locals):
            if local.decided is not None or len(local.said) > len(local.own):
                continue
            after = self.node.restarted(local)
            if after is None:
                continue
            if after.broken:
                return after.broken, (f"{local} restarts",)
            if after.local not in self._ids and not local.offers and local.valid == local.lock:
                return "a restart adds nothing", (f"{local} becomes {after.local}",)
        return "", ()

    def _way(self, whole: int) -> tuple[str, ...]:
        """The labels of the steps to a state, from the first."""
        states = [whole]
        while self.came[states[-1]] >= 0:
            states.append(self.came[states[-1]])
        states.reverse()
        return tuple(
            next(
                f"n{place}: {move.label}"
                for place, after, move in self._from(before)
                if self.whole(*after) == then
            )
            for before, then in itertools.pairwise(states)
        )

    def _found(
        self, began: float, depth: int, steps: int, broken: str = "", way: tuple[str, ...] = ()
    ) -> Found:
        return Found(
            self.instance,
            len(self.came),
            len(self.locals),
            steps,
            self.node.asked,
            depth,
            time.perf_counter() - began,
            broken,
            way,
        )


def _merge(moves: dict[int, Move], more: Iterable[Move]) -> None:
    """Keep one move to each state: one that breaks something, or else the one told the least."""
    for move in more:
        known = moves.get(move.to)
        if known is None or (not move.broken, move.level) < (not known.broken, known.level):
            moves[move.to] = move
