"""The status of nodes as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qres_core.cli.display import chosen, reasons, written

BARS = "▁▂▃▄▅▆▇█"


def figure(metrics: Mapping[str, float]) -> str:
    """The figure that counts, for people."""
    name = chosen(metrics)
    if not name:
        return ""
    shown = written(name, metrics[name])
    return shown if name == "accuracy" else f"{name} {shown}"


def figures(report: Mapping[str, Any]) -> str:
    """A node's newest figures, with the model's number where they are of an older one."""
    said, step = figure(report["metrics"]), report.get("metrics_step")
    return f"{said} of model {step}" if said and step != report["step"] else said


def trainer_error(failure: Mapping[str, Any]) -> str:
    """Error of a node's trainer, and its place, in one line."""
    place = f" ({failure['file']}, line {failure['line']})" if failure.get("file") else ""
    error = str(failure["error"]).replace("\n", " ")
    return f"trainer failed in {failure['method']}, round {failure['round']}: {error}{place}"


def waiting_change(change: Mapping[str, Any], needed: int) -> str:
    """A change of the members that waits, in one line."""
    heir = f" to {change['successor'][:16]}" if change["successor"] else ""
    support = "approved" if change["approved"] else f"signed by {change['signed']} of {needed}"
    return f"{change['action']} {change['member'][:16]}{heir}, {support}"


def figures_at(report: Mapping[str, Any], step: int) -> dict[str, float]:
    """The figures that a node measured of the model of a step; empty where it did not."""
    if report.get("metrics_step") == step:
        return dict(report["metrics"])
    for ended in reversed(report["history"]):
        if ended["step"] == step and ended["metrics"]:
            return dict(ended["metrics"])
    return {}


def seconds_a_round(report: Mapping[str, Any]) -> float | None:
    """Mean length of the last ten rounds that closed; ``None`` without one."""
    lengths = [ended["seconds"] for ended in report["history"] if ended["closed"]][-10:]
    return sum(lengths) / len(lengths) if lengths else None


def sparkline(values: Sequence[float]) -> str:
    """Numbers as bars between the least and the greatest.

    Example:
        >>> sparkline([0.1, 0.5, 0.9])
        '▁▅█'
    """
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _accuracies(report: Mapping[str, Any]) -> list[float]:
    made = [record["metrics"].get("accuracy") for record in report["history"]]
    return [value for value in made if value is not None][-40:]


def node_tables(report: Mapping[str, Any]) -> Iterator[Table | Text]:
    """One node: its rounds, the others as it sees them, what it refused."""
    if report["state"] != "running":
        yield Text(f"the node is {report['state']}")
        return
    swarm, rounds = report["swarm"], report["rounds"]
    head = Table.grid(padding=(0, 2))
    void = f"{rounds['void']} void, " if rounds.get("void") else ""
    facts = {
        "node": f"{report['node'].get('name', '')} {report['node']['id']}".strip(),
        "swarm": f"{swarm['name']}, {swarm['nodes']} nodes of which {swarm['byzantine']} may lie",
        "round": (
            f"{report['round']}, {rounds['closed']} closed, {void}{rounds['aborted']} aborted"
        ),
        "height": f"{report['height']}, head {report['head'][:16]}",
        "model": f"step {report['step']}, {report['model_digest'][:16]}",
        "figures": f"{figures(report)} {sparkline(_accuracies(report))}".strip(),
        "peers": f"{len(report['peers'])} connected",
        "refused": reasons(report["rejections"]) or "nothing",
        "plugins": ", ".join(report["plugins"]),
    }
    if (lasted := seconds_a_round(report)) is not None:
        facts["pace"] = f"{lasted:.3g} s a round"
    if report.get("trainer_error"):
        facts["trainer"] = trainer_error(report["trainer_error"])
    if report.get("vanished"):
        facts["vanished"] = f"{report['vanished']['updates']} updates: {report['vanished']['text']}"
    if report.get("roster"):
        for number, change in enumerate(report["roster"]["waiting"], 1):
            facts[f"change {number}"] = waiting_change(change, report["roster"]["threshold"])
    if report["privacy"] is not None:
        facts["privacy"] = f"ε = {report['privacy']['epsilon']} spent"
    for name, value in facts.items():
        head.add_row(Text(name, style="bold"), Text(value))
    yield head
    table = Table("member", "connected", "last heard", "standing", "contributed")
    for member in report["members"]:
        connected = "self" if member["self"] else "yes" if member["connected"] else "no"
        again = member.get("next_dial_seconds")
        if connected == "no" and again is not None:
            connected = f"no, dialled in {again:.0f} s"
        since = member.get("last_heard_seconds")
        heard = "" if since is None else f"{since:.0f} s ago"
        standing = "banned" if member["banned"] else f"{member['standing']:.2f}"
        if member.get("banned_by_all"):
            standing = "banned by all"
        elif member.get("silent"):
            standing += ", long silent"
        barred = member["banned"] or member.get("banned_by_all")
        style = "red" if barred else None if not connected.startswith("no") else "dim"
        table.add_row(
            member["id"][:16], connected, heard, standing, str(member["contributed"]), style=style
        )
    yield table


def swarm_table(
    title: str, rows: Sequence[tuple[str, str, Mapping[str, Any] | None]], second: str = "role"
) -> Table:
    """A whole swarm, a node in each row: name, role, and status if it answers.

    ``second``: heading of the second column, if that tells something else than a role.
    """
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    for name in ("node", second, "round", "step", "figures", "peers", "model", "refused"):
        table.add_column(name, justify="right" if name in {"round", "step", "peers"} else "left")
    for name, role, report in rows:
        style = "yellow" if second == "role" and role != "honest" else None
        if report is None or report["state"] != "running":
            table.add_row(name, role, "", "", "not answering", style=style or "dim")
            continue
        table.add_row(
            name,
            role,
            str(report["round"]),
            str(report["step"]),
            escape(f"{figures(report)} {sparkline(_accuracies(report)[-12:])}"),
            str(len(report["peers"])),
            report["model_digest"][:12],
            escape(reasons(dict(list(report["rejections"].items())[:3]))),
            style=style,
        )
    return table
