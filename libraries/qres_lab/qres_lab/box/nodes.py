"""A swarm in a box: the folders, keys and configurations of real nodes on this machine.

Every node gets a folder ``node-K`` of its own with its key, its configuration and its data. Keys
and certificates are made by the plugins' own commands, as a person would make them.
"""

from __future__ import annotations

import atexit
import json
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.attacks.scenario import SECTIONS, Scenario
from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError, PluginError
from qres_core.contract.stores.files import new_folder
from qres_core.kernel.compliance import enforce
from qres_core.kernel.config import Config, parse, read_toml
from qres_core.kernel.discovery import scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import SitePolicy
from qres_core.swarm.context.position import vote_threshold
from qres_core.training.table import (
    check_base,
    check_first,
    check_shared,
    folder_of,
    make_work,
    seed_of,
    table_of,
)
from qres_lab.attacks import hostile
from qres_lab.box import toml
from qres_lab.box.hub import BoxHub

PROGRAM: list[str] = ["-m", "qres_core.cli"]
"""Arguments of the interpreter that run ``qres``."""
SECONDS: Final = 60.0
"""For a command that makes keys or certificates."""


@attrs.frozen
class BoxNode:
    """One node of the box."""

    index: int  # from 0; attackers come last
    folder: Path  # its own
    hostile: bool  # whether it attacks
    node_id: str  # its identity, hex
    peer_id: str  # its identity as libp2p writes it
    port: int  # where its transport listens, on loopback
    status_port: int  # where it serves its status
    hub: BoxHub | None = None  # of all nodes, where they reach each other over one

    @property
    def name(self) -> str:
        """``node-3``."""
        return self.folder.name

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / "node.toml"

    @property
    def url(self) -> str:
        """Of its status."""
        return f"http://127.0.0.1:{self.status_port}"


Wiring = Callable[[BoxNode, Sequence[BoxNode]], dict[str, Any]]
"""Where a node's transport listens and whom it dials: keys for the transport's table."""


def _libp2p(seat: BoxNode, seats: Sequence[BoxNode]) -> dict[str, Any]:
    return {
        "listen": f"/ip4/127.0.0.1/tcp/{seat.port}",
        "peers": [
            f"/ip4/127.0.0.1/tcp/{other.port}/p2p/{other.peer_id}"
            for other in seats
            if other is not seat
        ],
    }


def _grpc(seat: BoxNode, _seats: Sequence[BoxNode]) -> dict[str, Any]:
    return {"hubs": [] if seat.hub is None else [seat.hub.option]}


WIRINGS: dict[str, Wiring] = {"libp2p": _libp2p, "grpc": _grpc}
"""Transports that can join processes, by plugin."""
OVER_HUBS: Final = frozenset({"grpc"})
"""Those of them that need a hub."""


def qres(*arguments: str) -> list[str]:
    """The command line of ``qres`` with this interpreter."""
    return [sys.executable, "-P", *PROGRAM, *arguments]


def _made(*arguments: str) -> dict[str, Any]:
    """Report of a command that makes something.

    Raises PluginError: QRES-E201 where there is no such command or it fails.
    """
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter and this package
            qres(*arguments, "--json"), capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        what = f"`qres {arguments[0]}` took more than {SECONDS:g} s"
        fix = "try again while the machine is less busy"
        raise PluginError.of("QRES-E201", "qres swarm up", what, fix) from error
    try:
        report: object = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        report = None
    if not canonical.is_map(report):
        said = (done.stderr or done.stdout).strip().splitlines()
        what = f"`qres {arguments[0]}` failed: {said[-1] if said else done.returncode}"
        fix = "install the distribution that brings that command"
        raise PluginError.of("QRES-E201", "qres swarm up", what, fix)
    return report


# Where Linux runs, ports that were given out stay bound here, so that nobody else on the machine is
# given them before their nodes start. A node may listen beside that: both set SO_REUSEADDR, and
# only it listens. Other systems do not let it.
_HOLDS: Final = sys.platform == "linux"
_HELD_AT_MOST: Final = 256
_held: deque[socket.socket] = deque()


def _let_go(most: int) -> None:
    while len(_held) > most:
        _held.popleft().close()


atexit.register(_let_go, 0)


def free_ports(count: int) -> list[int]:
    """Distinct ports of loopback that nobody listens on now.

    On Linux the last 256 are kept from others until this process ends; whoever listens there has
    to set ``SO_REUSEADDR``, as asyncio and trio do.
    """
    ports: list[int] = []
    for _ in range(count):
        item = socket.socket()
        _held.append(item)
        if _HOLDS:
            item.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        item.bind(("127.0.0.1", 0))
        ports.append(int(item.getsockname()[1]))
    _let_go(max(count, _HELD_AT_MOST) if _HOLDS else 0)
    return ports


def transport_of(raw: Mapping[str, Any]) -> str:
    """The plugin that is to join the processes: the file's, ``libp2p`` in the place of ``memory``.

    Raises ConfigError: QRES-E105 where the file enables none that can.
    """
    plugins: Mapping[str, Any] = raw.get("plugins", {})
    found = [name for name in plugins if name in WIRINGS]
    if found:
        return found[0]
    if "memory" in plugins:
        return "libp2p"
    what = f"none of {', '.join(WIRINGS)} is enabled"
    fix = "processes need a transport between them: [plugins.libp2p]"
    raise ConfigError.of("QRES-E105", "plugins", what, fix)


def _check(config: Config) -> None:
    """Refuse what the box cannot play.

    Raises ConfigError: QRES-E103 or QRES-E105. Raises LabError: QRES-E105 for an attack that a
    process cannot play.
    """
    scenario: Scenario = config.sections["simulation"]
    if "ed25519" not in config.plugins:
        fix = "add [plugins.ed25519]"
        what = "processes know each other by their keys, and no plugin holds any"
        raise ConfigError.of("QRES-E103", "plugins.ed25519", what, fix)
    check_shared(config.sections["trainer"])
    if scenario.attack:
        hostile.check_playable(scenario.attack)


def prepare(
    raw: Mapping[str, Any], source: str, folder: Path, policies: Sequence[SitePolicy] = ()
) -> tuple[Config, list[BoxNode]]:
    """Make the folders of all nodes.

    Args:
        raw: the configuration's tables, those for the simulator among them.
        source: where it came from, for messages.
        folder: an empty folder, or one that is not there yet.
        policies: site policies that the nodes' configurations must meet.

    Returns:
        the configuration and the nodes, honest ones first.

    Raises:
        QresError: what is wrong with the configuration; QRES-E803 for a folder with something in
            it.
    """
    config = parse(raw, source=source, sections=SECTIONS)
    _check(config)
    transport = transport_of(raw)
    folder = folder.resolve()
    new_folder(folder, "name another folder; this one may hold the keys and votes of a swarm")
    try:
        return config, _fill(raw, config, transport, folder, policies)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(
    raw: Mapping[str, Any],
    config: Config,
    transport: str,
    folder: Path,
    policies: Sequence[SitePolicy],
) -> list[BoxNode]:
    scenario: Scenario = config.sections["simulation"]
    nodes = config.swarm.nodes
    ports = free_ports(2 * nodes)
    seats: list[BoxNode] = []
    for index in range(nodes):
        home = folder / f"node-{index}"
        home.mkdir(mode=0o700)
        key = _made("keygen", str(home / "node.key"), "--no-passphrase")
        seats.append(
            BoxNode(
                index=index,
                folder=home,
                hostile=index >= nodes - scenario.attackers,
                node_id=key["public_key"],
                peer_id=key["peer_id"],
                port=ports[index],
                status_port=ports[nodes + index],
            )
        )
    if config.plugins.get("pki", {}).get("ca"):
        _certify(folder, config.swarm.name, seats)
    if transport in OVER_HUBS:
        hub = BoxHub(folder / "hub", free_ports(1)[0], qres)
        hub.make(config.swarm.name, [seat.node_id for seat in seats], _made)
        seats = [attrs.evolve(seat, hub=hub) for seat in seats]
    for seat in seats:
        tables = _node(raw, config, transport, seat, seats)
        if seat is seats[0]:  # what is wrong with one is wrong with all, and is better said once
            of_a_node = parse(tables, source=config.source, sections=SECTIONS)
            kernel = Kernel.from_config(of_a_node, installed=scan())
            enforce(policies, of_a_node, kernel.enabled)
        heading = f"# {seat.name} of a swarm in a box. Written by `qres swarm up`.\n\n"
        seat.config.write_text(heading + toml.render(tables), encoding="utf-8")
    _try_work(seats)
    return seats


def _try_work(seats: Sequence[BoxNode]) -> None:
    """Make the work of the first node and of the last, an attacker's if there is one.

    Raises ConfigError: QRES-E105 where they begin with different models or on top of different
    weights; what is wrong with the entry. Raises LabError: for an attack that its trainer cannot be
    turned to; QRES-E802 for what the built-in task lacks. Raises CompatibilityError: what does not
    fit a model of that many parameters.
    """
    ends = [
        parse(read_toml(seat.config), source=str(seat.config), sections=SECTIONS)
        for seat in (seats[0], seats[-1])
    ]
    (trainer, first), (other, last) = (make_work(end) for end in ends)
    Kernel.from_config(ends[0], installed=scan()).fit(int(first.size))
    check_first(seats[0].name, first, seats[-1].name, last)
    check_base(seats[0].name, trainer, seats[-1].name, other)


def needed(config: Config) -> int:
    """Honest nodes without which no round can close, whatever the others do."""
    swarm = config.swarm
    return max(swarm.quorum, vote_threshold(swarm.nodes, swarm.byzantine))


def _certify(folder: Path, swarm: str, seats: Sequence[BoxNode]) -> None:
    authority = str(folder / "ca")
    _made("ca", "init", authority, "--swarm", swarm)
    for seat in seats:
        roles = ("--role", "train", "--role", "aggregate")
        _made(
            *("ca", "issue", authority, "--public-key", seat.node_id, "--name", seat.name),
            *roles,
        )


def _node(
    raw: Mapping[str, Any], config: Config, transport: str, seat: BoxNode, seats: Sequence[BoxNode]
) -> dict[str, Any]:
    """The tables of one node's configuration."""
    roster = [seat.node_id for seat in seats]
    plugins: dict[str, Any] = {}
    for name, table in config.plugins.items():
        if name in {"memory", transport}:
            kept: Mapping[str, Any] = table if name == transport else {}
            plugins[transport] = {**kept, **WIRINGS[transport](seat, seats)}
        elif name == "ed25519":
            own = {key: value for key, value in table.items() if key not in _OF_A_KEY}
            plugins[name] = {**own, "key": str(seat.folder / "node.key")}
        elif name == "pki":
            plugins[name] = _membership(table, seat, roster)
        else:
            plugins[name] = dict(table)
    return {
        "swarm": {**raw["swarm"], "roster": roster},
        "node": {
            "name": seat.name,
            "data_dir": str(seat.folder / "data"),
            "status": f"127.0.0.1:{seat.status_port}",
        },
        "trainer": _trainer(raw, config, seat),
        "plugins": plugins,
    }


_OF_A_KEY: Final = ("key", "passphrase_env", "rotations")


def roster_tables(config: Config, seats: Sequence[BoxNode]) -> dict[str, Any]:
    """Tables of a configuration by which somebody can check signatures of the box's nodes."""
    keys = {key: value for key, value in config.plugins["ed25519"].items() if key not in _OF_A_KEY}
    swarm = config.swarm
    return {
        "swarm": {
            "name": swarm.name,
            "nodes": swarm.nodes,
            "byzantine": swarm.byzantine,
            "quorum": swarm.quorum,
            "scale": swarm.scale,
            "roster": [seat.node_id for seat in seats],
        },
        "plugins": {"ed25519": keys},
    }


_OF_MEMBERS: Final = ("members", "members_file", "ca", "crl", "certificates")


def _membership(table: Mapping[str, Any], seat: BoxNode, roster: Sequence[str]) -> dict[str, Any]:
    kept = {key: value for key, value in table.items() if key not in _OF_MEMBERS}
    if table.get("ca"):
        authority = seat.folder.parent / "ca"
        kept |= {
            "ca": str(authority / "ca.pem"),
            "crl": str(authority / "crl.pem"),
            "certificates": str(authority / "certificates"),
        }
    if table.get("members") or table.get("members_file") or not table.get("ca"):
        kept["members"] = list(roster)
    return kept


def _trainer(raw: Mapping[str, Any], config: Config, seat: BoxNode) -> dict[str, Any]:
    """The trainer's table: the file's, and for an attacker one that turns it hostile."""
    table = table_of(config)
    place = {"index": seat.index, "seed": seed_of(config)}
    if table.entry:
        own = {"path": str(folder_of(config)), "options": dict(table.options)}
        honest: dict[str, Any] = {"entry": table.entry, **own}
    else:
        honest = {"task": dict(raw.get("trainer", {}).get("task", {"name": table.name}))}
    if not seat.hostile:
        return {**place, **honest}
    scenario: Scenario = config.sections["simulation"]
    options: dict[str, Any] = {
        "attack": scenario.attack,
        "attackers": scenario.attackers,
        "trainer": honest,
    }
    if scenario.strength is not None:
        options["strength"] = scenario.strength
    return {**place, "entry": hostile.ENTRY, "options": options}
