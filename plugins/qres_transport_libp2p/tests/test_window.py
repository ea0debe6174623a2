"""Room for more is told to a sender half a window at a time, and not after every read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from libp2p.stream_muxer.yamux.yamux import TYPE_WINDOW_UPDATE, YamuxStream
from qres_transport_libp2p.yamux import GatheringStream, ShieldedYamux

KIB = 1024
SMALL, LARGE = 20, 20
"""Frames: of a few bytes, and more than a window of 256 KiB together."""


def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The room that streams tell of from now on, bytes."""
    found: list[int] = []
    plain: Callable[[ShieldedYamux, bytes], Awaitable[None]] = ShieldedYamux._write_frame

    async def write(conn: ShieldedYamux, data: bytes) -> None:
        kind, flags, room = data[1], data[2:4], int.from_bytes(data[8:12], "big")
        if kind == TYPE_WINDOW_UPDATE and not any(flags):
            found.append(room)
        await plain(conn, data)

    monkeypatch.setattr(ShieldedYamux, "_write_frame", write)
    return found


@pytest.mark.parametrize("gathered", [True, False])
def test_small_frames_cost_no_update_and_a_full_window_some(
    lab: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    gathered: bool,  # noqa: FBT001 - the case
) -> None:
    """The control is libp2p's own stream."""
    roster = lab.members(2)
    found = updates(monkeypatch)
    if not gathered:
        plain: Any = YamuxStream._auto_tune_and_send_window_update
        monkeypatch.setattr(GatheringStream, "_auto_tune_and_send_window_update", plain)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            item, other = (lab.transport(me, roster) for me in roster)
            await swarm.start(item, other)
            await lab.connected(item, other)
            found.clear()
            for number in range(SMALL):
                await item.broadcast(b"small %d" % number)
                await lab.heard(other, b"small %d" % number)
            if not gathered:
                assert len(found) >= SMALL
                return
            assert found == []
            for number in range(LARGE):
                await item.broadcast(bytes([number]) * 32 * KIB)
                await lab.heard(other, bytes([number]) * 32 * KIB)
            assert found
            assert min(found) >= 128 * KIB

    anyio.run(main)
