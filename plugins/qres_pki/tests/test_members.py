from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_pki.members import parse_member, parse_members, peer_id

# RFC 8032, section 7.1, test 1 and the seed of zeros, with the PeerIds that a base58 encoder
# of its own gives (below).
KEY = bytes.fromhex("3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29")
PEER_ID = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def base58(octets: bytes) -> str:
    """The slow way: repeated long division of a list of bytes."""
    digits = list(octets)
    letters = ""
    while any(digits):
        rest, quotient = 0, []
        for digit in digits:
            rest = rest * 256 + digit
            quotient.append(rest // 58)
            rest %= 58
        digits = quotient
        letters = ALPHABET[rest] + letters
    zeros = len(octets) - len(octets.lstrip(b"\0"))
    return "1" * zeros + letters


def test_the_forms_of_a_key() -> None:
    assert parse_member(KEY.hex()) == KEY
    assert parse_member(KEY.hex().upper()) == KEY
    assert parse_member(PEER_ID) == KEY
    assert peer_id(KEY) == PEER_ID


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_are_base58_of_the_identity_multihash(key: bytes) -> None:
    text = base58(bytes.fromhex("002408011220") + key)
    assert peer_id(key) == text
    assert text.startswith("12D3Koo")
    assert parse_member(text) == key


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32])
def test_extreme_keys(key: bytes) -> None:
    assert parse_member(peer_id(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        KEY.hex()[:-1],
        KEY.hex() + "0",
        KEY.hex()[:-1] + "g",
        " " + KEY.hex(),
        KEY.hex() + "\n",
        f"0x{KEY.hex()[:-2]}",
        PEER_ID[:-1],
        PEER_ID + "1",
        PEER_ID[:-1] + "0",
        PEER_ID[:-1] + "l",
        "1" + PEER_ID[1:].replace("2D3K", "2D3L"),
        "2" + PEER_ID[1:],
        "11" + PEER_ID[2:],
        "1" * 52,
        "z" * 52,
        "1" + "z" * 51,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    ],
)
def test_whatever_is_neither_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither 64 hex digits nor an Ed25519 PeerId"):
        parse_member(text)


@given(st.text(alphabet=ALPHABET, min_size=52, max_size=52))
def test_a_peer_id_has_one_spelling(text: str) -> None:
    try:
        key = parse_member(text)
    except ValueError:
        return
    assert peer_id(key) == text


def test_files_have_comments_and_may_repeat() -> None:
    text = f"# the swarm\n\n{KEY.hex()}  # alice\n{PEER_ID}\n  {KEY.hex().upper()}\t\n{'00' * 32}"
    assert parse_members(text) == {KEY, bytes(32)}
    assert parse_members("# nobody\n") == frozenset()


def test_a_bad_line_is_named() -> None:
    with pytest.raises(ValueError, match="line 3: 'alice' is neither"):
        parse_members(f"{KEY.hex()}\n\nalice\n")
