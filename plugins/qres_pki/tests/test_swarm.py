"""A running swarm: who is revoked, expires or is taken off the list is out by the next round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import attrs
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from qres_lab.testing import make_envelope
from qres_pki import Pki

from qres_core import (
    ACCEPT,
    Blame,
    Envelope,
    NodeId,
    NodeInfo,
    Outcome,
    RoundStatus,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.node_ids import node_ids
from qres_core.lab.clock import EPOCH
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.lab.simulator import simulate
from qres_core.training.tasks import TaskConfig
from qres_core.transport import Transport

if TYPE_CHECKING:
    from pathlib import Path

NODES = 5
START = int(EPOCH)
DAY = 86_400


def key_of(seed: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())


@attrs.define(eq=False)
class Signer:
    """Plain Ed25519 signatures: what pki rests on."""

    latest: ClassVar[float] = EPOCH
    watch: ClassVar[Callable[[float], None]] = staticmethod(lambda _now: None)
    _key: Any = attrs.field(default=None, init=False)

    @hookimpl
    def identity(self, seed: bytes | None) -> NodeId:
        assert seed is not None
        self._key = key_of(seed)
        public: bytes = self._key.public_key().public_bytes_raw()
        return public

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        signature: bytes = self._key.sign(envelope.signing_digest)
        return signature

    @hookimpl
    def authenticate(self, envelope: Envelope, now: float) -> Verdict:
        self.watch(now)
        key = Ed25519PublicKey.from_public_bytes(envelope.sender)
        try:
            key.verify(envelope.auth.get("signer", b""), envelope.signing_digest)
        except InvalidSignature:
            return reject("bad-signature", blame=Blame.LINK)
        return ACCEPT


@attrs.define(eq=False)
class Witness:
    """Keeps the agreed members of each closed round, as every node saw them."""

    seen: ClassVar[dict[int, set[tuple[NodeId, ...]]]] = {}

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        if outcome.status is RoundStatus.CLOSED and outcome.members:
            self.seen.setdefault(outcome.round_info.number, set()).add(outcome.members)


def play(
    progress: Callable[[RoundRecord], None] | None = None, *, rounds: int = 8, **pki: Any
) -> SimulationResult:
    Witness.seen.clear()
    kinds = {"memory": Memory, "mean": Mean, "signer": Signer, "pki": Pki, "witness": Witness}
    tables: dict[str, Any] = {name: {} for name in kinds}
    tables["pki"] = pki
    if not pki:
        del tables["pki"]
    swarm = {"name": "testing", "nodes": NODES, "byzantine": 0, "quorum": 3, "insecure": True}
    config = parse({"swarm": swarm, "plugins": tables}, source="test")
    installed = {name: Installed.local(name, kind) for name, kind in kinds.items()}
    task = TaskConfig(name="quadratic", dimension=4)
    scenario = Scenario(rounds=rounds)
    return simulate(config, scenario, task=task, installed=installed, progress=progress)


KEYS = tuple(key_of(seed).public_key().public_bytes_raw() for seed in node_ids(NODES, 0))
VICTIM = KEYS[3]


def members(number: int) -> set[NodeId]:
    """The members of a closed round, on which all nodes agree."""
    (found,) = Witness.seen[number]
    return set(found)


def dropped_after(number: int, result: SimulationResult, reason: str) -> None:
    closed = [record for record in result.rounds if record.closed]
    assert len(closed) == 8
    for record in closed:
        if record.number <= number:
            assert members(record.number) == set(KEYS), record.number
        else:
            assert members(record.number) == set(KEYS) - {VICTIM}, record.number
    assert any(record.number <= number for record in closed)
    assert any(reason in record.rejected for record in closed if record.number > number)
    assert not any(reason in record.rejected for record in closed if record.number <= number)


@pytest.fixture
def running(swarm: Any) -> Any:
    for key in KEYS:
        swarm.issue(key)
    return swarm


@pytest.mark.control("C-pki-14")
def test_everybody_takes_part(running: Any) -> None:
    result = play(**running.options())
    assert all(members(record.number) == set(KEYS) for record in result.closed)
    assert not any(record.rejected for record in result.rounds)
    assert result.unanimous


@pytest.mark.claim("C-pki-14", "C-trust-6")
@pytest.mark.control("C-pki-9")
def test_a_revoked_node_is_dropped_by_the_next_round(running: Any) -> None:
    def revoke(record: RoundRecord) -> None:
        if record.number == 3:
            running.revoke(VICTIM, now=START)

    dropped_after(3, play(revoke, **running.options()), "pki:certificate-revoked")


@pytest.mark.claim("C-trust-6")
def test_a_node_off_the_list_is_dropped_by_the_next_round(tmp_path: Path) -> None:
    file = tmp_path / "members"
    file.write_text("\n".join(key.hex() for key in KEYS))

    def cross_out(record: RoundRecord) -> None:
        if record.number == 3:
            beside = tmp_path / "beside"
            beside.write_text("\n".join(key.hex() for key in KEYS if key != VICTIM))
            beside.replace(file)

    result = play(cross_out, members_file=str(file), reload_seconds=0.0)
    dropped_after(3, result, "pki:not-a-member")


@pytest.mark.claim("C-trust-6")
def test_a_node_that_expires_is_dropped_without_any_file_changing(swarm: Any) -> None:
    for key in KEYS:
        swarm.issue(key, start=START - DAY, days=2 if key != VICTIM else 1)
    # The victim's certificate ends with the first second of the simulation.
    result = play(**swarm.options())
    late = [record for record in result.rounds if record.closed][2:]
    assert late
    for record in late:
        assert members(record.number) == set(KEYS) - {VICTIM}
    assert any("pki:certificate-expired" in record.rejected for record in result.rounds)


@pytest.mark.claim("C-pki-2")
def test_a_node_that_may_only_train_follows_and_says_nothing_that_it_may_not(swarm: Any) -> None:
    """Its votes would be refused, and held against whoever hands them on."""
    for key in KEYS:
        swarm.issue(key, ["train"] if key == VICTIM else ["train", "aggregate"])
    result = play(**swarm.options())
    assert len(result.closed) == 8
    assert all(members(record.number) == set(KEYS) for record in result.closed)
    assert not any("pki:role-missing" in record.rejected for record in result.rounds)
    assert len(set(result.model_digests)) == 1, "it holds the model that the others decided"


@pytest.mark.control("C-pki-2")
@pytest.mark.parametrize("role", ["train", "aggregate"])
def test_control_a_vote_of_a_node_that_may_only_train_is_refused(swarm: Any, role: str) -> None:
    for key in KEYS:
        swarm.issue(key, [role] if key == VICTIM else ["train", "aggregate"])
    here, victim = kernel_of(0, **swarm.options()), kernel_of(3, **swarm.options())
    vote = victim.sign(make_envelope(sender=VICTIM, kind="outcome/precommit", swarm="testing"))
    now = float(START + 1)
    for kernel in (here, victim):
        live, _plugin = kernel.authenticate(vote, VICTIM, now)
        assert live.reason == ("" if role == "aggregate" else "role-missing")
    here.teardown()
    victim.teardown()


def kernel_of(node: int, **pki: Any) -> Kernel:
    """The plugins of one node, set up, as :func:`play` has them."""
    kinds = {"memory": Memory, "mean": Mean, "signer": Signer, "pki": Pki}
    swarm = {"name": "testing", "nodes": NODES, "byzantine": 0, "quorum": 3, "insecure": True}
    tables: dict[str, Any] = {"memory": {}, "mean": {}, "signer": {}, "pki": pki}
    installed = {name: Installed.local(name, kind) for name, kind in kinds.items()}
    kernel = Kernel.from_config(
        parse({"swarm": swarm, "plugins": tables}, source="test"), installed=installed
    )
    seed = node_ids(NODES, 0)[node]
    assert kernel.identity(seed) == KEYS[node]
    kernel.setup(NodeInfo(KEYS[node], "testing", tuple(sorted(KEYS)), seed=0))
    return kernel


@pytest.mark.claim("C-pki-9")
@pytest.mark.parametrize("why", ["revoked", "expired", "unreadable"])
def test_votes_prove_what_they_proved_whatever_becomes_of_the_certificate(
    swarm: Any, why: str
) -> None:
    """A proof that some nodes no longer accept stops a swarm for good, without any liar."""
    for key in KEYS:
        swarm.issue(key, start=START - DAY, days=30 if key != VICTIM else 2)
    here, victim = kernel_of(0, **swarm.options()), kernel_of(3, **swarm.options())
    vote = victim.sign(
        make_envelope(sender=VICTIM, kind="choice/prevote", swarm="testing", payload=b"digest")
    )
    now = float(START + 1)
    assert here.authentic(vote, now)
    assert here.authenticate(vote, VICTIM, now)[0] is ACCEPT
    if why == "revoked":
        swarm.revoke(VICTIM, now=START)
    elif why == "expired":
        now += 2 * DAY
    else:
        swarm.crl.write_bytes(b"torn")
    live, plugin = here.authenticate(vote, VICTIM, now)
    assert (live.accepted, plugin, live.blame) == (False, "pki", Blame.NOBODY)
    assert here.quoted(vote, now) is ACCEPT
    forged = [
        attrs.evolve(vote, payload=b"other digest"),
        vote.with_auth({**vote.auth, "signer": bytes(64)}),
        vote.with_auth({"pki": vote.auth["pki"]}),
        attrs.evolve(vote, sender=KEYS[1]),
    ]
    assert not any(here.authentic(item, now) for item in forged)
    here.enter(frozenset(KEYS) - {VICTIM})
    assert not here.authentic(vote, now)
    assert here.authentic(vote, now, KEYS), "it counts at the height at which it was a member"
    here.teardown()
    victim.teardown()


@pytest.mark.control("C-trust-6")
def test_without_the_plugin_revocation_changes_nothing(running: Any) -> None:
    def revoke(record: RoundRecord) -> None:
        if record.number == 3:
            running.revoke(VICTIM, now=START)

    result = play(revoke)
    assert all(members(record.number) == set(KEYS) for record in result.closed)


@pytest.mark.claim("C-pki-6")
def test_unreadable_files_stop_the_swarm_and_it_goes_on_when_they_are_back(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = running.crl.read_bytes()
    broken: list[float] = []
    ended: list[float] = []

    def watch(now: float) -> None:
        if broken and now > broken[0] + 60.0 and running.crl.read_bytes() != whole:
            running.crl.write_bytes(whole)
        Signer.latest = now

    def break_it(record: RoundRecord) -> None:
        if record.number == 3:
            running.crl.write_bytes(whole[:100])
            broken.append(Signer.latest)
        ended.append(Signer.latest)

    monkeypatch.setattr(Signer, "watch", staticmethod(watch))
    result = play(break_it, **running.options())
    closed = [moment for moment, record in zip(ended, result.rounds, strict=True) if record.closed]
    assert len(closed) == 8
    assert closed[2] == broken[0]
    assert closed[3] > broken[0] + 60.0  # nothing was merged meanwhile
    assert result.unanimous
    assert any("pki:membership-unreadable" in record.rejected for record in result.rounds)


@pytest.mark.claim("C-pki-14")
def test_a_node_that_nobody_admits_is_not_heard_on_connect() -> None:
    """Over the in-process transport, which asks ``admit`` when a neighbour's first frame comes."""
    member, stranger, here = (bytes([number]) * 32 for number in (1, 2, 3))
    config = parse(
        {
            "swarm": {"name": "gate", "nodes": 3, "byzantine": 0, "quorum": 1, "insecure": True},
            "plugins": {
                "memory": {},
                "mean": {},
                "pki": {"members": [member.hex(), here.hex()]},
                "signer": {},
            },
        },
        source="test",
    )
    kinds = {"memory": Memory, "mean": Mean, "pki": Pki, "signer": Signer}
    installed = {name: Installed.local(name, kind) for name, kind in kinds.items()}

    async def scene() -> list[bytes]:
        ends: dict[bytes, Transport] = {}
        for node_id in (member, stranger, here):
            kernel = Kernel.from_config(config, installed=installed)
            info = NodeInfo(node_id, "gate", (member, stranger, here), seed=0)
            if node_id != stranger:  # who is not on the list cannot start with the plugin
                kernel.setup(info)
            ends[node_id] = kernel.transport(info)
            await ends[node_id].start()
        try:
            await ends[stranger].send(here, b"let me in")
            await ends[member].send(here, b"hello")
            with anyio.fail_after(300):
                return [(await ends[here].receive()).frame]
        finally:
            for end in ends.values():
                await end.aclose()

    assert anyio.run(scene) == [b"hello"]
