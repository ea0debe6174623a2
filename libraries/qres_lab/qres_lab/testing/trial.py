"""Calling an aggregation rule and judging what it returns: what the suite's rules stand on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, cast

import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import PluginError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Updates, Vector
from qres_core.kernel.lookalikes import nearest
from qres_lab.testing.builders import make_round_info, make_updates
from qres_lab.testing.hosting import Seated, seat
from qres_lab.testing.rules import broken

Rows = NDArray[np.int64]
Bound = Callable[[int, int], float]

LOWEST: Final = -(2**31)
"""What int32 holds and a liar may send, one below the grid's symmetric range."""
_FAR: Final = 2**30


class AggregatorTrial:
    """The attributes of :class:`~qres_lab.testing.AggregatorContract`, and its machinery."""

    dimension: ClassVar[int] = 7
    updates: ClassVar[int] = 11
    spread: ClassVar[int] = 4096
    rounding: ClassVar[int] = 0
    bounded_by_inputs: ClassVar[bool] = True
    stretch: ClassVar[float] = 1.0
    stateless: ClassVar[bool] = True
    anonymous: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    translates: ClassVar[bool] = True
    kappa: ClassVar[float | Bound | None] = None
    breaks_beyond: ClassVar[bool] = False
    seed: ClassVar[int] = 0

    _seated: Seated | None = None

    def __init_subclass__(cls, **rest: Any) -> None:
        """Refuse a misspelt attribute: ``kapa = 2.0`` would be a claim that no test looks at."""
        super().__init_subclass__(**rest)
        known = [name for name in vars(AggregatorTrial) if not name.startswith("_")]
        for name in vars(cls):
            meant = None if name.startswith(("_", "test")) else nearest(name, known)
            if meant not in {None, name}:
                what = f"{name!r} is read by no test"
                fix = f"did you mean {meant!r}? If it is the suite's own, begin it with _"
                raise PluginError.of("QRES-E211", cls.__qualname__, what, fix)

    def make(self) -> object:
        """A fresh plugin instance, configured. Every call must give an equal one."""
        msg = f"{type(self).__name__} must define make()"
        raise NotImplementedError(msg)

    # ── what is asked ─────────────────────────────────────────────────────────────────────────

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng(number + 1_000_003 * self.seed)

    def _count(self, plugin: object) -> int:
        claims = self._seat(plugin).claims
        return max(self.updates, claims.needs.min_updates, 2 * claims.liars + 1)

    def _weighted(self, plugin: object, rows: Rows, seed: int) -> Updates:
        if self._seat(plugin).claims.needs.equal_weights:
            return make_updates(rows)
        return make_updates(rows, self._rng(seed).integers(1, 1000, size=len(rows)))

    def _honest(self, plugin: object, seed: int) -> Updates:
        rows = cluster(self._rng(seed), self._count(plugin), self.dimension, self.spread)
        return self._weighted(plugin, rows, seed)

    # ── calling it ────────────────────────────────────────────────────────────────────────────

    def _seat(self, plugin: object) -> Seated:
        if self._seated is None or self._seated.plugin is not plugin:
            self._seated = seat(plugin)
        return self._seated

    def _info(self, plugin: object, updates: Updates) -> RoundInfo:
        liars = self._seat(plugin).claims.liars
        return make_round_info(updates.dimension, nodes=len(updates), byzantine=liars)

    def _call(
        self, plugin: object, updates: Updates, info: RoundInfo | None = None
    ) -> list[object]:
        seated, info = self._seat(plugin), info or self._info(plugin, updates)
        results: list[object] = seated.manager.hook.aggregate(updates=updates, round_info=info)
        return results

    def _merge(
        self, rule: str, plugin: object, updates: Updates, info: RoundInfo | None = None
    ) -> Vector:
        __tracebackhide__ = True
        try:
            results = self._call(plugin, updates, info)
        except PluginError as error:
            broken("QRES-AGG-1", str(error), error)
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            broken(rule, f"aggregate raised {type(error).__name__}: {error}", error)
        if len(results) != 1:
            broken("QRES-AGG-2", "aggregate returned nothing")
        if not isinstance(results[0], np.ndarray):
            broken("QRES-AGG-2", f"aggregate returned a {type(results[0]).__name__}, not an array")
        result = cast("Vector", results[0])
        if result.dtype != np.int32 or result.shape != (updates.dimension,):
            broken(
                "QRES-AGG-2",
                f"aggregate returned {result.dtype} of shape {result.shape}, "
                f"not int32 of shape ({updates.dimension},)",
            )
        return result.copy()

    def _rule(self, rule: str) -> Callable[[Rows], Rows]:
        """The plugin as a function of rows; one instance for all calls if it is stateless."""
        shared = self.make()

        def merged(rows: Rows) -> Rows:
            __tracebackhide__ = True
            plugin = shared if self.stateless else self.make()
            return self._merge(rule, plugin, make_updates(rows)).astype(np.int64)

        return merged

    # ── judging the result ────────────────────────────────────────────────────────────────────

    def _compare(self, rule: str, left: Vector, right: Vector, what: str) -> None:
        __tracebackhide__ = True
        gap = int(np.abs(left.astype(np.int64) - right).max())
        if gap > self.rounding:
            broken(rule, f"{what}, by up to {gap} grid steps (rounding = {self.rounding})")

    def _within(self, rule: str, result: Vector | Rows, rows: Rows, slack: int, what: str) -> None:
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

    def _inside(self, result: Rows, honest: Rows) -> bool:
        slack = self._slack(honest) + self.rounding
        low, high = honest.min(axis=0) - slack, honest.max(axis=0) + slack
        return bool(((low <= result) & (result <= high)).all())

    def _slack(self, honest: Rows) -> int:
        differences = (honest[:, None, :] - honest[None, :, :]).astype(np.float64)
        return math.ceil(self.stretch * math.sqrt(float((differences**2).sum(axis=2).max())))

    # ── liars ─────────────────────────────────────────────────────────────────────────────────

    def _attacks(self, plugin: object, liars: int) -> Iterator[tuple[str, Rows, Rows]]:
        """Honest vectors with far lies: name, honest rows, lying rows."""
        dimension = self.dimension
        rng = self._rng(liars)
        edge = LIMIT - self.spread
        centres = ((0, "zero"), (edge, "the top"), (-edge, "the bottom"))
        for centre, where in centres if self.translates else centres[:1]:
            honest = centre + cluster(rng, self._count(plugin) - liars, dimension, self.spread)
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


def cluster(rng: np.random.Generator, count: int, dimension: int, spread: int) -> Rows:
    """Rows uniform in a cube of ``2 * spread + 1`` steps around zero."""
    return rng.integers(-spread, spread, size=(count, dimension), endpoint=True)


def orders(count: int) -> Iterator[NDArray[np.intp]]:
    """Row orders: the liars last, first, and anywhere."""
    last = np.arange(count)
    yield last
    yield last[::-1]
    yield np.random.default_rng(count).permutation(count)


def far_lies(liars: int, dimension: int, magnitude: int) -> Mapping[str, Rows]:
    """Lies at a distance of ``magnitude`` grid steps from zero, by name; at most ``LIMIT``."""
    top = np.full((liars, dimension), min(magnitude, LIMIT), dtype=np.int64)
    single = np.zeros((liars, dimension), dtype=np.int64)
    single[:, 0] = top[:, 0]
    signs = np.where(np.arange(liars) % 2, -1, 1)[:, None]
    steps = np.array([-1, 1], dtype=np.int64)
    corners = itertools.islice(itertools.cycle(itertools.product(steps, repeat=3)), liars)
    each = np.array([np.resize(np.array(corner), dimension) for corner in corners], dtype=np.int64)
    return {
        "all one way": top,
        "all the other way": -top,
        "both ways": signs * top,
        "in one coordinate": single,
        "each elsewhere": each * top,
    }
