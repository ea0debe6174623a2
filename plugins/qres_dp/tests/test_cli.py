"""``qres dp``: what it prints is what the modules compute, and refusals stay refusals."""

from __future__ import annotations

import json
import math
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result
from qres_dp import accounting
from qres_dp.cli import dp
from qres_dp.ledger import Owner, PrivacyBudget, PrivacyLedger
from qres_dp.ledger.record import Charge
from qres_dp.ledger.store import FILE

from qres_core import NodeId
from qres_core.cli.app import app
from qres_core.errors import ConfigError, QresError, RoundError

OWNER = Owner("swarm", NodeId(bytes([7]) * 32), "add-remove", "node")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(dp, [str(argument) for argument in arguments])


def data(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def refused(*arguments: object) -> QresError:
    result = run(*arguments)
    assert isinstance(result.exception, QresError), result.output
    return result.exception


def fill(folder: Path, count: int) -> None:
    ledger = PrivacyLedger.begin(folder, OWNER)
    for number in range(1, count + 1):
        charge = Charge(
            swarm="lab",
            node=OWNER.node,
            journal=bytes(16),
            height=number,
            round=number,
            head=bytes(32),
            mode="distributed",
            relation="add-remove",
            unit="node",
            noise_multiplier=5.0,
            sampling_rate=1.0,
            bound=2**15,
            scale=0,
            dimension=650,
            nodes=9,
            honest=1,
            content=bytes([number]) * 32,
        )
        ledger.charge(charge, PrivacyBudget(8.0, 1e-5))
    ledger.close()


def test_the_verb_is_part_of_qres() -> None:
    (entry,) = entry_points(group="qres.commands", name="dp")
    assert entry.load() is dp
    result = CliRunner().invoke(app, ["dp", "--help"])
    assert result.exit_code == 0
    assert all(verb in result.output for verb in ("plan", "ledger", "audit"))


# ── plan ──────────────────────────────────────────────────────────────────────────────────────


def test_noise_follows_from_epsilon_and_rounds() -> None:
    found = data("plan", "--epsilon", 2, "--rounds", 60)
    assert found["noise_multiplier"] == accounting.calibrate(2.0, 1e-5, 60)
    assert found["epsilon"] <= 2.0


def test_epsilon_follows_from_noise_and_rounds() -> None:
    found = data("plan", "--noise", 10, "--rounds", 100)
    assert round(found["epsilon"], 4) == 4.3772


def test_rounds_follow_from_epsilon_and_noise() -> None:
    found = data("plan", "--epsilon", 4, "--noise", 10, "--delta", 1e-6)
    rounds = found["rounds"]
    assert (
        accounting.epsilon(10.0, rounds, 1e-6) <= 4.0 < accounting.epsilon(10.0, rounds + 1, 1e-6)
    )


def test_the_tables_are_monotone() -> None:
    found = data("plan", "--epsilon", 2, "--rounds", 60)
    spent = [row["epsilon"] for row in found["by_rounds"]]
    noise = [row["noise_multiplier"] for row in found["by_epsilon"]]
    assert spent == sorted(spent)
    assert noise == sorted(noise, reverse=True)
    assert {"rounds": 60, "epsilon": found["epsilon"]} in found["by_rounds"]


WHOLE = ("--mode", "distributed", "--nodes", 100, "--dimension", 650, "--clip", 0.5)


def test_a_whole_plan_tells_the_noise() -> None:
    found = data("plan", "--epsilon", 2, "--rounds", 60, *WHOLE, "--honest", 80)
    share = found["noise_multiplier"] * 0.5 / math.sqrt(80)
    assert found["mechanism"]["noise_of_share"] == pytest.approx(share, rel=1e-6)
    text = run("plan", "--epsilon", 2, "--rounds", 60, *WHOLE, "--honest", 80).output
    assert "distributed" in text
    assert "noise in the mean of all nodes" in text


def test_the_plot_is_a_drawing_with_both_curves(tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    assert run("plan", "--epsilon", 2, "--rounds", 60, "--plot", path).exit_code == 0
    root = ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - written just now
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    for line in lines:
        points = [tuple(map(float, word.split(","))) for word in line.attrib["points"].split()]
        assert len(points) > 20
        assert all(0 <= x <= 440 and 0 <= y <= 320 for x, y in points)
    assert refused("plan", "--epsilon", 2, "--rounds", 60, "--plot", path).code == "QRES-E803"


def test_a_plot_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    error = refused("plan", "--epsilon", 2, "--rounds", 60, "--plot", tmp_path / "no" / "plan.svg")
    assert error.code == "QRES-E105"
    assert "--plot" in str(error)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--epsilon", 2), "QRES-E103"),
        (("--epsilon", 2, "--rounds", 60, "--noise", 3), "QRES-E103"),
        (("--epsilon", 0.1, "--noise", 1), "QRES-E105"),
        (("--epsilon", -1, "--rounds", 60), "QRES-E314"),
        (("--epsilon", 1, "--rounds", 60, "--mode", "local"), "QRES-E103"),
        (("--epsilon", 1, "--rounds", 60, "--plot", "x.pdf"), "QRES-E105"),
        (("--epsilon", 1, "--rounds", 60, "--clip", 0.5), "QRES-E103"),
        (("--epsilon", 1, "--rounds", 60, "--set", "plugins.dp.clip=0.5"), "QRES-E103"),
        (("--epsilon", 1, "--rounds", 60, *WHOLE), "QRES-E314"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: tuple[object, ...], code: str) -> None:
    assert refused("plan", *arguments).code == code


SWARM = """
[swarm]
name = "hospitals"
nodes = 20
byzantine = 0
quorum = 16
insecure = true

[plugins.memory]

[plugins.mean]
unprotected = true

[plugins.dp]
mode = "local"
clip = 0.5
delta = 1e-5
epsilon = 4.0
rounds = 60
"""


def swarm_file(folder: Path) -> Path:
    path = folder / "swarm.toml"
    path.write_text(SWARM, encoding="utf-8")
    return path


def test_the_plan_of_a_file_is_that_of_the_same_options(tmp_path: Path) -> None:
    path = swarm_file(tmp_path)
    of_file = data("plan", path, "--dimension", 650)
    numbers = ("--epsilon", 4, "--rounds", 60, "--mode", "local", "--nodes", 20)
    of_options = data("plan", *numbers, "--dimension", 650, "--clip", 0.5)
    for key in ("epsilon", "mu", "noise_multiplier", "round", "groups", "charges", "budget"):
        assert of_file[key] == of_options[key]
    assert of_file["mechanism"]["noise_of_share"] == of_options["mechanism"]["noise_of_share"]
    assert of_file["version"] == of_options["version"] == 2
    changed = data("plan", path, "--dimension", 650, "--set", "plugins.dp.epsilon=2.0")
    assert changed["budget"]["epsilon"] == 2.0


def test_a_plan_of_a_file_says_who_is_trusted(tmp_path: Path) -> None:
    text = run("plan", swarm_file(tmp_path), "--dimension", 650).output
    assert "from: everybody who sees what the node sends" in text
    assert "- The node's own software and machine" in text
    assert "2 nodes together epsilon" in text


def test_correlated_noise_has_a_plan_and_no_curve(tmp_path: Path) -> None:
    other = ('plugins.dp.noise="correlated"', "plugins.dp.separation=20")
    whole = ("--epsilon", 4, "--rounds", 60, *WHOLE, "--honest", 80)
    arguments = ("plan", *whole, *(part for key in other for part in ("--set", key)))
    found = data(*arguments)
    assert found["mechanism"]["noise"] == "correlated"
    assert found["epsilon"] == pytest.approx(4.0, rel=1e-6)
    assert refused(*arguments, "--plot", tmp_path / "x.svg").code == "QRES-E105"


def test_a_plan_of_a_file_that_would_not_start_is_refused(tmp_path: Path) -> None:
    path = swarm_file(tmp_path)
    assert refused("plan", path, "--set", "plugins.dp.delta=0.06").code == "QRES-E105"
    assert refused("plan", path, "--set", "swarm.scale=16").code == "QRES-E313"
    for told in (("--epsilon", 1.0), ("--delta", 1e-5), ("--scale", 0), ("--honest", 3)):
        assert refused("plan", path, *told).code == "QRES-E103", "the file says it"
    path.write_text(SWARM.partition("[plugins.dp]")[0], encoding="utf-8")
    assert refused("plan", path).code == "QRES-E103"
    assert refused("plan", tmp_path / "no.toml").code == "QRES-E101"


def test_without_a_file_only_options_of_the_plugin_can_be_set() -> None:
    arguments = ("plan", "--epsilon", 2, "--rounds", 60, *WHOLE, "--honest", 80)
    assert refused(*arguments, "--set", "swarm.scale=3").code == "QRES-E102"
    assert refused(*arguments, "--set", "plugins.dp.clipp=3.0").code == "QRES-E102"


# ── ledger ────────────────────────────────────────────────────────────────────────────────────


def test_a_ledger_is_checked_and_shown(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    found = data("ledger", tmp_path)
    assert [row["round"] for row in found["records"]] == [1, 2, 3]
    assert found["records"][2]["epsilon"] == accounting.epsilon(5.0, 3, 1e-5)
    text = run("ledger", tmp_path, "--last", 2).output
    assert "3 releases, chain and anchor hold" in text
    assert text.count("distributed") == 2


def test_a_ledger_is_found_by_the_configuration(tmp_path: Path) -> None:
    fill(tmp_path / "data", 1)
    config = tmp_path / "swarm.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n', encoding="utf-8")
    assert len(data("ledger", config)["records"]) == 1


def test_a_ledger_of_a_real_node_is_found_below_its_data_dir(tmp_path: Path) -> None:
    """There it has a folder named after the node's identity."""
    fill(tmp_path / "data" / OWNER.node.hex(), 2)
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n', encoding="utf-8")
    assert len(data("ledger", config)["records"]) == 2
    assert len(data("ledger", tmp_path / "data")["records"]) == 2
    fill(tmp_path / "data" / bytes(32).hex(), 1)
    assert refused("ledger", config).code == "QRES-E105"


def test_the_ledger_of_a_data_set_is_found_by_the_configuration(tmp_path: Path) -> None:
    fill(tmp_path / "set", 3)
    config = tmp_path / "node.toml"
    lines = f'[node]\ndata_dir = "{tmp_path}"\n[plugins.dp]\ndataset = "{tmp_path / "set"}"\n'
    config.write_text(lines, encoding="utf-8")
    rows = data("ledger", config)["records"]
    assert [row["height"] for row in rows] == [1, 2, 3]
    assert {row["swarm"] for row in rows} == {"lab"}


def test_an_empty_ledger_says_so(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    assert "nothing was released" in run("ledger", tmp_path).output


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    (tmp_path / FILE).unlink()
    error = refused("ledger", tmp_path)
    assert isinstance(error, RoundError)
    assert error.code == "QRES-E602"


@pytest.mark.parametrize("text", ["[node]\n", "not toml", "[node]\ndata_dir = 1\n", "node = 1\n"])
def test_a_configuration_without_a_folder_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(text, encoding="utf-8")
    error = refused("ledger", config)
    assert isinstance(error, ConfigError)
    assert error.code in {"QRES-E101", "QRES-E103"}


def test_a_configuration_over_1_mib_is_not_parsed(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text("#" * 2**20 + "\n", encoding="utf-8")
    error = refused("ledger", config)
    assert error.code == "QRES-E101"
    assert "over 1 MiB" in str(error)


# ── audit ─────────────────────────────────────────────────────────────────────────────────────


def test_without_its_distribution_the_audit_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(name=name.partition(".")[0])

    monkeypatch.setattr("importlib.import_module", absent)
    error = refused("audit", "--seed", "3")
    assert error.code == "QRES-E802"
    assert "qres-dp[audit]" in str(error)


def test_a_broken_audit_is_not_taken_for_one_that_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "qres_dp_audit.cli", None)
    assert type(run("audit").exception) is ModuleNotFoundError


def test_help_lists_the_audit_only_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "audit" in run("--help").output.split("Commands:")[1]
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert "audit" not in run("--help").output.split("Commands:")[1]


def test_no_epsilon_that_is_printed_is_below_the_bound() -> None:
    z = accounting.calibrate(4.0, 1e-5, 60)
    lines = run("plan", "--epsilon", 4, "--rounds", 60).output.splitlines()
    groups = [line.split() for line in lines if "nodes together epsilon" in line]
    assert [words[0] for words in groups] == ["2", "5", "10"]
    for words in groups:
        assert float(words[-1]) >= accounting.epsilon(z / int(words[0]), 60, 1e-5)
    (at,) = [i for i, line in enumerate(lines) if line.startswith("at noise multiplier")]
    assert accounting.epsilon(float(lines[at].split()[-1]), 60, 1e-5) <= 4.0
    tables = [line.split() for line in lines[at:]]
    rows = [(float(row[0]), float(row[1])) for row in tables if len(row) == 2 and row[0][0] < "A"]
    by_rounds, by_epsilon = rows[:7], rows[7:]
    assert len(by_epsilon) == 7
    assert all(eps >= accounting.epsilon(z, int(n), 1e-5) for n, eps in by_rounds)
    assert all(accounting.epsilon(noise, 60, 1e-5) <= eps for eps, noise in by_epsilon)
