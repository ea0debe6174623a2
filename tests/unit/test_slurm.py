"""A swarm for the hosts of a Slurm job: the node list, the files, the job file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qres_core.attacks.scenario import SECTIONS
from qres_core.kernel.config import load

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script; its keys are numbers, which cost no process each."""
    spec = importlib.util.spec_from_file_location("make_nodes", DEPLOY / "make_nodes.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: list[Path] = []

    def keygen(path: Path) -> dict[str, str]:
        made.append(path)
        return {"public_key": f"{len(made):064x}", "peer_id": f"12D3KooW{len(made)}"}

    monkeypatch.setattr(module, "keygen", keygen)
    return module


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("login1", ["login1"]),
        ("a,b.cluster.example", ["a", "b.cluster.example"]),
        ("gpu[01-03,7]", ["gpu01", "gpu02", "gpu03", "gpu7"]),
        ("gpu[08-11]", ["gpu08", "gpu09", "gpu10", "gpu11"]),
        ("r[1-2]n[3,5],x", ["r1n3", "r1n5", "r2n3", "r2n5", "x"]),
        ("n[1]-ib,m", ["n1-ib", "m"]),
    ],
)
def test_a_node_list_is_expanded_as_slurm_does(
    script: ModuleType, words: str, names: list[str]
) -> None:
    assert script.hosts(words) == names


@pytest.mark.parametrize(
    "words",
    ["", "a,a", "n[1-2", "n[x]", "n[1-x]", "a b", 'a"\nname = "x', "n[1-100000]", "-a", "n[2-1]"],
)
def test_what_is_no_node_list_is_refused(script: ModuleType, words: str) -> None:
    with pytest.raises(SystemExit):
        script.hosts(words)


def test_each_host_has_a_node_of_one_swarm(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "make_nodes.py",
        str(tmp_path / "swarm"),
        "--slurm",
        "gpu[01-07]",
        "--data",
        "/scratch/q",
    ]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    configs = [
        load(tmp_path / f"swarm/node-{index}/node.toml", sections=SECTIONS) for index in range(7)
    ]
    assert {(it.swarm.nodes, it.swarm.byzantine, it.swarm.quorum) for it in configs} == {(7, 2, 5)}
    assert len({it.swarm.roster for it in configs}) == 1
    assert [it.sections["trainer"].index for it in configs] == list(range(7))
    assert {it.node.data_dir for it in configs} == {"/scratch/q"}
    peers = configs[0].plugins["libp2p"]["peers"]
    assert [peer.split("/")[2] for peer in peers] == [f"gpu0{number}" for number in range(2, 8)]
    with pytest.raises(FileExistsError):
        script.main()  # keys are never overwritten


def test_the_job_file_is_one_of_bash_and_names_the_script_s_options() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    path = DEPLOY / "qres.slurm"
    done = subprocess.run([bash, "-n", path], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    text = path.read_text("utf-8")
    helped = subprocess.run(
        [sys.executable, "-P", str(DEPLOY / "make_nodes.py"), "--help"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for option in ("--slurm", "--data"):
        assert option in text
        assert option in helped
    assert "#SBATCH --no-requeue" in text


@pytest.mark.parametrize("taken", [None, "folder", "link"])
def test_a_folder_that_another_user_made_first_is_not_taken(
    tmp_path: Path, taken: str | None
) -> None:
    """What each host runs, with a `qres` that says where it was told to keep its state."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    work = (DEPLOY / "qres.slurm").read_text("utf-8").partition("bash -c '")[2].rpartition("'")[0]
    (tmp_path / "swarm/node-3").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/qres"
    program.write_text("#!/bin/sh\necho runs\n", encoding="utf-8")
    program.chmod(0o755)
    data = tmp_path / "data"
    if taken == "folder":
        data.mkdir()
        data.chmod(0o777)
    elif taken == "link":
        (tmp_path / "theirs").mkdir()
        data.symlink_to(tmp_path / "theirs")
    own = {"DATA": str(data), "SWARM": str(tmp_path / "swarm"), "SLURM_PROCID": "3"}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", work],
        env={**os.environ, **own, "PATH": path},
        capture_output=True,
        check=False,
    )
    last = tmp_path / "swarm/node-3/last.json"
    if taken is None:
        assert (done.returncode, last.read_text()) == (0, "runs\n")
        assert data.stat().st_mode & 0o777 == 0o700
    else:
        assert done.returncode == 2
        assert not last.exists(), "the node did not start"
