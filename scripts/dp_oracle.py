"""The accountant of privacy against exact values and against Google's: a table of sixty settings.

    make dp-oracle

``plugins/qres_dp/tests/oracles/make_composition.py`` runs with the interpreter of an environment
that has dp-accounting and mpmath; it cannot be this one, because dp-accounting demands an old
attrs. Ends with code 1 if a value of QRES is below the truth, or more than 5 % above it. The truth
of long compositions is not known: Google's optimistic bound, from below, stands for it. ``--keep``
writes the oracle's values where the tests read them.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from qres_dp.accounting.composition import spent
from qres_dp.accounting.limits import Kind

ORACLES = Path(__file__).parents[1] / "plugins" / "qres_dp" / "tests" / "oracles"
MOST = 1.05


def total(row: dict[str, Any]) -> Counter[Kind]:
    """How many rounds of each kind."""
    kinds: Counter[Kind] = Counter()
    for noise, rate, rounds in row["kinds"]:
        kinds[noise, rate] += rounds
    return kinds


def told(row: dict[str, Any]) -> str:
    """The kinds in a line."""
    parts = [f"{n} x ({noise:g}, {rate:g})" for noise, rate, n in row["kinds"]]
    return " ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle", type=Path, help="interpreter with dp-accounting; else the file")
    parser.add_argument("--keep", action="store_true", help="write what the oracle says")
    chosen = parser.parse_args()
    path = ORACLES / "composition.json"
    if chosen.oracle is None:
        text = path.read_text(encoding="utf-8")
    else:
        command = [chosen.oracle, ORACLES / "make_composition.py"]
        made = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        text = made.stdout.decode("utf-8")
        if chosen.keep:
            path.write_text(text + "\n", encoding="utf-8")
    oracle = json.loads(text)
    print(oracle["source"])
    print(f"{'by':12}{'delta':>8}{'truth':>14}{'Google':>14}{'QRES':>14}{'above':>10}  rounds")
    wrong: list[str] = []
    worst: dict[str, float] = {}
    for row in oracle["settings"]:
        found = spent(total(row), row["delta"])
        ratio = found / row["lower"] if row["lower"] else 1.0 + found
        worst[row["how"]] = max(worst.get(row["how"], 0.0), ratio)
        if not 1.0 <= ratio <= MOST:
            wrong.append(told(row))
        google = math.nan if row["google"] is None else row["google"]
        print(
            f"{row['how']:12}{row['delta']:>8.0e}{row['lower']:>14.7g}{google:>14.7g}{found:>14.7g}"
            f"{100 * (ratio - 1):>9.5f}%  {told(row)}"
        )
    for how, ratio in worst.items():
        print(f"{how:12} at most {100 * (ratio - 1):.6f} % above")
    print(f"{len(oracle['settings'])} settings, {len(wrong)} below the truth or over 5 % above it")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
