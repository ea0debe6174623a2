"""Rehearse a release: build, serve, install and use what the index will hold.

    PYTHONPATH=scripts python -P scripts/rehearse.py            of the commit that is checked out
    … --commit qres-core-v0.2.0 --out FOLDER

It needs ``requirements/release.txt``; ``make rehearse`` installs that into an environment.

1. The commit is exported into two folders. Sdists and wheels of all distributions are built in
   both, the second time with another umask, time zone and order of hashes. The files must be the
   same, bit for bit.
2. pypiserver serves them on the loopback interface.
3. The README's blocks ``release`` and ``nodes`` run in an empty environment, outside the
   repository. Packages of others come from the index that pip is configured for. What pip took
   under a name of QRES must be what was built.
4. A second environment gets the pins, then everything of QRES from the local index: no compiler is
   needed. Pages are played in it.
5. The conda recipe is built, with a stand-in for conda's Python. Each package must hold the modules
   of its wheel.
6. CycloneDX makes and checks a bill of materials of each environment. The statements that
   attestations sign are made. They are not signed, because that takes an identity.

``--out`` (``dist/release`` by default) then holds the files, ``SHA256SUMS``, the conda packages,
the bills and the statements. No address of an index is printed. Exit status 1 if anything of this
fails. What was started is ended.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import conda_recipe
import readme_block

ROOT: Final = Path(__file__).resolve().parent.parent
PROJECTS: Final = ("libraries", "plugins", "integrations")
PAGES: Final = ("README.md", "docs/tutorials/first-simulation.md", "docs/tutorials/two-machines.md")
PINS: Final = ("node", "demo")
PATIENCE: Final = 120.0
"""Seconds until the local index must answer."""

# What must not be seen in a build: the second differs in all of it.
OTHER: Final = {"TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "7", "LC_ALL": "C"}

CLEAN: Final = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

_ADDRESS: Final = re.compile(r"https?://(?!127\.0\.0\.1[:/])[^\s'\"<>]+")


class RehearsalError(Exception):
    """Something did not do what a release has to do. The text says what."""


def without_addresses(text: str) -> str:
    """The text with every address hidden except those of this machine."""
    return _ADDRESS.sub("https://…", text)


def say(text: str) -> None:
    """Print a line of the transcript."""
    print(without_addresses(text), flush=True)


def run(words: Sequence[str | Path], folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """Run a program, print what it prints, and return it.

    Raises:
        RehearsalError: it ended with another code than 0.
    """
    lines: list[str] = []
    with subprocess.Popen(
        list(map(str, words)),
        cwd=folder,
        env={**CLEAN, "PYTHONSAFEPATH": "1", "NO_COLOR": "1", **(extra or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                say(f"    {line.rstrip()}")
                lines.append(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise RehearsalError(f"{words[0]} ended with {process.returncode}")
    return "".join(lines)


def export(commit: str, folder: Path) -> Path:
    """The files of a commit, in a new folder."""
    folder.mkdir(parents=True)
    git = ["git", "-c", f"safe.directory={ROOT}", "archive", "--format=tar", commit]
    archive = subprocess.run(git, cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def distributions(tree: Path) -> list[Path]:
    """The folders of all distributions of a tree: qres-core first, then by their names."""
    return [
        tree,
        *(
            each.parent
            for part in PROJECTS
            for each in sorted(tree.glob(f"{part}/*/pyproject.toml"))
        ),
    ]


def build(tree: Path, out: Path, epoch: str, extra: Mapping[str, str], umask: int) -> None:
    """Sdists of all distributions, and wheels made from them, by a process of its own."""
    subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--build", str(tree), "--out", str(out)],
        cwd=tree,
        env={**CLEAN, "SOURCE_DATE_EPOCH": epoch, "PYTHONSAFEPATH": "", **extra},
        check=True,
        umask=umask,
    )


def build_here(tree: Path, out: Path) -> None:
    """What :func:`build` does, in this process: the backend is called as pip calls it.

    A process for each hook of each distribution would take many times as long.
    """
    backend: Any = importlib.import_module("hatchling.build")
    out.mkdir(parents=True)
    for dist in distributions(tree):
        os.chdir(dist)
        sdist = out / backend.build_sdist(str(out))
        with tempfile.TemporaryDirectory() as name, tarfile.open(sdist) as archive:
            archive.extractall(name, filter="data")
            (unpacked,) = Path(name).iterdir()
            os.chdir(unpacked)
            backend.build_wheel(str(out))
            os.chdir(tree)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every sdist and wheel of a folder, by the file's name."""
    files = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names that only one of two builds has, or that have other contents there."""
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def strangers(report: Mapping[str, Any], built: Mapping[str, str]) -> list[str]:
    """What pip installed under a name of QRES that is not one of the files built.

    Args:
        report: what ``pip install --report`` writes.
        built: SHA-256 of each file built, by its name.
    """
    found: list[str] = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if not name.lower().startswith("qres"):
            continue
        archive = item["download_info"].get("archive_info", {})
        if archive.get("hashes", {}).get("sha256") not in set(built.values()):
            found.append(f"{name} {version}")
    return found


@contextmanager
def served(folder: Path) -> Generator[str]:
    """A package index of the folder on the loopback interface, for as long as the block runs.

    Yields:
        the address for pip.

    Raises:
        RehearsalError: it does not answer in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "pypiserver",
        "run",
        "--interface",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    words += ["--disable-fallback", "--hash-algo", "sha256", "--log-stream", "none", str(folder)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > end:
                raise RehearsalError("the local index does not answer")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/simple/"
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/simple/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def played(
    name: str, environment: Path, address: str, built: Mapping[str, str], folder: Path
) -> None:
    """Run a block of the README as its reader would, with the environment first on the path.

    Raises:
        RehearsalError: a command failed, or a package of QRES is not what was built.
    """
    script = readme_block.block((ROOT / "README.md").read_text("utf-8"), name)
    others = os.environ.get("PIP_EXTRA_INDEX_URL", "")
    report = folder / f"pip-{name}.json"
    extra = {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PIP_EXTRA_INDEX_URL": f"{address} {others}".strip(),
        "PIP_REPORT": str(report),
        "PIP_QUIET": "1",
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    say("".join(f"    $ {line}\n" for line in script.splitlines()).rstrip())
    run(["bash", "-euo", "pipefail", "-c", script], folder, extra)
    installed = json.loads(report.read_text("utf-8"))
    report.unlink()  # it holds addresses
    if wrong := strangers(installed, built):
        raise RehearsalError(f"not what was built: {', '.join(wrong)}")
    names = [item["metadata"]["name"] for item in installed["install"]]
    ours = [each for each in names if each.startswith("qres")]
    say(f"    pip installed {len(names)} packages, {len(ours)} of QRES, each as built")


def environment(place: Path) -> Path:
    """A new, empty environment."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    return place


def pinned(place: Path, address: str, names: Sequence[str]) -> None:
    """Install the pins, then distributions of QRES from the local index alone."""
    python = place / "bin/python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    hashed: list[str | Path] = [*pip, "--require-hashes"]
    for pins in PINS:
        run([*hashed, "--only-binary", ":all:", "-r", ROOT / f"requirements/{pins}.txt"], ROOT)
    sources = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
    run([*hashed, *sources, "-r", ROOT / "requirements/sdists.txt"], ROOT)
    alone = {"PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}
    run([*pip, "--index-url", address, *names], place, alone)


def bill(python: Path, out: Path, epoch: str) -> str:
    """Make a bill of materials of an environment, which CycloneDX checks against its schema.

    Returns:
        what it counts.
    """
    program = Path(sys.executable).with_name("cyclonedx-py")
    words: list[str | Path] = [
        program,
        "environment",
        "--output-reproducible",
        "--validate",
        "-o",
        out,
        python,
    ]
    run(words, out.parent, {"SOURCE_DATE_EPOCH": epoch})
    return counts(json.loads(out.read_text("utf-8")))


def counts(text: Mapping[str, Any]) -> str:
    """What a bill of materials holds, in a line."""
    components = text["components"]
    ours = [each for each in components if each["name"].startswith("qres")]
    licensed = [each for each in components if each.get("licenses")]
    edges = sum(len(each.get("dependsOn", ())) for each in text.get("dependencies", ()))
    return (
        f"{text['bomFormat']} {text['specVersion']}: {len(components)} components, "
        f"{len(ours)} of QRES, {len(licensed)} with a licence, {edges} dependencies"
    )


def modules(wheel: Path) -> set[str]:
    """What a wheel puts beside other packages, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def same_modules(package: Path, wheels: Path) -> int:
    """The number of modules in a conda package.

    Raises:
        RehearsalError: its wheel holds others.
    """
    name, version, _build = package.name.rsplit("-", 2)
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    found = conda_recipe.contents(package)
    if found != modules(wheel):
        raise RehearsalError(f"{package.name} and {wheel.name} hold different modules")
    return len(found)


def statements(folder: Path, out: Path) -> int:
    """Write what an attestation of each file signs: its name and digest, as published.

    Returns:
        how many there are.
    """
    attestations: Any = importlib.import_module("pypi_attestations")
    dsse: Any = importlib.import_module("sigstore.dsse")
    out.mkdir()
    for name, digest in digests(folder).items():
        dist = attestations.Distribution.from_file(folder / name)
        if dist.digest != digest:
            raise RehearsalError(f"{name}: two digests")
        subject = dsse.Subject(name=dist.name, digest={"sha256": dist.digest})
        kind = attestations.AttestationType.PYPI_PUBLISH_V1
        statement = dsse.StatementBuilder([subject], kind).build()
        contents: bytes = statement._contents  # noqa: SLF001 - sigstore has no other name for it
        (out / f"{name}.statement.json").write_bytes(contents)
    return len(list(out.iterdir()))


def rehearse(commit: str, out: Path, work: Path) -> None:
    """Everything, below the folder ``work``."""
    git = ["git", "-c", f"safe.directory={ROOT}", "show", "--no-patch", "--format=%H %ct", commit]
    shown = subprocess.run(git, cwd=ROOT, check=True, capture_output=True, text=True)
    found, epoch = shown.stdout.split()
    say(f"==> commit {found}, SOURCE_DATE_EPOCH={epoch}, Python {sys.version.split()[0]}")

    say("==> two builds")
    first, second = work / "first", work / "a second folder"
    build(export(commit, work / "tree"), first, epoch, {}, 0o022)
    build(export(commit, work / "other place/tree"), second, epoch, OTHER, 0o077)
    built = digests(first)
    if wrong := differing(built, digests(second)):
        raise RehearsalError(f"two builds differ: {', '.join(wrong)}")
    sums = "".join(f"{digest}  {name}\n" for name, digest in built.items())
    say(sums.rstrip())
    say(f"    {len(built)} files, both times the same")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(first, out)
    (out / "SHA256SUMS").write_text(sums, "utf-8")

    home = work / "home"
    shutil.copytree(ROOT / "examples", home / "examples")
    with served(first) as address:
        fresh = environment(work / "fresh")
        for name in ("release", "nodes"):
            say(f"==> README, block {name}, in an empty environment")
            played(name, fresh, address, built, home)
        run([fresh / "bin/python", "-m", "pip", "check"], home)
        say("==> the pins, and everything of QRES from the index")
        full = environment(work / "full")
        left_out = {each.name for each in (ROOT / "integrations").iterdir()}
        names = sorted({name.split("-")[0] for name in built if name.endswith(".whl")} - left_out)
        pinned(full, address, names)
        run([full / "bin/qres", "plugins"], home)
    say("==> pages in that environment")
    run([sys.executable, ROOT / "scripts/run_pages.py", "--bin", full / "bin", *PAGES], home)

    say("==> conda packages, with this Python in the place of conda's")
    made = conda_recipe.build(work / "tree/deploy/conda/recipe.yaml", out / "conda", stand_in=True)
    for package in made:
        say(f"    {package.name}, {same_modules(package, first)} files, as in its wheel")

    say("==> bills of materials")
    for each in (fresh, full):
        file = out / f"sbom-{each.name}.cdx.json"
        say(f"    {file.name}, {bill(each / 'bin/python', file, epoch)}")
    say("==> attestations")
    stated = statements(first, out / "statements")
    say(f"    {stated} statements made; none is signed here: see RELEASING.md")
    say("==> rehearsed")


def ended(_number: int, _frame: object) -> None:
    """Leave as at an error."""
    sys.exit(143)


def main() -> int:
    """Rehearse in a temporary folder."""
    parser = argparse.ArgumentParser(description="Rehearse a release.")
    parser.add_argument("--commit", default="HEAD")
    parser.add_argument("--out", type=Path, default=ROOT / "dist/release")
    parser.add_argument("--build", type=Path, metavar="TREE", help="build that tree, and no more")
    options = parser.parse_args()
    if options.build:
        build_here(options.build.absolute(), options.out.absolute())
        return 0
    # What was started is ended, and folders go, when this is ended from outside too.
    signal.signal(signal.SIGTERM, ended)
    with tempfile.TemporaryDirectory(prefix="qres-release-") as name:
        try:
            rehearse(options.commit, options.out.absolute(), Path(name).resolve())
        except (RehearsalError, subprocess.CalledProcessError) as error:
            print(without_addresses(f"failed: {error}"), file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
