"""A hub's key and certificate: one file, made once, by which nodes know the hub."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from qres_core import stores
from qres_core.errors import ConfigError
from qres_transport_grpc.wire import HUB_NAME

MAX_FILE_BYTES: Final = 16 * 1024
# Nodes know the certificate itself, and no clock: it has no last day that would matter.
_FIRST_DAY: Final = datetime(2020, 1, 1, tzinfo=UTC)
_LAST_DAY: Final = datetime(9999, 12, 31, tzinfo=UTC)


@attrs.frozen
class HubIdentity:
    """Proof of a hub's identity."""

    key: bytes = attrs.field(repr=False)  # PKCS#8 in PEM
    certificate: bytes  # in PEM
    digest: str  # SHA-256 of the certificate in DER, 64 hex digits

    @classmethod
    def read(cls, path: Path) -> HubIdentity:
        """Read the file, or make it where there is none.

        Raises:
            ConfigError: QRES-E101 if it cannot be read, QRES-E105 if it holds something else.
            RoundError: QRES-E602 if others may read it, or it cannot be written.
        """
        if not path.exists():
            made = cls.generate()
            stores.create_file(path, made.key + made.certificate)
        stores.refuse_loose(path)
        data = stores.read_file(path, MAX_FILE_BYTES)
        try:
            key = load_pem_private_key(data, None)
            certificate = x509.load_pem_x509_certificate(data)
            if key.public_key() != certificate.public_key():
                what = "the certificate is of another key"
                raise ValueError(what)  # noqa: TRY301 - as of what cannot be read
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            what = f"holds no key with its certificate: {error}"
            fix = "restore the file, or remove it and give the nodes the new digest"
            raise ConfigError.of("QRES-E105", str(path), what, fix) from error
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return cls._of(secret, certificate)

    @classmethod
    def generate(cls) -> HubIdentity:
        """A new key on the curve P-256, and its certificate by itself."""
        key = generate_private_key(SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HUB_NAME)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_FIRST_DAY)
            .not_valid_after(_LAST_DAY)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(HUB_NAME)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        )
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return cls._of(secret, builder.sign(key, SHA256()))

    @classmethod
    def _of(cls, key: bytes, certificate: x509.Certificate) -> HubIdentity:
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        return cls(key, certificate.public_bytes(Encoding.PEM), digest)
