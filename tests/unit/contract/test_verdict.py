"""A verdict is never a truth value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from qres_core import ACCEPT, Blame, Decision, Verdict, reject


@pytest.mark.parametrize("answer", [ACCEPT, reject("replayed")])
def test_a_verdict_has_no_truth_value(answer: Verdict) -> None:
    # The checkers know that a verdict has no truth value; the interpreter must know it too.
    verdict: Any = answer
    uses: list[Callable[[], object]] = [
        lambda: bool(verdict),
        lambda: not verdict,
        lambda: verdict and 1,
        lambda: verdict or 1,
        lambda: 1 if verdict else 0,
        lambda: all([verdict]),
        lambda: any([verdict]),
    ]
    for use in uses:
        with pytest.raises(TypeError, match="no truth value"):
            use()


def test_only_the_acceptance_is_accepted() -> None:
    assert ACCEPT.accepted is True
    assert reject("bad-signature").accepted is False
    assert Verdict(Decision.REJECT).accepted is False


def test_a_decision_that_merely_looks_like_one_does_not_accept() -> None:
    for decision in ("accept", "ACCEPT", True, 1, None):
        assert Verdict(decision).accepted is False  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_rejection_blames_nobody_unless_told() -> None:
    assert reject("too-late") == Verdict(Decision.REJECT, "too-late", Blame.NOBODY)
    assert reject("bad-tag", blame=Blame.LINK).blame is Blame.LINK
    assert ACCEPT.blame is Blame.NOBODY


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        ACCEPT.decision = Decision.REJECT  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_equal_verdicts_count_as_one() -> None:
    assert len({reject("replayed"), reject("replayed"), reject("replayed", blame=Blame.LINK)}) == 2
