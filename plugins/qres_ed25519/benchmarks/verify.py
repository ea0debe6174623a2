"""What verification costs: the libraries against each other, and the plugin against its library.

Run with ``python plugins/qres_ed25519/benchmarks/verify.py``. The first part needs both PyNaCl and
cryptography, which the plugin depends on. Figures are operations a second of processor time, the
best of several repeats; the threads' are of wall time and need idle cores.
"""

# ruff: noqa: INP001, T201 - a script that prints its result

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from qres_ed25519 import Ed25519

from qres_core import Envelope, NodeInfo

COUNT = 2000
REPEATS = 7
PAYLOAD_BYTES = 1024


def rate(
    run: Callable[[], object], clock: Callable[[], float] = time.process_time, count: int = COUNT
) -> float:
    """Operations a second of a call that does ``count``, best of several."""
    run()
    best = float("inf")
    for _repeat in range(REPEATS):
        start = clock()
        run()
        best = min(best, clock() - start)
    return count / best


def libraries() -> None:
    """Sign and verify 32 bytes with each library, in a plain loop."""
    seed = bytes(32)
    public, secret = crypto_sign_seed_keypair(seed)
    other = Ed25519PrivateKey.from_private_bytes(seed)
    parsed = Ed25519PublicKey.from_public_bytes(public)
    messages = [os.urandom(32) for _message in range(COUNT)]
    signed = [crypto_sign(message, secret) for message in messages]

    def with_cryptography() -> None:
        for message, octets in zip(messages, signed, strict=True):
            parsed.verify(octets[:64], message)

    def with_pynacl() -> None:
        for octets in signed:
            crypto_sign_open(octets, public)

    print(f"verify, cryptography {rate(with_cryptography):>8.0f} /s")
    print(f"verify, PyNaCl       {rate(with_pynacl):>8.0f} /s")
    print(f"sign, cryptography   {rate(lambda: [*map(other.sign, messages)]):>8.0f} /s")
    print(
        f"sign, PyNaCl         {rate(lambda: [crypto_sign(m, secret) for m in messages]):>8.0f} /s"
    )


def envelopes(plugin: Ed25519, sender: bytes) -> list[Envelope]:
    """Signed messages of 1 KiB, as they come off the wire: their digest not yet computed."""
    made: list[Envelope] = []
    for sequence in range(COUNT):
        payload = os.urandom(PAYLOAD_BYTES)
        plain = Envelope("bench", "contribution", 1, bytes(32), sender, sequence, 1, payload)
        made.append(plain.with_auth({"ed25519": plugin.sign(plain)}))
    return made


def refresh(messages: Sequence[Envelope]) -> None:
    """Forget the digests."""
    for envelope in messages:
        envelope.__dict__.pop("signing_digest", None)


def plugin_against_library() -> None:
    """``authenticate`` against a bare loop over the library, with and without the digests."""
    plugin = Ed25519()
    sender = plugin.identity(bytes(32))
    plugin.setup(NodeInfo(sender, "bench", (sender,), seed=0))
    messages = envelopes(plugin, sender)

    def bare() -> None:
        for envelope in messages:
            crypto_sign_open(envelope.auth["ed25519"] + envelope.signing_digest, sender)

    def checked() -> None:
        for envelope in messages:
            assert plugin.authenticate(envelope).accepted  # noqa: S101 - or nothing was measured

    def from_the_wire(run: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            refresh(messages)
            run()

        return call

    pairs = {
        "digests known": (bare, checked),
        "digests to compute": (from_the_wire(bare), from_the_wire(checked)),
    }
    for name, (loop, hook) in pairs.items():
        library, ours = rate(loop), rate(hook)
        print(
            f"{name}: library {library:.0f} /s, plugin {ours:.0f} /s, "
            f"{library / ours:.2f} times the library's time"
        )

    def many() -> None:
        refresh(messages)
        assert all(verdict.accepted for verdict in plugin.authenticate_many(messages))  # noqa: S101

    clock = time.perf_counter
    one_by_one = rate(from_the_wire(checked), clock)
    print(f"wall time: loop {one_by_one:.0f} /s, authenticate_many {rate(many, clock):.0f} /s")


def main() -> None:
    """Print all figures."""
    versions = ", ".join(f"{dist} {metadata.version(dist)}" for dist in ("PyNaCl", "cryptography"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}")
    libraries()
    plugin_against_library()


if __name__ == "__main__":
    main()
