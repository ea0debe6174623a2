"""What other distributions bring to run training elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.errors import QresError
from qres_core.kernel import index
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import EXECUTORS_GROUP, Installed, scan
from qres_core.kernel.index import plugin_index
from qres_core.lab.simulator import simulate
from qres_core.training import executors

ROOT = Path(__file__).parents[3]
MODULE = """
from concurrent.futures import ThreadPoolExecutor

import attrs

made = []


class Worker(ThreadPoolExecutor):
    def __init__(self, threads):
        super().__init__(1)
        made.append(threads)


@attrs.frozen(kw_only=True)
class Threads:
    threads: int = 1

    def __call__(self):
        return Worker(self.threads)


@attrs.frozen
class Silent:
    pass


def plain():
    return Worker(0)
"""


class Bring(Protocol):
    def __call__(
        self, dist: str, target: str = ..., source: str = ..., requires: str = ...
    ) -> None: ...


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bring]:
    """Distributions in a folder that counts as site-packages, each with the executor ``pool``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def scan_here(*, group: str) -> Mapping[str, Installed]:
        return scan(path=[str(tmp_path)], trusted=frozenset({tmp_path.resolve()}), group=group)

    for module in (executors, index):
        monkeypatch.setattr(module, "scan", scan_here)
    made: list[str] = []

    def write(
        dist: str, target: str = "Threads", source: str = MODULE, requires: str = "qres-core"
    ) -> None:
        folder = tmp_path / f"{dist}-1.0.dist-info"
        folder.mkdir()
        head = f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        folder.joinpath("METADATA").write_text(head)
        entry = f"[{EXECUTORS_GROUP}]\npool = {dist}:{target}\n"
        folder.joinpath("entry_points.txt").write_text(entry)
        tmp_path.joinpath(f"{dist}.py").write_text(source)
        made.append(dist)

    yield write
    for name in made:
        sys.modules.pop(name, None)


def play(executor: str = "", options: Mapping[str, Any] | None = None, **more: Any) -> list[str]:
    """The digests of all models."""
    swarm = {"name": "w", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    keys = {key: more.pop(key) for key in ("workers", "rounds") if key in more}
    table = {"rounds": 3, "executor": executor, "executor_options": options or {}, **keys}
    raw = {
        "swarm": swarm,
        "plugins": {"memory": {}, "median": {"f": 1}},
        "simulation": table,
        "trainer": {"task": {"name": "quadratic", "dimension": 20}},
    }
    config = parse(raw, source="test", sections=SECTIONS)
    result = simulate(config, config.sections["simulation"], **more)
    return [record.model_digest for record in result.closed]


def test_an_executor_runs_the_workers_with_its_options_and_the_models_stay(bring: Bring) -> None:
    bring("pool_dist")
    alone = play()
    assert "pool_dist" not in sys.modules
    assert play("pool", {"threads": 7}, workers=3) == alone
    assert sys.modules["pool_dist"].made == [7, 7, 7]
    assert play("pool") == alone
    assert sys.modules["pool_dist"].made[3:] == [1], "one worker is elsewhere too"


def test_a_function_that_makes_workers_counts_more_than_an_executor(bring: Bring) -> None:
    bring("pool_dist")
    play("pool")
    module = sys.modules["pool_dist"]
    module.made.clear()
    assert play("pool", worker=module.plain) == play()
    assert module.made == [0]


def test_a_simulation_goes_on_with_another_executor(bring: Bring, tmp_path: Path) -> None:
    bring("pool_dist")
    folder = tmp_path / "kept"
    play(rounds=2, save=folder)
    assert play("pool", {"threads": 2}, resume=folder, workers=2) == play()


def refused(told: str, executor: str = "pool", options: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(QresError, match=f"(?s){told}") as caught:
        play(executor, options)
    return str(caught.value)


def test_an_executor_of_this_project_that_is_not_installed_is_named_with_its_distribution(
    bring: Bring,
) -> None:
    bring("pool_dist")
    for name, distribution in plugin_index().brought[EXECUTORS_GROUP].items():
        told = refused(f"QRES-E201 simulation.executor: '{name}' is not installed", name)
        assert f"pip install {distribution}" in told
        (folder,) = ROOT.glob(f"integrations/{distribution.replace('-', '_')}")
        assert f"./integrations/{folder.name}" in told
    assert plugin_index().brought[EXECUTORS_GROUP]


def test_a_name_that_nobody_knows_is_refused_with_the_nearest(bring: Bring) -> None:
    bring("pool_dist")
    assert "did you mean 'pool'" in refused("QRES-E801 simulation.executor: .*'pol'", "pol")


def test_options_of_an_executor_are_checked_as_others_are(bring: Bring) -> None:
    bring("pool_dist")
    where = "simulation.executor_options"
    assert "did you mean 'threads'" in refused(f"QRES-E102 {where}.thread", options={"thread": 1})
    refused(f"QRES-E104 {where}.threads", options={"threads": "2"})
    refused(f"QRES-E105 {where}: .*simulation.executor", executor="", options={"threads": 2})


@pytest.mark.parametrize("target", ["Silent", "plain", "made"])
def test_what_makes_no_workers_is_named(bring: Bring, target: str) -> None:
    bring("strange_dist", target)
    refused("QRES-E206 simulation.executor: strange_dist 1.0")


def test_a_distribution_that_cannot_be_used_is_named(bring: Bring) -> None:
    bring("broken_dist", source="raise RuntimeError('no')")
    refused("QRES-E202 simulation.executor: broken_dist 1.0.*RuntimeError: no")
    bring("other_dist")
    refused("QRES-E204 simulation.executor: .*other_dist 1.0")


def test_another_qres_core_is_needed_before_anything_is_imported(bring: Bring) -> None:
    bring("future_dist", requires="qres-core>=99")
    refused("QRES-E203 simulation.executor: .*needs qres-core>=99")
    assert "future_dist" not in sys.modules


def test_a_scenario_of_python_may_name_an_executor_too(bring: Bring) -> None:
    bring("pool_dist")
    scenario = Scenario(executor="pool", executor_options={"threads": 3})
    executors.make_executor(scenario.executor, scenario.executor_options)()
    assert sys.modules["pool_dist"].made == [3]
