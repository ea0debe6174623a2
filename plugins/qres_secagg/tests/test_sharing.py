from __future__ import annotations

from qres_secagg.sharing import (
    SEALED_BYTES,
    Secret,
    commitment,
    seal,
    seed_commitment,
    unseal,
)

SID, KEY = b"s" * 32, b"k" * 32


def test_a_seal_opens_under_its_key_and_session_alone() -> None:
    sealed = seal(KEY, SID, b"1" * 33, b"2" * 33)
    assert len(sealed) == SEALED_BYTES
    assert unseal(KEY, SID, sealed) == (b"1" * 33, b"2" * 33)
    assert unseal(b"l" * 32, SID, sealed) is None
    assert unseal(KEY, b"t" * 32, sealed) is None
    for place in (0, 40, 81):
        flipped = bytearray(sealed)
        flipped[place] ^= 1
        assert unseal(KEY, SID, bytes(flipped)) is None


def test_commitments_bind_everything() -> None:
    share = bytes(33)
    found = {
        commitment(SID, Secret.SEED, 1, 2, share),
        commitment(b"t" * 32, Secret.SEED, 1, 2, share),
        commitment(SID, Secret.MASK_KEY, 1, 2, share),
        commitment(SID, Secret.SEED, 2, 1, share),
        commitment(SID, Secret.SEED, 1, 1, share),
        commitment(SID, Secret.SEED, 1, 2, b"1" * 33),
        seed_commitment(SID, 1, bytes(32)),
        seed_commitment(SID, 2, bytes(32)),
        seed_commitment(SID, 1, b"1" * 32),
    }
    assert len(found) == 9
