"""Correlated noise in mode local: what steps cost, restarts, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_dp import Dp
from qres_dp.accounting.composition import spent
from qres_dp.correlated.factor import ONE, SMOOTHING_VARIANCE
from qres_dp.correlated.history import FILE
from qres_dp.ledger import PrivacyLedger
from qres_dp.stream import StreamShape

from qres_core import CompatibilityError, RoundError, ValueRefusedError

OPTIONS: dict[str, Any] = {
    "noise": "correlated",
    "band": 4,
    "separation": 4,
    "epsilon": 4.0,
    "rounds": 6,
    "clip": 1.0,
}
ZERO = np.zeros(50, dtype=np.int32)

shapes = st.tuples(st.integers(2, 60), st.integers(2, 8)).flatmap(
    lambda pair: st.builds(
        StreamShape,
        steps=st.just(pair[0] + pair[1]),
        band=st.just(pair[1]),
        separation=st.integers(pair[1], 70),
        multiplier=st.floats(0.1, 50.0),
        offset=st.just(0),
        bound=st.integers(1000, 10**6),
        dimension=st.just(10),
    )
)


@given(shapes)
@settings(max_examples=60)
def test_the_steps_cost_what_the_stream_costs_after_each_of_them(shape: StreamShape) -> None:
    paid = Fraction(0)
    for step in range(shape.steps):
        paid += 1 / Fraction(shape.price(step)) ** 2
        moved = Fraction(shape.sensitivity**2 * shape.squared(step + 1), ONE**2)
        cost = moved / (shape.variance - SMOOTHING_VARIANCE)
        # Never less than what was released so far costs, and hardly more.
        assert cost <= paid <= (1 + Fraction(1, 10**8)) * cost
    whole = 1 / Fraction(shape.multiplier) ** 2
    assert paid <= whole


def test_all_steps_fit_the_budget_and_no_further_one(make_node: Callable[..., Any]) -> None:
    node = make_node(**OPTIONS)
    path: list[float] = []
    for _ in range(6):
        node.send(ZERO)
        path.append(node.plugin.status()["epsilon"])
        node.next_round()
    assert path == sorted(path)
    assert 3.999 < path[-1] <= 4.0
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        node.send(ZERO)
    kinds = {(r.charge.noise_multiplier, 1.0): 1 for r in node.plugin._release.ledger.records}
    assert len(node.plugin._release.ledger.records) == 6
    assert spent(kinds, 1e-6) <= 4.0


def test_data_are_in_one_of_so_many_rounds(make_node: Callable[..., Any]) -> None:
    node = make_node(**{**OPTIONS, "rounds": 8, "epsilon": 1e4})
    long = np.full(50, 2**26, dtype=np.int32)
    seen: list[bool] = []
    for _ in range(8):
        sent = node.send(long).vector.astype(np.float64)
        seen.append(float(sent.sum()) / math.sqrt(50) > 2**19)
        node.next_round()
    assert sum(seen) == 2
    first, second = (index for index, earlier in enumerate(seen) if earlier)
    assert second - first == 4


def test_the_noise_of_a_later_round_takes_back_some_of_an_earlier_one(
    make_node: Callable[..., Any],
) -> None:
    node = make_node(dimension=20_000, **OPTIONS)
    zero = np.zeros(20_000, dtype=np.int32)
    first = node.send(zero).vector.astype(np.float64)
    node.next_round()
    second = node.send(zero).vector.astype(np.float64)
    # n_2 = z_2 - n_1 / 2, up to the rounding of the coefficient
    assert float(np.mean(first * second) / np.mean(first**2)) == pytest.approx(-0.5, abs=0.05)


def test_a_restart_goes_on_with_the_stream(make_node: Callable[..., Any], tmp_path: Path) -> None:
    node = make_node(dimension=20_000, data_dir=str(tmp_path), **OPTIONS)
    zero = np.zeros(20_000, dtype=np.int32)
    first = node.send(zero).vector.astype(np.float64)
    node.plugin.teardown()
    again = make_node(dimension=20_000, data_dir=str(tmp_path), **OPTIONS)
    second = again.send(zero).vector.astype(np.float64)
    assert float(np.mean(first * second) / np.mean(first**2)) == pytest.approx(-0.5, abs=0.05)
    assert again.plugin.status()["releases"] == 2
    again.plugin.teardown()


@pytest.mark.claim("C-dp-17")
def test_killed_between_key_and_charge_the_step_is_spent_and_paid_for_later(
    make_node: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(data_dir=str(tmp_path), **OPTIONS)

    class Killed(BaseException):
        pass

    def kill(*_arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(PrivacyLedger, "charge", kill)
        with pytest.raises(Killed):
            node.send(ZERO)
    node.plugin.teardown()
    again = make_node(data_dir=str(tmp_path), **OPTIONS)
    assert again.plugin.status()["releases"] == 0
    again.send(ZERO)
    assert again.plugin.status()["releases"] == 2
    again.plugin.teardown()


def test_keys_that_are_gone_or_of_another_stream_are_refused(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path), **OPTIONS)
    node.send(ZERO)
    node.plugin.teardown()
    other = make_node(data_dir=str(tmp_path), **{**OPTIONS, "rounds": 7})
    with pytest.raises(RoundError, match="QRES-E602"):
        other.send(ZERO)
    other.plugin.teardown()
    (tmp_path / FILE).unlink()
    again = make_node(data_dir=str(tmp_path), **OPTIONS)
    with pytest.raises(RoundError, match="QRES-E602"):
        again.send(ZERO)
    again.plugin.teardown()


def test_a_grid_that_changes_within_a_stream_is_refused(make_node: Callable[..., Any]) -> None:
    node = make_node(**OPTIONS)
    node.send(ZERO)
    node.next_round()
    node.info = attrs.evolve(node.info, scale=node.info.scale + 1)
    with pytest.raises(RoundError, match=r"QRES-E602 .*changed in the middle of a stream"):
        node.send(ZERO)


@pytest.mark.parametrize(
    "options",
    [
        {"adaptive_quantile": 0.5},
        {"sampling": "poisson", "sampling_rate": 0.1},
        {"rounds": 0, "noise_multiplier": 9.0},
        {"epsilon": 0.0, "noise_multiplier": 9.0},
        {"noise": "independent"},  # with a separation
    ],
)
def test_what_is_not_covered_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        Dp(**(OPTIONS | {"mode": "local", "delta": 1e-6} | options))


def test_a_stream_of_one_step_gains_nothing_and_is_refused() -> None:
    with pytest.raises(CompatibilityError, match="times that of independent noise"):
        StreamShape(1, 2, 1, 1.0, 0, 1000, 10)


@pytest.mark.claim("C-dp-29")
def test_where_independent_noise_serves_better_it_is_said(make_node: Callable[..., Any]) -> None:
    with pytest.raises(CompatibilityError, match="times that of independent noise"):
        make_node(**{**OPTIONS, "separation": 1})
