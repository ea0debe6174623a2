"""A changed file is taken as a whole or not at all, and what cannot change is named."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from qres_core import hookimpl, options
from qres_core.builtin.memory import Memory
from qres_core.errors import ConfigError, QresError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import PolicyRule, SitePolicy
from qres_core.node import calling, logs
from qres_core.node.calling import FILE, call, found_in, heard
from qres_core.node.reloading import Reloader, changed


@attrs.define(eq=False)
class Tuned(Memory):
    """A transport whose peers may change; it refuses the name ``nobody``."""

    peers: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "Peers.", options.LIVE: True}
    )
    pace: int = 1
    aimed: list[tuple[str, ...]] = attrs.field(factory=list, init=False)

    def retune(self, fresh: Tuned) -> None:
        if "nobody" in fresh.peers:
            raise ConfigError.of("QRES-E105", "plugins.tuned.peers", "nobody is no address", "")
        self.aimed.append(fresh.peers)


@attrs.define(eq=False)
class AlsoTuned:
    """Another plugin with such an option, which remembers what it took; it refuses zero."""

    depth: int = attrs.field(default=1, metadata={"help": "Depth.", options.LIVE: True})
    taken: list[int] = attrs.field(factory=list, init=False)

    def retune(self, fresh: AlsoTuned) -> None:
        if not fresh.depth:
            raise ConfigError.of("QRES-E105", "plugins.also.depth", "nothing", "")
        self.taken.append(fresh.depth)

    @hookimpl
    def setup(self) -> None:
        """Nothing; a plugin has a hook."""


INSTALLED = {
    **scan(),
    "tuned": Installed.local("tuned", Tuned),
    "also": Installed.local("also", AlsoTuned),
}
SWARM: Mapping[str, Any] = {
    "name": "s",
    "nodes": 4,
    "byzantine": 1,
    "quorum": 3,
    "insecure": True,
}


def configure(*, name: str = "s", level: str = "info", mean: bool = True, **tuned: Any) -> Config:
    plugins: dict[str, Any] = {"tuned": tuned, "mean": {"unprotected": True}}
    if not mean:
        plugins = {"mean": {"unprotected": True}, "tuned": tuned}
    raw = {"swarm": {**SWARM, "name": name}, "node": {"log_level": level}, "plugins": plugins}
    return parse(raw, source="test")


@pytest.fixture
def level() -> Iterator[Any]:
    own = logging.getLogger(logs.OWN)
    before = own.level
    logs.set_level("info")
    yield lambda: logging.getLevelName(own.level).lower()
    own.setLevel(before)


def running(config: Config) -> tuple[Reloader, Tuned]:
    kernel = Kernel.from_config(config, installed=INSTALLED)
    (plugin,) = [it.instance for it in kernel.enabled if it.name == "tuned"]
    assert isinstance(plugin, Tuned)
    return Reloader(config, kernel, INSTALLED), plugin


def test_peers_and_the_log_level_are_taken(level: Any) -> None:
    reloader, plugin = running(configure(peers=["a"]))
    new = configure(peers=["b"], level="debug")
    assert reloader.reload(lambda: new) == ("node.log_level", "plugins.tuned.peers")
    assert plugin.aimed == [("b",)]
    assert level() == "debug"
    assert reloader.reload(lambda: new) == (), "it is in force now"
    assert plugin.aimed == [("b",)]


@pytest.mark.parametrize(
    ("new", "named"),
    [
        (configure(peers=["b"], level="debug", name="other"), ["swarm.name"]),
        (configure(peers=["b"], level="debug", pace=2), ["plugins.tuned.pace"]),
        (
            configure(peers=["b"], level="debug", pace=2, name="x"),
            ["swarm.name", "plugins.tuned.pace"],
        ),
        (configure(peers=["b"], level="debug", mean=False), ["plugins"]),
    ],
)
def test_a_change_of_anything_else_is_named_and_nothing_is_taken(
    level: Any, new: Config, named: list[str]
) -> None:
    reloader, plugin = running(configure(peers=["a"]))
    with pytest.raises(ConfigError) as caught:
        reloader.reload(lambda: new)
    assert [(it.code, it.where) for it in caught.value.problems] == [
        ("QRES-E106", where) for where in named
    ]
    assert plugin.aimed == []
    assert level() == "info"
    assert reloader.reload(lambda: configure(peers=["a"])) == (), "what was in force still is"


@pytest.mark.parametrize("case", ["unreadable", "refused", "would not start"])
def test_a_file_that_cannot_be_taken_changes_nothing(level: Any, case: str) -> None:
    reloader, plugin = running(configure(peers=["a"]))
    wrong = {"peers": ["nobody"]} if case == "refused" else {"peers": [7]}

    def reread() -> Config:
        if case == "unreadable":
            raise ConfigError.of("QRES-E101", "node.toml", "not TOML", "mend it")
        return configure(level="debug", **wrong)

    with pytest.raises(QresError):
        reloader.reload(reread)
    assert plugin.aimed == []
    assert level() == "info"


def test_what_the_site_forbids_is_not_taken_later_either(level: Any) -> None:
    rule = PolicyRule("equals", ("node", "log_level"), "info")
    reloader, plugin = running(configure(peers=["a"]))
    reloader.policies = [SitePolicy("site", rules=(rule,))]
    with pytest.raises(QresError, match="QRES-E315"):
        reloader.reload(lambda: configure(peers=["b"], level="debug"))
    assert (plugin.aimed, level()) == ([], "info")
    assert reloader.reload(lambda: configure(peers=["b"])) == ("plugins.tuned.peers",)
    reloader.policies = ()  # control
    reloader.reload(lambda: configure(peers=["b"], level="debug"))
    assert level() == "debug"


@pytest.mark.parametrize("second", ["also", "tuned"])
def test_where_one_plugin_refuses_no_other_keeps_what_it_took(level: Any, second: str) -> None:
    first = "tuned" if second == "also" else "also"

    def both(peers: list[str], depth: int) -> Config:
        tables: dict[str, Any] = {"tuned": {"peers": peers}, "also": {"depth": depth}}
        plugins = {first: tables[first], second: tables[second], "mean": {"unprotected": True}}
        return parse({"swarm": SWARM, "plugins": plugins}, source="test")

    config = both(["a"], 1)
    kernel = Kernel.from_config(config, installed=INSTALLED)
    found: dict[str, Any] = {plugin.name: plugin.instance for plugin in kernel.enabled}
    reloader = Reloader(config, kernel, INSTALLED)
    reloader.reload(lambda: both(["b"], 2))
    took = {"tuned": found["tuned"].aimed, "also": found["also"].taken}
    assert took == {"tuned": [("b",)], "also": [2]}
    refused = both(["nobody"], 3) if second == "tuned" else both(["c"], 0)
    with pytest.raises(ConfigError):
        reloader.reload(lambda: refused)
    assert {name: taken[-1] for name, taken in took.items()} == {"tuned": ("b",), "also": 2}
    assert len(took[first]) == 3, "control: the other one had taken it"
    assert level() == "info"


def test_tables_are_compared_key_by_key() -> None:
    old = {"a": {"b": 1, "c": [1]}, "d": 1, "e": {}}
    new = {"a": {"b": 2, "c": [1], "f": 0}, "d": {"g": 1}}
    assert list(changed(old, new)) == ["a.b", "a.f", "d", "e"]
    assert list(changed(old, old)) == []


# ── the process ───────────────────────────────────────────────────────────────────────────────────


def test_a_process_is_found_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from qres_core.node.calling import found_in\n"
        "signal.signal(signal.SIGHUP, lambda *_: print('told', flush=True) or sys.exit(0))\n"
        "with found_in(Path(sys.argv[1])):\n"
        "    print('here', flush=True)\n"
        "    signal.pause()\n"
    )
    command = [sys.executable, "-P", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "here\n"
        assert call(tmp_path) == node.pid
        assert node.stdout.readline() == "told\n"
        assert node.wait(300) == 0
    with pytest.raises(ConfigError, match="no node runs"):
        call(tmp_path)


def test_a_file_that_was_left_behind_leads_to_nobody(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(str(os.getpid()))  # nobody holds its lock
    with pytest.raises(ConfigError, match="no node runs"):
        call(tmp_path)
    with found_in(tmp_path):
        assert (tmp_path / FILE).read_text() == str(os.getpid())
        for text in ("", "0", "1", "-1", "x"):  # signals to those would reach others
            (tmp_path / FILE).write_text(text)
            with pytest.raises(ConfigError, match="no node runs"):
                call(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_what_came_of_it_is_taken_from_the_status_after_it_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_core.node.calling.PAUSE", 0.0)
    told = {"times": 2, "at": 8.0, "taken": ["node.log_level"], "problems": []}
    before = {"reload": {**told, "times": 1, "at": 4.0}}
    answers = iter([None, before, {"reload": told}])
    said = heard(lambda: next(answers), before, 8.0)
    assert said == {"taken": ["node.log_level"], "problems": []}
    assert heard(lambda: before, before, 0.0) is None
    assert heard(lambda: {"reload": "nonsense"}, None, 0.0) is None
    assert heard(lambda: {"reload": {"times": "2", "at": 8.0}}, None, 0.0) is None


def test_what_came_of_an_earlier_file_is_not_taken_for_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qres_core.node.calling.PAUSE", 0.0)
    earlier = {"reload": {"times": 3, "at": 7.9, "taken": ["a"], "problems": []}}
    refused = {"reload": {"times": 4, "at": 8.1, "taken": [], "problems": ["no"]}}
    # It did not answer before it was told, or somebody else told it shortly before.
    for before in (None, {"reload": {"times": 2, "at": 1.0}}):
        answers = iter([earlier, earlier, refused])
        said = heard(answers.__next__, before, 8.0)
        assert said == {"taken": [], "problems": ["no"]}
        taken = heard(lambda: earlier, before, 0.0)
        assert taken is not None, "control: without the time the earlier answer counts"


def test_whoever_looks_at_a_file_does_not_keep_a_node_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / FILE).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `qres node doctor` does, for a moment
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(file, fcntl.LOCK_UN))
        with monkeypatch.context() as patch:
            patch.setattr(calling, "ATTEMPTS", 1)
            with pytest.raises(BlockingIOError), found_in(tmp_path):
                raise AssertionError  # control: with one attempt it does not start
        assert (tmp_path / FILE).exists(), "what another holds is left to it"
        with found_in(tmp_path):
            assert (tmp_path / FILE).read_text() == str(os.getpid())
    assert not (tmp_path / FILE).exists()


EARLY = """
import signal, sys, types
app = types.ModuleType("qres_core.cli.app")
app.run = lambda: signal.raise_signal(signal.SIGHUP)
sys.modules["qres_core.cli.app"] = app
from qres_core.cli import main
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_reload_before_the_node_listens_does_not_end_it() -> None:
    def ended(*words: str) -> int:
        return subprocess.run([sys.executable, "-P", "-c", EARLY, *words], check=False).returncode

    assert ended("node", "run", "node.toml") == 0
    assert ended("simulate", "swarm.toml") == -signal.SIGHUP, "control: others end with a terminal"
