"""What the plugin says of a swarm that leaves secure aggregation no room, nodes or time."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest
from qres_lab.testing import make_node_ids, make_round_info
from qres_secagg import Secagg
from qres_secagg.chances import grouping
from qres_secagg.fitting import spoiling
from qres_secagg.ring import MAX_WIDE_DIMENSION
from qres_secagg.sizing import sized

from qres_core import NodeInfo, Surroundings
from qres_core.claims import Extent
from qres_core.dialogues import VoidSet
from qres_core.errors import CompatibilityError, Problem

FITS = Surroundings(nodes=10, byzantine=2, quorum=8)


def problems(options: dict[str, Any], around: Surroundings) -> list[Problem]:
    return [item for item in Secagg(**options).check(around) if isinstance(item, Problem)]


def notices(options: dict[str, Any], around: Surroundings) -> list[str]:
    """All but those of a liar that deals to few."""
    found = [item for item in Secagg(**options).check(around) if isinstance(item, str)]
    return [item for item in found if "keep the sum for itself" not in item]


def kept(options: dict[str, Any], nodes: int, byzantine: int = 1) -> list[str]:
    """Those of a liar that deals to few."""
    around = Surroundings(nodes=nodes, byzantine=byzantine, quorum=nodes - byzantine)
    found = [item for item in Secagg(**options).check(around) if isinstance(item, str)]
    return [item for item in found if "keep the sum for itself" in item]


def test_where_a_liar_may_keep_the_sum_for_itself_the_swarm_is_told() -> None:
    (always,) = kept({}, 6)
    assert always.startswith("a liar may keep the sum for itself, and the round fails, if nodes")
    assert "1 of 6 are enough, and dropout counts with 1. " in always
    (led,) = kept({}, 8)
    assert led.startswith("in a round that a liar leads, a liar may keep the sum")
    (planned,) = kept({"dropout": 0.22}, 14)
    assert "2 of 14 are enough, and dropout counts with 3. " in planned
    found = re.search(r"dropout <= ([\d.]+)", planned)
    assert found is not None
    assert not kept({"dropout": float(found[1])}, 14)
    (sparse,) = kept({}, 100, 10)
    assert "a few that hold shares of the liar, and dropout counts with 10. " in sparse
    for nodes, byzantine in ((10, 1), (13, 1), (20, 2), (50, 5), (64, 6)):
        assert not kept({}, nodes, byzantine)
    assert not kept({"corrupt": 0.0}, 6, 0)


def only(options: dict[str, Any], around: Surroundings) -> tuple[str, str, str]:
    (problem,) = problems(options, around)
    return problem.code, problem.where, f"{problem.what}\n{problem.fix}"


def least(text: str, option: str) -> float:
    """The value that a remedy names for an option."""
    found = re.search(rf"{option} >= ([\d.e+]+)", text)
    assert found is not None, text
    return float(found[1])


def test_a_swarm_with_room_nodes_and_time_is_no_problem() -> None:
    assert problems({}, FITS) == []


def test_a_round_that_may_close_with_fewer_inputs_than_a_sum_needs_is_named() -> None:
    code, where, text = only({"min_size": 9}, attrs.evolve(FITS, quorum=8))
    assert (code, where) == ("QRES-E304", "plugins.secagg.min_size")
    assert "opens no sum of fewer than 9 inputs, but a round may close with 8" in text
    assert problems({"min_size": 9}, attrs.evolve(FITS, quorum=9)) == []


def test_equal_weights_do_not_go_with_a_cap_above_unity() -> None:
    code, where, text = only({}, attrs.evolve(FITS, weight_cap=3))
    assert (code, where) == ("QRES-E310", "plugins.secagg.weights")
    assert 'plugins.secagg.weights = "public" and plugins.secagg.max_weight = 3' in text
    remedy = {"weights": "public", "max_weight": 3}
    assert problems(remedy, attrs.evolve(FITS, weight_cap=3)) == []


def test_a_weight_above_the_cap_of_the_swarm_is_named_with_both_numbers() -> None:
    options = {"weights": "public", "max_weight": 5}
    code, where, text = only(options, attrs.evolve(FITS, weight_cap=4))
    assert (code, where) == ("QRES-E310", "plugins.secagg.max_weight")
    assert "5 is above swarm.weight_cap = 4" in text
    assert "max_weight <= 4" in text


@pytest.mark.claim("C-secagg-29")
@pytest.mark.control("C-secagg-29")
def test_patience_that_does_not_fit_into_the_deadline_is_named_and_the_remedy_fits() -> None:
    code, where, text = only({"patience": 11.0}, FITS)
    assert (code, where) == ("QRES-E105", "plugins.secagg.patience")
    assert "4 times 11 s of patience do not fit into swarm.deadline = 30 s" in text
    assert "patience <= 7.5" in text
    assert problems({"patience": 7.5}, FITS) == []


def test_a_clip_beyond_the_bound_is_named_with_the_plugin_that_clips() -> None:
    around = attrs.evolve(FITS, extent=Extent(length=100.0, clipped_by="dp", accepted=100.0))
    code, where, text = only({}, around)
    assert (code, where) == ("QRES-E313", "plugins.secagg.bound")
    assert "plugins.dp lets coordinates be as large as 100" in text
    assert problems({"bound": least(text, "bound")}, around) == []
    # A coarser grid holds the same length in fewer steps.
    assert problems({}, attrs.evolve(around, scale=4)) == []


def test_liars_whose_accepted_updates_overflow_the_ring_are_named() -> None:
    around = attrs.evolve(FITS, extent=Extent(accepted=2.0**14))
    code, where, text = only({}, around)
    assert (code, where) == ("QRES-E313", "plugins.secagg.ring")
    assert "2 liars with updates as long as 16384" in text
    assert "32 bits holds less than 2147483648" in text
    assert problems({"ring": 64}, around) == []
    # Without liars nobody sends such updates, and shorter ones fit.
    assert problems({}, attrs.evolve(around, byzantine=0)) == []
    assert problems({}, attrs.evolve(around, extent=Extent(accepted=2.0**10))) == []


@pytest.mark.control("C-secagg-30")
def test_noise_without_room_is_named_and_the_room_it_asks_for_is_enough() -> None:
    around = attrs.evolve(FITS, extent=Extent(noise=0.5, noised_by="dp"))
    code, where, text = only({}, around)
    assert (code, where) == ("QRES-E313", "plugins.secagg.noise_room")
    assert "noise of plugins.dp makes 6 deviations of a sum of 10 inputs" in text
    room = least(text, "noise_room")
    assert room == pytest.approx(6 * 0.5 * 10**0.5, rel=0.01)
    assert problems({"noise_room": room}, around) == []
    assert problems({"noise_room": 0.99 * room}, around) != []


def test_several_misfits_are_all_named_at_once() -> None:
    around = attrs.evolve(FITS, quorum=2, weight_cap=2, deadline=1.0)
    assert [problem.where for problem in problems({}, around)] == [
        "plugins.secagg.min_size",
        "plugins.secagg.weights",
        "plugins.secagg.patience",
    ]


@pytest.mark.parametrize(
    ("options", "changes", "code", "where", "said"),
    [
        ({"group_size": 12}, {}, "QRES-E314", "group_size", "10 nodes make no group of 12"),
        (
            {"weights": "public", "max_weight": 2**28},
            {"weight_cap": 2**28},
            "QRES-E313",
            "max_weight",
            "10 nodes of weight 268435456: more than 2**30 in all",
        ),
        (
            {"ring": 64},
            {"dimension": 2**31 - 1},
            "QRES-E313",
            "ring",
            "2147483647 coordinates in the ring of 64 bits",
        ),
    ],
)
def test_what_has_no_numbers_at_all_is_refused_with_that_alone(
    options: dict[str, Any], changes: dict[str, Any], code: str, where: str, said: str
) -> None:
    found, place, text = only(options, attrs.evolve(FITS, **changes))
    assert (found, place) == (code, f"plugins.secagg.{where}")
    assert said in text


def test_a_sum_that_colluders_could_fill_but_for_one_is_refused_and_the_remedies_do() -> None:
    """Groups of four of forty nodes, of whom two may collude."""
    around = Surroundings(nodes=40, byzantine=2, quorum=25, rows=5)
    options = {"group_size": 4, "min_size": 3, "corrupt": 0.05, "dropout": 0.15}
    code, where, text = only(options, around)
    assert (code, where) == ("QRES-E314", "plugins.secagg.min_size")
    assert "of 40 nodes 2 may collude" in text
    assert "min_size >= 4" in text
    assert problems({**options, "min_size": 4, "group_size": 5}, around) == []


def test_where_only_the_option_makes_so_many_collude_it_is_named() -> None:
    around = Surroundings(nodes=40, byzantine=1, quorum=32)
    options = {"group_size": 8, "min_size": 4, "corrupt": 0.1}
    code, _, text = only(options, around)
    assert code == "QRES-E314"
    assert (
        "plugins.secagg.min_size >= 6; or fewer that may collude: plugins.secagg.corrupt <= 0.05"
        in text
    )
    assert problems({**options, "corrupt": 0.05}, around) == []
    assert problems({**options, "min_size": 6}, around) == []


def test_one_sum_has_two_inputs_more_than_may_collude() -> None:
    around = Surroundings(nodes=40, byzantine=3, quorum=30)
    code, _, text = only({"min_size": 5}, around)
    assert code == "QRES-E314"
    assert "min_size >= 6" in text
    assert problems({"min_size": 6}, around) == []


def test_a_swarm_too_small_for_such_sums_is_told_the_least() -> None:
    _, _, text = only({"min_size": 3}, Surroundings(nodes=4, byzantine=3, quorum=4))
    assert "in a swarm of 5 nodes or more" in text


def test_groups_that_are_open_too_seldom_are_refused_and_each_remedy_does() -> None:
    """The profile for high security as it was: a fifth of its rounds had too few groups."""
    around = Surroundings(nodes=30, byzantine=1, quorum=24, rows=3)
    options = {"group_size": 8, "min_size": 8, "corrupt": 0.04}
    code, where, text = only(options, around)
    assert (code, where) == ("QRES-E304", "plugins.secagg.min_size")
    assert "3 of them, which the rule needs, are open with probability 0.8" in text
    assert "min_size = 7; or dropout = 0.07" in text
    assert problems({**options, "min_size": 7}, around) == []
    assert problems({**options, "dropout": 0.07}, around) == []


def test_where_no_groups_do_the_least_swarm_is_named_and_does() -> None:
    options = {"group_size": 5, "min_size": 5, "corrupt": 0.0, "dropout": 0.1}
    around = Surroundings(nodes=35, byzantine=3, quorum=35, rows=7)
    (problem,) = problems(options, around)
    found = re.search(r"a swarm of (\d+) nodes", problem.fix)
    assert found is not None
    n = int(found[1])
    plan = grouping(n, n - 3, 3, 7, 0.1)
    assert plan is not None
    larger = attrs.evolve(around, nodes=n, quorum=n - 3)
    fitting = {**options, "group_size": plan.size, "min_size": plan.least}
    assert problems(fitting, larger) == []


def test_a_round_that_may_close_with_fewer_than_must_state_its_set_is_named() -> None:
    around = Surroundings(nodes=40, byzantine=2, quorum=22)
    code, where, text = only({}, around)
    assert (code, where) == ("QRES-E304", "plugins.secagg.corrupt")
    assert least(text, "swarm.quorum") == 23
    assert problems({}, attrs.evolve(around, quorum=23)) == []
    assert problems({"corrupt": 0.05}, around) == []


@pytest.mark.claim("C-secagg-28")
@pytest.mark.parametrize(
    ("groups", "rows"), [({}, 1), ({"group_size": 12, "min_size": 6, "corrupt": 0.04}, 5)]
)
def test_on_a_sparse_graph_sums_need_a_quorum_that_can_be_opened(
    groups: dict[str, Any], rows: int
) -> None:
    """Each node of all holds shares of some others: of one sum, and of groups alike."""
    around = Surroundings(nodes=100, byzantine=0, quorum=68, rows=rows)
    code, where, text = only(groups, around)
    assert (code, where) == ("QRES-E304", "plugins.secagg.dropout")
    need = int(least(text, "swarm.quorum"))
    assert problems(groups, attrs.evolve(around, quorum=need)) == []
    assert problems(groups, attrs.evolve(around, quorum=need - 1)) != []
    enough = problems({**groups, "dropout": 0.32}, around)
    assert "plugins.secagg.dropout" not in [problem.where for problem in enough]


# ── after a void height ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (8, {}),
        (13, {}),
        (40, {}),
        (100, {}),
        (40, {"group_size": 12, "min_size": 6}),
        (40, {"group_size": 20, "min_size": 8}),
        (64, {"group_size": 16, "min_size": 8}),
        (16, {"group_size": 8, "min_size": 6}),
        (40, {"group_size": 8, "min_size": 8, "corrupt": 0.02}),
        (42, {"group_size": 10, "min_size": 6, "corrupt": 0.02}),
    ],
)
def test_the_quorum_it_names_leaves_room_for_a_set_without_one_node(
    n: int, options: dict[str, Any]
) -> None:
    """By the rule itself, for whoever it is that stays away."""
    around = Surroundings(nodes=n, byzantine=1, quorum=n)
    (notice,) = notices(options, around)
    found = re.search(r"swarm.quorum <= (\d+)", notice)
    assert found is not None, notice
    quorum = int(found[1])
    assert notices(options, attrs.evolve(around, quorum=quorum)) == []
    info = attrs.evolve(make_round_info(1, nodes=n), byzantine=1)
    everybody = VoidSet(info.roster, info.roster, info.roster)
    after = attrs.evolve(info, void_sets=(everybody,))
    plugin = Secagg(**options)
    permission = plugin._permission(after)
    sizes = {len(permission.permitted({*info.roster} - {node})) for node in info.roster}
    assert min(sizes) == quorum


@pytest.mark.parametrize(
    ("n", "options", "remedy"),
    [
        (7, {}, "8 nodes or more"),
        (6, {}, "8 nodes or more"),
        (7, {"group_size": 7, "min_size": 4}, "more nodes, or a smaller plugins.secagg.group_size"),
    ],
)
def test_a_swarm_too_small_for_that_is_told_so(
    n: int, options: dict[str, Any], remedy: str
) -> None:
    (notice,) = notices(options, Surroundings(nodes=n, byzantine=1, quorum=n - 1))
    assert notice.endswith(remedy)
    assert "a node that stays away stops the swarm until it is back" in notice


@pytest.mark.parametrize(
    ("n", "rows", "options", "enough"),
    [
        (40, 5, {"group_size": 8, "min_size": 5, "corrupt": 0.05}, 9),
        (40, 5, {"group_size": 8, "min_size": 4, "corrupt": 0.05}, 0),
        (40, 4, {"group_size": 8, "min_size": 5, "corrupt": 0.05}, 0),
        (24, 3, {"group_size": 8, "min_size": 5, "corrupt": 0.05}, 0),
        (14, 3, {"group_size": 4, "min_size": 3, "corrupt": 0.0}, 6),
    ],
)
def test_a_rule_that_needs_the_sums_of_all_groups_is_named_if_one_node_can_close_its_group(
    n: int, rows: int, options: dict[str, Any], enough: int
) -> None:
    """By the rule itself: after a set of all, nothing can be opened without the node."""
    around = Surroundings(nodes=n, byzantine=2 if n == 40 else 1, quorum=n // 2 + 2, rows=rows)
    plugin = Secagg(**options)
    plugin.setup(NodeInfo(make_node_ids(n)[0], "testing", make_node_ids(n), 0, rows=rows))
    info = attrs.evolve(make_round_info(1, nodes=n), byzantine=around.byzantine)
    everybody = VoidSet(info.roster, info.roster, info.roster)
    judge = plugin._permission(attrs.evolve(info, void_sets=(everybody,)))
    alive = [judge.permitted({*info.roster} - {node}) for node in info.roster]
    stalls = not any(judge.opens(left) for left in alive)
    found = notices(options, around)
    assert stalls == bool(found) == bool(enough)
    if stalls:
        (notice,) = found
        assert f"the rule needs all {rows} sums" in notice
        assert notice.endswith(f"{enough} nodes in a group")
        larger = attrs.evolve(around, nodes=rows * enough)
        assert not notices({**options, "group_size": enough}, larger)
        lesser = re.search(r"min_size = (\d+)", notice)
        assert bool(lesser) == (n == 40)
        if lesser:
            assert not notices({**options, "min_size": int(lesser[1])}, around)


@pytest.mark.parametrize(
    ("n", "rows", "options", "quorum", "enough"),
    [
        (24, 3, {"group_size": 7, "min_size": 5}, 21, 9),  # examples/secagg.toml
        (40, 5, {"group_size": 8, "min_size": 5, "corrupt": 0.05}, 40, 9),
    ],
)
def test_each_of_its_remedies_is_one_with_the_quorum_that_goes_with_it(
    n: int, rows: int, options: dict[str, Any], quorum: int, enough: int
) -> None:
    """A smaller quorum alone would not do: the rule needs the sum of the group that is closed."""
    around = Surroundings(nodes=n, byzantine=n // 20, quorum=quorum, rows=rows)
    (notice,) = notices(options, around)
    said = re.search(r"with swarm.quorum <= (\d+): min_size = (\d+), a rule", notice)
    assert said is not None, notice
    lower = attrs.evolve(around, quorum=int(said[1]))
    assert "the rule needs all" in "".join(notices(options, lower))
    min_size = {**options, "min_size": int(said[2])}
    fewer = attrs.evolve(lower, rows=rows - 1)
    larger = attrs.evolve(lower, nodes=rows * enough)
    for chosen, swarm in (
        (min_size, lower),
        (options, fewer),
        (larger_groups(options, enough), larger),
    ):
        assert notices(chosen, swarm) == []
        assert problems(chosen, swarm) == []
    above = attrs.evolve(lower, quorum=lower.quorum + 1)
    assert notices(min_size, above) != []


def larger_groups(options: dict[str, Any], size: int) -> dict[str, Any]:
    return {**options, "group_size": size}


def test_with_too_few_nodes_for_a_lower_quorum_more_of_them_are_named() -> None:
    options: dict[str, Any] = {"group_size": 7, "min_size": 5}
    around = Surroundings(nodes=7, byzantine=1, quorum=6)
    assert any("This would do, with more nodes: " in item for item in notices(options, around))


CHECKED = frozenset({"verify"})


@pytest.mark.parametrize(
    ("n", "byzantine", "options", "remedy"),
    [
        (40, 1, {}, "bisect = true or group_size in 8..20 would do"),
        (40, 4, {"min_size": 6}, "group_size in 6..8 would do"),
        (40, 4, {"min_size": 6, "bisect": True}, "group_size in 6..8 would do"),
        (40, 2, {"group_size": 20}, "bisect = true or group_size in 8..13 would do"),
        (12, 1, {"min_size": 8}, "more nodes would do"),
    ],
)
def test_liars_that_spoil_every_sum_are_named_with_the_groups_that_leave_some(
    n: int, byzantine: int, options: dict[str, Any], remedy: str
) -> None:
    around = Surroundings(nodes=n, byzantine=byzantine, quorum=n, hooks=CHECKED)
    plugin = Secagg(**options)
    (notice,) = spoiling(around, plugin)
    assert notice.endswith(f"they could keep the swarm from making models; {remedy}")
    assert not list(spoiling(attrs.evolve(around, hooks=frozenset()), plugin))
    assert not list(spoiling(attrs.evolve(around, byzantine=0), plugin))
    if found := re.search(r"group_size in (\d+)\.\.(\d+)", remedy):
        for size in range(int(found[1]), int(found[2]) + 1):
            grouped = Secagg(**{**options, "group_size": size, "bisect": False})
            assert not list(spoiling(around, grouped))
        larger = Secagg(**{**options, "group_size": int(found[2]) + 1, "bisect": False})
        assert list(spoiling(around, larger))
    if "bisect" in remedy:
        assert not list(spoiling(around, Secagg(**{**options, "bisect": True})))


def test_weights_of_all_together_have_a_limit_and_so_have_wide_vectors_and_groups() -> None:
    weighty = {"weights": "public", "bound": 2.0**-16, "noise_room": 0.0}
    assert sized(Secagg(**weighty, max_weight=2**26), 16, 1, 10).summands == 16
    with pytest.raises(CompatibilityError, match=r"QRES-E313 plugins\.secagg\.max_weight"):
        sized(Secagg(**weighty, max_weight=2**26), 17, 1, 10)
    assert sized(Secagg(ring=64), 10, 1, MAX_WIDE_DIMENSION).ring_bits == 64
    with pytest.raises(CompatibilityError, match=r"QRES-E313 plugins\.secagg\.ring"):
        sized(Secagg(ring=64), 10, 1, MAX_WIDE_DIMENSION + 1)
    assert sized(Secagg(group_size=10), 10, 1, 10).group_size == 10
    assert Secagg(group_size=8).group_size == 8  # the least of a group, if nothing else is said
    with pytest.raises(CompatibilityError, match=r"QRES-E314 plugins\.secagg\.group_size"):
        sized(Secagg(group_size=11), 10, 1, 10)
