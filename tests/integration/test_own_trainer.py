"""One ``[trainer]`` for `check`, `simulate`, `swarm up` and `node run`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import pytest

from qres_core.cli.app import run as command_line

ROOT = Path(__file__).parents[2]
CANCER = ROOT / "examples" / "cancer.toml"
SWARM = """
[swarm]
name = "own"
nodes = 4
byzantine = 1
quorum = 3
insecure = true

[plugins.memory]
[plugins.mean]
unprotected = true

[simulation]
rounds = 2
seed = 7
"""
MODULE = """
from dataclasses import dataclass

import numpy as np
from qres_core import Update, fixed

made = []


@dataclass
class Pull:
    goal: float

    def fit(self, vector, round_info):
        return Update(fixed.encode((self.goal - fixed.decode(vector)) / 2).vector)

    def evaluate(self, vector):
        return {"gap": float(np.abs(self.goal - fixed.decode(vector)).mean())}


class NoEvaluate:
    fit = Pull.fit


class Nothing:
    pass


def make(index, nodes, seed, size=3):
    made.append((index, nodes, seed))
    return Pull(1.0 + index), fixed.encode([0.0] * size).vector


def alike(size=3):
    return Pull(1.0), fixed.encode([0.0] * size).vector


def apart(index):
    return Pull(1.0), fixed.encode([float(index == 2)]).vector


def scaled(scale):
    return Pull(1.0), fixed.encode([0.5], scale=scale).vector


def no_evaluate():
    return NoEvaluate(), fixed.encode([0.0]).vector


def neither():
    return Nothing(), fixed.encode([0.0]).vector


def a_class():
    return Pull, fixed.encode([0.0]).vector


def floats():
    return Pull(1.0), np.zeros(3)
"""


@attrs.frozen
class Result:
    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def qres(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["qres", *arguments])
        with pytest.raises(SystemExit) as ended:
            command_line()
        said = capsys.readouterr()
        return Result(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def run(tmp_path: Path, qres: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`qres VERB own.toml`, beside a module of that test alone."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", sys.path[:])

    def play(verb: str, trainer: str, *options: str, tables: str = "") -> Result:
        path = tmp_path / "own.toml"
        path.write_text(SWARM + tables + trainer.replace("OWN", name), encoding="utf-8")
        return qres(verb, str(path), *options)

    return play


def own(entry: str, **options: Any) -> str:
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
    return f'[trainer]\nentry = "OWN:{entry}"\n[trainer.options]\n{table}'


def report(result: Result) -> Mapping[str, Any]:
    assert result.exit_code == 0, result.stderr
    said: Mapping[str, Any] = json.loads(result.stdout)
    return said


def test_every_simulated_node_gets_its_own_trainer(run: Run) -> None:
    said = report(run("simulate", own("make", size=5), "--json"))
    assert said["trainer"].endswith(":make")
    assert not [notice for notice in said["notices"] if "trainer" in notice]
    made = sys.modules[said["trainer"].partition(":")[0]].made
    assert made == [(index, 4, 7) for index in range(4)]
    # All four pull half of the way to their own goal, 1 to 4: the mean is 2.5, node 0's goal is 1.
    assert [item["metrics"]["gap"] for item in said["rounds"]] == [0.25, 0.875]


def test_the_trainers_own_seed_goes_before_the_simulations(run: Run) -> None:
    table = own("make").replace("[trainer]\n", "[trainer]\nseed = 3\n")
    said = report(run("simulate", table, "--json"))
    made = sys.modules[said["trainer"].partition(":")[0]].made
    assert {seed for _index, _nodes, seed in made} == {3}


def test_the_swarms_scale_reaches_a_factory_that_asks(run: Run) -> None:
    said = report(run("simulate", own("scaled"), "--json", "--set", "swarm.scale=-4"))
    assert said["rounds"][0]["closed"]


def test_both_engines_train_the_same(run: Run) -> None:
    events, fast = (
        report(run("simulate", own("make"), "--json", "--set", f'simulation.engine="{engine}"'))
        for engine in ("events", "vectorised")
    )
    assert set(events["model_digests"]) == set(fast["model_digests"])


def test_the_table_shows_what_evaluate_returns(run: Run) -> None:
    result = run("simulate", own("make"))
    assert result.exit_code == 0
    assert " gap " in result.stdout
    assert "0.875" in result.stdout


@pytest.mark.parametrize("verb", ["check", "simulate"])
@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        ("mke", "QRES-E801", "did you mean 'make'?"),
        ("no_evaluate", "QRES-E104", "NoEvaluate, which has no method evaluate"),
        ("neither", "QRES-E104", "Nothing, which has no method fit and no method evaluate"),
        ("a_class", "QRES-E104", "the class Pull"),
        ("floats", "QRES-E503", "first model: expected int32, got float64"),
    ],
)
def test_what_is_no_trainer_is_refused(
    run: Run, verb: str, entry: str, code: str, said: str
) -> None:
    result = run(verb, own(entry))
    assert result.exit_code == 2
    assert f"{code} trainer.entry" in result.stderr
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize("verb", ["check", "simulate"])
def test_a_module_that_is_not_there_is_refused(run: Run, verb: str) -> None:
    result = run(verb, '[trainer]\nentry = "nope:make"\n')
    assert result.exit_code == 2
    assert "QRES-E101 trainer.entry: import of 'nope' failed" in result.stderr


def test_nodes_that_begin_with_different_models_are_refused_by_name(run: Run) -> None:
    result = run("simulate", own("apart"))
    assert result.exit_code == 2
    assert "node-0 and node-2 begin with different models" in result.stderr
    # `check` makes one trainer only, and says so.
    result = run("check", own("apart"))
    assert result.exit_code == 0
    assert "made for node 0 alone" in result.stdout


def test_one_index_for_all_nodes_is_refused(run: Run) -> None:
    result = run("simulate", own("make", index=1))
    assert result.exit_code == 2
    assert "QRES-E105 trainer.options.index" in result.stderr


def test_a_factory_without_an_index_is_told_of(run: Run) -> None:
    for verb in ("check", "simulate"):
        said = report(run(verb, own("alike"), "--json"))
        assert any("no parameter `index`" in notice for notice in said["notices"])


def test_a_file_without_a_trainer_says_that_it_trains_the_digits(run: Run) -> None:
    told = "no [trainer]: trains the built-in digits"
    for verb in ("check", "simulate"):
        said = report(run(verb, "", "--json"))
        assert said["trainer"] == "digits"
        assert told in said["notices"]
        named = report(run(verb, '[trainer.task]\nname = "digits"\n', "--json"))
        assert told not in named["notices"]
    assert told in run("check", "").stdout


def test_the_old_table_is_refused_with_the_new_name(run: Run) -> None:
    for verb in ("check", "simulate"):
        result = run(verb, "", tables='[simulation.task]\nname = "digits"\n')
        assert result.exit_code == 2
        assert "QRES-E102 simulation.task: unknown key" in result.stderr
        assert "write [trainer.task]" in result.stderr


def test_an_attack_on_the_data_needs_a_trainer_that_shows_them(run: Run, qres: Run) -> None:
    result = run("simulate", own("make"), "--attack", "label_flip")
    assert result.exit_code == 2
    assert "a Pull shows none" in result.stderr
    control = qres("simulate", str(CANCER), "--attack", "backdoor", "--json", "--rounds", "2")
    assert "backdoor" in report(control)["rounds"][1]["metrics"]


@pytest.mark.long
def test_clinics_learn_the_same_in_the_simulator_and_as_processes(qres: Run) -> None:
    if find_spec("qres_transport_libp2p") is None:
        pytest.skip("qres-transport-libp2p is not installed")
    simulated = report(qres("simulate", str(CANCER), "--json"))
    assert simulated["rounds"][-1]["metrics"]["accuracy"] > 0.9
    # Nobody is left out of a round because the machine is slow.
    patient = ("--set", "swarm.deadline=120", "--set", "swarm.vote_timeout=60")
    command = [sys.executable, "-P", "-m", "qres_core.cli", "swarm", "up", str(CANCER)]
    done = subprocess.run(
        [*command, "--rounds", "12", "--timeout", "1500", "--json", *patient],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    assert played["agreed"]
    assert played["trainer"] == simulated["trainer"] == "cancer:make"
    assert played["model_digest"] == simulated["model_digests"][0]


FAILING = """
import numpy as np
from qres_core import Update, fixed


class Failing:
    def __init__(self, index, mode):
        self.index, self.mode = index, mode

    def fit(self, vector, round_info):
        step = np.full(vector.size, 0.5)
        if self.index == 2:
            if self.mode == "raises":
                raise OSError("no such scan")  # LINE
            if self.mode == "floats":
                return Update(step)
            if self.mode == "nan":
                return Update(fixed.encode(step * np.nan).vector)
            if self.mode == "array":
                return step
            if self.mode == "long":
                return Update(fixed.encode([0.0] * 7).vector)
        return Update(fixed.encode(step, scale=round_info.scale).vector)

    def evaluate(self, vector, round_info):
        assert round_info.dimension == vector.size
        if self.mode == "figures":
            return 0.5
        return {"largest": float(fixed.decode(vector, scale=round_info.scale).max())}


def make(index, mode):
    return Failing(index, mode), fixed.encode([0.0] * 3).vector
"""


@pytest.fixture
def failing(tmp_path: Path, qres: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    name = f"failing_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FAILING, encoding="utf-8")
    monkeypatch.setattr(sys, "path", sys.path[:])

    def play(mode: str, *options: str) -> Result:
        path = tmp_path / "own.toml"
        table = f'[trainer]\nentry = "{name}:make"\n[trainer.options]\nmode = "{mode}"\n'
        path.write_text(SWARM + table, encoding="utf-8")
        return qres("simulate", str(path), *options)

    return play


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("raises", "node-2 trainer.fit: OSError: no such scan, in {file}, line {line}"),
        ("floats", "expected int32, got float64"),
        ("nan", "nan is not finite"),
        ("array", "returned an array of float64, shape (3,), and not an Update"),
        ("long", "returned 7 coordinates, and the model has 3"),
        ("figures", "node-0 trainer.evaluate: returned float 0.5, and not numbers by name"),
    ],
)
@pytest.mark.parametrize("engine", ["events", "vectorised"])
def test_a_failing_trainer_is_explained(
    failing: Run, tmp_path: Path, mode: str, said: str, engine: str
) -> None:
    result = failing(mode, "--set", f'simulation.engine="{engine}"')
    assert result.exit_code == 2
    (module,) = tmp_path.glob("failing_*.py")
    line = 1 + module.read_text(encoding="utf-8").splitlines().index(
        '                raise OSError("no such scan")  # LINE'
    )
    assert said.format(file=module, line=line) in result.stderr
    assert "QRES-E512" in result.stderr
    assert failing("well").exit_code == 0  # the control


def test_evaluate_is_given_the_scale_where_it_asks(failing: Run) -> None:
    for scale in (0, -6):
        said = report(failing("well", "--json", "--set", f"swarm.scale={scale}"))
        assert said["rounds"][-1]["metrics"] == {"largest": 1.0}


@pytest.mark.parametrize("verb", ["check", "simulate"])
def test_a_model_that_no_message_can_carry_is_refused_with_the_value_that_would_do(
    run: Run, verb: str
) -> None:
    small = ("--set", "swarm.max_message_bytes=65536")
    result = run(verb, own("make", size=20_000), *small)
    assert result.exit_code == 2
    assert "QRES-E105 swarm.max_message_bytes: is 65536" in result.stderr
    value = result.stderr.partition("fix: swarm.max_message_bytes = ")[2].partition(",")[0]
    enough = ("--set", f"swarm.max_message_bytes={value}")
    assert run(verb, own("make", size=20_000), *enough).exit_code == 0


PROVEN = "[plugins.zk]\nbound = 64.0\nk = 512\n"


@pytest.mark.parametrize(("tables", "size"), [("", 16_000), (PROVEN, 2_000)], ids=["bare", "zk"])
def test_what_travels_beside_an_update_is_counted_before_the_start(
    run: Run, tables: str, size: int
) -> None:
    """Else no contribution, or no model that is handed on, would be taken by the others."""
    closely = ("--set", f"swarm.max_message_bytes={4 * size + 512}")
    refused = run("check", own("make", size=size), *closely, tables=tables)
    assert refused.exit_code == 2
    assert "QRES-E105 swarm.max_message_bytes" in refused.stderr
    value = refused.stderr.partition("fix: swarm.max_message_bytes = ")[2].partition(",")[0]
    enough = ("--set", f"swarm.max_message_bytes={value}")
    said = report(run("simulate", own("make", size=size), "--json", *enough, tables=tables))
    assert [item["closed"] for item in said["rounds"]] == [True, True]


def test_updates_that_vanish_are_told_of_with_the_scale_that_mends_it(qres: Run) -> None:
    slow = ("--set", "trainer.options.rate=1e-6")
    lost = qres("simulate", str(CANCER), "--rounds", "3", *slow)
    assert "7 updates vanish on the grid" in lost.stdout
    said = report(qres("simulate", str(CANCER), "--rounds", "3", "--json", *slow))
    assert [item["vanished"] for item in said["rounds"]] == [7, 7, 7]
    (notice,) = [notice for notice in said["notices"] if "vanish" in notice]
    losses = [item["metrics"]["loss"] for item in said["rounds"]]
    assert losses[0] == losses[2]  # nothing is learned
    setting = notice.partition("set ")[2].partition(",")[0].replace(" ", "")
    assert setting == "swarm.scale=-7"
    mended = report(qres("simulate", str(CANCER), "--json", "--set", setting, *slow))
    assert not [notice for notice in mended["notices"] if "vanish" in notice]
    losses = [item["metrics"]["loss"] for item in mended["rounds"]]
    assert losses == sorted(set(losses), reverse=True)  # it falls with every round
