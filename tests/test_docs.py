"""The manual says what the code does."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp
from qres_ed25519.signature import SigningKey
from qres_lab.gallery.entries import gallery

import qres_core
from qres_core import Claims, Envelope, Reads, Surroundings, canonical
from qres_core.attacks import catalogue, sabotages
from qres_core.claims import Privatizes, Verifies, Wraps
from qres_core.cli.options import SECTIONS
from qres_core.contract.errors import ERRORS
from qres_core.contract.hookspecs import HookSpecs
from qres_core.contract.moved import HOMES
from qres_core.errors import PluginError, Problem
from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import Config, SwarmConfig
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import scan
from qres_core.kernel.index import plugin_index
from qres_core.kernel.settings import shared_settings
from qres_core.kernel.slots import ALL_HOOKS, SLOTS
from qres_core.swarm.ledger.messages import encode_vote

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _generator() -> ModuleType:
    """The generator of the reference; it needs no Sphinx."""
    folder = str(DOCS / "_ext")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("qres_pages")
    finally:
        sys.path.remove(folder)


MADE: dict[str, Callable[[], str]] = {
    name: cache(make) for name, make in _generator().PAGES.items()
}
"""The pages that a build makes, by path from the root. Files of an earlier build are not read."""
WRITTEN = {
    path
    for path in DOCS.rglob("*.md")
    if not {"_build", "examples"} & set(path.relative_to(DOCS).parts)
    if path != DOCS / "reference/README.md"  # for readers of the repository, not of the manual
    if str(path.relative_to(ROOT)) not in MADE
}
PAGES = sorted({*WRITTEN, *(ROOT / name for name in MADE)})
PLUGIN_DISTRIBUTIONS = set(plugin_index().distributions.values()) - {"qres-core"}
OWN_SWARMS = [path for path in sorted(WRITTEN) if path.name != "write-an-aggregator.md"]


def _page_name(path: Path) -> str:
    return str(path.relative_to(DOCS))


def _text(path: Path) -> str:
    """A page as the manual has it."""
    if path == DOCS / "reference/hooks.md":
        return str(_generator().hooks_page())
    make = MADE.get(str(path.relative_to(ROOT)))
    return make() if make else path.read_text(encoding="utf-8")


def _read(name: str) -> str:
    return _text(DOCS / name)


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return _generator()


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _slugs(text: str) -> set[str]:
    """Anchors of the headings, as MyST and code hosts make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _without_fences(text), flags=re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(kept.replace(" ", "-"))
    return found


def _blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language, in order."""
    blocks = re.findall(rf"^```{language}\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL)
    return [str(block) for block in blocks]


def _section(text: str, heading: str) -> str:
    pattern = rf"^### {re.escape(heading)}\n(.*?)(?=^##)"
    match = re.search(pattern, text + "\n##", flags=re.MULTILINE | re.DOTALL)
    assert match, heading
    return match[1]


# ── the generated reference ───────────────────────────────────────────────────────────────────────


def test_pictures_are_those_of_the_code(pages: ModuleType) -> None:
    stale = [
        name
        for name, make in pages.PICTURES.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != make()
    ]
    assert not stale, "build the manual (make docs) and keep what it writes"


def test_git_ignores_the_pages_that_a_build_makes() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^/(docs/reference/.*)$", ignored, re.MULTILINE)) == sorted(MADE)


def test_a_build_writes_what_is_not_as_the_code_says(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {"docs/reference/a.md": lambda: "# A\n"})
    monkeypatch.setattr(pages, "PICTURES", {"docs/reference/a.svg": lambda: "<svg/>\n"})
    (tmp_path / "docs/reference").mkdir(parents=True)
    page, picture = tmp_path / "docs/reference/a.md", tmp_path / "docs/reference/a.svg"
    assert pages.write_pages() == [page, picture]
    page.write_text("# B\n", encoding="utf-8")
    assert pages.write_pages() == [page]
    assert page.read_text(encoding="utf-8") == "# A\n"


def test_the_page_of_hooks_is_written_without_what_the_code_says(pages: ModuleType) -> None:
    """Signatures by hand would stand beside those of the code."""
    written = (ROOT / pages.HOOKS).read_text(encoding="utf-8")
    by_hand = r"^(?:```text\n\w+\(|\| family )"
    assert not re.search(by_hand, written, re.MULTILINE)
    assert len(re.findall(by_hand, _read("reference/hooks.md"), re.MULTILINE)) == len(ALL_HOOKS) + 1


@pytest.mark.parametrize("hook", ALL_HOOKS)
def test_every_hook_has_a_section_with_its_exact_arguments(hook: str) -> None:
    section = _section(_read("reference/hooks.md"), hook)
    arguments = list(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]
    signature = re.search(rf"^{hook}\((.*)\) -> ", section, flags=re.MULTILINE)
    assert signature
    assert re.findall(r"(\w+): ", signature[1]) == arguments
    assert re.findall(r"^- `(\w+)`: ", section, flags=re.MULTILINE) == arguments
    for label in ("When", "Slot", "Returns", "Raises"):
        assert f"**{label}**: " in section
    assert f"def {hook}(self" in section


def test_the_hook_page_has_no_other_hooks() -> None:
    specified = {name for name in vars(HookSpecs) if not name.startswith("_")}
    shown = set(re.findall(r"^### (\w+)$", _read("reference/hooks.md"), flags=re.MULTILINE))
    assert shown == specified == set(ALL_HOOKS)


def _claims(of: Any, before: str) -> Iterator[tuple[str, str]]:
    """The fields of claims with their defaults, those of a family under its name."""
    for field in attrs.fields(type(of)):
        value, name = getattr(of, field.name), f"{before}{field.name}"
        if isinstance(value, Wraps | Privatizes | Verifies):
            yield from _claims(value, f"{name}.")
        elif isinstance(value, Reads):
            yield name, str(value)
        elif attrs.has(type(value)):
            yield name, f"{type(value).__name__}()"
        else:
            yield name, "none" if value is None else repr(value).replace("'", '"')


def test_every_claim_is_a_row_with_its_default() -> None:
    section = _read("reference/hooks.md").split("## Claims\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `?(.*?)`? \| .+ \|$", section, flags=re.MULTILINE)
    assert dict(rows) == dict(_claims(Claims(tolerates=None), ""))
    assert len(rows) == len(dict(rows))


def test_every_slot_is_a_row() -> None:
    rows = re.findall(r"^\| \[(\w+)\]", _read("reference/hooks.md"), flags=re.MULTILINE)
    assert rows == list(SLOTS)


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_has_a_section(code: str) -> None:
    title, _meaning = ERRORS[code]
    assert title.lower() in _section(_read("reference/errors.md"), code).lower()


def test_every_configuration_key_is_explained(pages: ModuleType) -> None:
    text = _read("reference/configuration.md")
    rows = re.findall(r"^\| `([\w.-]+)` \| (.+?) \| (.+?) \| (.+) \|$", text, flags=re.MULTILINE)
    expected = [
        f"{path}.{field.name}"
        for path, (_intro, kind) in pages.config_tables().items()
        for field in attrs.fields(kind)
        if field.init
    ]
    assert [key for key, *_rest in rows] == expected
    assert all(meaning.strip() for _key, _type, _default, meaning in rows)


def test_defaults_shown_are_defaults_used(pages: ModuleType) -> None:
    text = _read("reference/configuration.md")
    for path, (_intro, kind) in pages.config_tables().items():
        for field in attrs.fields(kind):
            match = re.search(
                rf"^\| `{re.escape(path)}\.{field.name}` \| .+? \| `(.+?)` \|", text, re.MULTILINE
            )
            if match:
                used = json.loads(json.dumps(field.default))  # tuples are arrays
                assert tomllib.loads(f"value = {match[1]}")["value"] == used


def test_every_attack_is_listed() -> None:
    assert re.findall(r"^\| `(\w+)` ", _read("reference/attacks.md"), re.MULTILINE) == [
        *catalogue(),
        *sabotages(),
    ]


def test_every_hook_is_in_the_picture_of_the_life_cycle() -> None:
    picture = _read("explanation/life-cycle.svg")
    assert not [hook for hook in ALL_HOOKS if f">{hook}</text>" not in picture]
    assert "href" not in picture
    assert "<script" not in picture


# ── the pages as a whole ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", PAGES, ids=_page_name)
def test_links_resolve(path: Path) -> None:
    text = _without_fences(_text(path))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert "://" not in target, target
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there in PAGES or there.is_file(), target
        assert there.is_relative_to(DOCS), target
        if anchor and there.suffix == ".md":
            assert anchor in _slugs(_text(there)), target


def lost(path: Path, text: str) -> set[str]:
    """Links of a text of the repository to what the repository does not hold."""
    found = re.findall(r"\]\(([^)\s]+)\)", _without_fences(text))
    there = {target: target.partition("#")[0] for target in found if "://" not in target}
    return {
        target
        for target, name in there.items()
        if name
        and (
            not (path.parent / name).exists()
            or str((path.parent / name).resolve().relative_to(ROOT)) in MADE
        )
    }


OUTSIDE = [
    path
    for pattern in (
        "*.md",
        "[!d.]*/*.md",
        "deploy/*.md",
        "[lpi]*/*/*.md",
        "docs/reference/README.md",
    )
    for path in sorted(ROOT.glob(pattern))
]


def test_texts_outside_the_manual_link_to_what_the_repository_holds() -> None:
    assert len(OUTSIDE) > 40
    for path in OUTSIDE:
        assert lost(path, path.read_text(encoding="utf-8")) == set(), path
    # The control: a page that a build makes, and one that nobody made.
    links = "[made](docs/reference/errors.md#qres-e201), [none](docs/none.md), [here](README.md)"
    assert lost(ROOT / "README.md", links) == {"docs/reference/errors.md#qres-e201", "docs/none.md"}


@pytest.mark.parametrize("path", PAGES, ids=_page_name)
def test_no_page_names_a_machine_or_a_host(path: Path) -> None:
    text = _text(path)
    assert not re.search(r"https?://|(?<![\w.])/(?:work|home|root|tmp|Users|usr|opt)/", text)
    assert not re.search(r"\b(?:[\w-]+\.)+(?:org|com|io|net|dev)\b", text)


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set(re.findall(r"^[\w/-]+$", _read("index.md"), flags=re.MULTILINE))
    names = {_page_name(path).removesuffix(".md") for path in PAGES}
    alone = {name for name in names - listed - {"index"} if not name.startswith("adr/0")}
    assert not alone


def test_evidence_exists() -> None:
    paths = re.findall(
        r"`((?:tests|plugins|libraries|integrations|docs)/[\w./-]+)`", _read("audit/evidence.md")
    )
    assert len(paths) > 200
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("path", PAGES, ids=_page_name)
def test_files_and_commands_named_exist(path: Path) -> None:
    """Tests, scripts, examples and targets of the Makefile that a page names."""
    text = _text(path)
    inline = re.findall(r"`([^`\n]+)`", _without_fences(text))
    folders = r"(?:tests|scripts|benchmarks|examples|plugins|libraries|integrations)"
    named = {
        file
        for item in inline
        for file in re.findall(rf"(?<![\w./-]){folders}/[\w./-]+\.(?:py|toml|md|txt)\b", item)
    }
    if path.name != "write-an-aggregator.md":  # the tutorial speaks of files of the plugin it makes
        assert not [file for file in named if not (ROOT / file).is_file()]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    commands = [
        *inline,
        *(line for block in _blocks(text, "console") for line in block.splitlines()),
    ]
    wanted = {
        found[1]
        for command in commands
        if (found := re.match(r"(?:\$ )?make ([a-z][\w-]*)", command))
    }
    assert wanted <= targets


# ── the pages for auditors ────────────────────────────────────────────────────────────────────────

AUDIT = [path for path in PAGES if path.parent.name == "audit"]


def _audit_words(path: Path) -> set[str]:
    """Words of the code and the commands of a page."""
    text = path.read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", _without_fences(text))
    return {word for item in [*code, *_blocks(text, "console")] for word in item.split()}


@pytest.mark.parametrize("path", AUDIT, ids=_page_name)
def test_an_auditor_finds_every_file_and_name(path: Path) -> None:
    """A path stands from the root; ``FILE::NAME`` is a function or class of the file."""
    tops = {each.name for each in ROOT.iterdir() if each.name != ".venv"}
    named = {word for word in _audit_words(path) if "/" in word and word.split("/")[0] in tops}
    assert named
    for word in named:
        file, *names = word.split("::")
        there = ROOT / file
        assert there.exists(), word
        for name in names:
            defined = rf"^\s*(?:async def|def|class) {re.escape(name)}\b"
            assert re.search(defined, there.read_text(encoding="utf-8"), re.MULTILINE), word


@pytest.mark.parametrize("path", AUDIT, ids=_page_name)
def test_an_auditor_finds_every_claim_assumption_and_exhibit(path: Path) -> None:
    known = set(re.findall(r"^- `([CA]-[\w-]+-\d+)`", _read("reference/claims.md"), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b[CA]-[a-z][a-z0-9-]*-\d+\b", text))
    assert len(known) > 400
    assert named <= known
    for told in re.findall(r"exhibits? ((?:`\w+`(?:, )?)+)", text):
        assert set(re.findall(r"`(\w+)`", told)) <= set(gallery())


def test_every_protocol_of_the_audit_has_every_row() -> None:
    rows = ["specification", "messages", "assumptions", "claims", "code"]
    rows += ["vectors, second implementations", "attacks and controls", "weak", "reimplement"]
    _intro, _envelope, *protocols = re.split(
        r"^## ", _read("audit/protocols.md"), flags=re.MULTILINE
    )
    assert len(protocols) >= 15
    for protocol in protocols:
        assert re.findall(r"^\| ([a-z][\w, ]*) \| \S", protocol, re.MULTILINE) == rows, protocol


def test_the_envelope_of_the_audit_is_that_of_the_code() -> None:
    (example,) = _blocks(_read("audit/protocols.md"), "text")
    told: dict[str, str] = {}
    for line in example.splitlines():
        name = line[:11].strip() or next(reversed(told))
        told[name] = told.get(name, "") + line[11:].replace(" ", "")
    frame = re.sub(r"\((\w+)\)", lambda found: told[found[1]], told["frame"])
    message = Envelope.from_bytes(bytes.fromhex(frame), max_bytes=1000)
    key = SigningKey.from_seed(bytes(32))
    assert message.to_bytes().hex() == frame
    assert (message.swarm, message.kind, message.round) == ("demo", "choice/prevote", 7)
    assert (message.sequence, message.time_ms) == (3, 1_700_000_000_000)
    assert (message.sender, message.head) == (key.public, b"\x11" * 32)
    assert message.payload == encode_vote(bytes(range(32))) == bytes.fromhex(told["payload"])
    assert message.signing_digest == bytes.fromhex(told["digest"])
    assert message.auth == {"ed25519": bytes.fromhex(told["signature"])}
    assert key.sign(message.signing_digest) == message.auth["ed25519"]
    rows = re.findall(r"^\| (\d+) \| \w+ \| ", _read("audit/protocols.md"), re.MULTILINE)
    assert [int(row) for row in rows] == list(canonical.loads(bytes.fromhex(frame), max_bytes=1000))


def test_the_domain_tags_of_the_audit_are_those_of_the_code() -> None:
    """Each in a file of its row, and no other anywhere in what runs on a node."""
    section = _section(_read("audit/protocols.md"), "Domain tags")
    rows = [line.split(" | ") for line in section.splitlines() if line.count(" | ") == 2][1:]
    told = {tag: files for _of, tags, files in rows for tag in re.findall(r"`([^`]+)`", tags)}
    apart = {"lab", "qres_lab", "qres_dp_audit"}
    sources = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8")
        for room in ("qres_core", "plugins/*/qres_*", "libraries/*/qres_*", "integrations/*/qres_*")
        for top in ROOT.glob(room)
        for path in top.rglob("*.py")
        if not apart & set(path.relative_to(ROOT).parts)
    }
    tag_form = (
        r'"((?:qres(?:-zk|-torch|-flower)?/[a-z0-9/-]*/?v\d[a-z0-9/]*)|qres-secagg/1[a-z ]*)'
        r'(?:\\0)?(?:"| \{)'
    )
    found = {
        (tag, str(file)) for file, code in sources.items() for tag in re.findall(tag_form, code)
    }
    assert {tag for tag, _file in found} == set(told)
    assert not [(tag, file) for tag, file in found if f"`{file}`" not in told[tag]]
    assert len(told) > 60


def test_pages_name_every_key_of_the_swarm_that_a_node_sets_for_itself() -> None:
    swarm = SwarmConfig(name="t", nodes=4, byzantine=1, quorum=3)
    of_roster = {"nodes", "byzantine", "quorum", "roster", "roster_epoch"}
    shared = {key.removeprefix("swarm.") for key in shared_settings(swarm, []).values}
    own = {field.name for field in attrs.fields(SwarmConfig)} - shared - of_roster
    places = {"how-to/run-a-node.md": "except", "reference/configuration.md": "these"}
    for name, start in places.items():
        before = _read(name).split("each node's own")[0]
        assert set(re.findall(r"`(\w+)`", before[before.rindex(start) :])) == own, name


def _items() -> list[list[str]]:
    """Cells of the rows of the evidence that name a distribution."""
    rows = re.findall(r"^\| (.+?) \|$", _read("audit/evidence.md"), flags=re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    return [row for row in cells if len(row) == 5 and row[1].startswith("`qres-")]


def test_every_defence_of_the_evidence_has_a_test() -> None:
    assert len(_items()) >= len(PLUGIN_DISTRIBUTIONS)
    for row in _items():
        (test,) = re.findall(r"`([\w./-]+/test_\w+\.py)`", row[3])
        assert (ROOT / test).is_file(), test


def test_rows_of_the_gallery_that_are_named_exist() -> None:
    exhibits = gallery()
    named = {
        word
        for row in _items()
        for word in re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", row[4])
        if "_" in word or word in exhibits
    }
    assert len(named) > len(exhibits) / 2
    assert named <= set(exhibits)
    unnamed = set(exhibits) - named - {"clean", "clean_uneven", "clean_long"}
    # What no single defence is for: an attack that signatures, a list and a guard stop together.
    assert unnamed <= {"sybil"}


def test_the_evidence_names_every_distribution_that_exists(pages: ModuleType) -> None:
    here = {distribution for distribution, _kind in pages.first_party_plugins().values()}
    assert {row[1].strip("`") for row in _items()} == here - {"qres-core"}
    assert here - {"qres-core"} == PLUGIN_DISTRIBUTIONS


def test_every_readme_explains_every_option(pages: ModuleType) -> None:
    for name, (distribution, kind) in pages.first_party_plugins().items():
        if distribution == "qres-core":
            continue
        folder = ROOT / "plugins" / distribution.replace("-", "_")
        readme = (folder / "README.md").read_text(encoding="utf-8")
        assert f"[plugins.{name}]" in readme
        for field in attrs.fields(kind):
            assert not field.init or f"`{field.name}`" in readme, f"{distribution}: {field.name}"


def _swarms() -> list[Any]:
    return [
        pytest.param(block, id=f"{_page_name(path)}-{index}")
        for path in OWN_SWARMS
        for index, block in enumerate(_blocks(path.read_text(encoding="utf-8"), "toml"))
        if block.startswith("[swarm]")
    ]


@pytest.mark.parametrize("block", _swarms())
def test_every_swarm_shown_would_start(block: str) -> None:
    raw = tomllib.loads(block)
    found = diagnose(raw, source="page", sections=SECTIONS, installed=scan())
    assert not found.problems


@pytest.mark.parametrize("name", ["cancer.py", "cancer.toml"])
def test_the_tutorial_on_models_writes_the_files_of_the_examples(name: str) -> None:
    pattern = rf"^<!-- (?:file|append): {re.escape(name)} -->\n```\w+\n(.*?)\n```$"
    found = re.findall(
        pattern, _read("tutorials/train-your-own-model.md"), re.MULTILINE | re.DOTALL
    )
    assert "\n\n\n".join(found) + "\n" == (ROOT / "examples" / name).read_text(encoding="utf-8")


def _modules_with_examples() -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted((ROOT / "qres_core").rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples_in_docstrings_hold(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted
    assert not results.failed


def _classes_of_the_glossary() -> list[str]:
    words = re.findall(r"`([A-Za-z_][\w.]*)`", _read("reference/glossary.md"))
    return sorted(
        {word for word in words if re.fullmatch(r"(qres_\w+\.)?(\w+\.)*[A-Z]\w+(\.\w+)?", word)}
    )


@pytest.mark.parametrize("name", _classes_of_the_glossary())
def test_every_class_the_glossary_names_exists(name: str) -> None:
    """Public names stand without a module, all others with theirs."""
    first, *rest = name.split(".")
    if first[0].isupper():
        assert first in {*qres_core.__all__, *HOMES}
        found = getattr(importlib.import_module(HOMES.get(first, "qres_core")), first)
    else:
        module, _, attribute = name.rpartition(".")
        found, rest = getattr(importlib.import_module(module), attribute), []
        assert attribute not in {*qres_core.__all__, *HOMES}, "a public name needs no module"
    for attribute in rest:
        assert hasattr(found, attribute) or attribute in found.__annotations__


def test_the_glossary_explains_every_word_once() -> None:
    words = [
        word.split(" or ")[-1]
        for line in re.findall(r"^(\S.*)\n: ", _read("reference/glossary.md"), re.MULTILINE)
        for word in line.split(", ")
    ]
    assert len(words) > 50
    assert len(words) == len(set(words))


# ── the messages of "debug a load error" ──────────────────────────────────────────────────────────

HEAD = "import attrs, numpy\nfrom qres_core import hookimpl\n"
CLASS = HEAD + "@attrs.frozen\nclass Plugin:\n    "
METHOD = "(self, updates): return numpy.array(updates.vectors[0])\n"
SOURCES = {
    "broken": "import absent_library\n",
    "future": CLASS + "@hookimpl\n    def aggregate" + METHOD,
    "twice": CLASS + "@hookimpl\n    def aggregate" + METHOD,
    "planted": CLASS + "@hookimpl\n    def aggregate" + METHOD,
    "plain": HEAD + "class Plugin:\n    @hookimpl\n    def aggregate" + METHOD,
    "extra": CLASS + "@hookimpl\n    def aggregate(self, vectors): return vectors[0]\n",
    "misspelt": CLASS + "@hookimpl\n    def agregate" + METHOD,
    "async": CLASS + "@hookimpl\n    async def aggregate" + METHOD,
    "first": CLASS + "@hookimpl(tryfirst=True)\n    def aggregate" + METHOD,
    "silent": CLASS + "@hookimpl\n    def aggregate" + METHOD,
    "typo": CLASS + "need = 3\n    @hookimpl\n    def aggregate" + METHOD,
}


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Problem]:
    """The problem of a configuration that enables one plugin of a made-up environment."""

    def write(folder: Path, name: str, dist: str, source: str, requires: str = "") -> None:
        info = folder / f"qres_{dist}-{'3.0' if requires else '1.0'}.dist-info"
        info.mkdir(parents=True)
        version = "3.0" if requires else "1.0"
        metadata = f"Metadata-Version: 2.1\nName: qres-{dist}\nVersion: {version}\n{requires}"
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        entry = f"[qres.plugins]\n{name} = {dist}_plugin:Plugin\n"
        (info / "entry_points.txt").write_text(entry, encoding="utf-8")
        (folder / f"{dist}_plugin.py").write_text(source, encoding="utf-8")

    def refuse(name: str) -> Problem:
        site, stray = tmp_path / "site", tmp_path / "stray"
        site.mkdir()
        stray.mkdir()
        if name == "twice":
            write(site, name, "one", SOURCES[name])
            write(site, name, "two", SOURCES[name])
        elif name in SOURCES:
            requires = "Requires-Dist: qres-core>=99\n" if name == "future" else ""
            write(stray if name == "planted" else site, name, name, SOURCES[name], requires)
        monkeypatch.setattr(sys, "path", [str(site), *sys.path])
        found = scan(path=[str(site), str(stray)], trusted=frozenset({site.resolve()}))
        # As in an environment that lacks the plugin, whatever this one has.
        installed = {
            item: it for item, it in {**scan(), **found}.items() if item in found or item != name
        }
        swarm = SwarmConfig(name="page", nodes=1, byzantine=0, quorum=1)
        with pytest.raises(PluginError) as caught:
            assemble(Config("page", swarm, plugins={name: {}}), installed)
        (problem,) = caught.value.problems
        what = problem.what.replace(str(stray.resolve()), "FOLDER")
        return attrs.evolve(problem, what=what)

    return refuse


@pytest.mark.parametrize("name", ["krmu", "dp", *SOURCES])
def test_messages_shown_are_those_one_sees(
    name: str, refusal: Callable[[str], Problem], request: pytest.FixtureRequest
) -> None:
    problem = refusal(name)
    lines = [f"{problem.code} {problem.where}: {problem.what}"]
    lines += [f"    fix: {problem.fix}"] if problem.fix else []
    assert "\n".join(lines) in _blocks(_read("how-to/debug-a-load-error.md"), "text")
    request.addfinalizer(lambda: sys.modules.pop(f"{name}_plugin", None))


def test_every_load_error_has_a_section_with_a_message() -> None:
    text = _read("how-to/debug-a-load-error.md")
    codes = [code for code in ERRORS if code.startswith("QRES-E2")]
    assert re.findall(r"^## (QRES-E2\d\d)$", text, flags=re.MULTILINE) == codes
    for code in codes:
        assert f"```text\n{code} " in text


# ── a plan of privacy ─────────────────────────────────────────────────────────────────────────────


def test_every_key_of_a_privacy_plan_is_told() -> None:
    """The page and the code name the same keys, those of correlated noise among them."""
    options: dict[str, Any] = {"mode": "local", "clip": 0.5, "delta": 1e-5}
    options |= {"epsilon": 4.0, "rounds": 60}
    around = Surroundings(nodes=100, byzantine=0, quorum=100)
    text = _read("reference/privacy-plan.md")
    correlated: dict[str, Any] = {"noise": "correlated", "separation": 20}
    shared: dict[str, Any] = {"mode": "distributed", "honest": 80}
    for more in ({}, shared, {**correlated, **shared}):
        told = Dp(**{**options, **more}).plan(around).to_json()
        keys = {*told, *told["mechanism"], *told["trust"], *told["charges"][0], *told["groups"][0]}
        assert {key for key in keys if f"`{key}`" not in text} == set()


def test_the_examples_of_packed_vectors_are_those_of_the_code() -> None:
    page = _read("reference/packed-vectors.md").replace("\N{MINUS SIGN}", "-")
    rows = re.findall(r"^\| ([-0-9, ]+) \| `([0-9a-f ]+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 5
    for numbers, octets in rows:
        values = [int(number) for number in numbers.split(",")]
        vector = np.array(values, dtype=np.int64).astype(np.int32)
        assert qres_core.packing.pack(vector) == bytes.fromhex(octets)
        assert qres_core.packing.unpack(bytes.fromhex(octets), len(values)).tolist() == values


def lacking(block: str) -> set[str]:
    """What the app of the page on Flower asks for, and a block of commands does not install."""
    commands = " ".join(line for line in block.splitlines() if line.startswith("$ pip install"))
    wanted = re.findall(
        r'"([a-z-]+)(?:\[\w+\])?>=',
        (ROOT / "examples/flower_numpy/pyproject.toml").read_text("utf-8"),
    )
    brought = {"flwr", "numpy", "hatchling"}  # by qres-flower, by qres-core, by pip
    return {name for name in set(wanted) - brought if f" {name}" not in commands}


def test_the_install_block_of_flower_has_what_its_app_imports() -> None:
    """The page is played where all is installed, so nothing else would show a lack."""
    page = _read("how-to/use-qres-inside-flower.md")
    block = page[page.index("## Install") : page.index("## Begin with an app")]
    assert lacking(block) == set()
    # The control: the block as it would be without the one package that QRES does not bring.
    assert lacking(block.replace(" scikit-learn\n", "\n")) == {"scikit-learn"}
