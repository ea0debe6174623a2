"""The swarm's CA as its members see it: it says which certificates and CRLs are genuine."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from qres_pki.profile import DID, MAX_CERTIFICATE, ROLE
from qres_pki.refusal import (
    MALFORMED,
    NO_CERTIFICATE,
    OTHER_SWARM,
    TOO_LARGE,
    UNKNOWN_ISSUER,
    UNSUITABLE,
    RefusedError,
)

_UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""Extensions that may be critical. One that is critical and not understood forbids the
certificate (RFC 5280, section 4.2)."""


_SIGNATURE_HEAD: Final = b"\x03\x41\x00"
"""A BIT STRING of 64 bytes with no unused bits. The parser takes other counts of unused bits as
well, and one certificate would have several encodings."""


APPROVAL_DOMAIN: Final = b"qres/pki/approval/v1\0"
"""Before the digest of a change that the CA signs. No certificate and no CRL begins like this."""


@attrs.frozen
class CertificateFields:
    """Fields of a genuine certificate."""

    public_key: bytes  # the node's identity, 32 bytes
    serial: int  # serial number
    swarm: str  # the swarm it is for
    roles: frozenset[str]  # what the node may do
    not_before: float  # first second of validity, seconds since 1970
    not_after: float  # last second of validity


@attrs.frozen
class Revocations:
    """Contents of a genuine CRL."""

    number: int  # CRL number, greater with every CRL
    this_update: float  # when it was made, seconds since 1970
    next_update: float  # when it is no longer to be relied on
    serials: frozenset[int]  # serial numbers of revoked certificates
    digest: bytes  # SHA-256 of the CRL


def _seconds(moment: datetime) -> float:
    return moment.timestamp()


def raw_key(certificate: x509.Certificate) -> bytes:
    """The Ed25519 public key of a certificate, 32 bytes. Raises ValueError for another kind."""
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        msg = "the key is not an Ed25519 key"
        raise ValueError(msg)  # noqa: TRY004 - the content is wrong, not the caller
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def authority_key(pem: bytes) -> bytes:
    """The key of a CA certificate, 32 bytes: what nodes must have alike.

    Raises ValueError as :meth:`Issuer.from_pem`.
    """
    return raw_key(Issuer.from_pem(pem).certificate)


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _one(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    (attribute,) = name.get_attributes_for_oid(oid)
    return str(attribute.value)


@attrs.frozen
class Issuer:
    """A CA certificate that was checked."""

    certificate: x509.Certificate  # the certificate
    fingerprint: bytes  # SHA-256 of its key, 32 bytes
    swarm: str  # the swarm it speaks for
    not_before: float  # first second of validity, seconds since 1970
    not_after: float  # last second of validity

    @classmethod
    def from_pem(cls, pem: bytes) -> Issuer:
        """Read a CA certificate.

        Returns the issuer. Raises ValueError: not a self-signed Ed25519 CA certificate that may
        sign certificates and CRLs.
        """
        certificates = x509.load_pem_x509_certificates(pem)
        if len(certificates) != 1:
            msg = f"{len(certificates)} certificates in it, expected one"
            raise ValueError(msg)
        (certificate,) = certificates
        try:
            certificate.verify_directly_issued_by(certificate)
            key = raw_key(certificate)
            extensions = certificate.extensions
            constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
            swarm = _one(certificate.subject, NameOID.ORGANIZATION_NAME)
        except Exception as error:
            msg = f"not a self-signed Ed25519 CA certificate: {_why(error)}"
            raise ValueError(msg) from error
        if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
            msg = "not a CA certificate: it may not sign certificates and CRLs"
            raise ValueError(msg)
        return cls(
            certificate,
            hashlib.sha256(key).digest(),
            swarm,
            _seconds(certificate.not_valid_before_utc),
            _seconds(certificate.not_valid_after_utc),
        )

    def approved(self, digest: bytes, approval: bytes) -> bool:
        """True if this CA signed a change of the members, named by a digest of 32 bytes."""
        key = self.certificate.public_key()
        try:
            if not isinstance(key, Ed25519PublicKey):  # never so: ``from_pem`` refuses others
                return False
            key.verify(approval, APPROVAL_DOMAIN + digest)
        except InvalidSignature:
            return False
        return True

    def read_certificate(self, der: bytes) -> CertificateFields:
        """Check what does not depend on the clock, the CRL or the message.

        Args:
            der: the certificate as it came.

        Returns:
            what it says.

        Raises:
            RefusedError: with the verdict. Nothing else, whatever the bytes.

        Complexity: one Ed25519 verification; nothing of a certificate but its names and times is
            looked at before its signature held.
        """
        if not der:
            raise RefusedError(NO_CERTIFICATE)
        if len(der) > MAX_CERTIFICATE:
            raise RefusedError(TOO_LARGE)
        try:
            certificate = x509.load_der_x509_certificate(der)
        except Exception as error:  # no rule says what the parser raises for hostile bytes
            raise RefusedError(MALFORMED) from error
        if not der.endswith(_SIGNATURE_HEAD + certificate.signature):
            raise RefusedError(MALFORMED)
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except Exception as error:  # as above
            raise RefusedError(UNKNOWN_ISSUER) from error
        try:
            found = _content(certificate)
        except Exception as error:  # as above
            raise RefusedError(UNSUITABLE) from error
        if found.swarm != self.swarm:
            raise RefusedError(OTHER_SWARM)
        return found

    def read_crl(self, pem: bytes) -> Revocations:
        """Read a CRL of this CA.

        Returns what it says. Raises ValueError: unreadable, of another CA, without number or end,
        or with a critical extension that is not understood: a partial CRL would hide revocations.
        """
        try:
            crl = x509.load_pem_x509_crl(pem)
            if crl.issuer != self.certificate.subject or not self._signed(crl):
                msg = "not made by this CA"
                raise ValueError(msg)  # noqa: TRY301 - one place says what is wrong
            number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            serials = frozenset(entry.serial_number for entry in crl)
            critical = [
                extension.oid.dotted_string for extension in crl.extensions if extension.critical
            ]
            critical += [
                extension.oid.dotted_string
                for entry in crl
                for extension in entry.extensions
                if extension.critical
            ]
            next_update = crl.next_update_utc
        except Exception as error:
            msg = f"not a usable CRL: {_why(error)}"
            raise ValueError(msg) from error
        if critical:
            msg = f"not a usable CRL: critical extension {critical[0]}"
            raise ValueError(msg)
        if next_update is None:
            msg = "not a usable CRL: it does not say when the next one comes"
            raise ValueError(msg)
        return Revocations(
            number,
            _seconds(crl.last_update_utc),
            _seconds(next_update),
            serials,
            crl.fingerprint(SHA256()),
        )

    def _signed(self, crl: x509.CertificateRevocationList) -> bool:
        key = self.certificate.public_key()
        if not isinstance(key, Ed25519PublicKey):  # pragma: no cover - checked when it was read
            return False
        try:
            return crl.is_signature_valid(key)
        except InvalidSignature:  # pragma: no cover - older releases raise
            return False


def _content(certificate: x509.Certificate) -> CertificateFields:
    """Content of a certificate of this CA; any error means it does not fit the profile."""
    extensions = certificate.extensions
    key = raw_key(certificate)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    dids = [uri for uri in uris if uri.startswith(DID)]
    strange = [
        extension
        for extension in extensions
        if extension.critical and extension.oid not in _UNDERSTOOD
    ]
    if constraints.ca or not usage.digital_signature or strange or dids != [f"{DID}{key.hex()}"]:
        msg = "not a node's certificate"
        raise ValueError(msg)
    return CertificateFields(
        key,
        certificate.serial_number,
        _one(certificate.subject, NameOID.ORGANIZATION_NAME),
        frozenset(uri.removeprefix(ROLE) for uri in uris if uri.startswith(ROLE)),
        _seconds(certificate.not_valid_before_utc),
        _seconds(certificate.not_valid_after_utc),
    )
