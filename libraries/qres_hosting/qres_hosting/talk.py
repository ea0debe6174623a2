"""The coordinator's part in the dialogues of a round: it hands on what clients say, and listens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from qres_core.contract.dialogue import HostedDialogue
from qres_core.contract.evidence import Accusation
from qres_core.contract.faults import Fault
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution, NodeId
from qres_core.swarm.storage.dialogue_log import DialogueLog, Said
from qres_hosting.turns import MAX_TURNS, HostedTurn

Accused = tuple[str, Accusation]
"""Whom a plugin accuses."""
_PATIENCE: Final = 3
"""Turns in which nobody says anything, until the coordinator gives up: so long does it take until
clients turn from one who is away to another."""
_AFTER: Final = 8
"""Turns that are kept for after the set. A set that all signed and nobody opened keeps the model as
it is, for all rounds to come without one of its members."""


class HostedTalk:
    """The turns of a round.

    Args:
        told: the round, as it was announced.
        info: the same.
        dialogues: by plugin, of a coordinator.
    """

    def __init__(
        self, told: bytes, info: RoundInfo, dialogues: Mapping[str, HostedDialogue]
    ) -> None:
        self._told, self._info, self._dialogues = told, info, dialogues
        self._log = DialogueLog(info.head, info.number, len(info.roster))
        self._fresh: list[bytes] = []
        self._summaries: dict[str, bytes] = {}
        self._turn = self._idle = 0
        self._decided = self._handed = False  # handed: the turn after all are ready was asked
        for dialogue in dialogues.values():
            dialogue.start()

    def asks(self) -> bytes | None:
        """The next turn, for all clients; ``None`` where there is nothing to be asked now."""
        most = MAX_TURNS if self._decided else MAX_TURNS - _AFTER
        if self._turn >= most or not self._goes_on():
            return None
        frames, summaries = tuple(self._fresh), self._summaries
        turn = HostedTurn(self._told, self._info.dimension, self._turn, frames, summaries)
        self._fresh, self._summaries = [], {}
        for dialogue in self._dialogues.values():
            dialogue.tick(float(self._turn))
        self._turn += 1
        return turn.to_bytes()

    def _goes_on(self) -> bool:
        if self._decided:
            finished = all(dialogue.finished for dialogue in self._dialogues.values())
            return bool(self._summaries) or (bool(self._fresh) and not finished)
        ready = bool(self._turn) and all(each.ready for each in self._dialogues.values())
        # What made them ready is handed on, and whatever is said after it waits for the set: who
        # talks on keeps nobody from training.
        handed, self._handed = ready and self._handed, ready
        if ready:
            return bool(self._fresh) and not handed
        if self._fresh or not self._turn:
            self._idle = 0
            return True
        self._idle += 1
        return self._idle < _PATIENCE

    def hear(self, said: Said, frame: bytes) -> Fault | list[Accused]:
        """Take what a client said; what is wrong with it, or whom it accuses.

        ``frame``: the same, as it is handed on. Never raises for what it holds.
        """
        if said.plugin not in self._dialogues or said.to is not None:
            return Fault.UNKNOWN_DIALOGUE
        if said.id in self._log:
            return []
        if not self._log.add(said):
            return Fault.TOO_MANY_DIALOGUE_MESSAGES
        message = said.arrived(self._info.roster, _unquoted)
        if self._dialogues[said.plugin].concerns(message):
            self._fresh.append(frame)
        return _accusations(said.plugin, self._dialogues[said.plugin].receive(message))

    def decided(self, members: tuple[NodeId, ...], made: tuple[Contribution, ...]) -> list[Accused]:
        """Tell all of the set; whom they accuse. Clients hear of it in the next turn."""
        self._decided = True
        found: list[Accused] = []
        for name, dialogue in self._dialogues.items():
            found += _accusations(name, dialogue.decided(members, made, self._info))
            self._summaries[name] = dialogue.summary()
        return found


def _unquoted(_envelope: object) -> bool:
    return False  # no dialogue here quotes what another member said


def _accusations(plugin: str, heard: Iterable[object]) -> list[Accused]:
    return [(plugin, each) for each in heard if isinstance(each, Accusation)]
