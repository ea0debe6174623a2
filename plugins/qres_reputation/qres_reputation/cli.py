"""``qres reputation``: look at a node's scores, forgive, ban. The node may be running."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from qres_core import NodeId
from qres_core.errors import ConfigError
from qres_reputation.record import FOR_EVER, FREE, Conduct
from qres_reputation.rules import UNIT, Belief
from qres_reputation.store import ConductStore, SavedConduct, Settings

_FOLDER = click.Path(path_type=Path)


def _find(records: Mapping[NodeId, Conduct], text: str) -> NodeId:
    """The one node whose identity begins with the given hex digits."""
    prefix = text.lower()
    found = [node for node in records if node.hex().startswith(prefix)] if prefix else []
    if len(found) != 1:
        many = f"{len(found)} nodes start with it" if found else "no node starts with it"
        fix = "give more digits, as `qres reputation show` prints them"
        raise ConfigError.of("QRES-E105", "NODE", f"{text!r}: {many}", fix)
    return found[0]


def _describe(node: NodeId, record: Conduct) -> dict[str, Any]:
    return {
        "node": node.hex(),
        "score": record.belief.score / UNIT,
        "banned": record.banned,
        "back_in_round": None if record.until in (FREE, FOR_EVER) else record.until,
        "outlier_rounds": record.streak,
    }


def _print(row: Mapping[str, Any]) -> None:
    ban = ""
    if row["banned"]:
        back = row["back_in_round"]
        ban = "banned for ever" if back is None else f"banned until round {back}"
    watch = f"outlier in the last {row['outlier_rounds']}" if row["outlier_rounds"] else ""
    tail = ", ".join(part for part in (ban, watch) if part)
    click.echo(f"{row['node']}  {row['score']:.6f}  {tail}".rstrip())


def _tell(node: NodeId, record: Conduct, *, as_json: bool) -> None:
    row = _describe(node, record)
    if as_json:
        click.echo(json.dumps(row, indent=2))
    else:
        _print(row)


def _amend(folder: Path, text: str, change: _Change) -> tuple[NodeId, Conduct]:
    store = ConductStore(folder)
    try:
        with store.transaction():
            found = store.load()
            node = _find(found.records, text)
            record = change.of(found, found.records[node])
            store.put({node: record})
    finally:
        store.close()
    return node, record


@attrs.frozen
class _Change:
    """Free of a ban, or a sentence of so many rounds (``None``: what the node is set to)."""

    ban: bool
    rounds: int | None = None

    def of(self, found: SavedConduct, record: Conduct) -> Conduct:
        settings: Settings = found.settings
        if not self.ban:
            return Conduct(Belief(settings.start))
        rounds = settings.ban_rounds if self.rounds is None else self.rounds
        return record.sentenced(found.round + 1, rounds)


@click.group()
def reputation() -> None:
    """Look at the scores a node keeps, forgive a node, or ban one.

    DATA_DIR is the `node.data_dir` of the node. Every node keeps its own scores: what is changed
    here, the others do not know.
    """


@reputation.command()
@click.argument("data_dir", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(data_dir: Path, *, as_json: bool) -> None:
    """Print every node's score, lowest first."""
    store = ConductStore(data_dir)
    try:
        found = store.load()
    finally:
        store.close()
    order = sorted(found.records.items(), key=lambda item: (item[1].belief.score, item[0]))
    rows = [_describe(node, record) for node, record in order]
    if as_json:
        head = {"swarm": store.swarm, "node": store.node.hex(), "round": found.round}
        click.echo(json.dumps({**head, "rule": found.settings.rule, "nodes": rows}, indent=2))
        return
    click.echo(f"swarm {store.swarm}, after round {found.round}, rule {found.settings.rule}")
    for row in rows:
        _print(row)


@reputation.command()
@click.argument("data_dir", type=_FOLDER)
@click.argument("node")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def forgive(data_dir: Path, node: str, *, as_json: bool) -> None:
    """Free NODE (hex digits its identity begins with) and give it the start score."""
    _tell(*_amend(data_dir, node, _Change(ban=False)), as_json=as_json)


@reputation.command()
@click.argument("data_dir", type=_FOLDER)
@click.argument("node")
@click.option(
    "--rounds", type=click.IntRange(0, 2**32), help="Rounds it lasts; 0 for ever; else ban_rounds."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ban(data_dir: Path, node: str, rounds: int | None, *, as_json: bool) -> None:
    """Ban NODE (hex digits its identity begins with)."""
    _tell(*_amend(data_dir, node, _Change(ban=True, rounds=rounds)), as_json=as_json)
