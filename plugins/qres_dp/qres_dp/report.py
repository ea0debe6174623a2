"""Report of promise, spending and things not covered: the content of ``qres dp report``.

The numbers are those of the plan and of the ledger; the sentences are for people who answer for the
data and did not write the software.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import attrs

from qres_core.errors import QresError, RoundError
from qres_dp.account import PrivacyAccount
from qres_dp.accounting.composition import spent
from qres_dp.accounting.limits import Kind
from qres_dp.ledger import PrivacyLedger
from qres_dp.ledger.record import LedgerEntry
from qres_dp.plan import PrivacyPlan

VERSION: Final = 2
"""Of the JSON of a report; raised when a key changes its meaning or goes."""
FALSE_ALARMS: Final = 0.05
"""How often the attacker of the report's example may accuse wrongly."""
NOT_COVERED: Final = (
    "Participation: which nodes are in which rounds, when, and how long their training took.",
    "Choices that depend on the data before the noise is added, such as settings tuned on them.",
    "The node's own machine: the trainer's logs, metrics and copies of the data.",
    "Held-out examples that a node judges other updates by: its votes get no noise.",
    "Conclusions about people in general. To allow them is what the model is for.",
    "Releases that never went through this ledger: other software, other ledgers, other data sets.",
    "A node that lies about its own data. The ledger is the node's own account.",
)


@attrs.frozen
class LedgerState:
    """Ledger found in a folder."""

    folder: Path
    records: tuple[LedgerEntry, ...]  # oldest first; empty where the ledger does not hold
    problem: str  # why it does not hold; empty if it does

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the last record, which stands for all; empty without one."""
        return hashlib.sha256(self.records[-1].to_bytes()).hexdigest() if self.records else ""


def read_ledger(folder: Path, plan: PrivacyPlan) -> LedgerState:
    """The ledger of a folder, checked, or why it cannot be relied on.

    Raises RoundError: QRES-E602 for one of another relation or unit than the plan's: its numbers
    would be about something else.
    """
    try:
        owner, records = PrivacyLedger.read(folder)
    except QresError as error:
        return LedgerState(folder, (), str(error.problems[0]))
    terms = plan.terms
    if (owner.relation, owner.unit) != (terms.relation.value, terms.unit.value):
        what = (
            f"it is kept for {owner.relation} neighbours and the unit {owner.unit}, the "
            f"configuration is for {terms.relation.value} and {terms.unit.value}"
        )
        fix = "report with the configuration that the ledger was kept for"
        raise RoundError.of("QRES-E602", str(folder), what, fix)
    return LedgerState(folder, tuple(records), "")


def hits(account: PrivacyAccount) -> float:
    """Most right answers of an attacker that accuses wrongly in one case of twenty.

    An attacker guesses from all that left whether a unit's data took part. Source: Dong, Roth, Su
    2022, definition 2.6.
    """
    normal = NormalDist()
    return normal.cdf(normal.inv_cdf(FALSE_ALARMS) + account.mu)


def charged(records: Sequence[LedgerEntry]) -> PrivacyAccount | None:
    """Charge of the records, at the delta of the last one; ``None`` without records."""
    if not records:
        return None
    kinds = Counter(r.charge.noise_multiplier for r in records)
    return PrivacyAccount(kinds, records[-1].delta)


def spent_on(records: Sequence[LedgerEntry], delta: float) -> list[dict[str, Any]]:
    """The charges by swarm, node and mechanism, in the order of their first rounds."""
    groups: dict[tuple[Any, ...], list[LedgerEntry]] = {}
    for record in records:
        item = record.charge
        stream = bool(item.stream)
        noise = 0.0 if stream else item.noise_multiplier  # steps of a stream differ in price
        rest = (noise, item.honest, bool(item.votes))
        key = (item.swarm, item.node, item.mode, stream, *rest)
        groups.setdefault(key, []).append(record)
    rows: list[dict[str, Any]] = []
    for (swarm, node, mode, stream, noise, honest, votes), members in groups.items():
        account = charged(members)
        rounds = [member.charge.round for member in members]
        rows.append(
            {
                "swarm": swarm,
                "node": node.hex(),
                "mode": mode,
                "noise": "correlated" if stream else "independent",
                "noise_multiplier": noise or None,
                "honest": honest,
                "votes": votes,
                "releases": len(members),
                "first_round": min(rounds),
                "last_round": max(rounds),
                "epsilon": 0.0 if account is None else spent(account.charges, delta),
            }
        )
    return rows


def rounds_left(plan: PrivacyPlan, charges: Mapping[Kind, int]) -> int:
    """Number of rounds of the plan that still fit into the rest of the budget."""
    steps = [kind for kind, n in sorted(plan.account.charges.items()) for _ in range(n)]
    budget = plan.terms.budget

    def fits(more: int) -> bool:
        return spent(Counter(charges) + Counter(steps[:more]), budget.delta) <= budget.epsilon

    low, high = 0, len(steps) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def report_of(
    swarm: str, plan: PrivacyPlan, ledger: LedgerState, audit: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The report as ``qres dp report --json`` prints it: see docs/reference/privacy-plan.md.

    Args:
        swarm: the name of the swarm of the configuration.
        plan: of the configuration.
        ledger: see :func:`read_ledger`.
        audit: what ``qres dp audit --json`` printed, or ``None``.

    Complexity: O(records), and some evaluations of the accountant.
    """
    budget = plan.terms.budget
    kinds = Counter(r.charge.noise_multiplier for r in ledger.records)
    account = PrivacyAccount(kinds, budget.delta)
    known = not ledger.problem
    return {
        "version": VERSION,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"qres-dp": version("qres-dp")},
        "swarm": swarm,
        "plan": plan.to_json(),
        "plan_hits": hits(plan.account),
        "ledger": {
            "holds": known,
            "problem": ledger.problem,
            "records": len(ledger.records),
            "fingerprint": ledger.fingerprint,
        },
        "spent": {
            **account.to_json(),
            "hits": hits(account),
            "left": max(0.0, budget.epsilon - account.epsilon),
            "rounds_left": rounds_left(plan, kinds),
            "on": spent_on(ledger.records, budget.delta),
        }
        if known
        else None,
        "audit": None if audit is None else dict(audit),
        "not_covered": list(NOT_COVERED),
    }
