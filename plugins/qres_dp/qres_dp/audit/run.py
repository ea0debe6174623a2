"""The whole audit: all checks in every setting, and the faults it has to find."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType

import attrs

from qres_core import QresError
from qres_dp.audit import black_box, books, exact, keys, noise
from qres_dp.audit.claim import SETTINGS, AuditSetting, Claim, printed
from qres_dp.audit.faults import MUTANTS
from qres_dp.audit.finding import Finding
from qres_dp.audit.mutants import installed, loaded

FAULTS = tuple(MUTANTS)
"""Names of the faults that :func:`controls` puts in."""


@attrs.frozen
class Audit:
    """What the checks found of one plugin."""

    subject: str  # ``correct``, or the name of the fault that was put in
    findings: tuple[Finding, ...]  # one for each check and setting

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return all(finding.passed for finding in self.findings)


def examine(package: ModuleType, claim: Claim, runs: int = black_box.RUNS) -> Iterator[Finding]:
    """The checks of one setting but the keys, the quick ones first.

    Args:
        package: the plugin's.
        claim: what it printed of the setting before.
        runs: of each side in the black box.

    Complexity: some thousand releases, below a second each.
    """
    setting = claim.setting
    yield books.plan(package, claim)
    yield exact.examine(package, claim)
    yield from noise.examine(package, claim)
    yield books.ledger(package, claim)
    if setting.mode == "distributed":
        yield books.sums(package, claim)
    if not setting.streams and not setting.records:
        yield noise.repeats(package, claim)
        yield black_box.examine(package, claim, runs)


def _checked(
    package: ModuleType, settings: Iterable[AuditSetting], mutant: str, runs: int
) -> Iterator[Finding]:
    claims: list[Claim] = []
    for setting in settings:
        try:
            claim = printed(package, setting)
            claims.append(claim)
            yield from examine(package, claim, runs)
        except QresError as error:
            yield Finding("refusal", setting.name, 0.0, 0.0, str(error))
    yield from _keys(package, claims, mutant)


def _keys(package: ModuleType, claims: Sequence[Claim], mutant: str) -> Iterator[Finding]:
    """Four beginnings: as it is, imported anew, and in two new processes."""
    with loaded(mutant) as other:
        anew = {claim.setting.name: keys.first_noise(other, claim) for claim in claims}
    del other
    gc.collect()  # its modules refer to each other, and have tables of megabytes
    processes = [keys.elsewhere(claims, mutant) for _ in range(2)]
    for claim in claims:
        found = [part[claim.setting.name] for part in (anew, *processes)]
        yield keys.examine(claim, [keys.first_noise(package, claim), *found])


def audit(settings: Sequence[AuditSetting] = SETTINGS, runs: int = black_box.RUNS) -> Audit:
    """The audit of the plugin as it is installed."""
    return Audit("correct", tuple(_checked(installed(), settings, "", runs)))


def controls(names: Sequence[str] = FAULTS, runs: int = black_box.RUNS) -> Iterator[Audit]:
    """The audits of the plugin with each of the faults in, up to the check that finds it."""
    settings = {setting.name: setting for setting in SETTINGS}
    for name in names:
        found: list[Finding] = []
        with loaded(name) as package:
            for finding in _checked(package, [settings[MUTANTS[name].setting]], name, runs):
                found.append(finding)
                if not finding.passed:
                    break
        yield Audit(name, tuple(found))
