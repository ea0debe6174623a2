"""The whole audit: three checks in two modes, and the faults it has to find."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from qres_dp.audit import black_box, exact, white_box
from qres_dp.audit.faults import FAULTS as _FAULTS
from qres_dp.audit.faults import Z, fault
from qres_dp.audit.finding import Finding
from qres_dp.audit.system import System
from qres_dp.modes import Mode

FAULTS = tuple(_FAULTS)
"""Names of the faults that :func:`controls` puts in."""


@attrs.frozen
class Audit:
    """What the checks found of one plugin."""

    subject: str  # ``correct``, or the name of the fault that was put in
    findings: tuple[Finding, ...]  # one for each check and mode

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return all(finding.passed for finding in self.findings)


def examine(mode: Mode, runs: int = black_box.RUNS) -> Iterator[Finding]:
    """All checks of one mode, the quick ones first.

    Args:
        mode: of the plugin.
        runs: of each side in the black box.

    Complexity: about 5 ``runs`` rounds of a few nodes; about a second.
    """
    yield white_box.examine(System(mode, Z))
    yield exact.examine(System(mode, Z))
    yield black_box.examine(System(mode, Z), runs)


def audit(modes: tuple[Mode, ...] = tuple(Mode), runs: int = black_box.RUNS) -> Audit:
    """The audit of the plugin as it is."""
    findings = tuple(finding for mode in modes for finding in examine(mode, runs))
    return Audit("correct", findings)


def controls(
    modes: tuple[Mode, ...] = (Mode.DISTRIBUTED,), runs: int = black_box.RUNS
) -> Iterator[Audit]:
    """The audits of the plugin with each of the faults in.

    Mode distributed by default: noise in shares is where most can go wrong.
    """
    for name in FAULTS:
        with fault(name):
            findings = tuple(finding for mode in modes for finding in examine(mode, runs))
        yield Audit(name, findings)
