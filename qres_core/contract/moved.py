"""New places of public names since 0.3 that were at the top of ``qres_core`` before.

Read where an old name is asked for, and by ``qres upgrade-code``.
"""

# upgrade-code: off - old names stand here

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SINCE: Final = "0.3"

MOVED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "qres_core.claims": ("Extent", "Hides", "most_colluders"),
        "qres_core.dialogues": (
            "MAX_VOID_SETS",
            "Dialogue",
            "DialogueMessage",
            "HostedDialogue",
            "HostedMemory",
            "Revelation",
            "RevelationError",
            "Send",
            "VoidSet",
        ),
        "qres_core.errors": (
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
        "qres_lab": ("AttackFamily", "GalleryEntry", "GalleryOutcome", "GallerySetting"),
        "qres_core.training": (
            "BasedTrainer",
            "HeldOut",
            "LastStep",
            "RecordClip",
            "RecordTrainer",
            "Reference",
            "RememberingTrainer",
            "Screening",
            "Trainer",
            "Validator",
            "by_record",
            "partition",
        ),
        "qres_core.transport": (
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
    }
)
"""By module, the names that are there."""

MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "qres_core.contract.gallery": "qres_lab.exhibit",
        "qres_core.lab.conversation": "qres_lab.conversation",
        "qres_core.lab.vectorised": "qres_lab.vectorised",
        "qres_core.node.box_hub": "qres_lab.box.hub",
        "qres_core.lab.gallery": "qres_lab.gallery",
        "qres_core.node.fleet": "qres_lab.box.fleet",
        "qres_core.lab.report": "qres_lab.report",
        "qres_core.lab.shadow": "qres_lab.shadow",
        "qres_core.node.toml": "qres_lab.box.toml",
        "qres_core.node.box": "qres_lab.box.nodes",
        "qres_core.lab.demo": "qres_lab.demo",
        "qres_core.hosting": "qres_hosting",
        "qres_core.testing": "qres_lab.testing",
        "qres_dp.audit": "qres_dp_audit",
    }
)
"""By the old path of a module or package that moved whole, the new one."""

HOMES: Final[Mapping[str, str]] = MappingProxyType(
    {name: module for module, names in MOVED.items() for name in names}
)
"""By name, its module."""


def refuse(name: str) -> None:
    """Refuse a name, or a module of names, that has moved.

    Raises:
        ImportError: where it is now. ``from qres_core import ...`` would put another text in the
            place of an :class:`AttributeError`.
    """
    if (place := MODULES.get(f"qres_core.{name}")) is not None:
        msg = (
            f"`qres_core.{name}` is `{place}` since {SINCE}: "
            f"write `import {place}`, or run `qres upgrade-code PATH`"
        )
        raise ImportError(msg, name="qres_core")
    if name in HOMES:
        msg = (
            f"`{name}` is in `{HOMES[name]}` since {SINCE}: "
            f"write `from {HOMES[name]} import {name}`, or run `qres upgrade-code PATH`"
        )
        raise ImportError(msg, name="qres_core")
