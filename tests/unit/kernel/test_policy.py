"""A site policy: what a configuration must give, whatever its author wants."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import Claims, Updates, Vector, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import CompatibilityError, ConfigError, PluginError
from qres_core.kernel import compliance
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.compliance import enforce, remarks, unmet
from qres_core.kernel.config import Config, parse
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.policy import PolicyRule, SitePolicy, in_force, load

SwarmTable = Callable[..., dict[str, Any]]
Write = Callable[..., Path]


@attrs.frozen
class Budgeted:
    """A rule with a budget that 0 leaves to follow from the rounds, as a privacy budget may."""

    epsilon: float = 0.0
    rounds: int = 0
    mode: str = "local"
    open: bool = False
    modes: tuple[str, ...] = ()

    @property
    def claims(self) -> Claims:
        """What the budget comes to."""
        return Claims(tolerates=None, effective={"epsilon": self.epsilon or float(self.rounds)})

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        """Unused."""
        vector: Vector = updates.vectors[0]
        return vector


@attrs.frozen
class Silent(Budgeted):
    """A plugin that does not say properly what its options come to."""

    @property
    def claims(self) -> Any:
        """No mapping."""
        return Claims(tolerates=None, effective=cast("Any", 3))


INSTALLED = {
    "mean": Installed.local("mean", Mean),
    "memory": Installed.local("memory", Memory),
    "dp": Installed.local("dp", Budgeted),
    "silent": Installed.local("silent", Silent),
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(text: str, name: str = "policy.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return put


def problems_of(path: Path) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [(problem.code, problem.where, problem.what) for problem in caught.value.problems]


def refused(policies: list[SitePolicy], raw: dict[str, Any]) -> list[str]:
    """Where the policies are not met."""
    config = parse(raw, source="job.toml", sections={})
    found = unmet(policies, config, assemble(config, INSTALLED))
    assert {problem.code for problem in found} <= {"QRES-E315"}
    assert all(item.fix for item in found)
    return [item.where for item in found]


# ── the file ──────────────────────────────────────────────────────────────────────────────────────


def test_a_policy_is_read_whole(write: Write) -> None:
    path = write("""
        require = ["ed25519"]
        forbid = ["mean"]
        families = ["authenticate"]
        [at_least]
        swarm.byzantine = 1
        [at_most]
        "plugins.dp.epsilon" = 4
        [equals.swarm]
        insecure = false
        [one_of]
        plugins.dp.mode = ["local", "distributed"]
    """)
    assert load(path) == SitePolicy(
        str(path),
        ("ed25519",),
        ("mean",),
        ("authenticate",),
        (
            PolicyRule("at_least", ("swarm", "byzantine"), 1),
            PolicyRule("at_most", ("plugins", "dp", "epsilon"), 4),
            PolicyRule("equals", ("swarm", "insecure"), bound=False),
            PolicyRule("one_of", ("plugins", "dp", "mode"), ["local", "distributed"]),
        ),
    )


@pytest.mark.parametrize(
    ("text", "code", "key"),
    [
        ("requires = []", "QRES-E102", "requires"),
        ("require = 'dp'", "QRES-E104", "require"),
        ("require = [3]", "QRES-E104", "require[0]"),
        ("families = ['authentication']", "QRES-E105", "families"),
        ("require = ['mean']\nforbid = ['mean']", "QRES-E105", "require"),
        ("at_least = 3", "QRES-E104", "at_least"),
        ("at_least.swarm.byzantin = 1", "QRES-E102", "at_least.swarm.byzantin"),
        ("at_least.swarm = 1", "QRES-E102", "at_least.swarm"),
        ("at_least.simulation.rounds = 1", "QRES-E102", "at_least.simulation.rounds"),
        ("at_least.plugins.dp = 1", "QRES-E102", "at_least.plugins.dp"),
        ("at_least.'plugins..x' = 1", "QRES-E102", "at_least.plugins..x"),
        ("at_least.swarm.byzantine = true", "QRES-E104", "at_least.swarm.byzantine"),
        ("at_least.swarm.byzantine = 'one'", "QRES-E104", "at_least.swarm.byzantine"),
        ("at_most.plugins.dp.epsilon = nan", "QRES-E104", "at_most.plugins.dp.epsilon"),
        ("at_most.plugins.dp.epsilon = inf", "QRES-E104", "at_most.plugins.dp.epsilon"),
        ("at_most.plugins.dp.epsilon = {}", "QRES-E104", "at_most.plugins.dp.epsilon"),
        ("equals.plugins.dp = {}", "QRES-E104", "equals.plugins.dp"),
        ("one_of.plugins.dp.mode = 'local'", "QRES-E104", "one_of.plugins.dp.mode"),
        ("one_of.plugins.dp.mode = []", "QRES-E104", "one_of.plugins.dp.mode"),
        (  # one key, written in two ways
            "at_most.plugins.dp.epsilon = 4\nat_most.'plugins.dp.epsilon' = 8",
            "QRES-E105",
            "at_most.plugins.dp.epsilon",
        ),
    ],
)
def test_a_malformed_policy_is_refused_where_it_is_wrong(
    write: Write, text: str, code: str, key: str
) -> None:
    path = write(text)
    found = problems_of(path)
    assert [item[:2] for item in found] == [(code, f"{path}: {key}")]


@pytest.mark.parametrize("text", ["", "# nothing yet", "require = []", "[at_least]"])
def test_a_policy_that_demands_nothing_is_a_file_cut_short(write: Write, text: str) -> None:
    path = write(text)
    assert [item[:2] for item in problems_of(path)] == [("QRES-E103", str(path))]


def test_an_unreadable_policy_is_refused_and_named(tmp_path: Path, write: Write) -> None:
    missing = tmp_path / "none.toml"
    assert problems_of(missing)[0][:2] == ("QRES-E101", str(missing))
    garbled = write("require = [")
    assert problems_of(garbled)[0][:2] == ("QRES-E101", str(garbled))


@given(st.binary(max_size=60) | st.text(alphabet="[]{}=\"'.#\n atlesqumory13", max_size=60))
def test_any_bytes_are_a_policy_or_named_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes | str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    wrong: list[str] = []
    try:
        policy = load(path)
    except ConfigError as error:
        wrong = [
            problem.where for problem in error.problems if not problem.where.startswith(str(path))
        ]
    else:
        assert attrs.evolve(policy, source="") != SitePolicy("")
    assert not wrong


# ── where policies come from ──────────────────────────────────────────────────────────────────────


def test_every_source_applies_and_none_replaces_another(tmp_path: Path, write: Write) -> None:
    files = [write(f"require = ['p{k}']", f"{k}.toml") for k in range(4)]
    environment = {"QRES_POLICY": os.pathsep.join(map(str, files[1:3]))}
    found = in_force([files[3]], environment=environment, system=files[0])
    assert [item.require for item in found] == [("p0",), ("p1",), ("p2",), ("p3",)]
    assert in_force([], environment={}, system=tmp_path / "none") == ()
    assert in_force([], environment={"QRES_POLICY": ""}, system=tmp_path / "a" / "b") == ()


def test_what_is_named_and_cannot_be_read_is_refused_together(tmp_path: Path, write: Write) -> None:
    broken = write("requires = []")
    environment = {"QRES_POLICY": str(tmp_path / "gone.toml")}
    with pytest.raises(ConfigError) as caught:
        in_force([broken], environment=environment, system=tmp_path / "none")
    assert [problem.code for problem in caught.value.problems] == ["QRES-E101", "QRES-E102"]


def test_a_system_policy_that_leads_nowhere_is_no_absent_one(tmp_path: Path) -> None:
    link = tmp_path / "policy.toml"
    link.symlink_to(tmp_path / "moved away")
    with pytest.raises(ConfigError, match="QRES-E101"):
        in_force([], environment={}, system=link)
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(ConfigError, match="QRES-E101"):
        in_force([], environment={}, system=folder)


def test_a_system_policy_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path, *_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ConfigError, match=r"QRES-E101 .*Permission denied"):
        in_force([], environment={}, system=tmp_path / "policy.toml")


# ── attempts to weaken ────────────────────────────────────────────────────────────────────────────


def job(swarm_table: SwarmTable, **plugins: Any) -> dict[str, Any]:
    return {"swarm": swarm_table(), "plugins": {"memory": {}, **(plugins or {"mean": {}})}}


def test_a_job_that_meets_the_policy_starts(swarm_table: SwarmTable) -> None:
    policy = SitePolicy(
        "site.toml",
        ("dp",),
        ("mean",),
        ("aggregate",),
        (PolicyRule("at_most", ("plugins", "dp", "epsilon"), 4.0),),
    )
    assert refused([policy], job(swarm_table, dp={"epsilon": 4})) == []
    config = parse(job(swarm_table, dp={"epsilon": 4}), source="job", sections={})
    enforce([policy], config, assemble(config, INSTALLED))


@pytest.mark.claim("C-composition-10")
def test_leaving_a_plugin_out_or_bringing_one_in(swarm_table: SwarmTable) -> None:
    policy = SitePolicy("site.toml", ("dp",), ("mean",), ("authenticate",))
    assert refused([policy], job(swarm_table)) == ["plugins.dp", "plugins.mean", "plugins"]


def test_a_key_that_is_left_out_counts_with_its_default(swarm_table: SwarmTable) -> None:
    rules = (
        PolicyRule("at_least", ("swarm", "weight_cap"), 2),
        PolicyRule("equals", ("plugins", "dp", "open"), bound=True),
        PolicyRule("equals", ("node", "status"), ""),
    )
    policy = SitePolicy("site.toml", rules=rules)
    wanted = ["swarm.weight_cap", "plugins.dp.open", "node.status"]
    assert refused([policy], job(swarm_table, dp={"epsilon": 1})) == wanted


def test_zero_that_means_as_much_as_it_takes_is_no_way_below_a_ceiling(
    swarm_table: SwarmTable,
) -> None:
    policy = SitePolicy(
        "site.toml", rules=(PolicyRule("at_most", ("plugins", "dp", "epsilon"), 4.0),)
    )
    assert refused([policy], job(swarm_table, dp={"rounds": 100})) == ["plugins.dp.epsilon"]
    assert refused([policy], job(swarm_table, dp={"rounds": 3})) == []


@pytest.mark.claim("C-composition-10")
def test_a_looser_policy_beside_loosens_nothing(swarm_table: SwarmTable) -> None:
    key = ("plugins", "dp", "epsilon")
    strict = SitePolicy("strict", rules=(PolicyRule("at_most", key, 1.0),))
    loose = SitePolicy("loose", rules=(PolicyRule("at_most", key, 100.0),))
    raw = job(swarm_table, dp={"epsilon": 8.0})
    assert refused([strict, loose], raw) == refused([loose, strict], raw) == ["plugins.dp.epsilon"]


def test_an_option_the_plugin_does_not_have_is_refused(swarm_table: SwarmTable) -> None:
    """A misspelt rule would bound nothing; so would one on a private field or a property."""
    for option in ("epsilom", "effective", "aggregate", "__class__"):
        policy = SitePolicy(
            "site.toml", rules=(PolicyRule("at_most", ("plugins", "dp", option), 4.0),)
        )
        assert refused([policy], job(swarm_table, dp={"epsilon": 1})) == [f"plugins.dp.{option}"]


def test_a_truth_value_is_no_number_and_a_number_no_truth_value(swarm_table: SwarmTable) -> None:
    rules = (
        PolicyRule("at_least", ("plugins", "dp", "open"), 0),
        PolicyRule("equals", ("plugins", "dp", "open"), 0),
        PolicyRule("equals", ("plugins", "dp", "rounds"), bound=False),
        PolicyRule("at_most", ("plugins", "dp", "mode"), 5),
        PolicyRule("one_of", ("plugins", "dp", "open"), [0, 1]),
    )
    found = refused([SitePolicy("site.toml", rules=rules)], job(swarm_table, dp={"epsilon": 1}))
    assert len(found) == len(rules)


def test_arrays_and_choices_are_compared_by_value(swarm_table: SwarmTable) -> None:
    fits = (
        PolicyRule("equals", ("plugins", "dp", "modes"), ["a", "b"]),
        PolicyRule("one_of", ("plugins", "dp", "modes"), [["a"], ["a", "b"]]),
        PolicyRule("one_of", ("plugins", "dp", "mode"), ["local", "distributed"]),
    )
    raw = job(swarm_table, dp={"epsilon": 1, "modes": ["a", "b"]})
    assert refused([SitePolicy("site.toml", rules=fits)], raw) == []
    raw["plugins"]["dp"] = {"epsilon": 1, "modes": ["b", "a"], "mode": "central"}
    assert len(refused([SitePolicy("site.toml", rules=fits)], raw)) == 3


def test_a_plugin_that_hides_what_its_options_come_to_is_refused(swarm_table: SwarmTable) -> None:
    policy = SitePolicy(
        "site.toml", rules=(PolicyRule("at_most", ("plugins", "silent", "epsilon"), 4.0),)
    )
    with pytest.raises(PluginError, match="QRES-E210"):
        refused([policy], job(swarm_table, silent={}))


@given(
    value=st.integers(-5, 5) | st.floats(-5, 5),
    strict=st.integers(-5, 5) | st.floats(-5, 5),
    loose=st.integers(-5, 5) | st.floats(-5, 5),
)
def test_rules_together_are_as_strict_as_the_strictest(
    value: float, strict: float, loose: float
) -> None:
    key = ("plugins", "dp", "epsilon")
    ceilings = [PolicyRule("at_most", key, strict), PolicyRule("at_most", key, loose)]
    assert all(ceiling.allows(value) for ceiling in ceilings) == (value <= min(strict, loose))
    floors = [PolicyRule("at_least", key, strict), PolicyRule("at_least", key, loose)]
    assert all(floor.allows(value) for floor in floors) == (value >= max(strict, loose))
    assert not any(ceiling.allows(float("nan")) for ceiling in [*ceilings, *floors])


# ── what is said ──────────────────────────────────────────────────────────────────────────────────


def test_a_refusal_names_the_policy_the_rule_the_key_the_value_and_the_fix(
    swarm_table: SwarmTable,
) -> None:
    policy = SitePolicy(
        "/etc/qres/policy.toml",
        ("zk",),
        rules=(PolicyRule("equals", ("swarm", "insecure"), bound=False),),
    )
    config = parse(job(swarm_table), source="job.toml", sections={})
    with pytest.raises(CompatibilityError) as caught:
        enforce([policy], config, assemble(config, INSTALLED))
    said = "the site policy /etc/qres/policy.toml"
    assert [(problem.where, problem.what, problem.fix) for problem in caught.value.problems] == [
        (
            "plugins.zk",
            f"not enabled, and {said} requires it (require)",
            "add [plugins.zk]; if it is not installed: make node, in a checkout of QRES",
        ),
        (
            "swarm.insecure",
            f"is true, and {said} says it must be false (equals)",
            "swarm.insecure = false",
        ),
    ]


def test_a_diagnosis_tells_policies_with_everything_else(swarm_table: SwarmTable) -> None:
    policy = SitePolicy("site.toml", ("zk",), ("mean",))
    tables: tuple[dict[str, object], ...] = ({}, {"unprotecte": True})
    for table in tables:
        raw = job(swarm_table, mean=table)
        found = diagnose(raw, source="job", sections={}, installed=INSTALLED, policies=[policy])
        where = [problem.where for problem in found.problems if problem.code == "QRES-E315"]
        assert where == ["plugins.zk", "plugins.mean"]
        assert not any("site policy" in notice for notice in found.notices)


def test_rules_that_do_nothing_are_remarked_on(swarm_table: SwarmTable) -> None:
    policy = SitePolicy(
        "site.toml",
        (),
        ("medianne",),
        (),
        (PolicyRule("at_most", ("plugins", "zk", "bound"), 4.0),),
    )
    config = parse(job(swarm_table), source="job.toml", sections={})
    said = list(remarks([policy], config, INSTALLED))
    assert said[0] == "site policy site.toml: met"
    assert "forbids 'medianne', which is not known; did you mean 'median'?" in said[1]
    assert "'zk', which is not enabled; add it to require" in said[2]


@pytest.mark.parametrize(
    ("rule", "what", "fix"),
    [
        (
            PolicyRule("at_least", ("plugins", "dp", "least"), 5),
            "is not set, and the site policy site.toml says",
            "set plugins.dp.least",
        ),
        (
            PolicyRule("one_of", ("plugins", "dp", "mode"), ["central", "distributed"]),
            'is "local", and the site policy site.toml says',
            'plugins.dp.mode = "central" or "distributed"',
        ),
        (
            PolicyRule("at_most", ("plugins", "dp", "limits", "hourly"), 3),
            "is 9, and the site policy site.toml says",
            "plugins.dp.limits.hourly <= 3",
        ),
        (
            PolicyRule("at_most", ("plugins", "dp", "limits", "hourli"), 3),
            "the plugin dp has no such option",
            "correct the policy",
        ),
        (
            PolicyRule("at_most", ("plugins", "dp", "mode", "local"), 3),
            "the plugin dp has no such option",
            "correct the policy",
        ),
        (
            PolicyRule("equals", ("plugins", "dp", "limits"), {"hourly": 9}),
            "",
            "",
        ),
        (
            PolicyRule("equals", ("plugins", "dp", "odd"), 1),
            "is {1}, and the site policy site.toml says",  # no value of TOML
            "plugins.dp.odd = 1",
        ),
    ],
)
def test_a_refusal_shows_the_value_as_the_file_would(
    swarm_table: SwarmTable, rule: PolicyRule, what: str, fix: str
) -> None:
    @attrs.frozen
    class Limited(Budgeted):
        """With a table of its own, and a value that no file has."""

        limits: dict[str, int] = attrs.field(factory=lambda: {"hourly": 9})
        odd: frozenset[int] = frozenset({1})
        least: int | None = None

    installed = {**INSTALLED, "dp": Installed.local("dp", Limited)}
    config = parse(job(swarm_table, dp={"epsilon": 1}), source="job.toml", sections={})
    policy = SitePolicy("site.toml", rules=(rule,))
    found = list(unmet([policy], config, assemble(config, installed)))
    if not what:
        assert found == []
        return
    (problem,) = found
    assert (problem.code, problem.where) == ("QRES-E315", ".".join(rule.key))
    assert problem.what.replace("frozenset({1})", "{1}").startswith(what)
    assert problem.fix.startswith(fix)


def test_a_rule_on_a_plugin_that_is_not_enabled_bounds_nothing(swarm_table: SwarmTable) -> None:
    rule = PolicyRule("at_most", ("plugins", "dp", "epsilon"), 4.0)
    assert refused([SitePolicy("site.toml", rules=(rule,))], job(swarm_table)) == []


# ── words that an option does not have ────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["equals", "one_of"])
def test_a_mode_that_is_gone_is_refused_in_a_policy(
    kind: str, swarm_table: SwarmTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _private(swarm_table)
    bound = "central" if kind == "equals" else ["local", "central"]
    policy = SitePolicy("p.toml", rules=(PolicyRule(kind, ("plugins", "dp", "mode"), bound),))
    (problem,) = unmet([policy], *job)
    assert (problem.code, problem.where) == ("QRES-E315", "plugins.dp.mode")
    assert 'mode "central" is gone' in problem.what
    assert "the site policy p.toml" in problem.what
    assert "correct the policy" in problem.fix
    # The controls: words that there are, and the same policy without the look at them.
    fits = SitePolicy("p.toml", rules=(PolicyRule("one_of", policy.rules[0].key, ["local"]),))
    assert not unmet([fits], *job)
    monkeypatch.setattr(compliance, "_no_choice", lambda *_arguments: None)
    assert bool(unmet([policy], *job)) is (kind == "equals")  # one of several was taken


def test_a_word_near_to_one_is_suggested(swarm_table: SwarmTable) -> None:
    rule = PolicyRule("one_of", ("plugins", "dp", "unit"), ["node", "recrod"])
    (problem,) = unmet([SitePolicy("p.toml", rules=(rule,))], *_private(swarm_table))
    assert "'recrod'" in problem.what
    assert "'record'" in problem.fix


def test_a_policy_on_an_option_that_went_says_why(swarm_table: SwarmTable) -> None:
    rule = PolicyRule("equals", ("plugins", "dp", "sampling"), "none")
    (problem,) = unmet([SitePolicy("p.toml", rules=(rule,))], *_private(swarm_table))
    assert "it is gone: at an equal budget, sampled nodes cost accuracy" in problem.fix


def _private(swarm_table: SwarmTable) -> tuple[Config, tuple[Enabled, ...]]:
    """A job with the plugin dp, and its plugins."""
    dp = {"mode": "local", "clip": 1.0, "delta": 1e-6, "epsilon": 4.0, "rounds": 10}
    raw = {"swarm": swarm_table(), "plugins": {"memory": {}, "dp": dp, "mean": {}}}
    config = parse(raw, source="job.toml")
    return config, assemble(config, scan())
