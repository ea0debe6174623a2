"""Branch coverage of every distribution, each measured under its own tests alone, as a table.

    python -P scripts/branch_coverage.py                       all of them
    python -P scripts/branch_coverage.py qres_krum -- -q -x    one, with these words for pytest

Exit status 1 if a test failed or a distribution is below ``fail_under`` of ``pyproject.toml``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "qres_core": ROOT / "tests",
    **{
        project.parent.name: project.parent / "tests"
        for kind in ("libraries", "plugins", "integrations")
        for project in sorted(ROOT.glob(f"{kind}/*/pyproject.toml"))
    },
}
# An integration is measured where what it stands on is installed: name it.
USUAL = [name for name, tests in TESTS.items() if "integrations" not in tests.parts]
EVERY = (
    *("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal", "-m", "not long"),
    *("--hypothesis-profile", "counted"),
    # These play millions of steps of few modules, which counting lines makes three times slower.
    # What they reach, others reach too; without counting, `make test` plays all of them.
    *(
        f"--ignore=tests/{path}"
        for path in (
            *("attacks", "chaos", "compatibility", "exploration", "isolation", "namespaces"),
            "simulation",
            *("integration/test_arithmetic_vectors.py", "integration/test_examples.py"),
            *("integration/test_full_stack.py", "integration/test_geomedian.py"),
            *("integration/test_profiles.py", "integration/test_simulator.py", "test_docs.py"),
        )
    ),
)


def measure(name: str, words: list[str], folder: Path) -> tuple[bool, dict[str, float]]:
    """Run the tests of one distribution.

    Args:
        name: the package.
        words: for pytest.
        folder: where the data go.

    Returns:
        whether every test passed, and coverage's totals; none if there are no data.
    """
    totals = folder / f"{name}.json"
    environment = {**os.environ, "COVERAGE_FILE": str(folder / f"{name}.data")}
    run = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "pytest", str(TESTS[name]), *words),
            *("--cov", name, "--cov-config", str(ROOT / "pyproject.toml")),
            *("--cov-report", "term", "--cov-report", f"json:{totals}", "--cov-fail-under", "0"),
        ],
        cwd=ROOT,
        env=environment,
        check=False,
    )
    found = json.loads(totals.read_text("utf-8"))["totals"] if totals.exists() else {}
    return run.returncode == 0, found


def main(arguments: list[str]) -> int:
    """Measure, and print the table."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    names, words = arguments[:cut] or USUAL, arguments[cut + 1 :] or list(EVERY)
    unknown = sorted(set(names) - set(TESTS))
    if unknown:
        print(f"no distribution: {', '.join(unknown)}; there are {', '.join(TESTS)}")
        return 2
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    least: float = settings["tool"]["coverage"]["report"]["fail_under"]
    rows: list[tuple[str, float, float, float]] = []
    short: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            passed, totals = measure(name, words, Path(folder))
            percent = totals.get("percent_covered", 0.0)
            rows.append(
                (name, totals.get("num_statements", 0), totals.get("num_branches", 0), percent)
            )
            if not passed:
                short.append(f"{name}: a test failed")
            if percent < least:
                short.append(f"{name}: {percent:.1f} % is below {least:.0f} %")
    print(f"\n{'distribution':<24}{'statements':>12}{'branches':>10}{'percent':>9}")
    for name, statements, branches, percent in rows:
        print(f"{name:<24}{statements:>12}{branches:>10}{percent:>9.1f}")
    for line in short:
        print(line, file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
