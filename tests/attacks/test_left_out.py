"""A proposer leaves out all nodes that hide one of the others: can it read that one's update?

Whole nodes, with signatures, replay windows, reputation and votes, in one sum on a sparse graph.
The one liar is the proposer of the first round. It leaves the victim's neighbours out of the set
that it proposes, and else does as it should. They are alive, and count as gone, so that their mask
keys would be opened to everybody, beside the victim's seed. In the control no node has the check.
"""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest
from qres_secagg import fitting, survivors
from qres_secagg import plugin as secagg
from qres_secagg.board import SessionMessages
from qres_secagg.inputs import Inputs
from qres_secagg.keys import KeyPair, pair_key, self_key
from qres_secagg.masks import apply
from qres_secagg.revelation import SessionResult
from qres_secagg.shamir import decode

from qres_core import Update
from qres_core.kernel.config import Config, parse
from qres_core.lab.scenario import Scenario
from qres_core.lab.simulator import simulate
from qres_core.lab.tasks import TaskConfig
from qres_core.swarm.messages import CandidateSet
from qres_core.swarm.steps import Round

TASK = TaskConfig(name="quadratic", dimension=20, learning_rate=0.2)
LONG = pytest.mark.long


def swarm(nodes: int, *, proofs: bool) -> Config:
    """A quorum that a set without one node's neighbours still has: the solver would refuse it."""
    table = {
        "name": "left-out", "nodes": nodes, "byzantine": nodes // 14 if proofs else 0,
        "quorum": nodes * 44 // 70, "deadline": 8.0, "vote_timeout": 1.0,
    }  # fmt: skip
    plugins = {
        "memory": {}, "ed25519": {}, "replay": {}, "reputation": {"exponent": 0},
        **({"zk": {"bound": 64.0, "k": 256, "security": 40}} if proofs else {}),
        "secagg": {"bound": 64.0, "patience": 1.0}, "mean": {},
    }  # fmt: skip
    return parse({"swarm": table, "plugins": plugins}, source="test")


@attrs.define
class Bystander:
    """An honest node's eyes: it reads what was broadcast, and nothing else."""

    victim: int = -1
    masked: dict[bytes, Any] = attrs.field(factory=dict)  # by node, what it masked, to compare with
    read: list[bool] = attrs.field(factory=list)  # whether it found the victim's update

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask, reveal, fresh = secagg.masked, secagg.reveal, Round._fresh

        def masking(update: Update, dialogue: Any, **options: Any) -> Update:
            session = dialogue.session
            if session.round == 1:
                self.masked[dialogue._me] = update.vector.copy()
            return mask(update, dialogue, **options)

        def revealing(board: SessionMessages, inputs: Inputs, **options: Any) -> SessionResult:
            if board.session.round == 1 and not self.read:
                self.read.append(self._reads(board, inputs))
            return reveal(board, inputs, **options)

        def leaving_out(made: Round, now: float) -> CandidateSet | None:
            found = fresh(made, now)
            context = made.parts.context
            if found is None or context.node_id != context.proposer(1) or found.origin != 1:
                return found
            session = made.parts.dialogues._by_plugin["secagg"].own.session
            near = secagg_topology(session).peers
            self.victim = (session.rank[context.node_id] + 5) % len(session.roster)
            gone = {session.roster[rank] for rank in near[self.victim]} - {context.node_id}
            return CandidateSet(1, tuple(m for m in found.members if m.sender not in gone))

        monkeypatch.setattr(secagg, "masked", masking)
        monkeypatch.setattr(secagg, "reveal", revealing)
        monkeypatch.setattr(Round, "_fresh", leaving_out)

    def _reads(self, board: SessionMessages, inputs: Inputs) -> bool:
        session, opening, victim = board.session, board.decided(), self.victim
        node, public = session.roster[victim], board.advert(victim).mask
        values = inputs.by_sender[node].vector.copy()
        keys = [(self_key(opening.secret(victim), session.sid, node), -1)]
        for other in board.partners(victim):
            if other in opening.survivors.digests:
                continue
            pair = KeyPair(decode(opening.secret(other)))
            them = session.roster[other], pair.public
            secret = pair.exchange(public)
            keys.append(
                (pair_key(secret, session.sid, (node, public), them), -1 if victim < other else 1)
            )
        apply(values, keys)
        return bool(np.array_equal(values.view(np.int32), self.masked[node]))


def secagg_topology(session: Any) -> Any:
    return SessionMessages(session).topology


@pytest.mark.parametrize(
    ("nodes", "proofs"),
    [
        pytest.param(n, proofs, marks=LONG)
        for n, proofs in ((70, False), (100, False), (200, False), (70, True), (100, True))
    ],
)
@pytest.mark.parametrize("guarded", [True, False])
def test_a_node_without_its_neighbours_is_not_read(
    monkeypatch: pytest.MonkeyPatch, nodes: int, *, proofs: bool, guarded: bool
) -> None:
    monkeypatch.setattr(fitting, "least_quorum", lambda *_: 0)
    if not guarded:
        monkeypatch.setattr(survivors, "exposed", lambda *_: [])
    seen = Bystander()
    seen.watch(monkeypatch)
    once = ("ed25519.authenticate", "zk.verify") if proofs else ("ed25519.authenticate",)
    scenario = Scenario(rounds=1, seed=0, jitter=0.005, once=once)
    result = simulate(swarm(nodes, proofs=proofs), scenario, task=TASK)
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
