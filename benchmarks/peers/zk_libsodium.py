"""What the norm proof would cost with libsodium's group in place of the compiled kernels.

Run ``PYTHONPATH=benchmarks python benchmarks/peers/zk_libsodium.py [--quick] [--json]`` after
``pip install rbcl``, which carries a libsodium with ristretto255. PyNaCl's libsodium has none of
it, and no wheel carries curve25519-dalek. libsodium has no sum of multiples and no short multiples:
every coordinate is one multiplication and one addition, both on encodings. Times are process times
of one thread. The target is the least loss at which the kernels are kept: below 2, libsodium would
replace them. Numba compiles without AVX-512 IFMA here, as for most machines.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NUMBA_CPU_NAME", "haswell")  # before numba is imported

import numpy as np
from harness import Record, cpu_seconds, main
from numpy.typing import NDArray
from qres_zk import norm, pedersen
from qres_zk.bundle import ProofBundle
from qres_zk.group import backend
from qres_zk.group.scalars import scalars, scalars_to_bytes
from qres_zk.scalar import backend as scalar_backend
from qres_zk.statement import Context, NormStatement

Words = NDArray[np.uint64]


class Libsodium:
    """The engine's protocol on encodings: a point is its encoding in the first 4 of 20 words."""

    def __init__(self) -> None:
        from rbcl.rbcl import _sodium  # noqa: PLC0415 - only this benchmark needs it

        self._library: Any = _sodium
        self._numba = backend.engine()

    def _call(self, name: str, *arguments: bytes) -> bytes:
        result = ctypes.create_string_buffer(32)
        getattr(self._library, name)(result, *arguments)  # the identity is told as a failure
        return result.raw

    def _points(self, encodings: Sequence[bytes]) -> Words:
        words = np.zeros((len(encodings), 20), dtype=np.uint64)
        flat = np.frombuffer(b"".join(encodings), dtype="<u8")
        words[:, :4] = flat.reshape(-1, 4)
        return words

    def _encodings(self, points: Words) -> list[bytes]:
        words = points[:, :4].copy()
        plain = points[:, 4:].any(axis=1)  # constants of the package, as coordinates
        words[plain] = self._numba.encode(np.ascontiguousarray(points[plain]))
        raw = words.astype("<u8").tobytes()
        return [raw[at : at + 32] for at in range(0, len(raw), 32)]

    def _sum(self, pieces: Sequence[bytes]) -> bytes:
        result = bytes(32)
        for piece in pieces:
            result = self._call("crypto_core_ristretto255_add", result, piece)
        return result

    def decode(self, words: Words) -> tuple[Words, int]:
        """Encodings are kept; each is checked."""
        points = self._points([row.astype("<u8").tobytes() for row in words])
        valid = self._library.crypto_core_ristretto255_is_valid_point
        wrong = (at for at, code in enumerate(self._encodings(points)) if valid(code) != 1)
        return points, next(wrong, -1)

    def decode_edwards(self, words: Words) -> tuple[Words, int]:
        """By the kernels: a blind is one point a row, and costs neither side much."""
        points, wrong = self._numba.decode_edwards(words)
        encodings = self._numba.encode(points)
        return self._points([row.astype("<u8").tobytes() for row in encodings]), wrong

    def encode(self, points: Words) -> Words:
        """The first four words."""
        return points[:, :4].copy()

    def from_uniform(self, words: Words) -> Words:
        """Libsodium's map of 64 bytes."""
        name = "crypto_core_ristretto255_from_hash"
        return self._points([self._call(name, row.astype("<u8").tobytes()) for row in words])

    def add(self, left: Words, right: Words) -> Words:
        """Point by point."""
        pairs = zip(self._encodings(left), self._encodings(right), strict=True)
        return self._points([self._sum(pair) for pair in pairs])

    def total(self, points: Words) -> Words:
        """Over the first axis."""
        columns = [self._encodings(points[:, at]) for at in range(points.shape[1])]
        return self._points([self._sum(column) for column in columns])

    def negate(self, points: Words) -> Words:
        """Zero minus the point."""
        name = "crypto_core_ristretto255_sub"
        return self._points([self._call(name, bytes(32), code) for code in self._encodings(points)])

    def is_identity(self, points: Words) -> NDArray[np.bool_]:
        """Whether the encoding is zero."""
        return np.asarray(~points[:, :4].any(axis=1))

    def msm(self, multipliers: Words, points: Words) -> Words:
        """A multiplication for every point."""
        raw = scalars_to_bytes(multipliers)
        factors = [raw[at : at + 32] for at in range(0, len(raw), 32)]
        name = "crypto_scalarmult_ristretto255"
        pairs = zip(factors, self._encodings(points), strict=True)
        return self._points([self._sum([self._call(name, *pair) for pair in pairs])])

    def row_table(self, points: Words) -> Words:
        """The generators themselves: libsodium takes no tables."""
        return points

    def commit_rows(self, table: Words, values: NDArray[np.int32]) -> Words:
        """A multiplication for every coordinate that is not zero."""
        rows = [self.msm(scalars(row[row != 0].tolist()), table[row != 0]) for row in values]
        return np.concatenate(rows)

    fixed_table = row_table

    def fixed_msm(self, table: Words, multipliers: Words) -> Words:
        """As any other sum."""
        return self.msm(multipliers, table)


def _costs(d: int, repeats: int) -> dict[str, float]:
    """Milliseconds of the protocol's three steps with the engine of now."""
    context = Context("bench", bytes(32), 1, bytes(32), bytes(32))
    drawn = np.random.default_rng(d).normal(size=d)
    vector = np.trunc(drawn / np.linalg.norm(drawn) * 7.5 * 2**16).astype(np.int32)
    statement = NormStatement(d, 8 * 2**16)
    commitment = pedersen.commit(statement, vector)
    data = norm.prove(statement, context, commitment)[1].to_bytes()
    norm.verify(statement, context, ProofBundle.from_bytes(data, statement))
    return {
        "commit": 1e3 * cpu_seconds(lambda: pedersen.commit(statement, vector), repeats=repeats),
        "prove": 1e3
        * cpu_seconds(lambda: norm.prove(statement, context, commitment), repeats=repeats),
        "verify": 1e3
        * cpu_seconds(
            lambda: norm.verify(statement, context, ProofBundle.from_bytes(data, statement)),
            repeats=repeats,
        ),
    }


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Both engines, the same proofs."""
    found: list[Record] = []
    sizes = (10**4,) if quick else (10**5, 10**6)
    ours = {d: _costs(d, 3) for d in sizes}
    scalar_load = scalar_backend._load  # noqa: SLF001 - the switches that tests use too
    scalar_backend._load = lambda _name: scalar_load("reference")  # type: ignore[assignment] # noqa: SLF001
    plain = {d: _costs(d, 1) for d in sizes[:1]}
    scalar_backend._load = scalar_load  # noqa: SLF001
    for d, costs in plain.items():
        for name in ("prove", "verify"):
            loss = costs[name] / ours[d][name]
            label = f"{name}, {d} coordinates, scalars in Python, loss"
            found.append(Record(label, loss, "x", 2, at_least=True))
    engine, load = Libsodium(), backend._load  # noqa: SLF001
    backend._load = lambda _name: engine  # type: ignore[assignment] # noqa: SLF001
    pedersen._generators.cache_clear()  # noqa: SLF001 - made by the other engine
    try:
        theirs = {d: _costs(d, 1) for d in sizes}
    finally:
        backend._load = load  # noqa: SLF001
        pedersen._generators.cache_clear()  # noqa: SLF001
    for d in sizes:
        for name, spent in theirs[d].items():
            loss = spent / ours[d][name]
            found += [
                Record(f"{name}, {d} coordinates, compiled kernels", ours[d][name], "ms"),
                Record(f"{name}, {d} coordinates, libsodium", spent, "ms"),
                Record(f"{name}, {d} coordinates, loss", loss, "x", 2, at_least=True),
            ]
    return found


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-zk", "numba", "rbcl"))
