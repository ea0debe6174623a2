"""Metrics are named as Prometheus asks, and the dashboard asks for those that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from qres_core.node import metrics

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy/grafana.json"
SCALED = re.compile("_(ms|millis|milliseconds|minutes|hours|kb|mb|kilobytes|percent|count)(_|$)")


def complaints(family: Metric) -> list[str]:
    """What a family's names break of Prometheus' conventions for names, and of ours."""
    found: list[str] = []
    if not re.fullmatch("qres(_[a-z0-9]+)+", family.name):
        found.append("prefix and lower case")
    if SCALED.search(family.name):
        found.append("base units")
    if "time" in family.name and not family.name.endswith("_seconds"):
        found.append("a time is in seconds")
    ends = {sample.name.removeprefix(family.name) for sample in family.samples}
    if family.type == "counter" and not ends <= {"_total"}:
        found.append("a counter ends in _total")
    if family.type != "counter" and "total" in family.name:
        found.append("only a counter ends in _total")
    if not family.documentation.endswith("."):
        found.append("a sentence of help")
    labels = {label for sample in family.samples for label in sample.labels}
    if any(label in family.name.split("_") for label in labels - {"node"}):
        found.append("a label is no part of the name")
    return found


def families(report: Any) -> list[Metric]:
    return list(text_string_to_metric_families(metrics.render(report).decode()))


@pytest.fixture
def report(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a node after three rounds, with something in each family."""
    link = {"peer": None, "reason": "refused_key", "count": 2, "at": 0.0, "detail": ""}
    members = [{**member, "clock_offset_seconds": 0.1} for member in reports[-1]["members"]]
    transport = {**reports[-1]["transport"], "reasons": {"inbox full": 1}}
    more = {"links": [link], "members": members, "transport": transport}
    return {**reports[-1], **more, "privacy": {"epsilon": 1.5}, "rejections": {"replayed": 1}}


def test_metrics_are_named_by_convention(report: dict[str, Any]) -> None:
    found = families(report)
    assert len(found) >= 20
    assert all(family.samples for family in found)
    wrong = {family.name: said for family in found if (said := complaints(family))}
    assert wrong == {"qres_model_metric": ["a label is no part of the name"]}  # of any figure


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("rounds", "gauge", "Help."),
        ("qres_wait_ms", "gauge", "Help."),
        ("qres_uptime", "gauge", "Help."),
        ("qres_rounds_total", "gauge", "Help."),
        ("qres_Rounds", "gauge", "Help."),
        ("qres_rounds", "gauge", "help"),
    ],
)
def test_control_other_names_are_found(name: str, kind: str, text: str) -> None:
    assert complaints(Metric(name, text, kind))


def test_every_metric_of_the_dashboard_is_in_a_running_node_s(
    reports: list[dict[str, Any]],
) -> None:
    text = metrics.render(reports[-1]).decode()
    there = set(re.findall("^# TYPE (qres_[a-z_]+) ", text, re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [item["query"] for item in dashboard["templating"]["list"]]
    named = {name for expr in asked for name in re.findall("qres_[a-z_]+", expr)}
    assert len(named) >= 15
    assert named <= there
    assert "qres_made_up" not in there, "control"


def test_what_the_dashboard_groups_and_names_by_are_labels_of_its_metrics(
    report: dict[str, Any],
) -> None:
    labels = {
        name: {label for sample in family.samples for label in sample.labels}
        for family in families(report)
        for name in (family.name, f"{family.name}_total")
    }
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            (name, *_more) = re.findall("qres_[a-z_]+", target["expr"])
            words = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
            words += re.findall(r"by \((\w+)\)", target["expr"])
            assert set(words) <= labels[name] | {"instance"}, panel["title"]
