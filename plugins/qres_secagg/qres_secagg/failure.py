"""Refusals by the protocol: an error for what this node will not do, a fault of a peer."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from qres_core import NodeId
from qres_core.errors import Problem, RoundError


class Reason(enum.StrEnum):
    """Reason why the protocol stopped, as a stable word for tests, logs and evidence."""

    BELOW_THRESHOLD = "below-threshold"
    NO_QUORUM = "no-quorum-of-survivor-statements"
    OUT_OF_ORDER = "step-out-of-order"
    SID_REUSE = "session-taken-part-in-before"
    ON_RECORD = "sums-on-record-and-this-one-tell-few-members-apart"
    FEW_SUMS = "fewer-sums-than-the-rule-needs"
    OFF_RECORD = "set-that-this-node-stated-is-not-on-record"
    NOT_LISTED = "node-not-in-the-list"
    LACKING = "messages-the-list-names-are-lacking"
    BAD_LIST = "list-not-valid"
    OWN_INPUT = "own-masked-input-replaced"
    OTHER_SESSION = "message-of-another-session"
    MALFORMED = "message-malformed"
    ADDRESSED = "message-not-to-everybody"
    STRANGER = "not-in-the-roster"
    EQUIVOCATION = "two-messages-of-one-kind"
    BAD_KEY = "key-not-in-the-group"
    DUPLICATE_KEY = "one-key-used-twice"
    COPIED_KEY = "key-of-another-node"
    BAD_HOLDERS = "shares-dealt-to-the-wrong-nodes"
    BAD_SHARES = "dealt-shares-do-not-fit"
    FALSE_COMPLAINT = "complaint-about-shares-that-fit"
    WRONG_SHARE = "opened-share-is-not-the-one-committed-to"
    FOREIGN_SHARE = "opened-a-share-it-does-not-hold"
    BAD_DEALER = "shares-do-not-give-the-secret-committed-to"
    WRONG_INPUT = "masked-input-is-not-the-one-agreed-on"


class SecaggError(RoundError):
    """This node refuses to go on with the session; QRES-E604.

    Attributes:
        reason: which refusal it is.
        blame: nodes whose fault it is beyond doubt; often nobody's.
    """

    def __init__(self, reason: Reason, what: str, blame: Iterable[NodeId] = ()) -> None:
        super().__init__(Problem("QRES-E604", "secagg", f"{reason.replace('-', ' ')}: {what}"))
        self.reason = reason
        self.blame = tuple(blame)


@attrs.frozen
class PeerFault:
    """Fault that a peer's message proves against it, for this node."""

    subject: NodeId  # the peer
    reason: Reason  # what it did
