"""The swarm's CA: a folder with its key, its certificate, its index and its revocation list.

=============== ======================================================================
file            content
=============== ======================================================================
ca-key.pem      private key, PKCS#8, mode 0600, encrypted if a passphrase is set
ca.pem          certificate of the CA; every node gets it
crl.pem         newest revocation list; every node gets it, again and again
index.sqlite3   what was issued and revoked, mode 0600
certificates/   a certificate per node, ``<public key in hex>.pem``
=============== ======================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from qres_core import stores
from qres_core.errors import ConfigError, LabError, RoundError
from qres_pki.index import CrlState, Index, Issued
from qres_pki.issuer import APPROVAL_DOMAIN, Issuer
from qres_pki.profile import AUTHORITY_NAME, DID, NAME, ROLE, ROLES, SWARM, subject

PASSPHRASE: Final = "QRES_CA_PASSPHRASE"  # noqa: S105 - the name of the variable
DAY: Final = 86_400
BACKDATED: Final = 3_600
"""How long before it was made a certificate begins, seconds: clocks differ."""

REASONS: Final[Mapping[str, x509.ReasonFlags]] = {
    reason.value: reason
    for reason in (
        x509.ReasonFlags.unspecified,
        x509.ReasonFlags.key_compromise,
        x509.ReasonFlags.affiliation_changed,
        x509.ReasonFlags.superseded,
        x509.ReasonFlags.cessation_of_operation,
        x509.ReasonFlags.privilege_withdrawn,
    )
}
"""Reasons of RFC 5280, section 5.3.1, that cannot be taken back."""


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _refuse(where: str, what: str, fix: str = "") -> ConfigError:
    return ConfigError.of("QRES-E105", where, what, fix)


def _make(folder: Path) -> None:
    try:
        stores.make_folder(folder)
    except OSError as error:
        what = error.strerror or str(error)
        raise RoundError.of("QRES-E602", str(folder), what, "name another folder") from error


def _period(start: int, days: int) -> tuple[int, int]:
    end = start + days * DAY
    if start < -631_152_000:  # 1950, the first year that the library writes
        raise _refuse("--valid-from", f"{_moment(start):%Y-%m-%d}", "1950-01-01 or later")
    if days < 1 or end >= 253_402_300_800:  # the year 10000, which X.509 cannot write
        raise _refuse("--days", f"{days} days", "at least 1, and before the year 10000")
    return start, end


def _expect_guarded(path: Path, passphrase: bytes | None) -> None:
    """Refuse a CA key that nothing keeps others from reading. Raises RoundError QRES-E602."""
    if passphrase is None and not stores.keeps_modes():
        what = "this system has no file modes, so a key without a passphrase lies open"
        raise RoundError.of("QRES-E602", str(path), what, f"make a new CA with {PASSPHRASE} set")


def _passphrase() -> bytes | None:
    text = os.environ.get(PASSPHRASE)
    if text == "":
        raise _refuse(PASSPHRASE, "set and empty", "unset it, or give a passphrase")
    return None if text is None else text.encode()


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _start_certificate(
    name: x509.Name, issuer: x509.Name, key: Ed25519PublicKey, start: int, end: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())  # 159 bits of the system's randomness
        .not_valid_before(_moment(start))
        .not_valid_after(_moment(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _make_crl(
    key: Ed25519PrivateKey,
    certificate: x509.Certificate,
    revoked: Sequence[Issued],
    number: int,
    this_update: int,
    days: int,
) -> CrlState:
    start, end = _period(this_update, days)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(_moment(start))
        .next_update(_moment(end))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
        )
    )
    for serial in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(int(serial.serial, 16))
            .revocation_date(_moment(serial.revoked or start))
        )
        reason = REASONS[serial.reason or "unspecified"]
        if reason is not x509.ReasonFlags.unspecified:  # RFC 5280: absent rather than unspecified
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return CrlState(number, this_update, builder.sign(key, None).public_bytes(Encoding.PEM))


@attrs.frozen(eq=False)
class Authority:
    """An opened CA folder; use as a context manager.

    The index is the truth. A change is committed there together with the CRL that shows it, and
    crl.pem is then brought up to it: a crash in between leaves the old crl.pem whole, and the next
    command publishes the new one. A CRL number is never given to two different CRLs.
    """

    folder: Path  # the folder
    issuer: Issuer  # its certificate
    index: Index  # its index

    @classmethod
    def create(
        cls, folder: Path, swarm: str, *, days: int, crl_days: int, start: int, now: int
    ) -> None:
        """Make a CA for a swarm.

        ``folder``: made if it is not there; ``crl_days``: how long each CRL may be relied on;
        ``start``: first second of validity, seconds since 1970. Raises ConfigError: QRES-E105 names
        the argument. Raises LabError: QRES-E803, there is a CA in the folder. Raises RoundError:
        QRES-E602, the folder cannot be made.
        """
        if not SWARM.fullmatch(swarm):
            raise _refuse("--swarm", f"{swarm!r}", "1..64 of A-Za-z0-9._/-")
        start, end = _period(start, days)
        _period(now, crl_days)
        protection: KeySerializationEncryption = NoEncryption()
        passphrase = _passphrase()
        _expect_guarded(folder / "ca-key.pem", passphrase)
        if passphrase:
            protection = BestAvailableEncryption(passphrase)
        for file in ("ca-key.pem", "ca.pem", "crl.pem", "index.sqlite3"):
            if (folder / file).exists():
                what = "exists: there is a CA in this folder"
                raise LabError.of("QRES-E803", str(folder / file), what, "name another folder")
        _make(folder)
        key = Ed25519PrivateKey.generate()
        name = subject(AUTHORITY_NAME, swarm)
        certificate = (
            _start_certificate(name, name, key.public_key(), start, end)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .sign(key, None)
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
        crl = _make_crl(key, certificate, (), 1, now, crl_days)
        stores.create_file(folder / "ca-key.pem", pem)
        Index.create(folder, swarm, crl_days, crl)
        stores.create_file(folder / "crl.pem", crl.pem, mode=0o644)
        stores.create_file(folder / "ca.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a CA. Raises RoundError: QRES-E602, there is none, or it is damaged."""
        path = folder / "ca.pem"
        try:
            issuer = Issuer.from_pem(path.read_bytes())
        except (OSError, ValueError) as error:
            what = f"no usable CA certificate: {error}"
            fix = "name a folder made by `qres ca init`"
            raise RoundError.of("QRES-E602", str(path), what, fix) from error
        index = Index(folder)
        return cls(folder, issuer, index)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.index.close()

    def _key(self) -> Ed25519PrivateKey:
        path = self.folder / "ca-key.pem"
        passphrase = _passphrase()
        try:
            _expect_guarded(path, passphrase)
            exposed = f"chmod 600 {path}; if others could read it, make a new CA"
            stores.refuse_loose(path, exposed)
            key = load_pem_private_key(path.read_bytes(), passphrase)
        except (OSError, ValueError, TypeError) as error:
            what = f"the CA's key cannot be used: {error}"
            fix = f"if it has a passphrase, set {PASSPHRASE}; if it has none, unset it"
            raise RoundError.of("QRES-E602", str(path), what, fix) from error
        mine = self.issuer.certificate.public_key()
        if not isinstance(key, Ed25519PrivateKey) or key.public_key() != mine:
            raise RoundError.of("QRES-E602", str(path), "not the key of ca.pem", "restore both")
        return key

    # ── issuing ───────────────────────────────────────────────────────────────────────────────

    def issue(
        self,
        public_key: bytes,
        name: str,
        roles: Sequence[str],
        *,
        days: int,
        start: int,
        now: int,
        out: Path,
        renew: bool = False,
    ) -> Issued:
        """Issue a certificate and write it to ``<out>/<public key in hex>.pem``.

        The CA does not see the node's private key, and no proof that there is one: a certificate
        for a key somebody else holds lets nobody but its holder sign.

        Args:
            public_key: the node's identity, 32 bytes.
            name: the node's name; one name belongs to one key.
            roles: one or more of :data:`~qres_pki.profile.ROLES`.
            days: how long it is valid.
            start: first second of validity, seconds since 1970; not before that of the CA.
            now: this machine's clock.
            out: folder for the certificate, made if it is not there.
            renew: replace the certificate of the same name and key.

        Returns:
            what the index now says of it.

        Raises:
            ConfigError: QRES-E105 names the argument.
            LabError: QRES-E803, the file exists.
            RoundError: QRES-E602, the CA is damaged or its key open to others, or the folder
                cannot be made.
        """
        if not NAME.fullmatch(name):
            raise _refuse("--name", f"{name!r}", "1..64 of A-Za-z0-9._-")
        if not roles or not set(roles) <= set(ROLES):
            raise _refuse("--role", f"{list(roles)}", f"one or more of {', '.join(ROLES)}")
        start, end = _period(max(start, int(self.issuer.not_before)), days)
        if end > self.issuer.not_after:
            what = f"{days} days outlive the CA, which ends {_moment(int(self.issuer.not_after))}"
            raise _refuse("--days", what, "fewer days")
        path = out / f"{public_key.hex()}.pem"
        key = self._key()
        _make(out)  # before the index says that there is a certificate
        with self.index.changing():
            self._refuse_double(public_key, name, now, renew=renew)
            if path.exists() and not renew:
                raise LabError.of("QRES-E803", str(path), "exists", "name another --out")
            certificate = self._sign(key, public_key, name, sorted(set(roles)), start, end)
            issued = Issued(
                f"{certificate.serial_number:x}",
                name,
                public_key.hex(),
                tuple(sorted(set(roles))),
                start,
                end,
                certificate.public_bytes(Encoding.DER),
            )
            self.index.add(issued)
        write = stores.replace_file if renew else stores.create_file
        write(path, certificate.public_bytes(Encoding.PEM), mode=0o644)
        self.publish()
        return issued

    def _refuse_double(self, public_key: bytes, name: str, now: int, *, renew: bool) -> None:
        held = [item for item in self.index.all() if item.status(now) in ("valid", "not yet valid")]
        for item in held:
            if item.name == name and item.public_key != public_key.hex():
                what = f"{name!r} is the name of {item.public_key}"
                raise _refuse("--name", what, "another name, or revoke that certificate first")
            if item.public_key == public_key.hex() and item.name != name:
                what = f"the key has the name {item.name!r}"
                raise _refuse("--public-key", what, "revoke that certificate first")
        known = any(item.name == name and item.public_key == public_key.hex() for item in held)
        if known and not renew:
            raise _refuse("--name", f"{name!r} has a certificate", "--renew replaces it")
        if renew and not known:
            raise _refuse("--renew", f"{name!r} has no certificate for that key", "leave it out")

    def _sign(
        self, key: Ed25519PrivateKey, node: bytes, name: str, roles: list[str], start: int, end: int
    ) -> x509.Certificate:
        uris = [f"{DID}{node.hex()}", *(f"{ROLE}{role}" for role in roles)]
        node_key = Ed25519PublicKey.from_public_bytes(node)
        ca = self.issuer.certificate
        return (
            _start_certificate(subject(name, self.issuer.swarm), ca.subject, node_key, start, end)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
            )
            .sign(key, None)
        )

    def approve(self, digest: bytes) -> bytes:
        """Approve a change of the members, named by its digest of 32 bytes; 64 bytes.

        Raises RoundError: QRES-E602, the CA's key is damaged or open to others.
        """
        return self._key().sign(APPROVAL_DOMAIN + digest)

    # ── revoking ──────────────────────────────────────────────────────────────────────────────

    def revoke(self, chosen: Sequence[Issued], reason: str, now: int) -> None:
        """Revoke certificates and publish a CRL that says so.

        Those revoked before stay as they are. Raises RoundError: QRES-E602, the CA is damaged or
        its key open to others.
        """
        self._renew_crl(chosen, reason, now, self.index.crl_days)

    def renew_crl(self, now: int, days: int | None = None) -> None:
        """Publish a CRL with a new end.

        Args:
            now: this machine's clock, seconds since 1970.
            days: how long it may be relied on; left out, what the CA was made with.

        Raises:
            ConfigError: QRES-E105 for ``days``.
            RoundError: QRES-E602, the CA is damaged or its key open to others.
        """
        self._renew_crl((), "unspecified", now, self.index.crl_days if days is None else days)

    def _renew_crl(self, chosen: Sequence[Issued], reason: str, now: int, days: int) -> None:
        key = self._key()
        with self.index.changing():
            for item in chosen:
                self.index.revoke(item.serial, now, reason)
            last = self.index.crl
            revoked = [item for item in self.index.all() if item.revoked is not None]
            # A clock that was set back must not make a CRL that looks older than the last.
            moment = max(now, last.this_update)
            ca = self.issuer.certificate
            self.index.crl = _make_crl(key, ca, revoked, last.number + 1, moment, days)
        self.publish()

    @property
    def published(self) -> bool:
        """True if crl.pem is the newest CRL."""
        path = self.folder / "crl.pem"
        return path.is_file() and path.read_bytes() == self.index.crl.pem

    def publish(self) -> None:
        """Bring crl.pem up to the index."""
        # Inside a transaction, so that of two commands the one with the older CRL is not the last.
        with self.index.changing():
            if not self.published:
                stores.replace_file(self.folder / "crl.pem", self.index.crl.pem, mode=0o644)
