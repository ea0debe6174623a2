"""A proposer leaves out all nodes that hide one of the others: can it read that one's update?

Whole nodes, with signatures, replay windows, reputation and votes, in one sum on a sparse graph.
The one liar is the proposer of the first round. It leaves the victim's neighbours out of the set
that it proposes, and else does as it should. They are alive, and count as gone, so that their mask
keys would be opened to everybody, beside the victim's seed. In the control no node has the check.
"""

from __future__ import annotations

import os
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.exhibits.secagg.reading import Spoils, unmasked
from qres_lab.testing import leaving_out
from qres_secagg import Secagg, fitting, permission, survivors
from qres_secagg import plugin as secagg
from qres_secagg.board import SessionMessages
from qres_secagg.graph import topology
from qres_secagg.inputs import Inputs
from qres_secagg.parameters import choose
from qres_secagg.revelation import SessionResult
from qres_secagg.session import Session

from qres_core import RoundInfo, Update
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig

TASK = TaskConfig(name="quadratic", dimension=20, learning_rate=0.2)
SECAGG: dict[str, Any] = {"bound": 64.0, "patience": 1.0}
LONG = pytest.mark.long
LARGE = (
    LONG,
    pytest.mark.skipif(not os.environ.get("QRES_LARGE"), reason="it takes gigabytes: make large"),
)


def swarm(nodes: int, *, proofs: bool) -> Config:
    """A quorum that a set without one node's neighbours still has: the solver would refuse it."""
    near = choose(nodes, nodes // 10, nodes // 10).k
    table = {
        "name": "left-out", "nodes": nodes, "byzantine": nodes // 14 if proofs else 0,
        "quorum": nodes - near, "deadline": 8.0, "vote_timeout": 1.0,
    }  # fmt: skip
    plugins = {
        "memory": {}, "ed25519": {}, "replay": {}, "reputation": {"exponent": 0},
        **({"zk": {"bound": 64.0, "k": 256, "security": 40}} if proofs else {}),
        "secagg": SECAGG, "mean": {},
    }  # fmt: skip
    return parse({"swarm": table, "plugins": plugins}, source="test")


@attrs.define
class Bystander:
    """An honest node's eyes: it reads what was broadcast, and nothing else."""

    victim: int = -1
    masked: dict[bytes, Any] = attrs.field(factory=dict)  # by node, what it masked, to compare with
    read: list[bool] = attrs.field(factory=list)  # whether it found the victim's update

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask, reveal = secagg.masked, secagg.reveal

        def masking(update: Update, dialogue: Any, **options: Any) -> Update:
            session = dialogue.session
            if session.round == 1:
                self.masked[dialogue._me] = update.vector.copy()
            return mask(update, dialogue, **options)

        def revealing(board: SessionMessages, inputs: Inputs, **options: Any) -> SessionResult:
            if board.session.round == 1 and not self.read:
                self.read.append(self._reads(board, inputs))
            return reveal(board, inputs, **options)

        monkeypatch.setattr(secagg, "masked", masking)
        monkeypatch.setattr(secagg, "reveal", revealing)

    def absent(self, me: bytes, info: RoundInfo) -> set[bytes]:
        """Whom the proposer of the first round leaves out: all that the victim masks against."""
        rank = info.roster.index(me)
        if info.number != 1 or rank != 1:
            return set()
        self.victim = (rank + 5) % len(info.roster)
        numbers = Secagg(**SECAGG).parameters(info, info.dimension)
        session = Session(info.swarm, 1, info.model_digest, info.roster, numbers, info.head)
        return {info.roster[rank] for rank in topology(session).peers[self.victim]} - {me}

    def _reads(self, board: SessionMessages, inputs: Inputs) -> bool:
        node = board.session.roster[self.victim]
        sent = {self.victim: inputs.by_sender[node].vector}
        read = unmasked(board, sent, Spoils.opened(board))
        return bool(np.array_equal(read, self.masked[node]))


@pytest.mark.claim("C-secagg-8")
@pytest.mark.control("C-secagg-8")
@pytest.mark.parametrize(
    ("nodes", "proofs"),
    [
        pytest.param(70, True, marks=LONG),
        pytest.param(70, False, marks=LARGE),
        *(pytest.param(n, proofs, marks=LARGE) for n in (100, 200) for proofs in (False, True)),
    ],
)
@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_without_its_neighbours_is_not_read(
    monkeypatch: pytest.MonkeyPatch, nodes: int, *, proofs: bool, guarded: bool
) -> None:
    monkeypatch.setattr(fitting, "least_quorum", lambda *_: 0)
    if not guarded:
        for module in (survivors, permission):
            monkeypatch.setattr(module, "exposed", lambda *_: [])
        monkeypatch.setattr(survivors, "may_be_cut", lambda *_: False)  # finds it as well
    seen = Bystander()
    seen.watch(monkeypatch)
    once = ("ed25519.authenticate", "zk.verify") if proofs else ("ed25519.authenticate",)
    scenario = Scenario(rounds=1, seed=0, jitter=0.005, once=once)
    liar = Installed.local("secagg", leaving_out(Secagg, seen.absent))
    result = simulate(
        swarm(nodes, proofs=proofs), scenario, task=TASK, installed={**scan(), "secagg": liar}
    )
    assert seen.victim >= 0
    first = result.rounds[0]
    if guarded:
        assert not first.closed
        assert seen.read == []
        assert result.closed  # the next proposer leaves nobody out
        assert result.unanimous
    else:
        assert first.closed
        assert seen.read == [True]
