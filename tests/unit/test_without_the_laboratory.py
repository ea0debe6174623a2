"""Without ``qres-lab`` the core works on, and says of what it lacks how it is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from qres_core.attacks import ATTACKS, BUILT_IN, SignFlip, catalogue, installed, make_attack
from qres_core.attacks.installed import find_sabotage, known
from qres_core.attacks.sabotage import Injection, RegisteredSabotage, SabotageContext
from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.cli import app as command_line
from qres_core.errors import LabError, PluginError
from qres_core.kernel import index
from qres_core.kernel.config import SwarmConfig, parse
from qres_core.kernel.discovery import COMMANDS_GROUP, SABOTAGE_GROUP, Installed, scan
from qres_core.kernel.index import plugin_index
from qres_core.lab import parts
from qres_core.lab.parts import part
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

REMEDY = 'pip install "qres-core[lab]": in a checkout of QRES, ./libraries/qres_lab'
VERBS = sorted(
    verb for verb, name in plugin_index().brought[COMMANDS_GROUP].items() if name == "qres-lab"
)
SWARM = SwarmConfig(name="s", nodes=7, byzantine=1, quorum=6)


@pytest.fixture
def _absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ``qres-lab`` were not installed."""
    found = command_line.plugin_verbs()
    kept = {name: entry for name, entry in found.items() if name not in VERBS}
    monkeypatch.setattr(command_line, "plugin_verbs", lambda: kept)

    def scan_without(*, group: str) -> Mapping[str, Installed]:
        here = scan(group=group)
        return {name: item for name, item in here.items() if item.distribution != "qres-lab"}

    for module in (index, installed, parts):
        monkeypatch.setattr(module, "scan", scan_without)
    seven = {name: attack for name, attack in ATTACKS.items() if name in BUILT_IN}
    monkeypatch.setattr(installed, "ATTACKS", seven)
    monkeypatch.setattr(installed, "SABOTAGE", {})


ASKED: dict[str, Callable[[], object]] = {
    "an attack": lambda: make_attack("mimic"),
    "an attack on the protocol": lambda: find_sabotage("replay"),
    "the vectorised engine": lambda: part("vectorised", "simulation.engine"),
    "the trial of a round": lambda: part("shadow", "simulation.attack"),
}


@pytest.mark.usefixtures("_absent")
def test_every_command_of_it_is_refused_with_the_remedy() -> None:
    assert VERBS == ["attack", "certify", "demo", "new-plugin", "swarm"]
    for verb in VERBS:
        error = CliRunner().invoke(command_line.app, [verb, "--help"]).exception
        assert isinstance(error, PluginError)
        assert "QRES-E201" in str(error)
        assert REMEDY in str(error)
    shown = CliRunner().invoke(command_line.app, ["--help"]).output
    assert "qres-lab" not in shown


def test_control_with_it_every_command_of_it_is_there() -> None:
    for verb in VERBS:
        assert CliRunner().invoke(command_line.app, [verb, "--help"]).exit_code == 0
    assert "(qres-lab)" in CliRunner().invoke(command_line.app, ["--help"]).output


@pytest.mark.usefixtures("_absent")
def test_a_command_that_nobody_knows_is_still_a_wrong_usage() -> None:
    done = CliRunner().invoke(command_line.app, ["atack"])
    assert (done.exit_code, "No such command" in done.output) == (2, True)


@pytest.mark.usefixtures("_absent")
@pytest.mark.parametrize("what", ASKED)
def test_what_it_brings_is_refused_with_the_remedy(what: str) -> None:
    with pytest.raises(LabError) as refusal:
        ASKED[what]()
    assert "QRES-E201" in str(refusal.value)
    assert REMEDY in str(refusal.value)


@pytest.mark.parametrize("what", ASKED)
def test_control_with_it_there_is_what_it_brings(what: str) -> None:
    assert ASKED[what]() is not None


@pytest.mark.usefixtures("_absent")
@pytest.mark.parametrize(
    ("simulation", "where"),
    [
        ({"attack": "mimic"}, "simulation.attack: 'mimic'"),
        ({"attack": "replay"}, "simulation.attack: 'replay'"),
        ({"attack": "sign_flip", "sabotage": "flood"}, "simulation.sabotage: 'flood'"),
        ({"attack": "sign_flip", "engine": "vectorised"}, "simulation.engine: 'vectorised'"),
    ],
)
def test_a_file_that_wants_it_is_read_and_not_simulated(
    simulation: dict[str, Any], where: str
) -> None:
    """A node takes no notice of ``[simulation]``, and starts."""
    tables = {
        "swarm": {"name": "s", "nodes": 7, "byzantine": 1, "quorum": 6, "insecure": True},
        "plugins": {"memory": {}, "mean": {"unprotected": True}},
        "simulation": {"attackers": 1, "rounds": 1, **simulation},
        "trainer": {"task": {"name": "quadratic"}},
    }
    config = parse(tables, source="x.toml", sections=SECTIONS)
    with pytest.raises(LabError) as refusal:
        simulate(config, config.sections["simulation"])
    assert f"QRES-E201 {where} is not installed" in str(refusal.value)
    assert REMEDY in str(refusal.value)


def test_control_with_it_such_a_file_is_simulated() -> None:
    scenario = Scenario(attack="mimic", attackers=1, rounds=1, engine="vectorised")
    swarm = {"name": "s", "nodes": 7, "byzantine": 1, "quorum": 6, "insecure": True}
    plugins = {"memory": {}, "mean": {"unprotected": True}}
    config = parse({"swarm": swarm, "plugins": plugins}, source="x.toml")
    result = simulate(config, scenario, task=TaskConfig(name="quadratic"))
    assert len(result.closed) == 1


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        (Scenario(attack="mimick", attackers=1), "did you mean 'mimic'"),
        (Scenario(attack="sign_flip", attackers=1, sabotage="mimic"), "no attack on the protocol"),
    ],
)
@pytest.mark.usefixtures("_absent")
def test_what_nobody_knows_is_told_when_the_file_is_read(scenario: Scenario, told: str) -> None:
    (problem,) = scenario.misfits(SWARM)
    assert (problem.code, told in f"{problem.what} {problem.fix}") == ("QRES-E801", True)


@pytest.mark.usefixtures("_absent")
def test_the_seven_of_the_core_are_there_and_a_misspelt_one_is_told() -> None:
    assert set(known()) == BUILT_IN == set(catalogue())
    assert isinstance(make_attack("sign_flip"), SignFlip)
    with pytest.raises(LabError, match=r"QRES-E801.*did you mean 'sign_flip'"):
        make_attack("sign_flop")


# ── attacks on the protocol, as any distribution brings them ──────────────────────────────────────


@attrs.frozen
class Quiet:
    """Injects nothing."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        del context
        return ()


@pytest.fixture
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """``quiet`` is an entry point of some distribution."""
    found = {"quiet": Installed.local("quiet", Quiet)}
    monkeypatch.setattr(
        installed, "scan", lambda *, group: found if group == SABOTAGE_GROUP else {}
    )
    monkeypatch.setattr(installed, "SABOTAGE", {})


@pytest.mark.usefixtures("_quiet")
def test_an_attack_on_the_protocol_is_found_by_its_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        installed, "SABOTAGE", {"quiet": RegisteredSabotage("quiet", "says nothing", Quiet)}
    )
    assert installed.on_protocol() == ["quiet"]
    assert find_sabotage("quiet").make() == Quiet()
    assert list(installed.sabotages()) == ["quiet"]


@pytest.mark.usefixtures("_quiet")
def test_one_that_is_not_registered_under_its_name_is_refused() -> None:
    assert "quiet" in known()
    with pytest.raises(PluginError, match=r"QRES-E206 sabotage.quiet: .*not registered"):
        find_sabotage("quiet")
    with pytest.raises(PluginError, match="QRES-E206"):
        installed.sabotages()
