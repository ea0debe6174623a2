"""Choice of the implementation, and of the number of threads.

There are two implementations of everything that is hot: numba kernels and numpy. For int32 rows
they give the same bits; the choice is one of speed alone. Columns are always cut in the same
places, whatever number of threads then works on the pieces, so a result does not depend on it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import Any, Final, TypeVar

from qres_core.errors import ConfigError

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Result = TypeVar("Result")

_SERIAL_BELOW: Final = 1_000_000
_PIECE_ENTRIES: Final = 2_000_000
"""Of a piece where there are more than two: fewer are not worth the call."""
_MOST_PIECES: Final = 64
_PIECE_COLUMNS: Final = 80
"""A piece has at least so many columns for each row: what kernels sum, ``n * n`` float64, then
takes a fortieth of the memory of an int32 input, all pieces together."""
# What the compiler may do with float sums: reorder and fuse them. It may assume nothing about NaN
# and infinities, which the kernels have to carry through to the check of the norms.
_REASSOCIATE: Final = frozenset({"reassoc", "contract", "nsz", "arcp"})

_numpy_only: ContextVar[bool] = ContextVar("numpy_only", default=False)
_threads: ContextVar[int | None] = ContextVar("threads", default=None)


def accelerated() -> bool:
    """True if the numba kernels are used.

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
            "pip install 'qres-arithmetic[fast]'",
        )
    return wanted != "0" and not _numpy_only.get() and _installed()


@contextmanager
def numpy_only() -> Generator[None]:
    """Leave the numba kernels alone inside the ``with`` block, for tests and benchmarks.

    Example:
        >>> with numpy_only():
        ...     accelerated()
        False
    """
    token = _numpy_only.set(True)
    try:
        yield
    finally:
        _numpy_only.reset(token)


def threads() -> int:
    """Return how many threads may work on a large input.

    The environment variable ``QRES_THREADS`` says how many; unset, the number of processors this
    process may run on.

    Raises:
        ConfigError: QRES-E105 if the variable is not a positive integer.
    """
    chosen = _threads.get()
    if chosen is not None:
        return chosen
    wanted = os.environ.get("QRES_THREADS", "")
    if not wanted:
        return _processors()
    if not (wanted.isascii() and wanted.isdigit() and int(wanted) >= 1):
        raise ConfigError.of(
            "QRES-E105", "QRES_THREADS", f"expected a positive integer, got {wanted!r}"
        )
    return int(wanted)


@contextmanager
def using_threads(count: int) -> Generator[None]:
    """Use at most ``count`` threads inside the ``with`` block.

    Raises:
        ValueError: ``count`` is less than 1.

    Example:
        >>> with using_threads(1):
        ...     threads()
        1
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    token = _threads.set(count)
    try:
        yield
    finally:
        _threads.reset(token)


def run_columns(work: Callable[[int, int], Result], d: int, block: int, n: int) -> list[Result]:
    """Run ``work(start, stop)`` over adjacent pieces that cover the columns ``0 .. d - 1``.

    Args:
        work: computes on the columns ``start .. stop - 1`` of all rows; must release the GIL to
            gain from more threads, and may be called from several at once.
        d: how many columns, 1 or more.
        block: pieces start at multiples of this.
        n: how many rows; below a million entries in all there is one piece.

    Returns:
        what ``work`` returned, in the order of the columns. How many pieces there are and where
        they are cut depends on ``n``, ``d`` and ``block`` only: sums of floats over pieces do not
        change with the number of threads. There is one piece, or two, or more where each of them
        has two million entries and 80 columns for each row; at most 64. More threads than pieces
        are not used.

    Example:
        >>> run_columns(lambda start, stop: (start, stop), 10, 4, 1_000_000)
        [(0, 8), (8, 10)]
        >>> run_columns(lambda start, stop: (start, stop), 10, 4, 5)
        [(0, 10)]
    """
    if n * d < _SERIAL_BELOW or d <= block:
        return [work(0, d)]
    pieces = _pieces(d, block, n)
    many = min(threads(), len(pieces))

    def share(first: int) -> list[Result]:
        return [work(*piece) for piece in pieces[first::many]]

    if many == 1:
        return share(0)
    # A pool of one call: a standing one would be lost, and waited for, in a forked child.
    with ThreadPoolExecutor(many - 1) as pool:
        later = [pool.submit(copy_context().run, share, first) for first in range(1, many)]
        shares = [share(0), *(item.result() for item in later)]
    return [shares[at % many][at // many] for at in range(len(pieces))]


def _pieces(d: int, block: int, n: int) -> list[tuple[int, int]]:
    """Adjacent pieces of almost equal size, cut between blocks: two or more."""
    blocks = -(-d // block)
    wished = max(2, min(n * d // _PIECE_ENTRIES, d // (_PIECE_COLUMNS * n), _MOST_PIECES))
    count = min(wished, blocks)
    cuts = [-(-blocks * at // count) * block for at in range(count)]
    return list(zip(cuts, [*cuts[1:], d], strict=True))


def compiled(*, reassociate: bool = False) -> Callable[[Kernel], Kernel]:
    """Return a decorator that compiles a kernel with numba, without the GIL, cached on disk.

    Only modules that are imported once :func:`accelerated` holds may use it: it imports numba.

    Args:
        reassociate: let the compiler reorder and fuse float sums, so that it can vectorise them.

    Returns:
        the decorator; the function keeps its type for the checkers.
    """
    numba: Any = importlib.import_module("numba")
    fastmath: Any = set(_REASSOCIATE) if reassociate else False

    def decorate(function: Kernel) -> Kernel:
        options = {"nogil": True, "fastmath": fastmath, "error_model": "numpy"}
        try:
            kernel: Kernel = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            # Nowhere to write the cache, as in a read-only container: compile in every process.
            kernel = numba.njit(**options)(function)
        return kernel

    return decorate


@cache
def _installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
