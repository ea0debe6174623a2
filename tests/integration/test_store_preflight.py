"""A store that a start would refuse is refused by ``preflight`` alike, and nothing is touched."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from qres_dp import Dp
from qres_dp.keeping import Keeping
from qres_dp.ledger import PrivacyLedger
from qres_dp.modes import Relation, Unit
from qres_lab.testing import make_node_info
from qres_replay import Replay
from qres_replay.store import KIND, MARKER
from qres_reputation import Reputation
from qres_secagg import Secagg
from qres_secagg.store import SessionStore

from qres_core import NodeInfo, stores
from qres_core.cli.app import app
from qres_core.contract.stores import rehearsal
from qres_core.contract.stores.database import is_open_here
from qres_core.errors import Problem, QresError, RoundError
from qres_core.kernel.kernel import Kernel

FILES = {
    "replay": "replay.sqlite",
    "reputation": "reputation.sqlite",
    "secagg": "secagg.sqlite",
    "dp": "dp-ledger.sqlite",
}
NAMES = tuple(FILES)
LOCAL: dict[str, Any] = {"mode": "local", "clip": 1.0, "delta": 1e-6, "epsilon": 4.0, "rounds": 10}


def plugin(name: str, **options: Any) -> Any:
    match name:
        case "replay":
            return Replay(**options)
        case "reputation":
            return Reputation(**options)
        case "secagg":
            return Secagg(**options)
        case _:
            return Dp(**{**LOCAL, **options})


def info(folder: Path, **changes: Any) -> NodeInfo:
    return attrs.evolve(make_node_info(data_dir=str(folder)), **changes)


def lived(name: str, folder: Path, **changes: Any) -> Path:
    """The store of a node that ran, closed in order."""
    node = info(folder, **changes)
    if name == "secagg":
        SessionStore.begin(folder, swarm=node.swarm, node_id=node.node_id).close()
    elif name == "dp":
        owner = Keeping(node, "", Relation.REPLACE_ONE, Unit.NODE).owner
        PrivacyLedger.begin(folder, owner).close()
    else:
        made = plugin(name)
        made.setup(node)
        made.teardown()
    return folder / FILES[name]


def content(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything below a folder: bytes, mode and the time of the last change."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


def asked(of: Any, node: NodeInfo) -> tuple[Problem, ...]:
    return tuple(of.preflight(node))


def started(of: Any, node: NodeInfo) -> tuple[Problem, ...]:
    """What the start itself says."""
    try:
        of.setup(node)
    except QresError as error:
        return error.problems
    of.teardown()
    return ()


def looked_up(name: str, node: NodeInfo, **options: Any) -> tuple[Problem, ...]:
    """What ``preflight`` says, which touches nothing and agrees with the start to the word."""
    folder = Path(node.data_dir or "")
    before = content(folder.parent)
    found = asked(plugin(name, **options), node)
    assert content(folder.parent) == before
    assert found == started(plugin(name, **options), node)
    return found


# ── what fits ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_fits_is_taken(name: str, tmp_path: Path) -> None:
    lived(name, tmp_path / "node")
    assert looked_up(name, info(tmp_path / "node")) == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_there_is_not_made(name: str, tmp_path: Path) -> None:
    assert asked(plugin(name), info(tmp_path / "new" / "node")) == ()
    assert not (tmp_path / "new").exists()
    assert started(plugin(name), info(tmp_path / "new" / "node")) == ()


@pytest.mark.parametrize("name", NAMES)
def test_a_node_that_may_keep_nothing_has_no_store(name: str) -> None:
    assert asked(plugin(name), make_node_info()) == ()


@pytest.mark.parametrize("name", ["replay", "reputation"])
def test_what_a_killed_node_left_in_its_log_is_read(name: str, tmp_path: Path) -> None:
    """A start takes the log into the file; the look leaves both as they were."""
    running = plugin(name)
    running.setup(info(tmp_path / "lives"))
    copy = tmp_path / "killed"
    copy.mkdir()
    for path in (tmp_path / "lives").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
        (copy / path.name).chmod(0o600)
    running.teardown()
    assert (copy / f"{FILES[name]}-wal").stat().st_size or name == "reputation"
    assert looked_up(name, info(copy)) == ()


# ── what does not ─────────────────────────────────────────────────────────────────────────────


def of_another_plugin(folder: Path, name: str) -> None:
    other = "reputation" if name != "reputation" else "replay"
    lived(other, folder).rename(folder / FILES[name])


def of_another_node(folder: Path, name: str) -> None:
    lived(name, folder, node_id=bytes(31) + b"x")


def of_another_swarm(folder: Path, name: str) -> None:
    lived(name, folder, swarm="another")


def open_to_others(folder: Path, name: str) -> None:
    lived(name, folder).chmod(0o644)


def damaged(folder: Path, name: str) -> None:
    path = lived(name, folder)
    octets = path.read_bytes()
    path.write_bytes(octets[: len(octets) // 2])


def of_a_later_version(folder: Path, name: str) -> None:
    with closing(sqlite3.connect(lived(name, folder))) as database:
        database.execute("PRAGMA user_version=99")


def lost_but_for_the_log(folder: Path, name: str) -> None:
    path = lived(name, folder)
    path.rename(f"{path}-wal")


def lost_but_for_a_journal(folder: Path, name: str) -> None:
    path = lived(name, folder)
    path.rename(f"{path}-journal")


def a_folder_in_its_place(folder: Path, name: str) -> None:
    (folder / FILES[name]).mkdir(parents=True)


FAULTS = (
    of_another_plugin,
    of_another_node,
    of_another_swarm,
    open_to_others,
    damaged,
    of_a_later_version,
    lost_but_for_the_log,
    lost_but_for_a_journal,
    a_folder_in_its_place,
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_start_refuses_is_told_before(
    name: str, fault: Callable[[Path, str], None], tmp_path: Path
) -> None:
    fault(tmp_path / "node", name)
    (problem,) = looked_up(name, info(tmp_path / "node"))
    assert problem.code == "QRES-E602"
    assert problem.where == str(tmp_path / "node" / FILES[name])
    assert problem.fix


@pytest.mark.parametrize("name", ["replay", "reputation"])
def test_a_folder_that_cannot_be_made_is_told_before(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (problem,) = looked_up(name, info(tmp_path / "file" / "node"))
    assert (problem.code, problem.what) == ("QRES-E602", "Not a directory")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_told_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so the system's answer is put in its place."""
    lived(name, tmp_path)
    monkeypatch.setattr(os, "access", lambda *_arguments, **_named: False)
    (problem,) = asked(plugin(name), info(tmp_path))
    assert (problem.code, problem.what) == ("QRES-E602", "Permission denied")


def test_a_replay_store_that_was_deleted_is_missed_before(tmp_path: Path) -> None:
    lived("replay", tmp_path / "node").unlink()
    (problem,) = looked_up("replay", info(tmp_path / "node"))
    assert "it was here" in problem.what


def test_a_privacy_ledger_for_other_settings_is_told_before(tmp_path: Path) -> None:
    lived("dp", tmp_path / "node")
    options = {"unit": "record", "records": 10}
    (problem,) = looked_up("dp", info(tmp_path / "node"), **options)
    assert "for add-remove and record" in problem.what


@pytest.mark.parametrize("name", ["dp-ledger.key", "dp-ledger.anchor"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_belongs_to_a_ledger_is_looked_at(name: str, gone: bool, tmp_path: Path) -> None:  # noqa: FBT001
    lived("dp", tmp_path / "node")
    path = tmp_path / "node" / name
    path.unlink() if gone else path.write_bytes(b"other")
    found = looked_up("dp", info(tmp_path / "node"))
    # An anchor of no record may be lost: a kill between the two files leaves that.
    assert bool(found) is not (gone and name == "dp-ledger.anchor")


def test_the_ledger_of_a_data_set_is_looked_at(tmp_path: Path) -> None:
    PrivacyLedger.begin(
        tmp_path / "data", Keeping(info(tmp_path), "x", Relation.ADD_REMOVE, Unit.RECORD).owner
    ).close()
    options = {"dataset": str(tmp_path / "data")}
    (problem,) = looked_up("dp", info(tmp_path / "node"), **options)
    assert "for add-remove neighbours and the unit record" in problem.what


def test_more_of_a_ledger_is_lacking_than_a_file_says(tmp_path: Path) -> None:
    lived("dp", tmp_path / "node")
    (tmp_path / "node" / "dp-ledger.lacks").write_bytes(b"?")
    (problem,) = looked_up("dp", info(tmp_path / "node"))
    assert problem.where.endswith("dp-ledger.lacks")


# ── what is in use ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_is_open_here_is_left_alone(name: str, tmp_path: Path) -> None:
    """To open and close it by hand would take SQLite's locks from the whole process."""
    lived(name, tmp_path)
    running = plugin(name)
    running.setup(info(tmp_path))
    try:
        path = tmp_path / FILES[name]
        assert is_open_here(path)
        path.chmod(0o644)  # would be told, if it were looked at
        assert asked(plugin(name), info(tmp_path)) == ()
        path.chmod(0o600)
    finally:
        running.teardown()
    assert not is_open_here(path)


def test_a_store_that_keeps_changing_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lived("replay", tmp_path)
    copying = rehearsal._copy

    def slow(old: Path, new: Path) -> bool:
        done = copying(old, new)
        if old == path:
            at = path.stat().st_mtime_ns + 1
            os.utime(path, ns=(at, at))
        return done

    path.chmod(0o644)
    monkeypatch.setattr(rehearsal, "_copy", slow)
    assert asked(plugin("replay"), info(tmp_path)) == ()
    monkeypatch.undo()
    assert asked(plugin("replay"), info(tmp_path))  # the control


def test_no_copy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "temporary"
    made.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(made))
    seen: list[tuple[int, set[str]]] = []

    def opens(folder: Path) -> None:
        assert folder.parent == made
        seen.append((folder.stat().st_mode & 0o777, {path.name for path in folder.iterdir()}))
        raise RoundError.of("QRES-E602", str(folder / "x"), "no")

    lived("replay", tmp_path / "node")
    (problem,) = stores.rehearse(tmp_path / "node", KIND, opens, (MARKER,))
    assert problem.where == str(tmp_path / "node" / "x")
    assert seen == [(0o700, {KIND.file, MARKER})]
    assert not list(made.iterdir())


def test_without_room_for_a_copy_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived("replay", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    (problem,) = asked(plugin("replay"), info(tmp_path))
    assert problem.code == "QRES-E602"
    assert "TMPDIR" in problem.fix


@pytest.mark.parametrize("name", NAMES)
def test_of_what_is_not_there_no_copy_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a full or missing TMPDIR refuses no new node; the control is the test before."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert asked(plugin(name), info(tmp_path / "new" / "node")) == ()
    (tmp_path / "there").mkdir()
    assert asked(plugin(name), info(tmp_path / "there")) == ()


# ── the commands ──────────────────────────────────────────────────────────────────────────────

NODE = """
[swarm]
name = "t"
nodes = 1
byzantine = 0
quorum = 1
roster = ["{key}"]
[plugins.libp2p]
listen = "/ip4/127.0.0.1/tcp/0"
peers = []
[plugins.ed25519]
key = "node.key"
[plugins.replay]
{more}
[plugins.mean]
[node]
data_dir = "data"
status = ""
[trainer.task]
name = "quadratic"
"""


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["keygen", "node.key", "--no-passphrase"])
    shown = CliRunner().invoke(app, ["key", "show", "node.key", "--json"])
    return str(shown.stdout.split('"')[3])


def qres(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    said = result.exception if isinstance(result.exception, QresError) else ""
    return f"{result.output}{said}"


def test_check_and_doctor_tell_of_a_store_before_the_start(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("node.toml").write_text(NODE.format(key=key, more=""))
    assert "would start" in qres("check", "node.toml")
    folder = Path("data", key)
    lived("replay", folder, node_id=bytes.fromhex(key), swarm="t", roster=(bytes.fromhex(key),))
    assert "would start" in qres("check", "node.toml")
    assert "BAD" not in qres("node", "doctor", "node.toml")
    (folder / "replay.sqlite").chmod(0o644)
    before = content(Path("data"))
    assert "QRES-E602" in qres("check", "node.toml")
    assert f"BAD  {folder}/replay.sqlite" in qres("node", "doctor", "node.toml")
    assert "QRES-E602" in qres("node", "run", "node.toml")
    assert content(folder)["replay.sqlite"] == before[f"{key}/replay.sqlite"]
    # The control: without the common test, check promises a start that fails.
    monkeypatch.setattr(Kernel, "preflight", lambda *_arguments: ())
    assert "would start" in qres("check", "node.toml")


def test_check_tells_of_a_folder_that_cannot_be_made(key: str) -> None:
    Path("data").touch()
    Path("node.toml").write_text(NODE.format(key=key, more=""))
    said = qres("check", "node.toml")
    assert f"QRES-E602 data/{key}/journal.sqlite: Not a directory" in said
    assert f"QRES-E602 data/{key}/journal.sqlite: Not a directory" in qres(
        "node", "run", "node.toml"
    )


def test_check_tells_of_a_reference_of_proofs_that_is_missing(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = '[plugins.zk]\nbound = 1.0\ncenter = "center.npy"'
    Path("node.toml").write_text(NODE.format(key=key, more=more))
    Path("center.npy").write_bytes(b"")
    assert "QRES-E105 plugins.zk.center" in qres("check", "node.toml")
    assert "QRES-E105 plugins.zk.center" in qres("node", "run", "node.toml")
    monkeypatch.setattr(Kernel, "preflight", lambda *_arguments: ())
    assert "would start" in qres("check", "node.toml")
