"""A slow Ed25519 of its own, and builders of nodes, that the tests of this plugin share."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from qres_ed25519 import Ed25519
from qres_ed25519.signature import SigningKey

from qres_core import ACCEPT, Blame, Envelope, Fault, NodeInfo, Verdict, hookimpl, reject
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel

Point = tuple[int, int]


class SlowCurve:
    """Edwards25519 with affine points and Python integers, from the equations of RFC 8032."""

    p = 2**255 - 19
    l = 2**252 + 27742317777372353535851937790883648493  # noqa: E741 - its name in the RFC
    d = -121665 * pow(121666, -1, p) % p
    zero: Point = (0, 1)

    def __init__(self) -> None:
        y = 4 * pow(5, -1, self.p) % self.p
        self.base = (self.x_of(y, 0), y)

    def x_of(self, y: int, sign: int) -> int:
        x2 = (y * y - 1) * pow(self.d * y * y + 1, -1, self.p) % self.p
        x = pow(x2, (self.p + 3) // 8, self.p)
        if (x * x - x2) % self.p:
            x = x * pow(2, (self.p - 1) // 4, self.p) % self.p
        if (x * x - x2) % self.p:
            raise ValueError(y)
        return self.p - x if x and x % 2 != sign else x

    def add(self, a: Point, b: Point) -> Point:
        (x1, y1), (x2, y2) = a, b
        product = self.d * x1 * x2 * y1 * y2 % self.p
        x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, self.p) % self.p
        y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, self.p) % self.p
        return x, y

    def times(self, number: int, point: Point) -> Point:
        result = self.zero
        while number:
            if number & 1:
                result = self.add(result, point)
            point = self.add(point, point)
            number >>= 1
        return result

    def encode(self, point: Point) -> bytes:
        return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")

    def decode(self, octets: bytes) -> Point:
        """Any encoding, canonical or not, as a lax library does. Raises ValueError."""
        number = int.from_bytes(octets, "little")
        y = (number & (2**255 - 1)) % self.p
        return self.x_of(y, number >> 255), y

    def torsion(self) -> list[Point]:
        """The 8 points whose order divides 8."""
        y = 2
        while True:
            try:
                point = self.times(self.l, (self.x_of(y, 0), y))
            except ValueError:
                y += 1
                continue
            multiples = [self.times(k, point) for k in range(8)]
            if len(set(multiples)) == 8:
                return multiples
            y += 1

    @staticmethod
    def hash(*parts: bytes) -> int:
        return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")

    def expand(self, seed: bytes) -> tuple[int, bytes]:
        digest = hashlib.sha512(seed).digest()
        scalar = int.from_bytes(digest[:32], "little")
        return scalar & ~7 & (2**254 - 1) | 2**254, digest[32:]

    def public(self, seed: bytes) -> bytes:
        return self.encode(self.times(self.expand(seed)[0], self.base))

    def sign(self, seed: bytes, message: bytes) -> bytes:
        scalar, prefix = self.expand(seed)
        r = self.hash(prefix, message) % self.l
        nonce = self.encode(self.times(r, self.base))
        s = (r + self.hash(nonce, self.public(seed), message) * scalar) % self.l
        return nonce + s.to_bytes(32, "little")

    def lax_verify(
        self, public: bytes, message: bytes, signature: bytes, *, cofactor: int = 1
    ) -> bool:
        """The bare equation of section 5.1.7: no range, no encoding and no order is checked."""
        try:
            a, r = self.decode(public), self.decode(signature[:32])
        except ValueError:
            return False
        s = int.from_bytes(signature[32:], "little")
        k = self.hash(signature[:32], public, message)
        left = self.times(s * cofactor, self.base)
        return left == self.times(cofactor, self.add(r, self.times(k, a)))


@attrs.define
class Increasing:
    """A toy replay check: every sequence number of a sender once."""

    _seen: set[tuple[bytes, int]] = attrs.field(init=False, factory=set)

    @hookimpl
    def replay_check(self, envelope: Envelope) -> Verdict:
        key = (envelope.sender, envelope.sequence)
        if key in self._seen:
            return reject(Fault.REPLAYED, blame=Blame.LINK)
        self._seen.add(key)
        return ACCEPT


@pytest.fixture(scope="session")
def curve() -> SlowCurve:
    return SlowCurve()


@pytest.fixture(scope="session")
def torsion(curve: SlowCurve) -> list[Point]:
    return curve.torsion()


@pytest.fixture(scope="session")
def pairs() -> list[SigningKey]:
    """Eight keys; the same every time."""
    return [SigningKey.from_seed(hashlib.sha256(b"%d" % i).digest()) for i in range(8)]


@pytest.fixture(scope="session")
def installed() -> Mapping[str, Installed]:
    """What is installed, and a toy replay check, so that a swarm need not be insecure."""
    return {**scan(), "increasing": Installed.local("increasing", Increasing)}


@pytest.fixture
def lab() -> Callable[..., Ed25519]:
    """A plugin with the lab key of a seed; set up for a roster of its own lab key and others."""

    def build(seed: bytes = bytes(32), others: tuple[bytes, ...] = (), **options: Any) -> Ed25519:
        plugin = Ed25519(**options)
        node_id = plugin.identity(seed)
        roster = tuple(sorted({node_id, *others}))
        plugin.setup(NodeInfo(node_id, "testing", roster, seed=0))
        return plugin

    return build


@pytest.fixture(scope="session")
def make_kernel(installed: Mapping[str, Installed]) -> Callable[..., Kernel]:
    """A kernel of a swarm of four, not yet told who it is."""

    def build(**options: Any) -> Kernel:
        raw = {
            "swarm": {"name": "testing", "nodes": 4, "byzantine": 0, "quorum": 3},
            "plugins": {
                "memory": {},
                "ed25519": options,
                "increasing": {},
                "krum": {"f": 0},
            },
        }
        return Kernel.from_config(parse(raw, source="test.toml"), installed=installed)

    return build


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[..., str]:
    """A key file of one of the pairs, as another program would have written it."""

    def write(pair: SigningKey, name: str = "node.key", mode: int = 0o600) -> str:
        from qres_ed25519 import keyfile  # noqa: PLC0415 - only these tests pay for cryptography

        path = tmp_path / name
        path.unlink(missing_ok=True)
        keyfile.save(path, pair, None)
        path.chmod(mode)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        return str(path)

    return write
