"""Whole rounds with hidden updates: one node masks another vector than it committed to."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import numpy as np
import pytest
from qres_zk import Zk
from qres_zk.plugin import LIED

from qres_core import Evidence, NodeId, RoundInfo, Update
from qres_core.attacks.scenario import SECTIONS
from qres_core.dialogues import Revelation
from qres_core.kernel.config import parse
from qres_core.lab.simulator import simulate

pytest.importorskip("qres_secagg")

PLUGINS: dict[str, dict[str, Any]] = {
    "memory": {},
    "ed25519": {},
    "replay": {},
    "zk": {"bound": 4.0, "k": 512},
    "secagg": {"group_size": 3, "min_size": 3, "bound": 4.0, "patience": 1.0},
    "mean": {},
}


def run(
    monkeypatch: pytest.MonkeyPatch, rounds: int, boost: int
) -> tuple[Any, list[Evidence], set[NodeId]]:
    """A simulation in which the first node of the roster masks a boosted vector."""
    liars: set[NodeId] = set()
    told: dict[tuple[NodeId, int], Evidence] = {}
    honest, reveal = Zk.privatize, Zk.reveal

    @functools.wraps(honest)  # keeps the mark of a hook
    def privatize(self: Zk, update: Update, round_info: RoundInfo) -> Update:
        sent = honest(self, update, round_info)
        if self._node != round_info.roster[0] or not boost:
            return sent
        liars.add(self._node)
        vector = np.clip(sent.vector.astype(np.int64) * boost, -(2**17), 2**17)
        return attrs.evolve(sent, vector=vector.astype(np.int32))

    @functools.wraps(reveal)
    def noted(self: Zk, *arguments: Any, **named: Any) -> Revelation:
        result = reveal(self, *arguments, **named)
        number = named["round_info"].number if named else arguments[-1].number
        told.update({(found.subject, number): found for found in result.against})
        return result

    monkeypatch.setattr(Zk, "privatize", privatize)
    monkeypatch.setattr(Zk, "reveal", noted)
    swarm = {
        "name": "hidden", "nodes": 9, "byzantine": 1, "quorum": 6, "deadline": 10.0,
        "vote_timeout": 2.0,
    }  # fmt: skip
    task = {"name": "quadratic", "dimension": 40}
    config = parse(
        {
            "swarm": swarm,
            "plugins": PLUGINS,
            "simulation": {"rounds": rounds},
            "trainer": {"task": task},
        },
        source="test",
        sections=SECTIONS,
    )
    return simulate(config, config.sections["simulation"]), list(told.values()), liars


def test_honest_rounds_close_and_accuse_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    result, told, liars = run(monkeypatch, 1, 0)
    assert len(result.closed) == 1
    assert told == []
    assert not liars


def test_a_node_that_masks_another_vector_is_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    result, told, liars = run(monkeypatch, 5, 50)
    assert len(result.closed) == 5  # its group is dropped, the other two are merged
    assert {message.fact for message in told} == {LIED}
    assert {message.subject for message in told} == liars
