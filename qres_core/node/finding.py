"""Addresses of the status of a folder's nodes: of one node, or of a swarm in a box."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from qres_core.contract.errors import ConfigError
from qres_core.kernel.config import NodeConfig, read_toml, structure

FILE: Final = "node.toml"


def addresses(folder: Path) -> Mapping[str, str]:
    """The status addresses of the nodes configured in a folder, by the node's name.

    ``folder``: with a ``node.toml``, or with folders ``node-K`` that have one each, as ``qres swarm
    up --folder`` makes them. Returns ``ADDRESS:PORT`` of each node, in the order of their numbers;
    empty where the folder holds no node. Raises ConfigError: QRES-E101, QRES-E104 or QRES-E105 for
    a file that is no configuration, and for a node whose address cannot be known from it.
    """
    alone = folder / FILE
    if alone.is_file():
        return {folder.resolve().name: _address(alone)}
    found = [path for path in folder.glob(f"node-*/{FILE}") if path.parent.name[5:].isdecimal()]
    found.sort(key=lambda path: int(path.parent.name[5:]))
    return {path.parent.name: _address(path) for path in found}


def _address(path: Path) -> str:
    node = structure(read_toml(path).get("node", {}), NodeConfig, "node")
    if not node.status or node.status.endswith(":0"):
        what = f"{node.status!r} in {path} tells no port to ask at"
        fix = "give --url with the address that the node's log names"
        raise ConfigError.of("QRES-E105", "node.status", what, fix)
    return node.status
