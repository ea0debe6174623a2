"""The script that plays pages finds what a reader would type, and notices what is not true."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("run_pages")


@pytest.fixture
def play(pages: ModuleType, tmp_path: Path) -> Callable[[str], int]:
    def run(text: str) -> int:
        programs = Path(sys.executable).parent
        player = pages.Player(tmp_path.resolve(), programs, timeout=600.0)
        return int(player.play(pages.read_page("page.md", text)))

    return run


def console(*lines: str, mark: str = "") -> str:
    return "\n".join([*([f"<!-- {mark} -->"] if mark else []), "```console", *lines, "```", ""])


def test_commands_and_what_they_print_are_told_apart(pages: ModuleType) -> None:
    text = "Text.\n\n" + console(
        "$ first \\", "    more", "printed", "$ second   # why", "$ third |", "x"
    )
    (block,) = pages.read_page("page.md", text).blocks
    assert [(command.line, command.text, command.shown) for command in block.commands()] == [
        (4, "first \\\n    more", ("printed",)),
        (7, "second   # why", ()),
        (8, "third |\nx", ()),
    ]


def test_a_block_in_a_longer_fence_is_text(pages: ModuleType) -> None:
    (block,) = pages.read_page("page.md", "````text\n```console\n$ x\n```\n````\n").blocks
    assert block.language == "text"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<!-- skipp: why -->\n```console\n$ x\n```\n", "no such mark: skipp"),
        ("<!-- shown: -->\n```console\n$ x\n```\n", "needs a reason"),
        ("<!-- background: up -->\n```console\n$ x\n```\n", "needs a reason"),
        ("<!-- instead: a; why -->\n", "OLD -> NEW"),
        ("<!-- exit: 2 -->\n\nA sentence.\n", "stands above no block"),
    ],
)
def test_a_mark_that_means_nothing_is_refused(pages: ModuleType, text: str, wrong: str) -> None:
    with pytest.raises(pages.PageError, match=wrong):
        pages.read_page("page.md", text)


@pytest.mark.parametrize(
    "command",
    [
        "python -m venv .venv",
        ". .venv/bin/activate",
        "make demo",
        "make demo node",
    ],
)
def test_set_up_is_not_run(pages: ModuleType, command: str) -> None:
    assert pages.prepared(command)


@pytest.mark.parametrize(
    "command",
    [
        'pip install -e ".[test]"',
        "pip install torch",
        "make demo\nmake test",
        "qres demo",
        "pip install .",
    ],
)
def test_everything_else_is_run(pages: ModuleType, command: str) -> None:
    assert not pages.prepared(command)


def test_lines_of_code_are_neither_empty_nor_comments_alone(pages: ModuleType) -> None:
    text = "<!-- file: a.py -->\n```py\n# why\n\nx = 1  # so\n\ny = 2\n```\n```py\nz = 3\n```\n"
    assert pages.lines_of(pages.read_page("page", text)) == ["a.py: 2"]


def test_what_is_shown_must_be_printed_in_this_order(pages: ModuleType) -> None:
    printed = "one\n  two   2.5 s\nthree\n"
    assert pages.first_missing(("one", "two … s", "…", "three"), printed) is None
    assert pages.first_missing(("three", "one"), printed) == "one"
    assert pages.first_missing(("tw",), printed) == "tw"


def test_a_page_is_played_from_top_to_bottom(play: Callable[[str], int], tmp_path: Path) -> None:
    page = (
        "<!-- file: a/x.toml -->\n```toml\nx = 1\n```\n"
        "<!-- append: a/x.toml -->\n```toml\ny = 2\n```\n"
        + console("$ cd a", "$ cat x.toml", "x = 1", "y = 2")
        + console("$ pwd", f"{tmp_path.resolve()}/a", "$ false || exit 3", mark="exit: 3")
        + "```bash\ncd ..\nls a/x.toml\n```\n"
        + "```python\nvalue = 2\n```\n```py\nnot run\n```\n"
        + "```python\nfrom pathlib import Path\n\nPath('out').write_text(str(value + 1))\n```\n"
    )
    assert play(page) == 6
    assert (tmp_path / "out").read_text(encoding="utf-8") == "3"


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        (console("$ exit 4"), "ended with 4, not 0"),
        (console("$ echo fine", mark="exit: 2"), "ended with 0, not 2"),
        (console("$ echo 93.8 %", "93.9 %"), "shown and not printed:\n93.9 %"),
        (console("$ false | cat"), "ended with 1"),
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        (
            console("$ echo up; exit 1", mark="background: ready; it serves"),
            "never printed 'ready'",
        ),
    ],
)
def test_a_page_that_is_not_true_is_refused(
    pages: ModuleType, play: Callable[[str], int], page: str, wrong: str
) -> None:
    with pytest.raises(pages.PageError, match=r"^page\.md:") as caught:
        play(page)
    assert wrong in str(caught.value)


def test_keys_of_the_page_stand_for_those_made(play: Callable[[str], int]) -> None:
    page = (
        console("$ echo key $((40 + 2))", "key 7777", mark="fresh: keys differ")
        + "<!-- file: roster -->\n```toml\nroster = [7777]\n```\n"
        + console("$ cat roster", "roster = [7777]")
        + console("$ grep -c 42 roster", "1")
    )
    assert play(page) == 3


def test_what_runs_beside_a_page_is_stopped_and_compared(
    pages: ModuleType, play: Callable[[str], int]
) -> None:
    # It may be told to end as soon as it has said that it is up.
    program = "import time\ntry:\n    print('up', flush=True)\n    time.sleep(600)\n"
    program += "except KeyboardInterrupt:\n    print('bye')\n"
    page = f"<!-- file: serve.py -->\n```py\n{program}```\n"
    mark = "background: up; it serves until ctrl-C"
    assert play(page + console("$ python serve.py", "up", "bye", mark=mark)) == 1
    with pytest.raises(pages.PageError, match="never said"):
        play(page + console("$ python serve.py", "never said", mark=mark))


def test_the_gate_takes_another_address_where_the_page_says_so(play: Callable[[str], int]) -> None:
    page = "<!-- instead: 192.0.2.1 -> 127.0.0.1; there is no second machine -->\n"
    assert play(page + console("$ echo 192.0.2.1 | tr . -", "127-0-0-1")) == 1


def test_set_up_is_run_where_the_page_names_a_command_in_its_place(
    play: Callable[[str], int], pages: ModuleType
) -> None:
    page = "<!-- instead: make demo -> echo 93.8%; the environment stands for the rest -->\n"
    assert play(page + console("$ make demo", "93.8%")) == 1
    with pytest.raises(pages.PageError, match="shown and not printed"):
        play(page + console("$ make demo", "94.0%"))


def test_every_mark_on_the_pages_is_understood(pages: ModuleType) -> None:
    found = [path for pattern in pages.PAGES for path in ROOT.glob(pattern)]
    assert len(found) >= 4
    for path in found:
        page = pages.read_page(path.name, path.read_text(encoding="utf-8"))
        for block in page.blocks:
            if block.language == "console":
                assert block.commands()
