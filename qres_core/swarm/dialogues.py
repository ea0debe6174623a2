"""The plugins' dialogues of a round: their messages out, the others' messages in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qres_core.contract.dialogue import Accusation, Dialogue, DialogueMessage, Send
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution, NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.effects import Refused
from qres_core.swarm.messages import DIALOGUE
from qres_core.swarm.outlet import Outlet
from qres_core.swarm.place import NodeContext, Position
from qres_core.swarm.speaking import Speaker


class Dialogues:
    """What the plugins talk about in the current round."""

    def __init__(
        self, seat: NodeContext, position: Position, speaker: Speaker, outlet: Outlet
    ) -> None:
        self._seat = seat
        self._position = position
        self._speaker = speaker
        self._outlet = outlet
        self._by_plugin: Mapping[str, Dialogue] = {}

    def __bool__(self) -> bool:
        return bool(self._by_plugin)

    def open_round(self, info: RoundInfo, now: float) -> None:
        """Open the round with the plugins and start what they want to talk about.

        Raises:
            QresError: a plugin refuses the round.
        """
        self._by_plugin = {}
        self._by_plugin = self._seat.kernel.round_opened(info)
        for plugin, dialogue in self._by_plugin.items():
            self._send(plugin, dialogue.start(), now)

    @property
    def ready(self) -> bool:
        """Whether updates may be made private."""
        return all(dialogue.ready for dialogue in self._by_plugin.values())

    @property
    def finished(self) -> bool:
        """Whether updates may be revealed."""
        return all(dialogue.finished for dialogue in self._by_plugin.values())

    def tick(self, now: float) -> None:
        """The clock is at ``now`` seconds."""
        for plugin, dialogue in self._by_plugin.items():
            self._send(plugin, dialogue.tick(now), now)

    def take(self, envelope: Envelope, now: float) -> None:
        """Give a message of kind ``dialogue/<plugin>/<step>`` to its dialogue."""
        _prefix, _, rest = envelope.kind.partition("/")
        plugin, _, step = rest.rpartition("/")
        dialogue = self._by_plugin.get(plugin)
        if dialogue is None or not step.isascii() or not step.isdigit() or len(step) > 2:
            self._outlet.refuse(envelope, "unknown dialogue", Blame.SENDER)
            return
        message = DialogueMessage(envelope.sender, int(step), envelope.payload)
        try:
            sends = dialogue.receive(message)
        except Exception as error:  # noqa: BLE001 - a dialogue must not fall over a peer's message
            self._outlet.refuse(envelope, f"{plugin}: {type(error).__name__}", Blame.NOBODY, plugin)
        else:
            self._send(plugin, sends, now)

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        info: RoundInfo,
        now: float,
    ) -> None:
        """Tell all of the set that is agreed on, and of the round it was made in."""
        for plugin, dialogue in self._by_plugin.items():
            try:
                sends = dialogue.decided(members, contributions, info)
            except Exception as error:  # noqa: BLE001 - nor over what peers contributed
                what = f"{plugin}: {type(error).__name__}"
                number = self._position.number
                self._seat.kernel.refuse(what, Blame.NOBODY, None, plugin, number)
            else:
                self._send(plugin, sends, now)

    def _send(self, plugin: str, sends: Sequence[Send | Accusation], now: float) -> None:
        for send in sends:
            if isinstance(send, Accusation):
                self._accuse(plugin, send)
                continue
            envelope = self._speaker.make(f"{DIALOGUE}{plugin}/{send.step}", send.body, now)
            if send.to is None:
                self._speaker.send_all(envelope)
            elif send.to != self._seat.node_id:
                self._speaker.send(send.to, envelope)

    def _accuse(self, plugin: str, accusation: Accusation) -> None:
        subject, fact = accusation.subject, accusation.fact
        if subject not in self._seat.roster or subject == self._seat.node_id:
            return
        number = self._position.number
        self._seat.kernel.refuse(fact, Blame.SENDER, subject, plugin, number)
        self._outlet.put(Refused(number, subject, fact))
