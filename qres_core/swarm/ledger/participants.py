"""Samples of members that train in a round, drawn from the head and the round's number.

The members that are not banned are ordered by the SHA-256 of the tag ``qres/participants/v1``, a
zero byte, the head, the round's number as eight bytes and their identity. The first
``swarm.participants`` are the sample. The next round at the same head has another one, so that
members that are away do not stop the swarm. All members vote, whoever was drawn.

Whoever proposes can let a round pass for another sample. It gains a sample, and no more liars than
there are: rules withstand all of them together.
"""

from __future__ import annotations

import hashlib
from typing import Final

from qres_core.contract.types import NodeId
from qres_core.swarm.ledger.chain import Head

_SAMPLE: Final = b"qres/participants/v1\0"


def participants(head: Head, number: int, count: int) -> frozenset[NodeId]:
    """The members that train in a round. ``count``: ``swarm.participants``; 0 for all of them.

    At least a quorum, which grows if members are added. Complexity: O(n log n).
    """
    members, banned = head.roster.members, frozenset(head.bans)
    free = [member for member in members if member not in banned]
    if not count or count >= len(free):
        return frozenset(members)
    seed = _SAMPLE + head.digest + number.to_bytes(8, "big")
    count = max(count, head.roster.quorum)
    free.sort(key=lambda member: hashlib.sha256(seed + member).digest())
    return frozenset(free[:count])
