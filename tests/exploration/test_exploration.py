"""A part of the exploration of the engine of agreement; `make explore` does all of it."""

from __future__ import annotations

import attrs
import pytest
from exploration.guards import LIARS, SAFETY, SPARE, Guard, without
from exploration.nodes import LIAR, A, Instance
from exploration.search import Explorer

SMALL = (
    Instance("liar", (LIAR,)),
    Instance("honest", (0,)),
    Instance("bad", (LIAR,), accepted=(A,)),
    Instance("claims", (LIAR,), claims=True),
)


@pytest.mark.claim("C-agreement-1")
@pytest.mark.parametrize("instance", SMALL, ids=lambda instance: instance.name)
def test_no_order_of_messages_and_no_liar_breaks_one_attempt(instance: Instance) -> None:
    found = Explorer(instance).run()
    assert (found.broken, found.way) == ("", ())
    assert found.complete
    assert found.states > 30


@pytest.mark.claim("C-agreement-1")
@pytest.mark.long
def test_no_order_of_messages_and_no_liar_breaks_two_attempts() -> None:
    found = Explorer(LIARS).run()
    assert (found.broken, found.way) == ("", ())
    assert found.states > 20_000


@pytest.mark.parametrize(
    "instance",
    [*SMALL[:-1], *(pytest.param(each, marks=pytest.mark.long) for each in (SMALL[-1], LIARS))],
    ids=lambda instance: instance.name,
)
def test_sorted_runs_reach_what_all_runs_reach(instance: Instance) -> None:
    """The same states, with those who were left behind moved to the others' round."""
    explorer, everything = Explorer(instance), Explorer(instance, ordered=False)
    explorer.run()
    everything.run()
    seen = {explorer.triple(whole) for whole in explorer.came}
    found = {
        explorer.triple(explorer.whole(*(explorer.number(everything.locals[of]) for of in triple)))
        for triple in map(everything.triple, everything.came)
    }
    assert found == seen


FAST = tuple(
    guard
    for guard in SAFETY
    if guard.name
    in {
        "the threshold",
        "the first vote of a voter counts alone",
        "only members vote",
        "nobody votes in this node's name",
        "a decision needs precommits",
        "a precommit is a lock",
        "no lock on what is not here",
        "the time of the second step ends that step only",
        "a restart knows its votes",
        "what is accepted is prevoted for (validity)",
    }
)


@pytest.mark.control("C-composition-6")
@pytest.mark.parametrize("guard", FAST, ids=lambda guard: guard.name)
def test_without_a_guard_an_invariant_breaks(guard: Guard) -> None:
    found = Explorer(attrs.evolve(guard.instance, engine=without(guard)), strict=False).run()
    assert found.broken
    assert found.way


def test_every_guard_is_still_in_the_text() -> None:
    for guard in SAFETY + SPARE:
        without(guard)


@pytest.mark.control("C-agreement-1")
@pytest.mark.long
def test_without_the_lock_two_nodes_decide_differently() -> None:
    found = Explorer(attrs.evolve(LIARS, engine=without(SAFETY[0])), strict=False).run()
    assert found.broken == "agreement"
