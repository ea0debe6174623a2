"""Each fault between the pages and the list of their figures is found by the script for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = """# Page

A round takes 12 ms and
sends 3.4 MB.

| nodes | seconds |
|---|---|
| 4 | 1.5 |
| 8 | 2.5 |

The rest is 7 % of it.
"""
LIST = """
[[figures]]
page = "docs/page.md"
what = "a round"
text = ["12 ms and sends 3.4 MB"]
run = "PYTHONPATH=benchmarks python benchmarks/one.py --quick --far"
on = "idle"
last = 2026-11-29

[[figures]]
page = "docs/page.md"
what = "nodes"
table = "| nodes | seconds |"
digest = "d790d44f"
run = "make bench"
on = "idle"
last = 2026-11-28
"""
FILES = {
    "docs/page.md": PAGE,
    "docs/large.csv": 'nodes,seconds\n"1,000",1.5\n8,2.5\n',
    "Makefile": "bench: all\n\tpython benchmarks/one.py\n",
    "benchmarks/one.py": 'parser.add_argument("--far")\n',
    "benchmarks/harness.py": 'parser.add_argument("--quick")\n',
    "plugins/qres_far/pyproject.toml": 'far = "qres_far.cli:far"\n',
    "scripts/walks/__main__.py": 'parser.add_argument("--seeds")\n',
    "scripts/figures.toml": LIST,
}


@pytest.fixture(scope="module")
def figures(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("figures")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def _change(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text("utf-8")
    assert old in text
    (root / name).write_text(text.replace(old, new), encoding="utf-8")


def _faults(figures: ModuleType, root: Path) -> list[str]:
    return [fault for each in figures.read(root) for fault in each.faults(root)]


def test_pages_that_print_what_the_list_says_have_no_fault(figures: ModuleType, root: Path) -> None:
    assert _faults(figures, root) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("docs/page.md", "3.4 MB", "3.5 MB", "docs/page.md does not print 12 ms and sends 3.4 MB"),
        ("docs/page.md", "| 2.5 |", "| 2.6 |", "prints another table than was measured on"),
        ("docs/page.md", "| 8 | 2.5 |\n", "", "prints another table than was measured on"),
        ("docs/page.md", "| nodes |", "| members |", "has 0 tables that begin with"),
        ("scripts/figures.toml", "one.py", "two.py", "no file benchmarks/two.py"),
        ("scripts/figures.toml", "--far", "--near", "no option --near"),
        ("scripts/figures.toml", "make bench", "make beach", "no target beach"),
        ("scripts/figures.toml", "make bench", "qres play", "no command qres play"),
        ("scripts/figures.toml", "make bench", "python -m talks", "no package talks"),
        ("scripts/figures.toml", "make bench", "by hand", "neither a script, nor a target"),
        ("scripts/figures.toml", "docs/page.md", "docs/p.md", "there is no page docs/p.md"),
        ("scripts/figures.toml", "table =", "text = ['12 ms']\ntable =", "and not both"),
    ],
)
def test_each_fault_is_found(
    figures: ModuleType, root: Path, name: str, old: str, new: str, fault: str
) -> None:
    _change(root, name, old, new)
    assert any(fault in each for each in _faults(figures, root))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("docs/page.md", "12 ms and\nsends 3.4 MB", "12 ms\nand sends   3.4 MB"),
        ("docs/page.md", "| 8 | 2.5 |", "| 8 nodes | 2.5 |"),
        ("scripts/figures.toml", "make bench", "qres simulate --rounds 3"),
        ("scripts/figures.toml", "make bench", "qres far away"),
        ("scripts/figures.toml", "make bench", "python -m walks --seeds 0:4"),
    ],
)
def test_other_words_and_other_commands_that_exist_are_no_fault(
    figures: ModuleType, root: Path, name: str, old: str, new: str
) -> None:
    _change(root, name, old, new)
    assert _faults(figures, root) == []


def test_the_table_has_a_row_for_each_entry_and_the_page_is_linked(
    figures: ModuleType, root: Path
) -> None:
    written = figures.written(root, figures.read(root))
    assert "## [Page](../page.md)" in written
    assert "| a round | 12 ms and sends 3.4 MB |" in written
    assert "| nodes | a table | `make bench` | idle | 2026-11-28 |" in written


def test_a_table_that_is_a_file_is_held_as_one_on_a_page(figures: ModuleType, root: Path) -> None:
    _change(root, "scripts/figures.toml", "| nodes | seconds |", "nodes,seconds")
    _change(
        root,
        "scripts/figures.toml",
        'docs/page.md"\nwhat = "nodes',
        'docs/large.csv"\nwhat = "nodes',
    )
    (other,) = _faults(figures, root)
    assert "docs/large.csv prints another table than was measured" in other
    figures.measured(root, date(2026, 12, 1))
    assert _faults(figures, root) == []
    assert "## `docs/large.csv`" in figures.written(root, figures.read(root))
    _change(root, "docs/large.csv", "8,2.5", "8,2.6")
    assert _faults(figures, root) == [other.replace("2026-11-28", "2026-12-01")]
    _change(root, "docs/large.csv", "nodes,", "members,")
    assert "has 0 tables that begin with nodes,seconds" in _faults(figures, root)[0]


def test_other_tables_are_taken_as_measured_and_nothing_else(
    figures: ModuleType, root: Path
) -> None:
    before = (root / "scripts/figures.toml").read_text("utf-8")
    figures.measured(root, date(2026, 12, 1))
    assert (root / "scripts/figures.toml").read_text("utf-8") == before
    _change(root, "docs/page.md", "| 2.5 |", "| 2.6 |")
    figures.measured(root, date(2026, 12, 1))
    assert _faults(figures, root) == []
    assert [f"{each.last}" for each in figures.read(root)] == ["2026-11-29", "2026-12-01"]


def test_figures_that_nobody_listed_can_be_printed(figures: ModuleType, root: Path) -> None:
    found = list(figures.unlisted(root, figures.read(root)))
    assert found == ["docs/page.md:11: The rest is 7 % of it."]


def test_the_list_of_the_project_holds(figures: ModuleType) -> None:
    assert figures.main(["--check"]) == 0
