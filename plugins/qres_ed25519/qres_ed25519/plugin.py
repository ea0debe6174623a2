"""The ``ed25519`` plugin: who this node is, signing, and checking signatures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Envelope,
    NodeId,
    NodeInfo,
    RoundInfo,
    Surroundings,
    Verdict,
    hookimpl,
    options,
    reject,
)
from qres_core.errors import ConfigError, Problem
from qres_core.transport import LinkKeys
from qres_ed25519.rotation import Rotations
from qres_ed25519.signature import SigningKey, key_fault, verify

NAME: Final = "ed25519"
"""The plugin's name; its signature travels in ``envelope.auth`` under it."""
KEY_VARIABLE: Final = "QRES_KEY_FILE"
LAB_DOMAIN: Final = b"qres/ed25519/lab-key/v1\0"
BATCH_PER_THREAD: Final = 32
"""Fewest messages that pay for a thread of their own."""

_UNSIGNED: Final = reject("no-signature", blame=Blame.LINK)
_FORGED: Final = reject("bad-signature", blame=Blame.LINK)


def _no_key(identity: str, fault: str) -> tuple[str, str]:
    """Fault of an identity, and the remedy."""
    fix = "`qres key show` prints the identity of a key file"
    return f"{identity} is no Ed25519 public key: {fault}", fix


@attrs.define(eq=False)
class Ed25519:
    """Signs every message of this node and accepts only messages their sender signed.

    What is signed is ``envelope.signing_digest``, so a signature is bound to swarm, kind, round,
    model, sender, sequence, time and payload. The public key is the node's identity, or the key a
    chain of rotation statements leads to from it. A refusal blames the source of the
    message, never the sender it names.

    On a real node the private key is read from a file. In the simulator each node's key is derived
    from the seed, and neither ``key`` nor ``rotations`` is read.

    Attributes:
        key: path of the private key file; empty: the environment variable ``QRES_KEY_FILE``.
        passphrase_env: environment variable with the passphrase of an encrypted key file.
        require_signature: false lets unsigned messages pass; a wrong signature never does.
        rotations: paths of rotation statements, of this node and of others.

    Raises:
        OptionError: QRES-E105, ``passphrase_env`` is not a variable's name.

    Complexity:
        one signature or one verification for each message, whatever its size: the payload enters
        through its digest.

    Source:
        RFC 8032, "Edwards-Curve Digital Signature Algorithm", section 5.1; the stricter reading
        where it leaves a choice, see :mod:`qres_ed25519.signature`.
    """

    key: str = attrs.field(
        default="",
        metadata=options.local(
            "Path of this node's private key file, made by `qres keygen`. "
            "If empty, the environment variable QRES_KEY_FILE names it."
        ),
    )
    passphrase_env: str = attrs.field(
        default="",
        # A refused value is not repeated: it may be the passphrase itself.
        validator=options.text(
            r"(?:[A-Za-z_][A-Za-z0-9_]*)?",
            "the name of an environment variable, not a passphrase",
            secret=True,
        ),
        metadata=options.local(
            "Name of the environment variable that holds the key file's passphrase. "
            "Empty for a key file that is not encrypted."
        ),
    )
    require_signature: bool = attrs.field(
        default=True,
        validator=options.flag(),
        metadata={
            "help": "Refuse messages without a signature. If false, they pass in the name of "
            "any node; wrong signatures are still refused."
        },
    )
    rotations: tuple[str, ...] = attrs.field(
        default=(),
        metadata=options.local(
            "Paths of rotation statements, made by `qres key rotate`: the current key "
            "of a node of the roster. All nodes need the same statements, under any path."
        ),
    )
    _pair: SigningKey | None = attrs.field(init=False, default=None, repr=False)
    _node_id: NodeId = attrs.field(init=False, default=b"", repr=False)
    _rotations: Rotations = attrs.field(init=False, factory=Rotations, repr=False)
    _keys: dict[NodeId, bytes] = attrs.field(init=False, factory=dict[NodeId, bytes], repr=False)

    @property
    def claims(self) -> Claims:
        """A notice that signatures are optional, if they are."""
        notice = (
            "require_signature is false: a message without a signature passes, "
            "so anybody can speak for anybody"
        )
        return Claims(tolerates=None, notices=() if self.require_signature else (notice,))

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that every member could sign: what is no key takes a seat and never votes.

        Yields QRES-E105. O(n) scalar multiplications.
        """
        for text in around.roster:
            if fault := key_fault(bytes.fromhex(text)):
                yield Problem("QRES-E105", "swarm.roster", *_no_key(text, fault))

    @hookimpl
    def identity(self, seed: bytes | None) -> NodeId:
        """Derive the lab key from the seed, or read the key file, and return whose key it is.

        Raises QRES-E103 where no file is named, and QRES-E101 or QRES-E105 for what is wrong with
        it or with a rotation statement.
        """
        if seed is None:
            self._rotations = Rotations.read(self.rotations, f"plugins.{NAME}.rotations")
            self._pair = self._load()
        else:
            self._rotations = Rotations()
            self._pair = SigningKey.from_seed(hashlib.sha256(LAB_DOMAIN + seed).digest())
        self._node_id = self._rotations.identity(self._pair.public)
        return self._node_id

    def _load(self) -> SigningKey:
        from qres_ed25519 import keyfile  # noqa: PLC0415 - `cryptography` is for key files only

        if self.key:
            where, path = f"plugins.{NAME}.key", self.key
        else:
            where, path = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "")
        if not path:
            what = f"no key file is named, and {KEY_VARIABLE} is not set"
            fix = 'make one with `qres keygen PATH` and set key = "PATH"'
            raise ConfigError.of("QRES-E103", f"plugins.{NAME}.key", what, fix)
        secret = keyfile.passphrase(self.passphrase_env, f"plugins.{NAME}.passphrase_env")
        pair = keyfile.load(Path(path), secret, where)
        successor = self._rotations.chain(pair.public)[-1]
        if successor != pair.public:
            what = f"{path}: the key was replaced by {successor.hex()}"
            raise ConfigError.of("QRES-E105", where, what, "name the file of the new key")
        return pair

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Settle which key speaks for each node of the roster. An observer needs no key file.

        Raises QRES-E105 if the node is to have another identity than its key gives it, if an
        identity of the roster is no usable public key, or if a rotation statement gives a node the
        key of another.
        """
        if node_info.observer:
            self._rotations = Rotations.read(self.rotations, f"plugins.{NAME}.rotations")
        elif self._pair is None:
            if node_info.seed is not None:
                what = "the identity of a simulated node was not asked for before its start"
                raise ConfigError.of("QRES-E105", f"plugins.{NAME}", what)
            self.identity(None)
        if node_info.node_id != self._node_id and not node_info.observer:
            what = f"it is of node {self._node_id.hex()}, and this is {node_info.node_id.hex()}"
            raise ConfigError.of(
                "QRES-E105", f"plugins.{NAME}.key", what, "start each node with its own key"
            )
        roster = frozenset(node_info.roster)
        for new in self._rotations.preceding:
            # A statement about no member is of no effect: its node may be added, or was removed.
            if new in roster:
                what = f"{new.hex()} replaces a key and is a node of the roster itself"
                fix = "the roster lists each node's first key"
                raise ConfigError.of("QRES-E105", f"plugins.{NAME}.rotations", what, fix)
        for node_id in node_info.roster:
            if fault := key_fault(node_id):
                what, fix = _no_key(node_id.hex(), fault)
                raise ConfigError.of("QRES-E105", "swarm.roster", what, fix)
        self._know(node_info.roster)

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Look at the keys of the members of the round, once for each; O(n) where they changed."""
        if self._keys.keys() != set(round_info.roster):
            self._know(round_info.roster)

    def _know(self, roster: Sequence[NodeId]) -> None:
        """Keep the keys of these nodes; of the rest, a key is looked at with every message."""
        known = self._keys
        self._keys = {
            node_id: known.get(node_id) or self._rotations.chain(node_id)[-1]
            for node_id in roster
            if node_id in known or not key_fault(self._rotations.chain(node_id)[-1])
        }

    @hookimpl
    def key_index(self, node_id: NodeId) -> int:
        """Number of statements that lead from a node's first key to the present one."""
        return len(self._rotations.chain(node_id)) - 1

    @hookimpl
    def link_keys(self) -> LinkKeys:
        """This node's key for signing statements of connections, and the others' public keys.

        ``sign`` raises ValueError for a statement of 32 bytes, which could be the digest of a
        message or of a rotation statement. Raises QRES-E103 if the node has no key yet.
        """
        pair = self._pair
        if pair is None:
            what = "there is no key before the node's identity is known"
            raise ConfigError.of("QRES-E103", f"plugins.{NAME}.key", what)

        def sign(statement: bytes) -> bytes:
            if len(statement) == hashlib.sha256().digest_size:
                msg = "statements of connections are not 32 bytes long: digests of messages are"
                raise ValueError(msg)
            return pair.sign(statement)

        return LinkKeys(pair.public, sign, lambda node_id: self._rotations.chain(node_id)[-1])

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        """Sign a message with this node's key, in 64 bytes, whoever it names as its sender.

        Raises QRES-E103 if the node has no key yet.
        """
        if self._pair is None:
            what = "there is no key to sign with before the node's identity is known"
            raise ConfigError.of("QRES-E103", f"plugins.{NAME}.key", what)
        return self._pair.sign(envelope.signing_digest)

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        """Accept a message that the key of its claimed sender signed.

        A rejection blames the source: ``no signature``, or ``bad signature``, the latter also for a
        key that was replaced and for a sender that is no key at all. It costs one verification, and
        none without a signature or with one of another form.
        """
        signature = envelope.auth.get(NAME)
        if signature is None:
            return _UNSIGNED if self.require_signature else ACCEPT
        public = self._keys.get(envelope.sender)
        if public is None:  # not set up, or no member in this round: nothing is kept for it
            public = self._rotations.chain(envelope.sender)[-1]
            if key_fault(public):
                return _FORGED
        return ACCEPT if verify(public, envelope.signing_digest, signature) else _FORGED

    def authenticate_many(self, envelopes: Sequence[Envelope]) -> list[Verdict]:
        """The verdict of :meth:`authenticate` on each of many messages, in their order.

        Each signature is verified by itself, in a few threads: the library lets go of the
        interpreter while it computes. Verifying the sum of all instead would be faster still, and
        would accept some signatures that no single check accepts (the equation with the cofactor):
        then a message's fate would depend on what came with it.

        Args:
            envelopes: any number.

        Complexity: as that many verifications, divided by the processor's idle cores.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        workers = min(cores or 1, len(envelopes) // BATCH_PER_THREAD)
        if workers < 2:
            return self._one_by_one(envelopes)
        size = -(-len(envelopes) // workers)
        parts = [envelopes[start : start + size] for start in range(0, len(envelopes), size)]
        with ThreadPoolExecutor(workers) as pool:
            return [verdict for part in pool.map(self._one_by_one, parts) for verdict in part]

    def _one_by_one(self, envelopes: Sequence[Envelope]) -> list[Verdict]:
        return [self.authenticate(envelope) for envelope in envelopes]
