"""The page that specifies the protocols says what the code does."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from nacl.signing import SigningKey
from qres_transport_libp2p.curves import without_fastecdsa

with warnings.catch_warnings(), without_fastecdsa():
    warnings.simplefilter("ignore")  # libp2p's own dependencies are not ours to mend
    import libp2p  # noqa: F401

from qres_transport_libp2p import Libp2p, blobs, frames, hello, pubsub, reconnect, requests
from qres_transport_libp2p.gossip import topic_of
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.options import FRAME_MOST

from qres_core.swarm.runtime.carrier import Announce
from qres_core.transport import BlobRef

PAGE = (Path(__file__).parents[2] / "docs/reference/libp2p-protocol.md").read_text(encoding="utf-8")
DEFAULTS = Libp2p()


@pytest.mark.parametrize(
    "protocol",
    [
        hello.PROTOCOL,
        frames.PROTOCOL,
        requests.PROTOCOL,
        blobs.PROTOCOL,
        pubsub.GOSSIPSUB,
        topic_of(""),
    ],
)
def test_protocols(protocol: str) -> None:
    assert f"`{protocol}`" in PAGE


@pytest.mark.parametrize(
    "said",
    [
        f"A frame has 1 to {FRAME_MOST} bytes",
        f"at most `frame_bytes`, {DEFAULTS.frame_bytes} by default",
        f"1 to {DEFAULTS.request_bytes} bytes (`request_bytes`)",
        f"1 to {DEFAULTS.blob_bytes} bytes (`blob_bytes`)",
        f"1 to {requests.MAX_NAME} bytes",
        f"in at most {hello.MAX_BYTES} bytes",
        f"An RPC has at most {pubsub.MAX_RPC_BYTES} bytes",
        f"{DEFAULTS.ingress_per_second:.0f} messages a second",
        f"and {DEFAULTS.ingress_burst} at once",
        f"Nodes publish {DEFAULTS.publish_per_second:.0f} a second",
        f"more than {DEFAULTS.requests_per_peer} requests of one peer or",
        f"or {DEFAULTS.requests_total} of all at once",
        f"more than {DEFAULTS.blob_streams_per_peer} streams of one peer or",
        f"or {DEFAULTS.blob_streams_total} of all; the stream ends",
        f"nodes keep {DEFAULTS.blob_window} under way",
        f"without a question for {blobs.IDLE_SECONDS:.0f} s",
        f"A handler has {requests.HANDLER_SECONDS:.0f} s",
        f"no complete answer after {DEFAULTS.hello_seconds:.0f} s",
        f"about {DEFAULTS.ping_seconds:.0f} s of silence",
        f"within {reconnect.DEAF * DEFAULTS.ping_seconds:.0f} s",
        f"silent for {DEFAULTS.read_seconds:.0f} s",
        f"`{hello.WELCOME.hex()}` and a block with its own hello, or `{hello.REFUSED.hex()}`",
        f"| `{requests.ANSWERED.hex()}` | answered",
        f"| `{requests.REFUSED.hex()}` | refused",
        f"| `{requests.BUSY.hex()}` | busy: more than 4 requests",
        f"| `{blobs.HERE.hex()}` | here",
        f"| `{blobs.ABSENT.hex()}` | this chunk is not here",
        f"| `{blobs.BUSY.hex()}` | busy: more than 4 streams",
    ],
)
def test_numbers(said: str) -> None:
    assert said in re.sub(r"\s+", " ", PAGE)


def _line(start: str) -> str:
    found = re.search(rf"^{start} (.+)$", PAGE, flags=re.MULTILINE)
    assert found, start
    return found[1].replace(" ", "")


def test_the_identity_shown() -> None:
    public = bytes(SigningKey(bytes(32)).verify_key)
    assert _line("public key") == public.hex()
    assert _line("PeerId") == str(peer_id(public))
    (head,) = re.findall(r"`((?:[0-9a-f]{2} ){5}[0-9a-f]{2})`", PAGE)
    assert peer_id(public).to_bytes() == bytes.fromhex(head) + public


def test_the_hello_shown() -> None:
    data = hello.Hello("demo", bytes(range(16)), b"\xaa\xbb").dumps()
    assert "0000001b" + _line("0000001b") == len(data).to_bytes(4, "big").hex() + data.hex()


def test_the_blob_shown() -> None:
    ref = BlobRef.of(b"\x5a" * 1048577)
    chunks = [_line("chunk 0"), _line("chunk 1")]
    assert chunks == [chunk.hex() for chunk in ref.chunks]
    assert _line("root") == ref.root.hex()
    told = _line("announced").replace("(chunk0)(chunk1)", "".join(chunks))
    assert told == Announce(ref, private=False).to_bytes().hex()
