"""Other libraries' robust rules behind one signature, for the benchmark; each is optional.

A peer is called the way its own documentation shows, on the form of input it wants (an array, a
tensor, a list of either), which is made before the clock starts. Nothing in a peer is changed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float32]
Rule: TypeAlias = Callable[[], Any]
Rules: TypeAlias = Mapping[str, Rule]

NAMES = ("byzfl", "byzfl_torch", "byzpy", "krum", "flwr", "flwr_legacy")


def load(name: str) -> Callable[[Rows, int], Rules] | str:
    """What prepares a peer's rules for an input, or why the peer cannot run here."""
    try:
        module = importlib.import_module(f"peers.{name}")
    except Exception as error:  # noqa: BLE001 - an import of somebody else's package
        return f"{type(error).__name__}: {error}"
    prepare: Callable[[Rows, int], Rules] = module.prepare
    return prepare


def bulyan_f(n: int, f: int) -> int:
    """The number of liars the benchmark gives to Bulyan, which withstands fewer."""
    return min(f, (n - 3) // 4)
