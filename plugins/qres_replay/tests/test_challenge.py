"""The challenge, message by message: what it lets in, and what it does not."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs
import pytest
from qres_lab.testing import make_envelope, make_node_ids, make_node_info, make_round_info
from qres_replay import Replay
from qres_replay.challenge import (
    ANSWER_KIND,
    NONCE_KIND,
    RESEND_SECONDS,
    Challenge,
    answer_to,
    draw_nonce,
)

from qres_core import ACCEPT, Blame, NodeId
from qres_core.dialogues import Dialogue, DialogueMessage, Send

IDS = make_node_ids(4)
LEADER, PEER, OTHER, LAST = IDS
NOW = 1_700_000_000.0
LOST = 5_000_000  # the time on a clock that was never set, milliseconds
NONCE = bytes(range(32))


def node(index: int, seed: int | None = None, **options: Any) -> Replay:
    replay = Replay(mode="challenge", **options)
    replay.setup(attrs.evolve(make_node_info(index=index), seed=seed))
    return replay


def open_round(replay: Replay, number: int) -> Challenge:
    dialogue = replay.round_opened(make_round_info(number=number))
    assert isinstance(dialogue, Challenge)
    return dialogue


def deliver(
    replay: Replay,
    sender: NodeId,
    sequence: int,
    *,
    kind: str = "contribution",
    number: int = 1,
    payload: bytes = b"",
    time_ms: int = LOST,
) -> str:
    """Why a message with a wrong clock is refused."""
    envelope = make_envelope(
        sender=sender,
        sequence=sequence,
        kind=kind,
        round_number=number,
        payload=payload,
        time_ms=time_ms,
    )
    verdict = replay.replay_check(envelope, NOW)
    assert verdict.blame is Blame.NOBODY
    return verdict.reason


def nonce(replay: Replay, sequence: int = 0, number: int = 1, payload: bytes = NONCE) -> str:
    return deliver(replay, LEADER, sequence, kind=NONCE_KIND, number=number, payload=payload)


def answer(
    replay: Replay,
    sender: NodeId,
    sequence: int,
    *,
    to: bytes = NONCE,
    number: int = 1,
    by: NodeId | None = None,
    envelope_round: int | None = None,
) -> str:
    payload = answer_to(to, sender if by is None else by, number)
    return deliver(
        replay,
        sender,
        sequence,
        kind=ANSWER_KIND,
        number=number if envelope_round is None else envelope_round,
        payload=payload,
    )


def test_the_answer_is_the_digest_the_documentation_gives() -> None:
    digest = hashlib.sha256(b"qres/replay/answer/v1\0" + NONCE + PEER + (7).to_bytes(8, "big"))
    assert answer_to(NONCE, PEER, 7) == digest.digest()


# ── what is let in ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-replay-10")
def test_an_answer_makes_what_follows_it_fresh_at_the_coordinator() -> None:
    replay = node(0)
    (challenge,) = open_round(replay, 1).start()
    assert deliver(replay, PEER, 9) == "clock-behind"
    assert answer(replay, PEER, 10, to=challenge.body) == ""
    assert deliver(replay, PEER, 11) == ""
    assert deliver(replay, PEER, 12, time_ms=2**63 - 1) == ""
    assert deliver(replay, PEER, 9) == "clock-behind"
    assert deliver(replay, PEER, 9, time_ms=2**62) == "clock-ahead"
    assert deliver(replay, PEER, 9, time_ms=int(NOW * 1000)) == ""


def test_and_at_the_other_peers() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert nonce(replay, 5) == ""
    assert answer(replay, PEER, 10) == ""
    assert deliver(replay, PEER, 11) == ""
    assert deliver(replay, PEER, 9) == "clock-behind"
    # To a node whose own clock is wrong the coordinator looks as wrong as all others.
    assert deliver(replay, LEADER, 6) == ""
    assert deliver(replay, LEADER, 4) == "clock-behind"
    assert deliver(replay, OTHER, 11) == "clock-behind"


@pytest.mark.claim("C-trust-7")
def test_numbers_stay_the_main_defence() -> None:
    replay = node(0)
    (challenge,) = open_round(replay, 1).start()
    assert answer(replay, PEER, 10, to=challenge.body) == ""
    assert answer(replay, PEER, 10, to=challenge.body) == "replayed"
    assert deliver(replay, PEER, 2000) == ""
    assert deliver(replay, PEER, 2000) == "replayed"
    assert deliver(replay, PEER, 2000 - 1023) == ""
    assert deliver(replay, PEER, 2000 - 1024) == "sequence-too-old"


def test_freshness_lasts_for_the_round_and_the_last_words_of_it() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert nonce(replay, 5) == answer(replay, PEER, 10) == ""
    open_round(replay, 2)
    assert deliver(replay, PEER, 11) == deliver(replay, LEADER, 6) == ""
    open_round(replay, 3)
    assert deliver(replay, PEER, 12) == deliver(replay, LEADER, 7) == "clock-behind"


def test_a_new_answer_does_not_cut_off_what_was_said_before_it() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert nonce(replay, 5) == answer(replay, PEER, 10) == ""
    open_round(replay, 2)
    assert nonce(replay, 8, 2) == answer(replay, PEER, 20, number=2) == ""
    assert deliver(replay, PEER, 11) == ""
    open_round(replay, 3)
    assert deliver(replay, PEER, 21) == ""
    assert deliver(replay, PEER, 19) == "clock-behind"


def test_of_two_answers_the_first_signed_counts() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert nonce(replay) == answer(replay, PEER, 20) == answer(replay, PEER, 10) == ""
    assert answer(replay, PEER, 30) == ""
    assert deliver(replay, PEER, 11) == ""


def test_an_answer_that_overtakes_the_nonce_counts_once_the_nonce_is_here() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert answer(replay, PEER, 10) == ""
    assert answer(replay, OTHER, 10, to=bytes(32)) == ""
    assert deliver(replay, PEER, 11) == "clock-behind"
    assert nonce(replay) == ""
    assert deliver(replay, PEER, 11) == ""
    assert deliver(replay, OTHER, 11) == "clock-behind"


def test_an_answer_to_no_nonce_makes_nothing_fresh() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert answer(replay, PEER, 10, to=b"") == ""  # it may be one to a nonce that comes later
    assert deliver(replay, PEER, 11) == "clock-behind"
    assert nonce(replay) == ""
    assert deliver(replay, PEER, 12) == "clock-behind"


def test_a_nonce_of_a_later_round_reaches_a_node_that_lags() -> None:
    replay = node(1)
    dialogue = open_round(replay, 1)
    assert nonce(replay, 5, number=9) == ""
    assert deliver(replay, LEADER, 6, number=9) == ""
    (send,) = dialogue.tick(NOW)
    assert send == Send(answer_to(NONCE, PEER, 9), step=1)
    assert dialogue.tick(NOW) == []
    assert dialogue.ready


def test_an_answer_counts_whatever_round_its_envelope_is_of() -> None:
    # A node that lags says it from its own round; the digest names the round it answers.
    replay = node(0)
    (challenge,) = open_round(replay, 9).start()
    assert answer(replay, PEER, 10, to=challenge.body, number=9, envelope_round=1) == ""
    assert deliver(replay, PEER, 11) == ""


def test_a_floor_of_a_power_loss_does_not_hold_for_the_fresh() -> None:
    # What was signed after an answer to a nonce of now was not sent before the restart.
    replay = node(0)
    replay._senders[PEER].floor = replay._senders[OTHER].floor = int(NOW * 1000)
    (challenge,) = open_round(replay, 1).start()
    assert answer(replay, PEER, 10, to=challenge.body) == ""
    assert deliver(replay, PEER, 11, time_ms=int(NOW * 1000)) == ""
    assert deliver(replay, OTHER, 11, time_ms=int(NOW * 1000)) == "sent-before-the-restart"


# ── attacks ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-replay-10")
def test_a_recorded_answer_of_another_round_is_worth_nothing() -> None:
    replay = node(0)
    (first,) = open_round(replay, 1).start()
    (second,) = open_round(replay, 2).start()
    assert first.body != second.body
    assert answer(replay, PEER, 10, to=first.body, number=1) == "clock-behind"
    assert answer(replay, PEER, 10, to=first.body, number=2) == "clock-behind"
    assert answer(replay, PEER, 10, to=second.body, number=1) == "clock-behind"
    assert deliver(replay, PEER, 11) == "clock-behind"


def test_a_right_clock_lets_an_old_answer_in_and_makes_nobody_fresh() -> None:
    replay = node(0)
    (first,) = open_round(replay, 1).start()
    open_round(replay, 2)
    old = make_envelope(
        sender=PEER, sequence=10, kind=ANSWER_KIND, payload=answer_to(first.body, PEER, 1)
    )
    assert replay.replay_check(old, NOW) is ACCEPT
    assert deliver(replay, PEER, 11) == "clock-behind"


@pytest.mark.claim("C-replay-10")
def test_the_answer_of_another_is_worth_nothing() -> None:
    replay = node(0)
    (challenge,) = open_round(replay, 1).start()
    assert answer(replay, PEER, 10, to=challenge.body, by=OTHER) == "clock-behind"


def test_the_coordinator_takes_no_answer_on_trust() -> None:
    replay = node(0)
    assert answer(replay, PEER, 10) == "clock-behind"  # before any round
    open_round(replay, 1)
    for number in (1, 2, 3):
        assert answer(replay, PEER, 10, number=number) == "clock-behind"


def test_only_the_coordinator_has_a_nonce() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert deliver(replay, PEER, 5, kind=NONCE_KIND, payload=NONCE) == "clock-behind"
    assert deliver(replay, LEADER, 5, kind=NONCE_KIND, payload=NONCE[1:]) == "clock-behind"
    assert deliver(replay, LEADER, 5, kind="dialogue/other/0", payload=NONCE) == "clock-behind"
    leader = node(0)
    open_round(leader, 1)
    assert nonce(leader) == "clock-behind"  # its own, come back


@pytest.mark.claim("C-replay-10")
@pytest.mark.parametrize(
    ("sender", "kind", "payload"),
    [
        (PEER, NONCE_KIND, NONCE),
        (LEADER, "dialogue/other/0", NONCE),
        (LEADER, ANSWER_KIND, NONCE),
        (LEADER, NONCE_KIND, NONCE[1:]),
    ],
)
def test_nor_does_a_right_clock_make_a_nonce_of_what_is_none(
    sender: NodeId, kind: str, payload: bytes
) -> None:
    replay = node(2)
    dialogue = open_round(replay, 1)
    envelope = make_envelope(sender=sender, sequence=5, kind=kind, payload=payload)
    assert replay.replay_check(envelope, NOW) is ACCEPT
    assert dialogue.start() == []
    assert deliver(replay, sender, 6) == "clock-behind"


def test_a_nonce_of_a_round_that_is_over_is_held_to_the_clock() -> None:
    replay = node(2)
    open_round(replay, 2)
    assert nonce(replay, number=1) == "clock-behind"


@pytest.mark.parametrize("removed", [True, False])
def test_what_a_lying_leader_said_goes_with_it(*, removed: bool) -> None:
    """A nonce of a far round outlives the members' patience, and not the liar's seat.

    The control: while it leads, the far round is the newest, and nobody's answer is right.
    """
    replay = node(2)
    open_round(replay, 1)
    assert not nonce(replay, number=2**40)
    roster = IDS[1:] if removed else IDS
    info = attrs.evolve(make_round_info(number=2), roster=tuple(roster))
    replay.round_opened(info)
    fresh = bytes([2]) * 32
    leader = PEER if removed else LEADER
    deliver(replay, leader, 5, kind=NONCE_KIND, number=2, payload=fresh)
    said = deliver(replay, LAST, 1, kind=ANSWER_KIND, number=2, payload=answer_to(fresh, LAST, 2))
    assert (said == "") is removed


def test_a_second_nonce_of_a_round_changes_nothing() -> None:
    replay = node(2)
    dialogue = open_round(replay, 1)
    assert nonce(replay, 5) == nonce(replay, 6, payload=bytes(32)) == ""
    assert dialogue.start() == [Send(answer_to(NONCE, OTHER, 1), step=1)]
    assert answer(replay, PEER, 10, to=bytes(32)) == "clock-behind"
    assert answer(replay, PEER, 10) == ""


def test_a_second_nonce_that_overtakes_the_first_does_not_move_its_place() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert nonce(replay, 9) == ""
    assert nonce(replay, 5, payload=bytes(32)) == ""
    assert deliver(replay, LEADER, 8) == "clock-behind"


@pytest.mark.parametrize("payload", [b"", bytes(31), bytes(33)])
def test_what_is_no_answer_is_not_taken_for_an_early_one(payload: bytes) -> None:
    replay = node(2)
    open_round(replay, 1)
    assert deliver(replay, PEER, 10, kind=ANSWER_KIND, payload=payload) == "clock-behind"


def test_an_early_answer_of_a_round_that_is_over_is_held_to_the_clock() -> None:
    replay = node(2)
    open_round(replay, 2)
    assert answer(replay, PEER, 10, number=1) == "clock-behind"
    assert nonce(replay, number=2) == ""
    assert answer(replay, PEER, 10, to=bytes(32), number=2) == "clock-behind"
    assert answer(replay, PEER, 10, number=3) == ""


def test_early_answers_cost_memory_by_sender_and_not_by_message() -> None:
    replay = node(2)
    open_round(replay, 1)
    for sequence in range(500):
        assert answer(replay, PEER, sequence, number=1 + sequence) == ""
    freshness = replay._freshness
    assert freshness is not None
    assert len(freshness._early) == 1
    assert freshness._fresh == freshness._before == {}
    assert nonce(replay, number=500) == ""
    assert freshness._early == {}
    assert freshness._fresh == {LEADER: 0, PEER: 499}


@pytest.mark.claim("C-replay-2")
def test_a_refused_message_leaves_no_trace() -> None:
    replay = node(2)
    open_round(replay, 1)
    assert nonce(replay, 5) == ""
    freshness = replay._freshness
    assert freshness is not None
    before = attrs.asdict(freshness)
    assert answer(replay, PEER, 10, to=bytes(32)) == "clock-behind"
    assert nonce(replay, 5, number=7) == "replayed"
    assert attrs.asdict(freshness) == before


# ── the dialogue ──────────────────────────────────────────────────────────────────────────────────


def test_the_coordinator_asks_everybody_and_is_ready() -> None:
    replay = node(0)
    dialogue = open_round(replay, 1)
    assert isinstance(dialogue, Dialogue)
    assert dialogue.ready
    assert dialogue.finished
    (send,) = dialogue.start()
    assert (send.step, send.to, len(send.body)) == (0, None, 32)
    assert dialogue.decided(IDS, (), make_round_info()) == []
    assert dialogue.receive(DialogueMessage(PEER, 1, answer_to(send.body, PEER, 1))) == []


def test_a_peer_is_ready_when_it_has_answered() -> None:
    replay = node(1)
    dialogue = open_round(replay, 1)
    assert dialogue.start() == dialogue.tick(NOW) == []
    assert not dialogue.ready
    assert dialogue.finished
    assert nonce(replay) == ""
    assert dialogue.receive(DialogueMessage(LEADER, 0, NONCE)) == [
        Send(answer_to(NONCE, PEER, 1), step=1)
    ]
    assert dialogue.ready
    assert dialogue.tick(NOW) == []


def test_who_is_asked_again_answers_the_coordinator_again() -> None:
    replay = node(1)
    dialogue = open_round(replay, 1)
    assert nonce(replay) == ""
    message = DialogueMessage(LEADER, 0, NONCE)
    (first,) = dialogue.receive(message)
    (second,) = dialogue.receive(message)
    assert second == attrs.evolve(first, to=LEADER)


@pytest.mark.parametrize(
    "message",
    [
        DialogueMessage(OTHER, 0, NONCE),
        DialogueMessage(LEADER, 1, NONCE),
        DialogueMessage(LEADER, 0, bytes(32)),
        DialogueMessage(LEADER, 0, b""),
    ],
)
def test_nothing_else_is_answered(message: DialogueMessage) -> None:
    replay = node(1)
    dialogue = open_round(replay, 1)
    assert dialogue.receive(message) == []
    assert nonce(replay) == ""
    assert dialogue.receive(message) == []


def test_a_nonce_that_came_before_the_round_is_answered_at_its_start() -> None:
    replay = node(1)
    open_round(replay, 1)
    assert nonce(replay, number=2) == ""
    dialogue = open_round(replay, 2)
    assert dialogue.start() == [Send(answer_to(NONCE, PEER, 2), step=1)]
    assert dialogue.ready


def test_a_nonce_is_repeated_to_those_who_did_not_answer() -> None:
    replay = node(0)
    dialogue = open_round(replay, 1)
    (send,) = dialogue.start()
    assert answer(replay, PEER, 10, to=send.body) == ""
    assert dialogue.tick(NOW) == dialogue.tick(NOW + RESEND_SECONDS / 2) == []
    again = dialogue.tick(NOW + RESEND_SECONDS)
    assert again == [attrs.evolve(send, to=peer) for peer in (OTHER, LAST)]
    assert dialogue.tick(NOW + 1.5 * RESEND_SECONDS) == []
    assert answer(replay, OTHER, 10, to=send.body) == ""
    assert dialogue.tick(NOW + 2 * RESEND_SECONDS) == [attrs.evolve(send, to=LAST)]


def test_nonces_are_secrets_on_a_real_node_and_repeatable_in_the_simulator() -> None:
    assert len({draw_nonce(None, 1) for _ in range(100)}) == 100
    assert len({draw_nonce(seed, number) for seed in range(10) for number in range(10)}) == 100
    sent = [open_round(node(0, seed=3), 1).start() for _ in range(2)]
    assert sent[0] == sent[1] == [Send(draw_nonce(3, 1))]
    assert open_round(node(0), 1).start() != open_round(node(0), 1).start()


def test_mode_clock_has_no_dialogue() -> None:
    replay = Replay()
    replay.setup(make_node_info())
    assert replay.round_opened(make_round_info()) is None
    envelope = make_envelope(
        sender=LEADER, kind=NONCE_KIND, payload=NONCE, time_ms=LOST, sequence=3
    )
    assert replay.replay_check(envelope, NOW).reason == "clock-behind"
