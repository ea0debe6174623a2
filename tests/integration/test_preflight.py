"""What keeps a node from its start is told by ``qres check`` and ``qres node doctor`` before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from qres_core import NodeInfo, hookimpl
from qres_core.attacks.scenario import SECTIONS
from qres_core.cli.app import app
from qres_core.contract.types import NODE_ID_BYTES
from qres_core.errors import CompatibilityError, PluginError, Problem, QresError
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel

JUDGES = (
    "[plugins.validated_mean]\nf = 1",
    "[plugins.validation]\n[plugins.median]\nf = 1",
    "[plugins.public_validation]\n[plugins.median]\nf = 1",
    "[plugins.public_validation]\n[plugins.validated_mean]\nf = 1",
    "[plugins.validated_mean]\nf = 1\nfarthest = 1.25",
)
TASKS = (
    'name = "quadratic"\ndimension = 3',
    'name = "digits"\nlocal_epochs = 1',
    'name = "synthetic"\nheld_out = 20\nsame_held_out = true\nheld_out_from = "pool"',
)
SWARM = """
[swarm]
name = "x"
nodes = 5
byzantine = 1
quorum = 4
insecure = true
[plugins.memory]
{judge}
[simulation]
rounds = 1
[trainer.task]
{task}
"""


def qres(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(result: Result) -> list[tuple[str, str]]:
    """Codes and places of what was refused; empty where nothing was."""
    if isinstance(result.exception, QresError):  # the command line prints it, outside of commands
        return [(problem.code, problem.where) for problem in result.exception.problems]
    report: dict[str, Any] = json.loads(result.stdout or result.stderr)
    return [(problem["code"], problem["where"]) for problem in report.get("problems", ())]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("judge", JUDGES)
def test_check_refuses_what_a_simulation_refuses(judge: str, task: str, tmp_path: Path) -> None:
    path = tmp_path / "swarm.toml"
    path.write_text(SWARM.format(judge=judge, task=task))
    checked, played = qres("check", path, "--json"), qres("simulate", path, "--json")
    assert said(checked) == said(played)
    found = {code for code, _where in said(checked)}
    assert found == (set() if "held_out" in task else {"QRES-E311"})


def test_without_the_common_test_they_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the test that both ask is what makes check refuse."""
    path = tmp_path / "swarm.toml"
    path.write_text(SWARM.format(judge=JUDGES[0], task=TASKS[0]))
    monkeypatch.setattr(Kernel, "preflight", lambda *_arguments: ())
    checked = qres("check", path)
    assert checked.exit_code == 0
    assert "would start" in checked.stdout


# ── a node of its own key and certificate ─────────────────────────────────────────────────────

NODE = """
[swarm]
name = "t"
nodes = 2
byzantine = 0
quorum = 2
roster = ["{mine}", "{other}"]
[plugins.libp2p]
listen = "/ip4/127.0.0.1/tcp/0"
peers = []
[plugins.ed25519]
key = "node.key"
[plugins.replay]
[plugins.pki]
ca = "ca/ca.pem"
certificates = "ca/certificates"
crl = "ca/crl.pem"
[plugins.mean]
[node]
data_dir = "data"
[trainer.task]
name = "quadratic"
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The file of a node that lacks nothing, and its certificate."""
    monkeypatch.chdir(tmp_path)
    keys = [
        json.loads(qres("keygen", name, "--no-passphrase", "--json").stdout)["public_key"]
        for name in ("node.key", "other.key")
    ]
    assert qres("ca", "init", "ca", "--swarm", "t").exit_code == 0
    roles = ("--role", "train", "--role", "aggregate")
    assert qres("ca", "issue", "ca", "--public-key", keys[0], "--name", "a", *roles).exit_code == 0
    file = tmp_path / "node.toml"
    file.write_text(NODE.format(mine=keys[0], other=keys[1]))
    return file, tmp_path / "ca" / "certificates" / f"{keys[0]}.pem"


def of_plugin(result: Result, plugin: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)["findings"]
    return [each for each in found if each["where"].startswith(plugin)]


def test_a_node_that_lacks_nothing_would_start(node: tuple[Path, Path]) -> None:
    """The control of the next two."""
    checked = qres("check", node[0])
    assert checked.exit_code == 0
    assert "would start" in checked.stdout
    assert not (node[0].parent / "data").exists()
    assert not of_plugin(qres("node", "doctor", node[0], "--json"), "plugins.pki")


def test_a_missing_certificate_is_told_before_the_start(node: tuple[Path, Path]) -> None:
    node[1].unlink()
    checked = qres("check", node[0], "--json")
    assert checked.exit_code == 2
    assert said(checked) == [("QRES-E105", "plugins.pki.certificates")]
    (found,) = of_plugin(qres("node", "doctor", node[0], "--json"), "plugins.pki")
    assert not found["well"]
    assert found["where"] == "plugins.pki.certificates"


def test_a_key_that_others_may_read_is_told_before_the_start(node: tuple[Path, Path]) -> None:
    (node[0].parent / "node.key").chmod(0o644)
    checked = qres("check", node[0], "--json")
    assert checked.exit_code == 2
    assert said(checked) == [("QRES-E105", "plugins.ed25519.key")]


def test_without_the_look_a_start_is_promised_that_ends_for_want_of_a_certificate(
    node: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: both commands are silent on it, and the node does not start."""
    node[1].unlink()
    monkeypatch.setattr(Kernel, "preflight", lambda *_arguments: ())
    promised_and_not_started(node[0])
    assert not of_plugin(qres("node", "doctor", node[0], "--json"), "plugins.pki")


def test_without_the_look_a_start_is_promised_that_ends_for_an_open_key(
    node: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control. The doctor has a look of its own at the key."""
    (node[0].parent / "node.key").chmod(0o644)
    monkeypatch.setattr("qres_core.cli.check.identity_of", lambda _kernel: (None, ""))
    promised_and_not_started(node[0])


def promised_and_not_started(file: Path) -> None:
    checked = qres("check", file)
    assert checked.exit_code == 0
    assert "would start" in checked.stdout
    with pytest.raises(QresError, match="QRES-E105"):
        CliRunner().invoke(app, ["node", "run", str(file)], catch_exceptions=False)


def test_check_does_not_promise_a_start_where_it_saw_no_key(node: tuple[Path, Path]) -> None:
    """The file of another machine: neither its key nor its certificate is here."""
    (node[0].parent / "node.key").unlink()
    node[1].unlink()
    checked = qres("check", node[0])
    assert checked.exit_code == 0
    assert "would start" not in checked.stdout
    assert "is consistent; a node also needs its key" in " ".join(checked.stdout.split())


# ── what a plugin says ────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Picky:
    """Answers as the test has it."""

    answer: object = attrs.field(factory=list)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Do nothing."""

    def preflight(self, node_info: NodeInfo) -> object:
        """Give the answer."""
        del node_info
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


INFO = NodeInfo(bytes(NODE_ID_BYTES), "x", ())


@pytest.mark.parametrize("answer", [None, 1, ["text"], [1], ValueError("x")])
def test_an_answer_that_is_none_is_a_fault_of_the_plugin(answer: object) -> None:
    with pytest.raises(PluginError, match="QRES-E206"):
        enable(Picky(answer), "picky").ask("preflight", INFO)


def test_what_a_plugin_finds_refuses_the_start() -> None:
    problem = Problem("QRES-E311", "plugins.picky", "lacks something")
    assert enable(Picky([problem]), "picky").ask("preflight", INFO) == (problem,)
    raw = {"swarm": {"name": "x", "nodes": 1, "byzantine": 0, "quorum": 1, "insecure": True}}
    config = parse(raw | {"plugins": {"memory": {}, "mean": {}}}, source="x", sections=SECTIONS)
    kernel = Kernel.from_config(config)
    picky = enable(Picky([problem]), "picky")
    Kernel((*kernel.enabled, enable(Picky(), "picky")), config.swarm).setup(INFO)  # control
    with pytest.raises(CompatibilityError, match=r"QRES-E311 plugins\.picky: lacks something"):
        Kernel((*kernel.enabled, picky), config.swarm).setup(INFO)
