"""The demonstration's picture and page: one PNG, one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import importlib
import io
from pathlib import Path
from typing import Any, Final

from qres_core.contract.errors import LabError
from qres_core.lab.demo import DEFENDED, UNDEFENDED, Arm, DemoResult
from qres_core.lab.record import SimulationResult

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


def _table(arm: Arm, run: SimulationResult) -> str:
    rows: list[str] = []
    for record in run.rounds:
        accuracy = record.metrics.get("accuracy")
        why = ", ".join(f"{count} {reason}" for reason, count in record.rejected.items())
        cells = [
            str(record.number),
            f"{accuracy:.1%}" if accuracy is not None else "aborted",
            str(record.accepted - record.attackers_accepted),
            str(record.attackers_accepted),
            why or record.reason or "none",
            "" if record.alignment is None else f"{record.alignment:+.2f}",
            record.model_digest[:16],
        ]
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    heads = ["round", "accuracy", "honest in the set", "attackers in the set"]
    heads += ["rejected, why", "toward honest", "model digest"]
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    agreed = "all honest nodes hold the same model" if run.unanimous else "HONEST NODES DISAGREE"
    return (
        f"<h2>{html.escape(arm.label)}</h2><p>{agreed}: <code>{run.model_digests[0]}</code></p>"
        f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    )


def _chain(run: SimulationResult) -> str:
    return " → ".join(
        f"<b>{html.escape(one['name'])}</b> {html.escape(one['distribution'])} {one['version']}"
        for one in run.pipeline
    )


def render(result: DemoResult, png: bytes) -> str:
    """The page, with the picture inside."""
    picture = base64.b64encode(png).decode("ascii")
    attacked = result.undefended
    verdicts = "".join(
        f"<li>{html.escape(arm.label)}: <b>{run.final('accuracy') or 0.0:.1%}</b>"
        f" ({0.0 - result.points_below_clean(run):+.1f} points against clean), {_chain(run)}</li>"
        for arm, run in result.runs
    )
    notices = "".join(f"<li>{html.escape(notice)}</li>" for notice in attacked.notices)
    tables = "".join(_table(arm, run) for arm, run in result.runs)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>QRES demonstration</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif }}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100%; background: #fff; border-radius: 6px }}
.wide {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }}
th, td {{ text-align: right; padding: .2rem .7rem; border-bottom: 1px solid #8884 }}
td:nth-child(5), th:nth-child(5) {{ text-align: left }}
td:last-child, code {{ font: .8rem ui-monospace, monospace; overflow-wrap: anywhere }}
</style></head><body>
<h1>What the defence did</h1>
<p>{attacked.nodes} nodes learn handwritten digits together; {attacked.attackers} of them send
<b>{html.escape(attacked.attack)}</b> updates. Seed {attacked.seed}; the same seed gives the same
bits.</p>
<img alt="Accuracy by round" src="data:image/png;base64,{picture}">
<ul>{verdicts}</ul>
<p>“Toward honest” is the cosine between the merged update and the mean of the honest updates:
+1 follows them, below 0 undoes them.</p>
<h2>What this run does not protect against</h2><ul>{notices}</ul>
{tables}
</body></html>
"""


def write(result: DemoResult, folder: Path) -> tuple[Path, Path]:
    """Write ``demo.png`` and ``demo.html`` into ``folder``; returns their paths."""
    png = draw(result)
    folder.mkdir(parents=True, exist_ok=True)
    picture, page = folder / "demo.png", folder / "demo.html"
    picture.write_bytes(png)
    page.write_text(render(result, png), encoding="utf-8")
    return picture, page
