"""Each fault between pages and tests is found by the script that holds them against each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = """# Page

Two things are kept. A liar moves nothing <!-- C-lie-1 --> and opens
nothing. <!-- C-lie-2 --> Nobody reviewed it. <!-- A-lie-1 -->

- **Bold.** So it is [here](there.md) too. <!-- as C-lie-1, C-lie-2 -->

```text
no mark <!-- C-lie-9 -->
```

| threat | answer | where |
|---|---|---|
| lies | are refused <!-- C-lie-3 --> | `here` |

| key | meaning |
|---|---|
| `free` | no promise |
"""
TESTS = """
import pytest

@pytest.mark.claim("C-lie-1", "C-lie-2")
@pytest.mark.parametrize("x", [1])
def test_attack(x): ...

@pytest.mark.control("C-lie-1", "C-lie-2")
def test_control(): ...

@pytest.mark.claim("C-lie-3")
@pytest.mark.control("C-lie-3")
class TestBoth:
    def test_it(self): ...
"""


@pytest.fixture(scope="module")
def claims(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("claims")


def _book(claims: ModuleType, folder: Path, page: str = PAGE, tests: str = TESTS) -> Any:
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "README.md").write_text(page, encoding="utf-8")
    (folder / "tests" / "test_lies.py").write_text(tests, encoding="utf-8")
    return claims.Book.read(folder)


def test_sentences_and_their_tests_are_found(claims: ModuleType, tmp_path: Path) -> None:
    book = _book(claims, tmp_path)
    assert book.faults == []
    assert [(each.name, each.sentence, each.line) for each in book.said] == [
        ("C-lie-1", "A liar moves nothing", 3),
        ("C-lie-2", "and opens nothing.", 4),
        ("A-lie-1", "Nobody reviewed it.", 4),
        ("C-lie-1", "So it is here too.", 6),
        ("C-lie-2", "So it is here too.", 6),
        ("C-lie-3", "lies: are refused", 14),
    ]
    page = book.written()
    assert "3 claims, 3 tests, 1 assumptions." in page
    entry = page.index("- `C-lie-1` (`README.md`): A liar moves nothing")
    assert page.index("attack: `tests/test_lies.py::test_attack`", entry) > entry
    assert page.index("control: `tests/test_lies.py::test_control`", entry) > entry
    assert page.index("- `A-lie-1`") > page.index("## Assumptions")


@pytest.mark.control("C-paper-1")
@pytest.mark.parametrize(
    ("page", "tests", "fault"),
    [
        (PAGE, TESTS.replace('claim("C-lie-1", ', "claim("), "3: C-lie-1 has no test that attacks"),
        (PAGE, TESTS.replace('control("C-lie-1", ', "control("), "3: C-lie-1 has no control"),
        (PAGE, TESTS.replace('"C-lie-2")', '"C-lie-2", "C-lie-7")'), "no page defines C-lie-7"),
        (PAGE, TESTS.replace('"C-lie-2")', '"C-lie-2", "A-lie-1")'), "A-lie-1 is an assumption"),
        (PAGE, TESTS.replace('"C-lie-2")', '"C-lie-2", NAME)'), "an id is a text: NAME"),
        (PAGE.replace("lie-2 -->", "lie-1 -->", 1), TESTS, "4: C-lie-1 stands at README.md:3"),
        (PAGE.replace("as C-lie-1", "as C-lie-8"), TESTS, "6: no page defines C-lie-8"),
        (PAGE.replace("-3 -->", "-3 --><!-- A-lie-2 -->"), TESTS, "both claim and assumption"),
        (
            PAGE.replace("as C-lie-1, C-lie-2", "as C-lie-1, A-lie-1"),
            TESTS,
            "6: a sentence is both",
        ),
        (PAGE.replace("C-lie-3", "C-lie"), TESTS, "14: no mark: C-lie"),
        (PAGE.replace("C-lie-3", "so it is"), TESTS, "14: a row or an item without a mark: lies"),
        (PAGE.replace("nothing <!--", "nothing\n<!--"), TESTS, "4: a mark begins a line"),
    ],
)
def test_a_fault_is_named(
    claims: ModuleType, tmp_path: Path, page: str, tests: str, fault: str
) -> None:
    assert any(fault in each for each in _book(claims, tmp_path, page, tests).faults)


def test_a_fault_fails_the_check_and_nothing_is_written(
    claims: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    _book(claims, tmp_path)
    assert claims.main(["--check"]) == 0
    assert capsys.readouterr().out == ""
    assert claims.main([]) == 0
    assert "- `C-lie-1` (`README.md`): A liar moves nothing" in capsys.readouterr().out
    (tmp_path / "README.md").write_text(PAGE + "\nNew. <!-- C-lie-4 -->\n", encoding="utf-8")
    for arguments in ([], ["--check"]):
        assert claims.main(arguments) == 1
        assert "C-lie-4 has no control: New." in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "tests"}


@pytest.mark.claim("C-paper-1")
def test_every_claim_of_the_project_has_a_test_and_a_control(
    claims: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert claims.main(["--check"]) == 0, capsys.readouterr().out
