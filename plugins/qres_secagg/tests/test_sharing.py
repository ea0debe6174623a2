from __future__ import annotations

from qres_secagg.sharing import (
    KEY_TAG_BYTES,
    SEALED_BYTES,
    Secret,
    commitment,
    key_tag,
    seal,
    seed_commitment,
    unseal,
)

SID, KEY = b"s" * 32, b"k" * 32


def test_a_seal_opens_under_its_key_and_session_alone() -> None:
    sealed = seal(KEY, SID, b"1" * 32, b"2" * 32)
    assert len(sealed) == SEALED_BYTES
    assert unseal(KEY, SID, sealed) == (b"1" * 32, b"2" * 32)
    assert unseal(b"l" * 32, SID, sealed) is None
    assert unseal(KEY, b"t" * 32, sealed) is None
    for place in (0, 40, 79):
        flipped = bytearray(sealed)
        flipped[place] ^= 1
        assert unseal(KEY, SID, bytes(flipped)) is None


def test_commitments_bind_everything() -> None:
    share, blind = bytes(32), b"b" * 32
    found = {
        commitment(SID, Secret.SEED, 1, 2, share, blind),
        commitment(b"t" * 32, Secret.SEED, 1, 2, share, blind),
        commitment(SID, Secret.MASK_KEY, 1, 2, share, blind),
        commitment(SID, Secret.SEED, 2, 1, share, blind),
        commitment(SID, Secret.SEED, 1, 1, share, blind),
        commitment(SID, Secret.SEED, 1, 2, b"1" * 32, blind),
        commitment(SID, Secret.SEED, 1, 2, share, b"c" * 32),
        seed_commitment(SID, 1, share, blind),
        seed_commitment(SID, 2, share, blind),
        seed_commitment(SID, 1, b"1" * 32, blind),
        seed_commitment(SID, 1, share, b"c" * 32),
    }
    assert len(found) == 11


def test_a_tag_names_a_key() -> None:
    assert key_tag(b"1" * 32) != key_tag(b"2" * 32)
    assert len(key_tag(b"1" * 32)) == KEY_TAG_BYTES
