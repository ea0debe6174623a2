"""What a plugin claims decides what it may stand beside.

Each claim refuses, and without it the same swarm starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from qres_core import Claims, Needs, Surroundings, Visibility, options
from qres_core.claims import Extent, Hides, Privatizes, Verifies, Wraps
from qres_core.errors import CompatibilityError, Problem
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.solver import solve

Check = Callable[[Surroundings], Any]


@attrs.frozen(kw_only=True)
class Says:
    """A plugin that says all there is to say; what it does not say has the value assumed."""

    claims: Claims = attrs.field(metadata=options.local("What it claims."))
    checks: Check = attrs.field(
        default=lambda _around: (), metadata=options.local("What its check says.")
    )
    grows: Callable[[Extent, Surroundings], Any] = attrs.field(
        default=lambda extent, _around: extent, metadata=options.local("What becomes of an update.")
    )

    def check(self, around: Surroundings) -> Any:
        """What it was told to say."""
        return self.checks(around)

    def passes(self, extent: Extent, around: Surroundings) -> Any:
        """What it was told to make of an update."""
        return self.grows(extent, around)


def plugin(name: str, *hooks: str, **said: Any) -> Enabled:
    methods = {label: said.pop(label) for label in ("checks", "grows") if label in said}
    claims = Claims(**{"tolerates": None, **said})
    return Enabled(name, Installed.local(name, Says), Says(claims=claims, **methods), hooks)


MEMORY = plugin("memory", "transport")
KEYS = plugin("keys", "sign", "authenticate")
NUMBERS = plugin("numbers", "replay_check")
MEAN = plugin("mean", "aggregate", averages=True)
BASE = (MEMORY, KEYS, NUMBERS)
SWARM = SwarmConfig(name="s", nodes=7, byzantine=0, quorum=6)
LIARS = attrs.evolve(SWARM, byzantine=1)
GROUP = Visibility.GROUP
NOISE = plugin("noise", "privatize", needs=Needs(averaging=True))
SUM = plugin("sum", "privatize", "reveal", hides=Hides(Visibility.SUM))


def codes(*plugins: Enabled, swarm: SwarmConfig = SWARM) -> list[str]:
    return [problem.code for problem in solve((*BASE, *plugins), swarm).problems]


def problem(*plugins: Enabled, swarm: SwarmConfig = SWARM) -> Problem:
    (found,) = solve((*BASE, *plugins), swarm).problems
    with pytest.raises(CompatibilityError) as caught:
        Kernel((*BASE, *plugins), swarm)
    assert caught.value.problems == (found,)
    return found


def starts(*plugins: Enabled, swarm: SwarmConfig = SWARM) -> bool:
    Kernel((*BASE, *plugins), swarm)
    return True


# ── plain values ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-composition-3")
@pytest.mark.control("C-composition-3")
def test_averages() -> None:
    """Noise for a mean: no other rule."""
    assert starts(NOISE, plugin("rule", "aggregate", averages=True))
    assert problem(NOISE, plugin("rule", "aggregate")).code == "QRES-E303"
    assert starts(plugin("rule", "aggregate"))


@pytest.mark.claim("C-composition-3", "C-composition-13")
@pytest.mark.control("C-composition-3", "C-composition-13")
def test_weighs() -> None:
    """In a sum no node counts less; a reputation that only bans does not mind."""
    assert problem(SUM, plugin("scores", "reputation"), MEAN).code == "QRES-E310"
    assert starts(SUM, plugin("scores", "reputation", weighs=False), MEAN)
    assert starts(plugin("scores", "reputation"), MEAN)


@pytest.mark.claim("C-composition-3")
@pytest.mark.control("C-composition-3")
def test_bounds() -> None:
    """A mean may stand against liars whose updates are proved short."""
    mean = plugin("mean", "aggregate", averages=True, tolerates=0)
    assert problem(plugin("proof", "prove", "verify"), mean, swarm=LIARS).code == "QRES-E309"
    assert starts(
        plugin("proof", "prove", "verify", verifies=Verifies(bounds="at most 1")), mean, swarm=LIARS
    )


@pytest.mark.claim("C-composition-3")
@pytest.mark.control("C-composition-3")
def test_alters() -> None:
    """A wrapper that changes rows changes what the noise was made for."""
    found = problem(NOISE, plugin("clip", "wrap_aggregate"), MEAN)
    assert found.code == "QRES-E303"
    assert "plugins.clip changes" in found.what
    assert starts(NOISE, plugin("judge", "wrap_aggregate", wraps=Wraps(alters=False)), MEAN)
    assert starts(NOISE, plugin("other", "round_closed"), MEAN)  # not a wrapper: changes no row


@pytest.mark.claim("C-composition-3")
@pytest.mark.control("C-composition-3")
def test_rows_of_several_are_no_single_updates() -> None:
    """A rule that looks for one node's row, or blames a row's sender, cannot be given means."""
    rule = plugin("single", "aggregate", needs=Needs(visibility=Visibility.INDIVIDUAL))
    buckets = plugin("buckets", "wrap_aggregate", wraps=Wraps(merges=2))
    found = problem(buckets, rule)
    assert (found.code, found.where) == ("QRES-E303", "plugins.single")
    assert found.what.endswith("plugins.buckets makes one row of 2")
    assert "remove [plugins.buckets]" in found.fix
    assert starts(plugin("buckets", "wrap_aggregate", wraps=Wraps(merges=1)), rule)
    judge = plugin("judge", "wrap_aggregate", needs=Needs(visibility=Visibility.INDIVIDUAL))
    plain = plugin("plain", "aggregate")
    assert problem(buckets, judge, plain).where == "plugins.judge"
    assert starts(judge, buckets, plain)


@pytest.mark.claim("C-composition-3")
@pytest.mark.control("C-composition-3", "C-composition-12")
def test_merges() -> None:
    """Buckets of two halve the rows that the rule behind them gets."""
    rule = plugin("rule", "aggregate", needs=Needs(visibility=GROUP, min_updates=5))
    found = problem(plugin("buckets", "wrap_aggregate", wraps=Wraps(merges=2)), rule)
    assert found.code == "QRES-E304"
    assert "plugins.buckets makes 3" in found.what
    assert starts(plugin("buckets", "wrap_aggregate", wraps=Wraps(merges=1)), rule)
    enough = attrs.evolve(SWARM, nodes=10, quorum=9)
    assert starts(plugin("buckets", "wrap_aggregate", wraps=Wraps(merges=2)), rule, swarm=enough)


@pytest.mark.claim("C-validation-9")
@pytest.mark.control("C-validation-9")
def test_reveals() -> None:
    """What is opened after the vote cannot be judged before it."""
    judge = plugin("judge", "endorse", "wrap_aggregate")
    found = problem(plugin("opener", "reveal"), judge, MEAN)
    assert (found.code, found.where) == ("QRES-E312", "plugins.judge")
    assert starts(plugin("checker", "reveal", privatizes=Privatizes(reveals=False)), judge, MEAN)


def test_accompanies() -> None:
    """Who puts something beside the update is named to the plugins after it, and to no other."""
    told: dict[str, tuple[str, ...]] = {}

    def listen(name: str) -> Enabled:
        def check(around: Surroundings) -> Sequence[Problem]:
            told[name] = around.companions
            return ()

        return plugin(name, "privatize", checks=check)

    proof = plugin("proof", "privatize", privatizes=Privatizes(accompanies=True))
    assert starts(listen("first"), proof, plugin("clip", "privatize"), listen("last"), MEAN)
    assert told == {"first": (), "last": ("proof",)}


def test_keeps() -> None:
    """Who may change an update afterwards is named to the plugins before it, and to no other."""
    told: dict[str, tuple[str, ...]] = {}

    def listen(name: str) -> Enabled:
        def check(around: Surroundings) -> Sequence[Problem]:
            told[name] = around.changing
            return ()

        return plugin(name, "privatize", checks=check, privatizes=Privatizes(keeps=True))

    proof = plugin("proof", "privatize", privatizes=Privatizes(keeps=True))
    assert starts(listen("first"), proof, plugin("clip", "privatize"), listen("last"), MEAN)
    assert told == {"first": ("clip",), "last": ()}


# ── methods ───────────────────────────────────────────────────────────────────────────────────────


def test_check_refuses_what_does_not_fit_its_surroundings() -> None:
    def least(around: Surroundings) -> Sequence[Problem]:
        if around.nodes >= 7:
            return ()
        return (Problem("QRES-E314", "plugins.x.size", f"{around.nodes} nodes", "more nodes"),)

    mine = plugin("x", "setup", checks=least)
    assert starts(mine, MEAN)
    small = attrs.evolve(SWARM, nodes=6)
    assert problem(mine, MEAN, swarm=small) == Problem(
        "QRES-E314", "plugins.x.size", "6 nodes", "more nodes"
    )


def test_check_is_told_the_swarm_and_its_place() -> None:
    told: list[Surroundings] = []

    def check(around: Surroundings) -> Sequence[Problem]:
        told.append(around)
        return ()

    mine = plugin("x", "privatize", "wrap_aggregate", checks=check, wraps=Wraps(alters=False))
    clip = plugin("clip", "privatize", "wrap_aggregate")
    noise = plugin("noise", "privatize")
    groups = plugin("groups", "privatize", hides=Hides(GROUP, 3))
    judge = plugin("judge", "endorse")
    swarm = attrs.evolve(LIARS, scale=-4, weight_cap=2, deadline=9.0)
    solve((*BASE, clip, mine, noise, groups, MEAN, judge), swarm, dimension=5)
    (around,) = told
    expected: dict[str, object] = {
        "nodes": 7,
        "byzantine": 1,
        "quorum": 6,
        "scale": -4,
        "weight_cap": 2,
        "deadline": 9.0,
        "dimension": 5,
        "visibility": GROUP,
        "hidden_by": "groups",
        "members": 3,
        "before": ("clip",),
        "after": ("noise",),
        "altered_by": ("clip",),
        "judges": ("judge",),
    }
    assert {key: getattr(around, key) for key in expected} == expected
    assert {"sign", "replay_check", "aggregate"} <= around.hooks


def test_a_rule_is_told_of_all_wrappers_wherever_they_stand_in_the_file() -> None:
    told: list[tuple[str, ...]] = []

    def check(around: Surroundings) -> Sequence[Problem]:
        told.append(around.altered_by)
        return ()

    first, last = plugin("first", "wrap_aggregate"), plugin("last", "wrap_aggregate")
    idle = plugin("idle", "wrap_aggregate", wraps=Wraps(alters=False))
    solve((*BASE, first, plugin("median", "aggregate", checks=check), idle, last), SWARM)
    assert told == [("first", "last")]


def test_passes_tells_the_plugins_after_it_how_large_an_update_is() -> None:
    told: list[Extent] = []

    def fits(around: Surroundings) -> Sequence[Problem]:
        told.append(around.extent)
        if around.extent.length <= 1.0:
            return ()
        what = f"{around.extent.length:g} is too long, by {around.extent.clipped_by or 'nobody'}"
        return (Problem("QRES-E313", "plugins.ring.bound", what, "a shorter clip"),)

    def clip(length: float) -> Enabled:
        return plugin(
            "clip",
            "privatize",
            grows=lambda extent, _around: attrs.evolve(
                extent, length=min(extent.length, length), noise=0.5
            ),
        )

    ring = plugin("ring", "privatize", checks=fits)
    assert starts(clip(1.0), ring, MEAN)
    assert told[-1] == Extent(length=1.0, clipped_by="clip", noise=0.5, noised_by="clip")
    assert problem(clip(2.0), ring, MEAN).what == "2 is too long, by clip"
    assert problem(ring, clip(1.0), MEAN).what == "inf is too long, by nobody"  # it comes too late
    assert problem(ring, MEAN).code == "QRES-E313"


# ── plugins that cannot say ───────────────────────────────────────────────────────────────────────


def raising(*_arguments: object) -> Any:
    msg = "broken"
    raise RuntimeError(msg)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"checks": raising}, "'check' raised RuntimeError: broken"),
        ({"checks": lambda _around: None}, "'check' returned something but problems and notices"),
        ({"checks": lambda _around: [1]}, "'check' returned something but problems and notices"),
        ({"grows": raising}, "'passes' raised RuntimeError: broken"),
        ({"grows": lambda _extent, _around: 1.0}, "'passes' returned a float, not Extent"),
    ],
    ids=["check raises", "check: nothing", "check: a number", "passes raises", "passes: a number"],
)
def test_a_method_that_fails_is_a_refusal(wrong: dict[str, Any], words: str) -> None:
    assert starts(plugin("x", "privatize"), MEAN)
    found = problem(plugin("x", "privatize", **wrong), MEAN)
    assert (found.code, found.where) == ("QRES-E206", "plugins.x")
    assert words in found.what
    assert found.fix == "tell the authors of (local)"


def test_what_a_check_says_for_the_operator_is_a_notice_by_name() -> None:
    minded = plugin("x", "privatize", checks=lambda _around: ["mind the gap"])
    found = solve((*BASE, minded, MEAN), SWARM)
    assert not found.problems
    assert "plugins.x: mind the gap" in found.notices
