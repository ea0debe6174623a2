"""Nearest-neighbour mixing against its definition, as a function, a wrapper and in a swarm."""

from __future__ import annotations

import tomllib
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import entry_points
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from qres_arithmetic import mean_of
from qres_lab.testing import make_round_info, make_updates, merged
from qres_robust_stats import Nnm, nnm, trimmed_mean

from qres_core import Needs, Updates, Vector, Visibility
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import Mean
from qres_core.errors import CompatibilityError, OptionError, ValueRefusedError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.kernel import Kernel
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

Everywhere = Callable[[Callable[[], NDArray[Any]]], NDArray[Any]]
LOWEST, HIGHEST = -(2**31), 2**31 - 1
COORDINATE = (
    st.integers(LOWEST, HIGHEST)
    | st.sampled_from([LOWEST, LOWEST + 1, HIGHEST - 1, HIGHEST])
    | st.integers(-3, 3)
)
CONFIG = """
[swarm]
name = "mixed"
nodes = 9
byzantine = 2
quorum = 9
insecure = true

[plugins.memory]

[plugins.nnm]
f = 2

[plugins.trimmed_mean]
f = 2
"""


def configured(text: str) -> Config:
    return parse(tomllib.loads(text), source="test")


@st.composite
def rounds(draw: st.DrawFn) -> tuple[NDArray[np.int32], int]:
    f = draw(st.integers(0, 3))
    shape = draw(st.integers(2 * f + 1, 2 * f + 4)), draw(st.integers(1, 4))
    elements = draw(st.sampled_from([COORDINATE, st.integers(-2, 2)]))
    return draw(arrays(np.int32, shape, elements=elements)), f


def by_definition(rows: NDArray[Any], f: int) -> list[list[Fraction]]:
    points = [[Fraction(value) for value in row] for row in rows.tolist()]
    mixed: list[list[Fraction]] = []
    for mine in points:
        to_all = [sum((a - b) ** 2 for a, b in zip(mine, row, strict=True)) for row in points]
        nearest = sorted(range(len(points)), key=lambda i, to_all=to_all: (to_all[i], i))
        chosen = [points[i] for i in nearest[: len(points) - f]]
        columns = zip(*chosen, strict=True)
        mixed.append([sum(column, Fraction()) / len(chosen) for column in columns])
    return mixed


@given(case=rounds())
@settings(max_examples=1000, deadline=None)
def test_equals_the_definition(case: tuple[NDArray[np.int32], int], everywhere: Everywhere) -> None:
    rows, f = case
    before = rows.copy()
    expected = [[round(value) for value in row] for row in by_definition(rows, f)]
    assert everywhere(lambda: nnm(rows, f).materialise()).tolist() == expected
    assert np.array_equal(rows, before)


@given(case=rounds())
@settings(max_examples=200, deadline=None)
def test_the_wrapper_hands_on_the_same_mixture(case: tuple[NDArray[np.int32], int]) -> None:
    rows, f = case
    updates = make_updates(rows, range(1, len(rows) + 1))
    seen: list[Updates] = []

    def proceed(mixed: Updates) -> Vector:
        seen.append(mixed)
        return trimmed_mean(mixed.vectors, f)

    result = Nnm(f=f).wrap_aggregate(proceed, updates)
    (mixed,) = seen
    assert np.array_equal(mixed.vectors, nnm(rows, f).materialise())
    assert mixed.senders == updates.senders
    assert mixed.weights.tolist() == updates.weights.tolist()
    assert np.array_equal(updates.vectors, rows)
    assert result.tolist() == trimmed_mean(nnm(rows, f), f).tolist()


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_floats(real: type[np.floating[Any]], everywhere: Everywhere) -> None:
    rows = np.random.default_rng(3).standard_normal((9, 40)).astype(real)
    result = everywhere(lambda: nnm(rows, 2).materialise())
    assert result.dtype == real
    expected = [[float(value) for value in row] for row in by_definition(rows, 2)]
    assert np.allclose(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    rows = np.zeros((5, 30), dtype=np.float32)
    rows[1, 29] = bad
    with pytest.raises(ValueRefusedError, match=r"QRES-E501 .*row 1"):
        nnm(rows, 1)


@pytest.mark.claim("C-krum-12")
def test_the_function_makes_nothing_of_the_size_of_its_input() -> None:
    rows = np.random.default_rng(6).integers(-(2**16), 2**16, size=(20, 400_000), dtype=np.int32)
    trimmed_mean(nnm(rows[:, :1000], 4), 4)
    tracemalloc.start()
    try:
        result = trimmed_mean(nnm(rows, 4), 4)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - result.nbytes < rows.nbytes // 20


def test_mixing_draws_the_honest_together_and_pulls_a_far_lie_in() -> None:
    generator = np.random.default_rng(2)
    honest = generator.integers(-1000, 1000, size=(8, 6))
    rows = np.concatenate([honest, np.full((2, 6), 10**9)]).astype(np.int32)
    mixed = nnm(rows, 2).materialise()
    assert mixed[:8].std(axis=0).max() < honest.std(axis=0).min() / 2
    assert np.abs(mixed[8:]).max() < 10**9 // 3


@pytest.mark.claim("C-robust-10")
@pytest.mark.control("C-robust-10")
def test_a_rule_behind_it_is_nearer_to_the_honest_mean() -> None:
    generator = np.random.default_rng(1)
    honest = generator.integers(-1000, 1000, size=(8, 500))
    lies = np.full((2, 500), 950)
    rows = np.concatenate([honest, lies]).astype(np.int32)
    centre = honest.mean(axis=0)
    plain = np.linalg.norm(trimmed_mean(rows, 2) - centre)
    mixed = np.linalg.norm(trimmed_mean(nnm(rows, 2), 2) - centre)
    assert mixed < plain / 2


def test_claimed_weights_have_no_effect_on_the_mixture() -> None:
    rows = [[0], [10], [20], [31], [43]]

    def proceed(mixed: Updates) -> Vector:
        return mixed.vectors[0]

    equal = Nnm(f=1).wrap_aggregate(proceed, make_updates(rows)).tolist()
    assert equal == [15]
    greedy = make_updates(rows, [1, 1, 1, 2**30, 1])
    assert Nnm(f=1).wrap_aggregate(proceed, greedy).tolist() == equal


def test_in_a_configuration_before_a_rule() -> None:
    config = configured(CONFIG)
    kernel = Kernel.from_config(config)
    rows = np.random.default_rng(5).integers(-500, 500, size=(9, 30), dtype=np.int32)
    rows[4:6] = HIGHEST
    merged = kernel.aggregate(make_updates(rows), make_round_info(30, nodes=9, byzantine=2))
    assert merged.tolist() == trimmed_mean(nnm(rows, 2), 2).tolist()
    assert np.abs(merged).max() <= 500


@pytest.mark.parametrize("engine", ["vectorised", "events"])
@pytest.mark.parametrize("attack", ["sign_flip", "scaled"])
def test_a_swarm_learns_behind_it(engine: str, attack: str) -> None:
    task = TaskConfig(name="quadratic", dimension=40, local_epochs=1, learning_rate=0.3)
    scenario = Scenario(rounds=8, seed=5, attack=attack, attackers=2, engine=engine)
    result = simulate(configured(CONFIG), scenario, task=task)
    assert all(record.closed for record in result.rounds)
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"] / 4


@pytest.mark.claim("C-composition-12")
def test_a_quorum_too_small_is_refused_before_anything_starts() -> None:
    config = configured(CONFIG.replace("quorum = 9", "quorum = 7").replace("f = 2", "f = 4"))
    with pytest.raises(CompatibilityError, match=r"QRES-E304 plugins\.nnm: needs 9 updates"):
        Kernel.from_config(config)


def test_one_update_too_few_is_refused() -> None:
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 vectors: n = 4 vectors, nnm"):
        nnm(np.zeros((4, 1), dtype=np.int32), 2)
    four = make_updates(np.zeros((4, 1), dtype=int))
    with pytest.raises(ValueRefusedError) as refusal:
        merged([Nnm(f=2), Mean(unprotected=True)], four, make_round_info(1))
    assert str(refusal.value).startswith("QRES-E505 plugins.plugin_0: n = 4 updates,")


def test_groups_are_refused() -> None:
    updates = make_updates([[1]] * 3, visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError, match=r"QRES-E303 .* nnm .* got only their sum"):
        Nnm(f=1).wrap_aggregate(lambda mixed: mixed.vectors[0], updates)


def test_distances_beyond_64_bits(everywhere: Everywhere) -> None:
    rows = np.array([[LOWEST] * 9, [HIGHEST] * 9, [HIGHEST - 1] * 9], dtype=np.int32)
    expected = [[round(value) for value in row] for row in by_definition(rows, 1)]
    assert everywhere(lambda: nnm(rows, 1).materialise()).tolist() == expected


def test_the_mean_of_all_is_what_is_left_without_liars() -> None:
    rows = np.random.default_rng(8).integers(-99, 99, size=(4, 5), dtype=np.int32)
    assert nnm(rows, 0).materialise().tolist() == [mean_of(rows, range(4)).tolist()] * 4


def test_needs_and_options() -> None:
    assert Nnm(f=3).claims.needs == Needs(visibility=Visibility.GROUP, min_updates=7)
    assert Nnm(f=3).claims.tolerates == 3
    with pytest.raises(OptionError, match=r"f: must be an integer of at least 0, got -1"):
        Nnm(f=-1)
    assert all(field.metadata["help"] for field in attrs.fields(Nnm))
    (entry,) = entry_points(group="qres.plugins", name="nnm")
    assert entry.load() is Nnm
