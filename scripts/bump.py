"""Give distributions a version, and move everything that names it.

    python -P scripts/bump.py 0.2.0                 every distribution with a lower version
    python -P scripts/bump.py 1.3.0 qres-krum       that one
    python -P scripts/bump.py --tags                print the tag of every distribution

It changes ``version`` in each ``pyproject.toml``; the bounds ``>=0.1,<0.2`` of everything that
depends on the distribution; its ``__version__``; and, for qres-core, ``CITATION.cff``, the Helm
chart and the pages and templates that show the bound. Install the tree again afterwards
(``make test`` does): the metadata of an editable install hold the old bounds.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CORE: Final = "qres-core"
PARTS: Final = ("libraries", "plugins", "integrations")
VERSION_OF_CORE: Final = ("CITATION.cff", "deploy/helm/qres/Chart.yaml")
SHOW_THE_BOUND: Final = (
    "docs/how-to/publish-a-plugin.md",
    "docs/how-to/debug-a-load-error.md",
    "docs/tutorials/write-an-aggregator.md",
    "docs/examples/*/pyproject.toml",
    "CONTRIBUTING.md",
    "RELEASING.md",
)


def distributions(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Each distribution's ``pyproject.toml``, name and version; qres-core first."""
    parts = ("pyproject.toml", *(f"{each}/*/pyproject.toml" for each in PARTS))
    for path in (path for part in parts for path in sorted(root.glob(part))):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        yield path, project["name"], project["version"]


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare.

    Raises:
        ValueError: it is not MAJOR.MINOR.PATCH.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"not MAJOR.MINOR.PATCH: {version}")
    return tuple(map(int, version.split(".")))


def bound(version: str) -> str:
    """The versions that a dependent admits: those of the minor version, or of the major one.

    Example:
        >>> bound("0.2.0"), bound("2.4.1")
        ('>=0.2,<0.3', '>=2.4,<3')
    """
    major, minor, _patch = numbers(version)
    return f">={major}.{minor},<" + (f"{major + 1}" if major else f"0.{minor + 1}")


def moved(text: str, name: str, version: str) -> str:
    """The text with every bound of that distribution moved, extras or not."""
    return re.sub(
        rf"({re.escape(name)}(?:\[[\w,-]+\])?)>=[\d.]+,<[\d.]+", rf"\1{bound(version)}", text
    )


def bump(root: Path, version: str, only: str = "") -> list[str]:
    """Do it below ``root``; returns the names of the distributions that changed."""
    found = [
        (path, name, old)
        for path, name, old in distributions(root)
        if (name == only if only else numbers(old) < numbers(version))
    ]
    for path, _name, old in found:
        _replace(path, rf'(?m)^version = "{re.escape(old)}"$', f'version = "{version}"', count=1)
        for init in path.parent.glob("qres_*/__init__.py"):
            _replace(init, r'(?m)^__version__ = "[\d.]+"$', f'__version__ = "{version}"')
    names = [name for _path, name, _old in found]
    shown = [path for pattern in SHOW_THE_BOUND for path in root.glob(pattern)]
    for path in [*(path for path, _name, _old in distributions(root)), *shown]:
        text = path.read_text("utf-8")
        for name in names:
            text = moved(text, name, version)
        path.write_text(text, encoding="utf-8")
    for _path, name, old in found:
        if name == CORE:
            _move_core(root, old, version)
    return names


def _move_core(root: Path, old: str, version: str) -> None:
    file = root / "qres_core/contract/version.py"
    _replace(file, r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"')
    for name in VERSION_OF_CORE:
        pattern = rf'(?m)^((?:v|appV)ersion: "?){re.escape(old)}("?)$'
        _replace(root / name, pattern, rf"\g<1>{version}\g<2>")
    minor = ".".join(version.split(".")[:2])
    page = root / "docs/tutorials/write-an-aggregator.md"
    _replace(page, r"`qres-core` \d+\.\d+ can install", f"`qres-core` {minor} can install")
    page = root / "docs/how-to/debug-a-load-error.md"
    _replace(page, r"(needs qres-core>=\d+, running )[\d.]+", rf"\g<1>{version}")


def _replace(path: Path, pattern: str, new: str, count: int = 0) -> None:
    text = path.read_text("utf-8")
    path.write_text(re.sub(pattern, new, text, count=count), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Bump, or print the tags."""
    if arguments == ["--tags"]:
        for _path, name, version in distributions(ROOT):
            print(f"{name}-v{version}")
        return 0
    if len(arguments) not in {1, 2}:
        print(__doc__, file=sys.stderr)
        return 2
    for name in bump(ROOT, *arguments):
        print(f"{name} {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
