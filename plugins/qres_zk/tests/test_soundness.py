"""The specification's numbers are those that the command computes."""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from qres_zk.group import ORDER
from qres_zk.scalar import project
from qres_zk.slack import TAU, budget
from qres_zk.statement import MAX_DIMENSION, PROTOCOL, NormStatement
from qres_zk.transcript import Transcript

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "norm-v2.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not in the repository")


@pytest.fixture(scope="module")
def command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zk_soundness", ROOT / "scripts/zk_soundness.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.claim("C-zk-8")
def test_the_page_has_every_table_of_the_command(command: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for table in command.page():
        assert "\n".join(table) in text


@pytest.mark.control("C-zk-8")
def test_control_a_table_with_another_number_is_not_on_the_page(command: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for table in command.page():
        (*head, last) = table
        other = "".join(str(9 - int(char)) if char.isdecimal() else char for char in last)
        assert other != last
        assert "\n".join([*head, other]) not in text


def test_the_page_has_the_protocol_s_name_and_the_example_of_the_transcript() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{PROTOCOL.decode()}`" in text
    made = Transcript()
    made.absorb("a", b"xy")
    assert f"`{made.challenge('c', 5).hex()}`" in text


def test_bits_are_rounded_down(command: ModuleType) -> None:
    assert command.bits(Fraction(1, 2**128)) == 128.0
    assert command.bits(Fraction(1, 2**128) + Fraction(1, 2**140)) == 127.9
    assert command.bits(Fraction(2, ORDER)) == 251.0


def test_an_honest_vector_of_normal_entries_is_projected_too_far_one_time_in_ten_thousand(
    command: ModuleType,
) -> None:
    """The tail of chi-square, against draws of the chi-square distribution; and the bound above."""
    tail = command.normal_tail(256, float(TAU[256]))
    assert 8e-5 < tail < 1e-4 < command.bound_of_tail(256) < 2**-9.9
    drawn = np.random.default_rng(3).chisquare(256, 2_000_000)
    seen = float((drawn > 256 * float(TAU[256])).mean())
    assert abs(seen - tail) < 5 * math.sqrt(tail / 2_000_000)


def test_the_tail_of_equal_entries_is_that_of_projections(command: ModuleType) -> None:
    """At a limit low enough to be seen: two equal entries, 400 seeds."""
    vector = np.array([[1000, 1000]], dtype=np.int32)
    limit = Fraction(104, 100)
    above = 0
    for number in range(400):
        sums = project(vector, number.to_bytes(32, "little"), 256)
        above += sum((2 * q - 2000) ** 2 for q in sums) > limit * 256 * 2 * 1000**2
    chance = command.equal_tail(256, limit, 2)
    assert abs(above / 400 - chance) < 5 * math.sqrt(chance / 400)


def test_no_entries_have_a_heavier_tail_than_the_bound(command: ModuleType) -> None:
    for entries in (1, 2, 3, 5, 8):
        assert command.equal_tail(256, TAU[256], entries) < command.bound_of_tail(256)


@pytest.mark.claim("C-zk-8")
def test_what_the_ranges_assume_is_enforced() -> None:
    assert budget(2**31 - 1, 1024) < 2**118
    with pytest.raises(ValueError, match="no statement"):
        NormStatement(MAX_DIMENSION + 1, 1)
    direction = np.ones(1, dtype=np.int16)
    with pytest.raises(ValueError, match="threshold"):
        NormStatement(1, 1, direction=direction, threshold=2**240)
    NormStatement(1, 1, direction=direction, threshold=2**239)


def test_a_try_of_a_cheater_does_not_cost_more_in_more_dimensions(command: ModuleType) -> None:
    """Nothing in it grows with the dimension: the same tries, the same number of them."""
    for dimension in (10**3, 10**6):
        grinder = command.Grinder(dimension, 32)
        assert grinder.tries(command.hash_to_group(b"vector")) == 0
