"""Torch and safetensors, as untyped names: this project is checked where torch is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from qres_core.errors import LabError


def imported(name: str) -> Any:
    """A module. Raises LabError: QRES-E802 where it cannot be imported."""
    try:
        return import_module(name)
    except ImportError as error:
        what = f"{name} cannot be imported: {error}"
        raise LabError.of("QRES-E802", "qres-torch", what, "pip install torch") from error


torch: Final = imported("torch")
files: Final = imported("safetensors.torch")
BadFileError: Final = imported("safetensors").SafetensorError
