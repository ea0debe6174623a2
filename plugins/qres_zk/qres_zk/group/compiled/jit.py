"""Compilation of kernels."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

numba: Any = importlib.import_module("numba")
extending: Any = importlib.import_module("numba.extending")
ir: Any = importlib.import_module("llvmlite.ir")

_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def compiled(function: Kernel) -> Kernel:
    """Compile a kernel on its first call, to run without the GIL; the code is kept on disk."""
    return _declared(function, _OPTIONS)


def part(function: Kernel) -> Kernel:
    """Compile a part of kernels, which cannot be called from Python: that takes less time."""
    return _declared(function, {**_OPTIONS, "no_cpython_wrapper": True})


def _declared(function: Kernel, options: dict[str, Any]) -> Kernel:
    try:
        kernel: Kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Nowhere to write the cache, as in a read-only container: compile in every process.
        kernel = numba.njit(**options)(function)
    return kernel


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function for kernels of one that takes a typing context and types.

    The latter returns the signature and what writes the LLVM code.
    """
    declared: Callable[..., Any] = extending.intrinsic(function)
    return declared
