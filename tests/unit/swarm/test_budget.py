"""A liar, a peer that asks for much, and a full disk do not break a node's budget of memory."""

from __future__ import annotations

import errno
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from qres_core import Companion, Envelope
from qres_core.contract import canonical
from qres_core.errors import RoundError
from qres_core.swarm.context.effects import Refused, SendTo
from qres_core.swarm.ledger.messages import ContributionBody, contribution_digest
from qres_core.swarm.storage.shelf import Allowance, Shelf, ShelvedFile

PEER, OTHER = b"\x01" * 32, b"\x02" * 32


# ── a full disk ───────────────────────────────────────────────────────────────────────────────────


def full(*_arguments: object, **_more: object) -> ShelvedFile:
    raise OSError(errno.ENOSPC, "No space left on device")


class BrokenFile:
    """A file on a disk that is broken."""

    def seek(self, _at: int) -> int:
        raise OSError(errno.EIO, "Input/output error")


def with_shelf(net: Any, index: int, folder: Path) -> Any:
    """Have a node lay every contribution on the disk."""
    collector = net.machine(index)._collector
    collector._shelf = Shelf.open(folder, 1)
    return collector


def test_a_node_whose_disk_is_full_goes_on_without_what_it_cannot_keep(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = harness.Net(4, byzantine=1)
    with_shelf(net, 0, tmp_path)
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1), "control: there is room"
    assert not net.nodes[0].refused["no-room"]
    with monkeypatch.context() as patch:
        patch.setattr(ShelvedFile, "write", full)
        at = max(net.steps())
        assert net.run(until=lambda: min(net.steps()) >= at + 2)
    told = [event for event in net.nodes[0].effects if isinstance(event, Refused)]
    assert net.nodes[0].refused["no-room"] > 0
    assert any("QRES-E602" in event.detail and "No space left" in event.detail for event in told)
    assert not net.nodes[0].diverged
    models = [net.nodes[index].notebook.models for index in range(4)]
    for step in range(1, min(net.steps()) + 1):
        assert len({known[step] for known in models if step in known}) == 1
    at = max(net.steps())  # there is room again: it takes part as before
    assert net.run(until=lambda: min(net.steps()) >= at + 3)
    last = net.nodes[0].ended[-1].outcome
    assert net.ids[0] in last.members
    against = [fact for node in net.nodes for fact in node.witness.evidence if fact.against]
    assert against == [], "nobody is to blame"


def test_what_the_node_voted_for_must_be_there_again(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that starts again must not begin without it."""
    net = harness.Net(4, byzantine=1)
    collector = with_shelf(net, 0, tmp_path)
    net.start()
    gathering = collector.gathering
    assert net.run(until=lambda: len(gathering.of_round(1)) >= 3)
    kept = [held.envelope for held in gathering.of_round(1).values()]
    collector.restore(kept)
    monkeypatch.setattr(ShelvedFile, "write", full)
    with pytest.raises(RoundError, match=r"QRES-E602 .*contributions cannot be laid there"):
        collector.restore(kept)


def test_a_disk_that_does_not_give_back_what_it_took_is_named(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = harness.Net(4, byzantine=1)
    collector = with_shelf(net, 0, tmp_path)
    net.start()
    gathering = collector.gathering
    assert net.run(until=lambda: len(gathering.of_round(1)) >= 3)
    held = next(iter(gathering.of_round(1).values()))
    assert held.file is not None
    assert held.file.rows(0, 3).size == 3, "control"
    held.file._file.truncate(5)
    for read in (lambda: held.file.rows(0, 3), lambda: held.envelope.payload):
        with pytest.raises(RoundError, match=r"QRES-E602 .*shorter than it was"):
            read()
    monkeypatch.setattr(held.file, "_file", BrokenFile())
    with pytest.raises(RoundError, match=r"QRES-E602 .*Input/output error"):
        held.file.rows(0, 3)


# ── a peer that asks for everything ───────────────────────────────────────────────────────────────


def test_each_peer_may_have_one_and_more_while_something_is_left_for_all() -> None:
    allowance = Allowance(100, 2.0)
    assert allowance.grants(PEER, 1.0)
    allowance.gave(PEER, 60)
    assert allowance.grants(PEER, 1.0), "something is left"
    allowance.gave(PEER, 60)
    assert not allowance.grants(PEER, 2.9), "all is given"
    assert allowance.grants(OTHER, 2.9), "another one has had nothing"
    allowance.gave(OTHER, 60)
    assert not allowance.grants(OTHER, 2.9)
    assert allowance.grants(PEER, 3.0), "a while is over"
    unlimited = Allowance(0, 2.0)
    unlimited.gave(PEER, 10**9)
    assert unlimited.grants(PEER, 0.0)


def answered(harness: ModuleType, budget: int) -> list[list[int]]:
    """Bytes of each contribution that a node sends to one that asks for all, at each request."""
    net = harness.Net(8, byzantine=1, puppets=(7,), options={"memory": budget})
    net.start()
    collector = net.machine(0)._collector
    assert net.run(until=lambda: len(collector.gathering.of_round(1)) >= 7)
    wanted = [held.contribution.digest for held in collector.gathering.of_round(1).values()]
    model, found = net.machine(0).head.digest, list[list[int]]()
    for _request in range(10):
        asked = net.forge(7, "fetch", canonical.dumps(wanted), number=1, model=model)
        collector._outlet.take()
        collector.answer(asked, net.now)
        sent = [event for event in collector._outlet.take() if isinstance(event, SendTo)]
        quoted = [quoted_in(event.frame) for event in sent]
        names = {contribution_digest(message) for message in quoted}
        wanted = [digest for digest in wanted if digest not in names]
        found.append([len(message.to_bytes()) for message in quoted])
        net.now += 1.0  # longer than half the time for votes
    assert wanted == [], "it has them all in the end"
    return found


def quoted_in(frame: bytes) -> Envelope:
    outer = Envelope.from_bytes(frame, max_bytes=2**20)
    return Envelope.from_bytes(outer.payload, max_bytes=2**20)


def test_of_what_a_peer_asks_for_little_leaves_at_once(harness: ModuleType) -> None:
    everything = answered(harness, 0)[0]
    assert len(everything) == 7, "control: all of it, without a budget"
    assert max(map(len, answered(harness, 2))) == 1
    assert len(answered(harness, 2 * (3 * max(everything)))[0]) in {3, 4}


def test_a_node_that_missed_everything_has_it_in_time(harness: ModuleType) -> None:
    """Nobody gives it more than one contribution in a while."""

    def rule(message: Any) -> list[tuple[float, bytes]] | None:
        lost = message.kind == "contribution" and message.receiver == 3
        return [] if lost else None

    net = harness.Net(5, byzantine=1, rule=rule, options={"memory": 2})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 3)
    assert any(message.kind == "fetched" for message in net.sent)
    assert not net.nodes[3].diverged


# ── what no plugin asks for ───────────────────────────────────────────────────────────────────────


def spoilt(net: Any, **beside: Any) -> Envelope:
    body = ContributionBody(1, np.array([1, 2, 3], dtype=np.int32), **beside).to_bytes()
    return net.forge(4, "contribution", body, number=1, model=net.machine(0).head.digest)


@pytest.mark.parametrize(
    ("plugins", "beside", "refused"),
    [
        ({}, {}, ""),  # control
        ({}, {"proofs": {"invented": bytes(1000)}}, "payload.proofs"),
        ({}, {"proofs": {"mean": bytes(1000)}}, "payload.proofs"),
        ({}, {"companions": {"invented": Companion(bytes(1000))}}, "payload.companions"),
        ({"bulk": {}}, {"proofs": {"bulk": bytes(1000)}}, ""),  # it is the plugin's to judge
        ({"bulk": {}}, {"proofs": {"bulk": b"", "more": b""}}, "payload.proofs"),
    ],
)
def test_what_no_plugin_sends_is_not_kept(
    harness: ModuleType, plugins: dict[str, Any], beside: dict[str, Any], refused: str
) -> None:
    net = harness.Net(5, byzantine=1, puppets=(4,), plugins=plugins)
    net.start()
    net.inject(spoilt(net, **beside), [0])
    assert net.run(until=lambda: min(net.steps()) >= 2)
    told = [event.detail for event in net.nodes[0].effects if isinstance(event, Refused)]
    assert [detail for detail in told if detail] == ([refused] if refused else [])
    assert bool(net.nodes[0].refused["malformed-payload"]) == bool(refused)
    if refused:
        facts = net.nodes[0].witness.evidence
        blamed = {fact.subject for fact in facts if fact.fact == "malformed-payload"}
        assert blamed == {net.ids[4]}
