"""Figures on the way: what is signed, what cannot be read, and what a liar's figures change."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("flwr")

from hypothesis import given
from hypothesis import strategies as st
from qres_flower.figures import Figure, averaged, examples, forms, odd, packed, unpacked

from qres_core import canonical
from qres_core.errors import ValueRefusedError, WireError

WHOLE = st.integers(-(2**63), 2**63 - 1)
REAL = st.floats(allow_nan=False)


@given(st.dictionaries(st.text(), WHOLE | REAL | st.lists(WHOLE) | st.lists(REAL), max_size=8))
def test_what_is_packed_comes_back(record: dict[str, Figure]) -> None:
    assert unpacked(packed(record)) == record


@given(st.binary())
def test_other_bytes_are_refused_by_code(payload: bytes) -> None:
    try:
        found = unpacked(payload)
    except WireError:  # and nothing else
        return
    assert packed(found) == payload


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([], "QRES-E402"),
        ({1: 1}, "QRES-E404"),
        ({"a": "b"}, "QRES-E404"),
        ({"a": b"short"}, "QRES-E404"),
        ({"a": [1, b"\0" * 8]}, "QRES-E404"),
    ],
)
def test_other_values_are_refused(value: object, code: str) -> None:
    with pytest.raises(WireError, match=code):
        unpacked(canonical.dumps(value))


def test_too_many_figures_are_not_sent() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        packed({"losses": [1.0] * 2**17})


def test_claims_are_capped_and_must_be_numbers() -> None:
    assert examples({}, "n", 1) == 1
    assert examples({"n": 7.9}, "n", 10) == 7
    assert examples({"n": 10**9}, "n", 10) == 10
    assert examples({"n": math.inf}, "n", 10) == 10
    for claimed in (0, -1, 0.5, math.nan, [3], True):
        with pytest.raises(ValueRefusedError, match="QRES-E506"):
            examples({"n": claimed}, "n", 10)
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        examples({}, "n", 10)


def test_means_leave_out_what_is_not_finite_or_of_another_length() -> None:
    reports: list[tuple[int, dict[str, Figure]]] = [
        (1, {"loss": 1.0, "each": [1.0, 2.0]}),
        (3, {"loss": 3.0, "each": [3.0, 4.0]}),
        (5, {"loss": math.nan, "each": [1.0]}),
        (5, {"each": 9.0}),
    ]
    assert averaged(reports) == {"loss": 2.5, "each": [2.5, 3.5]}
    assert averaged([]) == {}


def test_what_a_few_say_besides_or_otherwise_does_not_count() -> None:
    liar: dict[str, Figure] = {"loss": [1.0], "evil": 1.0}
    reports: list[tuple[int, dict[str, Figure]]] = [(9, liar), (1, {"loss": 2}), (1, {"loss": 4.0})]
    assert averaged(reports) == {"loss": 3.0}
    expected = forms([record for _weight, record in reports])
    assert odd(liar, expected) == (
        "adds evil and has no finite numbers of the others' form in loss"
    )
    assert odd({}, expected) == "lacks loss"
    assert odd({"loss": 1.0}, expected) == ""


def test_means_of_large_figures_are_finite() -> None:
    assert averaged([(10, {"loss": 1.7e308}), (10, {"loss": 1.7e308})])["loss"] == 1.7e308
