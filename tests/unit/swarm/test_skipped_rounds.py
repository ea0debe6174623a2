"""A node that skips rounds and decides at once begins the next height past all it voted in."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from qres_core.swarm.ledger.messages import LOCK, Proposal

LATE, LIAR, HONEST = 3, 2, 0
"""Who hears nothing of a second round, who proposes it, and one of the others."""

OF_A_HEIGHT = {"contribution", "choice/proposal", "choice/prevote", "choice/precommit", "head"}


def locks_one_in_the_first_round(message: Any) -> tuple[()] | None:
    """One node hears no vote. Of the others one alone hears a quorum in the first round."""
    if message.receiver == LATE and (message.kind != "contribution" or message.round > 1):
        return ()
    votes = {"choice/prevote", "choice/lock"}
    return () if message.sender == LIAR and message.round == 1 and message.kind in votes else None


def said(net: Any, sender: int, kind: str) -> Any:
    """A message of the second round."""
    return next(
        message.envelope
        for message in net.sent
        if (message.sender, message.kind, message.round) == (sender, kind, 2)
    )


def test_who_skips_a_round_and_decides_at_once_votes_in_no_earlier_one(
    harness: ModuleType,
) -> None:
    net = harness.Net(4, byzantine=1, rule=locks_one_in_the_first_round)
    net.start()
    assert net.run(until=lambda: min(net.steps(range(3))) >= 1)
    late, journal = net.machine(LATE), net.nodes[LATE].notebook
    assert (late.step, late.number) == (0, 1)

    proposed = said(net, LIAR, "choice/proposal")
    prevotes = tuple(said(net, index, "choice/prevote") for index in range(3))
    candidate = Proposal.from_bytes(proposed.payload, 4).candidate
    shown = Proposal(candidate, 2, prevotes).to_bytes()
    lock = net.forge(LIAR, LOCK, shown, number=2, model=proposed.head)
    from_liar = [proposed, prevotes[LIAR], said(net, LIAR, "choice/precommit"), lock]
    for number, envelope in enumerate(from_liar):
        net.inject(envelope, [LATE], delay=0.001 * number)
    net.run(seconds=0.01)
    assert late.number == 1, "one node alone is further"
    assert not late.kernel.rejections

    net.inject(said(net, HONEST, "choice/precommit"), [LATE])
    net.run(seconds=0.01)
    assert [number for number, kind, _ in journal.votes if kind == "choice/precommit"][-1] == 2
    net.rule = harness.drop(receiver=LATE, kind=OF_A_HEIGHT)
    assert net.run(until=lambda: late.step >= 1)
    net.run(seconds=5.0)  # alone it votes as well: its journal refuses a second vote in a round
    net.rule = None
    assert net.run(until=lambda: min(net.steps()) >= 3)
