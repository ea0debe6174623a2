"""What the tests of workers share. Without Ray they are left out, and say so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # test files cannot import their neighbours


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """A cluster of this machine that counts four cores and a GPU, whatever the machine has."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    counted: dict[str, Any] = {"num_cpus": 4, "num_gpus": 1, "object_store_memory": 2**27}
    for left in reversed(range(9)):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, **counted)
            break
        except Exception:
            if not left:  # Ray gives up after half a minute, which a busy machine may take
                raise
            ray.shutdown()
    yield ray
    ray.shutdown()
