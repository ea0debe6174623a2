"""Few swarms that together run every supported pair.

A swarm with a dozen modes runs the pairs among them all at once. Each is grown from a pair that
none before it has, by the modes that add most new pairs, as long as the solver accepts the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from compatibility.matrix import Answer, answer, exclusive, groups_of
from compatibility.modes import MODES


def supported_pairs() -> list[tuple[str, str]]:
    """All pairs the solver accepts, in file order."""
    return [(item[0], item[1]) for item in groups_of(2) if answer(item).supported]


def _pairs(labels: tuple[str, ...]) -> set[tuple[str, str]]:
    return set(combinations(labels, 2))


def covering() -> Iterator[Answer]:
    """Supported combinations whose pairs are, together, all supported pairs.

    Complexity: seconds for the table as it is.
    """
    known = supported_pairs()
    fits, missing = set(known), dict.fromkeys(known)
    places = {label: place for place, label in enumerate(MODES)}
    while missing:
        labels: tuple[str, ...] = next(iter(missing))
        found = answer(labels)
        refused = set(labels)
        while True:
            grown = [
                tuple(sorted((*labels, label), key=places.__getitem__))
                for label in MODES
                if label not in refused
            ]
            gains = [
                (len(_pairs(item) & missing.keys()), item)
                for item in grown
                if not exclusive(item) and _pairs(item) <= fits
            ]
            new = len(_pairs(labels) & missing.keys())
            gain, best = max(gains, key=lambda gain: gain[0], default=(0, labels))
            if gain <= new:
                break
            refused |= set(best) - set(labels)
            more = answer(best)
            if more.supported:
                labels, found = best, more
        yield found
        for pair in _pairs(found.modes):
            missing.pop(pair, None)
