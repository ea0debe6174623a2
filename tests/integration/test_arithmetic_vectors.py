"""The exact arithmetic does what its specification says, bit for bit.

``docs/reference/arithmetic-vectors.json`` is written by a reference in pure Python that shares no
code with the rules.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qres_arithmetic import (
    dominant_eigenvector,
    numpy_only,
    quantised,
    round_half_even,
    squared_distances,
    sweep,
    using_threads,
)
from qres_krum import bulyan, krum, multi_krum
from qres_lab.testing import make_round_info
from qres_robust_stats import (
    Bucketing,
    Dnc,
    Median,
    arc,
    bucketing,
    caf,
    centred_clipping,
    clip,
    dnc,
    geometric_median,
    mda,
    meamed,
    median,
    monna,
    nnm,
    trimmed_mean,
)
from qres_robust_stats.bucketing import buckets
from qres_robust_stats.coefficients import Pairwise, as_floats, centred_gram
from qres_robust_stats.vertex_cover import CoverSearch, adjacency, members
from qres_robust_stats.weights import as_limit, capped
from qres_validation.capped_mean import capped_mean

from qres_core import Updates
from qres_core.builtin.mean import weighted_mean
from qres_core.errors import ValueRefusedError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "arithmetic_vectors.py"
PAGE = ROOT / "docs" / "reference" / "arithmetic.md"
FILE = ROOT / "docs" / "reference" / "arithmetic-vectors.json"

VECTORS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
MODEL = bytes.fromhex(VECTORS["model_digest"])

Ints = NDArray[np.int32]


def ints(values: Any) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def updates(rows: Ints, weights: list[int] | None = None) -> Updates:
    senders = tuple(bytes([i + 1]) * 32 for i in range(len(rows)))
    return Updates(rows, senders, ints(weights or [1] * len(rows)))


def round_of(rows: Ints, swarm: str, number: int) -> Any:
    return make_round_info(rows.shape[1], swarm=swarm, number=number, model_digest=MODEL)


def same_gram(rows: Ints) -> NDArray[Any]:
    wide = rows.astype(object)
    gram: NDArray[Any] = wide @ wide.T
    return gram if max(abs(entry) for entry in gram.flat) >= 2**63 else gram.astype(np.int64)


def bucketing_round(x: Ints, weights: list[int], size: int, swarm: str, number: int) -> Any:
    caught: list[Updates] = []

    def proceed(means: Updates) -> Ints:
        caught.append(means)
        first: Ints = means.vectors[0]
        return first

    given = updates(x, weights)
    info = round_of(x, swarm, number)
    Bucketing(f=0, size=size).wrap_aggregate(proceed, given, info)
    (means,) = caught
    return {
        "vectors": means.vectors.tolist(),
        "senders": [given.senders.index(sender) for sender in means.senders],
        "weights": means.weights.tolist(),
    }


def vertex_cover(vertices: int, edges: list[list[int]], limit: int, steps: int) -> Any:
    joined = np.zeros((vertices, vertices), dtype=np.bool_)
    for i, j in edges:
        joined[i, j] = joined[j, i] = True
    search = CoverSearch(budget=1000)
    cover = search.cover(adjacency(joined), (1 << vertices) - 1, limit)
    assert search.steps == steps
    return None if cover is None else list(members(cover))


def capped_median(x: Ints, weights: list[int], weight_limit: float) -> Any:
    rule = Median(f=0, weighted=True, weight_limit=weight_limit)
    return rule.aggregate(updates(x, weights))


def medians(x: Ints, weights: list[int] | None = None, **options: Any) -> Any:
    counts = None if weights is None else ints(weights)
    return geometric_median(x, weights=counts, **options)


def clipped(x: Ints, start: list[int], **options: Any) -> Any:
    return centred_clipping(x, start=np.array(start, dtype=np.int32), **options)


def divided(x: Ints, f: int, seed: str, **options: Any) -> Any:
    return dnc(x, f, seed=bytes.fromhex(seed), **options)


def dnc_round(x: Ints, f: int, coordinates: int, swarm: str, number: int) -> Any:
    rule = Dnc(f=f, coordinates=coordinates)
    return rule.aggregate(updates(x), round_of(x, swarm, number))


def by_name(rule: Callable[..., Any]) -> Callable[[Ints, Any], Any]:
    """A rule whose parameters are called as in the file."""
    return lambda x, case: rule(x, **case)


# Each takes the rows of a case and its parameters.
ON_ROWS: dict[str, Callable[[Ints, Any], Any]] = {
    "squared_distances": lambda x, _: np.array([[str(e) for e in r] for r in squared_distances(x)]),
    "dominant_eigenvector": lambda x, _: dominant_eigenvector(same_gram(x)),
    "mean": lambda x, case: weighted_mean(x, ints(case["weights"])),
    "median": by_name(median),
    "weighted_median": lambda x, case: median(x, ints(case["weights"])),
    "capped_median": by_name(capped_median),
    "trimmed_mean": by_name(trimmed_mean),
    "meamed": by_name(meamed),
    "krum": by_name(krum),
    "multi_krum": by_name(multi_krum),
    "bulyan": by_name(bulyan),
    "mda": lambda x, case: mda(x, case["f"], budget=max(1, case["steps"])),
    "monna": by_name(monna),
    "geometric_median": by_name(medians),
    "centred_clipping": by_name(clipped),
    "caf": by_name(caf),
    "dnc": by_name(divided),
    "nnm": lambda x, case: nnm(x, case["f"]).materialise(),
    "nnm_trimmed_mean": lambda x, case: trimmed_mean(nnm(x, case["f"]), case["f"]),
    "bucketing": lambda x, case: bucketing(x, case["size"], bytes.fromhex(case["seed"])),
    "clipping": by_name(clip),
    "arc": by_name(arc),
    "capped_mean": lambda x, case: capped_mean(x, ints(case["weights"]), case["fewest"]),
    "dnc_round": lambda x, case: dnc_round(
        x, case["f"], case["coordinates"], case["swarm"], case["round"]
    ),
}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "round_half_even": lambda case: round_half_even(ints(case["totals"]), case["divisor"]).tolist(),
    "quantised": lambda case: quantised(np.array(case["weights"])).tolist(),
    "exact_sum": lambda case: math.fsum(case["terms"]),
    "sweep": lambda case: sweep(np.array(case["matrix"]), np.array(case["vector"])).tolist(),
    "eigenvector_of_doubles": lambda case: dominant_eigenvector(np.array(case["matrix"])).tolist(),
    "centred_gram": lambda case: centred_gram(
        as_floats(squared_distances(rows_of(case["input"]))), np.array(case["weights"])
    ).tolist(),
    "away": lambda case: (
        Pairwise(rows_of(case["input"]), np.array(case["start"], dtype=np.int32))
        .distances(np.array(case["weights"]))
        .tolist()
    ),
    "capped_weights": lambda case: capped(
        ints(case["weights"]), as_limit(case["weight_limit"])
    ).tolist(),
    "vertex_cover": lambda case: vertex_cover(**case),
    "buckets": lambda case: buckets(case["n"], case["size"], bytes.fromhex(case["seed"])),
    "bucketing_round": lambda case: bucketing_round(
        rows_of(case["input"]), case["weights"], case["size"], case["swarm"], case["round"]
    ),
}


def rows_of(name: str) -> Ints:
    rows = np.array(VECTORS["inputs"][name], dtype=np.int32)
    rows.flags.writeable = False
    return rows


def computed(rule: str, case: dict[str, Any]) -> Any:
    """What the product makes of a case, as JSON would hold it."""
    parameters = {key: value for key, value in case.items() if key != "expected"}
    if rule in OTHERS:
        return OTHERS[rule](parameters)
    result = ON_ROWS[rule](rows_of(parameters.pop("input")), parameters)
    assert rule in {"squared_distances", "dominant_eigenvector"} or result.dtype == np.int32
    return result.tolist()


def wanted(rule: str, case: dict[str, Any]) -> Any:
    if rule == "bucketing_round":  # the seed in between is for who implements it
        return {key: value for key, value in case["expected"].items() if key != "seed"}
    return case["expected"]


@pytest.fixture(params=["numba", "numpy"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "numba":
        pytest.importorskip("numba")
    with numpy_only() if request.param == "numpy" else nullcontext():
        yield


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    with using_threads(request.param):
        yield


# ── the product ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-robust-13")
@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("rule", VECTORS["rules"])
def test_every_case_is_computed_to_the_bit(rule: str) -> None:
    for case in VECTORS["rules"][rule]:
        assert computed(rule, case) == wanted(rule, case), case


@pytest.mark.usefixtures("backend")
def test_mda_counts_its_steps_as_specified() -> None:
    counted = [case for case in VECTORS["rules"]["mda"] if case["steps"] > 1]
    assert max(case["steps"] for case in counted) > 8
    for case in counted:
        with pytest.raises(ValueRefusedError) as caught:
            mda(rows_of(case["input"]), case["f"], budget=case["steps"] - 1)
        assert caught.value.code == "QRES-E507"


# Repeating the columns 4**k times makes each length 2**k times as long, and that rounds nothing
# otherwise: where lengths that are given grow as much, every column gets what it got before.
SCALED = ("smoothing", "radius", "bound")


def repeated(rule: str, case: dict[str, Any], k: int) -> Any:
    parameters = {key: value for key, value in case.items() if key != "expected"}
    rows = np.tile(rows_of(parameters.pop("input")), 4**k)
    for name in SCALED:
        if name in parameters:
            parameters[name] *= 2.0**k
    if rule == "geometric_median":
        parameters.setdefault("smoothing", 2.0 ** (k - 16))
    if rule == "centred_clipping":
        parameters["start"] = np.tile(parameters["start"], 4**k)
    if rule == "dnc":
        parameters["coordinates"] = rows.shape[1]
    return ON_ROWS[rule](rows, parameters)


def widened() -> Iterator[Any]:
    for rule in ON_ROWS:
        if rule in {"squared_distances", "dominant_eigenvector", "dnc_round"}:
            continue
        for name in ("extremes_9", "cluster_11"):
            cases = [case for case in VECTORS["rules"][rule] if case.get("input") == name]
            if rule == "dnc":
                cases = [case for case in cases if case["coordinates"] >= 6]
            if cases:
                yield pytest.param(rule, cases[-1], id=f"{rule}-{name}")


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize(("rule", "case"), list(widened()))
@pytest.mark.long
def test_wide_rows_that_are_split_among_threads_get_the_same(rule: str, case: Any) -> None:
    k = 8
    rows = rows_of(case["input"])
    assert rows.size * 4**k > 1_000_000
    expected = np.tile(np.array(case["expected"]), 4**k)
    assert np.array_equal(repeated(rule, case, k), expected)


# ── the file ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("arithmetic_vectors", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.long
def test_the_script_writes_the_file_to_the_byte(script: ModuleType) -> None:
    assert script.document().encode() == FILE.read_bytes()
    assert script.main(["--check"]) == 0


@pytest.mark.control("C-robust-13")
@pytest.mark.long
def test_a_changed_file_is_found(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / FILE.name
    changed.write_text(FILE.read_text(encoding="utf-8").replace("7", "8", 1), encoding="utf-8")
    monkeypatch.setattr(script, "TARGET", changed)
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert changed.read_bytes() == FILE.read_bytes()


def test_the_reference_shares_no_code_with_the_rules() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    named = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.partition(".")[0] for name in named} <= sys.stdlib_module_names


def test_the_file_is_small_and_whole() -> None:
    assert FILE.stat().st_size < 200_000
    assert VECTORS["version"] == 1
    assert set(VECTORS["rules"]) == {*ON_ROWS, *OTHERS}
    for rows in VECTORS["inputs"].values():
        assert len(rows) <= 12
        assert len(rows[0]) <= 6
    used = {case.get("input") for cases in VECTORS["rules"].values() for case in cases}
    assert used - {None} == set(VECTORS["inputs"])


def test_every_rule_has_a_section_in_the_specification() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not [rule for rule in VECTORS["rules"] if f"`{rule}`" not in text]


# ── the reference itself ──────────────────────────────────────────────────────────────────────────


def test_the_reference_finds_the_subset_that_its_search_finds(script: ModuleType) -> None:
    """The steps are those of a search that is right: it ends at the subset of least diameter."""
    rows = VECTORS["inputs"]["grid_11"]
    squares = script.distances(rows)
    for f in range(1, 6):
        everyone = set(range(len(rows)))
        for limit in sorted({square for row in squares for square in row}):
            graph = [{j for j in everyone if squares[i][j] > limit} for i in everyone]
            cover = script.vertex_cover(graph, everyone, f, [0])
            if cover is not None:
                kept = script.complete(graph, f, cover, [0])
                assert script.mean_of(rows, kept) == script.mda(rows, f)
                break


def test_the_reference_rounds_halves_to_even(script: ModuleType) -> None:
    assert [script.half_even(x, 2) for x in (-3, -1, 1, 3, 5)] == [-2, 0, 0, 2, 2]
    assert script.half_even(Fraction(5, 2), 1) == 2
