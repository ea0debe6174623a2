"""The checks in environments of their own: ``nox --list``.

``make`` covers daily work in one environment; these sessions are the matrix. Every install is
pinned and hashed, but for the numpy of `lowest`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ["3.11", "3.12", "3.13"]
DISTS = [
    ROOT,
    *sorted(path.parent for path in ROOT.glob("libraries/*/pyproject.toml")),
    *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")),
]
# What they stand on is not among these pins: the right build of torch depends on the machine.
INTEGRATIONS = sorted(path.parent for path in ROOT.glob("integrations/*/pyproject.toml"))

OURS = [nox.project.load_toml(dist / "pyproject.toml")["project"]["name"] for dist in DISTS]
TRANSPORTS = set(ROOT.glob("plugins/qres_transport_*"))
SDISTS = ("python-baseconv", "varint")  # published as sources only, see `sdists` in pyproject.toml

GROUPS = {
    "dev": ("dev",),  # first: it constrains the others
    "demo": ("build",),
    "node": ("build", "sdists"),
    "test": ("build", "sdists", "test"),
    "lint": ("build", "sdists", "test", "lint"),
    "docs": ("build", "sdists", "test", "docs"),
}
HEADER = (
    "# Compiled from the pyproject.toml files by `make requirements`; see requirements/README.md.\n"
)

DEPENDENCIES = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"]
LOWEST = (
    "tests/unit/contract",
    "libraries/qres_arithmetic/tests",
    *(
        f"plugins/{name}/tests"
        for name in ("qres_krum", "qres_robust_stats", "qres_server_optimiser", "qres_validation")
    ),
)

PYTEST = ("python", "-P", "-m", "pytest", "-n", "auto", "--dist", "worksteal")

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "tests", "wheels"]


def _requirements(session: nox.Session, name: str) -> None:
    session.env["PYTHONSAFEPATH"] = "1"
    pinned = ("--quiet", "--no-deps", "--require-hashes")
    session.install(*pinned, "--only-binary", ":all:", "-r", f"requirements/{name}.txt")
    sources = ("--no-binary", ":all:", "--no-build-isolation", "--use-pep517")
    session.install(*pinned, *sources, "-r", "requirements/sdists.txt")


def _workspace(session: nox.Session, name: str) -> None:
    _requirements(session, name)
    editables = [word for dist in (*DISTS, *INTEGRATIONS) for word in ("-e", str(dist))]
    session.install("--quiet", "--no-deps", "--no-build-isolation", *editables)


def _build(session: nox.Session, out: Path) -> list[str]:
    """Wheels of all dists, each made from its own sdist."""
    shutil.rmtree(out, ignore_errors=True)
    for dist in (*DISTS, *INTEGRATIONS):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(out), str(dist))
    return sorted(map(str, out.glob("*.whl")))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests against the working tree."""
    _workspace(session, "test")
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Tests of arithmetic, rules and validation with the lowest numpy that is allowed, unhashed."""
    _workspace(session, "test")
    numpy = next(found for found in DEPENDENCIES if found.startswith("numpy>=")).replace(">=", "==")
    session.install("--quiet", "--no-deps", "--only-binary", ":all:", numpy)
    # The pinned SciPy, which only tests import, would rather have a later one.
    quiet = ("-W", "ignore:A NumPy version:UserWarning")
    session.run(*PYTEST, *quiet, "-m", "not long", *(session.posargs or LOWEST))


@nox.session(python=PYTHONS[0])
def wheels(session: nox.Session) -> None:
    """All tests against the built wheels; the tree's own packages cannot be imported."""
    _requirements(session, "dev")
    session.install("--quiet", "--no-deps", *_build(session, Path(session.create_tmp()) / "dist"))
    session.run(
        "python",
        "-P",
        "-c",
        "import qres_core, sysconfig\n"
        "assert qres_core.__file__.startswith(sysconfig.get_path('purelib')), qres_core.__file__",
    )
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """Style, format and the direction of imports."""
    _workspace(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("codespell")
    session.run("python", "-P", "scripts/check_style.py")
    session.run("python", "-P", "scripts/claims.py", "--check")
    session.run("python", "-P", "scripts/figures.py", "--check")
    session.run("python", "-P", "scripts/walk.py", "--check")
    session.run("hadolint", "deploy/Dockerfile")
    schemas = {"compose-spec": "deploy/compose.yaml", "citation-file-format": "CITATION.cff"}
    for schema, file in schemas.items():
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", file)
    session.run("python", "-P", "-m", "pytest", "-q", "tests/unit/test_helm.py")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Mypy and pyright, both strict."""
    _workspace(session, "lint")
    session.run("mypy")
    session.run("pyright", "--pythonpath", str(Path(session.bin) / "python"))


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The manual, every warning an error."""
    _workspace(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """Benchmarks; ``-- --quick`` for the short form."""
    _workspace(session, "test")
    for script in sorted(set(ROOT.glob("benchmarks/*.py")) - {ROOT / "benchmarks/harness.py"}):
        if "quick" not in script.read_text("utf-8"):
            continue  # a part of another, or takes hours
        session.run("python", "-P", str(script), *session.posargs, env={"PYTHONPATH": "benchmarks"})


@nox.session(venv_backend="none")
def requirements(session: nox.Session) -> None:
    """Compile ``requirements/*.txt`` again; ``-- --upgrade`` takes newer releases."""
    common = (
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet"),
        *("--universal", "--python-version", "3.11", "--fork-strategy", "fewest"),
        *("--generate-hashes", "--no-strip-extras", "--no-header", "--no-annotate"),
        *("--no-emit-index-url", "--no-emit-find-links"),
        *(word for name in OURS for word in ("--no-emit-package", name)),
    )

    def compile_pins(name: str, *words: str) -> None:
        out = Path("requirements") / f"{name}.txt"
        session.run(*common, *words, "--output-file", str(out), *session.posargs)
        out.write_text(HEADER + out.read_text("utf-8"), encoding="utf-8")

    compile_pins("sdists", "--group", "sdists", "--no-emit-package", "setuptools")
    for name, groups in GROUPS.items():
        dists = [dist for dist in DISTS if name != "demo" or dist not in TRANSPORTS]
        extras = ("node",) if name == "node" else ("demo", "node")
        limits = ["sdists"] if name == "dev" else ["sdists", "dev"]
        compile_pins(
            name,
            *(str((dist / "pyproject.toml").relative_to(ROOT)) for dist in dists),
            *(word for extra in extras for word in ("--extra", extra)),
            *(word for group in groups for word in ("--group", group)),
            *(word for limit in limits for word in ("--constraints", f"requirements/{limit}.txt")),
            *(word for package in SDISTS for word in ("--no-emit-package", package)),
        )
    # What no project asks for: the tools alone.
    compile_pins(
        "release",
        *(word for name in ("build", "release", "rehearsal") for word in ("--group", name)),
        *("--constraints", "requirements/dev.txt"),
    )
    # Not held at dev.txt: Flower pins older releases of what others need.
    compile_pins(
        "flower",
        *(
            str((dist / "pyproject.toml").relative_to(ROOT))
            for dist in (*DISTS, ROOT / "integrations/qres_flower")
            if dist not in TRANSPORTS
        ),
        *(word for extra in ("demo", "node", "simulation") for word in ("--extra", extra)),
        *("--group", "build", "--group", "test", "--no-emit-package", "qres-flower"),
    )
