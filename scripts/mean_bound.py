"""Hold validated_mean's promise of the merged vector against many cases made to break it.

Run ``python scripts/mean_bound.py [CASES] [SEED]``; 100,000 cases by default. It prints how many
honest means the merged vector was held against and how often it was farther from the reference
than promised, beside the same with what was sent before: shares that were cut off, and rows of any
length. Refused are cases in which an honest proposer proposes nothing (QRES-E514). Exit 1 if the
promise is broken once.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins/qres_validation/tests"))

from bound_cases import play


def main() -> None:
    """The command line."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    counts, worst = play(cases, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(f"{cases} cases: {dict(counts)}")
    print(f"greatest excess: {worst:.3f} of 1 step of the grid in each coordinate")
    sys.exit(counts["broken"] > 0)


if __name__ == "__main__":
    main()
