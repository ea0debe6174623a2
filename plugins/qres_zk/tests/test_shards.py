"""Shards of updates that can be seen, against the commitments to their rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids, make_round_info
from qres_zk import Zk, aggregate
from qres_zk.group import ORDER

from qres_core import (
    ACCEPT,
    Companion,
    Contribution,
    NodeInfo,
    RoundInfo,
    Update,
    Updates,
    Visibility,
)
from qres_core.dialogues import RevelationError

D = 100
IDS = make_node_ids(5)


def plugin(**options: Any) -> Zk:
    made = Zk(**{"bound": 10.0, "security": 40, **options})
    made.setup(NodeInfo(IDS[0], "lab", IDS, byzantine=1))
    return made


@pytest.fixture(scope="module", name="info")
def _info() -> RoundInfo:
    return attrs.evolve(make_round_info(D, nodes=5, byzantine=1), swarm="lab")


@pytest.fixture(scope="module", name="sent")
def _sent(info: RoundInfo) -> tuple[Contribution, np.ndarray]:
    """A header, and the vector that its root is of."""
    made = plugin()
    made.round_opened(info)
    drawn = np.random.default_rng(5).integers(-(2**14), 2**14, D).astype(np.int32)
    update = made.privatize(Update(drawn), info)
    proofs = {"zk": made.prove(update, info)}
    elsewhere = np.zeros(1, dtype=np.int32)
    header = Contribution(
        IDS[0], bytes(32), elsewhere, 1, proofs, update.companions, root=b"r" * 32
    )
    return header, update.vector


def _hollow(info: RoundInfo, run: int) -> tuple[Contribution, np.ndarray]:
    """A header of a vector whose first row ends with a zero."""
    vector = np.arange(1, D + 1, dtype=np.int32)
    vector[run - 1] = 0
    made = plugin()
    made.round_opened(info)
    update = made.privatize(Update(vector), info)
    proofs = {"zk": made.prove(update, info)}
    elsewhere = np.zeros(1, dtype=np.int32)
    sent = Contribution(IDS[0], bytes(32), elsewhere, 1, proofs, update.companions, root=b"r" * 32)
    return sent, update.vector


def cuts(run: int) -> list[list[int]]:
    rows = -(-D // run)
    each = [min(D, run * row) for row in range(rows + 1)]
    return [[0, D], each, [0, each[1], D], [0, each[rows - 1], D]]


def test_every_cut_of_whole_rows_is_accepted(
    sent: tuple[Contribution, np.ndarray], info: RoundInfo
) -> None:
    header, vector = sent
    for judge in (plugin(), plugin()):
        assert judge.verify(header, info) is ACCEPT  # of the vector it says nothing
        for cut in cuts(judge.shard_run(D)):
            for start, stop in pairwise(cut):
                assert judge.verify_shard(header, vector[start:stop], start, info) is ACCEPT
    unseen = plugin()  # it did not check the proof, and so did not keep its points
    run = unseen.shard_run(D)
    assert unseen.verify_shard(header, vector[:run], 0, info) is ACCEPT


def test_other_coordinates_and_parts_of_rows_are_refused(
    sent: tuple[Contribution, np.ndarray], info: RoundInfo
) -> None:
    header, vector = sent
    judge = plugin()
    run = judge.shard_run(D)
    for place in (0, 1, run - 1, run, D - 1):
        bent = vector.copy()
        bent[place] += 1
        start = place - place % run
        found = judge.verify_shard(header, bent[start : start + run], start, info)
        assert found.reason == "another-vector-than-committed"
    for start, stop in ((0, run - 1), (1, run + 1), (run, 2 * run + 1)):
        assert judge.verify_shard(header, vector[start:stop], start, info) is not ACCEPT
    assert judge.verify_shard(header, vector[:run], run, info) is not ACCEPT  # another place
    hollow, zero = _hollow(info, run)
    assert judge.verify_shard(hollow, zero[:run], 0, info) is ACCEPT
    # Filled up with a zero it is the first row: as a part of it, or as what begins one later.
    for start in (0, 1):
        assert judge.verify_shard(hollow, zero[: run - 1], start, info) is not ACCEPT
    other = Companion.of((0,) * (len(header.companions["zk"].body) // 32), ORDER)
    few = Companion.of((0,), ORDER)
    for beside in ({"zk": other}, {"zk": few}, {}):
        bare = attrs.evolve(header, companions=beside)
        assert judge.verify_shard(bare, vector[:run], 0, info) is not ACCEPT
    assert judge.verify_shard(attrs.evolve(header, proofs={}), vector[:run], 0, info) is not ACCEPT


@pytest.mark.parametrize("guarded", [True, False])
def test_what_cancels_between_rows_is_seen(
    sent: tuple[Contribution, np.ndarray],
    info: RoundInfo,
    monkeypatch: pytest.MonkeyPatch,
    *,
    guarded: bool,
) -> None:
    header, vector = sent
    judge = plugin()
    run = judge.shard_run(D)
    bent = vector.copy()
    bent[0] += 2**20
    bent[run] -= 2**20
    if not guarded:  # one factor for all rows
        monkeypatch.setattr(aggregate.secrets, "randbits", lambda _bits: 1)
    together = judge.verify_shard(header, bent[: 2 * run], 0, info)
    assert (together is ACCEPT) is not guarded
    for start in (0, run):  # in two shards it does not even cancel
        assert judge.verify_shard(header, bent[start : start + run], start, info) is not ACCEPT


def test_what_was_sent_in_shards_stands_as_it_was_sent(
    sent: tuple[Contribution, np.ndarray], info: RoundInfo
) -> None:
    """Each shard was compared by those that hold it."""
    header, _vector = sent
    judge = plugin()
    unseen = Updates(np.zeros((1, 1), np.int32), (IDS[0],), np.ones(1, np.int64))
    assert judge.reveal(unseen, (header,), info).updates is unseen
    masked = Zk(bound=10.0, security=40)  # nobody saw a shard of what a mask hides
    masked.setup(NodeInfo(IDS[0], "lab", IDS, byzantine=1, visibility=Visibility.GROUP))
    with pytest.raises(RevelationError, match="QRES-E508"):
        masked.reveal(unseen, (header,), info)
