"""Frames on their way through the kernel: every flipped bit, and a real second process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from qres_ed25519 import Ed25519
from qres_ed25519.signature import SigningKey, verify
from qres_lab.testing import make_envelope

from qres_core import Blame, Envelope, NodeInfo
from qres_core.kernel.inbound import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qres_core.kernel.kernel import Kernel

MAX_BYTES = 2**20
SEEDS = [bytes([number]) * 32 for number in range(1, 5)]
NOW = 1_700_000_000.0


@pytest.fixture
def swarm(make_kernel: Callable[..., Kernel]) -> tuple[list[Kernel], list[bytes]]:
    """Four kernels of the lab, set up, with their identities."""
    kernels = [make_kernel() for _seed in SEEDS]
    ids: list[bytes] = []
    for kernel, seed in zip(kernels, SEEDS, strict=True):
        node_id = kernel.identity(seed)
        assert node_id is not None
        ids.append(node_id)
    for kernel, node_id in zip(kernels, ids, strict=True):
        kernel.setup(NodeInfo(node_id, "testing", tuple(sorted(ids)), seed=0))
    return kernels, ids


def _fields(frame: bytes, envelope: Envelope) -> dict[str, range]:
    """Where the content of each field of a frame lies, by its bytes."""
    places: dict[str, range] = {}
    for name, octets in {
        "swarm": envelope.swarm.encode(),
        "kind": envelope.kind.encode(),
        "head": envelope.head,
        "sender": envelope.sender,
        "round": b"\x03\x18\x2a",
        "sequence": b"\x06\x18\x2b",
        "time_ms": b"\x07\x1b" + envelope.time_ms.to_bytes(8, "big"),
        "payload_digest": envelope.payload_digest,
        "payload": envelope.payload,
        "auth name": b"ed25519",
        "signature": envelope.auth["ed25519"],
    }.items():
        assert frame.count(octets) == 1, name
        start = frame.index(octets)
        head = {"round": 2, "sequence": 2, "time_ms": 2}.get(name, 0)
        places[name] = range(start + head, start + len(octets))
    return places


EXPECTED = {
    "swarm": {"other-swarm", "frame-malformed", "frame-field-invalid"},
    "kind": {"ed25519:bad-signature", "frame-malformed", "frame-field-invalid"},
    "head": {"ed25519:bad-signature"},
    "sender": {"unknown-sender"},
    "round": {"ed25519:bad-signature", "frame-not-canonical"},
    "sequence": {"ed25519:bad-signature", "frame-not-canonical"},
    "time_ms": {"ed25519:bad-signature", "frame-field-invalid"},
    "payload_digest": {"frame-digest-mismatch"},
    "payload": {"frame-digest-mismatch"},
    "auth name": {"unknown-authenticator", "frame-malformed", "frame-field-invalid"},
    "signature": {"ed25519:bad-signature"},
}


@pytest.mark.claim("C-trust-2")
@pytest.mark.parametrize("by_sender", [True, False], ids=["from the sender", "from a third node"])
def test_every_single_bit_of_a_frame(
    swarm: tuple[list[Kernel], list[bytes]], *, by_sender: bool
) -> None:
    kernels, (sender, third, *_rest) = swarm
    link = sender if by_sender else third
    envelope = kernels[0].sign(
        make_envelope(sender=sender, round_number=42, sequence=43, payload=b"a payload")
    )
    frame = envelope.to_bytes()
    places = _fields(frame, envelope)
    reasons: dict[str, Counter[str]] = {name: Counter() for name in [*places, "form"]}
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        found = kernels[1].inbound(bytes(flipped), link, NOW)
        assert isinstance(found, Rejection), f"bit {bit} was not noticed"
        # A flipped sender is somebody whom a node at another height may know.
        stranger = found.reason == "unknown-sender"
        assert found.blame is (Blame.NOBODY if stranger else Blame.LINK)
        assert found.subject == (None if stranger else link)
        field = next((name for name, place in places.items() if bit // 8 in place), "form")
        reasons[field][found.reason] += 1
    assert {name: set(counted) for name, counted in reasons.items() if name != "form"} == EXPECTED
    assert not {"replayed", "ed25519:authenticate-raised"} & set(kernels[1].rejections)
    assert isinstance(kernels[1].inbound(frame, link, NOW), Envelope)


@pytest.mark.claim("C-trust-2")
def test_every_single_bit_behind_a_valid_form(swarm: tuple[list[Kernel], list[bytes]]) -> None:
    """Payload and digest changed together: only the signature stands in the way."""
    kernels, (sender, third, *_rest) = swarm
    envelope = kernels[0].sign(make_envelope(sender=sender, payload=b"a payload"))
    for bit in range(8 * len(envelope.payload)):
        payload = bytearray(envelope.payload)
        payload[bit // 8] ^= 1 << bit % 8
        forged = make_envelope(sender=sender, payload=bytes(payload)).with_auth(envelope.auth)
        found = kernels[1].inbound(forged.to_bytes(), third, NOW)
        assert found == Rejection("ed25519:bad-signature", Blame.LINK, third, "ed25519")


@pytest.mark.claim("C-trust-2")
@pytest.mark.parametrize("attack", ["stripped", "other slot", "own key", "other message"])
def test_forgeries_blame_the_link(attack: str, swarm: tuple[list[Kernel], list[bytes]]) -> None:
    kernels, (victim, attacker, *_rest) = swarm
    genuine = kernels[0].sign(make_envelope(sender=victim))
    poison = make_envelope(sender=victim, payload=b"poison")
    forged = {
        "stripped": poison,
        "other slot": genuine.with_auth({"pki": genuine.auth["ed25519"]}),
        "own key": kernels[1].sign(poison),
        "other message": poison.with_auth(genuine.auth),
    }[attack]
    for link in (attacker, victim):
        found = kernels[2].inbound(forged.to_bytes(), link, NOW)
        assert isinstance(found, Rejection)
        assert found.blame is Blame.LINK
        assert found.subject == link
        assert found.source == ("kernel" if attack == "other slot" else "ed25519")
    assert isinstance(kernels[2].inbound(genuine.to_bytes(), attacker, NOW), Envelope)


def test_a_key_that_is_not_in_the_roster(swarm: tuple[list[Kernel], list[bytes]]) -> None:
    kernels, ids = swarm
    stranger = Ed25519()
    sender = stranger.identity(b"stranger".ljust(32))
    envelope = make_envelope(sender=sender)
    frame = envelope.with_auth({"ed25519": stranger.sign(envelope)}).to_bytes()
    found = kernels[0].inbound(frame, ids[1], NOW)
    assert found == Rejection("unknown-sender", Blame.NOBODY, None, "kernel")


def test_quoted_messages_are_checked_too(swarm: tuple[list[Kernel], list[bytes]]) -> None:
    kernels, ids = swarm
    vote = kernels[0].sign(make_envelope(sender=ids[0], kind="vote"))
    assert kernels[1].authentic(vote, NOW)
    assert not kernels[1].authentic(kernels[2].sign(vote.with_auth({})), NOW)


@pytest.mark.control("C-pki-4", "C-trust-2")
def test_control_a_hook_that_trusts_the_claim(swarm: tuple[list[Kernel], list[bytes]]) -> None:
    """Any key of the roster will do, whoever the message claims to be from."""
    kernels, (victim, attacker, *_rest) = swarm
    forged = kernels[1].sign(make_envelope(sender=victim))
    octets = forged.auth["ed25519"]
    assert any(verify(key, forged.signing_digest, octets) for key in (victim, attacker))
    assert isinstance(kernels[2].inbound(forged.to_bytes(), attacker, NOW), Rejection)


SIGNER = """
import sys
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel
from qres_lab.testing import make_envelope

raw = {
    "swarm": {"name": "testing", "nodes": 4, "byzantine": 0, "quorum": 3, "insecure": True},
    "plugins": {"memory": {}, "ed25519": {"key": sys.argv[1]}, "mean": {}},
}
kernel = Kernel.from_config(parse(raw, source="signer.toml"))
envelope = make_envelope(sender=kernel.identity(None), payload=b"from another process")
sys.stdout.buffer.write(kernel.sign(envelope).to_bytes())
"""


def test_one_process_signs_and_another_verifies(
    pairs: list[SigningKey],
    key_file: Callable[..., str],
    make_kernel: Callable[..., Kernel],
    tmp_path: Path,
) -> None:
    signer_file, own_file = key_file(pairs[0], "signer.key"), key_file(pairs[1], "own.key")
    command = [sys.executable, "-P", "-c", SIGNER, signer_file]
    frame = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path).stdout
    kernel = make_kernel(key=own_file)
    own = kernel.identity(None)
    assert own == pairs[1].public
    kernel.setup(NodeInfo(own, "testing", tuple(sorted(pair.public for pair in pairs[:4]))))
    link = pairs[2].public
    changed = bytearray(frame)
    changed[-1] ^= 1
    found = kernel.inbound(bytes(changed), link, NOW)
    assert found == Rejection("ed25519:bad-signature", Blame.LINK, link, "ed25519")
    received = kernel.inbound(frame, link, NOW)
    assert isinstance(received, Envelope)
    assert received.sender == pairs[0].public
    assert received.payload == b"from another process"
    assert kernel.inbound(frame, link, NOW) == Rejection("replayed", Blame.LINK, link, "increasing")
