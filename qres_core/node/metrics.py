"""The status as Prometheus metrics, in the text format that scrapers ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@attrs.frozen(eq=False)
class _Reported(Collector):
    report: Mapping[str, Any]

    def collect(self) -> Iterable[Metric]:
        """Every family from the one report, so that page, status and metrics agree."""
        said = self.report
        yield GaugeMetricFamily(
            "qres_start_time_seconds", "When the node started, since 1970.", said["started"]
        )
        rounds = CounterMetricFamily("qres_rounds", "Rounds by how they ended.", labels=["outcome"])
        for outcome, count in said["rounds"].items():
            rounds.add_metric([outcome], count)
        yield rounds
        last = GaugeMetricFamily("qres_last_round_seconds", "Length of the last round.", labels=())
        for ended in said["history"][-1:]:
            last.add_metric((), ended["seconds"])
        yield last
        metrics = GaugeMetricFamily(
            "qres_model_metric", "Figures of the newest model measured.", labels=["metric"]
        )
        for name, value in said["metrics"].items():
            metrics.add_metric([name], value)
        yield metrics
        links = CounterMetricFamily(
            "qres_links_ended",
            "Links that ended or did not come up, by neighbour and reason; none is a stranger's.",
            labels=["node", "reason"],
        )
        for link in said["links"]:
            links.add_metric([link["peer"] or "", link["reason"]], link["count"])
        yield links
        if said["state"] == "running":
            yield from self._running()

    def _running(self) -> Iterable[Metric]:
        said = self.report
        yield InfoMetricFamily(
            "qres_node",
            "Identity of the node.",
            {"id": said["node"]["id"], "swarm": said["swarm"]["name"], "version": said["qres"]},
        )
        yield GaugeMetricFamily("qres_round", "Number of the current round.", said["round"])
        yield GaugeMetricFamily(
            "qres_height", "Heights decided, with a model or void.", said["height"]
        )
        yield GaugeMetricFamily("qres_members", "Members at the head.", len(said["members"]))
        yield GaugeMetricFamily("qres_step", "Models made since the first.", said["step"])
        rejected = CounterMetricFamily(
            "qres_rejections", "Messages refused, by reason.", labels=["reason"]
        )
        for reason, count in said["rejections"].items():
            rejected.add_metric([reason], count)
        yield rejected
        privacy = GaugeMetricFamily("qres_privacy_epsilon", "Privacy spent so far.", labels=())
        if said["privacy"] is not None:
            privacy.add_metric((), said["privacy"]["epsilon"])
        yield privacy
        yield GaugeMetricFamily("qres_peers", "Neighbours connected.", len(said["peers"]))
        standing = GaugeMetricFamily(
            "qres_standing_ratio", "Weight of a node here, 0 to 1.", labels=["node"]
        )
        banned = GaugeMetricFamily("qres_banned", "1 if a node is banned here.", labels=["node"])
        agreed = GaugeMetricFamily(
            "qres_banned_by_all", "1 if the members agreed to ban a node.", labels=["node"]
        )
        silent = GaugeMetricFamily(
            "qres_silent", "1 if a node was in none of the last sets.", labels=["node"]
        )
        clock = GaugeMetricFamily(
            "qres_clock_offset_seconds", "This node's clock minus a node's.", labels=["node"]
        )
        heard = GaugeMetricFamily(
            "qres_last_heard_seconds",
            "Seconds since a message of a node was taken here.",
            labels=["node"],
        )
        for member in said["members"]:
            if member["last_heard_seconds"] is not None:
                heard.add_metric([member["id"]], member["last_heard_seconds"])
            if member["clock_offset_seconds"] is not None:
                clock.add_metric([member["id"]], member["clock_offset_seconds"])
            standing.add_metric([member["id"]], member["standing"])
            banned.add_metric([member["id"]], float(member["banned"]))
            agreed.add_metric([member["id"]], float(member["banned_by_all"]))
            silent.add_metric([member["id"]], float(member["silent"]))
        yield from (standing, banned, agreed, silent, clock, heard)
        octets = CounterMetricFamily(
            "qres_transport_bytes", "Payload carried.", labels=["direction"]
        )
        events = CounterMetricFamily(
            "qres_transport_events", "Other counters of the transport.", labels=["what"]
        )
        reasons = CounterMetricFamily(
            "qres_transport_refusals",
            "Messages that the transport dropped, refused or found malformed, by reason.",
            labels=["reason"],
        )
        for what, count in said["transport"].items():
            if what == "reasons":
                for reason, times in count.items():
                    reasons.add_metric([reason], times)
            elif what.startswith("bytes_"):
                octets.add_metric([what.removeprefix("bytes_")], count)
            else:
                events.add_metric([what], count)
        events.add_metric(["outbox_dropped"], said["outbox_dropped"])
        yield octets
        yield events
        yield reasons


def render(report: Mapping[str, Any]) -> bytes:
    """The metrics of a status report, in the text format of Prometheus, version 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reported(report))
    return generate_latest(registry)
