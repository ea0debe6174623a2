"""The whole audit: random settings, and the faults it has to find."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Final

import attrs

from qres_core.errors import QresError
from qres_dp_audit import noise, plan
from qres_dp_audit.course import Course
from qres_dp_audit.draw import KINDS, Claim, drawn, printed
from qres_dp_audit.faults import FAULTS
from qres_dp_audit.finding import Finding
from qres_dp_audit.mutants import installed, loaded

EACH: Final = 3
"""Settings of a kind in an audit; of long updates there is one."""
AUDITS: Final = 3
"""Of a fault, before it counts as missed."""
_REFUSED: Final = 20
"""Settings in a row that may be refused."""


@attrs.frozen
class Audit:
    """Findings of the checks on one plugin."""

    subject: str  # ``correct``, or the name of the fault that was put in
    seed: int  # the same seed makes the same audit
    findings: tuple[Finding, ...]  # one for each check and setting

    @property
    def passed(self) -> bool:
        """True if no check found anything."""
        return all(finding.passed for finding in self.findings)


def _claim(package: ModuleType, kind: str, seed: int) -> Claim:
    """A setting that the plugin takes. Raises QresError: it refuses one that it must not."""
    for more in range(_REFUSED):
        try:
            return printed(package, drawn(kind, seed + more * 10**9))
        except QresError as error:
            # Some correlated noise would be worse than independent noise, and is refused as such.
            is_worse = kind == "encoded" and error.problems[0].where == "plugins.dp.noise"
            if not is_worse or more == _REFUSED - 1:
                raise
    raise AssertionError  # pragma: no cover - the loop ends before


def examine(package: ModuleType, kind: str, seed: int) -> Iterator[Finding]:
    """The checks of one setting: its plan, and a course. Some tenths of a second."""
    try:
        claim = _claim(package, kind, seed)
        lacking = plan.lacking(claim)
        yield Finding("plan", kind, seed, len(lacking), 0, "".join(lacking[:1]))
        with tempfile.TemporaryDirectory() as folder:
            course = Course(package, claim, Path(folder))
            course.play()
        wrong = course.wrong
        yield Finding("course", kind, seed, len(wrong), 0, "".join(wrong[:1]))
    except Exception as error:  # noqa: BLE001 - whatever a faulty plugin raises is a failure
        yield Finding("failure", kind, seed, 1, 0, f"{type(error).__name__}: {error}")


def checks(package: ModuleType, seed: int) -> Iterator[Finding]:
    """All checks of an audit, the quick ones first."""
    for number in range(EACH):
        for kind in KINDS:
            if kind != "long" or number == 0:
                yield from examine(package, kind, seed * EACH + number)
    yield from noise.examine(package, seed)


def audit(seed: int) -> Audit:
    """The audit of the plugin as it is installed. Some ten seconds."""
    return Audit("correct", seed, tuple(checks(installed(), seed)))


def controls(seed: int, names: Sequence[str] = tuple(FAULTS)) -> Iterator[Audit]:
    """The audits of the plugin with each of the faults in, up to the check that finds it.

    A fault that one audit passes, because its settings do not come to it, meets two more.
    """
    for name in names:
        found: list[Finding] = []
        with loaded(name) as package:
            for finding in chain.from_iterable(checks(package, seed + n) for n in range(AUDITS)):
                found.append(finding)
                if not finding.passed:
                    break
        yield Audit(name, seed, tuple(found))
