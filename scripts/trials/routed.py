"""Nodes in network namespaces of their own, joined by a router of ours.

Each node has two IPv4 addresses, two IPv6 addresses and a name, and a line to the router, which
shapes what it carries: delay, rate, loss, cuts. Nothing outside the namespaces changes, and they
are gone with the processes that hold them. Linux alone, with ``ip``, ``nsenter`` and
``/dev/net/tun``; as root, or where the machine lets everybody make user namespaces.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs
from qres_lab.box.nodes import BoxNode

from .shaping import DELAY, LOSS, NetworkPlan

PORT: Final = 4001
"""Where every node listens, at its own addresses."""
PLACES: Final = 2
"""Addresses of each kind that a node has, to move from one to another."""
PREFIXES: Final = (16, 48)
FORMS: Final = ("ip4", "ip6", "dns4", "dns6")
"""How a place may be written in a multiaddr."""
SECONDS: Final = 60.0
"""For a helper process to end."""
TOOLS: Final = ("ip", "mount", "nsenter", "umount")


def address(index: int, form: str, place: int = 0) -> str:
    """An address of a node, or for ``dns4`` and ``dns6`` its name."""
    if form.startswith("dns"):
        return f"node-{index}.qres.test"
    return f"10.213.{place}.{index + 1}" if form == "ip4" else f"fd51:7265:73:{place}::{index + 1}"


def hosts(nodes: int, places: Sequence[int] = ()) -> str:
    """A hosts file with the name of every node, at its first place or at the one given."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for index in range(nodes):
        place = places[index] if places else 0
        name = address(index, "dns4")
        lines += [f"{address(index, form, place)} {name}" for form in ("ip4", "ip6")]
    return "\n".join(lines) + "\n"


@attrs.frozen
class RouterCounts:
    """What the router counted since it began."""

    paths: dict[tuple[int, int], dict[str, int]]  # by source and target, see ``PathCounts``
    elsewhere: int  # packets for nobody in the network
    unwritten: int  # packets that a device did not take
    late: float  # seconds: the most that the router was late since it was last asked
    processor: float  # seconds that the router computed

    def total(self, name: str) -> int:
        """A count of all paths together."""
        return sum(counts[name] for counts in self.paths.values())

    def sent(self, index: int) -> int:
        """Bytes that a node sent to others, headers included."""
        return sum(
            counts["octets"] for (source, _), counts in self.paths.items() if source == index
        )


class Routed:
    """A network of namespaces. A context manager; a ``Network`` of trials.

    Args:
        nodes: how many.
        form: how nodes write the others' places, one of ``FORMS``.
        seed: of the losses.
        mtu: bytes of the largest packet.
        user: whether to use a user namespace; by default where this is not root.
        mutual: whether all name each other; else each names those before it.
        congestion: TCP's control of congestion, ``reno`` for example; by default the machine's.

    Raises:
        OSError: it cannot be made here.
    """

    name = "namespaces"
    weathers = True
    means = f"our router, {DELAY * 1000:.0f} ms delay and {LOSS:.0%} of packets lost"

    def __init__(
        self,
        nodes: int,
        form: str = "ip4",
        *,
        seed: int = 0,
        mtu: int = 1500,
        user: bool | None = None,
        mutual: bool = True,
        congestion: str = "",
    ) -> None:
        self.nodes, self.form, self.mutual = nodes, form, mutual
        self._user = os.name == "posix" and bool(os.geteuid()) if user is None else user
        self._moved = [0] * nodes
        self._prober: subprocess.Popen[str] | None = None
        self._check()
        kinds = list(itertools.product(("ip4", "ip6"), range(PLACES)))
        plan = NetworkPlan(
            nodes,
            seed,
            mtu,
            self._user,
            [[address(index, *kind) for kind in kinds] for index in range(nodes)],
            PREFIXES,
            hosts(nodes),
            congestion,
        )
        self._router = _helper("trials.router", json.dumps(attrs.asdict(plan)))
        told = self._answer()
        if "error" in told:
            self.close()
            raise OSError(told["error"])
        self.process: int = told["process"]
        self._files: list[int] = told["namespaces"]

    @staticmethod
    def _check() -> None:
        if sys.platform != "linux":
            what = f"network namespaces are Linux's, and this is {sys.platform}"
            raise OSError(what)
        if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
            what = f"there is no {' and no '.join(missing)} on this machine"
            raise OSError(what)
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            what = "/dev/net/tun is not there, or not for this user"
            raise OSError(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ── what runs there ───────────────────────────────────────────────────────────────────────

    def wiring(self, seat: BoxNode, seats: Sequence[BoxNode]) -> dict[str, Any]:
        """Where a node listens and whom it dials; the hub has the place after the last node."""
        if seat.hub is not None:
            return {"hubs": [f"{self.hub(seats)}:{seat.hub.port}#{seat.hub.option.split('#')[1]}"]}
        others = [item for item in seats if item is not seat]
        wanted = others if self.mutual else [item for item in others if item.index < seat.index]
        return {
            "listen": f"/{self.kind}/{self.at(seat.index)}/tcp/{PORT}",
            "peers": [self.place(item) for item in wanted],
        }

    def hub(self, seats: Sequence[BoxNode]) -> str:
        """The address of the hub of some nodes."""
        return address(len(seats), self.kind)

    @property
    def kind(self) -> str:
        """``ip4`` or ``ip6``."""
        return f"ip{self.form[-1]}"

    def at(self, index: int) -> str:
        """The address at which a node listens."""
        return address(index, self.kind, self._moved[index])

    def place(self, seat: BoxNode) -> str:
        """Where a node is, for the others' ``peers``."""
        written = address(seat.index, self.form, self._moved[seat.index])
        return f"/{self.form}/{written}/tcp/{PORT}/p2p/{seat.peer_id}"

    def move(self, index: int) -> None:
        """Give a node its next place: for ``wiring``, and for whoever looks its name up."""
        self._moved[index] = (self._moved[index] + 1) % PLACES
        self._tell(do="hosts", text=hosts(self.nodes, self._moved))

    def command(self, index: int, words: Sequence[str]) -> list[str]:
        """``nsenter`` becomes the node: it has the id of the process."""
        return [*self._enter(self._files[index]), *words]

    def _enter(self, file: int | None = None) -> list[str]:
        at = f"/proc/{self.process}"
        user = (f"--user={at}/ns/user", "--preserve-credentials") if self._user else ()
        net = () if file is None else (f"--net={at}/fd/{file}",)
        return ["nsenter", *user, f"--mount={at}/ns/mnt", *net, "--"]

    def run(
        self, index: int, *words: str, timeout: float = 600.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a node's namespace, to its end."""
        command = self.command(index, words)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout)

    def ask(self, seats: Iterable[BoxNode]) -> dict[int, dict[str, Any] | None]:
        """The status of nodes by their index; ``None`` for one that does not answer."""
        if self._prober is None:
            arguments = (str(self.process), *map(str, self._files))
            self._prober = _helper("trials.prober", *arguments, enter=self._enter())
        assert self._prober.stdin is not None  # noqa: S101 - pipes
        assert self._prober.stdout is not None  # noqa: S101 - pipes
        found: dict[int, dict[str, Any] | None] = {}
        asked = list(seats)
        for seat in asked:
            self._prober.stdin.write(f"{seat.index} {seat.url}\n")
        self._prober.stdin.flush()
        while len(found) < len(asked):
            line = self._prober.stdout.readline()
            if not line:
                raise EOFError("the process that asks nodes is gone")
            index, report = json.loads(line)
            found[index] = report
        return found

    # ── the network ───────────────────────────────────────────────────────────────────────────

    def _tell(self, **order: Any) -> Any:
        assert self._router.stdin is not None  # noqa: S101 - a pipe
        self._router.stdin.write(json.dumps(order) + "\n")
        self._router.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._router.stdout is not None  # noqa: S101 - a pipe
        line = self._router.stdout.readline()
        return json.loads(line) if line else {"error": "the router is gone: see standard error"}

    def rate(self, octets: float, nodes: Iterable[int] | None = None) -> None:
        """Bytes a second of the nodes' lines, each way; 0 for as fast as the router is."""
        chosen = list(range(self.nodes) if nodes is None else nodes)
        self._tell(do="lines", nodes=chosen, set={"rate": octets})

    def shape(self, pairs: Iterable[tuple[int, int]] | None = None, **values: Any) -> None:
        """Set ``delay`` (seconds, one way), ``loss`` (share) or ``cut`` of both ways of pairs."""
        chosen = list(itertools.combinations(range(self.nodes), 2) if pairs is None else pairs)
        both = [*chosen, *((second, first) for first, second in chosen)]
        self._tell(do="paths", pairs=both, set=values)

    def counts(self) -> RouterCounts:
        """What the router counted."""
        told = self._tell(do="counts")
        paths = {(source, target): counts for source, target, counts in told.pop("paths")}
        return RouterCounts(paths, **told)

    def part(self, away: Collection[int]) -> None:
        """Part some nodes from all others."""
        pairs = itertools.combinations(range(self.nodes), 2)
        self.shape([pair for pair in pairs if (pair[0] in away) != (pair[1] in away)], cut=True)

    def heal(self) -> None:
        """Join all again."""
        self.shape(cut=False)

    def weather(self, *, bad: bool) -> None:
        """Delay and lose packets, or stop it."""
        self.shape(delay=DELAY if bad else 0.0, loss=LOSS if bad else 0.0)

    def close(self) -> None:
        """End the helpers, and with them the namespaces; what still runs there is killed."""
        for helper in (self._prober, self._router):
            if helper is None or helper.stdin is None or helper.stdin.closed:
                continue
            helper.stdin.close()
            try:
                helper.wait(SECONDS)
            except subprocess.TimeoutExpired:
                helper.kill()
                helper.wait()
            if helper.stdout is not None:
                helper.stdout.close()


def _helper(module: str, *arguments: str, enter: Sequence[str] = ()) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*enter, sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        start_new_session=True,  # ctrl-C is for this process, which ends them in order
    )


@cache
def unavailable() -> str:
    """Why no such network can be made here; empty where one can."""
    try:
        Routed(2).close()
    except OSError as error:
        return f"no network namespaces: {error}"
    return ""
