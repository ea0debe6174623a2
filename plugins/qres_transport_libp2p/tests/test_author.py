"""Whoever made a frame is named, whoever passed it on: blame must not fall on the messenger."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
import pytest


@pytest.mark.claim("C-transport-4")
def test_a_frame_that_was_passed_on_names_its_author(lab: SimpleNamespace) -> None:
    author, messenger, receiver = roster = lab.members(3)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            transport = lab.transport(author, roster, dial=[messenger])
            two = lab.transport(messenger, roster, dial=[])
            three = lab.transport(receiver, roster, dial=[messenger])
            await swarm.start(transport, two, three)
            await lab.connected(transport, two)
            await lab.connected(two, three)
            frame = b"news"
            with anyio.fail_after(lab.PATIENCE):
                while True:
                    await transport.broadcast(frame)  # the mesh may not be there yet
                    with anyio.move_on_after(1.0):
                        passed_on = await lab.heard(three, frame)
                        break
            assert (passed_on.link, passed_on.author) == (messenger.node_id, author.node_id)
            direct = await lab.heard(two, frame)
            assert (direct.link, direct.author) == (author.node_id, None)

    anyio.run(main)
