"""Nodes that are killed and started again, and what they lost meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_node_ids, make_round_info
from qres_secagg import Secagg
from qres_secagg.store import FILE
from secagg_swarm import PluginSwarm

from qres_core import NodeInfo, RoundInfo, Update
from qres_core.errors import QresError

OLD = attrs.evolve(make_round_info(17, nodes=5, number=9), step=8, height=8)
"""A round of a swarm that is at its ninth."""


def advertised(folder: str, info: RoundInfo = OLD, *, new_store: bool = False) -> bool:
    """Whether the first of five nodes, started with its folder, takes part in a round."""
    plugin = Secagg(new_store=new_store)
    plugin.setup(NodeInfo(make_node_ids(5)[0], "testing", make_node_ids(5), 0, data_dir=folder))
    try:
        return bool(plugin.round_opened(info).start())
    finally:
        plugin.teardown()


def folders_of(swarm_folder: Path, nodes: int = 5) -> dict[bytes, str]:
    return {node: str(swarm_folder / node.hex()[:8]) for node in make_node_ids(nodes)}


def test_a_node_that_restarts_in_a_round_stays_out_of_it(tmp_path: Path) -> None:
    folders = {node: str(tmp_path / node.hex()[:8]) for node in make_node_ids(6)}
    swarm = PluginSwarm(6, folders=folders).open()
    node = swarm.roster[0]
    swarm.plugins[node].teardown()
    again = Secagg()
    again.setup(NodeInfo(node, "testing", swarm.roster, 0, data_dir=folders[node]))
    dialogue = again.round_opened(swarm.info)
    with pytest.raises(QresError) as caught:
        dialogue.start()
    assert caught.value.code == "QRES-E604"
    assert not dialogue.ready
    with pytest.raises(QresError):
        again.privatize(Update(np.zeros(17, np.int32)), swarm.info)
    later = attrs.evolve(swarm.info, number=2)
    assert again.round_opened(later).start()  # the next one is another session


@pytest.mark.claim("C-secagg-15")
@pytest.mark.parametrize("step", [8, 0])
def test_where_the_store_is_gone_and_heights_were_decided_the_node_stays_out(
    tmp_path: Path, step: int
) -> None:
    """Also where none of them made a model: sums of the first one may be open."""
    with pytest.raises(QresError, match="8 heights behind it") as caught:
        advertised(str(tmp_path), attrs.evolve(OLD, step=step))
    assert caught.value.code == "QRES-E602"
    assert "new_store = true" in str(caught.value)
    assert not list(tmp_path.iterdir())
    # In the swarm's first rounds, and for a node that is said to be new, one is begun.
    assert advertised(str(tmp_path / "first"), attrs.evolve(OLD, step=0, height=0))
    assert advertised(str(tmp_path / "new"), new_store=True)


def test_a_store_once_begun_is_used_from_then_on(tmp_path: Path) -> None:
    plugin = Secagg(new_store=True)
    info = NodeInfo(make_node_ids(5)[0], "testing", make_node_ids(5), 0, data_dir=str(tmp_path))
    plugin.setup(info)
    assert plugin.round_opened(OLD).start()
    assert plugin.round_opened(attrs.evolve(OLD, number=10)).start()
    plugin.teardown()
    with pytest.raises(QresError, match="not set up"):
        plugin.round_opened(OLD)
    with pytest.raises(QresError) as caught:  # also where a new one would be allowed
        advertised(str(tmp_path), new_store=True)
    assert caught.value.code == "QRES-E604"


@pytest.mark.claim("C-secagg-15")
def test_a_store_that_is_removed_under_a_running_node_keeps_it_out(tmp_path: Path) -> None:
    plugin = Secagg(new_store=True)
    info = NodeInfo(make_node_ids(5)[0], "testing", make_node_ids(5), 0, data_dir=str(tmp_path))
    plugin.setup(info)
    assert plugin.round_opened(OLD).start()  # control
    (tmp_path / FILE).unlink()
    with pytest.raises(QresError, match="removed while it was open") as caught:
        plugin.round_opened(attrs.evolve(OLD, number=10)).start()
    assert caught.value.code == "QRES-E602"
    plugin.teardown()
    with pytest.raises(QresError, match="the file is missing and its write-ahead log is not"):
        advertised(str(tmp_path), new_store=True)


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────

KILLED = """
import os, signal, sys
from pathlib import Path
from qres_lab.testing import make_node_ids
from qres_secagg.store import SessionStore
from secagg_swarm import PluginSwarm

step, folder = sys.argv[1:]
kept = getattr(SessionStore, step)

def keep_and_die(self, name, number):
    kept(self, name, number)
    Path(folder, "killed").write_text(self._db.path.parent.name)
    os.kill(os.getpid(), signal.SIGKILL)

swarm = PluginSwarm(5, folders={node: f"{folder}/{node.hex()[:8]}" for node in make_node_ids(5)})
setattr(SessionStore, step, keep_and_die)
swarm.open()
"""


def killed_at(step: str, folder: Path) -> bytes:
    """Play a round in another process, killed by the first node that did ``step``; which one."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, step, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    name = (folder / "killed").read_text()
    return next(node for node in make_node_ids(5) if node.hex()[:8] == name)


@pytest.mark.claim("C-secagg-15")
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_killed_between_recording_a_session_and_sending_it_does_not_take_it_again(
    tmp_path: Path,
) -> None:
    node = killed_at("take", tmp_path)
    folder = folders_of(tmp_path)[node]
    assert node == make_node_ids(5)[0]
    first = attrs.evolve(OLD, number=1, step=0, height=0)
    with pytest.raises(QresError, match="session taken part in before") as caught:
        advertised(folder, first)
    assert caught.value.code == "QRES-E604"
    assert advertised(folder)  # the next one is another session
    # Control: without its store it would, with other keys.
    (Path(folder) / FILE).unlink()
    assert advertised(folder, first)
