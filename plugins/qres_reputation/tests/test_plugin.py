"""The hooks: evidence, bans, probation, decay, weights, the watch."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_lab.testing import host, make_node_info
from qres_reputation import Reputation
from qres_reputation.plugin import DISPUTABLE
from qres_reputation.rules import UNIT

from qres_core import Evidence, Needs, RoundStatus, Standing, Updates, Visibility
from qres_core.errors import OptionError, ValueRefusedError

NodeMaker = Callable[..., Any]
STRANGER = b"\xff" * 32
FULL = Standing()
STILL = {"decay": 0.0}


# ── options ───────────────────────────────────────────────────────────────────────────────────────


def test_the_entry_point_leads_here() -> None:
    (entry,) = entry_points(group="qres.plugins", name="reputation")
    assert entry.load() is Reputation


def test_every_option_explains_itself() -> None:
    options = [field for field in attrs.fields(Reputation) if field.init]
    assert all(field.metadata["help"] for field in options)
    assert len(options) == 16


def test_the_defaults_are_the_seeds() -> None:
    plugin = Reputation()
    assert (plugin.reward, plugin.punish, plugin.start, plugin.ban_below) == (0.01, 0.1, 0.5, 0.2)
    assert (plugin.decay, plugin.gamma, plugin.rule) == (0.001, 0.05, "additive")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("rule", "krum", r'rule: must be one of "additive", "beta", "ema"'),
        ("start", 1.5, r"start: must be a number in 1e-06\.\.1, got 1\.5"),
        ("start", True, r"start: must be a number"),
        ("start", float("nan"), r"start: must be a number"),
        ("start", "0.5", r"start: must be a number"),
        ("reward", -0.01, r"reward: must be a number in 0\.\.1"),
        ("punish", 0.0, r"punish: must be a number in 1e-06\.\.1"),
        ("decay", 2.0, r"decay: must be a number in 0\.\.1"),
        ("ban_below", 0.0, r"ban_below: must be a number in 1e-06\.\.1"),
        ("ban_below", 0.5, r"ban_below: must be below start = 0\.5, got 0\.5"),
        ("ban_rounds", -1, r"ban_rounds: must be an integer in 0\.\."),
        ("ban_rounds", True, r"ban_rounds: must be an integer in 0\.\."),
        ("flood", -1, r"flood: must be an integer"),
        ("ignore", ["replayed"], r"ignore: must be an array, each entry the name of a fact"),
        ("ignore", ("unproven lock",), r"ignore: 'unproven lock' is neither a Fault nor the id of"),
        ("ignore", (1,), r"ignore: must be an array, each entry the name of a fact"),
        ("exponent", 9, r"exponent: must be an integer in 0\.\.8"),
        ("exponent", 0.5, r"exponent: must be an integer in 0\.\.8"),
        ("influence_cap", 0.0, r"influence_cap: must be a number in 1e-06\.\.1"),
        ("outlier_factor", 0.9, r"outlier_factor: must be a number in 1\.\."),
        ("outlier_rounds", -1, r"outlier_rounds: must be an integer"),
        ("outlier_sample", -1, r"outlier_sample: must be an integer"),
        ("gamma", 0.1, r"gamma: is an option of rule 'ema', and rule is 'additive'"),
        ("forgetting", 0.5, r"forgetting: is an option of rule 'beta', and rule is 'additive'"),
    ],
)
def test_a_bad_option_is_refused_by_name(option: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"QRES-E105 {message}"):
        Reputation(**{option: value})


@pytest.mark.claim("C-reputation-13")
@pytest.mark.parametrize(
    ("rule", "option"),
    [("beta", "reward"), ("beta", "punish"), ("ema", "punish"), ("beta", "gamma")],
)
def test_an_option_of_another_rule_is_not_dropped_silently(rule: str, option: str) -> None:
    with pytest.raises(OptionError, match=f"{option}: is an option of rule"):
        Reputation(rule=rule, **{option: 0.3})


@pytest.mark.control("C-reputation-13")
@pytest.mark.parametrize(
    ("option", "value"), [("start", 1), ("ban_below", 0.499999), ("reward", 0)]
)
def test_the_ends_of_a_range_are_in_it(option: str, value: Any) -> None:
    assert getattr(Reputation(**{option: value}), option) == value


@pytest.mark.claim("C-reputation-2")
def test_it_needs_authentication_and_tells_about_weights() -> None:
    assert Reputation().claims.needs == Needs(families=("authenticate",))
    assert Reputation().claims.notices == ()
    (notice,) = Reputation(exponent=1).claims.notices
    assert "swarm.standing_tolerance" in notice


def test_the_kernel_can_host_it() -> None:
    manager = host(Reputation())
    manager.hook.setup(node_info=make_node_info())
    assert manager.hook.reputation(sender=bytes(32)) == [FULL]
    manager.hook.teardown()


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-reputation-1", "C-reputation-8", "C-reputation-14")
def test_a_fault_counts_once_in_a_round_whatever_its_round_number_says(node: NodeMaker) -> None:
    item = node(**STILL)
    liar = item.roster[3]
    item.open()
    for number in range(10):
        item.against(liar, round_number=number)
    assert item.score(liar) == 400_000
    item.against(liar, "zk:bad-proof")
    assert item.score(liar) == 300_000
    item.close()
    item.open()
    item.against(liar)
    assert item.score(liar) == 200_000
    assert not item.banned(liar)
    item.against(liar, "zk:bad-proof")
    assert item.banned(liar)
    assert item.plugin.reputation(liar) == Standing(0, banned=True)
    others = {n for n in item.roster if n != liar}
    assert {item.score(n) for n in others} == {500_000}


@pytest.mark.claim("C-reputation-7")
def test_a_flood_bans_within_the_round(node: NodeMaker) -> None:
    item = node(flood=64, **STILL)
    flooder = item.roster[1]
    item.open()
    for sent in range(1, 194):
        assert not item.banned(flooder)
        item.against(flooder, "mac:bad-signature")
        assert item.score(flooder) == 500_000 - 100_000 * (1 + (sent - 1) // 64)
    assert item.banned(flooder)


@pytest.mark.claim("C-reputation-7")
@pytest.mark.parametrize(("flood", "score"), [(0, 400_000), (1, 200_000), (2, 300_000)])
def test_how_repetitions_count(node: NodeMaker, flood: int, score: int) -> None:
    item = node(flood=flood, **STILL)
    item.open()
    for _ in range(3):
        item.against(item.roster[1])
    assert item.score(item.roster[1]) == score


@pytest.mark.claim("C-reputation-8")
def test_a_stranger_gets_no_state(node: NodeMaker) -> None:
    item = node()
    before = item.state()
    item.open()
    for number in range(100):
        item.against(number.to_bytes(32, "big"))
        item.contributed(number.to_bytes(32, "big"))
    item.close()
    assert item.state() == before
    assert len(item.plugin._seen) == 0
    assert item.plugin._contributed == set()
    # A key nobody knows is nobody banned; the kernel refuses it as an unknown sender.
    assert item.plugin.reputation(STRANGER) == FULL


@pytest.mark.claim("C-reputation-1")
def test_the_ignored_facts_are_those_the_readme_lists() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    listed = readme.split("### Facts that are ignored")[1].split(". ")[0]
    assert sorted(re.findall(r"`([a-z-]+)`", listed)) == sorted(DISPUTABLE)


@pytest.mark.claim("C-reputation-1")
@pytest.mark.parametrize("fact", DISPUTABLE)
def test_what_honest_nodes_can_differ_in_is_no_evidence(node: NodeMaker, fact: str) -> None:
    item = node(**STILL)
    item.open()
    item.against(item.roster[2], fact)
    assert item.score(item.roster[2]) == 500_000
    strict = node(ignore=(), **STILL)
    strict.open()
    strict.against(strict.roster[2], fact)
    assert strict.score(strict.roster[2]) == 400_000


def test_only_a_merged_contribution_is_rewarded_and_once(node: NodeMaker) -> None:
    item = node(**STILL)
    good, praised = item.roster[1], item.roster[2]
    item.open()
    item.contributed(good)
    item.contributed(good)
    with pytest.raises(ValueRefusedError, match="QRES-E513"):  # nothing else can praise a node
        Evidence(praised, "handsome", "somebody", 1)
    assert item.score(good) == 500_000
    item.close()
    assert item.score(good) == 510_000
    assert item.score(praised) == 500_000
    item.play()
    assert item.score(good) == 510_000


@pytest.mark.parametrize("status", [RoundStatus.ABORTED, RoundStatus.VOID])
def test_a_round_without_a_model_rewards_nobody_and_nothing_fades(
    node: NodeMaker, status: RoundStatus
) -> None:
    item = node()
    item.open()
    item.against(item.roster[1])
    item.contributed(item.roster[2])
    item.close(status)
    item.play()
    assert item.score(item.roster[2]) == 500_000
    # 0.4, and one closed round's decay of a thousandth of the way back.
    assert item.score(item.roster[1]) == 400_100


@pytest.mark.claim("C-reputation-14")
def test_a_banned_node_cannot_earn_or_lose(node: NodeMaker) -> None:
    item = node(punish=0.4)
    liar = item.roster[1]
    item.open()
    item.against(liar)
    sentence = item.state()[liar]
    item.against(liar, "zk:bad-proof")
    item.contributed(liar)
    item.close()
    assert item.state()[liar] == sentence
    assert item.score(liar) == 100_000


# ── bans ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-reputation-4")
@pytest.mark.parametrize("rule", ["additive", "beta", "ema"])
def test_a_ban_ends_in_probation(node: NodeMaker, rule: str) -> None:
    item = node(rule=rule, ban_rounds=5, decay=0.0, flood=1)
    liar = item.roster[1]
    item.open(10)
    while not item.banned(liar):
        item.against(liar)
    item.close()
    for number in range(11, 16):
        item.open(number)
        assert item.banned(liar)
        item.close()
    item.open(16)
    assert not item.banned(liar)
    assert 200_000 <= item.score(liar) <= 200_002
    item.against(liar)
    assert item.banned(liar)


@pytest.mark.claim("C-reputation-15")
def test_a_ban_ends_by_number_even_if_rounds_were_missed(node: NodeMaker) -> None:
    item = node(punish=0.4, ban_rounds=5)
    item.open(10)
    item.against(item.roster[1])
    item.close(RoundStatus.ABORTED)
    item.open(15)
    assert item.banned(item.roster[1])
    item.open(400)
    assert not item.banned(item.roster[1])


@pytest.mark.control("C-reputation-4", "C-reputation-15")
def test_a_ban_of_zero_rounds_is_for_ever(node: NodeMaker) -> None:
    item = node(punish=0.4, ban_rounds=0)
    item.open()
    item.against(item.roster[1])
    item.close()
    item.play(number=2**62)
    assert item.banned(item.roster[1])
    assert item.score(item.roster[1]) == 100_000


def test_decay_leads_to_neutral_from_both_sides(node: NodeMaker) -> None:
    item = node(decay=0.1, punish=0.2, ban_below=0.1)
    low, high = item.roster[1], item.roster[2]
    for _ in range(20):
        item.play([high])
    item.open()
    item.against(low)
    scores = [(item.score(low), item.score(high))]
    item.close()
    for _ in range(150):
        item.play()
        scores.append((item.score(low), item.score(high)))
    lows, highs = zip(*scores, strict=True)
    assert lows[0] == 300_000
    assert highs[0] > 570_000
    assert list(lows) == sorted(lows)
    assert list(highs) == sorted(highs, reverse=True)
    assert (lows[-1], highs[-1]) == (500_000, 500_000)


@pytest.mark.claim("C-reputation-5")
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["bad", "good", "far", "abort"]), st.integers(0, 6)), max_size=40
    ),
    rule=st.sampled_from(["additive", "beta", "ema"]),
    exponent=st.integers(0, 3),
)
@settings(deadline=None, max_examples=40)
def test_the_same_evidence_gives_the_same_bits(
    acts: list[tuple[str, int]], rule: str, exponent: int, node: NodeMaker, spread: Any
) -> None:
    twins = [node(rule=rule, exponent=exponent, ban_rounds=3) for _ in range(2)]
    for twin in twins:
        for act, who in acts:
            twin.open()
            if act in ("bad", "abort"):
                twin.against(twin.roster[who])
            twin.merge(spread(7, [who] if act == "far" else []))
            for member in twin.roster:
                twin.contributed(member)
            twin.close(RoundStatus.ABORTED if act == "abort" else RoundStatus.CLOSED)
            for member in twin.roster:
                standing = twin.plugin.reputation(member)
                assert standing.banned == twin.state()[member].banned
                assert (standing.weight == 0) == standing.banned
                assert 0 <= twin.score(member) <= UNIT
    first, second = twins
    assert first.state() == second.state()
    assert first.plugin._standings == second.plugin._standings


# ── weights ───────────────────────────────────────────────────────────────────────────────────────


def test_without_an_exponent_standing_is_all_or_nothing(node: NodeMaker) -> None:
    item = node()
    item.open()
    item.against(item.roster[1])
    assert {item.plugin.reputation(n) for n in item.roster} == {FULL}


def test_with_an_exponent_weight_is_a_power_of_the_score_from_the_next_round(
    node: NodeMaker,
) -> None:
    item = node(exponent=3, influence_cap=1.0, **STILL)
    low = item.roster[1]
    item.open()
    item.against(low)
    item.against(low, "zk:bad-proof")
    assert item.plugin.reputation(low) == FULL  # all votes of a round use the same weights
    item.close()
    assert item.plugin.reputation(low) == Standing(3**3 * 2**32 // 5**3)
    assert item.plugin.reputation(item.roster[2]) == FULL


@pytest.mark.claim("C-reputation-6")
def test_no_node_weighs_more_than_its_share(node: NodeMaker) -> None:
    item = node(nodes=20, exponent=3, influence_cap=0.1, **STILL)
    star = item.roster[7]
    for _ in range(50):
        item.play([star])
    weights = [item.plugin.reputation(n).weight for n in item.roster]
    assert item.score(star) == UNIT
    assert max(weights) / sum(weights) == pytest.approx(0.1, abs=1e-4)
    free = node(nodes=20, exponent=3, influence_cap=1.0, **STILL)
    for _ in range(50):
        free.play([star])
    assert free.plugin.reputation(star).weight / sum(
        free.plugin.reputation(n).weight for n in free.roster
    ) == pytest.approx(8 / 27, abs=1e-4)


def test_the_banned_have_no_share(node: NodeMaker) -> None:
    item = node(nodes=4, exponent=1, influence_cap=0.5, punish=0.4, **STILL)
    item.open()
    item.against(item.roster[0])
    item.close()
    assert item.plugin.reputation(item.roster[0]).weight == 0
    assert [item.plugin.reputation(n).weight for n in item.roster[1:]] == [2**32] * 3


def test_a_roster_all_banned_is_all_banned(node: NodeMaker) -> None:
    item = node(exponent=1, punish=0.4)
    item.open()
    for member in item.roster:
        item.against(member)
    item.close()
    assert all(item.banned(member) for member in item.roster)


# ── the watch ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-reputation-3")
def test_a_persistent_outlier_is_punished_from_the_third_round_on(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(**STILL)
    liar = item.roster[2]
    scores = []
    for _ in range(6):
        item.play(item.roster, spread(7, [2]))
        scores.append(item.score(liar))
    # No reward for the rounds it was far in, and 0.1 off in each from the third.
    assert scores == [500_000, 500_000, 400_000, 300_000, 200_000, 100_000]
    assert item.banned(liar)
    assert {item.score(n) for n in item.roster if n != liar} == {560_000}


def test_one_round_near_the_others_begins_the_patience_anew(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(**STILL)
    liar = item.roster[2]
    for _ in range(10):  # what a liar that knows the rule does
        item.play(item.roster, spread(7, [2]))
        item.play(item.roster, spread(7, [2]))
        assert item.streak(liar) == 2
        item.play(item.roster, spread(7))
        assert item.streak(liar) == 0
    assert item.score(liar) == 600_000


def test_rounds_it_took_no_part_in_do_not_interrupt_a_streak(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(**STILL)
    liar = item.roster[6]
    for _ in range(3):
        item.play(item.roster, spread(7, [6]))
        item.play(item.roster[:6], spread(6, senders=item.roster[:6]))
    assert item.score(liar) == 400_000


def test_an_outlier_in_a_round_that_aborts_is_not_held_against_anybody(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(outlier_rounds=1)
    item.open()
    item.merge(spread(7, [2]))
    item.close(RoundStatus.ABORTED)
    item.play()
    assert item.score(item.roster[2]) == 500_000
    assert item.streak(item.roster[2]) == 0


@pytest.mark.claim("C-reputation-4")
def test_patience_does_not_begin_anew_on_probation(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(ban_rounds=2, **STILL)
    liar = item.roster[2]
    while not item.banned(liar):
        item.play(item.roster, spread(7, [2]))
    while item.banned(liar):
        item.play()
    item.play(item.roster, spread(7, [2]))
    assert item.banned(liar)


@pytest.mark.parametrize("visibility", [Visibility.GROUP, Visibility.SUM])
def test_the_watch_is_idle_where_updates_are_hidden(
    node: NodeMaker, spread: Callable[..., Updates], visibility: Visibility
) -> None:
    item = node(outlier_rounds=1, **STILL)
    item.play([], attrs.evolve(spread(7, [2]), visibility=visibility))
    assert item.score(item.roster[2]) == 500_000


def test_the_watch_can_be_switched_off(node: NodeMaker, spread: Callable[..., Updates]) -> None:
    item = node(outlier_rounds=0, **STILL)
    for _ in range(9):
        item.play(item.roster, spread(7, [2]))
    assert item.score(item.roster[2]) == 590_000


def test_the_factor_is_heeded(node: NodeMaker, spread: Callable[..., Updates]) -> None:
    item = node(outlier_rounds=1, outlier_factor=200.0, **STILL)
    item.play([], spread(7, [2]))
    assert item.score(item.roster[2]) == 500_000


def test_rows_of_nobody_in_the_roster_change_nothing(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(outlier_rounds=1)
    before = item.state()
    item.play([], spread(3, [2], senders=[bytes([i]) * 32 for i in range(3)]))
    assert item.state() == before


def test_a_second_setup_begins_with_nothing_pending(node: NodeMaker) -> None:
    item = node()
    item.open()
    item.contributed(item.roster[1])
    item.against(item.roster[2])
    item.plugin.setup(make_node_info(nodes=7))
    item.close()
    assert {item.score(n) for n in item.roster} == {500_000}


def test_a_sentence_of_an_operator_is_not_shortened_by_a_fault(node: NodeMaker) -> None:
    item = node(punish=0.4)
    life = item.state()[item.roster[1]].sentenced(1, 0)
    assert item.plugin._punished(life).until == life.until


def test_a_set_with_a_banned_member_changes_nothing_about_it(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    # A quorum that did not see what this node saw may decide such a set.
    item = node(punish=0.4, outlier_rounds=1)
    liar = item.roster[2]
    item.open()
    item.against(liar)
    sentence = item.state()[liar]
    item.merge(spread(7, [2]))
    item.contributed(liar)
    item.close()
    assert item.state()[liar] == sentence


def test_a_score_does_not_fade_in_the_round_of_the_ban(
    node: NodeMaker, spread: Callable[..., Updates]
) -> None:
    item = node(punish=0.4, outlier_rounds=1, decay=0.1)
    item.play([], spread(7, [2]))
    assert item.banned(item.roster[2])
    assert item.score(item.roster[2]) == 100_000
