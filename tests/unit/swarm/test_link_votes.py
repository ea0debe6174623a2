"""Links prove what a quorum decided, and nothing that a liar hangs on them gets further."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from qres_lab.testing import make_node_ids

from qres_core import Envelope, NodeId
from qres_core.swarm.ledger.chain import Head, Link, follow
from qres_core.swarm.ledger.messages import (
    OUTCOME_PRECOMMIT,
    OUTCOME_PREVOTE,
    CandidateSet,
    Member,
    encode_conclusion,
)
from qres_core.swarm.ledger.results import Conclusion, Merged, Void
from qres_core.swarm.ledger.roster import Roster

IDS = tuple(sorted(make_node_ids(7)))
ROSTER = Roster(IDS[:4], 1, 3)
FIRST = Head.first("ward", b"m" * 32, ROSTER, b"s" * 32)
NEWCOMER = IDS[4]


def authentic(vote: Envelope, members: tuple[NodeId, ...]) -> bool:
    return vote.sender in members and vote.auth == {"key": vote.sender}


def vote(link: Link, sender: NodeId, **changed: Any) -> Envelope:
    fields: dict[str, Any] = {
        "swarm": link.head.swarm,
        "kind": OUTCOME_PRECOMMIT,
        "round": link.round,
        "head": link.head.digest,
        "sender": sender,
        "sequence": 1,
        "time_ms": 1,
        "payload": encode_conclusion(link.decision),
        "auth": {"key": sender},
        **changed,
    }
    return Envelope(**fields)


def decided(head: Head = FIRST, by: tuple[NodeId, ...] = (), *, add: NodeId | None = None) -> Link:
    change = None if add is None else head.roster.change(head.swarm, "add", add)
    members = tuple(Member(member, bytes(32)) for member in head.roster.members)
    chosen = CandidateSet(head.height + 1, members, (), change)
    link = Link(head, chosen, Merged(b"n" * 32), 2, ())
    voters = by or head.roster.members[: head.roster.threshold]
    return attrs.evolve(link, precommits=tuple(vote(link, sender) for sender in voters))


LINK = decided()


def test_the_votes_of_a_quorum_prove_a_link() -> None:
    assert LINK.holds(authentic)
    assert decided(by=IDS[:4]).holds(authentic)
    assert not decided(by=IDS[:2]).holds(authentic)


@pytest.mark.parametrize(
    "wrong",
    [
        vote(LINK, IDS[2], swarm="other"),
        vote(LINK, IDS[2], kind=OUTCOME_PREVOTE),
        vote(LINK, IDS[2], round=1),
        vote(LINK, IDS[2], head=b"h" * 32),
        vote(LINK, NEWCOMER),
        vote(LINK, IDS[1], sequence=9),
        vote(LINK, IDS[2], auth={"key": IDS[1]}),
        vote(LINK, IDS[2], auth={}),
        vote(LINK, IDS[2], payload=encode_conclusion(None)),
        vote(LINK, IDS[2], payload=encode_conclusion(Conclusion(b"x" * 32, LINK.result))),
        vote(LINK, IDS[2], payload=encode_conclusion(attrs.evolve(LINK.decision, result=Void("")))),
    ],
)
def test_another_vote_does_not_count_and_does_not_travel_on(wrong: Envelope) -> None:
    """The control: with a vote more the link holds, and the wrong one is left out."""
    two = LINK.precommits[:2]
    assert not attrs.evolve(LINK, precommits=(*two, wrong)).holds(authentic)
    whole = attrs.evolve(LINK, precommits=(*reversed(two), wrong, vote(LINK, IDS[3])))
    proven = whole.proven(authentic)
    assert proven is not None
    assert [item.sender for item in proven.precommits] == [IDS[0], IDS[1], IDS[3]]
    assert wrong not in proven.precommits
    assert proven.next == LINK.next


def test_a_banned_member_does_not_decide() -> None:
    head = attrs.evolve(FIRST, bans=(IDS[0],))
    assert not decided(head).holds(authentic)
    assert decided(head, IDS[1:4]).holds(authentic)


def test_links_lead_from_the_members_that_are_known_to_those_of_now() -> None:
    grown = decided(add=NEWCOMER)
    after = grown.next
    assert after.roster.members == IDS[:5]
    later = decided(attrs.evolve(after, height=70, step=9), IDS[1:5])  # heights are left out
    assert follow(ROSTER, (grown, later), authentic) == (grown, later)
    hung = [
        attrs.evolve(link, precommits=(*link.precommits, vote(link, IDS[5])))
        for link in (grown, later)
    ]
    for link, proven in zip((grown, later), follow(ROSTER, hung, authentic), strict=True):
        assert proven.precommits == link.precommits, "of no link does it travel on"
    assert not follow(ROSTER, (later,), authentic), "its members are not known"
    assert not follow(ROSTER, (later, grown), authentic)
    assert not follow(ROSTER, (), authentic)
    forged = attrs.evolve(later, precommits=tuple(vote(later, sender) for sender in IDS[:2]))
    assert not follow(ROSTER, (grown, forged), authentic)
