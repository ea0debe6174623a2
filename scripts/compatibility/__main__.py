"""Play every supported pair and triple, each in a swarm of its own: half an hour and more.

PYTHONPATH=scripts python -P -m compatibility [--pairs] [--share I/N]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from compatibility.matrix import Answer, answer, groups_of, triples
from compatibility.playing import tried


def _asked(*, pairs_only: bool) -> Iterator[Answer]:
    yield from (answer(pair) for pair in groups_of(2))
    if not pairs_only:
        yield from triples()


def main() -> int:
    """Play, print what fails, and return 1 if anything does."""
    parser = argparse.ArgumentParser(prog="compatibility", description=__doc__)
    parser.add_argument("--pairs", action="store_true", help="pairs alone: minutes")
    parser.add_argument("--share", default="1/1", help="I/N: the I-th of N equal parts")
    options = parser.parse_args()
    part, parts = (int(word) for word in options.share.split("/"))
    seen: dict[str, list[str]] = {}
    failed = 0
    for number, item in enumerate(_asked(pairs_only=options.pairs)):
        if not item.supported or number % parts != part % parts:
            continue
        config = item.config
        key = json.dumps([dict(config.plugins), config.swarm.nodes, config.swarm.byzantine])
        if key not in seen:
            seen[key] = tried(config, rounds=1)
            if seen[key]:
                failed += 1
                sys.stdout.write(f"{' + '.join(item.labels)}: {'; '.join(seen[key])}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{len(seen)} swarms played, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
