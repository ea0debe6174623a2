"""A client's part in the dialogues of a round: it plays again what it was told, and goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import attrs

from qres_core.contract.dialogue import (
    Dialogue,
    DialogueMessage,
    HostedDialogue,
    HostedMemory,
    Send,
)
from qres_core.contract.errors import CompatibilityError, RoundError, WireError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.storage.dialogue_log import Said
from qres_hosting.fitting import speaks
from qres_hosting.retold import Happening, Heard, Retold

Saying = tuple[str, int, bytes]
"""What a dialogue says: plugin, step and body."""


def hosted(dialogues: Mapping[str, Dialogue]) -> dict[str, HostedDialogue]:
    """Dialogues that can be held here. Raises CompatibilityError: QRES-E322 for others."""
    found = {name: each for name, each in dialogues.items() if isinstance(each, HostedDialogue)}
    if others := dialogues.keys() - found.keys():
        raise CompatibilityError(tuple(speaks(name) for name in sorted(others)))
    return found


@attrs.define(eq=False)
class Partaking:
    """A client's dialogues in a round, as far as they have come.

    Args:
        dialogues: just opened.
        info: the round.
        nonce: of its announcement.
        file: what the client keeps.
    """

    dialogues: Mapping[str, HostedDialogue]
    info: RoundInfo
    nonce: bytes
    file: Retold
    events: int = attrs.field(default=0, init=False)

    def play(self, secret: bytes) -> None:
        """Play all that was told in the round. ``secret``: of the round, 32 bytes."""
        for name, dialogue in self.dialogues.items():
            # Two plugins of one client share no draw.
            memory = HostedMemory(_secret_of(secret, name), self.file.first)
            dialogue.resume(memory)
        for happened in self.file.history(self.nonce):
            self.hear(happened)
            self.events += 1

    def hear(self, happened: Happening) -> list[Saying]:
        """Give what happened to the dialogues; what they say.

        Raises CompatibilityError: QRES-E322 for one that says something to one node alone.
        """
        said: list[Saying] = []
        if happened.turn < 0:
            for name, given in happened.named.items():
                self.dialogues[name].gave(given)
            return said
        if happened.turn == 0:
            for name, dialogue in self.dialogues.items():
                said += _sayable(name, dialogue.start())
        for name, sender, step, body in happened.heard:
            message = DialogueMessage(sender, step, body, None, self.info.number)
            said += _sayable(name, self.dialogues[name].receive(message))
        for name, summary in happened.named.items():
            said += _sayable(name, self.dialogues[name].concluded(summary))
        for name, dialogue in self.dialogues.items():
            said += _sayable(name, dialogue.tick(float(happened.turn)))
        return said

    @property
    def over(self) -> bool:
        """True if nothing more is to be said."""
        return all(dialogue.over for dialogue in self.dialogues.values())

    def expect_ready(self) -> None:
        """Raises RoundError: QRES-E604 where an update may not be made private yet."""
        late = sorted(name for name, each in self.dialogues.items() if not each.ready)
        if late:
            what = f"the dialogue of {late[0]} did not come to where updates may be given"
            raise RoundError.of("QRES-E604", "round", what, "none: the client sits the round out")

    def given(self) -> Happening:
        """Name of the update in the dialogues."""
        return Happening(-1, (), {name: each.given for name, each in self.dialogues.items()})

    def authentic(
        self, frames: Iterable[bytes], me: NodeId, kernel: Kernel, now: float
    ) -> tuple[Heard, ...]:
        """The messages among frames that members signed for this round; others count for nothing.

        Nor does what who may take part no more signed, for example a member that was revoked.

        Args:
            frames: as the coordinator handed them on, which is not trusted.
            me: this client, who knows what it said.
            kernel: checks signatures.
            now: this machine's clock, seconds.
        """
        found: list[Heard] = []
        for frame in frames:
            try:
                envelope = kernel.read(frame)
            except WireError:
                continue
            said = self._said(envelope)
            if said is None or envelope.sender == me or not kernel.authentic(envelope, now):
                continue
            if kernel.takes_part(envelope, now):
                found.append((said.plugin, envelope.sender, said.step, bytes(envelope.payload)))
        return tuple(found)

    def _said(self, envelope: Envelope) -> Said | None:
        said = Said.read(envelope, self.info.roster)
        here = (envelope.round, envelope.head) == (self.info.number, self.info.head)
        if not here or said is None or said.to is not None or said.plugin not in self.dialogues:
            return None
        return said


def _secret_of(secret: bytes, plugin: str) -> bytes:
    return hashlib.sha256(b"qres/hosted-secret/v1\0" + secret + plugin.encode()).digest()


def _sayable(plugin: str, sends: Iterable[object]) -> list[Saying]:
    """Messages for everybody. Accusations are the coordinator's to make."""
    found: list[Saying] = []
    for send in sends:
        if isinstance(send, Send):
            if send.to is not None:
                raise CompatibilityError((speaks(plugin),))
            found.append((plugin, send.step, send.body))
    return found
