"""PeerIds and DIDs: a known pair, the definition read backwards, and base58 against its rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_ed25519.names import ALPHABET, base58, did, peer_id
from qres_ed25519.signature import SigningKey

# The Ed25519 key of the libp2p specification's test vectors, and its PeerId as libp2p prints it.
SEED = bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d")
PUBLIC = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
PEER_ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def unbase58(text: str) -> bytes:
    number = 0
    for digit in text:
        number = number * 58 + ALPHABET.index(digit)
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def test_the_pair_of_the_libp2p_specification() -> None:
    assert SigningKey.from_seed(SEED).public == PUBLIC
    assert peer_id(PUBLIC) == PEER_ID


@given(public=st.binary(min_size=32, max_size=32))
def test_a_peer_id_holds_the_key(public: bytes) -> None:
    name = peer_id(public)
    assert name.startswith("12D3KooW")
    # Identity multihash of 36 bytes of protobuf: type 1 in field 1, 32 bytes in field 2.
    assert unbase58(name) == bytes.fromhex("002408011220") + public


@given(octets=st.binary(max_size=40))
def test_base58_reads_back(octets: bytes) -> None:
    assert unbase58(base58(octets)) == octets


@pytest.mark.parametrize(
    ("octets", "text"),
    [(b"", ""), (b"\0", "1"), (b"\x39", "z"), (b"\x3a", "21"), (b"\0\0\x01", "112")],
)
def test_base58_of_small_numbers(octets: bytes, text: str) -> None:
    assert base58(octets) == text
    assert not set("0OIl") & set(ALPHABET)
    assert len(set(ALPHABET)) == 58


def test_did() -> None:
    assert did(PUBLIC) == f"did:qres:{PUBLIC.hex()}"
