"""Cheats that must fail, each with a control that shows what stops it."""

from __future__ import annotations

import secrets

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.batch import verify_batch
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import Challenges
from qres_zk.group import ORDER, add, generator, scalars
from qres_zk.norm import verifying
from qres_zk.pedersen import commit
from qres_zk.slack import budget
from qres_zk.squares import four_squares
from qres_zk.statement import HEADER_BYTES, MASKS, Context, NormStatement
from qres_zk.transcript import Transcript
from zk_field_prover import K2, prove, square_root
from zk_forgeries import accepted, forgetting

from qres_core.errors import WireError


@pytest.fixture(scope="module")
def honest(small: NormStatement, context: Context, vector: np.ndarray) -> bytes:
    return norm.prove(small, context, commit(small, vector))[1].to_bytes()


@pytest.fixture
def without_link(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A verifier for whom masked sums say nothing: their mask may be chosen last."""
    absorb = Transcript.absorb

    def forgetful(self: Transcript, label: str, data: bytes) -> None:
        if label != "mask link":
            absorb(self, label, data)

    monkeypatch.setattr(Transcript, "absorb", forgetful)
    return monkeypatch


# ── vectors that are not vectors of small integers ────────────────────────────────────────────

LARGE = secrets.randbelow(ORDER)
STRANGE = {
    "r and -r": [LARGE, ORDER - LARGE],
    "one half": [(ORDER + 1) // 2],
    "two halves": [(ORDER + 1) // 2, (ORDER + 1) // 2],
    "a third": [pow(3, -1, ORDER)],
    "r": [LARGE],
}


def _modular(q: list[int], s: int, statement: NormStatement) -> list[int]:
    """Values that satisfy the budget modulo the order, whatever ``q`` is."""
    rest = (statement.budget - sum((2 * number - s) ** 2 for number in q)) % ORDER
    if rest <= statement.budget:
        return [*q, s, *four_squares(rest)]
    for second in range(100):
        root = square_root(rest - second * second)
        if root is not None:
            return [*q, s, root, second, 0, 0]
    raise AssertionError


def _strange(statement: NormStatement, context: Context, name: str, *, late: bool) -> bytes:
    values = STRANGE[name] + [0] * (64 - len(STRANGE[name]))
    run = prove(statement, context, values, values=lambda q, s, _slack: _modular(q, s, statement))
    assert any(
        number >> statement.mask_bits for number in run.masked
    )  # the true sums cannot be sent
    run.masked = [0] * K2
    if late:
        run.t3 = run.link_of(run.zv)
    return run.bundle().to_bytes()


@pytest.mark.claim("C-zk-4")
@pytest.mark.parametrize("name", STRANGE)
def test_field_vectors_are_refused(name: str, small: NormStatement, context: Context) -> None:
    for late in (False, True):
        assert not accepted(small, context, _strange(small, context, name, late=late))


@pytest.mark.control("C-zk-4")
@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.usefixtures("without_link")
def test_field_vectors_pass_where_values_may_be_large(
    name: str, small: NormStatement, context: Context
) -> None:
    assert accepted(small, context, _strange(small, context, name, late=True))


@pytest.mark.control("C-zk-4")
def test_with_signs_in_place_of_bits_a_half_would_look_small() -> None:
    """Why ``R`` has entries 0 and 1: sums of +-1/2 differ by 1, whatever the signs."""
    half = (ORDER + 1) // 2
    signed = {sign * half % ORDER for sign in (1, -1)}
    assert (max(signed) - min(signed)) % ORDER in {1, ORDER - 1}
    assert {bit * half % ORDER for bit in (0, 1)} == {0, half}


@pytest.mark.claim("C-zk-4")
def test_slack_that_wraps_around_is_refused(
    small: NormStatement, context: Context, boosted: np.ndarray
) -> None:
    """The sum of squares is above the budget, and a square modulo the order makes up for it."""
    run = prove(small, context, boosted.tolist(), values=lambda q, s, _slack: _modular(q, s, small))
    assert any(number >> small.mask_bits for number in run.masked)
    run.masked = [number & ((1 << small.mask_bits) - 1) for number in run.masked]
    assert not accepted(small, context, run.bundle().to_bytes())


@pytest.mark.claim("C-zk-4")
def test_projections_of_another_vector_are_refused(
    small: NormStatement, context: Context, boosted: np.ndarray
) -> None:
    def shrunk(q: list[int], s: int, _slack: int) -> list[int]:
        short, total = [number // 50 for number in q], s // 50
        rest = small.budget - sum((2 * number - total) ** 2 for number in short)
        return [*short, total, *four_squares(rest)]

    run = prove(small, context, boosted.tolist(), values=shrunk)
    assert run.claim_error != 0
    assert not accepted(small, context, run.bundle().to_bytes())


def test_no_squares_is_refused(small: NormStatement, context: Context, boosted: np.ndarray) -> None:
    run = prove(small, context, boosted.tolist(), values=lambda q, s, _slack: [*q, s, 0, 0, 0, 0])
    assert not accepted(small, context, run.bundle().to_bytes())


@pytest.mark.claim("C-zk-21")
def test_a_product_that_is_not_that_of_the_vector_is_refused(
    context: Context, vector: np.ndarray
) -> None:
    direction = -np.sign(vector).astype(np.int16) * 100
    statement = NormStatement(64, 2**16, direction=direction, threshold=10)
    true = int(direction.astype(np.int64) @ vector)
    assert true < statement.threshold
    run = prove(statement, context, vector.tolist(), product=11)
    assert not accepted(statement, context, run.bundle().to_bytes())
    weaker = attrs.evolve(statement, threshold=true)  # the control: the same vector, the truth
    assert accepted(weaker, context, prove(weaker, context, vector.tolist()).bundle().to_bytes())


@pytest.mark.claim("C-zk-21")
def test_a_half_space_missed_by_one_with_a_wrapped_square_is_refused(
    context: Context, vector: np.ndarray
) -> None:
    direction = np.full(64, 7, dtype=np.int16)
    true = int(direction.astype(np.int64) @ vector)
    statement = NormStatement(64, 2**16, direction=direction, threshold=true)
    beyond = attrs.evolve(statement, threshold=true + 1)
    assert accepted(
        statement, context, prove(statement, context, vector.tolist()).bundle().to_bytes()
    )
    run = prove(beyond, context, vector.tolist(), product=true + 1)
    assert not accepted(beyond, context, run.bundle().to_bytes())


def test_a_vector_far_from_the_reference_is_refused(
    small: NormStatement, context: Context, honest: bytes
) -> None:
    """A proof of a short vector is none of one near another center, also with its name changed."""
    center = np.full(64, 5, dtype=np.int32)
    other = attrs.evolve(small, center=center)
    assert not accepted(other, context, honest)
    renamed = honest[:8] + Challenges(other, context).context + honest[HEADER_BYTES:]
    assert not accepted(other, context, renamed)


# ── confusion, replay, malleability ───────────────────────────────────────────────────────────


@pytest.mark.claim("C-zk-4")
def test_parameters_are_the_verifiers_own(
    small: NormStatement, context: Context, honest: bytes
) -> None:
    for other in (
        attrs.evolve(small, bound=small.bound - 1),
        attrs.evolve(small, bound=small.bound + 1),
        attrs.evolve(small, scale=1),
        attrs.evolve(small, k=512),
        attrs.evolve(small, dimension=63),
        attrs.evolve(small, dimension=2**20),
        attrs.evolve(small, direction=np.ones(64, dtype=np.int16), threshold=-(10**9)),
    ):
        assert not accepted(other, context, honest)
        renamed = honest[:8] + Challenges(other, context).context + honest[HEADER_BYTES:]
        assert not accepted(other, context, renamed)


def test_another_budget_is_not_a_parameter_of_the_bundle(
    small: NormStatement, context: Context, boosted: np.ndarray
) -> None:
    """A cheat who proves for a bound of its own is refused by the verifier's."""
    loose = attrs.evolve(small, bound=40 * small.bound)
    data = norm.prove(loose, context, commit(loose, boosted))[1].to_bytes()
    assert accepted(loose, context, data)
    assert budget(small.bound, 256) < budget(loose.bound, 256)
    assert not accepted(small, context, data)


@pytest.mark.claim("C-zk-5")
@pytest.mark.parametrize("field", ["swarm", "node", "round", "model", "roster"])
def test_replay_is_refused_also_under_the_other_name(
    field: str, small: NormStatement, context: Context, honest: bytes
) -> None:
    other: dict[str, object] = {"swarm": "lab2", "round": 8}
    elsewhere = attrs.evolve(context, **{field: other.get(field, b"x" * 32)})
    assert not accepted(small, elsewhere, honest)
    renamed = honest[:8] + Challenges(small, elsewhere).context + honest[HEADER_BYTES:]
    assert not accepted(small, elsewhere, renamed)


@pytest.mark.control("C-zk-3")
def test_any_changed_bit_is_refused(small: NormStatement, context: Context, honest: bytes) -> None:
    """One bit of every number and every point, and all bits of the header."""
    places = [(byte, bit) for byte in range(HEADER_BYTES) for bit in range(8)]
    end = HEADER_BYTES + 32 * small.points
    starts = [*range(HEADER_BYTES, end, 32), *range(end, end + 16 * MASKS, 16)]
    starts += range(end + 16 * MASKS, len(honest), 32)
    places += [(start + secrets.randbelow(16), secrets.randbelow(8)) for start in starts]
    for byte, bit in places:
        changed = bytearray(honest)
        changed[byte] ^= 1 << bit
        assert not accepted(small, context, bytes(changed)), (byte, bit)
    assert accepted(small, context, honest)


def test_swapped_fields_are_refused(small: NormStatement, context: Context, honest: bytes) -> None:
    end = HEADER_BYTES + 32 * small.points
    for first in [*range(HEADER_BYTES, end - 32, 32), *range(end + 16 * MASKS, end + 2208, 32)]:
        changed = bytearray(honest)
        changed[first : first + 32], changed[first + 32 : first + 64] = (
            honest[first + 32 : first + 64],
            honest[first : first + 32],
        )
        assert not accepted(small, context, bytes(changed)), first


def test_numbers_have_one_encoding(small: NormStatement, context: Context, honest: bytes) -> None:
    """A scalar plus the order is the same scalar, and another encoding: refused while decoding."""
    start = HEADER_BYTES + 32 * small.points + 16 * MASKS
    for place in range(start, start + 32 * 12, 32):
        value = int.from_bytes(honest[place : place + 32], "little") + ORDER
        changed = honest[:place] + value.to_bytes(32, "little") + honest[place + 32 :]
        with pytest.raises(WireError, match="QRES-E404"):
            ProofBundle.from_bytes(changed, small)
    for bad in (b"\xff" * 32, b"\x01" + bytes(31)):  # above the field's order; negative
        changed = honest[:HEADER_BYTES] + bad + honest[HEADER_BYTES + 32 :]
        with pytest.raises(WireError, match="QRES-E404"):
            ProofBundle.from_bytes(changed, small)
    assert accepted(small, context, honest)


def test_the_commitments_of_another_node_cannot_be_used(
    small: NormStatement, context: Context, honest: bytes
) -> None:
    """Copied commitments, with a proof of one's own put together from the copied one."""
    mine = attrs.evolve(context, node=b"e" * 32)
    own = norm.prove(small, mine, commit(small, np.zeros(64, dtype=np.int32)))[1].to_bytes()
    rows = slice(HEADER_BYTES, HEADER_BYTES + 32 * small.rows)
    assert accepted(small, mine, own)
    assert not accepted(small, mine, own[: rows.start] + honest[rows] + own[rows.stop :])


def test_commitments_blinded_anew_need_a_proof_of_their_own(
    small: NormStatement, context: Context, vector: np.ndarray
) -> None:
    """The response can be made to fit, but other commitments have other projections."""
    for forgotten in ("rows", None):
        with forgetting(forgotten):
            run = prove(small, context, vector.tolist())
            run.v_points[0] = add(run.v_points[0], generator())
            run.zr[0] = (run.zr[0] + run.c * run.row_factors()[0]) % ORDER
            data = run.bundle().to_bytes()
            assert accepted(small, context, data) == (forgotten is not None)


# ── batches ───────────────────────────────────────────────────────────────────────────────────


def _shifted(data: bytes, small: NormStatement, by: int) -> bytes:
    """Another response for the rows' blind; no challenge depends on it."""
    place = HEADER_BYTES + 32 * small.points + 16 * MASKS + 32
    value = (int.from_bytes(data[place : place + 32], "little") + by) % ORDER
    return data[:place] + value.to_bytes(32, "little") + data[place + 32 :]


@pytest.mark.claim("C-zk-14")
@pytest.mark.control("C-zk-14")
def test_opposite_errors_do_not_cancel_in_a_batch(
    small: NormStatement, context: Context, honest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = [(context, _shifted(honest, small, 9)), (context, _shifted(honest, small, -9))]
    assert verify_batch(small, pair) == (0, 1)
    monkeypatch.setattr(verifying.secrets, "randbits", lambda _bits: 1)  # the same for every proof
    assert verify_batch(small, pair) == ()


def test_a_batch_names_its_culprits(small: NormStatement, context: Context, honest: bytes) -> None:
    items = [(context, honest) for _ in range(9)]
    assert verify_batch(small, items) == ()
    items[2] = (context, _shifted(honest, small, 1))
    items[5] = (context, honest[:-1])
    items[7] = (attrs.evolve(context, round=9), honest)
    items[8] = (context, _shifted(honest, small, 5))
    assert verify_batch(small, items) == (2, 5, 7, 8)
    assert verify_batch(small, []) == ()


def test_randomisers_are_fresh(small: NormStatement, context: Context, honest: bytes) -> None:
    bundle = ProofBundle.from_bytes(honest, small)
    first, second = (norm.prepare(small, context, bundle) for _ in range(2))
    assert first.value != second.value
    assert not set(first.own) & set(second.own)
    assert not np.array_equal(first.vector, second.vector)
    assert len({*first.own}) == len(first.own)


def test_scalars_are_reduced_as_integers_are() -> None:
    assert scalars([-1])[0].tolist() == scalars([ORDER - 1])[0].tolist()
