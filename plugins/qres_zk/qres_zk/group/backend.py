"""Which engine runs: the one compiled with numba, or the one in plain Python."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from qres_core import ConfigError

Words: TypeAlias = NDArray[np.uint64]

_reference_only: ContextVar[bool] = ContextVar("reference_only", default=False)


class Engine(Protocol):
    """What both engines compute. Arrays have been checked; none is written to."""

    def decode(self, words: Words) -> tuple[Words, int]:
        """Points of encodings ``(n, 4)``, and the index of the first invalid one or -1."""
        ...

    def decode_edwards(self, words: Words) -> tuple[Words, int]:
        """Points of compressed Edwards points ``(n, 4)``, and the first invalid one or -1."""
        ...

    def encode(self, points: Words) -> Words:
        """Encodings ``(n, 4)``."""
        ...

    def from_uniform(self, words: Words) -> Words:
        """Points of the one-way map of ``(n, 8)``."""
        ...

    def add(self, left: Words, right: Words) -> Words:
        """Sums, point by point."""
        ...

    def negate(self, points: Words) -> Words:
        """Inverses."""
        ...

    def is_identity(self, points: Words) -> NDArray[np.bool_]:
        """Which points are the identity of ristretto255."""
        ...

    def msm(self, scalars: Words, points: Words) -> Words:
        """One point, the sum of the multiples."""
        ...

    def row_table(self, points: Words) -> Any:
        """What :meth:`commit_rows` needs to know of its generators."""
        ...

    def commit_rows(self, table: Any, values: NDArray[np.int32]) -> Words:
        """Sums of ``values[c, j]`` times generator ``j``, for every row ``c``."""
        ...

    def fixed_table(self, points: Words) -> Any:
        """What :meth:`fixed_msm` needs to know of its generators."""
        ...

    def fixed_msm(self, table: Any, scalars: Words) -> Words:
        """One point, the sum of the multiples."""
        ...


def accelerated() -> bool:
    """Whether the numba engine is used.

    The environment variable ``QRES_NUMBA`` decides: ``0`` never, ``1`` always, unset if numba is
    installed.

    Raises:
        ConfigError: QRES-E105 if the variable is anything else, or is ``1`` without numba.
    """
    wanted = os.environ.get("QRES_NUMBA", "")
    if wanted not in {"", "0", "1"}:
        raise ConfigError.of("QRES-E105", "QRES_NUMBA", f"expected 0 or 1, got {wanted!r}")
    if wanted == "1" and not _installed():
        raise ConfigError.of(
            "QRES-E105",
            "QRES_NUMBA",
            "1 demands numba, which is not installed",
            "pip install 'qres-zk[fast]'",
        )
    return wanted != "0" and not _reference_only.get() and _installed()


@contextmanager
def reference_only() -> Generator[None]:
    """Leave the numba engine alone inside the ``with`` block, for tests.

    Example:
        >>> with reference_only():
        ...     accelerated()
        False
    """
    token = _reference_only.set(True)
    try:
        yield
    finally:
        _reference_only.reset(token)


def engine() -> Engine:
    """Return the engine to use now; the numba one is imported when it is first asked for."""
    return _load("compiled" if accelerated() else "reference")


@cache
def _load(name: str) -> Engine:
    return cast("Engine", importlib.import_module(f"qres_zk.group.{name}.engine"))


@cache
def _installed() -> bool:
    return importlib.util.find_spec("numba") is not None
