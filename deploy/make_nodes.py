"""Make the keys and configurations of a small swarm, a folder for each node.

    python deploy/make_nodes.py deploy/nodes              for deploy/compose.yaml
    python deploy/make_nodes.py FOLDER --loopback 4100    to run all of them on this machine

On machines of your own every operator makes the key where it stays, with ``qres keygen``, and tells
the others the two names that it prints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

NODES: Final = 5
NODE: Final = """\
# Node {index} of {nodes}. Written by deploy/make_nodes.py.

[swarm]                     # the same on every node
name = "deployed"
nodes = {nodes}
byzantine = 1
quorum = 4
interval = 1.0              # seconds between two models, at least
roster = [
{roster}
]

[node]
data_dir = "data"
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
f = 1
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


def make_nodes(folder: Path, loopback: int | None) -> None:
    """Write ``node-0`` to ``node-4`` below ``folder``, which is made.

    Args:
        folder: where; nothing there is overwritten.
        loopback: first of the ten ports to use on the loopback interface; ``None`` for containers,
            which find each other by name.
    """
    homes = [folder / f"node-{index}" for index in range(NODES)]
    for home in homes:
        home.mkdir(mode=0o700, parents=True)
    keys = [keygen(home / "node.key") for home in homes]
    for index, home in enumerate(homes):
        if loopback is None:
            listen, status = "/ip4/0.0.0.0/tcp/4001", "0.0.0.0:8470"
            places = [f"/dns4/node-{index}/tcp/4001" for index in range(NODES)]
        else:
            places = [f"/ip4/127.0.0.1/tcp/{loopback + index}" for index in range(NODES)]
            listen, status = places[index], f"127.0.0.1:{loopback + NODES + index}"
        peers = [f"{place}/p2p/{key['peer_id']}" for place, key in zip(places, keys, strict=True)]
        text = NODE.format(
            index=index,
            nodes=NODES,
            roster="\n".join(f'    "{key["public_key"]}",' for key in keys),
            status=status,
            listen=listen,
            peers="\n".join(f'    "{peer}",' for peer in peers if peer != peers[index]),
        )
        (home / "node.toml").write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make the keys and files of five nodes.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loopback", type=int, metavar="PORT", help="all on this machine")
    arguments = parser.parse_args()
    make_nodes(arguments.folder, arguments.loopback)
    print(f"keys and node.toml of {NODES} nodes are in {arguments.folder}")


if __name__ == "__main__":
    main()
