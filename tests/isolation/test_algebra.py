"""The checker's own answers, against trying out every set of inputs with fractions."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from fractions import Fraction
from itertools import combinations

import pytest
from isolation import algebra
from isolation.transcript import Equation, Kind, Row, Transcript


def rank(rows: Sequence[Sequence[int]]) -> int:
    """Of a matrix of fractions, by elimination."""
    left = [list(map(Fraction, row)) for row in rows]
    done = 0
    for column in range(len(left[0])):
        pivot = next((at for at in range(done, len(left)) if left[at][column]), None)
        if pivot is None:
            continue
        left[done], left[pivot] = left[pivot], left[done]
        for at in range(done + 1, len(left)):
            times = left[at][column] / left[done][column]
            left[at] = [a - times * b for a, b in zip(left[at], left[done], strict=True)]
        done += 1
    return done


def tried_out(equations: Sequence[Equation]) -> int | None:
    """The fewest inputs without which the equations have a combination that shows them alone.

    There is a combination that is zero at all masks and all inputs but some, and not at those, if
    and only if the rank falls when their columns are taken away.
    """
    masks = sorted({key for equation in equations for key, _ in equation.masks})
    nodes = sorted({equation.input for equation in equations}, key=repr)

    def matrix(kept: Collection[object]) -> list[list[int]]:
        rows = []
        for equation in equations:
            row = [0] * len(masks)
            for key, sign in equation.masks:
                row[masks.index(key)] += sign
            rows.append(row + [int(equation.input == node) for node in nodes if node in kept] + [0])
        return rows

    whole = rank(matrix(nodes))
    for size in range(1, len(nodes) + 1):
        for chosen in combinations(nodes, size):
            if rank(matrix(set(nodes).difference(chosen))) < whole:
                return size
    return None


def drawn(seed: int) -> list[Equation]:
    """A few sessions of a few nodes, with own masks and masks of pairs that are unknown or not."""
    rng = random.Random(seed)
    nodes, reused = rng.randint(2, 6), rng.random() < 0.3
    found: list[Equation] = []
    for session in range(rng.randint(1, 4)):
        masks: dict[int, list[tuple[bytes, int]]] = {
            node: [] for node in range(nodes) if rng.random() < 0.8
        }
        hidden = rng.choice((0.2, 0.5, 0.9))
        for node, mine in masks.items():
            if rng.random() < 0.1:
                mine.append((b"own %d %d" % (session, node), 1))
        for left, right in combinations(range(nodes), 2):
            both = left in masks and right in masks
            if rng.random() < hidden and (both or rng.random() < 0.2):
                at = 0 if reused and rng.random() < 0.3 else session  # one key, two sessions
                key = b"pair %d %d %d" % (at, left, right)
                for node, sign in ((left, 1), (right, -1)):
                    if node in masks:
                        masks[node].append((key, sign))
        found += [Equation(node, tuple(mine)) for node, mine in masks.items()]
    return found


def size(found: algebra.Isolated | None) -> int | None:
    assert found is None or found.exact
    return None if found is None else found.size


@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(60, 1000), marks=pytest.mark.long)]
)
def test_it_finds_what_trying_out_finds(seeds: range) -> None:
    seen = set()
    for seed in seeds:
        equations = drawn(seed)
        if not equations:
            continue
        expected = tried_out(equations)
        assert size(algebra.isolated(equations)) == expected, seed
        prime = algebra.prime_for(len(equations), len(equations))
        slowly = algebra.smallest(algebra.eliminated(equations, prime), prime)
        assert size(slowly) == expected, seed
        seen.add((expected, algebra.revealed(equations) is None))
    assert {(1, False), (2, False), (None, False), (1, True)} <= seen


def matrix_of(sets: Sequence[set[int]], columns: Collection[int]) -> list[list[int]]:
    return [[*(int(column in chosen) for column in columns), 0] for chosen in sets]


def test_sums_of_sets_are_searched_to_the_end() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        nodes = rng.randint(4, 8)
        sets = [
            {node for node in range(nodes) if rng.random() < 0.6} or {0}
            for _ in range(rng.randint(2, 5))
        ]
        vectors = [dict.fromkeys(chosen, 1) for chosen in sets]
        found = algebra.smallest(vectors)
        whole = rank(matrix_of(sets, range(nodes)))
        expected = next(
            many
            for many in range(1, nodes + 1)
            for gone in combinations(range(nodes), many)
            if rank(matrix_of(sets, set(range(nodes)).difference(gone))) < whole
        )
        assert size(found) == expected, seed


def test_three_sums_may_show_a_parity_that_no_fractions_show() -> None:
    """A + B + C is the victim's input and twice all others."""
    x, y, z = {1, 2, 3}, {4, 5, 6}, {7, 8, 9}
    vectors = [dict.fromkeys(chosen, 1) for chosen in ({0} | x | y, x | z, y | z)]
    assert size(algebra.smallest(vectors)) == 4
    assert size(algebra.smallest(vectors, 2)) == 1


def test_no_minor_is_as_large_as_the_prime() -> None:
    """The largest determinants of matrices of ones and minus ones are below it."""
    for rows, most in ((2, 2), (4, 16), (8, 4096), (12, 2_985_984)):
        assert algebra.prime_for(rows) > most
    assert algebra.prime_for(2000, 2000) > 2000**2000


def transcript(opened: dict[tuple[str, Kind], set[str]]) -> Transcript:
    """One session of three nodes, of whose secrets two shares open one."""
    found = Transcript(thresholds={"s": 2})
    keys = {("a", "b"): b"ab", ("a", "c"): b"ac", ("b", "c"): b"bc"}
    for node in "abc":
        pairs = tuple(
            (other, keys[min(node, other), max(node, other)], 1 if node < other else -1)
            for other in "abc"
            if other != node
        )
        found.rows.append(Row("s", node, node, b"own " + node.encode(), pairs))
        for kind in Kind:
            found.held["s", node, kind] = set("abc")
            found.opened["s", node, kind] = set(opened.get((node, kind), ()))
    return found


@pytest.mark.parametrize(
    ("opened", "corrupt", "isolated"),
    [
        ({}, (), None),
        ({(node, Kind.SEED): {"a", "b"} for node in "abc"}, (), 3),
        ({(node, Kind.SEED): {"a", "b"} for node in "abc"}, "c", 2),
        ({(node, Kind.SEED): {"a", "b"} for node in "ab"}, (), None),
        ({("a", Kind.SEED): {"a"}, ("b", Kind.SEED): {"b"}}, "c", 2),
        ({("a", Kind.SEED): {"b", "c"}, ("a", Kind.MASK_KEY): {"b", "c"}}, (), 1),
        ({}, "bc", 1),
    ],
)
def test_masks_are_known_from_threshold_many_shares_on(
    opened: dict[tuple[str, Kind], set[str]], corrupt: str, isolated: int | None
) -> None:
    equations = list(transcript(opened).equations(set(corrupt)))
    assert size(algebra.isolated(equations)) == isolated == tried_out(equations)
