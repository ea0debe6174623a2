"""Key files: what is written, who may read it, and everything that is refused."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from qres_ed25519 import keyfile

from qres_core import stores
from qres_core.errors import ConfigError, LabError

if TYPE_CHECKING:
    from qres_ed25519.signature import SigningKey

PASSPHRASE = b"a long enough passphrase"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, data: bytes, permissions: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(permissions)
    return path


def refusal_of(path: Path, secret: bytes | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as refusal:
        keyfile.load(path, secret, "plugins.ed25519.key")
    assert refusal.value.problems[0].where.startswith("plugins.ed25519.key")
    assert str(path) in str(refusal.value)
    assert refusal.value.problems[0].fix
    return refusal.value


@pytest.mark.claim("C-keys-4")
@pytest.mark.parametrize("secret", [None, PASSPHRASE])
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_a_file_is_its_owners_alone_whatever_the_umask(
    secret: bytes | None, umask: int, pairs: list[SigningKey], tmp_path: Path
) -> None:
    path = tmp_path / "node.key"
    before = os.umask(umask)
    try:
        keyfile.save(path, pairs[0], secret)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    read = keyfile.load(path, secret, "x")
    assert (read.public, read.seed) == (pairs[0].public, pairs[0].seed)
    assert pairs[0].seed not in path.read_bytes()
    label = "ENCRYPTED PRIVATE KEY" if secret else "PRIVATE KEY"
    assert path.read_text("ascii").startswith(f"-----BEGIN {label}-----\n")


@pytest.mark.control("C-keys-4")
def test_control_a_file_as_python_makes_one_is_open_to_others(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        (tmp_path / "plain").write_bytes(b"secret")
    finally:
        os.umask(before)
    assert mode(tmp_path / "plain") == 0o666


@pytest.mark.claim("C-keys-4")
def test_a_file_is_never_open_to_others_not_even_while_written(
    pairs: list[SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    original = os.open

    def watched(path: Any, flags: int, permissions: int = 0o777) -> int:
        handle = original(path, flags, permissions)
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        keyfile.save(tmp_path / "node.key", pairs[0], None)
        keyfile.write_new(tmp_path / "public", b"x", 0o644)
    finally:
        os.umask(before)
    assert modes == [0o600, 0o600]
    assert mode(tmp_path / "public") == 0o644


def test_every_generated_key_is_another() -> None:
    assert len({keyfile.generate().public for _ in range(20)}) == 20


@pytest.mark.claim("C-keys-4")
def test_nothing_is_overwritten(pairs: list[SigningKey], tmp_path: Path) -> None:
    path = write(tmp_path / "node.key", b"precious")
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    for taken in (path, tmp_path / "dangling", tmp_path):
        with pytest.raises(LabError) as refusal:
            keyfile.save(taken, pairs[0], None)
        assert refusal.value.code == "QRES-E803"
    assert path.read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("place", ["absent/node.key", "nul\0.key"])
def test_what_cannot_be_written_is_named(
    place: str, pairs: list[SigningKey], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refusal:
        keyfile.save(tmp_path / place, pairs[0], None)
    assert refusal.value.code == "QRES-E101"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_half_a_file_is_not_left_behind(
    error: BaseException, pairs: list[SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    expected = ConfigError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        keyfile.save(tmp_path / "node.key", pairs[0], None)
    assert not list(tmp_path.iterdir())


def test_a_key_is_on_disk_before_anybody_relies_on_it(
    pairs: list[SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, int]] = []
    original = os.fsync

    def watched(handle: int) -> None:
        found = os.fstat(handle)
        synced.append((stat.S_ISREG(found.st_mode), found.st_size))
        original(handle)

    monkeypatch.setattr(os, "fsync", watched)
    gc.collect()  # what other tests left open
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    keyfile.save(tmp_path / "node.key", pairs[0], None)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    assert synced[0] == (True, (tmp_path / "node.key").stat().st_size)
    assert [regular for regular, _size in synced] == [True, False]


@pytest.mark.claim("C-keys-7")
@pytest.mark.parametrize("length", [0, 1, 14])
def test_short_passphrases_are_refused(
    length: int, pairs: list[SigningKey], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="at least 15") as refusal:
        keyfile.save(tmp_path / "node.key", pairs[0], b"x" * length)
    assert refusal.value.code == "QRES-E105"
    assert not list(tmp_path.iterdir())
    keyfile.save(tmp_path / "node.key", pairs[0], b"x" * 15)


# ── who may read it ───────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-keys-5")
@pytest.mark.control("C-keys-5")
@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_loose_permissions(bit: int, pairs: list[SigningKey], tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    keyfile.save(path, pairs[0], None)
    path.chmod(0o600 | bit)
    refusal = refusal_of(path)
    assert refusal.code == "QRES-E105"
    assert f"{0o600 | bit:04o}" in str(refusal)
    assert "chmod 600" in str(refusal)
    assert mode(path) == 0o600 | bit, "nothing is repaired behind anybody's back"
    for tight in (0o600, 0o400):
        path.chmod(tight)
        assert keyfile.load(path, None, "x").public == pairs[0].public


@pytest.mark.claim("C-keys-5")
def test_a_link_is_judged_by_the_file_it_leads_to(pairs: list[SigningKey], tmp_path: Path) -> None:
    path, link = tmp_path / "node.key", tmp_path / "link"
    keyfile.save(path, pairs[0], None)
    link.symlink_to(path)
    assert keyfile.load(link, None, "x").public == pairs[0].public
    path.chmod(0o640)
    assert refusal_of(link).code == "QRES-E105"


@pytest.mark.claim("C-keys-5")
def test_another_users_file(
    pairs: list[SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "node.key", tmp_path / "link"
    keyfile.save(path, pairs[0], None)
    link.symlink_to(path)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for name in (path, link):
        assert f"belongs to user {owner}" in str(refusal_of(name))


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    for name in ("pipe", "folder"):
        refusal = refusal_of(tmp_path / name)
        assert refusal.code == "QRES-E105"
        assert "not a regular file" in str(refusal)


def test_what_is_not_there(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "absent").code == "QRES-E101"
    assert "No such file" in str(refusal_of(tmp_path / "absent"))
    assert refusal_of(tmp_path / "nul\0").code == "QRES-E101"


def test_handles_are_closed(pairs: list[SigningKey], tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    keyfile.save(path, pairs[0], None)
    gc.collect()  # what other tests left open
    before = len(list(Path("/proc/self/fd").iterdir()))
    keyfile.load(path, None, "x")
    path.chmod(0o644)
    refusal_of(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ── what is in it ─────────────────────────────────────────────────────────────────────────────


def other_keys() -> dict[str, bytes]:
    ed = Ed25519PrivateKey.generate()
    plain, pkcs8 = NoEncryption(), PrivateFormat.PKCS8
    elliptic = ec.generate_private_key(ec.SECP256R1())
    return {
        "P-256": elliptic.private_bytes(Encoding.PEM, pkcs8, plain),
        "P-256, SEC 1": elliptic.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, plain
        ),
        "X25519": x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, pkcs8, plain),
        "OpenSSH": ed.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, plain),
        "DER": ed.private_bytes(Encoding.DER, pkcs8, plain),
        "raw": ed.private_bytes_raw(),
        "public": ed.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "empty": b"",
        "label alone": b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        "cut": ed.private_bytes(Encoding.PEM, pkcs8, plain)[:60],
    }


@pytest.mark.claim("C-keys-5")
@pytest.mark.parametrize("kind", sorted(other_keys()))
def test_other_contents(kind: str, tmp_path: Path) -> None:
    refusal = refusal_of(write(tmp_path / "node.key", other_keys()[kind]))
    assert refusal.code == "QRES-E105"
    expected = {
        "P-256": "of another kind than Ed25519",
        "X25519": "of another kind than Ed25519",
        "label alone": "unreadable",
        "cut": "unreadable",
    }.get(kind, "not a PKCS#8 private key in PEM")
    assert expected in str(refusal)


def test_a_file_too_large_to_be_a_key(pairs: list[SigningKey], tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    keyfile.save(path, pairs[0], None)
    size = path.stat().st_size
    padded = path.read_bytes() + b"\n" * (keyfile.MAX_FILE_BYTES - size)
    assert keyfile.load(write(path, padded), None, "x").public == pairs[0].public
    assert "larger than" in str(refusal_of(write(path, padded + b"\n")))


@pytest.mark.claim("C-keys-5")
def test_passphrase_and_encryption_must_go_together(
    pairs: list[SigningKey], tmp_path: Path
) -> None:
    keyfile.save(tmp_path / "plain", pairs[0], None)
    keyfile.save(tmp_path / "locked", pairs[0], PASSPHRASE)
    assert "not encrypted" in str(refusal_of(tmp_path / "plain", PASSPHRASE))
    assert "no passphrase is given" in str(refusal_of(tmp_path / "locked"))
    wrong = refusal_of(tmp_path / "locked", PASSPHRASE + b"x")
    assert "the passphrase is wrong" in str(wrong)
    assert PASSPHRASE.decode() not in str(wrong)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_without_a_passphrase(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODE_PASS", raising=False)
    if value is not None:
        monkeypatch.setenv("NODE_PASS", value)
    with pytest.raises(ConfigError, match="NODE_PASS is not set or is empty"):
        keyfile.passphrase("NODE_PASS", "x")
    monkeypatch.setenv("NODE_PASS", "grüße")
    assert keyfile.passphrase("NODE_PASS", "x") == "grüße".encode()
    assert keyfile.passphrase("", "x") is None


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *arguments],  # noqa: S607 - whichever is installed
        input=given,
        check=True,
        capture_output=True,
    ).stdout


@pytest.fixture
def _openssl() -> None:
    try:
        openssl("version")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no openssl program")


@pytest.mark.usefixtures("_openssl")
def test_openssl_reads_what_is_written(pairs: list[SigningKey], tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    keyfile.save(path, pairs[0], PASSPHRASE)
    password = f"pass:{PASSPHRASE.decode()}"
    printed = openssl("pkey", "-in", str(path), "-passin", password, "-pubout", "-outform", "DER")
    assert printed.endswith(pairs[0].public)


@pytest.mark.control("C-keys-5")
@pytest.mark.usefixtures("_openssl")
@pytest.mark.parametrize("scrypt", [(), ("-scrypt",)])
def test_what_openssl_writes_is_read(scrypt: tuple[str, ...], tmp_path: Path) -> None:
    made = openssl("genpkey", "-algorithm", "ed25519")
    plain = write(tmp_path / "plain", made)
    password = f"pass:{PASSPHRASE.decode()}"
    encrypted = openssl("pkcs8", "-topk8", *scrypt, "-passout", password, given=made)
    locked = write(tmp_path / "locked", encrypted)
    expected = openssl("pkey", "-pubout", "-outform", "DER", given=made)[-32:]
    assert keyfile.load(plain, None, "x").public == expected
    assert keyfile.load(locked, PASSPHRASE, "x").public == expected


def test_where_files_have_no_modes_a_key_needs_a_passphrase(
    pairs: list[SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "node.key", tmp_path / "other.key"
    keyfile.save(path, pairs[0], None)
    monkeypatch.setattr(stores, "keeps_modes", lambda: False)
    assert refusal_of(path).code == "QRES-E105"
    with pytest.raises(ConfigError, match="QRES-E105"):
        keyfile.save(other, pairs[0], None)
    assert not other.exists()
    keyfile.save(other, pairs[0], PASSPHRASE)
    assert keyfile.load(other, PASSPHRASE, "x").seed == pairs[0].seed
