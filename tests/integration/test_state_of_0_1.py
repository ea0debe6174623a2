"""What a node of 0.1 left in its folder is refused by name, with what to do, or read as it was.

The fixtures are dumps of stores that the code of release 0.1 wrote, each with a little in it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from qres_dp.ledger import PrivacyLedger
from qres_dp.ledger.store import Owner
from qres_pki.high_water import HighWater
from qres_replay.store import WindowStore
from qres_reputation.store import ConductStore
from qres_robust_stats.clip_history import SqliteHistory
from qres_secagg.store import SessionStore

from qres_core import NodeId, NodeInfo
from qres_core.errors import RoundError
from qres_core.swarm.storage.journal import SqliteJournal

FIXTURES = Path(__file__).parents[1] / "fixtures/state_of_0_1"
NODES = tuple(NodeId(bytes([number]) * 32) for number in (1, 2, 3, 4))
SWARM = "clinic"
INITIAL = np.array([1, -2, 3], dtype=np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a node of 0.1."""
    place = tmp_path / "data"
    place.mkdir(mode=0o700)
    for dump in FIXTURES.glob("*.sql"):
        file = place / f"{dump.stem}{'.sqlite3' if dump.stem == 'pki' else '.sqlite'}"
        file.touch(mode=0o600)
        with closing(sqlite3.connect(file)) as database:
            database.executescript(dump.read_text("utf-8"))
    shutil.copyfile(FIXTURES / "dp-ledger.anchor", place / "dp-ledger.anchor")
    (place / "dp-ledger.anchor").chmod(0o600)
    (place / "replay.initialised").touch(mode=0o600)
    return place


def journal(folder: Path) -> None:
    SqliteJournal(folder, swarm=SWARM, node_id=NODES[0], initial=INITIAL)


def ledger(folder: Path) -> None:
    PrivacyLedger.open(folder, Owner(SWARM, NODES[0], "add-remove", "node"))


def sessions(folder: Path) -> None:
    SessionStore(folder, swarm=SWARM, node_id=NODES[0])


@pytest.mark.parametrize(
    ("opens", "file", "what", "way"),
    [
        (journal, "journal.sqlite", "this qres-core reads version 6", "begin a new swarm"),
        (ledger, "dp-ledger.sqlite", "this qres-dp reads version 2", "take what it spent off"),
        (sessions, "secagg.sqlite", "this qres-secagg reads version 3", "begin a new swarm"),
    ],
)
def test_state_that_0_2_cannot_read_is_refused_with_the_way_to_move_it(
    folder: Path, opens: Callable[[Path], None], file: str, what: str, way: str
) -> None:
    before = (folder / file).read_bytes()
    with pytest.raises(RoundError, match="QRES-E602") as refused:
        opens(folder)
    (problem,) = refused.value.problems
    assert file in problem.where
    assert f"version 1; {what}" in problem.what
    assert way in problem.fix
    assert (folder / file).read_bytes() == before


def test_state_that_did_not_change_is_read_as_it_was(folder: Path) -> None:
    with closing(WindowStore(folder, swarm=SWARM, node_id=NODES[0], roster=NODES, window=1024)) as (
        windows
    ):
        assert set(windows.senders) == set(NODES)
        known = windows.senders[NODES[1]].window
        assert (known.high, known.seen) == (5, 0b101011)
        assert windows.senders[NODES[2]].window.high == -1
    with closing(ConductStore(folder)) as conduct:
        saved = conduct.load()
        assert (saved.round, saved.settings.rule) == (9, "additive")
        assert [saved.records[node].belief.score for node in NODES] == [
            500_000,
            500_001,
            500_002,
            500_003,
        ]
        assert [saved.records[node].banned for node in NODES] == [False, False, True, False]
    with closing(SqliteHistory(folder, NodeInfo(NODES[0], SWARM, NODES))) as clips:
        made = clips.made(b"c" * 32)
        assert made is not None
        assert made.tolist() == [5, -6]
    with closing(HighWater(str(folder), SWARM)) as seen:
        assert seen.seen(b"a" * 32) == (7, 1.5, b"d" * 32)


def test_control_every_store_of_0_1_is_tried(folder: Path) -> None:
    tried = {"journal", "dp-ledger", "secagg", "replay", "reputation"}
    tried |= {"centred_clipping", "pki"}
    assert {path.stem for path in folder.glob("*.sqlite*")} == tried
