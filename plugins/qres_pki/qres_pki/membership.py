"""Members: one consistent reading of the whitelist, the CA certificate and the CRL."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Final

import attrs

from qres_core import ACCEPT, Verdict, stores
from qres_core.errors import ConfigError, RoundError
from qres_pki.high_water import HighWater
from qres_pki.issuer import CertificateFields, Issuer, Revocations
from qres_pki.members import parse_members
from qres_pki.profile import ROLE_OF_KIND, ROLES
from qres_pki.refusal import (
    AUTHORITY_NOT_VALID,
    CRL_EXPIRED,
    EXPIRED,
    NOT_A_MEMBER,
    NOT_YET_VALID,
    OTHER_AUTHORITY,
    OTHER_KEY,
    REVOKED,
    ROLE_MISSING,
    ROLLED_BACK,
    RefusedError,
    UnusableError,
)

MAX_CACHED: Final = 4096
"""Certificates whose signature is remembered to hold."""
MAX_FILE: Final = 8 * 2**20
"""Most bytes of a whitelist, CA certificate or CRL."""


@attrs.frozen(kw_only=True)
class Sources:
    """Files that the membership is read from; empty names are not used."""

    # keys listed in the configuration, or ``None`` without a whitelist
    members: frozenset[bytes] | None
    members_file: str  # path of a whitelist
    ca: str  # path of the CA certificate
    crl: str  # path of the CRL
    require_crl: bool  # whether a CRL must be there and current

    @property
    def paths(self) -> tuple[str, ...]:
        """The files to watch."""
        return tuple(path for path in (self.members_file, self.ca, self.crl) if path)


def read_file(path: str, option: str) -> bytes:
    """The content of a file.

    Raises UnusableError: missing, unreadable, no regular file or over :data:`MAX_FILE` bytes.
    """
    try:
        return stores.read_file(Path(path), MAX_FILE)
    except ConfigError as error:
        problem = error.problems[0]
        raise UnusableError(option, f"{path}: {problem.what}", problem.fix) from error


@attrs.define(eq=False)
class Membership:
    """One reading of all sources; a change makes a new one, with an empty cache."""

    members: frozenset[bytes] | None  # keys on the whitelist, or ``None`` without one
    issuer: Issuer | None  # the swarm's CA, or ``None`` without one
    revocations: Revocations | None  # its newest CRL, or ``None``
    require_crl: bool  # whether a CRL must be there and current
    _genuine: OrderedDict[bytes, CertificateFields] = attrs.field(
        factory=OrderedDict[bytes, CertificateFields], init=False
    )

    def judge(self, key: bytes, credential: bytes, kind: str | None, now: float) -> Verdict:
        """Judge if a node may take part now, and send a message of this kind.

        Args:
            key: the identity it claims, 32 bytes.
            credential: its certificate, DER; not looked at without a CA.
            kind: message kind, or ``None`` when it connects.
            now: seconds since 1970.

        Returns:
            the verdict; whitelist and CA must both accept where both are used.

        Complexity: a SHA-256 of the certificate and look-ups, once its signature was verified.
        """
        verdict, certificate = self.entitlement(key, credential, kind)
        if self.issuer is None or certificate is None:
            return verdict
        revocations = self.revocations
        # Written so that a clock that is not a number lets nobody in.
        if not self.issuer.not_before <= now <= self.issuer.not_after:
            return AUTHORITY_NOT_VALID
        if self.require_crl and (revocations is None or not now <= revocations.next_update):
            return CRL_EXPIRED
        if not now >= certificate.not_before:
            return NOT_YET_VALID
        if not now <= certificate.not_after:
            return EXPIRED
        return ACCEPT

    def entitlement(  # noqa: PLR0911 - a return for each reason
        self, key: bytes, credential: bytes, kind: str | None
    ) -> tuple[Verdict, CertificateFields | None]:
        """The part of :meth:`judge` that no clock decides.

        Returns the verdict, and the certificate it rests on: none for a rejection or without a CA.
        """
        if self.members is not None and key not in self.members:
            return NOT_A_MEMBER, None
        if self.issuer is None:
            return ACCEPT, None
        try:
            certificate = self._read(self.issuer, credential)
        except RefusedError as error:
            return error.verdict, None
        if certificate.public_key != key:
            return OTHER_KEY, None
        if self.revocations is not None and certificate.serial in self.revocations.serials:
            return REVOKED, None
        if not _may(certificate.roles, kind):
            return ROLE_MISSING, None
        return ACCEPT, certificate

    def _read(self, issuer: Issuer, credential: bytes) -> CertificateFields:
        digest = hashlib.sha256(credential).digest()
        known = self._genuine.get(digest)
        if known is not None:
            self._genuine.move_to_end(digest)
            return known
        found = issuer.read_certificate(credential)
        # Only what the CA signed is remembered, so a flood of forgeries pushes nothing out.
        self._genuine[digest] = found
        if len(self._genuine) > MAX_CACHED:
            self._genuine.popitem(last=False)
        return found


def _may(roles: frozenset[str], kind: str | None) -> bool:
    wanted = None if kind is None else ROLE_OF_KIND.get(kind)
    return wanted in roles if wanted is not None else not roles.isdisjoint(ROLES)


def load(
    sources: Sources, swarm: str, high_water: HighWater, fingerprint: bytes | None = None
) -> Membership:
    """Read every source.

    ``swarm``: name of the swarm the CA must speak for; ``fingerprint``: of the key that the CA must
    have, ``None`` for any. Returns the membership. Raises UnusableError: a file that cannot be
    read, a CA of another key, or a CRL older than one seen before.
    """
    members = sources.members
    if sources.members_file:
        content = read_file(sources.members_file, "members_file")
        try:
            listed = parse_members(content.decode("utf-8"))
        except ValueError as error:
            what = f"{sources.members_file}: {error}"
            raise UnusableError("members_file", what, "correct the file") from error
        members = listed | (members or frozenset())
    if not sources.ca:
        return Membership(members, None, None, require_crl=False)
    try:
        issuer = Issuer.from_pem(read_file(sources.ca, "ca"))
    except ValueError as error:
        what = f"{sources.ca}: {error}"
        raise UnusableError("ca", what, "name the ca.pem of `qres ca init`") from error
    if issuer.swarm != swarm:
        what = f"{sources.ca}: the CA of swarm {issuer.swarm!r}, this is {swarm!r}"
        raise UnusableError("ca", what, "name the CA certificate of this swarm")
    if fingerprint not in {None, issuer.fingerprint}:
        what = f"{sources.ca}: a CA of another key than the swarm's"
        fix = "put the CA certificate back: a new one of the same key may take its place"
        raise UnusableError("ca", what, fix, OTHER_AUTHORITY)
    revocations = _revocations(sources, issuer, high_water) if sources.crl else None
    return Membership(members, issuer, revocations, sources.require_crl)


def _revocations(sources: Sources, issuer: Issuer, high_water: HighWater) -> Revocations | None:
    try:
        if not sources.require_crl and not Path(sources.crl).exists():
            if high_water.seen(issuer.fingerprint) is None:
                return None
            what = f"{sources.crl}: was there before, and is gone"
            raise UnusableError("crl", what, "put the newest CRL back", ROLLED_BACK)
        found = issuer.read_crl(read_file(sources.crl, "crl"))
        if high_water.advance(issuer.fingerprint, found):
            return found
    except ValueError as error:
        what = f"{sources.crl}: {error}"
        raise UnusableError("crl", what, "name the crl.pem of `qres ca init`") from error
    except RoundError as error:
        what = f"which CRLs were seen cannot be read or recorded: {error.problems[0].what}"
        raise UnusableError("crl", what, "see to the data folder") from error
    what = f"{sources.crl}: number {found.number}, and a newer CRL was seen before"
    raise UnusableError("crl", what, "put the newest CRL back: `qres ca renew-crl`", ROLLED_BACK)
