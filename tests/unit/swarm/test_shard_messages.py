"""Messages of sharded rounds: each value has its bytes, and no bytes do more than be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import Companion
from qres_core.contract import canonical
from qres_core.errors import WireError
from qres_core.swarm.shards.messages import (
    HELD_BLOCK,
    HELD_NAME_BYTES,
    ContributionHeader,
    HeldBlock,
    MergedShard,
    ShardPart,
    decode_ask,
    decode_held,
    decode_pull,
    decode_shard_results,
    encode_ask,
    encode_held,
    encode_pull,
    encode_shard_results,
)

SHARDS, MOST, SEATS, MEMBERS = 9, 64, 5, 70
DIGEST = st.binary(min_size=32, max_size=32)
NAME = st.binary(min_size=HELD_NAME_BYTES, max_size=HELD_NAME_BYTES)
D32, N16 = bytes(32), bytes(HELD_NAME_BYTES)
INDEX = st.integers(0, SHARDS - 1)
OCTETS = st.binary(max_size=MOST)
DECODERS: Mapping[str, Callable[[bytes], object]] = {
    "header": ContributionHeader.from_bytes,
    "part": lambda payload: ShardPart.from_bytes(payload, SHARDS, MOST),
    "held": lambda payload: decode_held(payload, SEATS, MOST, MEMBERS),
    "ask": lambda payload: decode_ask(payload, SHARDS, MOST),
    "results": lambda payload: decode_shard_results(payload, SHARDS),
    "pull": lambda payload: decode_pull(payload, SHARDS),
    "result": lambda payload: MergedShard.from_bytes(payload, SHARDS, MOST),
}


@given(weight=st.integers(1, 2**30), root=DIGEST)
def test_a_header_comes_back(weight: int, root: bytes) -> None:
    beside = {"open": Companion(b"x"), "summed": Companion.of([3, 4], 7)}
    for header in (
        ContributionHeader(weight, root),
        ContributionHeader(weight, root, {"zk": b"proof"}, beside),
    ):
        assert ContributionHeader.from_bytes(header.to_bytes()) == header


@given(digest=DIGEST, index=INDEX, octets=OCTETS, path=st.lists(DIGEST, max_size=32))
def test_a_part_and_a_merged_shard_come_back(
    digest: bytes, index: int, octets: bytes, path: list[bytes]
) -> None:
    sent = ShardPart(digest, index, octets, tuple(path)).to_bytes()
    part = ShardPart.from_bytes(sent, SHARDS, MOST)
    assert (part.contribution, part.index, bytes(part.octets)) == (digest, index, octets)
    assert part.path == tuple(path)
    made = MergedShard.from_bytes(MergedShard(digest, index, octets).to_bytes(), SHARDS, MOST)
    assert (made.chosen, made.index, bytes(made.octets)) == (digest, index, octets)


@given(
    held=st.dictionaries(NAME, st.integers(0, 2**SEATS - 1), max_size=MOST),
    wanted=st.lists(st.tuples(DIGEST, INDEX), min_size=1, max_size=MOST),
    chosen=DIGEST,
    results=st.dictionaries(INDEX, DIGEST | st.just("QRES-E505"), min_size=1),
    pulled=st.sets(INDEX, min_size=1),
)
def test_lists_come_back(
    held: dict[bytes, int],
    wanted: list[tuple[bytes, int]],
    chosen: bytes,
    results: dict[int, bytes | str],
    pulled: set[int],
) -> None:
    assert decode_held(encode_held(held), SEATS, MOST) == (held, [])
    assert decode_ask(encode_ask(wanted), SHARDS, MOST) == wanted
    assert decode_shard_results(encode_shard_results(chosen, results), SHARDS) == (chosen, results)
    assert decode_pull(encode_pull(chosen, [*pulled]), SHARDS) == (chosen, sorted(pulled))


@given(st.data())
def test_blocks_come_back(data: st.DataObject) -> None:
    numbers = data.draw(st.sets(st.integers(0, 1)))
    blocks: list[HeldBlock] = []
    for number in numbers:
        width = min(HELD_BLOCK, MEMBERS - HELD_BLOCK * number)
        members = data.draw(st.integers(1, 2**width - 1))
        masks = [members & data.draw(st.integers(0, 2**width - 1)) for _seat in range(SEATS)]
        blocks.append(HeldBlock(number, data.draw(NAME), members, tuple(masks)))
    sent = encode_held({N16: 3}, blocks)
    assert decode_held(sent, SEATS, MOST, MEMBERS) == ({N16: 3}, blocks)


def test_a_statement_takes_half_a_byte_for_each_contribution_and_not_twenty() -> None:
    full = 2**HELD_BLOCK - 1
    blocks = [HeldBlock(number, N16, full, (full, 0)) for number in range(16)]
    assert len(encode_held({}, blocks)) < 0.65 * 16 * HELD_BLOCK
    named = {bytes([number % 256, number // 256]) + N16[2:]: 1 for number in range(1024)}
    assert len(encode_held(named)) > 19 * 1024


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("kind", DECODERS)
@given(payload=st.binary(max_size=200) | JSON.map(canonical.dumps))
def test_any_bytes_are_a_value_or_refused(kind: str, payload: bytes) -> None:
    with suppress(WireError):
        DECODERS[kind](payload)


BENT: list[tuple[str, Any]] = [
    ("header", [0, D32, {}, {}]),
    ("header", [2**30 + 1, D32, {}, {}]),
    ("header", [1, D32[1:], {}, {}]),
    ("header", [1, D32 + b"x", {}, {}]),
    ("header", [1, 7, {}, {}]),
    ("header", [1, D32, {"zk": 1}, {}]),
    ("header", [1, D32, {}, {"zk": b""}]),
    ("header", [1, D32]),
    ("part", [D32, SHARDS, b"", b""]),
    ("part", [D32[1:], 0, b"", b""]),
    ("part", [D32, 0, bytes(MOST + 1), b""]),
    ("part", [D32, 0, b"", bytes(33)]),
    ("part", [D32, 0, b"", bytes(33 * 32)]),
    ("part", [D32, 0, 7, b""]),
    ("held", [[[N16, b"\x20"]], []]),  # a seat that it does not have
    ("held", [[[N16, b"\x01\x00"]], []]),  # another encoding of the same
    ("held", [[[N16, b"\x01"], [N16, b"\x02"]], []]),
    ("held", [[[N16[1:], b"\x01"]], []]),
    ("held", [[[N16, 1]], []]),
    ("held", [[], [[2, N16, b"\x01", [b""] * SEATS]]]),  # a block that there is not
    ("held", [[], [[1, N16, b"\x40", [b""] * SEATS]]]),  # a member that there is not
    ("held", [[], [[0, N16, b"", [b""] * SEATS]]]),  # nobody
    ("held", [[], [[0, N16, b"\x01\x00", [b""] * SEATS]]]),  # another encoding of the first
    ("held", [[], [[0, N16, b"\x01", [b"\x02"] * SEATS]]]),  # of whom it does not speak
    ("held", [[], [[0, N16, b"\x01", [b""]]]]),
    ("held", [[], [[0, N16[1:], b"\x01", [b""] * SEATS]]]),
    ("held", [[], [[0, N16, b"\x01", [b""] * SEATS]] * 2]),
    ("ask", []),
    ("ask", [[D32, SHARDS]]),
    ("ask", [[D32, 0]] * (MOST + 1)),
    ("results", [D32, []]),
    ("results", [D32, [[0, D32[1:]]]]),
    ("results", [D32, [[0, "x" * 33]]]),
    ("results", [D32, [[0, "é"]]]),
    ("results", [D32, [[0, D32], [0, D32]]]),
    ("results", [D32[1:], [[0, D32]]]),
    ("pull", [D32, [1, 1]]),
    ("pull", [D32, [2, 1]]),
    ("pull", [D32, [SHARDS]]),
    ("part", 7),
    ("part", [D32, 0, b""]),
    ("part", [D32, -1, b"", b""]),
    ("held", 7),
    ("held", [[]]),
    ("held", [7, []]),
    ("held", [[7], []]),
    ("held", [[[N16]], []]),
    ("held", [[], 7]),
    ("held", [[], [7]]),
    ("held", [[], [[0, N16, b"\x01"]]]),
    ("held", [[], [[-1, N16, b"\x01", [b""] * SEATS]]]),
    ("held", [[], [[0, N16, b"\x01", 7]]]),
    ("held", [[], [[0, 7, b"\x01", [b""] * SEATS]]]),
    ("held", [[], [[0, N16, bytes(8) + b"\x01", [b""] * SEATS]]]),  # a member of the next block
    ("ask", 7),
    ("ask", [7]),
    ("ask", [[D32]]),
    ("ask", [[D32[1:], 0]]),
    ("ask", [[D32, -1]]),
    ("results", 7),
    ("results", [D32]),
    ("results", [D32, 7]),
    ("results", [D32, [7]]),
    ("results", [D32, [[SHARDS, D32]]]),
    ("results", [D32, [[0, 7]]]),
    ("results", [D32, [[index, D32] for index in [*range(SHARDS), 0]]]),
    ("results", [7, [[0, D32]]]),
    ("pull", 7),
    ("pull", [D32]),
    ("pull", [D32, 7]),
    ("pull", [D32, []]),
    ("pull", [D32, [-1]]),
    ("pull", [D32, [b""]]),
    ("pull", [D32, [*range(SHARDS), SHARDS - 1]]),
    ("pull", [D32[1:], [1]]),
    ("result", 7),
    ("result", [D32, 0]),
    ("result", [D32, SHARDS, b""]),
    ("result", [D32[1:], 0, b""]),
    ("result", [D32, 0, 7]),
    ("result", [D32, -1, b""]),
    ("result", [D32, 0, bytes(MOST + 1)]),
]


@pytest.mark.parametrize(("kind", "value"), BENT)
def test_what_no_honest_node_sends_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(WireError):
        DECODERS[kind](canonical.dumps(value))
