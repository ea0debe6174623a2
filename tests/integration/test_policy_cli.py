"""Site policies on the command line: no verb that runs a configuration goes round them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tomli
from click.testing import CliRunner, Result

from qres_core.cli.app import app
from qres_core.cli.init import profile_text
from qres_core.cli.options import SECTIONS
from qres_core.errors import QresError
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import scan
from qres_core.kernel.policy import load

JOB = """
[swarm]
name = "job"
nodes = 4
byzantine = 0
quorum = 4
[plugins.memory]
[plugins.ed25519]
[plugins.replay]
[plugins.mean]
[simulation]
rounds = 1
[trainer.task]
name = "quadratic"
dimension = 10
"""


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.toml"
    path.write_text(JOB, encoding="utf-8")
    return str(path)


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    text = 'require = ["replay"]\nequals.swarm.insecure = false\nat_least.swarm.quorum = 4\n'
    path.write_text(text, encoding="utf-8")
    return str(path)


def qres(*arguments: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def refusals(result: Result) -> list[str]:
    assert isinstance(result.exception, QresError), result.output
    return [f"{problem.code} {problem.where}" for problem in result.exception.problems]


def test_a_job_that_meets_the_policy_runs(job: str, policy: str) -> None:
    checked = qres("check", job, "--policy", policy)
    assert checked.exit_code == 0, checked.output
    assert "policy.toml: met" in " ".join(checked.output.split())
    assert qres("simulate", job, "--policy", policy, "--json").exit_code == 0


def test_check_tells_what_the_policy_demands(job: str, policy: str) -> None:
    result = qres("check", job, "--policy", policy, "--set", "swarm.quorum=3")
    assert result.exit_code == 2
    assert "QRES-E315 swarm.quorum: is 3, and the site policy" in result.output
    assert policy in result.output
    assert "fix: swarm.quorum >= 4" in result.output


@pytest.mark.claim("C-composition-10")
@pytest.mark.control("C-composition-10")
@pytest.mark.parametrize(
    "weakened",
    [
        ("--set", "swarm.insecure=true"),
        ("--set", "swarm.quorum=3"),
        ("--without", "replay"),
    ],
)
def test_nothing_on_the_command_line_weakens_it(
    job: str, policy: str, weakened: tuple[str, str]
) -> None:
    assert qres("simulate", job, "--json", *weakened).exit_code == 0
    for given in (("--policy", policy), ()):
        environment = {} if given else {"QRES_POLICY": policy}
        result = qres("simulate", job, *given, *weakened, environment=environment)
        assert {refusal.split()[0] for refusal in refusals(result)} == {"QRES-E315"}


def test_a_policy_on_the_command_line_does_not_replace_that_of_the_environment(
    job: str, policy: str, tmp_path: Path
) -> None:
    loose = tmp_path / "loose.toml"
    loose.write_text("at_least.swarm.quorum = 1", encoding="utf-8")
    arguments = ("--policy", str(loose), "--set", "swarm.quorum=3")
    for verb in (("check",), ("simulate",), ("node", "run")):
        result = qres(*verb, job, *arguments, environment={"QRES_POLICY": policy})
        assert result.exit_code != 0
        assert "QRES-E315" in result.output or "QRES-E315 swarm.quorum" in refusals(result)


def test_a_policy_that_is_not_there_stops_every_verb(job: str) -> None:
    for verb in (("check",), ("simulate",), ("node", "run"), ("swarm", "up")):
        result = qres(*verb, job, "--policy", "no-such-policy.toml")
        assert refusals(result) == ["QRES-E101 no-such-policy.toml"]


def test_a_swarm_in_a_box_meets_it_with_the_configuration_its_nodes_get(
    job: str, tmp_path: Path
) -> None:
    path = tmp_path / "no-libp2p.toml"
    path.write_text('forbid = ["libp2p"]', encoding="utf-8")
    home = tmp_path / "box"
    result = qres("swarm", "up", job, "--folder", str(home), environment={"QRES_POLICY": str(path)})
    assert refusals(result) == ["QRES-E315 plugins.libp2p"]
    assert not home.exists()


def test_a_privacy_budget_left_to_follow_is_held_to_the_ceiling(job: str, tmp_path: Path) -> None:
    """`epsilon` is 0 in such a file, which is below any ceiling, and what is spent is not."""
    path = tmp_path / "privacy.toml"
    path.write_text('require = ["dp"]\nat_most.plugins.dp.epsilon = 4.0', encoding="utf-8")
    options = ('mode="local"', "clip=1.0", "delta=1e-6", "rounds=100", "noise_multiplier=0.5")
    settings = [part for option in options for part in ("--set", f"plugins.dp.{option}")]
    assert qres("check", job, *settings).exit_code == 0
    result = qres("check", job, *settings, "--policy", str(path))
    assert result.exit_code == 2
    assert "QRES-E315 plugins.dp.epsilon: is " in result.output
    enough = [*settings, "--set", "plugins.dp.noise_multiplier=40.0"]
    assert qres("check", job, *enough, "--policy", str(path)).exit_code == 0


def test_the_policy_of_the_manual_holds_for_the_profiles(tmp_path: Path) -> None:
    """And its ceiling on epsilon, for which thirty nodes are too few, is the one they do not."""
    page = Path(__file__).parents[2] / "docs/how-to/set-a-site-policy.md"
    text = page.read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "policy.toml"
    path.write_text(block, encoding="utf-8")
    wanted: dict[str, set[str]] = {
        "minimal": {"plugins"},  # it has no reputation, and `families` asks for one
        "production": set(),
        "high-security": {"plugins.dp.epsilon"},
    }
    for profile, where in wanted.items():
        raw = tomli.loads(profile_text(profile))
        found = diagnose(
            raw,
            source=profile,
            sections=SECTIONS,
            installed=scan(),
            policies=[load(path)],
        )
        assert {problem.where for problem in found.problems} == where
        assert {problem.code for problem in found.problems} <= {"QRES-E315"}
