from __future__ import annotations

import io
import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from qres_core.cli.live import figures, figures_at, node_tables, seconds_a_round
from qres_core.lab.nodes import node_ids
from qres_core.node import metrics
from qres_core.node.status import HISTORY, REASONS, StatusBoard, counted, finite, spent
from qres_core.swarm.pending import PendingChanges
from qres_core.swarm.roster import Roster

IDS = node_ids(4, 1)


def test_the_status_says_how_the_node_is(reports: list[dict[str, Any]]) -> None:
    first, last = reports
    assert (first["state"], first["round"], first["step"]) == ("running", 0, 0)
    assert last["step"] == 3
    assert last["node"]["id"] == IDS[0].hex()
    assert [member["id"] for member in last["members"]] == sorted(item.hex() for item in IDS)
    assert sum(member["self"] for member in last["members"]) == 1
    assert all(member["contributed"] >= 2 for member in last["members"])
    closed = [record for record in last["history"] if record["closed"]]
    assert [record["step"] for record in closed] == [1, 2, 3]
    assert closed[-1]["model_digest"] == last["model_digest"]
    assert closed[-1]["metrics"] == last["metrics"] == {"loss": 0.5}
    assert last["metrics_step"] == 3
    assert first["metrics_step"] is None
    assert last["privacy"] is None
    assert last["node"]["name"] == "anna"
    assert last["versions"].keys() == set(last["plugins"])
    assert all(version.split()[-1][0].isdigit() for version in last["versions"].values())
    assert [record["seconds"] for record in closed] == [
        0.0,
        0.0,
        0.0,
    ]  # the board's clock stands still
    assert first["begins_at"] is last["begins_at"] is None  # no interval
    assert last["plugins"] == ["memory", "mean"]
    assert json.loads(json.dumps(last)) == last


def test_what_a_node_says_of_its_pace_and_its_trainer_is_shown_to_people(
    reports: list[dict[str, Any]],
) -> None:
    ended = {"closed": True, "step": 3, "metrics": {"loss": 0.5}}
    history = [{**ended, "seconds": length} for length in (100.0, *[2.0] * 10)]
    assert seconds_a_round({"history": history}) == 2.0
    assert seconds_a_round({"history": []}) is None
    last = reports[1]
    assert figures(last) == "loss 0.5"
    assert figures({**last, "step": 4}) == "loss 0.5 of model 3"  # never beside another digest
    assert figures_at(last, 3) == {"loss": 0.5}
    assert figures_at({**last, "metrics_step": 4, "metrics": {"loss": 9.0}}, 3) == {"loss": 0.5}
    assert figures_at(last, 2) == {}
    failure = {"method": "fit", "round": 7, "error": "ValueError: nan", "file": "m.py", "line": 34}
    tables = list(node_tables({**last, "trainer_error": failure}))
    console = Console(width=200, record=True, file=io.StringIO())
    for part in tables:
        console.print(part)
    assert (
        "trainer failed in fit, round 7: ValueError: nan (m.py, line 34)" in console.export_text()
    )


def test_changes_of_the_members_that_wait_are_shown(reports: list[dict[str, Any]]) -> None:
    assert reports[1]["roster"] is None, "control: nobody told the board"
    board = StatusBoard(clock=lambda: 5.0)
    roster = Roster(tuple(sorted(IDS)), 1, 3)
    board.changes = PendingChanges("status", roster)
    rotate = roster.change("status", "rotate", IDS[0], b"\xbb" * 32)
    signed = rotate.signed([rotate.statement(IDS[1], 5)])
    board.changes.offer(signed, lambda _message: True)
    shown = json.loads(json.dumps(board.report()["roster"]))
    assert (shown["epoch"], shown["threshold"], shown["problems"]) == (0, 3, {})
    assert shown["waiting"] == [
        {
            "action": "rotate",
            "member": IDS[0].hex(),
            "successor": "bb" * 32,
            "signed": 1,
            "approved": False,
        }
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    for part in node_tables({**reports[1], "roster": shown}):
        console.print(part)
    said = f"rotate {IDS[0].hex()[:16]} to bbbbbbbbbbbbbbbb, signed by 1 of 3"
    assert said in console.export_text()


def test_a_node_that_has_not_begun_says_so() -> None:
    report = StatusBoard(clock=lambda: 5.0).report()
    assert report["state"] == "starting"
    assert "round" not in report
    assert b"qres_round " not in metrics.render(report)


def test_the_metrics_are_those_of_the_status(reports: list[dict[str, Any]]) -> None:
    carried = {**reports[1]["transport"], "malformed": 3, "reasons": {"gossip: wrong signature": 3}}
    report = {**reports[1], "rejections": {'odd "reason"\n': 2}, "transport": carried}
    text = metrics.render(report).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["qres_step"].samples[0].value == 3
    (refused,) = [
        sample for sample in families["qres_rejections"].samples if sample.name[-5:] == "total"
    ]
    assert (refused.labels, refused.value) == ({"reason": 'odd "reason"\n'}, 2)
    (spoilt,) = (
        sample
        for sample in families["qres_transport_refusals"].samples
        if sample.name[-5:] == "total"
    )
    assert (spoilt.labels, spoilt.value) == ({"reason": "gossip: wrong signature"}, 3)
    events = {
        sample.labels["what"]: sample.value for sample in families["qres_transport_events"].samples
    }
    assert events["malformed"] == 3
    standings = {
        sample.labels["node"]: sample.value for sample in families["qres_standing"].samples
    }
    assert standings == dict.fromkeys((item.hex() for item in IDS), 1.0)
    assert families["qres_model_metric"].samples[0].labels == {"metric": "loss"}


def test_what_plugins_spent_of_privacy_is_shown(reports: list[dict[str, Any]]) -> None:
    assert spent({"a": {"closed": 3}}) is None
    shown: dict[str, dict[str, object]] = {
        "weak": {"epsilon": 0.5},
        "dp": {"epsilon": 1.25, "epsilon_budget": float("inf")},
    }
    said = spent(shown)
    assert said == {"plugin": "dp", "epsilon": 1.25, "epsilon_budget": "inf"}
    text = metrics.render({**reports[1], "privacy": said}).decode()
    assert "qres_privacy_epsilon 1.25" in text
    assert "qres_privacy_epsilon" not in metrics.render(reports[1]).decode()


def test_figures_and_reasons_are_bounded() -> None:
    assert finite({"a": 1, "b": float("inf"), "c": float("nan")}) == {"a": 1.0}
    many = {f"reason {at:03}": at for at in range(1, REASONS + 11)}
    said = counted(many)
    assert len(said) == REASONS + 1
    assert sum(said.values()) == sum(many.values())
    assert counted({"rare": 1, "common": 5}) == {"common": 5, "rare": 1}
    assert StatusBoard().history.maxlen == HISTORY
