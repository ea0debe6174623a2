"""What a plugin does is read from its source; none of it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from qres_core.kernel.discovery import scan
from qres_core.kernel.inspection import hooks_of, summary_of


def written(folder: Path, modules: Mapping[str, str]) -> None:
    for name, text in modules.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


PLUGIN = """
import attrs
from qres_core import hookimpl

raise SystemExit("never run this")

@attrs.frozen
class Toy:
    def helper(self): ...
    @hookimpl
    def aggregate(self, updates): ...
    @hookimpl
    def setup(self): ...
    @hookimpl(specname="x")
    def observe(self): ...
    @qres_core.hookimpl
    async def sign(self): ...
    @hookimpl
    def no_such_hook(self): ...
"""


@pytest.mark.parametrize(
    ("target", "hooks"),
    [
        ("qres_core.builtin.mean:Mean", ("aggregate",)),
        ("qres_core.builtin.memory:Memory", ("round_opened", "transport")),
    ],
)
def test_the_built_in_plugins_are_read(target: str, hooks: tuple[str, ...]) -> None:
    assert hooks_of(target) == hooks


def test_an_installed_plugin_is_read_through_its_re_export() -> None:
    pytest.importorskip("qres_krum")
    assert hooks_of("qres_krum:Krum") == ("aggregate",)


def test_hooks_come_in_the_order_of_the_life_cycle(folder: Path) -> None:
    written(folder, {"reading_one": PLUGIN})
    assert hooks_of("reading_one:Toy") == ("setup", "sign", "observe", "aggregate")


def test_nothing_is_imported() -> None:
    program = (
        "import sys; from qres_core.kernel.inspection import hooks_of; "
        "assert hooks_of('qres_core.builtin.mean:Mean') == ('aggregate',); "
        "assert hooks_of('qres_krum:Krum') in (('aggregate',), None); "
        "assert not {'qres_krum', 'qres_core.swarm', 'numpy'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr


DEEPER = "from ..plugin import Toy\nfrom ..plugin import Toy as Renamed"


@pytest.mark.parametrize(
    "init",
    [
        "from reading_two.plugin import Toy",
        "from .plugin import Toy",
        "from reading_two.plugin import Toy as Toy",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .plugin import Toy",
        "from .deeper import Toy",
        "from .deeper import Renamed as Toy",
    ],
)
def test_re_exports_are_followed(folder: Path, init: str) -> None:
    written(
        folder,
        {
            "reading_two/__init__": init,
            "reading_two/plugin": PLUGIN,
            "reading_two/deeper/__init__": DEEPER,
        },
    )
    found = hooks_of("reading_two:Toy")
    assert found == ("setup", "sign", "observe", "aggregate")


@pytest.mark.parametrize(
    "target",
    [
        "no_such_module_anywhere:Toy",
        "reading_three.no_such_module:Toy",
        "reading_three:NoSuchClass",
        "reading_three:Circular",
        "reading_three:Elsewhere",
        "reading_three:TooFarUp",
        "reading_three:InheritsUnknown",
        "reading_three:InheritsItself",
        "reading_three:Unmarked",
        "reading_three:Aliased",
        "reading_three:made",
        "reading_three",
        "reading_three:",
        "reading_broken:Toy",
        "reading_null:Toy",
        "sys:version",
        "math:Toy",
        ":Toy",
        "",
        "..:Toy",
        "a b:c d",
    ],
)
def test_what_cannot_be_read_is_unknown_and_not_guessed(folder: Path, target: str) -> None:
    source = """
from reading_three import Circular
from no_such_module_anywhere import Elsewhere
from .... import TooFarUp
import attrs
from qres_core import hookimpl
from qres_core import hookimpl as marked

class Base:
    @hookimpl
    def authenticate(self): ...

class InheritsUnknown(Elsewhere):
    @hookimpl
    def setup(self): ...

class InheritsItself(InheritsItself):
    @hookimpl
    def setup(self): ...

class Unmarked:
    def setup(self): ...

class Aliased:
    @marked
    def setup(self): ...

made = attrs.make_class("made", [])
"""
    written(folder, {"reading_three": source, "reading_broken": "class Toy(:"})
    (folder / "reading_null.py").write_bytes(b"class Toy:\0")
    assert hooks_of(target) is None


def test_bases_are_followed_and_overridden(folder: Path) -> None:
    base = """
from qres_core import hookimpl

class Base(object):
    @hookimpl
    def authenticate(self): ...
    @hookimpl
    def setup(self): ...
"""
    derived = """
from .base import Base
from qres_core import hookimpl

class Plain(Base): ...

class Toy(Plain):
    @hookimpl
    def sign(self): ...
    def setup(self): ...
"""
    written(
        folder,
        {"reading_six/__init__": derived, "reading_six/base": base},
    )
    assert hooks_of("reading_six:Plain") == ("setup", "authenticate")
    assert hooks_of("reading_six:Toy") == ("sign", "authenticate")


def test_the_hooks_of_every_plugin_of_this_project_are_known() -> None:
    for plugin in scan().values():
        assert hooks_of(plugin.target), plugin.name
        assert summary_of(plugin.target), plugin.name


def test_the_summary_is_the_first_line(folder: Path) -> None:
    source = '''
import click
raise SystemExit("never run this")

class Toy:
    """Does one thing.

    And more.
    """

class Bare: ...

@click.group("verb")
def verb():
    """Run a thing."""

@click.command("verb", help="Other words. And more", short_help="Short words.")
def helped():
    """Not this."""
'''
    written(folder, {"reading_seven": source})
    assert summary_of("reading_seven:Toy") == "Does one thing"
    assert summary_of("reading_seven:Bare") == ""
    assert summary_of("reading_seven:verb") == "Run a thing"
    assert summary_of("reading_seven:helped") == "Short words"
    assert summary_of("reading_seven:nothing") == ""


def test_a_namespace_package_is_unknown(folder: Path) -> None:
    (folder / "reading_space").mkdir()
    assert hooks_of("reading_space:Toy") is None
