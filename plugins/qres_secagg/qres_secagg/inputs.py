"""Hashes of masked inputs, by which nodes know that they sum the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qres_secagg.masks import Residues
from qres_secagg.session import DOMAIN, joined


def input_digest(vector: NDArray[Any], residues: Mapping[str, Residues]) -> bytes:
    """SHA-256 of a masked vector and the masked residues beside it, 32 bytes. O(d)."""
    content = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
    hashed = hashlib.sha256(content.data).digest()
    beside = (
        joined(name.encode(), str(value.modulus).encode(), str(value.values).encode())
        for name, value in sorted(residues.items())
    )
    size = str(vector.itemsize).encode()
    return hashlib.sha256(joined(DOMAIN, b"input", size, hashed, *beside)).digest()
