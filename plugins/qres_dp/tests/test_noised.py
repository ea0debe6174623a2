"""What ``noised`` makes of the sampler: to the bit, by residues, and far out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from qres_dp import discrete_gaussian as sampler
from qres_dp.discrete_gaussian import BLOCK, TAIL_BITS, cumulative
from qres_dp.modes import Mechanism, Mode, Relation
from qres_dp.randomness import REKEY_BYTES, Keystream
from qres_dp.releases import local
from qres_dp_audit import noise as check
from qres_dp_audit import reference

NARROW, WIDE, WIDEST = Fraction(500**2), Fraction(40_000**2) + Fraction(1, 3), Fraction(2**48)
KEY = bytes(range(32))


class Noise(Mechanism):
    """A mechanism that draws noise of this variance."""

    @property
    def share(self) -> Fraction:
        return Fraction(self.noise_multiplier)


def mechanism(variance: Fraction) -> Mechanism:
    made = Noise(Mode.LOCAL, Relation.ADD_REMOVE, 1000, 1.0)
    object.__setattr__(made, "noise_multiplier", variance)
    return made


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "fresh_key", lambda: KEY)


# ── to the bit ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-2")
@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("size", [1, 1000, BLOCK + 77])
@pytest.mark.parametrize("variance", [Fraction(64), NARROW, Fraction(2**20 + 1), WIDE, WIDEST])
def test_what_leaves_is_the_row_and_the_noise_of_the_reference(
    variance: Fraction, size: int
) -> None:
    row = np.random.default_rng(size).integers(-1000, 1000, size).astype(np.int32)
    made = local.noised(row, mechanism(variance))
    np.testing.assert_array_equal(made, row + reference.noise(variance, size, KEY))


def test_every_release_draws_a_key_of_32_bytes_and_uses_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return bytes(size - 1) + b"\1"

    monkeypatch.setattr("os.urandom", urandom)
    row = np.zeros(50, dtype=np.int32)
    made = [local.noised(row, mechanism(NARROW)) for _ in range(2)]
    assert asked == [32, 32]
    for part in made:
        np.testing.assert_array_equal(part, reference.noise(NARROW, 50, bytes(31) + b"\1"))
    for place in range(32):  # each of its bytes counts
        other = bytearray(31) + b"\1"
        other[place] ^= 128
        assert (reference.noise(NARROW, 50, bytes(other)) != made[0]).any()


class Extremes:
    """In the place of the stream: all bits 0, or all 1."""

    octet = 0

    def __init__(self, key: bytes) -> None:
        del key

    def fill(self, out: NDArray[np.uint8]) -> None:
        out[:] = self.octet

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.full(count, 2**64 - 1 if self.octet else 0, dtype=np.uint64)

    def bits(self, count: int) -> int:
        return (1 << count) - 1 if self.octet else 0


@pytest.mark.parametrize("octet", [0, 255])
@pytest.mark.parametrize("variance", [NARROW, WIDE])
def test_noise_reaches_as_far_as_256_bits_tell(
    variance: Fraction, octet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut, at however many deviations, would show: the least probable outcome comes out."""
    monkeypatch.setattr(sampler, "Keystream", Extremes)
    monkeypatch.setattr(Extremes, "octet", octet)
    (made,) = local.noised(np.zeros(1, dtype=np.int32), mechanism(variance))
    farthest = math.sqrt(2 * TAIL_BITS * math.log(2))  # deviations
    assert abs(made) > 0.95 * farthest * math.sqrt(variance)
    assert bool(made > 0) is bool(octet)


# ── by residues, and far out ──────────────────────────────────────────────────────────────────


def drawn(variance: Fraction, releases: int) -> Iterator[NDArray[np.int32]]:
    for _ in range(releases):
        yield local.noised(np.zeros(2**20, dtype=np.int32), mechanism(variance))


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize(("variance", "releases"), [(NARROW, 56), (WIDE, 4)])
def test_residues_and_tails_are_those_of_the_distribution(
    variance: Fraction, releases: int
) -> None:
    """Residues modulo 2 to 1024, tails to five deviations; the same bytes each time."""
    assert check.worst(variance, drawn(variance, releases)) < check.LIMIT


Change = Callable[[NDArray[np.int32]], NDArray[np.int32]]


def cut(far: float) -> Change:
    most = int(far * math.sqrt(NARROW))
    return lambda noise: np.clip(noise, -most, most)


def masked(mask: int) -> Change:
    return lambda noise: noise & np.int32(mask)


def shrunk(factor: float) -> Change:
    return lambda noise: np.rint(noise * factor).astype(np.int32)


def short(noise: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.where(np.arange(noise.size) < BLOCK, noise, np.int32(0))


@pytest.mark.control("C-dp-2")
@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize(
    ("variance", "releases", "change"),
    [
        (NARROW, 56, cut(5.0)),
        (NARROW, 14, cut(4.4)),
        (NARROW, 2, masked(-2)),
        (NARROW, 2, shrunk(0.5)),
        (NARROW, 2, short),
        (WIDE, 2, masked(-2)),
        (WIDE, 2, masked(-1024)),
        (WIDE, 2, shrunk(0.99)),
    ],
)
def test_control_noise_that_is_not_that_of_the_table_is_found(
    variance: Fraction, releases: int, change: Change
) -> None:
    rows = (change(row) for row in drawn(variance, releases))
    assert check.worst(variance, rows) > check.LIMIT


def test_the_limit_holds_for_the_counts_of_a_binomial() -> None:
    """Chernoff's bound is never below the exact tail."""
    size, rate = 400, 0.03
    exact = [math.comb(size, k) * rate**k * (1 - rate) ** (size - k) for k in range(size + 1)]
    for count in range(size + 1):
        tail = sum(exact[: count + 1]) if count < size * rate else sum(exact[count:])
        assert math.exp(-check.surprise(count, size, rate)) >= tail * (1 - 1e-9)


# ── the reference and the stream ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("variance", [Fraction(64), Fraction(70_001, 7), NARROW])
def test_the_reference_has_the_distribution_of_integers(variance: Fraction) -> None:
    """Two computations that share nothing: decimals, and integers of 384 bits."""
    found, far = reference.table(variance)
    exact = cumulative(variance)
    middle = len(exact) // 2
    for k in range(-far, far, max(1, far // 50)):
        assert abs(found[k + far] - exact[k + middle]) < 2 ** (256 - 100)
    chances, reach = reference.chances(variance)
    assert chances[: reach + 1].sum() == pytest.approx(exact[middle] / 2**256, rel=1e-12)


@pytest.mark.parametrize("block", [2**8, 2**16, 2**24])
def test_the_counter_does_not_wrap(block: int) -> None:
    """It has 128 bits; a counter of one, two or three bytes would repeat the stream here."""
    stream, part = Keystream(KEY), np.empty(2**22, dtype=np.uint8)
    for start in range(0, 16 * block, part.size):
        stream.fill(part[: min(part.size, 16 * block - start)])
    stream.fill(part[:32])
    cipher = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()  # noqa: S305 - the definition
    expected = [cipher.update((block + i).to_bytes(16, "big")) for i in range(2)]
    assert part[:32].tobytes() == b"".join(expected)
    assert 16 * block + 32 < REKEY_BYTES
