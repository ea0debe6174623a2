"""The store: restarts, power loss, damage. Each against what must never be accepted twice."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import qres_replay.store as store_module
from qres_lab.testing import make_envelope, make_node_ids, make_node_info, make_round_info
from qres_replay import Replay
from qres_replay.store import FILE, LEAD_MS, MARKER, WindowStore

from qres_core import ACCEPT, NodeInfo, stores
from qres_core.errors import QresError, RoundError

IDS = make_node_ids(4)
SIX = (*IDS, *sorted(set(make_node_ids(6)) - set(IDS)))
NOW = 1_700_000_000.0
NOW_MS = 1_700_000_000_000
Said = tuple[int, int, int]  # sender, sequence, time


@pytest.fixture(autouse=True)
def boot(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The machine's boot id, in the test's hands."""
    current = ["first boot"]
    monkeypatch.setattr(store_module, "boot_id", lambda: current[0])
    return current


def opened(folder: Path, *, info: NodeInfo | None = None, **options: Any) -> Replay:
    replay = Replay(**options)
    replay.setup(attrs.evolve(info or make_node_info(), data_dir=str(folder)))
    return replay


def check(replay: Replay, said: Said, now: float | None = None) -> str:
    sender, sequence, time_ms = said
    envelope = make_envelope(sender=IDS[sender], sequence=sequence, time_ms=time_ms)
    verdict = replay.replay_check(envelope, time_ms / 1000 if now is None else now)
    assert verdict.accepted == (not verdict.reason)
    return verdict.reason


def killed(replay: Replay, folder: Path, to: Path) -> Path:
    """What a kill -9 leaves: the files as they are. The old process is put out of the way."""
    to.mkdir()
    for name in (FILE, f"{FILE}-wal", MARKER):
        if (folder / name).exists():
            shutil.copy(folder / name, to / name)
    forget(replay)
    return to


def forget(replay: Replay) -> None:
    """Let go of the files without an orderly stop."""
    assert replay._store is not None
    replay._store._db.close()
    replay._store = None


def talk(replay: Replay, count: int = 60, seed: int = 0) -> list[Said]:
    """Have messages of all senders accepted, out of order, over some 20 seconds."""
    rng = random.Random(seed)
    said: list[Said] = []
    for step in range(count):
        message = rng.randrange(4), step + rng.choice([0, 100, 200]), NOW_MS + step * 350
        if not check(replay, message):
            said.append(message)
    assert len(said) > count / 2
    return said


def code(error: pytest.ExceptionInfo[QresError]) -> str:
    (problem,) = error.value.problems
    assert problem.fix
    return problem.code


# ── in order, and killed ──────────────────────────────────────────────────────────────────────────


@pytest.mark.control("C-replay-6")
def test_an_orderly_stop_is_exact_whatever_the_machine_does(
    tmp_path: Path, boot: list[str]
) -> None:
    replay = opened(tmp_path)
    said = talk(replay)
    replay.teardown()
    assert not (tmp_path / f"{FILE}-wal").exists()
    boot[0] = "second boot"
    again = opened(tmp_path)
    assert {check(again, message) for message in said} == {"replayed"}
    assert check(again, (0, 299, NOW_MS)) == ""
    again.teardown()


@pytest.mark.claim("C-trust-8")
@pytest.mark.control("C-replay-7", "C-replay-14")
def test_a_killed_process_is_exact(tmp_path: Path) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    said = talk(replay)
    after = opened(killed(replay, home, tmp_path / "after"))
    assert {check(after, message) for message in said} == {"replayed"}
    lowest = min(time_ms for _, _, time_ms in said)
    assert [check(after, (sender, 299, lowest)) for sender in range(4)] == [""] * 4
    after.teardown()


@pytest.mark.control("C-replay-4", "C-replay-6", "C-replay-7", "C-replay-14", "C-trust-8")
def test_control_without_a_store_what_was_accepted_is_accepted_again() -> None:
    said: list[Said] = []
    for _start in range(2):
        replay = Replay()
        replay.setup(make_node_info())
        said = said or talk(replay)
        again = [message for message in said if not check(replay, message)]
        replay.teardown()
    assert again


def test_killed_again_and_again_without_a_message_stays_exact(tmp_path: Path) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    said = talk(replay)
    for time in range(3):
        home = killed(replay, home, tmp_path / f"{time}")
        replay = opened(home)
    assert {check(replay, message) for message in said} == {"replayed"}
    assert check(replay, (0, 299, NOW_MS)) == ""
    replay.teardown()


def test_the_log_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHECKPOINT_EVERY", 50)
    home = tmp_path / "home"
    replay = opened(home)
    sizes = set[int]()
    for sequence in range(500):
        assert check(replay, (0, sequence, NOW_MS)) == ""
        sizes.add((home / f"{FILE}-wal").stat().st_size)
    assert max(sizes) <= 55 * (1024 + 24) + 32
    assert min(sizes) > 32
    after = opened(killed(replay, home, tmp_path / "after"))
    assert {check(after, (0, sequence, NOW_MS)) for sequence in range(500)} == {"replayed"}
    after.teardown()


@pytest.mark.parametrize("count", [990, 1005, 1030, 2055])
def test_a_kill_is_exact_however_long_the_log(tmp_path: Path, count: int) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    for sequence in range(count):
        assert check(replay, (0, sequence, NOW_MS)) == ""
    after = opened(killed(replay, home, tmp_path / "after"))
    assert check(after, (0, count - 1, NOW_MS)) == "replayed"
    assert check(after, (0, count, NOW_MS)) == ""
    after.teardown()


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    replay = opened(home)
    talk(replay)
    names = {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()}
    assert names == {FILE: 0o600, f"{FILE}-wal": 0o600, MARKER: 0o600}
    assert home.stat().st_mode & 0o777 == 0o700
    replay.teardown()


# ── power loss ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-replay-4")
def test_power_loss_never_readmits_and_heals(tmp_path: Path, boot: list[str]) -> None:
    # The worst a power loss can do: nothing is left of what was not synced.
    replay = opened(tmp_path)
    said: list[Said] = []
    boot[0] = "second boot"
    for message in [(step % 4, step, NOW_MS + 900 * step) for step in range(40)]:
        assert check(replay, message) == ""
        said.append(message)
        copy = tmp_path / f"after-{len(said)}"
        copy.mkdir()
        shutil.copy(tmp_path / FILE, copy / FILE)
        after = opened(copy)
        assert {check(after, item) for item in said} <= {"replayed", "sent-before-the-restart"}
        healed = said[-1][2] + 2 * LEAD_MS + 1
        assert [check(after, (sender, 10**6, healed)) for sender in range(4)] == [""] * 4
        after.teardown()
    forget(replay)


@pytest.mark.claim("C-replay-4")
def test_what_was_synced_is_known_exactly_after_a_power_loss(
    tmp_path: Path, boot: list[str]
) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    assert check(replay, (0, 7, NOW_MS)) == ""
    copy = killed(replay, home, tmp_path / "after")
    boot[0] = "second boot"
    after = opened(copy)
    assert check(after, (0, 7, NOW_MS)) == "replayed"
    assert check(after, (0, 8, NOW_MS)) == "sent-before-the-restart"
    assert check(after, (0, 8, NOW_MS + LEAD_MS)) == "sent-before-the-restart"
    assert check(after, (0, 8, NOW_MS + LEAD_MS + 1)) == ""
    after.teardown()


def test_the_refusal_outlives_further_kills_of_the_same_boot(
    tmp_path: Path, boot: list[str]
) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    assert check(replay, (0, 7, NOW_MS)) == ""
    home = killed(replay, home, tmp_path / "lost power")
    boot[0] = "second boot"
    replay = opened(home)
    home = killed(replay, home, tmp_path / "killed")
    replay = opened(home)
    assert check(replay, (1, 1, NOW_MS)) == "sent-before-the-restart"
    replay.teardown()
    replay = opened(home)
    assert check(replay, (1, 1, NOW_MS)) == "sent-before-the-restart"
    replay.teardown()


@pytest.mark.claim("C-replay-14")
def test_a_machine_that_does_not_name_its_boots_is_never_trusted(
    tmp_path: Path, boot: list[str]
) -> None:
    boot[0] = ""
    home = tmp_path / "home"
    replay = opened(home)
    assert check(replay, (0, 7, NOW_MS)) == ""
    after = opened(killed(replay, home, tmp_path / "after"))
    assert check(after, (0, 8, NOW_MS)) == "sent-before-the-restart"
    after.teardown()
    exact = opened(tmp_path / "after")
    assert check(exact, (0, 8, NOW_MS + LEAD_MS + 1)) == ""
    exact.teardown()


def test_the_boot_id_is_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    source = tmp_path / "boot_id"
    monkeypatch.setattr(store_module, "BOOT_ID", source)
    assert store_module.boot_id() == ""
    source.write_text("0000-1111\n")
    assert store_module.boot_id() == "0000-1111"


def test_a_sender_that_is_ahead_shuts_out_nobody_else(tmp_path: Path, boot: list[str]) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    assert check(replay, (0, 1, NOW_MS + 59_000), NOW) == ""
    assert check(replay, (1, 1, NOW_MS), NOW) == ""
    boot[0] = "second boot"
    after = opened(killed(replay, home, tmp_path / "after"))
    soon = NOW_MS + LEAD_MS + 1
    assert check(after, (0, 2, NOW_MS + 59_000), soon / 1000) == "sent-before-the-restart"
    assert check(after, (1, 2, soon)) == ""
    assert check(after, (0, 2, NOW_MS + 2 * 59_000 + 1)) == ""
    after.teardown()


def test_power_loss_soon_after_an_orderly_stop(tmp_path: Path, boot: list[str]) -> None:
    # The second run says nothing that needs a new ceiling; only that it began has to be synced.
    replay = opened(tmp_path)
    assert check(replay, (0, 1, NOW_MS)) == ""
    replay.teardown()
    replay = opened(tmp_path)
    assert check(replay, (0, 2, NOW_MS)) == ""
    (tmp_path / "after").mkdir()
    shutil.copy(tmp_path / FILE, tmp_path / "after" / FILE)
    boot[0] = "second boot"
    after = opened(tmp_path / "after")
    assert check(after, (0, 1, NOW_MS)) == "replayed"
    assert check(after, (0, 2, NOW_MS)) == "sent-before-the-restart"
    after.teardown()
    forget(replay)


def test_the_ceiling_of_a_sender_that_is_ahead_is_synced(tmp_path: Path, boot: list[str]) -> None:
    replay = opened(tmp_path)
    assert check(replay, (0, 1, NOW_MS + 59_000), NOW) == ""
    (tmp_path / "after").mkdir()
    shutil.copy(tmp_path / FILE, tmp_path / "after" / FILE)
    boot[0] = "second boot"
    after = opened(tmp_path / "after")
    assert check(after, (0, 1, NOW_MS + 59_000)) == "sent-before-the-restart"
    after.teardown()
    forget(replay)


def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts checkpoints, each of which waits for the disk."""
    counted = [0]
    original = WindowStore._checkpoint

    def checkpoint(self: WindowStore) -> None:
        counted[0] += 1
        original(self)

    monkeypatch.setattr(WindowStore, "_checkpoint", checkpoint)
    return counted


def test_the_disk_is_waited_for_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = opened(tmp_path)
    counted = syncs(monkeypatch)
    for step in range(1000):  # 100 seconds
        assert check(replay, (step % 4, step, NOW_MS + 100 * step)) == ""
    assert 19 <= counted[0] <= 21
    replay.teardown()


@pytest.mark.parametrize("step_ms", [1, LEAD_MS + 1, 2**40])
def test_ever_later_times_force_few_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_ms: int
) -> None:
    replay = opened(tmp_path, mode="challenge")
    assert replay._freshness is not None
    replay._freshness._fresh[IDS[0]] = -1  # its clock does not matter
    counted = syncs(monkeypatch)
    times = [min(NOW_MS + step * step_ms, 2**63 - 1) for step in range(900)]
    for sequence, time_ms in enumerate([*times, 2**63 - 1]):
        assert check(replay, (0, sequence, time_ms), NOW) == ""
    assert counted[0] <= 64
    replay.teardown()


# ── damage ────────────────────────────────────────────────────────────────────────────────────────


def refused_or_exact(folder: Path, said: list[Said]) -> bool:
    """Open a damaged copy: false if it is refused by name; never is a message accepted twice."""
    replay = Replay()
    try:
        replay.setup(make_node_info(data_dir=str(folder)))
    except RoundError as error:
        assert error.code == "QRES-E602"  # noqa: PT017 - being opened is fine too
        return False
    assert {check(replay, item) for item in said} <= {"replayed", "sent-before-the-restart"}
    replay.teardown()
    return True


@pytest.mark.claim("C-replay-5")
@pytest.mark.parametrize("name", [FILE, f"{FILE}-wal"])
def test_no_flipped_byte_readmits_anything(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    said = talk(replay)
    whole = killed(replay, home, tmp_path / "whole")
    size = (whole / name).stat().st_size
    rng = random.Random(3)
    opens = 0
    for place in sorted({*range(0, 100, 4), *rng.sample(range(size), 180), size - 1}):
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        octets = bytearray((copy / name).read_bytes())
        octets[place] ^= rng.randrange(1, 256)
        (copy / name).write_bytes(octets)
        opens += refused_or_exact(copy, said)
        shutil.rmtree(copy)
    assert opens > 0


@pytest.mark.claim("C-replay-6")
def test_a_flipped_byte_of_a_record_is_damage(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    said = talk(replay)
    replay.teardown()
    octets = (tmp_path / FILE).read_bytes()
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        seen: list[bytes] = [row[0] for row in db.execute("SELECT seen FROM sender")]
    for blob in seen:
        place = octets.index(blob) + len(blob) - 1
        copy = tmp_path / "copy"
        copy.mkdir()
        shutil.copy(tmp_path / FILE, copy)  # with its mode
        (copy / FILE).write_bytes(octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :])
        assert not refused_or_exact(copy, said)
        shutil.rmtree(copy)


@pytest.mark.claim("C-replay-5")
@pytest.mark.parametrize("cut", range(0, 16_000, 97))
def test_no_cut_of_the_log_readmits_anything(
    tmp_path: Path, cut: int, whole_store: tuple[Path, list[Said]]
) -> None:
    whole, said = whole_store
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    octets = (copy / f"{FILE}-wal").read_bytes()
    assert len(octets) > 16_000
    (copy / f"{FILE}-wal").write_bytes(octets[:cut])
    assert refused_or_exact(copy, said)


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Said]]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "boot_id", lambda: "first boot")
        replay = opened(folder / "home")
        said = [(step % 4, step, NOW_MS) for step in range(60)]
        assert {check(replay, item) for item in said} == {""}
        return killed(replay, folder / "home", folder / "whole"), said


def test_a_lost_log_is_no_fresh_beginning(
    tmp_path: Path, whole_store: tuple[Path, list[Said]]
) -> None:
    whole, said = whole_store
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / f"{FILE}-wal").unlink()
    assert refused_or_exact(tmp_path / "copy", said)


@pytest.mark.claim("C-replay-6")
def test_a_deleted_store_is_missed(tmp_path: Path) -> None:
    opened(tmp_path).teardown()
    (tmp_path / FILE).unlink()
    with pytest.raises(RoundError, match=f"as {MARKER} shows, and is missing") as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"
    assert not (tmp_path / FILE).exists()


def test_a_log_without_its_store_is_missed(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}-wal").write_bytes(b"")
    with pytest.raises(RoundError, match="its write-ahead log is not") as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"


def test_a_marker_that_is_lost_comes_back(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    said = talk(replay)
    replay.teardown()
    (tmp_path / MARKER).unlink()
    assert refused_or_exact(tmp_path, said)
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize("octets", [b"", b"no database", b"SQLite format 3\0" + bytes(1000)])
def test_other_files_are_refused(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / FILE).write_bytes(octets)
    with pytest.raises(RoundError) as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"
    assert (tmp_path / FILE).read_bytes() == octets


@pytest.mark.claim("C-replay-6")
@pytest.mark.parametrize(
    ("info", "what"),
    [
        (make_node_info(swarm="another"), "it belongs to another swarm, 'testing'"),
        (make_node_info(index=2), "it belongs to another node"),
    ],
)
def test_a_foreign_store_is_refused(tmp_path: Path, info: NodeInfo, what: str) -> None:
    opened(tmp_path).teardown()
    with pytest.raises(RoundError, match=what) as error:
        opened(tmp_path, info=info)
    assert code(error) == "QRES-E602"
    opened(tmp_path).teardown()


DAMAGE = [
    ("PRAGMA user_version=2", "version 2; this qres-replay reads version 1"),
    ("PRAGMA application_id=7", "not a replay store"),
    ("DELETE FROM sender WHERE id = 1", "the record of sender [0-9a-f]{16} is damaged"),
    ("UPDATE sender SET high = 5 WHERE id = 1", "the record of sender"),
    ("UPDATE sender SET high = 'x' WHERE id = 1", "the record of sender"),
    ("UPDATE sender SET floor = -2 WHERE id = 1", "the record of sender"),
    ("UPDATE sender SET ceiling = -2 WHERE id = 1", "the record of sender"),
    ("INSERT INTO sender VALUES (9, -1, x'', -1, -1, x'')", "unknown senders"),
    ("DELETE FROM fact WHERE name = 'state'", "the record 'state' is damaged"),
    ("UPDATE fact SET value = 7 WHERE name = 'members'", "the record 'members' is damaged"),
    (
        "REPLACE INTO fact SELECT 'state', value, digest FROM fact WHERE name = 'members'",
        "the record 'state' is damaged",
    ),
    ("DROP TABLE sender", "no such table"),
]


@pytest.mark.parametrize(("statement", "what"), DAMAGE)
def test_a_changed_store_is_refused(tmp_path: Path, statement: str, what: str) -> None:
    replay = opened(tmp_path)
    talk(replay)
    replay.teardown()
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        db.execute(statement)
    with pytest.raises(RoundError, match=what) as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"


def test_a_record_with_a_right_digest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).teardown()
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as db:
        head = b"qres/replay/fact/v1\0state\0"
        digest = hashlib.sha256(head + b"\xff").digest()
        db.execute("UPDATE fact SET value = x'ff', digest = ? WHERE name = 'state'", (digest,))
    with pytest.raises(RoundError, match="the record 'state' cannot be read"):
        opened(tmp_path)


# ── the disk and other processes ──────────────────────────────────────────────────────────────────


def test_one_process_at_a_time(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    said = talk(replay)
    with pytest.raises(RoundError, match="another process has it open") as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"
    assert {check(replay, item) for item in said} == {"replayed"}
    assert check(replay, (0, 300, NOW_MS)) == ""
    replay.teardown()


@pytest.mark.claim("C-replay-7")
def test_a_message_that_cannot_be_kept_is_not_accepted(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    assert check(replay, (0, 1, NOW_MS)) == ""
    store = replay._store
    assert store is not None
    store._db.execute("PRAGMA query_only=ON")
    for time_ms in (NOW_MS, NOW_MS + 30_000):  # below the ceiling, and beyond it
        for now in (time_ms, time_ms - 30_000):
            with pytest.raises(RoundError, match="readonly") as error:
                check(replay, (0, 2, time_ms), now / 1000)
            assert code(error) == "QRES-E602"
    with pytest.raises(RoundError, match="readonly"):
        replay.teardown()
    assert check(replay, (0, 2, NOW_MS)) == "unknown-sender"
    after = opened(tmp_path)
    assert check(after, (0, 1, NOW_MS)) == "replayed"
    after.teardown()


def test_a_ceiling_that_was_not_synced_is_raised_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = opened(tmp_path)
    with monkeypatch.context() as patch:

        def fails(_store: WindowStore) -> None:
            message = "the disk is gone"
            raise RoundError.of("QRES-E602", "replay.sqlite", message)

        patch.setattr(WindowStore, "_checkpoint", fails)
        for off_ms in (0, 30_000):
            with pytest.raises(RoundError, match="the disk is gone"):
                check(replay, (0, 1, NOW_MS + off_ms), NOW)
    counted = syncs(monkeypatch)
    assert check(replay, (0, 1, NOW_MS), NOW) == ""
    assert check(replay, (0, 2, NOW_MS + 30_000), NOW) == ""
    assert counted[0] == 2
    replay.teardown()


def test_a_checkpoint_that_is_kept_from_the_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = opened(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(stores.PrivateDatabase, "one", lambda *_: 1)
        with pytest.raises(RoundError, match="another process has it open"):
            check(replay, (0, 1, NOW_MS))
    replay.teardown()


def test_a_second_setup_stops_the_first_in_order(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    said = talk(replay)
    replay.setup(make_node_info(data_dir=str(tmp_path)))
    assert {check(replay, item) for item in said} == {"replayed"}
    replay.teardown()


def test_a_marker_that_cannot_be_kept_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).teardown()
    (tmp_path / MARKER).unlink()

    def fails(_folder: Path) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("qres_core.contract.stores.files.sync_folder", fails)
    with pytest.raises(RoundError, match="no space left") as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RoundError) as error:
        opened(tmp_path / "file" / "home")
    assert code(error) == "QRES-E602"


def test_a_store_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(RoundError) as error:
        opened(tmp_path)
    assert code(error) == "QRES-E602"


def test_a_file_system_without_logs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).teardown()
    original = stores.PrivateDatabase.one

    def item(self: stores.PrivateDatabase, query: str, *values: object) -> object:
        return "delete" if query == "PRAGMA journal_mode=WAL" else original(self, query, *values)

    monkeypatch.setattr(stores.PrivateDatabase, "one", item)
    with pytest.raises(RoundError, match="no write-ahead log in this folder"):
        opened(tmp_path)


def test_damage_that_only_the_check_finds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).teardown()
    original = stores.PrivateDatabase.one

    def item(self: stores.PrivateDatabase, query: str, *values: object) -> object:
        return "row missing" if "integrity_check" in query else original(self, query, *values)

    monkeypatch.setattr(stores.PrivateDatabase, "one", item)
    with pytest.raises(RoundError, match="the file is damaged"):
        opened(tmp_path)


def test_what_a_creation_that_was_cut_short_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new-abc").write_bytes(b"half a store")
    opened(tmp_path).teardown()
    assert {path.name for path in tmp_path.iterdir()} == {FILE, MARKER}


# ── other rosters and windows ─────────────────────────────────────────────────────────────────────


def test_who_joins_is_new_and_who_comes_back_is_not(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    assert [check(replay, (sender, 5, NOW_MS)) for sender in range(4)] == [""] * 4
    replay.teardown()
    joined = bytes(31) + b"\x01"
    smaller = attrs.evolve(make_node_info(), roster=(joined, *IDS[:2]))
    replay = opened(tmp_path, info=smaller)
    envelope = make_envelope(sender=joined, sequence=5, time_ms=NOW_MS)
    assert replay.replay_check(envelope, NOW) is ACCEPT
    assert check(replay, (1, 5, NOW_MS)) == "replayed"
    assert check(replay, (3, 6, NOW_MS)) == "unknown-sender"
    replay.teardown()
    larger = attrs.evolve(make_node_info(), roster=(joined, *IDS))
    replay = opened(tmp_path, info=larger)
    assert [check(replay, (sender, 5, NOW_MS)) for sender in range(4)] == ["replayed"] * 4
    assert replay.replay_check(envelope, NOW).reason == "replayed"
    replay.teardown()


def changed(replay: Replay, *indices: int) -> None:
    """The next round has these of six nodes."""
    roster = tuple(sorted(SIX[at] for at in indices))
    replay.round_opened(attrs.evolve(make_round_info(), roster=roster))


def say(replay: Replay, index: int, sequence: int) -> str:
    envelope = make_envelope(sender=SIX[index], sequence=sequence, time_ms=NOW_MS + sequence)
    return replay.replay_check(envelope, NOW).reason


@pytest.mark.parametrize("how", ["orderly", "killed", "power"])
def test_members_that_change_while_it_runs_are_as_durable_as_the_first(
    tmp_path: Path, boot: list[str], how: str
) -> None:
    folder = tmp_path / "node"
    replay = opened(folder)
    assert (say(replay, 1, 5), say(replay, 4, 5)) == ("", "unknown-sender")
    changed(replay, 0, 2, 3, 4)
    assert (say(replay, 4, 5), say(replay, 1, 6), say(replay, 0, 5)) == ("", "unknown-sender", "")
    if how == "orderly":
        replay.teardown()
    else:
        folder = killed(replay, folder, tmp_path / "left")
    if how == "power":
        boot[0] = "second boot"
    replay = opened(folder, info=attrs.evolve(make_node_info(), roster=tuple(sorted(SIX[:5]))))
    again = [say(replay, index, 5) for index in (0, 1, 4)]
    assert again == ["replayed"] * 3
    beyond = [say(replay, index, 7) for index in (0, 1, 4)]
    assert beyond == (["sent-before-the-restart"] * 3 if how == "power" else [""] * 3)
    replay.teardown()


def test_a_power_loss_right_after_a_member_joined_does_not_forget_it(tmp_path: Path) -> None:
    """Without the log, which is what a power loss may take at worst."""
    folder = tmp_path / "node"
    replay = opened(folder)
    assert say(replay, 0, 5) == ""  # puts a ceiling over the next seconds
    changed(replay, 0, 1, 2, 3, 4)
    left = tmp_path / "left"
    left.mkdir()
    for name in (FILE, MARKER):
        shutil.copy(folder / name, left / name)
    assert say(replay, 4, 5) == ""
    forget(replay)
    replay = opened(left, info=attrs.evolve(make_node_info(), roster=tuple(sorted(SIX[:5]))))
    assert say(replay, 4, 5) == "sent-before-the-restart"
    replay.teardown()


def test_a_member_that_cannot_be_kept_is_not_taken_in(tmp_path: Path) -> None:
    replay = opened(tmp_path)
    store = replay._store
    assert store is not None
    store._db.execute("PRAGMA query_only=ON")
    with pytest.raises(RoundError, match="readonly") as error:
        changed(replay, 0, 1, 2, 4)
    assert code(error) == "QRES-E602"
    assert say(replay, 4, 5) == "unknown-sender"
    store._db.execute("PRAGMA query_only=OFF")
    assert say(replay, 3, 5) == "", "the members stay as they were"
    changed(replay, 0, 1, 2, 4)
    assert (say(replay, 4, 5), say(replay, 3, 6)) == ("", "unknown-sender")
    replay.teardown()
    replay = opened(tmp_path, info=attrs.evolve(make_node_info(), roster=tuple(sorted(SIX[:5]))))
    assert [say(replay, index, 5) for index in (3, 4)] == ["replayed"] * 2
    replay.teardown()


def test_who_left_before_a_power_loss_comes_back_under_a_floor(
    tmp_path: Path, boot: list[str]
) -> None:
    home = tmp_path / "home"
    replay = opened(home)
    assert check(replay, (3, 5, NOW_MS)) == ""
    copy = killed(replay, home, tmp_path / "after")
    boot[0] = "second boot"
    opened(copy, info=attrs.evolve(make_node_info(), roster=IDS[:2])).teardown()
    replay = opened(copy)
    assert check(replay, (3, 6, NOW_MS)) == "sent-before-the-restart"
    replay.teardown()


def test_windows_may_change_their_size(tmp_path: Path) -> None:
    for sequence, window in enumerate((64, 1024, 32, 65_536), start=10_000):
        replay = opened(tmp_path, window=window)
        assert check(replay, (0, sequence, NOW_MS)) == ""
        replay.teardown()
    replay = opened(tmp_path, window=128)
    # What the window of 32 had forgotten counts as seen: nobody knows any more.
    known = {check(replay, (0, sequence, NOW_MS)) for sequence in range(10_000, 10_004)}
    assert known == {"replayed"}
    assert [check(replay, (0, sequence, NOW_MS)) for sequence in (10_002 - 31, 10_002 - 32)] == [
        "",
        "replayed",
    ]
    assert check(replay, (0, 10_003 - 127, NOW_MS)) == "replayed"
    assert check(replay, (0, 10_003 - 128, NOW_MS)) == "sequence-too-old"
    replay.teardown()


def test_the_largest_numbers_can_be_kept(tmp_path: Path) -> None:
    replay = opened(tmp_path, mode="challenge")
    assert replay._freshness is not None
    replay._freshness._fresh[IDS[0]] = -1
    assert check(replay, (0, 2**63 - 1, 2**63 - 1), NOW) == ""
    assert check(replay, (0, 2**63 - 2, 0), NOW) == ""
    replay.teardown()
    replay = opened(tmp_path)
    assert check(replay, (0, 2**63 - 1, NOW_MS)) == "replayed"
    assert check(replay, (0, 2**63 - 2, NOW_MS)) == "replayed"
    replay.teardown()


@pytest.mark.parametrize("put_back", [False, True])
def test_a_store_that_is_no_longer_there_keeps_no_message_and_none_is_accepted(
    tmp_path: Path,
    put_back: bool,  # noqa: FBT001 - a case
) -> None:
    replay = opened(tmp_path)
    assert check(replay, (1, 1, NOW_MS)) == ""
    (tmp_path / FILE).rename(tmp_path / "elsewhere")
    if put_back:
        shutil.copy(tmp_path / "elsewhere", tmp_path / FILE)
    with pytest.raises(RoundError) as error:
        check(replay, (1, 2, NOW_MS))
    assert code(error) == "QRES-E602"
    forget(replay)
