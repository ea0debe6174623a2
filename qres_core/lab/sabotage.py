"""Attacks on the protocol: what a liar injects into the network beside its contribution.

An attack of :mod:`qres_core.lab.attacks` lies in what it contributes; one of these replays, forges,
impersonates, equivocates or floods. The simulator counts how many of the injected messages honest
nodes admitted and why the others were refused, so that a run without a plugin and one with it show
what the plugin does. An attack may also keep messages back, see :class:`Withholder`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar, runtime_checkable

import attrs
import numpy as np

from qres_core.contract import packing
from qres_core.contract.errors import WireError
from qres_core.contract.fixed import LIMIT
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import FULL_STANDING, NodeId, Update, Vector, model_digest
from qres_core.contract.wire import Envelope
from qres_core.lab.frames import opened
from qres_core.swarm.chain import Head, Link, encode_links
from qres_core.swarm.messages import (
    CONTRIBUTION,
    DIALOGUE,
    LINKS,
    MODEL,
    OUTCOME_PRECOMMIT,
    PRECOMMIT,
    PREVOTE,
    RELAYED,
    CandidateSet,
    Member,
    encode_conclusion,
    encode_contribution,
    encode_model,
    encode_vote,
)
from qres_core.swarm.results import Merged

MAX_HEARD: Final = 2048
"""Frames an attacker remembers."""
_LARGEST: Final = 2**40


@attrs.frozen(eq=False)
class SabotageContext:
    """What a saboteur has at the opening of a round."""

    round_info: RoundInfo  # the round
    head: Head  # of its height
    node_id: NodeId  # its own identity
    own: Update  # what honest training on its data gives
    victims: Sequence[NodeId]  # identities of the honest nodes
    heard: Sequence[bytes]  # frames of others that reached it, oldest first
    now: float  # its clock, seconds
    # signs an envelope with its own keys, whoever the envelope names
    sign: Callable[[Envelope], Envelope]
    sequence: Callable[[], int]  # the next free sequence number for messages of its own
    rng: np.random.Generator  # its randomness

    def envelope(self, sender: NodeId, kind: str, payload: bytes) -> Envelope:
        """A message of this round in somebody's name, not yet signed."""
        info = self.round_info
        return Envelope(
            info.swarm,
            kind,
            info.number,
            info.head,
            sender,
            self.sequence(),
            int(self.now * 1000),
            payload,
        )

    def poison(self, factor: float) -> bytes:
        """A well-formed contribution that pulls the model ``factor`` times its own update."""
        return encode_contribution(1, packing.pack(self.pulled(factor)), {})

    def pulled(self, factor: float) -> Vector:
        """Its own update ``factor`` times, int32, shape ``(d,)``."""
        longer = np.rint(factor * self.own.vector.astype(np.float64))
        return np.clip(longer, -LIMIT, LIMIT).astype(np.int32)


@attrs.frozen
class Injection:
    """A frame put into the network."""

    frame: bytes  # the bytes
    to: NodeId | None = None  # who gets it, or ``None`` for everybody


class Saboteur(Protocol):
    """Injects frames at the opening of each round."""

    @property
    def contributes(self) -> bool:
        """Whether the attacker also sends its honest contribution."""
        ...

    @property
    def credentials(self) -> bool:
        """Whether the attacker runs the plugins that show credentials."""
        ...

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """The frames to inject."""
        ...


@attrs.frozen
class Outgoing:
    """A message that an attacker is about to send to one node."""

    kind: str  # of the message
    round: int  # its number
    nodes: int  # members of the swarm
    place: int  # of the receiver among the members, by ascending identity, from 0
    accomplice_proposes: bool = False  # whether an attacker is the one who may propose in the round

    @property
    def to_proposer(self) -> bool:
        """Whether the receiver is the first that may propose in the round."""
        return self.place == self.round % self.nodes

    @property
    def votes_on_set(self) -> bool:
        """Whether it is a vote on which contributions are merged."""
        return self.kind in {PREVOTE, PRECOMMIT}

    @property
    def of_dialogue(self) -> bool:
        """Whether it is what a plugin of some node says in a dialogue, first-hand or relayed."""
        return self.kind.startswith(DIALOGUE) or self.kind == RELAYED


@runtime_checkable
class Withholder(Protocol):
    """A saboteur that sends some of its own messages to some nodes only."""

    def withholds(self, message: Outgoing) -> bool:
        """Whether the receiver is not to get a message."""
        ...


@attrs.frozen
class RegisteredSabotage:
    """A sabotage in the registry: name, one line, and how to make it."""

    name: str
    summary: str
    make: Callable[[], Saboteur]


SABOTAGE: Final[dict[str, RegisteredSabotage]] = {}
S = TypeVar("S", bound=type[Saboteur])


def register(name: str, summary: str) -> Callable[[S], S]:
    """Class decorator: add a sabotage whose constructor takes no arguments."""

    def add(kind: S) -> S:
        SABOTAGE[name] = RegisteredSabotage(name, summary, kind)
        return kind

    return add


def _parsed(frames: Sequence[bytes]) -> list[Envelope]:
    envelopes: list[Envelope] = []
    for frame in frames:
        try:
            envelopes.append(opened(frame, _LARGEST))
        except WireError:
            continue
    return envelopes


@register("replay", "re-sends a hundred messages of others that it heard")
@attrs.frozen
class ReplayMessages:
    """Messages that were genuine once, again."""

    contributes: bool = True
    credentials: bool = True
    count: int = 100

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Re-send a random choice of what was heard."""
        if not context.heard:
            return ()
        chosen = context.rng.integers(len(context.heard), size=self.count)
        return [Injection(context.heard[int(index)]) for index in chosen]


@register("forge", "contributes poison in every honest node's name, with made-up authenticators")
@attrs.frozen
class Forge:
    """Messages that claim to be an honest node's, with random authenticators of the right size."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """One poisoned contribution for each victim, before its own is out."""
        shapes: dict[str, int] = {}
        for envelope in _parsed(context.heard[-8:]):
            shapes.update({name: len(octets) for name, octets in envelope.auth.items()})
        injections: list[Injection] = []
        for victim in context.victims:
            forged = context.envelope(victim, CONTRIBUTION, context.poison(-20.0))
            auth = {name: context.rng.bytes(size) for name, size in shapes.items()}
            injections.append(Injection(forged.with_auth(auth).to_bytes()))
        return injections


@register("impersonate", "contributes poison in every honest node's name, signed by its own key")
@attrs.frozen
class Impersonate:
    """Messages that claim to be an honest node's and carry the attacker's genuine signature."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """One poisoned contribution for each victim, before its own is out."""
        return [
            Injection(
                context.sign(
                    context.envelope(victim, CONTRIBUTION, context.poison(-20.0))
                ).to_bytes()
            )
            for victim in context.victims
        ]


@register("unauthorized", "contributes poison without showing any credential")
@attrs.frozen
class Unauthorized:
    """A node with a key of its own that nobody admitted."""

    contributes: bool = False
    credentials: bool = False

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """A poisoned contribution in its own name."""
        poison = context.envelope(context.node_id, CONTRIBUTION, context.poison(-20.0))
        return [Injection(context.sign(poison).to_bytes())]


@register("equivocate", "sends one contribution to half of the nodes and another to the rest")
@attrs.frozen
class Equivocate:
    """Two signed contributions for one round."""

    contributes: bool = False
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Split the swarm."""
        frames = [
            context.sign(
                context.envelope(context.node_id, CONTRIBUTION, context.poison(factor))
            ).to_bytes()
            for factor in (1.0, -20.0)
        ]
        return [
            Injection(frames[index % 2], victim) for index, victim in enumerate(context.victims)
        ]


@register("flood", "sends three hundred signed messages of no known kind")
@attrs.frozen
class Flood:
    """Genuine, new, useless messages."""

    contributes: bool = True
    credentials: bool = True
    count: int = 300

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Keep everybody busy."""
        return [
            Injection(
                context.sign(
                    context.envelope(context.node_id, "noise", context.rng.bytes(64))
                ).to_bytes()
            )
            for _message in range(self.count)
        ]


@register("sybil", "contributes poison from ten made-up identities, signed by its own key")
@attrs.frozen
class Sybil:
    """One attacker under many names that nobody put into the roster."""

    contributes: bool = True
    credentials: bool = True
    count: int = 10

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """As many votes as names, if names were free."""
        poison = context.poison(-20.0)
        return [
            Injection(
                context.sign(
                    context.envelope(context.rng.bytes(32), CONTRIBUTION, poison)
                ).to_bytes()
            )
            for _name in range(self.count)
        ]


@register("double_vote", "votes for two made-up sets in every round, signed by its own key")
@attrs.frozen
class DoubleVote:
    """Two signed votes for one decision: what no honest node says, and anybody can prove."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Both votes to everybody."""
        votes = [
            context.envelope(context.node_id, PREVOTE, encode_vote(context.rng.bytes(32)))
            for _set in range(2)
        ]
        return [Injection(context.sign(vote).to_bytes()) for vote in votes]


@register("history", "tells of a height that nobody decided, and hands over the model it made")
@attrs.frozen
class MadeUpHistory:
    """A link of the chain with votes in the names of all honest nodes, signed by its own key."""

    contributes: bool = True
    credentials: bool = True

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """A height that ends at once, in the attacker's model."""
        number, head = context.round_info.number, context.head
        model = context.pulled(-20.0)
        members = tuple(
            Member(victim, context.rng.bytes(32), FULL_STANDING)
            for victim in sorted(context.victims)
        )
        chosen, result = CandidateSet(number, members), Merged(model_digest(model, head.step + 1))
        payload = encode_conclusion(Link(head, chosen, result, number, ()).decision)
        votes = tuple(
            context.sign(context.envelope(victim, OUTCOME_PRECOMMIT, payload))
            for victim in sorted(context.victims)
        )
        told = encode_links([Link(head, chosen, result, number, votes)])
        return [
            Injection(context.sign(context.envelope(context.node_id, *said)).to_bytes())
            for said in ((LINKS, told), (MODEL, encode_model(model)))
        ]


@register("withhold", "says what its plugins say only to the node that may propose first")
@attrs.frozen
class Withhold:
    """A node that is alive and lets some nodes wait: it relays nothing of the others either."""

    contributes: bool = True
    credentials: bool = True
    # whom it tells what plugins say in dialogues
    tells: Callable[[Outgoing], bool] = operator.attrgetter("to_proposer")

    def act(self, context: SabotageContext) -> Sequence[Injection]:
        """Nothing: it sends less than the others, and not more."""
        del context
        return ()

    def withholds(self, message: Outgoing) -> bool:
        """See :meth:`Withholder.withholds`."""
        return message.of_dialogue and not self.tells(message)
