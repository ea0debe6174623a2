"""The example apps: the lines that protect them are few, and they run with and without them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
APPS = ("flower_numpy", "flower_torch")
PAGE = ROOT / "docs/how-to/use-qres-inside-flower.md"
MOST = 10
"""Lines that an app of Flower may have to change."""


def changed(diff: str) -> list[str]:
    """The lines of a diff that a reader writes; blank ones are none."""
    lines = [line for line in diff.splitlines() if line.startswith("+")]
    return [line for line in lines if not line.startswith("+++") and line.strip("+ ")]


@pytest.mark.parametrize("app", APPS)
def test_few_lines_change(app: str) -> None:
    lines = changed((ROOT / "examples" / app / "qres.diff").read_text("utf-8"))
    assert 5 <= len(lines) <= MOST


def test_a_diff_of_more_lines_is_found() -> None:
    assert len(changed("--- a\n+++ b\n" + "+x = 1\n" * 11 + "+\n-y\n z\n")) == 11 > MOST


def test_the_page_shows_the_diff_and_the_configuration_of_the_app() -> None:
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"```(diff|toml)\n(.*?)```", text, re.DOTALL)
    (diff,) = [body for kind, body in blocks if kind == "diff"]
    kept = (ROOT / "examples/flower_numpy/qres.diff").read_text("utf-8")
    assert diff.rstrip() == kept.rstrip()
    config = (ROOT / "examples/flower_numpy/qres.toml").read_text("utf-8")
    assert any(body in config for kind, body in blocks if kind == "toml" and "[swarm]" in body)
    assert f"Change {['', 'nine'][len(changed(diff)) == 9]} lines" in text


def copied(app: str, folder: Path, *, protected: bool) -> Path:
    home = folder / f"{app}-{protected}"
    shutil.copytree(ROOT / "examples" / app, home, ignore=shutil.ignore_patterns("__pycache__"))
    if protected:
        # git looks for a repository above, and leaves out what is not below the folder of its own.
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder)}
        command = ["git", "apply", "qres.diff"]
        subprocess.run(command, cwd=home, check=True, env=environment)
    return home


@pytest.mark.parametrize("app", APPS)
def test_the_lines_fit_the_app(app: str, tmp_path: Path) -> None:
    home = copied(app, tmp_path, protected=True)
    package = next(home.glob("digits_*"))
    assert "QresStrategy(strategy, CONFIG" in (package / "server_app.py").read_text("utf-8")
    assert "QresMod(CONFIG" in (package / "client_app.py").read_text("utf-8")


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def simulated(home: Path) -> str:
    """The name of the model that a swarm of the app's folder ends with."""
    run = subprocess.run(
        [program("qres"), "simulate", "--trainer", "flower", ".", "--rounds", "2"],
        cwd=home,
        capture_output=True,
        check=True,
        text=True,
        timeout=500,
    )
    (found,) = re.findall(r"all 5 honest nodes hold model (\w+)", run.stdout)
    return str(found)


@pytest.mark.parametrize("app", APPS)
def test_a_swarm_trains_the_app_with_the_lines_and_without(app: str, tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="Flower is not installed")
    if app == "flower_torch":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    bare = simulated(copied(app, tmp_path, protected=False))
    assert simulated(copied(app, tmp_path, protected=True)) == bare


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A SuperLink that simulates, with the packages of this environment; what ``flwr`` needs."""
    pytest.importorskip("flwr", reason="Flower is not installed")
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        ports = [str(each.getsockname()[1]) for each in (first, second)]
    home = tmp_path / "flower-home"
    home.mkdir()
    config = (
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{ports[0]}"\n'
    )
    (home / "config.toml").write_text(config + "insecure = true\n")
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [
        *(program("flower-superlink"), "--insecure", "--simulation"),
        *("--disable-runtime-dependency-installation", "--host", "127.0.0.1"),
        *("--port", ports[0], "--control-api-address", f"127.0.0.1:{ports[1]}"),
    ]
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield environment
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.long
def test_flwr_run_plays_the_app_with_the_lines(superlink: dict[str, str], tmp_path: Path) -> None:
    home = copied("flower_numpy", tmp_path, protected=True)
    command = [program("flwr"), "run", ".", "--stream", "--federation-config", "num-supernodes=5"]
    deadline = time.monotonic() + 600
    while True:  # until the SuperLink listens
        run = subprocess.run(
            command,
            cwd=home,
            env=superlink,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            timeout=600,
        )
        if run.returncode == 0 or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert run.returncode == 0, run.stdout
    assert run.stdout.count("qres: merged 5 updates, left out 0 nodes") == 5, run.stdout
    (last,) = re.findall(r"round 5: accuracy ([\d.]+)", run.stdout)
    assert float(last) > 0.85
