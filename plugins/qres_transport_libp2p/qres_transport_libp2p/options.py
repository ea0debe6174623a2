"""Options for an operator, with the default and the bound of each."""

from __future__ import annotations

from typing import Any

import attrs

from qres_core import options

MIB = 2**20
FRAME_MOST = 56 * 1024
"""Largest frame that any node may send, whatever another one's ``frame_bytes`` is."""


def _whole(default: int, text: str, least: int, most: int | None = None, unit: str = "") -> Any:
    validator = options.whole(least, most, unit=unit)
    return attrs.field(default=default, validator=validator, metadata=options.help_text(text))


def _bytes(default: int, text: str, least: int, most: int | None = None) -> Any:
    return _whole(default, text, least, most, "bytes")


def _real(
    default: float, text: str, least: float, most: float | None = None, unit: str = "a second"
) -> Any:
    validator = options.real(least, most, unit=unit)
    return attrs.field(default=default, validator=validator, metadata=options.help_text(text))


def _seconds(default: float, text: str, least: float, most: float | None = None) -> Any:
    return _real(default, text, least, most, "seconds")


@attrs.frozen(kw_only=True)
class Libp2pOptions:
    """The keys of ``[plugins.libp2p]``."""

    # where to listen, a multiaddr
    listen: str = attrs.field(
        default="/ip4/127.0.0.1/tcp/0",
        metadata={"help": "Multiaddr to listen on. Port 0 chooses a free port."},
    )
    # whom to keep connected to, multiaddrs that end in ``/p2p/`` and a PeerId
    peers: tuple[str, ...] = attrs.field(
        default=(),
        metadata={
            "help": "Nodes to keep a connection to, as multiaddrs that end in /p2p/ and the PeerId "
            "(`qres key show` prints it). Of two nodes, one must name the other. /dns4/NAME may "
            "stand for /ip4/ADDRESS: a name is looked up at every attempt. May change while the "
            "node runs (`qres node reload`).",
            options.LIVE: True,
        },
    )
    # look for nodes of the roster in the local network
    mdns: bool = attrs.field(
        default=False,
        validator=options.flag(),
        metadata={
            "help": "Look for nodes of the roster in the local network, and be found by anybody "
            "there. It announces the address in `listen`, or for 0.0.0.0 every IPv4 address of "
            "the machine."
        },
    )

    # ── sizes ─────────────────────────────────────────────────────────────────────────────────

    # see ``metadata``, as for all that follow
    frame_bytes: int = _bytes(
        32 * 1024, "Largest frame; larger messages travel as blobs.", 1024, FRAME_MOST
    )
    request_bytes: int = _bytes(MIB, "Largest request and largest reply.", 1024, 4 * MIB)
    blob_bytes: int = _bytes(256 * MIB, "Largest blob, published or fetched.", 1024, 2**32)
    spool_bytes: int = _bytes(
        1024 * MIB,
        "Room for blobs on disk, or in memory for a node without a data folder: an update of each "
        "node at least, and two more of each liar. The least recently used blob makes room for a "
        "new one.",
        1024,
    )

    # ── rates and queues ──────────────────────────────────────────────────────────────────────

    inbox_frames: int = _whole(
        1024,
        "Frames that may wait for the node; more are dropped. One neighbour gets at most half.",
        1,
    )
    outbox_frames: int = _whole(
        256, "Frames that may wait for each neighbour; more are dropped.", 1
    )
    publish_per_second: float = _real(
        50.0, "Broadcasts a second, on average; faster ones wait.", 0.1
    )
    publish_burst: int = _whole(200, "Broadcasts that may leave at once.", 1)
    ingress_per_second: float = _real(
        200.0,
        "Gossip messages a second taken from each neighbour, on average, before any signature is "
        "checked; more are dropped.",
        0.1,
    )
    ingress_burst: int = _whole(400, "Gossip messages a neighbour may send at once.", 1)
    mesh_degree: int = _whole(
        6,
        "Most neighbours that pass gossip on to this node while it does not reach some member.",
        2,
        32,
    )

    # ── streams ───────────────────────────────────────────────────────────────────────────────

    requests_per_peer: int = _whole(4, "Requests of one neighbour answered at once.", 1, 64)
    requests_total: int = _whole(
        32, "Requests answered at once, and requests sent at once.", 1, 1024
    )
    blob_streams_per_peer: int = _whole(
        4, "Streams of one neighbour that blobs are served on at once.", 1, 64
    )
    blob_streams_total: int = _whole(32, "Streams that blobs are served on at once.", 1, 1024)
    blob_window: int = _whole(4, "Chunks of a blob asked of a holder ahead of time.", 1, 16)
    blob_sources: int = _whole(3, "Holders that a blob is pulled from at once.", 1, 32)
    read_seconds: float = _seconds(
        10.0, "Longest silence of a neighbour in the middle of an exchange.", 0.1, 600
    )

    # ── connections ───────────────────────────────────────────────────────────────────────────

    max_connections: int = _whole(64, "Connections in all.", 1, 4096)
    dial_seconds: float = _seconds(
        10.0,
        "Time limit for connecting. It doubles, three times at most, for a peer that does not keep "
        "it, and so does that for the first exchange.",
        0.1,
        600,
    )
    hello_seconds: float = _seconds(
        15.0, "Time limit for the first exchange, including admission.", 0.1, 600
    )
    reconnect_seconds: float = _seconds(
        2.0, "Least pause between attempts to reach a peer; at most 2.5 times that.", 0.05, 3600
    )
    ping_seconds: float = _seconds(
        5.0,
        "Silence after which a neighbour is pinged, about. Two pings in a row after which nothing "
        "comes end the connection. A ping waits this long for an answer, or longer where earlier "
        "answers took longer.",
        0.1,
    )
    readmit_seconds: float = _seconds(
        60.0, "Time after which a connected neighbour must be admitted again, about.", 0.5
    )
