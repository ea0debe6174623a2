"""The group: ristretto255 (RFC 9496), of prime order ``ORDER``, in bulk.

Two engines compute the same: one compiled with numba, where numba is installed, and one in plain
Python. Results never depend on the engine: encodings are canonical, and equality is that of the
group. **Nothing here but** :func:`blind` **is constant-time.**

- Points are arrays of shape ``(n, 20)``, dtype ``uint64``. Their content is opaque; cut and join
  them along the first axis, compare them with :func:`equal` or by :func:`encode`.
- Scalars are arrays of shape ``(n, 4)``, dtype ``uint64``: little-endian words of an integer less
  than ``ORDER``.

Inputs are never written to. An array of another shape or dtype is refused with QRES-E502 or
QRES-E503.
"""

from __future__ import annotations

from qres_zk.group.backend import accelerated, reference_only
from qres_zk.group.blinding import blind
from qres_zk.group.commitment import Fixed, Rows
from qres_zk.group.parameters import ORDER
from qres_zk.group.points import (
    POINT_BYTES,
    Points,
    add,
    decode,
    encode,
    equal,
    generator,
    hash_to_group,
    identity,
    is_identity,
    msm,
    negate,
    total,
)
from qres_zk.group.scalars import (
    SCALAR_BYTES,
    Scalars,
    integers,
    random_scalars,
    scalars,
    scalars_from_bytes,
    scalars_to_bytes,
)

__all__ = [
    "ORDER",
    "POINT_BYTES",
    "SCALAR_BYTES",
    "Fixed",
    "Points",
    "Rows",
    "Scalars",
    "accelerated",
    "add",
    "blind",
    "decode",
    "encode",
    "equal",
    "generator",
    "hash_to_group",
    "identity",
    "integers",
    "is_identity",
    "msm",
    "negate",
    "random_scalars",
    "reference_only",
    "scalars",
    "scalars_from_bytes",
    "scalars_to_bytes",
    "total",
]
