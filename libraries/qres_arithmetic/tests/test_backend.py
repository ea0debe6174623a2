"""Which implementation runs, and that threads change nothing but the time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from qres_arithmetic import accelerated, backend, numpy_only, run_columns, threads, using_threads

from qres_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


def test_importing_the_library_does_not_import_numba() -> None:
    program = "import sys, qres_arithmetic; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_variable_switches_the_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRES_NUMBA", "0")
    assert not accelerated()


@pytest.mark.parametrize("value", ["yes", "2", "00", " "])
def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QRES_NUMBA", value)
    with pytest.raises(ConfigError, match=r"QRES-E105 QRES_NUMBA: expected 0 or 1"):
        accelerated()


def test_demanding_numba_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_installed", lambda: False)
    monkeypatch.delenv("QRES_NUMBA", raising=False)
    assert not accelerated()
    monkeypatch.setenv("QRES_NUMBA", "1")
    with pytest.raises(ConfigError, match=r"QRES-E105 QRES_NUMBA: 1 demands numba"):
        accelerated()


def test_numpy_only_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_installed", lambda: True)
    monkeypatch.delenv("QRES_NUMBA", raising=False)
    with numpy_only():
        assert not accelerated()
        with numpy_only():
            assert not accelerated()
        assert not accelerated()
    assert accelerated()


@pytest.mark.parametrize(("value", "count"), [("1", 1), ("2", 2), ("64", 64)])
def test_the_variable_sets_the_threads(
    monkeypatch: pytest.MonkeyPatch, value: str, count: int
) -> None:
    monkeypatch.setenv("QRES_THREADS", value)
    assert threads() == count


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_bad_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QRES_THREADS", value)
    with pytest.raises(ConfigError, match=r"QRES-E105 QRES_THREADS"):
        threads()


def test_unset_the_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QRES_THREADS", raising=False)
    for available, used in ((1, 1), (2, 2), (96, 96)):
        monkeypatch.setattr(backend, "_processors", lambda available=available: available)
        assert threads() == used


@pytest.mark.parametrize(("counted", "used"), [(None, 1), (1, 1), (12, 12)])
def test_where_the_system_tells_no_affinity_every_processor_counts(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, used: int
) -> None:
    monkeypatch.delenv("QRES_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert threads() == used


def test_using_threads_overrules_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRES_THREADS", "2")
    with using_threads(1):
        assert threads() == 1
        with using_threads(7):
            assert threads() == 7
        assert threads() == 1
    assert threads() == 2
    with pytest.raises(ValueError, match="at least 1"), using_threads(0):
        pass


@pytest.mark.parametrize("d", [1, 7, 8, 9, 100, 1000])
@pytest.mark.parametrize("n", [1, 5_000, 1_000_000])
def test_pieces_cover_the_columns_and_do_not_depend_on_threads(d: int, n: int) -> None:
    found = []
    for count in (1, 2, 3, 40):
        with using_threads(count):
            found.append(run_columns(lambda start, stop: (start, stop), d, 8, n))
    assert all(pieces == found[0] for pieces in found)
    assert found[0][0][0] == 0
    assert found[0][-1][1] == d
    assert all(a[1] == b[0] and a[1] % 8 == 0 for a, b in zip(found[0], found[0][1:], strict=False))


def test_small_inputs_stay_in_one_piece() -> None:
    assert run_columns(lambda *piece: piece, 999_999, 8, 1) == [(0, 999_999)]
    assert len(run_columns(lambda *piece: piece, 1_000_000, 8, 1)) == 2


def test_large_inputs_have_more_pieces_unless_what_is_summed_would_be_large() -> None:
    assert len(run_columns(lambda *piece: piece, 100_000_000, 8, 1)) == 50
    assert len(run_columns(lambda *piece: piece, 1_000_000_000, 8, 1)) == 64
    assert len(run_columns(lambda *piece: piece, 1_000_000, 8, 100)) == 50
    assert len(run_columns(lambda *piece: piece, 10_000, 8, 1000)) == 2
    assert len(run_columns(lambda *piece: piece, 1_000_000, 400_000, 100)) == 3


@pytest.mark.parametrize("count", [1, 2, 3])
def test_so_many_threads_are_so_many(count: int) -> None:
    barrier = threading.Barrier(count)

    def work(*_piece: int) -> int:
        barrier.wait(60)  # each of them is in a piece at the same time
        return threading.get_ident()

    with using_threads(count):
        names = run_columns(work, 12_000_000, 8, 1)
    assert len(names) == 6
    assert len(set(names)) == count


def test_the_choice_of_implementation_reaches_the_second_thread() -> None:
    with using_threads(2), numpy_only():
        assert run_columns(lambda *_: accelerated(), 1_000_000, 8, 1) == [False, False]


def test_a_failure_in_either_piece_is_raised() -> None:
    def failing(at: int) -> Callable[[int, int], None]:
        def work(start: int, _stop: int) -> None:
            if (start == 0) == (at == 0):
                raise ZeroDivisionError(at)

        return work

    for at in (0, 1):
        with using_threads(2), pytest.raises(ZeroDivisionError):
            run_columns(failing(at), 1_000_000, 8, 1)


def test_a_kernel_is_compiled_where_no_cache_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numba = pytest.importorskip("numba")
    wanted = []

    def njit(**options: object) -> Callable[[Callable[..., int]], Callable[..., int]]:
        def decorate(function: Callable[..., int]) -> Callable[..., int]:
            wanted.append("cache" in options)
            if "cache" in options:
                raise RuntimeError("cannot cache function: no locator available")
            return function

        return decorate

    monkeypatch.setattr(numba, "njit", njit)
    assert backend.compiled()(lambda: 3)() == 3
    assert wanted == [True, False]
