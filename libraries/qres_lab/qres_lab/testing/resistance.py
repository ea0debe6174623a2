"""Attacks that a rule must withstand, as tests to inherit: each has broken a rule before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import numpy as np
import pytest

from qres_core.contract.fixed import LIMIT
from qres_core.contract.types import MAX_WEIGHT, Updates
from qres_lab.testing.attacking import registered_lies
from qres_lab.testing.builders import make_node_ids, make_updates
from qres_lab.testing.measurement import AggregatorMeasurement
from qres_lab.testing.robustness import as_text
from qres_lab.testing.rules import broken
from qres_lab.testing.trial import LOWEST, Rows, cluster, far_lies, orders

PATTERNS: Final = {
    "a float32 NaN": (0x7FC00000,),
    "a negative float32 NaN": (0xFFC00000,),
    "a signalling float32 NaN": (0x7FA00000,),
    "a float32 infinity": (0x7F800000,),
    "a negative float32 infinity": (0xFF800000,),
    "a float32 whose square overflows": (0x7F61B1E6,),
    "a float64 NaN": (0x00000000, 0x7FF80000),
    "a float64 infinity": (0x00000000, 0x7FF00000),
    "minus zero": (0x80000000,),
}
"""Bit patterns that mean something else to whoever reads the grid's octets as floats."""
_WIDE: Final = 64
_LONG: Final = 2 * 8208 + 7
"""More columns than two of the blocks that rules work in: a fault may begin with the second."""
_SEEDS: Final = range(4)
_ALIGNED: Final = 64


class ResistanceRules(AggregatorMeasurement):
    """Rules 12 to 21 of :class:`~qres_lab.testing.AggregatorContract`."""

    def test_agg_12_robust(self) -> None:
        """QRES-AGG-12: (f, kappa)-robust: near the mean of any ``n - f`` by their own spread.

        Allouah et al. 2023, definition 2, over all sets of ``n - f``, in exact arithmetic less the
        grid's rounding; inputs are structured, random and forged by every attack of the registry.
        """
        rule = "QRES-AGG-12"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        declared = self.kappa_declared(self._small_count(plugin), liars)
        for item in self.measure_kappa():
            seen = (
                f"inputs {item.inputs!r} with rows {list(item.worst.liars)} as the liars ask for "
                f"kappa {as_text(item.worst.kappa)} at n = {item.count}, f = {liars}"
            )
            if declared is None and not item.worst.finite:
                broken(rule, f"{seen}: no kappa is enough")
            if declared is not None and item.worst.kappa > (
                declared if math.isinf(declared) else Fraction(declared)
            ):
                broken(rule, f"{seen}, {declared:.6g} is claimed")

    def test_agg_13_breakdown(self) -> None:
        """QRES-AGG-13: ``claims.tolerates`` liars at every distance and by every attack known.

        At as few updates as the rule accepts, and at more; once where only the last of many columns
        lie.
        """
        rule = "QRES-AGG-13"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        merged = self._rule(rule)
        fewest = max(self._seat(plugin).claims.needs.min_updates, 2 * liars + 1)
        for count in sorted({fewest, self._count(plugin)}):
            honest = cluster(self._rng(count), count - liars, self.dimension, self.spread)
            for what, lies in self._distances(honest, liars):
                result = merged(np.concatenate([honest, lies]))
                seen = f"{liars} liars among {count}, {what}, moved it"
                self._within(rule, result, honest, self._slack(honest), seen)
        honest, lies = self._long(self._rng(_LONG), self._count(plugin), liars)
        result = merged(np.concatenate([honest, lies]))
        seen = f"{liars} liars who copy an honest row of {_LONG} columns but for the last moved it"
        self._within(rule, result, honest, self._slack(honest), seen)
        for measured in self.measure_attacks():
            if measured.withstood is False:
                broken(
                    rule,
                    f"the attack {measured.attack!r} moved it {measured.deviation:.3g} times "
                    "the honest spread away from the honest mean, farther than a robust rule goes",
                )
        if self.breaks_beyond:
            self._assert_breaks(rule, fewest, liars + 1)

    def test_agg_14_memory_layout(self) -> None:
        """QRES-AGG-14: the same bits wherever and however the input lies in memory."""
        rule = "QRES-AGG-14"
        plugin = self.make()
        rows = cluster(self._rng(14), self._count(plugin), _WIDE + 3, self.spread)
        updates = self._weighted(plugin, rows, 14)
        first = self._merge(rule, self.make(), updates)
        for what, other in _layouts(updates):
            if not np.array_equal(first, self._merge(rule, self.make(), other)):
                broken(rule, f"the same updates as {what} gave other bits")

    def test_agg_15_bit_patterns(self) -> None:
        """QRES-AGG-15: bit patterns of NaN, infinity and overflow, from one sender and from all."""
        rule = "QRES-AGG-15"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        merged = self._rule(rule)
        for name, pattern in PATTERNS.items():
            for count in sorted({1, liars}):
                honest = cluster(
                    self._rng(15), self._count(plugin) - count, self.dimension, self.spread
                )
                octets = np.array(pattern, dtype=np.uint32).view(np.int32).astype(np.int64)
                lie = np.resize(octets, self.dimension)
                single = np.zeros(self.dimension, dtype=np.int64)
                single[-1] = octets[-1]
                for row, order in itertools.product((lie, single), orders(len(honest) + count)):
                    rows = np.concatenate([honest, np.tile(row, (count, 1))])
                    result = merged(rows[order])
                    seen = f"the bits of {name} from {count} of {len(rows)} moved it"
                    self._within(rule, result, honest, self._slack(honest), seen)

    def test_agg_16_common_offset(self) -> None:
        """QRES-AGG-16: updates a ten-thousandth of what all share are told apart like any others.

        Whoever aggregates weights in place of updates, or squares before it subtracts, must work
        exactly enough: the last ``f`` updates are three times larger than the rest. The result is
        held against the rule's own result without the shared part, where no digits are lost.
        """
        rule = "QRES-AGG-16"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        if self.draws or not self.translates:
            pytest.skip("draws is true" if self.draws else "translates is false")
        merged = self._rule(rule)
        size = 2.0**26
        for seed in _SEEDS:
            rng = self._rng(16 + seed)
            steps = rng.normal(0.0, 1e-4 * size, (self._count(plugin), _WIDE))
            steps[len(steps) - liars :] *= 3.0
            rows = np.rint(steps).astype(np.int64)
            shared = 2 * np.rint(np.clip(rng.normal(0.0, size, _WIDE), -8 * size, 8 * size) / 2)
            offset = shared.astype(np.int64)
            gap = merged(rows + offset) - offset - merged(rows)
            honest = rows[: len(rows) - liars]
            self._small(rule, gap, honest, 0.01, "what all updates share decided the result")

    def test_agg_17_far_companions(self) -> None:
        """QRES-AGG-17: how far ``claims.tolerates`` liars stand together blinds it to nobody else.

        A rule that centres on a mean or on one of the updates, or that works in float32, loses the
        differences between honest updates when liars share a huge offset.
        """
        rule = "QRES-AGG-17"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        if self.draws:
            pytest.skip("draws is true")
        merged = self._rule(rule)
        count = self._count(plugin)
        for seed in _SEEDS:
            rng = self._rng(17 + seed)
            honest = np.rint(rng.normal(0.0, 256.0, (count - liars, _WIDE))).astype(np.int64)
            company = np.rint(rng.normal(0.0, 256.0, (liars, _WIDE))).astype(np.int64)
            for order in orders(count):
                near, far = (
                    merged(np.concatenate([honest, company + offset])[order])
                    for offset in (2**18, 2**30)
                )
                what = f"moving {liars} liars from 2**18 to 2**30 changed what it makes of the rest"
                self._small(rule, far - near, honest, 0.05, what)

    def test_agg_18_weight_buys_no_result(self) -> None:
        """QRES-AGG-18: whoever claims the weight 2**30 does not own the result, however honest."""
        rule = "QRES-AGG-18"
        plugin = self.make()
        self._liars_or_skip(plugin)
        if self._seat(plugin).claims.needs.equal_weights:
            pytest.skip("needs.equal_weights: the kernel admits no other")
        rows = cluster(self._rng(18), self._count(plugin), self.dimension, self.spread)
        equal = self._rule(rule)(rows).astype(np.float64)
        for sender, row in enumerate(rows):
            weights = np.ones(len(rows), dtype=np.int64)
            weights[sender] = MAX_WEIGHT
            result = self._merge(rule, self.make(), make_updates(rows, weights))
            before = float(np.linalg.norm(equal - row))
            after = float(np.linalg.norm(result.astype(np.float64) - row))
            if after < before / 2:
                broken(
                    rule,
                    f"sender {sender} of {len(rows)} claimed the weight 2**30 and pulled the "
                    f"result {1 - after / before:.0%} of the way to its own update",
                )

    def test_agg_19_copies(self) -> None:
        """QRES-AGG-19: liars who copy an honest node neither break it nor move it out of reach."""
        rule = "QRES-AGG-19"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        merged = self._rule(rule)
        honest = cluster(self._rng(19), self._count(plugin) - liars, self.dimension, self.spread)
        for victim in range(len(honest)):
            rows = np.concatenate([honest, np.tile(honest[victim], (liars, 1))])
            results = [merged(rows[order]) for order in orders(len(rows))]
            seen = f"{liars} copies of honest row {victim} moved it"
            for result in results:
                self._within(rule, result, honest, self._slack(honest), seen)
                if self.anonymous and not self.draws:
                    same = f"with {liars} copies of row {victim} the order of the senders shows"
                    self._compare(rule, result.astype(np.int32), results[0].astype(np.int32), same)

    def test_agg_20_wrap_around(self) -> None:
        """QRES-AGG-20: lies that are near only where sums, differences or squares wrap around."""
        rule = "QRES-AGG-20"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        merged = self._rule(rule)
        for seed in _SEEDS:
            for what, honest, lies in self._wrapping(self._rng(20 + seed), plugin, liars):
                rows = np.concatenate([honest, lies])
                for order in orders(len(rows)):
                    result = merged(rows[order])
                    self._within(rule, result, honest, self._slack(honest), f"{what}: it moved")

    def test_agg_21_attacked_input_untouched(self) -> None:
        """QRES-AGG-21: under attack too, vectors and weights stay as they were, to the last bit."""
        rule = "QRES-AGG-21"
        plugin = self.make()
        liars = self._liars_or_skip(plugin)
        honest = cluster(self._rng(21), self._count(plugin) - liars, self.dimension, self.spread)
        sent = [(name, lies) for name, lies in far_lies(liars, self.dimension, 2**28).items()]
        forged = registered_lies(honest, liars, self._rule(rule), seed=self.seed)
        sent += [(item.attack, item.rows) for item in forged if item.rows is not None]
        for name, lies in sent:
            rows = np.concatenate([honest, lies])
            updates = make_updates(rows)
            self._merge(rule, self.make(), updates)
            if not np.array_equal(updates.vectors, rows):
                broken(rule, f"updates.vectors changed under the attack {name!r}; work on a copy")
            if not (updates.weights == 1).all():
                broken(rule, f"updates.weights changed under the attack {name!r}; work on a copy")

    # ── how they are checked ──────────────────────────────────────────────────────────────────

    def _liars_or_skip(self, plugin: object) -> int:
        liars = self._seat(plugin).claims.tolerates
        if not liars:
            pytest.skip("claims.tolerates declares no liars")
        return liars

    def _small(self, rule: str, gap: Rows, honest: Rows, share: float, what: str) -> None:
        """Fail if ``gap`` is longer than a share of the honest spread and rounding explain."""
        __tracebackhide__ = True
        length = float(np.linalg.norm(gap.astype(np.float64)))
        centred = honest.astype(np.float64) - honest.mean(axis=0)
        spread = math.sqrt(float((centred**2).sum(axis=1).mean()))
        rounding = math.sqrt(gap.size) * (1 + 2 * self.rounding)
        if length > share * spread + rounding:
            broken(rule, f"{what}: by {length / spread:.1%} of the honest spread")

    def _distances(self, honest: Rows, liars: int) -> Iterator[tuple[str, Rows]]:
        """Far lies at every power of two beyond the reach of the honest rows."""
        reach = int(np.abs(honest).max()) + self._slack(honest) + self.rounding
        for exponent in range(reach.bit_length() + 1, 32):
            for name, lies in far_lies(liars, self.dimension, 2**exponent).items():
                yield f"2**{exponent} grid steps away, {name}", lies

    def _long(self, rng: np.random.Generator, count: int, liars: int) -> tuple[Rows, Rows]:
        """Honest rows of many columns, and lies that copy them in all but the last."""
        honest = cluster(rng, count - liars, _LONG, self.spread)
        lies = honest[np.arange(liars) % len(honest)]
        lies[:, -self.dimension :] = LIMIT
        return honest, lies

    def _assert_breaks(self, rule: str, count: int, liars: int) -> None:
        merged = self._rule(rule)
        honest = cluster(self._rng(count), count - liars, self.dimension, self.spread)
        for _what, lies in self._distances(honest, liars):
            if not self._inside(merged(np.concatenate([honest, lies])), honest):
                return
        broken(
            rule,
            f"breaks_beyond: {liars} far liars among {count} did not break it; it withstands more "
            f"than claims.tolerates = {liars - 1}, or the attacks are too weak",
        )

    def _wrapping(
        self, rng: np.random.Generator, plugin: object, liars: int
    ) -> Iterator[tuple[str, Rows, Rows]]:
        shape = (self._count(plugin) - liars, 8, self.spread)
        honest = cluster(rng, *shape)
        seen = honest[np.arange(liars) % len(honest)]
        yield "differences of 2**16, whose squares are 0 in int32", honest, seen + 2**16
        if not self.translates:
            return
        low = honest - 2**30
        lies = low[np.arange(liars) % len(low)]
        lies[:, :4] += 2**31
        yield "four differences of 2**31, whose squares sum to 0 in int64", low, lies
        bottom = LOWEST + self.spread + honest
        top = np.full((liars, 8), LIMIT, dtype=np.int64)
        yield "differences of almost 2**32, which are short in int32", bottom, top
        yield "the same from the other end", LIMIT - self.spread + honest, LOWEST - (top - LIMIT)
        high = 2**30 + honest
        yield "sums above 2**31 of what is below it", high, np.full((liars, 8), -(2**30))


def _layouts(updates: Updates) -> Iterator[tuple[str, Updates]]:
    """The same updates, laid out in memory otherwise."""
    vectors, weights = updates.vectors, updates.weights
    senders = make_node_ids(len(vectors))
    yield "a copy of a Fortran-ordered array", Updates(np.asfortranarray(vectors), senders, weights)
    reversed_twice = np.ascontiguousarray(vectors[::-1])[::-1]
    yield "a copy of a view with a negative stride", Updates(reversed_twice, senders, weights)
    for start in range(0, _ALIGNED, 4):
        octets = bytes(start) + vectors.tobytes()
        heavy = bytes(start // 8 * 8) + weights.tobytes()
        moved = np.frombuffer(octets, dtype=np.int32, offset=start).reshape(vectors.shape)
        heavy_moved = np.frombuffer(heavy, dtype=np.int64, offset=start // 8 * 8)
        yield f"read-only bytes from octet {start}", Updates(moved, senders, heavy_moved)
