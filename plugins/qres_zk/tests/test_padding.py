"""The layout has more places than the vector has coordinates: nothing in them moves a half-space.

Each attack is run under norm/v1's weights too, where the half-space's shift left the padding out:
there the false proofs are accepted, so the attacks have teeth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.aggregate import opens
from qres_zk.bundle import ProofBundle
from qres_zk.group import ORDER, Points
from qres_zk.pedersen import commit
from qres_zk.statement import DIRECTION_SHIFT, Context, NormStatement
from zk_field_prover import Run, prove
from zk_forgeries import Padded, accepted, padded_pair, shrunk

from qres_core.errors import WireError

DIMENSIONS = (9, 50, 201)


@contextmanager
def unshifted_padding() -> Iterator[None]:
    """A verifier of norm/v1."""

    def shifted(statement: NormStatement) -> np.ndarray | None:
        if statement.direction is None:
            return None
        return statement.laid_out(statement.direction.astype(np.int64) + DIRECTION_SHIFT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qres_zk.norm.verifying.shifted_direction", shifted)
        yield


def rows_of(run: Run) -> Points:
    return np.concatenate(run.v_points)


@pytest.fixture(scope="module", params=DIMENSIONS)
def pair(request: pytest.FixtureRequest) -> Padded:
    return padded_pair(request.param)


@pytest.mark.claim("C-zk-7")
@pytest.mark.control("C-zk-7", "C-zk-21")
def test_a_vector_against_the_direction_is_refused_whatever_its_padding(
    pair: Padded, context: Context
) -> None:
    statement = pair.statement
    assert pair.true(0) < statement.threshold <= pair.claimed(0)  # the lie
    forged = pair.forged(0, context).bundle().to_bytes()
    with unshifted_padding():
        assert accepted(statement, context, forged)
    assert not accepted(statement, context, forged)


@pytest.mark.claim("C-zk-7")
@pytest.mark.control("C-zk-7")
def test_two_colluders_whose_paddings_cancel_are_refused(pair: Padded, context: Context) -> None:
    """The sum of their commitments opens: only their proofs can tell."""
    statement = pair.statement
    runs = [pair.forged(at, context) for at in (0, 1)]
    sums = pair.vectors[0] + pair.vectors[1]
    blinds = [(a + b) % ORDER for a, b in zip(runs[0].blinds, runs[1].blinds, strict=True)]
    assert opens(statement, [rows_of(run) for run in runs], sums, blinds)
    proofs = [run.bundle().to_bytes() for run in runs]
    with unshifted_padding():
        assert [accepted(statement, context, proof) for proof in proofs] == [True, True]
    assert [accepted(statement, context, proof) for proof in proofs] == [False, False]


def test_a_single_vector_with_padding_does_not_open(pair: Padded, context: Context) -> None:
    run = pair.forged(0, context)
    assert not opens(pair.statement, [rows_of(run)], pair.vectors[0], run.blinds)


def test_padding_is_free_where_the_half_space_holds_without_it(
    pair: Padded, context: Context
) -> None:
    """What is proved is about the coordinates alone: padding neither helps nor harms."""
    weaker = attrs.evolve(pair.statement, threshold=pair.true(0))
    committed = [*pair.vectors[0].tolist(), *pair.paddings[0].tolist()]
    run = prove(weaker, context, committed)
    assert run.claim_error == 0
    assert accepted(weaker, context, run.bundle().to_bytes())
    above = attrs.evolve(weaker, threshold=pair.true(0) + 1)
    beyond = prove(above, context, committed, product=pair.true(0) + 1)
    assert not accepted(above, context, beyond.bundle().to_bytes())


def test_padding_counts_into_the_norm(context: Context) -> None:
    statement = NormStatement(50, 2**16)
    count = statement.rows * statement.columns - statement.dimension
    committed = [0] * 50 + [30 * 2**16] * count
    run = prove(statement, context, committed, values=shrunk(statement))
    assert run.claim_error != 0
    assert not accepted(statement, context, run.bundle().to_bytes())


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_both_provers_agree_on_layouts_with_padding(dimension: int, context: Context) -> None:
    direction = np.arange(dimension).astype(np.int16) - 4
    statement = NormStatement(dimension, 2**16, direction=direction, threshold=-(10**9))
    vector = 100 - np.arange(dimension)
    run = prove(statement, context, vector.tolist())
    assert run.claim_error == 0
    assert accepted(statement, context, run.bundle().to_bytes())
    made = norm.prove(statement, context, commit(statement, vector.astype(np.int32)))[1]
    assert accepted(statement, context, made.to_bytes())


@pytest.mark.claim("C-zk-7")
def test_a_proof_of_the_withdrawn_version_is_refused_by_name(
    small: NormStatement, context: Context, vector: np.ndarray
) -> None:
    data = norm.prove(small, context, commit(small, vector))[1].to_bytes()
    old = data[:4] + b"\x01" + data[5:]
    for cut in (len(old), 8):  # also where no more than the version came
        with pytest.raises(WireError, match=r"QRES-E406 proof\.version: norm/v1 is withdrawn"):
            ProofBundle.from_bytes(old[:cut], small)
