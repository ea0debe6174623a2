"""Multiples of the generator by secrets, in constant time."""

from __future__ import annotations

import numpy as np
from nacl import bindings

from qres_zk.group.backend import engine
from qres_zk.group.points import Points, identity
from qres_zk.group.scalars import SCALAR_BYTES, Scalars, scalars_to_bytes


def blind(blinds: Scalars) -> Points:
    """Return ``blinds[i] * generator()`` in constant time, by libsodium.

    The generator of RFC 9496 is what commitments are blinded with: nobody knows its logarithm to
    a point of :func:`qres_zk.group.hash_to_group`, and libsodium has a constant-time
    multiplication by it.

    Args:
        blinds: shape ``(n, 4)``, less than the order; zero gives the identity, which takes
            another time than all others.

    Returns:
        shape ``(n, 20)``.

    Complexity: 25 µs each.
    """
    raw = scalars_to_bytes(blinds)
    chosen = np.flatnonzero(blinds.any(axis=1))
    products = b"".join(
        bindings.crypto_scalarmult_ed25519_base_noclamp(raw[at : at + SCALAR_BYTES])
        for at in (chosen * SCALAR_BYTES).tolist()
    )
    words = np.frombuffer(products, dtype="<u8").astype(np.uint64).reshape(-1, 4)
    points, bad = engine().decode_edwards(words)
    if bad >= 0:
        raise RuntimeError("libsodium returned no point of edwards25519")
    out = identity(len(blinds))
    out[chosen] = points
    return out
