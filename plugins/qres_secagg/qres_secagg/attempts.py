"""A round's session, and those of earlier rounds for the same model that a set may still be of.

Rounds are attempts to leave one model. A set that is locked in one of them may be decided in a
later one, with the inputs that were masked in the earlier round's session; so that session's shares
open it, and its messages are carried in the later round. Their session id says whose they are.

What keeps this as safe as one session alone:

- **Every session is masked in once, and one set of it is stated at most,** in whatever round that
  is: the :class:`~qres_secagg.client.Client` is the same object all along. Of each node shares of
  one kind leave it.
- **Of the sessions a node has at one time, it states a set of one,** and drops the others first.
  Two quorums have an honest node in common. So of two sessions that are both opened, that node
  began the second after it had stated a set of the first: as in two rounds one after the other,
  and whoever opened shares in the first does not mask the same update in the second.
- **Secrets are in memory only.** A node that was restarted has none; it takes the messages of the
  session from the others and opens the sums with them, if enough of them are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from qres_core import Accusation, Contribution, NodeId, RoundInfo
from qres_core.dialogues import DialogueMessage, Send
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.messages import SID_BYTES
from qres_secagg.session import Session

MAX_KEPT: Final = 4
"""Earlier sessions that are kept. A lock is proposed by the next leader who knows of it."""


class Attempts:
    """A node's dialogue in a round, see :class:`qres_core.dialogues.Dialogue`.

    Args:
        own: the round's own session.
        kept: what :meth:`leave` gave for the rounds before.
        watch: makes the dialogue of a session of an earlier round, by number, that is not kept: to
            open its sums with what others say, without a secret of it.

    Attributes:
        own: the round's own session.
    """

    def __init__(
        self,
        own: SecaggDialogue,
        kept: Iterable[SecaggDialogue],
        watch: Callable[[int], SecaggDialogue],
    ) -> None:
        self.own = own
        now = own.session
        # At another head it is another height: no set of an earlier one is decided in it.
        self._earlier: dict[bytes, SecaggDialogue] = {
            item.session.sid: item
            for item in kept
            if _place(item.session) == _place(now) and item.session.round < now.round
        }
        self._watch = watch
        self._decided: SecaggDialogue | None = None

    @property
    def ready(self) -> bool:
        """True when the node may mask."""
        return self._decided in (None, self.own) and self.own.ready

    @property
    def finished(self) -> bool:
        """True when the sums of the agreed set can be opened."""
        return self._decided is not None and self._decided.finished

    def start(self) -> Sequence[Send | Accusation]:
        """Begin the round's own session; see :meth:`SecaggDialogue.start`."""
        return self.own.start()

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        """Give a message to the session it names. Never raises for what it holds."""
        return self._earlier.get(message.body[:SID_BYTES], self.own).receive(message)

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        """The clock is at ``now``, for the session that is going on."""
        return (self._decided or self.own).tick(now)

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send | Accusation]:
        """Go on with the session that the agreed set is of, and drop all others."""
        found = self.of(round_info)
        if found is None and round_info.number < self.own.session.round:
            found = self._watch(round_info.number)
        # A set of no session that can be: the own one refuses it.
        chosen = self._decided = found or self.own
        self._earlier = {} if chosen is self.own else {chosen.session.sid: chosen}
        if chosen is not self.own:
            self.own.retire(f"a set of round {round_info.number}, not of {self.own.session.round}")
        return chosen.decided(members, contributions, round_info)

    def of(self, round_info: RoundInfo) -> SecaggDialogue | None:
        """The session in which the contributions of a round were masked, if it is here."""
        for item in (self.own, *self._earlier.values()):
            session = item.session
            made_in = (round_info.number, round_info.model_digest, round_info.head)
            if (session.round, session.model_digest, session.head) == made_in:
                return item
        return None

    def leave(self) -> tuple[SecaggDialogue, ...]:
        """The round ended without a new model: what to keep, oldest first.

        That is sessions with a list, of which a set may be agreed on. Nothing is masked in them any
        more.
        """
        found = [item for item in (*self._earlier.values(), self.own) if item.may_be_opened]
        for item in found:
            item.leave()
        return tuple(found[-MAX_KEPT:])


def _place(session: Session) -> tuple[bytes, tuple[NodeId, ...], bytes]:
    """Height that a session is of."""
    return session.model_digest, session.roster, session.head
