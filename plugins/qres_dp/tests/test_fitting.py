"""What a swarm's numbers must be for a mechanism: each refusal, on each side of its threshold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_dp import Dp
from qres_dp.fitting import of_node, of_round, refuse
from qres_lab.testing import make_node_ids

from qres_core import NodeInfo, OwnContributions, RoundInfo, Surroundings, Visibility
from qres_core.claims import Extent
from qres_core.errors import CompatibilityError, QresError

NOTHING = OwnContributions()
USUAL: dict[str, Any] = {"clip": 1.0, "delta": 1e-6, "noise_multiplier": 1.0, "rounds": 10}
HIDDEN: dict[str, Any] = {"visibility": Visibility.GROUP, "hidden_by": "masks"}


def made(mode: str = "local", **options: Any) -> Dp:
    shared = {"honest": 5} if mode == "distributed" else {}
    return Dp(**{"mode": mode, **USUAL, **shared, **options})


def around(**fields: Any) -> Surroundings:
    usual: dict[str, Any] = {"nodes": 10, "byzantine": 0, "quorum": 8, "dimension": 100}
    return Surroundings(**{**usual, **fields})


def told(plugin: Dp, **fields: Any) -> list[tuple[str, str]]:
    """Code and place of every refusal."""
    return [(problem.code, problem.where) for problem in plugin.check(around(**fields))]


def node_info(nodes: int, byzantine: int = 0, colluding: float = 0.0) -> NodeInfo:
    roster = make_node_ids(nodes)
    return NodeInfo(roster[0], "lab", roster, byzantine=byzantine, colluding=colluding)


def round_info(nodes: int, quorum: int, byzantine: int = 0, **fields: Any) -> RoundInfo:
    usual: dict[str, Any] = {"dimension": 100, "scale": 0, **fields}
    roster = make_node_ids(nodes)
    return RoundInfo(
        "lab", 1, bytes(32), roster=roster, quorum=quorum, byzantine=byzantine, **usual
    )


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_a_swarm_that_fits_is_not_refused(mode: str) -> None:
    """Control of all that follows."""
    assert not told(made(mode), members=6, **HIDDEN)


# ── delta ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("nodes", "refused"), [(1023, False), (1024, True), (1025, True)])
def test_delta_is_below_one_in_n(nodes: int, refused: bool) -> None:  # noqa: FBT001
    plugin = made(delta=2.0**-10)
    expected = [("QRES-E314", "plugins.dp.delta")] if refused else []
    assert told(plugin, nodes=nodes) == expected
    for begin in (
        lambda: plugin.setup(node_info(nodes)),
        lambda: plugin.round_opened(round_info(nodes, nodes), NOTHING),
    ):
        if refused:
            with pytest.raises(CompatibilityError, match=f"1 / {nodes}"):
                begin()
        else:
            begin()


def test_the_remedy_for_delta_is_one() -> None:
    (problem,) = made(delta=1e-3).check(around(nodes=1500))
    assert problem.fix == "delta < 0.000667"
    assert not told(made(delta=0.000666), nodes=1500)


# ── honest ────────────────────────────────────────────────────────────────────────────────────

HONEST = ("QRES-E314", "plugins.dp.honest")


@pytest.mark.parametrize(
    ("byzantine", "members", "most"), [(0, 8, 7), (1, 8, 7), (2, 8, 6), (0, 2, 1)]
)
def test_sums_have_the_honest_nodes_that_noise_is_counted_on(
    byzantine: int, members: int, most: int
) -> None:
    fields = {"byzantine": byzantine, "members": members, **HIDDEN}
    assert not told(made("distributed", honest=most), **fields)
    assert told(made("distributed", honest=most + 1), **fields) == [HONEST]
    (problem,) = made("distributed", honest=most + 1).check(around(**fields))
    assert f"honest <= {most}," in problem.fix
    assert "plugins.masks" in problem.fix


def test_where_nothing_is_hidden_another_refusal_says_so() -> None:
    assert not told(made("distributed", honest=10), members=1)
    assert made("distributed", honest=10).claims.needs.at_most is Visibility.GROUP


@pytest.mark.claim("C-dp-12")
@given(
    st.integers(2, 12),
    st.integers(0, 3),
    st.integers(1, 14),
    st.sampled_from([0.0, 0.1, 0.3, 0.5]),
    st.data(),
)
def test_check_set_up_and_round_judge_alike(
    nodes: int, byzantine: int, honest: int, colluding: float, data: st.DataObject
) -> None:
    quorum = data.draw(st.integers(1, nodes))
    plugin = made("distributed", honest=honest, noise_multiplier=50.0)

    def refused(begin: Callable[[], None]) -> bool:
        with contextlib.suppress(CompatibilityError):
            begin()
            return False
        return True

    colluders = max(byzantine, int(colluding * nodes))
    members = {"nodes": nodes, "byzantine": byzantine, "colluders": colluders, **HIDDEN}
    at_best = told(plugin, members=nodes, **members) == [HONEST]
    assert refused(lambda: plugin.setup(node_info(nodes, byzantine, colluding))) is at_best
    assert at_best is (honest > nodes - max(1, colluders))
    # A plugin that was refused at set-up judges a round by the same number of colluders.
    plugin._release.colluding = colluding
    in_rounds = told(plugin, members=quorum, **members) == [HONEST]
    opening = round_info(nodes, quorum, byzantine)
    assert refused(lambda: plugin.round_opened(opening, NOTHING)) is in_rounds
    # By definition, as the option says it: shares that nobody who sees the sum knows.
    assert in_rounds is (honest > quorum - max(1, colluders))


def test_no_round_is_opened_with_a_share_too_few() -> None:
    """29 of 100 may collude: a sum of 80 has 51 shares that they do not know."""
    for honest, begins in ((51, True), (52, False)):
        plugin = made("distributed", honest=honest, noise_multiplier=200.0)
        plugin.setup(node_info(100, 0, 0.29))
        if begins:
            plugin.round_opened(round_info(100, 80), NOTHING)
            continue
        with pytest.raises(CompatibilityError, match=r"QRES-E314 plugins\.dp\.honest"):
            plugin.round_opened(round_info(100, 80), NOTHING)


# ── companions ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_nothing_leaves_beside_noised_updates(mode: str) -> None:
    beside = told(made(mode), members=8, companions=("tags",), **HIDDEN)
    assert beside == [("QRES-E314", "plugins.dp")]


def test_the_remedy_names_the_plugins() -> None:
    (problem,) = made().check(around(companions=("tags", "norms")))
    assert "plugins.tags, plugins.norms" in problem.what
    assert problem.fix == "put [plugins.dp] before [plugins.tags] in the file"


# ── the end of the swarm ──────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-30")
@pytest.mark.parametrize("unit", [{}, {"unit": "record", "records": 10}])
@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_no_node_says_without_noise_that_a_model_is_good_enough(
    mode: str, unit: dict[str, Any]
) -> None:
    goal = "accuracy >= 0.9"
    (problem,) = made(mode, **unit).check(around(until=goal, members=6, **HIDDEN))
    assert (problem.code, problem.where) == ("QRES-E314", "plugins.dp")
    assert goal in problem.what
    assert "swarm.rounds" in problem.fix


# ── held-out examples ─────────────────────────────────────────────────────────────────────────


def test_an_operator_reads_that_verdicts_by_held_out_examples_have_no_noise() -> None:
    (notice,) = made().check(around(judges=("validated_mean",)))
    assert str(notice).startswith("plugins.validated_mean judges updates")
    assert "weights" in str(notice)
    assert not list(made().check(around()))  # the control: nobody judges


# ── the mechanism ─────────────────────────────────────────────────────────────────────────────

GRID = ("QRES-E313", "plugins.dp.clip")


def test_the_grid_holds_two_steps_for_a_coordinate() -> None:
    # The bound is 2**16 steps: enough for (2**15)**2 coordinates.
    assert not told(made(), dimension=2**30)
    assert told(made(), dimension=2**30 + 1) == [GRID]
    assert not told(made(), dimension=0)  # not known yet: the round tells


def test_the_grid_holds_bound_and_noise() -> None:
    fits = [scale for scale in range(-32, 33) if not told(made(), scale=scale)]
    assert fits == list(range(fits[0], fits[-1] + 1))
    assert told(made(), scale=fits[0] - 1) == [GRID]
    (problem, *_) = made().check(around(scale=fits[0] - 1))
    assert problem.fix == f"swarm.scale in {fits[0]}..{fits[-1]}"


def test_everything_is_told_at_once() -> None:
    plugin = made("distributed", delta=1e-3, honest=999)
    found = told(plugin, nodes=1000, members=999, scale=12, companions=("tags",), **HIDDEN)
    assert found[:3] == [("QRES-E314", "plugins.dp.delta"), HONEST, ("QRES-E314", "plugins.dp")]
    assert set(found[3:]) == {GRID}


STREAM: dict[str, Any] = {"noise": "correlated", "band": 4, "noise_multiplier": 0.0}


@pytest.mark.claim("C-dp-29")
def test_a_stream_is_refused_where_independent_noise_serves_better() -> None:
    stream = {**STREAM, "epsilon": 4.0, "rounds": 8, "honest": 5}
    seen = {"members": 10, **HIDDEN}
    assert not told(made("distributed", **stream, separation=4), **seen)
    found = told(made("distributed", **stream, separation=1), **seen)
    assert found == [("QRES-E314", "plugins.dp.noise")]


def test_the_noise_of_a_row_fits_the_grid() -> None:
    plugin = made("distributed", **STREAM, epsilon=4.0, rounds=8, separation=4, honest=5)
    seen = {"members": 10, **HIDDEN}
    fits = [scale for scale in range(-32, 17) if not told(plugin, scale=scale, **seen)]
    assert fits == list(range(fits[0], fits[-1] + 1))
    assert told(plugin, scale=fits[0] - 1, **seen)[0][0] == "QRES-E313"
    # A round says the same, and before anything leaves.
    nodes = {"nodes": 10, "quorum": 8}
    plugin.round_opened(round_info(**nodes, scale=fits[0]), NOTHING)
    with pytest.raises(QresError, match="QRES-E313"):
        plugin.round_opened(round_info(**nodes, scale=fits[0] - 1), NOTHING)


# ── how large an update is after it ───────────────────────────────────────────────────────────


def test_the_extent_is_the_clip_and_the_noise_drawn_at_once() -> None:
    unbounded = Extent()
    plugin = made("distributed", honest=5, clip=2.0)
    found = plugin.passes(unbounded, around(members=6, **HIDDEN))
    z = plugin.claims.effective["noise_multiplier"]
    assert found.length == 2.0
    assert found.noise == pytest.approx(z * 2.0 / math.sqrt(5), rel=1e-6)
    local = made("local", clip=2.0).passes(unbounded, around())
    assert local.noise == pytest.approx(z * 2 * 2.0, rel=1e-6)  # replace-one
    # What does not fit has no noise to tell of; the check refuses it.
    assert made("local", clip=2.0).passes(unbounded, around(scale=20)) == Extent(length=2.0)


# ── the adapters ──────────────────────────────────────────────────────────────────────────────


def test_a_round_is_judged_by_its_own_numbers() -> None:
    info = round_info(7, 5, 2, scale=-3, dimension=11)
    seen = of_round(info, 0.5)
    assert seen.colluders == 3
    assert of_round(info, 0.0).colluders == 2
    assert (seen.nodes, seen.quorum, seen.members, seen.byzantine) == (7, 5, 5, 2)
    assert (seen.scale, seen.dimension) == (-3, 11)
    assert of_node(node_info(7, 2)).members == 7


def test_nothing_found_is_no_refusal() -> None:
    refuse(())
    plugin = made("distributed", honest=9)
    problems = tuple(plugin.check(around(members=2, **HIDDEN)))
    with pytest.raises(CompatibilityError) as caught:
        refuse(problems)
    assert caught.value.problems == problems
