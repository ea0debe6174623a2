"""A node whose votes the others would not take follows them, and says nothing."""

from __future__ import annotations

import pytest

from qres_core.swarm.consensus.engine import Action, Consensus, Decide, Lock, Step, Vote

MINE = b"mine"
THEIRS = b"theirs"


def played(me: str, *, own: bool = False) -> tuple[Consensus[str], list[Action]]:
    """Four nodes, f = 1; the others' first attempt fails, and they decide in the second."""
    engine: Consensus[str] = Consensus(
        me, "abcd", 1, lambda number: "abcd"[number % 4], claims=True
    )
    said = [(1, Step.PREVOTE, MINE)] if own else []
    engine.restore(Lock(MINE, 1) if own else None, None, said)
    actions = engine.start()
    for voter in "bcd":
        assert engine.vote(Step.PREVOTE, 2, voter, None)
        assert engine.vote(Step.PRECOMMIT, 2, voter, None)
    actions += engine.advance()
    actions += engine.expire(Step.PRECOMMIT, engine.round)
    actions += engine.claim(MINE)
    actions += engine.judge(THEIRS, accepted=None)
    for voter in "bcd":
        assert engine.vote(Step.PRECOMMIT, engine.round, voter, THEIRS)
    return engine, actions + engine.advance()


def votes(actions: list[Action]) -> list[Vote]:
    return [action for action in actions if isinstance(action, Vote)]


@pytest.mark.parametrize("own", [False, True])
def test_it_decides_with_the_others_and_votes_for_nothing(own: bool) -> None:  # noqa: FBT001
    engine, actions = played("", own=own)
    assert not engine.votes
    assert not votes(actions)
    assert isinstance(actions[-1], Decide)
    assert actions[-1].value == THEIRS
    assert "" not in engine.tally(1, Step.PREVOTE).votes


def test_control_a_voter_says_what_it_found_even_late() -> None:
    engine, actions = played("a")
    assert engine.votes
    assert Vote(Step.PREVOTE, 1, MINE) in votes(actions)
