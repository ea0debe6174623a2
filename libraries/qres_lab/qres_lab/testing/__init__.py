"""Conformance suites and adversaries for plugin authors.

Subclass a suite in your tests and give it your plugin.

Each rule has a stable id (``QRES-AGG-4``); :data:`RULES` lists them. Needs pytest, which the extra
``qres-core[testing]`` brings. Of QRES itself only ``qres certify`` imports this package.
"""

from __future__ import annotations

from qres_core.contract.errors import LabError

try:
    import pytest
except ModuleNotFoundError as error:
    raise LabError.of(
        "QRES-E802",
        "qres_lab.testing",
        "pytest is not installed",
        "pip install pytest",
    ) from error

from qres_lab.testing.adversaries import (
    LyingDialogue,
    Rest,
    changed,
    first_draw,
    leaving_out,
    left_of_sums,
    lying,
    sabotage,
    silent,
)
from qres_lab.testing.aggregator import AggregatorContract
from qres_lab.testing.authenticator import AuthenticatorContract
from qres_lab.testing.builders import (
    make_envelope,
    make_node_ids,
    make_node_info,
    make_round_info,
    make_updates,
)
from qres_lab.testing.certification import MeasuredClaims, RuleReport, certify
from qres_lab.testing.composition import find_rule
from qres_lab.testing.hosting import host
from qres_lab.testing.merging import merged
from qres_lab.testing.records import check_records
from qres_lab.testing.rules import RULES, ContractViolationError
from qres_lab.testing.transport import Endpoint, TransportContract

del pytest

__all__ = [
    "RULES",
    "AggregatorContract",
    "AuthenticatorContract",
    "ContractViolationError",
    "Endpoint",
    "LyingDialogue",
    "MeasuredClaims",
    "Rest",
    "RuleReport",
    "TransportContract",
    "certify",
    "changed",
    "check_records",
    "find_rule",
    "first_draw",
    "host",
    "leaving_out",
    "left_of_sums",
    "lying",
    "make_envelope",
    "make_node_ids",
    "make_node_info",
    "make_round_info",
    "make_updates",
    "merged",
    "sabotage",
    "silent",
]
