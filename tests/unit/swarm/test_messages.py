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

from qres_core import Companion, Envelope, Fault, canonical
from qres_core.contract.companion import MAX_COMPANION_BYTES
from qres_core.contract.packing import pack
from qres_core.contract.types import FULL_STANDING, MAX_WEIGHT, check_vector
from qres_core.errors import WireError
from qres_core.swarm.ledger.chain import (
    MAX_LINKS,
    SILENT,
    Head,
    Link,
    decode_links,
    encode_links,
)
from qres_core.swarm.ledger.messages import (
    MAX_COMPANIONS,
    MAX_PROOF_BYTES,
    MAX_PROOFS,
    CandidateSet,
    Certificate,
    ContributionBody,
    Member,
    OutcomeProposal,
    Proposal,
    contribution_digest,
    decode_attestation,
    decode_conclusion,
    decode_enough,
    decode_fetch,
    decode_fetch_model,
    decode_fetched,
    decode_model,
    decode_stop,
    decode_sync,
    decode_vote,
    encode_conclusion,
    encode_contribution,
    encode_enough,
    encode_model,
    encode_stop,
    encode_sync,
    encode_vote,
    set_limit,
)
from qres_core.swarm.ledger.misbehaviour import Misbehaviour
from qres_core.swarm.ledger.results import Conclusion, Merged, Void
from qres_core.swarm.ledger.roster import Roster

NODES = 4
DIMENSION = 3
U63 = 2**63 - 1
thorough = settings(deadline=None, max_examples=150)

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "contribution": lambda payload: ContributionBody.from_bytes(payload, DIMENSION),
    "choice/proposal": lambda payload: Proposal.from_bytes(payload, NODES),
    "certificate": lambda payload: Certificate.from_bytes(payload, NODES),
    "vote": decode_vote,
    "outcome/proposal": lambda payload: OutcomeProposal.from_bytes(payload, NODES),
    "outcome/vote": decode_conclusion,
    "links": decode_links,
    "link": Link.from_bytes,
    "fetch-model": decode_fetch_model,
    "model": lambda payload: decode_model(payload, DIMENSION),
    "fetch": lambda payload: decode_fetch(payload, NODES),
    "fetched": decode_fetched,
    "attestation": lambda payload: decode_attestation(payload, NODES),
    "sync": decode_sync,
    "enough": decode_enough,
    "stop": lambda payload: decode_stop(payload, NODES),
}

octets32 = st.binary(min_size=32, max_size=32)
envelopes = st.builds(
    Envelope,
    st.just("ward"),
    st.sampled_from(["choice/prevote", "choice/precommit", "outcome/precommit", "contribution"]),
    st.integers(0, U63),
    octets32,
    octets32,
    st.integers(0, U63),
    st.integers(0, U63),
    st.binary(max_size=40),
)
members = st.builds(Member, octets32, octets32, st.integers(1, FULL_STANDING))
quoted = st.lists(envelopes, max_size=NODES).map(tuple)
rosters = st.lists(octets32, min_size=1, max_size=NODES, unique=True).map(
    lambda ids: Roster(tuple(sorted(ids)), (len(ids) - 1) // 3, len(ids))
)
flawed = st.builds(
    Misbehaviour.of,
    st.sampled_from([Fault.MALFORMED_PAYLOAD, Fault.NOT_THE_PROPOSER, Fault.SET_BELOW_QUORUM]),
    envelopes,
)
split = st.tuples(envelopes, st.binary(max_size=9)).map(
    lambda drawn: Misbehaviour.of(
        Fault.EQUIVOCATION, drawn[0], attrs.evolve(drawn[0], payload=drawn[0].payload + b"!")
    )
)
accused = st.lists(
    st.one_of(flawed, split), max_size=NODES, unique_by=lambda item: item.subject
).map(lambda items: tuple(sorted(items, key=lambda item: item.subject)))


@st.composite
def changes(draw: st.DrawFn, among: Roster | None = None) -> Any:
    """A change that is possible, signed by some; whether their signatures hold is not asked."""
    at = draw(rosters) if among is None else among
    new = draw(octets32.filter(lambda node_id: node_id not in at))
    change = draw(
        st.sampled_from(
            [at.change("ward", "add", new), at.change("ward", "rotate", at.members[0], new)]
        )
    )
    names = draw(st.lists(octets32, max_size=NODES, unique=True))
    signed = change.signed(change.statement(name, 5).with_auth({"p": b"s"}) for name in names)
    return attrs.evolve(signed, approval=draw(st.binary(max_size=9)))


member_rows = st.lists(
    members, min_size=1, max_size=NODES, unique_by=lambda member: member.sender
).map(lambda rows: tuple(sorted(rows, key=lambda row: row.sender)))
sets = st.builds(CandidateSet, st.integers(1, U63), member_rows, accused, st.none() | changes())
results = st.one_of(
    st.builds(Merged, octets32), st.sampled_from(["QRES-E508", "", "x" * 32]).map(Void)
)
decisions = st.builds(Conclusion, octets32, results)
outcomes = st.builds(OutcomeProposal, decisions, st.integers(0, U63), quoted)


@st.composite
def heads(draw: st.DrawFn) -> Head:
    roster = draw(rosters)
    size = len(roster)
    return Head(
        draw(st.text(max_size=9)),
        draw(st.integers(0, U63)),
        draw(st.integers(0, U63)),
        draw(octets32),
        roster,
        draw(octets32),
        draw(octets32),
        tuple(sorted(draw(st.sets(st.sampled_from(roster.members))))),
        bytes(draw(st.lists(st.integers(0, SILENT), min_size=size, max_size=size))),
        waiting=tuple(sorted(draw(st.sets(st.sampled_from(roster.members))))),
    )


@st.composite
def links(draw: st.DrawFn) -> Link:
    head = draw(heads())
    size = len(head.roster)
    rows = draw(member_rows)[:size]
    change = draw(st.none() | changes(head.roster))
    if change is not None:
        change = attrs.evolve(change, signatures=change.signatures[:size])
    chosen = CandidateSet(draw(st.integers(1, U63)), rows, draw(accused)[:size], change)
    votes = draw(quoted)[:size]
    return Link(head, chosen, draw(results), draw(st.integers(1, U63)), votes)


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
    assert body.to_bytes() == encode_contribution(weight, pack(vector), proofs, beside)


@pytest.mark.parametrize("dimension", [1, 60, 70, 20_000])
def test_nodes_of_one_process_hold_a_vector_once(dimension: int) -> None:
    vector = np.full(dimension, 0x01020304, dtype=np.int32)
    payload = ContributionBody(1, vector, {"p": b"proof"}).to_bytes()
    mine = ContributionBody.from_bytes(payload, dimension)
    theirs = ContributionBody.from_bytes(bytes(bytearray(payload)), dimension)
    assert np.array_equal(mine.vector, vector)
    assert check_vector(mine.vector, "vector") is mine.vector
    assert theirs.vector is mine.vector
    other = ContributionBody.from_bytes(ContributionBody(2, vector).to_bytes(), dimension)
    assert other.vector is not mine.vector, "control: another payload"
    assert type(mine.proofs["p"]) is bytes


def test_a_vector_that_is_held_is_not_taken_for_one_of_another_dimension() -> None:
    body = ContributionBody(1, np.zeros(3, dtype=np.int32))
    held = ContributionBody.from_bytes(body.to_bytes(), 3)
    assert ContributionBody.from_bytes(body.to_bytes(), 4).vector.size == 4
    assert held.vector.size == 3


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
@given(outcomes)
def test_a_proposed_outcome_comes_back_as_it_was(proposal: OutcomeProposal) -> None:
    back = OutcomeProposal.from_bytes(proposal.to_bytes(), NODES)
    assert (back.decision, back.lock_round) == (proposal.decision, proposal.lock_round)
    assert back.decision.digest == proposal.decision.digest
    assert frames(back.prevotes) == frames(proposal.prevotes)


@given(st.none() | decisions)
def test_a_vote_on_the_outcome_comes_back_as_it_was(decision: Conclusion | None) -> None:
    assert decode_conclusion(encode_conclusion(decision)) == decision


@given(st.lists(decisions, min_size=2, max_size=9, unique=True))
def test_two_decisions_have_two_digests(made: list[Conclusion]) -> None:
    assert len({decision.digest for decision in made}) == len(made)


@thorough
@given(heads())
def test_a_head_comes_back_as_it_was(head: Head) -> None:
    back = Head.from_raw(canonical.loads(canonical.dumps(head.raw()), max_bytes=2**16))
    assert back == head
    assert back.digest == head.digest


@thorough
@given(st.lists(links(), min_size=1, max_size=3))
def test_links_come_back_as_they_were(told: list[Link]) -> None:
    back = decode_links(encode_links(told))
    assert [link.to_bytes() for link in back] == [link.to_bytes() for link in told]
    for link, original in zip(back, told, strict=True):
        assert (link.head, link.chosen, link.result) == (
            original.head,
            original.chosen,
            original.result,
        )
        assert link.next == original.next
        assert Link.from_bytes(original.to_bytes()).next == original.next


@thorough
@given(vectors)
def test_a_model_comes_back_as_it_was(vector: Any) -> None:
    back = decode_model(encode_model(vector), DIMENSION)
    assert np.array_equal(back, vector)
    assert back.dtype == np.int32


@pytest.mark.parametrize("size", [DIMENSION - 1, DIMENSION + 1, 300])
def test_a_model_of_another_dimension_is_refused(size: int) -> None:
    model = encode_model(np.arange(1, size + 1, dtype=np.int32))
    with pytest.raises(WireError, match=r"QRES-E40[134] payload.vector"):
        decode_model(model, DIMENSION)


@given(octets32)
def test_the_digest_of_a_model_that_is_asked_for_comes_back(digest: bytes) -> None:
    assert decode_fetch_model(canonical.dumps(digest)) == digest


@given(st.one_of(st.none(), octets32))
def test_a_vote_comes_back_as_it_was(choice: bytes | None) -> None:
    assert decode_vote(encode_vote(choice)) == choice


@given(st.lists(octets32, max_size=NODES))
def test_a_fetch_comes_back_as_it_was(digests: list[bytes]) -> None:
    assert decode_fetch(canonical.dumps(digests), NODES) == tuple(digests)


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


@given(st.integers(0, U63), st.integers(0, U63))
def test_a_call_for_help_says_where_the_node_is(height: int, epoch: int) -> None:
    assert decode_sync(encode_sync(height, epoch)) == (height, epoch)


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


ROSTER = Roster(tuple(bytes([number]) * 32 for number in range(1, 5)), 1, 3)
SET = CandidateSet(1, (Member(b"\x01" * 32, b"\x02" * 32), Member(b"\x03" * 32, b"\x04" * 32, 9)))
VOTE = Envelope("ward", "choice/precommit", 1, b"\x05" * 32, b"\x06" * 32, 7, 8, b"\xf6")
ADDED = ROSTER.change("ward", "add", b"\x09" * 32)
FULL = attrs.evolve(
    SET,
    evidence=(
        Misbehaviour.of(Fault.EQUIVOCATION, VOTE, attrs.evolve(VOTE, payload=b"\xf5")),
        Misbehaviour.of(Fault.MALFORMED_PAYLOAD, attrs.evolve(VOTE, sender=b"\x07" * 32)),
    ),
    change=ADDED.signed([ADDED.statement(b"\x01" * 32, 5).with_auth({"p": b"signature"})]),
)
FIRST = Head.first("ward", b"\x0d" * 32, ROSTER, b"\x0e" * 32)
LINK = Link(FIRST, FULL, Merged(b"\x0f" * 32), 1, (VOTE,))
DECISION = Conclusion(b"\x10" * 32, Void("QRES-E508"))
SAMPLES: dict[str, bytes] = {
    "enough": encode_enough(7, b"\x05" * 32),
    "stop": encode_stop([VOTE]),
    "contribution": ContributionBody(
        5,
        np.zeros(DIMENSION, np.int32),
        {"p": b"x"},
        {"p": Companion.of([3, 6], 7), "q": Companion(b"open")},
    ).to_bytes(),
    "choice/proposal": Proposal(FULL, 1, (VOTE,)).to_bytes(),
    "certificate": Certificate(FULL, 1, (VOTE,)).to_bytes(),
    "outcome/proposal": OutcomeProposal(DECISION, 1, (VOTE,)).to_bytes(),
    "outcome/vote": encode_conclusion(DECISION),
    "links": encode_links([LINK]),
    "link": LINK.to_bytes(),
    "fetch-model": canonical.dumps(b"\x08" * 32),
    "model": encode_model(np.array([1, -2, 3], dtype=np.int32)),
    "vote": encode_vote(b"\x07" * 32),
    "fetch": canonical.dumps([b"\x09" * 32]),
    "fetched": attrs.evolve(VOTE, kind="contribution").to_bytes(),
    "attestation": canonical.dumps([b"\x0b" * 32, b"\x0c" * 32]),
    "sync": encode_sync(300, 2),
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
    DECODERS[kind](sample)  # control: whole it is one
    for length in range(len(sample)):
        with pytest.raises(WireError):
            DECODERS[kind](sample[:length])
    with pytest.raises(WireError):
        DECODERS[kind](sample + b"\x00")


# ── each field, violated ──────────────────────────────────────────────────────────────────────────

VECTOR = pack(np.array([1, -2, 3], dtype=np.int32))
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
        ([1, VECTOR + b"\0", {}, {}], "vector"),
        ([1, b"\x3f" + VECTOR[1:], {}, {}], "vector"),
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


SOUND = [1, [MEMBER], [], None, False]
PROOF, LATER = FULL.evidence[0].raw(), FULL.evidence[1].raw()
CHANGE = FULL.change.raw() if FULL.change is not None else []


def sound(place: int, value: Any) -> list[Any]:
    """A sound set with another value in one place."""
    return [*SOUND[:place], value, *SOUND[place + 1 :]]


BAD_SETS: list[tuple[Any, str]] = [
    ([1], "set"),
    ([1, [MEMBER]], "set"),
    ([*SOUND, 0], "set"),
    (sound(0, 0), "set.origin"),
    (sound(0, 2**63), "set.origin"),
    (sound(0, True), "set.origin"),  # noqa: FBT003 - a value, not an option
    (sound(1, []), "set.members"),
    (sound(1, {}), "set.members"),
    (sound(1, [[bytes([i]) * 32, b"\x02" * 32, 1] for i in range(NODES + 1)]), "set.members"),
    (sound(1, [MEMBER[:2]]), "set.members"),
    (sound(1, [[b"\x01" * 31, b"\x02" * 32, 1]]), "set.members.sender"),
    (sound(1, [[b"\x01" * 32, b"\x02" * 33, 1]]), "set.members.digest"),
    (sound(1, [[b"\x01" * 32, b"\x02" * 32, 0]]), "set.members.standing"),
    (sound(1, [[b"\x01" * 32, b"\x02" * 32, FULL_STANDING + 1]]), "set.members.standing"),
    (sound(1, [OTHER, MEMBER]), "set.members"),
    (sound(1, [MEMBER, MEMBER]), "set.members"),
    (SOUND[:4], "set"),
    (sound(2, None), "set.evidence"),
    (sound(2, [PROOF] * (NODES + 1)), "set.evidence"),
    (sound(2, [LATER, PROOF]), "set.evidence"),
    (sound(2, [PROOF, PROOF]), "set.evidence"),
    (sound(2, [["nonsense", PROOF[1]]]), "misbehaviour"),
    (sound(2, [[PROOF[0], PROOF[1][:1]]]), "misbehaviour"),
    (sound(2, [[PROOF[0], PROOF[1][::-1]]]), "misbehaviour"),
    (sound(2, [[Fault.UNPROVEN_LOCK.value, LATER[1]]]), "misbehaviour"),
    (sound(2, [[LATER[0], [b"\xff"]]]), "misbehaviour"),
    (sound(4, 1), "set.waits"),
    ([*sound(2, [PROOF])[:4], 1], "set.waits"),
    (sound(4, True), "set.waits"),  # noqa: FBT003 - it carries nothing
]


@pytest.mark.parametrize("kind", ["choice/proposal", "certificate"])
@pytest.mark.parametrize(("raw", "field"), BAD_SETS)
def test_each_field_of_a_set_is_checked(kind: str, raw: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        DECODERS[kind](canonical.dumps([raw, 1, []]))
    assert caught.value.problems[0].where == f"payload.{field}"


def test_a_set_quotes_evidence_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = sound(2, [PROOF])
    octets = sum(map(len, PROOF[1]))
    monkeypatch.setattr("qres_core.swarm.ledger.messages.EVIDENCE_BYTES", octets)
    assert CandidateSet.from_raw(raw, NODES).evidence
    monkeypatch.setattr("qres_core.swarm.ledger.messages.EVIDENCE_BYTES", octets - 1)
    with pytest.raises(WireError, match=r"set\.evidence"):
        CandidateSet.from_raw(raw, NODES)


@pytest.mark.parametrize("kind", ["choice/proposal", "certificate"])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ([], "change"),
        (b"", "change"),
        ([*CHANGE, 0], "change"),
        ([*CHANGE[:3], "promote", *CHANGE[4:]], "change.action"),
        ([*CHANGE[:6], [b""] * (NODES + 1), CHANGE[7]], "change.signatures"),
        ([*CHANGE[:6], [b"\xff"], CHANGE[7]], "frame"),
    ],
)
def test_the_change_in_a_set_is_checked(kind: str, change: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        DECODERS[kind](canonical.dumps([sound(3, change), 1, []]))
    assert caught.value.problems[0].where == field
    DECODERS[kind](canonical.dumps([sound(3, CHANGE), 1, []]))  # control


RAW = DECISION.raw()


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [
        ("choice/proposal", [SOUND, -1, []], "proposal.lock_round"),
        ("choice/proposal", [SOUND, 2**63, []], "proposal.lock_round"),
        ("choice/proposal", [SOUND, 0, [b""] * (NODES + 1)], "proposal.prevotes"),
        ("choice/proposal", [SOUND, 0, [1]], "proposal.prevotes"),
        ("certificate", [SOUND, 0, []], "certificate.round"),
        ("certificate", [SOUND, 1, [None]], "certificate.precommits"),
        ("certificate", [SOUND, 1, [b""] * (NODES + 1)], "certificate.precommits"),
        ("outcome/proposal", [RAW, 0], "outcome"),
        ("outcome/proposal", [None, 0, []], "result"),
        ("outcome/proposal", [RAW, -1, []], "outcome.lock_round"),
        ("outcome/proposal", [RAW, 2**63, []], "outcome.lock_round"),
        ("outcome/proposal", [RAW, 1, [b""] * (NODES + 1)], "outcome.prevotes"),
        ("outcome/proposal", [RAW, 1, [None]], "outcome.prevotes"),
        ("outcome/vote", 7, "result"),
        ("outcome/vote", b"\x10" * 32, "result"),
        ("outcome/vote", [b"\x10" * 31, RAW[1]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["merged", b"\x10" * 31]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["merged", "QRES-E508"]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["void", b"\x10" * 32]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["void", "x" * 33]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["void", "\u00fc"]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["other", b""]], "result"),
        ("outcome/vote", [b"\x10" * 32, ["void"]], "result"),
        ("outcome/vote", [b"\x10" * 32, 7], "result"),
        ("outcome/vote", ["x" * 32, RAW[1]], "result"),
        ("vote", b"\x01" * 31, "vote"),
        ("vote", 0, "vote"),
        ("vote", False, "vote"),
        ("fetch-model", None, "fetch-model"),
        ("fetch-model", b"", "fetch-model"),
        ("fetch", [b"\x01" * 32] * (NODES + 1), "fetch"),
        ("fetch", [b"\x01"], "fetch"),
        ("fetch", b"\x01" * 32, "fetch"),
        ("sync", [0], "sync"),
        ("sync", [-1, 0], "sync.height"),
        ("sync", [0, 2**63], "sync.epoch"),
        ("links", [], "links"),
        ("links", {}, "links"),
        ("links", [None] * (MAX_LINKS + 1), "links"),
        ("links", [None], "link"),
    ],
)
def test_each_field_of_the_others_is_checked(kind: str, value: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        DECODERS[kind](canonical.dumps(value))
    assert caught.value.problems[0].where == f"payload.{field}"


def of_link(place: int, value: Any) -> list[Any]:
    raw = LINK.raw()
    return [*raw[:place], value, *raw[place + 1 :]]


def of_head(place: int, value: Any) -> list[Any]:
    raw = FIRST.raw()
    return of_link(0, [*raw[:place], value, *raw[place + 1 :]])


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (LINK.raw()[:4], "link"),
        (of_link(0, FIRST.raw()[:8]), "head"),
        (of_head(0, 7), "head.swarm"),
        (of_head(1, -1), "head.height"),
        (of_head(2, None), "head.step"),
        (of_head(3, b"\x0d" * 31), "head.model"),
        (of_head(5, "settings"), "head.settings"),
        (of_head(6, b""), "head.previous"),
        (of_head(7, b"\x01" * 31), "head.bans"),
        (of_head(7, b"\x0a" * 32), "head.bans"),  # not a member
        (of_head(7, b"\x02" * 32 + b"\x01" * 32), "head.bans"),
        (of_head(7, b"\x01" * 64), "head.bans"),
        (of_head(10, b"\x0a" * 32), "head.waiting"),  # not a member
        (of_head(10, None), "head.waiting"),
        (of_head(8, bytes(3)), "head.missed"),
        (of_head(8, bytes([0, 0, 0, SILENT + 1])), "head.missed"),
        (of_link(1, [1]), "set"),
        (of_link(2, [b"\x10" * 32, ["merged", b"\x0f" * 32]]), "link.decision"),
        (of_link(3, 0), "link.round"),
        (of_link(4, [b""] * 5), "link.precommits"),
        (of_link(4, [None]), "link.precommits"),
    ],
)
def test_each_field_of_a_link_is_checked(value: Any, field: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_links(canonical.dumps([value]))
    assert caught.value.problems[0].where == f"payload.{field}"


def test_too_large_a_payload_is_refused_before_it_is_parsed() -> None:
    limits = {
        "vote": 64,
        "outcome/vote": 160,
        "fetch-model": 64,
        "sync": 32,
        "outcome/proposal": set_limit(NODES),
        "choice/proposal": set_limit(NODES),
        "certificate": set_limit(NODES),
        "contribution": 2**25,
    }
    for kind, limit in limits.items():
        with pytest.raises(WireError) as caught:
            DECODERS[kind](bytes(limit + 1))
        assert caught.value.code == "QRES-E401", kind


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


def test_a_set_is_named_by_everything_in_it_and_by_the_head() -> None:
    first, second = SET.members
    sets = [
        SET,
        attrs.evolve(SET, origin=2),
        attrs.evolve(SET, members=(first,)),
        attrs.evolve(SET, members=(attrs.evolve(first, standing=5), second)),
        attrs.evolve(SET, members=(attrs.evolve(first, digest=b"\x09" * 32), second)),
        attrs.evolve(SET, members=(attrs.evolve(first, sender=b"\x00" * 32), second)),
        attrs.evolve(SET, evidence=FULL.evidence),
        attrs.evolve(SET, evidence=FULL.evidence[:1]),
        attrs.evolve(SET, change=FULL.change),
        attrs.evolve(SET, change=ROSTER.change("ward", "add", b"\x0a" * 32)),
    ]
    names = {item.digest(b"\x05" * 32) for item in sets}
    names.add(SET.digest(b"\x07" * 32))
    assert len(names) == len(sets) + 1


def test_signatures_beside_a_set_are_not_part_of_its_name() -> None:
    """Whoever proposes a locked set again may have other signatures of the same statements."""
    bare = tuple(
        Misbehaviour.of(item.fault, *(message.with_auth({}) for message in item.messages))
        for item in FULL.evidence
    )
    assert FULL.change is not None
    unsigned = attrs.evolve(FULL, evidence=bare, change=ADDED)
    assert FULL.change != ADDED
    assert unsigned.digest(b"\x05" * 32) == FULL.digest(b"\x05" * 32)


@pytest.mark.parametrize(
    "decode",
    [
        lambda data: ContributionBody.from_bytes(data, 2**18),
        decode_links,
        lambda data: OutcomeProposal.from_bytes(data, 30),
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


def test_as_much_as_may_travel_beside_a_vector_does() -> None:
    names = [f"p{number}" for number in range(max(MAX_PROOFS, MAX_COMPANIONS))]
    proofs = {name: bytes(MAX_PROOF_BYTES) for name in names[:MAX_PROOFS]}
    beside = {name: Companion.of((7,), 2**512 - 1) for name in names[:MAX_COMPANIONS]}
    vector = pack(np.zeros(DIMENSION, np.int32))
    made = ContributionBody.from_bytes(encode_contribution(1, vector, proofs, beside), DIMENSION)
    assert made.proofs == proofs
    assert made.companions == beside


def test_a_code_may_be_as_long_as_any() -> None:
    longest = Conclusion(b"\x10" * 32, Void("x" * 32))
    assert decode_conclusion(encode_conclusion(longest)) == longest


@pytest.mark.parametrize(
    "odd", [7, [1], [-1, bytes(32)], [2**63, bytes(32)], [True, bytes(32)], [0, bytes(31)], [0, 7]]
)
def test_a_word_that_it_is_enough_is_looked_at(odd: Any) -> None:
    assert decode_enough(canonical.dumps([0, bytes(32)])) == (0, bytes(32))
    with pytest.raises(WireError):
        decode_enough(canonical.dumps(odd))


@pytest.mark.parametrize("odd", [7, [7], [b"x"], [b""] * (NODES + 1)])
def test_a_word_to_stop_quotes_messages_and_no_more_than_there_are_members(odd: Any) -> None:
    assert decode_stop(canonical.dumps([]), NODES) == ()
    with pytest.raises(WireError):
        decode_stop(canonical.dumps(odd), NODES)
