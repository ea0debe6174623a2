"""The three rules against their formulas in exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_reputation.rules import UNIT, Additive, Belief, Beta, Ema, ScoringRule, units

ACTS = st.lists(st.sampled_from(["reward", "punish", "fade"]), max_size=60)
SHARES = st.integers(0, UNIT)
DECAYS = st.sampled_from([0, 1, 1000, 250_000, UNIT])


@st.composite
def rules(draw: st.DrawFn) -> ScoringRule:
    start, decay = draw(st.integers(1, UNIT)), draw(DECAYS)
    kind = draw(st.sampled_from(["additive", "ema", "beta"]))
    if kind == "additive":
        return Additive(start, draw(SHARES), draw(SHARES), decay)
    return (Ema if kind == "ema" else Beta)(start, draw(SHARES), decay)


def after(rule: ScoringRule, acts: list[str]) -> Belief:
    belief = rule.fresh()
    for act in acts:
        belief = getattr(rule, act)(belief)
    return belief


def downward(value: Fraction) -> Fraction:
    """To the grid of 10**-6, as the rules round."""
    return Fraction(floor(value * UNIT), UNIT)


def test_the_seeds_rule_by_hand() -> None:
    rule = Additive(units(0.5), units(0.01), units(0.1), units(0.0))
    assert after(rule, []).score == 500_000
    assert after(rule, ["reward"] * 30).score == 800_000
    assert after(rule, ["punish"] * 3).score == 200_000
    assert after(rule, ["punish"] * 9).score == 0
    assert after(rule, ["reward"] * 99).score == UNIT
    # One third of the way up cannot be undone for free: ten good acts for a bad one.
    assert after(rule, ["reward"] * 10 + ["punish"]).score == 500_000


@pytest.mark.claim("C-trust-10")
@given(acts=ACTS, start=SHARES, gain=SHARES, loss=SHARES, decay=DECAYS)
def test_additive_is_the_formula(
    acts: list[str], start: int, gain: int, loss: int, decay: int
) -> None:
    score, home = Fraction(start, UNIT), Fraction(start, UNIT)
    for act in acts:
        if act == "reward":
            score = min(Fraction(1), score + Fraction(gain, UNIT))
        elif act == "punish":
            score = max(Fraction(0), score - Fraction(loss, UNIT))
        else:
            gap = abs(home - score)
            left = downward(gap * (1 - Fraction(decay, UNIT)))
            score = home + left if score > home else home - left
    assert after(Additive(start, gain, loss, decay), acts) == Belief(int(score * UNIT))


@given(acts=ACTS, start=SHARES, gamma=SHARES)
def test_ema_is_the_formula(acts: list[str], start: int, gamma: int) -> None:
    score, weight = Fraction(start, UNIT), Fraction(gamma, UNIT)
    for act in acts:
        if act != "fade":
            score = downward((1 - weight) * score + weight * (act == "reward"))
    assert after(Ema(start, gamma, 0), acts) == Belief(int(score * UNIT))


@given(acts=ACTS, start=st.integers(1, UNIT), forgetting=SHARES, decay=DECAYS)
def test_beta_is_the_formula(acts: list[str], start: int, forgetting: int, decay: int) -> None:
    r = s = Fraction(0)
    keep, base = Fraction(forgetting, UNIT), Fraction(start, UNIT)
    for act in acts:
        share = 1 - Fraction(decay, UNIT) if act == "fade" else keep
        r, s = downward(r * share), downward(s * share)
        r, s = r + (act == "reward"), s + (act == "punish")
    belief = after(Beta(start, forgetting, decay), acts)
    assert (belief.good, belief.bad) == (r * UNIT, s * UNIT)
    assert Fraction(belief.score, UNIT) == downward((r + 2 * base) / (r + s + 2))


@pytest.mark.parametrize(("good", "bad", "mean"), [(0, 0, 0.5), (8, 1, 9 / 11), (1, 1, 0.5)])
def test_beta_without_forgetting_is_the_papers(good: int, bad: int, mean: float) -> None:
    rule = Beta(units(0.5), UNIT, 0)
    belief = after(rule, ["reward"] * good + ["punish"] * bad)
    assert belief.score / UNIT == pytest.approx(mean, abs=1e-6)  # (r + 1) / (r + s + 2)


def test_beta_forgets_the_older_of_two_histories() -> None:
    rule = Beta(units(0.5), units(0.7), 0)
    early = after(rule, ["punish"] * 5 + ["reward"] * 5).score
    late = after(rule, ["reward"] * 5 + ["punish"] * 5).score
    assert early > units(0.5) > late
    assert after(Beta(units(0.5), 0, 0), ["punish"] * 9 + ["reward"]).score == 2 * UNIT // 3


@given(rule=rules(), acts=ACTS)
def test_a_score_stays_within_its_bounds(rule: ScoringRule, acts: list[str]) -> None:
    belief = after(rule, acts)
    assert 0 <= belief.score <= UNIT
    assert min(belief.good, belief.bad) >= 0


@given(rule=rules(), acts=ACTS)
def test_good_acts_never_lower_and_bad_acts_never_raise(rule: ScoringRule, acts: list[str]) -> None:
    belief = after(rule, acts)
    lenient = isinstance(rule, Beta)  # a forgotten past of the same kind may weigh more
    if not lenient:
        assert rule.reward(belief).score >= belief.score - 1
        assert rule.punish(belief).score <= belief.score
    assert rule.punish(belief).score <= rule.reward(belief).score


@given(rule=rules(), acts=ACTS)
def test_decay_never_leads_away_from_neutral_nor_past_it(
    rule: ScoringRule, acts: list[str]
) -> None:
    home = rule.fresh().score
    before, later = after(rule, acts), after(rule, [*acts, "fade"])
    # For beta, rounding the parts down separately may tip the quotient by a unit or two.
    slack = 2 if isinstance(rule, Beta) else 0
    if before.score > home:
        assert home - slack <= later.score <= before.score + slack
    elif before.score < home:
        assert before.score - slack <= later.score <= home + slack
    else:
        assert abs(later.score - home) <= slack


@pytest.mark.parametrize("rule", [Additive(500_000, 0, 0, 1000), Ema(500_000, 1, 1000)])
@pytest.mark.parametrize("score", [0, 499_999, 500_001, UNIT])
def test_decay_reaches_neutral_from_either_side(rule: ScoringRule, score: int) -> None:
    belief = rule.at(score)
    for _ in range(20_000):
        belief = rule.fade(belief)
    assert belief.score == 500_000


@pytest.mark.parametrize("act", ["reward", "punish"])
def test_beta_decays_to_neutral_from_either_side(act: str) -> None:
    rule = Beta(500_000, 900_000, 1000)
    belief = after(rule, [act] * 50)
    assert abs(belief.score - 500_000) > 300_000
    for _ in range(20_000):
        belief = rule.fade(belief)
    assert belief == rule.fresh()


@given(rule=rules(), score=st.integers(1, UNIT - 1))
def test_a_belief_at_a_score_is_not_below_it_and_close(rule: ScoringRule, score: int) -> None:
    found = rule.at(score)
    assert found.score >= score
    if isinstance(rule, Beta):
        # The next unit of evidence would already be on the other side.
        assert min(found.good, found.bad) == 0
        if found.bad:
            assert rule._believe(0, found.bad + 1).score < score
        elif found.good:
            assert rule._believe(found.good - 1, 0).score < score
    else:
        assert found.score == score


@pytest.mark.parametrize(("score", "held"), [(0, 1), (UNIT, UNIT - 1)])
def test_beta_cannot_hold_certainty(score: int, held: int) -> None:
    found = Beta(500_000, 900_000, 0).at(score)
    assert abs(found.score - held) <= 1
    assert max(found.good, found.bad) < 2**63
