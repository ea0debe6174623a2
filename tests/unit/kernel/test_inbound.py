"""The path of an incoming frame: each check only if all before it accepted; refusals count."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_lab.testing.builders import make_envelope, make_node_ids, make_node_info

from qres_core import (
    ACCEPT,
    Blame,
    Envelope,
    Evidence,
    Fault,
    NodeId,
    Standing,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.contract.wire import MAX_AUTHENTICATOR, NUMBERS_PER_KEY, QUOTED_KINDS
from qres_core.errors import HookError
from qres_core.kernel import inbound
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel

MakeKernel = Callable[..., Kernel]
SENDER, LINK, OTHER, _FOURTH = make_node_ids(4)
STRANGER = hashlib.sha256(b"stranger").digest()


@attrs.define
class Mac:
    """A shared-key authenticator; blames as it is told to."""

    asked: list[Envelope] = attrs.field(factory=list, init=False)
    blame: Blame = attrs.field(default=Blame.LINK, init=False)

    @staticmethod
    def tag(envelope: Envelope) -> bytes:
        return hmac.digest(b"key", envelope.signing_digest, "sha256")

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return self.tag(envelope)

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        self.asked.append(envelope)
        if envelope.auth.get("mac") == self.tag(envelope):
            return ACCEPT
        return reject("bad-tag", blame=self.blame)


@attrs.define
class Replay:
    seen: set[bytes] = attrs.field(factory=set, init=False)
    asked: int = attrs.field(default=0, init=False)
    blame: Blame = attrs.field(default=Blame.LINK, init=False)

    @hookimpl
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        self.asked += 1
        if envelope.signing_digest in self.seen:
            return reject(Fault.REPLAYED, blame=self.blame)
        self.seen.add(envelope.signing_digest)
        return ACCEPT if now >= 0 else reject("too-early")


@attrs.define
class Gate:
    banned: set[NodeId] = attrs.field(factory=set, init=False)
    asked: int = attrs.field(default=0, init=False)
    answer: Any = attrs.field(default=None, init=False)
    told: list[Evidence] = attrs.field(factory=list, init=False)

    @hookimpl
    def reputation(self, sender: NodeId) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Standing(banned=sender in self.banned)

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self.told.append(evidence)


@attrs.frozen
class Parts:
    kernel: Kernel
    mac: Any
    replay: Any
    gate: Any

    def inbound(self, envelope: Envelope, now: float = 0.0) -> Envelope | Rejection:
        return self.kernel.inbound(envelope.to_bytes(), LINK, now)

    def passes(self, envelope: Envelope, link: NodeId = LINK) -> bool:
        result = self.kernel.inbound(envelope.to_bytes(), link, 0.0)
        return isinstance(result, Envelope) and result.to_bytes() == envelope.to_bytes()

    def refused(self, envelope: Envelope, now: float = 0.0) -> Rejection:
        result = self.inbound(envelope, now)
        assert isinstance(result, Rejection)
        return result


@pytest.fixture
def parts(make_kernel: MakeKernel) -> Parts:
    kernel = make_kernel(
        {"mac": Mac, "replay": Replay, "gate": Gate}, insecure=False, max_message_bytes=2048
    )
    by_name = {plugin.name: plugin.instance for plugin in kernel.enabled}
    return Parts(kernel, by_name["mac"], by_name["replay"], by_name["gate"])


def signed(parts: Parts, **fields: Any) -> Envelope:
    return parts.kernel.sign(make_envelope(**{"sender": SENDER, **fields}))


def forged(**fields: Any) -> Envelope:
    return make_envelope(**{"sender": SENDER, **fields}).with_auth({"mac": bytes(32)})


# ── what passes ───────────────────────────────────────────────────────────────────────────────────


def test_a_good_message_passes_every_check_and_nobody_is_blamed(parts: Parts) -> None:
    assert parts.passes(signed(parts))
    # The gate is asked about the link first, and about the sender at the end.
    assert (len(parts.mac.asked), parts.replay.asked, parts.gate.asked) == (1, 1, 2)
    assert not parts.kernel.rejections
    assert parts.gate.told == []


def test_any_link_may_deliver_a_message_of_any_member(parts: Parts) -> None:
    for link in (SENDER, OTHER, STRANGER):
        assert parts.passes(signed(parts, sequence=link[0]), link)


def test_a_banned_link_is_refused_before_a_signature_is_checked(parts: Parts) -> None:
    parts.gate.banned.add(LINK)
    assert parts.refused(signed(parts)) == Rejection(Fault.BANNED, Blame.NOBODY, None, "kernel")
    assert (parts.mac.asked, parts.replay.asked) == ([], 0)


# ── what does not, and whose fault it is ──────────────────────────────────────────────────────────


def test_a_message_is_measured_before_it_is_parsed(parts: Parts) -> None:
    refused = parts.refused(signed(parts, payload=bytes(2048)))
    assert refused == Rejection(Fault.FRAME_TOO_LARGE, Blame.LINK, LINK, "kernel")
    assert not parts.mac.asked


@pytest.mark.parametrize("frame", [b"", b"\xff", b"\x80", b"not a frame at all"])
def test_a_malformed_frame_blames_the_link(parts: Parts, frame: bytes) -> None:
    refused = parts.kernel.inbound(frame, LINK, 0.0)
    assert isinstance(refused, Rejection)
    assert refused.reason in {fault for fault in Fault if fault.startswith("frame-")}
    assert (refused.blame, refused.subject, refused.source) == (Blame.LINK, LINK, "kernel")
    assert parts.gate.told == [Evidence(LINK, refused.reason, "kernel", 0)]


def test_a_message_of_another_swarm_blames_the_link(parts: Parts) -> None:
    refused = parts.refused(signed(parts, swarm="other"))
    assert refused == Rejection(Fault.OTHER_SWARM, Blame.LINK, LINK, "kernel")


@pytest.mark.parametrize("kind", sorted(QUOTED_KINDS))
def test_what_is_only_quoted_is_not_delivered(parts: Parts, kind: str) -> None:
    """Its author signed it, and somebody who saw it quoted sends it: nobody is to blame."""
    message = signed(parts, kind=kind, sequence=0)
    refused = parts.refused(message)
    assert refused == Rejection(Fault.UNKNOWN_KIND, Blame.NOBODY, None, "kernel")
    assert (parts.mac.asked, parts.replay.asked, parts.gate.told) == ([], 0, [])
    assert parts.kernel.authentic(message, 0.0), "quoted, it counts"
    assert parts.passes(signed(parts, sequence=0)), "the number of its author is still free"


@pytest.mark.parametrize("kind", sorted(QUOTED_KINDS))
def test_where_it_is_delivered_its_number_is_used_up(
    parts: Parts, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the signature holds, so that the core would have it, and blame its author."""
    monkeypatch.setattr(inbound, "QUOTED_KINDS", frozenset())
    assert parts.passes(signed(parts, kind=kind, sequence=0))
    assert parts.replay.asked == 1


def test_a_stranger_is_refused_before_anybody_is_asked(parts: Parts) -> None:
    refused = parts.refused(signed(parts, sender=STRANGER))
    assert refused == Rejection(Fault.UNKNOWN_SENDER, Blame.NOBODY, None, "kernel")
    assert (len(parts.mac.asked), parts.replay.asked, parts.gate.asked) == (0, 0, 0)


def test_nobody_is_known_before_setup(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"mac": Mac, "replay": Replay}, insecure=False, set_up=False)
    message = kernel.sign(make_envelope(sender=SENDER))
    refused = kernel.inbound(message.to_bytes(), LINK, 0.0)
    assert isinstance(refused, Rejection)
    assert refused.reason is Fault.UNKNOWN_SENDER


@pytest.mark.claim("C-blame-1")
def test_a_forged_signature_blames_the_link_and_not_the_claimed_sender(parts: Parts) -> None:
    refused = parts.refused(forged(round_number=7))
    assert refused == Rejection("mac:bad-tag", Blame.LINK, LINK, "mac")
    assert parts.gate.told == [Evidence(LINK, "mac:bad-tag", "mac", 7)]
    assert (parts.replay.asked, parts.gate.asked) == (0, 1), "the gate was asked for the link only"


@pytest.mark.claim("C-blame-1")
def test_an_authenticator_that_blames_the_sender_cannot_frame_anybody(parts: Parts) -> None:
    """Nothing proves yet who made the message: a forger would get others banned."""
    parts.mac.blame = Blame.SENDER
    refused = parts.refused(forged())
    assert refused == Rejection("mac:bad-tag", Blame.NOBODY, None, "mac")
    assert parts.gate.told == []


def test_a_forgery_does_not_use_up_the_real_message(parts: Parts) -> None:
    message = signed(parts)
    parts.refused(message.with_auth({"mac": bytes(32)}))
    assert parts.passes(message)


@pytest.mark.claim("C-blame-1", "C-replay-3")
def test_a_replay_does_not_blame_the_author_whose_message_somebody_repeats(parts: Parts) -> None:
    """Where the transport proves the author, the author is the source of each copy."""
    message = signed(parts)
    assert parts.passes(message)
    again = parts.kernel.inbound(message.to_bytes(), message.sender, 0.0)
    assert again == Rejection(Fault.REPLAYED, Blame.NOBODY, None, "replay")
    assert parts.gate.told == []


@pytest.mark.control("C-blame-1", "C-replay-3")
def test_a_replay_blames_the_link(parts: Parts) -> None:
    message = signed(parts, round_number=3)
    parts.inbound(message)
    assert parts.refused(message) == Rejection(Fault.REPLAYED, Blame.LINK, LINK, "replay")
    assert parts.gate.told == [Evidence(LINK, Fault.REPLAYED, "replay", 3)]
    assert parts.gate.asked == 3, "about both links, and the sender of the first delivery only"


def test_an_authenticated_sender_can_be_blamed(parts: Parts) -> None:
    parts.replay.blame = Blame.SENDER
    message = signed(parts)
    parts.inbound(message)
    assert parts.refused(message) == Rejection(Fault.REPLAYED, Blame.SENDER, SENDER, "replay")
    assert [message.subject for message in parts.gate.told] == [SENDER]


def test_the_clock_reaches_the_replay_check(parts: Parts) -> None:
    refused = parts.refused(signed(parts), now=-1.0)
    assert refused == Rejection("replay:too-early", Blame.NOBODY, None, "replay")
    assert parts.gate.told == []


def test_a_frame_is_as_old_as_its_announcement(parts: Parts) -> None:
    late = signed(parts).to_bytes()
    taken = parts.kernel.inbound(late, LINK, 50.0, waited=51.0)
    assert isinstance(taken, Rejection), "the check is told when it was announced"
    assert taken.reason == "replay:too-early"
    assert isinstance(
        parts.kernel.inbound(signed(parts, sequence=9).to_bytes(), LINK, 50.0, 50.0), Envelope
    )


def test_a_member_is_heard_when_a_message_of_it_is_taken_and_not_when_one_is_refused(
    parts: Parts,
) -> None:
    """Whoever holds the line or makes messages up does not make a member look alive."""
    message = signed(parts)
    parts.refused(forged(), now=3.0)
    assert parts.kernel.intake.last_heard == {}
    assert isinstance(parts.inbound(message, now=5.0), Envelope)
    assert parts.kernel.intake.last_heard == {message.sender: 5.0}, "not the link"
    parts.refused(message, now=9.0)  # a replay
    assert parts.kernel.intake.last_heard == {message.sender: 5.0}


def test_a_banned_sender_is_refused_and_not_blamed_again(parts: Parts) -> None:
    parts.gate.banned.add(SENDER)
    assert parts.refused(signed(parts)) == Rejection(Fault.BANNED, Blame.NOBODY, None, "kernel")
    assert parts.gate.told == []
    assert parts.passes(signed(parts, sender=OTHER))


def test_refusals_are_counted_by_reason(parts: Parts) -> None:
    good = signed(parts)
    for envelope in (good, good, good, forged(), signed(parts, swarm="other")):
        parts.inbound(envelope)
    parts.kernel.inbound(b"", LINK, 0.0)
    assert dict(parts.kernel.rejections) == {
        "replayed": 2,
        "mac:bad-tag": 1,
        "other-swarm": 1,
        "frame-malformed": 1,
    }


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RuntimeError("gone"), "gate:reputation-raised-runtimeerror"),
        ("fine", "gate:no-standing"),
        (True, "gate:no-standing"),
    ],
)
def test_a_broken_reputation_bans(parts: Parts, answer: object, reason: str) -> None:
    parts.gate.answer = answer
    assert parts.kernel.standing(SENDER) == Standing(0, banned=True)
    assert parts.refused(signed(parts)).reason == "banned"
    assert parts.kernel.rejections[reason] == 2


@attrs.frozen
class Silent:
    @hookimpl
    def reputation(self) -> None: ...


def test_a_reputation_that_says_nothing_bans(make_kernel: MakeKernel) -> None:
    assert make_kernel({"silent": Silent}).standing(SENDER).banned


def test_without_reputation_everybody_counts_fully(make_kernel: MakeKernel) -> None:
    assert make_kernel({}).standing(SENDER) == Standing()


@attrs.frozen
class Deaf:
    @hookimpl
    def observe(self) -> None:
        raise OSError("the record is full")


def test_evidence_that_cannot_be_kept_stops_the_node(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"deaf": Deaf})
    with pytest.raises(HookError, match=r"QRES-E701 plugins\.deaf\.observe: OSError: the record"):
        kernel.inbound(b"", LINK, 0.0)


def test_every_observer_is_told(make_kernel: MakeKernel) -> None:
    second = attrs.make_class("Second", [], bases=(Listener,))
    kernel = make_kernel({"one": Listener, "two": second})
    kernel.refuse("because", Blame.LINK, LINK, "test", 4)
    kernel.refuse("because", Blame.NOBODY, LINK, "test", 4)
    for plugin in kernel.enabled[:2]:
        told: Any = plugin.instance
        assert told.facts == ["test:because"]


@attrs.define
class Listener:
    facts: list[str] = attrs.field(factory=list, init=False)

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        self.facts.append(evidence.fact)


# ── quoted messages ───────────────────────────────────────────────────────────────────────────────


def test_a_quoted_message_is_authenticated_and_not_checked_for_replay(parts: Parts) -> None:
    quoted = signed(parts)
    for _again in range(2):
        assert parts.kernel.authentic(quoted, 0.0)
    assert parts.replay.asked == 0
    assert not parts.kernel.authentic(forged(), 0.0)
    assert not parts.kernel.authentic(signed(parts, swarm="other"), 0.0)
    assert not parts.kernel.authentic(signed(parts, sender=STRANGER), 0.0)


def test_an_authenticator_that_nobody_here_makes_is_refused_and_blames_the_link(
    parts: Parts,
) -> None:
    """No signature covers it: whoever hands a message on could add it."""
    message = signed(parts, round_number=4)
    hung = message.with_auth({**message.auth, "junk": bytes(9)})
    fault = Fault.UNKNOWN_AUTHENTICATOR
    assert parts.refused(hung) == Rejection(fault, Blame.LINK, LINK, "kernel")
    verdict = parts.kernel.quoted(hung, 0.0)
    assert (verdict.reason, verdict.blame) == (fault.value, Blame.LINK)
    assert parts.mac.asked == []
    assert parts.gate.told == [Evidence(LINK, fault, "kernel", 4)]
    assert parts.passes(message)
    assert parts.kernel.authentic(message, 0.0)


def test_where_it_is_not_refused_it_passes(parts: Parts) -> None:
    """The control: the signature holds."""
    parts.kernel.intake.signers = frozenset({"mac", "junk"})
    message = signed(parts)
    hung = message.with_auth({**message.auth, "junk": bytes(9)})
    assert parts.passes(hung)
    assert parts.kernel.authentic(hung, 0.0)


def test_a_missing_authenticator_is_for_its_plugin_to_refuse(parts: Parts) -> None:
    refused = parts.refused(signed(parts).with_auth({}))
    assert refused.reason == "mac:bad-tag"
    assert len(parts.mac.asked) == 1


@attrs.define
class Revoking:
    """Lets nobody speak any more; quoted messages are not its concern, as of ``qres-pki``."""

    @hookimpl
    def authenticate(self, quoted: bool) -> Verdict:  # noqa: FBT001 - a hook's argument
        return ACCEPT if quoted else reject("revoked")


def test_a_quoted_message_outlives_the_right_of_its_author_to_speak(
    make_kernel: MakeKernel,
) -> None:
    kernel = make_kernel({"mac": Mac, "list": Revoking, "replay": Replay}, insecure=False)
    good = kernel.sign(make_envelope(sender=SENDER))
    assert isinstance(kernel.inbound(good.to_bytes(), LINK, 0.0), Rejection)
    assert kernel.authentic(good, 0.0)
    assert kernel.quoted(forged(), 0.0) == reject("bad-tag", blame=Blame.LINK)


def test_a_quoted_message_is_judged_by_the_members_of_its_own_height(parts: Parts) -> None:
    kernel, old = parts.kernel, signed(parts)
    kernel.enter(kernel.intake.roster - {SENDER})
    assert not kernel.authentic(old, 0.0)
    assert kernel.authentic(old, 0.0, frozenset({SENDER, OTHER}))
    assert not kernel.authentic(forged(), 0.0, frozenset({SENDER, OTHER}))
    assert not kernel.authentic(signed(parts, sender=STRANGER), 0.0, frozenset({SENDER}))
    kernel.enter(frozenset({SENDER, OTHER}), frozenset({SENDER}))
    assert kernel.authentic(old, 0.0), "a ban takes nothing back that was said before"


# ── members that change ───────────────────────────────────────────────────────────────────────────


def test_a_height_begins_with_the_members_it_is_told_of(parts: Parts) -> None:
    kernel = parts.kernel
    assert parts.refused(signed(parts, sender=STRANGER)).reason == Fault.UNKNOWN_SENDER
    kernel.enter((kernel.intake.roster | {STRANGER}) - {SENDER})
    assert parts.passes(signed(parts, sender=STRANGER))
    assert parts.refused(signed(parts, sequence=7)).reason == Fault.UNKNOWN_SENDER
    assert kernel.admit(STRANGER, b"") is ACCEPT
    assert kernel.admit(SENDER, b"").reason == Fault.UNKNOWN_SENDER


def test_whom_the_swarm_agreed_to_ban_is_banned_here(parts: Parts) -> None:
    kernel = parts.kernel
    kernel.enter(kernel.intake.roster, frozenset({SENDER}))
    assert kernel.standing(SENDER) == Standing(0, banned=True)
    refused = parts.refused(signed(parts))
    assert (refused.reason, refused.blame, refused.subject) == (Fault.BANNED, Blame.NOBODY, None)
    assert kernel.admit(SENDER, b"").reason == Fault.BANNED
    assert parts.passes(signed(parts, sender=OTHER))
    asked = len(parts.mac.asked)
    assert isinstance(
        kernel.inbound(signed(parts, sender=OTHER).to_bytes(), SENDER, 0.0), Rejection
    )
    assert len(parts.mac.asked) == asked, "its frames are refused before a signature is checked"
    kernel.enter(kernel.intake.roster)
    assert parts.passes(signed(parts, sequence=9))


def test_the_members_of_setup_count_until_a_height_begins(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({})
    assert not kernel.intake.banned
    info = make_node_info(nodes=2)
    kernel.setup(info)
    assert (kernel.intake.roster, kernel.intake.banned) == (frozenset(info.roster), frozenset())


# ── the numbers of a key ──────────────────────────────────────────────────────────────────────────


@attrs.define
class Chain:
    """Says how many keys each node had before its present one."""

    before: dict[NodeId, int] = attrs.field(factory=dict, init=False)

    @hookimpl
    def key_index(self, node_id: NodeId) -> int:
        return self.before.get(node_id, 0)


@pytest.fixture
def rotated(make_kernel: MakeKernel) -> Kernel:
    """A kernel to which one node has its third key."""
    chain = attrs.make_class("Rotated", [], bases=(Chain,))
    kernel = make_kernel({"mac": Mac, "replay": Replay, "chain": chain}, insecure=False)
    instance: Any = kernel.enabled[2].instance
    instance.before[SENDER] = 2
    kernel.setup(make_node_info())
    return kernel


@pytest.mark.claim("C-keys-9")
@pytest.mark.parametrize(
    ("sender", "sequence", "passes"),
    [
        (SENDER, 2 * NUMBERS_PER_KEY - 1, False),
        (SENDER, 2 * NUMBERS_PER_KEY, True),
        (SENDER, 3 * NUMBERS_PER_KEY - 1, True),
        (SENDER, 3 * NUMBERS_PER_KEY, False),
        (SENDER, 0, False),
        (SENDER, 2**63 - 1, False),
        (OTHER, 0, True),
        (OTHER, NUMBERS_PER_KEY - 1, True),
        (OTHER, NUMBERS_PER_KEY, False),
    ],
)
def test_a_key_speaks_with_its_own_numbers_alone(
    rotated: Kernel, sender: NodeId, sequence: int, *, passes: bool
) -> None:
    message = rotated.sign(make_envelope(sender=sender, sequence=sequence))
    taken = rotated.inbound(message.to_bytes(), LINK, 0.0)
    replay: Any = rotated.enabled[1].instance
    assert replay.asked == passes
    if not passes:
        fault = Fault.SEQUENCE_OF_OTHER_KEY
        assert taken == Rejection(fault, Blame.SENDER, sender, "kernel")
    assert isinstance(taken, Envelope) is passes
    assert rotated.authentic(message, 0.0), "what is quoted uses up nothing"


def test_a_forged_number_blames_nobody_but_the_link(rotated: Kernel) -> None:
    refused = rotated.inbound(forged(sequence=2**63 - 1).to_bytes(), LINK, 0.0)
    assert refused == Rejection("mac:bad-tag", Blame.LINK, LINK, "mac")


@pytest.mark.control("C-keys-9")
def test_without_a_plugin_that_says_so_every_key_is_the_first(parts: Parts) -> None:
    assert parts.kernel.key_index(SENDER) == 0
    refused = parts.refused(signed(parts, sequence=NUMBERS_PER_KEY))
    assert refused.reason == Fault.SEQUENCE_OF_OTHER_KEY


# ── signing ───────────────────────────────────────────────────────────────────────────────────────


def signer(result: object) -> type[object]:
    def sign(_self: object) -> object:
        return result

    def authenticate(_self: object) -> Verdict:
        return ACCEPT

    body: dict[str, Any] = {"sign": hookimpl(sign), "authenticate": hookimpl(authenticate)}
    return attrs.make_class("Signer", [], class_body=body)


def test_every_signer_signs_under_its_own_name(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"b": signer(b"two"), "a": signer(b"")})
    assert dict(kernel.sign(make_envelope()).auth) == {"a": b"", "b": b"two"}


def test_without_signers_the_message_stays_as_it_is(make_kernel: MakeKernel) -> None:
    message = make_envelope()
    assert make_kernel({}).sign(message) is message


def test_the_longest_authenticator_is_allowed(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"long": signer(bytes(MAX_AUTHENTICATOR))})
    assert len(kernel.sign(make_envelope()).auth["long"]) == MAX_AUTHENTICATOR


@pytest.mark.parametrize("result", [None, "text", bytearray(3), 5, bytes(MAX_AUTHENTICATOR + 1)])
def test_what_is_no_authenticator_is_refused(make_kernel: MakeKernel, result: object) -> None:
    kernel = make_kernel({"odd": signer(result)})
    with pytest.raises(HookError, match=r"QRES-E702 plugins\.odd\.sign: .*4096 bytes"):
        kernel.sign(make_envelope())


# ── whatever arrives ──────────────────────────────────────────────────────────────────────────────


@given(frame=st.binary(max_size=300), cut=st.integers(0, 300), flip=st.integers(0, 2000))
def test_no_frame_makes_the_kernel_raise(
    make_kernel: MakeKernel, frame: bytes, cut: int, flip: int
) -> None:
    kernel = make_kernel({"mac": Mac, "replay": Replay}, insecure=False)
    message = kernel.sign(make_envelope(sender=SENDER)).to_bytes()
    bent = bytearray(message)
    bent[flip // 8 % len(bent)] ^= 1 << flip % 8
    for candidate in (frame, message[:cut], message + frame, bytes(bent)):
        result = kernel.inbound(candidate, LINK, 0.0)
        assert candidate == message or isinstance(result, Rejection)
    assert sum(kernel.rejections.values()) >= 2
    assert isinstance(kernel.swarm, SwarmConfig)
