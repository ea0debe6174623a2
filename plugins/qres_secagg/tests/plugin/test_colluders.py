"""Two colluders in a small group, and draws of groups that could be had again by aborting."""

from __future__ import annotations

import numpy as np
import pytest
from qres_lab.testing import first_draw, left_of_sums
from qres_secagg import graph, sizing
from qres_secagg.graph import split, topology
from qres_secagg.messages import Kind
from qres_secagg.parameters import Parameters
from qres_secagg.permission import Permission
from qres_secagg.session import Session
from secagg_swarm import PluginSwarm

from qres_core.dialogues import Send
from qres_core.errors import CompatibilityError

N = 40
GROUPS = {"group_size": 4, "min_size": 3, "corrupt": 0.05, "dropout": 0.15}


def left_over(monkeypatch: pytest.MonkeyPatch, options: dict[str, object]) -> tuple[int, bool]:
    """How many honest inputs are left when two colluders take theirs from their group's sum.

    They keep out as many of the others as the group may lack, by not sending them their keys. The
    second number: whether what is left is the update of one of the others.
    """
    swarm = PluginSwarm(N, dict(options), byzantine=2, dimension=50)
    size = int(str(options["group_size"]))
    colluders = tuple(swarm.roster[:2])

    def dealt(n: int, seed: bytes) -> tuple[int, ...]:
        """The worst draw: the two are in one group."""
        del seed
        return (0, *range(2, n // size + 1), 1, *range(n // size + 1, n))

    monkeypatch.setattr(graph, "permutation", dealt)
    group = next(g for g in split(N, size, b"") if {0, 1} <= set(g))
    spare = len(group) - int(str(options["min_size"]))
    out = [swarm.roster[rank] for rank in group[2:][:spare]]

    def carry(sender: bytes, receiver: bytes, send: Send) -> Send | None:
        withheld = sender == colluders[0] and receiver in out
        return None if withheld and send.step in (Kind.ADVERTISE, Kind.SHARE) else send

    swarm.carry = carry
    swarm.relay = lambda _holder, receiver, author, _send: (
        author != colluders[0] or receiver not in out
    )
    swarm.open(seconds=8)
    updates = swarm.random_updates()
    swarm.contribute(updates)
    swarm.decide()
    swarm.pass_time(6)
    rows = swarm.reveal(colluders[0]).updates
    own = {node: updates[node].vector for node in colluders}
    least = min(left_of_sums(rows, own), key=lambda rest: len(rest.members))
    read = any(np.array_equal(least.total, updates[node].vector) for node in least.members)
    return len(least.members), read


@pytest.mark.claim("C-secagg-27")
def test_groups_in_which_colluders_leave_one_other_are_refused() -> None:
    with pytest.raises(CompatibilityError, match=r"QRES-E314.*min_size >= 4"):
        PluginSwarm(N, dict(GROUPS), byzantine=2)
    with pytest.raises(CompatibilityError, match=r"QRES-E314"):
        PluginSwarm(N, {**GROUPS, "min_size": 4, "corrupt": 0.1}, byzantine=2)


@pytest.mark.claim("C-secagg-27")
def test_two_colluders_in_the_smallest_group_there_may_be_leave_two_honest_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert left_over(monkeypatch, {**GROUPS, "min_size": 4}) == (2, False)


@pytest.mark.control("C-secagg-27")
def test_control_without_the_rule_they_read_the_one_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sizing, "needed_inputs", lambda _corrupt: 3)
    monkeypatch.setattr(Parameters, "__attrs_post_init__", lambda _self: None)
    monkeypatch.setattr(Permission, "permits", lambda *_: True)  # it would not have it either
    assert left_over(monkeypatch, GROUPS) == (1, True)


def draws(rounds: int) -> list[list[set[bytes]]]:
    """The groups of so many rounds of one model, of which none closes."""
    swarm = PluginSwarm(N, {**GROUPS, "min_size": 4}, byzantine=2)
    found: list[list[set[bytes]]] = []
    for _ in range(rounds):
        swarm.open(seconds=0.5)
        session: Session = swarm.dialogues[swarm.roster[0]].session
        groups = topology(session).groups
        found.append([{session.roster[rank] for rank in group} for group in groups])
        swarm.abort()
    return found


@pytest.mark.claim("C-secagg-32")
def test_aborting_rounds_gives_no_other_draw_of_groups() -> None:
    first, *others = draws(3)
    assert all(groups == first for groups in others)


@pytest.mark.control("C-secagg-32")
def test_control_a_draw_by_the_number_of_the_round_brings_two_together_with_their_victim() -> None:
    """As it was: whoever aborts rounds long enough has the two in the group of whom they want."""

    def draw(number: int) -> tuple[tuple[int, ...], ...]:
        return split(N, 4, graph.beacon(b"m" * 32, number.to_bytes(8, "little"), b"groups"))

    assert first_draw(draw, {0, 1, 3}, 2000) is not None
