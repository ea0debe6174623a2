"""Members change while seven processes train: none stops that need not, and there is one chain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from qres_lab.box import toml
from qres_lab.box.nodes import free_ports

from qres_core.attacks.scenario import SECTIONS
from qres_core.cli.app import app
from qres_core.kernel.config import parse, read_toml
from qres_core.node.ask import ask
from qres_core.swarm.storage.journal import SqliteJournal
from qres_core.training.table import make_work

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        find_spec("qres_transport_libp2p") is None, reason="qres-transport-libp2p is missing"
    ),
]

NODES = 7
JOINING = 2
PATIENCE = 600.0
"""Seconds for what takes a few on an idle machine."""


def qres(*arguments: object) -> dict[str, Any]:
    """What a command reports."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def until(what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


@attrs.define(eq=False)
class Member:
    """A node's folder, and its process while it runs."""

    folder: Path
    node_id: str
    peer_id: str
    port: int
    status_port: int
    process: subprocess.Popen[bytes] | None = None
    models: dict[int, str] = attrs.field(factory=dict)
    heads: dict[int, str] = attrs.field(factory=dict)
    report: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "node.toml"

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "qres_core.cli", "node", "run", str(self.config)]
        with ExitStack() as stack:
            out = stack.enter_context((self.folder / "out").open("wb"))
            log = stack.enter_context((self.folder / "log").open("wb"))
            self.process = subprocess.Popen(
                [*command, "--json", "--log-format", "json"], stdout=out, stderr=log
            )

    def look(self) -> Mapping[str, Any]:
        """Its status, if it answers; otherwise the last one."""
        report = ask(f"http://127.0.0.1:{self.status_port}", 1.0)
        if report is not None and report["state"] == "running":
            self.report = report
            self.heads[report["height"]] = report["head"]
            for ended in report["history"]:
                if ended["closed"]:
                    self.models[ended["step"]] = ended["model_digest"]
        return self.report

    @property
    def step(self) -> int:
        return int(self.report.get("step", 0))

    @property
    def epoch(self) -> int:
        return int((self.report.get("roster") or {}).get("epoch", -1))

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.log()]

    def tell(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


def tables(places: Sequence[Member], index: int, authority: Path) -> dict[str, Any]:
    """The configuration of a node; of those that join, with the first members as well."""
    here = places[index]
    dialled = [
        f"/ip4/127.0.0.1/tcp/{other.port}/p2p/{other.peer_id}"
        for other in places
        if other is not here
    ]
    return {
        "swarm": {
            "name": "changing",
            "nodes": NODES,
            "byzantine": 1,
            "quorum": 5,
            "deadline": 8.0,  # it is waited out while a member is away
            "vote_timeout": 8.0,
            "roster": [member.node_id for member in places[:NODES]],
        },
        "node": {
            "name": here.folder.name,
            "data_dir": str(here.folder / "data"),
            "status": f"127.0.0.1:{here.status_port}",
        },
        "trainer": {
            "index": index % NODES,
            "seed": 3,
            "task": {"name": "quadratic", "dimension": 12, "local_epochs": 1},
        },
        "plugins": {
            "libp2p": {
                "listen": f"/ip4/127.0.0.1/tcp/{here.port}",
                "peers": dialled,
                "reconnect_seconds": 0.5,
                "ping_seconds": 30.0,
            },
            "ed25519": {"key": str(here.folder / "node.key")},
            "pki": {
                "ca": str(authority / "ca.pem"),
                "certificates": str(authority / "certificates"),
                "crl": str(authority / "crl.pem"),
            },
            "replay": {"window": 2048},
            "reputation": {},
            "mean": {"unprotected": True},  # starts at once
        },
    }


@attrs.define(eq=False)
class Running:
    """All of them."""

    places: list[Member]
    authority: Path

    def look(self) -> None:
        for place in self.places:
            if place.process is not None and place.process.poll() is None:
                place.look()

    def come_to(self, members: Sequence[Member], what: Callable[[Member], bool]) -> None:
        def done() -> bool:
            self.look()
            return all(what(member) for member in members)

        until(done)

    def grow(self, members: Sequence[Member], models: int = 3) -> None:
        """Wait for all of these to have so many more models."""
        self.look()
        goal = max(member.step for member in members) + models
        self.come_to(members, lambda member: member.step >= goal)

    def decide(self, members: Sequence[Member], action: str, *who: Member) -> None:
        """As many operators as must sign it, and the swarm takes it."""
        first, *others = members
        epoch = first.epoch
        named = [item.node_id for item in who]
        made = qres("roster", action, first.config, *named, "--out", self.path("made"))
        for other in others:
            if len(made["signed"]) >= made["needed"]:
                break
            made = qres("roster", "sign", other.config, self.path("made"))
            self.path("made").write_bytes(Path(made["file"]).read_bytes())
        for other in others:  # every operator gets the whole file
            folder = other.folder / "data" / "roster"
            (folder / Path(made["file"]).name).write_bytes(self.path("made").read_bytes())
        remaining = [member for member in members if member not in who]
        self.come_to(remaining, lambda member: member.epoch == epoch + 1)
        self.path("made").unlink()

    def path(self, name: str) -> Path:
        return self.authority.parent / name


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    count = NODES + JOINING
    ports = free_ports(2 * count)
    authority = tmp_path / "ca"
    qres("ca", "init", authority, "--swarm", "changing")
    places: list[Member] = []
    for index in range(count):
        folder = tmp_path / f"node-{index}"
        folder.mkdir()
        key = qres("keygen", folder / "node.key", "--no-passphrase")
        named = ("--public-key", key["public_key"], "--name", folder.name)
        qres("ca", "issue", authority, *named, "--role", "train", "--role", "aggregate")
        places.append(
            Member(folder, key["public_key"], key["peer_id"], ports[index], ports[count + index])
        )
    for index, place in enumerate(places):
        place.config.write_text(toml.render(tables(places, index, authority)))
    try:
        yield Running(places, authority)
    finally:
        for place in places:
            if place.process is not None and place.process.poll() is None:
                place.process.kill()
                place.process.wait()


def test_members_come_go_change_keys_and_are_revoked_while_the_swarm_trains(
    running: Running,
) -> None:
    first = running.places[:NODES]
    newcomer, successor = running.places[NODES:]
    for place in first:
        place.start()
    running.grow(first)

    # One is there before it is let in, and takes part from the height of the decision on.
    newcomer.start()
    running.grow(first, 2)
    assert newcomer.look().get("removed", True)
    assert newcomer.step == 0
    running.decide(first, "add", newcomer)
    everybody = [*first, newcomer]
    running.grow(everybody)
    running.come_to([first[0]], lambda member: contributed(member, newcomer) > 0)

    # One is removed: it says so and stops by itself.
    gone = first[6]
    running.decide(everybody, "remove", gone)
    assert gone.process is not None
    assert gone.process.wait(PATIENCE) == 0
    assert "no member any more" in gone.events()
    everybody.remove(gone)
    running.grow(everybody)

    # Another identity takes a seat; the old one stops.
    old = first[5]
    successor.start()
    running.decide(everybody, "rotate", old, successor)
    assert old.process is not None
    assert old.process.wait(PATIENCE) == 0
    everybody.remove(old)
    everybody.append(successor)
    running.grow(everybody)

    # One lags, and its certificate is revoked meanwhile: to the others it is away.
    lagging = first[4]
    everybody.remove(lagging)
    lagging.tell(signal.SIGSTOP)
    running.grow(everybody)
    qres("ca", "revoke", running.authority, "--public-key", lagging.node_id)
    lagging.tell(signal.SIGCONT)
    running.grow(everybody, 5)

    # One chain, which the newcomer knows from the first roster on.
    running.look()
    for place in running.places:
        for other in running.places:
            for height in place.heads.keys() & other.heads.keys():
                assert place.heads[height] == other.heads[height]
            for step in place.models.keys() & other.models.keys():
                assert place.models[step] == other.models[step]
    assert len(set(newcomer.models) & set(first[0].models)) >= 5
    for place in everybody:
        assert place.process is not None
        place.tell(signal.SIGTERM)
    for place in everybody:
        assert place.process is not None
        assert place.process.wait(PATIENCE) == 0
        assert not {"node failed", "trainer failed"} & set(place.events())
    record = journal(newcomer)
    changed = [link for link in record.links if link.chosen.change is not None]
    assert [link.head.roster.epoch for link in changed] == [0, 1, 2]
    said = sorted(bytes.fromhex(member.node_id) for member in first)
    assert list(changed[0].head.roster.members) == said, "the roster of its own file"
    assert [link.next.roster.digest for link in changed[:2]] == [
        link.head.roster.digest for link in changed[1:]
    ]


def contributed(at: Member, by: Member) -> int:
    """How many sets with a node's contribution another one has seen."""
    found = {item["id"]: item["contributed"] for item in at.report["members"]}
    return int(found.get(by.node_id, 0))


def journal(place: Member) -> Any:
    """What a node that does not run has written down."""
    config = parse(read_toml(place.config), source="test", sections=SECTIONS)
    _trainer, initial = make_work(config)
    folder = place.folder / "data" / place.node_id
    made = SqliteJournal(
        folder, swarm=config.swarm.name, node_id=bytes.fromhex(place.node_id), initial=initial
    )
    try:
        return made.resume()
    finally:
        made.close()
