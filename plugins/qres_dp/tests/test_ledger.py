"""The ledger refuses what the budget does not allow, and any file it cannot trust."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from qres_dp import accounting
from qres_dp.accounting.composition import spent
from qres_dp.keeping import Keeping
from qres_dp.ledger import Owner, PrivacyBudget, PrivacyLedger, anchor, key
from qres_dp.ledger.record import Charge, LedgerEntry
from qres_dp.ledger.store import FILE, LedgerStore
from qres_dp.modes import Relation, Unit
from qres_dp.places import ledger_place
from qres_lab.testing import make_round_info

from qres_core import NodeId, NodeInfo, OwnContributions, canonical
from qres_core.errors import ConfigError, RoundError, ValueRefusedError

OWNER: Final = Owner("lab", NodeId(bytes(range(32))), "add-remove", "node")
SHARED: Final = Owner.of_data_set("add-remove", "node")
BUDGET: Final = PrivacyBudget(2.0, 1e-5)
JOURNAL: Final = bytes(range(16))


def charge(number: int, z: float = 5.0, **fields: Any) -> Charge:
    usual: dict[str, Any] = {
        "swarm": "lab",
        "node": OWNER.node,
        "journal": JOURNAL,
        "height": number - 1,
        "round": number,
        "head": bytes(32),
        "mode": "distributed",
        "relation": "add-remove",
        "unit": "node",
        "noise_multiplier": z,
        "sampling_rate": 1.0,
        "bound": 65536,
        "scale": 0,
        "dimension": 50,
        "nodes": 10,
        "honest": 1,
        "content": number.to_bytes(32, "big"),
    }
    return Charge(**{**usual, **fields})


def fill(folder: Path, count: int) -> None:
    ledger = PrivacyLedger.begin(folder, OWNER)
    for number in range(1, count + 1):
        ledger.charge(charge(number, 50.0), BUDGET)
    ledger.close()


def edit(folder: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(folder / FILE, isolation_level=None)
    db.execute(statement, values)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


# ── the budget ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-7")
@pytest.mark.parametrize("durable", [False, True])
def test_the_round_that_would_exceed_the_budget_is_refused(durable: object, tmp_path: Path) -> None:
    ledger = PrivacyLedger.begin(tmp_path, OWNER) if durable else PrivacyLedger.in_memory(OWNER)
    allowed = max(n for n in range(1, 50) if accounting.epsilon(5.0, n, 1e-5) <= BUDGET.epsilon)
    for number in range(1, allowed + 1):
        record = ledger.charge(charge(number), BUDGET)
        assert record is not None
        assert record.epsilon == accounting.epsilon(5.0, number, 1e-5)
    for number in (allowed + 1, allowed + 2):
        with pytest.raises(ValueRefusedError, match="QRES-E509"):
            ledger.charge(charge(number), BUDGET)
    assert len(ledger) == allowed
    assert ledger.spent(1e-5) <= BUDGET.epsilon
    # A release with more noise may still fit.
    assert ledger.charge(charge(99, 1000.0), BUDGET) is not None
    ledger.close()


@pytest.mark.claim("C-dp-7")
def test_a_refusal_survives_a_restart(tmp_path: Path) -> None:
    ledger = PrivacyLedger.begin(tmp_path, OWNER)
    ledger.charge(charge(1, 2.6), BUDGET)
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        ledger.charge(charge(2, 2.6), BUDGET)
    ledger.close()
    again = PrivacyLedger.open(tmp_path, OWNER)
    assert again.records == ledger.records
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        again.charge(charge(3, 2.6), BUDGET)
    again.close()


def test_every_release_is_charged_also_one_that_is_equal_to_another() -> None:
    ledger = PrivacyLedger.in_memory(OWNER)
    for count in (1, 2, 3):
        ledger.charge(charge(1, 20.0), BUDGET)
        assert (len(ledger), ledger.spent(1e-5)) == (count, accounting.epsilon(20.0, count, 1e-5))


def test_a_budget_may_be_spent_to_the_last() -> None:
    exact = PrivacyBudget(accounting.epsilon(5.0, 2, 1e-5), 1e-5)
    ledger = PrivacyLedger.in_memory(OWNER)
    for number in (1, 2):
        ledger.charge(charge(number), exact)
    assert ledger.spent(1e-5) == exact.epsilon
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        ledger.charge(charge(3, 1e4), exact)


def test_a_budget_that_is_no_number_allows_nothing() -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        PrivacyLedger.in_memory(OWNER).charge(charge(1), PrivacyBudget(float("nan"), 1e-5))


@pytest.mark.parametrize("other", [{"relation": "replace-one"}, {"unit": "record"}])
def test_another_relation_or_unit_is_not_mixed_in(other: dict[str, str]) -> None:
    with pytest.raises(RoundError, match="QRES-E602"):
        PrivacyLedger.in_memory(OWNER).charge(charge(1, **other), BUDGET)


# ── what charges add up to ────────────────────────────────────────────────────────────────────


def test_charges_of_one_kind_are_one_composition() -> None:
    assert spent({2.0: 9}, 1e-5) == accounting.epsilon(2.0, 9, 1e-5)
    assert spent({}, 1e-5) == 0.0


def test_gaussian_charges_of_several_kinds_are_one_gaussian() -> None:
    # 1/2**2 + 3/4**2 + 9/6**2 = 11/16
    mixed = spent({2.0: 1, 4.0: 3, 6.0: 9}, 1e-5)
    exact = accounting.epsilon((16 / 11) ** 0.5, 1, 1e-5)
    assert exact <= mixed <= exact * (1 + 1e-9)


# ── the files ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    fill(folder, 2)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted([anchor.FILE, FILE, key.FILE])
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_reading_gives_owner_and_records(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    owner, records = PrivacyLedger.read(tmp_path)
    assert owner == OWNER
    assert [record.index for record in records] == [1, 2, 3]


def remove_ledger(folder: Path) -> None:
    (folder / FILE).unlink()


def remove_key(folder: Path) -> None:
    (folder / key.FILE).unlink()


def other_key(folder: Path) -> None:
    (folder / key.FILE).write_bytes(key.fresh())


def short_key(folder: Path) -> None:
    (folder / key.FILE).write_bytes(bytes(31))


def open_key(folder: Path) -> None:
    (folder / key.FILE).chmod(0o644)


def unsigned_record(folder: Path) -> None:
    """A record more, by somebody who knows the chain and not the key."""
    _owner, records = PrivacyLedger.read(folder)
    previous = records[-1].tag(key.read(folder))
    more = attrs.evolve(records[-1], index=4, previous=previous)
    values = 4, more.to_bytes(), more.tag(key.fresh())
    edit(folder, "INSERT INTO record VALUES (?, ?, ?)", *values)


def remove_anchor(folder: Path) -> None:
    (folder / anchor.FILE).unlink()


def cut_tail(folder: Path) -> None:
    edit(folder, "DELETE FROM record WHERE idx = 3")


def cut_all(folder: Path) -> None:
    edit(folder, "DELETE FROM record")


def cut_middle(folder: Path) -> None:
    edit(folder, "DELETE FROM record WHERE idx = 2")


def lower_price(folder: Path) -> None:
    owner, records = PrivacyLedger.read(folder)
    assert owner == OWNER
    cheap = attrs.evolve(records[1], charge=attrs.evolve(records[1].charge, noise_multiplier=1e6))
    edit(folder, "UPDATE record SET body = ? WHERE idx = 2", cheap.to_bytes())


def lower_last_price(folder: Path) -> None:
    _owner, records = PrivacyLedger.read(folder)
    cheap = attrs.evolve(records[2], charge=attrs.evolve(records[2].charge, noise_multiplier=1e6))
    edit(folder, "UPDATE record SET body = ? WHERE idx = 3", cheap.to_bytes())


def garbage_record(folder: Path) -> None:
    edit(folder, "UPDATE record SET body = x'00ff' WHERE idx = 2")


def text_record(folder: Path) -> None:
    edit(folder, "UPDATE record SET body = 'text' WHERE idx = 2")


def other_owner(folder: Path) -> None:
    edit(folder, "UPDATE owner SET swarm = 'bal'")


def no_owner(folder: Path) -> None:
    edit(folder, "DELETE FROM owner")


def other_version(folder: Path) -> None:
    edit(folder, "PRAGMA user_version=9")


def other_kind(folder: Path) -> None:
    edit(folder, "PRAGMA application_id=9")


def no_database(folder: Path) -> None:
    (folder / FILE).write_bytes(b"x" * 8192)


def empty_file(folder: Path) -> None:
    (folder / FILE).write_bytes(b"")


def damaged_anchor(folder: Path) -> None:
    path = folder / anchor.FILE
    octets = bytearray(path.read_bytes())
    octets[-1] ^= 1
    path.write_bytes(octets)


def empty_anchor(folder: Path) -> None:
    (folder / anchor.FILE).write_bytes(b"")


def long_anchor(folder: Path) -> None:
    (folder / anchor.FILE).write_bytes(bytes(10**6))


def no_anchor_but_a_folder(folder: Path) -> None:
    (folder / anchor.FILE).unlink()
    (folder / anchor.FILE).mkdir()


def older_copy(folder: Path) -> None:
    """The file as it was two records ago, from a backup."""
    backup = folder / "backup"
    fill(backup, 1)
    shutil.copy(backup / FILE, folder / FILE)
    shutil.rmtree(backup)


def other_history(folder: Path) -> None:
    """A file as long as it has to be, with a cheaper past."""
    backup = folder / "backup"
    ledger = PrivacyLedger.begin(backup, OWNER)
    for number in range(1, 4):
        ledger.charge(charge(number, 1e5), BUDGET)
    ledger.close()
    shutil.copy(backup / FILE, folder / FILE)
    shutil.rmtree(backup)


def text_tag(folder: Path) -> None:
    edit(folder, "UPDATE record SET tag = 'text' WHERE idx = 3")


def moved_record(folder: Path) -> None:
    edit(folder, "UPDATE record SET idx = 7 WHERE idx = 3")


def other_branch(folder: Path) -> Path:
    """Another past of the same length and key, as of a copy that went on elsewhere."""
    branch = folder / "branch"
    branch.mkdir()
    shutil.copy(folder / key.FILE, branch / key.FILE)
    ledger = PrivacyLedger.begin(branch, OWNER)
    for number in range(1, 4):
        ledger.charge(charge(number, 50.0 if number == 1 else 1e5), BUDGET)
    ledger.close()
    return branch


def other_branch_whole(folder: Path) -> None:
    branch = other_branch(folder)
    shutil.copy(branch / FILE, folder / FILE)
    shutil.rmtree(branch)


def other_branch_between(folder: Path) -> None:
    """A genuine record that is cheaper, in a place where another one was written."""
    branch = other_branch(folder)
    record = PrivacyLedger.read(branch)[1][1]
    tag = record.tag(key.read(folder))
    edit(folder, "UPDATE record SET body = ?, tag = ? WHERE idx = 2", record.to_bytes(), tag)
    shutil.rmtree(branch)


def cut_tail_and_forge_anchor(folder: Path) -> None:
    """By somebody who knows the tags, which are no secret, and not the key."""
    head = PrivacyLedger.read(folder)[1][1].tag(key.read(folder))
    cut_tail(folder)
    (folder / anchor.FILE).write_bytes(bytes(32) + canonical.dumps([2, head]))


DAMAGES: Final = [
    text_tag,
    moved_record,
    other_branch_whole,
    other_branch_between,
    cut_tail_and_forge_anchor,
    remove_key,
    other_key,
    short_key,
    open_key,
    unsigned_record,
    remove_ledger,
    remove_anchor,
    cut_tail,
    cut_all,
    cut_middle,
    lower_price,
    lower_last_price,
    garbage_record,
    text_record,
    other_owner,
    no_owner,
    other_version,
    other_kind,
    no_database,
    empty_file,
    damaged_anchor,
    empty_anchor,
    long_anchor,
    no_anchor_but_a_folder,
    older_copy,
    other_history,
]


@pytest.mark.claim("C-dp-13")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_ledger_that_cannot_be_trusted_is_refused(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    fill(tmp_path, 3)
    PrivacyLedger.open(tmp_path, OWNER).close()
    damage(tmp_path)
    assert PrivacyLedger.exists(tmp_path)
    for _ in range(2):  # a second try is not taken in either
        with pytest.raises(RoundError, match="QRES-E602"):
            PrivacyLedger.open(tmp_path, OWNER)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_begins_nothing(size: int, tmp_path: Path) -> None:
    """Of no bytes, everybody has it; and a ledger without a record has no tag that tells."""
    key.make(tmp_path)
    (tmp_path / key.FILE).write_bytes(bytes(size))
    with pytest.raises(RoundError, match="the key of the ledger is damaged"):
        PrivacyLedger.begin(tmp_path, OWNER)
    assert not PrivacyLedger.exists(tmp_path)


def test_whoever_has_the_key_can_forge_a_chain_and_nobody_else(tmp_path: Path) -> None:
    """The chain of the review: a ledger of one record in place of a long one."""
    fill(tmp_path / "spent", 3)
    fill(tmp_path / "forged", 1)
    for name in (FILE, anchor.FILE):
        shutil.copy(tmp_path / "forged" / name, tmp_path / "spent" / name)
    with pytest.raises(RoundError, match="QRES-E602"):
        PrivacyLedger.open(tmp_path / "spent", OWNER)
    # Positive control: it is the key that refused. Journal and chain refuse it even so.
    shutil.copy(tmp_path / "forged" / key.FILE, tmp_path / "spent" / key.FILE)
    ledger = PrivacyLedger.open(tmp_path / "spent", OWNER)
    assert len(ledger) == 1
    with pytest.raises(RoundError, match="journal knows of contributions in 3 rounds"):
        ledger.expect("lab", OWNER.node, contributed(3))
    ledger.close()


@pytest.mark.control("C-dp-6", "C-dp-13")
def test_without_the_anchor_a_cut_tail_would_pass(tmp_path: Path) -> None:
    """Positive control: what the anchor is for, and what it cannot do."""
    fill(tmp_path, 2)
    old = (tmp_path / anchor.FILE).read_bytes()
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    ledger.charge(charge(3, 50.0), BUDGET)
    ledger.close()
    cut_tail(tmp_path)
    with pytest.raises(RoundError, match="3 records were written and 2 are here"):
        PrivacyLedger.open(tmp_path, OWNER)
    # Whoever puts back both files has a ledger that only journal and chain can tell from this.
    (tmp_path / anchor.FILE).write_bytes(old)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    assert len(ledger) == 2
    ledger.expect("lab", OWNER.node, contributed(2, 1))
    with pytest.raises(RoundError, match="QRES-E602"):
        ledger.expect("lab", OWNER.node, contributed(3))
    with pytest.raises(RoundError, match="QRES-E602"):
        ledger.expect("lab", OWNER.node, contributed(2, 2))
    ledger.close()


@pytest.mark.claim("C-dp-13")
def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    PrivacyLedger.open(tmp_path, OWNER).close()
    path = tmp_path / FILE
    octets = path.read_bytes()
    records = PrivacyLedger.read(tmp_path)[1]
    head = (tmp_path / anchor.FILE).read_bytes()
    for place in range(0, len(octets), 97):
        for leftover in ("-wal", "-shm"):
            (tmp_path / f"{FILE}{leftover}").unlink(missing_ok=True)
        path.write_bytes(octets[:place] + bytes([octets[place] ^ 0x41]) + octets[place + 1 :])
        try:
            assert PrivacyLedger.read(tmp_path)[1] == records
        except RoundError as error:
            assert error.code == "QRES-E602"  # noqa: PT017
        (tmp_path / anchor.FILE).write_bytes(head)


@pytest.mark.claim("C-dp-13")
@pytest.mark.parametrize(
    ("owner", "why"),
    [
        (attrs.evolve(OWNER, node=bytes(32)), "belongs to another node"),
        (attrs.evolve(OWNER, swarm="bal"), "belongs to another node"),
        (attrs.evolve(OWNER, relation="replace-one"), "is kept for add-remove neighbours"),
        (attrs.evolve(OWNER, unit="record"), "is kept for add-remove neighbours"),
        (SHARED, "belongs to another node"),
    ],
)
def test_somebody_elses_ledger_is_refused(owner: Owner, why: str, tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with pytest.raises(RoundError, match=f"QRES-E602 .*{why}"):
        PrivacyLedger.open(tmp_path, owner)


def test_a_ledger_is_not_begun_over_another(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with pytest.raises(RoundError, match="QRES-E602"):
        PrivacyLedger.begin(tmp_path, OWNER)
    assert len(PrivacyLedger.read(tmp_path)[1]) == 1


def test_nodes_that_share_a_ledger_share_its_budget(tmp_path: Path) -> None:
    PrivacyLedger.begin(tmp_path, SHARED).close()
    item, other = (PrivacyLedger.open(tmp_path, SHARED) for _ in range(2))
    allowed = max(n for n in range(1, 50) if accounting.epsilon(5.0, n, 1e-5) <= BUDGET.epsilon)
    turns = itertools.cycle((item, other))
    for number in range(1, allowed + 1):
        made = next(turns).charge(charge(number, swarm=f"swarm {number % 3}"), BUDGET)
        assert made.index == number
    for ledger in (item, other):
        with pytest.raises(ValueRefusedError, match="QRES-E509"):
            ledger.charge(charge(99), BUDGET)
        ledger.close()
    assert len(PrivacyLedger.read(tmp_path)[1]) == allowed


@pytest.mark.claim("C-dp-11")
def test_many_processes_charge_one_ledger_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the disk is.
    monkeypatch.setattr("qres_core.contract.stores.database.BUSY_SECONDS", 600.0)
    PrivacyLedger.begin(tmp_path, SHARED).close()

    def work(name: str) -> None:
        ledger = PrivacyLedger.open(tmp_path, SHARED)
        for number in range(1, 9):
            ledger.charge(charge(number, 200.0, swarm=name), BUDGET)
        ledger.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = PrivacyLedger.read(tmp_path)[1]
    assert sorted((r.charge.swarm, r.charge.round) for r in records) == [
        (name, number) for name in "abcd" for number in range(1, 9)
    ]
    assert records[-1].epsilon == accounting.epsilon(200.0, 32, 1e-5)


@pytest.mark.claim("C-dp-11")
@pytest.mark.parametrize("step", ["read", "sweep"])
def test_nobody_writes_an_anchor_while_a_ledger_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Its anchor may be read before its first record, and swept away before it has its name."""

    def is_locked() -> bool:
        other = sqlite3.connect(tmp_path / FILE, timeout=0, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        finally:
            other.close()
        return False

    held: list[bool] = []
    original = getattr(anchor, step)

    def watched(*arguments: Any) -> Any:
        held.append(is_locked())
        return original(*arguments)

    fill(tmp_path, 3)
    assert not is_locked()
    monkeypatch.setattr(anchor, step, watched)
    PrivacyLedger.open(tmp_path, OWNER).close()
    assert held == [True]


def test_leftovers_that_cannot_be_removed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    fill(tmp_path, 3)
    monkeypatch.setattr("qres_dp.ledger.anchor.stores.clear_leftovers", refuse)
    with pytest.raises(RoundError, match=r"QRES-E602.*cannot be removed: Permission denied"):
        PrivacyLedger.open(tmp_path, OWNER)


@pytest.mark.claim("C-dp-11")
@pytest.mark.parametrize("shared", [True, False])
def test_a_node_takes_the_ledger_that_another_begins_at_the_same_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,  # noqa: FBT001 - the case
) -> None:
    """That of the data set. Its own folder is for one node alone, and the control."""
    place = tmp_path / ("data" if shared else "node")
    info = NodeInfo(OWNER.node, OWNER.swarm, (OWNER.node,), 0, data_dir=str(tmp_path / "node"))
    keeping = Keeping(info, str(place) if shared else "", Relation.ADD_REMOVE, Unit.NODE)
    exists = PrivacyLedger.exists

    def another_was_faster(folder: Path) -> bool:
        monkeypatch.setattr(PrivacyLedger, "exists", exists)
        PrivacyLedger.begin(folder, keeping.owner).close()
        return False

    monkeypatch.setattr(PrivacyLedger, "exists", another_was_faster)
    if shared:
        ledger = keeping.begun(make_round_info(3), is_new=False)
        assert ledger.owner == SHARED
        ledger.close()
    else:
        with pytest.raises(RoundError, match=r"QRES-E602.*there is one already"):
            keeping.begun(make_round_info(3), is_new=False)


def test_an_anchor_swept_while_it_is_written_loses_the_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Control: what opening did when it swept without the lock.
    fill(tmp_path, 3)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    rename = Path.replace

    def swept_before(new: Path, path: Path) -> Path:
        anchor.sweep(tmp_path)
        return rename(new, path)

    monkeypatch.setattr(Path, "replace", swept_before)
    with pytest.raises(RoundError, match="QRES-E602"):
        ledger.charge(charge(4, 50.0), BUDGET)
    ledger.close()


def test_a_ledger_that_is_changed_while_it_is_open_takes_no_charge(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    cut_tail(tmp_path)
    with pytest.raises(RoundError, match="changed or removed while it was open"):
        ledger.charge(charge(4, 50.0), BUDGET)
    ledger.close()


@pytest.mark.claim("C-dp-13")
def test_a_ledger_of_schema_1_is_refused_with_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    edit(tmp_path, "PRAGMA user_version=1")
    with pytest.raises(RoundError, match="version 1; this qres-dp reads version 2") as refused:
        PrivacyLedger.open(tmp_path, OWNER)
    assert "take what it spent off plugins.dp.epsilon" in refused.value.problems[0].fix


# ── what journal and chain know ───────────────────────────────────────────────────────────────


def contributed(rounds: int, height: int = -1, journal: bytes = JOURNAL) -> OwnContributions:
    return OwnContributions(journal, rounds, rounds, height)


def test_a_ledger_that_knows_all_that_left_is_taken(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    made_in = OwnContributions(JOURNAL, 3, 3, 2, decided_round=3)
    for known in (
        contributed(0),
        contributed(2, 1),
        contributed(3, 2),
        made_in,
        OwnContributions(),
    ):
        ledger.expect("lab", OWNER.node, known)
    ledger.close()


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (contributed(4), "journal knows of contributions in 4 rounds, and the ledger of 3"),
        (OwnContributions(JOURNAL, 3, 9), "journal knows of one in round 9"),
        (contributed(3, 5), "decided a contribution of this node at height 5"),
        # A backup of the middle of a height knows an attempt before the one that was decided.
        (OwnContributions(JOURNAL, 3, 3, 2, decided_round=5), "at height 2.* of none in round 5"),
        (contributed(1, journal=bytes(16)), "in 1 rounds, and the ledger of 0"),
    ],
)
def test_a_ledger_that_lacks_what_left_is_refused(
    known: OwnContributions, words: str, tmp_path: Path
) -> None:
    fill(tmp_path, 3)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    with pytest.raises(RoundError, match=words):
        ledger.expect("lab", OWNER.node, known)
    # What other swarms and nodes were charged is not this node's.
    with pytest.raises(RoundError, match="QRES-E602"):
        ledger.expect("bal", OWNER.node, contributed(1))
    with pytest.raises(RoundError, match="QRES-E602"):
        ledger.expect("lab", NodeId(bytes(32)), contributed(1))
    ledger.close()


def test_one_of_several_ledgers_in_a_folder_is_not_chosen(tmp_path: Path) -> None:
    fill(tmp_path / ("a" * 64), 1)
    assert ledger_place(tmp_path) == tmp_path / ("a" * 64)
    fill(tmp_path / ("b" * 64), 1)
    with pytest.raises(ConfigError, match="holds the ledgers of 2 nodes"):
        ledger_place(tmp_path)


# ── interrupted ───────────────────────────────────────────────────────────────────────────────


def test_killed_between_the_two_files_the_ledger_is_taken_up_again(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    old = (tmp_path / anchor.FILE).read_bytes()
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    ledger.charge(charge(3, 50.0), BUDGET)
    ledger.close()
    (tmp_path / anchor.FILE).write_bytes(old)
    assert len(PrivacyLedger.read(tmp_path)[1]) == 3
    assert (tmp_path / anchor.FILE).read_bytes() != old


def test_killed_while_it_was_begun_the_ledger_is_taken_up_again(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    remove_anchor(tmp_path)
    (tmp_path / f"{FILE}.new-abc").touch()
    (tmp_path / f"{anchor.FILE}.new-abc").touch()
    LedgerStore(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([anchor.FILE, FILE, key.FILE])


def test_killed_after_its_key_the_ledger_is_begun_with_that_key(tmp_path: Path) -> None:
    made = key.make(tmp_path)
    assert not PrivacyLedger.exists(tmp_path)
    fill(tmp_path, 1)
    assert key.read(tmp_path) == made


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_a_disk_that_takes_nothing_refuses_the_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1)
    ledger = PrivacyLedger.open(tmp_path, OWNER)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("qres_core.contract.stores.files.beside", full)
        patch.setattr("qres_core.contract.stores.database.beside", full)
        with pytest.raises(RoundError, match="QRES-E602"):
            ledger.charge(charge(2, 50.0), BUDGET)
        with pytest.raises(RoundError, match="QRES-E602"):
            PrivacyLedger.begin(tmp_path / "other", OWNER)
    ledger.close()
    # Nothing was released, and it counts as charged all the same.
    assert len(PrivacyLedger.read(tmp_path)[1]) == 2


def test_a_ledger_that_another_process_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 1)
    monkeypatch.setattr("qres_core.contract.stores.database.BUSY_SECONDS", 0.05)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    holder = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(RoundError, match="locked"):
        ledger.charge(charge(2, 50.0), BUDGET)
    holder.execute("ROLLBACK")
    holder.close()
    assert ledger.charge(charge(3, 50.0), BUDGET) is not None
    ledger.close()


@pytest.mark.parametrize("value", [[], [1], ["3", bytes(32)], [3, "head"], {"a": 1}, 7])
def test_an_anchor_of_another_shape_is_refused(value: object, tmp_path: Path) -> None:
    fill(tmp_path, 1)
    body = canonical.dumps(value)
    tag = hmac.digest(key.read(tmp_path), b"qres/dp/anchor/v2\0" + body, "sha256")
    (tmp_path / anchor.FILE).write_bytes(tag + body)
    with pytest.raises(RoundError, match="QRES-E602"):
        PrivacyLedger.open(tmp_path, OWNER)


# ── what version 0.2 wrote ────────────────────────────────────────────────────────────────────

OF_0_2: Final = (
    (charge(1, sampling_rate=0.25, honest=4), "e6161d4aefb9b7b8"),  # a node's data, by chance
    (charge(2, honest=4, votes=10.0), "69143d913ad9946c"),  # an update with a vote on the clip
    (charge(3, 7.0, mode="local", stream=b"s" * 32, row=2), "ef04c40b83705c48"),  # of a stream
)
"""Charges of modes that are gone, and how the digests begin of the records that 0.2 made."""


def old_ledger(folder: Path, count: int = 3) -> None:
    """A ledger with charges of modes that are gone, and the files that these kept beside it."""
    ledger = PrivacyLedger.begin(folder, OWNER)
    for made, _digest in OF_0_2[:count]:
        ledger.charge(made, BUDGET)
    ledger.close()
    for name in ("dp-noise.sqlite", "dp-bound.sqlite"):
        (folder / name).write_bytes(b"of a mode that is gone")


@pytest.mark.parametrize(("made", "digest"), OF_0_2)
def test_a_record_of_0_2_is_written_as_it_was(made: Charge, digest: str) -> None:
    entry = LedgerEntry(1, made, 0.5, 1e-5, 2.0, previous=bytes(32))
    assert hashlib.sha256(entry.to_bytes()).hexdigest().startswith(digest)
    assert LedgerEntry.from_bytes(entry.to_bytes()) == entry


@pytest.mark.claim("C-dp-32")
def test_what_modes_that_are_gone_were_charged_stays_charged(tmp_path: Path) -> None:
    old_ledger(tmp_path)
    ledger = PrivacyLedger.open(tmp_path, OWNER)
    # A sampled round counts as one that was not, which costs no less; the others as they did.
    assert ledger.spent(1e-5) == spent({5.0: 2, 7.0: 1}, 1e-5)
    assert len(ledger) == 3
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        ledger.charge(charge(4, 1.0), BUDGET)
    ledger.close()
    # Nothing reads, changes or removes the files of what is gone.
    for name in ("dp-noise.sqlite", "dp-bound.sqlite"):
        assert (tmp_path / name).read_bytes() == b"of a mode that is gone"


@pytest.mark.control("C-dp-32")
def test_control_each_of_these_charges_is_a_part_of_what_was_spent(tmp_path: Path) -> None:
    found: list[float] = []
    for count in range(4):
        old_ledger(tmp_path / str(count), count)
        ledger = PrivacyLedger.open(tmp_path / str(count), OWNER)
        found.append(ledger.spent(1e-5))
        ledger.close()
    assert found == sorted(set(found))
