"""Robust aggregation against byzfl, byzpy, krum and flwr, in one run, on one thread.

Run ``python benchmarks/aggregation.py [--quick] [--json] [--exact]``. Peers that are not installed
are skipped by name; ``docs/how-to/compare-with-peers.md`` says how to install them side by side.

Inputs are float32: honest rows from N(0.1, 1) and ``f = n // 5`` colluding rows a little off
their mean. Times are process times, the median of several runs, all libraries in turn. A
ratio is the best peer's time divided by ours. The fixed-point arithmetic is compared with our own
float path, because no peer has one. That of the rules that take steps is also compared with the
peers' floats; ``--exact`` does this alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "QRES_THREADS",
        "QRES_BENCHMARK",
    ),
    "1",
)
if os.environ.get("QRES_BENCHMARK") != "1":
    # Libraries read these when they are loaded: start again with them. A core type forced upon
    # OpenBLAS would slow everybody that uses it.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    flags = ["-P"] if sys.flags.safe_path else []
    os.execve(  # noqa: S606 - this very program
        sys.executable, [sys.executable, *flags, *sys.argv], {**kept, **ONE_THREAD}
    )
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np  # noqa: E402
import peers  # noqa: E402
import qres_robust_stats as stats  # noqa: E402
from harness import Record, main  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from qres_arithmetic import numpy_only, squared_distances  # noqa: E402
from qres_krum import bulyan, krum, multi_krum  # noqa: E402

from qres_core.errors import ValueRefusedError  # noqa: E402

Rows = NDArray[np.float32]
Times = dict[str, dict[str, float]]

SIZES = ((10, 10**6), (100, 10**5), (1000, 10**4), (20, 10**7), (50, 10**6), (100, 10**6))
QUICK_SIZES = ((10, 10**5), (50, 20_000))
SMALL = ((10, 100), (10, 1000), (50, 1000))
STEPS = ((20, 10**3), (100, 10**3), (20, 10**5), (100, 10**5), (200, 10**4), (1000, 10**4))
CAF_ROWS = 200
"""Rows of which CAF's eigenvectors still take less than a minute in every library."""
PATIENCE = 60.0
"""Seconds of one call after which a rule of a peer is not called again."""


def make_rows(n: int, d: int) -> Rows:
    """Honest rows and a fifth that collude."""
    rng = np.random.default_rng(n + d)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    rows += np.float32(0.1)
    f = n // 5
    rows[n - f :] = rows[: n - f].mean(axis=0) - np.float32(1.5)
    return rows


def our_rules(rows: Any, f: int) -> Mapping[str, Callable[[], Any]]:
    """Our rules with the peers' parameters, on float32 or int32 rows."""
    n = len(rows)
    return {
        "krum": lambda: krum(rows, f),
        "multi_krum": lambda: multi_krum(rows, f, n - f),
        "median": lambda: stats.median(rows),
        "trimmed_mean": lambda: stats.trimmed_mean(rows, f),
        "geometric_median": lambda: stats.geometric_median(
            rows, iterations=3, smoothing=0.1, start="zero"
        ),
        "centred_clipping": lambda: stats.centred_clipping(rows, radius=100.0, iterations=1),
        "nnm_trimmed_mean": lambda: stats.trimmed_mean(stats.nnm(rows, f), f),
        "meamed": lambda: stats.meamed(rows, f),
        "mda": lambda: stats.mda(rows, f),
        "bulyan": lambda: bulyan(rows, peers.bulyan_f(n, f)),
    }


def exact_steps(grid: Any, f: int) -> Mapping[str, Callable[[], Any]]:
    """The rules that take steps, on int32 rows in the peers' units times ``2**16``."""
    found = {
        "geometric_median": lambda: stats.geometric_median(
            grid, iterations=3, smoothing=0.1 * 2**16, start="zero"
        ),
        "centred_clipping": lambda: stats.centred_clipping(grid, radius=100.0 * 2**16),
        "centred_clipping_3": lambda: stats.centred_clipping(
            grid, radius=100.0 * 2**16, iterations=3
        ),
    }
    if len(grid) <= CAF_ROWS:
        found["caf"] = lambda: stats.caf(grid, f)
    return found


def timed(run: Callable[[], Any]) -> float:
    """Process time of one call, seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


def in_turn(rules: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, after one that is not counted; slow ones are called once."""
    times: dict[str, list[float]] = {}
    for name, run in rules.items():
        first = timed(run)
        if first > PATIENCE / 10:
            times[name] = [first]
    for _repeat in range(repeats):
        for name, run in rules.items():
            if len(times.get(name, ())) != 1 or times[name][0] <= PATIENCE / 10:
                times.setdefault(name, []).append(timed(run))
    return {name: statistics.median(time) for name, time in times.items()}


def versus(size: tuple[int, int], loaded: Mapping[str, Any], repeats: int) -> Times:
    """Seconds by rule and library at one size."""
    rows = make_rows(*size)
    f = size[0] // 5
    calls: dict[str, dict[str, Callable[[], Any]]] = {}
    for rule, run in our_rules(rows, f).items():
        calls.setdefault(rule, {})["qres"] = run
    for library, prepare in loaded.items():
        for rule, run in prepare(rows, f).items():
            if rule in calls:
                calls[rule][library] = run
    found: Times = {}
    for rule, by_library in calls.items():
        found[rule] = in_turn(by_library, repeats)
        gc.collect()
    return found


def peak_megabytes(run: Callable[[], Any]) -> float:
    """Resident memory of a call above what was resident before it, at its peak; Linux alone."""

    def status(field: str) -> float:
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"/proc/self/status has no {field}")

    run()
    gc.collect()
    # What the allocator kept of the first call would hide what the second one takes.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


# What the project promises at which size: how many times faster than the best peer.
TARGETS: Mapping[tuple[str, tuple[int, int]], float] = {
    ("krum", (100, 10**6)): 4.0,
    ("multi_krum", (100, 10**6)): 4.0,
    ("median", (1000, 10**4)): 3.0,
    ("median", (50, 10**6)): 8.0,
    ("trimmed_mean", (100, 10**6)): 2.0,
    ("trimmed_mean", (50, 10**6)): 2.0,
    ("trimmed_mean", (1000, 10**4)): 2.0,
    ("bulyan", (100, 10**6)): 20.0,
    ("geometric_median", (1000, 10**4)): 1.0,
    ("centred_clipping", (1000, 10**4)): 1.0,
    **{(rule, size): 1.0 for rule in ("geometric_median", "centred_clipping") for size in SMALL},
}


def compared(size: tuple[int, int], times: Times) -> list[Record]:
    """Our time, each peer's, and the best peer's as a multiple of ours."""
    n, d = size
    records: list[Record] = []
    for rule, by_library in times.items():
        where = f"{rule}, n = {n}, d = {d:.0e}"
        for library, seconds in by_library.items():
            records.append(Record(f"{where}: {library}", 1e3 * seconds, "ms"))
        others = [seconds for library, seconds in by_library.items() if library != "qres"]
        if others:
            ratio = min(others) / by_library["qres"]
            target = TARGETS.get((rule, size))
            records.append(Record(f"{where}: best peer / qres", ratio, "x", target, at_least=True))
    return records


def on_integers(size: tuple[int, int], repeats: int) -> list[Record]:
    """The exact arithmetic against our own float path, and the numpy fallback of both."""
    n, d = size
    rows = make_rows(n, d)
    grid = np.rint(rows * 2**16).astype(np.int32)
    records: list[Record] = []
    f = n // 5
    for rule in ("krum", "multi_krum", "median", "trimmed_mean", "bulyan"):
        calls = {"float": our_rules(rows, f)[rule], "exact": our_rules(grid, f)[rule]}
        times = in_turn(calls, repeats)
        where = f"{rule}, n = {n}, d = {d:.0e}"
        limit = 30.0 if (rule, size) == ("krum", (10, 10**6)) else None
        records.append(Record(f"{where}: exact", 1e3 * times["exact"], "ms", limit))
        ratio = times["exact"] / times["float"]
        bound = 2.2 if rule == "krum" and n >= 50 and n * d >= 10**7 else None
        records.append(Record(f"{where}: exact / float", ratio, "x", bound))
    with numpy_only():
        for kind, values in (("float", rows), ("exact", grid)):
            for rule in ("krum", "median", "trimmed_mean"):
                seconds = in_turn({rule: our_rules(values, f)[rule]}, max(1, repeats // 2))[rule]
                name = f"{rule}, n = {n}, d = {d:.0e}: {kind}, numpy alone"
                records.append(Record(name, 1e3 * seconds, "ms"))
    return records


def exact_against_peers(
    size: tuple[int, int], loaded: Mapping[str, Any], repeats: int
) -> list[Record]:
    """The exact arithmetic of the rules that take steps, against the peers' floats."""
    n, d = size
    rows = make_rows(n, d)
    grid = np.rint(rows * 2**16).astype(np.int32)
    f = n // 5
    others = {library: prepare(rows, f) for library, prepare in loaded.items()}
    records: list[Record] = []
    for rule, run in exact_steps(grid, f).items():
        rivals = {library: rules[rule] for library, rules in others.items() if rule in rules}
        times = in_turn({"exact": run, **rivals}, repeats)
        where = f"{rule}, n = {n}, d = {d:.0e}"
        records.append(Record(f"{where}: exact", 1e3 * times["exact"], "ms"))
        if rivals:
            ratio = min(times[library] for library in rivals) / times["exact"]
            records.append(Record(f"{where}: best peer's float / exact", ratio, "x"))
    return records


def mixing(size: tuple[int, int], repeats: int, *, promised: bool) -> list[Record]:
    """NNM with the trimmed mean against the distances it needs anyway."""
    rows = make_rows(*size)
    f = size[0] // 5
    times = in_turn(
        {
            "all": lambda: stats.trimmed_mean(stats.nnm(rows, f), f),
            "distances": lambda: squared_distances(rows),
        },
        repeats,
    )
    ratio = times["all"] / times["distances"]
    name = f"nnm_trimmed_mean / its distances, n = {size[0]}, d = {size[1]:.0e}"
    return [Record(name, ratio, "x", 3.0 if promised else None)]


def memory(size: tuple[int, int]) -> list[Record]:
    """Peak memory above the input, as a share of the input."""
    rows = make_rows(*size)
    return [
        Record(
            f"{rule}, n = {size[0]}, d = {size[1]:.0e}: peak memory / input",
            100 * peak_megabytes(run) / (rows.nbytes / 2**20),
            "%",
            5.0,
        )
        for rule, run in our_rules(rows, size[0] // 5).items()
    ]


def least_diameters(*, quick: bool) -> list[Record]:
    """MDA where nobody could enumerate, and its refusal where the search is too long."""
    sizes = ((50, 10),) if quick else ((50, 10), (100, 20), (200, 40))
    records: list[Record] = []
    for n, f in sizes:
        rows = np.random.default_rng(n).standard_normal((n, 1000)).astype(np.float32)
        seconds = timed(lambda rows=rows, f=f: stats.mda(rows, f))
        name = f"mda, n = {n}, f = {f}, d = 1e+03, exact subset"
        records.append(Record(name, seconds, "s", 1.0 if n == 200 else None))
    rows = np.random.default_rng(0).standard_normal((60, 1000)).astype(np.float32)
    try:
        stats.mda(rows, 25, budget=10)
        refused = 0.0
    except ValueRefusedError:
        refused = 1.0
    name = "mda, beyond its budget: refused by name"
    return [*records, Record(name, refused, "", 1.0, at_least=True)]


def measure_exact(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """The figures of exact rules that take steps."""
    loaded = loaded_peers()
    records: list[Record] = []
    for size in STEPS[:2] if quick else STEPS:
        often = 50 if size[0] * size[1] <= 10**5 else 5
        records += exact_against_peers(size, loaded, often)
    return records


def loaded_peers() -> dict[str, Any]:
    """The peers that are installed; the others are named on standard error."""
    loaded: dict[str, Any] = {}
    for name in peers.NAMES:
        prepare = peers.load(name)
        if isinstance(prepare, str):
            print(f"skipped {name}: {prepare}", file=sys.stderr)
        else:
            loaded[name] = prepare
    return loaded


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """All figures."""
    loaded = loaded_peers()
    repeats = 3 if quick else 5
    records: list[Record] = [*measure_exact(quick)]
    for size in (*SMALL, *(QUICK_SIZES if quick else SIZES)):
        small = size in SMALL
        print("n = {}, d = {}".format(*size), file=sys.stderr, flush=True)
        often = 200 if small else repeats if size[0] * size[1] < 10**8 else 3
        records += compared(size, versus(size, loaded, often))
    for size in ((10, 10**5), (50, 20_000)) if quick else ((10, 10**6), (50, 10**6), (100, 10**6)):
        records += on_integers(size, repeats)
    size = (50, 50_000) if quick else (100, 10**6)
    records += mixing(size, repeats, promised=not quick)
    records += memory((50, 200_000) if quick else size)
    return [*records, *least_diameters(quick=quick)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--exact", action="store_true")
    mine, sys.argv[1:] = parser.parse_known_args()
    main(
        __doc__ or "",
        measure_exact if mine.exact else measure,
        dists=("qres-arithmetic", "qres-krum", "qres-robust-stats", "numpy", "numba"),
    )
