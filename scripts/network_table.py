"""What a swarm costs on slow, long and lossy lines: a table over networks and sizes of model.

    PYTHONPATH=scripts python -P scripts/network_table.py --json table.json
    PYTHONPATH=scripts python -P scripts/network_table.py --quick
    PYTHONPATH=scripts python -P scripts/network_table.py --slow --json slow.json

Five real nodes, each in a network namespace of its own, learn a task whose dimension is chosen. A
router of ours shapes what they send: the rate of each node's line, the time there and back, and a
share of packets that is lost. For each cell the table has the seconds that a model takes, the bytes
that a node sends over those of its plain updates, and the pulls that failed.

``--slow`` measures each transport on slow lines. There each cell is compared with plain TCP in the
same namespaces: it sends the bytes of the packed updates, as they are stored, in the same
directions, over as many connections. Over a hub, each node sends those for all others to a program
in the hub's place, which sends as many back. The hub's own line has 100 Mbit/s.

Each cell is written to the file as soon as it is measured; cells that the file has are not measured
again. Exit code 0: each cell made models. 1: some made none. 2: no namespaces here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import attrs
from trials.processes import end_in_order
from trials.routed import Routed, RouterCounts, address
from trials.routed_swarm import RoutedSwarm

BYTES: Final = 4
"""Of a parameter in a plain update."""
POLL: Final = 0.5
START_SECONDS: Final = 600.0
"""For the processes to run, before the time of a cell begins."""
PATIENCE: Final = 4.0
"""A round's deadline, as a multiple of the time that its plain updates take on the line."""
LEAST_DEADLINE: Final = 30.0
CONGESTION: Final = "reno"
"""Every kernel has it, so that tables of different machines are alike; no other is more careful."""
HUB_MBITS: Final = 100.0
PLAIN_PORT: Final = 4100
JUMBO: Final = 9000
ETHERNET: Final = 1500


@attrs.frozen
class NetworkCell:
    """One network, and one size of model."""

    nodes: int
    dimension: int
    milliseconds: float  # there and back
    mbits: float  # of each node's line, each way
    loss: float  # per cent of the packets
    congestion: str = CONGESTION  # how TCP controls it
    transport: str = "libp2p"
    compared: bool = False  # with plain TCP

    @property
    def plain(self) -> int:
        """Bytes that a node sends for a model, if it sends its plain update to every other."""
        return (self.nodes - 1) * BYTES * self.dimension

    @property
    def ideal(self) -> float:
        """Seconds that they take on its line."""
        return self.plain * 8 / (self.mbits * 1e6)

    @property
    def deadline(self) -> float:
        """Of a round: an operator who knows the line would set it so."""
        return max(LEAST_DEADLINE, PATIENCE * self.ideal)

    @property
    def mtu(self) -> int:
        """Ethernet's where packets are lost, for TCP's speed then follows it; else large ones."""
        return ETHERNET if self.loss else JUMBO

    def tables(self) -> dict[str, Any]:
        """The configuration of its nodes."""
        faulty = (self.nodes - 1) // 4
        swarm = {
            "name": "table",
            "nodes": self.nodes,
            "byzantine": faulty,
            "quorum": self.nodes - faulty,
            "deadline": self.deadline,
            "vote_timeout": 10.0,
        }
        plugins: dict[str, Any] = {
            name: {} for name in (self.transport, "ed25519", "replay", "reputation")
        }
        task = {"name": "quadratic", "dimension": self.dimension, "learning_rate": 0.002}
        return {
            "swarm": swarm,
            "plugins": {**plugins, "median": {"f": faulty}},
            "simulation": {"seed": 1},
            "trainer": {"task": task},
        }


@attrs.frozen
class CellCost:
    """What came of a cell.

    Attributes:
        models: that were made while it was measured.
        seconds: for each of them; ``None`` where none was made.
        over: bytes that a node sent for each, headers included, over ``NetworkCell.plain``.
        failed: pulls that failed, of all nodes, from the start.
        aborted: rounds that were given up, of the node with most.
        sent: megabytes that a node sent in all.
        late: seconds, the most that the router was late.
        took: seconds, the start of the processes included.
        load: of the machine, at the end.
        useful: bytes of a packed update; 0 where none was found.
        alone: seconds that plain TCP takes for the packed updates of a model; ``None`` if it was
            not measured.
        alone_over: bytes that a node sent then, headers included, over those of the updates.
    """

    models: int
    seconds: float | None
    over: float | None
    failed: int
    aborted: int
    sent: float
    late: float
    took: float
    load: float
    useful: int = 0
    alone: float | None = None
    alone_over: float | None = None

    def ratios(self, cell: NetworkCell) -> tuple[float, float] | None:
        """Seconds over those of plain TCP, and bytes over those that are useful."""
        if not self.seconds or not self.over or not self.alone or not self.useful:
            return None
        useful = (cell.nodes - 1) * self.useful
        return self.seconds / self.alone, self.over * cell.plain / useful


def measure(cell: NetworkCell, models: int, seconds: float, folder: Path) -> CellCost:
    """Run a cell: the first model is made unmeasured, then so many more, if there is time."""
    started = time.monotonic()
    hub = cell.transport == "grpc"
    alone = alone_over = None
    with Routed(cell.nodes + hub, seed=1, mtu=cell.mtu, congestion=cell.congestion) as network:
        network.rate(cell.mbits * 1e6 / 8)
        if hub:
            network.rate(HUB_MBITS * 1e6 / 8, [cell.nodes])
        network.shape(delay=cell.milliseconds / 2000, loss=cell.loss / 100)
        with RoutedSwarm.of(cell.tables(), network, folder) as swarm:
            swarm.until(lambda: len(swarm.reports) == cell.nodes, START_SECONDS)
            end = time.monotonic() + seconds
            swarm.until(lambda: min(swarm.steps()) >= 1, seconds, POLL)
            first, began, before = min(swarm.steps()), time.monotonic(), network.counts()
            if first:
                goal = first + models
                swarm.until(lambda: min(swarm.steps()) >= goal, max(0.0, end - began), POLL)
            made, took, after = (
                min(swarm.steps()) - first,
                time.monotonic() - began,
                network.counts(),
            )
            reports = list(swarm.reports.values())
            failed = sum(report["transport"]["blobs_failed"] for report in reports)
            aborted = max((report["rounds"]["aborted"] for report in reports), default=0)
            agreed = swarm.agreement()
            useful = update_bytes(swarm)
        if cell.compared and useful:
            start = network.counts()
            alone = plain_seconds(network, cell, useful)
            carried = _sent(network.counts(), cell) - _sent(start, cell)
            alone_over = carried / cell.nodes / (cell.nodes - 1) / useful
    if agreed.split is not None:
        what = f"nodes have different models of step {agreed.split}"
        raise RuntimeError(what)
    spent = _sent(after, cell) - _sent(before, cell)
    return CellCost(
        models=made,
        seconds=took / made if made else None,
        over=spent / cell.nodes / made / cell.plain if made else None,
        failed=failed,
        aborted=aborted,
        sent=_sent(after, cell) / cell.nodes / 1e6,
        late=max(before.late, after.late),
        took=time.monotonic() - started,
        load=os.getloadavg()[0],
        useful=useful,
        alone=alone,
        alone_over=alone_over,
    )


def _sent(counts: RouterCounts, cell: NetworkCell) -> int:
    """Bytes that all nodes sent, and not the hub."""
    return sum(map(counts.sent, range(cell.nodes)))


def update_bytes(swarm: RoutedSwarm) -> int:
    """Bytes of a packed update, as nodes store them for others; 0 where there is none."""
    sizes = [
        path.stat().st_size
        for seat in swarm.seats
        for path in seat.folder.rglob("blobs/*")
        if path.is_file() and not path.suffix
    ]
    return int(statistics.median(sizes)) if sizes else 0


def plain_seconds(network: Routed, cell: NetworkCell, octets: int) -> float:
    """Seconds that plain TCP takes to carry an update of each node to each other one."""
    places = [network.at(index) for index in range(cell.nodes)]
    count = cell.nodes - 1
    if cell.transport == "grpc":
        hub = address(cell.nodes, network.kind)
        words = [[place, "0", str(count * octets), hub] for place in places]
        words.append([hub, str(cell.nodes), str(count * octets), "--echo"])
    else:
        words = [
            [place, str(count), str(octets), *(other for other in places if other != place)]
            for place in places
        ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent)}
    with ExitStack() as stack:
        running: list[subprocess.Popen[str]] = []
        for index, (place, *rest) in enumerate(words):
            program = [sys.executable, "-P", "-m", "trials.plain", place, str(PLAIN_PORT), *rest]
            command = network.command(index, program)
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            running.append(stack.enter_context(process))
            stack.callback(process.kill)
        _hear(running, "ready")
        began = time.monotonic()
        _tell(running)
        _hear(running, "done")
        took = time.monotonic() - began
        _tell(running)
    return took


def _hear(running: Sequence[subprocess.Popen[str]], word: str) -> None:
    for process in running:
        said = process.stdout.readline() if process.stdout is not None else ""
        if said.strip() != word:
            what = f"plain TCP could not be measured: {said!r} instead of {word}"
            raise RuntimeError(what)


def _tell(running: Sequence[subprocess.Popen[str]]) -> None:
    for process in running:
        if process.stdin is not None:
            process.stdin.write("go on\n")
            process.stdin.flush()


# ── the table ─────────────────────────────────────────────────────────────────────────────────────

HEADS: Final = (
    *("parameters", "there and back", "line", "lost", "seconds a model", "alone on the line"),
    *("bytes over plain", "failed pulls", "rounds given up", "models", "router late", "load"),
)


def row(cell: NetworkCell, measured: CellCost) -> tuple[str, ...]:
    """A cell as words."""
    made = measured.seconds is not None and measured.over is not None
    return (
        f"{cell.dimension:,}",
        f"{cell.milliseconds:g} ms",
        f"{cell.mbits:g} Mbit/s",
        f"{cell.loss:g} %",
        f"{measured.seconds:.1f}" if made else f"none in {measured.took:.0f}",
        f"{cell.ideal:.1f}",
        f"{measured.over:.2f}" if made else f"({measured.sent:.0f} MB a node)",
        str(measured.failed),
        str(measured.aborted),
        str(measured.models),
        f"{1000 * measured.late:.0f} ms",
        f"{measured.load:.0f}",
    )


COMPARED: Final = (
    *("transport", "line", "lost", "seconds a model", "plain TCP alone", "ratio"),
    *("MB a node sent", "useful MB", "ratio of bytes", "plain TCP's"),
    *("failed pulls", "rounds given up", "models", "load"),
)


def compared_row(cell: NetworkCell, measured: CellCost) -> tuple[str, ...]:
    """A cell that is compared with plain TCP, as words."""
    ratios = measured.ratios(cell)
    useful = (cell.nodes - 1) * measured.useful / 1e6
    sent = measured.over * cell.plain / 1e6 if measured.over else measured.sent
    return (
        cell.transport,
        f"{cell.mbits:g} Mbit/s",
        f"{cell.loss:g} %",
        f"{measured.seconds:.1f}" if measured.seconds else f"none in {measured.took:.0f}",
        f"{measured.alone:.1f}" if measured.alone else "-",
        f"{ratios[0]:.2f}" if ratios else "-",
        f"{sent:.2f}",
        f"{useful:.2f}",
        f"{ratios[1]:.2f}" if ratios else "-",
        f"{measured.alone_over:.2f}" if measured.alone_over else "-",
        str(measured.failed),
        str(measured.aborted),
        str(measured.models),
        f"{measured.load:.0f}",
    )


def words(cell: NetworkCell, measured: CellCost) -> tuple[str, ...]:
    """A cell in the form that fits it."""
    return compared_row(cell, measured) if cell.compared else row(cell, measured)


def text(rows: Sequence[Sequence[str]], heads: Sequence[str] = HEADS) -> str:
    """A table in Markdown."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [heads, ["-" * width for width in widths], *rows]
    padded = [
        [word.ljust(width) for word, width in zip(line, widths, strict=True)] for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


@attrs.define
class TableFile:
    """Cells that were measured, in a file of JSON or in memory alone."""

    path: Path | None
    cells: dict[NetworkCell, CellCost] = attrs.field(factory=dict[NetworkCell, CellCost])

    def read(self) -> None:
        """Take what the file has. Raises ValueError: it is no such file."""
        if self.path is None or not self.path.exists():
            return
        found: Sequence[Mapping[str, Any]] = json.loads(self.path.read_bytes())
        try:
            self.cells = {
                NetworkCell(**item["cell"]): CellCost(**item["measured"]) for item in found
            }
        except (KeyError, TypeError) as error:
            what = f"{self.path} holds no table of this script: {error}"
            raise ValueError(what) from error

    def write(self) -> None:
        """Replace the file in one step: a run that is ended keeps what it measured."""
        if self.path is None:
            return
        told = [
            {"cell": attrs.asdict(cell), "measured": attrs.asdict(measured)}
            for cell, measured in self.cells.items()
        ]
        fresh = self.path.with_name(f"{self.path.name}.new")
        fresh.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        fresh.replace(self.path)

    def shown(self, wanted: Iterable[NetworkCell]) -> str:
        """The table of some cells, as far as they were measured."""
        shown = [cell for cell in wanted if cell in self.cells]
        heads = COMPARED if any(cell.compared for cell in shown) else HEADS
        return text([words(cell, self.cells[cell]) for cell in shown], heads)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[10**4, 10**6, 10**7])
    parser.add_argument("--milliseconds", type=float, nargs="+", default=[20, 200])
    parser.add_argument("--mbits", type=float, nargs="+", default=[100, 20, 10])
    parser.add_argument("--loss", type=float, nargs="+", default=[0, 2], help="per cent")
    parser.add_argument("--congestion", default=CONGESTION, help="TCP's, such as bbr")
    parser.add_argument("--models", type=int, default=3, help="measured in each cell")
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="for each cell, once its nodes run"
    )
    parser.add_argument("--quick", action="store_true", help="two cells, the smallest model")
    parser.add_argument("--slow", action="store_true", help="slow lines, beside plain TCP")
    parser.add_argument("--transports", nargs="+", default=["libp2p"], choices=["libp2p", "grpc"])
    parser.add_argument("--json", type=Path, help="cells that are measured, and were")
    chosen = parser.parse_args()
    if chosen.slow:
        parser.set_defaults(
            dimensions=[10**6],
            milliseconds=[200.0],
            mbits=[20.0, 10.0, 5.0, 2.0],
            loss=[0.0, 1.0, 3.0],
            transports=["grpc", "libp2p"],
        )
        chosen = parser.parse_args()
    if chosen.quick:
        chosen.dimensions, chosen.milliseconds, chosen.mbits = [10**4], [200.0], [20.0]
    axes = (chosen.transports, chosen.dimensions, chosen.mbits, chosen.milliseconds, chosen.loss)
    how = chosen.congestion
    cells = [
        NetworkCell(chosen.nodes, dimension, delay, rate, loss, how, transport, chosen.slow)
        for transport, dimension, rate, delay, loss in itertools.product(*axes)
    ]
    table = TableFile(chosen.json)
    try:
        table.read()
        for cell in cells:
            if cell not in table.cells:
                table.cells[cell] = _try(cell, chosen.models, chosen.seconds)
                table.write()
            print("  ".join(words(cell, table.cells[cell])), flush=True)
    except (OSError, ValueError) as error:
        print(f"cannot be tried: {error}", file=sys.stderr)
        return 2
    print(f"\n{table.shown(cells)}")
    return int(any(table.cells[cell].seconds is None for cell in cells))


def _try(cell: NetworkCell, models: int, seconds: float) -> CellCost:
    home = Path(tempfile.mkdtemp(prefix="qres-table-"))
    try:
        return measure(cell, models, seconds, home / "box")
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
