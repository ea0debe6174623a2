"""The end of a round: what is revealed of the agreed set, what that merges to, who judges it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.claims import Claims, Reads
from qres_core.contract.errors import HookError, QresError, ValueRefusedError
from qres_core.contract.evidence import Accusation, Evidence, Revelation, RevelationError
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import (
    FULL_STANDING,
    Contribution,
    NodeId,
    Updates,
    Vector,
    check_vector,
)
from qres_core.contract.verdict import Verdict
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.by_products import Products, ProductSeats, ReachedError, not_once
from qres_core.kernel.calls import Caller, Calls, in_name_of, where, wrong
from qres_core.kernel.chain import having
from qres_core.kernel.guard import guarded
from qres_core.kernel.intake import Intake
from qres_core.kernel.sharded import after_merge

_Step = Callable[[Updates], Vector]


class Merging:
    """Merging: a node's plugins make one update of the agreed contributions."""

    def __init__(self, calls: Calls, intake: Intake, enabled: Sequence[Enabled]) -> None:
        self._calls, self._intake, self._enabled = calls, intake, tuple(enabled)
        self._claims = {plugin.name: plugin.claims for plugin in enabled}
        self._outer = len(after_merge(enabled))  # wrappers that a sharded round calls at the end

    @cached_property
    def by_products(self) -> tuple[str, ...]:
        """The hooks that look at whole updates by their inner products, from the outermost."""
        return tuple(
            where(item.name, hook)
            for hook in ("wrap_aggregate", "aggregate")
            for item in having(self._enabled, hook)
            if item.claims.reads is Reads.PRODUCTS
        )

    # ── what is revealed ──────────────────────────────────────────────────────────────────────

    def revealable(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> tuple[Contribution, ...]:
        """Those of the contributions that every plugin would have revealed together, in order.

        All of them, if nothing speaks against that; none, if nothing can be revealed. Raises
        HookError: QRES-E701 or QRES-E702. Raises QresError: what a plugin refused.
        """
        while True:  # what one plugin leaves out may matter to another
            kept: tuple[Contribution, ...] = contributions
            for name, caller in self._calls.by_hook["revealable"]:
                if not kept:
                    break
                named: tuple[NodeId, ...] = self._calls.one(
                    name, "revealable", caller, contributions=kept, round_info=round_info
                )
                kept = tuple(item for item in kept if item.sender in named)
            if len(kept) == len(contributions):
                return kept
            contributions = kept

    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates:
        """The updates after the ``reveal`` chain, last ``privatize`` plugin first.

        ``observe`` is told of the evidence that comes to light, once the whole chain ran, or a
        plugin found nothing to merge and says who is to blame.
        """
        against: list[tuple[str, Accusation]] = []
        named = {"contributions": contributions, "round_info": round_info}
        for name, caller in reversed(self._calls.by_hook["reveal"]):
            try:
                result = self._calls.one(name, "reveal", caller, updates=updates, **named)
            except RevelationError as error:
                against += self._accusations(name, error.against)
                self._tell(against, round_info)
                raise
            if type(result) is Revelation:
                against += self._accusations(name, result.against)
                result = result.updates
            same = result is updates  # as it came, whatever stands in for vectors in it
            if type(result) is not Updates or not (
                same or result.dimension == round_info.dimension
            ):
                raise wrong(name, "reveal", "Updates of the same dimension", result)
            updates = result
        self._tell(against, round_info)
        return updates

    def reveal_shard(
        self,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        start: int,
        round_info: RoundInfo,
    ) -> NDArray[np.int64]:
        """The exact sums of a shard of the agreed set, from the plugin that hides single updates.

        ``updates``: int32, shape ``(n, c)``, the coordinates from ``start`` on. Returns int64,
        shape ``(rows, c)``. Raises QresError: what the plugin refused. Raises HookError: QRES-E701
        or QRES-E702.
        """
        name, caller = self._calls.by_hook["reveal_shard"][0]
        named = {"contributions": contributions, "start": start, "round_info": round_info}
        sums: NDArray[np.int64] = self._calls.one(
            name, "reveal_shard", caller, updates=updates, **named
        )
        return sums

    def check_unseen(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> None:
        """:meth:`reveal` where no plugin hides anything, and vectors are with committees.

        ``updates``: with a single zero in the place of each vector. Raises as :meth:`reveal`, and
        HookError: QRES-E702 for a plugin that changed updates without a look at them.
        """
        if self.reveal(updates, contributions, round_info) is not updates:
            names = "/".join(self._calls.names("reveal"))
            raise wrong(names, "reveal", "the updates that it claims not to look at", updates)

    def _tell(self, against: Iterable[tuple[str, Accusation]], round_info: RoundInfo) -> None:
        for name, accusation in against:
            self._intake.observe(self._intake.evidence(name, accusation, round_info.number))

    def _accusations(self, name: str, against: object) -> list[tuple[str, Accusation]]:
        found = cast("tuple[object, ...]", against) if type(against) is tuple else (None,)
        made = [
            (name, item)
            for item in found
            if type(item) is Accusation and item.subject in self._intake.roster
        ]
        if len(made) != len(found):
            raise wrong(name, "reveal", "accusations of members of the roster", found)
        return made

    # ── what it merges to ─────────────────────────────────────────────────────────────────────

    def aggregate(
        self, updates: Updates, round_info: RoundInfo, held_out: HeldOut | None = None
    ) -> Vector:
        """One update from many: the rule inside its wrappers.

        ``updates``: int32, shape ``(n, d)``; ``held_out``: the node's held-out examples, for
        wrappers that ask for them. Returns int32, shape ``(d,)``. Raises QresError: what the rule
        refused; QRES-E505 for fewer updates than the rule or a wrapper needs. Raises HookError:
        QRES-E701 or QRES-E702.
        """
        wrappers = self._calls.by_hook["wrap_aggregate"]
        return self._merge(wrappers, updates, round_info, held_out)

    def aggregate_shard(
        self, updates: Updates, round_info: RoundInfo, products: Products = ()
    ) -> Vector:
        """Merge a shard: the rule inside the wrappers that work on shards.

        ``updates``: int32, shape ``(n, c)``; ``round_info``: with ``c`` for its dimension;
        ``products``: what each of the hooks :attr:`by_products` is given. Returns int32, shape
        ``(c,)``. Raises as :meth:`aggregate`.
        """
        wrappers = self._calls.by_hook["wrap_aggregate"][self._outer :]
        seats = ProductSeats(self.by_products, products)
        return self._merge(wrappers, updates, round_info, None, seats=seats)

    def wrap_merged(
        self,
        merged: Vector,
        updates: Updates,
        round_info: RoundInfo,
        held_out: HeldOut | None = None,
    ) -> Vector:
        """Wrap the merged shards: the wrappers that look at no update.

        ``merged``: int32, shape ``(d,)``; ``updates``: with a single zero in the place of each
        vector. Raises as :meth:`aggregate`.
        """
        wrappers = self._calls.by_hook["wrap_aggregate"][: self._outer]
        return self._merge(wrappers, updates, round_info, held_out, merged=merged)

    def compared(self, updates: Updates, round_info: RoundInfo, products: Products) -> Updates:
        """The updates as the next hook gets them that is :attr:`by_products`.

        ``updates``: a range of coordinates of the updates as they came; ``products``: what the
        hooks before it are given. Raises as :meth:`aggregate`.
        """
        try:
            self.aggregate_shard(updates, round_info, products)
        except ReachedError as reached:
            return reached.updates
        raise not_once(self.by_products[len(products)])

    def _merge(
        self,
        wrappers: Sequence[tuple[str, Caller]],
        updates: Updates,
        round_info: RoundInfo,
        held_out: HeldOut | None,
        *,
        seats: ProductSeats | None = None,
        merged: Vector | None = None,
    ) -> Vector:
        """Run the rule inside wrappers, the first of them outermost.

        ``seats``: what gives plugins inner products; ``merged``: what shards merged to, in the
        place of the rule. No wrapper may then change the updates.
        """
        info = {"round_info": round_info}

        def run(
            name: str, hook: str, caller: Caller, named: dict[str, Any], rows: Updates
        ) -> Vector:
            check_enough(f"plugins.{name}", self._claims[name], rows)
            result = self._calls.one(name, hook, caller, updates=rows, **named, **info)
            return self._vector(name, hook, result, round_info)

        def inside(name: str, step: _Step, rows: Updates) -> Vector:
            """Check the rows that a wrapper hands on, and proceed with them."""
            if merged is not None:
                expected, fits = "the updates that it claims not to look at", rows is updates
            else:
                expected = "Updates of the same dimension"
                fits = type(rows) is Updates and rows.dimension == round_info.dimension
            if not fits:
                raise wrong(name, "wrap_aggregate", f"proceed to be given {expected}", rows)
            return step(rows)

        def seated(name: str, hook: str, step: _Step) -> _Step:
            return step if seats is None else seats.before(where(name, hook), step)

        if merged is None:
            ((rule, caller),) = self._calls.by_hook["aggregate"]
            step = seated(rule, "aggregate", partial(run, rule, "aggregate", caller, {}))
        else:
            step = _always(merged)
        for name, caller in reversed(wrappers):
            named = {"proceed": partial(inside, name, step), "held_out": held_out}
            step = partial(run, name, "wrap_aggregate", caller, named)
            step = seated(name, "wrap_aggregate", step)
        return step(updates)

    def _vector(self, name: str, hook: str, result: object, round_info: RoundInfo) -> Vector:
        try:
            return check_vector(result, where(name, hook), dimension=round_info.dimension)
        except QresError as error:
            what = error.problems[0].what
            raise HookError.of("QRES-E702", where(name, hook), what) from error

    # ── who judges it ─────────────────────────────────────────────────────────────────────────

    def screen(
        self, updates: Updates, held_out: HeldOut, round_info: RoundInfo
    ) -> tuple[Screening, tuple[Evidence, ...]]:
        """Opinion of a proposer on its candidates, by every screening plugin together.

        ``observe`` is not told here of the evidence, which is one fact for each sender accused.
        Raises HookError: QRES-E701 or QRES-E702. Raises QresError: what a plugin refused.
        """
        named: dict[NodeId, Accusation] = {}
        evidence: list[Evidence] = []
        shares: dict[NodeId, int] = {}
        checks: list[tuple[str, Callable[[Vector], None]]] = []
        arguments = {"updates": updates, "held_out": held_out, "round_info": round_info}
        found: Screening
        for name, found in self._calls.each("screen", **arguments):
            for accusation in found.against:
                if accusation.subject not in named:
                    named[accusation.subject] = accusation
                    evidence.append(self._intake.evidence(name, accusation, round_info.number))
            for sender, share in found.shares.items():
                shares[sender] = (shares.get(sender, FULL_STANDING) * share) // FULL_STANDING
            if found.check is not None:
                checks.append((name, guarded(found.check)))

        def check(merged: Vector) -> None:
            for name, refuse in checks:
                in_name_of(name, "screen", partial(refuse, merged))

        made = Screening(tuple(named.values()), shares, check if checks else None)
        return made, tuple(evidence)

    def endorse(
        self, updates: Updates, merged: Vector, held_out: HeldOut, round_info: RoundInfo
    ) -> tuple[Verdict, str]:
        """The first refusing verdict on a proposed set, and its author."""
        named = {"merged": merged, "held_out": held_out, "round_info": round_info}
        return self._intake.verdict("endorse", updates=updates, **named)


def check_enough(place: str, claims: Claims, updates: Updates) -> None:
    """Refuse a rule or wrapper fewer updates than it needs, so that it need not look.

    ``place``: the path of its table. Raises ValueRefusedError: QRES-E505.
    """
    fewest, n = claims.needs.min_updates, len(updates)
    if n < fewest:
        what = f"n = {n} updates, and it needs {fewest} or more"
        fix = f"raise swarm.quorum to {fewest}, or change the options of [{place}]"
        raise ValueRefusedError.of("QRES-E505", place, what, fix)


def _always(merged: Vector) -> _Step:
    return lambda _updates: merged
