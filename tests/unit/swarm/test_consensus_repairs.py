"""States that stopped the engine of agreement, or could have forked it, found by attacking it.

Four nodes, one of them a liar. Each test says what went wrong before.
"""

from __future__ import annotations

import attrs

from qres_core.swarm.consensus.engine import BEHIND, Consensus
from qres_core.swarm.consensus.votes import (
    Action,
    Decide,
    Enter,
    Lock,
    Propose,
    Show,
    Step,
    Vote,
)

A, B = b"A" * 32, b"B" * 32
LIAR = 3
PREVOTE, PRECOMMIT = Step.PREVOTE, Step.PRECOMMIT


def node(me: int, *, claims: bool = False) -> Consensus[int]:
    return Consensus(me, range(4), 1, lambda number: (number - 1) % 4, claims=claims)


def votes(actions: list[Action]) -> list[Vote]:
    return [action for action in actions if isinstance(action, Vote)]


def spread(engines: list[Consensus[int]]) -> None:
    """Everybody repeats its votes until nobody has a new one."""
    before = None
    while before != [engine.state for engine in engines]:
        before = [engine.state for engine in engines]
        for engine in engines:
            for other in engines:
                for number, step, value in engine.state.own:
                    other.vote(Step(step), number, engine.me, value)
        for engine in engines:
            engine.advance()


def test_three_nodes_that_restart_after_their_prevotes_still_decide_without_the_liar() -> None:
    # Own votes came back as "said" and not as counted: only two of three were left.
    engines = [node(me) for me in range(3)]
    for engine in engines:
        engine.restore(None, None, [(1, PREVOTE, A)])
        engine.start(1)
        engine.judge(A, accepted=True)
    spread(engines)
    assert [engine.decided for engine in engines] == [Decide(1, A)] * 3


def test_a_restart_never_goes_back_to_the_round_of_a_late_claim() -> None:
    # The claim of round 1 was written down last. Back in round 1, the node could precommit there.
    engine = node(0, claims=True)
    lock = Lock(A, 3)
    engine.restore(lock, lock, [(3, PREVOTE, A), (3, PRECOMMIT, A), (1, PREVOTE, B)])
    engine.start(1)
    engine.judge(B, accepted=True)
    engine.prove(PREVOTE, 1, B)
    assert not votes(engine.advance())
    assert (engine.round, engine.lock) == (3, lock)


def test_what_is_valid_is_never_older_than_the_lock() -> None:
    engine = node(0)
    engine.restore(Lock(A, 3), Lock(B, 2), [(3, PRECOMMIT, A)])
    assert engine.valid == Lock(A, 3)
    engine.restore(Lock(A, 3), Lock(B, 5), [(3, PRECOMMIT, A)])
    assert engine.valid == Lock(B, 5)


def test_a_proposer_that_skips_rounds_proposes_what_a_quorum_prevoted_for_meanwhile() -> None:
    # It proposed a fresh value in round 3 though it held the quorum of round 2.
    engine = node(2)
    engine.start()
    engine.judge(A, accepted=True)
    for voter in (0, 1, LIAR):
        engine.vote(PREVOTE, 2, voter, A)
    for voter in (0, 1):
        engine.see(voter, 3)
    assert engine.advance() == [Enter(3), Propose(3, Lock(A, 2))]


def test_a_quorum_of_old_is_learnt_before_it_is_forgotten() -> None:
    engine = node(2)
    engine.start()
    engine.judge(A, accepted=True)
    engine.prove(PREVOTE, 1 + 1, A)
    for voter in (0, 1):
        engine.see(voter, 3 + 4 * BEHIND)
    assert engine.advance()[-1] == Propose(3 + 4 * BEHIND, Lock(A, 2))


def test_the_proof_of_a_proposal_outlives_the_step_into_its_round() -> None:
    # A proposal comes a little before its round begins here. Its old proof was forgotten then, and
    # the proposal, of which the first counts, was unproven for ever.
    late = BEHIND + 10
    engine = node(0)
    engine.restore(Lock(B, 2), None, [(2, PRECOMMIT, B), (late, PRECOMMIT, None)])
    engine.start(late)
    engine.judge(A, accepted=True)
    engine.prove(PREVOTE, 3, A)
    engine.propose(late + 1, A, 3)
    for voter in (1, 2):
        engine.see(voter, late + 1)
    assert votes(engine.advance()) == [Vote(PREVOTE, late + 1, A)]


def test_a_quoted_quorum_counts_where_no_vote_of_its_round_came() -> None:
    # A tally without votes is empty, and what is empty counted for nothing.
    engine = node(1)
    engine.start(2)
    engine.judge(A, accepted=False)
    engine.prove(PREVOTE, 1, A)
    assert engine.tally(1, PREVOTE).has_quorum(A)
    assert votes(engine.propose(2, A, 1)) == [Vote(PREVOTE, 2, A)]


def test_a_decision_that_was_shown_is_kept_until_its_value_is_here() -> None:
    engine = node(0)
    engine.start()
    engine.prove(PRECOMMIT, 2, A)
    for voter in (1, 2):
        engine.see(voter, 3 + 2 * BEHIND)
    engine.advance()
    assert Decide(2, A) in engine.judge(A, accepted=False)


def test_a_claim_told_before_the_start_is_made_in_whatever_round_that_is() -> None:
    engine = node(0, claims=True)
    engine.claim(A)
    assert votes(engine.start(3)) == [Vote(PREVOTE, 1, A)]
    assert not votes(engine.claim(B))


def test_a_node_locked_on_what_it_does_not_accept_prevotes_for_it_with_its_proof() -> None:
    # Nodes 0 and 1 and the liar prevoted for A; node 2, which does not accept A, locked on it. Now
    # the liar is silent, and nothing else than A can get a quorum.
    engines = [node(me) for me in range(3)]
    for engine in engines:
        accepts = engine.me < 2
        own = [(1, PREVOTE, A if accepts else None), (1, PRECOMMIT, None if accepts else A)]
        engine.restore(None if accepts else Lock(A, 1), None, [*own, (2, PRECOMMIT, None)])
        engine.start()
        engine.judge(A, accepted=accepts)
        engine.prove(PREVOTE, 1, A)
        engine.propose(3, A, 1)
    spread(engines)
    for engine in engines:
        engine.expire(PRECOMMIT, 2)
    spread(engines)
    assert [engine.decided for engine in engines] == [Decide(3, A)] * 3


def test_a_fresh_proposal_that_is_not_accepted_gets_nil() -> None:
    engine = node(1)
    engine.start()
    engine.judge(A, accepted=False)
    assert votes(engine.propose(1, A)) == [Vote(PREVOTE, 1, None)]


def locked_by_the_liar() -> Consensus[int]:
    """Node 0 holds the liar's prevote, which nobody else has, and locked."""
    engine = node(0)
    engine.start()
    engine.judge(A, accepted=True)
    engine.propose(1, A)
    engine.vote(PREVOTE, 1, 1, A)
    engine.vote(PREVOTE, 1, LIAR, A)
    engine.advance()
    return engine


def test_a_lock_that_others_may_not_know_is_shown_once() -> None:
    engine = locked_by_the_liar()
    for voter in (1, 2):
        engine.vote(PRECOMMIT, 1, voter, None)
    assert Show(1, Lock(A, 1)) in engine.advance()
    engine.vote(PRECOMMIT, 1, LIAR, None)
    assert not any(isinstance(action, Show) for action in engine.advance())


def test_a_quiet_round_shows_no_lock() -> None:
    engine = locked_by_the_liar()
    for voter in (1, 2):
        engine.vote(PRECOMMIT, 1, voter, A)
    assert engine.advance() == [Decide(1, A)]


def hears(*precommits: bytes | None, prevotes: int) -> Consensus[int]:
    """Node 1 prevoted for A and precommitted nil; others precommit so; so many prevoted nil."""
    engine = node(1)
    engine.start()
    engine.judge(A, accepted=True)
    engine.propose(1, A)
    engine.expire(PREVOTE, 1)
    for voter, value in zip((0, 2, LIAR), precommits, strict=False):
        engine.vote(PRECOMMIT, 1, voter, value)
    for voter in (0, 2, LIAR)[:prevotes]:
        engine.vote(PREVOTE, 1, voter, None)
    engine.advance()
    return engine


def test_a_node_waits_while_somebody_may_be_locked_on_what_it_does_not_know() -> None:
    # It left at once, and the next proposer proposed against a lock; a liar repeats that for ever.
    engine = hears(A, None, None, prevotes=2)
    assert engine.round == 1
    engine.prove(PREVOTE, 1, A)
    engine.advance()
    assert (engine.round, engine.valid) == (2, Lock(A, 1))
    assert hears(None, None, prevotes=2).round == 1  # nothing heard of node 3: it may be locked
    assert hears(B, None, None, prevotes=2).round == 1


def test_a_node_leaves_at_once_when_nobody_can_be_locked() -> None:
    assert hears(None, None, prevotes=3).round == 2  # a quorum prevoted nil
    assert hears(None, None, None, prevotes=2).round == 2  # everybody precommitted nil


def test_states_say_all_that_they_know() -> None:
    state = locked_by_the_liar().state
    assert hash(state) != hash(attrs.evolve(state, shown=1))
