"""Both engines and libsodium compute the same group, on random input and at every edge."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import secrets
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl import bindings
from nacl.exceptions import RuntimeError as SodiumError
from qres_zk import group
from qres_zk.group import ORDER
from qres_zk.group.backend import engine
from qres_zk.group.parameters import PRIME
from qres_zk.group.points import from_uniform
from qres_zk.group.reference.limbs import packed, unpacked

from qres_core.errors import ValueRefusedError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

EDGES = [0, 1, 2, 3, ORDER - 1, ORDER - 2, 2**252, 2**128, 2**64 - 1, 2**64, 2**251 - 1, 2**252 - 1]
INT32 = [-(2**31), 2**31 - 1, 0, 1, -1, 127, 128, -127, -128, 129, 32768, -32768, 32896, 8421504]


pytestmark = pytest.mark.usefixtures("instructions")
ENGINES = pytest.mark.parametrize("name", ["default", "reference"])


def using(name: str) -> Any:
    return group.reference_only() if name == "reference" else nullcontext()


def both(run: Callable[[], Any]) -> Any:
    """What both engines return."""
    found = run()
    with group.reference_only():
        again = run()
    assert again == found if isinstance(found, bytes) else np.array_equal(again, found)
    return found


def points(n: int, label: bytes = b"test") -> group.Points:
    return group.hash_to_group(label, 0, n)


def edwards(array: group.Points) -> list[bytes]:
    """The very Edwards points behind ristretto255's, compressed: two bits more than encodings."""
    found = []
    for x, y, z, t in unpacked(array):
        inverse = pow(z, -1, PRIME)
        affine_x, affine_y = x * inverse % PRIME, y * inverse % PRIME
        assert affine_x * affine_y % PRIME == t * inverse % PRIME
        found.append((affine_y | (affine_x & 1) << 255).to_bytes(32, "little"))
    return found


def naive(values: list[int], array: group.Points) -> group.Points:
    """The sum of multiples by doubling and adding."""
    total = group.identity()
    for value, k in zip(values, range(len(array)), strict=True):
        part = group.identity()
        for bit in format(value % ORDER, "b"):
            part = group.add(part, part)
            if bit == "1":
                part = group.add(part, array[k : k + 1])
        total = group.add(total, part)
    return total


# --- libsodium's edwards25519 -----------------------------------------------------------------


@pytest.mark.claim("C-zk-1")
@pytest.mark.long
def test_ten_thousand_multiples_sums_and_differences_are_those_of_libsodium() -> None:
    n = 10_000
    blinds = group.random_scalars(n)
    raw = group.scalars_to_bytes(blinds)
    expected = [
        bindings.crypto_scalarmult_ed25519_base_noclamp(raw[k : k + 32])
        for k in range(0, 32 * n, 32)
    ]
    array = group.blind(blinds)
    assert edwards(array) == expected
    other, other_expected = np.roll(array, 1, axis=0), [expected[-1], *expected[:-1]]
    sums = list(map(bindings.crypto_core_ed25519_add, expected, other_expected))
    gaps = list(map(bindings.crypto_core_ed25519_sub, expected, other_expected))
    for name in ("default", "reference"):
        with using(name):
            assert edwards(group.add(array, other)) == sums
            assert edwards(group.add(array, group.negate(other))) == gaps


def test_sums_of_multiples_are_those_of_libsodium() -> None:
    values = [*EDGES, *(secrets.randbelow(ORDER) for _ in range(60))]
    bases = group.blind(group.random_scalars(len(values)))
    expected = bytes([1]) + bytes(31)
    for value, base in zip(values, edwards(bases), strict=True):
        if value:
            raw = value.to_bytes(32, "little")
            product = bindings.crypto_scalarmult_ed25519_noclamp(raw, base)
            expected = bindings.crypto_core_ed25519_add(expected, product)
    for name in ("default", "reference"):
        with using(name):
            assert edwards(group.msm(group.scalars(values), bases)) == [expected]


def test_edwards_points_are_valid_where_libsodium_says_so() -> None:
    tried = [secrets.token_bytes(32) for _ in range(300)]
    tried += [k.to_bytes(32, "little") for k in (0, 1, 2, PRIME - 1, PRIME, PRIME + 1, 2**255 - 1)]
    tried += [(k | 1 << 255).to_bytes(32, "little") for k in (0, 1, 2, PRIME - 1, PRIME + 1)]
    for raw in tried:
        words = np.frombuffer(raw, "<u8").reshape(1, 4)
        point, bad = engine().decode_edwards(words)
        with group.reference_only():
            reference, reference_bad = engine().decode_edwards(words)
        assert bad == reference_bad
        if bad < 0:
            assert edwards(point) == edwards(reference) == [raw]
        # libsodium additionally refuses points outside the subgroup of prime order.
        try:
            in_subgroup = bindings.crypto_core_ed25519_is_valid_point(raw)
        except SodiumError:
            in_subgroup = False
        assert not in_subgroup or bad < 0


# --- libsodium's ristretto255, where the system has it -----------------------------------------


@pytest.fixture(scope="session")
def sodium() -> ctypes.CDLL:
    """The system's libsodium; PyNaCl's own has no ristretto255."""
    path = ctypes.util.find_library("sodium")
    library = ctypes.CDLL(path) if path else None
    if library is None or not hasattr(library, "crypto_core_ristretto255_from_hash"):
        pytest.skip("no libsodium with ristretto255 on this system")
    return library


@pytest.mark.claim("C-zk-1")
@pytest.mark.long
def test_ten_thousand_elements_are_those_of_libsodium(sodium: ctypes.CDLL) -> None:
    n = 10_000
    data = secrets.token_bytes(64 * n)
    out = ctypes.create_string_buffer(32)
    expected = b""
    for k in range(0, 64 * n, 64):
        sodium.crypto_core_ristretto255_from_hash(out, data[k : k + 64])
        expected += out.raw
    assert both(lambda: group.encode(from_uniform(data))) == expected
    assert group.encode(group.decode(expected)) == expected
    with group.reference_only():
        assert group.encode(group.decode(expected[: 32 * 2000])) == expected[: 32 * 2000]


def test_strings_are_elements_where_libsodium_says_so(sodium: ctypes.CDLL) -> None:
    # Even and below 2**255: a quarter are elements.
    n = 10_000
    words = np.frombuffer(secrets.token_bytes(32 * n), "<u8").reshape(n, 4).copy()
    words[:, 0] &= np.uint64(2**64 - 2)
    words[:, 3] &= np.uint64(2**63 - 1)
    accepted = 0
    for k in range(n):
        valid = bool(sodium.crypto_core_ristretto255_is_valid_point(words[k].tobytes()))
        assert (engine().decode(words[k : k + 1])[1] < 0) == valid
        accepted += valid
        if k < 1000:
            with group.reference_only():
                assert (engine().decode(words[k : k + 1])[1] < 0) == valid
    assert 2000 < accepted < 3000


# --- engine against engine ----------------------------------------------------------------------


def test_encodings_agree_on_every_representative() -> None:
    array = points(100)
    expected = both(lambda: group.encode(array))
    # The four points of order 1, 2 and 4 make no difference to an element of ristretto255.
    root = pow(2, (PRIME - 1) // 4, PRIME)
    torsion = packed([(0, -1, 1, 0), (root, 0, 1, 0), (-root, 0, 1, 0)])
    for k in range(3):
        other = group.add(array, torsion[k : k + 1])
        assert both(lambda other=other: group.encode(other)) == expected
        assert both(lambda other=other: group.equal(other, array)).all()
        assert group.is_identity(torsion[k : k + 1]).all()


def test_decoding_agrees_on_random_strings() -> None:
    raw = np.frombuffer(secrets.token_bytes(32 * 1000), "<u8").reshape(-1, 4).copy()
    raw[:, 0] &= np.uint64(2**64 - 2)
    raw[:, 3] &= np.uint64(2**63 - 1)
    for k in range(0, 1000, 4):
        assert both(lambda k=k: engine().decode(raw[k : k + 4])[1]) >= -1
    good = group.encode(points(200))
    assert both(lambda: group.encode(group.decode(good))) == good


@pytest.mark.claim("C-zk-2")
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(bytes(32))
@example(bytes(31))
@example(b"\xff" * 64)
def test_any_bytes_are_points_or_refused(data: bytes) -> None:
    try:
        array = group.decode(data)
    except WireError as error:
        assert error.code == "QRES-E404"  # noqa: PT017 - both outcomes are right
    else:
        assert group.encode(array) == data


@pytest.mark.claim("C-zk-2")
@given(st.binary(max_size=100))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_scalars_or_refused(data: bytes) -> None:
    try:
        array = group.scalars_from_bytes(data)
    except WireError as error:
        assert error.code == "QRES-E404"  # noqa: PT017 - both outcomes are right
    else:
        assert group.scalars_to_bytes(array) == data
        assert all(integer < ORDER for integer in group.integers(array))


@pytest.mark.control("C-zk-2")
def test_control_a_library_that_reduces_takes_two_strings_for_one_scalar() -> None:
    small, large = (value.to_bytes(32, "little") for value in (5, 5 + ORDER))
    zero = bytes(32)
    add = bindings.crypto_core_ed25519_scalar_add
    assert add(small, zero) == add(large, zero) == small
    with pytest.raises(WireError, match="QRES-E404"):
        group.scalars_from_bytes(large)


@pytest.mark.parametrize("value", [ORDER, ORDER + 1, 2**253, 2**256 - 1, ORDER + 2**64, 2**255])
def test_scalars_have_one_encoding(value: int) -> None:
    good = (ORDER - 1).to_bytes(32, "little")
    assert group.integers(group.scalars_from_bytes(good)) == [ORDER - 1]
    with pytest.raises(WireError, match=r"QRES-E404 scalar: scalar 1 is not less"):
        group.scalars_from_bytes(good + value.to_bytes(32, "little"))


def test_arithmetic_of_limbs_at_their_bounds() -> None:
    """Limbs as long as the kernels may leave them, in every place at once."""
    rows = packed([(0, 1, 1, 0)])
    rows = np.repeat(rows, 4, axis=0)
    longest = np.uint64(2**51 + 2**13)
    # The neutral element times a factor, once as short and once as long as limbs get.
    for k in range(4):
        value = sum(int(longest) << (51 * i) for i in range(5)) if k % 2 else 2**255 - 20
        limbs = [int(longest)] * 5 if k % 2 else [value >> (51 * i) & (2**51 - 1) for i in range(5)]
        rows[k, 5:10] = limbs
        rows[k, 10:15] = limbs
    array = group.add(points(4), rows)
    assert both(lambda: group.encode(array)) == group.encode(points(4))
    assert both(lambda: group.is_identity(rows)).all()
    assert both(lambda: group.encode(group.add(rows, rows))) == bytes(128)


# --- multiples -----------------------------------------------------------------------------------


@ENGINES
@pytest.mark.parametrize("n", [0, 1, 2, 7, 33])
def test_msm_is_the_naive_sum(name: str, n: int) -> None:
    values = [secrets.randbelow(ORDER) for _ in range(n)]
    with using(name):
        assert group.equal(
            group.msm(group.scalars(values), points(n)), naive(values, points(n))
        ).all()


@ENGINES
@pytest.mark.parametrize("edge", EDGES)
def test_msm_at_the_edges(name: str, edge: int) -> None:
    array = points(5)
    with using(name):
        item = naive([edge] * 5, array)
        assert group.equal(group.msm(group.scalars([edge] * 5), array), item).all()
        assert group.equal(group.Fixed(array).msm(group.scalars([edge] * 5)), item).all()


def test_msm_of_every_digit_width() -> None:
    """Widths are chosen by size; all of them give the naive sum of a repeated point."""
    base = group.generator()
    for n in (1, 4, 20, 80, 300, 1500, 6000, 40_000)[: 8 if group.accelerated() else 6]:
        values = group.random_scalars(1)
        some = np.repeat(values, n, axis=0)
        found = group.msm(some, np.repeat(base, n, axis=0))
        expected = group.blind(group.scalars([n * group.integers(values)[0]]))
        assert group.equal(found, expected).all()


def test_msm_of_equal_and_opposite_points_is_complete() -> None:
    """Buckets meet equal points, opposite ones and the neutral element: no case is special."""
    generator = group.generator()
    array = np.concatenate([generator, group.negate(generator), group.identity(), generator])
    scalars = group.scalars([5, 5, 7, 3])
    expected = group.blind(group.scalars([3]))
    assert both(lambda: group.encode(group.msm(scalars, array))) == group.encode(expected)
    assert group.is_identity(group.msm(group.scalars([9, 9]), array[:2])).all()


@ENGINES
@pytest.mark.parametrize("n", [1, 7, 8, 9, 21])
def test_totals_are_repeated_sums(name: str, n: int) -> None:
    arrays = [points(n, b"a"), points(n, b"b"), group.identity(n), group.negate(points(n, b"a"))]
    with using(name):
        assert group.equal(group.total(arrays), points(n, b"b")).all()
        assert group.equal(group.total(arrays[:1]), arrays[0]).all()
        with pytest.raises(ValueRefusedError, match="E502"):
            group.total([points(n), points(n + 1)])


@ENGINES
def test_rows_at_the_edges_of_int32(name: str) -> None:
    m = len(INT32)
    array = points(m)
    values = np.array([INT32, INT32[::-1], [-(2**31)] * m, [2**31 - 1] * m, [0] * m], np.int32)
    with using(name):
        found = group.Rows(array).commit(values)
        for k, row in enumerate(values.tolist()):
            msm = group.msm(group.scalars(row), array)
            assert group.equal(found[k : k + 1], msm).all()


def test_rows_agree_on_random_values() -> None:
    array = points(50)
    values = np.frombuffer(secrets.token_bytes(4 * 200 * 50), np.int32).reshape(200, 50)
    found = group.encode(group.Rows(array).commit(values))
    with group.reference_only():
        assert group.encode(group.Rows(array).commit(values)) == found


def test_generators_serve_whichever_engine_runs() -> None:
    array = points(4)
    rows, fixed = group.Rows(array), group.Fixed(array)
    values, scalars = np.arange(8, dtype=np.int32).reshape(2, 4), group.random_scalars(4)
    both(lambda: group.encode(rows.commit(values)))
    assert both(lambda: group.encode(fixed.msm(scalars))) == group.encode(group.msm(scalars, array))


def test_rows_are_homomorphic_and_hide_by_their_blinds() -> None:
    rows = group.Rows(points(6))
    rng = np.random.default_rng(5)
    left, right = (rng.integers(-(2**30), 2**30, (4, 6)).astype(np.int32) for _ in range(2))
    blinds = [group.random_scalars(4) for _ in range(2)]
    total = group.scalars(
        a + b for a, b in zip(*(group.integers(blind) for blind in blinds), strict=True)
    )
    sums = group.add(rows.commit(left, blinds[0]), rows.commit(right, blinds[1]))
    assert group.equal(sums, rows.commit(left + right, total)).all()
    assert not group.equal(rows.commit(left, blinds[0]), rows.commit(left, blinds[1])).any()
    assert group.equal(rows.commit(left, group.scalars([0] * 4)), rows.commit(left)).all()


def test_rows_of_many_pieces_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = group.Rows(points(9))
    values = np.arange(-45, 45, dtype=np.int32).reshape(10, 9)
    expected = group.encode(rows.commit(values))
    compiled = pytest.importorskip("qres_zk.group.compiled.engine")
    monkeypatch.setattr(compiled, "_DIGITS_AT_ONCE", 3 * 36)
    assert group.encode(rows.commit(values)) == expected


@ENGINES
def test_blinds_include_zero_and_the_largest(name: str) -> None:
    with using(name):
        found = group.blind(group.scalars([0, 1, ORDER - 1, 0]))
        assert group.is_identity(found).tolist() == [True, False, False, True]
        assert group.equal(found[1:2], group.generator()).all()
        assert group.is_identity(group.add(found[1:2], found[2:3])).all()


# --- hash to the group ----------------------------------------------------------------------------


def test_generators_are_hashed_as_written_down() -> None:
    prefix = b"QRES/zk/v1/ristretto255/" + bytes([1]) + b"G"
    data = hashlib.shake_256(prefix + (3).to_bytes(8, "little")).digest(64)
    assert group.encode(group.hash_to_group(b"G", 3)) == group.encode(from_uniform(data))
    assert both(lambda: group.encode(group.hash_to_group(b"G", 0, 5)))[96:128] == group.encode(
        from_uniform(data)
    )


def test_no_two_labels_and_indices_share_a_generator() -> None:
    found = [group.encode(group.hash_to_group(label, 0, 20)) for label in (b"", b"G", b"GG", b"H")]
    rows = {item[k : k + 32] for item in found for k in range(0, 640, 32)}
    assert len(rows) == 80
    assert len(group.hash_to_group(bytes(255))) == 1
    with pytest.raises(ValueError, match="at most 255"):
        group.hash_to_group(bytes(256))


# --- refusals -------------------------------------------------------------------------------------


def test_wrong_shapes_and_dtypes_are_refused() -> None:
    array, scalars = points(3), group.scalars([1, 2, 3])
    rows, fixed = group.Rows(array), group.Fixed(array)
    zeros = np.zeros((2, 3), np.int32)
    refused: list[tuple[str, Callable[[], object]]] = [
        ("E502", lambda: group.msm(scalars[:2], array)),
        ("E502", lambda: group.msm(scalars[:, :3], array)),
        ("E503", lambda: group.msm(scalars.astype(np.int64), array)),
        ("E502", lambda: group.msm(scalars, array[:, :15])),
        ("E502", lambda: group.msm(scalars[0], array)),
        ("E502", lambda: group.encode(array[0])),
        ("E502", lambda: group.add(array[:, :15], array)),
        ("E503", lambda: group.add(array, array.astype(float))),
        ("E503", lambda: group.encode(array.astype(float))),
        ("E502", lambda: group.add(array, array[:2])),
        ("E502", lambda: fixed.msm(scalars[:2])),
        ("E503", lambda: rows.commit(zeros.astype(np.int64))),
        ("E502", lambda: rows.commit(zeros[:, :2])),
        ("E502", lambda: rows.commit(zeros[0])),
        ("E502", lambda: rows.commit(zeros, scalars)),
        ("E502", lambda: rows.commit(zeros, scalars[:1])),  # one blind for both rows hides neither
    ]
    for code, run in refused:
        with pytest.raises(ValueRefusedError, match=f"QRES-{code}"):
            run()
    for length in (32, 65):
        with pytest.raises(ValueError, match="a multiple of 64 bytes"):
            from_uniform(bytes(length))


def test_a_product_that_is_no_point_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commitment to it would hide nothing."""
    broken = PRIME.to_bytes(32, "little")
    product = "qres_zk.group.blinding.bindings.crypto_scalarmult_ed25519_base_noclamp"
    monkeypatch.setattr(product, lambda _scalar: broken)
    with pytest.raises(RuntimeError, match="no point"):
        group.blind(group.scalars([7]))


def test_inputs_stay_as_they_were_and_may_be_read_only() -> None:
    array, scalars = points(4), group.random_scalars(4)
    values = np.arange(8, dtype=np.int32).reshape(2, 4)
    before = array.copy(), scalars.copy(), values.copy()
    for item in (array, scalars, values):
        item.flags.writeable = False
    for _ in range(2):
        group.add(array[::2], array[1::2])
        group.negate(array)
        group.encode(array[::-1])
        group.msm(scalars[::-1], array)
        group.Fixed(array).msm(scalars)
        group.Rows(array).commit(np.asfortranarray(values), scalars[:2])
    for item, old in zip((array, scalars, values), before, strict=True):
        assert np.array_equal(item, old)


def test_adding_broadcasts_a_single_point() -> None:
    array = points(3)
    generator = group.generator()
    assert group.equal(
        group.add(array, generator), group.add(array, np.repeat(generator, 3, axis=0))
    ).all()
    assert len(group.add(array[:0], generator)) == 0
    assert group.encode(array[:0]) == b""
