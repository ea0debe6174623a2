"""Duties of every aggregation rule, as tests to inherit."""

from __future__ import annotations

import itertools
from typing import Final

import attrs
import numpy as np
import pytest

from qres_core.contract.claims import Reads
from qres_core.contract.errors import PluginError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.types import MAX_WEIGHT, Updates
from qres_lab.testing.builders import make_updates
from qres_lab.testing.hosting import host
from qres_lab.testing.resistance import ResistanceRules
from qres_lab.testing.rules import broken
from qres_lab.testing.trial import LOWEST, Rows, cluster, orders

_SEEDS: Final = range(4)


class AggregatorContract(ResistanceRules):
    """Conformance suite of the ``aggregate`` hook.

    Subclass it in a test module, give :meth:`make`, and adjust the attributes that do not fit::

        from qres_lab.testing import AggregatorContract

        class TestMedian(AggregatorContract):
            def make(self) -> object:
                return Median()

    The number of updates in the tests is ``updates``, or what ``needs`` asks for if that is more.
    A rule that declares ``needs.equal_weights`` is given equal weights throughout.

    Rules 1 to 11 are about form and the plainest lies. Rules 12 to 21 are about resistance, each
    after a way in which published libraries fail. Rule 22 is for rules that claim to read
    coordinates or products alone.

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
        anonymous: which sender holds which vector does not matter. Default true; false for rules
            that often have equally good choices and leave them to the order of the senders, such
            as minimum diameter averaging.
        draws: the rule draws lots, such as who shares a bucket with whom, from what it is given.
            Default false; true exempts it from the rules that compare results for different input
            (4, 9, 16, 17).
        translates: adding one vector to all inputs adds it to the result. Default true; false for
            rules that clip about a fixed point, which are then tried with honest vectors near zero.
        kappa: the bound of (f, kappa)-robustness that the rule claims: a number, or a function of
            ``n`` and ``f``. Default ``None``: what the plugin's method ``kappa_bound(n)`` says if
            it has one; else some finite kappa is claimed, and any will do. ``math.inf`` claims
            none.
        breaks_beyond: assert too that one liar more than ``claims.tolerates`` breaks the rule when
            as few updates come as it accepts. Default false. A positive control: if it fails, the
            attacks are too weak for this rule or the rule is better than it says.
        seed: decides everything random. Default 0.
    """

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
        fewest = self._seat(plugin).claims.needs.min_updates
        for count, dimension in itertools.product(
            (fewest, self._count(plugin)), (1, self.dimension)
        ):
            rows = cluster(self._rng(count), count, dimension, self.spread)
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
        if self.draws or not self.anonymous:
            pytest.skip("draws is true" if self.draws else "anonymous is false")
        plugin = self.make()
        for seed in _SEEDS:
            updates = self._honest(plugin, seed)
            order = self._rng(seed).permutation(len(updates))
            shuffled = make_updates(updates.vectors[order], updates.weights[order])
            self._compare(
                "QRES-AGG-4",
                self._merge("QRES-AGG-4", self.make(), updates),
                self._merge("QRES-AGG-4", self.make(), shuffled),
                "the result changed when the vectors changed senders",
            )

    def test_agg_5_enough_for_its_claims(self) -> None:
        """QRES-AGG-5: the liars are outvoted among ``needs.min_updates``, which give a result.

        The kernel refuses fewer, so no rule has to.
        """
        rule = "QRES-AGG-5"
        plugin = self.make()
        claims = self._seat(plugin).claims
        needs, liars = claims.needs, claims.liars
        if needs.min_updates <= 2 * liars:
            broken(
                rule,
                f"claims.tolerates is {liars} and needs.min_updates is {needs.min_updates}; nobody "
                f"withstands {liars} liars among fewer than {2 * liars + 1}",
            )
        rows = cluster(self._rng(0), needs.min_updates, self.dimension, self.spread)
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
        vectors += [_uniform(self._rng(seed), self.dimension) for seed in _SEEDS]
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
        rng = self._rng(8)
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
        if self.draws:
            pytest.skip("draws is true")
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
        claims = self._seat(plugin).claims
        if not claims.tolerates:
            pytest.skip("claims.tolerates declares no liars")
        if claims.needs.equal_weights:
            pytest.skip("needs.equal_weights: the kernel admits no other")
        for name, honest, lies in self._attacks(plugin, 1):
            rows = np.concatenate([honest, lies])
            weights = np.ones(len(rows), dtype=np.int64)
            weights[-1] = MAX_WEIGHT
            for order in orders(len(rows)):
                result = self._merge(rule, self.make(), make_updates(rows[order], weights[order]))
                self._within(
                    rule, result, honest, self._slack(honest), f"one heavy liar, {name}, moved it"
                )

    def test_agg_11_liars_are_withstood(self) -> None:
        """QRES-AGG-11: ``claims.tolerates`` far liars leave the result with the honest vectors."""
        rule = "QRES-AGG-11"
        plugin = self.make()
        liars = self._seat(plugin).claims.tolerates
        if not liars:
            pytest.skip("claims.tolerates declares no liars")
        for name, honest, lies in self._attacks(plugin, liars):
            rows = np.concatenate([honest, lies])
            for order in orders(len(rows)):
                result = self._merge(rule, self.make(), make_updates(rows[order]))
                self._within(
                    rule, result, honest, self._slack(honest), f"{liars} liars, {name}, moved it"
                )

    def test_agg_22_shards(self) -> None:
        """QRES-AGG-22: a rule that claims to need no whole updates gives its bits in shards too."""
        rule = "QRES-AGG-22"
        plugin = self.make()
        claims = self._seat(plugin).claims
        if not claims.reads.in_shards:
            pytest.skip("claims.reads is neither COORDINATES nor PRODUCTS")
        for seed in _SEEDS:
            spread = self._honest(plugin, seed).vectors.astype(np.int64)
            wide = self._rng(seed).integers(LOWEST, LIMIT, size=spread.shape, endpoint=True)
            for rows in (spread, wide):
                whole = self._merge(rule, self.make(), self._weighted(plugin, rows, seed))
                for shards in range(2, self.dimension + 1):
                    cuts = [index * self.dimension // shards for index in range(shards + 1)]
                    parts = [
                        self._merge(rule, self.make(), self._range(plugin, rows, cut, seed))
                        for cut in itertools.pairwise(cuts)
                    ]
                    if not np.array_equal(np.concatenate(parts), whole):
                        broken(rule, f"merged in {shards} shards the result is another")

    def _range(self, plugin: object, rows: Rows, cut: tuple[int, int], seed: int) -> Updates:
        """A range of the rows' coordinates, with the products of whole rows if it needs them."""
        updates = self._weighted(plugin, rows[:, cut[0] : cut[1]], seed)
        if self._seat(plugin).claims.reads is not Reads.PRODUCTS:
            return updates
        exact = rows.astype(np.object_)
        return attrs.evolve(updates, products=exact @ exact.T)


def _uniform(rng: np.random.Generator, dimension: int) -> Rows:
    return rng.integers(-LIMIT, LIMIT, size=dimension, endpoint=True)
