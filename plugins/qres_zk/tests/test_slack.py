"""How long an accepted vector can be: the table, and the rates seen in experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from qres_zk.scalar import project
from qres_zk.slack import BETA, PROJECTIONS, RETRY_BITS, SECURITY, TAU, budget, factor, honest_bound


def chi_square_cdf(x: float, k: int) -> float:
    """Distribution of the sum of k squared normals, by its series."""
    a, half = k / 2, x / 2
    term = math.exp(-half + a * math.log(half) - math.lgamma(a + 1))
    total, n = term, a
    while term > total * 1e-17:
        n += 1
        term *= half / n
        total += term
    return total


@pytest.mark.parametrize("k", PROJECTIONS)
def test_an_honest_vector_at_the_bound_seldom_fails(k: int) -> None:
    """The upper tail's bound, in closed form."""
    tau = float(TAU[k])
    assert k / 2 * (math.log2(tau) + (1 - tau) * math.log2(math.e)) <= -RETRY_BITS + 0.05


@pytest.mark.control("C-zk-6")
@pytest.mark.parametrize("k", PROJECTIONS)
def test_the_table_is_no_better_than_a_normal_vector_allows(k: int) -> None:
    """For normal vectors the lower tail is that of chi-square: beta is below its quantile."""
    for security in SECURITY:
        assert chi_square_cdf(k * float(BETA[k, security]), k) < 2.0**-security


@pytest.mark.claim("C-zk-6")
def test_the_table_is_that_of_the_documentation() -> None:
    found = {key: round(factor(*key), 2) for key in BETA}
    assert found == {
        (256, 128): 3.75, (256, 80): 2.16, (256, 40): 1.7,
        (512, 128): 1.85, (512, 80): 1.62, (512, 40): 1.44,
        (1024, 128): 1.51, (1024, 80): 1.4, (1024, 40): 1.29,
    }  # fmt: skip


def test_the_honest_bound_is_exact() -> None:
    for key in BETA:
        for policy in (1, 100, 10**6, 2**40 + 1):
            bound = honest_bound(policy, *key)
            square = TAU[key[0]] / BETA[key]
            assert bound**2 * square <= policy**2 < (bound + 1) ** 2 * square


def rate(vector: np.ndarray, k: int, bound: int, tries: int) -> int:
    """How many of some tries of a cheater pass: each has its own random matrix."""
    most, total = budget(bound, k), int(vector.sum(dtype=np.int64))
    passed = 0
    for number in range(tries):
        sums = project(vector, number.to_bytes(32, "little"), k)
        passed += sum((2 * item - total) ** 2 for item in sums) <= most
    return passed


def scaled(kind: str, ratio: float, bound: int) -> np.ndarray:
    rng = np.random.default_rng(11)
    shape = {
        "normal": rng.normal(size=64),
        "two": np.eye(64)[3] + np.eye(64)[40],
        "one": np.eye(64)[5],
    }[kind]
    vector = shape / np.linalg.norm(shape) * ratio * bound
    return np.rint(vector).astype(np.int32).reshape(4, 16)


@pytest.mark.claim("C-zk-6")
@pytest.mark.parametrize("ratio", [1.0, 1.1, 1.2, 1.5, 2.0, 4.0])
def test_vectors_above_the_bound_pass_no_more_often_than_predicted(ratio: float) -> None:
    """Normal vectors: rates of the table, within five standard deviations."""
    k, bound, tries = 256, 2**16, 400
    predicted = chi_square_cdf(k * float(TAU[k]) / ratio**2, k)
    passed = rate(scaled("normal", ratio, bound), k, bound, tries)
    assert passed <= tries * predicted + 5 * math.sqrt(tries * predicted) + 3 * (predicted > 1e-9)
    if ratio == 1.0:
        assert passed == tries
    if ratio >= 1.5:
        assert passed == 0


@pytest.mark.control("C-zk-6")
@pytest.mark.parametrize("kind", ["one", "two"])
def test_sparse_vectors_pass_up_to_the_slack_and_no_further(kind: str) -> None:
    """The square of a single entry's projection does not vary at all."""
    k, bound = 256, 2**16
    root = math.sqrt(float(TAU[k]))
    assert rate(scaled("one", 0.999 * root, bound), k, bound, 20) == 20
    assert rate(scaled("one", 1.001 * root, bound), k, bound, 20) == 0
    for ratio in (factor(k, 40), factor(k, 128)):
        assert rate(scaled(kind, ratio, bound), k, bound, 100) == 0
