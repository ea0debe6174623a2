"""What `qres node doctor` finds of this transport: nothing is well that would not start."""

from __future__ import annotations

import socket
from threading import Semaphore, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from qres_transport_libp2p import Libp2p
from qres_transport_libp2p.examining import GREETING

from qres_core import NodeInfo
from qres_core.errors import ConfigError, Problem


def found(lab: SimpleNamespace, **options: Any) -> list[Problem | str]:
    me, peer = lab.members(2)
    info = NodeInfo(me.node_id, "test", tuple(sorted((me.node_id, peer.node_id))))
    try:
        Libp2p(**options).transport(info, lab.admit_everybody, bytes, me.keys)
    except ConfigError as error:  # what the node is refused for, the doctor says too
        refused = [problem.where for problem in error.problems]
    else:
        refused = []
    items = list(Libp2p(**options).examine(info, runs=False, link_keys=None))
    wrong = [it.where for it in items if isinstance(it, Problem) and it.code == "QRES-E105"]
    assert wrong == refused
    return items


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"listen": "/ip4/127.0.0.1/udp/4001"}, "listen"),
        ({"listen": "/dns4/localhost/tcp/4001"}, "listen"),
        ({"listen": "here"}, "listen"),
        ({"listen": "/ip4/127.0.0.1"}, "listen"),
        ({"listen": "/ip6/::1/tcp/0", "mdns": True}, "mdns"),
    ],
)
def test_what_the_node_would_refuse_is_not_well(
    lab: SimpleNamespace, options: dict[str, Any], where: str
) -> None:
    problem, *others = found(lab, **options)
    assert isinstance(problem, Problem)
    assert problem.where == f"plugins.libp2p.{where}"
    assert others == ([] if where == "listen" else ["/ip6/::1/tcp/0: any free port"])


def test_each_peer_is_named_by_its_place_and_not_knocked_at_where_it_cannot_be(
    lab: SimpleNamespace,
) -> None:
    _me, peer = lab.members(2)
    name = peer.address.rpartition("/p2p/")[2]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        items = found(lab, peers=(f"/ip4/127.0.0.1/udp/{port}/p2p/{name}", peer.listen))
        assert items[2:] == ["/ip4/127.0.0.1/tcp/0: any free port"]
        assert [it.where for it in items[:2] if isinstance(it, Problem)] == [
            "plugins.libp2p.peers[0]",
            "plugins.libp2p.peers[1]",
        ]
        server.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()


@pytest.mark.parametrize("step", [0.0, 500.0])
def test_a_peer_that_greets_a_byte_at_a_time_wins_no_time(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    _me, peer = lab.members(2)
    name = peer.address.rpartition("/p2p/")[2]
    now, looks = 0.0, Semaphore(0)

    def clock() -> float:
        looks.release()
        return now

    own = SimpleNamespace(monotonic=clock)
    monkeypatch.setattr("qres_transport_libp2p.examining.time", own)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            nonlocal now
            connection, _address = server.accept()
            with connection:
                connection.recv(100)
                for index in range(len(GREETING)):
                    if not looks.acquire(timeout=0.0 if now > 600.0 else lab.PATIENCE):
                        break  # the other end has had enough
                    now += step  # each byte comes in time by itself
                    try:
                        connection.sendall(GREETING[index : index + 1])
                    except OSError:
                        break
                connection.settimeout(lab.PATIENCE)
                connection.recv(100)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        place = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        _port, item = found(lab, peers=(f"{place}/p2p/{name}",), dial_seconds=600.0)
        thread.join(lab.PATIENCE)
    if step:
        assert isinstance(item, Problem)
        assert item.code == "QRES-E907"
    else:
        assert item == f"{place} answers as a libp2p node", "control: where time stands still"
