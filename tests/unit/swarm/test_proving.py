"""What proves a lie to everybody: every lie that was made, and nothing that an honest node does."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import combinations
from types import ModuleType
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_lab.testing import make_envelope, make_node_ids

from qres_core import Envelope, Fault, NodeId, canonical
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import WireError
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    Member,
    OutcomeProposal,
    Proposal,
    encode_conclusion,
    encode_vote,
)
from qres_core.swarm.ledger.misbehaviour import (
    MESSAGES,
    QUOTED_BYTES,
    Misbehaviour,
    MisbehaviourPool,
)
from qres_core.swarm.ledger.proving import (
    SAYS,
    Premises,
    conflict,
    flaws,
    proves,
)
from qres_core.swarm.ledger.results import Conclusion, Merged, Void

NODES = 4
IDS = make_node_ids(NODES)
HEAD, OTHER = b"\1" * 32, b"\2" * 32
ROUND = 6  # its proposer is the third node
PREMISES = Premises("swarm", HEAD, IDS, 3, lambda number: IDS[number % NODES])
LIAR = IDS[ROUND % NODES]
MADE, SPLIT, NONE = (
    Conclusion(HEAD, result) for result in (Merged(HEAD), Merged(OTHER), Void("QRES-E508"))
)
quick = settings(deadline=None, max_examples=60)


def members(count: int = 3, seed: int = 0) -> tuple[Member, ...]:
    return tuple(Member(sender, bytes([seed]) * 32) for sender in IDS[:count])


def proposal(count: int = 3, seed: int = 0, **fields: Any) -> bytes:
    origin = fields.pop("origin", ROUND)
    return Proposal(CandidateSet(origin, members(count, seed)), **fields).to_bytes()


def stranger() -> bytes:
    named = sorted([*members(2), Member(b"\7" * 32, b"\0" * 32)], key=lambda m: m.sender)
    return Proposal(CandidateSet(ROUND, tuple(named))).to_bytes()


@pytest.fixture(scope="module")
def make(harness: ModuleType) -> Callable[..., Envelope]:
    """A message of the liar, signed with its own key unless ``key`` is of another."""
    counter = iter(range(10**9))

    def make(kind: str, payload: bytes, *, key: NodeId | None = None, **fields: Any) -> Envelope:
        at = next(counter)
        values = {"swarm": "swarm", "round": ROUND, "head": HEAD, "sender": LIAR, **fields}
        envelope = Envelope(
            kind=kind, sequence=at, time_ms=1_700_000_000_000 + at, payload=payload, **values
        )
        return harness.sign(values["sender"] if key is None else key, envelope)

    return make


@pytest.fixture(scope="module")
def authentic(harness: ModuleType) -> Callable[[Envelope], bool]:
    return lambda envelope: harness.sign(envelope.sender, envelope).auth == envelope.auth


VOTES = ("choice/prevote", "choice/precommit")
BALLOTS = ("outcome/prevote", "outcome/precommit")
CONFLICTS: dict[str, tuple[str, bytes, bytes]] = {
    "contributions": ("contribution", b"first", b"second"),
    "sets": ("choice/proposal", proposal(seed=1), proposal(seed=2)),
    "sizes of a set": ("choice/proposal", proposal(3), proposal(4)),
    "standings": (
        "choice/proposal",
        proposal(),
        Proposal(
            CandidateSet(ROUND, (*members(2), attrs.evolve(members()[2], standing=1)))
        ).to_bytes(),
    ),
    **{f"{kind}s": (kind, encode_vote(HEAD), encode_vote(OTHER)) for kind in VOTES},
    **{f"{kind} and nil": (kind, encode_vote(HEAD), encode_vote(None)) for kind in VOTES},
    "models": (
        "outcome/proposal",
        OutcomeProposal(MADE).to_bytes(),
        OutcomeProposal(SPLIT).to_bytes(),
    ),
    **{f"{k} and a model": (k, *map(encode_conclusion, (MADE, SPLIT))) for k in BALLOTS},
    **{f"{k} and void": (k, *map(encode_conclusion, (MADE, NONE))) for k in BALLOTS},
    **{f"{k} and nil": (k, *map(encode_conclusion, (MADE, None))) for k in BALLOTS},
    "sets of one model": (
        "outcome/precommit",
        encode_conclusion(MADE),
        encode_conclusion(Conclusion(OTHER, MADE.result)),
    ),
}
FLAWS: dict[str, tuple[Fault, str, bytes]] = {
    "below quorum": (Fault.SET_BELOW_QUORUM, "choice/proposal", proposal(2)),
    "stranger": (Fault.SET_NAMES_STRANGER, "choice/proposal", stranger()),
    "fresh set of an earlier round": (
        Fault.SET_OF_OTHER_ROUND, "choice/proposal", proposal(origin=ROUND - 1),
    ),
    "lock of a later round": (
        Fault.SET_OF_OTHER_ROUND, "choice/proposal", proposal(lock_round=ROUND),
    ),
    "set made after its lock": (
        Fault.SET_OF_OTHER_ROUND, "choice/proposal",
        proposal(origin=ROUND - 1, lock_round=ROUND - 2),
    ),
    "malformed proposal": (Fault.MALFORMED_PAYLOAD, "choice/proposal", b"\xff"),
    "malformed outcome": (
        Fault.MALFORMED_PAYLOAD, "outcome/proposal", encode_conclusion(MADE),
    ),
    **{
        f"malformed {kind}": (Fault.MALFORMED_PAYLOAD, kind, canonical.dumps(7))
        for kind in (*VOTES, *BALLOTS)
    },
}  # fmt: skip
ALTERED: dict[str, Any] = {
    "head": OTHER,
    "round": ROUND + 1,
    "sender": IDS[1],
    "swarm": "other",
    "sequence": 2**40,
    "time_ms": 1,
}


def items(make: Callable[..., Envelope]) -> Iterator[Misbehaviour]:
    """Every lie of the tables, as it is to be proven."""
    for kind, *payloads in CONFLICTS.values():
        yield Misbehaviour.of(Fault.EQUIVOCATION, *(make(kind, payload) for payload in payloads))
    for fault, kind, payload in FLAWS.values():
        yield Misbehaviour.of(fault, make(kind, payload))
    yield Misbehaviour.of(
        Fault.NOT_THE_PROPOSER, make("choice/proposal", proposal(), sender=IDS[0])
    )


def decoded(value: object) -> Any:
    """The value, or the code of the only problem with it."""
    try:
        return Misbehaviour.from_raw(value)
    except WireError as error:
        (problem,) = error.problems
        return problem.code


# ── lies ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", CONFLICTS)
def test_two_messages_of_which_a_node_may_send_one_prove_it(
    case: str, make: Callable[..., Envelope], authentic: Callable[[Envelope], bool]
) -> None:
    kind, payload, another = CONFLICTS[case]
    first, second = make(kind, payload), make(kind, another)
    found = conflict(first, second, NODES)
    assert found is not None
    assert found == conflict(second, first, NODES)
    assert (found.fault, found.subject, found.head) == (Fault.EQUIVOCATION, LIAR, HEAD)
    assert proves(found, PREMISES, authentic)


@pytest.mark.parametrize("case", FLAWS)
def test_a_message_that_no_honest_node_signs_proves_it(
    case: str, make: Callable[..., Envelope], authentic: Callable[[Envelope], bool]
) -> None:
    fault, kind, payload = FLAWS[case]
    message = make(kind, payload)
    assert fault in flaws(message, PREMISES)
    assert proves(Misbehaviour.of(fault, message), PREMISES, authentic)


def test_a_proposal_of_another_proposers_round_proves_it(
    make: Callable[..., Envelope], authentic: Callable[[Envelope], bool]
) -> None:
    for sender in IDS:
        message = make("choice/proposal", proposal(), sender=sender)
        item = Misbehaviour.of(Fault.NOT_THE_PROPOSER, message)
        assert proves(item, PREMISES, authentic) is (sender != LIAR)


def test_nobody_is_asked_who_proposes_in_a_round_that_is_none(
    make: Callable[..., Envelope],
) -> None:
    asked: list[int] = []

    def proposer(number: int) -> NodeId:
        asked.append(number)
        return LIAR

    premises = attrs.evolve(PREMISES, proposer=proposer)
    zero = make("choice/proposal", proposal(origin=1), round=0, sender=IDS[0])
    assert flaws(zero, premises) == (Fault.SET_OF_OTHER_ROUND,)
    assert asked == []
    flaws(make("choice/proposal", proposal()), premises)
    assert asked == [ROUND]


def test_who_proposes_an_outcome_proves_nothing(make: Callable[..., Envelope]) -> None:
    """Whose turn it is depends on the decided set."""
    for sender in IDS:
        message = make("outcome/proposal", OutcomeProposal(MADE).to_bytes(), sender=sender)
        assert flaws(message, PREMISES) == ()
        item = Misbehaviour.of(Fault.NOT_THE_PROPOSER, message)
        assert not proves(item, PREMISES, lambda _m: True)


def test_every_transferable_fault_is_proven_by_somebody(make: Callable[..., Envelope]) -> None:
    assert {item.fault for item in items(make)} == set(MESSAGES)
    assert set(MESSAGES) == {fault for fault in Fault if fault.transferable}
    assert {kind for kind, *_payloads in CONFLICTS.values()} == set(SAYS)


# ── what is no lie ────────────────────────────────────────────────────────────────────────────────


def test_what_is_said_again_is_no_conflict(make: Callable[..., Envelope]) -> None:
    votes = [make("choice/prevote", encode_vote(HEAD), sender=sender, round=2) for sender in IDS]
    said = [proposal(origin=2, lock_round=2, prevotes=tuple(chosen)) for chosen in
            (votes[:3], votes[1:])]  # fmt: skip
    for kind, first, second in [
        ("choice/proposal", *said),
        ("contribution", b"update", b"update"),
        *((kind, encode_vote(choice), encode_vote(choice)) for kind in VOTES
          for choice in (None, HEAD)),
        ("outcome/proposal", OutcomeProposal(MADE).to_bytes(),
         OutcomeProposal(MADE, 2, tuple(votes[:3])).to_bytes()),
        *((kind, encode_conclusion(found), encode_conclusion(found)) for kind in BALLOTS
          for found in (None, MADE, NONE)),
    ]:  # fmt: skip
        pair = make(kind, first), make(kind, second)
        assert conflict(*pair, NODES) is None
        assert (
            proves(Misbehaviour.of(Fault.EQUIVOCATION, *pair), PREMISES, lambda _m: True) is False
        )


@pytest.mark.parametrize("case", CONFLICTS)
@pytest.mark.parametrize("field", ["head", "round", "swarm"])
def test_messages_of_two_places_are_no_conflict(
    case: str, field: str, make: Callable[..., Envelope]
) -> None:
    kind, first, second = CONFLICTS[case]
    pair = make(kind, first), make(kind, second, **{field: ALTERED[field]})
    assert conflict(*pair, NODES) is None
    assert not proves(Misbehaviour.of(Fault.EQUIVOCATION, *pair), PREMISES, lambda _m: True)


def test_two_kinds_two_senders_and_kinds_that_may_be_sent_often_are_no_conflict(
    make: Callable[..., Envelope],
) -> None:
    vote, nil = encode_vote(HEAD), encode_vote(None)
    assert conflict(make("choice/prevote", vote), make("choice/precommit", nil), NODES) is None
    assert (
        conflict(make("choice/prevote", vote), make("choice/prevote", nil, sender=IDS[0]), NODES)
        is None
    )
    for kind in (
        "fetch",
        "links",
        "dialogue/secagg/1",
        "certificate",
        "attestation",
        "outcome/lock",
    ):
        assert conflict(make(kind, b"first"), make(kind, b"second"), NODES) is None
        assert flaws(make(kind, b"\xff"), PREMISES) == ()


def test_a_sound_message_has_no_flaw(make: Callable[..., Envelope]) -> None:
    for kind, payload in [
        ("choice/proposal", proposal(3)),
        ("choice/proposal", proposal(4, origin=2, lock_round=2)),
        ("choice/proposal", proposal(4, origin=2, lock_round=ROUND - 1)),
        *((kind, encode_vote(choice)) for kind in VOTES for choice in (None, HEAD)),
        *((kind, encode_conclusion(found)) for kind in BALLOTS for found in (None, MADE, NONE)),
        ("outcome/proposal", OutcomeProposal(NONE).to_bytes()),
        ("contribution", b"whatever it is"),
    ]:
        message = make(kind, payload)
        assert flaws(message, PREMISES) == ()
        for fault, count in MESSAGES.items():
            if count == 1:
                assert not proves(Misbehaviour.of(fault, message), PREMISES, lambda _m: True)


def evidence_in(net: Any, index: int) -> list[Misbehaviour]:
    """All that the messages of a node prove, every two of them in one place compared."""
    signed = {m.envelope.signing_digest: m.envelope for m in net.sent if m.sender == index}
    places: dict[tuple[object, ...], list[Envelope]] = defaultdict(list)
    found: list[Misbehaviour] = []
    ids = net.ids
    for message in signed.values():
        places[message.head, message.kind, message.round].append(message)
        premises = Premises(
            message.swarm, message.head, ids, net.raw_swarm["quorum"],
            lambda number: ids[number % len(ids)],
        )  # fmt: skip
        found += (Misbehaviour.of(fault, message) for fault in flaws(message, premises))
    for messages in places.values():
        for first, second in combinations(messages, 2):
            item = conflict(first, second, len(ids))
            found += [] if item is None else [item]
    return found


class Killed(BaseException):
    """A node's process ends as it writes its journal down."""


RECORDS = ("record_vote", "record_lock", "record_outcome_lock", "record_chosen", "record_height")


def kill_at_writes(notebook: type, chance: random.Random, patch: pytest.MonkeyPatch) -> None:
    """A write to a journal is now and then the last that a process does, before it speaks."""

    def killing(write: Callable[..., None]) -> Callable[..., None]:
        def record(self: Any, *arguments: Any) -> None:
            write(self, *arguments)
            if chance.random() < 0.1:
                raise Killed(id(self))

        return record

    for name in RECORDS:
        patch.setattr(notebook, name, killing(getattr(notebook, name)))


def run(net: Any, seconds: float) -> None:
    """Run on; whoever is killed comes back at once."""
    end = net.now + seconds
    while net.now < end:
        try:
            net.run(seconds=end - net.now)
        except Killed as killed:
            victim = killed.args[0]
        else:
            continue
        while True:
            index = next(node.index for node in net.nodes if id(node.notebook) == victim)
            try:
                net.restart(index)
            except Killed as again:
                victim = again.args[0]
            else:
                break


@attrs.frozen
class Fickle:
    """A dialogue that says nothing, and finishes or not."""

    finished: bool
    ready = True

    def start(self) -> list[Send]:
        return []

    def receive(self, message: DialogueMessage) -> list[Send]:
        del message
        return []

    def tick(self, now: float) -> list[Send]:
        del now
        return []

    def decided(self, *_agreed: Any) -> list[Send]:
        return []


def run_with_restarts(harness: ModuleType, seed: int) -> Any:
    """A bad network whose nodes are killed and come back, all of them honest.

    Some are killed as they write. What nodes find differs, also before and after a restart, so
    some outcomes take several attempts.
    """
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        script = staticmethod(lambda *_round: Fickle(rng.random() < 0.75))
        patch.setattr(harness.Talk, "script", script)
        net = harness.Net(4, byzantine=1, plugins={"talk": {}})
        net.rule = harness.Chaos(net, rng, {}, heals=harness.START + 8.0)
        kill_at_writes(harness.Notebook, rng, patch)
        try:
            net.start()
        except Killed:  # it has said nothing yet
            return run_with_restarts(harness, seed + 1000)
        for _ in range(5):
            run(net, rng.uniform(0.0, 1.5))
            for index in rng.sample(range(4), rng.choice([1, 1, 4])):
                with suppress(Killed):
                    net.restart(index)
        run(net, 10.0)
    return net


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_honest_nodes_signed_proves_anything(harness: ModuleType, seed: int) -> None:
    net = run_with_restarts(harness, seed)
    assert [evidence_in(net, index) for index in range(4)] == [[], [], [], []]


@pytest.mark.long
def test_those_runs_have_every_kind_of_message_that_can_prove_something(
    harness: ModuleType,
) -> None:
    """The control."""
    nets = [run_with_restarts(harness, seed) for seed in range(3, 6)]
    assert {message.kind for net in nets for message in net.sent} >= set(SAYS)
    heights = [max(net.machine(index).head.height for index in range(4)) for net in nets]
    assert min(heights) > 0
    assert max(max(net.steps()) for net in nets) > 0, "for all that, the swarm makes models"
    assert sum(node.life for net in nets for node in net.nodes) > 50


@pytest.mark.parametrize("seed", range(10, 40))
@pytest.mark.long
def test_nothing_that_honest_nodes_signed_ever_proves_anything(
    harness: ModuleType, seed: int
) -> None:
    net = run_with_restarts(harness, seed)
    assert [evidence_in(net, index) for index in range(4)] == [[], [], [], []]


@pytest.mark.long
def test_nodes_that_forget_what_they_voted_prove_it_themselves(harness: ModuleType) -> None:
    """The control: the same runs find something where a journal keeps no votes."""
    found: list[Misbehaviour] = []
    for seed in range(3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.Notebook, "record_vote", lambda *_arguments: None)
            # Sets of one height may differ then, which the harness would notice by itself.
            patch.setattr(harness.Notebook, "record_chosen", lambda *_arguments: None)
            net = run_with_restarts(harness, seed)
        found += (item for index in range(4) for item in evidence_in(net, index))
    assert Fault.EQUIVOCATION in {item.fault for item in found}


@pytest.mark.parametrize("kept", [True, False])
def test_a_restarted_node_that_finds_otherwise_says_what_it_said(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """The other case is the control: a journal that keeps no votes on outcomes."""
    finishes = [True]
    script = staticmethod(lambda *_round: Fickle(finishes[0]))
    monkeypatch.setattr(harness.Talk, "script", script)
    if not kept:
        keep = harness.Notebook.record_vote

        def forget(self: Any, number: int, kind: str, choice: bytes | None) -> None:
            if not kind.startswith("outcome/"):
                keep(self, number, kind, choice)

        monkeypatch.setattr(harness.Notebook, "record_vote", forget)
        monkeypatch.setattr(harness.Notebook, "record_made", lambda *_arguments: None)
    undecided = harness.drop(kind="outcome/precommit")
    net = harness.Net(4, byzantine=1, plugins={"talk": {}}, rule=undecided)

    def told() -> list[Any]:
        return [m for m in net.sent if (m.kind, m.sender) == ("outcome/prevote", 0)]

    net.start()
    assert net.run(until=lambda: len(told()) > 0)
    before = len(told())
    finishes[0] = False
    net.restart(0)
    net.run(seconds=4.0)
    assert len(told()) > before, "it says it again, or something else"
    assert len({message.envelope.payload for message in told()}) == (1 if kept else 2)
    assert [item.fault for item in evidence_in(net, 0)[:1]] == (
        [] if kept else [Fault.EQUIVOCATION]
    )


@pytest.mark.parametrize("kind", ["outcome/prevote", "outcome/precommit", None])
def test_whoever_votes_twice_on_an_outcome_is_banned(harness: ModuleType, kind: str | None) -> None:
    """By all nodes alike, and nobody else is. The control: without a lie nobody is banned."""

    def lie(message: Any) -> Any:
        if message.kind != kind or message.sender != 3:
            return None
        other = encode_conclusion(Conclusion(OTHER, Void("QRES-E508")))
        envelope = message.envelope
        second = net.forge(3, kind, other, number=envelope.round, model=envelope.head)
        return [(harness.DELAY / 4, frame) for frame in (message.frame, second.to_bytes())]

    net = harness.Net(4, byzantine=1, rule=lie)
    net.start()
    net.run(until=lambda: min(net.machine(index).head.height for index in range(3)) >= 4)
    bans = {net.machine(index).head.bans for index in range(3)}
    assert bans == {(net.ids[3],) if kind else ()}
    assert net.forks(range(3)) == {}


# ── what is altered ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("field", ALTERED)
def test_an_altered_message_proves_nothing(
    field: str, make: Callable[..., Envelope], authentic: Callable[[Envelope], bool]
) -> None:
    for item in items(make):
        assert proves(item, PREMISES, authentic)
        altered = [attrs.evolve(m, **{field: ALTERED[field]}) for m in item.messages]
        whole = Misbehaviour.of(item.fault, *altered)
        assert not proves(whole, PREMISES, authentic)


@quick
@given(case=st.integers(0, 99), at=st.integers(0, 1), bit=st.integers(0, 2**20))
def test_a_changed_bit_proves_nothing(
    case: int,
    at: int,
    bit: int,
    make: Callable[..., Envelope],
    authentic: Callable[[Envelope], bool],
) -> None:
    made = list(items(make))
    fault, frames = made[case % len(made)].raw()
    at %= len(frames)
    bit %= 8 * len(frames[at])
    octets = bytearray(frames[at])
    octets[bit // 8] ^= 1 << bit % 8
    frames[at] = bytes(octets)
    altered = decoded([fault, frames])
    assert altered == "QRES-E404" or not proves(altered, PREMISES, authentic)


def test_other_premises_and_other_keys_prove_nothing(
    make: Callable[..., Envelope], authentic: Callable[[Envelope], bool]
) -> None:
    others = [
        attrs.evolve(PREMISES, head=OTHER),
        attrs.evolve(PREMISES, swarm="other"),
        attrs.evolve(PREMISES, roster=()),
    ]
    for item in items(make):
        assert not any(proves(item, premises, authentic) for premises in others)
        forged = [make(m.kind, m.payload, sender=m.sender, key=b"\5" * 32) for m in item.messages]
        assert not proves(Misbehaviour.of(item.fault, *forged), PREMISES, authentic)


def test_at_most_two_signatures_are_checked_and_none_of_what_proves_nothing(
    make: Callable[..., Envelope],
) -> None:
    asked: list[Envelope] = []

    def authentic(message: Envelope) -> bool:
        asked.append(message)
        return True

    for item in items(make):
        asked.clear()
        assert proves(item, PREMISES, authentic)
        assert asked == list(item.messages)
        asked.clear()
        assert not proves(item, attrs.evolve(PREMISES, head=OTHER), authentic)
        assert asked == []


def test_a_fault_is_proven_by_messages_of_that_fault_alone(
    make: Callable[..., Envelope],
) -> None:
    for item in items(make):
        for fault, count in MESSAGES.items():
            if count == len(item.messages):
                other = attrs.evolve(item, fault=fault)
                assert proves(other, PREMISES, lambda _m: True) is (fault is item.fault)


def test_messages_without_an_authenticator_prove_nothing(make: Callable[..., Envelope]) -> None:
    for item in items(make):
        bare = Misbehaviour.of(item.fault, *(m.with_auth({}) for m in item.messages))
        assert not proves(bare, PREMISES, lambda _m: True)
        assert proves(item, PREMISES, lambda _m: True)


# ── the codec ─────────────────────────────────────────────────────────────────────────────────────


def test_what_goes_in_comes_out_and_two_of_one_content_are_equal(
    make: Callable[..., Envelope],
) -> None:
    made = list(items(make))
    assert len(set(made)) == len({item.digest for item in made}) == len(made)
    for item in made:
        again = Misbehaviour.from_raw(canonical.loads(canonical.dumps(item.raw()), max_bytes=2**20))
        assert again == item
        assert again.digest == item.digest
        assert hash(again) == hash(item)
        unsigned = Misbehaviour.of(item.fault, *(m.with_auth({}) for m in item.messages))
        assert (unsigned, unsigned.digest) == (item, item.digest)
        assert unsigned.raw() != item.raw()


def test_other_forms_are_refused_by_one_error(make: Callable[..., Envelope]) -> None:
    vote, nil = make("choice/prevote", encode_vote(HEAD)), make("choice/prevote", encode_vote(None))
    foreign = make("choice/prevote", encode_vote(None), sender=IDS[0])
    two = sorted([vote, nil], key=lambda m: m.signing_digest)
    good, bad = [m.to_bytes() for m in two], Fault.MALFORMED_PAYLOAD.value
    large = make("contribution", bytes(QUOTED_BYTES))
    equivocation = Fault.EQUIVOCATION.value
    Misbehaviour.from_raw([equivocation, good])
    for value in [
        None, b"", [], {}, [equivocation], [equivocation, good, 1],
        ["unproven-lock", good[:1]], ["nonsense", good], [1, good], [None, []],
        ["unproven-lock", []], [equivocation, []], [equivocation, good[:1]],
        [equivocation, good[::-1]], [equivocation, [good[0], good[0]]],
        [equivocation, [*good, good[0]]], [bad, good], [bad, [7]], [bad, [b""]],
        [bad, [memoryview(good[0])]], [bad, [large.to_bytes()]], [bad, {0: good[0]}],
        [equivocation, sorted([vote.to_bytes(), foreign.to_bytes()])],
    ]:  # fmt: skip
        with pytest.raises(WireError) as caught:
            Misbehaviour.from_raw(value)
        assert caught.value.problems[0].code == "QRES-E404", value


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40)
    | st.text(max_size=20) | st.sampled_from(sorted(fault.value for fault in Fault)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(value=plain | st.tuples(st.sampled_from(sorted(MESSAGES)), st.lists(st.binary())).map(list))
def test_whatever_comes_is_a_value_or_one_error(value: object) -> None:
    item = decoded(value)
    assert item == "QRES-E404" or item.raw() == value


# ── the pool ──────────────────────────────────────────────────────────────────────────────────────


def against(make: Callable[..., Envelope], sender: NodeId, extra: int = 0) -> Misbehaviour:
    return Misbehaviour.of(
        Fault.MALFORMED_PAYLOAD, make("choice/prevote", b"\xff" + bytes(extra), sender=sender)
    )


def size_of(item: Misbehaviour) -> int:
    return sum(len(message.to_bytes()) for message in item.messages)


def test_the_pool_keeps_the_smallest_proof_of_each_subject(make: Callable[..., Envelope]) -> None:
    pool = MisbehaviourPool(NODES)
    large, small = against(make, IDS[0], 500), against(make, IDS[0])
    assert pool.add(large)
    assert not pool.add(attrs.evolve(large))
    assert pool.add(small)
    assert not pool.add(large)
    assert pool.for_proposal(10**6) == (small,)
    assert not pool.add(against(make, IDS[1], QUOTED_BYTES))
    assert IDS[1] not in pool


def test_the_pool_holds_no_more_than_it_may(make: Callable[..., Envelope]) -> None:
    pool = MisbehaviourPool(2)
    assert pool.add(against(make, IDS[0], 9))
    assert pool.add(against(make, IDS[1]))
    assert not pool.add(against(make, IDS[2]))
    assert pool.add(against(make, IDS[0]))  # a smaller one takes no further place
    assert len(pool) == 2


def test_a_proposal_takes_what_fits_by_age_and_names_it_by_subject(
    make: Callable[..., Envelope],
) -> None:
    pool = MisbehaviourPool(NODES)
    found = [against(make, IDS[3]), against(make, IDS[2], 5000), against(make, IDS[0])]
    assert all(pool.add(item) for item in found)
    assert pool.for_proposal(10**6) == tuple(reversed(found))
    least = size_of(found[0]) + size_of(found[2])
    assert pool.for_proposal(least) == (found[2], found[0])
    assert pool.for_proposal(least - 1) == (found[0],)
    assert pool.for_proposal(0) == ()


def test_the_pool_forgets_who_is_banned_or_gone(make: Callable[..., Envelope]) -> None:
    pool = MisbehaviourPool(NODES)
    kept, banned = against(make, IDS[0]), against(make, IDS[1])
    pool.add(kept)
    pool.add(banned)
    pool.retain(lambda item: item.subject != IDS[1])
    assert pool.for_proposal(10**6) == (kept,)


@quick
@given(
    sizes=st.lists(st.tuples(st.integers(0, NODES - 1), st.integers(0, 300)), max_size=30),
    limit=st.integers(0, 3000),
    most=st.integers(0, NODES),
)
def test_a_pool_is_bounded_whatever_is_put_in(
    sizes: list[tuple[int, int]], limit: int, most: int, make: Callable[..., Envelope]
) -> None:
    pool = MisbehaviourPool(most)
    for index, extra in sizes:
        pool.add(against(make, IDS[index], extra))
    chosen = pool.for_proposal(limit)
    subjects = [item.subject for item in chosen]
    assert len(pool) <= most
    assert subjects == sorted(set(subjects))
    assert sum(size_of(item) for item in chosen) <= limit


@pytest.mark.parametrize(
    "raw", [[[], []], [Fault.EQUIVOCATION.value, 5], [Fault.EQUIVOCATION.value, []]], ids=str
)
def test_what_is_no_fault_with_its_messages_is_refused_by_name(raw: Any) -> None:
    with pytest.raises(WireError, match="misbehaviour"):
        Misbehaviour.from_raw(raw)


def test_a_fault_has_as_many_messages_as_prove_it() -> None:
    first, other = make_envelope(sequence=1), make_envelope(sequence=2)
    assert Misbehaviour.of(Fault.EQUIVOCATION, first, other)
    assert Misbehaviour.of(Fault.MALFORMED_PAYLOAD, first)
    for fault, messages in (
        (Fault.EQUIVOCATION, [first]),
        (Fault.MALFORMED_PAYLOAD, [first, other]),
    ):
        with pytest.raises(WireError, match="the messages that prove it"):
            Misbehaviour.of(fault, *messages)
    with pytest.raises(WireError, match="transferable"):
        Misbehaviour.of(Fault.UNPROVEN_LOCK, first)


def test_a_message_as_large_as_may_be_quoted_is_kept_and_a_larger_one_is_not() -> None:
    room = QUOTED_BYTES - len(make_envelope(payload=bytes(2**16)).to_bytes()) + 2**16
    for octets, kept in ((room, True), (room + 1, False)):
        message = make_envelope(payload=bytes(octets))
        assert (len(message.to_bytes()) <= QUOTED_BYTES) is kept
        assert MisbehaviourPool(1).add(Misbehaviour.of(Fault.MALFORMED_PAYLOAD, message)) is kept
