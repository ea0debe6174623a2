"""The round's payloads: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Companion, Envelope, WireError, canonical
from qres_core.contract.companion import MAX_COMPANION_BYTES
from qres_core.contract.types import FULL_STANDING, MAX_WEIGHT, check_vector
from qres_core.swarm.messages import (
    MAX_COMPANIONS,
    MAX_PROOF_BYTES,
    MAX_PROOFS,
    CandidateSet,
    Certificate,
    ContributionBody,
    Handover,
    Member,
    Proposal,
    Snapshot,
    contribution_digest,
    decode_attestation,
    decode_digest,
    decode_enough,
    decode_fetch,
    decode_fetched,
    decode_stop,
    decode_sync,
    decode_vote,
    encode_contribution,
    encode_enough,
    encode_stop,
    encode_sync,
    encode_vote,
)

NODES = 4
DIMENSION = 3
U63 = 2**63 - 1
thorough = settings(deadline=None, max_examples=150)

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "contribution": lambda payload: ContributionBody.from_bytes(payload, DIMENSION),
    "choice/proposal": lambda payload: Proposal.from_bytes(payload, NODES),
    "certificate": lambda payload: Certificate.from_bytes(payload, NODES),
    "snapshot": lambda payload: Snapshot.from_bytes(payload, NODES, DIMENSION),
    "vote": decode_vote,
    "digest": decode_digest,
    "fetch": lambda payload: decode_fetch(payload, NODES),
    "fetched": decode_fetched,
    "attestation": lambda payload: decode_attestation(payload, NODES),
    "sync": decode_sync,
    "enough": decode_enough,
    "stop": lambda payload: decode_stop(payload, NODES),
    "handover": lambda payload: Handover.from_bytes(payload, NODES),
}

octets32 = st.binary(min_size=32, max_size=32)
envelopes = st.builds(
    Envelope,
    st.just("ward"),
    st.sampled_from(["choice/prevote", "choice/precommit", "digest", "contribution"]),
    st.integers(0, U63),
    octets32,
    octets32,
    st.integers(0, U63),
    st.integers(0, U63),
    st.binary(max_size=40),
)
members = st.builds(Member, octets32, octets32, st.integers(1, FULL_STANDING))
sets = st.builds(
    CandidateSet,
    st.integers(1, U63),
    st.lists(members, min_size=1, max_size=NODES, unique_by=lambda member: member.sender).map(
        lambda rows: tuple(sorted(rows, key=lambda row: row.sender))
    ),
)
quoted = st.lists(envelopes, max_size=NODES).map(tuple)
vectors = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=DIMENSION, max_size=DIMENSION).map(
    lambda row: np.array(row, dtype=np.int32)
)
proposals = st.builds(Proposal, sets, st.integers(0, U63), quoted)


def frames(messages: tuple[Envelope, ...]) -> list[bytes]:
    return [message.to_bytes() for message in messages]


# ── round trips ───────────────────────────────────────────────────────────────────────────────────


companions = st.one_of(
    st.binary(max_size=40).map(Companion),
    st.integers(2, 2**512 - 1).flatmap(
        lambda modulus: st.lists(st.integers(0, modulus - 1), max_size=4).map(
            lambda values: Companion.of(values, modulus)
        )
    ),
)


@thorough
@given(
    st.integers(1, MAX_WEIGHT),
    vectors,
    st.dictionaries(st.text(max_size=9), st.binary(max_size=30), max_size=MAX_PROOFS),
    st.dictionaries(st.text(max_size=9), companions, max_size=MAX_COMPANIONS),
)
def test_a_contribution_comes_back_as_it_was(
    weight: int, vector: Any, proofs: dict[str, bytes], beside: dict[str, Companion]
) -> None:
    body = ContributionBody(weight, vector, proofs, beside)
    back = ContributionBody.from_bytes(body.to_bytes(), DIMENSION)
    assert (back.weight, dict(back.proofs)) == (weight, proofs)
    assert dict(back.companions) == beside
    assert back.vector.dtype == np.int32
    assert np.array_equal(back.vector, vector)
    assert not back.vector.flags.writeable
    octets = vector.astype("<i4").tobytes()
    assert body.to_bytes() == encode_contribution(weight, octets, proofs, beside)


@pytest.mark.parametrize("weight", [1, 23, 24, 255, 256, 65536, MAX_WEIGHT])
@pytest.mark.parametrize("dimension", [1, 60, 70, 20_000])
def test_a_vector_is_not_copied(weight: int, dimension: int) -> None:
    vector = np.full(dimension, 0x01020304, dtype=np.int32)
    payload = ContributionBody(weight, vector, {"p": b"proof"}).to_bytes()
    back = ContributionBody.from_bytes(payload, dimension)
    raw = np.frombuffer(payload, dtype=np.uint8)
    assert np.array_equal(back.vector, vector)
    assert check_vector(back.vector, "vector") is back.vector
    assert np.shares_memory(back.vector, raw)
    assert type(back.proofs["p"]) is bytes


@thorough
@given(proposals)
def test_a_proposal_comes_back_as_it_was(proposal: Proposal) -> None:
    back = Proposal.from_bytes(proposal.to_bytes(), NODES)
    assert (back.candidate, back.lock_round) == (proposal.candidate, proposal.lock_round)
    assert frames(back.prevotes) == frames(proposal.prevotes)


@thorough
@given(sets, st.integers(1, U63), quoted)
def test_a_certificate_comes_back_as_it_was(
    candidate: CandidateSet, number: int, votes: tuple[Envelope, ...]
) -> None:
    back = Certificate.from_bytes(Certificate(candidate, number, votes).to_bytes(), NODES)
    assert (back.candidate, back.round) == (candidate, number)
    assert frames(back.precommits) == frames(votes)


@thorough
@given(st.integers(1, U63), vectors, quoted)
def test_a_snapshot_comes_back_as_it_was(
    step: int, vector: Any, vouchers: tuple[Envelope, ...]
) -> None:
    back = Snapshot.from_bytes(Snapshot(step, vector, vouchers).to_bytes(), NODES, DIMENSION)
    assert back.step == step
    assert np.array_equal(back.vector, vector)
    assert frames(back.vouchers) == frames(vouchers)


@thorough
@given(octets32, st.builds(Certificate, sets, st.integers(1, U63), quoted))
def test_a_handover_comes_back_as_it_was(parent: bytes, certificate: Certificate) -> None:
    back = Handover.from_bytes(Handover(parent, certificate).to_bytes(), NODES)
    assert back.parent == parent
    assert back.certificate.to_bytes() == certificate.to_bytes()


@given(st.one_of(st.none(), octets32))
def test_a_vote_comes_back_as_it_was(choice: bytes | None) -> None:
    assert decode_vote(encode_vote(choice)) == choice


@given(st.lists(octets32, max_size=NODES))
def test_a_fetch_comes_back_as_it_was(digests: list[bytes]) -> None:
    assert decode_fetch(canonical.dumps(digests), NODES) == tuple(digests)


@given(octets32)
def test_a_digest_comes_back_as_it_was(digest: bytes) -> None:
    assert decode_digest(canonical.dumps(digest)) == digest


@given(envelopes)
def test_only_a_contribution_can_be_quoted_as_fetched(envelope: Envelope) -> None:
    if envelope.kind == "contribution":
        assert decode_fetched(envelope.to_bytes()).to_bytes() == envelope.to_bytes()
    else:
        with pytest.raises(WireError, match="fetched"):
            decode_fetched(envelope.to_bytes())


def test_an_attestation_names_some_contributions_and_not_too_many() -> None:
    digests = [bytes([index]) * 32 for index in range(4)]
    assert decode_attestation(canonical.dumps(digests), 4) == tuple(digests)
    for bad in ([], [*digests, digests[0]], [b"short"], b"\x01" * 32, [None]):
        with pytest.raises(WireError):
            decode_attestation(canonical.dumps(bad), 4)
    with pytest.raises(WireError) as caught:
        decode_attestation(bytes(1000), 4)
    assert caught.value.code == "QRES-E401"


@pytest.mark.parametrize("decided", [True, False])
def test_a_call_for_help_says_whether_the_set_is_known(*, decided: bool) -> None:
    assert decode_sync(encode_sync(decided=decided)) is decided


# ── whatever the bytes, nothing but WireError ─────────────────────────────────────────────────────

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.binary(max_size=40),
    octets32,
    st.text(max_size=8),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=20,
)


def refuses_or_decodes(decode: Callable[[bytes], Any], payload: bytes) -> None:
    try:
        decode(payload)
    except WireError as error:
        assert error.code.startswith("QRES-E4")  # noqa: PT017 - decoding is also allowed


@pytest.mark.parametrize("kind", DECODERS)
@thorough
@given(payload=st.binary(max_size=300))
def test_random_bytes_never_break_a_decoder(kind: str, payload: bytes) -> None:
    refuses_or_decodes(DECODERS[kind], payload)


@pytest.mark.parametrize("kind", DECODERS)
@thorough
@given(tree=trees)
def test_well_formed_values_of_other_shapes_never_break_a_decoder(kind: str, tree: Any) -> None:
    refuses_or_decodes(DECODERS[kind], canonical.dumps(tree))


SET = CandidateSet(1, (Member(b"\x01" * 32, b"\x02" * 32), Member(b"\x03" * 32, b"\x04" * 32, 9)))
VOTE = Envelope("ward", "choice/precommit", 1, b"\x05" * 32, b"\x06" * 32, 7, 8, b"\xf6")
SAMPLES: dict[str, bytes] = {
    "enough": encode_enough(7, b"\x05" * 32),
    "stop": encode_stop([VOTE]),
    "contribution": ContributionBody(
        5,
        np.zeros(DIMENSION, np.int32),
        {"p": b"x"},
        {"p": Companion.of([3, 6], 7), "q": Companion(b"open")},
    ).to_bytes(),
    "choice/proposal": Proposal(SET, 1, (VOTE,)).to_bytes(),
    "certificate": Certificate(SET, 1, (VOTE,)).to_bytes(),
    "snapshot": Snapshot(1, np.zeros(DIMENSION, np.int32), (VOTE,)).to_bytes(),
    "vote": encode_vote(b"\x07" * 32),
    "digest": canonical.dumps(b"\x08" * 32),
    "fetch": canonical.dumps([b"\x09" * 32]),
    "fetched": attrs.evolve(VOTE, kind="contribution").to_bytes(),
    "attestation": canonical.dumps([b"\x0b" * 32, b"\x0c" * 32]),
    "sync": encode_sync(decided=True),
    "handover": Handover(b"\x0a" * 32, Certificate(SET, 1, (VOTE,))).to_bytes(),
}


@pytest.mark.parametrize("kind", DECODERS)
@thorough
@given(data=st.data())
def test_damage_to_a_true_message_never_breaks_its_decoder(kind: str, data: st.DataObject) -> None:
    sample = bytearray(SAMPLES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(sample) - 1))
        sample[position] = data.draw(st.integers(0, 255))
    refuses_or_decodes(DECODERS[kind], bytes(sample))


@pytest.mark.parametrize("kind", DECODERS)
def test_no_prefix_of_a_message_is_a_message(kind: str) -> None:
    sample = SAMPLES[kind]
    DECODERS[kind](sample)
    for length in range(len(sample)):
        with pytest.raises(WireError):
            DECODERS[kind](sample[:length])
    with pytest.raises(WireError):
        DECODERS[kind](sample + b"\x00")


# ── each field, violated ──────────────────────────────────────────────────────────────────────────

VECTOR = bytes(4 * DIMENSION)
MEMBER = [b"\x01" * 32, b"\x02" * 32, 9]
OTHER = [b"\x03" * 32, b"\x04" * 32, 9]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([1, VECTOR, {}], "contribution"),
        ([1, VECTOR, {}, {}, 0], "contribution"),
        ({"weight": 1}, "contribution"),
        ([0, VECTOR, {}, {}], "weight"),
        ([MAX_WEIGHT + 1, VECTOR, {}, {}], "weight"),
        ([-1, VECTOR, {}, {}], "weight"),
        ([True, VECTOR, {}, {}], "weight"),
        ([1, VECTOR[:-1], {}, {}], "vector"),
        ([1, VECTOR + b"\0" * 4, {}, {}], "vector"),
        ([1, [0] * DIMENSION, {}, {}], "vector"),
        ([1, VECTOR, [], {}], "proofs"),
        ([1, VECTOR, {str(i): b"" for i in range(MAX_PROOFS + 1)}, {}], "proofs"),
        ([1, VECTOR, {"p": bytes(MAX_PROOF_BYTES + 1)}, {}], "proofs"),
        ([1, VECTOR, {"p": "text"}, {}], "proofs"),
        ([1, VECTOR, {7: b""}, {}], "proofs"),
        ([1, VECTOR, {b"p": b""}, {}], "proofs"),
        ([1, VECTOR, {}, []], "companions"),
        ([1, VECTOR, {}, {str(i): [b"", b""] for i in range(MAX_COMPANIONS + 1)}], "companions"),
        ([1, VECTOR, {}, {"p": b""}], "companions"),
        ([1, VECTOR, {}, {"p": [b""]}], "companions"),
        ([1, VECTOR, {}, {"p": [b"", b"", b""]}], "companions"),
        ([1, VECTOR, {}, {7: [b"", b""]}], "companions"),
        ([1, VECTOR, {}, {"p": [0, b""]}], "companions"),
        ([1, VECTOR, {}, {"p": [b"", "text"]}], "companions"),
        ([1, VECTOR, {}, {"p": [b"\0\x05", b""]}], "companions"),  # one modulus, two encodings
        ([1, VECTOR, {}, {"p": [b"\x01", b""]}], "companions"),
        ([1, VECTOR, {}, {"p": [b"\x05" * 65, b""]}], "companions"),
        ([1, VECTOR, {}, {"p": [b"\x05", b"\x04\x05"]}], "companions"),  # not below the modulus
        ([1, VECTOR, {}, {"p": [b"\x01\0", b"\x04"]}], "companions"),  # half a residue
        ([1, VECTOR, {}, {"p": [b"", bytes(MAX_COMPANION_BYTES + 1)]}], "companions"),
    ],
)
def test_each_field_of_a_contribution_is_checked(value: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        ContributionBody.from_bytes(canonical.dumps(value), DIMENSION)
    assert caught.value.problems[0].code == "QRES-E404"
    assert caught.value.problems[0].where == f"payload.{field}"


BAD_SETS = [
    ([1], "set"),
    ([0, [MEMBER]], "set.origin"),
    ([2**63, [MEMBER]], "set.origin"),
    ([True, [MEMBER]], "set.origin"),
    ([1, []], "set.members"),
    ([1, {}], "set.members"),
    ([1, [[bytes([i]) * 32, b"\x02" * 32, 1] for i in range(NODES + 1)]], "set.members"),
    ([1, [MEMBER[:2]]], "set.members"),
    ([1, [[b"\x01" * 31, b"\x02" * 32, 1]]], "set.members.sender"),
    ([1, [[b"\x01" * 32, b"\x02" * 33, 1]]], "set.members.digest"),
    ([1, [[b"\x01" * 32, b"\x02" * 32, 0]]], "set.members.standing"),
    ([1, [[b"\x01" * 32, b"\x02" * 32, FULL_STANDING + 1]]], "set.members.standing"),
    ([1, [OTHER, MEMBER]], "set.members"),
    ([1, [MEMBER, MEMBER]], "set.members"),
]


@pytest.mark.parametrize("kind", ["choice/proposal", "certificate"])
@pytest.mark.parametrize(("raw", "field"), BAD_SETS)
def test_each_field_of_a_set_is_checked(kind: str, raw: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        DECODERS[kind](canonical.dumps([raw, 1, []]))
    assert caught.value.problems[0].where == f"payload.{field}"


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        ("choice/proposal", [[1, [MEMBER]], -1, []], "proposal.lock_round"),
        ("choice/proposal", [[1, [MEMBER]], 2**63, []], "proposal.lock_round"),
        ("choice/proposal", [[1, [MEMBER]], 0, [b""] * (NODES + 1)], "proposal.prevotes"),
        ("choice/proposal", [[1, [MEMBER]], 0, [1]], "proposal.prevotes"),
        ("certificate", [[1, [MEMBER]], 0, []], "certificate.round"),
        ("certificate", [[1, [MEMBER]], 1, [None]], "certificate.precommits"),
        ("certificate", [[1, [MEMBER]], 1, [b""] * (NODES + 1)], "certificate.precommits"),
        ("snapshot", [0, VECTOR, []], "snapshot.step"),
        ("snapshot", [2**63, VECTOR, []], "snapshot.step"),
        ("snapshot", [1, VECTOR[4:], []], "snapshot.vector"),
        ("snapshot", [1, VECTOR, [b""] * (NODES + 1)], "snapshot.vouchers"),
        ("snapshot", [1, VECTOR, [3]], "snapshot.vouchers"),
        ("vote", b"\x01" * 31, "vote"),
        ("vote", 0, "vote"),
        ("vote", False, "vote"),
        ("digest", None, "digest"),
        ("digest", b"", "digest"),
        ("fetch", [b"\x01" * 32] * (NODES + 1), "fetch"),
        ("fetch", [b"\x01"], "fetch"),
        ("fetch", b"\x01" * 32, "fetch"),
        ("handover", [b"\x0a" * 32, "x"], "handover.certificate"),
        ("handover", [4, SAMPLES["certificate"]], "handover.parent"),
    ],
)
def test_each_field_of_the_others_is_checked(kind: str, value: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        DECODERS[kind](canonical.dumps(value))
    assert caught.value.problems[0].where == f"payload.{field}"


def test_too_large_a_payload_is_refused_before_it_is_parsed() -> None:
    for kind in ("vote", "digest"):
        with pytest.raises(WireError) as caught:
            DECODERS[kind](bytes(65))
        assert caught.value.code == "QRES-E401"
    with pytest.raises(WireError) as caught:
        ContributionBody.from_bytes(bytes(2**25), DIMENSION)
    assert caught.value.code == "QRES-E401"


# ── names of sets and contributions ───────────────────────────────────────────────────────────────


def test_a_contribution_is_named_by_what_it_says_and_not_by_when() -> None:
    envelope = Envelope("ward", "contribution", 1, b"\x05" * 32, b"\x06" * 32, 7, 8, b"payload")
    assert contribution_digest(envelope) == contribution_digest(
        attrs.evolve(envelope, sequence=70, time_ms=80)
    )
    changes: dict[str, Any] = {
        "swarm": "bed",
        "round": 2,
        "head": b"\x07" * 32,
        "sender": b"\x08" * 32,
        "payload": b"other",
    }
    digests = {contribution_digest(attrs.evolve(envelope, **{k: v})) for k, v in changes.items()}
    assert len(digests | {contribution_digest(envelope)}) == len(changes) + 1


def test_a_set_is_named_by_everything_in_it_and_by_swarm_and_model() -> None:
    first, second = SET.members
    sets = [
        SET,
        attrs.evolve(SET, origin=2),
        attrs.evolve(SET, members=(first,)),
        attrs.evolve(SET, members=(attrs.evolve(first, standing=5), second)),
        attrs.evolve(SET, members=(attrs.evolve(first, digest=b"\x09" * 32), second)),
        attrs.evolve(SET, members=(attrs.evolve(first, sender=b"\x00" * 32), second)),
    ]
    names = {item.digest("ward", b"\x05" * 32) for item in sets}
    names |= {SET.digest("bed", b"\x05" * 32), SET.digest("ward", b"\x07" * 32)}
    assert len(names) == len(sets) + 2


@pytest.mark.parametrize(
    "decode",
    [
        lambda data: ContributionBody.from_bytes(data, 2**18),
        lambda data: Snapshot.from_bytes(data, 4, 2**18),
        lambda data: Proposal.from_bytes(data, 30),
        lambda data: Certificate.from_bytes(data, 30),
    ],
)
@pytest.mark.long
def test_a_payload_does_not_grow_in_memory(decode: Callable[[bytes], object]) -> None:
    """A list of empty lists takes 72 bytes of memory for each byte."""
    size = 2**19
    bomb = b"\x9a" + size.to_bytes(4, "big") + b"\x80" * size
    assert len(canonical.loads(bomb, max_bytes=2 * size)) == size, "control: it is well formed"
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=r"QRES-E402.*too many items"):
            decode(bomb)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * size
