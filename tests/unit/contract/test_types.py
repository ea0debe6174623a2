"""What the hooks pass: checked on the way in, unchangeable afterwards."""

from __future__ import annotations

import copy
import hashlib
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qres_core import (
    Companion,
    Contribution,
    Evidence,
    Fault,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Standing,
    Update,
    Updates,
    Vector,
    Visibility,
    check_vector,
    model_digest,
    vector_digest,
)
from qres_core.contract.types import Rounding
from qres_core.errors import ValueRefusedError

NODE = b"\x01" * 32
int32_lists = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30)
quick = settings(deadline=None)


def vec(*values: int) -> Vector:
    return np.array(values, dtype=np.int32)


def senders(n: int) -> tuple[bytes, ...]:
    return tuple(bytes([i]) * 32 for i in range(n))


def weights(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def stack(n: int = 3, d: int = 4) -> NDArray[np.int32]:
    return np.arange(n * d, dtype=np.int32).reshape(n, d).copy()


def make(**changes: Any) -> Updates:
    fields: dict[str, Any] = {
        "vectors": stack(),
        "senders": senders(3),
        "weights": weights(1, 2, 3),
    }
    return Updates(**fields | changes)


def code_of(call: Any) -> tuple[str, str]:
    with pytest.raises(ValueRefusedError) as caught:
        call()
    return caught.value.code, caught.value.problems[0].where


# ── check_vector ──────────────────────────────────────────────────────────────────────────────


@quick
@given(int32_lists)
def test_a_vector_is_taken_whole_and_read_only(values: list[int]) -> None:
    checked = check_vector(vec(*values), "v", dimension=len(values))
    assert checked.tolist() == values
    assert checked.dtype == np.int32
    assert checked.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        checked[0] = 1


@pytest.mark.parametrize(
    "bad",
    [
        np.ones(3),
        np.ones(3, dtype=np.int64),
        np.ones(3, dtype=np.float32),
        np.ones(3, dtype=np.uint32),
        np.ones(3, dtype=np.int16),
        np.ones(3, dtype=np.bool_),
        np.ones(3, dtype=">i4"),
        np.ones(3, dtype=object),
        np.int32(1),
        [1, 2, 3],
        (1, 2),
        b"\0\0\0\0",
        pytest.param(np.ones(3, dtype=np.int32).data, id="memoryview"),  # its repr is an address
        None,
        "vector",
    ],
    ids=repr,
)
def test_another_dtype_is_refused_and_never_converted(bad: object) -> None:
    assert code_of(lambda: check_vector(bad, "here")) == ("QRES-E503", "here")


@pytest.mark.claim("C-grid-1")
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 3), (3, 1), (2, 2, 2)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    bad = np.ones(shape, dtype=np.int32)
    assert code_of(lambda: check_vector(bad, "here")) == ("QRES-E502", "here")


@pytest.mark.parametrize("dimension", [0, 1, 2, 4, 10**9])
def test_another_dimension_is_refused(dimension: int) -> None:
    bad = vec(1, 2, 3)
    assert code_of(lambda: check_vector(bad, "here", dimension=dimension)) == ("QRES-E502", "here")


def test_a_later_change_of_the_callers_array_does_not_show() -> None:
    mine = vec(1, 2, 3)
    view = mine[:]
    view.flags.writeable = False
    inner = view[0:2]
    part = mine[::2]
    part.flags.writeable = False
    raw = bytearray(struct.pack("<3i", 1, 2, 3))
    over: Vector = np.frombuffer(raw, dtype=np.int32)
    under: Vector = np.frombuffer(memoryview(raw).toreadonly(), dtype=np.int32)
    checked = [check_vector(array, "v") for array in (mine, view, inner, part, over, under)]
    before = [array.tolist() for array in checked]
    mine[:] = 99
    raw[:] = b"\xff" * 12
    assert [array.tolist() for array in checked] == before
    assert mine.flags.writeable


def test_memory_that_nobody_can_change_is_not_copied() -> None:
    frozen = vec(1, 2, 3)
    frozen.flags.writeable = False
    octets: Vector = np.frombuffer(struct.pack("<3i", 1, 2, 3), dtype=np.int32)
    view: Vector = np.frombuffer(memoryview(struct.pack("<3i", 1, 2, 3)), dtype=np.int32)
    row = make().vectors[1]
    for array in (frozen, frozen[1:], octets, octets[1:], view, view[1:], row):
        assert check_vector(array, "v") is array
    checked = check_vector(vec(4), "v")
    assert check_vector(checked, "v") is checked


def test_a_subclass_becomes_a_plain_array(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "v", dtype=np.int32, mode="w+", shape=(3,))
    mapped[:] = 5
    mapped.flush()
    reader = np.memmap(tmp_path / "v", dtype=np.int32, mode="r")
    checked = check_vector(reader, "v")
    mapped[:] = 6
    mapped.flush()
    assert type(checked) is np.ndarray
    assert checked.tolist() == [5, 5, 5]


# ── vector_digest ─────────────────────────────────────────────────────────────────────────────


@quick
@given(int32_lists)
def test_the_digest_is_the_one_computed_by_hand(values: list[int]) -> None:
    octets = struct.pack(f"<Q{len(values)}i", len(values), *values)
    expected = hashlib.sha256(b"qres/vector/v1\0" + octets).digest()
    assert vector_digest(vec(*values)) == expected
    strided = np.repeat(vec(*values), 2)[::2]
    assert vector_digest(strided) == expected


def test_the_digest_of_a_known_vector() -> None:
    assert vector_digest(vec(1, -1, 65536)).hex() == (
        "1c603db03c9fa0d39d92eb932d0aeb461072940c8381dbff3601885d275f84c0"
    )


def test_vectors_that_differ_have_different_digests() -> None:
    family = [vec(0), vec(0, 0), vec(0, 0, 0), vec(1), vec(-1), vec(1, 0), vec(0, 1), vec(1, 256)]
    assert len({vector_digest(item) for item in family}) == len(family)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (np.ones(2), "QRES-E503"),
        (np.ones(2, dtype=np.int64), "QRES-E503"),
        (np.ones(2, dtype=">i4"), "QRES-E503"),
        (np.ones((1, 2), dtype=np.int32), "QRES-E502"),
        (np.ones(0, dtype=np.int32), "QRES-E502"),
    ],
)
def test_the_digest_converts_nothing(bad: Any, code: str) -> None:
    assert code_of(lambda: vector_digest(bad)) == (code, "vector")


@quick
@given(int32_lists, st.integers(0, 2**64 - 1))
def test_the_model_digest_is_the_one_computed_by_hand(values: list[int], step: int) -> None:
    place = b"qres/model/v1\0" + struct.pack("<Q", step)
    expected = hashlib.sha256(place + vector_digest(vec(*values))).digest()
    assert model_digest(vec(*values), step) == expected


def test_a_model_has_another_digest_at_another_place() -> None:
    same_vector = {model_digest(vec(1, 2), step) for step in (0, 1, 2, 2**32)}
    assert len(same_vector | {vector_digest(vec(1, 2)), model_digest(vec(2, 1), 0)}) == 6


# ── Update and Contribution ───────────────────────────────────────────────────────────────────

BAD_WEIGHTS = [0, -1, 2**30 + 1, 2**64, True, 1.0, "1", None, np.int64(1)]


def update(**changes: Any) -> Update:
    fields: dict[str, Any] = {"vector": vec(1, 2)}
    return Update(**fields | changes)


def contribution(**changes: Any) -> Contribution:
    fields: dict[str, Any] = {
        "sender": NODE,
        "digest": b"\x02" * 32,
        "vector": vec(1, 2),
        "weight": 1,
    }
    return Contribution(**fields | changes)


@pytest.mark.parametrize("build", [update, contribution])
def test_the_vector_is_checked_and_copied(build: Any) -> None:
    assert code_of(lambda: build(vector=np.ones(2))) == ("QRES-E503", "vector")
    assert code_of(lambda: build(vector=[1, 2])) == ("QRES-E503", "vector")
    assert code_of(lambda: build(vector=stack())) == ("QRES-E502", "vector")
    assert code_of(lambda: build(vector=vec())) == ("QRES-E502", "vector")
    mine = vec(1, 2)
    built = build(vector=mine)
    mine[0] = 9
    assert built.vector.tolist() == [1, 2]
    assert not built.vector.flags.writeable


@pytest.mark.parametrize("weight", BAD_WEIGHTS)
@pytest.mark.parametrize("build", [update, contribution])
def test_a_weight_outside_its_range_is_refused(build: Any, weight: object) -> None:
    assert code_of(lambda: build(weight=weight)) == ("QRES-E506", "weight")


@pytest.mark.parametrize("build", [update, contribution])
def test_weights_at_the_limits_are_accepted(build: Any) -> None:
    assert [build(weight=weight).weight for weight in (1, 2**30)] == [1, 2**30]


@pytest.mark.parametrize(("build", "field"), [(update, "metrics"), (contribution, "proofs")])
def test_mappings_are_copied_and_read_only(build: Any, field: str) -> None:
    mine: dict[str, Any] = {"a": 1}
    built = build(**{field: mine})
    mine["a"] = 2
    assert dict(getattr(built, field)) == {"a": 1}
    assert dict(getattr(build(), field)) == {}
    with pytest.raises(TypeError):
        getattr(built, field)["b"] = 3


@pytest.mark.parametrize("built", [update(), contribution(), make(), Standing()])
def test_no_field_can_be_set(built: object) -> None:
    kind: Any = type(built)
    for field in attrs.fields(kind):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(built, field.name, None)


# ── Updates ───────────────────────────────────────────────────────────────────────────────────


def test_updates_hold_what_they_were_given() -> None:
    updates = make()
    assert len(updates) == 3
    assert updates.dimension == 4
    assert updates.visibility is Visibility.INDIVIDUAL
    np.testing.assert_array_equal(updates.vectors, stack())
    assert updates.weights.tolist() == [1, 2, 3]


def test_by_default_each_row_is_its_senders_own() -> None:
    assert make().members == tuple((sender,) for sender in senders(3))
    assert make().sums is None
    assert dict(make().companions) == {}


def test_rows_of_several_members_are_named_by_the_lowest() -> None:
    a, b, c = senders(3)
    rows = {"senders": (a, b), "vectors": stack()[:2], "weights": weights(2, 1)}
    assert make(members=((a, c), (b,)), **rows).members == ((a, c), (b,))


@pytest.mark.parametrize("wrong", ["too few", "another first", "not ascending", "twice"])
def test_members_that_do_not_fit_the_rows_are_refused(wrong: str) -> None:
    a, b, c = senders(3)
    members = {
        "too few": ((a,), (b,)),
        "another first": ((a,), (c,), (b,)),
        "not ascending": ((a,), (b,), (c, b"\1" * 31 + b"\0")),
        "twice": ((a, b), (b,), (c,)),
    }[wrong]
    assert code_of(lambda: make(members=members)) == ("QRES-E502", "updates.members")


def test_sums_are_frozen_and_have_the_rows_shape() -> None:
    exact = np.full((3, 4), 2**40, dtype=np.int64)
    assert not make(sums=exact).sums.flags.writeable
    for wrong in (exact[:2], exact.astype(np.int32), [[1] * 4] * 3):
        assert code_of(lambda sums=wrong: make(sums=sums)) == ("QRES-E502", "updates.sums")


def test_companions_are_one_for_each_row() -> None:
    companion = Companion(b"x")
    assert make(companions={"p": (companion,) * 3}).companions == {"p": (companion,) * 3}
    for wrong in ((companion,) * 2, [companion] * 3):
        found = code_of(lambda value=wrong: make(companions={"p": value}))
        assert found == ("QRES-E502", "updates.companions.p")


def test_taking_rows_takes_all_that_belongs_to_them() -> None:
    beside = tuple(Companion(bytes([index])) for index in range(3))
    exact = np.arange(12, dtype=np.int64).reshape(3, 4)
    taken = make(sums=exact, companions={"p": beside}).take(np.array([0, 2]))
    assert taken.members == tuple((item,) for item in (senders(3)[0], senders(3)[2]))
    assert taken.sums is not None
    assert taken.sums.tolist() == exact[[0, 2]].tolist()
    assert taken.companions == {"p": (beside[0], beside[2])}


def test_weights_of_rows_at_the_limits_are_accepted() -> None:
    assert make(weights=weights(1, 2**30 - 1, 2**30)).weights.tolist() == [1, 2**30 - 1, 2**30]


def test_an_array_that_owns_its_data_is_taken_over_and_frozen() -> None:
    rows, heavy = stack(), weights(1, 2, 3)
    updates = Updates(rows, senders(3), heavy)
    assert updates.vectors is rows
    assert updates.weights is heavy
    for array in (rows, heavy):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_an_array_that_shares_its_data_is_copied_and_left_alone() -> None:
    base = np.arange(24, dtype=np.int32)
    whole = np.arange(6, dtype=np.int64) + 1
    view, half = base[:12].reshape(3, 4), whole[:3]
    sealed = base[12:].reshape(3, 4)
    sealed.flags.writeable = False
    for rows in (view, sealed):
        updates = Updates(rows, senders(3), half)
        before = updates.vectors.copy(), updates.weights.copy()
        base += 1
        whole += 1
        np.testing.assert_array_equal(updates.vectors, before[0])
        np.testing.assert_array_equal(updates.weights, before[1])
        assert not updates.vectors.flags.writeable
        assert not updates.weights.flags.writeable
    assert view.flags.writeable
    assert half.flags.writeable


def test_received_octets_are_not_copied() -> None:
    rows: NDArray[np.int32] = np.frombuffer(struct.pack("<12i", *range(12)), dtype=np.int32)
    grid = rows.reshape(3, 4)
    assert make(vectors=grid).vectors is grid


def test_rows_are_contiguous_whatever_came_in() -> None:
    turned = np.asfortranarray(stack())
    updates = make(vectors=turned)
    assert updates.vectors.flags.c_contiguous
    np.testing.assert_array_equal(updates.vectors, stack())
    assert turned.flags.writeable


def test_a_refused_array_is_left_alone() -> None:
    rows, heavy = stack(), weights(1, 2, 3)
    assert code_of(lambda: Updates(rows, senders(2), heavy)) == ("QRES-E502", "updates.senders")
    assert rows.flags.writeable
    assert heavy.flags.writeable


@pytest.mark.parametrize(
    "bad",
    [np.ones((3, 4)), stack().astype(np.int64), stack().astype(">i4"), stack().tolist(), None],
)
def test_rows_of_another_dtype_are_refused(bad: object) -> None:
    assert code_of(lambda: make(vectors=bad)) == ("QRES-E503", "updates.vectors")


@pytest.mark.parametrize("shape", [(12,), (0, 4), (3, 0), (3, 2, 2), ()])
def test_rows_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    bad = np.ones(shape, dtype=np.int32)
    assert code_of(lambda: make(vectors=bad)) == ("QRES-E502", "updates.vectors")


@pytest.mark.parametrize(
    "bad",
    [
        (),
        senders(2),
        senders(4),
        senders(3)[::-1],
        (NODE, NODE, NODE),
        (b"\0" * 32, NODE, NODE),
        (b"\0" * 32, b"\2" * 32, NODE),
        list(senders(3)),
        ("a", "b", "c"),
        (1, 2, 3),
        (b"a", "b", b"c"),
        (b"a", bytearray(b"b"), b"c"),
        None,
        b"abc",
    ],
    ids=repr,
)
def test_senders_that_are_not_ascending_and_distinct_are_refused(bad: object) -> None:
    assert code_of(lambda: make(senders=bad)) == ("QRES-E502", "updates.senders")


@pytest.mark.parametrize(
    "bad",
    [
        weights(1, 2),
        weights(1, 2, 3, 4),
        weights(1, 2, 3).reshape(3, 1),
        weights(0, 1, 2),
        weights(1, -1, 2),
        weights(1, 2, 2**30 + 1),
        weights(1, 2, 3).astype(np.int32),
        weights(1, 2, 3).astype(np.float64),
        weights(1, 2, 3).astype(">i8"),
        np.int64(1),
        [1, 2, 3],
        None,
    ],
    ids=repr,
)
def test_wrong_weights_are_refused(bad: object) -> None:
    assert code_of(lambda: make(weights=bad)) == ("QRES-E506", "updates.weights")


@quick
@given(st.integers(1, 8), st.data())
def test_take_keeps_rows_senders_and_weights_together(n: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    rows = np.array(sorted(chosen), dtype=np.intp)
    whole = Updates(stack(n), senders(n), np.arange(1, n + 1), Visibility.GROUP)
    part = whole.take(rows)
    assert part.senders == tuple(bytes([i]) * 32 for i in sorted(chosen))
    assert part.weights.tolist() == [i + 1 for i in sorted(chosen)]
    assert part.vectors.tolist() == [stack(n)[i].tolist() for i in sorted(chosen)]
    assert part.visibility is Visibility.GROUP
    assert not part.vectors.flags.writeable


@pytest.mark.parametrize("rows", [[], [1, 0], [0, 0], [2, 2, 1]])
def test_take_refuses_no_unsorted_and_repeated_rows(rows: list[int]) -> None:
    updates = make()
    assert code_of(lambda: updates.take(np.array(rows, dtype=np.intp)))[0] == "QRES-E502"


def test_take_refuses_rows_that_are_not_there_and_masks() -> None:
    with pytest.raises(IndexError):
        make().take(np.array([0, 3]))
    for mask in ([True, False, True], [True, True, True], [False, True, False]):
        with pytest.raises((IndexError, ValueRefusedError)):
            make().take(cast("Any", np.array(mask)))


def test_visibility_is_ordered_from_least_to_most() -> None:
    assert list(Visibility) == [Visibility.SUM, Visibility.GROUP, Visibility.INDIVIDUAL]
    assert max(Visibility) is Visibility.INDIVIDUAL


# ── the rest ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("weight", [-1, 2**32 + 1, True, False, 0.5, "1", None])
def test_a_standing_outside_its_range_is_refused(weight: object) -> None:
    bad: Any = weight
    assert code_of(lambda: Standing(weight=bad)) == ("QRES-E506", "standing.weight")


def test_standing_is_full_unless_told() -> None:
    assert Standing() == Standing(weight=2**32, banned=False)
    assert [Standing(weight=w).weight for w in (0, 2**32)] == [0, 2**32]


def test_facts_about_rounds_cannot_be_changed() -> None:
    round_info = RoundInfo("s", 1, b"\0" * 32, 4, 0, senders(4), quorum=3)
    facts = (
        round_info,
        NodeInfo(NODE, "s", senders(4)),
        Outcome(round_info, RoundStatus.ABORTED, b"\0" * 32, reason="no quorum"),
        Evidence(NODE, Fault.EQUIVOCATION, "kernel", 1),
    )
    for fact in facts:
        for field in attrs.fields(type(fact)):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(fact, field.name, None)
    assert (facts[2].members, facts[1].seed, facts[1].data_dir) == ((), None, None)


def pickled(value: object) -> Any:
    """As a pool of processes passes it on."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - what this test pickled


def made() -> list[Update | Contribution | Updates]:
    """One of each, with something in every field."""
    beside = {"x": Companion.of([1, 2], 7)}
    vector = np.array([3, -4], dtype=np.int32)
    rounding = Rounding(moved=2, vanished=1)
    update = Update(
        vector, weight=5, saturated=1, metrics={"a": 0.5}, companions=beside, rounding=rounding
    )
    contribution = Contribution(bytes(32), b"d" * 32, vector, 5, {"p": b"proof"}, beside)
    rows = Updates(
        np.stack([vector, vector]),
        (b"a", b"b"),
        np.array([1, 2], dtype=np.int64),
        Visibility.GROUP,
        ((b"a", b"c"), (b"b",)),
        np.array([[3, -4], [6, -8]], dtype=np.int64),
        {name: (companion, companion) for name, companion in beside.items()},
    )
    return [update, contribution, rows]


@pytest.mark.parametrize("value", made(), ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
def test_what_hooks_pass_can_be_pickled_and_copied(
    again: Callable[[object], Any], value: Update | Contribution | Updates
) -> None:
    found = again(value)
    assert type(found) is type(value)
    for field in attrs.fields(type(value)):
        before: Any = getattr(value, field.name)
        after: Any = getattr(found, field.name)
        if type(before) is np.ndarray:
            assert after.dtype == before.dtype
            assert after.tolist() == before.tolist()
            assert not after.flags.writeable
        else:
            assert after == before
            assert type(after) is type(before)


def test_what_was_pickled_is_checked_again() -> None:
    update = Update(np.zeros(2, dtype=np.int32))
    object.__setattr__(update, "weight", 0)
    octets = pickle.dumps(update)
    with pytest.raises(ValueRefusedError, match="QRES-E506"):
        pickle.loads(octets)  # noqa: S301 - what this test pickled
