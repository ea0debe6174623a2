"""What plugins find around a node is shown, and one that misbehaves hides nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from qres_core import NodeId, NodeInfo, hookimpl
from qres_core.attacks.scenario import SECTIONS
from qres_core.builtin.memory import Memory
from qres_core.cli.node import command
from qres_core.errors import ConfigError, Problem
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.node_ids import node_ids
from qres_core.kernel.policy import PolicyRule, SitePolicy
from qres_core.node import doctor as room
from qres_core.node.daemon import prepare
from qres_core.node.doctor import Doctor, Examined
from qres_core.node.members import roster_of
from qres_core.transport import LinkKeys

IDS = node_ids(4, 1)


@attrs.frozen
class Keyed:
    """Gives the node the first key."""

    @hookimpl
    def identity(self, seed: bytes | None) -> NodeId:
        assert seed is None
        return IDS[0]


@attrs.frozen
class Looks(Memory):
    """Finds one thing well and another not."""

    def examine(
        self,
        node_info: NodeInfo,
        runs: bool,  # noqa: FBT001
        link_keys: LinkKeys | None,
    ) -> Iterator[Problem | str]:
        assert node_info.node_id == IDS[0]
        assert link_keys is None
        assert not runs
        yield "the line is there"
        yield Problem("QRES-E904", "plugins.looks.peer", "nobody answers", "call its operator")


@attrs.frozen
class Fails(Memory):
    """Breaks down while it looks."""

    def examine(self, node_info: NodeInfo, runs: bool, keys: object) -> Iterator[str]:  # noqa: FBT001
        raise OSError(node_info, runs, keys)
        yield ""


@attrs.frozen
class Babbles(Memory):
    """Finds what nobody can read."""

    def examine(self, node_info: NodeInfo, runs: bool, keys: object) -> list[int]:  # noqa: FBT001
        del keys
        return [node_info.byzantine, runs]


@attrs.frozen
class Lonely(Memory):
    """Finds nobody at the address of a peer, and not what the node itself needs."""

    def examine(self, node_info: NodeInfo, runs: bool, keys: object) -> Iterator[Problem]:  # noqa: FBT001
        del node_info, runs, keys
        yield Problem("QRES-E904", "plugins.lonely.peers[0]", "refused", "look there")
        yield Problem("QRES-E904", "plugins.lonely.hubs[0]", "refused", "look there")


INSTALLED = {
    **scan(),
    **{
        kind.__name__.lower(): Installed.local(kind.__name__.lower(), kind)
        for kind in (Keyed, Looks, Fails, Babbles, Lonely)
    },
}


def configure(
    folder: Path, transport: str, *, without: str = "", **plugins: Mapping[str, Any]
) -> Config:
    swarm = {"name": "s", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    raw: dict[str, Any] = {
        "swarm": {**swarm, "roster": [member.hex() for member in IDS]},
        "node": {"data_dir": str(folder), "status": ""},
        "trainer": {"task": {"name": "quadratic"}},
        "plugins": {transport: {}, "mean": {"unprotected": True}, **plugins},
    }
    if without == "trainer":
        del raw["trainer"]
    elif without:
        del raw["swarm"][without]
    return parse(raw, source="test", sections=SECTIONS)


def found(
    folder: Path, transport: str, **plugins: Mapping[str, Any]
) -> dict[str, tuple[bool, str]]:
    doctor = Doctor(lambda: configure(folder, transport, **plugins), INSTALLED)
    return {item.where: (item.well, item.what) for item in doctor.findings()}


def test_what_a_plugin_finds_is_shown(tmp_path: Path) -> None:
    said = found(tmp_path, "looks", keyed={})
    assert said["plugins.looks"] == (True, "the line is there")
    assert said["plugins.looks.peer"] == (False, "nobody answers (QRES-E904)")
    assert [where for where, (well, _what) in said.items() if not well] == ["plugins.looks.peer"]


def test_nobody_who_answers_yet_is_no_fault_of_a_node_that_never_ran(tmp_path: Path) -> None:
    said = found(tmp_path, "lonely", keyed={})
    assert said["plugins.lonely.peers[0]"] == (True, "nobody answers yet: refused")
    assert said["plugins.lonely.hubs[0]"] == (False, "refused (QRES-E904)")


def test_control_once_it_ran_it_is(tmp_path: Path) -> None:
    (tmp_path / IDS[0].hex()).mkdir()
    said = found(tmp_path, "lonely", keyed={})
    assert said["plugins.lonely.peers[0]"] == (False, "refused (QRES-E904)")


@pytest.mark.parametrize(
    ("transport", "what"),
    [("fails", "'examine' raised OSError"), ("babbles", "'examine' returned something but")],
)
def test_a_plugin_that_misbehaves_is_named(tmp_path: Path, transport: str, what: str) -> None:
    said = found(tmp_path, transport, keyed={})
    bad = {where: text for where, (well, text) in said.items() if not well}
    assert bad.keys() == {f"plugins.{transport}"}
    assert bad[f"plugins.{transport}"].startswith(what)


def test_a_node_without_a_key_is_told_so(tmp_path: Path) -> None:
    said = found(tmp_path, "memory")
    assert said["key"] == (False, "no enabled plugin gives this node a key")
    assert said["swarm.roster"] == (True, "4 members")


def test_plugins_that_do_not_add_up_are_told_and_nothing_further(tmp_path: Path) -> None:
    def twice() -> Config:
        return configure(tmp_path, "memory", looks={})

    items = list(Doctor(twice, INSTALLED).findings())
    assert items[0].well
    assert not any(item.well for item in items[1:])

    def unread() -> Config:
        raise ConfigError.of("QRES-E101", "node.toml", "not TOML", "mend it")

    (item,) = Doctor(unread, INSTALLED).findings()
    assert (item.where, item.well, item.fix) == ("node.toml", False, "mend it")


# ── what a start would refuse ─────────────────────────────────────────────────────────────────────


def sick(doctor: Doctor) -> dict[str, str]:
    items = [item for item in doctor.findings() if not item.well]
    assert all(item.fix for item in items)
    return {item.where: item.what for item in items}


def test_what_a_start_would_refuse_is_not_well(tmp_path: Path) -> None:
    def refused(**given: Any) -> dict[str, str]:
        return sick(Doctor(lambda: configure(tmp_path, "memory", keyed={}, **given), INSTALLED))

    assert refused() == {}, "control"
    assert refused(without="trainer") == {"trainer": "no model or task is named"}


def test_a_roster_in_the_folder_does_not_stand_for_one_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = configure(tmp_path, "memory", keyed={})
    kept = roster_of(whole)
    assert kept.members == tuple(sorted(IDS))
    monkeypatch.setattr(room, "roster_of", lambda _config: kept)  # a node ran here once
    doctor = Doctor(lambda: configure(tmp_path, "memory", keyed={}, without="roster"), INSTALLED)
    assert sick(doctor) == {"swarm.roster": "the file does not list the nodes"}
    with pytest.raises(ConfigError, match="QRES-E103"):  # control: it does not start
        prepare(configure(tmp_path, "memory", keyed={}, without="roster"), INSTALLED, ())


def test_what_the_site_forbids_is_not_well(tmp_path: Path) -> None:
    rule = PolicyRule("at_least", ("swarm", "byzantine"), 2)
    policies = [SitePolicy("site", rules=(rule,))]

    def read() -> Config:
        return configure(tmp_path, "memory", keyed={})

    assert sick(Doctor(read, INSTALLED, lambda: policies)).keys() == {"swarm.byzantine"}
    assert sick(Doctor(read, INSTALLED, list)) == {}, "control"

    def unread() -> list[SitePolicy]:
        raise ConfigError.of("QRES-E101", "/etc/qres/policy.toml", "not TOML", "mend it")

    assert sick(Doctor(read, INSTALLED, unread)).keys() == {"/etc/qres/policy.toml"}


# ── the folder ────────────────────────────────────────────────────────────────────────────────────


def test_a_file_of_the_node_that_is_another_user_s_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / IDS[0].hex()
    own.mkdir()
    (own / "journal.sqlite").write_bytes(b"")

    def read() -> Config:
        return configure(tmp_path, "memory", keyed={})

    assert sick(Doctor(read, INSTALLED)) == {}, "control"
    monkeypatch.setattr(room.os, "access", lambda path, _mode: path.suffix != ".sqlite")
    assert sick(Doctor(read, INSTALLED)) == {
        "node.data_dir": f"cannot read and write {own / 'journal.sqlite'}"
    }
    assert [path.name for path in own.iterdir()] == ["journal.sqlite"], "nothing is left behind"


def test_a_folder_that_nobody_may_look_into_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.stat

    def barred(path: Path, **options: Any) -> Any:
        if tmp_path / "shut" in path.parents:
            raise PermissionError(13, "Permission denied")
        return plain(path, **options)

    (tmp_path / "shut").mkdir()
    monkeypatch.setattr(Path, "stat", barred)
    with pytest.raises(PermissionError):
        (tmp_path / "shut/data").exists()  # control: what is asked plainly
    items = list(room._disk(tmp_path / "shut/data", tmp_path / "shut/data" / IDS[0].hex()))
    assert [item.where for item in items] == ["node.data_dir"]


# ── a node that runs ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """What is wrong with a node that runs and says this of itself."""
    monkeypatch.setattr(room, "runs_in", lambda _folder: True)

    def read(address: str) -> Config:
        config = configure(tmp_path, "memory", keyed={})
        return attrs.evolve(config, node=attrs.evolve(config.node, status=address))

    def found(address: str = "127.0.0.1:8470", **said: Any) -> dict[str, str]:
        mine = {"self": True, "banned_by_all": False, **said.pop("member", {})}
        report: dict[str, Any] = {
            "state": "running",
            "node": {"id": IDS[0].hex()},
            "swarm": {"quorum": 3},
            "peers": [{}, {}],
            "removed": False,
            "members": [mine, {"id": "ab", "clock_offset_seconds": 0.1}],
            **said,
        }
        asked: list[str] = []

        def ask(url: str) -> dict[str, Any]:
            asked.append(url)
            return report

        monkeypatch.setattr(room, "ask", ask)
        made = sick(Doctor(lambda: read(address), INSTALLED))
        # An address without a port, or none, leads nowhere: not to port 80 either.
        assert asked == ([address] if address.endswith(":8470") else [])
        return made

    return found


def test_a_node_that_runs_and_takes_no_part_is_not_well(
    runs: Callable[..., dict[str, str]],
) -> None:
    assert runs() == {}, "control"
    assert runs(state="starting") == {}
    few = "the node runs and reaches 2 of the 3 nodes that a round needs, with itself"
    assert runs(peers=[{}]) == {"process": few}
    assert runs(removed=True) == {"process": "the node runs and is no member"}
    banned = {"process": "the node runs, and the members banned it"}
    assert runs(member={"banned_by_all": True}) == banned


def test_another_node_at_the_address_does_not_speak_for_this_one(
    runs: Callable[..., dict[str, str]],
) -> None:
    other = IDS[1].hex()
    late = [{"id": "ab", "clock_offset_seconds": 60.0}]
    said = runs(node={"id": other}, members=late, peers=[])
    assert said == {"node.status": f"127.0.0.1:8470 is answered by node {other[:16]}"}
    assert "clock" in runs(members=late), "control: this node's own clock would be named"


@pytest.mark.parametrize("address", ["127.0.0.1:0", "", "nowhere"])
def test_an_address_that_tells_no_port_is_not_asked(
    runs: Callable[..., dict[str, str]], address: str
) -> None:
    assert runs(address).keys() == ({"node.status"} if address == "nowhere" else set())


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), 10**400, True, "0", None])
def test_an_offset_that_is_none_is_not_called_well(offset: object) -> None:
    members = [{"id": "ab", "clock_offset_seconds": offset}]
    (item,) = room._clock({"members": members})
    assert item.what == "not compared: no peer's message came yet"


def test_what_a_hub_or_a_proxy_says_makes_no_line_and_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    what = "no \x1b]0;owned\x07\nok   key: well"
    monkeypatch.setattr(
        Doctor, "findings", lambda _self: iter([Examined("x", what, "y\n", well=False)])
    )
    done = CliRunner().invoke(command, ["doctor", "node.toml"])
    assert done.exit_code == 1
    assert done.stdout == "BAD  x: no �]0;owned� ok   key: well\n     to do: y \n"
