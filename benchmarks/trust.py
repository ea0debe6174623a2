"""What trust costs: signatures, replay checks, reputation, and the whole inbound path.

Run ``python benchmarks/trust.py [--quick] [--json]``. Times are process times, one thread.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence

from harness import Record, cpu_seconds, main
from nacl.signing import VerifyKey

from qres_core import Envelope, NodeInfo
from qres_core.kernel.config import parse
from qres_core.kernel.kernel import Kernel

SEED = secrets.token_bytes(32)
"""The lab's way to an identity without a key file."""
START = 1_700_000_000.0
PAYLOAD = secrets.token_bytes(1024)
TRUST: Mapping[str, Mapping[str, object]] = {"ed25519": {}, "replay": {}, "reputation": {}}


def _kernel(plugins: Mapping[str, Mapping[str, object]], data_dir: str | None) -> Kernel:
    swarm = {"name": "bench", "nodes": 1, "byzantine": 0, "quorum": 1}
    tables = {**plugins, "memory": {}, "mean": {}}
    kernel = Kernel.from_config(parse({"swarm": swarm, "plugins": tables}, source="benchmark"))
    sender = kernel.identity(SEED)
    if sender is None:
        raise SystemExit("no enabled plugin names the node")
    kernel.setup(NodeInfo(sender, "bench", (sender,), data_dir=data_dir))
    return kernel


def _signed(kernel: Kernel, count: int, first: int) -> list[Envelope]:
    sender = kernel.identity(SEED)
    assert sender is not None  # noqa: S101 - checked when the kernel was made
    now = int(START * 1000)
    return [
        kernel.sign(Envelope("bench", "note", 1, b"m" * 32, sender, n, now, PAYLOAD))
        for n in range(first, first + count)
    ]


def _verify_ratio(count: int) -> tuple[float, float]:
    """Microseconds of the plugin's verify, and its ratio to the raw library's in a loop."""
    kernel = _kernel(TRUST, None)
    envelopes = _signed(kernel, count, 0)
    key = VerifyKey(envelopes[0].sender)
    pairs = [(envelope.auth["ed25519"], envelope.signing_digest) for envelope in envelopes]
    plugin = next(plugin.instance for plugin in kernel.enabled if plugin.name == "ed25519")

    def raw() -> None:
        for signature, digest in pairs:
            key.verify(digest, signature)

    def ours() -> None:
        for envelope in envelopes:
            plugin.authenticate(envelope)  # type: ignore[attr-defined]

    mine = cpu_seconds(ours, repeats=5)
    return 1e6 * mine / count, mine / cpu_seconds(raw, repeats=5)


def _inbound(count: int, *, stored: bool) -> float:
    """Microseconds for one message through decode, signature, replay and reputation."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = _kernel(TRUST, folder if stored else None)
        runs = 5
        frames = [message.to_bytes() for message in _signed(kernel, (runs + 1) * count, 0)]
        batches = iter([frames[n : n + count] for n in range(0, len(frames), count)])
        sender = kernel.identity(SEED)
        assert sender is not None  # noqa: S101

        def run() -> None:
            for frame in next(batches):
                if not isinstance(kernel.inbound(frame, sender, START), Envelope):
                    raise SystemExit(f"refused: {kernel.rejections}")

        seconds = cpu_seconds(run, repeats=runs)
        kernel.teardown()
    return 1e6 * seconds / count


def measure(quick: bool) -> Sequence[Record]:  # noqa: FBT001 - the harness calls it
    """Every figure of the trust plugins."""
    count = 500 if quick else 4000
    verify, ratio = _verify_ratio(count)
    return [
        Record("ed25519: verify one message", verify, "µs"),
        Record("ed25519: verify, against the library's in a loop", ratio, "x", 1.3),
        Record(
            "inbound, 1 KiB, ed25519 + replay + reputation, in memory",
            _inbound(count, stored=False),
            "µs",
            200,
        ),
        Record(
            "inbound, 1 KiB, ed25519 + replay + reputation, stores on disk",
            _inbound(count, stored=True),
            "µs",
            200,
        ),
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure, dists=("qres-core", "qres-ed25519", "qres-replay", "PyNaCl"))
