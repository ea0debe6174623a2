"""What does not add up is refused before anything starts, with a sentence that names both sides."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Claims, Needs, Reads, Surroundings, Visibility
from qres_core.claims import Hides, Verifies
from qres_core.contract import options
from qres_core.contract.hookspecs import HookSpecs
from qres_core.errors import CompatibilityError, Problem
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.sharded import largest_word
from qres_core.kernel.slots import (
    ALL_HOOKS,
    FAMILY_OF,
    LIFE_CYCLE,
    PAIRED,
    SECURITY_FAMILIES,
    SLOTS,
)
from qres_core.kernel.solver import Solution, solve
from qres_core.swarm.shards.products import encode_products
from qres_core.training import RecordClip

MakeKernel = Callable[..., Kernel]


@attrs.frozen
class Silent:
    """A plugin as the solver sees it: only what it says of itself."""

    claims: Claims


def toy(
    name: str,
    *hooks: str,
    hides: Visibility = Visibility.INDIVIDUAL,
    size: int = 1,
    tolerates: int | None = None,
    averages: bool = False,
    weighs: bool = True,
    bounds: str = "",
    transferable: bool = False,
    **needs: Any,
) -> Enabled:
    claims = Claims(
        tolerates=tolerates,
        needs=Needs(**needs),
        hides=Hides(hides, size),
        averages=averages,
        weighs=weighs,
        verifies=Verifies(bounds=bounds, transferable=transferable),
    )
    return Enabled(name, Installed.local(name, Silent), Silent(claims), hooks)


MEMORY = toy("memory", "transport")
MEAN = toy("mean", "aggregate", averages=True)
ED25519 = toy("ed25519", "sign", "authenticate")
REPLAY = toy("replay", "replay_check")
COMPLETE = (MEMORY, ED25519, REPLAY, MEAN)


def swarm(**changes: Any) -> SwarmConfig:
    fields: dict[str, Any] = {"name": "s", "nodes": 4, "byzantine": 1, "quorum": 3, **changes}
    return SwarmConfig(**fields)


def solution(*plugins: Enabled, **changes: Any) -> Solution:
    return solve(plugins, swarm(**changes))


def problem(*plugins: Enabled, **changes: Any) -> Problem:
    (found,) = solution(*plugins, **changes).problems
    return found


def without(gone: Enabled, *more: Enabled) -> tuple[Enabled, ...]:
    return (*(item for item in COMPLETE if item is not gone), *more)


# ── the table of slots ────────────────────────────────────────────────────────────────────────────


def test_every_hook_has_one_place() -> None:
    specified = [name for name in vars(HookSpecs) if not name.startswith("_")]
    assert sorted(ALL_HOOKS) == sorted(specified)
    assert len(set(ALL_HOOKS)) == len(ALL_HOOKS)
    assert not set(LIFE_CYCLE) & set(FAMILY_OF)


def test_slots_are_consistent() -> None:
    for family, slot in SLOTS.items():
        assert set(slot.counted) <= set(slot.hooks)
        assert slot.maximum is None or slot.minimum <= slot.maximum
        assert slot.combination
        assert all(FAMILY_OF[hook] == family for hook in slot.hooks)
    assert {hook for pair in PAIRED for hook in pair} <= set(ALL_HOOKS)
    assert set(SECURITY_FAMILIES) <= set(SLOTS)


def test_the_bounds_of_the_slots() -> None:
    assert {family: (slot.minimum, slot.maximum) for family, slot in SLOTS.items()} == {
        "transport": (1, 1),
        "authenticate": (1, None),
        "replay_check": (1, None),
        "reputation": (0, 1),
        "privatize": (0, None),
        "prove": (0, None),
        "aggregate": (1, 1),
    }


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────


def test_a_complete_swarm_has_no_problem_and_no_notice() -> None:
    assert solution(*COMPLETE) == Solution((), ())


INDIVIDUAL = Visibility.INDIVIDUAL
SECAGG = toy("secagg", "privatize", "reveal", hides=Visibility.SUM)
GROUPS = toy("groups", "privatize", hides=Visibility.GROUP)
GATE = toy("gate", "reputation", "observe")
KRUM = toy("krum", "aggregate", visibility=INDIVIDUAL, min_updates=5, tolerates=1)

REFUSALS: Sequence[tuple[str, tuple[Enabled, ...], Mapping[str, Any], str, str, Sequence[str]]] = [
    (
        "no transport",
        without(MEMORY),
        {},
        "QRES-E301",
        "plugins",
        ["'transport'", "[plugins.memory]"],
    ),
    ("no rule", without(MEAN), {}, "QRES-E301", "plugins", ["'aggregate'", "[plugins.mean]"]),
    (
        "two rules",
        (*COMPLETE, toy("median", "aggregate")),
        {},
        "QRES-E302",
        "plugins",
        ["'aggregate' takes 1", "mean, median", "remove all except one"],
    ),
    (
        "two transports",
        (toy("libp2p", "transport"), *COMPLETE),
        {},
        "QRES-E302",
        "plugins",
        ["'transport' takes 1", "libp2p, memory"],
    ),
    (
        "two reputations",
        (*COMPLETE, GATE, toy("other", "reputation")),
        {},
        "QRES-E302",
        "plugins",
        ["'reputation' takes 1", "gate, other"],
    ),
    (
        "two identities",
        (*COMPLETE, toy("key", "identity"), toy("card", "identity")),
        {},
        "QRES-E302",
        "plugins",
        ["'identity' takes 1", "key, card"],
    ),
    (
        "sum against individual",
        without(MEAN, SECAGG, toy("krum", "aggregate", visibility=INDIVIDUAL)),
        {},
        "QRES-E303",
        "plugins.krum",
        ["single updates", "plugins.secagg shows only one sum", "remove [plugins.secagg]"],
    ),
    (
        "group against individual",
        without(MEAN, GROUPS, toy("krum", "aggregate", visibility=INDIVIDUAL)),
        {},
        "QRES-E303",
        "plugins.krum",
        ["single updates", "plugins.groups shows only sums of groups"],
    ),
    (
        "sum against group",
        without(MEAN, SECAGG, toy("krum", "aggregate", visibility=Visibility.GROUP)),
        {},
        "QRES-E303",
        "plugins.krum",
        ["sums of groups", "plugins.secagg shows only one sum"],
    ),
    (
        "sum against a rule that could work in groups",
        without(
            MEAN,
            SECAGG,
            toy("krum", "aggregate", visibility=Visibility.GROUP, min_updates=5, tolerates=1),
        ),
        {"nodes": 20, "quorum": 16},
        "QRES-E303",
        "plugins.krum",
        ["shows only one sum", "let secagg work in groups of at most 3 nodes", "needs 5 groups"],
    ),
    (
        "too few groups",
        without(
            MEAN,
            toy("groups", "privatize", hides=Visibility.GROUP, size=4),
            toy("krum", "aggregate", visibility=Visibility.GROUP, min_updates=5, tolerates=1),
        ),
        {"nodes": 20, "quorum": 16},
        "QRES-E304",
        "plugins.krum",
        ["needs 5 rows", "swarm.quorum = 16", "plugins.groups leaves 4", "groups of at most 3"],
    ),
    (
        "single updates visible to whom they must be hidden from",
        (*COMPLETE, toy("dp", "privatize", at_most=Visibility.GROUP)),
        {},
        "QRES-E303",
        "plugins.dp",
        ["more than sums of groups", "single updates can be seen", "secure aggregation after dp"],
    ),
    (
        "single examples clipped in two ways",
        (
            *COMPLETE,
            toy("dp", "privatize", records=RecordClip(1.0, 10)),
            toy("other", "privatize", records=RecordClip(1.0, 20)),
        ),
        {},
        "QRES-E318",
        "plugins.other",
        ["otherwise than plugins.dp", "the same bound and number"],
    ),
    (
        "noise for a mean, and a rule that is none",
        without(
            MEAN,
            toy("dp", "privatize", averaging=True),
            toy("median", "aggregate", visibility=Visibility.GROUP),
        ),
        {},
        "QRES-E303",
        "plugins.dp",
        ["the rule median is not a mean", "[plugins.mean]"],
    ),
    (
        "standings that weight, and only sums to be seen",
        (*COMPLETE, SECAGG, GATE),
        {},
        "QRES-E310",
        "plugins.gate",
        ["plugins.secagg shows only sums", "let gate ban nodes and not weight"],
    ),
    (
        "sum against a wrapper",
        (*COMPLETE, SECAGG, toy("nnm", "wrap_aggregate", visibility=INDIVIDUAL)),
        {},
        "QRES-E303",
        "plugins.nnm",
        ["plugins.secagg"],
    ),
    (
        "sum against a verifier",
        (*COMPLETE, SECAGG, toy("norm", "prove", "verify", visibility=INDIVIDUAL)),
        {},
        "QRES-E303",
        "plugins.norm",
        ["plugins.secagg"],
    ),
    (
        "both hooks, one problem",
        without(MEAN, SECAGG, toy("x", "aggregate", "wrap_aggregate", visibility=INDIVIDUAL)),
        {},
        "QRES-E303",
        "plugins.x",
        ["plugins.secagg"],
    ),
    (
        "quorum below a rule's bound",
        without(MEAN, KRUM),
        {"nodes": 7, "quorum": 4},
        "QRES-E304",
        "plugins.krum",
        ["needs 5 updates", "a round may close with 4 (swarm.quorum)", "swarm.quorum >= 5"],
    ),
    (
        "family missing",
        (*COMPLETE, toy("audit", "setup", families=("prove",))),
        {},
        "QRES-E305",
        "plugins.audit",
        ["'prove'", "enable a plugin of the family prove, for example [plugins.zk]"],
    ),
    (
        "family filled by itself alone",
        (*COMPLETE, toy("gate", "reputation", families=("reputation",))),
        {},
        "QRES-E305",
        "plugins.gate",
        ["'reputation'", "no other plugin"],
    ),
    (
        "a gate for neighbours does not fill the family of signatures",
        (
            MEMORY,
            MEAN,
            REPLAY,
            toy("list", "admit"),
            toy("audit", "setup", families=("authenticate",)),
        ),
        {"insecure": True},
        "QRES-E305",
        "plugins.audit",
        ["'authenticate'", "no other plugin fills it"],
    ),
    (
        "an authority that no plugin knows cannot decide about the members",
        COMPLETE,
        {"authority": "ca"},
        "QRES-E301",
        "swarm.authority",
        ["no enabled plugin knows an authority", "members"],
    ),
    (
        "an observer does not fill the family of reputation",
        (*COMPLETE, toy("log", "observe"), toy("audit", "setup", families=("reputation",))),
        {},
        "QRES-E305",
        "plugins.audit",
        ["'reputation'"],
    ),
    (
        "family unknown",
        (*COMPLETE, toy("audit", "setup", families=("authentication",))),
        {},
        "QRES-E305",
        "plugins.audit",
        ["'authentication'", "did you mean 'authenticate'?"],
    ),
    (
        "no replay check",
        without(REPLAY),
        {},
        "QRES-E306",
        "plugins",
        ["'replay_check'", "[plugins.replay]", "swarm.insecure = true"],
    ),
    (
        "authenticate without sign",
        without(ED25519, toy("list", "authenticate")),
        {},
        "QRES-E306",
        "plugins",
        ["'sign'", "family authenticate", "[plugins.ed25519]"],
    ),
    (
        "three nodes, one liar",
        COMPLETE,
        {"nodes": 3, "quorum": 2},
        "QRES-E307",
        "swarm.byzantine",
        ["3 nodes", "1 liar ", "swarm.nodes >= 4, or swarm.byzantine <= 0"],
    ),
    (
        "nine nodes, three liars",
        COMPLETE,
        {"nodes": 9, "byzantine": 3, "quorum": 6},
        "QRES-E307",
        "swarm.byzantine",
        ["swarm.nodes >= 10, or swarm.byzantine <= 2"],
    ),
    (
        "sign without authenticate",
        (*COMPLETE, toy("stamp", "sign")),
        {},
        "QRES-E308",
        "plugins.stamp",
        ["'sign' but not 'authenticate'", "give the plugin the hook 'authenticate'"],
    ),
    (
        "prove without verify",
        (*COMPLETE, toy("zk", "prove")),
        {},
        "QRES-E308",
        "plugins.zk",
        ["'prove' but not 'verify'", "remove [plugins.zk]"],
    ),
    (
        "rule below the promise",
        without(MEAN, toy("mean", "aggregate", tolerates=0)),
        {},
        "QRES-E309",
        "plugins.mean",
        ["withstands 0", "swarm.byzantine promises 1", "a rule that withstands 1"],
    ),
    (
        "equal weights against a cap",
        without(MEAN, toy("median", "aggregate", equal_weights=True)),
        {"weight_cap": 10},
        "QRES-E310",
        "plugins.median",
        ["swarm.weight_cap is 10", "weight_cap = 1"],
    ),
    (
        "equal weights against reputation",
        without(MEAN, GATE, toy("median", "aggregate", equal_weights=True)),
        {},
        "QRES-E310",
        "plugins.median",
        ["plugins.gate weights nodes by their standing", "let gate ban nodes and not"],
    ),
]


@pytest.mark.claim("C-composition-12")
@pytest.mark.parametrize(
    ("plugins", "changes", "code", "where", "words"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_refusals_name_both_sides(
    plugins: tuple[Enabled, ...],
    changes: Mapping[str, Any],
    code: str,
    where: str,
    words: Sequence[str],
) -> None:
    found = problem(*plugins, **changes)
    assert (found.code, found.where) == (code, where)
    for part in words:
        assert part in str(found)
    with pytest.raises(CompatibilityError) as caught:
        Kernel(plugins, swarm(**changes))
    assert caught.value.problems == (found,)


def test_every_refusal_of_the_solver_has_a_row() -> None:
    numbers = (*range(301, 311), 318)
    assert {row[3] for row in REFUSALS} == {f"QRES-E{number}" for number in numbers}


def test_all_refusals_come_together() -> None:
    found = solution(toy("stamp", "sign"), KRUM, SECAGG, nodes=3, byzantine=2, quorum=3)
    assert sorted({problem.code for problem in found.problems}) == [
        "QRES-E301",
        "QRES-E303",
        "QRES-E304",
        "QRES-E306",
        "QRES-E307",
        "QRES-E308",
        "QRES-E309",
    ]


@pytest.mark.claim("C-config-4")
def test_an_empty_secure_swarm_lacks_every_hook_it_must_have() -> None:
    found = solution().problems
    assert [(problem.code, problem.what.split()[-1]) for problem in found] == [
        ("QRES-E301", "'transport'"),
        ("QRES-E306", "'sign'"),
        ("QRES-E306", "'authenticate'"),
        ("QRES-E306", "'replay_check'"),
        ("QRES-E301", "'aggregate'"),
    ]


# ── what is right at the bound ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("plugins", "changes"),
    [
        (without(MEAN, KRUM), {"nodes": 7, "quorum": 5}),
        (without(MEAN, toy("k", "aggregate", tolerates=2)), {"nodes": 7, "byzantine": 2}),
        (COMPLETE, {"nodes": 7, "byzantine": 2, "quorum": 5}),
        ((*COMPLETE, SECAGG), {}),
        (without(MEAN, GROUPS, toy("m", "aggregate", visibility=Visibility.GROUP)), {}),
        (
            (
                *COMPLETE,
                toy("clip", "privatize"),
                toy("k", "wrap_aggregate", visibility=INDIVIDUAL),
            ),
            {},
        ),
        ((*COMPLETE, GATE, toy("second", "observe")), {}),
        ((*COMPLETE, toy("list", "authenticate")), {}),
        ((*COMPLETE, toy("bound", "verify")), {}),
        ((*COMPLETE, toy("zk", "prove", "verify"), toy("zk2", "prove", "verify")), {}),
        ((*COMPLETE, toy("audit", "setup", families=("authenticate", "aggregate"))), {}),
        (without(MEAN, toy("median", "aggregate", equal_weights=True)), {}),
        (
            without(
                MEAN,
                toy("groups", "privatize", hides=Visibility.GROUP, size=3),
                toy("krum", "aggregate", visibility=Visibility.GROUP, min_updates=5, tolerates=1),
            ),
            {"nodes": 20, "quorum": 16},
        ),
        ((*COMPLETE, toy("dp", "privatize", averaging=True, at_most=Visibility.GROUP), GROUPS), {}),
        ((*COMPLETE, SECAGG, toy("bans", "reputation", weighs=False)), {}),
        (
            without(
                MEAN,
                toy("bans", "reputation", weighs=False),
                toy("median", "aggregate", equal_weights=True),
            ),
            {},
        ),
    ],
    ids=range(16),
)
def test_what_adds_up_is_accepted(plugins: tuple[Enabled, ...], changes: Mapping[str, Any]) -> None:
    assert solution(*plugins, **changes).problems == ()


def test_only_privatize_plugins_hide() -> None:
    """What a plugin says it hides means nothing unless it runs before the update leaves."""
    rule = toy("krum", "aggregate", visibility=INDIVIDUAL)
    boaster = toy("boaster", "reveal", hides=Visibility.SUM)
    assert solution(*without(MEAN, boaster, rule)).problems == ()


# ── insecure, said or not said ────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-config-5")
def test_an_insecure_swarm_must_be_declared_and_is_announced() -> None:
    open_swarm = (MEMORY, MEAN)
    assert {problem.code for problem in solution(*open_swarm).problems} == {"QRES-E306"}
    declared = solution(*open_swarm, insecure=True)
    assert declared.problems == ()
    assert [text.split(";")[0] for text in declared.notices] == [
        "INSECURE: no authenticate plugin is enabled",
        "INSECURE: no replay_check plugin is enabled",
    ]


def test_insecure_excuses_nothing_else() -> None:
    codes = [problem.code for problem in solution(toy("stamp", "sign"), insecure=True).problems]
    assert codes == ["QRES-E301", "QRES-E301", "QRES-E308"]


@pytest.mark.control("C-config-5")
def test_a_swarm_declared_insecure_that_is_secure_is_not_called_insecure() -> None:
    assert solution(*COMPLETE, insecure=True) == Solution((), ())


def test_a_quorum_above_the_honest_nodes_is_noticed() -> None:
    found = solution(*COMPLETE, quorum=4)
    assert found.problems == ()
    (notice,) = found.notices
    assert "swarm.quorum 4 is above the 3 honest nodes" in notice


def test_a_mean_may_stand_where_proofs_bound_every_update_and_the_operator_is_told() -> None:
    mean = toy("mean", "aggregate", averages=True, tolerates=0)
    proof = toy("zk", "prove", "verify", bounds="length 1 each")
    assert problem(*without(MEAN, mean)).code == "QRES-E309"
    found = solution(*without(MEAN, mean, proof))
    assert found.problems == ()
    (notice,) = [text for text in found.notices if text.startswith("plugins.mean")]
    assert "plugins.zk bounds what each can do: length 1 each" in notice
    for more, changes in (((), {"weight_cap": 9}), ((toy("gate", "reputation"),), {})):
        refused = problem(*without(MEAN, mean, proof, *more), **changes)
        assert refused.code == "QRES-E309"
        assert "the proof of plugins.zk does not bound" in refused.what
    bans = toy("gate", "reputation", weighs=False)
    assert solution(*without(MEAN, mean, proof, bans)).problems == ()
    # A rule that is no mean is held to its own bound, and so is a mean beside a mere verifier.
    other = toy("median", "aggregate", tolerates=0)
    assert problem(*without(MEAN, other, proof)).code == "QRES-E309"
    assert problem(*without(MEAN, mean, toy("x", "prove", "verify"))).code == "QRES-E309"


def test_plugins_may_give_notice() -> None:
    said = Claims(tolerates=None, notices=("epsilon is large",))
    weak = Enabled("dp", Installed.local("dp", Silent), Silent(said), ())
    assert solution(*COMPLETE, weak).notices == ("plugins.dp: epsilon is large",)


# ── checks of proofs ──────────────────────────────────────────────────────────────────────────────


def test_others_word_for_proofs_needs_proofs_that_it_can_be_given_for_and_a_signature() -> None:
    shared = {"proof_checks": "committee"}
    proof = toy("zk", "prove", "verify", transferable=True)
    found = solution(*COMPLETE, proof, **shared)
    assert not found.problems
    (notice,) = [notice for notice in found.notices if "proof_checks" in notice]
    assert notice.startswith("swarm.proof_checks: 3 nodes check each proof")
    assert "at most 1 of all nodes lie" in notice
    assert not any("proof_checks" in notice for notice in solution(*COMPLETE, proof).notices)

    def refused(*plugins: Enabled, **changes: Any) -> Problem:
        found = problem(*plugins, **shared, **changes)
        assert (found.code, found.where) == ("QRES-E316", "swarm.proof_checks")
        assert found.fix == 'set it to "everyone"'
        return found

    assert "no enabled plugin has proofs" in refused(*COMPLETE).what
    own = toy("own", "prove", "verify")
    assert "the verdicts of plugins.own are a node's own" in refused(*COMPLETE, own).what
    assert "plugins.own" in refused(*COMPLETE, proof, own).what
    unsigned = refused(MEMORY, REPLAY, MEAN, proof, insecure=True)
    assert "no enabled plugin signs attestations" in unsigned.what
    assert not solution(*COMPLETE, own).problems


# ── sharded rounds ────────────────────────────────────────────────────────────────────────────────


BY_COORDINATES = Silent(Claims(tolerates=None, reads=Reads.COORDINATES))
SHARDED_RULE = Enabled("rule", Installed.local("rule", Silent), BY_COORDINATES, ("aggregate",))
SIGNED = (MEMORY, ED25519, REPLAY)
HIDING_ALL = Silent(Claims(tolerates=None, hides=Hides(Visibility.SUM)))
HIDES = Enabled("hides", Installed.local("hides", Silent), HIDING_ALL, ("privatize", "reveal"))


def test_a_rule_that_merges_each_coordinate_by_itself_can_be_sharded() -> None:
    found = solution(*SIGNED, SHARDED_RULE, aggregation="sharded")
    assert not found.problems
    (notice,) = [notice for notice in found.notices if "aggregation" in notice]
    assert notice.startswith("swarm.aggregation: 3 nodes merge each range of coordinates")
    assert "at most 1 of all nodes lie" in notice
    assert not any("aggregation" in said for said in solution(*SIGNED, SHARDED_RULE).notices)


@pytest.mark.claim("C-robust-21")
@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (HIDES, "hides updates, and cannot open sums shard by shard"),
        (toy("opener", "reveal"), "reveals whole updates"),
        (toy("shards", "reveal", "reveal_shard"), "opens shards, and does not hide updates"),
        (toy("zk", "prove", "verify"), "checks proofs of whole updates"),
        (toy("validation", "screen"), "judges whole updates before the vote"),
        (toy("judge", "endorse"), "judges before the vote what whole updates merge to"),
        (toy("fedavgm", "wrap_aggregate"), "does not claim to read coordinates or products alone"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_no_sharded_round_can_do_is_refused_by_name(plugin: Enabled, words: str) -> None:
    found = problem(*SIGNED, plugin, SHARDED_RULE, aggregation="sharded")
    assert (found.code, found.where) == ("QRES-E319", f"plugins.{plugin.name}")
    assert found.what.startswith(words)
    assert found.what.endswith('and swarm.aggregation is "sharded"')
    assert 'swarm.aggregation = "everyone"' in found.fix
    assert f"remove [plugins.{plugin.name}]" in found.fix
    assert not solution(*SIGNED, plugin, SHARDED_RULE).problems


@pytest.mark.control("C-robust-21")
def test_rules_and_wrappers_of_both_kinds_can_be_sharded_in_any_order() -> None:
    kinds = [
        Claims(tolerates=None, reads=Reads.PRODUCTS),
        Claims(tolerates=None, reads=Reads.COORDINATES),
    ]

    def local(name: str, claims: Claims, hook: str) -> Enabled:
        return Enabled(name, Installed.local(name, Silent), Silent(claims), (hook,))

    between = toy("fedavgm", "wrap_aggregate")
    for first, second, innermost in itertools.product(kinds, repeat=3):
        outer = local("outer", first, "wrap_aggregate")
        inner = local("inner", second, "wrap_aggregate")
        rule = local("rule", innermost, "aggregate")
        assert not solution(*SIGNED, outer, inner, rule, aggregation="sharded").problems
        found = problem(*SIGNED, outer, between, inner, rule, aggregation="sharded")
        assert (found.code, found.where) == ("QRES-E319", "plugins.fedavgm")


def toy_with(name: str, claims: Claims, *hooks: str) -> Enabled:
    return Enabled(name, Installed.local(name, Silent), Silent(claims), hooks)


def test_what_looks_at_no_single_update_can_be_sharded() -> None:
    unseeing = Claims(tolerates=None, reads=Reads.NOTHING)
    noise = toy_with("noise", unseeing, "privatize", "reveal", "wrap_aggregate")
    proof = toy_with("proof", unseeing, "prove", "verify", "reveal")
    plugins = (*SIGNED, toy("rounds", "privatize"), noise, proof, SHARDED_RULE)
    assert not solution(*plugins, aggregation="sharded").problems


def test_a_wrapper_of_what_is_merged_must_be_around_those_of_shards() -> None:
    momentum = toy_with("momentum", Claims(tolerates=None, reads=Reads.NOTHING), "wrap_aggregate")
    even = toy_with("even", Claims(tolerates=None, reads=Reads.COORDINATES), "wrap_aggregate")
    assert not solution(*SIGNED, momentum, even, SHARDED_RULE, aggregation="sharded").problems
    found = problem(*SIGNED, even, momentum, SHARDED_RULE, aggregation="sharded")
    assert (found.code, found.where) == ("QRES-E319", "plugins.momentum")
    assert found.what.startswith("works on what is merged, and plugins.even around it on shards")
    assert found.fix.endswith("put [plugins.momentum] before [plugins.even] in the file")


def test_where_sums_are_opened_shard_by_shard_every_rule_has_the_rows_that_are_left() -> None:
    hides = Claims(tolerates=None, hides=Hides(Visibility.GROUP, 2))
    hider = toy_with("hider", hides, "privatize", "reveal", "reveal_shard")
    rule, wrapper = toy("rule", "aggregate"), toy("wrapper", "wrap_aggregate")
    plugins = (*SIGNED, hider, wrapper, rule)
    found = solution(*plugins, aggregation="sharded")
    assert not found.problems
    (notice,) = [notice for notice in found.notices if "aggregation" in notice]
    assert "see it of all updates as plugins.hider hides them; their word" in notice
    proof = toy("proof", "prove", "verify")  # but what looks at masked updates has none
    found = problem(*SIGNED, hider, proof, wrapper, rule, aggregation="sharded")
    assert (found.code, found.where) == ("QRES-E319", "plugins.proof")


@attrs.frozen
class Remembers:
    """A rule that needs whole updates for as long as it remembers the last ones."""

    history: bool = True
    other: bool = False
    f: int = 1

    @property
    def claims(self) -> Claims:
        return Claims(tolerates=self.f, reads=Reads.WHOLE if self.history else Reads.PRODUCTS)


@pytest.mark.claim("C-robust-21")
def test_an_option_that_would_let_a_rule_be_sharded_is_named() -> None:
    rule = Enabled("rule", Installed.local("rule", Remembers), Remembers(), ("aggregate",))
    found = problem(*SIGNED, rule, aggregation="sharded")
    assert (found.code, found.where) == ("QRES-E319", "plugins.rule")
    assert "history = false in [plugins.rule], or use a rule" in found.fix
    assert "other" not in found.fix
    assert not solution(*SIGNED, rule).problems


def test_a_rule_without_the_claim_and_unsigned_words_are_refused_under_sharding() -> None:
    found = problem(*SIGNED, toy("rule", "aggregate"), aggregation="sharded")
    assert (found.code, found.where) == ("QRES-E319", "plugins.rule")
    assert "such as median" in found.fix
    assert found.fix.endswith("its authors state so in its claims")
    unsigned = problem(MEMORY, REPLAY, SHARDED_RULE, insecure=True, aggregation="sharded")
    assert (unsigned.code, unsigned.where) == ("QRES-E319", "swarm.aggregation")
    assert 'or set it to "everyone"' in unsigned.fix


@pytest.mark.parametrize("nodes", [3000, 4000])
def test_inner_products_that_no_message_can_carry_are_refused(nodes: int) -> None:
    """Here five bytes for each pair of updates: the default limit is 64 MiB."""
    compares = toy_with("rule", Claims(tolerates=None, reads=Reads.PRODUCTS), "aggregate")
    plugins = (*SIGNED, compares)

    def found(*plugins: Enabled, **more: Any) -> tuple[Problem, ...]:
        shape = {"nodes": nodes, "quorum": nodes - 1, "aggregation": "sharded", **more}
        return solve(plugins, swarm(**shape), dimension=10**7).problems

    assert not found(*SIGNED, SHARDED_RULE)
    assert not found(*plugins, aggregation="everyone")
    assert not found(*plugins, participants=3000, quorum=2900)
    if nodes == 3000:
        assert not found(*plugins)
        return
    (refused,) = found(*plugins)
    assert (refused.code, refused.where) == ("QRES-E105", "swarm.max_message_bytes")
    assert f"the inner products of {nodes} updates, which plugins.rule compares" in refused.what
    assert "such as median" in refused.fix
    (enough,) = (int(word) for word in re.findall(r"bytes = (\d+)", refused.fix))
    assert not found(*plugins, max_message_bytes=enough)


def test_products_take_no_more_bytes_than_were_counted() -> None:
    """Of the largest updates there are; and of a few coordinates no byte less."""
    compares = toy_with("rule", Claims(tolerates=None, reads=Reads.PRODUCTS), "aggregate")
    for width, rows in ((1, 7), (2, 9), (300, 5), (2**13, 3)):
        shape = swarm(nodes=rows, byzantine=0, quorum=rows, aggregation="sharded")
        counted, _what, _other = largest_word([compares], shape, width * rows)
        largest = np.full((rows, width), -(2**31), dtype=np.int32)
        assert len(encode_products(largest)) == counted


def test_sums_that_no_message_can_carry_are_refused() -> None:
    hides = Claims(tolerates=None, hides=Hides(Visibility.GROUP, 8, 4))
    hider = toy_with("hider", hides, "privatize", "reveal", "reveal_shard")
    shape: dict[str, Any] = {"nodes": 40, "byzantine": 2, "quorum": 38, "aggregation": "sharded"}
    plugins = (*SIGNED, hider, toy("rule", "aggregate"))
    limit = 2**20
    fits = solve(plugins, swarm(**shape, max_message_bytes=limit), dimension=160_000)
    assert not [item for item in fits.problems if item.code == "QRES-E105"]
    tight = solve(plugins, swarm(**shape, max_message_bytes=limit), dimension=180_000)
    (found,) = [item for item in tight.problems if "sums" in item.what]
    assert (found.code, found.where) == ("QRES-E105", "swarm.max_message_bytes")
    assert "a shard of the sums of 10 groups take up to" in found.what
    assert "larger groups" in found.fix


@attrs.define
class Asks:
    """Notes how large an update it was told there would be."""

    claims = Claims(tolerates=None)
    told: list[int] = attrs.field(factory=list[int])

    def check(self, around: Surroundings) -> list[Problem]:
        self.told.append(around.dimension)
        return []


@attrs.define
class Stops(Asks):
    """Refuses a goal."""

    def check(self, around: Surroundings) -> list[Problem]:
        return [Problem("QRES-E314", "plugins.rule", around.until, "")] if around.until else []


def test_a_plugin_is_told_of_the_goal_that_stops_the_swarm() -> None:
    rule = Enabled("rule", Installed.local("rule", Stops), Stops(), ("aggregate",))
    swarm = SwarmConfig(name="t", nodes=4, byzantine=1, quorum=3)
    assert not solve([*SIGNED, rule], swarm).problems
    (found,) = solve([*SIGNED, rule], attrs.evolve(swarm, until="loss < 1")).problems
    assert found.what == "loss < 1"


def test_a_plugin_is_told_how_large_the_model_is() -> None:
    asks = Asks()
    rule = Enabled("rule", Installed.local("rule", Asks), asks, ("aggregate",))
    swarm = SwarmConfig(name="t", nodes=4, byzantine=1, quorum=3)
    solve([*SIGNED, rule], swarm, dimension=10)
    solve([*SIGNED, rule], swarm)
    assert asks.told == [10, 0]


# ── a budget of memory ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hook", ["reveal", "verify", "screen", "endorse", "wrap_aggregate"])
def test_whole_updates_of_all_nodes_are_no_budget_of_memory(hook: str) -> None:
    pairs = {"reveal": ("privatize", "reveal"), "verify": ("prove", "verify")}
    plugin = toy("other", *pairs.get(hook, (hook,)))
    found = problem(*SIGNED, plugin, SHARDED_RULE, memory=2**20)
    assert (found.code, found.where) == ("QRES-E321", "plugins.other")
    assert found.what.endswith("and swarm.memory is set")
    assert found.fix == "swarm.memory = 0, or remove [plugins.other]"
    assert not solution(*SIGNED, plugin, SHARDED_RULE).problems


def test_a_budget_of_memory_needs_a_rule_for_ranges_and_no_committees() -> None:
    assert not solution(*SIGNED, toy("own", "privatize"), SHARDED_RULE, memory=2**20).problems
    rule = problem(*SIGNED, toy("rule", "aggregate"), memory=2**20)
    assert (rule.code, rule.fix) == ("QRES-E321", "swarm.memory = 0, or use a rule such as median")
    shards = problem(*SIGNED, SHARDED_RULE, memory=2**20, aggregation="sharded")
    assert (shards.code, shards.where) == ("QRES-E321", "swarm.memory")


# ── anything ──────────────────────────────────────────────────────────────────────────────────────

ANY_NEEDS = st.builds(
    Needs,
    visibility=st.sampled_from(Visibility),
    min_updates=st.integers(1, 9),
    families=st.lists(st.sampled_from([*SLOTS, "nonsense"]), max_size=2).map(tuple),
    equal_weights=st.booleans(),
)
ANY_CLAIMS = st.builds(
    Claims,
    tolerates=st.none() | st.integers(0, 5),
    needs=ANY_NEEDS,
    hides=st.builds(Hides, st.sampled_from(Visibility)),
)
ANY_PLUGIN = st.tuples(st.lists(st.sampled_from(ALL_HOOKS), max_size=5, unique=True), ANY_CLAIMS)
ANY_SWARM = st.builds(
    swarm,
    nodes=st.integers(5, 12),
    byzantine=st.integers(0, 5),
    quorum=st.integers(1, 5),
    weight_cap=st.integers(1, 3),
    insecure=st.booleans(),
    proof_checks=st.sampled_from(["everyone", "committee"]),
    aggregation=st.sampled_from(["everyone", "everyone", "sharded"]),
    memory=st.sampled_from([0, 0, 2**20]),
)


@attrs.frozen
class Noise:
    """Noise of three kinds, of which two are for a mean; ``alone`` allows only the first."""

    kind: str = attrs.field(default="mean", validator=options.one_of("mean", "single", "strict"))
    alone: bool = False

    def __attrs_post_init__(self) -> None:
        if self.alone and self.kind != "mean":
            raise ValueError(self.kind)

    @property
    def claims(self) -> Claims:
        return Claims(tolerates=None, needs=Needs(averaging=self.kind != "single"))


@pytest.mark.parametrize(
    ("noise", "remedy"),
    [
        (Noise(), 'or kind = "single" in [plugins.noise]'),
        (Noise("strict"), 'or kind = "single" in [plugins.noise]'),
        (Noise(alone=True), "or other options in [plugins.noise]"),
    ],
)
def test_the_word_that_helps_is_named_as_the_plugin_itself_takes_it(
    noise: Noise, remedy: str
) -> None:
    plugin = Enabled("noise", Installed.local("noise", Noise), noise, ("privatize",))
    rule = toy("median", "aggregate")
    (problem,) = solution(*without(MEAN, plugin, rule), byzantine=0).problems
    assert (problem.code, problem.where) == ("QRES-E303", "plugins.noise")
    assert problem.fix == f"use a mean, for example [plugins.mean], {remedy}"


@settings(max_examples=300)
@given(stated=st.lists(ANY_PLUGIN, max_size=7), around=ANY_SWARM)
def test_any_combination_is_solved(
    stated: list[tuple[list[str], Claims]], around: SwarmConfig
) -> None:
    """No combination makes the solver fail; and what it accepts keeps the promises it checks."""
    plugins = [
        Enabled(f"p{index}", Installed.local("p", Silent), Silent(claims), tuple(hooks))
        for index, (hooks, claims) in enumerate(stated)
    ]
    found = solve(plugins, around)
    names = {plugin.name for plugin in plugins}
    for item in found.problems:
        of_rounds = {"swarm.aggregation", "swarm.memory"}
        options = {"swarm.byzantine", "swarm.proof_checks", *of_rounds}
        assert item.where.removeprefix("plugins.") in {"plugins", *options, *names}
        apart = {"QRES-E316", "QRES-E319", "QRES-E321"}
        assert "QRES-E301" <= item.code <= "QRES-E312" or item.code in apart
    if found.problems:
        return

    def having(hook: str) -> list[Enabled]:
        return [plugin for plugin in plugins if hook in plugin.hooks]

    assert len(having("transport")) == len(having("aggregate")) == 1
    assert len(having("reputation")) <= 1
    assert around.insecure or (having("sign") and having("authenticate") and having("replay_check"))
    assert around.nodes >= 3 * around.byzantine + 1
    left = min([INDIVIDUAL, *(item.claims.hides.leaves for item in having("privatize"))])
    for seer in [*having("aggregate"), *having("wrap_aggregate"), *having("verify")]:
        assert seer.claims.needs.visibility <= left
    assert not (having("reveal") and (having("screen") or having("endorse")))
    for claims in (plugin.claims for plugin in plugins):
        assert claims.needs.min_updates <= around.quorum
        assert claims.tolerates is None or claims.tolerates >= around.byzantine
