"""Refusals of files and certificates by the parts of the plugin."""

from __future__ import annotations

from typing import Final

from qres_core import Blame, Verdict, reject

UNREADABLE: Final = "membership-unreadable"
ROLLED_BACK: Final = "crl-rolled-back"
OTHER_AUTHORITY: Final = "ca-of-another-key"


class UnusableError(Exception):
    """A file the membership rests on cannot be used.

    Attributes:
        option: the option that names the file.
        what: what is wrong with it.
        fix: what to do about it.
        reason: what everybody is refused with while it lasts.
    """

    def __init__(self, option: str, what: str, fix: str, reason: str = UNREADABLE) -> None:
        self.option = option
        self.what = what
        self.fix = fix
        self.reason = reason
        super().__init__(f"{option}: {what}")


class RefusedError(Exception):
    """A certificate is refused, with the verdict that says why."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__(verdict.reason)


# Blame. This plugin does not prove who made a message, so it never blames the sender. The link is
# blamed for what no honest neighbour passes on, whenever it looks: such a message is forged or
# altered. Nobody is blamed for what honest neighbours may see differently for a while, because a
# clock or the arrival of a new CRL or list decides it.


def _forged(reason: str) -> Verdict:
    return reject(reason, blame=Blame.LINK)


NO_CERTIFICATE: Final = _forged("no-certificate")
TOO_LARGE: Final = _forged("certificate-too-large")
MALFORMED: Final = _forged("malformed-certificate")
UNKNOWN_ISSUER: Final = _forged("unknown-issuer")
UNSUITABLE: Final = _forged("certificate-unsuitable")
OTHER_KEY: Final = _forged("certificate-of-another-key")
OTHER_SWARM: Final = _forged("certificate-of-another-swarm")
ROLE_MISSING: Final = _forged("role-missing")

NOT_APPROVED: Final = reject("not-approved")
NOT_A_MEMBER: Final = reject("not-a-member")
NOT_YET_VALID: Final = reject("certificate-not-yet-valid")
EXPIRED: Final = reject("certificate-expired")
REVOKED: Final = reject("certificate-revoked")
AUTHORITY_NOT_VALID: Final = reject("ca-certificate-not-valid-now")
CRL_EXPIRED: Final = reject("crl-expired")
NOT_SET_UP: Final = reject("membership-not-loaded")
