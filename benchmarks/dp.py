"""What differential privacy costs: noise, clipping, the ledger, and correlated noise's error.

Run ``python benchmarks/dp.py [--quick] [--json]``. Times are process times; a ratio compares calls
that took turns in one process. numpy's floats are the yardstick for speed alone: they are neither
exact nor from a cryptographic source. OpenDP is compared where it is installed
(``pip install opendp``, in an environment of its own).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

# One thread, as process times are meant: threads of BLAS that wait would be counted as work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from harness import Record, main
from qres_dp.clip import clip
from qres_dp.correlated import Factor, Participation, decode, encode
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.ledger import Owner, PrivacyBudget, PrivacyLedger
from qres_dp.ledger.record import Charge
from qres_dp.randomness import fresh_key

from qres_core import NodeId, Vector

DIMENSION: Final = 1_000_000
STEPS: Final = 100
CLIP: Final = 65536
"""Grid steps: a clip of 1.0 at scale 0; with a noise multiplier of 1 the noise's deviation too."""


def _fastest(*runs: Callable[[], object], repeats: int) -> list[float]:
    """Least process time of each call, the calls taking turns so that all see the same machine."""
    best = [math.inf] * len(runs)
    for repeat in range(repeats + 1):
        for place, run in enumerate(runs):
            start = time.process_time()
            run()
            if repeat:
                best[place] = min(best[place], time.process_time() - start)
    return best


def _noise(repeats: int) -> list[Record]:
    """Sampling and the whole way out, against numpy."""
    rng = np.random.default_rng(0)
    update = rng.normal(0.0, 200.0, DIMENSION).astype(np.int32)  # three times the clip: is shrunk
    wide = discrete_gaussian(Fraction(CLIP**2))
    share = discrete_gaussian(Fraction(CLIP**2, 1000))

    def normal() -> object:
        return rng.normal(0.0, CLIP, DIMENSION)

    def rounded() -> object:
        return np.rint(rng.normal(0.0, CLIP, DIMENSION)).astype(np.int32)

    def path() -> object:
        return clip(update, CLIP).vector + wide.sample(DIMENSION, fresh_key())

    plain, rint, ours, ours_share, whole = _fastest(
        normal,
        rounded,
        lambda: wide.sample(DIMENSION, fresh_key()),
        lambda: share.sample(DIMENSION, fresh_key()),
        path,
        repeats=repeats,
    )
    records = [
        Record("numpy Generator.normal, 1,000,000", 1e3 * plain, "ms"),
        Record("exact noise, deviation 65,536 steps", 1e3 * ours, "ms"),
        Record("exact noise, against numpy normal + rint", ours / rint, "x", 1.0),
        Record("exact noise of a share of 1000, against the same", ours_share / rint, "x", 1.0),
        Record("clip + noise + add, against numpy normal alone", whole / plain, "x", 3.0),
    ]
    if importlib.util.find_spec("opendp") is not None:
        count = 5_000
        peer = _opendp()
        values = [0] * count
        (theirs,) = _fastest(lambda: peer(values), repeats=2)
        ratio = theirs / count / (ours / DIMENSION)
        records.append(
            Record("exact noise, times faster than OpenDP", ratio, "x", 500, at_least=True)
        )
    return records


def _opendp() -> Callable[[list[int]], object]:
    """OpenDP's discrete Gaussian mechanism on integer vectors, of the same deviation."""
    prelude: Any = importlib.import_module("opendp.prelude")
    prelude.enable_features("contrib")
    space = prelude.vector_domain(prelude.atom_domain(T="i32")), prelude.l2_distance(T="i32")
    mechanism: Callable[[list[int]], object] = prelude.m.make_gaussian(*space, scale=float(CLIP))
    return mechanism


def _correlated(quick: bool) -> list[Record]:  # noqa: FBT001 - as the harness has it
    """Error of prefix sums at equal privacy, measured on white noise that is decoded."""
    records: list[Record] = []
    dimension = 10_000 if quick else 40_000
    for band in (16, 32):
        factor = Factor(band)
        sensitivity = factor.squared_sensitivity(STEPS, Participation())
        wide = Fraction(CLIP**2 * sensitivity, 2**32)  # at equal privacy
        white, plain = discrete_gaussian(wide), discrete_gaussian(Fraction(CLIP**2))
        sums, squares = np.zeros((2, dimension)), np.zeros(2)
        changes: list[Vector] = []
        for _step in range(STEPS):
            row = white.sample(dimension, fresh_key())
            changes.insert(0, decode(factor, row, changes[: band - 1]))
            sums[0] += changes[0]
            sums[1] += plain.sample(dimension, fresh_key())
            squares += (sums**2).mean(axis=1)
            del changes[band:]
        ratio = math.sqrt(squares[1] / squares[0])
        name = f"prefix error, independent / correlated noise of band {band}"
        records.append(Record(f"{name}, T = {STEPS}", ratio, "x", 2.5, at_least=True))
    return records


def _encoded() -> list[Record]:
    """Process time to encode a row and to decode a mean, with all that a band holds."""
    factor, chance = Factor(16), np.random.default_rng(1)
    vectors = [chance.integers(-CLIP, CLIP, DIMENSION).astype(np.int32) for _step in range(16)]
    own = dict(enumerate(vectors))
    times = _fastest(
        lambda: encode(factor, own, 15, DIMENSION),
        lambda: decode(factor, vectors[0], vectors[1:]),
        repeats=3,
    )
    return [
        Record(f"encoding, band 16: {name} of 1,000,000", 1e3 * seconds, "ms")
        for name, seconds in zip(("a row", "a mean"), times, strict=True)
    ]


def _ledger(charges: int) -> list[Record]:
    """Wall time of a charge with its disk syncs, after as many."""
    budget = PrivacyBudget(1e3, 1e-5)
    with tempfile.TemporaryDirectory() as name:
        owner = Owner("bench", NodeId(bytes(32)), "replace-one", "node")
        ledger = PrivacyLedger.begin(Path(name), owner)
        times: list[float] = []
        for number in range(1, charges + 1):
            charge = Charge(
                swarm="bench",
                node=owner.node,
                journal=bytes(16),
                height=number,
                round=number,
                head=bytes(32),
                mode="local",
                relation="replace-one",
                unit="node",
                noise_multiplier=20.0,
                bound=CLIP,
                scale=0,
                dimension=DIMENSION,
                nodes=10,
                honest=1,
                content=number.to_bytes(32, "little"),
            )
            start = time.perf_counter()
            ledger.charge(charge, budget)
            times.append(time.perf_counter() - start)
        ledger.close()
    return [
        Record("ledger: a charge, durable (wall time)", 1e3 * sorted(times)[charges // 2], "ms")
    ]


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure of differential privacy."""
    return [
        *_noise(20 if quick else 60),
        *_correlated(quick),
        *_encoded(),
        *_ledger(20 if quick else 200),
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "qres-dp", "numpy", "cryptography", "opendp"))
