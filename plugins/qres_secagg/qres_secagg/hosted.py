"""A session inside another framework: a coordinator hands messages on, between short processes.

The steps are those of a swarm, and so is what protects an input from whoever hands messages on:

- **The coordinator agrees for nobody.** It names a set. Each client signs that set, once, and opens
  shares when a quorum of the roster signed the same one. Two quorums have an honest client in
  common; so of two sets at most one is opened, whatever it tells whom.
- **No set is smaller than ``swarm.quorum``.** A client knows it from its own configuration. Noise
  that members share counts with so many shares.
- **A step is taken once.** What a client draws follows from a secret of the round and from all it
  was told (:mod:`qres_secagg.draws`). What it was told is on its disk before it answers, and what
  it was asked once is not asked again (:mod:`qres_hosting`).
- **For one model a client states one set**, in whatever round or run. A coordinator that asks for
  the same model again, without some of them, gets no second sum to subtract. That holds while the
  members stay: if some are added, a quorum of before and one of after may have no client in common,
  and the model must be another one. The same set again
  tells nobody apart, for groups follow from model, members and parameters; with other parameters it
  is another set.
- The coordinator sees no vector of a client but masked ones, and clients see none at all: they are
  told the hashes of the inputs.

Time is counted in turns, of which a step takes one: who did not answer in a turn is away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from qres_core import DIGEST_BYTES, NODE_ID_BYTES, Accusation, NodeId, RoundInfo, canonical
from qres_core.dialogues import DialogueMessage, HostedMemory, Send
from qres_core.errors import WireError
from qres_secagg.client import Phase
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.draws import Draws
from qres_secagg.parameters import MAX_NODES
from qres_secagg.session import DOMAIN, Session, joined, parameter_bytes

PATIENCE: Final = 1.0
"""Turns to wait for clients that may be away."""
_STATED: Final = b"stated"
_COUNTED: Final = b"counted"


class _Hosted(SecaggDialogue):
    """Common part of both ends."""

    def of(self, round_info: RoundInfo) -> SecaggDialogue | None:
        """This session, if the contributions of that round were masked in it."""
        here: Session = self.session
        made_in = (round_info.number, round_info.model_digest, round_info.head)
        return self if (here.round, here.model_digest, here.head) == made_in else None

    def concerns(self, message: DialogueMessage) -> bool:
        """True if it names this session; all that is said begins with that."""
        return message.body.startswith(self.session.sid)


class WatchedSession(_Hosted):
    """The coordinator's side: it says nothing, and sums what clients open."""

    @property
    def ready(self) -> bool:
        """True when there is a list under which clients may mask."""
        return self.board.listing is not None and not self.refusal

    def start(self) -> Sequence[Send | Accusation]:
        """Nothing: it has no keys."""
        self._observing = True
        return []

    def resume(self, memory: HostedMemory) -> None:
        """It draws nothing and remembers nothing."""
        del memory

    @property
    def given(self) -> bytes:
        """Nothing."""
        return b""

    def gave(self, name: bytes) -> None:
        """It masks nothing."""
        del name

    def summary(self) -> bytes:
        """The list, and the hash of each input that counts."""
        return _summary(self.board.list_hash, self._digests())

    def concluded(self, summary: bytes) -> Sequence[Send | Accusation]:
        """Nothing: it decided itself."""
        del summary
        return []

    @property
    def over(self) -> bool:
        """It has no secret."""
        return True


class ClientSession(_Hosted):
    """A client's side."""

    _memory: HostedMemory
    _draws: Draws
    _told: Mapping[NodeId, bytes] | None = None
    _named = b""
    least = 0
    """Fewest members of a set: ``swarm.quorum`` of this client's own configuration."""

    def resume(self, memory: HostedMemory) -> None:
        """Take up the draws and the memory of the client from here on."""
        self._memory, self._draws = memory, Draws(memory.secret)

    def start(self) -> Sequence[Send | Accusation]:
        """As :meth:`SecaggDialogue.start`."""
        with self._draws.after(b"start", self.session.sid, self._me):
            return super().start()

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        """As :meth:`SecaggDialogue.receive`."""
        step = message.step.to_bytes(1, "little")
        with self._draws.after(b"message", message.sender, step, message.body):
            return super().receive(message)

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        """As :meth:`SecaggDialogue.tick`, ``now`` in turns."""
        with self._draws.after(b"turn", str(now).encode()):
            return super().tick(now)

    @property
    def given(self) -> bytes:
        """The hash of the masked input."""
        return self._client.given

    def gave(self, name: bytes) -> None:
        """The input of this hash was masked."""
        with self._draws.after(b"gave", name):
            self._client.gave(name)

    def summary(self) -> bytes:
        """Nothing: a client decides nothing."""
        return b""

    def concluded(self, summary: bytes) -> Sequence[Send | Accusation]:
        """Take the set that the coordinator names; the first one only."""
        with self._draws.after(b"set", summary):
            if self._told is not None:
                return []
            try:
                self._named, self._told = _read(summary)
            except WireError as error:
                self.retire(str(error))
                return []
            if len(self._told) < self.least:
                # Noise and rules count with so many, whatever the coordinator says.
                self.retire(f"a set of {len(self._told)}, and swarm.quorum is {self.least}")
                return []
            self._stated = False
            self._leaders.named([self._named] * len(self._told))
            return self._settled(tuple(self._told))

    def _digests(self) -> Mapping[NodeId, bytes]:
        """As they were told, under the list that was named.

        All of them, though some may be on no list: such a set is refused. If they were left out
        here, a set of one name could be of other inputs another time.
        """
        return (self._told or {}) if self._named == self.board.list_hash else {}

    @property
    def over(self) -> bool:
        """True if its shares are open, or it takes no part any more."""
        return bool(self.refusal) or self._client.phase is Phase.DONE

    # ── what it remembers over rounds and runs ────────────────────────────────────────────────

    def may_state(self, entry: bytes) -> bool:
        """Note the set, by name, that it is about to state for the model; whether it may.

        The name covers what makes the groups: other groups of the same set are other sums.
        """
        session = self.session
        drawn = parameter_bytes(session.parameters), bytes([session.level])
        name = hashlib.sha256(joined(DOMAIN, _STATED, entry, *drawn)).digest()
        return self._memory.first(_key(_STATED, session), name) == name

    def weight_for(self, weight: int) -> int:
        """Number of times that its updates for the model count: as they did first."""
        kept = self._memory.first(_key(_COUNTED, self.session), weight.to_bytes(8, "little"))
        return int.from_bytes(kept, "little")


@attrs.frozen
class FreshHistory:
    """A :class:`~qres_secagg.client.History`: whoever keeps the session begins it once."""

    def begin(self, sid: bytes) -> bool:
        """Always: a process that plays a session again begins it again."""
        return len(sid) == DIGEST_BYTES


def _key(what: bytes, session: Session) -> bytes:
    return b"secagg/" + what + b"/" + session.model_digest


def _summary(named: bytes, digests: Mapping[NodeId, bytes]) -> bytes:
    return canonical.dumps([named, *(node + digests[node] for node in sorted(digests))])


def _read(summary: bytes) -> tuple[bytes, dict[NodeId, bytes]]:
    """The name of the list and the hashes by sender. Raises WireError."""
    value = canonical.loads(summary, max_bytes=len(summary), max_items=MAX_NODES + 2)
    if not canonical.is_list(value) or not value:
        raise WireError.of("QRES-E402", "secagg.summary", "expected a list")
    sizes = [DIGEST_BYTES, *[NODE_ID_BYTES + DIGEST_BYTES] * (len(value) - 1)]
    for octets, size in zip(value, sizes, strict=True):
        if type(octets) is not bytes or len(octets) != size:
            raise WireError.of("QRES-E404", "secagg.summary", f"expected {size} bytes")
    named, *entries = value
    found = {entry[:NODE_ID_BYTES]: entry[NODE_ID_BYTES:] for entry in entries}
    if list(found) != sorted(found) or len(found) != len(entries):
        raise WireError.of("QRES-E403", "secagg.summary", "expected senders, ascending")
    return named, found
