"""The hook by itself: what it accepts, what it refuses, whom it blames."""

from __future__ import annotations

import math
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing import make_envelope, make_node_ids, make_node_info, make_round_info
from qres_replay import Replay
from qres_replay.challenge import ANSWER_KIND, Challenge, answer_to

from qres_core import ACCEPT, Blame, Needs, Verdict
from qres_core.errors import OptionError

IDS = make_node_ids(4)
SIX = (*IDS, *sorted(set(make_node_ids(6)) - set(IDS)))
NOW = 1_700_000_000.0
NOW_MS = 1_700_000_000_000


def ready(**options: Any) -> Replay:
    replay = Replay(**options)
    replay.setup(make_node_info())
    return replay


def check(
    replay: Replay, sequence: int, *, sender: int = 0, off_ms: int = 0, now: float = NOW
) -> Verdict:
    envelope = make_envelope(
        sender=IDS[sender], sequence=sequence, time_ms=int(now * 1000) + off_ms
    )
    return replay.replay_check(envelope, now)


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────


def test_a_message_is_accepted_once() -> None:
    replay = ready()
    assert check(replay, 0) is ACCEPT
    for _ in range(3):
        verdict = check(replay, 0)
        assert (verdict.accepted, verdict.reason) == (False, "replayed")


@pytest.mark.parametrize(("window", "lowest"), [(32, 969), (1024, 0)])
def test_out_of_order_inside_the_window_and_not_below(window: int, lowest: int) -> None:
    replay = ready(window=window)
    assert check(replay, 1000) is ACCEPT
    assert check(replay, lowest) is ACCEPT
    assert check(replay, lowest).reason == "replayed"
    if lowest:
        assert check(replay, lowest - 1).reason == "sequence-too-old"


def test_senders_have_nothing_to_do_with_each_other() -> None:
    replay = ready(window=32)
    assert check(replay, 5, sender=0) is ACCEPT
    assert check(replay, 2**63 - 1, sender=1) is ACCEPT
    assert check(replay, 5, sender=1).reason == "sequence-too-old"
    assert check(replay, 4, sender=0) is ACCEPT
    assert check(replay, 5, sender=0).reason == "replayed"


def test_a_gap_of_a_reserved_block_is_no_obstacle() -> None:
    # A machine that restarts goes on with the next block of 1024 numbers.
    replay = ready()
    assert check(replay, 3) is ACCEPT
    assert check(replay, 1024) is ACCEPT
    assert check(replay, 4) is ACCEPT
    assert check(replay, 0).reason == "sequence-too-old"


@pytest.mark.claim("C-trust-9")
def test_strangers_are_refused_and_cost_no_memory() -> None:
    replay = ready()
    before = set(replay._senders)
    for index in range(100):
        envelope = make_envelope(sender=index.to_bytes(32, "big"), time_ms=NOW_MS)
        verdict = replay.replay_check(envelope, NOW)
        assert (verdict.reason, verdict.blame) == ("unknown-sender", Blame.NOBODY)
    assert set(replay._senders) == before == set(IDS)


@pytest.mark.parametrize("when", ["before setup", "after teardown"])
def test_nothing_is_accepted_outside_the_life_of_the_node(when: str) -> None:
    replay = Replay() if when == "before setup" else ready()
    replay.teardown()
    assert check(replay, 0).reason == "unknown-sender"
    assert replay.round_opened(make_round_info()) is None


def test_a_second_setup_begins_anew() -> None:
    replay = ready()
    assert check(replay, 0) is ACCEPT
    replay.setup(make_node_info(nodes=2))
    assert set(replay._senders) == set(make_node_ids(2))


# ── members that change ───────────────────────────────────────────────────────────────────────────


def members(replay: Replay, *indices: int) -> None:
    """The next round has these of six nodes."""
    roster = tuple(sorted(SIX[at] for at in indices))
    replay.round_opened(attrs.evolve(make_round_info(), roster=roster))


def test_a_member_that_joins_begins_with_an_empty_window_when_its_round_opens() -> None:
    replay = ready()
    joined = make_envelope(sender=SIX[4], sequence=7, time_ms=NOW_MS)
    assert check(replay, 3) is ACCEPT
    verdict = replay.replay_check(joined, NOW)
    # Who is behind by a height does not know it yet: no reason to blame who handed it on.
    assert (verdict.reason, verdict.blame) == ("unknown-sender", Blame.NOBODY)
    members(replay, 0, 1, 2, 3, 4)
    assert replay.replay_check(joined, NOW) is ACCEPT
    assert replay.replay_check(joined, NOW).reason == "replayed"
    assert check(replay, 3).reason == "replayed", "the others keep their windows"


@pytest.mark.claim("C-replay-8")
def test_a_member_that_left_is_unknown_and_nothing_it_said_is_new_when_it_is_added_again() -> None:
    replay = ready()
    assert check(replay, 3, sender=1) is ACCEPT
    members(replay, 0, 2, 3)
    assert check(replay, 4, sender=1).reason == "unknown-sender"
    members(replay, 0, 2)
    members(replay, 0, 1, 2)
    assert check(replay, 3, sender=1).reason == "replayed"
    assert check(replay, 4, sender=1) is ACCEPT


def test_after_teardown_nothing_of_former_members_is_left() -> None:
    replay = ready()
    assert check(replay, 3, sender=1) is ACCEPT
    members(replay, 0, 2, 3)
    replay.teardown()
    members(replay, 0, 1, 2)
    assert check(replay, 4).reason == "unknown-sender"
    replay.setup(make_node_info())
    assert check(replay, 3, sender=1) is ACCEPT


def test_the_first_member_of_the_round_asks_the_others_of_the_round() -> None:
    replay = Replay(mode="challenge")
    replay.setup(make_node_info(index=1))
    follows = replay.round_opened(attrs.evolve(make_round_info(), roster=IDS))
    assert isinstance(follows, Challenge)
    assert not follows.freshness.leads
    others = tuple(node for node in IDS if node > IDS[1])
    round_info = attrs.evolve(make_round_info(number=2), roster=IDS[1:])
    leads = replay.round_opened(round_info)
    assert isinstance(leads, Challenge)
    assert leads.freshness.leads
    assert leads.peers == others


def test_what_a_member_that_left_answered_excuses_nothing_later() -> None:
    replay = Replay(mode="challenge")
    replay.setup(make_node_info(index=0))
    dialogue = replay.round_opened(make_round_info(nodes=4))
    assert isinstance(dialogue, Challenge)
    freshness = dialogue.freshness
    answer = make_envelope(
        sender=IDS[2],
        kind=ANSWER_KIND,
        payload=answer_to(freshness.nonce, IDS[2], 1),
        time_ms=NOW_MS - 10**7,
    )
    assert replay.replay_check(answer, NOW) is ACCEPT
    assert check(replay, 9, sender=2, off_ms=-(10**7)) is ACCEPT, "it is fresh"
    replay.round_opened(attrs.evolve(make_round_info(number=2), roster=IDS[:2]))
    replay.round_opened(make_round_info(number=2))
    assert check(replay, 10, sender=2, off_ms=-(10**7)).reason == "clock-behind"


# ── clocks ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-replay-1")
@pytest.mark.parametrize(
    ("off_ms", "reason"),
    [
        (0, ""),
        (59_000, ""),
        (-59_000, ""),
        (60_000, ""),
        (-60_000, ""),
        (60_001, "clock-ahead"),
        (-60_001, "clock-behind"),
        (61_000, "clock-ahead"),
        (-61_000, "clock-behind"),
    ],
)
def test_skew_to_the_millisecond(off_ms: int, reason: str) -> None:
    verdict = check(ready(), 0, off_ms=off_ms)
    assert (verdict.accepted, verdict.reason) == (not reason, reason)
    assert verdict.blame is Blame.NOBODY


def test_skew_is_an_option_and_may_be_a_fraction() -> None:
    replay = ready(skew=0.25)
    assert check(replay, 0, off_ms=250) is ACCEPT
    assert check(replay, 1, off_ms=-250) is ACCEPT
    assert check(replay, 2, off_ms=251).reason == "clock-ahead"
    assert check(replay, 2, off_ms=-251).reason == "clock-behind"


@pytest.mark.parametrize("time_ms", [0, 1, 2**53 + 1, 2**63 - 1])
def test_extreme_times_are_refused_by_name(time_ms: int) -> None:
    verdict = ready().replay_check(make_envelope(sender=IDS[0], time_ms=time_ms), NOW)
    assert verdict.reason == ("clock-behind" if time_ms < NOW_MS else "clock-ahead")


@given(
    time_ms=st.integers(-(2**64), 2**64),
    sequence=st.integers(0, 2**64),
    now=st.floats(0, 2**53, allow_nan=False),
)
def test_no_number_raises(time_ms: int, sequence: int, now: float) -> None:
    # An envelope cannot carry most of these; the hook does not rely on it.
    message = SimpleNamespace(
        sender=IDS[0], sequence=sequence, time_ms=time_ms, kind="contribution"
    )
    replay = ready()
    verdict = replay.replay_check(message, now)  # type: ignore[arg-type]
    assert verdict.accepted == (abs(time_ms - int(now * 1000)) <= 60_000 and time_ms >= 0)


@pytest.mark.control("C-replay-2")
def test_a_message_refused_for_its_time_may_come_again() -> None:
    replay = ready()
    late = make_envelope(sender=IDS[0], sequence=7, time_ms=NOW_MS)
    assert replay.replay_check(late, NOW - 61).reason == "clock-ahead"
    assert replay.replay_check(late, NOW + 61).reason == "clock-behind"
    assert replay.replay_check(late, NOW) is ACCEPT


@pytest.mark.claim("C-replay-2")
def test_a_refused_message_leaves_no_trace() -> None:
    replay = ready(window=32)
    assert check(replay, 100) is ACCEPT
    state = [attrs.astuple(sender) for sender in replay._senders.values()]
    for sequence, off_ms in ((10_000, 61_000), (10_000, -61_000), (100, 0), (3, 0)):
        assert not check(replay, sequence, off_ms=off_ms).accepted
    assert [attrs.astuple(sender) for sender in replay._senders.values()] == state


# ── blame ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-replay-3")
@pytest.mark.parametrize("sequence", [100, 3])
@pytest.mark.parametrize(
    ("off_ms", "blame"),
    [
        (0, Blame.NOBODY),
        (-60_001, Blame.NOBODY),
        (-120_000, Blame.NOBODY),
        (120_000, Blame.NOBODY),
        (-120_001, Blame.LINK),
        (120_001, Blame.LINK),
    ],
)
def test_only_what_no_honest_neighbour_passes_on_blames_the_link(
    sequence: int, off_ms: int, blame: Blame
) -> None:
    replay = ready(window=32)
    assert check(replay, 100) is ACCEPT
    verdict = check(replay, sequence, off_ms=off_ms)
    assert verdict.reason == ("replayed" if sequence == 100 else "sequence-too-old")
    assert verdict.blame is blame


@pytest.mark.claim("C-replay-3")
def test_a_liar_cannot_get_a_relay_blamed() -> None:
    # It sends a high number directly and a low one through an honest neighbour, with the oldest
    # time that passes the neighbour's own check; the neighbour's clock is off by as much as may be.
    relay, victim = ready(), ready()
    skew = 60.0
    old = make_envelope(sender=IDS[1], sequence=5, time_ms=NOW_MS)
    assert check(victim, 2**40, sender=1, now=NOW + 2 * skew) is ACCEPT
    assert relay.replay_check(old, NOW + skew) is ACCEPT
    verdict = victim.replay_check(old, NOW + 2 * skew)
    assert (verdict.reason, verdict.blame) == ("sequence-too-old", Blame.NOBODY)


def test_in_mode_challenge_no_time_blames_anybody() -> None:
    # There a neighbour may have passed it on as the word of a fresh peer with a wrong clock.
    replay = ready(mode="challenge")
    assert check(replay, 100) is ACCEPT
    assert check(replay, 100, off_ms=-(10**9)).blame is Blame.NOBODY


# ── options ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "60", True, None])
def test_a_bad_skew_is_refused_by_name(value: object) -> None:
    with pytest.raises(OptionError, match=r"skew: must be a finite number above 0 \(seconds\)"):
        Replay(skew=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [31, 65_537, 1024.0, "1024", True, None])
def test_a_bad_window_is_refused_by_name(value: object) -> None:
    with pytest.raises(OptionError, match=r"window: must be an integer in 32\.\.65536, got"):
        Replay(window=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "Clock", "nonce", None])
def test_a_bad_mode_is_refused_by_name(value: object) -> None:
    with pytest.raises(OptionError, match=r'mode: must be one of "clock", "challenge", got'):
        Replay(mode=value)  # type: ignore[arg-type]


def test_bounds_of_the_options_are_good() -> None:
    Replay(skew=1e-3, window=32)
    Replay(skew=1, window=65_536)
    assert check(ready(skew=1e308), 0, off_ms=10**12) is ACCEPT


def test_every_option_explains_itself() -> None:
    options = {field.name: field for field in attrs.fields(Replay) if field.init}
    assert {name: field.default for name, field in options.items()} == {
        "skew": 60.0,
        "window": 1024,
        "mode": "clock",
    }
    assert all(field.metadata["help"] for field in options.values())


@pytest.mark.control("C-replay-12")
def test_needs_and_notices() -> None:
    assert Replay().claims.needs == Needs(families=("authenticate",))
    assert Replay().claims.notices == ()
    assert "coordinator" in Replay(mode="challenge").claims.notices[0]


@pytest.mark.control("C-replay-12")
def test_control_where_nothing_is_signed_a_forger_uses_up_the_numbers_of_others() -> None:
    ids = make_node_ids(4)
    replay = Replay()
    replay.setup(make_node_info())
    forged, honest = (make_envelope(sender=ids[1], sequence=number) for number in (2**62, 5))
    assert replay.replay_check(forged, forged.time_ms / 1000).accepted
    refused = replay.replay_check(honest, honest.time_ms / 1000)
    assert refused.reason == "sequence-too-old"


def test_the_entry_point_leads_here() -> None:
    (entry,) = entry_points(group="qres.plugins", name="replay")
    assert entry.load() is Replay
