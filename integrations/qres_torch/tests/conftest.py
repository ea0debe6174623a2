"""Torch is not among the pinned packages: without it the tests are left out, and say so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Test files cannot import their neighbours; the table of all plugins' modes is a script's.
sys.path += [str(HERE), str(HERE.parents[2] / "scripts")]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Equal bits need an equal number of threads."""
    pytest.importorskip("torch").set_num_threads(1)
