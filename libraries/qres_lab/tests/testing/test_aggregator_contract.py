"""The suite itself: rules broken on purpose must fail the rule they break, sound ones must pass."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import RULES, AggregatorContract, ContractViolationError

from qres_core import Claims, Needs, Reads, Updates, Vector, Visibility, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.errors import ValueRefusedError

METHODS = {
    re.sub(r"^test_agg_(\d+)_.*", r"QRES-AGG-\1", name): name
    for name, _function in inspect.getmembers(AggregatorContract, inspect.isfunction)
    if name.startswith("test_agg_")
}

RESISTANCE = {f"QRES-AGG-{number}" for number in range(12, 22)}
"""Their positive controls are in a module of their own."""
ABOUT_LIARS = {"QRES-AGG-10", "QRES-AGG-11"} | RESISTANCE - {"QRES-AGG-14"}


def violated(
    factory: Callable[[], object], rule: str, **knobs: Any
) -> ContractViolationError | None:
    """What the test of ``rule`` says of the plugins ``factory`` makes."""
    body: dict[str, Any] = {"make": lambda _self: factory(), **knobs}
    suite = type("Suite", (AggregatorContract,), body)()
    try:
        getattr(suite, METHODS[rule])()
    except ContractViolationError as error:
        return error
    return None


def refuse_below(updates: Updates, fewest: int) -> None:
    if len(updates) < fewest:
        raise ValueRefusedError.of("QRES-E505", "updates", f"{len(updates)}, need {fewest}")


# ── sound rules ───────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Median:
    f: int = 3

    @property
    def claims(self) -> Claims:
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 1)
        return Claims(tolerates=self.f, needs=needs, reads=Reads.COORDINATES)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates)
        return np.rint(np.median(updates.vectors, axis=0)).astype(np.int32)


@attrs.frozen
class WeightedMean:
    claims = Claims(tolerates=None, reads=Reads.COORDINATES)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        total = int(updates.weights.sum())
        columns = updates.vectors.T.tolist()
        weights = updates.weights.tolist()
        sums = [sum(v * w for v, w in zip(column, weights, strict=True)) for column in columns]
        return np.array([item // total for item in sums], dtype=np.int32)


@attrs.frozen
class SlowKrum:
    """Krum with Python's integers (Blanchard et al. 2017, section 4)."""

    f: int = 2

    @property
    def claims(self) -> Claims:
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f + 3)
        return Claims(tolerates=self.f, needs=needs)

    def distance(self, left: list[int], right: list[int]) -> int:
        return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates)
        rows = updates.vectors.tolist()
        near = len(rows) - self.f - 2
        scores = [
            sum(sorted(self.distance(a, b) for j, b in enumerate(rows) if j != i)[:near])
            for i, a in enumerate(rows)
        ]
        return updates.vectors[scores.index(min(scores))]


@pytest.mark.parametrize("rule", METHODS)
@pytest.mark.parametrize("factory", [Median, WeightedMean, Mean, SlowKrum])
def test_sound_rules_pass(factory: Callable[[], object], rule: str) -> None:
    try:
        assert violated(factory, rule) is None
    except pytest.skip.Exception:
        if rule == "QRES-AGG-22":
            assert factory is SlowKrum
        else:
            assert factory in {WeightedMean, Mean}
            assert rule in ABOUT_LIARS


def first_party_krum() -> Iterator[Any]:
    if importlib.util.find_spec("qres_krum") is None:
        return
    module = importlib.import_module("qres_krum")
    if hasattr(module, "Krum"):
        yield pytest.param(lambda: module.Krum(f=2), id="qres_krum")


@pytest.mark.parametrize(
    ("factory", "rule"),
    [
        pytest.param(*combination.values, rule, id=f"{combination.id}-{rule}")
        for combination, rule in itertools.product(first_party_krum(), METHODS)
    ],
)
def test_first_party_krum_passes(factory: Callable[[], object], rule: str) -> None:
    assert violated(factory, rule) is None


# ── broken rules, one per way to be wrong ─────────────────────────────────────────────────────


class PlainClass:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class MisspeltHook:
    @hookimpl
    def agregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class MisspeltArgument:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, update: Updates) -> Vector:
        return update.vectors[0]


@attrs.frozen
class KeywordOnly:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, *, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class Asynchronous:
    @hookimpl
    async def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class Ordered:
    claims = Claims(tolerates=None)

    @hookimpl(tryfirst=True)
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class OtherFamily:
    @hookimpl
    def teardown(self) -> None:
        return


@attrs.frozen
class ClaimsAreNotClaims:
    claims = 3

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class FloatResult:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Any:
        return np.median(updates.vectors, axis=0)


@attrs.frozen
class WrongShape:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return np.median(updates.vectors, axis=1).astype(np.int32)


@attrs.frozen
class ForgottenReturn:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> None:
        np.median(updates.vectors, axis=0)


@attrs.frozen
class SqueezesOneCoordinate:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return np.squeeze(np.median(updates.vectors, axis=0).astype(np.int32)[None, :])


@attrs.frozen
class SortsInPlace:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        updates.vectors.sort(axis=0)
        return updates.vectors[len(updates) // 2]


@attrs.frozen
class ForcesWriting:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        updates.vectors.flags.writeable = True
        updates.vectors.sort(axis=0)
        updates.vectors.flags.writeable = False
        return updates.vectors[len(updates) // 2]


@attrs.frozen
class ForcesWeights:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        updates.weights.flags.writeable = True
        updates.weights[:] = 1
        updates.weights.flags.writeable = False
        return np.median(updates.vectors, axis=0).astype(np.int32)


@attrs.frozen
class FirstSenderWins:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return updates.vectors[0]


@attrs.frozen
class RunningMean:
    """A mean of means: the later a sender, the more it counts."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        mean = updates.vectors[0].astype(np.int64)
        for row in updates.vectors[1:]:
            mean = (mean + row) // 2
        return mean.astype(np.int32)


@attrs.frozen
class OffByOne(Median):
    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates + 1)
        return np.median(updates.vectors, axis=0).astype(np.int32)


@attrs.frozen
class MinorityClaim(Median):
    @property
    def claims(self) -> Claims:
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=2 * self.f)
        return Claims(tolerates=self.f, needs=needs)


@attrs.frozen
class Noisy:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return np.random.default_rng().integers(-1000, 1000, updates.dimension, dtype=np.int32)


@attrs.define
class DriftsWithTheRounds:
    calls: int = attrs.field(default=0, init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        self.calls += 1
        return updates.vectors[self.calls % len(updates)]


@attrs.frozen
class ShrunkMean:
    """Divides by n + 1."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        total = updates.vectors.astype(np.int64).sum(axis=0)
        return (total // (len(updates) + 1)).astype(np.int32)


@attrs.frozen
class WrappingMean:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return (updates.vectors.sum(axis=0, dtype=np.int32) // len(updates)).astype(np.int32)


@attrs.frozen
class HalfPrecisionMedian:
    """float32 has 24 bits, the grid 32."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        median = np.median(updates.vectors.astype(np.float32), axis=0)
        return np.clip(median.astype(np.int64), -(2**31), 2**31 - 1).astype(np.int32)


@attrs.frozen
class AbsoluteWeights:
    """Counts only senders with more than 500 examples."""

    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        rows = updates.vectors[updates.weights > 500]
        return np.median(rows, axis=0).astype(np.int32)


@attrs.frozen
class RobustInNameOnly(WeightedMean):
    @property
    def claims(self) -> Claims:
        needs = Needs(visibility=Visibility.INDIVIDUAL, min_updates=7)
        return Claims(tolerates=3, needs=needs)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates)
        return updates.vectors.mean(axis=0).astype(np.int32)


@attrs.frozen
class WeightedMedian(Median):
    """A median that counts a sender as often as it says."""

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates)
        order = np.argsort(updates.vectors, axis=0, kind="stable")
        cumulated = np.cumsum(updates.weights[order], axis=0)
        middle = (cumulated * 2 >= cumulated[-1]).argmax(axis=0)
        return np.sort(updates.vectors, axis=0)[middle, np.arange(updates.dimension)]


@attrs.frozen
class TrimsOneTooFew(Median):
    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates)
        kept = np.sort(updates.vectors, axis=0)[self.f - 1 : len(updates) - self.f + 1]
        return kept.mean(axis=0).astype(np.int32)


@attrs.frozen
class WrappingKrum(SlowKrum):
    """Squared distances in int64: far liars look near, because 2**64 is 0."""

    def distance(self, left: list[int], right: list[int]) -> int:
        gap = np.array(left, dtype=np.int64) - np.array(right, dtype=np.int64)
        return int((gap * gap).sum())

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return super().aggregate(updates)


@attrs.frozen
class TrustsTheLast(Median):
    """Robust unless the liar comes last."""

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        refuse_below(updates, self.claims.needs.min_updates)
        far = np.abs(updates.vectors[-1].astype(np.int64)).max() > 2**30
        median = np.median(updates.vectors, axis=0).astype(np.int32)
        return updates.vectors[-1] if far else median


@attrs.frozen
class NearestInNameByCoordinates(SlowKrum):
    """Chooses by whole vectors, and says that each coordinate stands by itself."""

    @property
    def claims(self) -> Claims:
        return attrs.evolve(super().claims, reads=Reads.COORDINATES)

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        return super().aggregate(updates)


BROKEN = [
    (PlainClass, "QRES-AGG-1"),
    (MisspeltHook, "QRES-AGG-1"),
    (MisspeltArgument, "QRES-AGG-1"),
    (KeywordOnly, "QRES-AGG-1"),
    (Asynchronous, "QRES-AGG-1"),
    (Ordered, "QRES-AGG-1"),
    (OtherFamily, "QRES-AGG-1"),
    (ClaimsAreNotClaims, "QRES-AGG-1"),
    (FloatResult, "QRES-AGG-2"),
    (WrongShape, "QRES-AGG-2"),
    (ForgottenReturn, "QRES-AGG-2"),
    (SqueezesOneCoordinate, "QRES-AGG-2"),
    (SortsInPlace, "QRES-AGG-3"),
    (ForcesWriting, "QRES-AGG-3"),
    (ForcesWeights, "QRES-AGG-3"),
    (FirstSenderWins, "QRES-AGG-4"),
    (RunningMean, "QRES-AGG-4"),
    (OffByOne, "QRES-AGG-5"),
    (MinorityClaim, "QRES-AGG-5"),
    (Noisy, "QRES-AGG-6"),
    (DriftsWithTheRounds, "QRES-AGG-6"),
    (ShrunkMean, "QRES-AGG-7"),
    (WrappingMean, "QRES-AGG-7"),
    (WrappingMean, "QRES-AGG-8"),
    (HalfPrecisionMedian, "QRES-AGG-7"),
    (AbsoluteWeights, "QRES-AGG-9"),
    (WeightedMedian, "QRES-AGG-10"),
    (TrustsTheLast, "QRES-AGG-10"),
    (RobustInNameOnly, "QRES-AGG-11"),
    (TrimsOneTooFew, "QRES-AGG-11"),
    (WrappingKrum, "QRES-AGG-11"),
    (TrustsTheLast, "QRES-AGG-11"),
    (NearestInNameByCoordinates, "QRES-AGG-22"),
]


@pytest.mark.control("C-krum-7")
@pytest.mark.parametrize(("factory", "rule"), BROKEN)
def test_broken_rules_fail_the_rule_they_break(factory: Callable[[], object], rule: str) -> None:
    with np.errstate(over="ignore"):
        error = violated(factory, rule)
    assert error is not None, f"{factory.__name__} passed {rule}"
    assert error.rule == rule
    assert str(error).startswith(f"{rule} ({RULES[rule]}): ")


def test_every_rule_has_a_test_and_a_positive_control() -> None:
    stated = {rule for rule in RULES if rule.startswith("QRES-AGG-")}
    assert set(METHODS) == stated
    assert {rule for _factory, rule in BROKEN} == stated - RESISTANCE


def test_every_rule_is_named_in_the_docstring_of_its_test() -> None:
    for rule, name in METHODS.items():
        assert (getattr(AggregatorContract, name).__doc__ or "").startswith(f"{rule}: ")


def test_make_must_be_defined() -> None:
    with pytest.raises(NotImplementedError, match="make"):
        AggregatorContract().make()


# ── knobs ─────────────────────────────────────────────────────────────────────────────────────


def test_rounding_admits_as_many_steps_as_it_says() -> None:
    @attrs.frozen
    class OneHigh:
        claims = Claims(tolerates=None)

        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            wide = updates.vectors.min(axis=0).astype(np.int64) + 1
            return np.minimum(wide, 2**31 - 1).astype(np.int32)

    assert violated(OneHigh, "QRES-AGG-7") is not None
    assert violated(OneHigh, "QRES-AGG-7", rounding=1) is None


def test_stretch_bounds_how_far_liars_may_move_the_result() -> None:
    assert violated(Median, "QRES-AGG-11", stretch=0.0) is None

    @attrs.frozen
    class Leans(Median):
        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            refuse_below(updates, self.claims.needs.min_updates)
            wide = np.median(updates.vectors, axis=0).astype(np.int64) + 3 * 4096
            return np.minimum(wide, 2**31 - 1).astype(np.int32)

    assert violated(Leans, "QRES-AGG-11", stretch=0.0) is not None
    assert violated(Leans, "QRES-AGG-11", stretch=3.0) is None


def test_remembering_rules_are_compared_as_fresh_instances() -> None:
    assert violated(DriftsWithTheRounds, "QRES-AGG-6", stateless=False) is None


@pytest.mark.parametrize("rule", ["QRES-AGG-7", "QRES-AGG-8"])
def test_unbounded_rules_skip_what_does_not_hold_for_them(rule: str) -> None:
    with pytest.raises(pytest.skip.Exception):
        violated(ShrunkMean, rule, bounded_by_inputs=False)


def test_equal_weights_are_given_to_rules_that_need_them() -> None:
    @attrs.frozen
    class EqualOnly(Median):
        @property
        def claims(self) -> Claims:
            stated = super().claims
            return attrs.evolve(stated, needs=attrs.evolve(stated.needs, equal_weights=True))

        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            refuse_below(updates, self.claims.needs.min_updates)
            assert len(set(updates.weights.tolist())) == 1
            return np.rint(np.median(updates.vectors, axis=0)).astype(np.int32)

    about_weights = {"QRES-AGG-10", "QRES-AGG-18"}
    for rule in set(METHODS) - about_weights:
        assert violated(EqualOnly, rule) is None
    for rule in about_weights:
        with pytest.raises(pytest.skip.Exception, match="equal_weights"):
            violated(EqualOnly, rule)


@pytest.mark.parametrize("rule", ["QRES-AGG-4", "QRES-AGG-9"])
def test_rules_that_draw_lots_are_not_compared_for_different_input(rule: str) -> None:
    with pytest.raises(pytest.skip.Exception, match="draws"):
        violated(FirstSenderWins, rule, draws=True)


def test_ties_may_be_left_to_the_order_of_the_senders() -> None:
    assert violated(FirstSenderWins, "QRES-AGG-4") is not None
    with pytest.raises(pytest.skip.Exception, match="anonymous"):
        violated(FirstSenderWins, "QRES-AGG-4", anonymous=False)
