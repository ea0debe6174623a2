"""Mode central in a swarm: the same noise on every node, for a sum of rows that were clipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from qres_arithmetic import squared_norm
from qres_dp import central

from qres_core import (
    Companion,
    CompatibilityError,
    Contribution,
    Update,
    Updates,
    ValueRefusedError,
    Vector,
    Visibility,
)
from qres_core.testing import make_round_info, make_updates

Arrive = Callable[[list[Update]], tuple[Updates, tuple[Contribution, ...]]]
Mean = Callable[[Updates], Vector]
BOUND = 10485  # of the fixture: 0.01 in steps of 2**-20


def central_nodes(make_node: Callable[..., Any], count: int, **options: Any) -> list[Any]:
    return [make_node(index, nodes=count, mode="central", **options) for index in range(count)]


def merge(node: Any, arrival: tuple[Updates, tuple[Contribution, ...]], mean: Mean) -> Vector:
    revealed = node.plugin.reveal(*arrival, node.info)
    merged: Vector = node.plugin.wrap_aggregate(mean, revealed, node.info)
    return merged


def zeros(count: int, dimension: int = 50) -> list[NDArray[np.int32]]:
    return [np.zeros(dimension, dtype=np.int32)] * count


# ── spreading noise over rows ─────────────────────────────────────────────────────────────────


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.lists(
                st.lists(st.integers(-1000, 1000), min_size=n, max_size=n), min_size=1, max_size=9
            ),
            st.lists(st.integers(-(2**30), 2**30), min_size=n, max_size=n),
        )
    )
)
def test_the_rows_take_up_the_noise_exactly(case: tuple[list[list[int]], list[int]]) -> None:
    rows, noise = case
    updates = make_updates(rows)
    noised = central.add_noise(updates, np.array(noise, dtype=np.int32))
    moved = noised.updates.vectors.tolist()
    for column, extra in enumerate(noise):
        total = sum(row[column] for row in rows) + extra
        assert sum(row[column] for row in moved) == total
        quotient, rest = divmod(total, len(rows))
        up = 2 * rest > len(rows) or (2 * rest == len(rows) and quotient % 2 == 1)
        assert noised.mean[column] == quotient + up
        shifts = {after[column] - before[column] for after, before in zip(moved, rows, strict=True)}
        assert max(shifts) - min(shifts) <= 1
    assert updates.vectors.tolist() == rows


def test_unequal_weights_are_refused() -> None:
    updates = make_updates([[1], [2]], weights=[1, 2])
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        central.add_noise(updates, np.array([0], dtype=np.int32))


# ── the round ─────────────────────────────────────────────────────────────────────────────────


def test_every_node_makes_the_same_model(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = central_nodes(make_node, 4)
    arrival = arrive([node.send(np.full(50, 100, dtype=np.int32)) for node in nodes])
    models = {merge(node, arrival, mean).tobytes() for node in nodes}
    assert len(models) == 1
    # Without noise the mean would be 100 everywhere.
    assert models != {np.full(50, 100, dtype=np.int32).tobytes()}
    # Asked again, as after a restart, a node makes the same model, and pays once.
    assert {merge(nodes[0], arrival, mean).tobytes()} == models
    assert nodes[0].plugin.status()["releases"] == 1


def test_a_node_whose_update_is_not_in_the_set_pays_too(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    *three, absent = central_nodes(make_node, 4)
    arrival = arrive([node.send(vector) for node, vector in zip(three, zeros(3), strict=True)])
    absent.send(zeros(1)[0])
    late = make_node(3, nodes=4, mode="central")
    for node in (absent, late):
        merge(node, arrival, mean)
        assert node.plugin.status()["releases"] == 1


def test_the_noise_of_the_mean_is_the_sums_divided(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = central_nodes(make_node, 4, dimension=20_000, clip=1.0, scale=0)
    sent = [node.send(v) for node, v in zip(nodes, zeros(4, 20_000), strict=True)]
    merged = merge(nodes[0], arrive(sent), mean).astype(np.float64)
    assert math.sqrt(float(np.mean(merged**2))) == pytest.approx(5.0 * 65536 / 4, rel=0.03)


def test_a_liars_row_is_clipped_and_its_seed_cannot_fix_the_noise(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = central_nodes(make_node, 3)
    honest = [node.send(v) for node, v in zip(nodes[:2], zeros(2), strict=True)]
    lies = [
        {},
        {"dp": Companion(bytes(10_000))},
        {"dp": Companion.of([3, 4], 5)},
    ]
    models: set[bytes] = set()
    for companions in lies:
        huge = Update(np.full(50, 2**31 - 1, dtype=np.int32), companions=companions)
        arrival = arrive([*honest, huge])
        revealed = nodes[0].plugin.reveal(*arrival, nodes[0].info)
        assert squared_norm(revealed.vectors[2]) <= BOUND**2
        models.add(merge(nodes[0], arrival, mean).tobytes())
    assert len(models) == len(lies)


def test_the_key_hangs_on_every_seed_and_on_the_round(
    make_node: Callable[..., Any], arrive: Arrive
) -> None:
    nodes = central_nodes(make_node, 3)
    sent = [node.send(v) for node, v in zip(nodes, zeros(3), strict=True)]
    contributions = arrive(sent)[1]
    info = nodes[0].info
    keys = {central.noise_key(contributions, info)}
    for index in range(3):
        other = [*sent]
        other[index] = attrs.evolve(sent[index], companions={"dp": Companion(bytes(32))})
        keys.add(central.noise_key(arrive(other)[1], info))
    keys.add(central.noise_key(contributions[:2], info))
    digest = bytes([1]) * 32
    for change in ({"number": 2}, {"model_digest": digest}, {"head": b"h" * 32}, {"swarm": "bal"}):
        keys.add(central.noise_key(contributions, attrs.evolve(info, **change)))
    assert len(keys) == 9
    # The seeds are random and secret, not a function of anything public.
    again = [node.send(v) for node, v in zip(nodes, zeros(3), strict=True)]
    assert central.noise_key(arrive(again)[1], info) not in keys


def test_rows_inside_are_not_copied() -> None:
    updates = make_updates([[3, 4], [0, 0]])
    assert central.clip_rows(updates, 5) is updates
    clipped = central.clip_rows(make_updates([[3, 4], [60, 80]]), 5).vectors.tolist()
    assert clipped == [[3, 4], [2, 3]]


# ── what else is in the chain ─────────────────────────────────────────────────────────────────


def dropping(rule: Mean) -> Mean:
    return lambda updates: rule(updates.take(np.arange(len(updates) - 1)))


def median(updates: Updates) -> Vector:
    middle: Vector = np.median(updates.vectors, axis=0).astype(np.int32)
    return middle


def test_a_rule_that_does_not_average_is_noticed(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = central_nodes(make_node, 4)
    vectors = [np.full(50, value, dtype=np.int32) for value in (0, 1, 5, 900)]
    arrival = arrive([node.send(v) for node, v in zip(nodes, vectors, strict=True)])
    revealed = nodes[0].plugin.reveal(*arrival, nodes[0].info)
    for rule in (median, dropping(mean)):
        with pytest.raises(CompatibilityError, match="QRES-E314"):
            nodes[0].plugin.wrap_aggregate(rule, revealed, nodes[0].info)
    nodes[0].plugin.wrap_aggregate(mean, revealed, nodes[0].info)


@pytest.mark.parametrize("changed", ["fewer", "other"])
def test_updates_that_were_changed_on_the_way_are_noticed(
    changed: str, make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = central_nodes(make_node, 4)
    arrival = arrive([node.send(v) for node, v in zip(nodes, zeros(4), strict=True)])
    revealed = nodes[0].plugin.reveal(*arrival, nodes[0].info)
    fewer = revealed.take(np.arange(3))
    other = attrs.evolve(revealed, vectors=revealed.vectors + 1)
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        nodes[0].plugin.wrap_aggregate(mean, {"fewer": fewer, "other": other}[changed], None)
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        make_node(mode="central").plugin.wrap_aggregate(mean, revealed, None)


def test_sums_cannot_be_clipped_and_are_refused(
    make_node: Callable[..., Any], arrive: Arrive
) -> None:
    nodes = central_nodes(make_node, 3)
    updates, contributions = arrive([node.send(zeros(1)[0]) for node in nodes])
    hidden = attrs.evolve(updates, visibility=Visibility.SUM)
    other: Sequence[Contribution] = contributions[:2]
    for pair in ((hidden, contributions), (updates, tuple(other))):
        with pytest.raises(CompatibilityError, match="QRES-E303"):
            nodes[0].plugin.reveal(*pair, nodes[0].info)


def test_a_spent_budget_stops_the_merging_too(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = central_nodes(make_node, 2)
    poor = make_node(0, nodes=2, mode="central", epsilon=8.0, rounds=1)
    arrival = arrive([node.send(zeros(1)[0]) for node in nodes])
    merge(poor, arrival, mean)
    for node in (*nodes, poor):
        node.next_round()
    arrival = arrive([node.send(zeros(1)[0]) for node in nodes])
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        poor.plugin.reveal(*arrival, poor.info)


def test_the_release_is_named_by_its_round() -> None:
    info = make_round_info(nodes=4, dimension=2)
    names = {central.release_name(attrs.evolve(info, number=number)) for number in (1, 2, 3)}
    assert len(names) == 3
