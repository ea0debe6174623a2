"""What each defence costs a node in a round, and all of them together.

Run ``PYTHONPATH=benchmarks python benchmarks/compose.py [--quick] [--json] [--plot FILE.svg]``.
Times are process times of one thread.

*Table*: every part of the stack is measured by itself, for one node, at n nodes and d coordinates:
what it does once, and what it does for each of the others' messages, times their number. Nothing is
extrapolated in d. Updates have 13 bits a coordinate. Secure aggregation is one sum on the sparse
graph, its session played by all n nodes and one of them timed; nobody drops out. Proofs are checked
by committees for one liar in twenty nodes. Three rows are not in the sum: what proofs cost where
everybody checks all of them; what taking in vectors costs in a sharded round, which stands against
the kernel's row; and rounding to four bits, whose bytes are those that it saves.

*Whole round*: the simulator plays all nodes of the stack with groups and a median, and the time
of every hook of one node is kept, which checks every signature and every proof it is in charge of
itself. The others share verdicts. What is not a plugin's is divided among all nodes. The swarm
promises to withstand as many liars as the median of its groups does.

*Latency* is a model: 50 ms for each message that has to wait for another, the lab's network, and
the node's own processor time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import harness
from composition.parts import cell
from composition.picture import table, waterfall
from composition.whole_round import whole_round
from harness import Record


def measure(quick: bool, plot: Path | None) -> list[Record]:  # noqa: FBT001
    """All figures; the table and the plot beside them."""
    sizes = (
        [(10, 10_000)] if quick else [(n, d) for d in (10_000, 1_000_000) for n in (10, 100, 1000)]
    )
    cells = {(n, d): cell(n, d) for n, d in sizes}
    print(table(cells), file=sys.stderr)
    if plot is not None:
        plot.write_text(waterfall(cells), encoding="utf-8")
    records = [
        Record(f"{name}, n = {n}, d = {d}: {what}", value, unit)
        for (n, d), parts in cells.items()
        for name, part in parts.items()
        for what, value, unit in (
            ("CPU of a node", 1e3 * part.cpu, "ms"),
            ("sent to each", part.sent, "bytes"),
            ("latency", 1e3 * part.latency, "ms"),
        )
    ]
    n, d = (24, 2_000) if quick else (100, 100_000)
    parts = whole_round(n, d)
    records += [
        Record(f"whole round, n = {n}, d = {d}: {name}", 1e3 * seconds, "ms")
        for name, seconds in sorted(parts.items(), key=lambda item: -item[1])
    ]
    total = sum(parts.values())
    limit = None if quick else 0.5
    records.append(Record(f"whole round, n = {n}, d = {d}: CPU of a node", total, "s", limit))
    everyone = sum(whole_round(n, d, "everyone").values())
    name = f"whole round, n = {n}, d = {d}, everyone checks: CPU of a node"
    records.append(Record(name, everyone, "s"))
    return records


if __name__ == "__main__":
    where = harness.plot_option()
    harness.main(
        __doc__ or "",
        lambda quick: measure(quick, where),
        dists=["qres-core", "qres-secagg", "qres-zk", "qres-dp", "numpy", "numba"],
    )
