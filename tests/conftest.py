"""The harness of the swarm's own tests, loaded once: test folders are no packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HARNESS = Path(__file__).parent / "unit" / "swarm" / "harness.py"


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    name = "swarm_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HARNESS)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # attrs looks its classes' module up
        spec.loader.exec_module(module)
    return sys.modules[name]
