"""Which distribution holds what, from the files that their wheels take.

    python -P scripts/distributions.py                  print the list, with lines of Python
    python -P scripts/distributions.py --page           write docs/reference/distributions.md
    python -P scripts/distributions.py --check [DIST]   exit status 1 where a promise is broken

Checked is: the page is up to date; qres-core has no more lines than ``MOST_LINES``; what serves
study alone is in no distribution that a node takes. With a folder of built wheels, also that each
holds the files of its package and nothing else, and that none is missing.
"""

from __future__ import annotations

import ast
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs/reference/distributions.md"
PARTS: Final = ("libraries", "plugins", "integrations")
MOST_LINES: Final = 42_000
"""Lines of Python that qres-core may have; decision 40 says why it has those."""
STUDY: Final = frozenset({"qres-lab", "qres-dp-audit"})
"""Distributions that no node needs."""
OF_STUDY: Final = frozenset({"audit", "certification", "exhibits", "gallery", "testing"})
"""Names of rooms and modules that only these may have."""
HEAD: Final = (
    "# Distributions\n\n"
    "This page is made from the files by `python -P scripts/distributions.py --page`. "
    "`make wheels` compares the\nbuilt wheels with it: each has the files of its package and "
    "nothing else. A name with a slash is a package. Without\n`--page` the command prints what "
    "each part is, and lines of Python. [Decision\n40](../adr/0040-what-the-core-holds.md) says "
    "what the core holds, and why.\n"
)


@attrs.frozen
class Room:
    """A package or module at the top of a distribution's package."""

    name: str  # without the suffix ``.py``
    said: str  # first sentence of its docstring, for the printed list
    files: int  # Python files
    lines: int  # of Python


@attrs.frozen
class Held:
    """A distribution, and what it holds."""

    name: str  # as pip knows it
    version: str  # its own
    part: str  # folder of its kind; empty for qres-core
    package: Path  # folder that is imported
    points: dict[str, list[str]]  # names of its entry points, by group
    extras: list[str]  # names of its extras

    def rooms(self) -> Iterator[Room]:
        """What lies at the top of the package, by name."""
        for path in sorted(self.package.iterdir()):
            if path.suffix == ".py":
                yield Room(path.stem, _said(path), 1, _lines(path))
            elif (path / "__init__.py").is_file():
                inside = sorted(path.rglob("*.py"))
                lines = sum(map(_lines, inside))
                yield Room(f"{path.name}/", _said(path / "__init__.py"), len(inside), lines)

    def lines(self) -> int:
        """Lines of Python."""
        return sum(room.lines for room in self.rooms())

    def files(self) -> set[str]:
        """What the wheel takes, as it names it."""
        top = self.package.parent
        return {
            path.relative_to(top).as_posix()
            for path in self.package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
        }


def _lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n")


def _said(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    return first.partition(". ")[0].removesuffix(".").replace("``", "`").replace("|", "\\|")


def distributions(root: Path) -> Iterator[Held]:
    """All of a checkout, qres-core first."""
    paths = [path for part in PARTS for path in sorted(root.glob(f"{part}/*/pyproject.toml"))]
    for path in (root / "pyproject.toml", *paths):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        points = project.get("entry-points", {})
        yield Held(
            name=project["name"],
            version=project["version"],
            part="" if path.parent == root else path.parent.parent.name,
            package=path.parent / project["name"].replace("-", "_"),
            points={group: sorted(names) for group, names in points.items()},
            extras=sorted(project.get("optional-dependencies", {})),
        )


def page(root: Path) -> str:
    """The text of the page."""
    parts = [HEAD]
    for held in distributions(root):
        parts.append(f"\n## {held.name}\n\n")
        rooms = [room.name for room in held.rooms() if room.name not in {"__init__", "__main__"}]
        said = [f"package `{held.package.name}`: {_listed(rooms)}"]
        said += [f"`{group}`: {_listed(names)}" for group, names in held.points.items()]
        said += [f"extras: {_listed(held.extras)}"] if held.extras else []
        parts.extend(f"- {item}\n" for item in said)
    return "".join(parts)


def _listed(names: list[str]) -> str:
    return f"`{', '.join(names)}`"


def complaints(root: Path, built: Path | None) -> Iterator[str]:
    """What is not as promised; ``built``: a folder of wheels."""
    path = root / PAGE.relative_to(ROOT)
    if not path.is_file() or path.read_text("utf-8") != page(root):
        yield f"{path.name} is not up to date: python -P scripts/distributions.py --page"
    for held in distributions(root):
        if held.name == "qres-core" and held.lines() > MOST_LINES:
            yield f"qres-core has {held.lines()} lines, more than {MOST_LINES}"
        if held.name not in STUDY:
            for name in sorted(held.files()):
                if OF_STUDY & set(Path(name).with_suffix("").parts):
                    yield f"{held.name} holds {name}, which serves study"
        if built is not None:
            yield from _differences(held, built)


def _differences(held: Held, built: Path) -> Iterator[str]:
    name = f"{held.package.name}-{held.version}-py3-none-any.whl"
    folder = built / "integrations" if held.part == "integrations" else built
    if not (folder / name).is_file():
        if held.part != "integrations" or folder.is_dir():
            yield f"no wheel {name}"
        return
    with zipfile.ZipFile(folder / name) as wheel:
        found = {item for item in wheel.namelist() if ".dist-info/" not in item}
    wanted = held.files()
    yield from (f"{name} lacks {item}" for item in sorted(wanted - found))
    yield from (
        f"{name} holds {item}, which is not in its package" for item in sorted(found - wanted)
    )


def listing(root: Path) -> Iterator[str]:
    """The list with lines, a text line each."""
    for held in distributions(root):
        yield f"{held.name} {held.version}: {held.lines()} lines"
        for room in held.rooms():
            yield f"    {room.name:24}{room.files:4} files {room.lines:7} lines  {room.said}"


def main(arguments: list[str]) -> int:
    """List, write the page, or check."""
    if not arguments:
        print("\n".join(listing(ROOT)))
        return 0
    if arguments == ["--page"]:
        PAGE.write_text(page(ROOT), encoding="utf-8")
        return 0
    if arguments[0] == "--check" and len(arguments) <= 2:
        built = Path(arguments[1]) if len(arguments) == 2 else None
        found = list(complaints(ROOT, built))
        print("\n".join(found) or "every distribution holds what it should")
        return 1 if found else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
