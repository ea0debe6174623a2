"""The window against the definition: a set of everything seen."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qres_replay.window import TOO_OLD, Window

from qres_core import Fault

NUMBERS = st.integers(0, 40) | st.integers(2**63 - 20, 2**63 - 1)


def accept(window: Window, sequence: int) -> None:
    window.high, window.seen = window.after(sequence)


@pytest.mark.claim("C-trust-7")
@given(size=st.integers(1, 12), numbers=st.lists(NUMBERS, max_size=60))
@example(size=1, numbers=[0, 0, 1, 0])
@example(size=4, numbers=[3, 7, 4, 3, 8, 4])
def test_every_order_of_arrival_follows_the_definition(size: int, numbers: list[int]) -> None:
    window, seen = Window(size), set[int]()
    for sequence in numbers:
        if seen and sequence <= max(seen) - size:
            expected = TOO_OLD
        else:
            expected = Fault.REPLAYED if sequence in seen else ""
        assert window.refusal(sequence) == expected
        if not expected:
            accept(window, sequence)
            seen.add(sequence)
            assert window.high == max(seen)
        assert 0 <= window.seen < 2**size


def test_asking_changes_nothing() -> None:
    window = Window(8)
    accept(window, 5)
    before = window.high, window.seen
    for sequence in (0, 3, 5, 6, 100):
        window.refusal(sequence)
        window.after(sequence)
    assert (window.high, window.seen) == before


def test_memory_does_not_grow_with_the_numbers() -> None:
    window = Window(64)
    for sequence in (0, 2**40, 2**63 - 1):
        accept(window, sequence)
        assert window.seen.bit_length() <= 64


@pytest.mark.claim("C-replay-8")
@given(first=st.integers(1, 12), second=st.integers(1, 12), numbers=st.lists(NUMBERS, max_size=30))
def test_another_size_forgets_nothing_seen_and_admits_nothing_forgotten(
    first: int, second: int, numbers: list[int]
) -> None:
    window, seen = Window(first), set[int]()
    for sequence in numbers:
        if not window.refusal(sequence):
            accept(window, sequence)
            seen.add(sequence)
    resized = window.resized(second)
    assert (resized.size, resized.high) == (second, window.high)
    assert resized.seen < 2**second
    around = range(max(0, window.high - 15), window.high + 16)
    for sequence in {*range(60), *around}:
        refused = window.refusal(sequence) or (
            second < first and sequence <= window.high - second and TOO_OLD
        )
        assert bool(resized.refusal(sequence)) == bool(refused)


@pytest.mark.control("C-replay-8")
@pytest.mark.parametrize("size", [1, 4, 9])
def test_an_unused_window_of_another_size_is_unused(size: int) -> None:
    resized = Window(4).resized(size)
    assert (resized.high, resized.seen) == (-1, 0)
