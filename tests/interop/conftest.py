"""The group `interop`: QRES beside programs that share no code with it. `make interop` runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test files cannot import their neighbours

from javascript import UnavailableError, prepare

RUN = "QRES_INTEROP"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interop: beside other programs; `make interop`")


def _interpreter(program: str) -> str:
    if not os.environ.get(RUN):
        pytest.skip(f"interop: set {RUN}=1, or run `make interop`")
    try:
        return prepare(Path(__file__).parent / program)
    except UnavailableError as error:
        pytest.skip(f"interop: {error}")


@pytest.fixture(scope="session")
def node() -> str:
    """An interpreter for the JavaScript peer, whose packages are installed."""
    return _interpreter("js")


@pytest.fixture(scope="session")
def verifier_node() -> str:
    """An interpreter for the verifier of norm/v2, whose packages are installed."""
    return _interpreter("norm_verifier")
