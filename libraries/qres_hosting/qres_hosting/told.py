"""Announcement of a round by a coordinator to its clients."""

from __future__ import annotations

import hashlib
from typing import Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import DIGEST_BYTES
from qres_core.kernel.config import SwarmConfig

MAX_TOLD: Final = 1024
"""Bytes of an encoded round."""
_HEAD: Final = b"qres/hosted-head/v1\0"
_MEMBERS: Final = b"qres/hosted-members/v1\0"
_VERSION: Final = 2
_U63: Final = 2**63 - 1


def _bad(field: str, what: str) -> WireError:
    return WireError.of("QRES-E404", f"round.{field}", what)


def members_digest(swarm: SwarmConfig) -> bytes:
    """SHA-256 of who takes part, how many may lie and how few close a round.

    The digest of the settings leaves these out, and the head of a round covers them.
    """
    said = [swarm.name, "".join(swarm.roster), swarm.nodes, swarm.byzantine, swarm.quorum]
    return hashlib.sha256(_MEMBERS + canonical.dumps(said)).digest()


@attrs.frozen
class HostedRound:
    """A round, or an evaluation after one, as a coordinator announces it.

    Attributes:
        number: of the round, from 1; increases with every attempt.
        step: how many rounds made a model before.
        height: how many rounds decided a set before.
        nonce: drawn afresh for each announcement, 32 bytes. All that is signed names it, so that no
            answer can have been made before.
        model: digest of the model that clients start from, 32 bytes.
        settings: digest of the settings that must be the same at all ends, 32 bytes.
        members: digest of who takes part, how many may lie and how few close a round, 32 bytes.
        task: digest of all else that a client is asked to do, 32 bytes; zeros where the framework
            says nothing. Clients that share a sum sign the round's head, and so were asked alike.

    Raises:
        WireError: QRES-E404 names the field.
    """

    number: int
    step: int
    height: int
    nonce: bytes
    model: bytes
    settings: bytes
    members: bytes
    task: bytes = bytes(DIGEST_BYTES)

    def __attrs_post_init__(self) -> None:
        for field, least in (("number", 1), ("step", 0), ("height", 0)):
            count = getattr(self, field)
            if type(count) is not int or not least <= count <= _U63:
                raise _bad(field, f"expected an integer in {least}..2**63-1")
        for field in ("nonce", "model", "settings", "members", "task"):
            octets = getattr(self, field)
            if type(octets) is not bytes or len(octets) != DIGEST_BYTES:
                raise _bad(field, f"expected {DIGEST_BYTES} bytes")

    def _raw(self) -> list[object]:
        return [
            _VERSION,
            self.number,
            self.step,
            self.height,
            self.nonce,
            self.model,
            self.settings,
            self.members,
            self.task,
        ]

    def to_bytes(self) -> bytes:
        """Encode."""
        return canonical.dumps(self._raw())

    @classmethod
    def from_bytes(cls, octets: bytes) -> HostedRound:
        """Decode. Raises WireError: QRES-E401 to QRES-E404, and QRES-E406 for another version."""
        value = canonical.loads(octets, max_bytes=MAX_TOLD, max_items=16)
        if not canonical.is_list(value) or len(value) != 9:
            raise WireError.of("QRES-E402", "round", "expected a list of 9 values")
        version, *fields = value
        if type(version) is not int or version != _VERSION:
            raise WireError.of("QRES-E406", "round.version", f"this end speaks {_VERSION}")
        return cls(*fields)

    def info(self, swarm: SwarmConfig, dimension: int) -> RoundInfo:
        """The round as plugins see it; its head binds all that is here, and the members."""
        bound = [swarm.name, "".join(swarm.roster), swarm.byzantine, swarm.quorum, *self._raw()]
        return RoundInfo(
            swarm=swarm.name,
            number=self.number,
            model_digest=self.model,
            dimension=dimension,
            scale=swarm.scale,
            roster=tuple(bytes.fromhex(text) for text in swarm.roster),
            quorum=swarm.quorum,
            byzantine=swarm.byzantine,
            step=self.step,
            height=self.height,
            head=hashlib.sha256(_HEAD + canonical.dumps(bound)).digest(),
        )
