"""The harness of the swarm's own tests, loaded once: test folders are no packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


@pytest.fixture(name="waits", params=[True, False])
def _waits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether what a set carries may wait for its model; in the controls no node has that."""
    # Not above: a worker loads this file before it counts lines.
    from qres_core.swarm.members.amendments import Amendments  # noqa: PLC0415 - see above

    judge = Amendments.leave_sets

    def judged(self: Any, candidate: Any, *rest: Any) -> bool:
        return not candidate.waits and judge(self, candidate, *rest)

    if not request.param:
        monkeypatch.setattr(Amendments, "leave_sets", judged)
    return bool(request.param)
