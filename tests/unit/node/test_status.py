from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from qres_core import Outcome, RoundInfo, RoundStatus
from qres_core.cli.live import figures, figures_at, node_tables, seconds_a_round
from qres_core.kernel.node_ids import node_ids
from qres_core.node import metrics
from qres_core.node.status import HISTORY, REASONS, StatusBoard, _since, counted, finite, spent
from qres_core.swarm.context.effects import RoundEnded

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
    assert StatusBoard().report()["roster"] is None, "control: there is no node yet"
    shown = reports[1]["roster"]
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


def rendered(report: dict[str, Any]) -> str:
    """A report as people read it."""
    console = Console(width=200, record=True, file=io.StringIO())
    for part in node_tables(report):
        console.print(part)
    return console.export_text()


def test_where_the_history_is_and_who_decides_there_is_shown(reports: list[dict[str, Any]]) -> None:
    last = reports[1]
    assert (reports[0]["height"], last["height"]) == (0, 3)
    assert len(bytes.fromhex(last["head"])) == 32
    assert last["head"] != reports[0]["head"]
    assert [record["height"] for record in last["history"]] == [0, 1, 2]
    swarm = last["swarm"]
    assert (swarm["nodes"], swarm["byzantine"], swarm["quorum"]) == (4, 1, 3)
    assert not any(member["silent"] or member["banned_by_all"] for member in last["members"])
    assert not last["removed"]
    assert f"3, head {last['head'][:16]}" in rendered(last)


def test_who_is_banned_by_all_and_who_is_long_silent_is_shown(
    reports: list[dict[str, Any]],
) -> None:
    first, second, *others = reports[1]["members"]
    members = [{**first, "banned_by_all": True}, {**second, "silent": True}, *others]
    report = {**reports[1], "members": members}
    lines = rendered(report).splitlines()
    assert any(first["id"][:16] in line and "banned by all" in line for line in lines)
    assert any(second["id"][:16] in line and "long silent" in line for line in lines)
    text = metrics.render(report).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, member in (("qres_banned_by_all", first), ("qres_silent", second)):
        found = {item.labels["node"]: item.value for item in families[name].samples}
        assert [node for node, value in found.items() if value] == [member["id"]]
    assert families["qres_height"].samples[0].value == 3
    assert families["qres_members"].samples[0].value == 4


def test_it_is_shown_how_long_ago_each_member_was_heard(reports: list[dict[str, Any]]) -> None:
    first, last = reports
    assert {member["last_heard_seconds"] for member in first["members"]} == {None}, "nobody yet"
    heard = {member["self"]: member["last_heard_seconds"] for member in last["members"]}
    assert heard == {True: None, False: 0.0}  # the board's clock is before the nodes'
    assert (_since(2.0, 9.5), _since(2.0, 1.0), _since(None, 9.5)) == (7.5, 0.0, None)
    mine, other, *others = sorted(last["members"], key=lambda member: not member["self"])
    members = [mine, {**other, "last_heard_seconds": 61.4}, *others]
    report = {**last, "members": members}
    (line,) = (line for line in rendered(report).splitlines() if other["id"][:16] in line)
    assert "61 s ago" in line
    assert rendered(report).count("s ago") == 3, "not of itself"
    text = metrics.render(report).decode()
    assert f'qres_last_heard_seconds{{node="{other["id"]}"}} 61.4' in text
    assert f'qres_last_heard_seconds{{node="{mine["id"]}"}}' not in text


def test_a_void_height_is_counted_apart_from_an_aborted_round(
    reports: list[dict[str, Any]],
) -> None:
    board, info = StatusBoard(clock=lambda: 5.0), RoundInfo("s", 3, bytes(32), 2, 0, (IDS[0],), 1)
    void = Outcome(info, RoundStatus.VOID, bytes(32), (IDS[0],), "refused (QRES-E508)", "QRES-E508")
    aborted = Outcome(info, RoundStatus.ABORTED, bytes(32), (), "no quorum")
    for outcome in (void, void, aborted):
        board.note(RoundEnded(outcome, np.zeros(2, np.int32)))
    rounds = board.report()["rounds"]
    assert (rounds["closed"], rounds["void"], rounds["aborted"]) == (0, 2, 1)
    assert [item["void"] for item in board.report()["history"]] == [True, True, False]
    said = rendered({**reports[1], "rounds": rounds})
    assert "0 closed, 2 void, 1 aborted" in said
    text = metrics.render({**reports[1], "rounds": rounds}).decode()
    assert 'qres_rounds_total{outcome="void"} 2.0' in text


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
        sample.labels["node"]: sample.value for sample in families["qres_standing_ratio"].samples
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
    assert "\nqres_privacy_epsilon" not in metrics.render(reports[1]).decode()


def test_figures_and_reasons_are_bounded() -> None:
    assert finite({"a": 1, "b": float("inf"), "c": float("nan")}) == {"a": 1.0}
    many = {f"reason {at:03}": at for at in range(1, REASONS + 11)}
    said = counted(many)
    assert len(said) == REASONS + 1
    assert sum(said.values()) == sum(many.values())
    assert counted({"rare": 1, "common": 5}) == {"common": 5, "rare": 1}
    assert StatusBoard().history.maxlen == HISTORY
