"""Options for an operator, with the default and the bound of each."""

from __future__ import annotations

from typing import Any

import attrs

from qres_core import options

MIB = 2**20
FRAME_MOST = 56 * 1024
"""Largest frame that any node may send, whatever another one's ``frame_bytes`` is."""


def _bytes(default: int, text: str, least: int, most: int | None = None) -> Any:
    validator = options.whole(least, most, unit="bytes")
    return attrs.field(default=default, validator=validator, metadata=options.help_text(text))


def _whole(default: int, text: str, least: int, most: int | None = None) -> Any:
    validator = options.whole(least, most)
    return attrs.field(default=default, validator=validator, metadata=options.help_text(text))


def _seconds(default: float, text: str, least: float, most: float = 3600) -> Any:
    validator = options.real(least, most, unit="seconds")
    return attrs.field(default=default, validator=validator, metadata=options.help_text(text))


@attrs.frozen(kw_only=True)
class GrpcOptions:
    """The keys of ``[plugins.grpc]``."""

    # where the hubs are, and which certificate each has
    hubs: tuple[str, ...] = attrs.field(
        default=(),
        metadata={
            "help": "Hubs to keep a connection to, as HOST:PORT#SHA256 (`qres hub run` prints it). "
            "The digest is that of the hub's certificate. Nodes reach each other over every hub "
            "that both name. May change while the node runs (`qres node reload`).",
            options.LIVE: True,
        },
    )

    # see ``metadata``, as for all that follow
    frame_bytes: int = _bytes(
        32 * 1024, "Largest frame; larger messages travel as blobs.", 1024, FRAME_MOST
    )
    request_bytes: int = _bytes(MIB, "Largest request and largest reply.", 1024, 2 * MIB)
    blob_bytes: int = _bytes(256 * MIB, "Largest blob, published or fetched.", 1024, 2**32)
    spool_bytes: int = _bytes(
        1024 * MIB,
        "Room for blobs on disk, or in memory for a node without a data folder: an update of each "
        "node at least, and two more of each liar. The least recently used blob makes room for a "
        "new one.",
        1024,
    )
    inbox_frames: int = _whole(
        1024,
        "Frames that may wait for the node; more are dropped. One neighbour gets at most half.",
        1,
    )
    outbox_frames: int = _whole(
        256, "Frames that each node may have to confirm yet; more are dropped.", 1
    )
    outbox_bytes: int = _bytes(
        16 * MIB, "Bytes that may wait for each hub; more are dropped.", 4 * MIB
    )
    requests_per_peer: int = _whole(4, "Requests of one node answered at once.", 1, 64)
    requests_total: int = _whole(
        32, "Requests answered at once, and requests sent at once.", 1, 1024
    )
    blob_window: int = _whole(
        4, "MiB asked of a holder at once, at most; on a slow line less is.", 1, 16
    )
    blob_sources: int = _whole(3, "Holders that a blob is pulled from at once.", 1, 32)
    hub_per_second: float = attrs.field(
        default=2000.0,
        validator=options.real(1, unit="a second"),
        metadata=options.help_text("Messages a second taken from each hub, on average."),
    )
    hub_burst: int = _whole(4000, "Messages a hub may send at once.", 1)
    dial_seconds: float = _seconds(
        10.0, "Time limit for connecting to a hub, proof included.", 0.1, 600
    )
    hello_seconds: float = _seconds(
        15.0, "Time limit for the first exchange with a node, including admission.", 0.1, 600
    )
    reconnect_seconds: float = _seconds(
        2.0, "Least pause between attempts to reach a hub or a node; doubled up to 16 times.", 0.05
    )
    retry_seconds: float = _seconds(
        0.5,
        "Time after which an unanswered question is sent again, over another hub; half of it for a "
        "frame.",
        0.05,
    )
    ping_seconds: float = _seconds(
        5.0, "Silence after which a node is asked whether it is there. Three end the link.", 0.1
    )
    readmit_seconds: float = _seconds(
        60.0, "Time after which a linked node must be admitted again.", 0.5
    )
