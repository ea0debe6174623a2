"""For every item the transcript absorbs: without it, a forgery that otherwise fails passes.

Each case is run twice. With the item left out of prover's and verifier's transcript alike, a false
statement is accepted; that shows that the test has teeth. With the transcript as it is, the same
cheat is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.group import ORDER, add, hash_to_group
from qres_zk.squares import four_squares
from qres_zk.statement import Context, NormStatement
from qres_zk.transcript import Transcript
from zk_field_prover import K2, Run, minus, point, prove, square_root, times
from zk_lattice import small_solution

from qres_core import WireError


@contextmanager
def forgetting(monkeypatch: pytest.MonkeyPatch, item: str | None) -> Iterator[list[str]]:
    """A transcript that drops one item; lists the labels it was given."""
    absorb = Transcript.absorb
    seen: list[str] = []

    def forgetful(self: Transcript, label: str, data: bytes) -> None:
        seen.append(label)
        if label != item:
            absorb(self, label, data)

    with monkeypatch.context() as patch:
        patch.setattr(Transcript, "absorb", forgetful)
        yield seen


def accepted(statement: NormStatement, context: Context, data: bytes) -> bool:
    try:
        norm.verify(statement, context, ProofBundle.from_bytes(data, statement))
    except WireError:
        return False
    return True


# ── what cheats commit to ─────────────────────────────────────────────────────────────────────


def no_squares(q: list[int], s: int, slack: int) -> list[int]:
    """The true projections, and zeros in place of squares that do not exist."""
    assert slack < 0
    return [*q, s, 0, 0, 0, 0]


def wrapped(q: list[int], s: int, slack: int) -> list[int]:
    """A square that is negative over the integers and fits modulo the order."""
    for second in range(100):
        root = square_root(slack - second * second)
        if root is not None:
            return [*q, s, root, second, 0, 0]
    raise AssertionError


def shrunk(statement: NormStatement) -> Callable[[list[int], int, int], list[int]]:
    """Projections of another, shorter vector."""

    def values(q: list[int], s: int, slack: int) -> list[int]:
        assert slack < 0
        short, total = [number // 100 for number in q], s // 100
        rest = statement.budget - sum((2 * number - total) ** 2 for number in short)
        return [*short, total, *four_squares(rest)]

    return values


# ── cheats, by the item that must stop them ───────────────────────────────────────────────────


def late_values(run: Run) -> None:
    """Responses first, then the commitment they open."""
    run.solve_square(run.quadratic_target())
    run.relink()
    opened = point(run.zv, run.bases, run.zr[1])
    run.cv = times(minus(opened, run.dv), pow(run.c, -1, ORDER))


def late_value_masks(run: Run) -> None:
    run.solve_square(run.quadratic_target())
    run.relink()
    run.dv = minus(point(run.zv, run.bases, run.zr[1]), times(run.cv, run.c))


def late_low(run: Run) -> None:
    index = len(run.crosses) - 2
    error = -run.product * run.claim_error * pow(run.cross_factor(index), -1, ORDER)
    run.crosses[index] = add(run.crosses[index], run.com(error, 0))


def late_high(run: Run) -> None:
    index = len(run.crosses) - 1
    error = -run.product * run.claim_error * pow(run.cross_factor(index), -1, ORDER)
    run.crosses[index] = add(run.crosses[index], run.com(error, 0))


def late_row_masks(run: Run) -> None:
    error = run.c * run.product * run.claim_error
    run.zu[0] = (run.zu[0] + error * pow(run.weight_row[0], -1, ORDER)) % ORDER
    run.du = minus(point(run.zu, run.bases, run.zr[0]), times(run.folded_rows(), run.c))


def late_claim_mask(run: Run) -> None:
    opened = run.com(run.claimed(), run.zr[2])
    run.e = minus(opened, times(run.folded_crosses(), run.c))


def late_square(run: Run) -> None:
    opened = run.com(run.quadratic(run.zv) - run.c**2 * run.constant, run.zr[3])
    run.w0 = minus(opened, times(run.w1, run.c))


def late_cross(run: Run) -> None:
    opened = run.com(run.quadratic(run.zv) - run.c**2 * run.constant, run.zr[3])
    run.w1 = times(minus(opened, run.w0), pow(run.c, -1, ORDER))


def late_link(run: Run) -> None:
    run.masked = [0] * K2  # as absorbed: the true ones do not fit
    run.t3 = run.link_of(run.zv)


def late_rows(run: Run) -> None:
    """Move a huge value from one row to another, weighted by the known challenges."""
    first, second = run.row_factors()[:2]
    huge = point([2**40], run.bases, 0)
    run.v_points[0] = add(run.v_points[0], huge)
    run.v_points[1] = minus(run.v_points[1], times(huge, first * pow(second, -1, ORDER)))


def late_masked(statement: NormStatement) -> Callable[[list[int], list[int]], list[int]]:
    """Small masked sums that satisfy the link equation of values that are not small.

    Most of what is wanted is spread over all sums alike, the rest is a lattice's business.
    """

    def masked(true: list[int], link: list[int]) -> list[int]:
        half = 1 << (statement.mask_bits - 1)
        wanted = sum(a * b for a, b in zip(link, true, strict=True)) - half * sum(link)
        wanted = (wanted + ORDER // 2) % ORDER - ORDER // 2
        each = wanted // sum(link)
        few = small_solution(link[:10], wanted - each * sum(link))
        return [half + each + item for item in few] + [half + each] * (K2 - 10)

    return masked


LATE: dict[str, tuple[str, Callable[[Run], None]]] = {
    "values": ("no squares", late_values),
    "low": ("shrunk", late_low),
    "high": ("shrunk", late_high),
    "mask rows": ("shrunk", late_row_masks),
    "mask values": ("no squares", late_value_masks),
    "mask claim": ("shrunk", late_claim_mask),
    "mask square": ("no squares", late_square),
    "mask cross": ("no squares", late_cross),
    "mask link": ("wrapped", late_link),
}


@pytest.mark.parametrize("item", LATE)
def test_what_the_prover_says(
    item: str,
    small: NormStatement,
    context: Context,
    boosted: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, cheat = LATE[item]
    values = {"no squares": no_squares, "wrapped": wrapped, "shrunk": shrunk(small)}[kind]
    for forgotten in (item, None):
        with forgetting(monkeypatch, forgotten) as seen:
            run = prove(small, context, boosted.tolist(), values=values)
            cheat(run)
            assert accepted(small, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert item in seen


def test_rows(
    small: NormStatement, context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for forgotten in ("rows", None):
        with forgetting(monkeypatch, forgotten) as seen:
            run = prove(small, context, vector.tolist())
            late_rows(run)
            assert accepted(small, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert "rows" in seen


def test_masked_sums(context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks must be as long as they may: with shorter ones even this cheat finds no sums."""
    along = np.full(64, 32767, dtype=np.int16)
    statement = NormStatement(64, 2**28, direction=along, threshold=-(2**46))
    assert statement.mask_bits == 118
    huge = (vector.astype(np.int64) * 2**17).tolist()
    cheat = late_masked(statement)
    for forgotten in ("masked", None):
        with forgetting(monkeypatch, forgotten) as seen:
            fits = False
            while not fits:  # seldom a second time: what is wanted is uniform modulo the order
                run = prove(statement, context, huge, values=wrapped, masked=cheat)
                fits = all(0 <= number < 1 << statement.mask_bits for number in run.masked)
            assert accepted(statement, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert "masked" in seen


def test_reference(context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A direction chosen after the proof: an update against it passes as one along it."""
    first = np.array([-1000] * 64, dtype=np.int16) * np.sign(vector).astype(np.int16)
    statement = NormStatement(64, 2**16, direction=first, threshold=10**6)
    for forgotten in ("reference", None):
        with forgetting(monkeypatch, forgotten) as seen:
            run = prove(statement, context, vector.tolist(), product=2 * 10**6)
            direction = _fitting_direction(run, first)
            late = attrs.evolve(statement, direction=direction)
            assert int(direction.astype(np.int64) @ vector) < late.threshold  # the lie
            assert accepted(late, context, run.bundle().to_bytes()) == (forgotten is not None)
        assert "reference" in seen


def _fitting_direction(run: Run, direction: np.ndarray) -> np.ndarray:
    """Change 30 entries of the direction so that the false claim fits the given proof."""
    columns, xs = run.statement.columns, run.xs
    rows, folds = run.statement.rows, len(xs)
    factors = []
    for row in range(rows):
        factor = 1
        for bit, x in enumerate(xs):
            factor = factor * (1 if (row >> (folds - 1 - bit)) & 1 else x) % ORDER
        factors.append(factor)
    coefficients = [
        run.combination.direction * factors[i // columns] * run.zu[i % columns] % ORDER
        for i in range(30)
    ]
    # The cross commitments are to the old direction; their sum's error is what must be made up.
    wanted = run.c * run.product * run.claim_error
    changes = small_solution(coefficients, wanted)
    fitted = direction.astype(np.int64)
    fitted[:30] += changes
    assert np.abs(fitted).max() < 2**15
    return fitted.astype(np.int16)


@pytest.mark.parametrize("item", ["swarm", "node", "round", "model", "roster"])
def test_replay_into_another_context(
    item: str,
    small: NormStatement,
    context: Context,
    vector: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {"swarm": "war", "node": b"o" * 32, "round": 8, "model": bytes(32), "roster": bytes(32)}
    for forgotten in (item, None):
        with forgetting(monkeypatch, forgotten) as seen:
            data = prove(small, context, vector.tolist()).bundle().to_bytes()
            elsewhere = attrs.evolve(context, **{item: other[item]})
            assert accepted(small, context, data)
            assert accepted(small, elsewhere, data) == (forgotten is not None)
        assert item in seen


def test_parameters(
    small: NormStatement, context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proof on a coarse grid passes on a fine one: its bound is another real number."""
    coarse = attrs.evolve(small, scale=4)
    for forgotten in ("parameters", None):
        with forgetting(monkeypatch, forgotten) as seen:
            data = prove(coarse, context, vector.tolist()).bundle().to_bytes()
            assert accepted(small, context, data) == (forgotten is not None)
        assert "parameters" in seen


def test_protocol(
    small: NormStatement, context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for forgotten in ("protocol", None):
        with forgetting(monkeypatch, forgotten) as seen:
            with monkeypatch.context() as patch:
                patch.setattr("qres_zk.challenges.PROTOCOL", b"another protocol")
                data = prove(small, context, vector.tolist()).bundle().to_bytes()
            assert accepted(small, context, data) == (forgotten is not None)
        assert "protocol" in seen


def test_no_item_is_without_its_forgery(
    context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = NormStatement(64, 2**16, direction=np.ones(64, dtype=np.int16), threshold=-(10**9))
    with forgetting(monkeypatch, None) as seen:
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
