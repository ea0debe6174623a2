"""What secure aggregation costs: masks, a client's round, the sum, bytes, and a thousand nodes.

Run ``python benchmarks/secagg.py [--quick] [--json] [--plot FILE.svg]``. Times are process times of
one thread. A client's time is of all it does in a round: keys, shares, checks of the list, masks,
the survivor statement, opened shares; in the comparison also Ed25519 for each message of each node.
What else the kernel does is measured by ``benchmarks/trust.py``.

The comparison with Flower runs where ``QRES_FLWR_PYTHON`` names an interpreter that has flwr; its
client does the same work through its own functions, without authentication, in the same minutes.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from harness import Record, cpu_seconds, main, plot_option
from nacl.signing import SigningKey
from qres_secagg.aggregator import Aggregator
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, Masked, VolatileHistory
from qres_secagg.keys import KeyPair, random_scalar, seal_key
from qres_secagg.masks import BLOCK, apply
from qres_secagg.messages import Kind
from qres_secagg.parameters import Parameters, choose
from qres_secagg.session import Session
from qres_secagg.shamir import encode, polynomial, value
from qres_secagg.sharing import Secret, commitment, seal

from qres_core.reporting import Axis, Chart, Line, svg_file

MILLION = 10**6
Said = list[tuple[Kind, bytes]]
_DEALT = (Kind.SHARE, Kind.ACK, Kind.COMPLAINT)


class Clock:
    """Process time by label."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def __call__(self, label: str, run: Callable[[], Any]) -> Any:
        """Run it and add its time to the label's."""
        start = time.process_time()
        result = run()
        self.spent[label] = self.spent.get(label, 0.0) + time.process_time() - start
        return result


def session(n: int, d: int, corrupt: int, dropped: int, *, complete: bool = False) -> Session:
    """A session of ``n`` nodes; degree and threshold for the given failures."""
    plan = choose(n, corrupt, dropped, complete_up_to=n if complete else 64)
    numbers = Parameters(
        dimension=d,
        k=plan.k,
        t=plan.t,
        acks=plan.acks,
        corrupt=corrupt,
        min_survivors=max(3, corrupt + 2),
        bound=(2**31 - 1) // n,
        summands=n,
    )
    roster = tuple(sorted(os.urandom(32) for _ in range(n)))
    return Session("bench", 1, os.urandom(32), roster, numbers)


def mask_ratio(d: int, count: int) -> float:
    """Time of ``count`` masks, against the bare keystream and addition of as many."""
    values = np.zeros(d, np.uint32)
    keys = [(os.urandom(32), 1 if i % 2 else -1) for i in range(count)]
    zeros, buffer = memoryview(bytes(BLOCK)), bytearray(BLOCK)
    window, words = memoryview(buffer), np.frombuffer(buffer, np.uint32)
    blocks = [values[i : i + BLOCK // 4] for i in range(0, d, BLOCK // 4)]

    def bare() -> None:
        streams = [
            Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor() for key, _sign in keys
        ]
        for block in blocks:
            size = block.nbytes
            for stream in streams:
                stream.update_into(zeros[:size], window[:size])
                np.add(block, words[: block.size], out=block)

    ratios = [
        cpu_seconds(lambda: apply(values, keys), repeats=3) / cpu_seconds(bare, repeats=3)
        for _ in range(5)
    ]
    return float(np.median(ratios))


def _deliver(
    boards: list[SessionMessages],
    sender: bytes,
    kind: Kind,
    body: bytes,
    clock: Callable[[Callable[[], Any]], Any],
    me: int,
) -> None:
    """A message reaches the boards of all others; the clock runs for one of them."""
    for receiver, board in enumerate(boards):
        if board.me == sender:
            continue
        if receiver == me:
            clock(partial(board.receive, sender, kind, body))
        else:
            board.receive(sender, kind, body)


def client_round(n: int, d: int, *, complete: bool) -> tuple[float, float, int]:
    """Seconds of one client, seconds of whoever sums without dropouts, and bytes it sends.

    All nodes advertise and share; one of them is timed through the whole round, with the messages
    of all others on its board. Inputs of the others are zeros under masks that are left out, so
    that a machine with two cores can play a hundred clients of a million coordinates.
    """
    item = session(n, d, n // 10, n // 10, complete=complete)
    boards = [SessionMessages(item, node) for node in item.roster]
    clients = [
        Client(item, node, board, VolatileHistory())
        for node, board in zip(item.roster, boards, strict=True)
    ]
    clock, me = Clock(), n // 2
    size = 4 * d

    def all_say(step: Callable[[Client], Said]) -> None:
        nonlocal size
        for sender, client in enumerate(clients):
            mine = sender == me
            for kind, body in clock("client", partial(step, client)) if mine else step(client):
                size += mine * len(body)
                _deliver(boards, item.roster[sender], kind, body, partial(clock, "client"), me)

    all_say(lambda client: [(Kind.ADVERTISE, client.advertise())])
    all_say(lambda client: [(Kind.SHARE, client.share())])
    all_say(Client.acknowledge)
    listing = boards[0].compose()
    for rank, client in enumerate(clients):
        if rank == me:
            clock("client", lambda: clients[me].adopt(listing))
        else:
            client.adopt(listing)
    vector = np.ones(d, np.int32)
    masked: dict[int, Masked] = {}
    for rank, client in enumerate(clients):
        if rank == me:
            masked[rank] = clock("client", lambda: clients[me].mask(vector))
        else:
            masked[rank] = client.mask(vector)
    inputs = {item.roster[rank]: made.digest for rank, made in masked.items()}
    all_say(lambda client: [(Kind.STATEMENT, client.state(inputs))])
    all_say(lambda client: [(Kind.UNMASK, client.unmask())])
    judge = boards[0]
    aggregator = Aggregator(judge)
    for rank, made in masked.items():
        node = item.roster[rank]
        clock("sum", partial(aggregator.add, node, made.vector))
    (opened,) = clock("sum", aggregator.finish)
    if not (opened.total == n).all():
        raise SystemExit("the sum is wrong")
    return clock.spent["client"], clock.spent["sum"], size


def scale(n: int, d: int, dropped_share: float) -> dict[str, float]:
    """A whole round of ``n`` nodes in one process: all clients and one that sums.

    Clients share one board, as it holds nothing secret and says the same to all. What it costs a
    node to take in the messages of all others is measured on one board more and counted for each.
    Returns milliseconds and whether the sum was exact.
    """
    item = session(n, d, n // 10, n // 10)
    board, clock = SessionMessages(item), Clock()
    clients = [Client(item, node, board, VolatileHistory()) for node in item.roster]
    rng = np.random.default_rng(1)
    gone = set(rng.choice(n, int(dropped_share * n), replace=False).tolist())
    sent: list[tuple[bytes, Kind, bytes]] = []
    took: list[float] = []
    steps: tuple[Callable[[Client], Said], ...] = (
        lambda client: [(Kind.ADVERTISE, client.advertise())],
        lambda client: [(Kind.SHARE, client.share())],
        Client.acknowledge,
    )
    for step in steps:
        before = clock.spent.get("client", 0.0)
        for client in clients:
            said = clock("client", partial(step, client))
            sent += [(client.me, kind, body) for kind, body in said]
        took.append((clock.spent["client"] - before) / n)
    listing = board.compose()
    for client in clients:
        clock("client", partial(client.adopt, listing))
    limit = item.parameters.bound
    expected = np.zeros(d, np.int64)
    masked: dict[int, Masked] = {}
    aggregator = Aggregator(board)
    vectors = rng.integers(-limit, limit + 1, (16, d), dtype=np.int32)
    for rank, client in enumerate(clients):
        vector = np.roll(vectors[rank % 16], rank)
        made = clock("client", partial(client.mask, vector))
        if rank not in gone:
            expected += vector
            masked[rank] = made
    inputs = {item.roster[rank]: made.digest for rank, made in masked.items()}
    staying = [client for rank, client in enumerate(clients) if rank not in gone]
    for client in staying:
        body = clock("client", partial(client.state, inputs))
        sent.append((client.me, Kind.STATEMENT, body))
    for rank, made in masked.items():
        node = item.roster[rank]
        clock("sum", partial(aggregator.add, node, made.vector))
    masked.clear()
    gc.collect()
    sent += [(client.me, Kind.UNMASK, clock("client", client.unmask)) for client in staying]
    other = SessionMessages(item, item.roster[0])
    early = [message for message in sent if message[1] in (Kind.ADVERTISE, Kind.SHARE, Kind.ACK)]
    for message in early:
        clock("receive", partial(other.receive, *message))
    clock("receive", partial(other.adopt, listing))
    clock("receive", partial(other.decide, inputs))
    for message in sent[len(early) :]:
        clock("receive", partial(other.receive, *message))
    (opened,) = clock("sum", aggregator.finish)
    return {
        "client": 1e3 * (clock.spent["client"] / n + clock.spent["receive"]),
        "receive": 1e3 * clock.spent["receive"],
        "sum": 1e3 * clock.spent["sum"],
        "dealt": 1e3 * took[1],
        "checked": 1e3 * took[2],
        "octets": sum(len(body) for _, kind, body in sent if kind in _DEALT) / n,
        "plain": 1e3 * plain_dealing(item),
        "exact": float((opened.total == expected).all()),
        "k": float(item.parameters.k),
    }


def plain_dealing(item: Session) -> float:
    """Seconds in which a node shares out two secrets without a proof: values, hashes and seals."""
    sid, holders, threshold = item.sid, item.parameters.k, item.parameters.t
    pair, others = KeyPair(), [KeyPair().public for _ in range(holders)]

    def run() -> None:
        made = [polynomial(random_scalar(), threshold) for _ in range(2)]
        for place, public in enumerate(others, start=1):
            shares = [encode(value(coefficients, place)) for coefficients in made]
            for kind, share in zip(Secret, shares, strict=True):
                commitment(sid, kind, 0, place, share, b"")
            who = (item.roster[0], pair.public), (item.roster[1], public)
            seal(seal_key(pair.exchange(public), sid, *who), sid, *shares)

    return cpu_seconds(run, repeats=3)


def authentication(n: int) -> float:
    """Seconds of Ed25519 for a node's round: its own messages signed, all others' verified.

    A message of each kind, where nobody has anything to complain about.
    """
    key, message = SigningKey.generate(), os.urandom(32)
    signed = key.sign(message)
    checked = cpu_seconds(lambda: [key.verify_key.verify(signed) for _ in range(200)], repeats=3)
    made = cpu_seconds(lambda: [key.sign(message) for _ in range(200)], repeats=3)
    kinds = len(Kind) - 1
    return (kinds * (n - 1) * checked + kinds * made) / 200


def flower(n: int, d: int) -> dict[str, float] | None:
    """Seconds of flwr's client and server, or ``None`` without it."""
    python = os.environ.get("QRES_FLWR_PYTHON", "")
    if not python:
        return None
    script = Path(__file__).with_name("secagg_flower.py")
    run = subprocess.run(  # noqa: S603 - our own script
        [python, str(script), str(n), str(d)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(run.stdout.splitlines()[-1]))


def plot(points: dict[int, dict[str, float]], path: Path) -> None:
    """Milliseconds of a client over the number of nodes, as an SVG file."""
    line = [(float(n), found["client"]) for n, found in points.items()]
    title = ", ".join(f"{found['k']:.0f}" for found in points.values()) + " neighbours"
    across, up = Axis("nodes", logarithmic=True), Axis("CPU of a client in a round, ms", low=0.0)
    chart = Chart([Line(line)], title, across, up, line, width=480, height=300)
    path.write_text(svg_file([chart]), encoding="utf-8")


def measure(quick: bool, picture: Path | None) -> list[Record]:  # noqa: FBT001
    """All figures."""
    d = MILLION
    records = [
        Record(
            "mask, against bare keystream and addition",
            mask_ratio(d, 8 if quick else 32),
            "times",
            1.3,
        )
    ]
    n = 20 if quick else 100
    client, summing, size = client_round(n, d, complete=True)
    client += authentication(n)
    records += [
        Record(f"client, n = {n}, d = 1e6, complete graph", 1e3 * client, "ms"),
        Record(f"summing, n = {n}, d = 1e6, complete graph", 1e3 * summing, "ms"),
        Record(f"sent, against 4 bytes per coordinate, n = {n}", size / (4 * d), "times", 1.1),
    ]
    theirs = flower(n, d)
    if theirs is not None:
        target = None if quick else 8.0
        ratio = theirs["client"] / client
        records += [
            Record(f"flwr client, n = {n}, d = 1e6", 1e3 * theirs["client"], "ms"),
            Record("flwr's client against ours", ratio, "times", target, at_least=True),
        ]
        if "server" in theirs:
            target = None if quick else 50.0
            ratio = theirs["server"] / summing
            records += [
                Record(f"flwr server, n = {n}, d = 1e6", 1e3 * theirs["server"], "ms"),
                Record("flwr's server against ours", ratio, "times", target, at_least=True),
            ]
    points: dict[int, dict[str, float]] = {}
    for nodes in (50, 100) if quick else (50, 100, 200, 500, 1000):
        points[nodes] = scale(nodes, 10**4 if quick else 10**5, 0.05)
        found = points[nodes]
        name = f"n = {nodes}, k = {found['k']:.0f}, 5 % dropped"
        records += [
            Record(f"{name}: client", found["client"], "ms"),
            Record(f"{name}: of it, taking in messages", found["receive"], "ms"),
            Record(f"{name}: summing", found["sum"], "ms"),
            Record(f"{name}: dealing, provably", found["dealt"], "ms"),
            Record(f"{name}: dealing without a proof", found["plain"], "ms"),
            Record(f"{name}: checking what was dealt", found["checked"], "ms"),
            Record(f"{name}: shares and acks sent", found["octets"] / 1e3, "kB"),
            Record(f"{name}: exact", found["exact"], "", 1.0, at_least=True),
        ]
    first, last = min(points), max(points)
    growth = points[last]["client"] / points[first]["client"]
    records.append(Record(f"client at n = {last} against n = {first}", growth, "times"))
    if picture is not None:
        plot(points, picture)
    return records


if __name__ == "__main__":
    where = plot_option()
    main(
        __doc__ or "",
        lambda quick: measure(quick, where),
        dists=["qres-secagg", "cryptography", "numpy"],
    )
