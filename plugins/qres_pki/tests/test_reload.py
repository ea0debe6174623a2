"""Changes of the files in a running node."""

from __future__ import annotations

import os
import sqlite3
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from qres_pki import Pki
from qres_pki.high_water import FILE, HighWater
from qres_pki.issuer import Revocations
from qres_pki.plugin import AGAIN_SECONDS
from qres_pki.refusal import UnusableError

from qres_core import ACCEPT, NodeInfo, reject
from qres_core.errors import RoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400
NOW = 1_700_000_000
UNREADABLE = reject("membership-unreadable")
ROLLED_BACK = reject("crl-rolled-back")


@pytest.fixture
def b(swarm: Any) -> bytes:
    """Node b's certificate."""
    certificate: bytes = swarm.issue(swarm.b, days=200).certificate
    return certificate


def test_files_are_looked_at_once_in_a_while(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki(reload_seconds=5.0)
    moment = plugin.monotonic()
    plugin.monotonic = lambda: moment
    plugin._looked = moment
    swarm.revoke(swarm.b)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    moment += 4.999
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    moment += 0.001
    assert swarm.ask(plugin, swarm.b, b).reason == "certificate-revoked"
    swarm.crl.unlink()
    moment += 4.999
    assert swarm.ask(plugin, swarm.b, b).reason == "certificate-revoked"
    moment += 0.001
    assert swarm.ask(plugin, swarm.b, b) == UNREADABLE


def test_an_unchanged_file_is_not_read_again(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki()
    before = plugin._membership
    for _ in range(3):
        assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    assert plugin._membership is before
    swarm.renew_crl(NOW + 1)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    assert plugin._membership is not before


def test_a_rewrite_of_the_same_size_and_time_is_seen(swarm: Any, tmp_path: Path) -> None:
    file = tmp_path / "members"
    file.write_text(f"{swarm.a.hex()}\n{swarm.b.hex()}\n")
    plugin = swarm.start(swarm.a, members_file=str(file), reload_seconds=0.0)
    assert swarm.ask(plugin, swarm.b, None) is ACCEPT
    stat = file.stat()
    beside = tmp_path / "beside"
    beside.write_text(f"{swarm.a.hex()}\n{swarm.c.hex()}\n")
    os.utime(beside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    beside.replace(file)
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    assert file.stat().st_size == stat.st_size
    assert swarm.ask(plugin, swarm.b, None).reason == "not-a-member"
    assert swarm.ask(plugin, swarm.c, None) is ACCEPT


def test_whitelist_changes_and_half_written_files(swarm: Any, tmp_path: Path) -> None:
    file = tmp_path / "members"
    whole = f"{swarm.a.hex()}\n{swarm.b.hex()}\n"
    file.write_text(whole)
    plugin = swarm.start(swarm.a, members_file=str(file), reload_seconds=0.0)
    assert swarm.ask(plugin, swarm.b, None) is ACCEPT
    file.write_text(whole[:100])
    for _ in range(2):
        assert swarm.ask(plugin, swarm.a, None) == UNREADABLE
        assert swarm.ask(plugin, swarm.b, None) == UNREADABLE
        assert plugin.admit(swarm.b, b"") == UNREADABLE
    file.write_text(whole)
    assert swarm.ask(plugin, swarm.b, None) is ACCEPT
    file.unlink()
    assert swarm.ask(plugin, swarm.a, None) == UNREADABLE
    file.write_text(f"{swarm.a.hex()}\n")
    assert swarm.ask(plugin, swarm.a, None) is ACCEPT
    assert swarm.ask(plugin, swarm.b, None).reason == "not-a-member"


@pytest.mark.parametrize("which", ["list", "store", "own"])
def test_a_file_that_could_not_be_read_is_read_again(
    swarm: Any, b: bytes, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without a file descriptor, with a full disk, or while another process writes."""
    plugin = swarm.pki()
    moment = plugin.monotonic()
    plugin.monotonic = lambda: moment
    old = plugin.sign(swarm.envelope(swarm.a, None))
    new = swarm.issue(swarm.a, days=60, renew=True).certificate
    swarm.renew_crl(NOW + 1)
    reads = 0

    def unreadable(path: str, option: str) -> bytes:
        nonlocal reads
        reads += 1
        raise UnusableError(option, f"{path}: Too many open files", "name a readable file")

    def busy(*_arguments: object) -> bool:
        nonlocal reads
        reads += 1
        raise RoundError.of("QRES-E602", FILE, "another process kept it locked", "wait")

    with monkeypatch.context() as broken:
        if which == "store":
            broken.setattr(HighWater, "advance", busy)
        else:
            module = {"list": "membership", "own": "plugin"}[which]
            broken.setattr(f"qres_pki.{module}.read_file", unreadable)
        expected = ACCEPT if which == "own" else UNREADABLE
        for _ in range(3):
            assert swarm.ask(plugin, swarm.b, b) == expected
        assert reads == 1  # not with every message
        moment += AGAIN_SECONDS
        for _ in range(3):
            assert swarm.ask(plugin, swarm.b, b) == expected
        assert reads == 2
    assert swarm.ask(plugin, swarm.b, b) == expected
    assert plugin.sign(swarm.envelope(swarm.a, None)) == (old if which == "own" else new)
    moment += AGAIN_SECONDS
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    assert plugin.sign(swarm.envelope(swarm.a, None)) == new
    whole = plugin._membership
    moment += AGAIN_SECONDS
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    assert plugin._membership is whole  # what was read is not read again


@pytest.mark.claim("C-pki-6")
@pytest.mark.parametrize("broken", ["ca", "crl"])
def test_every_truncation_lets_nobody_in(swarm: Any, b: bytes, broken: str) -> None:
    plugin = swarm.pki()
    file = getattr(swarm, broken)
    whole = file.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        file.write_bytes(whole[:length])
        assert swarm.ask(plugin, swarm.b, b) == UNREADABLE, length
    file.write_bytes(whole)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT


def test_a_whitelist_that_is_cut_is_unreadable_or_shorter(swarm: Any, tmp_path: Path) -> None:
    """It has no end: whoever is on no whole line is not let in, and the others may be."""
    file, keys = tmp_path / "members", (swarm.a, swarm.b, swarm.c)
    whole = "".join(f"{key.hex()}\n" for key in keys)
    file.write_text(whole)
    plugin = swarm.start(swarm.a, members_file=str(file), reload_seconds=0.0)
    for length in range(len(whole), -1, -1):
        file.write_text(whole[:length])
        asked = [swarm.ask(plugin, key, b"") for key in keys]
        listed, rest = divmod(length + 1, 65)
        if length and rest > 1:
            assert asked == [UNREADABLE] * 3, length
        else:
            assert [verdict is ACCEPT for verdict in asked] == [i < listed for i in range(3)]


@pytest.mark.claim("C-pki-6")
def test_a_missing_crl_lets_nobody_in(swarm: Any, b: bytes) -> None:
    strict, lax = swarm.pki(), swarm.pki(require_crl=False)
    whole = swarm.crl.read_bytes()
    swarm.crl.unlink()
    assert swarm.ask(strict, swarm.b, b) == UNREADABLE
    assert swarm.ask(lax, swarm.b, b) == ROLLED_BACK  # there was one
    swarm.crl.write_bytes(whole)
    assert swarm.ask(strict, swarm.b, b) is ACCEPT
    assert swarm.ask(lax, swarm.b, b) is ACCEPT


@pytest.mark.control("C-pki-6")
def test_without_require_crl_it_may_come_later(swarm: Any, b: bytes) -> None:
    swarm.issue(swarm.a)
    swarm.crl.unlink()
    plugin = swarm.pki(require_crl=False)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    assert not swarm.crl.exists()
    swarm.crl.write_text("garbage")
    assert swarm.ask(plugin, swarm.b, b) == UNREADABLE
    swarm.revoke(swarm.b)
    assert swarm.ask(plugin, swarm.b, b).reason == "certificate-revoked"


@pytest.mark.control("C-pki-3", "C-pki-6")
def test_without_any_crl(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki(crl="", require_crl=False)
    swarm.revoke(swarm.b)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT  # the notice said so


@pytest.mark.claim("C-pki-7")
def test_an_older_crl_is_refused(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki()
    old = swarm.crl.read_bytes()
    swarm.revoke(swarm.b)
    new = swarm.crl.read_bytes()
    assert swarm.ask(plugin, swarm.b, b).reason == "certificate-revoked"
    swarm.crl.write_bytes(old)
    assert swarm.ask(plugin, swarm.b, b) == ROLLED_BACK
    assert swarm.ask(plugin, swarm.a, plugin.sign(swarm.envelope(swarm.a, None))) == ROLLED_BACK
    swarm.crl.write_bytes(new)
    assert swarm.ask(plugin, swarm.b, b).reason == "certificate-revoked"


@pytest.mark.claim("C-pki-7")
def test_an_older_crl_is_refused_after_a_restart(swarm: Any, b: bytes, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    old = swarm.crl.read_bytes()
    swarm.issue(swarm.a)
    swarm.revoke(swarm.b)
    new = swarm.crl.read_bytes()
    swarm.pki(data).teardown()
    swarm.crl.write_bytes(old)
    with pytest.raises(Exception, match="a newer CRL was seen before"):
        swarm.pki(data)
    assert swarm.ask(swarm.pki(), swarm.b, b) is ACCEPT  # what the record is for
    swarm.crl.write_bytes(new)
    assert swarm.ask(swarm.pki(data), swarm.b, b).reason == "certificate-revoked"
    swarm.crl.unlink()
    with pytest.raises(Exception, match="was there before, and is gone"):
        swarm.pki(data, require_crl=False)


def crl(swarm: Any, **changes: Any) -> bytes:
    """A CRL of the CA with any content."""
    authority = x509.load_pem_x509_certificate(swarm.ca.read_bytes())
    moment = x509.load_pem_x509_crl(swarm.crl.read_bytes()).last_update_utc
    issuer = changes.get("issuer", authority.subject)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(moment + timedelta(seconds=changes.get("age", 0)))
    builder = builder.next_update(moment + timedelta(days=30))
    if (number := changes.get("number")) is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if "extension" in changes:
        builder = builder.add_extension(changes["extension"], critical=True)
    if "entry" in changes:
        entry = x509.RevokedCertificateBuilder().serial_number(1).revocation_date(moment)
        entry = entry.add_extension(changes["entry"], critical=True)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(swarm.ca_key, None).public_bytes(Encoding.PEM)


@pytest.mark.control("C-pki-7")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"number": 2}, ACCEPT),
        ({"number": 2, "age": 1}, ACCEPT),
        ({"number": 2, "age": -1}, ROLLED_BACK),
        ({"number": 1, "age": 1}, ROLLED_BACK),
        ({"number": 0, "age": 1}, ROLLED_BACK),
        ({"age": 1}, UNREADABLE),
        ({"number": 2, "issuer": x509.Name([])}, UNREADABLE),
        ({"number": 2, "extension": x509.DeltaCRLIndicator(1)}, UNREADABLE),
        ({"number": 2, "extension": x509.IssuingDistributionPoint(
            full_name=None, relative_name=None, only_contains_user_certs=True,
            only_contains_ca_certs=False, only_some_reasons=None, indirect_crl=False,
            only_contains_attribute_certs=False)}, UNREADABLE),
        ({"number": 2, "entry": x509.CertificateIssuer([x509.DNSName("x")])}, UNREADABLE),
    ],
)  # fmt: skip
def test_crls_that_may_and_may_not_follow(
    swarm: Any, b: bytes, changes: dict[str, Any], expected: Any
) -> None:
    plugin = swarm.pki()
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    swarm.crl.write_bytes(crl(swarm, **changes))
    assert swarm.ask(plugin, swarm.b, b) == expected


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    width = (size.bit_length() + 7) // 8
    head = bytes([size]) if size < 128 else bytes([0x80 | width]) + size.to_bytes(width, "big")
    return bytes([tag]) + head + content


def test_a_crl_without_an_end_is_refused(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki()
    body = x509.load_pem_x509_crl(crl(swarm, number=2)).tbs_certlist_bytes
    content = body[2:] if body[1] < 128 else body[3:]  # of up to 255 bytes
    first = content.index(b"\x17\x0d")  # UTCTime: this update, then next update
    for removed, expected in ((0, ACCEPT), (15, UNREADABLE)):
        tbs = der(0x30, content[: first + 15] + content[first + 15 + removed :])
        signature = der(0x03, b"\0" + swarm.ca_key.sign(tbs))
        whole = der(0x30, tbs + bytes.fromhex("300506032b6570") + signature)
        swarm.crl.write_bytes(
            ssl.DER_cert_to_PEM_cert(whole).replace("CERTIFICATE", "X509 CRL").encode()
        )
        assert swarm.ask(plugin, swarm.b, b) == expected


@pytest.mark.claim("C-pki-15")
@pytest.mark.control("C-pki-15")
def test_a_renewed_own_certificate_is_shown(swarm: Any) -> None:
    plugin = swarm.pki()
    old = plugin.sign(swarm.envelope(swarm.a, None))
    new = swarm.issue(swarm.a, days=60, renew=True).certificate
    assert new != old
    assert plugin.sign(swarm.envelope(swarm.a, None)) == new
    (swarm.certificates / f"{swarm.a.hex()}.pem").write_text("garbage")
    assert plugin.sign(swarm.envelope(swarm.a, None)) == new
    swarm.issue(swarm.b)
    other = swarm.start(swarm.b, **swarm.options())
    for judge in (plugin, other):
        assert swarm.ask(judge, swarm.a, new) is ACCEPT  # the control
    # What it shows admits it no longer than the list does.
    swarm.revoke(swarm.a)
    assert plugin.sign(swarm.envelope(swarm.a, None)) == new
    for judge in (plugin, other):
        assert swarm.ask(judge, swarm.a, new).reason == "certificate-revoked"


@pytest.mark.claim("C-pki-8")
def test_a_ca_of_another_key_lets_nobody_in(
    swarm: Any, b: bytes, make_swarm: Callable[[str, str], Any]
) -> None:
    """Others would judge by the CA that the swarm began with: who is a member is no own view."""
    successor = make_swarm("successor", "testing")
    fresh = successor.issue(swarm.b).certificate
    plugin = swarm.pki()
    before = swarm.ca.read_bytes(), swarm.crl.read_bytes()
    swarm.ca.write_bytes(successor.ca.read_bytes())
    swarm.crl.write_bytes(successor.crl.read_bytes())
    for certificate in (b, fresh):
        assert swarm.ask(plugin, swarm.b, certificate) == reject("ca-of-another-key")
        assert plugin.admit(swarm.b, certificate) == reject("ca-of-another-key")
    assert plugin.approve(bytes(32), bytes(64), NOW) == reject("ca-of-another-key")
    for file, octets in zip((swarm.ca, swarm.crl), before, strict=True):
        file.write_bytes(octets)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    plugin._authority = None  # the control
    swarm.ca.write_bytes(successor.ca.read_bytes())
    swarm.crl.write_bytes(successor.crl.read_bytes())  # its numbers are counted apart
    assert swarm.ask(plugin, swarm.b, fresh) is ACCEPT
    assert swarm.ask(plugin, swarm.b, b).reason == "unknown-issuer"


@pytest.mark.control("C-pki-8")
def test_a_new_ca_certificate_of_the_same_key_is_taken(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki()
    first = swarm.ca.read_bytes()
    swarm.ca.write_bytes(swarm.renewed_ca())
    assert swarm.ca.read_bytes() != first
    assert swarm.ask(plugin, swarm.b, b, now=NOW + DAY) is ACCEPT
    assert plugin._membership.issuer.not_after == NOW + 4000 * DAY


def test_a_ca_of_another_swarm_closes(swarm: Any, b: bytes, make_swarm: Any) -> None:
    plugin = swarm.pki()
    swarm.ca.write_bytes(make_swarm("other", "other").ca.read_bytes())
    assert swarm.ask(plugin, swarm.b, b) == UNREADABLE


# ── the store ─────────────────────────────────────────────────────────────────────────────────

SEEN = Revocations(7, 1000.0, 2000.0, frozenset(), b"d" * 32)


def test_the_store_is_private_and_lasts(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "b")
    store = HighWater(folder, "s")
    assert store.seen(b"ca") is None
    assert store.advance(b"ca", SEEN)
    assert store.advance(b"ca", SEEN)
    store.close()
    store.close()
    path = tmp_path / "a" / "b" / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in path.parent.iterdir()] == [FILE]
    again = HighWater(folder, "s")
    assert again.seen(b"ca") == (7, 1000.0, b"d" * 32)
    assert again.seen(b"other") is None
    again.close()


def test_great_numbers_are_kept_whole(tmp_path: Path) -> None:
    great = Revocations(2**159, 1.0, 2.0, frozenset(), b"d")
    store = HighWater(str(tmp_path), "s")
    assert store.advance(b"ca", great)
    assert store.seen(b"ca") == (2**159, 1.0, b"d")
    assert not store.advance(b"ca", Revocations(2**159 - 1, 1.0, 2.0, frozenset(), b"e"))
    assert store.advance(b"ca", Revocations(2**159 + 1, 1.0, 2.0, frozenset(), b"e"))
    store.close()


@pytest.mark.parametrize(
    "damage", ["empty", "garbage", "foreign", "unmarked", "page", "cut", "swarm", "directory"]
)
def test_a_damaged_store_stops_the_node(swarm: Any, tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    swarm.pki(str(data)).teardown()
    path = data / FILE
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:6000])
    elif damage == "foreign":
        path.unlink()
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE notes (text)")
        database.commit()
        database.close()
    elif damage == "unmarked":
        database = sqlite3.connect(path)
        database.execute("PRAGMA application_id = 0")
        database.close()
    elif damage == "page":  # of the index of what was seen; nothing else reads it at the start
        path.write_bytes(path.read_bytes()[:-4096] + b"\xff" * 4096)
    elif damage == "directory":
        path.unlink()
        path.mkdir()
    elif damage == "swarm":
        path.unlink()
        HighWater(str(data), "other").close()
    with pytest.raises(RoundError) as raised:
        swarm.pki(str(data))
    assert raised.value.code == "QRES-E602"
    assert raised.value.problems[0].fix


def test_a_store_that_fails_later_lets_nobody_in(swarm: Any, b: bytes) -> None:
    plugin = swarm.pki()
    plugin._high_water.close()
    swarm.renew_crl(NOW + 1)
    assert swarm.ask(plugin, swarm.b, b) == UNREADABLE


def test_an_error_nobody_thought_of_leaves_nobody_in(
    swarm: Any, b: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = swarm.pki()
    plugin.monotonic = lambda: plugin._looked  # no time passes
    with monkeypatch.context() as broken:
        broken.setattr("qres_pki.plugin.load", lambda *_arguments: 1 / 0)
        swarm.renew_crl(NOW + 1)
        with pytest.raises(ZeroDivisionError):  # the kernel makes a rejection of it
            swarm.ask(plugin, swarm.b, b)
        assert swarm.ask(plugin, swarm.b, b) == UNREADABLE
    swarm.renew_crl(NOW + 2)
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT


def test_setting_up_twice_forgets_the_first(swarm: Any, b: bytes) -> None:
    plugin: Pki = swarm.pki()
    swarm.revoke(swarm.b)
    plugin.setup(NodeInfo(swarm.a, "testing", (swarm.a,)))
    assert swarm.ask(plugin, swarm.b, b).reason == "certificate-revoked"
