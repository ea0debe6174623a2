"""Torch and safetensors, as untyped names: this project is checked where torch is not installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

torch: Final[Any] = import_module("torch")
files: Final[Any] = import_module("safetensors.torch")
BadFileError: Final[Any] = import_module("safetensors").SafetensorError
