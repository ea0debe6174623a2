"""The demonstration's picture and page: one PNG, one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from qres_core.contract.errors import LabError
from qres_core.lab.record import RoundRecord, SimulationResult
from qres_core.reporting import Html, bullets, code, document, join, table, tag
from qres_lab.demo import DEFENDED, UNDEFENDED, Arm, DemoResult

_COLOURS: Final = {
    "mean, nobody attacks": "#5b6b7a",
    UNDEFENDED.label: "#c2402b",
    DEFENDED.label: "#1f77b4",
}
_DASHES: Final = {"mean, nobody attacks": (4, 3), UNDEFENDED.label: None, DEFENDED.label: None}


def _matplotlib() -> Any:
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        what = "the picture needs matplotlib"
        fix = "pip install matplotlib"
        raise LabError.of("QRES-E802", "qres demo", what, fix) from error
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.figure")


def draw(result: DemoResult) -> bytes:
    """Accuracy by round of every run, as PNG bytes. Raises LabError QRES-E802."""
    figure = _matplotlib().Figure(figsize=(9.0, 5.0), dpi=130, layout="constrained")
    axes = figure.subplots()
    last = 1
    for arm, run in result.runs:
        rounds = range(1, len(run.closed) + 1)
        shares = [100.0 * record.metrics["accuracy"] for record in run.closed]
        last = max(last, len(shares))
        (line,) = axes.plot(
            rounds, shares, color=_COLOURS[arm.label], linewidth=2.2, marker="o", markersize=3.5
        )
        dashes = _DASHES[arm.label]
        if dashes is not None:
            line.set_dashes(dashes)
    _label_ends(axes, result)
    attacked = result.undefended
    axes.set_title(
        f"Handwritten digits, {attacked.nodes} nodes, {attacked.attackers} of them attack "
        f"({attacked.attack}), seed {attacked.seed}",
        loc="left",
        fontsize=11,
    )
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on held-out digits, %")
    axes.set_ylim(0, 100)
    axes.set_xlim(1, last + 0.3 * last)
    axes.set_xticks(range(1, last + 1))
    axes.grid(axis="y", color="#dde3e8")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    octets = io.BytesIO()
    figure.savefig(octets, format="png", metadata={"Software": None})
    return octets.getvalue()


def _label_ends(axes: Any, result: DemoResult) -> None:
    """Name each line at its end; labels that would touch are moved apart."""
    ends = sorted(
        (100.0 * (run.final("accuracy") or 0.0), arm.label, len(run.closed))
        for arm, run in result.runs
    )
    floor = -100.0
    for height, label, rounds in ends:
        floor = max(height, floor + 6.0)
        axes.annotate(
            f"{label}: {height:.1f} %",
            (rounds, height),
            xytext=(rounds + 0.25, min(floor, 97.0)),
            color=_COLOURS[label],
            fontsize=9.5,
            va="center",
        )


def _without_model(record: RoundRecord) -> str:
    return "void" if record.void else "aborted"


def _table(arm: Arm, run: SimulationResult) -> Iterator[Html]:
    agreed = "all honest nodes hold the same model" if run.unanimous else "HONEST NODES DISAGREE"
    yield tag("h2", arm.label)
    yield tag("p", f"{agreed}: ", code(run.model_digests[0]))
    rows: list[list[object]] = []
    for record in run.rounds:
        accuracy = record.metrics.get("accuracy")
        why = ", ".join(f"{count} {reason}" for reason, count in record.rejected.items())
        rows.append(
            [
                record.number,
                f"{accuracy:.1%}" if accuracy is not None else _without_model(record),
                record.accepted - record.attackers_accepted,
                record.attackers_accepted,
                why or record.reason or "none",
                "" if record.alignment is None else f"{record.alignment:+.2f}",
                code(record.model_digest[:16]),
            ]
        )
    heads = ["round#", "accuracy#", "honest in the set#", "attackers in the set#"]
    heads += ["rejected, why", "toward honest#", "model digest"]
    yield table(heads, rows)


def _verdict(result: DemoResult, arm: Arm, run: SimulationResult) -> Html:
    parts: list[object] = [f"{arm.label}: ", tag("b", f"{run.final('accuracy') or 0.0:.1%}")]
    parts.append(f" ({0.0 - result.points_below_clean(run):+.1f} points against clean), ")
    for index, plugin in enumerate(run.pipeline):
        said = f" {plugin['distribution']} {plugin['version']}"
        parts += [" → " if index else "", tag("b", plugin["name"]), said]
    return join(parts)


def render(result: DemoResult, png: bytes) -> str:
    """The page, with the picture inside."""
    picture = base64.b64encode(png).decode("ascii")
    attacked = result.undefended
    return document(
        "QRES demonstration",
        tag("h1", "What the defence did"),
        tag(
            "p",
            f"{attacked.nodes} nodes learn handwritten digits together; {attacked.attackers} of "
            "them send ",
            tag("b", attacked.attack),
            f" updates. Seed {attacked.seed}; the same seed gives the same bits.",
        ),
        tag("img", alt="Accuracy by round", src=f"data:image/png;base64,{picture}"),
        bullets(_verdict(result, arm, run) for arm, run in result.runs),
        tag(
            "p",
            "“Toward honest” is the cosine between the merged update and the mean of the honest "
            "updates: +1 follows them, below 0 undoes them.",
        ),
        tag("h2", "What this run does not protect against"),
        bullets(attacked.notices),
        *(part for arm, run in result.runs for part in _table(arm, run)),
    )


def write(result: DemoResult, folder: Path) -> tuple[Path, Path]:
    """Write ``demo.png`` and ``demo.html`` into ``folder``; returns their paths."""
    png = draw(result)
    folder.mkdir(parents=True, exist_ok=True)
    picture, page = folder / "demo.png", folder / "demo.html"
    picture.write_bytes(png)
    page.write_text(render(result, png), encoding="utf-8")
    return picture, page
