"""Key rotation: a new key takes over an identity with a statement that both keys signed.

A node keeps its identity, the public key of its first key, and goes on with another key. Whoever
holds the statement accepts only the new key for that identity. The old key's signature says that
its holder wants it; the new key's, that the new key is not somebody else's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import NodeId, canonical, stores
from qres_core.errors import ConfigError, WireError
from qres_ed25519.signature import SigningKey, key_fault, verify

VERSION: Final = 1
DOMAIN: Final = b"qres/ed25519/rotation/v1\0"
MAX_STATEMENT_BYTES: Final = 512
_MAX_READ: Final = 2**16  # a file somewhat too large is no statement; a larger one is not read
_U63: Final = 2**63 - 1
_KEYS: Final = list(range(6))


def _digest(old: bytes, new: bytes, time: int) -> bytes:
    return hashlib.sha256(DOMAIN + canonical.dumps([VERSION, old, new, time])).digest()


@attrs.frozen
class KeyRotation:
    """The holder of one key names the key that replaces it. Verified, however it was made.

    On disk it is a deterministic CBOR map with the keys 0 to 5: version, old key, new key, time,
    signature by the old key, signature by the new key. Both sign SHA-256 of ``DOMAIN`` and the
    encoded list of the first four; a message's digest has another domain.

    Raises:
        WireError: QRES-E404 names the field.
    """

    old: bytes  # public key that is replaced, 32 bytes
    new: bytes  # public key that replaces it, 32 bytes
    time: int  # seconds since 1970 by the clock of whoever made it; orders a chain, no more
    signatures: tuple[bytes, bytes]  # by the old and by the new key, 64 bytes each

    def __attrs_post_init__(self) -> None:
        for field, public in (("old", self.old), ("new", self.new)):
            fault = key_fault(public) if type(public) is bytes else "expected bytes"
            if fault:
                raise _bad(field, fault)
        if self.old == self.new:
            raise _bad("new", "the old key again")
        if type(self.time) is not int or not 0 <= self.time <= _U63:
            raise _bad("time", "expected an integer in 0..2**63-1")
        digest = _digest(self.old, self.new, self.time)
        for public, signature, whose in zip(
            (self.old, self.new), self.signatures, ("old", "new"), strict=True
        ):
            if type(signature) is not bytes or not verify(public, digest, signature):
                raise _bad("signatures", f"not signed by the {whose} key")

    @classmethod
    def make(cls, old: SigningKey, new: SigningKey, time: int) -> KeyRotation:
        """The statement that ``new`` replaces ``old``."""
        digest = _digest(old.public, new.public, time)
        return cls(old.public, new.public, time, (old.sign(digest), new.sign(digest)))

    def to_bytes(self) -> bytes:
        """The file's content."""
        fields = [VERSION, self.old, self.new, self.time, *self.signatures]
        return canonical.dumps(dict(enumerate(fields)))

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyRotation:
        """Decode and verify a statement.

        Raises WireError: QRES-E401 to QRES-E406, whatever the bytes.
        """
        value: Any = canonical.loads(data, max_bytes=MAX_STATEMENT_BYTES)
        if not canonical.is_map(value) or list(value) != _KEYS:
            raise WireError.of("QRES-E402", "statement", "expected a map of keys 0..5")
        if type(value[0]) is not int or value[0] != VERSION:
            raise WireError.of("QRES-E406", "statement.version", f"this node reads {VERSION}")
        return cls(value[1], value[2], value[3], (value[4], value[5]))


def _bad(field: str, what: str) -> WireError:
    return WireError.of("QRES-E404", f"statement.{field}", what)


def read_statement(path: Path, where: str) -> KeyRotation:
    """Read a statement's file.

    ``where``: configuration key or argument that named it, for the error. Raises ConfigError:
    QRES-E101 if it cannot be read, QRES-E105 if it is not a valid statement.
    """
    try:
        data = stores.read_file(path, _MAX_READ)
    except ConfigError as error:
        problem = error.problems[0]
        at = f"{where}: {path}"
        raise ConfigError.of(problem.code, at, problem.what, problem.fix) from error
    try:
        return KeyRotation.from_bytes(data)
    except WireError as error:
        what = f"{path}: {error.problems[0]}"
        fix = "ask its maker for the file again"
        raise ConfigError.of("QRES-E105", where, what, fix) from error


@attrs.frozen
class Rotations:
    """Statements joined into chains, each from an identity to the key now in use."""

    # the next key of every replaced key
    following: Mapping[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])
    # the other way round
    preceding: Mapping[bytes, bytes] = attrs.field(factory=dict[bytes, bytes])

    @classmethod
    def join(cls, statements: Iterable[KeyRotation], where: str) -> Rotations:
        """Join statements, given in any order.

        ``where``: what named them, for the error. Raises ConfigError: QRES-E105 for two statements
        of one old key (a fork: one of the two was made by a thief, and nothing here tells which),
        for one key that replaces two, for a circle, and for a statement older than the one before
        it.
        """
        by_old: dict[bytes, KeyRotation] = {}
        by_new: dict[bytes, KeyRotation] = {}
        for statement in statements:
            if statement.old in by_old:
                raise _refused(
                    where, f"two statements replace the key {statement.old.hex()}", "keep one"
                )
            if statement.new in by_new:
                what = f"the key {statement.new.hex()} replaces two others"
                raise _refused(where, what, "a node's keys are its own")
            by_old[statement.old] = by_new[statement.new] = statement
        for statement in by_old.values():
            before = by_new.get(statement.old)
            if before is not None and before.time > statement.time:
                what = f"{statement.old.hex()} was replaced before it came into use"
                raise _refused(where, what, "one of the two statements is not what it says")
        rotations = cls(
            {old: by_earlier.new for old, by_earlier in by_old.items()},
            {new: by_fresh.old for new, by_fresh in by_new.items()},
        )
        reached = sum(len(rotations.chain(old)) - 1 for old in by_old if old not in by_new)
        if reached != len(by_old):
            raise _refused(where, "statements replace keys in a circle", "remove one of them")
        return rotations

    @classmethod
    def read(cls, paths: Iterable[str], where: str) -> Rotations:
        """Read and join statement files. Raises as :func:`read_statement` and :meth:`join`."""
        return cls.join([read_statement(Path(path), where) for path in paths], where)

    def chain(self, public: bytes) -> list[bytes]:
        """A key and all that follow it, oldest first; the last is in use."""
        keys = [public]
        while (following := self.following.get(keys[-1])) is not None:
            keys.append(following)
        return keys

    def identity(self, public: bytes) -> NodeId:
        """The identity a key speaks for: the first key of its chain."""
        while (preceding := self.preceding.get(public)) is not None:
            public = preceding
        return public


def _refused(where: str, what: str, fix: str) -> ConfigError:
    return ConfigError.of("QRES-E105", where, what, fix)
