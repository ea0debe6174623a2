"""Regenerate ``dp_accounting.json`` from dp-accounting (not a dependency of this project).

Run it in an environment of its own with ``dp-accounting>=0.6``; older releases pull in an old
numpy. For each setting: epsilon of the pessimistic (upper) privacy-loss distribution at the step
``h``, of the optimistic (lower) one at a tenth of it, and epsilon by Renyi DP.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution

# noise, rate, rounds, delta, h
SETTINGS = (
    (1.0, 0.01, 1000, 1e-5, 1e-4),
    (0.7, 0.05, 300, 1e-5, 1e-4),
    (2.0, 0.1, 5000, 1e-5, 1e-4),
    (1.2, 0.001, 100000, 1e-5, 1e-5),
    (0.5, 0.01, 10, 1e-5, 1e-4),
    (1.0, 0.5, 20, 1e-6, 1e-4),
    (4.0, 0.2, 1000, 1e-8, 1e-5),
    (0.8, 0.02, 100, 1e-7, 1e-4),
    (1.5, 0.05, 2000, 1e-6, 1e-4),
    (10.0, 0.5, 10000, 1e-6, 1e-4),
    (3.0, 0.9, 50, 1e-5, 1e-4),
    (0.6, 0.001, 1000, 1e-5, 1e-4),
    (1.0, 0.01, 1, 1e-5, 1e-5),
    (5.0, 0.01, 10000, 1e-9, 1e-5),
    (1.0, 1.0, 1, 1e-5, 1e-5),
    (10.0, 1.0, 100, 1e-5, 1e-4),
    (3.0, 1.0, 60, 1e-5, 1e-4),
    (50.0, 1.0, 1000, 1e-9, 1e-5),
)


# The optimistic side rounds every loss down: it needs a finer step to come near.
FINER = 10.0


def epsilon_of(
    noise: float, rate: float, rounds: int, delta: float, step: float, *, up: bool
) -> float:
    gaussian_mechanism = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        value_discretization_interval=step,
        pessimistic_estimate=up,
        use_connect_dots=up,  # the optimistic side has only the older method
    )
    return float(gaussian_mechanism.self_compose(rounds).get_epsilon_for_delta(delta))


def main() -> None:
    rows = []
    for noise, rate, rounds, delta, step in SETTINGS:
        renyi = dp_accounting.rdp.RdpAccountant()
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        renyi.compose(dp_accounting.SelfComposedDpEvent(event, rounds))
        row = {
            "noise": noise,
            "rate": rate,
            "rounds": rounds,
            "delta": delta,
            "step": step,
            "upper": epsilon_of(noise, rate, rounds, delta, step, up=True),
            "lower": epsilon_of(noise, rate, rounds, delta, step / FINER, up=False),
            "rdp": float(renyi.get_epsilon(delta)),
        }
        rows.append(row)
    head = {"source": f"dp-accounting {version('dp-accounting')}", "settings": rows}
    target = Path(__file__).with_name("dp_accounting.json")
    target.write_text(json.dumps(head, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
