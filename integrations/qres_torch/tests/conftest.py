"""Torch is not among the pinned packages: without it the tests are left out, and say so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # test files cannot import their neighbours


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Equal bits need an equal number of threads."""
    pytest.importorskip("torch").set_num_threads(1)
