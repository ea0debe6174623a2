"""What a node says again: what was said a moment before its round opened, too."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from qres_core.swarm.context.effects import Broadcast
from qres_core.swarm.ledger.messages import PREVOTE, encode_vote


def repeated(net: Any) -> list[tuple[str, int]]:
    """Kind and round of what the first node says again, a minute later."""
    outlet = net.machine(0)._outlet
    outlet.take()
    net.machine(0)._speaker.repeat(net.now + 60)
    frames = [effect.frame for effect in outlet.take() if isinstance(effect, Broadcast)]
    said = [net.opened(frame) for frame in frames]
    return [(envelope.kind, envelope.round) for envelope in said if envelope.kind == PREVOTE]


def test_a_vote_that_was_said_before_its_round_opened_is_said_again(harness: ModuleType) -> None:
    """The engine goes to a round, and may vote in it, a moment before the machine opens it."""
    net = harness.Net(4, byzantine=1)
    net.opened = lambda frame: harness.Envelope.from_bytes(frame, max_bytes=2**20)
    net.start()
    speaker = net.machine(0)._speaker
    speaker.say(PREVOTE, encode_vote(None), net.now, round_number=7)
    speaker.open_round(1.0, 7)
    assert repeated(net) == [(PREVOTE, 7)]
    speaker.open_round(1.0, 8)
    assert repeated(net) == [], "the control: of a round before it nothing is repeated"
