"""The style check catches what it bans and lets plain sentences pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SAID_PLAINLY = (
    "Nobody shares data, and the model still learns.",
    "What does a round cost?",
    "Who may take part?",
    "- **Costs.** Little.",
    "A node that restarts continues from its last model.",
    "The table shows which plugins go together.",
    "Whatever the liars send, the bound holds.",
    "If a node lacks a key, it does not start.",
    "One node of ten may lie.",
    "The signatures prove who sent what.",
    "So much that it overflows.",
    "It keeps its own key.",
)
RIDDLES = (  # from the pages as a newcomer found them
    "Which plugins go together is a table.",
    "It says what nodes were put through.",
    "swarm.quorum lets 8 suffice.",
    "Take the comment from the table.",
    "They are left out of account.",
    "Five models, one mind.",
    "Who masks another vector than it proved makes the sum of its group fail.",
    "Come from Flower?",
    "It has a column of its own with nothing to compare.",
    "They go from cheap to dear.",
    "Nodes have keys; who lacks one is the plugin's case.",
    "So does who lacks contributions that more than f others mean.",
    "- **It needs no agreement of its own.** The number is part of the digest.",
    "- **Who judges.** The proposer leaves members out.",
    "1. **What a sum says.** It shows whether a node took part.",
    "**Where it is off.** The start refuses it.",
    "Another value than a plugin's own is refused.",
    "Decision 35 tells why the mode went.",
)
LONG = "word " * 36


@pytest.fixture(scope="module")
def style(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("check_style")


def test_every_construction_catches_its_sample(style: ModuleType) -> None:
    banned = style.Style.read().banned
    assert len(banned) > 20
    for each in banned:
        words = f"banned {each.pattern.pattern}"
        caught = list(style.check("page.md", each.caught, style.Style.read()))
        assert any(each.why in complaint for complaint in caught), words
        assert any(each.pattern.search(part) for part in style.sentences(each.caught)), words


@pytest.mark.parametrize("sentence", RIDDLES)
def test_riddles_of_earlier_pages_are_caught(style: ModuleType, sentence: str) -> None:
    assert list(style.check("page.md", sentence, style.Style.read()))


@pytest.mark.parametrize("sentence", SAID_PLAINLY)
def test_plain_sentences_pass(style: ModuleType, sentence: str) -> None:
    assert not list(style.check("page.md", sentence, style.Style.read()))


def test_a_long_sentence_is_refused_with_its_length(style: ModuleType) -> None:
    (complaint,) = style.check("page.md", f"# Title\n\n{LONG}.\n", style.Style.read())
    assert complaint.startswith("page.md:3: a sentence of 36 words")
    assert not list(style.check("page.md", f"{LONG[:100]}.\n\n{LONG[:100]}.", style.Style.read()))


def test_complaints_name_the_line(style: ModuleType) -> None:
    page = "A sentence.\n\n- A list\n  goes on. Hence\n  it ends.\n\n| a | hence b |\n"
    found = [each.split(":")[1] for each in style.check("page.md", page, style.Style.read())]
    assert found == ["4", "7"]


@pytest.mark.parametrize(
    "page",
    [
        "```text\nWhat is not said is not promised.\n```\n",
        "````md\n```text\n```\nWhat is not said is not promised.\n````\n",
        "<!-- shown: hence -->\n",
        "Call `hence` and ``whoever ` it``.\n",
        "[A page](hence.md)\n",
        "The tree::\n\n    Whoever\n    hence\n\nThe end.\n",
        "## What it costs\n",
    ],
)
def test_code_addresses_comments_and_headings_are_not_looked_at(
    style: ModuleType, page: str
) -> None:
    assert not list(style.check("page.md", page, style.Style.read()))


def test_strings_of_modules_are_looked_at_and_code_is_not(style: ModuleType) -> None:
    module = 'whoever = {\n    "E1": """A node does\nit for whoever asks.""",\n}\n'
    (complaint,) = style.check("errors.py", module, style.Style.read())
    assert complaint.startswith("errors.py:3: ")


def test_docstrings_that_begin_with_a_question_word_are_refused(style: ModuleType) -> None:
    module = '''"""What it holds."""

class Held:
    """Whose turn it is."""

    def get(self):
        """Whether it is there."""

        async def inner():
            """Who asked.

            More.
            """
'''
    words = ["What", "Whose", "Whether", "Who"]
    found = list(style.docstrings("held.py", module))
    assert [each.split("“")[1].split("”")[0] for each in found] == words
    assert [each.split(":")[1] for each in found] == ["1", "4", "7", "10"]
    plain = module
    for word, better in zip(words, ("Things", "Turn", "True if", "Name"), strict=True):
        plain = plain.replace(f'"""{word}', f'"""{better}')
    assert not list(style.docstrings("held.py", plain))
    for word in ("Where", "When", "Which", "Why", "How", "Whatever", "Whom"):
        assert len(list(style.docstrings("held.py", f'"""{word} it is."""'))) == 1
    assert not list(style.docstrings("held.py", '"""Whoosh."""\nWhat = "What it is."\n'))


def test_the_docstrings_of_every_distribution_are_read(style: ModuleType) -> None:
    read = {path.relative_to(ROOT).parts[-2] for path in style.modules()}
    folders = {path.name for path in ROOT.glob("*/*/qres_*/") if path.parts[-3] != "docs"}
    assert folders >= {"qres_dp", "qres_arithmetic", "qres_torch"}
    assert folders <= read


def test_an_unknown_key_is_refused(style: ModuleType, tmp_path: Path) -> None:
    text = (ROOT / "scripts" / "style.toml").read_text("utf-8")
    changed = tmp_path / "style.toml"
    changed.write_text("colour = 1\n" + text, encoding="utf-8")
    with pytest.raises(TypeError, match="colour"):
        style.Style.read(changed)


def test_every_page_passes(style: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert style.main([]) == 0, capsys.readouterr().out
