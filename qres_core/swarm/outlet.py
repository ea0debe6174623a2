"""What leaves the round machine: effects in their order, the refusals of messages among them."""

from __future__ import annotations

from qres_core.contract.faults import KERNEL
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.effects import Effect, Refused


class Outlet:
    """Effects that wait to be taken."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._effects: list[Effect] = []

    def put(self, effect: Effect) -> None:
        """One more, after those before it."""
        self._effects.append(effect)

    def take(self) -> list[Effect]:
        """All of them, in order; none is left."""
        taken, self._effects = self._effects, []
        return taken

    def refuse(
        self, envelope: Envelope, reason: str, blame: Blame, by: str = KERNEL, detail: str = ""
    ) -> None:
        """Refuse a message whose sender is proven: count it, blame, and report it.

        Args:
            envelope: the message.
            reason: a :class:`Fault`, or an id of the plugin that refuses it.
            blame: who is to blame.
            by: the plugin that refuses it.
            detail: for the log alone.
        """
        made = self._kernel.refuse(reason, blame, envelope.sender, by, envelope.round)
        self.put(Refused(envelope.round, envelope.sender, made.reason, detail))
