"""Private key files: PKCS#8 in PEM (RFC 5958, RFC 8410), for their owner's eyes alone.

Standard files: OpenSSL reads and writes them. What cannot be trusted to be secret, or to be what
was meant, is refused and never repaired.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from qres_core import stores
from qres_core.errors import ConfigError, LabError
from qres_ed25519.signature import SigningKey

MAX_FILE_BYTES: Final = 16 * 1024
MIN_PASSPHRASE_BYTES: Final = 15
"""Fewest bytes a new key file's passphrase may have (NIST SP 800-63B-4 section 3.1.1.2). The file
format's key derivation is only as slow as the library makes it, so the passphrase must carry it."""
_PLAIN: Final = b"-----BEGIN PRIVATE KEY-----"
_ENCRYPTED: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_UNGUARDED: Final = (
    "this system has no file modes, so a key without a passphrase lies open",
    "make a key with a passphrase: qres keygen PATH --passphrase-env VARIABLE",
)


def generate() -> SigningKey:
    """A new key from the operating system's randomness."""
    return SigningKey.from_seed(secrets.token_bytes(32))


def passphrase(variable: str, where: str) -> bytes | None:
    """The passphrase in an environment variable.

    Args:
        variable: name of the variable; empty for "there is none".
        where: configuration key or option, for the error.

    Raises:
        ConfigError: QRES-E105 if the variable is unset or empty.
    """
    if not variable:
        return None
    value = os.environ.get(variable, "")
    if not value:
        what = f"the environment variable {variable} is not set or is empty"
        raise ConfigError.of("QRES-E105", where, what, f"set {variable} to the key's passphrase")
    return os.fsencode(value)


def save(path: Path, pair: SigningKey, secret: bytes | None) -> None:
    """Write a private key to a new file of mode 0600, on disk when this returns.

    Where files have no modes (Windows), nothing but a passphrase keeps others from the key.

    Args:
        path: where; nothing may be there, not even a dangling link.
        pair: the key.
        secret: the passphrase to encrypt with, or ``None``.

    Raises:
        LabError: QRES-E803 if something is there.
        ConfigError: QRES-E101 if it cannot be written, QRES-E105 for a short passphrase, or for
            none where files have no modes.
    """
    if secret is None and not stores.keeps_modes():
        raise ConfigError.of("QRES-E105", str(path), *_UNGUARDED)
    if secret is not None and len(secret) < MIN_PASSPHRASE_BYTES:
        what = f"{len(secret)} bytes, a new passphrase has at least {MIN_PASSPHRASE_BYTES}"
        raise ConfigError.of("QRES-E105", "passphrase", what, "have one generated")
    encryption = NoEncryption() if secret is None else BestAvailableEncryption(secret)
    key = Ed25519PrivateKey.from_private_bytes(pair.seed)
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a new file and sync it; none is left behind where that fails. Raises as :func:`save`.

    The mode is set whatever the umask; the file is never more open than that.
    """
    try:
        handle = stores.create_now(path, mode & 0o600)
    except FileExistsError as error:
        raise LabError.of("QRES-E803", str(path), "exists", "name another file") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unusable(str(path), error, "name a folder you can write to") from error
    try:
        with os.fdopen(handle, "wb") as file:
            stores.set_mode(file.fileno(), mode)
            file.write(data)
            file.flush()
            stores.sync(file.fileno())
        stores.sync_folder(path.parent)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _unusable(str(path), error, "name a folder you can write to") from error
        raise


def load(path: Path, secret: bytes | None, where: str) -> SigningKey:
    """Read a private key.

    The checks are of the opened file, so nobody can exchange it in between. A link may lead to it;
    what counts is whose the file is and who may read it. ``secret``: its passphrase, or ``None``
    for a file without; ``where``: configuration key, variable or argument that named it, for
    errors. Raises ConfigError: QRES-E101 if it cannot be read; QRES-E105 if it is no regular file,
    is another user's, can be read or written by group or others, holds no PKCS#8 Ed25519 key, is
    encrypted where no passphrase is given, or the other way round, or has no passphrase where files
    have no modes.
    """
    data = _read_private(path, where)

    def refused(what: str, fix: str = "qres keygen makes one") -> ConfigError:
        return ConfigError.of("QRES-E105", where, f"{path}: {what}", fix)

    head = data.lstrip()
    if not head.startswith((_PLAIN, _ENCRYPTED)):
        raise refused("not a PKCS#8 private key in PEM")
    if head.startswith(_ENCRYPTED) and secret is None:
        fix = "name the environment variable that holds its passphrase"
        raise refused("the key is encrypted and no passphrase is given", fix)
    if secret is None and not stores.keeps_modes():
        raise refused(*_UNGUARDED)
    if head.startswith(_PLAIN) and secret is not None:
        fix = "take the passphrase away, or encrypt the key"
        raise refused("a passphrase is given and the key is not encrypted", fix)
    try:
        key = load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "unreadable, or the passphrase is wrong" if secret else "unreadable"
        raise refused(what) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise refused("a private key of another kind than Ed25519")
    return SigningKey.from_seed(key.private_bytes_raw())


def _read_private(path: Path, where: str) -> bytes:
    fix = "qres keygen makes one"
    try:
        handle = stores.open_now(path)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError.of("QRES-E105", where, f"{path}: not a regular file", fix)
            if what := stores.foreign(found):
                fix = "run as that user, or change its owner (chown)"
                raise ConfigError.of("QRES-E105", where, f"{path}: {what}", fix)
            if what := stores.loose(found):
                raise ConfigError.of("QRES-E105", where, f"{path}: {what}", f"chmod 600 {path}")
            data = os.read(handle, MAX_FILE_BYTES + 1)
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unusable(f"{where}: {path}", error, fix) from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError.of("QRES-E105", where, f"{path}: larger than {MAX_FILE_BYTES} bytes", fix)
    return data


def _unusable(where: str, error: Exception, fix: str) -> ConfigError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ConfigError.of("QRES-E101", where, reason, fix)
