"""Checks of shards that their paths prove: of their encoding, and by plugins.

To check a shard may take long, and it comes as often as somebody sends it. So what was found
against it is remembered. What says nothing of the shard is not: a plugin that ran out of memory or
of files may find the same shard right a moment later.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import attrs

from qres_core.contract.errors import WireError
from qres_core.contract.faults import HOOK_RAISED, KERNEL, Fault
from qres_core.contract.verdict import ACCEPT, Blame, Verdict, reject
from qres_core.contract.wire import Envelope
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.shards.committees import ShardPlan
from qres_core.swarm.shards.messages import SHARD, ShardPart
from qres_core.swarm.shards.missed import ShardOf, patience
from qres_core.swarm.storage.kept_contributions import Held


class ShardChecks:
    """Checks of the shards of contributions, at one head.

    Args:
        plan: the committees.
    """

    def __init__(self, speaker: Speaker, plan: ShardPlan) -> None:
        self._speaker, self._plan = speaker, plan
        self._refused: dict[ShardOf, tuple[Verdict, str]] = {}
        # what could not be checked here, and when to try again
        self._again: dict[ShardOf, tuple[float, ShardPart, Envelope]] = {}

    def judge(
        self, part: ShardPart, held: Held, envelope: Envelope, now: float
    ) -> tuple[Verdict, str]:
        """Judge a shard that its path proves; returns the verdict and its plugin.

        ``held``: its contribution; ``envelope``: in which it came.
        """
        key = part.contribution, part.index
        if key in self._refused:
            return self._refused[key]
        verdict, plugin = self._judged(part, held)
        if verdict is not ACCEPT:
            self._refused[key] = verdict, plugin
            if verdict.reason == str(Fault.NO_ROOM) or verdict.reason.endswith(HOOK_RAISED):
                self._again[key] = now + patience(self._speaker.context), part, envelope
        return verdict, plugin

    def _judged(self, part: ShardPart, held: Held) -> tuple[Verdict, str]:
        kernel, (start, stop) = self._speaker.context.kernel, self._plan.bounds(part.index)

        def checked() -> ShardPart:
            self._plan.unpack(part.index, part.octets)
            return part

        try:
            if not kernel.has("verify_shard"):
                kernel.found((SHARD, part.leaf, start, stop), checked)
                return ACCEPT, KERNEL
            shard = self._plan.unpack(part.index, part.octets)
        except WireError:
            return reject(Fault.MALFORMED_PAYLOAD, blame=Blame.SENDER), KERNEL
        except MemoryError:
            return reject(Fault.NO_ROOM), KERNEL
        info = attrs.evolve(self._speaker.position.info, number=held.envelope.round)
        return kernel.verify_shard(held.contribution, shard, start, info)

    def refuses(self, shard: ShardOf) -> bool:
        """True if something was found against a shard, and is not to be looked at again."""
        return shard in self._refused

    def take_again(self, now: float) -> list[tuple[ShardPart, Envelope]]:
        """Take the shards that are to be checked again by now, once."""
        due = [shard for shard, (at, _part, _envelope) in self._again.items() if now >= at]
        for shard in due:
            self._refused.pop(shard, None)
        return [self._again.pop(shard)[1:] for shard in due]

    def due(self) -> float:
        """Time at which something is to be checked again, seconds."""
        return min((at for at, _part, _envelope in self._again.values()), default=math.inf)

    def open_round(self, named: Collection[bytes]) -> None:
        """A round begins: forget all but the contributions named by digest."""
        self._refused = {shard: it for shard, it in self._refused.items() if shard[0] in named}
        self._again = {shard: it for shard, it in self._again.items() if shard[0] in named}
