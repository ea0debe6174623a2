"""Whether what a peer sends is proven: a proposal, a decision, a model.

Every function looks at a message's content alone; who sent it, the kernel has checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import FULL_STANDING, model_digest
from qres_core.contract.wire import Envelope
from qres_core.swarm.agreement import is_quorum
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.messages import (
    DIGEST,
    PRECOMMIT,
    PREVOTE,
    CandidateSet,
    Certificate,
    Proposal,
    Snapshot,
    decode_digest,
    decode_vote,
)


def proposal_flaw(
    seat: NodeContext, position: Position, proposal: Proposal, digest: bytes, now: float
) -> Fault | None:
    """Why a proposal for the current round is not taken; ``None`` if it is.

    Args:
        seat: this node's.
        position: this node's.
        proposal: what is proposed.
        digest: of the proposed set.
        now: this node's clock, seconds.
    """
    candidate, number = proposal.candidate, position.number
    if len(candidate.members) < seat.swarm.quorum:
        return Fault.SET_BELOW_QUORUM
    roster = set(seat.roster)
    if any(member.sender not in roster for member in candidate.members):
        return Fault.SET_NAMES_STRANGER
    if proposal.lock_round == 0:
        return (
            standings_flaw(seat, candidate)
            if candidate.origin == number
            else Fault.SET_OF_OTHER_ROUND
        )
    if not candidate.origin <= proposal.lock_round < number:
        return Fault.SET_OF_OTHER_ROUND
    votes, lock_round = proposal.prevotes, proposal.lock_round
    proven = _quorum_votes(seat, position, votes, PREVOTE, lock_round, digest, now)
    return None if proven else Fault.UNPROVEN_LOCK


def standings_flaw(seat: NodeContext, candidate: CandidateSet) -> Fault | None:
    """What is wrong with the standings of a fresh set, as this node sees its members."""
    kernel = seat.kernel
    tolerance = int(seat.swarm.standing_tolerance * FULL_STANDING)
    exact = not kernel.has("reputation")
    # A proposer that screens may let an update count less, as it may leave it out altogether.
    lower = FULL_STANDING if kernel.has("screen") else 0
    for member in candidate.members:
        own = kernel.standing(member.sender)
        if own.banned:
            return Fault.SET_NAMES_BANNED
        bent = member.standing - own.weight
        least = -max(lower, 0 if exact else tolerance)
        if not least <= bent <= (0 if exact else tolerance):
            return Fault.STANDING_BENT
    return None


def is_decided(
    seat: NodeContext, position: Position, certificate: Certificate, digest: bytes, now: float
) -> bool:
    """Whether a quorum precommitted to the set of that digest, for the node's model."""
    votes = certificate.precommits
    return _quorum_votes(seat, position, votes, PRECOMMIT, certificate.round, digest, now)


def _quorum_votes(
    seat: NodeContext,
    position: Position,
    votes: tuple[Envelope, ...],
    kind: str,
    round_number: int,
    digest: bytes,
    now: float,
) -> bool:
    model = position.model_digest
    return is_quorum(
        votes, seat.threshold, kind=kind, round_number=round_number, model=model
    ) and all(_is_for(seat, vote, digest, now) for vote in votes)


def _is_for(seat: NodeContext, vote: Envelope, digest: bytes, now: float) -> bool:
    try:
        return decode_vote(vote.payload) == digest and seat.kernel.authentic(vote, now)
    except WireError:
        return False


def is_vouched(seat: NodeContext, snapshot: Snapshot, now: float) -> bool:
    """Whether enough nodes vouch that the snapshot's model followed on one and the same model.

    Raises:
        WireError: QRES-E404 for a voucher that is none.
    """
    vouchers: Sequence[Envelope] = snapshot.vouchers
    digest = model_digest(snapshot.vector, snapshot.step)
    senders = {voucher.sender for voucher in vouchers}
    return (
        len(senders) == len(vouchers) >= seat.vouched
        and len({voucher.model_digest for voucher in vouchers}) == 1
        and all(voucher.kind == DIGEST for voucher in vouchers)
        and all(decode_digest(voucher.payload) == digest for voucher in vouchers)
        and all(seat.kernel.authentic(voucher, now) for voucher in vouchers)
    )
