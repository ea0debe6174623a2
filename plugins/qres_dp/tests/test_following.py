"""A clipping bound that moves: the same on every node, known before it is used, kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_dp import Dp, grid
from qres_dp.adaptive import FINE, AdaptiveClip, ClippedIndicator, split
from qres_dp.following import FILE, Following, ballots, limits
from qres_dp.modes import Mechanism, Mode, Relation

from qres_core import (
    Companion,
    CompatibilityError,
    Contribution,
    Outcome,
    RoundStatus,
    Update,
    Updates,
    ValueRefusedError,
    Vector,
)

Arrive = Callable[[list[Update]], tuple[Updates, tuple[Contribution, ...]]]
Mean = Callable[[Updates], Vector]
OPTIONS: dict[str, Any] = {
    "mode": "central",
    "adaptive_quantile": 0.5,
    "adaptive_rate": 0.5,
    "clip": 1.0,
    "epsilon": 1e5,
    "noise_multiplier": 0.05,
}


def swarm(make_node: Callable[..., Any], count: int = 5, **options: Any) -> list[Any]:
    return [make_node(i, nodes=count, **{**OPTIONS, **options}) for i in range(count)]


def vectors(count: int, length: int) -> list[NDArray[np.int32]]:
    """Vectors of so many steps in length, in 50 coordinates."""
    return [np.full(50, int(length / 50**0.5), dtype=np.int32)] * count


def play(
    nodes: list[Any], sent: list[Update], arrive: Arrive, mean: Mean, *, closes: bool = True
) -> None:
    """All nodes merge what was sent, and open the next round."""
    arrival = arrive(sent)
    models: set[bytes] = set()
    for node in nodes:
        revealed = node.plugin.reveal(*arrival, node.info)
        models.add(node.plugin.wrap_aggregate(mean, revealed, node.info).tobytes())
        status = RoundStatus.CLOSED if closes else RoundStatus.VOID
        node.plugin.round_closed(Outcome(node.info, status, bytes(32)))
        node.next_round(step=node.info.step + closes)
    assert len(models) == 1


def test_the_bound_follows_the_quantile_on_every_node(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    lengths = [2**17, 2**17, 2**18, 2**19, 2**19]  # the bound starts at 2**20
    path: list[int] = []
    for _ in range(20):
        sent = [node.send(vectors(1, k)[0]) for node, k in zip(nodes, lengths, strict=True)]
        play(nodes, sent, arrive, mean)
        assert len({node.plugin.status()["clip_steps"] for node in nodes}) == 1
        path.append(nodes[0].plugin.status()["clip_steps"])
    assert 2**17 < np.median(path[-8:]) < 2**19


def test_a_round_is_clipped_and_noised_by_the_bound_before_its_move(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    before = nodes[0].plugin._release.own(nodes[0].info).mechanism.bound
    assert before == 2**20
    sent = [node.send(v) for node, v in zip(nodes, vectors(5, 2**24), strict=True)]
    arrival = arrive(sent)
    nodes[0].plugin.reveal(*arrival, nodes[0].info)
    assert (
        nodes[0].plugin._release._revealed.mechanism.share
        == Mechanism(
            Mode.CENTRAL,
            Relation.ADD_REMOVE,
            before,
            split(0.05, 5).vector,
        ).share
    )
    play(nodes, sent, arrive, mean)
    assert nodes[0].plugin._release.own(nodes[0].info).mechanism.bound > before


def test_vector_and_votes_together_are_what_is_charged(make_node: Callable[..., Any]) -> None:
    node = make_node(nodes=5, **OPTIONS)
    node.send(vectors(1, 100)[0])
    (record,) = node.plugin._release.ledger.records
    assert record.charge.noise_multiplier == 0.05
    assert node.plugin._release.own(node.info).mechanism.noise_multiplier > 0.05


def test_a_node_that_missed_a_round_sits_out_and_learns_the_bound(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    *four, absent = swarm(make_node)
    play(four, [node.send(v) for node, v in zip(four, vectors(4, 10), strict=True)], arrive, mean)
    absent.next_round(step=1)
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        absent.send(vectors(1, 10)[0])
    sent = [node.send(v) for node, v in zip(four, vectors(4, 10), strict=True)]
    play([*four, absent], sent, arrive, mean)
    absent.send(vectors(1, 10)[0])
    assert absent.plugin.status()["clip_steps"] == four[0].plugin.status()["clip_steps"]


def test_an_aborted_round_moves_nothing(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean
) -> None:
    nodes = swarm(make_node)
    sent = [node.send(v) for node, v in zip(nodes, vectors(5, 10), strict=True)]
    play(nodes, sent, arrive, mean, closes=False)
    assert nodes[0].plugin._release.own(nodes[0].info).mechanism.bound == 2**20
    # A round that others closed, and this node only heard of: the bound is not known.
    nodes[0].plugin.round_closed(Outcome(nodes[0].info, RoundStatus.CLOSED, bytes(32)))
    nodes[0].next_round(step=1)
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        nodes[0].send(vectors(1, 10)[0])


def test_the_bound_survives_a_restart_and_a_damaged_file_is_the_same_as_none(
    make_node: Callable[..., Any], arrive: Arrive, mean: Mean, tmp_path: Path
) -> None:
    node = make_node(0, nodes=1, data_dir=str(tmp_path), **OPTIONS)
    play([node], [node.send(vectors(1, 10)[0])], arrive, mean)
    bound = node.plugin.status()["clip_steps"]
    node.plugin.teardown()
    path = tmp_path / FILE
    octets = path.read_bytes()
    assert Following(0.5, 0.2, tmp_path).radius == bound
    for damaged in (b"", octets[:-1], octets + b"x", bytes(len(octets)), b"\xff" * 300):
        path.write_bytes(damaged)
        assert Following(0.5, 0.2, tmp_path).radius is None
    path.unlink()
    assert Following(0.5, 0.2, tmp_path).radius is None


def test_what_liars_send_in_place_of_a_ballot_does_not_count(
    make_node: Callable[..., Any], arrive: Arrive
) -> None:
    honest = [node.send(v) for node, v in zip(swarm(make_node, 4), vectors(4, 10), strict=True)]
    seed = bytes(32)
    lies = [
        {},
        {"dp": Companion(seed)},
        {"dp": Companion(seed + b"\2" + bytes(8))},
        {"dp": Companion(seed + bytes(9))},
        {"dp": Companion(seed + ClippedIndicator(fits=True, bound=FINE).to_bytes() + b"x")},
        {"dp": Companion.of([0] * 41, 2)},
    ]
    for lie in lies:
        update = Update(vectors(1, 10)[0], companions=lie)
        found = ballots(arrive([*honest, update])[1], "dp", 32)
        assert [item.bound for item in found] == [2**20 * FINE] * 4
    # A liar that names another bound is outvoted, and alone decides nothing.
    other = {"dp": Companion(seed + ClippedIndicator(fits=True, bound=FINE).to_bytes())}
    update = Update(vectors(1, 10)[0], companions=other)
    found = ballots(arrive([*honest, update])[1], "dp", 32)
    assert AdaptiveClip.agreed((item.bound for item in found), 1) == 2**20 * FINE
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        AdaptiveClip.agreed((item.bound for item in found), 0)


@pytest.mark.parametrize(
    ("z", "dimension"), [(1.0, 1), (1.0, 10**6), (0.01, 100), (50.0, 100), (1000.0, 10)]
)
def test_the_bound_stays_where_the_grid_holds_it(z: float, dimension: int) -> None:
    mechanism = Mechanism(Mode.CENTRAL, Relation.ADD_REMOVE, 65536, z)
    low, high = limits(mechanism, dimension=dimension, nodes=10)

    def fits(bound: int) -> bool:
        other = attrs.evolve(mechanism, bound=bound)
        return bound > 0 and not any(grid.problems(other, dimension=dimension, nodes=10))

    assert fits(low)
    assert not fits(low - 1)
    assert fits(high)
    assert not fits(high + 1)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "local"},
        {"mode": "distributed", "honest": 3},
        {"sampling": "poisson", "sampling_rate": 0.5},
    ],
)
def test_modes_without_an_agreed_noisy_count_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        Dp(**(OPTIONS | {"delta": 1e-6} | options))
