"""Regenerate ``gaussian.json``: points of the Gaussian privacy curve by mpmath, with 80 digits."""

from __future__ import annotations

import json
import random
from pathlib import Path

import mpmath

POINTS = 60


def delta_of(mu: float, epsilon: float) -> float:
    """Rounded down, by one part in 1e15."""
    with mpmath.workdps(400):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        root = mpmath.sqrt(2)

        def phi(x: mpmath.mpf) -> mpmath.mpf:
            return mpmath.erfc(-x / root) / 2

        value = phi(m / 2 - e / m) - mpmath.exp(e) * phi(-m / 2 - e / m)
        return float(value * (1 - mpmath.mpf(10) ** -15))


def main() -> None:
    generator = random.Random(20)
    rows: list[list[float]] = []
    while len(rows) < POINTS:
        mu = 10 ** generator.uniform(-6, 2)
        epsilon = max(0.0, mu * mu / 2 + generator.uniform(-6, 25) * mu)
        delta = delta_of(mu, epsilon)
        if delta > 1e-200:
            rows.append([mu, epsilon, delta])
    target = Path(__file__).with_name("gaussian.json")
    lines = ",\n ".join(json.dumps(row) for row in rows)
    target.write_text(f"[\n {lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
