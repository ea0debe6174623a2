"""``qres upgrade-code``: rewrite a plugin's code for this version of the public names."""

from __future__ import annotations

import ast
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import click

from qres_core.cli.upgrading import upgraded

SUFFIXES: Final = frozenset((".py", ".pyi", ".md", ".rst", ".tmpl"))
_SKIPPED: Final = frozenset(("build", "dist", "node_modules", "__pycache__"))
_HISTORY: Final = "CHANGELOG"


@click.command("upgrade-code")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if something would change.")
def command(paths: tuple[Path, ...], *, check: bool) -> None:
    """Rewrite code for this version: imports of public names that moved, and fields of claims.

    PATHS are files, or folders whose Python files, Markdown pages and templates are read.
    Changelogs stay as they are, and so do hidden folders, and files with the words
    "upgrade-code: off". A second run changes nothing. Commit your work first, and let your
    formatter sort the imports afterwards.

    Exit code 1 if something is left for you to change, or with --check, if anything is.
    """
    changed = left = 0
    for path in sorted(set(files(paths))):
        try:
            with path.open(encoding="utf-8", newline="") as source:
                text = source.read()
        except UnicodeDecodeError:
            click.echo(f"{path}: is no UTF-8, and stays as it is", err=True)
            continue
        made = upgraded(text)
        for line, what in made.left:
            click.echo(f"{path}:{line}: {what}")
        left += len(made.left)
        if made.text == text:
            continue
        if path.suffix in {".py", ".pyi"} and parses(text) and not parses(made.text):
            click.echo(f"{path}: could not be rewritten; change it by hand")
            left += 1
            continue
        changed += 1
        click.echo(f"{path}: {'would be rewritten' if check else 'rewritten'}")
        if not check:
            _replace(path, made.text)
    click.echo(
        f"{changed} files {'to rewrite' if check else 'rewritten'}, {left} places left to you"
    )
    if left or (check and changed):
        sys.exit(1)


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files to read: those named, and those in folders that may hold code."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, inside, names in os.walk(path):
            inside[:] = [
                name for name in inside if name not in _SKIPPED and not name.startswith(".")
            ]
            yield from (
                Path(folder, name)
                for name in names
                if Path(name).suffix in SUFFIXES and not name.startswith(_HISTORY)
            )


def parses(text: str) -> bool:
    """True if a text is Python."""
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _replace(path: Path, text: str) -> None:
    """Write a file anew, whole or not at all, with the mode it had."""
    mode = path.stat().st_mode
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="", dir=path.parent, delete=False
    ) as made:
        made.write(text)
    Path(made.name).chmod(mode)
    Path(made.name).replace(path.resolve())
