"""The hashes by which nodes know masked inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_secagg.inputs import Input, Inputs, input_digest
from qres_secagg.masks import Residues
from qres_secagg.parameters import Parameters

from qres_core import Companion, Contribution

PARAMETERS = Parameters(
    dimension=3, k=4, t=3, acks=3, corrupt=0, min_survivors=3, bound=1000, summands=5
)

lists = st.integers(2, 2**64).flatmap(
    lambda modulus: st.lists(st.integers(0, modulus - 1), max_size=3).map(
        lambda values: Residues(tuple(values), modulus)
    )
)
beside = st.dictionaries(st.text(max_size=3), lists, max_size=2)
vectors = st.lists(st.integers(0, 3), min_size=1, max_size=3)


@given(vectors, vectors, beside, beside)
def test_two_inputs_have_one_hash_only_if_they_are_the_same(
    first: list[int], second: list[int], item: dict[str, Residues], other: dict[str, Residues]
) -> None:
    here, there = np.array(first, np.uint32), np.array(second, np.uint32)
    same = (first, item) == (second, other)
    assert (input_digest(here, item) == input_digest(there, other)) == same
    assert input_digest(here, item) == input_digest(here.copy(), dict(reversed(item.items())))
    assert input_digest(here, item) != input_digest(here.astype(np.uint64), item)


@pytest.mark.parametrize(
    ("residues", "other"),
    [
        (Residues((1, 2), 256), Residues((1, 2), 255)),
        (Residues((1, 0), 256), Residues((1,), 65536)),
        (Residues((0,), 7), Residues((0, 0), 7)),
        (Residues((), 7), Residues((0,), 7)),
        (Residues((1, 2), 7), Residues((2, 1), 7)),
    ],
)
def test_residues_that_look_alike_have_hashes_of_their_own(
    residues: Residues, other: Residues
) -> None:
    vector = np.zeros(3, np.uint32)
    assert input_digest(vector, {"zk": residues}) != input_digest(vector, {"zk": other})
    assert input_digest(vector, {"zk": residues}) != input_digest(vector, {"dp": residues})
    assert input_digest(vector, {"zk": residues}) != input_digest(vector, {})


def test_an_input_does_not_change_with_what_it_was_made_from() -> None:
    vector, residues = np.arange(3, dtype=np.uint32), {"zk": Residues((1,), 7)}
    made = Input(vector, residues)
    vector[0] = 9
    residues.clear()
    assert made.digest == input_digest(made.vector, made.residues)
    assert (made.vector.tolist(), dict(made.residues)) == ([0, 1, 2], {"zk": Residues((1,), 7)})
    assert not made.vector.flags.writeable


def contribution(sender: int, **companions: Companion) -> Contribution:
    vector = np.full(3, sender, np.int32)
    return Contribution(bytes([sender]) * 32, bytes(32), vector, 1, companions=companions)


def test_inputs_are_of_the_objects_they_were_read_from_alone() -> None:
    made = [contribution(sender, zk=Companion.of([sender], 7)) for sender in (1, 2, 3)]
    inputs = Inputs.of(made, PARAMETERS)
    assert inputs.are_of(tuple(made))
    assert not inputs.are_of(made[:2])
    assert not inputs.are_of([*made, made[0]])
    assert not inputs.are_of([made[1], made[0], made[2]])
    assert not inputs.are_of([*made[:2], contribution(3, zk=Companion.of([3], 7))])


def test_who_has_residues_of_another_form_counts_with_zeros() -> None:
    usual = [contribution(sender, zk=Companion.of([sender], 7)) for sender in (1, 2)]
    inputs = Inputs.of([*usual, contribution(3)], PARAMETERS)
    assert inputs.odd == (b"\x03" * 32,)
    for sender, item in inputs.by_sender.items():
        value = sender[0] if sender[0] < 3 else 0
        assert dict(item.residues) == {"zk": Residues((value,), 7)}
        assert inputs.digests()[sender] == input_digest(item.vector, item.residues)
