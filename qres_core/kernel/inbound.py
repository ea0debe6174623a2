"""Checks of an incoming frame before its content is looked at, and the blame for it.

Cheap checks come first. Each runs only if all before it accepted. Until ``authenticate`` has
accepted, nothing shows that the claimed sender has anything to do with the message: what is wrong
with it is laid on its source, or on nobody.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

import attrs

from qres_core.contract.errors import WireError
from qres_core.contract.evidence import Standing
from qres_core.contract.faults import KERNEL, Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import ACCEPT, Blame, Verdict, reject
from qres_core.contract.wire import NUMBERS_PER_KEY, QUOTED_KINDS, Envelope
from qres_core.kernel.config import SwarmConfig

_OF_FRAME: Final = {
    "QRES-E401": Fault.FRAME_TOO_LARGE,
    "QRES-E402": Fault.FRAME_MALFORMED,
    "QRES-E403": Fault.FRAME_NOT_CANONICAL,
    "QRES-E404": Fault.FRAME_FIELD_INVALID,
    "QRES-E405": Fault.FRAME_DIGEST_MISMATCH,
    "QRES-E406": Fault.FRAME_VERSION_UNKNOWN,
}
_FOREIGN: Final = reject("other-swarm", blame=Blame.LINK)
_STRANGE: Final = reject("unknown-sender", blame=Blame.LINK)
_OF_OTHER_KEY: Final = reject(Fault.SEQUENCE_OF_OTHER_KEY, blame=Blame.SENDER)
_HUNG_ON: Final = reject("unknown-authenticator", blame=Blame.LINK)


@attrs.frozen
class Rejection:
    """An incoming message that was refused."""

    reason: str  # a :class:`Fault`, or ``"<plugin>:<id>"``
    blame: Blame  # who is to blame
    subject: NodeId | None  # the node the blame falls on, or ``None``
    source: str  # plugin that refused, or ``"kernel"``


class Defences(Protocol):
    """Questions of a frame's path to a node's plugins; the intake answers them."""

    @property
    def swarm(self) -> SwarmConfig:
        """The swarm's promises."""
        ...

    @property
    def roster(self) -> frozenset[NodeId]:
        """Identities of the present members."""
        ...

    @property
    def signers(self) -> frozenset[str]:
        """Names of the plugins that sign."""
        ...

    def read(self, frame: bytes) -> Envelope:
        """Decode a frame. Raises WireError, whatever the bytes."""
        ...

    def standing(self, sender: NodeId) -> Standing:
        """Weight of a node, and its ban if there is one."""
        ...

    def authenticate(
        self, envelope: Envelope, source: NodeId, now: float, *, quoted: bool = False
    ) -> tuple[Verdict, str]:
        """Judge if the claimed sender made it; unless quoted, also if it may take part now.

        With the plugin that refuses.
        """
        ...

    def key_index(self, node_id: NodeId) -> int:
        """Number of keys that a node had before its present one."""
        ...

    def replay_check(self, envelope: Envelope, now: float) -> tuple[Verdict, str]:
        """Judge if it is new; with the plugin that refuses."""
        ...

    def refuse(
        self, reason: str, blame: Blame, subject: NodeId | None, source: str, round_number: int
    ) -> Rejection:
        """Count a rejection and hold it against whom it blames.

        A reason that is no :class:`Fault` is the source's own id, and is named after it.
        """
        ...


def take(  # noqa: PLR0911 - one return for each check
    defences: Defences, frame: bytes, source: NodeId, now: float, waited: float = 0.0
) -> Envelope | Rejection:
    """The message in a frame, or why it is refused.

    Size, form, swarm, kind, roster, whether the source is banned, names of the authenticators,
    ``authenticate``, whether the number is one of the sender's key, ``replay_check``, whether the
    sender is banned. ``frame``: bytes as delivered; ``source``: who answers for them: the author,
    where the transport proves who sent a frame first, else the neighbour that delivered it;
    ``now``: this node's clock, seconds; ``waited``: seconds since the frame was announced, where it
    was pulled. ``replay_check`` is told the time of the announcement, which names each byte: a slow
    line makes no message old. Returns the envelope, or the rejection, counted and blamed.
    Never raises for what the frame holds.
    """
    swarm = defences.swarm
    try:
        envelope = defences.read(frame)
    except WireError as error:
        return defences.refuse(_OF_FRAME[error.code], Blame.LINK, source, KERNEL, 0)
    if envelope.swarm != swarm.name:
        return defences.refuse(Fault.OTHER_SWARM, Blame.LINK, source, KERNEL, 0)
    if envelope.kind in QUOTED_KINDS:  # anybody who saw it quoted can send it
        return defences.refuse(Fault.UNKNOWN_KIND, Blame.NOBODY, None, KERNEL, 0)
    if envelope.sender not in defences.roster:  # a node at another height knows other members
        return defences.refuse(Fault.UNKNOWN_SENDER, Blame.NOBODY, None, KERNEL, 0)
    if defences.standing(source).banned:  # before a signature is checked: a flood must be cheap
        return _banned(defences, envelope)
    if _has_more(defences, envelope):
        fault = Fault.UNKNOWN_AUTHENTICATOR
        return defences.refuse(fault, Blame.LINK, source, KERNEL, envelope.round)
    verdict, plugin = _judged(defences, envelope, source, now, waited)
    if verdict is not ACCEPT:
        subject = envelope.sender if verdict.blame is Blame.SENDER else source
        return defences.refuse(verdict.reason, verdict.blame, subject, plugin, envelope.round)
    if envelope.sender != source and defences.standing(envelope.sender).banned:
        return _banned(defences, envelope)
    return envelope


def _judged(
    defences: Defences, envelope: Envelope, source: NodeId, now: float, waited: float
) -> tuple[Verdict, str]:
    verdict, plugin = defences.authenticate(envelope, source, now)
    if verdict.blame is Blame.SENDER:
        # Nothing proves yet that the sender made it; a forger must not get others blamed.
        verdict = attrs.evolve(verdict, blame=Blame.NOBODY)
    if verdict is not ACCEPT:
        return verdict, plugin
    # Otherwise a thief, who signs once with the highest number there is, locks the owner out of
    # every window for good: the owner can replace the key, and not go beyond that number.
    if envelope.sequence // NUMBERS_PER_KEY != defences.key_index(envelope.sender):
        return _OF_OTHER_KEY, KERNEL
    verdict, plugin = defences.replay_check(envelope, now - waited)
    if verdict.blame is Blame.LINK and source == envelope.sender:
        # It is no copy of another's. A neighbour may have repeated what its author once sent: a
        # transport that proves the author does not prove that it sent this copy.
        verdict = attrs.evolve(verdict, blame=Blame.NOBODY)
    return verdict, plugin


def _has_more(defences: Defences, envelope: Envelope) -> bool:
    """True if there are authenticators that no plugin here looks at.

    No signature covers them: whoever hands a message on can add them, up to 32 KiB. Whether some
    are missing is for ``authenticate`` to say.
    """
    return not envelope.auth.keys() <= defences.signers


def _banned(defences: Defences, envelope: Envelope) -> Rejection:
    """A ban is no new fault: it blames nobody."""
    return defences.refuse(Fault.BANNED, Blame.NOBODY, None, KERNEL, envelope.round)


def quoted(
    defences: Defences, envelope: Envelope, now: float, members: Collection[NodeId]
) -> Verdict:
    """Judge if a message quoted inside another was made by its sender, one of ``members``.

    Like :func:`take` without the replay check: a quoted message was delivered before. It belongs to
    its own time. Who was a member then is for the caller to know, and whether its author may take
    part now is not asked: a proof must not end with a certificate, and nobody is to blame for
    quoting what was valid. Who quotes it may not have made it, so its sender stands for the source.
    Returns the verdict. It blames nobody where another honest node may find otherwise.
    """
    if envelope.swarm != defences.swarm.name:
        return _FOREIGN
    if envelope.sender not in members:
        return _STRANGE
    if _has_more(defences, envelope):
        return _HUNG_ON
    return defences.authenticate(envelope, envelope.sender, now, quoted=True)[0]
