"""Rewriting code that was written for an older ``qres_core``, as text.

What is rewritten is found by its form and not by parsing the file, because the same forms stand in
pages, in templates and in texts of tests. Only calls of ``Claims`` are parsed, one at a time.
A second run changes nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from qres_core.contract.moved import HOMES, MODULES

OFF: Final = "upgrade-code: off"
"""A file with these words stays as it is."""

_WIDTH: Final = 100
_NAME: Final = r"[A-Za-z_]\w*(?:[ \t]+as[ \t]+[A-Za-z_]\w*)?"
_NEXT: Final = r"[ \t]*,[ \t]*(?:\\\n[ \t]*)?"
_IMPORT: Final = re.compile(
    r"\bfrom[ \t]+(?P<module>qres_core(?:\.contract\.claims)?)[ \t]+import[ \t]*"
    rf"(?:\((?P<many>[^()]*)\)|(?:\\\n[ \t]*)?(?P<few>{_NAME}(?:{_NEXT}{_NAME})*))"
    r"(?P<tail>[ \t]*#[^\n]*)?"
)
_STATEMENT: Final = re.compile(
    r"^[ \t]*from[ ]qres_core[\w.]*[ ]import[ ](?:\([^()]*\)[^\n()]*|[^\n()]*)\n", re.MULTILINE
)
_BLOCK: Final = re.compile(rf"(?:{_STATEMENT.pattern}){{2,}}", re.MULTILINE)
_OWN_LINE: Final = re.compile(r"[ \t]*(?:>>> |\.\.\. )?\Z")
_ALIAS: Final = re.compile(r"\bimport[ \t]+qres_core(?:[ \t]+as[ \t]+(\w+))?(?![\w.])")

_READS: Final = ("coordinatewise", "by_products", "looks")
_NESTED: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "alters": ("wraps", "Wraps"),
        "merges": ("wraps", "Wraps"),
        "accompanies": ("privatizes", "Privatizes"),
        "keeps": ("privatizes", "Privatizes"),
        "reveals": ("privatizes", "Privatizes"),
        "bounds": ("verifies", "Verifies"),
        "transferable": ("verifies", "Verifies"),
    }
)
"""By an old field of ``Claims``, the field that it is a part of now, with the class of that."""
_CALL: Final = re.compile(r"(?<![\w.])Claims\(")
_ASKED: Final = re.compile(rf"(?<=\bclaims)\.({'|'.join(_NESTED)})\b")
_ASKED_READS: Final = re.compile(rf"\bclaims\.({'|'.join(_READS)})\b")
_ADDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Reads": "qres_core",
        "Privatizes": "qres_core.claims",
        "Verifies": "qres_core.claims",
        "Wraps": "qres_core.claims",
    }
)
"""Classes that calls of ``Claims`` need since, and where they are."""


class Upgraded(NamedTuple):
    """A text, rewritten, and what is left for people: lines with what to do there."""

    text: str
    left: list[tuple[int, str]]


def upgraded(text: str) -> Upgraded:
    r"""A file's text for this version of ``qres_core``.

    Example:
        >>> upgraded("from qres_core import Problem, hookimpl").text
        'from qres_core import hookimpl\nfrom qres_core.errors import Problem'
        >>> upgraded("claims = Claims(tolerates=1, reads=Reads.PRODUCTS)").text
        'claims = Claims(tolerates=1, reads=Reads.PRODUCTS)'
    """
    if OFF in text or not ("qres_core" in text or "laims" in text):
        return Upgraded(text, [])
    if "\r\n" in text:
        unix = upgraded(text.replace("\r\n", "\n"))
        return unix._replace(text=unix.text.replace("\n", "\r\n"))
    made = _of_claims(_of_modules(text))
    made = _ASKED.sub(lambda found: f".{_NESTED[found[1]][0]}.{found[1]}", made)
    made = _imports(made, [name for name in _ADDED if made.count(name) > text.count(name)])
    made = _attributes(made)
    return Upgraded(made, list(_left(made)))


def _of_modules(text: str) -> str:
    """The text with the new paths of modules that moved whole."""
    for old in sorted(MODULES, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(old)}(?!\w)", MODULES[old], text)
    return text


# ── imports ───────────────────────────────────────────────────────────────────────────────────────


class _Imported(NamedTuple):
    name: str  # as it is written, maybe with ``as``
    comment: str  # behind it, or empty

    @property
    def home(self) -> str | None:
        name = self.name.split()[0]
        parent, _, same = MODULES.get(f"qres_core.{name}", "").rpartition(".")
        return parent if same == name else HOMES.get(name)

    @property
    def package(self) -> str:
        """The import of a module that is a package of its own now; empty for other names."""
        name, called = self.name.split()[0], self.name.split()[-1]
        place = MODULES.get(f"qres_core.{name}", ".")
        return "" if "." in place else f"import {place} as {called}"


def _imports(text: str, wanted: Iterable[str]) -> str:
    """The text with every public name imported from where it is.

    ``wanted``: names that the text has since, and may not import yet.
    """
    missing = [name for name in wanted if not _is_bound(name, text)]

    def rewritten(found: re.Match[str]) -> str:
        names, opening = _named(found["few"] or found["many"])
        module, more = found["module"], list[str]()
        moved = [item for item in names if module == "qres_core" and item.package]
        names = [item for item in names if item not in moved]
        if any(item.name == "Claims" for item in names):
            more = missing
        if module != "qres_core":
            added = [_Imported(name, "") for name in more]
            by_module = {module: sorted([*names, *added], key=_order)} if added else {}
        else:
            by_module = _sorted_out(names, more)
        if not moved and (not by_module or (list(by_module) == [module] and not more)):
            return found[0]
        start = text.rfind("\n", 0, found.start()) + 1
        before = text[start : found.start()]
        comment = opening or (found["tail"] or "").strip()
        if _OWN_LINE.match(before):
            made = [_behind(item.package, item.comment or comment) for item in moved]
            made += [_statement(before, to, group, comment) for to, group in by_module.items()]
            return ("\n" + before).join(made)
        made = [item.package for item in moved] + [
            f"from {to} import {', '.join(item.name for item in group)}"
            for to, group in by_module.items()
        ]
        return "; ".join(made) + (found["tail"] or "")

    made = _IMPORT.sub(rewritten, text)
    return text if made == text else _BLOCK.sub(_in_order, made)


def _in_order(found: re.Match[str]) -> str:
    """Imports that stand in a row, by module."""
    made = [each[0] for each in _STATEMENT.finditer(found[0])]
    return "".join(sorted(made, key=lambda each: each.split()[1]))


def _is_bound(name: str, text: str) -> bool:
    """True if an import of the text brings a name, or the text defines it."""
    brought = rf"import[ \t]*(?:\([^()]*\b{name}\b|[^\n(]*\b{name}\b)|class {name}\b"
    return re.search(brought, text) is not None


def _sorted_out(names: Iterable[_Imported], more: Iterable[str]) -> dict[str, list[_Imported]]:
    """By module, the names to import from it; the top of ``qres_core`` comes first."""
    found: dict[str, list[_Imported]] = {"qres_core": []}
    for item in names:
        found.setdefault(item.home or "qres_core", []).append(item)
    for name in more:
        found.setdefault(_ADDED[name], []).append(_Imported(name, ""))
    return {module: sorted(found[module], key=_order) for module in sorted(found) if found[module]}


def _order(item: _Imported) -> tuple[int, str]:
    """Constants, then classes, then functions and modules; each by the alphabet."""
    name = item.name.split()[0]
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def _named(inside: str) -> tuple[list[_Imported], str]:
    """The names of an import, and the comment behind the parenthesis that opens it."""
    found: list[_Imported] = []
    opening = ""
    for number, line in enumerate(inside.replace("\\\n", " ").split("\n")):
        code, mark, comment = line.partition("#")
        said = (mark + comment).strip()
        names = [name for name in map(str.strip, code.split(",")) if name and name != "..."]
        found += [_Imported(name, "") for name in names]
        if not said:
            continue
        if names:
            found[-1] = found[-1]._replace(comment=said)
        elif number == 0:
            opening = said
        elif found:
            found[-1] = found[-1]._replace(comment=f"{found[-1].comment} {said}".strip())
    return found, opening


def _behind(line: str, comment: str) -> str:
    """A line with a comment, if there is one."""
    return f"{line}  {comment}" if comment else line


def _statement(before: str, module: str, names: list[_Imported], comment: str) -> str:
    """One import statement, on one line if it fits, without the indentation before it."""
    head = f"from {module} import "
    behind = f"  {comment}" if comment else ""
    line = head + ", ".join(item.name for item in names)
    commented = any(item.comment for item in names)
    if not commented and len(before) + len(line) + len(behind) <= _WIDTH:
        return line + behind
    inner = before.replace(">>> ", "... ")
    said = ((item.name, f"  {item.comment}" if item.comment else "") for item in names)
    lines = [f"{inner}    {name},{words}" for name, words in said]
    return "\n".join([f"{head}({behind}", *lines, f"{inner})"])


def _attributes(text: str) -> str:
    """The text with ``qres_core.Name`` and ``alias.Name`` under the module of the name."""
    names = "|".join(sorted(HOMES))
    aliases = {found[1] for found in _ALIAS.finditer(text) if found[1]} | {"qres_core"}
    for alias in sorted(aliases):

        def placed(found: re.Match[str], alias: str = alias) -> str:
            home = HOMES[found[1]]
            beside = home if home.partition(".")[0] != "qres_core" else ""
            return f"{beside or alias + home.removeprefix('qres_core')}.{found[1]}"

        text = re.sub(rf"(?<![\w.]){alias}\.({names})\b", placed, text)
    return text


# ── claims ────────────────────────────────────────────────────────────────────────────────────────


def _of_claims(text: str) -> str:
    """The text with every call of ``Claims`` in its new words."""
    parts: list[str] = []
    done = 0
    for found in _CALL.finditer(text):
        if found.start() < done:
            continue
        end = _closing(text, found.end())
        if end is None:
            continue
        call = text[found.start() : end]
        parts += [text[done : found.start()], _call(call)]
        done = end
    return "".join([*parts, text[done:]])


def _closing(text: str, start: int) -> int | None:
    """The place behind the parenthesis that closes the one before ``start``; ``None`` for none."""
    depth = 1
    for found in re.finditer(r"#[^\n]*|\"[^\"\n]*\"|'[^'\n]*'|[()]", text[start:]):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return start + found.end()
    return None


class _Edit(NamedTuple):
    start: int
    end: int
    made: str


def _call(call: str) -> str:
    """One call of ``Claims``; as it is if it says nothing old, or is no Python."""
    try:
        tree = ast.parse(call, mode="eval").body
    except SyntaxError:
        return call
    if not isinstance(tree, ast.Call):
        return call
    old = {
        str(item.arg): item for item in tree.keywords if item.arg in _NESTED or item.arg in _READS
    }
    if not old:
        return call
    groups: dict[str, list[ast.keyword]] = {}
    for name, item in old.items():
        groups.setdefault("reads" if name in _READS else _NESTED[name][0], []).append(item)
    present = {str(item.arg): item for item in tree.keywords}
    edits: list[_Edit] = []
    for field, items in groups.items():
        made = _reads(call, old) if field == "reads" else _nested(call, field, items, present)
        for number, item in enumerate(items):
            edits.append(_edit(call, item, made if number == 0 else ""))
    for edit in sorted(edits, reverse=True):
        call = call[: edit.start] + edit.made + call[edit.end :]
    call = re.sub(r",[ \t]*\)\Z", ")", call) if "\n" not in call else call
    return re.sub(r"\n[ \t]*(?=\n)", "", call)


def _at(call: str, line: int, column: int) -> int:
    """The place in a text of what the parser gives as a line and a column in bytes."""
    lines = call.splitlines(keepends=True)
    within = lines[line - 1].encode()[:column].decode()
    return sum(map(len, lines[: line - 1])) + len(within)


def _source(call: str, node: ast.expr) -> str:
    return ast.get_source_segment(call, node) or ast.unparse(node)


def _edit(call: str, item: ast.keyword, made: str) -> _Edit:
    """Text that replaces one keyword; with nothing, its comma goes too."""
    start = _at(call, item.lineno, item.col_offset)
    end = _at(call, item.end_lineno or item.lineno, item.end_col_offset or 0)
    if made:
        return _Edit(start, end, made)
    rest = re.match(r"[ \t]*,[ \t]*", call[end:])
    return _Edit(start, end + (rest.end() if rest else 0), "")


def _reads(call: str, old: Mapping[str, ast.keyword]) -> str:
    """``reads=...`` for what three yes-or-no fields said; empty where that is the default."""
    made = "Reads.WHOLE"
    for name, value in (
        ("looks", "Reads.NOTHING"),
        ("coordinatewise", "Reads.COORDINATES"),
        ("by_products", "Reads.PRODUCTS"),
    ):
        if name in old:
            made = _chosen(call, old[name].value, value, made, turned=name == "looks")
    return "" if made == "Reads.WHOLE" else f"reads={made}"


def _chosen(call: str, asked: ast.expr, value: str, other: str, *, turned: bool) -> str:
    """``value`` where the expression is true, or false if ``turned``; else ``other``."""
    if isinstance(asked, ast.Constant):
        return value if bool(asked.value) is not turned else other
    if isinstance(asked, ast.UnaryOp) and isinstance(asked.op, ast.Not):
        asked, turned = asked.operand, not turned
    yes, no = (other, value) if turned else (value, other)
    return f"{yes} if {_source(call, asked)} else {no}"


def _nested(
    call: str, field: str, items: Iterable[ast.keyword], present: Mapping[str, ast.keyword]
) -> str:
    if field in present:  # half old and half new: nobody writes that, and it would not run
        return ""
    said = ", ".join(f"{item.arg}={_source(call, item.value)}" for item in items)
    kind = next(kind for name, kind in _NESTED.values() if name == field)
    return f"{field}={kind}({said})"


# ── what is left ──────────────────────────────────────────────────────────────────────────────────


def _left(text: str) -> Iterator[tuple[int, str]]:
    """Places that a person has to change, with its line."""
    for number, line in enumerate(text.split("\n"), 1):
        if "claims." not in line and "import" not in line:
            continue
        for found in _ASKED_READS.finditer(line):
            yield number, f"claims.{found[1]} is gone: compare claims.reads with a qres_core.Reads"
        if re.search(r"\bfrom[ \t]+qres_core[ \t]+import[ \t]+\*", line):
            yield number, "import by name: names have moved into modules"
