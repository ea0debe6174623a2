"""Make the keys and configurations of a small swarm, a folder for each node.

    python deploy/make_nodes.py deploy/nodes              for deploy/compose.yaml
    python deploy/make_nodes.py FOLDER --loopback 4100    to run all of them on this machine
    python deploy/make_nodes.py FOLDER --slurm LIST       for the hosts of a Slurm job

On machines of your own every operator makes the key where it stays, with ``qres keygen``, and tells
the others the two names that it prints.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

NODES: Final = 5
MOST: Final = 1000
PORT: Final = 4001
NODE: Final = """\
# Node {index} of {nodes}. Written by deploy/make_nodes.py.

[swarm]                     # the same on every node
name = "deployed"
nodes = {nodes}
byzantine = {byzantine}
quorum = {quorum}
interval = 1.0              # seconds between two models, at least
roster = [
{roster}
]

[node]
data_dir = {data}
status = "{status}"

[trainer]                   # in place of this: entry = "your_module:make"
index = {index}

[trainer.task]
name = "quadratic"

[plugins.libp2p]
listen = "{listen}"
peers = [
{peers}
]

[plugins.ed25519]
key = "node.key"

[plugins.replay]

[plugins.reputation]

[plugins.median]
f = {byzantine}
"""


def keygen(path: Path) -> dict[str, str]:
    """Make a key without a passphrase; its public key and PeerId."""
    qres = [sys.executable, "-P", "-m", "qres_core.cli"]
    made = subprocess.run(
        [*qres, "keygen", str(path), "--no-passphrase", "--json"],
        capture_output=True,
        check=True,
        text=True,
    )
    names: dict[str, str] = json.loads(made.stdout)
    return names


def hosts(words: str) -> list[str]:
    """The names that a node list of Slurm stands for, in its order.

    Example:
        >>> hosts("gpu[08-10],login1")
        ['gpu08', 'gpu09', 'gpu10', 'login1']
    """
    made: list[str] = []
    parts = re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", words)
    if ",".join(parts) != words:
        msg = f"{words!r} is no node list of Slurm"
        raise SystemExit(msg)
    for part in parts:
        for name in _expanded(part):
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", name):
                msg = f"{name!r} of {words!r} is no name of a host"
                raise SystemExit(msg)
            made.append(name)
            if len(made) > MOST:
                msg = f"{words!r} names more than {MOST} hosts"
                raise SystemExit(msg)
    if len(set(made)) != len(made) or not made:
        msg = f"{words!r} names no host, or one twice"
        raise SystemExit(msg)
    return made


def _expanded(part: str) -> Iterator[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        yield part
        return
    before, after = part[: found.start()], part[found.end() :]
    for piece in found[1].split(","):
        first, _, last = piece.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            msg = f"{piece!r} in {part!r} is no number and no range of numbers"
            raise SystemExit(msg)
        for number in range(int(first), int(last or first) + 1):
            for rest in _expanded(after):
                yield f"{before}{number:0{len(first)}}{rest}"


def make_nodes(
    folder: Path,
    places: Sequence[str],
    listen: Sequence[str],
    status: Sequence[str],
    data: str = "data",
) -> None:
    """Write ``node-0`` and so on below ``folder``, which is made.

    Args:
        folder: where; nothing there is overwritten.
        places: where each node is dialled, a multiaddr.
        listen: where each listens.
        status: where each serves its status.
        data: the folder of each for its state; a relative one is below the node's.
    """
    count = len(places)
    byzantine = (count - 1) // 3
    homes = [folder / f"node-{index}" for index in range(count)]
    for home in homes:
        home.mkdir(mode=0o700, parents=True)
    keys = [keygen(home / "node.key") for home in homes]
    peers = [f"{place}/p2p/{key['peer_id']}" for place, key in zip(places, keys, strict=True)]
    for index, home in enumerate(homes):
        text = NODE.format(
            index=index,
            nodes=count,
            byzantine=byzantine,
            quorum=count - byzantine,
            roster="\n".join(f'    "{key["public_key"]}",' for key in keys),
            data=json.dumps(data),
            status=status[index],
            listen=listen[index],
            peers="\n".join(f'    "{peer}",' for peer in peers if peer != peers[index]),
        )
        (home / "node.toml").write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the keys and files of a swarm.")
    parser.add_argument("folder", type=Path)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--loopback", type=int, metavar="PORT", help="five, all on this machine")
    where.add_argument("--slurm", metavar="LIST", help="one on each host of a list of Slurm")
    parser.add_argument("--data", default="data", help="folder of each node for its state")
    arguments = parser.parse_args()
    if arguments.loopback is not None:
        port: int = arguments.loopback
        places = [f"/ip4/127.0.0.1/tcp/{port + index}" for index in range(NODES)]
        status = [f"127.0.0.1:{port + NODES + index}" for index in range(NODES)]
        make_nodes(arguments.folder, places, places, status, arguments.data)
    else:
        slurm: str | None = arguments.slurm
        names = [f"node-{index}" for index in range(NODES)] if slurm is None else hosts(slurm)
        places = [f"/dns4/{name}/tcp/{PORT}" for name in names]
        listen = [f"/ip4/0.0.0.0/tcp/{PORT}"] * len(places)
        # In a container the port is published on the host's loopback alone.
        status = ["0.0.0.0:8470" if slurm is None else "127.0.0.1:8470"] * len(places)
        make_nodes(arguments.folder, places, listen, status, arguments.data)
    print(f"keys and node.toml of {len(places)} nodes are in {arguments.folder}")


if __name__ == "__main__":
    main()
