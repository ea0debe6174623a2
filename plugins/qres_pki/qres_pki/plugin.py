"""The ``pki`` plugin: who may take part."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qres_core import (
    ACCEPT,
    Claims,
    Envelope,
    Needs,
    NodeId,
    NodeInfo,
    Surroundings,
    Verdict,
    hookimpl,
    options,
    reject,
)
from qres_core.errors import ConfigError, OptionError, Problem
from qres_pki.high_water import HighWater
from qres_pki.issuer import authority_key
from qres_pki.members import parse_member
from qres_pki.membership import Membership, Sources, load, read_file
from qres_pki.refusal import (
    AUTHORITY_NOT_VALID,
    CRL_EXPIRED,
    NOT_A_MEMBER,
    NOT_APPROVED,
    NOT_SET_UP,
    UNREADABLE,
    UnusableError,
)

NAME: Final = "pki"
"""Name of the plugin's table, and so of its place in ``envelope.auth``."""

AGAIN_SECONDS: Final = 1.0
"""How soon files that could not be used are read again, though they look the same: what kept them
from being read may be over, as a lack of file descriptors or a full disk is."""

_Stamp = tuple[int, int, int, int] | None


def _check_members(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    for entry in value:
        try:
            parse_member(entry)
        except ValueError as error:
            raise OptionError.of("QRES-E105", attribute.name, str(error)) from error


def _stamp(path: str) -> _Stamp:
    """Marks that change when a file does, or ``None`` if it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for every message; a Path costs more than the call
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


@attrs.define(eq=False)
class Pki:
    """Membership by a whitelist, a swarm CA, or both, checked on connect and per message.

    A message is accepted if its claimed sender is on the whitelist (where there is one) and showed
    a certificate of the swarm's CA (where there is one) that is for its key and this swarm, valid
    now, not revoked, and with the role the message kind asks for. The plugin says who may speak,
    not who spoke: a certificate is public. It therefore needs another ``authenticate`` plugin that
    checks signatures, and it never blames the claimed sender.

    The files are read again when they change. One that cannot be read, a CA of another key, or a
    CRL older than one seen before lets nobody in until it is put right; it is read again at the
    next look, at most once a second.

    Attributes:
        members: whitelist: public keys, 64 hex digits, or PeerIds.
        members_file: whitelist file, a member on each line, ``#`` for comments.
        ca: PEM file of the CA certificate.
        certificates: folder with this node's own certificate, ``<node id in hex>.pem``.
        crl: PEM file of the CA's revocation list.
        require_crl: whether the revocation list must be there and current.
        reload_seconds: how often the files are looked at, seconds of real time; 0 for always.

    Raises:
        ValueError: an option or a combination of options that cannot work; the message names them.

    Complexity:
        A few microseconds a message: certificates that were verified once are remembered by
        digest, at most 4096 of them, until a file changes.

    Source:
        RFC 5280 (certificates, CRLs), RFC 8410 (Ed25519 in them), libp2p "Peer Ids and Keys".

    Example:
        >>> Pki(members=("00" * 32,)).claims.needs.families
        ('authenticate',)
    """

    members: tuple[str, ...] = attrs.field(
        default=(),
        validator=_check_members,
        metadata=options.local("Whitelist: public keys (64 hex digits) or PeerIds (12D3Koo...)."),
    )
    members_file: str = attrs.field(
        default="",
        metadata=options.local("Whitelist file: a member on each line, # starts a comment."),
    )
    ca: str = attrs.field(
        default="",
        metadata=options.local(
            "PEM file of the swarm CA's certificate, from `qres ca init`. The CA's key stays as "
            "long as the swarm lasts.",
            content=authority_key,
        ),
    )
    certificates: str = attrs.field(
        default="",
        metadata=options.local("Folder with this node's own certificate, <node id in hex>.pem."),
    )
    crl: str = attrs.field(
        default="",
        metadata=options.local("PEM file of the CA's revocation list; read again when it changes."),
    )
    require_crl: bool = attrs.field(
        default=True,
        metadata={"help": "Refuse everybody when the revocation list is missing or expired."},
    )
    reload_seconds: float = attrs.field(
        default=1.0,
        validator=options.real(0, unit="seconds"),
        metadata=options.local("Seconds between checks of the files; 0 checks at every message."),
    )
    clock: Callable[[], float] = attrs.field(default=time.time, init=False)
    monotonic: Callable[[], float] = attrs.field(default=time.monotonic, init=False)
    _membership: Membership | None = attrs.field(default=None, init=False)
    _closed: Verdict = attrs.field(default=NOT_SET_UP, init=False)
    _stamps: tuple[_Stamp, ...] = attrs.field(default=(), init=False)
    _looked: float = attrs.field(default=-math.inf, init=False)
    _again: float = attrs.field(default=math.inf, init=False)  # when to read without a change
    _node: NodeInfo | None = attrs.field(default=None, init=False)
    _high_water: HighWater | None = attrs.field(default=None, init=False)
    _authority: bytes | None = attrs.field(default=None, init=False)  # fingerprint of its key
    _own: bytes = attrs.field(default=b"", init=False)
    _own_path: str = attrs.field(default="", init=False)
    _sources: Sources = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if not (self.members or self.members_file or self.ca):
            msg = "none of 'members', 'members_file' and 'ca' is set: set one of them"
            raise ValueError(msg)
        if bool(self.ca) != bool(self.certificates):
            msg = "'ca' and 'certificates' go together: set both or neither"
            raise ValueError(msg)
        if self.crl and not self.ca:
            msg = "'crl' is set and 'ca' is not: a revocation list is checked against its CA"
            raise ValueError(msg)
        if self.ca and self.require_crl and not self.crl:
            msg = "'require_crl' is true and 'crl' is not set: name the list, or say false"
            raise ValueError(msg)
        listed = bool(self.members or self.members_file)
        self._sources = Sources(
            members=frozenset(parse_member(member) for member in self.members) if listed else None,
            members_file=self.members_file,
            ca=self.ca,
            crl=self.crl,
            require_crl=self.require_crl,
        )

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that the CA that decides is named, and that the whitelist lets enough nodes in.

        Yields QRES-E103 where a CA is to decide about the members and there is none. Yields
        QRES-E304: with fewer nodes than a quorum, or than decide a vote, no round ever closes.
        """
        if around.authority == "ca" and not self.ca:
            what = 'swarm.authority is "ca", and this plugin is given no CA'
            fix = 'name the CA\'s certificate, or set swarm.authority = "members"'
            yield Problem("QRES-E103", f"plugins.{NAME}.ca", what, fix)
        listed = {parse_member(member).hex() for member in self.members}
        if not listed or self.members_file:
            return
        known = len(listed.intersection(around.roster)) if around.roster else len(listed)
        votes = (around.nodes + around.byzantine) // 2 + 1
        for needed, name in ((around.quorum, "swarm.quorum"), (votes, "the votes that decide")):
            if known < needed:
                what = f"lets in {known} nodes of the swarm, and {name} = {needed}"
                fix = f"list the identities of at least {needed} nodes of the swarm"
                yield Problem("QRES-E304", "plugins.pki.members", what, fix)
                return

    @property
    def claims(self) -> Claims:
        """Another plugin must check signatures: a certificate is public, and no signature."""
        notice = "require_crl = false: without a current CRL revoked nodes stay in"
        return Claims(
            tolerates=None,
            needs=Needs(families=("authenticate",)),
            notices=(notice,) if self.ca and not self.require_crl else (),
        )

    def preflight(self, node_info: NodeInfo) -> Iterator[Problem]:
        """Reasons why this node could not start: its files say them, and the store hears no word.

        Yields QRES-E105 as ``setup`` raises it, but for an older CRL than one seen before.
        """
        path = self._own_path_of(node_info)
        try:
            membership = load(self._sources, node_info.swarm, HighWater(None, node_info.swarm))
            own = self._read_own(path)
        except UnusableError as error:
            yield Problem("QRES-E105", f"plugins.{NAME}.{error.option}", error.what, error.fix)
            return
        if not node_info.observer:
            yield from self._misfits(membership, own, node_info)

    # ── hooks ─────────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Read every file and check this node's own place in the swarm, which no observer has.

        With a ``seed`` the node is simulated, and times are left to the virtual clock of the
        messages. Raises QRES-E105 where a file cannot be used or this node is not a member by it,
        and QRES-E602 where the record of the newest CRL is unusable.
        """
        self.teardown()
        self._node = node_info
        self._high_water = HighWater(node_info.data_dir, node_info.swarm)
        self._own_path = self._own_path_of(node_info)
        self._stamps, self._looked, self._again = self._look(), self.monotonic(), math.inf
        try:
            membership = load(self._sources, node_info.swarm, self._high_water)
            own = self._read_own(self._own_path)
        except UnusableError as error:
            self.teardown()
            where = f"plugins.{NAME}.{error.option}"
            raise ConfigError.of("QRES-E105", where, error.what, error.fix) from error
        if not node_info.observer and (misfits := tuple(self._misfits(membership, own, node_info))):
            self.teardown()
            raise ConfigError(misfits)
        self._membership, self._own = membership, own
        self._authority = None if membership.issuer is None else membership.issuer.fingerprint

    @hookimpl
    def teardown(self) -> None:
        """Close the store; nobody is let in any more."""
        if self._high_water is not None:
            self._high_water.close()
        self._membership, self._closed, self._high_water = None, NOT_SET_UP, None

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:  # noqa: ARG002 - the same for every message
        """This node's certificate, DER; empty without a CA."""
        self._refresh()
        return self._own

    @hookimpl
    def authenticate(
        self,
        envelope: Envelope,
        now: float,
        quoted: bool,  # noqa: FBT001 - hooks are given their arguments by position
    ) -> Verdict:
        """Judge if the claimed sender may take part and send this kind of message.

        The link is blamed for what no honest neighbour passes on, nobody for what a clock or the
        arrival of a new list decides, the claimed sender never. A quoted message is accepted: it
        belongs to its own time, in which the swarm's members are known by agreement. Nothing here
        says who could speak then, and a proof must not end with a certificate.
        """
        if quoted:
            return ACCEPT
        self._refresh()
        if self._membership is None:
            return self._closed
        credential = envelope.auth.get(NAME, b"")
        return self._membership.judge(envelope.sender, credential, envelope.kind, now)

    @hookimpl
    def credential(self) -> bytes:
        """This node's certificate, DER; empty without a CA."""
        self._refresh()
        return self._own

    @hookimpl
    def admit(self, peer: NodeId, credential: bytes) -> Verdict:
        """As ``authenticate``, by this machine's clock. Without a CA no credential is looked at."""
        self._refresh()
        if self._membership is None:
            return self._closed
        return self._membership.judge(peer, credential, None, self.clock())

    @hookimpl
    def approve(self, digest: bytes, approval: bytes, now: float) -> Verdict:
        """Judge if the CA of this swarm signed a change of the members, as `qres ca approve` does.

        Rejects everything without a CA, with one that is not valid now, and while the files cannot
        be read.
        """
        self._refresh()
        if self._membership is None:
            return self._closed
        issuer = self._membership.issuer
        if issuer is None or not issuer.approved(digest, approval):
            return NOT_APPROVED
        return ACCEPT if issuer.not_before <= now <= issuer.not_after else AUTHORITY_NOT_VALID

    # ── reading again ─────────────────────────────────────────────────────────────────────────

    def _look(self) -> tuple[_Stamp, ...]:
        own = (self._own_path,) if self._own_path else ()
        return tuple(_stamp(path) for path in (*self._sources.paths, *own))

    def _refresh(self) -> None:
        """Read the files again if they changed or could not be read; meanwhile let nobody in."""
        if self._node is None or self._high_water is None:
            return
        moment = self.monotonic()
        if moment - self._looked < self.reload_seconds:
            return
        self._looked = moment
        # Looked at before they are read: what changes meanwhile shows at the next look.
        stamps = self._look()
        if stamps == self._stamps and moment < self._again:
            return
        self._stamps, self._again = stamps, moment + AGAIN_SECONDS
        # Closed first: an error nobody thought of must not leave the last reading in force.
        self._membership, self._closed = None, reject(UNREADABLE)
        try:
            swarm = self._node.swarm
            self._membership = load(self._sources, swarm, self._high_water, self._authority)
        except UnusableError as error:
            self._closed = reject(error.reason)
        try:
            self._own = self._read_own(self._own_path)
        except UnusableError:
            # What this node shows for itself lets nobody in here, and the others judge it: a bad
            # renewal must not cut off a node whose certificate still holds.
            return
        if self._membership is not None:
            self._again = math.inf

    # ── this node ─────────────────────────────────────────────────────────────────────────────

    def _own_path_of(self, node_info: NodeInfo) -> str:
        """The file of the node's certificate; empty where it needs none."""
        if not self.ca or node_info.observer:
            return ""
        return str(Path(self.certificates) / f"{node_info.node_id.hex()}.pem")

    def _read_own(self, path: str) -> bytes:
        if not path:
            return b""
        pem = read_file(path, "certificates")
        try:
            return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        except ValueError as error:
            what = f"{path}: not a PEM certificate"
            fix = "put the node's certificate there: `qres ca issue`"
            raise UnusableError("certificates", what, fix) from error

    def _misfits(
        self, membership: Membership, own: bytes, node_info: NodeInfo
    ) -> Iterator[Problem]:
        """Reasons why everybody else would refuse this node."""
        key = node_info.node_id
        if node_info.seed is None:
            verdict = membership.judge(key, own, None, self.clock())
        else:  # simulated: the virtual clock shows only when messages come
            verdict, _certificate = membership.entitlement(key, own, None)
        if verdict is ACCEPT:
            return
        option, fix = {
            NOT_A_MEMBER.reason: (
                "members",
                "add it on every node (`qres simulate FILE --list-nodes` shows simulated ones)",
            ),
            CRL_EXPIRED.reason: ("crl", "fetch the newest CRL: `qres ca renew-crl`"),
            AUTHORITY_NOT_VALID.reason: ("ca", "fetch the CA certificate that is valid now"),
        }.get(verdict.reason, ("certificates", "ask the swarm's CA for one: `qres ca issue`"))
        what = f"this node, {key.hex()}, would be refused: {verdict.reason}"
        yield Problem("QRES-E105", f"plugins.{NAME}.{option}", what, fix)
