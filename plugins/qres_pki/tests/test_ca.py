"""`qres ca`, with OpenSSL as the judge of what it makes."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from qres_pki.authority import Authority, _period
from qres_pki.cli import ca
from qres_pki.index import Issued
from qres_pki.members import peer_id

from qres_core import stores
from qres_core.errors import ConfigError, QresError, RoundError

if TYPE_CHECKING:
    from pathlib import Path

A, B = "ab" * 32, "cd" * 32
DAY = 86_400
FILES = ("ca-key.pem", "ca.pem", "crl.pem", "index.sqlite3")


def run(*arguments: object) -> str:
    """What the verb prints; whatever it raises is raised here."""
    result = CliRunner().invoke(ca, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refused(code: str, what: str, *arguments: object) -> None:
    with pytest.raises(QresError) as raised:
        run(*arguments)
    assert raised.value.code == code
    assert what in str(raised.value)
    assert raised.value.problems[0].fix


def issue(folder: Path, key: str = A, name: str = "alice", *more: object) -> None:
    run("issue", folder, "--public-key", key, "--name", name, "--role", "train", *more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my-ca"
    run("init", made, "--swarm", "my-swarm")
    return made


def verify(openssl: str, folder: Path, key: str, *more: str) -> tuple[bool, str]:
    command = [openssl, "verify", "-x509_strict", "-crl_check", *more, "-CAfile"]
    command += [str(folder / "ca.pem"), "-CRLfile", str(folder / "crl.pem")]
    certificate = str(folder / "certificates" / f"{key}.pem")
    done = subprocess.run([*command, certificate], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stderr


def text(openssl: str, kind: str, path: Path) -> str:
    command = [openssl, kind, "-in", str(path), "-noout", "-text"]
    return " ".join(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.control("C-pki-11")
def test_a_life_before_openssl(openssl: str, folder: Path) -> None:
    issue(folder, A, "alice", "--role", "aggregate")
    issue(folder, B, "bob")
    assert verify(openssl, folder, A) == (True, "")
    assert verify(openssl, folder, A, "-purpose", "sslclient")[0]
    assert verify(openssl, folder, A, "-purpose", "sslserver")[0]
    assert not verify(openssl, folder, A, "-purpose", "crlsign")[0]
    run("revoke", folder, "--name", "alice", "--reason", "keyCompromise")
    good, why = verify(openssl, folder, A)
    assert not good
    assert "certificate revoked" in why  # OpenSSL's words
    assert verify(openssl, folder, B)[0]
    run("renew-crl", folder)
    assert not verify(openssl, folder, A)[0]
    assert verify(openssl, folder, B)[0]
    soon = str(int(time.time()) + 31 * DAY)
    assert "CRL has expired" in verify(openssl, folder, B, "-attime", soon)[1]


def test_what_openssl_reads(openssl: str, folder: Path) -> None:
    issue(folder, A, "alice", "--role", "aggregate")
    run("revoke", folder, "--name", "alice", "--reason", "keyCompromise")
    node = text(openssl, "x509", folder / "certificates" / f"{A}.pem")
    for part in (
        "Version: 3 (0x2)",
        "Signature Algorithm: ED25519",
        "Issuer: O=my-swarm, CN=QRES swarm CA",
        "Subject: O=my-swarm, CN=alice",
        f"URI:did:qres:{A}, URI:urn:qres:role:aggregate, URI:urn:qres:role:train",
        "Basic Constraints: critical CA:FALSE",
        "Key Usage: critical Digital Signature X509v3",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "Subject Key Identifier",
        "Authority Key Identifier",
    ):
        assert part in node
    authority = text(openssl, "x509", folder / "ca.pem")
    assert "Basic Constraints: critical CA:TRUE, pathlen:0" in authority
    assert "Key Usage: critical Certificate Sign, CRL Sign" in authority
    crl = text(openssl, "crl", folder / "crl.pem")
    assert "Version 2 (0x1)" in crl
    assert "CRL Number: 2" in crl
    assert "Next Update" in crl
    assert "Key Compromise" in crl


def test_serials_are_long_and_random(folder: Path) -> None:
    serials = []
    for number in range(20):
        issue(folder, f"{number:064x}", f"n{number}")
    with Authority.open(folder) as authority:
        serials = [int(item.serial, 16) for item in authority.index.all()]
    assert len(set(serials)) == 20
    assert all(0 < serial < 2**159 for serial in serials)
    assert max(serials) > 2**150  # missed by chance once in 2**180


def test_secrets_are_private(folder: Path) -> None:
    for name, mode in {"ca-key.pem": 0o600, "index.sqlite3": 0o600, "ca.pem": 0o644}.items():
        assert (folder / name).stat().st_mode & 0o777 == mode
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


@pytest.mark.claim("C-pki-11")
def test_nothing_is_overwritten(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    refused("QRES-E803", "there is a CA in this folder", "init", folder, "--swarm", "my-swarm")
    for name in FILES:
        for other in FILES:
            (folder / other).unlink(missing_ok=True)
        (folder / name).write_bytes(before[name])
        refused("QRES-E803", name, "init", folder, "--swarm", "my-swarm")
        assert (folder / name).read_bytes() == before[name]


def test_a_certificate_file_in_the_way(folder: Path) -> None:
    path = folder / "certificates" / f"{A}.pem"
    path.parent.mkdir()
    path.write_text("precious")
    arguments = ("issue", folder, "--public-key", A, "--name", "alice", "--role", "train")
    refused("QRES-E803", str(path), *arguments)
    assert path.read_text() == "precious"
    assert json.loads(run("list", folder, "--json"))["certificates"] == []
    run(*arguments, "--out", folder / "elsewhere")
    assert (folder / "elsewhere" / f"{A}.pem").exists()


@pytest.mark.claim("C-pki-11")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_a_loose_key_is_refused(folder: Path, mode: int) -> None:
    (folder / "ca-key.pem").chmod(mode)
    node = ("--public-key", A, "--name", "alice", "--role", "train")
    refused("QRES-E602", f"mode 0{mode:o}", "issue", folder, *node)
    refused("QRES-E602", f"mode 0{mode:o}", "renew-crl", folder)
    (folder / "ca-key.pem").chmod(0o400)
    run("issue", folder, *node)


@pytest.mark.claim("C-pki-11")
def test_names_and_keys_are_not_shared(folder: Path) -> None:
    issue(folder, A, "alice")
    more = ("--role", "train")
    refused("QRES-E105", A, "issue", folder, "--public-key", B, "--name", "alice", *more)
    refused("QRES-E105", "'alice'", "issue", folder, "--public-key", A, "--name", "bob", *more)
    again = ("issue", folder, "--public-key", A, "--name", "alice", *more)
    refused("QRES-E105", "has a certificate", *again)
    refused("QRES-E105", "has a certificate", *again, "--out", folder / "elsewhere")
    stranger = ("--public-key", B, "--name", "bob", *more, "--renew")
    refused("QRES-E105", "has no certificate", "issue", folder, *stranger)
    run("revoke", folder, "--name", "alice")
    issue(folder, B, "alice", "--out", folder / "elsewhere")


def test_an_expired_certificate_frees_its_name(tmp_path: Path) -> None:
    old = ("--valid-from", "2020-01-01", "--days", "2")
    made = tmp_path / "old"
    run("init", made, "--swarm", "s", "--valid-from", "2019-12-31")
    issue(made, A, "alice", *old)
    issue(made, B, "alice")
    statuses = [row["status"] for row in json.loads(run("list", made, "--json"))["certificates"]]
    assert statuses == ["expired", "valid"]


def test_times_count_to_the_second() -> None:
    issued = Issued("1", "alice", A, ("train",), 10, 20, b"")
    assert [issued.status(now) for now in (9, 10, 20, 21)] == [
        *("not yet valid", "valid", "valid", "expired")
    ]
    year_10000 = 253_402_300_800
    assert _period(year_10000 - DAY - 1, 1) == (year_10000 - DAY - 1, year_10000 - 1)
    for start, days in ((year_10000 - DAY, 1), (0, 0)):
        with pytest.raises(ConfigError, match="QRES-E105 --days"):
            _period(start, days)


def test_one_to_come_holds_its_name(folder: Path) -> None:
    issue(folder, A, "alice", "--valid-from", "2035-01-01", "--days", "30")
    (row,) = json.loads(run("list", folder, "--json"))["certificates"]
    assert row["status"] == "not yet valid"
    assert row["not_before"] == "2035-01-01T00:00:00Z"
    refused(
        "QRES-E105", A, "issue", folder, "--public-key", B, "--name", "alice", "--role", "train"
    )


def test_renewing_keeps_both_until_they_are_revoked(openssl: str, folder: Path) -> None:
    issue(folder)
    path = folder / "certificates" / f"{A}.pem"
    first = path.read_bytes()
    issue(folder, A, "alice", "--renew", "--days", "700")
    assert path.read_bytes() != first
    assert verify(openssl, folder, A)[0]
    out = json.loads(run("revoke", folder, "--name", "alice", "--json"))
    assert len(out["revoked"]) == 2
    for content in (first, path.read_bytes()):
        path.write_bytes(content)
        assert "revoked" in verify(openssl, folder, A)[1]


def test_revoking_by_serial_key_peer_id_and_name(folder: Path) -> None:
    keys = [f"{number:064x}" for number in range(5)]
    for number, key in enumerate(keys):
        issue(folder, key, f"n{number}")
    rows = json.loads(run("list", folder, "--json"))["certificates"]
    serial = rows[0]["serial"].upper()
    colons = ":".join(f"{int(rows[1]['serial'], 16):040x}"[i : i + 2] for i in range(0, 40, 2))
    run("revoke", folder, serial)
    run("revoke", folder, colons)
    run("revoke", folder, "--public-key", keys[2])
    run("revoke", folder, "--public-key", peer_id(bytes.fromhex(keys[3])), "--reason", "superseded")
    rows = json.loads(run("list", folder, "--json"))["certificates"]
    assert [row["status"] for row in rows] == ["revoked"] * 4 + ["valid"]
    assert [row["reason"] for row in rows] == ["unspecified"] * 3 + ["superseded", None]
    crl = x509.load_pem_x509_crl((folder / "crl.pem").read_bytes())
    assert {entry.serial_number for entry in crl} == {int(row["serial"], 16) for row in rows[:4]}


def test_revoking_twice_keeps_the_first_reason_and_is_no_error(folder: Path) -> None:
    issue(folder)
    run("revoke", folder, "--name", "alice", "--reason", "keyCompromise")
    (first,) = json.loads(run("list", folder, "--json"))["certificates"]
    run("revoke", folder, "--name", "alice", "--reason", "superseded")
    assert json.loads(run("list", folder, "--json"))["certificates"] == [first]


def test_revoking_needs_one_certificate_named_in_one_way(folder: Path) -> None:
    issue(folder)
    for chosen in ((), ("1", "--name", "alice"), ("--name", "alice", "--public-key", A)):
        refused("QRES-E105", "in one way", "revoke", folder, *chosen)
    refused("QRES-E105", "no certificate", "revoke", folder, "--name", "bob")
    refused("QRES-E105", "no certificate", "revoke", folder, "1234")
    refused("QRES-E105", "no certificate", "revoke", folder, "--public-key", B)
    refused("QRES-E105", "neither 64 hex", "revoke", folder, "--public-key", "alice")
    assert json.loads(run("list", folder, "--json"))["crl"]["number"] == 1


def test_arguments_that_cannot_work(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for swarm in ("", "a b", "é", "a" * 65, "/a", "a\n"):
        refused("QRES-E105", "--swarm", "init", new, "--swarm", swarm)
    for days in ("0", "-1", "99999999"):
        refused("QRES-E105", "--days", "init", new, "--swarm", "s", "--days", days)
        refused("QRES-E105", "--days", "init", new, "--swarm", "s", "--crl-days", days)
        refused("QRES-E105", "--days", "renew-crl", folder, "--days", days)
    assert not new.exists()
    for name in ("", "a/b", "a b", "é", "a" * 65, "../x"):
        node = ("--public-key", A, "--name", name, "--role", "train")
        refused("QRES-E105", "--name", "issue", folder, *node)
    node = ("--name", "alice", "--role", "train")
    refused("QRES-E105", "neither", "issue", folder, "--public-key", "x", *node)
    node = ("--public-key", A, *node)
    refused("QRES-E105", "outlive the CA", "issue", folder, *node, "--days", "3651")
    refused("QRES-E105", "--days", "issue", folder, *node, "--days", "0")
    with Authority.open(folder) as authority:
        for roles in ([], ["admin"], ["train", "admin"]):
            with pytest.raises(QresError, match="--role"):
                authority.issue(bytes(32), "n", roles, days=1, start=0, now=0, out=new)
    assert json.loads(run("list", folder, "--json"))["certificates"] == []
    run("init", new, "--swarm", "a" * 64)
    issue(new, A, "a" * 64)


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    inside = tmp_path / "file" / "x"
    refused("QRES-E602", str(inside), "init", inside, "--swarm", "s")
    node = ("--public-key", A, "--name", "alice", "--role", "train")
    refused("QRES-E602", str(inside), "issue", folder, *node, "--out", inside)
    assert json.loads(run("list", folder, "--json"))["certificates"] == []  # nothing is on record
    run("issue", folder, *node, "--out", tmp_path / "out" / "there")
    assert (tmp_path / "out" / "there" / f"{A}.pem").exists()


def test_the_first_day_that_a_certificate_can_name(tmp_path: Path) -> None:
    made = tmp_path / "old"
    for day in ("1949-12-31", "1900-01-01", "0001-01-01"):
        refused("QRES-E105", "--valid-from", "init", made, "--swarm", "s", "--valid-from", day)
    assert not made.exists()
    run("init", made, "--swarm", "s", "--valid-from", "1950-01-01", "--days", "40000")
    issue(made, A, "alice", "--valid-from", "1900-01-01")  # not before that of the CA
    assert "alice" in run("list", made)


def test_a_passphrase(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QRES_CA_PASSPHRASE", "correct horse")
    refused("QRES-E602", "unset it", "renew-crl", folder)
    made = tmp_path / "locked"
    run("init", made, "--swarm", "s")
    assert b"ENCRYPTED PRIVATE KEY" in (made / "ca-key.pem").read_bytes()
    issue(made)
    for phrase in ("wrong", None):
        if phrase is None:
            monkeypatch.delenv("QRES_CA_PASSPHRASE")
        else:
            monkeypatch.setenv("QRES_CA_PASSPHRASE", phrase)
        refused("QRES-E602", "QRES_CA_PASSPHRASE", "renew-crl", made)
    run("renew-crl", folder)
    monkeypatch.setenv("QRES_CA_PASSPHRASE", "")
    refused("QRES-E105", "set and empty", "init", tmp_path / "empty", "--swarm", "s")
    refused("QRES-E105", "set and empty", "renew-crl", folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ca.pem", None),
        ("ca.pem", b"garbage"),
        ("index.sqlite3", None),
        ("index.sqlite3", b""),
        ("index.sqlite3", b"garbage" * 1000),
        ("ca-key.pem", None),
        ("ca-key.pem", b"garbage"),
    ],
)
def test_a_damaged_ca(folder: Path, name: str, content: bytes | None) -> None:
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    refused("QRES-E602", name, "renew-crl", folder)


def test_an_emptied_index(folder: Path) -> None:
    database = sqlite3.connect(folder / "index.sqlite3")
    database.execute("DELETE FROM ca")
    database.commit()
    database.close()
    refused("QRES-E602", "the index is empty", "list", folder)


def test_a_busy_index_is_named(folder: Path) -> None:
    with Authority.open(folder) as authority:
        authority.index._db.execute("PRAGMA busy_timeout = 10")
        other = sqlite3.connect(folder / "index.sqlite3", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(QresError, match="another process kept it locked"):
            authority.renew_crl(int(time.time()))
        other.execute("ROLLBACK")
        other.close()
        authority.renew_crl(int(time.time()))
        assert authority.index.crl.number == 2


def test_the_key_of_another_ca(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run("init", other, "--swarm", "my-swarm")
    (folder / "ca-key.pem").write_bytes((other / "ca-key.pem").read_bytes())
    refused("QRES-E602", "not the key of ca.pem", "renew-crl", folder)


@pytest.mark.control("C-pki-12")
def test_a_crl_that_was_not_published_is_by_the_next_command(folder: Path) -> None:
    issue(folder)
    old = (folder / "crl.pem").read_bytes()
    run("revoke", folder, "--name", "alice")
    new = (folder / "crl.pem").read_bytes()
    (folder / "crl.pem").write_bytes(old)
    assert "crl.pem is not the newest CRL" in run("list", folder)
    assert json.loads(run("list", folder, "--json"))["crl"]["published"] is False
    run("approve", folder, "00" * 32)
    assert (folder / "crl.pem").read_bytes() == old
    issue(folder, B, "bob")
    assert (folder / "crl.pem").read_bytes() == new
    (folder / "crl.pem").unlink()
    with Authority.open(folder) as authority:
        assert not authority.published
        authority.publish()
        assert authority.published
    assert (folder / "crl.pem").read_bytes() == new


def test_crls_never_look_older(folder: Path) -> None:
    now = int(time.time())
    with Authority.open(folder) as authority:
        authority.renew_crl(now + 100)
        authority.renew_crl(now - 100)  # the clock was set back
        assert (authority.index.crl.number, authority.index.crl.this_update) == (3, now + 100)
        authority.renew_crl(now + 101, days=2)
        crl = authority.issuer.read_crl(authority.index.crl.pem)
        assert (crl.this_update, crl.next_update) == (now + 101, now + 101 + 2 * DAY)


def test_the_list_for_people_and_for_programs(folder: Path) -> None:
    issue(folder, A, "alice", "--role", "aggregate")
    document = json.loads(run("list", folder, "--json"))
    (row,) = document["certificates"]
    assert (document["ok"], document["swarm"]) == (True, "my-swarm")
    assert (row["name"], row["public_key"], row["status"]) == ("alice", A, "valid")
    assert row["peer_id"] == peer_id(bytes.fromhex(A))
    assert row["roles"] == ["aggregate", "train"]
    assert document["crl"]["number"] == 1
    lines = run("list", folder)
    assert "alice" in lines
    assert "aggregate+train" in lines
    assert "CRL number 1" in lines
    assert "not the newest" not in lines


def test_every_verb_has_json(tmp_path: Path) -> None:
    made = tmp_path / "ca"
    node = ("--public-key", A, "--name", "alice", "--role", "train")
    for arguments in (
        ("init", made, "--swarm", "s"),
        ("issue", made, *node),
        ("revoke", made, "--name", "alice"),
        ("renew-crl", made),
        ("list", made),
    ):
        assert json.loads(run(*arguments, "--json"))["ok"] is True


def test_no_certificate_begins_before_its_ca(folder: Path) -> None:
    issue(folder, A, "alice", "--valid-from", "2020-01-01")
    with Authority.open(folder) as authority:
        (item,) = authority.index.all()
        assert item.not_before == authority.issuer.not_before


def test_the_backdating_of_a_fresh_certificate(folder: Path) -> None:
    before = int(time.time())
    issue(folder)
    with Authority.open(folder) as authority:
        (item,) = authority.index.all()
        assert item.not_before >= authority.issuer.not_before
    assert before <= item.not_before + 3600 <= time.time()


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(RoundError, match="directory"):
        stores.replace_file(place, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    stores.create_file(tmp_path / "file", b"old", mode=0o600)
    stores.replace_file(tmp_path / "file", b"new", mode=0o600)
    assert (tmp_path / "file").read_bytes() == b"new"
    with pytest.raises(QresError, match="exists"):
        stores.create_file(tmp_path / "file", b"newer")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "place"]


def test_the_verb_of_the_program(tmp_path: Path, qres: Any) -> None:
    made = qres("ca", "init", str(tmp_path / "ca"), "--swarm", "s", "--json")
    assert (made.returncode, json.loads(made.stdout)["swarm"]) == (0, "s")
    again = qres("ca", "init", str(tmp_path / "ca"), "--swarm", "s", "--json")
    assert again.returncode == 2
    assert json.loads(again.stdout)["problems"][0]["code"] == "QRES-E803"


def test_where_files_have_no_modes_a_ca_needs_a_passphrase(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "keeps_modes", lambda: False)
    what = "a key without a passphrase lies open"
    refused("QRES-E602", what, "init", tmp_path / "new", "--swarm", "s")
    assert not (tmp_path / "new").exists()
    refused("QRES-E602", what, "renew-crl", folder)
    monkeypatch.setenv("QRES_CA_PASSPHRASE", "a long one")
    run("init", tmp_path / "new", "--swarm", "s")
    run("renew-crl", tmp_path / "new")
