"""Flower is not among the common pins: without it its tests are skipped, and say so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # test files cannot import their neighbours


@pytest.fixture
def in_run() -> None:
    """A process that a ServerApp runs in."""
    pytest.importorskip("flwr")
    from small_flower import enter_run  # noqa: PLC0415 - needs Flower

    enter_run()
