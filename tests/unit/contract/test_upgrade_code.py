"""``qres upgrade-code``: old forms become new ones, wherever they stand, and once."""

# upgrade-code: off - the cases are old code

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import qres_lab
from click.testing import CliRunner

import qres_core
from qres_core.cli.app import app
from qres_core.cli.upgrading import OFF, upgraded
from qres_core.contract.moved import HOMES

CASES = {
    "one name": (
        "from qres_core import Problem\n",
        "from qres_core.errors import Problem\n",
    ),
    "nothing moved": (
        "from qres_core import (\n  hookimpl, Update)\n",
        "from qres_core import (\n  hookimpl, Update)\n",
    ),
    "many lines": (
        "from qres_core import (\n    BlobRef,\n    NodeId,\n    Problem,\n    RoundError,\n)\n",
        (
            "from qres_core import NodeId\n"
            "from qres_core.errors import Problem, RoundError\n"
            "from qres_core.transport import BlobRef\n"
        ),
    ),
    "another name": (
        "from qres_core import Transport as T, hookimpl as hook\n",
        "from qres_core import hookimpl as hook\nfrom qres_core.transport import Transport as T\n",
    ),
    "in a block": (
        "if TYPE_CHECKING:\n    from qres_core import Trainer, Update\n",
        (
            "if TYPE_CHECKING:\n    from qres_core import Update\n"
            "    from qres_core.training import Trainer\n"
        ),
    ),
    "a comment": (
        "    from qres_core import Problem, stores  # noqa: PLC0415\n",
        (
            "    from qres_core import stores  # noqa: PLC0415\n"
            "    from qres_core.errors import Problem  # noqa: PLC0415\n"
        ),
    ),
    "a comment that opens": (
        "from qres_core import (  # noqa: E402\n    Problem,\n    stores,\n)\n",
        (
            "from qres_core import stores  # noqa: E402\n"
            "from qres_core.errors import Problem  # noqa: E402\n"
        ),
    ),
    "a comment inside": (
        "from qres_core import (\n    Problem,  # for check\n    stores,\n)\n",
        (
            "from qres_core import stores\n"
            "from qres_core.errors import (\n    Problem,  # for check\n)\n"
        ),
    ),
    "a backslash": (
        "from qres_core import Problem, \\\n    stores\n",
        "from qres_core import stores\nfrom qres_core.errors import Problem\n",
    ),
    "a semicolon": (
        "import numpy; from qres_core import Problem, stores\n",
        "import numpy; from qres_core import stores; from qres_core.errors import Problem\n",
    ),
    "a text": (
        'CODE = "from qres_core import QresError, stores\\n"\n',
        'CODE = "from qres_core import stores; from qres_core.errors import QresError\\n"\n',
    ),
    "an example": (
        ">>> from qres_core import Problem, stores\n",
        ">>> from qres_core import stores\n>>> from qres_core.errors import Problem\n",
    ),
    "an attribute": (
        "import qres_core\n\nqres_core.Problem, qres_core.Update, a.qres_core.Problem\n",
        "import qres_core\n\nqres_core.errors.Problem, qres_core.Update, a.qres_core.Problem\n",
    ),
    "an alias": (
        "import qres_core as qc\n\nqc.Problem, qc.Update\n",
        "import qres_core as qc\n\nqc.errors.Problem, qc.Update\n",
    ),
    "a reference": (
        '"""See :class:`~qres_core.Transport` and ``qres_core.partition``."""\n',
        '"""See :class:`~qres_core.transport.Transport` and ``qres_core.training.partition``."""\n',
    ),
    "a page": (
        "Text.\n\n```python\nfrom qres_core import Update, partition\n```\n",
        (
            "Text.\n\n```python\nfrom qres_core import Update\n"
            "from qres_core.training import partition\n```\n"
        ),
    ),
    "in order": (
        "from qres_core import Trainer\nfrom qres_core.reporting import Page\n",
        "from qres_core.reporting import Page\nfrom qres_core.training import Trainer\n",
    ),
    "products": (
        "from qres_core import Claims\n\nClaims(tolerates=1, by_products=True)\n",
        "from qres_core import Claims, Reads\n\nClaims(tolerates=1, reads=Reads.PRODUCTS)\n",
    ),
    "coordinates": (
        (
            "from qres_core import Claims, Reads\n\n"
            "Claims(tolerates=1, coordinatewise=True, averages=True)\n"
        ),
        (
            "from qres_core import Claims, Reads\n\n"
            "Claims(tolerates=1, reads=Reads.COORDINATES, averages=True)\n"
        ),
    ),
    "both": (
        "Claims(tolerates=1, coordinatewise=True, by_products=True)",
        "Claims(tolerates=1, reads=Reads.PRODUCTS)",
    ),
    "the usual": ("Claims(tolerates=1, looks=True)", "Claims(tolerates=1)"),
    "the usual first": ("Claims(looks=True, tolerates=1)", "Claims(tolerates=1)"),
    "an option": (
        "Claims(tolerates=1, by_products=not self.history)",
        "Claims(tolerates=1, reads=Reads.WHOLE if self.history else Reads.PRODUCTS)",
    ),
    "parts": (
        (
            "from qres_core import Claims\n\n"
            "Claims(\n    tolerates=None,\n    bounds=f\"at most {x(')')}\",\n"
            "    keeps=True,  # why\n    transferable=True,\n"
            "    looks=False,\n    accompanies=True,\n)\n"
        ),
        (
            "from qres_core import Claims, Reads\n"
            "from qres_core.claims import Privatizes, Verifies\n\n"
            "Claims(\n    tolerates=None,\n"
            "    verifies=Verifies(bounds=f\"at most {x(')')}\", transferable=True),\n"
            "    privatizes=Privatizes(keeps=True, accompanies=True),  # why\n"
            "    reads=Reads.NOTHING,\n)\n"
        ),
    ),
    "asked": (
        "plugin.claims.merges + plugin.claims.liars",
        "plugin.claims.wraps.merges + plugin.claims.liars",
    ),
    "no Python": ("Claims($options, looks=False)", "Claims($options, looks=False)"),
    "no call": ("Claims(tolerates=1, looks", "Claims(tolerates=1, looks"),
    "Windows": (
        "from qres_core import Problem, stores\r\n",
        "from qres_core import stores\r\nfrom qres_core.errors import Problem\r\n",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_old_form_becomes_a_new_one_once(case: str) -> None:
    old, new = CASES[case]
    made = upgraded(old)
    assert made.text == new
    assert upgraded(made.text) == made
    assert made.left == []


def test_every_name_that_moved_is_imported_from_its_place() -> None:
    old = "from qres_core import (\n" + "".join(f"    {name},\n" for name in HOMES) + ")\n"
    spaces: dict[str, object] = {}
    with pytest.raises(ImportError, match=r"since 0\.3"):
        exec(old, spaces)  # noqa: S102 - the statement is the case
    exec(upgraded(old).text, spaces)  # noqa: S102
    assert set(HOMES) <= set(spaces)
    names = ", ".join(f"qres_core.{name}" for name in HOMES)
    assert eval(upgraded(names).text, {"qres_core": qres_core, "qres_lab": qres_lab})  # noqa: S307


def test_a_module_that_moved_whole_is_found_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = {"qres_core.testing": "qres_lab.testing", "qres_core.lab.gallery": "qres_lab.gallery"}
    monkeypatch.setattr("qres_core.cli.upgrading.MODULES", moved)
    old = (
        "from qres_core import Update, testing\n"
        "from qres_core.testing import host\n"
        "from qres_core.lab.gallery.entries import gallery\n"
        'import_module("qres_core.testing.trial"), "qres_core.testings", "a.qres_core.testing"\n'
    )
    new = (
        "from qres_core import Update\n"
        "from qres_lab import testing\n"
        "from qres_lab.testing import host\n"
        "from qres_lab.gallery.entries import gallery\n"
        'import_module("qres_lab.testing.trial"), "qres_core.testings", "a.qres_core.testing"\n'
    )
    assert upgraded(old).text == new
    assert upgraded(new).text == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "from qres_core import Problem, Update, hosting\n",
            (
                "import qres_hosting as hosting\nfrom qres_core import Update\n"
                "from qres_core.errors import Problem\n"
            ),
        ),
        (
            "    from qres_core import hosting as h  # late\n",
            "    import qres_hosting as h  # late\n",
        ),
        (
            "from qres_core import (\n    Update,\n    hosting,  # why\n)\n",
            "import qres_hosting as hosting  # why\nfrom qres_core import Update\n",
        ),
        (
            "import numpy; from qres_core import Update, hosting\n",
            "import numpy; import qres_hosting as hosting; from qres_core import Update\n",
        ),
        (
            "from qres_core.hosting.told import HostedRound\n",
            "from qres_hosting.told import HostedRound\n",
        ),
        ("import qres_core.hosting\n", "import qres_hosting\n"),
    ],
)
def test_a_module_that_is_a_package_of_its_own_now_is_imported_whole(old: str, new: str) -> None:
    made = upgraded(old)
    assert (made.text, made.left) == (new, [])
    assert upgraded(new).text == new


@pytest.mark.parametrize(
    ("name", "place"), [("hosting", "qres_hosting"), ("testing", "qres_lab.testing")]
)
def test_a_module_that_moved_is_refused_by_name(name: str, place: str) -> None:
    with pytest.raises(ImportError, match=f"`qres_core.{name}` is `{place}` since"):
        exec(f"from qres_core import {name}")  # noqa: S102 - the statement is the case


def test_what_it_cannot_change_is_named_with_its_line() -> None:
    text = "from qres_core import *\n\nif mine.claims.by_products:\n    pass\n"
    made = upgraded(text)
    assert made.text == text
    assert [line for line, _what in made.left] == [1, 3]


def test_a_file_can_stay_as_it_is() -> None:
    text = f"# {OFF}\nfrom qres_core import Problem\n"
    assert upgraded(text).text == text


# ── the command ───────────────────────────────────────────────────────────────────────────────────


def test_the_command_rewrites_a_folder_and_says_what_is_left(tmp_path: Path) -> None:
    old = "from qres_core import Problem\n"
    names = ("a.py", "page.md", "b/c.py", "CHANGELOG.md", ".hidden/d.py", "build/e.py", "f.toml")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(old, encoding="utf-8")
    (tmp_path / "a.py").chmod(0o755)
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    checked = CliRunner().invoke(app, ["upgrade-code", "--check", str(tmp_path)])
    assert checked.exit_code == 1
    assert "3 files to rewrite, 0 places left to you" in checked.output
    assert "latin.py: is no UTF-8" in checked.output
    assert (tmp_path / "a.py").read_text("utf-8") == old

    done = CliRunner().invoke(app, ["upgrade-code", str(tmp_path)])
    assert done.exit_code == 0, done.output
    changed = {name for name in names if (tmp_path / name).read_text("utf-8") != old}
    assert changed == {"a.py", "page.md", "b/c.py"}
    assert (tmp_path / "a.py").stat().st_mode & 0o777 == 0o755

    again = CliRunner().invoke(app, ["upgrade-code", "--check", str(tmp_path)])
    assert again.exit_code == 0
    assert "0 files to rewrite" in again.output


def test_code_that_would_break_stays_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.py"
    path.write_text("from qres_core import Problem\n", encoding="utf-8")
    broken = upgraded("")._replace(text="from from\n")
    monkeypatch.setattr("qres_core.cli.upgrade_code.upgraded", lambda _text: broken)
    done = CliRunner().invoke(app, ["upgrade-code", str(path)])
    assert done.exit_code == 1
    assert "change it by hand" in done.output
    assert path.read_text("utf-8") == "from qres_core import Problem\n"


def test_the_repository_is_upgraded() -> None:
    root = Path(qres_core.__file__).parents[1]
    if not (root / "plugins").is_dir():
        pytest.skip("no checkout")
    done = CliRunner().invoke(app, ["upgrade-code", "--check", str(root)])
    generated = str(root / "docs/reference")
    lines = [line for line in done.output.splitlines() if not line.startswith(generated)]
    assert len(lines) == 1, lines
    assert ast.parse(Path(__file__).read_text("utf-8"))
