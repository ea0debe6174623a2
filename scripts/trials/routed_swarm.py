"""A swarm in routed namespaces, seen through the status of its nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import attrs
from qres_lab.box import nodes as box
from qres_lab.box import toml
from qres_lab.box.fleet import FleetAgreement, judge
from qres_lab.box.nodes import BoxNode

from qres_core.kernel.config import read_toml

from .processes import Place, Swarm, prepare, until
from .routed import Routed

Report = dict[str, Any]


@attrs.define(eq=False)
class RoutedSwarm:
    """Processes of nodes in a network. A context manager: they run within it.

    Attributes:
        network: where they meet.
        places: their processes.
        models: of every node, digests of the models that it was seen with, by step.
        reports: the newest status of each node; none of one that did not answer.
    """

    network: Routed
    places: list[Place]
    swarm: Swarm
    models: list[dict[int, str]]
    reports: dict[int, Report] = attrs.field(factory=dict[int, Report], init=False)
    _hub: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any], network: Routed, folder: Path) -> Self:
        """Of nodes with these tables, in an empty folder."""
        seats = prepare(raw, network, folder)
        places = [Place(seat, network, folder, witnessed=False) for seat in seats]
        return cls(network, places, Swarm(places), [{} for _ in seats])

    def __enter__(self) -> Self:
        self._start_hub()
        self.swarm.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.swarm.stop()
        if self._hub is not None and self._hub.stdin is not None:
            self._hub.stdin.close()
            self._hub.wait()

    def _start_hub(self) -> None:
        """Start the hub of nodes that reach each other over one, in the namespace after theirs."""
        hub = self.seats[0].hub
        if hub is None:
            return
        place = f"{self.network.hub(self.seats)}:{hub.port}"
        words = box.qres("hub", "run", str(hub.folder / "swarm.toml"), "--until-eof", "--json")
        words += ["--identity", str(hub.folder / "hub.pem"), "--listen", place]
        with (hub.folder / "log.txt").open("ab") as log:
            self._hub = subprocess.Popen(
                self.network.command(len(self.seats), words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        if self._hub.stdout is None or not self._hub.stdout.readline():
            what = f"the hub does not start: see {hub.folder / 'log.txt'}"
            raise RuntimeError(what)

    @property
    def seats(self) -> list[BoxNode]:
        """Of all nodes."""
        return [place.seat for place in self.places]

    def poll(self) -> dict[int, Report]:
        """Ask all nodes that run. Raises RuntimeError: a node is gone that nobody stopped."""
        for place in self.places:
            if place.process is not None and (code := place.process.poll()) not in {None, -9}:
                what = f"{place.seat.name} ended with {code}: {place.last_words()}"
                raise RuntimeError(what)
        told = self.network.ask(place.seat for place in self.places if place.alive)
        self.reports = {
            index: report
            for index, report in told.items()
            if report is not None and report["state"] == "running"
        }
        for index, report in self.reports.items():
            models = self.models[index]
            models[int(report["step"])] = report["model_digest"]
            for ended in report["history"]:
                if ended["closed"]:
                    models[int(ended["step"])] = ended["model_digest"]
        return self.reports

    def step(self, index: int) -> int:
        """The newest model that a node was seen with; 0 for none."""
        return max(self.models[index], default=0)

    def steps(self) -> list[int]:
        """Of every node."""
        return [self.step(index) for index in range(len(self.places))]

    def peers(self, index: int) -> set[int]:
        """With whom a node said last that it is connected."""
        names = {peer["id"] for peer in self.reports.get(index, {}).get("peers", [])}
        return {seat.index for seat in self.seats if seat.node_id in names}

    def all_up(self) -> bool:
        """Whether every node said last that it is connected to all others."""
        everybody = set(range(len(self.places)))
        return all(self.peers(index) == everybody - {index} for index in everybody)

    def until(self, what: Callable[[], bool], patience: float = 600.0, every: float = 0.5) -> bool:
        """Ask all nodes again and again until something is so; whether it came in time."""

        def so() -> bool:
            self.poll()
            return what()

        return until(so, patience, every)

    def agreement(self) -> FleetAgreement:
        """Whether all have the same models."""
        return judge(self.models, None)

    # ── other configurations ──────────────────────────────────────────────────────────────────

    def write(self, index: int, **keys: Any) -> None:
        """Change keys of ``[plugins.libp2p]`` in a node's configuration."""
        seat = self.places[index].seat
        tables = read_toml(seat.config)
        tables["plugins"]["libp2p"] |= keys
        seat.config.write_text(toml.render(tables), encoding="utf-8")

    def reload(self, index: int) -> subprocess.CompletedProcess[str]:
        """``qres node reload``, in the namespace of the node."""
        config = str(self.places[index].seat.config)
        words = (sys.executable, "-P", *box.PROGRAM, "node", "reload", config)
        return self.network.run(index, *words)
