"""Print what rounds of several kinds truly cost: the epsilons of ``composition.json``, anew.

Runs where ``mpmath`` is installed, and imports nothing of this project. A setting has kinds
``[noise, rounds]`` and a delta; all of it is one Gaussian mechanism (Dong, Roth, Su 2022), whose
curve (Balle, Wang 2018, theorem 8) is inverted in 60 digits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mpmath as mp

mp.mp.dps = 60


def epsilon(kinds: list[tuple[float, int]], delta: float) -> float:
    """The least epsilon at a delta."""
    mu = mp.sqrt(sum(mp.mpf(rounds) / mp.mpf(noise) ** 2 for noise, rounds in kinds))

    def found(value: Any) -> Any:
        far, near = -value / mu - mu / 2, mu / 2 - value / mu
        return mp.ncdf(near) - mp.exp(value) * mp.ncdf(far)

    if found(mp.mpf(0)) <= delta:
        return 0.0
    low, high = mp.mpf(0), mu * mu / 2 + 40 * mu
    for _ in range(190):
        middle = (low + high) / 2
        low, high = (middle, high) if found(middle) > delta else (low, middle)
    return float(high)


def main() -> None:
    """Print the file."""
    path = Path(__file__).with_name("composition.json")
    settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
    rows = [{**row, "epsilon": epsilon(row["kinds"], row["delta"])} for row in settings]
    text = json.dumps({"source": "mpmath, 60 digits", "settings": rows}, indent=1)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
