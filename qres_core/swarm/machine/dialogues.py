"""The plugins' dialogues of a round: messages out, messages in, and lost ones back.

A dialogue's message is sent once. Nodes find out what was lost, or never sent to some of them, by
comparing: at a pace a node tells a few others, in turn, the names of the messages it holds. A node
that is told so sends what is missing there, quoted as it was signed. If it lacks something itself,
it answers with its own names. So a message reaches every node that talks to one that holds it,
whatever became of its author. Nodes do not hand on what is addressed to another: author and
receiver settle that between them.

The messages of the last rounds stay, for nodes that are still there, and for a set that is agreed
on in a later round than it was made in. Then the messages of its round are given to the dialogues
too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Final

from qres_core.contract.dialogue import Dialogue, DialogueMessage, Send
from qres_core.contract.errors import WireError
from qres_core.contract.evidence import Accusation
from qres_core.contract.faults import Fault, is_own_id, raised
from qres_core.contract.rounds import OwnContributions, RoundInfo
from qres_core.contract.types import Contribution, NodeId
from qres_core.contract.verdict import ACCEPT, Blame
from qres_core.contract.wire import ENVELOPE_OVERHEAD, Envelope
from qres_core.kernel.guard import guarded
from qres_core.swarm.context.effects import Refused
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.ledger.messages import (
    HOLDING,
    MAX_RELAYED,
    RELAY_BYTES,
    RELAYED,
    decode_holding,
    decode_relayed,
    encode_holding,
    encode_relayed,
)
from qres_core.swarm.storage.dialogue_log import DialogueLog, Said, dialogue_kind

KEPT_ROUNDS: Final = 4
"""Rounds before the current one of which the messages are kept."""
ASKED: Final = 2
"""Nodes told at once what this one holds, each time others."""
MAX_UNCONFIRMED: Final = 8
"""Nodes told beside them because they have not confirmed what was addressed to them."""
MAX_RELAYS: Final = 4
"""``relayed`` messages that answer one ``holding``."""
MAX_REPEATED: Final = 4
"""Times the bytes of an author's messages of a round that one node is sent in all."""
SMALL: Final = 4096
"""Bytes of messages of an author that count as so many, because networks lose frames."""


class Dialogues:
    """Dialogues of the plugins in the current round."""

    def __init__(self, speaker: Speaker) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._speaker, self._outlet = speaker, speaker.outlet
        self._by_plugin: Mapping[str, Dialogue] = {}
        self._logs: dict[int, DialogueLog] = {}  # by round, ascending
        self._origin = 0  # of the agreed set
        self._reset(0.0)

    def _reset(self, now: float) -> None:
        self._rank = {node: rank for rank, node in enumerate(self._context.roster)}
        self._peers = [node for node in self._rank if node != self._context.node_id]
        self._agreed = False
        self._turn = self._rank.get(self._context.node_id, 0)
        self._pause = self._least_pause
        self._tell_at = now + self._pause
        self._told: dict[NodeId, float] = {}  # when a node was told last what this one holds
        self._awaited: Counter[NodeId] = Counter()  # relays that may come as answers to that
        self._sent: Counter[tuple[NodeId, NodeId]] = Counter()  # bytes relayed, and whose
        self._unconfirmed: dict[NodeId, set[bytes]] = {}  # what was addressed to a node

    @property
    def _least_pause(self) -> float:
        return self._context.swarm.vote_timeout / 4

    def __bool__(self) -> bool:
        return bool(self._by_plugin)

    def open_round(
        self, info: RoundInfo, contributed: OwnContributions, now: float, *, speak: bool = True
    ) -> None:
        """Open the round with the plugins and start what they want to talk about.

        ``contributed``: what the node knows of its contributions so far; ``speak``: whether
        anything is started. Raises QresError: a plugin refuses the round.
        """
        self._by_plugin = {}
        self._reset(now)
        self._origin = info.number
        self._logs[info.number] = self._log_of(info.number, info.head)
        for number in sorted(self._logs)[: -KEPT_ROUNDS - 1]:
            del self._logs[number]
        self._by_plugin = self._context.kernel.round_opened(info, contributed)
        for plugin, dialogue in self._by_plugin.items() if speak else ():
            self._send(plugin, dialogue.start(), now)

    def _log_of(self, number: int, head: bytes) -> DialogueLog:
        return DialogueLog(head, number, len(self._context.roster))

    @property
    def ready(self) -> bool:
        """True if updates may be made private."""
        return all(dialogue.ready for dialogue in self._by_plugin.values())

    @property
    def finished(self) -> bool:
        """True if updates may be revealed."""
        return all(dialogue.finished for dialogue in self._by_plugin.values())

    def tick(self, now: float) -> None:
        """The clock is at ``now`` seconds."""
        for plugin, dialogue in self._by_plugin.items():
            self._hear(plugin, partial(dialogue.tick, now), now)
        if self._by_plugin and now >= self._tell_at:
            waiting = not (self.finished if self._agreed else self.ready)
            if not waiting:
                self._pause = min(2 * self._pause, 2 * self._context.swarm.vote_timeout)
            self._tell_at = now + self._pause
            self._tell_some(now)

    # ── from one node to another ──────────────────────────────────────────────────────────────

    def take(self, envelope: Envelope, now: float) -> None:
        """Take a message of a dialogue of the current round from its author."""
        said = Said.read(envelope, self._context.roster)
        if said is None or said.plugin not in self._by_plugin:
            self._outlet.refuse(envelope, Fault.UNKNOWN_DIALOGUE, Blame.SENDER)
        elif said.to not in (None, self._context.node_id):
            self._outlet.refuse(envelope, Fault.ADDRESSED_TO_ANOTHER, Blame.NOBODY)
        else:
            self._keep(said, self._logs[self._position.number], now)

    def compare(self, envelope: Envelope, now: float) -> None:
        """Take a ``holding`` or a ``relayed`` message. Raises WireError: QRES-E401 to QRES-E404."""
        if envelope.kind == HOLDING:
            self._on_holding(envelope, now)
        else:
            self._on_relayed(envelope, now)

    def _on_holding(self, envelope: Envelope, now: float) -> None:
        """Send a node what it lacks of a round, and tell it what this one holds if that is less."""
        log, peer = self._logs.get(envelope.round), envelope.sender
        if log is None or not log.is_of(envelope):
            return
        theirs = decode_holding(envelope.payload, log.nodes)
        shared = log.shared(self._context.node_id, peer)
        self._relay(peer, log, [said for said in shared if said.id not in theirs], now)
        if log.number not in (self._position.number, self._origin) or not self._by_plugin:
            return
        self._unconfirmed.get(peer, set()).difference_update(theirs)
        confirms = any(said.id in theirs and said.to is not None for said in shared)
        lacks = not theirs <= {said.id for said in shared}
        again = now >= self._told.get(peer, -math.inf) + self._least_pause
        if again and (lacks or confirms):
            self._tell(peer, now)

    def _on_relayed(self, envelope: Envelope, now: float) -> None:
        """Take what a node sends that was told what this one holds."""
        kernel, log, peer = self._context.kernel, self._logs.get(envelope.round), envelope.sender
        wanted = (self._position.number, self._origin)
        if log is None or not log.is_of(envelope) or log.number not in wanted:
            return  # late
        if not self._by_plugin or self._awaited[peer] <= 0:
            return  # a node that was started again has forgotten whom it told
        self._awaited[peer] -= 1
        proven = True
        for quoted in decode_relayed(envelope.payload, len(self._context.roster)):
            said = Said.read(quoted, self._context.roster)
            if said is None or not self._is_for_us(said, log, peer):
                proven = False
            elif said.id not in log and said.plugin in self._by_plugin:
                verdict = kernel.quoted(said.envelope, now)
                if verdict is not ACCEPT:
                    # A clock or a list of revoked certificates decided otherwise elsewhere: who
                    # hands on in good faith what an author says to it alone must not pay for that.
                    proven &= verdict.blame is Blame.NOBODY or kernel.is_of_old_key(said.envelope)
                elif kernel.takes_part(said.envelope, now) and self._keep(said, log, now):
                    self._pause = self._least_pause  # more may be missing
        if not proven:
            self._outlet.refuse(envelope, Fault.UNPROVEN_DIALOGUE_MESSAGE, Blame.SENDER)

    def _is_for_us(self, said: Said, log: DialogueLog, peer: NodeId) -> bool:
        own, envelope = self._context.node_id, said.envelope
        pairs = ((peer, own), (own, peer))
        return log.is_of(envelope) and (said.to is None or (envelope.sender, said.to) in pairs)

    def _keep(self, said: Said, log: DialogueLog, now: float) -> bool:
        """Keep a message and give it to its dialogue, if it is new."""
        if said.id in log:
            return False
        if not log.add(said):
            self._outlet.refuse(said.envelope, Fault.TOO_MANY_DIALOGUE_MESSAGES, Blame.SENDER)
            return False
        if said.to in (None, self._context.node_id):  # else this node said it, and forgot it
            self._give(said, now)
        return True

    def _give(self, said: Said, now: float) -> None:
        receive = self._by_plugin[said.plugin].receive
        self._hear(said.plugin, partial(receive, self._arrived(said, now)), now, said.envelope)

    def _hear(
        self,
        plugin: str,
        say: Callable[[], Sequence[Send | Accusation]],
        now: float,
        about: Envelope | None = None,
    ) -> None:
        """Send a dialogue's messages; none if it raises, over a message or otherwise."""
        try:
            sends = guarded(lambda: tuple(say()))()
        except Exception as error:  # noqa: BLE001 - a dialogue must not fall over what peers sent
            what = raised("dialogue", error)
            if about is None:
                self._disown(plugin, what)
            else:
                self._outlet.refuse(about, what, Blame.NOBODY, plugin)
        else:
            self._send(plugin, sends, now)

    def _arrived(self, said: Said, now: float) -> DialogueMessage:
        def authentic(quoted: Envelope) -> bool:
            return self._context.kernel.authentic(quoted, now)

        return said.arrived(self._context.roster, authentic)

    # ── asking and answering ──────────────────────────────────────────────────────────────────

    def _tell_some(self, now: float) -> None:
        """Tell some nodes what this one holds: each in its turn, and whoever owes an answer."""
        owing = [peer for peer in self._peers if self._unconfirmed.get(peer)]
        first = self._turn % len(owing) if owing else 0
        chosen = dict.fromkeys((owing[first:] + owing[:first])[:MAX_UNCONFIRMED])
        for step in range(min(ASKED, len(self._peers))):
            chosen[self._peers[(self._turn + step) % len(self._peers)]] = None
        self._turn += ASKED
        for peer in chosen:
            self._tell(peer, now)

    def _tell(self, peer: NodeId, now: float) -> None:
        self._told[peer] = now
        for number in sorted({self._position.number, self._origin}):
            log = self._logs[number]
            names = (said.id for said in log.shared(self._context.node_id, peer))
            self._awaited[peer] = MAX_RELAYS * (1 + (number != self._origin))
            payload = encode_holding(names)
            told = self._speaker.make(HOLDING, payload, now, round_number=number, head=log.head)
            self._speaker.send(peer, told)

    def _relay(self, peer: NodeId, log: DialogueLog, lacking: Sequence[Said], now: float) -> None:
        most = self._context.swarm.max_message_bytes
        fitting = min(RELAY_BYTES, most - ENVELOPE_OVERHEAD)
        for frames in islice(_bundles(self._due(peer, log, lacking), fitting), MAX_RELAYS):
            relayed = self._speaker.make(
                RELAYED,
                encode_relayed([said.envelope.to_bytes() for said in frames]),
                now,
                round_number=log.number,
                head=log.head,
            )
            for said in frames:
                self._sent[peer, said.envelope.sender] += len(said.envelope.to_bytes())
            if len(relayed.to_bytes()) <= most:
                self._speaker.send(peer, relayed)

    def _due(self, peer: NodeId, log: DialogueLog, lacking: Sequence[Said]) -> list[Said]:
        """Messages that a node lacks, in order: first of the authors of whom least was sent to it.

        A node never takes all of what an author says that says too much. Neither the order nor the
        bound of one author's bytes may depend on how much another says.
        """
        sent = Counter({author: self._sent[peer, author] for author in self._context.roster})
        ranked: list[tuple[int, Said]] = []
        for said in lacking:
            author = said.envelope.sender
            sent[author] += len(said.envelope.to_bytes())
            if sent[author] <= MAX_REPEATED * max(log.size_of(author), SMALL):
                ranked.append((sent[author], said))
        return [said for _, said in sorted(ranked, key=itemgetter(0))]

    # ── what is agreed ────────────────────────────────────────────────────────────────────────

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        info: RoundInfo,
        now: float,
    ) -> None:
        """Tell all of the set that is agreed on, and of the round it was made in."""
        self._agreed = True
        self._pause = self._least_pause
        self._tell_at = now + self._pause
        for plugin, dialogue in self._by_plugin.items():
            self._hear(plugin, partial(dialogue.decided, members, contributions, info), now)
        if self._by_plugin and info.number < self._position.number:
            self._origin = info.number
            log = self._logs.get(info.number)
            if log is None or log.head != info.head:  # a number may have been opened at two heads
                log = self._logs[info.number] = self._log_of(info.number, info.head)
            for said in list(log):
                if said.plugin in self._by_plugin and said.to in (None, self._context.node_id):
                    self._give(said, now)

    def close(self) -> None:
        """The round is over: its dialogues say and hear no more."""
        self._by_plugin = {}

    def _send(self, plugin: str, sends: Sequence[Send | Accusation], now: float) -> None:
        for send in sends:
            if type(send) is Accusation and type(send.fact) is str and is_own_id(send.fact):
                self._accuse(plugin, send)
            elif type(send) is not Send:
                self._disown(plugin, "dialogue-says-nothing-sayable")
            elif send.to is None or send.to in self._rank:
                self._say(plugin, send, now)

    def _disown(self, plugin: str, what: str) -> None:
        """Note an error of a plugin, which no peer is to pay for."""
        self._context.kernel.refuse(what, Blame.NOBODY, None, plugin, self._position.number)

    def _say(self, plugin: str, send: Send, now: float) -> None:
        if send.to == self._context.node_id:
            return
        kind = dialogue_kind(plugin, send.step, None if send.to is None else self._rank[send.to])
        try:
            envelope = self._speaker.make(kind, send.body, now)
        except WireError:  # not the error of whose message is being answered
            self._disown(plugin, "dialogue-says-nothing-sayable")
            return
        log = self._logs[self._position.number]
        said = Said.read(envelope, self._context.roster)
        if said is None or (said.id not in log and not log.add(said)):
            self._disown(plugin, "said-too-much")
        elif send.to is None:
            self._speaker.send_all(envelope)
        else:
            self._unconfirmed.setdefault(send.to, set()).add(said.id)
            self._speaker.send(send.to, envelope)

    def _accuse(self, plugin: str, accusation: Accusation) -> None:
        subject = accusation.subject
        if subject not in self._context.roster or subject == self._context.node_id:
            return
        number = self._position.number
        made = self._context.kernel.refuse(accusation.fact, Blame.SENDER, subject, plugin, number)
        self._outlet.put(Refused(number, subject, made.reason))


def _bundles(lacking: Iterable[Said], most: int) -> Iterator[list[Said]]:
    """Messages, so many together as one ``relayed`` message is to quote: one, or up to ``most``."""
    bundle: list[Said] = []
    size = 0
    for said in lacking:
        octets = len(said.envelope.to_bytes())
        if bundle and (size + octets > most or len(bundle) == MAX_RELAYED):
            yield bundle
            bundle, size = [], 0
        bundle.append(said)
        size += octets
    if bundle:
        yield bundle
