"""What every aggregation rule must do, as tests to inherit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import ClassVar, Final, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from qres_core.contract.errors import PluginError, ValueRefusedError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.types import MAX_WEIGHT, Updates, Vector
from qres_core.testing.builders import make_round_info, make_updates
from qres_core.testing.hosting import host, needs_of
from qres_core.testing.rules import broken

Rows = NDArray[np.int64]

LOWEST: Final = -(2**31)
"""What int32 holds and a liar may send, one below the grid's symmetric range."""
_FAR: Final = 2**30
_SEEDS: Final = range(4)


class AggregatorContract:
    """Conformance suite of the ``aggregate`` hook.

    Subclass it in a test module, give :meth:`make`, and adjust the attributes that do not fit::

        from qres_core.testing import AggregatorContract

        class TestMedian(AggregatorContract):
            def make(self) -> object:
                return Median()

    The number of updates in the tests is ``updates``, or what ``needs`` asks for if that is more.
    A rule that declares ``needs.equal_weights`` is given equal weights throughout.

    Attributes:
        dimension: coordinates of the test vectors. Default 7.
        updates: updates in a test round. Default 11.
        spread: honest vectors differ by up to twice this many grid steps a coordinate. Default
            4096 (1/16 in model units at scale 0).
        rounding: grid steps by which a result may miss what is asked, for rules that cannot be
            exact. Default 0: the grid's rounding to whole steps is no excuse.
        bounded_by_inputs: every coordinate of the result lies between the least and the greatest
            of the inputs. Default true; false for rules that add noise or extrapolate.
        stretch: with liars present the result may leave the range of the honest vectors by this
            many times their diameter. Default 1.0. The geometric median's bound is
            ``2 (n - f) / (n - 2 f)`` (Chen, Su and Xu 2017, lemma 1).
        stateless: the result depends on nothing but the arguments. Default true; false for rules
            that remember earlier rounds, which are then compared as fresh instances only.
    """

    dimension: ClassVar[int] = 7
    updates: ClassVar[int] = 11
    spread: ClassVar[int] = 4096
    rounding: ClassVar[int] = 0
    bounded_by_inputs: ClassVar[bool] = True
    stretch: ClassVar[float] = 1.0
    stateless: ClassVar[bool] = True

    def make(self) -> object:
        """A fresh plugin instance, configured. Every call must give an equal one."""
        msg = f"{type(self).__name__} must define make()"
        raise NotImplementedError(msg)

    # ── the rules ─────────────────────────────────────────────────────────────────────────────

    def test_agg_1_is_a_plugin(self) -> None:
        """QRES-AGG-1: an attrs class with a plain ``aggregate`` hook the kernel can call."""
        rule = "QRES-AGG-1"
        plugin = self.make()
        try:
            manager = host(plugin)
        except PluginError as error:
            broken(rule, str(error), error)
        if not manager.hook.aggregate.get_hookimpls():
            broken(rule, "there is no aggregate hook")
        self._merge(rule, plugin, self._honest(plugin, 0))

    def test_agg_2_shape_and_dtype(self) -> None:
        """QRES-AGG-2: int32 of shape ``(d,)``, also for ``d = 1`` and the fewest updates."""
        plugin = self.make()
        fewest = needs_of(plugin).min_updates
        for count, dimension in itertools.product(
            (fewest, self._count(plugin)), (1, self.dimension)
        ):
            rows = _cluster(np.random.default_rng(count), count, dimension, self.spread)
            self._merge("QRES-AGG-2", self.make(), self._weighted(plugin, rows, 0))

    def test_agg_3_input_untouched(self) -> None:
        """QRES-AGG-3: vectors and weights are read-only and stay as they were."""
        rule = "QRES-AGG-3"
        plugin = self.make()
        updates = self._honest(plugin, 0)
        vectors, weights = updates.vectors.copy(), updates.weights.copy()
        self._merge(rule, plugin, updates)
        if updates.vectors.flags.writeable or updates.weights.flags.writeable:
            broken(rule, "an input array was made writeable")
        if not np.array_equal(updates.vectors, vectors):
            broken(rule, "updates.vectors changed; work on a copy")
        if not np.array_equal(updates.weights, weights):
            broken(rule, "updates.weights changed; work on a copy")

    def test_agg_4_sender_does_not_matter(self) -> None:
        """QRES-AGG-4: handing the same vectors and weights to other senders changes nothing."""
        plugin = self.make()
        for seed in _SEEDS:
            updates = self._honest(plugin, seed)
            order = np.random.default_rng(seed).permutation(len(updates))
            shuffled = make_updates(updates.vectors[order], updates.weights[order])
            self._compare(
                "QRES-AGG-4",
                self._merge("QRES-AGG-4", self.make(), updates),
                self._merge("QRES-AGG-4", self.make(), shuffled),
                "the result changed when the vectors changed senders",
            )

    def test_agg_5_too_few_refused(self) -> None:
        """QRES-AGG-5: below ``needs.min_updates`` QRES-E505, at it a result; liars are outvoted."""
        rule = "QRES-AGG-5"
        plugin = self.make()
        needs = needs_of(plugin)
        liars = needs.tolerates or 0
        if needs.min_updates <= 2 * liars:
            broken(
                rule,
                f"needs.tolerates is {liars} and needs.min_updates is {needs.min_updates}; nobody "
                f"withstands {liars} liars among fewer than {2 * liars + 1}",
            )
        rng = np.random.default_rng(0)
        for count in range(1, needs.min_updates):
            rows = _cluster(rng, count, self.dimension, self.spread)
            updates = self._weighted(plugin, rows, 0)
            try:
                self._call(self.make(), updates)
            except ValueRefusedError as error:
                if error.code != "QRES-E505":
                    broken(rule, f"{count} updates were refused with {error.code}", error)
            except Exception as error:  # noqa: BLE001 - whatever a plugin raises
                broken(rule, f"{count} updates raised {_name(error)}, not QRES-E505", error)
            else:
                broken(rule, f"{count} updates gave a result; {needs.min_updates} are needed")
        rows = _cluster(rng, needs.min_updates, self.dimension, self.spread)
        self._merge(rule, self.make(), self._weighted(plugin, rows, 0))

    def test_agg_6_deterministic(self) -> None:
        """QRES-AGG-6: the same bits for the same updates, in every instance and every call."""
        rule = "QRES-AGG-6"
        plugin = self.make()
        updates = self._honest(plugin, 0)
        first = self._merge(rule, plugin, updates)
        if not np.array_equal(first, self._merge(rule, self.make(), updates)):
            broken(rule, "two instances gave different results for the same updates")
        if self.stateless and not np.array_equal(first, self._merge(rule, plugin, updates)):
            broken(rule, "two calls gave different results for the same updates")

    def test_agg_7_exact_where_all_agree(self) -> None:
        """QRES-AGG-7: ``n`` copies of ``v`` give ``v``, up to the ends of the grid."""
        if not self.bounded_by_inputs:
            pytest.skip("bounded_by_inputs is false")
        plugin = self.make()
        count = self._count(plugin)
        ends = np.array([LIMIT, -LIMIT, 0, 1, -1], dtype=np.int64)
        vectors = [np.resize(ends, self.dimension), np.full(self.dimension, LIMIT, dtype=np.int64)]
        vectors += [_uniform(np.random.default_rng(seed), self.dimension) for seed in _SEEDS]
        for vector in vectors:
            updates = self._weighted(plugin, np.tile(vector, (count, 1)), 1)
            self._compare(
                "QRES-AGG-7",
                self._merge("QRES-AGG-7", self.make(), updates),
                vector.astype(np.int32),
                f"{count} copies of one vector gave another",
            )

    def test_agg_8_within_inputs(self) -> None:
        """QRES-AGG-8: no coordinate leaves the range of the inputs, at the ends of int32 too."""
        rule = "QRES-AGG-8"
        if not self.bounded_by_inputs:
            pytest.skip("bounded_by_inputs is false")
        plugin = self.make()
        rng = np.random.default_rng(8)
        for count in (self._count(plugin), self._count(plugin) + 1):
            shape = (count, self.dimension)
            near = rng.integers(0, self.spread, size=shape)
            for rows in (
                LIMIT - near,
                near - LIMIT,
                rng.choice(np.array([LIMIT, -LIMIT]), size=shape),
                rng.choice(np.array([LIMIT, LOWEST, 0]), size=shape),
                rng.integers(LOWEST, LIMIT, size=shape),
            ):
                result = self._merge(rule, self.make(), self._weighted(plugin, rows, 2))
                self._within(rule, result, rows, 0, "the result left the range of the inputs")

    def test_agg_9_weights_are_proportions(self) -> None:
        """QRES-AGG-9: multiplying all weights by one factor changes nothing."""
        plugin = self.make()
        for seed in _SEEDS:
            updates = self._honest(plugin, seed)
            heavier = make_updates(updates.vectors, updates.weights * 1024)
            self._compare(
                "QRES-AGG-9",
                self._merge("QRES-AGG-9", self.make(), updates),
                self._merge("QRES-AGG-9", self.make(), heavier),
                "the result changed when all weights were multiplied by 1024",
            )

    def test_agg_10_weight_is_a_claim(self) -> None:
        """QRES-AGG-10: one liar who claims the weight 2**30 does not move the result."""
        rule = "QRES-AGG-10"
        plugin = self.make()
        needs = needs_of(plugin)
        if not needs.tolerates:
            pytest.skip("needs.tolerates declares no liars")
        if needs.equal_weights:
            pytest.skip("needs.equal_weights: the kernel admits no other")
        for name, honest, lies in self._attacks(plugin, 1):
            rows = np.concatenate([honest, lies])
            weights = np.ones(len(rows), dtype=np.int64)
            weights[-1] = MAX_WEIGHT
            for order in _orders(len(rows)):
                result = self._merge(rule, self.make(), make_updates(rows[order], weights[order]))
                self._within(
                    rule, result, honest, self._slack(honest), f"one heavy liar, {name}, moved it"
                )

    def test_agg_11_liars_are_withstood(self) -> None:
        """QRES-AGG-11: ``needs.tolerates`` far liars leave the result with the honest vectors."""
        rule = "QRES-AGG-11"
        plugin = self.make()
        liars = needs_of(plugin).tolerates
        if not liars:
            pytest.skip("needs.tolerates declares no liars")
        for name, honest, lies in self._attacks(plugin, liars):
            rows = np.concatenate([honest, lies])
            for order in _orders(len(rows)):
                result = self._merge(rule, self.make(), make_updates(rows[order]))
                self._within(
                    rule, result, honest, self._slack(honest), f"{liars} liars, {name}, moved it"
                )

    # ── how they are checked ──────────────────────────────────────────────────────────────────

    def _count(self, plugin: object) -> int:
        needs = needs_of(plugin)
        return max(self.updates, needs.min_updates, 2 * (needs.tolerates or 0) + 1)

    def _weighted(self, plugin: object, rows: Rows, seed: int) -> Updates:
        if needs_of(plugin).equal_weights:
            return make_updates(rows)
        return make_updates(rows, np.random.default_rng(seed).integers(1, 1000, size=len(rows)))

    def _honest(self, plugin: object, seed: int) -> Updates:
        rows = _cluster(
            np.random.default_rng(seed), self._count(plugin), self.dimension, self.spread
        )
        return self._weighted(plugin, rows, seed)

    def _call(self, plugin: object, updates: Updates) -> list[object]:
        info = make_round_info(
            updates.dimension, nodes=len(updates), byzantine=needs_of(plugin).tolerates or 0
        )
        results: list[object] = host(plugin).hook.aggregate(updates=updates, round_info=info)
        return results

    def _merge(self, rule: str, plugin: object, updates: Updates) -> Vector:
        __tracebackhide__ = True
        try:
            results = self._call(plugin, updates)
        except PluginError as error:
            broken("QRES-AGG-1", str(error), error)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            broken(rule, f"aggregate raised {_name(error)}: {error}", error)
        if len(results) != 1:
            broken("QRES-AGG-2", "aggregate returned nothing")
        if not isinstance(results[0], np.ndarray):
            broken("QRES-AGG-2", f"aggregate returned a {_name(results[0])}, not an array")
        result = cast("Vector", results[0])
        if result.dtype != np.int32 or result.shape != (updates.dimension,):
            broken(
                "QRES-AGG-2",
                f"aggregate returned {result.dtype} of shape {result.shape}, "
                f"not int32 of shape ({updates.dimension},)",
            )
        return result.copy()

    def _compare(self, rule: str, left: Vector, right: Vector, what: str) -> None:
        __tracebackhide__ = True
        gap = int(np.abs(left.astype(np.int64) - right).max())
        if gap > self.rounding:
            broken(rule, f"{what}, by up to {gap} grid steps (rounding = {self.rounding})")

    def _within(self, rule: str, result: Vector, rows: Rows, slack: int, what: str) -> None:
        __tracebackhide__ = True
        wide = result.astype(np.int64)
        beyond = np.maximum(rows.min(axis=0) - wide, wide - rows.max(axis=0))
        worst = int(beyond.argmax())
        if beyond[worst] > slack + self.rounding:
            broken(
                rule,
                f"{what}: coordinate {worst} is {wide[worst]}, {beyond[worst]} grid steps outside "
                f"{rows[:, worst].min()}..{rows[:, worst].max()} ({slack} allowed)",
            )

    def _slack(self, honest: Rows) -> int:
        differences = (honest[:, None, :] - honest[None, :, :]).astype(np.float64)
        return math.ceil(self.stretch * math.sqrt(float((differences**2).sum(axis=2).max())))

    def _attacks(self, plugin: object, liars: int) -> Iterator[tuple[str, Rows, Rows]]:
        """Honest vectors with far lies: name, honest rows, lying rows."""
        dimension = self.dimension
        rng = np.random.default_rng(liars)
        edge = LIMIT - self.spread
        for centre, where in ((0, "zero"), (edge, "the top"), (-edge, "the bottom")):
            honest = centre + _cluster(rng, self._count(plugin) - liars, dimension, self.spread)
            middle = np.full((liars, dimension), centre, dtype=np.int64)
            single = middle.copy()
            single[:, 0] = LIMIT if centre <= 0 else LOWEST
            split = np.full((liars, dimension), LIMIT, dtype=np.int64)
            split[::2] = LOWEST
            lies = {
                "all at the top": np.full((liars, dimension), LIMIT, dtype=np.int64),
                "all at the bottom": np.full((liars, dimension), LOWEST, dtype=np.int64),
                "at both ends": split,
                "in one coordinate": single,
                "each elsewhere": rng.choice(np.array([LIMIT, -LIMIT]), size=(liars, dimension)),
            }
            for name, rows in lies.items():
                if (np.abs(rows - middle).max(axis=1) >= _FAR).all():
                    yield f"{name}, honest nodes near {where}", honest, rows


def _name(value: object) -> str:
    return type(value).__name__


def _cluster(rng: np.random.Generator, count: int, dimension: int, spread: int) -> Rows:
    return rng.integers(-spread, spread, size=(count, dimension), endpoint=True)


def _uniform(rng: np.random.Generator, dimension: int) -> Rows:
    return rng.integers(-LIMIT, LIMIT, size=dimension, endpoint=True)


def _orders(count: int) -> Iterator[NDArray[np.intp]]:
    """Row orders: the liars last, first, and anywhere."""
    last = np.arange(count)
    yield last
    yield last[::-1]
    yield np.random.default_rng(count).permutation(count)
