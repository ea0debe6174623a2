"""What plugins find around a node is shown, and one that misbehaves hides nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from qres_core import ConfigError, NodeId, NodeInfo, Problem, hookimpl
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.nodes import node_ids
from qres_core.node.doctor import Doctor
from qres_core.swarm.memory import Memory

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

    def examine(self, node_info: NodeInfo, runs: bool) -> Iterator[Problem | str]:  # noqa: FBT001
        assert node_info.node_id == IDS[0]
        assert not runs
        yield "the line is there"
        yield Problem("QRES-E904", "plugins.looks.peer", "nobody answers", "call its operator")


@attrs.frozen
class Fails(Memory):
    """Breaks down while it looks."""

    def examine(self, node_info: NodeInfo, runs: bool) -> Iterator[str]:  # noqa: FBT001
        raise OSError(node_info, runs)
        yield ""


@attrs.frozen
class Babbles(Memory):
    """Finds what nobody can read."""

    def examine(self, node_info: NodeInfo, runs: bool) -> list[int]:  # noqa: FBT001
        return [node_info.byzantine, runs]


INSTALLED = {
    **scan(),
    **{
        kind.__name__.lower(): Installed.local(kind.__name__.lower(), kind)
        for kind in (Keyed, Looks, Fails, Babbles)
    },
}


def configure(folder: Path, transport: str, **plugins: Mapping[str, Any]) -> Config:
    swarm = {"name": "s", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    raw = {
        "swarm": {**swarm, "roster": [member.hex() for member in IDS]},
        "node": {"data_dir": str(folder), "status": ""},
        "plugins": {transport: {}, "mean": {"unprotected": True}, **plugins},
    }
    return parse(raw, source="test")


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
