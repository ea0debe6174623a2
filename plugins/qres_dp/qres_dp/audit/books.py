"""Plan, ledger and sums: is what is said of the privacy what it is?"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from qres_core import QresError, Updates, Vector
from qres_dp.audit import oracle
from qres_dp.audit.claim import BAND, CLIP, SCALE, Claim
from qres_dp.audit.finding import Finding
from qres_dp.audit.system import ROSTER, System

_SIZE: Final = 16
_ROUNDING: Final = 1.0 + 1e-6


def plan(package: ModuleType, claim: Claim) -> Finding:
    """What the promise needs, over what the plan prints; each by the audit's own formulas."""
    del package
    setting, mechanism = claim.setting, claim.mechanism
    delta, charges = float(claim.printed["delta"]), claim.printed["charges"]
    bound, sensitivity = oracle.bound_steps(CLIP, SCALE), claim.sensitivity
    needs: list[tuple[float, float]] = [
        (sensitivity, mechanism["sensitivity_steps"]),
        (mechanism["bound_steps"], bound),
        (setting.rounds, sum(row["rounds"] for row in charges)),
        (claim.printed["epsilon"], setting.options.get("epsilon", math.inf)),
    ]
    square = sum(row["rounds"] / row["noise_multiplier"] ** 2 for row in charges)
    needs += [(oracle.epsilon_of(math.sqrt(square), delta), claim.printed["epsilon"])]
    single = oracle.epsilon_of(1.0 / claim.multiplier, delta)
    needs += [(single, claim.printed["round"]["epsilon"])]
    total = claim.share * setting.honest
    if setting.streams:
        reach = oracle.squared_sensitivity(BAND, setting.rounds, setting.options["separation"])
        squared = Fraction(sensitivity**2 * reach, 2**32)
        least = float(squared) / claim.mu**2
    else:
        z = float(setting.options["noise_multiplier"])
        least = float(oracle.least_variance(z, sensitivity))
        needs += [(1.0 / z, 1.0 / claim.multiplier)]
    needs += [(least, float(total))]
    worst = max(needed / told for needed, told in needs)
    return Finding("plan", setting.name, worst, _ROUNDING)


def _refused(code: str, call: Callable[[], object]) -> bool:
    try:
        call()
    except QresError as error:
        return any(problem.code == code for problem in error.problems)
    return False


def sums(package: ModuleType, claim: Claim) -> Finding:
    """A sum of too few nodes must be refused, since too few shares of noise are in it."""
    setting, refused = claim.setting, ""
    system = System(package, setting)
    system.release([np.zeros(_SIZE, dtype=np.int32)] * system.inputs)
    plugin, info = system.plugins[0], system.info(_SIZE)

    def seen(count: int) -> Updates:
        members = ROSTER[:count]
        total: Vector = np.zeros((1, _SIZE), dtype=np.int32)
        weights = np.array([count], dtype=np.int64)
        return Updates(total, members[:1], weights, members=(members,))

    def reveal(count: int) -> object:
        return plugin.reveal(seen(count), (), info)

    if not _refused("QRES-E505", lambda: reveal(setting.honest)):
        refused = f"a sum of {setting.honest} nodes, one of them the observer, was not refused"
    try:
        reveal(setting.honest + 1)
    except QresError as error:
        refused = str(error)
    return Finding("small sums", setting.name, 0.0, 0.0, refused)


def ledger(package: ModuleType, claim: Claim) -> Finding:
    """What was spent, by the audit's formula, over what ``status`` and the ledger say."""
    with tempfile.TemporaryDirectory() as folder:
        return _ledger(package, claim, Path(folder))


def _ledger(package: ModuleType, claim: Claim, folder: Path) -> Finding:
    setting, delta = claim.setting, float(claim.printed["delta"])
    system, refused = System(package, setting, folder), ""
    item = np.full(_SIZE, 1000, dtype=np.int32)
    inputs, worst, before = [item] * system.inputs, 0.0, 0.0
    told: dict[str, Any] = {}
    for number in range(1, setting.rounds + 1):
        # A second attempt sends the same update once more: it is another release.
        again = number % 3 == 2 and not setting.streams
        system.release(inputs, again=again)
        told = dict(system.plugins[0].status())
        if told["releases"] != number:
            refused = f"{number} releases, and the ledger says {told['releases']}"
            break
        if not setting.streams:
            spent = oracle.epsilon_of(math.sqrt(number) / claim.multiplier, delta)
        else:
            spent = before
        before = told["epsilon"]
        worst = max(worst, spent / max(before, 1e-300))
    if not refused:
        worst = max(worst, claim.printed["epsilon"] / max(before, 1e-300) / _ROUNDING)
        if not _refused("QRES-E509", lambda: system.release(inputs)):
            refused = "a release over the budget was not refused"
    for plugin in system.plugins:
        plugin.teardown()
    read = _read(package, system.folder_of(ROSTER[0]))
    if not refused and (len(read) != told["releases"] or read[-1]["epsilon"] < before / _ROUNDING):
        refused = f"qres dp ledger tells of {len(read)} releases, and status of {told['releases']}"
    restarted = System(package, setting, folder).plugins
    known = restarted[0].status()["releases"]
    if not refused and known != told["releases"]:
        refused = f"{told['releases']} releases, and after a restart {known} are known"
    for plugin in restarted:
        plugin.teardown()
    return Finding("ledger", setting.name, worst, _ROUNDING, refused)


def _read(package: ModuleType, folder: Path) -> list[dict[str, Any]]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        package.cli.ledger_command.main([str(folder), "--json"], standalone_mode=False)
    rows: list[dict[str, Any]] = json.loads(out.getvalue())["records"]
    return rows
