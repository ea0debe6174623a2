"""Do plugins that begin anew ever make the same noise? In this process, and in new ones."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from types import ModuleType
from typing import Any, Final

import numpy as np

from qres_dp.audit.claim import Claim
from qres_dp.audit.finding import Finding
from qres_dp.audit.noise import LAGS_LIMIT, Residuals, alike, residuals

SIZE: Final = 512
_SECONDS: Final = 300.0


def first_noise(package: ModuleType, claim: Claim) -> list[int]:
    """Of all nodes, as integers, from a state that anybody could set up again."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - a faulty plugin may use it
    return [int(value) for value in residuals(package, claim, SIZE, 1).ravel()]


def elsewhere(claims: Sequence[Claim], mutant: str) -> dict[str, list[int]]:
    """As :func:`first_noise` in a new process, by setting."""
    asked = {claim.setting.name: dict(claim.printed) for claim in claims}
    command = [sys.executable, "-P", "-m", "qres_dp.audit.elsewhere", mutant]
    done = subprocess.run(  # noqa: S603 - this Python and a module of this package
        command,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def _unit(values: Any, claim: Claim) -> Residuals:
    made: Residuals = np.array(values, dtype=np.float64) / float(claim.share) ** 0.5
    return made


def examine(claim: Claim, runs: Sequence[Sequence[int]]) -> Finding:
    """The largest score of correlation between runs that begin anew, and between their nodes."""
    made = [_unit(run, claim).reshape(claim.setting.honest, -1) for run in runs]
    nodes = [node for run in made for node in run]
    worst = max(alike(left, right) for left, right in combinations(nodes, 2))
    return Finding("keys", claim.setting.name, worst, LAGS_LIMIT)
