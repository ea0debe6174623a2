"""A verdict on a proof that rests on a node's own memory: a coordinator that forgot is the test.

Nodes saw a member lie in a round that made no model, and refuse what it sends. The coordinator was
restarted since, and proposes it in every round.
"""

from __future__ import annotations

from types import ModuleType

import attrs
import pytest
from qres_zk.judging import REFUSED

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Contribution,
    NodeInfo,
    RoundInfo,
    Update,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.claims import Verifies
from qres_core.kernel.discovery import Installed

LIAR, FORGOT = 4, 0
FOR_EVER = 2**62


@attrs.define
class Remembering:
    """Refuses what the liar sends up to a round, if the node was there when it lied."""

    last: int = REFUSED
    claims = Claims(tolerates=None, verifies=Verifies(transferable=True))
    _own: bytes = attrs.field(default=b"", init=False)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        self._own = node_info.node_id

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        del update, round_info
        return b"proof"

    @hookimpl
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        roster = round_info.roster
        there = self._own not in (roster[LIAR], roster[FORGOT])
        if there and contribution.sender == roster[LIAR] and round_info.number <= self.last:
            return reject("lied", blame=Blame.SENDER)
        return ACCEPT


@pytest.mark.parametrize("topology", ["gossip", "coordinator"])
@pytest.mark.parametrize("last", [REFUSED, FOR_EVER])
def test_nodes_that_refuse_a_liar_for_a_while_go_on_with_a_coordinator_that_forgot(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, last: int, topology: str
) -> None:
    remembering = Installed.local("remembering", Remembering)
    monkeypatch.setitem(harness.INSTALLED, "remembering", remembering)
    plugins = {"remembering": {"last": last}}
    net = harness.Net(5, byzantine=1, plugins=plugins, options={"topology": topology})
    net.start()
    made = bool(net.run(seconds=60, until=lambda: min(net.steps(range(4))) >= 2))
    assert made == (last == REFUSED or topology == "gossip")
