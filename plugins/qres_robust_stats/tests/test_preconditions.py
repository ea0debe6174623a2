"""Rounds that cannot work are refused, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qres_arithmetic import Mixture
from qres_lab.testing import make_updates
from qres_robust_stats.preconditions import check_enough, check_visible, checked

from qres_core import Visibility
from qres_core.errors import CompatibilityError, ValueRefusedError


@pytest.mark.claim("C-robust-17")
def test_too_few_vectors() -> None:
    check_enough("rule", 5, 2, 5, "2 f + 1")
    with pytest.raises(ValueRefusedError) as refusal:
        check_enough("rule", 4, 2, 5, "2 f + 1")
    (problem,) = refusal.value.problems
    assert problem.code == "QRES-E505"
    assert problem.what == "n = 4 vectors, rule with f = 2 needs n >= 2 f + 1 = 5"


@pytest.mark.claim("C-secagg-25")
def test_a_sum_of_all_is_refused() -> None:
    check_visible("rule", make_updates([[1]]))
    check_visible("rule", make_updates([[1]], visibility=Visibility.GROUP))
    updates = make_updates([[1]], visibility=Visibility.SUM)
    with pytest.raises(CompatibilityError) as refusal:
        check_visible("rule", updates)
    (problem,) = refusal.value.problems
    assert (problem.code, problem.where) == ("QRES-E303", "updates.visibility")
    assert problem.what == "rule compares updates with each other, got only their sum"


@pytest.mark.parametrize("value", [[[1]], np.zeros(3, dtype=np.int32), np.zeros((3, 1)).tolist()])
def test_what_is_no_stack_of_rows(value: Any) -> None:
    with pytest.raises(ValueRefusedError, match=r"^QRES-E502 vectors"):
        checked(value)


def test_rows_and_mixtures_are_taken_as_they_are() -> None:
    rows = np.zeros((2, 3), dtype=np.int32)
    mixture = Mixture(rows, np.array([[0], [1]]))
    assert checked(rows) is rows
    assert checked(mixture) is mixture
