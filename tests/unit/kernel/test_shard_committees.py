"""Committees drawn from the head: their failure probability against independent exact sums."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction
from typing import Any

import pytest

from qres_core import Claims, Updates, Visibility, hookimpl
from qres_core.claims import Hides
from qres_core.contract.errors import OptionError, Problem
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.committees import (
    failure,
    failure_bits,
    is_safe,
    least_size,
    serving_first,
    too_few,
)
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.discovery import Installed
from qres_core.kernel.sharded import committee_notice, sampling_notice, unsharded


def drawn_one_by_one(n: int, f: int, size: int) -> Fraction:
    """The probability of a liars' majority, member by member: no binomial coefficient."""
    chances = {0: Fraction(1)}  # by how many liars were drawn
    for drawn in range(size):
        after: dict[int, Fraction] = {}
        for liars, chance in chances.items():
            lies = Fraction(f - liars, n - drawn)
            after[liars + 1] = after.get(liars + 1, Fraction()) + chance * lies
            after[liars] = after.get(liars, Fraction()) + chance * (1 - lies)
        chances = after
    return sum((chance for liars, chance in chances.items() if 2 * liars > size), Fraction())


@pytest.mark.parametrize(
    ("n", "f", "size"), [(4, 1, 1), (10, 3, 3), (50, 5, 7), (300, 30, 31), (1000, 100, 91)]
)
def test_the_union_of_exact_tails(n: int, f: int, size: int) -> None:
    shards = max(1, n // (size // 2 + 1))
    assert failure(n, f, size) == shards * drawn_one_by_one(n, f, size)


@pytest.mark.parametrize(
    ("n", "f", "size", "first"), [(1000, 100, 91, 26), (1000, 50, 57, 19), (500, 50, 77, 24)]
)
def test_as_few_serve_first_as_are_not_all_liars(n: int, f: int, size: int, first: int) -> None:
    """The first few are drawn like the committee: all of them lie with a product of shares."""
    majority, allowed = drawn_one_by_one(n, f, size), Fraction(1, 2**80)

    def chance(few: int) -> Fraction:
        lying = math.prod(Fraction(f - drawn, n - drawn) for drawn in range(few))
        return (n // few) * (majority + lying)

    assert serving_first(n, f, size) == first
    assert failure(n, f, size, first) == chance(first) <= allowed < chance(first - 1)
    assert failure(n, f, size, size // 2 + 1) == failure(n, f, size)


def test_more_than_half_serve_first_where_fewer_are_not_safe() -> None:
    assert serving_first(1000, 100, 51) == 26
    assert serving_first(7, 2, 3) == 2


@pytest.mark.parametrize(("n", "f", "size", "first"), [(8, 3, 5, 2), (9, 3, 7, 2), (9, 2, 5, 1)])
def test_liars_are_all_that_serve_first_no_more_often_than_that(
    n: int, f: int, size: int, first: int
) -> None:
    """Over every order of liars on the ring."""
    count = max(1, n // first)
    places = [[(s * n // count + at) % n for at in range(size)] for s in range(count)]
    rings = list(itertools.combinations(range(n), f))
    failing = sum(
        any(
            2 * sum(place in liars for place in them) > size or {*them[:first]} <= {*liars}
            for them in places
        )
        for liars in rings
    )
    assert 0 < Fraction(failing, len(rings)) <= failure(n, f, size, first)


@pytest.mark.parametrize(("n", "f", "size"), [(7, 2, 3), (8, 2, 3), (7, 2, 1)])
def test_some_committee_of_a_ring_fails_no_more_often_than_that(n: int, f: int, size: int) -> None:
    """Over every order of liars on the ring: what a head decides."""
    count = max(1, n // (size // 2 + 1))
    places = [[(s * n // count + at) % n for at in range(size)] for s in range(count)]
    rings = list(itertools.combinations(range(n), f))
    failing = sum(
        any(2 * sum(place in liars for place in them) > size for them in places) for liars in rings
    )
    assert 0 < Fraction(failing, len(rings)) <= failure(n, f, size)


def test_committees_of_2_f_plus_1_cannot_fail_and_smaller_ones_are_the_smallest_safe() -> None:
    for n, f, least in ((1000, 100, 91), (1000, 50, 57), (500, 50, 77), (300, 30, 61), (7, 2, 5)):
        assert least_size(n, f) == least
        assert is_safe(n, f, least)
        assert least <= 2 * f + 1
        assert not is_safe(n, f, least - 2)
        assert not is_safe(n, f, least + 1)  # even
        assert failure(n, f, 2 * f + 1) == 0
    assert failure_bits(1000, 100, 91) > 80 > failure_bits(1000, 100, 89)
    assert failure_bits(7, 2, 5) == math.inf
    assert not is_safe(7, 2, 9)


def swarm(size: int, **more: Any) -> SwarmConfig:
    shape = {"nodes": 1000, "byzantine": 100, "quorum": 900, "aggregation": "sharded", **more}
    return SwarmConfig(name="s", shard_committee=size, **shape)


def refused(config: SwarmConfig) -> Problem:
    (found,) = [item for item in unsharded((), config) if item.where == "swarm.shard_committee"]
    assert found.code == "QRES-E319"
    return found


def test_what_cannot_be_met_is_refused_with_what_can() -> None:
    small = refused(swarm(51))
    assert "probability of up to 2**-40.8, and 2**-80 is allowed" in small.what
    assert small.fix == "swarm.shard_committee = 91 or more, or leave it out"
    assert "its size is odd" in refused(swarm(100)).what
    assert refused(swarm(90)).fix.startswith("swarm.shard_committee = 91,")
    assert "201 are safe whoever the liars are" in refused(swarm(201)).what
    assert refused(swarm(91, aggregation="everyone")).what.startswith("is the size of committees")
    few = {"nodes": 7, "byzantine": 2, "quorum": 5}
    assert refused(swarm(3, **few)).fix == refused(swarm(5, **few)).fix == "leave it out"
    assert not [item for item in unsharded((), swarm(91)) if "committee" in item.where]


class Masks:
    """Hides whole updates and reveals sums, as secure aggregation does."""

    claims = Claims(tolerates=None, hides=Hides(Visibility.SUM))

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        return updates


class Proves:
    """Proves of visible updates, and compares sums where another plugin hides them."""

    claims = Claims(tolerates=None)


def test_a_sample_of_participants_is_refused_where_it_cannot_be() -> None:
    for count in (899, 1001):
        with pytest.raises(OptionError, match="a round needs 900") as caught:
            swarm(0, participants=count)
        assert caught.value.code == "QRES-E105"
    plugin = Enabled("mask", Installed.local("mask", Masks), Masks(), ("reveal",))
    at = {"participants": 950, "aggregation": "everyone", "quorum": 850}
    (found,) = unsharded((plugin,), swarm(0, **at))
    assert (found.code, found.where) == ("QRES-E319", "plugins.mask")
    assert "draws some to train" in found.what
    assert not [*unsharded((plugin,), swarm(0, aggregation="everyone"))]
    proof = Enabled("zk", Installed.local("zk", Proves), Proves(), ("prove", "verify", "reveal"))
    assert not [*unsharded((proof,), swarm(0, **at))], "it hides nothing, so it needs nobody"


def enough_one_by_one(n: int, silent: int, drawn: int, quorum: int) -> Fraction:
    """The probability that a sample has a quorum that is not silent, member by member."""
    chances = {0: Fraction(1)}  # by how many are silent
    for taken in range(drawn):
        after: dict[int, Fraction] = {}
        for away, chance in chances.items():
            another = Fraction(silent - away, n - taken)
            after[away + 1] = after.get(away + 1, Fraction()) + chance * another
            after[away] = after.get(away, Fraction()) + chance * (1 - another)
        chances = after
    return sum((it for away, it in chances.items() if drawn - away >= quorum), Fraction())


@pytest.mark.parametrize(
    ("n", "silent", "drawn", "quorum"),
    [(7, 2, 4, 3), (7, 2, 4, 4), (40, 6, 30, 22), (100, 30, 70, 61), (100, 0, 70, 70)],
)
def test_samples_below_the_quorum_are_counted_exactly(
    n: int, silent: int, drawn: int, quorum: int
) -> None:
    chance = too_few(n, silent, drawn, quorum)
    assert chance == 1 - enough_one_by_one(n, silent, drawn, quorum)


def test_a_sample_that_seldom_holds_a_quorum_is_refused_with_what_does() -> None:
    close: dict[str, Any] = {"nodes": 100, "byzantine": 30, "aggregation": "everyone"}
    (found,) = unsharded((), swarm(0, **close, quorum=61, participants=70))
    assert (found.code, found.where) == ("QRES-E319", "swarm.participants")
    assert "with 30 of 100 members silent" in found.what
    assert "probability of 1," in found.what
    larger, lower = (int(word) for word in re.findall(r"= (\d+)", found.fix))
    assert enough_one_by_one(100, 30, larger, 61) >= Fraction(1, 2)
    assert enough_one_by_one(100, 30, larger - 1, 61) < Fraction(1, 2)
    assert enough_one_by_one(100, 30, 70, lower) >= Fraction(1, 2)
    assert enough_one_by_one(100, 30, 70, lower + 1) < Fraction(1, 2)
    assert not [*unsharded((), swarm(0, **close, quorum=61, participants=larger))]
    assert not [*unsharded((), swarm(0, **close, quorum=lower, participants=70))]
    assert not [*unsharded((), swarm(0, **close, quorum=61))], "control: everybody trains"


def test_check_says_what_holds_of_a_sample() -> None:
    said = sampling_notice(swarm(0, participants=950))
    assert said.startswith("swarm.participants: 950 of 1000 nodes are drawn to train")
    assert "up to 100 of them may lie" in said
    assert "more than 50 of them send nothing" in said
    assert "which 100 liars cause in a share of 1 of all rounds" in said
    close = swarm(0, participants=950, quorum=855)
    share = 1 - enough_one_by_one(1000, 100, 950, 855)
    assert f"in a share of {float(share):.3g} of all rounds" in sampling_notice(close)
    assert "no privacy plugin counts the draw as amplification" in said


def test_check_says_the_size_the_probability_and_the_assumption() -> None:
    said = committee_notice(swarm(91))
    assert said.startswith("swarm.shard_committee: 91 nodes, drawn from the head")
    assert "did so before the head was known" in said
    assert "26 of them first" in said
    bits = failure_bits(1000, 100, 91, 26) - 40
    assert bits < failure_bits(1000, 100, 91) - 40
    assert f"at most 2**-{bits:.1f}, where proposers try 2**40 heads" in said
    assert "at most 100 of all nodes lie" in committee_notice(swarm(0))
    assert "201 nodes merge" in committee_notice(swarm(51))
    few = swarm(0, quorum=700)  # and 300 may be silent
    assert "201 nodes, or 200 more if these are silent, merge" in committee_notice(few)
