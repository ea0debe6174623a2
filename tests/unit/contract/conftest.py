"""The plugins of ``tests/typing``, loaded: what the type checkers accept must also run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "typing" / "third_party_plugin.py"


@pytest.fixture(scope="session")
def third_party() -> ModuleType:
    name = "third_party_plugin"
    spec = importlib.util.spec_from_file_location(name, SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # attrs looks its classes' module up
    spec.loader.exec_module(module)
    return module
