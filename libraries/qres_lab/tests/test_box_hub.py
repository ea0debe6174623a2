"""The hub of a box: started before the nodes, started again, and never left behind."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from qres_lab.box import hub as box_hub
from qres_lab.box import nodes as box
from qres_lab.box.fleet import Fleet
from qres_lab.box.hub import BoxHub
from qres_lab.box.nodes import BoxNode

from qres_core.contract.errors import PluginError

LISTENS = "import sys; print('{}', flush=True); sys.stdin.read()"
DEAF = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); "
    "print('{}', flush=True); time.sleep(9999)"
)
FAILS = "import sys; sys.exit('no such command')"


def hub(folder: Path, program: str = LISTENS) -> BoxHub:
    asked: list[tuple[str, ...]] = []

    def made(*arguments: str) -> dict[str, Any]:
        asked.append(arguments)
        return {"digest": "ab" * 32}

    made_of = BoxHub(folder / "hub", 4001, lambda *_arguments: [sys.executable, "-c", program])
    made_of.make("box", ["aa", "bb"], made)
    assert asked == [("hub", "key", str(folder / "hub" / "hub.pem"))]
    return made_of


def test_it_serves_the_nodes_of_the_box(tmp_path: Path) -> None:
    item = hub(tmp_path)
    tables = tomllib.loads((tmp_path / "hub" / "swarm.toml").read_text(encoding="utf-8"))
    assert tables == {"swarm": {"name": "box", "roster": ["aa", "bb"]}}
    assert item.option == "127.0.0.1:4001#" + "ab" * 32


def test_it_is_started_again_and_ends_with_the_fleet(tmp_path: Path) -> None:
    item = hub(tmp_path)
    seat = BoxNode(0, tmp_path, False, "aa", "", 0, 0, item)  # noqa: FBT003 - order
    fleet = Fleet([seat])
    item.start()
    first = item.process
    assert first is not None
    assert list(item.look_after()) == []
    first.kill()
    first.wait()
    assert fleet.poll() == ["the hub ended with code -9 and was started again"]
    second = item.process
    assert second is not None
    assert second.poll() is None
    fleet.stop()
    fleet.stop()
    assert second.returncode is not None


def test_it_ends_where_whoever_started_it_is_gone(tmp_path: Path) -> None:
    item = hub(tmp_path)
    item.start()
    assert item.process is not None
    assert item.process.stdin is not None
    item.process.stdin.close()
    assert item.process.wait(300) == 0
    item.stop()


def test_it_is_killed_where_it_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box_hub, "STOP_SECONDS", 0.1)
    item = hub(tmp_path, DEAF)
    item.start()
    process = item.process
    assert process is not None
    item.stop()
    assert process.returncode is not None


def test_a_hub_that_does_not_start_ends_the_box_by_name(tmp_path: Path) -> None:
    item = hub(tmp_path, FAILS)
    seat = BoxNode(0, tmp_path, False, "aa", "", 0, 0, item)  # noqa: FBT003 - order
    with (
        pytest.raises(PluginError, match=r"QRES-E201.*does not start.*qres hub run"),
        Fleet([seat]),
    ):
        pass
    assert "no such command" in (tmp_path / "hub" / "log.txt").read_text(encoding="utf-8")


def test_a_command_that_makes_keys_too_slowly_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        box, "qres", lambda *_words: [sys.executable, "-c", "import time; time.sleep(9)"]
    )
    monkeypatch.setattr(box, "SECONDS", 0.0)
    with pytest.raises(PluginError, match=r"QRES-E201.*`qres keys` took more than 0 s"):
        box._made("keys")


def test_control_one_that_ends_in_time_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-c", "print('{\"ok\": true}')"]
    monkeypatch.setattr(box, "qres", lambda *_words: words)
    assert box._made("keys") == {"ok": True}
