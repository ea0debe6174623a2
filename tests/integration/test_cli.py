"""The command line as a user meets it: real processes, real exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from qres_core.cli import app
from qres_core.cli.display import RoundTable
from qres_core.cli.explain import log_ids
from qres_core.cli.node import standard_input
from qres_core.cli.options import read_config
from qres_core.contract.errors import ERRORS
from qres_core.contract.faults import Fault
from qres_core.contract.transport import LinkReason
from qres_core.errors import ConfigError
from qres_core.lab.record import RoundRecord
from qres_core.node import daemon

QRES = str(Path(sys.executable).with_name("qres"))

GOOD = """
[swarm]
name = "cli"
nodes = 7
byzantine = 2
quorum = 7
insecure = true
[plugins.memory]
[plugins.krum]
f = 2
[simulation]
rounds = 2
seed = 3
[trainer.task]
name = "quadratic"
dimension = 20
"""


def qres(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [QRES, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        timeout=900,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "qres.toml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    result = qres("--help")
    assert result.returncode == 0
    for verb in ("demo", "simulate", "plugins", "check", "init", "new-plugin"):
        assert verb in result.stdout
    code = (
        "import sys, click.testing; from qres_core.cli.app import app;"
        "click.testing.CliRunner().invoke(app, ['--help']);"
        "heavy = {'numpy', 'rich', 'cattrs', 'pluggy', 'sklearn', 'matplotlib'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=900)


def test_help_says_what_the_commands_of_plugins_do() -> None:
    told = " ".join(qres("--help").stdout.split())
    assert "keygen Make a private key and write it to PATH" in told
    assert "(qres-ed25519)" in told
    assert "cli:" not in told


@pytest.mark.parametrize("verb", ["demo", "simulate", "plugins", "check", "init", "new-plugin"])
def test_every_verb_has_help(verb: str) -> None:
    result = qres(verb, "--help")
    assert result.returncode == 0, result.stderr
    assert "--json" in result.stdout


def test_plugins_lists_without_importing() -> None:
    rows = {row["name"]: row for row in json.loads(qres("plugins", "--json").stdout)}
    assert rows["krum"]["distribution"] == "qres-krum"
    assert rows["krum"]["hooks"] == ["aggregate"]
    assert rows["krum"]["status"] == "installed"
    assert rows["memory"]["hooks"] == ["round_opened", "transport"]
    assert rows["memory"]["summary"] == "Carries frames between nodes of one process"
    assert rows["krum"]["version"]
    assert all(row["hooks"] and row["summary"] for row in rows.values())
    assert "qres-krum" in qres("plugins").stdout


@pytest.mark.claim("C-config-5")
def test_check_prints_the_pipeline(config: Path) -> None:
    result = qres("check", str(config), "--json")
    assert result.returncode == 0
    report = json.loads(result.stdout)
    families = {
        row["family"]: [plugin["name"] for plugin in row["plugins"]] for row in report["pipeline"]
    }
    assert families["aggregate"] == ["krum"]
    assert families["transport"] == ["memory"]
    assert any("INSECURE" in notice for notice in report["notices"])
    assert report["settings"]["values"]["plugins.krum.f"] == 2
    assert report["settings"]["digest"].startswith(report["settings"]["short"])
    shown = qres("check", str(config))
    assert f"shared settings {report['settings']['short']}" in shown.stdout
    assert "would start" in shown.stdout
    assert "INSECURE" in shown.stdout


def test_check_reports_every_problem_at_once(config: Path) -> None:
    text = GOOD.replace("f = 2\n[simulation]", 'f = "2"\n[plugins.kurm]\nf = 1\n[simulation]')
    config.write_text(text.replace("nodes = 7", "nodez = 7"), encoding="utf-8")
    result = qres("check", str(config), "--json")
    assert result.returncode == 2
    problems = {
        (problem["code"], problem["where"]): problem
        for problem in json.loads(result.stdout)["problems"]
    }
    assert problems["QRES-E102", "swarm.nodez"]["fix"] == "did you mean 'nodes'?"
    assert ("QRES-E103", "swarm.nodes") in problems
    assert ("QRES-E104", "plugins.krum.f") in problems
    assert problems["QRES-E201", "plugins.kurm"]["fix"] == "did you mean 'krum'?"


def test_errors_go_to_stderr_with_exit_2(tmp_path: Path) -> None:
    result = qres("check", str(tmp_path / "absent.toml"))
    assert result.returncode == 2
    assert result.stdout == ""
    assert "QRES-E101" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_an_output_that_takes_nothing_is_named() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [QRES, "plugins"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "qres: the output cannot be written: No space left on device\n"


def test_a_box_in_a_folder_that_cannot_be_made_is_refused_by_name(config: Path) -> None:
    (config.parent / "file").write_text("")
    config.write_text(GOOD.replace("insecure = true", "") + "[plugins.ed25519]\n[plugins.replay]\n")
    result = qres("swarm", "up", str(config), "--folder", str(config.parent / "file" / "box"))
    assert result.returncode == 2
    assert "QRES-E803" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_node_without_standard_input_does_not_wait_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(click.UsageError, match="there is no standard input"):
        standard_input()


def test_a_simulation_makes_as_many_models_as_the_swarm_is_to_make(tmp_path: Path) -> None:
    path = tmp_path / "qres.toml"
    path.write_text(GOOD.replace("rounds = 2", "").replace("quorum = 7", "quorum = 7\nrounds = 3"))
    report = json.loads(qres("simulate", str(path), "--json").stdout)
    assert sum(played["closed"] for played in report["rounds"]) == 3
    until = ("--set", 'swarm.until="loss <= 0.1"')
    report = json.loads(qres("simulate", str(path), "--rounds", "2", *until, "--json").stdout)
    assert sum(played["closed"] for played in report["rounds"]) == 2
    assert any("swarm.until" in notice for notice in report["notices"])


def test_a_table_in_a_pipe_is_printed_as_far_as_it_came() -> None:
    piped = io.StringIO()
    rounds = RoundTable("a swarm")

    def interrupted() -> None:
        with rounds.shown(Console(file=piped, width=120)):
            rounds.add(RoundRecord(number=1, closed=True, metrics={"loss": 0.25}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "a swarm" in piped.getvalue()
    assert "0.25" in piped.getvalue()


@pytest.mark.claim("C-config-5")
def test_simulate_prints_rounds_and_is_deterministic(config: Path) -> None:
    first = qres("simulate", str(config), "--json")
    assert first.returncode == 0, first.stderr
    again = qres("simulate", str(config), "--json")
    assert first.stdout == again.stdout
    data = json.loads(first.stdout)
    assert data["unanimous"] is True
    assert [record["closed"] for record in data["rounds"]] == [True, True]
    other = json.loads(qres("simulate", str(config), "--json", "--seed", "4").stdout)
    assert other["model_digests"] != data["model_digests"]
    table = qres("simulate", str(config), "--attack", "noise")
    assert table.returncode == 0, table.stderr
    assert "2 noise" in table.stdout  # as many attackers as swarm.byzantine
    assert "INSECURE" in table.stdout
    assert "\x1b" not in table.stdout


def test_simulate_that_cannot_close_exits_1(config: Path) -> None:
    result = qres("simulate", str(config), "--attack", "silent", "--json")
    assert result.returncode == 1
    data = json.loads(result.stdout)
    assert not any(record["closed"] for record in data["rounds"])
    assert data["rounds"][0]["reason"] == "5 contributions, quorum 7"


def test_simulate_refuses_unknown_attacks(config: Path) -> None:
    result = qres("simulate", str(config), "--attack", "sign_flop")
    assert result.returncode == 2
    assert "did you mean 'sign_flip'?" in result.stderr


def test_attacks_are_listed_with_the_exhibits() -> None:
    listed = json.loads(qres("attack", "list", "--json").stdout)
    names = {row["name"] for row in listed["attacks"]}
    assert {"sign_flip", "noise", "scaled", "nan", "wrong_length", "silent", "replay"} <= names
    assert {"sign_flip", "mimic"} <= {row["name"] for row in listed["exhibits"]}
    shown = qres("attack", "list").stdout
    assert "what the attacker must know" in shown
    assert "succeeds if" in shown


def test_the_old_way_to_list_attacks_names_the_new_one() -> None:
    refused = qres("simulate", "--list-attacks")
    assert refused.returncode == 2
    assert "qres attack list" in refused.stderr


def test_check_refuses_attackers_that_there_are_no_nodes_for(config: Path) -> None:
    settings = ("--set", 'simulation.attack="noise"', "--set", "simulation.attackers=30")
    refused = qres("check", str(config), *settings)
    assert refused.returncode == 2
    assert "QRES-E105 simulation.attackers: 30 attack, and swarm.nodes is 7" in refused.stderr
    assert "fix: simulation.attackers <= 7" in refused.stderr
    assert qres("check", str(config), *settings[:3], "simulation.attackers=7").returncode == 0


def test_check_refuses_an_attack_that_there_is_not(config: Path) -> None:
    settings = ("--set", 'simulation.attack="nois"', "--set", "simulation.attackers=2")
    refused = qres("check", str(config), *settings)
    assert refused.returncode == 2
    assert "QRES-E801 simulation.attack: there is no attack 'nois'" in refused.stderr
    assert "did you mean 'noise'?" in refused.stderr


@pytest.mark.parametrize("spelling", ["QRES-E304", "qres-e304", "E304", "e304", "304"])
def test_an_error_is_explained_however_its_id_is_written(spelling: str) -> None:
    told = qres("explain", spelling)
    assert told.returncode == 0
    title, meaning = ERRORS["QRES-E304"]
    assert told.stdout.startswith(f"QRES-E304  {title}")
    assert " ".join(meaning.split()) in " ".join(told.stdout.split())
    assert json.loads(qres("explain", spelling, "--json").stdout) == [
        {"code": "QRES-E304", "title": title, "meaning": meaning}
    ]


def test_without_an_id_every_error_is_listed() -> None:
    told = qres("explain")
    assert told.returncode == 0
    for code, (title, _meaning) in ERRORS.items():
        assert f"{code}  {title}\n" in told.stdout


def test_the_ids_of_logs_are_explained() -> None:
    told = qres("explain", "unproven-link")
    assert told.returncode == 0
    assert Fault.UNPROVEN_LINK.text in " ".join(told.stdout.split())
    assert set(log_ids()) == {*map(str, Fault), *map(str, LinkReason)}
    assert all(log_ids().values())
    assert "README" in qres("explain", "replay:sequence-too-old").stdout
    refused = qres("explain", "unproven-lnik")
    assert refused.returncode == 2
    assert "did you mean 'unproven-link'" in refused.stderr


def test_an_id_that_there_is_not_is_refused() -> None:
    refused = qres("explain", "E340")
    assert refused.returncode == 2
    assert "there is no error 'E340'; did you mean '4" in refused.stderr
    assert "lists all" in qres("explain", "nonsense").stderr


def test_a_refusal_points_to_its_explanation(config: Path) -> None:
    refused = qres("check", str(config), "--set", "plugins.krum.f=3", "--set", "swarm.byzantine=3")
    *_told, pointer = refused.stderr.splitlines()
    assert pointer == "More on this: qres explain QRES-E307 QRES-E304"
    told = qres(*pointer.removeprefix("More on this: qres ").split())
    assert told.returncode == 0
    assert "fault bound impossible" in told.stdout
    assert "too few updates" in told.stdout


def test_ctrl_c_ends_a_command_with_one_line_and_its_own_code(config: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = (
        "import sys, pathlib, time; from qres_core.cli import app;"
        "import qres_core.cli.simulate as verb;"
        f"was = verb.read_raw; mark = pathlib.Path({str(ready)!r});"
        # An interrupt in the callback of a weak reference, as imports have, would be lost.
        "verb.read_raw = lambda *a: (mark.touch(), time.sleep(900), was(*a))[2];"
        "app.run()"
    )
    arguments = ["simulate", str(config), "--rounds", "1000000"]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 900
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _out, said = process.communicate(timeout=900)
    assert process.returncode == 130
    assert said == "interrupted\n"


def test_ctrl_c_at_a_prompt_ends_the_same_way() -> None:
    @click.command()
    def ask() -> None:
        def interrupt(_text: str) -> str:
            raise KeyboardInterrupt

        click.termui.visible_prompt_func = interrupt  # the runner puts back what was there
        click.prompt("name")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(app.Verbs, "get_command", lambda *_: ask)
        result = CliRunner().invoke(app.app, ["ask"])
    assert result.exit_code == 130
    assert result.output.endswith("interrupted\n")


def test_settings_override_any_key(config: Path) -> None:
    result = qres("check", str(config), "--set", "plugins.krum.f=3")
    assert result.returncode == 2
    assert "QRES-E304 plugins.krum: needs 9 updates, but a round may close with 7" in result.stderr
    bad = qres("check", str(config), "--set", "swarm.name=unquoted")
    assert bad.returncode == 2
    assert "text needs quotes" in bad.stderr


def test_init_writes_what_check_accepts(tmp_path: Path) -> None:
    path = tmp_path / "made.toml"
    result = qres("init", str(path), "--json")
    assert result.returncode == 0, result.stderr
    enabled = json.loads(result.stdout)["enabled"]
    assert enabled[-2:] == ["nnm", "trimmed_mean"]  # as README and manual advise
    assert not {"dp", "secagg", "zk"} & set(enabled)  # they rest on numbers of each other
    assert qres("check", str(path)).returncode == 0
    text = path.read_text(encoding="utf-8")
    assert "# [plugins.secagg]" in text
    assert "# Number of attackers among the nodes." in text
    before = text
    refused = qres("init", str(path))
    assert refused.returncode == 2
    assert "QRES-E803" in refused.stderr
    assert path.read_text(encoding="utf-8") == before


def test_what_init_writes_trains_and_is_two_edits_from_an_own_model(tmp_path: Path) -> None:
    path, key = tmp_path / "made.toml", tmp_path / "node.key"
    assert qres("init", str(path)).returncode == 0
    made = qres("keygen", str(key), "--no-passphrase", "--json")
    # What only the operator of a real swarm knows: who takes part, and where things are.
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(9)]
    others = [key.public_bytes_raw().hex() for key in keys]
    settings = [
        ("swarm.roster", [json.loads(made.stdout)["public_key"], *others]),
        ("node.data_dir", str(tmp_path / "data")),
        ("plugins.ed25519.key", str(key)),
    ]
    prepared = daemon.prepare(read_config(path, settings))
    assert prepared.initial.size > 0
    assert qres("simulate", str(path), "--rounds", "1").returncode == 0
    text = path.read_text(encoding="utf-8")
    own = text.replace('# entry = ""', 'entry = "a.b:make"')
    path.write_text(own, encoding="utf-8")
    with pytest.raises(ConfigError, match="take one of them out"):
        read_config(path, settings)
    path.write_text(own.replace("\n[trainer.task]\n", "\n"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"import of 'a\.b' failed"):
        daemon.prepare(read_config(path, settings))
    path.write_text(text.replace("\n[trainer.task]\n", "\n"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no model or task is named"):
        daemon.prepare(read_config(path, settings))


@pytest.mark.claim("C-config-5", "C-krum-8")
@pytest.mark.control("C-krum-8")
@pytest.mark.long
def test_demo_shows_the_mean_failing_and_krum_holding(tmp_path: Path) -> None:
    result = qres("demo", "--json", "--output", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["as_claimed"] is True
    finals = {
        label: [record["metrics"]["accuracy"] for record in run["rounds"] if record["closed"]][-1]
        for label, run in report["runs"].items()
    }
    assert finals["mean, attacked"] <= finals["mean, nobody attacks"] - 0.30
    assert finals["krum, attacked"] >= finals["mean, nobody attacks"] - 0.05
    assert all(run["unanimous"] for run in report["runs"].values())
    picture = (tmp_path / "out" / "demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    page = (tmp_path / "out" / "demo.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("<!doctype html>", "").replace("http-equiv", "")


@pytest.mark.claim("C-config-5")
def test_a_demonstration_of_one_round_draws_everything_and_tells_what_it_shows(
    tmp_path: Path,
) -> None:
    arguments = ["demo", "--rounds", "1", "--output", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app.app, arguments)
    report = json.loads(result.stdout)
    assert result.exit_code == (0 if report["as_claimed"] else 1)
    assert [len(run["rounds"]) for run in report["runs"].values()] == [1, 1, 1]
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG\r\n")
    page = (tmp_path / "out" / "demo.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert "INSECURE" in page
