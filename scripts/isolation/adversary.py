"""Whom an adversary leaves out, so that as few honest inputs as possible stay together.

It knows everything that is public, and which nodes are corrupt. It looks for sets that honest nodes
take, and of those it takes the one that its plan likes best.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

Fits = Callable[[Collection[int]], bool]
"""Whether honest nodes would take a set of ranks."""


@attrs.frozen
class View:
    """What it sees of a session."""

    peers: Sequence[Sequence[int]]  # per rank, whom it masks against
    groups: Sequence[Sequence[int]]
    circle: Sequence[int]  # the ranks in the order of the sparse graph
    degree: int  # of that graph; of the complete one, all others
    least: int  # inputs that a sum must have to be opened
    present: frozenset[int]  # who contributed
    permitted: frozenset[int]  # of them, the set that an honest proposer takes


@attrs.frozen
class Cut:
    """A stretch of the circle with a window of corrupt and left out nodes on both sides."""

    part: frozenset[int]  # who is between the windows
    windows: frozenset[int]


@attrs.define
class Adversary:
    """Plans sets of one swarm, as long as the model stays."""

    rng: random.Random
    corrupt: frozenset[int]
    opened: list[frozenset[int]] = attrs.field(factory=list[frozenset[int]])
    victim: int = -1
    cut: Cut | None = None
    blocks: list[list[int]] = attrs.field(factory=list[list[int]])

    def honest(self, ranks: Iterable[int]) -> list[int]:
        """The honest ones, in any order."""
        found = sorted(rank for rank in ranks if rank not in self.corrupt)
        self.rng.shuffle(found)
        return found

    # ── sets ──────────────────────────────────────────────────────────────────────────────────

    def choose(self, view: View, fits: Fits, always: str = "") -> tuple[str, frozenset[int] | None]:
        """A plan's name, and the set that it comes to, if honest nodes take any.

        ``always``: the plan that is taken whenever it can be.
        """
        plans: list[tuple[str, Callable[[View, Fits], frozenset[int] | None], int]] = [
            ("everybody", lambda view, fits: self._without(view.permitted, (), fits), 1),
            ("random", self._random, 2),
            ("isolate", self._isolate, 3),
            ("blocks", self._blocks, 2),
        ]
        if len(view.groups) > 1:
            plans.append(("thin", self._thin, 5))
        elif view.degree < len(view.peers) - 1:
            plans.append(("cut", self._cut, 5))
        if self.opened:
            plans.append(("difference", self._difference, 8))
        weights = [weight * (1000 if name == always else 1) for name, _, weight in plans]
        name, plan, _ = self.rng.choices(plans, weights)[0]
        found = plan(view, fits)
        return name, found or self._without(view.permitted, (), fits)

    def _without(
        self, base: Collection[int], order: Sequence[int], fits: Fits
    ) -> frozenset[int] | None:
        """The base without as many of ``order`` as honest nodes take."""
        if not fits(base):
            return None
        left = set(base)

        def leave_out(ranks: Sequence[int]) -> None:
            if not ranks:
                return
            if fits(left.difference(ranks)):
                left.difference_update(ranks)
            elif len(ranks) > 1:
                leave_out(ranks[: len(ranks) // 2])
                leave_out(ranks[len(ranks) // 2 :])

        leave_out([rank for rank in order if rank in left])
        return frozenset(left)

    def _with_fillers(
        self, base: Collection[int], must: Collection[int], fillers: Sequence[int], fits: Fits
    ) -> frozenset[int] | None:
        """The base without ``must``, and without as few others as honest nodes ask for."""
        for extra in range(min(len(fillers), 3 * len(self.corrupt) + 8) + 1):
            left = frozenset(base).difference(must, fillers[:extra])
            if fits(left):
                return left
        return None

    def _random(self, view: View, fits: Fits) -> frozenset[int] | None:
        order = self.honest(view.present)
        return self._without(view.permitted, order[: self.rng.randint(0, len(order))], fits)

    def _aim(self, present: Collection[int]) -> int:
        if self.victim not in present:
            self.victim = self.rng.choice(self.honest(present) or [-1])
        return self.victim

    def _near(self, view: View, rank: int) -> frozenset[int]:
        """The honest contributors that a node masks against."""
        return view.present.intersection(view.peers[rank]) - self.corrupt

    def _isolate(self, view: View, fits: Fits) -> frozenset[int] | None:
        """Nobody near the victim."""
        self._aim(view.present)
        if self.rng.random() < 0.5:  # whom the fewest honest nodes hide
            there = self.honest(view.present) or [self.victim]
            self.victim = min(there, key=lambda rank: len(self._near(view, rank)))
        near = self.honest(self._near(view, self.victim))
        return self._without(view.permitted, near, fits)

    def _thin(self, view: View, fits: Fits) -> frozenset[int] | None:
        """As few honest nodes as groups need to be opened, where most are corrupt first."""
        order: list[int] = []
        groups = sorted(view.groups, key=lambda group: -len(self.corrupt & set(group)))
        for group in groups[: self.rng.choice((1, 1, len(groups)))]:
            there = set(group) & view.present
            needed = max(1, view.least - len(there & self.corrupt))
            order += self.honest(there)[needed:]
        return self._without(view.permitted, order, fits)

    def _blocks(self, view: View, fits: Fits) -> frozenset[int] | None:
        """Sets made of a few blocks, one of them the victim alone: few unknowns for many sums."""
        if not self.blocks:
            others = self.honest(range(len(view.peers)))
            many = self.rng.randint(2, 5)
            self.blocks = [[others[0]], *(others[1 + i :: many] for i in range(many))]
        chosen = [rank for block in self.blocks if self.rng.random() < 0.4 for rank in block]
        return self._without(view.permitted, chosen, fits)

    def _difference(self, view: View, fits: Fits) -> frozenset[int] | None:
        """A set that was opened, without one honest node, or with one more."""
        before = self.rng.choice(self.opened)
        base = before & view.present
        if self.cut is not None and self.rng.random() < 0.7:
            return self._cut_again(view, fits)
        more = self.honest(view.present - before)
        if more and self.rng.random() < 0.4:
            base, must = base | {more[0]}, []
        else:
            must = [self._aim(base)] if base else []
        fillers = self.honest(base.difference(must))
        if len(view.groups) > 1 and must:  # in the victim's group, if any
            mine = next(set(group) for group in view.groups if must[0] in group)
            fillers.sort(key=lambda rank: rank in mine, reverse=self.rng.random() < 0.5)
        return self._with_fillers(base, must, fillers, fits)

    # ── the sparse graph ──────────────────────────────────────────────────────────────────────

    def _cuts(self, view: View) -> list[tuple[int, Cut]]:
        """Cuts by how many honest nodes they leave out, the fewest first."""
        size, half = len(view.circle), view.degree // 2
        found: list[tuple[int, Cut]] = []
        for start in range(size):
            near = frozenset(view.circle[(start + step) % size] for step in range(half))
            for length in range(1, (size - 2 * half) // 2 + 1):
                first = start + half + length
                far = frozenset(view.circle[(first + step) % size] for step in range(half))
                windows = near | far
                cost = len((windows & view.present) - self.corrupt)
                part = (view.circle[(start + half + step) % size] for step in range(length))
                found.append((cost, Cut(frozenset(part), windows)))
        self.rng.shuffle(found)
        return sorted(found, key=lambda item: item[0])

    def _cut(self, view: View, fits: Fits) -> frozenset[int] | None:
        if self.cut is not None and self.rng.random() < 0.8:
            return self._cut_again(view, fits)
        cuts = [cut for _cost, cut in self._cuts(view)]
        if self.rng.random() < 0.7:  # a part with room for one to leave it unnoticed
            cuts = [cut for cut in cuts if len(cut.part) > view.degree] or cuts
        for cut in cuts[:60]:
            left = view.permitted - (cut.windows - self.corrupt)
            if len(cut.part & left - self.corrupt) and fits(left):
                self.cut = cut
                return left
        return None

    def _cut_again(self, view: View, fits: Fits) -> frozenset[int] | None:
        """The same stretch without one node, and others elsewhere, so that the sets differ."""
        assert self.cut is not None  # noqa: S101 - asked before
        base = view.present - (self.cut.windows - self.corrupt)
        # Far from the windows nodes have neighbours to spare.
        place = {rank: step for step, rank in enumerate(view.circle)}
        far = {rank: self._far(place, rank) for rank in base}
        inside = sorted(self.honest(self.cut.part & base), key=far.__getitem__, reverse=True)
        outside = sorted(
            self.honest(base - self.cut.part - self.cut.windows), key=far.__getitem__, reverse=True
        )
        return self._with_fillers(base, inside[:1], outside, fits)

    def _far(self, place: dict[int, int], rank: int) -> int:
        """Steps along the circle to the nearest window."""
        assert self.cut is not None  # noqa: S101 - asked before
        steps = (abs(place[rank] - place[other]) for other in self.cut.windows)
        return min(min(step, len(place) - step) for step in steps)

    # ── where its nodes are ───────────────────────────────────────────────────────────────────

    @staticmethod
    def placed(rng: random.Random, view: View, many: int) -> frozenset[int]:
        """So many ranks that help each other: in one group, or in two windows of the circle."""
        size, half = len(view.circle), view.degree // 2
        if len(view.groups) > 1:
            order = list(rng.choice(view.groups))
        elif view.degree < size - 1:
            start = rng.randrange(size)
            length = rng.randint(1, max(1, (size - 2 * half) // 2))
            windows = [
                [view.circle[(first + step) % size] for step in range(half)]
                for first in (start, start + half + length)
            ]
            for window in windows:
                rng.shuffle(window)
            order = [rank for pair in zip(*windows, strict=True) for rank in pair]
        else:
            order = list(range(size))
            rng.shuffle(order)
        others = [rank for rank in range(size) if rank not in order]
        rng.shuffle(others)
        return frozenset((order + others)[:many])
