"""QRES: composable defences for collaborative learning among nodes that do not trust each other.

What most plugins import is here; an aggregation rule needs nothing else. The rest lies in modules
by family: ``qres_core.claims``, ``commands``, ``dialogues``, ``errors``, ``reporting``,
``training`` and ``transport``. Names are loaded on first use, so that ``qres --help`` does not pay
for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qres_core.contract.on_demand import on_demand
from qres_core.contract.version import __version__ as __version__

if TYPE_CHECKING:
    from qres_core import claims as claims
    from qres_core import commands as commands
    from qres_core import dialogues as dialogues
    from qres_core import errors as errors
    from qres_core import reporting as reporting
    from qres_core import training as training
    from qres_core import transport as transport
    from qres_core.contract import canonical, fixed, options, packing, stores
    from qres_core.contract.claims import Claims, Needs, Reads, Surroundings
    from qres_core.contract.companion import MAX_COMPANION_BYTES, Companion
    from qres_core.contract.evidence import Accusation, Evidence, Standing
    from qres_core.contract.faults import Fault, Merit
    from qres_core.contract.hookspecs import hookimpl
    from qres_core.contract.rounds import Outcome, OwnContributions, RoundInfo, RoundStatus
    from qres_core.contract.types import (
        DIGEST_BYTES,
        FULL_STANDING,
        MAX_WEIGHT,
        NODE_ID_BYTES,
        Contribution,
        NodeId,
        NodeInfo,
        Update,
        Updates,
        Vector,
        Visibility,
        check_vector,
        model_digest,
        vector_digest,
    )
    from qres_core.contract.verdict import ACCEPT, Blame, Decision, Verdict, reject
    from qres_core.contract.wire import Envelope

_HOME = {
    "claims": ("Claims", "Needs", "Reads", "Surroundings"),
    "companion": ("MAX_COMPANION_BYTES", "Companion"),
    "evidence": ("Accusation", "Evidence", "Standing"),
    "faults": ("Fault", "Merit"),
    "hookspecs": ("hookimpl",),
    "rounds": ("Outcome", "OwnContributions", "RoundInfo", "RoundStatus"),
    "types": (
        "DIGEST_BYTES",
        "FULL_STANDING",
        "MAX_WEIGHT",
        "NODE_ID_BYTES",
        "Contribution",
        "NodeId",
        "NodeInfo",
        "Update",
        "Updates",
        "Vector",
        "Visibility",
        "check_vector",
        "model_digest",
        "vector_digest",
    ),
    "verdict": ("ACCEPT", "Blame", "Decision", "Verdict", "reject"),
    "wire": ("Envelope",),
}
_MODULES = ("canonical", "fixed", "options", "packing", "stores")
_FAMILIES = (
    "claims",
    "commands",
    "dialogues",
    "errors",
    "reporting",
    "training",
    "transport",
)

__all__ = [
    "ACCEPT",
    "DIGEST_BYTES",
    "FULL_STANDING",
    "MAX_COMPANION_BYTES",
    "MAX_WEIGHT",
    "NODE_ID_BYTES",
    "Accusation",
    "Blame",
    "Claims",
    "Companion",
    "Contribution",
    "Decision",
    "Envelope",
    "Evidence",
    "Fault",
    "Merit",
    "Needs",
    "NodeId",
    "NodeInfo",
    "Outcome",
    "OwnContributions",
    "Reads",
    "RoundInfo",
    "RoundStatus",
    "Standing",
    "Surroundings",
    "Update",
    "Updates",
    "Vector",
    "Verdict",
    "Visibility",
    "canonical",
    "check_vector",
    "fixed",
    "hookimpl",
    "model_digest",
    "options",
    "packing",
    "reject",
    "stores",
    "vector_digest",
]


_load = on_demand(globals(), "qres_core.contract", _HOME)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"qres_core.contract.{name}")
    if name in _FAMILIES:
        return importlib.import_module(f"qres_core.{name}")
    try:
        return _load(name)
    except AttributeError:
        from qres_core.contract.moved import refuse  # noqa: PLC0415 - for old names alone

        refuse(name)
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
