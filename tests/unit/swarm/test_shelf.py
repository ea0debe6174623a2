"""Contributions beyond the budget lie on the disk, and are merged a range at a time."""

from __future__ import annotations

import functools
import gc
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import Contribution, Envelope, NodeId, RoundInfo, Updates, Vector
from qres_core.errors import RoundError
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.contributions.merge import Merger
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    ContributionBody,
    Member,
    contribution_digest,
)
from qres_core.swarm.storage.kept_contributions import Gathering, Held
from qres_core.swarm.storage.shelf import FOLDER, Allowance, Shelf, ShelvedFile

NODES, DIMENSION = 24, 20_000
BUDGET = 200_000
"""Of bytes; a contribution takes 80,000 in numbers and as many packed."""


def vector_of(sender: NodeId) -> Vector:
    rng = np.random.default_rng(sender[0])
    return rng.integers(-(2**31) + 1, 2**31, DIMENSION, dtype=np.int32)


@functools.cache
def sent(sender: NodeId) -> bytes:
    return ContributionBody(1 + sender[0] % 3, vector_of(sender)).to_bytes()


def arrived(sender: NodeId, info: RoundInfo) -> Held:
    payload = sent(sender)
    envelope = Envelope(info.swarm, CONTRIBUTION, 1, info.head, sender, 0, 0, payload)
    body = ContributionBody.from_bytes(payload, DIMENSION)
    digest = contribution_digest(envelope)
    return Held(Contribution(sender, digest, body.vector, body.weight), envelope)


@attrs.frozen(eq=False)
class Gathered:
    gathering: Gathering
    members: tuple[Member, ...]
    info: RoundInfo


def gathered(folder: Path | None, budget: int) -> Gathered:
    info, gathering, members = make_round_info(DIMENSION, nodes=NODES), Gathering(), list[Member]()
    shelf = Shelf.open(folder, budget)
    for sender in info.roster:
        held = shelf.lay(arrived(sender, info), gathering.octets)
        gathering.add(held)
        members.append(Member(sender, held.contribution.digest))
    return Gathered(gathering, tuple(members), info)


def kernel(budget: int, rule: str = "mean") -> Kernel:
    options: dict[str, Any] = {"unprotected": True} if rule == "mean" else {"f": 1}
    swarm = {"name": "shelf", "nodes": NODES, "byzantine": 0, "quorum": NODES, "insecure": True}
    raw = {
        "swarm": {**swarm, "memory": budget, "weight_cap": 3},
        "plugins": {"memory": {}, rule: options},
    }
    return Kernel.from_config(parse(raw, source="test"))


def test_what_is_beyond_half_of_the_budget_is_on_the_disk(tmp_path: Path) -> None:
    made = gathered(tmp_path, BUDGET)
    kept = [made.gathering.get(member.digest) for member in made.members]
    assert [held is not None and held.file is None for held in kept] == [False] * NODES
    assert made.gathering.octets == 0  # one alone is more than half
    wide = gathered(tmp_path, 6 * BUDGET)
    assert 0 < wide.gathering.octets <= 3 * BUDGET
    here = [wide.gathering.get(member.digest) for member in wide.members]
    assert [held is not None and held.file is None for held in here].count(True) == 3
    everything = NODES * 2 * 4 * DIMENSION
    assert gathered(tmp_path, 0).gathering.octets >= everything  # no budget: all in memory
    assert gathered(None, BUDGET).gathering.octets >= everything  # as where nothing may be kept
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700


def test_liars_do_not_use_up_the_files_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qres_core.swarm.storage.shelf.MOST_FILES", 2)
    made = gathered(tmp_path, BUDGET)
    here = [made.gathering.get(member.digest) for member in made.members]
    assert [held is not None and held.file is not None for held in here].count(True) == 2
    del made, here
    gc.collect()
    shelf, info = Shelf.open(tmp_path, BUDGET), make_round_info(DIMENSION, nodes=NODES)
    for sender in info.roster[:5]:  # what is let go makes room
        assert shelf.lay(arrived(sender, info), 0).file is not None


def test_what_is_read_from_the_disk_is_what_came(tmp_path: Path) -> None:
    made = gathered(tmp_path, BUDGET)
    for member in made.members:
        held, plain = made.gathering.get(member.digest), arrived(member.sender, made.info)
        assert held is not None
        assert held.file is not None
        assert np.array_equal(held.contribution.vector, plain.contribution.vector)
        assert not held.contribution.vector.flags.writeable
        assert held.envelope.signing_digest == plain.envelope.signing_digest
        assert held.envelope.to_bytes() == plain.envelope.to_bytes()
        assert (
            held.envelope.with_auth({"mac": b"x"}).to_bytes()
            == plain.envelope.with_auth({"mac": b"x"}).to_bytes()
        )
        with pytest.raises(AttributeError):
            held.envelope.nothing  # type: ignore[attr-defined] # noqa: B018
    rows = made.gathering.rows(made.members, 100, 300)
    assert np.array_equal(rows, np.stack([vector_of(m.sender)[100:300] for m in made.members]))


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "meamed"])
def test_merged_in_ranges_the_bits_are_the_same(rule: str, tmp_path: Path) -> None:
    whole, ranged = gathered(None, 0), gathered(tmp_path, BUDGET)
    plain = Merger(kernel(0, rule), whole.gathering, whole.info).merge(whole.members)
    merged = Merger(kernel(BUDGET, rule), ranged.gathering, ranged.info).merge(ranged.members)
    assert np.array_equal(merged, plain)


def peak(work: Callable[..., object], *arguments: object) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        held = work(*arguments)
        del held
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_within_the_budget_and_what_decoding_takes(tmp_path: Path) -> None:
    """Whatever the number of nodes; the control has no budget."""

    def work(folder: Path | None, budget: int) -> Callable[[], object]:
        made, judge = kernel(budget, "median"), gathered

        def run() -> object:
            here = judge(folder, budget)
            return Merger(made, here.gathering, here.info).merge(here.members)

        return run

    work(None, 0)()  # what is loaded once
    limit = BUDGET + 1_300_000  # what decoding one takes: it works on many blocks at once
    assert peak(work(tmp_path, BUDGET)) < limit
    assert peak(work(None, 0)) > 2 * limit


@pytest.mark.parametrize(
    ("rule", "calls"), [("mean", 10), ("median", 10), ("trimmed_mean", 10), ("krum", 1)]
)
def test_without_a_budget_only_who_needs_whole_updates_gets_them(
    rule: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, judge, counted = gathered(None, 0), kernel(0, rule), list[int]()
    plain = Merger(judge, held.gathering, held.info).merge(held.members)
    aggregate = judge.aggregate

    def counting(updates: Updates, *more: Any) -> Vector:
        counted.append(updates.dimension)
        return aggregate(updates, *more)

    monkeypatch.setattr(
        "qres_core.swarm.contributions.merge._MERGING", 24 * NODES * DIMENSION // 10
    )
    monkeypatch.setattr(judge, "aggregate", counting)
    merged = Merger(judge, held.gathering, held.info).merge(held.members)
    assert np.array_equal(merged, plain)
    assert counted == [DIMENSION // calls] * calls


def test_merging_takes_little_beside_the_contributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In vectors: what is merged, and a range of all updates. The control has all rows at once."""
    held, judge = gathered(None, 0), kernel(0, "median")

    def vectors(merging: int) -> float:
        monkeypatch.setattr("qres_core.swarm.contributions.merge._MERGING", merging)
        return peak(Merger(judge, held.gathering, held.info).merge, held.members) / (4 * DIMENSION)

    vectors(2**20)  # what is loaded once
    assert vectors(24 * NODES * DIMENSION // 20) < 1 + NODES / 4
    assert vectors(2**25) > NODES


def test_a_run_that_was_killed_leaves_nothing_that_is_kept(tmp_path: Path) -> None:
    place = tmp_path / FOLDER
    place.mkdir()
    (place / "held-left").write_bytes(b"x")
    gathered(tmp_path, BUDGET)
    assert list(place.iterdir()) == []


def test_a_disk_that_does_not_take_it_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(RoundError, match=r"QRES-E602 .*contributions cannot be laid there"):
        gathered(blocked, BUDGET)
    shelf = Shelf.open(tmp_path, BUDGET)
    (tmp_path / FOLDER).rmdir()
    with pytest.raises(RoundError, match=r"QRES-E602 .*swarm\.memory = 0"):
        shelf.lay(arrived(bytes([1]) * 32, make_round_info(DIMENSION)), 0)


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    file = ShelvedFile.write(tmp_path, np.arange(3, dtype=np.int32), b"payload")
    assert file.payload() == b"payload", "control"
    file._file.truncate(4 * 3 + 3)
    with pytest.raises(RoundError, match=r"QRES-E602.*shorter than it was"):
        file.payload()
    assert file.rows(0, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("budget", "asks", "granted"),
    [
        (0, ["a", "a", "a"], [True, True, True]),
        (10, ["a", "a", "b", "c"], [True, False, True, True]),
        (11, ["a", "a", "a"], [True, True, False]),
    ],
    ids=["no limit", "one message each", "more while something is left"],
)
def test_each_is_given_one_message_in_a_while_and_more_while_something_is_left(
    budget: int, asks: list[str], granted: list[bool]
) -> None:
    allowance, found = Allowance(budget, 1.0), list[bool]()
    for peer in asks:
        found.append(allowance.grants(peer.encode(), 0.0))
        if found[-1]:
            allowance.gave(peer.encode(), 10)
    assert found == granted
    assert allowance.grants(asks[0].encode(), 1.0)
