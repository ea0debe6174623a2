"""Honest proofs are accepted; nothing else is told."""

from __future__ import annotations

import random
import re
import secrets
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import qres_zk
import zk_field_prover
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.group import encode, integers
from qres_zk.norm import proving
from qres_zk.pedersen import commit
from qres_zk.statement import Context, NormStatement, rows_of

from qres_core.errors import CompatibilityError, ValueRefusedError

RNG = np.random.default_rng(8)


def at_norm(direction: np.ndarray, bound: int) -> np.ndarray:
    """An integer vector of at most this norm, close to it."""
    scaled = direction / np.linalg.norm(direction) * bound
    return np.trunc(scaled * (1 - 1e-12)).astype(np.int32)


def prove(statement: NormStatement, context: Context, vector: np.ndarray) -> bytes:
    _commitment, bundle = norm.prove(statement, context, commit(statement, vector))
    return bundle.to_bytes()


def verify(statement: NormStatement, context: Context, data: bytes) -> None:
    norm.verify(statement, context, ProofBundle.from_bytes(data, statement))


@pytest.mark.claim("C-zk-3")
@pytest.mark.parametrize("d", [1, 2, 7, 8, 33, 200])
def test_every_layout(d: int, context: Context) -> None:
    statement = NormStatement(d, 2**18)
    assert statement.rows * statement.columns >= d
    data = prove(statement, context, at_norm(RNG.normal(size=d), 2**18))
    assert len(data) == statement.bundle_bytes
    verify(statement, context, data)


@pytest.mark.parametrize("k", [512, 1024])
def test_more_projections(k: int, context: Context) -> None:
    statement = NormStatement(50, 2**18, k=k)
    verify(statement, context, prove(statement, context, at_norm(RNG.normal(size=50), 2**18)))


@pytest.mark.parametrize("kind", ["zero", "one hot", "all equal", "extreme"])
def test_vectors_at_the_edge(kind: str, context: Context) -> None:
    bound = 2**31 - 1 if kind == "extreme" else 2**16
    statement = NormStatement(40, bound)
    vector = np.zeros(40, dtype=np.int32)
    if kind in {"one hot", "extreme"}:
        vector[17] = -bound
    elif kind == "all equal":
        vector[:] = at_norm(np.ones(40), bound)
    verify(statement, context, prove(statement, context, vector))


def test_a_ball_around_a_reference(context: Context) -> None:
    center = RNG.integers(-(2**20), 2**20, 64).astype(np.int32)
    statement = NormStatement(64, 2**12, center=center)
    near = center + at_norm(RNG.normal(size=64), 2**12)
    verify(statement, context, prove(statement, context, near))
    with pytest.raises(ValueRefusedError, match="QRES-E510"):
        prove(statement, context, np.zeros(64, dtype=np.int32))


@pytest.mark.claim("C-zk-21")
def test_a_half_space(context: Context) -> None:
    direction = RNG.integers(-32767, 32768, 64).astype(np.int16)
    vector = at_norm(direction.astype(float), 2**16)
    product = int(direction.astype(np.int64) @ vector)
    statement = NormStatement(64, 2**16, direction=direction, threshold=product)
    verify(statement, context, prove(statement, context, vector))
    for beyond in (attrs.evolve(statement, threshold=product + 1), statement):
        shorter = vector if beyond is not statement else vector // 2
        with pytest.raises(ValueRefusedError, match="below the threshold"):
            prove(beyond, context, shorter)


def test_ball_and_half_space_around_a_reference(context: Context) -> None:
    center = RNG.integers(-500, 500, 100).astype(np.int32)
    direction = RNG.integers(-100, 101, 100).astype(np.int16)
    vector = center + at_norm(direction.astype(float), 3000)
    product = int(direction.astype(np.int64) @ vector)
    statement = NormStatement(100, 3000, center=center, direction=direction, threshold=product)
    verify(statement, context, prove(statement, context, vector))


@pytest.mark.claim("C-zk-3")
def test_the_second_prover_agrees(
    small: NormStatement, context: Context, vector: np.ndarray
) -> None:
    run = zk_field_prover.prove(small, context, vector.tolist())
    assert zk_field_prover.same_link(run)
    assert run.claim_error == 0
    verify(small, context, run.bundle().to_bytes())


def test_the_second_prover_agrees_about_a_half_space(context: Context, vector: np.ndarray) -> None:
    direction = RNG.integers(-32767, 32768, 64).astype(np.int16)
    statement = NormStatement(64, 2**16, direction=direction, threshold=-(10**10))
    run = zk_field_prover.prove(statement, context, vector.tolist())
    assert run.claim_error == 0
    verify(statement, context, run.bundle().to_bytes())


@pytest.mark.claim("C-zk-3")
def test_a_vector_above_the_bound_is_not_proved(small: NormStatement, context: Context) -> None:
    vector = np.zeros(64, dtype=np.int32)
    vector[3], vector[9] = 2**16, 1
    with pytest.raises(ValueRefusedError, match="QRES-E510"):
        prove(small, context, vector)


def test_a_second_attempt_has_another_blind_and_is_no_less_valid(
    small: NormStatement, context: Context, vector: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = proving._values
    calls: list[int] = []

    def unlucky(*arguments: object) -> list[int] | None:
        calls.append(1)
        return None if len(calls) < 3 else values(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(proving, "_values", unlucky)
    first = commit(small, vector)
    final, bundle = norm.prove(small, context, first)
    assert len(calls) == 3
    assert integers(final.blinds)[1:] == integers(first.blinds)[1:]
    assert integers(final.blinds)[0] != integers(first.blinds)[0]
    assert encode(final.points) == bundle.cut(0, small.rows)
    assert bundle.cut(0) != encode(first.points[:1])
    verify(small, context, bundle.to_bytes())


@pytest.mark.claim("C-zk-11")
def test_nothing_is_used_twice(small: NormStatement, context: Context, vector: np.ndarray) -> None:
    item, two = (prove(small, context, vector) for _ in range(2))
    pieces = [
        {data[40 + 32 * n : 72 + 32 * n] for n in range(len(data) // 32 - 2)}
        for data in (item, two)
    ]
    assert not pieces[0] & pieces[1]


@pytest.mark.claim("C-zk-11")
def test_masked_sums_look_the_same_for_zero_and_for_a_vector_at_the_bound(
    small: NormStatement, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their upper bits are uniform: chi-square over 16 cells, for both."""
    monkeypatch.setattr(secrets, "randbits", random.Random(1).getrandbits)  # no chance decides
    for vector in (np.zeros(64, dtype=np.int32), at_norm(np.ones(64), 2**16)):
        masked: list[int] = []
        for _ in range(8):
            _commitment, bundle = norm.prove(small, context, commit(small, vector))
            masked += bundle.masked
        cells = np.bincount([number >> (small.mask_bits - 4) for number in masked], minlength=16)
        expected = len(masked) / 16
        assert ((cells - expected) ** 2 / expected).sum() < 50  # 15 degrees: one in 10**5


@pytest.mark.control("C-zk-11")
def test_control_masks_that_are_not_random_would_be_seen(
    small: NormStatement, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving.secrets, "randbits", lambda bits: 1 << (bits - 1))
    _commitment, bundle = norm.prove(small, context, commit(small, np.zeros(64, dtype=np.int32)))
    assert len({number >> (small.mask_bits - 4) for number in bundle.masked}) <= 2


def test_a_bound_too_large_for_the_group_is_refused() -> None:
    with pytest.raises(CompatibilityError, match="QRES-E313"):
        NormStatement(2**20, 2**31 - 1)
    assert NormStatement(2**20, 2**28).mask_bits <= 118


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dimension": 0}, "no statement with d = 0"),
        ({"bound": 0}, "no statement"),
        ({"bound": 2**31}, "no statement"),
        ({"k": 300}, "k = 300"),
        ({"center": np.zeros(63, np.int32)}, "expected shape"),
        ({"direction": np.ones((64, 1), np.int16)}, "expected shape"),
        ({"direction": np.full(64, -(2**15), np.int16)}, "the direction must be within"),
        ({"direction": np.ones(64, np.int16), "threshold": 2**240}, "more than 240 bits"),
        ({"direction": np.ones(64, np.int16), "threshold": -(2**240)}, "more than 240 bits"),
    ],
)
def test_a_statement_out_of_range_is_refused(
    small: NormStatement, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        attrs.evolve(small, **changes)
    direction = np.full(64, -(2**15) + 1, np.int16)
    assert attrs.evolve(small, direction=direction, threshold=2**240 - 1).bound == small.bound


def test_layout_is_the_documented_one() -> None:
    assert [rows_of(d) for d in (1, 7, 8, 1000, 10**4, 10**5, 10**6)] == [1, 1, 2, 16, 64, 128, 512]


def test_no_module_draws_secrets_from_anywhere_but_the_operating_system() -> None:
    folder = Path(qres_zk.__file__).parent
    # The exhibits of the attack gallery play attackers with repeatable data.
    for path in set(folder.rglob("*.py")) - {folder / "gallery.py"}:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"np\.random|numpy\.random|import random|default_rng", text), path


def test_a_million_coordinates_fit_a_hundred_kibibytes() -> None:
    assert NormStatement(10**6, 2**19).bundle_bytes <= 100 * 1024
