"""Errors with an id, which every message of QRES has."""

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

__all__ = [
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
]
