"""QRES: composable defences for collaborative learning among nodes that do not trust each other.

Everything a plugin may import is here. Names are loaded on first use, so that ``qres --help`` does
not pay for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qres_core.contract.on_demand import on_demand
from qres_core.contract.version import __version__ as __version__

if TYPE_CHECKING:
    from qres_core import hosting, reporting
    from qres_core.cli import commands
    from qres_core.contract import canonical, fixed, options, packing, partition, stores
    from qres_core.contract.by_record import by_record
    from qres_core.contract.claims import (
        Claims,
        Extent,
        Hides,
        Needs,
        Surroundings,
        most_colluders,
    )
    from qres_core.contract.companion import MAX_COMPANION_BYTES, Companion
    from qres_core.contract.dialogue import (
        Dialogue,
        DialogueMessage,
        HostedDialogue,
        HostedMemory,
        Send,
    )
    from qres_core.contract.errors import (
        CompatibilityError,
        ConfigError,
        HookError,
        LabError,
        ModelError,
        OptionError,
        PluginError,
        Problem,
        QresError,
        RoundError,
        TransportError,
        ValueRefusedError,
        WireError,
    )
    from qres_core.contract.evidence import (
        Accusation,
        Evidence,
        Revelation,
        RevelationError,
        Standing,
    )
    from qres_core.contract.faults import Fault, Merit
    from qres_core.contract.fragments import Fragment
    from qres_core.contract.gallery import (
        AttackFamily,
        GalleryEntry,
        GalleryOutcome,
        GallerySetting,
    )
    from qres_core.contract.held_out import HeldOut, Screening
    from qres_core.contract.hookspecs import hookimpl
    from qres_core.contract.last_step import LastStep
    from qres_core.contract.record_clip import RecordClip
    from qres_core.contract.rounds import (
        MAX_VOID_SETS,
        Outcome,
        OwnContributions,
        RoundInfo,
        RoundStatus,
        VoidSet,
    )
    from qres_core.contract.trainer import (
        BasedTrainer,
        RecordTrainer,
        Reference,
        RememberingTrainer,
        Trainer,
        Validator,
    )
    from qres_core.contract.transport import (
        CHUNK,
        AttendedTransport,
        BlobRef,
        Delivery,
        Handler,
        LinkKeys,
        LinkReason,
        PeerChange,
        PeerInfo,
        Transport,
        TransportEvent,
        TransportLimits,
        TransportStats,
    )
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
    "errors": (
        "CompatibilityError",
        "ConfigError",
        "HookError",
        "LabError",
        "ModelError",
        "OptionError",
        "PluginError",
        "Problem",
        "QresError",
        "RoundError",
        "TransportError",
        "ValueRefusedError",
        "WireError",
    ),
    "evidence": ("Accusation", "Evidence", "Revelation", "RevelationError", "Standing"),
    "faults": ("Fault", "Merit"),
    "rounds": (
        "MAX_VOID_SETS",
        "Outcome",
        "OwnContributions",
        "RoundInfo",
        "RoundStatus",
        "VoidSet",
    ),
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
    "claims": ("Claims", "Extent", "Hides", "Needs", "Surroundings", "most_colluders"),
    "companion": ("MAX_COMPANION_BYTES", "Companion"),
    "dialogue": ("Dialogue", "DialogueMessage", "HostedDialogue", "HostedMemory", "Send"),
    "fragments": ("Fragment",),
    "gallery": ("AttackFamily", "GalleryEntry", "GalleryOutcome", "GallerySetting"),
    "held_out": ("HeldOut", "Screening"),
    "hookspecs": ("hookimpl",),
    "transport": (
        "CHUNK",
        "AttendedTransport",
        "BlobRef",
        "Delivery",
        "Handler",
        "LinkKeys",
        "LinkReason",
        "PeerChange",
        "PeerInfo",
        "Transport",
        "TransportEvent",
        "TransportLimits",
        "TransportStats",
    ),
    "by_record": ("by_record",),
    "last_step": ("LastStep",),
    "record_clip": ("RecordClip",),
    "trainer": (
        "BasedTrainer",
        "RecordTrainer",
        "Reference",
        "RememberingTrainer",
        "Trainer",
        "Validator",
    ),
}
_SUBMODULES = {
    "canonical": "qres_core.contract.canonical",
    "commands": "qres_core.cli.commands",
    "fixed": "qres_core.contract.fixed",
    "hosting": "qres_core.hosting",
    "options": "qres_core.contract.options",
    "packing": "qres_core.contract.packing",
    "partition": "qres_core.contract.partition",
    "reporting": "qres_core.reporting",
    "stores": "qres_core.contract.stores",
}

__all__ = [
    "ACCEPT",
    "CHUNK",
    "DIGEST_BYTES",
    "FULL_STANDING",
    "MAX_COMPANION_BYTES",
    "MAX_VOID_SETS",
    "MAX_WEIGHT",
    "NODE_ID_BYTES",
    "Accusation",
    "AttackFamily",
    "AttendedTransport",
    "BasedTrainer",
    "Blame",
    "BlobRef",
    "Claims",
    "Companion",
    "CompatibilityError",
    "ConfigError",
    "Contribution",
    "Decision",
    "Delivery",
    "Dialogue",
    "DialogueMessage",
    "Envelope",
    "Evidence",
    "Extent",
    "Fault",
    "Fragment",
    "GalleryEntry",
    "GalleryOutcome",
    "GallerySetting",
    "Handler",
    "HeldOut",
    "Hides",
    "HookError",
    "HostedDialogue",
    "HostedMemory",
    "LabError",
    "LastStep",
    "LinkKeys",
    "LinkReason",
    "Merit",
    "ModelError",
    "Needs",
    "NodeId",
    "NodeInfo",
    "OptionError",
    "Outcome",
    "OwnContributions",
    "PeerChange",
    "PeerInfo",
    "PluginError",
    "Problem",
    "QresError",
    "RecordClip",
    "RecordTrainer",
    "Reference",
    "RememberingTrainer",
    "Revelation",
    "RevelationError",
    "RoundError",
    "RoundInfo",
    "RoundStatus",
    "Screening",
    "Send",
    "Standing",
    "Surroundings",
    "Trainer",
    "Transport",
    "TransportError",
    "TransportEvent",
    "TransportLimits",
    "TransportStats",
    "Update",
    "Updates",
    "Validator",
    "ValueRefusedError",
    "Vector",
    "Verdict",
    "Visibility",
    "VoidSet",
    "WireError",
    "by_record",
    "canonical",
    "check_vector",
    "commands",
    "fixed",
    "hookimpl",
    "hosting",
    "model_digest",
    "most_colluders",
    "options",
    "packing",
    "partition",
    "reject",
    "reporting",
    "stores",
    "vector_digest",
]


_load = on_demand(globals(), "qres_core.contract", _HOME)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(_SUBMODULES[name])
    return _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)
