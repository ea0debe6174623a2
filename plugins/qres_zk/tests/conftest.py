"""Contexts, statements and updates that the tests of this plugin share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qres_zk.statement import Context, NormStatement

sys.path.append(str(Path(__file__).parent))  # test files cannot import their neighbours


@pytest.fixture(scope="session")
def context() -> Context:
    """Where and when proofs of the tests hold."""
    return Context("lab", b"n" * 32, 7, b"m" * 32, b"r" * 32)


@pytest.fixture(scope="session")
def small() -> NormStatement:
    """64 coordinates in four rows: two rounds of folding."""
    return NormStatement(64, 2**16)


@pytest.fixture(scope="session")
def vector() -> np.ndarray:
    """A vector well within the bound of ``small``."""
    return np.array([(-1) ** i * (3000 + 40 * i) for i in range(64)], dtype=np.int32)


@pytest.fixture(scope="session")
def boosted(vector: np.ndarray) -> np.ndarray:
    """Thirty times as long: far outside."""
    return 30 * vector


@pytest.fixture(scope="module", params=["the processor's", "plain"])
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the vector instructions that the processor may have, and without them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain" and importlib.util.find_spec("numba"):
            patch.setattr("qres_zk.group.compiled.lanes.available", lambda: False)
        yield
