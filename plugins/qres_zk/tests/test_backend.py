"""Which engine runs, and that what is compiled is compared with Python."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from qres_arithmetic import backend
from qres_zk import scalar
from qres_zk.group import accelerated, reference_only
from qres_zk.selftest import compare_engines

from qres_core.errors import ConfigError


def test_importing_the_package_does_not_import_numba() -> None:
    program = "import sys, qres_zk, qres_zk.group; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", program], check=False).returncode == 0


def test_the_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_installed", lambda: True)
    monkeypatch.delenv("QRES_NUMBA", raising=False)
    assert accelerated()
    monkeypatch.setenv("QRES_NUMBA", "0")
    assert not accelerated()
    monkeypatch.setenv("QRES_NUMBA", "1")
    assert accelerated()
    monkeypatch.setattr(backend, "_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"QRES-E105 QRES_NUMBA: 1 demands numba"):
        accelerated()
    monkeypatch.delenv("QRES_NUMBA")
    assert not accelerated()


@pytest.mark.parametrize("value", ["yes", "2", "00", " "])
def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("QRES_NUMBA", value)
    with pytest.raises(ConfigError, match=r"QRES-E105 QRES_NUMBA: expected 0 or 1"):
        accelerated()


def test_reference_only_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_installed", lambda: True)
    monkeypatch.delenv("QRES_NUMBA", raising=False)
    with reference_only():
        with reference_only():
            assert not accelerated()
        assert not accelerated()
    assert accelerated()


def test_the_engines_are_found_equal() -> None:
    assert compare_engines() > 0


@pytest.mark.control("C-zk-1")
def test_a_compiler_that_errs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = scalar.dot

    def wrong(left: np.ndarray, right_: np.ndarray) -> int:
        return right(left, right_) + accelerated()

    pytest.importorskip("numba")
    monkeypatch.delenv("QRES_NUMBA", raising=False)
    monkeypatch.setattr(scalar, "dot", wrong)
    with pytest.raises(ConfigError, match=r"QRES-E105 QRES_NUMBA: the compiled scalars differ"):
        compare_engines()
