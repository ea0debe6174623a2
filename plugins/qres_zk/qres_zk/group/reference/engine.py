"""The engine in plain Python, see :class:`qres_zk.group.backend.Engine`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qres_zk.arrays import Words
from qres_zk.group.reference import curve, multiples, ristretto
from qres_zk.group.reference.curve import NEUTRAL, Niels
from qres_zk.group.reference.limbs import Extended, packed, unpacked
from qres_zk.group.scalars import integers, scalars_to_bytes

Table: TypeAlias = Sequence[Sequence[Niels]]
"""``[k][j]``: ``256**k`` times generator ``j``."""

_WIDTH: Final = 8
_VALUE_DIGITS: Final = 4
_SCALAR_DIGITS: Final = 32


def decode(words: Words) -> tuple[Words, int]:
    return _decoded(words, ristretto.decode)


def decode_edwards(words: Words) -> tuple[Words, int]:
    return _decoded(words, ristretto.decode_edwards)


def encode(points: Words) -> Words:
    raw = b"".join(ristretto.encode(item).to_bytes(32, "little") for item in unpacked(points))
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64).reshape(-1, 4)


def from_uniform(words: Words) -> Words:
    halves = integers(words.reshape(-1, 4))
    return packed(map(ristretto.from_uniform, halves[::2], halves[1::2]))


def add(left: Words, right: Words) -> Words:
    return packed(map(curve.add, unpacked(left), unpacked(right)))


def total(points: Words) -> Words:
    return reduce(add, points[1:], points[0])


def negate(points: Words) -> Words:
    return packed(map(curve.negated, unpacked(points)))


def is_identity(points: Words) -> NDArray[np.bool_]:
    return np.array([x == 0 or y == 0 for x, y, _, _ in unpacked(points)], dtype=np.bool_)


def msm(scalars: Words, points: Words) -> Words:
    return packed([multiples.msm(integers(scalars), curve.niels(unpacked(points)))])


def row_table(points: Words) -> Table:
    return _table(points, _VALUE_DIGITS)


def commit_rows(table: Table, values: NDArray[np.int32]) -> Words:
    return packed(_combined(table, row) for row in values.tolist())


def fixed_table(points: Words) -> Table:
    return _table(points, _SCALAR_DIGITS)


def fixed_msm(table: Table, scalars: Words) -> Words:
    return packed([_combined(table, integers(scalars))])


def _combined(table: Table, values: Sequence[int]) -> Extended:
    digits = zip(
        *(multiples.signed_digits(value, _WIDTH, len(table)) for value in values), strict=True
    )
    terms = (
        term
        for window, points in zip(digits, table, strict=False)
        for term in zip(window, points, strict=True)
    )
    return multiples.bucket_sum(terms)


def _table(points: Words, count: int) -> Table:
    level = unpacked(points)
    levels = [curve.niels(level)]
    for _ in range(count - 1):
        for _ in range(_WIDTH):
            level = [curve.double(item) for item in level]
        levels.append(curve.niels(level))
    return levels


def _decoded(words: Words, read: Callable[[int], Extended | None]) -> tuple[Words, int]:
    raw = scalars_to_bytes(words)
    found = [read(int.from_bytes(raw[n : n + 32], "little")) for n in range(0, len(raw), 32)]
    bad = next((n for n, item in enumerate(found) if item is None), -1)
    return packed(NEUTRAL if item is None else item for item in found), bad
