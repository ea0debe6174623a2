"""For every item the transcript absorbs: without it, a forgery that otherwise fails passes.

Each case is run twice. With the item left out of prover's and verifier's transcript alike, a false
statement is accepted; that shows that the test has teeth. With the transcript as it is, the same
cheat is refused.
"""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.group import hash_to_group
from qres_zk.statement import Context, NormStatement
from qres_zk.transcript import Transcript
from zk_field_prover import prove
from zk_forgeries import (
    LATE,
    accepted,
    fitting_direction,
    forgetting,
    late_masked,
    late_rows,
    no_squares,
    shrunk,
    wrapped,
)

from qres_core.errors import WireError


@pytest.mark.claim("C-zk-5")
@pytest.mark.control("C-zk-5")
@pytest.mark.parametrize("item", LATE)
def test_what_the_prover_says(
    item: str,
    small: NormStatement,
    context: Context,
    boosted: np.ndarray,
) -> None:
    kind, cheat = LATE[item]
    values = {"no squares": no_squares, "wrapped": wrapped, "shrunk": shrunk(small)}[kind]
    for forgotten in (item, None):
        with forgetting(forgotten) as seen:
            run = prove(small, context, boosted.tolist(), values=values)
            cheat(run)
            assert accepted(small, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert item in seen


@pytest.mark.claim("C-zk-5")
@pytest.mark.control("C-zk-5")
def test_rows(small: NormStatement, context: Context, vector: np.ndarray) -> None:
    for forgotten in ("rows", None):
        with forgetting(forgotten) as seen:
            run = prove(small, context, vector.tolist())
            late_rows(run)
            assert accepted(small, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert "rows" in seen


@pytest.mark.claim("C-zk-5")
@pytest.mark.control("C-zk-5")
def test_masked_sums(context: Context, vector: np.ndarray) -> None:
    """The masks must be as long as they may: with shorter ones even this cheat finds no sums."""
    along = np.full(64, 32767, dtype=np.int16)
    statement = NormStatement(64, 2**28, direction=along, threshold=-(2**46))
    assert statement.mask_bits == 118
    huge = (vector.astype(np.int64) * 2**17).tolist()
    cheat = late_masked(statement)
    for forgotten in ("masked", None):
        with forgetting(forgotten) as seen:
            fits = False
            while not fits:  # seldom a second time: what is wanted is uniform modulo the order
                run = prove(statement, context, huge, values=wrapped, masked=cheat)
                fits = all(0 <= number < 1 << statement.mask_bits for number in run.masked)
            assert accepted(statement, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert "masked" in seen


def test_reference(context: Context, vector: np.ndarray) -> None:
    """A direction chosen after the proof: an update against it passes as one along it."""
    first = np.array([-1000] * 64, dtype=np.int16) * np.sign(vector).astype(np.int16)
    statement = NormStatement(64, 2**16, direction=first, threshold=10**6)
    for forgotten in ("reference", None):
        with forgetting(forgotten) as seen:
            run = prove(statement, context, vector.tolist(), product=2 * 10**6)
            direction = fitting_direction(run, first)
            late = attrs.evolve(statement, direction=direction)
            assert int(direction.astype(np.int64) @ vector) < late.threshold  # the lie
            assert accepted(late, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert "reference" in seen


@pytest.mark.claim("C-zk-5")
@pytest.mark.parametrize("item", ["swarm", "node", "round", "model", "roster"])
def test_replay_into_another_context(
    item: str,
    small: NormStatement,
    context: Context,
    vector: np.ndarray,
) -> None:
    other = {"swarm": "war", "node": b"o" * 32, "round": 8, "model": bytes(32), "roster": bytes(32)}
    for forgotten in (item, None):
        with forgetting(forgotten) as seen:
            data = prove(small, context, vector.tolist()).bundle().to_bytes()
            elsewhere = attrs.evolve(context, **{item: other[item]})
            assert accepted(small, context, data)
            assert accepted(small, elsewhere, data) == (forgotten is not None)
        assert item in seen


@pytest.mark.claim("C-zk-5")
@pytest.mark.control("C-zk-5")
def test_parameters(small: NormStatement, context: Context, vector: np.ndarray) -> None:
    """A proof on a coarse grid passes on a fine one: its bound is another real number."""
    coarse = attrs.evolve(small, scale=4)
    for forgotten in ("parameters", None):
        with forgetting(forgotten) as seen:
            data = prove(coarse, context, vector.tolist()).bundle().to_bytes()
            assert accepted(small, context, data) == (forgotten is not None)
        assert "parameters" in seen


def test_protocol(
    small: NormStatement, context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for forgotten in ("protocol", None):
        with forgetting(forgotten) as seen:
            with monkeypatch.context() as patch:
                patch.setattr("qres_zk.challenges.PROTOCOL", b"another protocol")
                data = prove(small, context, vector.tolist()).bundle().to_bytes()
            assert accepted(small, context, data) == (forgotten is not None)
        assert "protocol" in seen


@pytest.mark.control("C-zk-5")
def test_no_item_is_without_its_forgery(context: Context, vector: np.ndarray) -> None:
    statement = NormStatement(64, 2**16, direction=np.ones(64, dtype=np.int16), threshold=-(10**9))
    with forgetting(None) as seen:
        prove(statement, context, vector.tolist())
    tested = {*LATE, "rows", "masked", "reference", "parameters", "protocol"}
    tested |= {"swarm", "node", "round", "model", "roster"}
    assert set(seen) - {"challenge"} == tested


@pytest.mark.parametrize("item", [*LATE, "rows", "masked"])
def test_challenges_after_an_item_depend_on_it_and_those_before_do_not(
    item: str,
    small: NormStatement,
    context: Context,
    vector: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = prove(small, context, vector.tolist()).bundle().to_bytes()
    bundle = ProofBundle.from_bytes(data, small)
    absorb = Transcript.absorb
    answers: list[list[tuple[str, bytes]]] = []
    for flip in (False, True):
        found: list[tuple[str, bytes]] = []
        flipped = False

        def changed(
            self: Transcript,
            label: str,
            octets: bytes,
            *,
            flip: bool = flip,
            found: list[tuple[str, bytes]] = found,
        ) -> None:
            nonlocal flipped
            if flip and label == item and not flipped:
                octets, flipped = bytes([octets[0] ^ 1]) + octets[1:], True
                found.append(("*", b""))
            absorb(self, label, octets)
            if label == "challenge":
                found.append((octets.decode("latin1"), self._hash.copy().digest(16)))

        with monkeypatch.context() as patch:
            patch.setattr(Transcript, "absorb", changed)
            try:
                norm.prepare(small, context, bundle)
            except WireError:
                assert flip
        answers.append(found)
    plain, altered = answers
    place = altered.index(("*", b""))
    altered.remove(("*", b""))
    assert plain[:place] == altered[:place]
    assert len(plain) == len(altered) > place
    assert all(a != b for a, b in zip(plain[place:], altered[place:], strict=True))


def test_generators_have_no_known_relation() -> None:
    """The value base is none of the vector's, and labels separate them."""
    vector = hash_to_group(b"vector", 0, 8)
    assert not any(np.array_equal(hash_to_group(b"value")[0], item) for item in vector)
