"""Every pair and triple of plugins and modes runs, or is refused with a reason and a remedy."""

from __future__ import annotations

import random
import re

import pytest
from compatibility.covering import covering, supported_pairs
from compatibility.matrix import (
    SWARMS,
    Answer,
    answer,
    configuration,
    groups_of,
    in_file_order,
    in_framework,
    in_swarm,
    triples,
    with_options,
)
from compatibility.modes import FAMILIES, MODES, Setting
from compatibility.playing import tried

from qres_core.errors import CompatibilityError, Problem
from qres_core.kernel.discovery import scan
from qres_core.kernel.index import plugin_index
from qres_core.kernel.kernel import Kernel

TRIPLES_PLAYED = 12
PLUGINS = {mode.plugin for mode in MODES.values()}


def sides(problem: Problem) -> set[str]:
    """Plugins and options of the swarm that a refusal names."""
    text = str(problem)
    named = {name for name in PLUGINS if re.search(rf"\b{name}\b", text)}
    return named | set(re.findall(r"swarm\.\w+", text))


def explained(found: Answer) -> bool:
    """Whether one of the reasons names both sides, a part of the combination, and a remedy."""
    mine = {MODES[label].plugin for label in found.labels}
    return any(
        problem.fix
        and len(sides(problem)) >= 2
        and sides(problem) & mine
        and problem.code.startswith("QRES-E3")
        for problem in found.problems
    )


def test_every_plugin_of_the_project_has_a_row() -> None:
    assert set(plugin_index().distributions) == PLUGINS


def test_no_cell_is_unknown() -> None:
    pairs = list(groups_of(2))
    for pair in pairs:
        found = answer(pair)
        assert found.supported != bool(found.problems), pair
    assert len(supported_pairs()) > len(pairs) / 2


@pytest.mark.claim("C-composition-1")
def test_every_refusal_names_two_sides_and_a_remedy() -> None:
    pairs = [answer(pair) for pair in groups_of(2)]
    assert [pair.labels for pair in pairs if not pair.supported and not explained(pair)] == []


@pytest.mark.long
def test_every_triple_is_answered_and_explained() -> None:
    found = list(triples())
    assert len(found) > 1000
    assert [item.labels for item in found if not item.supported and not explained(item)] == []


def test_modes_stand_in_the_order_of_their_families() -> None:
    """In that of the file: pairs, answers and swarms are else of different orders."""
    places = [FAMILIES.index(mode.family) for mode in MODES.values()]
    assert places == sorted(places)


PARTS = 8
"""Several workers share the swarms that have all pairs."""


@pytest.mark.long
def test_the_swarms_that_are_played_have_every_supported_pair() -> None:
    swarms = list(covering())
    covered = {pair for swarm in swarms for pair in groups_of(2) if set(pair) <= set(swarm.modes)}
    assert covered >= set(supported_pairs())


@pytest.mark.claim("C-composition-1")
@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
def test_every_supported_pair_runs(part: int) -> None:
    swarms = list(covering())[part::PARTS]
    assert swarms
    failed = {swarm.modes: faults for swarm in swarms if (faults := tried(swarm.config, rounds=1))}
    assert failed == {}


@pytest.mark.claim("C-composition-1")
@pytest.mark.long
def test_a_sample_of_triples_runs() -> None:
    known = [triple for triple in triples() if triple.supported and len(triple.modes) < 8]
    sample = random.Random(7).sample(known, TRIPLES_PLAYED)
    failed = {item.labels: faults for item in sample if (faults := tried(item.config, rounds=1))}
    assert failed == {}


@pytest.mark.claim("C-composition-1")
@pytest.mark.control("C-composition-1")
@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        (("zk: no clip", "dp: local"), "QRES-E314", "put [plugins.dp] before [plugins.zk]"),
        (("secagg: sum", "dp: local"), "QRES-E303", "put [plugins.dp] before [plugins.secagg]"),
        (("secagg: sum", "zk: clip"), "QRES-E303", "put [plugins.zk] before [plugins.secagg]"),
        (("bucketing", "reputation: gate"), "QRES-E303", "put [plugins.reputation] before"),
        (("fedavgm", "public_validation"), "QRES-E303", "put [plugins.public_validation] before"),
    ],
)
def test_the_order_in_the_file_matters(labels: tuple[str, str], code: str, words: str) -> None:
    """What is refused in this order is supported in the other, or says so."""
    chosen = [MODES[label] for label in labels]
    rule = MODES["median" if "bucketing" in labels else "mean"]
    others = [MODES["memory"], MODES["ed25519"], MODES["replay"]]
    setting = Setting(8, 1 if "bucketing" in labels else 0)
    installed = scan()
    with pytest.raises(CompatibilityError) as caught:
        Kernel.from_config(configuration([*others, *chosen, rule], setting), installed=installed)
    problems = [problem for problem in caught.value.problems if problem.code == code]
    assert any(words in problem.fix for problem in problems), caught.value
    right = in_file_order([*others, *chosen, rule])
    Kernel.from_config(configuration(right, setting), installed=installed)


# ── other swarms ──────────────────────────────────────────────────────────────────────────────────

NOT_SHARDED = {
    "reputation: gate", "reputation: weights", "validation", "bucketing", "centred_clipping", "dnc",
    "validated_mean",
}  # fmt: skip
"""Modes that need whole updates of other nodes, if nothing hides these."""
COORDINATEWISE = {
    "memory", "libp2p", "grpc", "ed25519", "pki", "replay", "replay: challenge", "quantize", "mean",
    "median", "median: weighted", "trimmed_mean", "meamed",
}  # fmt: skip
"""Modes that leave a swarm with little memory free to take updates in slices."""
SUMS = {label for label in MODES if "secagg" in label or "distributed" in label}
REFUSED = {
    "sharded": NOT_SHARDED,
    "memory": set(MODES) - COORDINATEWISE,
    "participants": SUMS,
    "coordinator": set[str](),
}
"""By the options of the swarm."""
OF_OPTIONS = {"QRES-E319", "QRES-E321"}
"""Refusals of sharded rounds and samples, and of little memory."""


@pytest.mark.parametrize("options", SWARMS)
def test_every_mode_works_in_every_swarm_or_is_refused_by_name(options: str) -> None:
    answers = {label: in_swarm(label, options) for label in MODES}
    refused = {label: found for label, found in answers.items() if not found.supported}
    assert set(refused) == REFUSED[options]
    for label, found in refused.items():
        for problem in found.problems:
            assert problem.code in OF_OPTIONS
            assert problem.where.partition(".")[0] == "plugins"
            assert "swarm." in problem.fix, label


ONCE_EACH = [
    *(("sharded", item) for item in ("dp: local", "secagg: groups", "krum", "fedadam")),
    ("sharded", "quantize"),
    ("memory", "median"),
    ("participants", "fedadam"),
    ("coordinator", "secagg: groups"),
]


@pytest.mark.parametrize(("options", "label"), ONCE_EACH)
def test_a_swarm_runs(options: str, label: str) -> None:
    config = with_options(in_swarm(label, options), options)
    assert tried(config, rounds=2) == []


@pytest.mark.long
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("options", SWARMS)
def test_every_mode_that_is_supported_runs(options: str, part: int) -> None:
    answers = [found for label in MODES if (found := in_swarm(label, options)).supported]
    configs = {found.labels: with_options(found, options) for found in answers[part::PARTS]}
    failed = {name: bad for name, each in configs.items() if (bad := tried(each, rounds=2))}
    assert failed == {}


def test_every_mode_works_inside_a_framework_or_is_refused_by_name() -> None:
    answers = {label: in_framework(label) for label in MODES}
    refused = {label: found for label, found in answers.items() if not found.supported}
    # Nodes that address each other, heights, and news of an update have no place there.
    assert set(refused) == {
        "replay: challenge",
        "quantize",
        "secagg: bisect",
    }
    for found in refused.values():
        assert {problem.code for problem in found.problems} == {"QRES-E322"}
