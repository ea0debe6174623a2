"""The plugin: options, the ledger before the noise, and the noise of each mode."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_dp import Dp, accounting
from qres_dp.ledger import PrivacyLedger, anchor
from qres_dp.ledger.store import FILE
from qres_lab.testing import make_node_ids

from qres_core import Companion, Updates, Visibility, commands
from qres_core.errors import (
    CompatibilityError,
    ConfigError,
    QresError,
    RoundError,
    ValueRefusedError,
)

STEP = 2.0**-20  # of the grid the fixture uses
USUAL: dict[str, Any] = {"mode": "local", "clip": 0.01, "delta": 1e-6}
TWO: dict[str, Any] = {"epsilon": 2.0, "rounds": 10}


def long_vector(dimension: int = 50, length: int = 2**24) -> NDArray[np.int32]:
    return np.full(dimension, length, dtype=np.int32)


# ── options ───────────────────────────────────────────────────────────────────────────────────


def test_two_of_three_determine_the_third() -> None:
    calibrated = Dp(**USUAL, epsilon=2.0, rounds=10)
    assert calibrated._terms.multiplier == accounting.calibrate(2.0, 1e-6, 10)
    assert accounting.epsilon(calibrated._terms.multiplier, 10, 1e-6) <= 2.0
    budgeted = Dp(**USUAL, noise_multiplier=7.0, rounds=10)
    assert budgeted._terms.budget.epsilon == accounting.epsilon(7.0, 10, 1e-6)
    open_ended = Dp(**USUAL, noise_multiplier=7.0, epsilon=3.0)
    assert (open_ended._terms.multiplier, open_ended._terms.budget.epsilon) == (7.0, 3.0)
    a_round = Dp(**USUAL, noise_multiplier=7.0, epsilon=accounting.epsilon(7.0, 1, 1e-6))
    assert a_round._terms.budget.epsilon == accounting.epsilon(7.0, 1, 1e-6)


def test_mode_central_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(ValueError, match='central" is gone') as refused:
        Dp(**{**USUAL, "mode": "central"}, **TWO)
    assert isinstance(refused.value, QresError)
    assert refused.value.code == "QRES-E105"
    assert 'mode = "distributed"' in refused.value.problems[0].fix


@pytest.mark.claim("C-dp-31")
@pytest.mark.control("C-dp-31")
@pytest.mark.parametrize("option", sorted(Dp.GONE))
def test_an_option_that_went_is_refused_with_what_to_use_instead(option: str) -> None:
    """Whatever its value was, the one that turned it off too: no file keeps what nobody reads."""
    table = {**USUAL, **TWO}
    for value in (0, 0.5, "none", "poisson"):
        with pytest.raises(ConfigError) as refused:
            commands.structured(Dp, "plugins.dp", {**table, option: value})
        (problem,) = refused.value.problems
        assert (problem.code, problem.where) == ("QRES-E102", f"plugins.dp.{option}")
        assert problem.what.startswith("is gone: ")
        assert problem.fix.startswith("leave it out")
    # The controls: without it the table is taken, and a key that never was is another refusal.
    commands.structured(Dp, "plugins.dp", table)
    with pytest.raises(ConfigError, match="unknown key"):
        commands.structured(Dp, "plugins.dp", {**table, "option": 1})


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "QRES-E314"),
        ({"epsilon": 1.0}, "QRES-E314"),
        ({**TWO, "noise_multiplier": 1.0}, "QRES-E314"),
        ({"epsilon": 0.1, "noise_multiplier": 1.0}, "QRES-E314"),  # not even one round
        ({**TWO, "honest": 3}, "QRES-E314"),  # only in mode distributed
        ({**TWO, "mode": "distributed"}, "QRES-E314"),  # honest is missing
        ({**TWO, "relation": "add-remove"}, "QRES-E314"),
        ({**TWO, "noise": "correlated"}, "QRES-E314"),  # mode local
    ],
)
def test_impossible_combinations_are_refused(options: dict[str, Any], code: str) -> None:
    with pytest.raises(CompatibilityError) as refused:
        Dp(**{**USUAL, **options})
    assert refused.value.code == code


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "global"},
        {"clip": 0.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"clip": -1.0},
        {"clip": True},
        {"delta": 0.0},
        {"delta": 0.1},
        {"delta": math.nan},
        {"epsilon": -1.0},
        {"epsilon": math.nan},
        {"epsilon": math.inf},
        {"rounds": -1},
        {"rounds": True},
        {"rounds": 10**7},
        {"noise_multiplier": math.inf},
        {"honest": -1},
        {"relation": "remove"},
        {"new_ledger": 1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Dp(**{**USUAL, **TWO, **options})


def test_traits_say_what_each_mode_rests_on() -> None:
    local = Dp(**USUAL, **TWO).claims.needs
    assert (local.at_most, local.averaging) == (Visibility.INDIVIDUAL, False)
    assert local.visibility is Visibility.SUM
    shared = Dp(**{**USUAL, "mode": "distributed"}, **TWO, honest=3).claims.needs
    assert (shared.at_most, shared.equal_weights) == (Visibility.GROUP, True)


def test_a_delta_of_one_in_n_is_refused(make_node: Callable[..., Any]) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        make_node(nodes=1001, delta=1e-3, opened=False)


def test_more_honest_nodes_than_there_can_be_are_refused_at_the_start(
    make_node: Callable[..., Any],
) -> None:
    make_node(mode="distributed", honest=6, opened=False)
    for swarm in ({"honest": 7}, {"honest": 6, "byzantine": 2}):
        with pytest.raises(CompatibilityError, match="QRES-E314"):
            make_node(mode="distributed", opened=False, **swarm)


# ── mode local ────────────────────────────────────────────────────────────────────────────────


def test_local_noise_has_twice_the_bound_as_sensitivity(make_node: Callable[..., Any]) -> None:
    node = make_node(dimension=20_000, clip=1.0, noise_multiplier=5.0, epsilon=8.0, scale=0)
    sent = node.send(np.zeros(20_000, dtype=np.int32)).vector.astype(np.float64)
    deviation = math.sqrt(float(np.mean(sent**2)))
    assert deviation == pytest.approx(5.0 * 2 * 65536, rel=0.03)


@pytest.mark.claim("C-dp-22")
@pytest.mark.usefixtures("same_noise")
def test_what_leaves_is_clipped_and_has_no_weight(make_node: Callable[..., Any]) -> None:
    node = make_node(dimension=20_000, clip=1.0, scale=0)
    noise = node.send(np.zeros(20_000, dtype=np.int32)).vector
    node.next_round()
    sent = node.send(long_vector(20_000, 2**30), weight=1000, metrics={"loss": 1.0})
    # The direction sums up to sqrt(d) C, and the noise to about sqrt(d) sigma.
    along = float(sent.vector.astype(np.float64).sum()) / math.sqrt(20_000)
    assert abs(along - 65536) < 5 * 10 * 65536
    assert np.abs(sent.vector).max() < 2 * np.abs(noise).max()
    assert sent.weight == 1


def test_noise_is_fresh_in_every_call(make_node: Callable[..., Any]) -> None:
    node, twin = make_node(), make_node()
    zero = np.zeros(50, dtype=np.int32)
    sent = [node.send(zero).vector.tobytes(), twin.send(zero).vector.tobytes()]
    node.next_round()
    sent.append(node.send(zero).vector.tobytes())
    sent.append(node.send(zero).vector.tobytes())
    assert len(set(sent)) == 4


@pytest.mark.usefixtures("same_noise")
def test_noise_that_does_not_fit_saturates(make_node: Callable[..., Any]) -> None:
    # 12 deviations fit beside the bound, the 19 that a table reaches do not.
    node = make_node(dimension=2, scale=-4, clip=1240.0, noise_multiplier=0.02, epsilon=1e5)
    assert int(node.send(np.array([2**31 - 1, 0], dtype=np.int32)).vector[0]) > 2**30


# ── the ledger ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-7")
@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_every_round_is_charged_until_the_budget_is_spent(
    mode: str, make_node: Callable[..., Any]
) -> None:
    shared = {"honest": 4} if mode == "distributed" else {}
    node = make_node(mode=mode, epsilon=3.0, rounds=4, **shared)
    spent: list[float] = []
    for _ in range(4):
        node.send(long_vector())
        spent.append(node.plugin.status()["epsilon"])
        node.next_round()
    assert all(a < b for a, b in itertools.pairwise(spent))
    assert 2.99 < spent[-1] <= 3.0
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        node.send(long_vector())
    status = node.plugin.status()
    assert status["epsilon"] == spent[-1]
    assert (status["epsilon_budget"], status["releases"], status["mode"]) == (3.0, 4, mode)


@pytest.mark.control("C-dp-7")
def test_a_plugin_that_did_not_charge_would_go_on(
    make_node: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: the refusal is the ledger's."""
    node = make_node(epsilon=3.0, rounds=1)
    monkeypatch.setattr(PrivacyLedger, "charge", lambda *_arguments: None)
    for _ in range(3):
        node.send(long_vector())
        node.next_round()


def test_nothing_leaves_if_the_ledger_cannot_be_written(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path))
    node.send(long_vector())
    node.plugin._release.ledger.close()
    with pytest.raises(RoundError, match="QRES-E602"):
        node.send(long_vector())


def test_the_ledger_survives_a_restart(make_node: Callable[..., Any], tmp_path: Path) -> None:
    node = make_node(data_dir=str(tmp_path), epsilon=3.0, rounds=2)
    node.send(long_vector())
    before = node.plugin.status()
    node.plugin.teardown()
    again = make_node(data_dir=str(tmp_path), epsilon=3.0, rounds=2)
    assert again.plugin.status() == before
    again.send(long_vector())
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        again.send(long_vector())
    again.plugin.teardown()
    with pytest.raises(RoundError, match="QRES-E602"):
        again.send(long_vector())


@pytest.mark.parametrize("lost", [(FILE,), (anchor.FILE,)])
def test_a_ledger_that_is_gone_is_noticed(
    lost: tuple[str, ...], make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path))
    node.send(long_vector())
    node.plugin.teardown()
    for name in lost:
        (tmp_path / name).unlink()
    with pytest.raises(RoundError, match="QRES-E602"):
        make_node(data_dir=str(tmp_path))


def test_without_both_files_a_node_begins_only_at_the_first_model_or_when_told(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path), opened=False)
    with pytest.raises(RoundError, match="QRES-E602"):
        node.next_round(step=5)
    with pytest.raises(RoundError, match="QRES-E602"):
        node.send(long_vector())
    assert list(tmp_path.iterdir()) == []
    told = make_node(data_dir=str(tmp_path), opened=False, new_ledger=True)
    told.next_round(step=5)
    told.send(long_vector())


def test_a_node_without_a_ledger_may_merge_what_others_noised(
    make_node: Callable[..., Any], arrive: Callable[..., Any], tmp_path: Path
) -> None:
    sent = [make_node(index, nodes=2).send(long_vector()) for index in range(2)]
    node = make_node(nodes=2, data_dir=str(tmp_path), opened=False)
    with pytest.raises(RoundError, match="QRES-E602"):
        node.next_round(step=5)
    updates, contributions = arrive(sent)
    assert node.plugin.reveal(updates, contributions, node.info) is updates


def test_another_mode_keeps_the_ledger_only_with_the_same_relation(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path))
    node.send(long_vector())
    node.plugin.teardown()
    with pytest.raises(RoundError, match="QRES-E602"):
        make_node(data_dir=str(tmp_path), mode="distributed", honest=4)
    same = make_node(data_dir=str(tmp_path), mode="distributed", honest=4, relation="replace-one")
    assert same.plugin.status()["releases"] == 1
    same.plugin.teardown()


def test_a_smaller_budget_counts_what_was_spent_under_a_larger_one(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path), epsilon=8.0, rounds=2)
    node.send(long_vector())
    node.plugin.teardown()
    poorer = make_node(data_dir=str(tmp_path), epsilon=1.0, rounds=2)
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        poorer.send(long_vector())
    poorer.plugin.teardown()


# ── mode distributed ──────────────────────────────────────────────────────────────────────────


def test_the_shares_of_the_honest_are_the_noise_of_the_sum(
    make_node: Callable[..., Any],
) -> None:
    total = np.zeros(20_000)
    for index in range(4):
        node = make_node(index, mode="distributed", honest=4, dimension=20_000, clip=1.0, scale=0)
        total += node.send(np.zeros(20_000, dtype=np.int32)).vector
    deviation = math.sqrt(float(np.mean(total**2)))
    assert deviation == pytest.approx(5.0 * 65536, rel=0.03)


@pytest.mark.claim("C-dp-14")
@pytest.mark.parametrize(("byzantine", "quorum", "most"), [(0, 7, 6), (1, 7, 6), (2, 6, 4)])
def test_no_more_honest_nodes_are_counted_on_than_the_swarm_guarantees(
    byzantine: int, quorum: int, most: int, make_node: Callable[..., Any]
) -> None:
    swarm = {"mode": "distributed", "byzantine": byzantine, "quorum": quorum}
    make_node(**swarm, honest=most)
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        make_node(**swarm, honest=most + 1)


@pytest.mark.claim("C-dp-14")
def test_a_sum_of_too_few_nodes_is_not_merged(make_node: Callable[..., Any]) -> None:
    node = make_node(mode="distributed", honest=3, byzantine=1, quorum=6)
    roster = make_node_ids(7)

    def sums(*groups: tuple[bytes, ...]) -> Updates:
        rows = np.zeros((len(groups), 50), dtype=np.int32)
        firsts = tuple(group[0] for group in groups)
        ones = np.ones(len(groups), dtype=np.int64)
        return Updates(rows, firsts, ones, Visibility.GROUP, members=groups)

    enough = sums(roster[:4])
    assert node.plugin.reveal(enough, (), node.info) is enough
    with pytest.raises(ValueRefusedError, match="QRES-E505"):
        node.plugin.reveal(sums(roster[:4], roster[4:]), (), node.info)
    # Where more may collude than lie, as many more are needed in a sum.
    wary = make_node(mode="distributed", honest=3, byzantine=1, quorum=6, colluding=0.3)
    with pytest.raises(ValueRefusedError, match="3 honest nodes and 2 that may know their share"):
        wary.plugin.reveal(enough, (), wary.info)
    wider = sums(roster[:5])
    assert wary.plugin.reveal(wider, (), wary.info) is wider


# ── what else could leave ─────────────────────────────────────────────────────────────────────


def test_companions_of_others_do_not_leave_beside_noised_updates(
    make_node: Callable[..., Any],
) -> None:
    node = make_node()
    with pytest.raises(CompatibilityError, match="QRES-E314"):
        node.send(long_vector(), companions={"other": Companion(b"norm = 3")})


def test_the_grid_is_checked_when_a_round_opens_and_before_anything_leaves(
    make_node: Callable[..., Any],
) -> None:
    with pytest.raises(CompatibilityError, match="QRES-E313"):
        make_node(scale=20)
    node = make_node()
    node.info = attrs.evolve(node.info, scale=20)
    with pytest.raises(CompatibilityError, match="QRES-E313"):
        node.send(long_vector())
    assert node.plugin.status()["releases"] == 0


def test_before_setup_nothing_leaves(make_node: Callable[..., Any]) -> None:
    node = make_node()
    node.plugin = Dp(**USUAL, **TWO)
    with pytest.raises(QresError, match="QRES-E602"):
        node.send(long_vector())
    with pytest.raises(RoundError, match=r"QRES-E602 .*the node was not set up"):
        _ = node.plugin._release.by
    assert node.plugin.status()["epsilon"] == 0.0
