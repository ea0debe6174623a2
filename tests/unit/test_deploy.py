"""The files of deploy/ fit the project: no more can be said where there is no container engine.

`make deploy` plays the image's steps and runs five nodes by its commands.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import qres_core

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
NODES = 5


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def play() -> ModuleType:
    return load(ROOT / "scripts/try_deploy.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "nodes"
    command = [sys.executable, "-P", str(DEPLOY / "make_nodes.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def last_stage(play: ModuleType) -> list[tuple[str, str]]:
    stages: list[list[tuple[str, str]]] = play.stages((DEPLOY / "Dockerfile").read_text("utf-8"))
    return stages[-1]


def test_the_image_runs_as_a_user_without_rights(play: ModuleType) -> None:
    words = [word for word, _rest in last_stage(play)]
    (user,) = [rest for word, rest in last_stage(play) if word == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert "RUN" not in words[words.index("USER") :]


def test_the_image_asks_for_no_compiler_and_for_pinned_packages(play: ModuleType) -> None:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert not re.search(r"\bapt|gcc|build-essential|-dev\b", text)
    for _word, rest in play.instructions(text):
        for installed in re.findall(r"pip install ([^&]*)", rest):
            assert "--no-deps" in installed
            assert "--require-hashes" in installed or "--no-build-isolation ." in installed


def test_the_health_check_asks_the_status_address(play: ModuleType) -> None:
    assert play.command(last_stage(play), "HEALTHCHECK")[:3] == ["qres", "node", "status"]
    assert "127.0.0.1:8470" in play.command(last_stage(play), "HEALTHCHECK")
    assert [*play.command(last_stage(play), "ENTRYPOINT"), *play.command(last_stage(play), "CMD")][
        :3
    ] == ["qres", "node", "run"]


@pytest.mark.parametrize(
    ("name", "enters"),
    [
        ("qres_core/__init__.py", True),
        ("plugins/qres_krum/pyproject.toml", True),
        ("requirements/node.txt", True),
        ("deploy/nodes/node-0/node.key", False),
        ("node.key", False),
        (".venv/bin/python", False),
        (".git/config", False),
        ("plugins/qres_krum/tests/test_rule.py", False),
    ],
)
def test_what_enters_the_image(play: ModuleType, name: str, *, enters: bool) -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8")
    assert play.let_through(name, ignore) is enters


def test_every_node_of_the_compose_file_has_a_folder_and_a_port_of_its_own() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    for pattern in (
        r"^  node-(\d):$",
        r'volumes: \["\./nodes/node-(\d):/var/lib/qres"\]',
        r'ports: \["127\.0\.0\.1:847(\d):8470"\]',
    ):
        assert re.findall(pattern, text, re.MULTILINE) == [str(index) for index in range(NODES)]
    for word in ("read_only: true", "no-new-privileges:true", "- ALL"):
        assert word in text


def test_the_files_of_the_nodes_are_one_swarm(made: Path) -> None:
    rosters: set[tuple[str, ...]] = set()
    for index in range(NODES):
        home = made / f"node-{index}"
        assert stat.S_IMODE((home / "node.key").stat().st_mode) == 0o600
        raw: dict[str, Any] = tomllib.loads((home / "node.toml").read_text("utf-8"))
        rosters.add(tuple(raw["swarm"]["roster"]))
        assert len(raw["plugins"]["libp2p"]["peers"]) == NODES - 1
        assert not [peer for peer in raw["plugins"]["libp2p"]["peers"] if f"node-{index}/" in peer]
    (roster,) = rosters
    assert len(set(roster)) == NODES


def test_qres_check_accepts_the_file_of_a_node(made: Path) -> None:
    command = [sys.executable, "-P", "-m", "qres_core.cli", "check", "node.toml"]
    done = subprocess.run(command, cwd=made / "node-0", capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


def test_keys_are_never_overwritten(made: Path) -> None:
    before = (made / "node-0/node.key").read_bytes()
    command = [sys.executable, "-P", str(DEPLOY / "make_nodes.py"), str(made)]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    assert (made / "node-0/node.key").read_bytes() == before


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "qres-node@.service").read_text("utf-8")
    unit = tmp_path / "qres-node@.service"
    unit.write_text(text.replace("/opt/qres/bin/qres", sys.executable), encoding="utf-8")
    done = subprocess.run([program, "verify", unit], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_gives_a_node_little_to_do_harm_with() -> None:
    text = (DEPLOY / "qres-node@.service").read_text("utf-8")
    for line in (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "CapabilityBoundingSet=",
        "User=qres",
        "StateDirectory=qres/%i",
        "RestartPreventExitStatus=2",
    ):
        assert line in text.splitlines()


def test_the_units_option_for_the_data_folder_is_one() -> None:
    text = (DEPLOY / "qres-node@.service").read_text("utf-8")
    (setting,) = re.findall(r"--set '([^']*)'", text)
    key, _, value = setting.replace("%S", "/var/lib").replace("%i", "hospital").partition("=")
    assert (key, tomllib.loads(f"v = {value}")["v"]) == ("node.data_dir", "/var/lib/qres/hospital")


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {qres_core.__version__}\n" in text


@pytest.mark.parametrize("page", ["SECURITY.md", "CODE_OF_CONDUCT.md", "deploy/README.md"])
def test_links_of_the_root_files_resolve(page: str) -> None:
    path = ROOT / page
    text = path.read_text("utf-8")
    assert "@" not in text.replace("qres-node@", "")  # no invented address of anybody
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("https://"):
            assert (path.parent / target.replace("\n", "")).exists(), target


def test_a_cluster_leaves_the_files_of_a_pod_that_starts_again_as_they_were(tmp_path: Path) -> None:
    """A node takes no store that its group may read, and a cluster makes all files the group's."""
    text = (DEPLOY / "helm/qres/templates/statefulset.yaml").read_text("utf-8")
    assert "fsGroup: 10001\n" in text
    assert "fsGroupChangePolicy: OnRootMismatch\n" in text
    store = tmp_path / "journal.sqlite"
    store.touch(mode=0o600)
    qres_core.stores.refuse_loose(store)
    store.chmod(0o660)  # control: what each start did otherwise
    with pytest.raises(qres_core.errors.QresError, match="QRES-E602"):
        qres_core.stores.refuse_loose(store)
