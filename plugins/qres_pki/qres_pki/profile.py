"""The certificate profile: what a node's certificate says, and in which standard field.

=====================  ==========================================================================
field                  content
=====================  ==========================================================================
subject CN             the node's name
subject O              the swarm's name
subject public key     Ed25519 (RFC 8410), the node's identity
subjectAltName URIs    ``did:qres:<64 hex digits of the key>`` once, ``urn:qres:role:<role>`` each
basicConstraints       CA:FALSE, critical
keyUsage               digitalSignature, critical
extendedKeyUsage       clientAuth, serverAuth
=====================  ==========================================================================

Roles are URIs in the subjectAltName because every tool prints them; an extension of our own would
show as a hex dump.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

DID: Final = "did:qres:"
ROLE: Final = "urn:qres:role:"
TRAIN: Final = "train"
AGGREGATE: Final = "aggregate"
ROLES: Final = (TRAIN, AGGREGATE)
AUTHORITY_NAME: Final = "QRES swarm CA"

ROLE_OF_KIND: Final[Mapping[str, str]] = MappingProxyType(
    {
        "contribution": TRAIN,
        "choice/proposal": AGGREGATE,
        "choice/prevote": AGGREGATE,
        "choice/precommit": AGGREGATE,
        "choice/lock": AGGREGATE,
        "certificate": AGGREGATE,
        "outcome/proposal": AGGREGATE,
        "outcome/prevote": AGGREGATE,
        "outcome/precommit": AGGREGATE,
        "outcome/lock": AGGREGATE,
        "roster/change": AGGREGATE,
    }
)
"""The role that a message kind asks for.

Other kinds are open to every role: they ask for something, or what they give is checked by itself,
as links and models are. Of attestations and of the word that a model is good enough, more count
than liars could give, whatever their role. A node with the one role alone counts among the members,
and follows.
"""

MAX_CERTIFICATE: Final = 2048
"""Most bytes of a certificate; one of the profile has about 700."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SWARM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")


def subject(name: str, swarm: str) -> x509.Name:
    """The subject of a node, or of a swarm's CA under :data:`AUTHORITY_NAME`."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, swarm),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
