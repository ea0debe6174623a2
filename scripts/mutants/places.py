"""Where checks are looked for, and the tests that are to miss them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parents[2]

NO_CHECKS: Final = frozenset(
    {
        # What is printed, drawn or asked for at a terminal.
        *("cli", "report", "report_page", "report_command", "plan", "plan_command", "warming"),
        # What a plugin tries on itself.
        "selftest",
        # Sizes that are proposed to an operator.
        "fitting",
        # Arithmetic: oracles and laws hold it, and numba compiles some of it.
        *("accounting", "correlated", "grid", "discrete_gaussian", "exact", "compiled", "mean"),
        # Carries frames within one process.
        *("memory", "hub"),
    }
)
"""Modules and rooms without checks that keep a stranger or a liar out."""


@attrs.frozen
class Place:
    """Modules, and the tests of theirs."""

    package: str  # or a module
    tests: tuple[str, ...]  # paths from the root of the repository

    def __contains__(self, mutant: str) -> bool:
        module = mutant.partition(":")[0]
        return f"{module}.".startswith(f"{self.package}.")

    def modules(self) -> dict[str, Path]:
        """Files by module, found without an import of any of them."""
        top, *rooms = self.package.split(".")
        spec = find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{top}: not installed; run `make test` once")
        path = Path(spec.submodule_search_locations[0]).joinpath(*rooms)
        if not path.is_dir():
            return {self.package: path.with_suffix(".py")}
        found: dict[str, Path] = {}
        for file in sorted(path.rglob("*.py")):
            parts = file.relative_to(path).with_suffix("").parts
            if not NO_CHECKS.intersection(parts):
                name = ".".join((self.package, *parts)).removesuffix(".__init__")
                found[name] = file
        return found


def _plugin(name: str) -> Place:
    return Place(f"qres_{name}", (f"plugins/qres_{name}/tests",))


PLACES: Final = {
    "inbound": Place("qres_core.kernel.inbound", ("tests/unit/kernel",)),
    **{
        name: _plugin(name)
        for name in ("ed25519", "pki", "replay", "reputation", "secagg", "zk", "dp")
    },
    "swarm": Place("qres_core.swarm", ("tests/unit/swarm",)),
    "builtin": Place("qres_core.builtin", ("tests/unit/swarm",)),
}
