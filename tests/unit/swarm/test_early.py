"""What comes before its time is kept, and taken when its round opens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qres_core import Envelope
from qres_core.swarm.machine.steps import Round
from qres_core.swarm.sync.pace import Pace

LIAR, HONEST = bytes([1]) * 32, bytes([2]) * 32


def said(sender: bytes) -> Envelope:
    return Envelope("swarm", "choice/precommit", 5, bytes(32), sender, 1, 0, b"")


@pytest.mark.parametrize(
    ("bans", "taken"), [((), [LIAR, HONEST]), ((LIAR,), [HONEST])], ids=["control", "banned"]
)
def test_nothing_early_is_taken_of_whom_the_swarm_banned_since(
    bans: tuple[bytes, ...], taken: list[bytes]
) -> None:
    """Its vote would count here and nowhere else, and the decision prove nothing to the others."""
    pace, heard = Pace(), list[bytes]()
    for sender in (LIAR, HONEST):
        pace.keep(said(sender), 1)
    waiting: Any = SimpleNamespace(
        pace=pace,
        context=SimpleNamespace(head=SimpleNamespace(bans=bans)),
        dispatch=lambda envelope, _now: heard.append(envelope.sender),
    )
    Round._take_early(waiting, 0.0)
    assert heard == taken
    assert not pace.early
