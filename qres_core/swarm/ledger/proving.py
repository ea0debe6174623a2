"""Proof of a fault by signed messages, to everybody with the height's roster and settings.

Two kinds of proof. *Equivocation*: two messages of one sender, of one swarm, head, round and kind,
of a kind of which a node may send one a round, that say different things. *A flawed message*: one
that no honest node would have signed, whatever it had heard. All else that a node may find wrong
rests on its own view, and is proof for nobody.

Nothing an honest node does may ever be a proof, so this rests on what an honest node does:

- It writes down what it votes, what it proposes, and that it contributes, before that leaves, and
  holds to it after a restart: one of a kind in a round of a head, or in an attempt at its outcome.
- It repeats what it said with new sequence numbers and times, and may quote other messages beside a
  set. So messages are compared by what they say, not by their bytes.
- Its decoders refuse what others refuse: another form of a payload needs another version of the
  envelope.

A contribution longer than :data:`~qres_core.swarm.ledger.misbehaviour.QUOTED_BYTES` proves nothing.
Authenticators are promised an envelope with its payload and may look at it, so a message without
its payload cannot be checked. A set names one contribution of each sender by its digest, so two of
a liar split nobody.

Who may propose an outcome follows from the set that was decided, which the proposal alone does not
show. So it is never proof that its sender was not the proposer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.wire import Envelope
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    OUTCOME_PRECOMMIT,
    OUTCOME_PREVOTE,
    OUTCOME_PROPOSAL,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    OutcomeProposal,
    Proposal,
    decode_conclusion,
    decode_vote,
)
from qres_core.swarm.ledger.misbehaviour import Misbehaviour

Says = Callable[[Envelope, int], Hashable]


@attrs.frozen
class Premises:
    """Facts that decide if messages prove a fault; the same for everybody.

    Attributes:
        swarm: name of the swarm.
        head: the head that the messages must belong to, 32 bytes.
        roster: identities of the members at that head.
        quorum: fewest members of a set.
        proposer: who may propose a set in a round, from 1; a function of head and round alone.
    """

    swarm: str
    head: bytes
    roster: Collection[NodeId]
    quorum: int
    proposer: Callable[[int], NodeId]


def _contributed(message: Envelope, nodes: int) -> Hashable:
    del nodes  # its encoding is the only one of what it says, if it can be decoded at all
    return message.payload_digest


def _proposed(message: Envelope, nodes: int) -> Hashable:
    return Proposal.from_bytes(message.payload, nodes).candidate


def _voted(message: Envelope, nodes: int) -> Hashable:
    del nodes
    return decode_vote(message.payload)


def _concluded(message: Envelope, nodes: int) -> Hashable:
    return OutcomeProposal.from_bytes(message.payload, nodes).decision


def _found(message: Envelope, nodes: int) -> Hashable:
    del nodes
    return decode_conclusion(message.payload)


SAYS: Final[Mapping[str, Says]] = MappingProxyType(
    {
        CONTRIBUTION: _contributed,
        PROPOSAL: _proposed,
        PREVOTE: _voted,
        PRECOMMIT: _voted,
        OUTCOME_PROPOSAL: _concluded,
        OUTCOME_PREVOTE: _found,
        OUTCOME_PRECOMMIT: _found,
    }
)
"""What a message says, by the kinds of which a node may send one a round. Given the number of
nodes; raises WireError for a payload that cannot be decoded."""


def conflict(first: Envelope, second: Envelope, nodes: int) -> Misbehaviour | None:
    """Two messages as equivocation, if they are that.

    Says nothing about who made them. ``nodes``: size of the roster at their head.
    """
    if _place(first) != _place(second) or first.kind not in SAYS:
        return None
    says = SAYS[first.kind]
    try:
        same = says(first, nodes) == says(second, nodes)
    except WireError:  # a fault of its own
        return None
    return None if same else Misbehaviour.of(Fault.EQUIVOCATION, first, second)


def _place(message: Envelope) -> tuple[object, ...]:
    return message.swarm, message.head, message.sender, message.kind, message.round


def flaws(message: Envelope, premises: Premises) -> tuple[Fault, ...]:
    """Faults of a message by itself; each is proven by it, if its sender made it."""
    says = SAYS.get(message.kind)
    if says is None:
        return ()
    found: list[Fault] = []
    nodes = len(premises.roster)
    is_set = message.kind == PROPOSAL
    if is_set and message.round > 0 and premises.proposer(message.round) != message.sender:
        found.append(Fault.NOT_THE_PROPOSER)
    try:
        if not is_set:
            says(message, nodes)
        else:
            proposal = Proposal.from_bytes(message.payload, nodes)
            found += set_flaws(proposal, message.round, premises.roster, premises.quorum)
    except WireError:
        found.append(Fault.MALFORMED_PAYLOAD)
    return tuple(found)


def set_flaws(
    proposal: Proposal, number: int, roster: Collection[NodeId], quorum: int
) -> tuple[Fault, ...]:
    """Faults of a proposed set, whoever looks at it; the first is the one to report.

    ``number``: the round it is proposed in; ``roster`` and ``quorum``: of its head. Whether the
    quoted votes prove the lock is not looked at.
    """
    candidate, lock_round = proposal.candidate, proposal.lock_round
    found: list[Fault] = []
    if len(candidate.members) < quorum:
        found.append(Fault.SET_BELOW_QUORUM)
    members = frozenset(roster)
    if any(member.sender not in members for member in candidate.members):
        found.append(Fault.SET_NAMES_STRANGER)
    fresh = lock_round == 0
    if candidate.origin != number if fresh else not candidate.origin <= lock_round < number:
        found.append(Fault.SET_OF_OTHER_ROUND)
    return tuple(found)


def proves(item: Misbehaviour, premises: Premises, authentic: Callable[[Envelope], bool]) -> bool:
    """True if the messages prove the fault to everybody.

    Args:
        item: whatever came.
        premises: of the head that the messages belong to.
        authentic: whether a message's sender made it; asked last, and twice at most.

    Messages without an authenticator prove nothing, whatever ``authentic`` says: where plugins let
    them pass, anybody can speak for anybody.

    Complexity: decodes each message once, O(its bytes); two signatures at most.
    """
    if item.subject not in premises.roster:
        return False
    if any((m.swarm, m.head) != (premises.swarm, premises.head) for m in item.messages):
        return False
    if item.fault is Fault.EQUIVOCATION:
        first, second = item.messages
        shown = conflict(first, second, len(premises.roster)) is not None
    else:
        shown = item.fault in flaws(item.messages[0], premises)
    return shown and all(message.auth and authentic(message) for message in item.messages)
