"""The attacks on the protocol that come with the laboratory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from qres_core.attacks.carried import opened
from qres_core.attacks.sabotage import Injection, Outgoing, SabotageContext, register
from qres_core.contract.errors import WireError
from qres_core.contract.types import FULL_STANDING, model_digest
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.chain import Link, encode_links
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    LINKS,
    MODEL,
    OUTCOME_PRECOMMIT,
    PREVOTE,
    CandidateSet,
    Member,
    encode_conclusion,
    encode_model,
    encode_vote,
)
from qres_core.swarm.ledger.results import Merged

_LARGEST: Final = 2**40


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
        """See :meth:`~qres_core.attacks.sabotage.Withholder.withholds`."""
        return message.of_dialogue and not self.tells(message)
