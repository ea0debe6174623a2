"""Contributions taken in and handed on: one check at a time, past every other."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from qres_lab.testing import make_envelope

from qres_core import Blame, Envelope, Fault, reject
from qres_core.contract import canonical
from qres_core.errors import WireError
from qres_core.swarm.contributions import intake as collecting
from qres_core.swarm.contributions.intake import Collector, fits_quoted
from qres_core.swarm.ledger.messages import (
    CandidateSet,
    ContributionBody,
    Member,
    contribution_digest,
)
from qres_core.swarm.storage.kept_contributions import MAX_PER_SENDER
from qres_core.swarm.storage.shelf import Allowance

LIAR = 1  # proposes round 1, and says nothing by itself
BULK: dict[str, Any] = {"plugins": {"bulk": {}}}


def stage(harness: ModuleType, nodes: int = 4, byzantine: int = 1, **more: Any) -> Any:
    """Round 1 with the contributions of all but the liar, and no proposal."""
    net = harness.Net(nodes, byzantine=byzantine, puppets=(LIAR,), **more)
    net.start()
    net.run(seconds=0.2)
    return net


@pytest.fixture(name="net")
def _net(harness: ModuleType) -> Any:
    return stage(harness)


def collector(net: Any) -> Collector:
    found = net.machine(0)._collector
    assert isinstance(found, Collector)
    return found


def made(net: Any, value: int = 7, *, number: int = 1, by: int = LIAR, good: bool = True) -> Any:
    """A contribution; with the proof that the plugin wants, if it is a good one."""
    vector = np.full(3, value, dtype=np.int32)
    proofs = {}
    if "bulk" in net.plugins:
        proofs = {"bulk": net.nodes[0].plugin("bulk").of(vector, net.machine(0).model_digest)}
        proofs = proofs if good else {"bulk": b"wrong"}
    body = ContributionBody(1, vector, proofs).to_bytes()
    return net.forge(by, "contribution", body, number=number, model=net.machine(0).head.digest)


def take(net: Any, envelope: Envelope, *sets: CandidateSet, decided: Any = None) -> bool:
    """Whether node 0 has it then."""
    collector(net).take(envelope, decided=decided, sets=sets)
    return has(net, envelope)


def has(net: Any, envelope: Envelope) -> bool:
    return collector(net).gathering.get(contribution_digest(envelope)) is not None


def naming(*envelopes: Envelope, origin: int = 1) -> CandidateSet:
    pairs = sorted((envelope.sender, contribution_digest(envelope)) for envelope in envelopes)
    return CandidateSet(origin, tuple(Member(*pair) for pair in pairs))


@pytest.fixture(name="decoded")
def _decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Payloads that were decoded, in their order."""
    payloads: list[bytes] = []
    decode = ContributionBody.from_bytes

    def counted(payload: bytes, dimension: int) -> ContributionBody:
        payloads.append(payload)
        return decode(payload, dimension)

    monkeypatch.setattr(ContributionBody, "from_bytes", counted)
    return payloads


# ── taking in ─────────────────────────────────────────────────────────────────────────────────────


def test_who_was_not_drawn_is_not_heard_unless_a_set_names_it(harness: ModuleType) -> None:
    net = stage(harness, 7, 2, quorum=3, options={"participants": 4})
    drawn = net.machine(0)._context.drawn(1)
    idle, busy = (
        next(i for i, who in enumerate(net.ids) if (who in drawn) is chosen and i)
        for chosen in (False, True)
    )
    assert not take(net, made(net, by=idle))
    assert net.ids[idle] not in collector(net).here()
    assert take(net, made(net, by=idle), naming(made(net, by=idle)))
    assert net.ids[busy] in collector(net).here() or take(net, made(net, by=busy)), "control"


def test_what_is_late_is_taken_if_a_set_names_it_and_not_beside_one_that_does_not(net: Any) -> None:
    late, other = made(net, number=0), made(net, 8)
    assert not take(net, late)
    assert not take(net, late, naming(other))
    assert take(net, late, naming(late, origin=0)), "control"


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_here_is_not_decoded_again(
    harness: ModuleType,
    decoded: list[bytes],
    waits: bool,  # noqa: FBT001 - whether its proof is still to be checked
) -> None:
    net = stage(harness, **(BULK if waits else {}))
    decoded.clear()
    assert take(net, made(net)) is not waits
    assert take(net, made(net)) is not waits, "signed again"
    assert len(decoded) == 1
    assert not net.nodes[0].refused


def test_what_is_no_contribution_is_decoded_once_and_refused_each_time(
    net: Any, decoded: list[bytes]
) -> None:
    head = net.machine(0).head.digest
    decoded.clear()
    for _ in range(3):
        with pytest.raises(WireError):
            take(net, net.forge(LIAR, "contribution", b"junk", number=1, model=head))
    assert len(decoded) == 1


def test_of_one_sender_a_few_are_decoded_and_all_but_the_first_held_against_it(
    net: Any, decoded: list[bytes]
) -> None:
    decoded.clear()
    for value in range(MAX_PER_SENDER + 3):
        take(net, made(net, value))
    assert len(decoded) == MAX_PER_SENDER
    assert net.nodes[0].refused[Fault.EQUIVOCATION] == MAX_PER_SENDER + 2
    named = made(net, 99)
    assert take(net, named, naming(named)), "what a set names is taken all the same"


def test_what_nobody_could_quote_is_refused_unless_a_quorum_decided_on_it(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = made(net)
    with monkeypatch.context() as patched:
        patched.setattr(collecting, "fits_quoted", lambda *_given: False)
        for sets in ((), (naming(long),)):
            with pytest.raises(WireError, match="QRES-E401"):
                take(net, long, *sets)
        assert take(net, long, decided=naming(long))
    assert take(net, made(net, 8)), "control"


@pytest.mark.parametrize(("room", "fits"), [(0, True), (1, True), (-1, False)])
def test_a_quote_has_room_for_the_message_and_what_is_beside_it(room: int, *, fits: bool) -> None:
    envelope = make_envelope(payload=bytes(5000)).with_auth({"mac": bytes(100)})
    most = 5000 + 2 * (collecting._BESIDE + 100) + room
    assert fits_quoted(envelope, most) is fits


def test_the_contributions_of_a_round_are_those_with_good_proofs(harness: ModuleType) -> None:
    net = stage(harness, **BULK)
    take(net, made(net, good=False))
    others = {net.ids[index] for index in (0, 2, 3)}
    assert len(collector(net).checks) == 4
    assert set(collector(net).of_round()) == others
    assert net.nodes[0].refused["bulk:bad-proof"] == 1


def test_a_vote_needs_all_of_a_set_and_that_it_can_be_had(
    net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = made(net)
    candidate = naming(mine)
    assert not collector(net).has(candidate)
    assert take(net, mine)
    assert collector(net).has(candidate), "control"
    monkeypatch.setattr(collector(net).aggregation, "available", lambda *_given: False)
    assert not collector(net).has(candidate)


# ── handing on ────────────────────────────────────────────────────────────────────────────────────


def fetched(net: Any, quoted: Envelope) -> Envelope | None:
    head = net.machine(0).head.digest
    answer = net.forge(2, "fetched", quoted.to_bytes(), number=1, model=head)
    return collector(net).quoted(answer, net.now, ())


def test_a_quoted_contribution_of_another_head_is_refused(net: Any) -> None:
    assert fetched(net, made(net)) is not None, "control"
    assert not net.nodes[0].refused
    body = made(net).payload
    elsewhere = net.forge(LIAR, "contribution", body, number=1, model=b"\x66" * 32)
    assert fetched(net, elsewhere) is None
    assert net.nodes[0].refused[Fault.UNPROVEN_CONTRIBUTION] == 1


@pytest.mark.parametrize("replaced", [True, False])
def test_a_quoted_contribution_that_nobody_proves_is_refused(
    net: Any, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    """Its author may have replaced the key since: then nobody is blamed."""
    kernel = net.machine(0).kernel
    monkeypatch.setattr(kernel.intake, "key_index", lambda _who: int(replaced))
    bad = reject("bad-tag", blame=Blame.LINK)
    monkeypatch.setattr(kernel, "quoted", lambda *_given: bad)
    assert fetched(net, made(net)) is None
    assert net.nodes[0].refused[Fault.UNPROVEN_CONTRIBUTION] == 1
    blamed = [item.subject for item in net.nodes[0].witness.evidence]
    assert blamed == ([] if replaced else [net.ids[2]])


def answers(net: Any, digests: list[bytes], head: bytes | None = None) -> int:
    """How many contributions node 2 is sent that asks node 0 for them."""
    here = net.machine(0).head.digest if head is None else head
    asked = net.forge(2, "fetch", canonical.dumps(digests), number=1, model=here)
    outlet = net.machine(0)._outlet
    outlet.take()
    collector(net).answer(asked, net.now)
    return len(outlet.take())


def test_who_asks_is_given_what_it_asks_for_and_again_after_a_pause(net: Any) -> None:
    digests = collector(net).gathering.after(0)
    assert answers(net, digests, head=b"\x66" * 32) == 0, "its head is another"
    assert answers(net, digests) == len(digests) == 3
    assert answers(net, digests) == 0
    net.now += net.machine(0).swarm.vote_timeout
    assert answers(net, digests) == 3


def test_who_asks_for_all_at_once_is_given_what_memory_allows(net: Any) -> None:
    digests = collector(net).gathering.after(0)
    collector(net)._allowance = Allowance(1, 10.0)
    assert answers(net, digests) == 1


# ── proofs that wait ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("proof_checks", ["everyone", "committee"])
def test_what_a_set_names_is_checked_and_kept_when_the_next_round_begins(
    harness: ModuleType, proof_checks: str
) -> None:
    net = stage(harness, 7, 2, options={"proof_checks": proof_checks}, **BULK)
    checks = collector(net).checks
    for held in [*checks.waiting.values()]:
        del checks.waiting[held.contribution.digest]
    good, bad = made(net, by=5), made(net, 8, by=6, good=False)
    for envelope in (good, bad):
        held = collector(net)._held(envelope, contribution_digest(envelope))
        checks.waiting[held.contribution.digest] = held
    checks.open_round([contribution_digest(envelope) for envelope in (good, bad)])
    assert len(checks) == 0
    assert has(net, good)
    assert not has(net, bad)
    assert net.nodes[0].refused["bulk:bad-proof"] == 1


def test_what_is_asked_for_is_checked_first_and_nothing_else_is(harness: ModuleType) -> None:
    net = stage(harness, **BULK)
    checks = collector(net).checks
    assert checks.lend([bytes(32)]) == {}
    assert len(checks) == 3
    digest = next(iter(checks.waiting))
    assert checks.lend([digest]) == {}
    assert len(checks) == 0
    assert collector(net).gathering.get(digest) is not None
