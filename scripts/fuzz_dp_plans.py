"""A million random privacy plans: each keeps its budget, or is refused by name.

    python scripts/fuzz_dp_plans.py --count 1000000 --seed 1

Every plan's delta is computed again at its epsilon, from the integers of the plan alone (variance
of a share, shares, clipping bound) and by another formula than the one it was made with: the
definition

    delta = integral over t > 0 of (1 - exp(-mu t)) phi(a + t) dt,    a = eps/mu - mu/2

by tanh-sinh quadrature, many plans at a time. Any exception but a refusal by name ends the run
with exit code 1.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import math
import random
import sys
import time
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qres_dp import Dp
from qres_dp.modes import LEMMA
from qres_dp.plan import PrivacyPlan

from qres_core import Surroundings, Visibility, commands
from qres_core.errors import QresError

_REFUSALS = frozenset({"QRES-E104", "QRES-E105", "QRES-E313", "QRES-E314"})
_BATCH = 4_000
_STEP = 0.04
_V = np.arange(-4.0, 4.0, _STEP)
_T = np.exp(0.5 * math.pi * np.sinh(_V))
_W = _STEP * 0.5 * math.pi * np.cosh(_V) * _T / math.sqrt(2.0 * math.pi)


def deltas(mu: NDArray[np.float64], epsilon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Delta of mu-GDP at epsilon, float64, shape (n,), by quadrature of its definition."""
    a = (epsilon / mu - 0.5 * mu)[:, None]
    with np.errstate(under="ignore"):
        # A scale of the integrand, so that the nodes lie where it is.
        scale = 1.0 / (1.0 + np.abs(a))
        t = scale * _T
        value = -np.expm1(-mu[:, None] * t) * np.exp(-0.5 * (a + t) ** 2) * _W * scale
    return np.asarray(value.sum(axis=1))


def _log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


_ODD: tuple[Any, ...] = (
    0,
    1,
    -1,
    True,
    None,
    "1",
    math.nan,
    math.inf,
    -math.inf,
    2**70,
    1e-320,
    1.5,
)


_OPTIONS = ("mode", "epsilon", "delta", "clip", "rounds", "honest", "relation")


def request(draw: random.Random) -> dict[str, Any]:
    """Options and a swarm, at random: mostly sensible, sometimes extreme, sometimes nonsense."""
    wild = draw.random() < 0.2
    mode = draw.choice(("local", "distributed"))
    nodes = int(_log_uniform(draw, 1, 65536 if wild else 2000))
    honest = max(1, int(nodes * draw.uniform(0.0, 1.0 if wild else 0.95)))
    dimension = int(_log_uniform(draw, 1, 2**31 - 1 if wild else 1e6))
    values: dict[str, Any] = {
        "mode": mode,
        "epsilon": _log_uniform(draw, 1e-9, 1e6) if wild else _log_uniform(draw, 0.05, 50),
        "delta": _log_uniform(draw, 1e-100, 1.0) if wild else _log_uniform(draw, 1e-12, 1e-3),
        "clip": _log_uniform(draw, 2.0**-42, 2.0**42) if wild else _log_uniform(draw, 0.05, 50),
        "rounds": int(_log_uniform(draw, 1, 1e9 if wild else 1e4)),
        "nodes": nodes,
        "dimension": dimension,
        "honest": honest if mode == "distributed" else 0,
        "scale": draw.randint(-32, 32) if wild else draw.choice((-8, -4, 0, 0, 0, 4)),
        "relation": draw.choice(("", "", "", "add-remove", "replace-one")),
    }
    if draw.random() < 0.02:
        values[draw.choice(_OPTIONS)] = draw.choice(_ODD)
    return values


def plan(asked: dict[str, Any]) -> PrivacyPlan:
    """The plan of what was asked for."""
    options = dict(asked)
    nodes, dimension, scale = (options.pop(name) for name in ("nodes", "dimension", "scale"))
    plugin = commands.structured(Dp, "plugins.dp", options)
    return plugin.plan(
        Surroundings(
            nodes=nodes,
            byzantine=0,
            quorum=nodes,
            scale=scale,
            dimension=dimension,
            visibility=Visibility.SUM,
            members=nodes,
        )
    )


def squared_mu(privacy_plan: PrivacyPlan) -> float:
    """(sensitivity / deviation)^2 of all rounds, from the integers of the plan."""
    mechanism = privacy_plan.mechanism
    replaced = 2 if mechanism.relation.value == "replace-one" else 1
    variance = mechanism.share * max(1, privacy_plan.terms.honest) - LEMMA
    return float(privacy_plan.account.rounds * (replaced * mechanism.bound) ** 2 / variance)


def wrong(plans: list[PrivacyPlan]) -> list[str]:
    """The plans that spend more than was asked for, told."""
    if not plans:
        return []
    mu = np.sqrt(np.array([squared_mu(plan) for plan in plans]))
    epsilon = np.array([plan.terms.budget.epsilon for plan in plans])
    delta = np.array([plan.terms.budget.delta for plan in plans])
    found = deltas(mu, epsilon)
    # The quadrature is good to 1e-9, and to 1e-15 of the exponent where that is large.
    room = 1e-9 + 1e-15 * (epsilon / mu + mu) * (np.abs(epsilon / mu - mu / 2) + 1.0)
    over = np.flatnonzero(~(found <= delta * (1.0 + room)))
    bad = [f"delta {found[i]:.17g} > {delta[i]:.17g}: {plans[i]}" for i in over]
    bad += [
        f"epsilon above the budget: {plan}"
        for plan in plans
        if plan.epsilon > plan.terms.budget.epsilon
    ]
    return bad


def run(count: int, seed: str) -> tuple[Counter[str], list[str]]:
    """Draw, plan, check; raises what is not a refusal by name."""
    draw = random.Random(seed)  # noqa: S311 - a repeatable test
    results: Counter[str] = Counter()
    plans: list[PrivacyPlan] = []
    bad: list[str] = []
    for number in range(count):
        asked = request(draw)
        try:
            plans.append(plan(asked))
            results["planned"] += 1
        except QresError as error:
            results[error.code] += 1
            if error.code not in _REFUSALS:
                bad.append(f"refused by another name: {error}: {asked}")
        if len(plans) >= _BATCH or number == count - 1:
            bad += wrong(plans)
            plans = []
    return results, bad


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    chosen = parser.parse_args()
    started = time.perf_counter()
    jobs = max(1, chosen.jobs)
    parts = [
        (chosen.count // jobs + (job < chosen.count % jobs), f"{chosen.seed}/{job}/{jobs}")
        for job in range(jobs)
    ]
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        work = [pool.submit(run, count, seed) for count, seed in parts]
        done = [task.result() for task in work]
    results: Counter[str] = Counter()
    for item, _ in done:
        results += item
    bad = [text for _, texts in done for text in texts]
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"results": results, "seconds": seconds, "wrong": bad[:10]}, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
