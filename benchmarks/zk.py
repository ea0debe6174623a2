"""What zero-knowledge proofs cost: the group, and the protocol on it.

Run ``python benchmarks/zk.py [--quick] [--json]``. Times are process times of one thread.

Two engines of others are compared in the same run, where they are there. py-arkworks
(``pip install py-arkworks-bls12381``) sums multiples of points of another curve, BLS12-381's G1; no
other wheel has such a sum. curve25519-dalek sums ristretto255's as we do. It is a Rust library:
``cargo build --release --manifest-path benchmarks/peers/dalek/Cargo.toml`` makes a program that the
environment variable ``DALEK_MSM`` names. Without it, its time is taken as the share of libsodium's
for one multiplication that it had where both were measured (``DALEK_SHARE``).
"""

from __future__ import annotations

import importlib
import os
import secrets
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from harness import Record, cpu_seconds, main
from nacl import bindings
from numpy.typing import NDArray
from qres_zk import group, norm, pedersen, scalar
from qres_zk.aggregate import opens
from qres_zk.batch import verify_batch
from qres_zk.bundle import ProofBundle
from qres_zk.statement import Context, NormStatement

POINTS: Final = 10_000
DALEK_SHARE: Final = 3.7 / 97.7
"""curve25519-dalek 4.1.3, a point of 10,000, over the libsodium of PyNaCl 1.6.2, a multiplication:
AMD EPYC (Zen 4), process times."""


def _dalek() -> tuple[str, float]:
    """Microseconds a point of curve25519-dalek, and how that is known."""
    program = os.environ.get("DALEK_MSM")
    if program:
        command = [program, str(POINTS)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        return "measured", float(done.stdout)
    base = bindings.crypto_scalarmult_ed25519_base_noclamp((5).to_bytes(32, "little"))
    raw = group.scalars_to_bytes(group.random_scalars(300))

    def multiply() -> None:
        for at in range(0, len(raw), 32):
            bindings.crypto_scalarmult_ed25519_noclamp(raw[at : at + 32], base)

    return "by libsodium's", 1e6 * DALEK_SHARE * cpu_seconds(multiply, repeats=5) / 300


def _arkworks() -> Callable[[], object] | None:
    """The same sum by py-arkworks, on 255-bit scalars, or nothing if it is not installed."""
    try:
        library: Any = importlib.import_module("py_arkworks_bls12381")
    except ImportError:
        return None
    scalars = [
        library.Scalar.from_le_bytes_mod_order(secrets.token_bytes(48)) for _ in range(POINTS)
    ]
    some = [library.G1Point() * scalar for scalar in scalars[:100]]
    points = some * (POINTS // len(some))
    return lambda: library.G1Point.multiexp_unchecked(points, scalars)


def _msm_records() -> list[Record]:
    """Sums of multiples against the engines of others; the calls take turns."""
    points = group.hash_to_group(b"benchmark", 0, POINTS)
    scalars = group.random_scalars(POINTS)
    ours: list[float] = []
    theirs: list[float] = []
    dalek: list[float] = []
    arkworks = _arkworks()
    how = ""
    group.msm(scalars, points)
    for _ in range(5):
        start = time.process_time()
        group.msm(scalars, points)
        ours.append(1e6 * (time.process_time() - start) / POINTS)
        how, item = _dalek()
        dalek.append(item)
        if arkworks is not None:
            start = time.process_time()
            arkworks()
            theirs.append(1e6 * (time.process_time() - start) / POINTS)
    point, yardstick = statistics.median(ours), statistics.median(dalek)
    found = [
        Record("msm of 10,000 points, a point", point, "µs"),
        Record(f"curve25519-dalek, a point ({how})", yardstick, "µs"),
        Record("msm, against curve25519-dalek", point / yardstick, "x", 1.5),
    ]
    if theirs:
        other = statistics.median(theirs)
        found += [
            Record("py-arkworks' G1 msm of 10,000 points, a point", other, "µs"),
            Record("msm, how much faster than py-arkworks", other / point, "x", 3, at_least=True),
        ]
    return found


def engine_records(quick: bool) -> list[Record]:  # noqa: FBT001 - the harness passes it on
    """Figures of the group engine and of the scalar kernels."""
    repeats = 3 if quick else 7

    def each(name: str, run: Callable[[], object], n: int, unit: str = "µs") -> Record:
        factor = {"µs": 1e6, "ns": 1e9}[unit]
        return Record(name, factor * cpu_seconds(run, repeats=repeats) / n, unit)

    points = group.hash_to_group(b"benchmark", 0, 2000)
    encodings = group.encode(points)
    shape = (64 if quick else 512, len(points))
    size = shape[0] * shape[1]
    rows = group.Rows(points)
    rng = np.random.default_rng(0)
    wide = rng.integers(-(2**31), 2**31, shape).astype(np.int32)
    narrow = rng.normal(0, 500, shape).astype(np.int32)
    blinds = group.random_scalars(64)
    seed = secrets.token_bytes(32)
    gammas = [secrets.randbits(119) for _ in range(257)]
    factors = group.integers(group.random_scalars(shape[0]))
    weights = scalar.weights(seed, shape, gammas)

    def fold() -> None:
        folding = scalar.Folding(narrow, weights)
        while folding.rows > 1:
            folding.cross()
            folding.fold(factors[0])

    found = _msm_records()
    found += [
        each("decode a point", lambda: group.decode(encodings), len(points)),
        each("encode a point", lambda: group.encode(points), len(points)),
        each("hash to a point", lambda: group.hash_to_group(b"benchmark", 0, 2000), len(points)),
        each("commit, values of 32 bits, a coordinate", lambda: rows.commit(wide), size),
        each("commit, values of 10 bits, a coordinate", lambda: rows.commit(narrow), size),
        each("blind by libsodium, a row", lambda: group.blind(blinds), len(blinds)),
    ]
    kernels: dict[str, Callable[[], object]] = {
        "project, a coordinate": lambda: scalar.project(narrow, seed, 256),
        "weights, a coordinate": lambda: scalar.weights(seed, shape, gammas),
        "folded weights, a coordinate": lambda: scalar.folded_weights(seed, shape, gammas, factors),
        "folding, a coordinate": fold,
    }
    return found + [each(name, run, size, "ns") for name, run in kernels.items()]


def _update(d: int) -> NDArray[np.int32]:
    """Normal values, of norm 7.5 in steps of 2**-16."""
    drawn = np.random.default_rng(d).normal(size=d)
    return np.trunc(drawn / np.linalg.norm(drawn) * 7.5 * 2**16).astype(np.int32)


PROTOCOL_TARGETS: Final[dict[tuple[str, int], float]] = {
    ("prove", 10**5): 60,
    ("prove", 10**6): 250,
    ("commit", 10**6): 600,
    ("verify", 10**6): 120,
    ("batch of 10", 10**6): 1000,
}
"""Milliseconds."""


def protocol_records(quick: bool) -> list[Record]:  # noqa: FBT001 - the harness passes it on
    """Figures of norm/v2 with k = 256 and B = 8.0; a million coordinates also in the quick run."""
    repeats = 2 if quick else 5
    context = Context("bench", bytes(32), 1, bytes(32), bytes(32))
    found: list[Record] = []
    for d in (10**5, 10**6) if quick else (10**3, 10**4, 10**5, 10**6):
        statement, vector = NormStatement(d, 8 * 2**16), _update(d)
        commitment = pedersen.commit(statement, vector)
        data = norm.prove(statement, context, commitment)[1].to_bytes()
        items = [(context, data)] * 10
        blinds, points = group.integers(commitment.blinds), [commitment.points] * 10
        times: dict[str, Callable[[], object]] = {
            "commit": lambda s=statement, v=vector: pedersen.commit(s, v),  # type: ignore[misc]
            "prove": lambda s=statement, c=commitment: norm.prove(s, context, c),  # type: ignore[misc]
            "verify": lambda s=statement, p=data: norm.verify(  # type: ignore[misc]
                s, context, ProofBundle.from_bytes(p, s)
            ),
            "batch of 10": lambda s=statement, i=items: verify_batch(s, i),  # type: ignore[misc]
            "sum of 10": lambda s=statement, v=vector, p=points, b=blinds: opens(  # type: ignore[misc]
                s, p, 10 * v.astype(np.int64), [10 * scalar for scalar in b]
            ),
        }
        for name, run in times.items():
            spent = 1e3 * cpu_seconds(run, repeats=repeats)
            target = PROTOCOL_TARGETS.get((name, d))
            found.append(Record(f"{name}, {d} coordinates", spent, "ms", target))
        limit = 100 if d == 10**6 else None
        found.append(Record(f"proof, {d} coordinates", len(data) / 1024, "KiB", limit))
    return found


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure of zero-knowledge proofs."""
    return [*engine_records(quick), *protocol_records(quick)]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-zk", "numba", "PyNaCl", "py-arkworks-bls12381"))
