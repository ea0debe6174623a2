"""The group `interop`: nodes, and peers that others wrote. `make interop` runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test files cannot import their neighbours

from js_peer import UnavailableError, prepare

RUN = "QRES_INTEROP"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "interop: with peers that others wrote; `make interop`")


@pytest.fixture(scope="session")
def node() -> str:
    """An interpreter for the JavaScript peer, whose packages are installed."""
    if not os.environ.get(RUN):
        pytest.skip(f"interop: set {RUN}=1, or run `make interop`")
    try:
        return prepare()
    except UnavailableError as error:
        pytest.skip(f"interop: {error}")
