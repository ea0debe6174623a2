"""Rosters and their changes, against a second reckoning and against any bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, TypeVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core.contract import canonical
from qres_core.contract.errors import RosterError, WireError
from qres_core.contract.wire import QUOTED_KINDS, Envelope
from qres_core.swarm.ledger.messages import CONTRIBUTION
from qres_core.swarm.ledger.proving import conflict
from qres_core.swarm.ledger.roster import (
    ACTIONS,
    CHANGE,
    MAX_CHANGE_BYTES,
    MAX_MEMBERS,
    Action,
    Roster,
    RosterChange,
    authorised,
)

SWARM = "lab"
T = TypeVar("T")


def node(index: int) -> bytes:
    return index.to_bytes(32, "big")


def roster(n: int = 4, f: int = 1, quorum: int = 3, *, first: int = 1) -> Roster:
    return Roster(tuple(node(first + place) for place in range(n)), f, quorum)


def everybody(change: RosterChange, members: Roster) -> RosterChange:
    return change.signed(signature(change, member) for member in members.members)


def signature(change: RosterChange, sender: bytes, mark: bytes = b"good") -> Envelope:
    return change.statement(sender, 5).with_auth({"test": mark})


def is_good(message: Envelope) -> bool:
    return message.auth.get("test") == b"good"


# ── rosters ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("n", "f"), [(n, f) for n in range(1, 40) for f in range((n + 2) // 3)])
def test_two_groups_that_decide_share_an_honest_member(n: int, f: int) -> None:
    found = roster(n, f, n)
    assert 2 * found.threshold - n > f
    assert 2 * (found.threshold - 1) - n <= f, "a smaller group would not do"
    honest = found.threshold - f
    assert f < honest <= n - f, "enough honest members are there, and more than liars"
    assert found.threshold <= n - f, "the honest members alone decide"


def test_members_are_found_by_rank() -> None:
    found = roster(7, 2, 5)
    assert [found.rank(member) for member in found.members] == list(range(7))
    for stranger in (node(0), node(8), b"", b"\xff" * 32):
        assert stranger not in found
        with pytest.raises(ValueError, match="no member"):
            found.rank(stranger)
    assert "text" not in found
    assert len(found) == 7


def test_the_digest_names_every_part() -> None:
    base = roster(7, 1, 5)
    others = [
        roster(7, 1, 5, first=2),
        roster(8, 1, 5),
        attrs.evolve(base, byzantine=2),
        attrs.evolve(base, quorum=6),
        attrs.evolve(base, epoch=1),
    ]
    digests = {item.digest for item in (base, *others)}
    assert len(digests) == 6
    assert all(len(digest) == 32 for digest in digests)
    assert hash(base) == hash(roster(7, 1, 5))
    assert Roster.from_raw(base.raw()) == base


def test_the_digest_of_a_roster_is_what_it_was() -> None:
    """Another digest is another head: the number of the rule must change with it."""
    known = "add33ec7087a0e124350f65bbbedc25dc966ec80ce9cf4499267c18655784f2c"
    assert roster().digest.hex() == known


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        (((), 0, 1, 0), "members"),
        (((node(2), node(1)), 0, 1, 0), "members"),
        (((node(1), node(1)), 0, 1, 0), "members"),
        (((b"short",), 0, 1, 0), "members"),
        (([node(1)], 0, 1, 0), "members"),
        ((tuple(node(k) for k in range(MAX_MEMBERS + 1)), 0, 1, 0), "members"),
        (((node(1), node(2), node(3)), 1, 1, 0), "byzantine"),
        (((node(1),), -1, 1, 0), "byzantine"),
        (((node(1),), False, 1, 0), "byzantine"),
        (((node(1),), 0, 0, 0), "quorum"),
        (((node(1),), 0, 2, 0), "quorum"),
        (((node(1),), 0, 1, -1), "epoch"),
        (((node(1),), 0, 1, 2**63), "epoch"),
    ],
)
def test_what_is_no_roster_is_refused(parts: tuple[Any, ...], field: str) -> None:
    with pytest.raises(WireError, match=f"QRES-E404 roster.{field}"):
        Roster(*parts)


def test_a_roster_as_large_as_any_is_a_roster() -> None:
    found = roster(MAX_MEMBERS, 1365, 3000)
    assert Roster.from_raw(canonical.loads(canonical.dumps(found.raw()), max_bytes=2**18)) == found
    with pytest.raises(RosterError, match=r"QRES-E607 roster.members: a roster has at most"):
        found.after(found.change(SWARM, "add", node(MAX_MEMBERS + 1)))
    last = roster(MAX_MEMBERS - 1, 1, 3000)
    assert len(last.after(last.change(SWARM, "add", node(MAX_MEMBERS)))) == MAX_MEMBERS


def test_a_roster_with_another_rule_is_refused() -> None:
    raw = roster().raw()
    for rule in (raw[0] + 1, True):
        with pytest.raises(WireError, match=r"QRES-E404 roster.rule"):
            Roster.from_raw([rule, *raw[1:]])


@pytest.mark.parametrize("joined", ["text", node(1)[:31], node(1) + b"x", [node(1)], None])
def test_members_that_are_not_joined_identities_are_refused(joined: object) -> None:
    with pytest.raises(WireError, match=r"QRES-E404 roster.members"):
        Roster.from_raw([1, joined, 0, 1, 0])


# ── what a change leads to ────────────────────────────────────────────────────────────────────────


def reckoned(
    members: frozenset[int], f: int, away: int, action: str, member: int, successor: int
) -> frozenset[int] | None:
    """The members after a change, or ``None`` if it must be refused; written another way."""
    if action == "add":
        found = None if member in members else members | {member}
    elif member not in members:
        found = None
    elif action == "remove":
        found = members - {member}
    else:
        found = None if successor in members else (members - {member}) | {successor}
    if found is None or len(found) <= 3 * f or len(found) - away <= 0:
        return None
    return found


def test_every_change_of_every_small_roster_is_as_reckoned() -> None:
    outcomes = {"made": 0, "refused": 0}
    for n in range(1, 6):
        for f, away in product(range((n - 1) // 3 + 1), range(n)):
            before = roster(n, f, n - away)
            members = frozenset(range(1, n + 1))
            for action, member, successor in product(ACTIONS, range(7), range(7)):
                if action == "rotate" and member == successor:
                    continue
                heir = node(successor) if action == "rotate" else None
                change = before.change(SWARM, action, node(member), heir)
                expected = reckoned(members, f, away, action, member, successor)
                if expected is None:
                    outcomes["refused"] += 1
                    with pytest.raises(RosterError, match="QRES-E607"):
                        before.after(change)
                    continue
                outcomes["made"] += 1
                after = before.after(change)
                assert after.members == tuple(node(k) for k in sorted(expected))
                assert after.byzantine == f
                assert len(after) - after.quorum == away
                assert after.epoch == before.epoch + 1
                assert change.renamed(node(member)) == {"add": node(member)}.get(action, heir)
                renamed = {change.renamed(node(k)) for k in members} - {None}
                assert renamed <= set(after.members)
                assert len(renamed) == n - (action == "remove")
    assert min(outcomes.values()) > 500, "control: both happen"


def test_a_change_that_was_undone_never_applies_again() -> None:
    first = roster()
    add = everybody(first.change(SWARM, "add", node(9)), first)
    second = first.after(add)
    third = second.after(second.change(SWARM, "remove", node(9)))
    assert third.members == first.members
    assert third.digest != first.digest
    with pytest.raises(RosterError, match=r"QRES-E607 change.roster: it is for roster 0, .* 2, "):
        third.after(add)
    assert authorised(add, first, SWARM, is_good), "control: it was authorised"
    assert not authorised(add, third, SWARM, is_good)


def test_refusals_say_what_to_do() -> None:
    least = roster()
    with pytest.raises(RosterError, match="there must be 4 at least"):
        least.after(least.change(SWARM, "remove", node(1)))
    with pytest.raises(RosterError, match="is a member already"):
        least.after(least.change(SWARM, "add", node(1)))
    with pytest.raises(RosterError, match=r"change.successor: .* is a member already"):
        least.after(least.change(SWARM, "rotate", node(1), node(2)))
    with pytest.raises(RosterError, match="is no member"):
        least.after(least.change(SWARM, "rotate", node(8), node(9)))
    alone = roster(2, 0, 1)
    with pytest.raises(RosterError, match="1 members may be away, and 1 are left"):
        alone.after(alone.change(SWARM, "remove", node(1)))
    last = attrs.evolve(alone, epoch=2**63 - 1)
    with pytest.raises(RosterError, match="too often"):
        last.after(last.change(SWARM, "add", node(9)))


# ── who wants it ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [1, 4, 7, 10])
def test_as_many_members_must_sign_as_decide_a_vote(n: int) -> None:
    members = roster(n, (n - 1) // 3, n)
    change = members.change(SWARM, "add", node(99))
    for signed in range(n + 1):
        some = change.signed(signature(change, node(k + 1)) for k in range(signed))
        assert authorised(some, members, SWARM, is_good) == (signed >= members.threshold)


@pytest.mark.claim("C-members-1")
def test_forged_signatures_and_those_of_strangers_do_not_count() -> None:
    members = roster(7, 2, 5)
    change = members.change(SWARM, "add", node(99))
    good = [signature(change, node(k)) for k in (1, 2, 3, 4)]
    enough = signature(change, node(5))
    assert authorised(change.signed([*good, enough]), members, SWARM, is_good), "control"
    for worthless in (signature(change, node(5), b"bad"), signature(change, node(50))):
        assert not authorised(change.signed([*good, worthless]), members, SWARM, is_good)
        assert authorised(
            change.signed([*good, worthless, signature(change, node(6))]), *_of(members)
        )
        kept = change.signed([*good, worthless]).of_members(members, is_good)
        assert kept.signatures == tuple(good)


def _of(members: Roster) -> tuple[Roster, str, Callable[[Envelope], bool]]:
    return members, SWARM, is_good


def test_a_change_of_another_swarm_or_roster_is_not_authorised() -> None:
    members = roster()
    change = everybody(members.change(SWARM, "add", node(99)), members)
    assert authorised(change, members, SWARM, is_good), "control"
    assert not authorised(change, members, "other", is_good)
    assert not authorised(change, attrs.evolve(members, quorum=4), SWARM, is_good)
    moved = RosterChange(SWARM, 1, members.digest, "add", node(99))
    assert not authorised(everybody(moved, members), members, SWARM, is_good)


def test_checking_stops_as_soon_as_the_answer_is_known() -> None:
    members = roster(10, 3, 7)
    change = everybody(members.change(SWARM, "add", node(99)), members)
    asked: list[bytes] = []

    def count(*, answer: bool) -> Callable[[Envelope], bool]:
        def check(message: Envelope) -> bool:
            asked.append(message.sender)
            return answer

        return check

    assert authorised(change, members, SWARM, count(answer=True))
    assert len(asked) == members.threshold
    asked.clear()
    assert not authorised(change, members, SWARM, count(answer=False))
    assert len(asked) == len(members) - members.threshold + 1
    asked.clear()
    few = change.signed([])
    few = attrs.evolve(few, signatures=few.signatures[: members.threshold - 1])
    assert not authorised(few, members, SWARM, count(answer=True))
    assert asked == [], "too few signatures cost no check"


def test_an_authority_approves_by_signing_the_digest() -> None:
    members = roster()
    change = members.change(SWARM, "add", node(99))

    def approved(digest: bytes, approval: bytes) -> bool:
        return approval == b"CA:" + digest

    good = attrs.evolve(change, approval=b"CA:" + change.digest)
    assert authorised(good, members, SWARM, is_good, approved)
    other = members.change(SWARM, "add", node(98))
    assert not authorised(attrs.evolve(good, member=node(98)), members, SWARM, is_good, approved)
    assert other.digest != change.digest
    assert not authorised(everybody(change, members), members, SWARM, is_good, approved)
    assert not authorised(change, members, SWARM, is_good, lambda _digest, _approval: True)
    assert not authorised(good, members, SWARM, is_good), "members decide here, not an authority"


def test_signatures_of_something_else_are_refused() -> None:
    members = roster()
    change = members.change(SWARM, "add", node(99))
    other = members.change(SWARM, "add", node(98))
    wrong = [
        signature(other, node(1)),
        attrs.evolve(signature(change, node(1)), sequence=1),
        attrs.evolve(signature(change, node(1)), round=1),
        attrs.evolve(signature(change, node(1)), kind="choice/prevote"),
        attrs.evolve(signature(change, node(1)), swarm="other"),
    ]
    for message in wrong:
        with pytest.raises(WireError, match=r"QRES-E404 change.signatures: a signature of some"):
            change.signed([message])
    assert change.signed([signature(change, node(1))]).signatures[0].kind == CHANGE
    assert CHANGE in QUOTED_KINDS, "delivered by itself it would slander its author"
    with pytest.raises(WireError, match="distinct senders, ascending"):
        attrs.evolve(change, signatures=(signature(change, node(2)), signature(change, node(1))))
    with pytest.raises(WireError, match=r"change.signatures: expected at most"):
        attrs.evolve(change, signatures=[signature(change, node(1))])
    first, second = signature(change, node(1), b"first"), signature(change, node(1), b"second")
    assert change.signed([first]).signed([second]).signatures == (first,)


def test_whoever_signs_two_changes_of_one_roster_has_not_lied() -> None:
    members = roster()
    first, second = (members.change(SWARM, "add", node(index)) for index in (98, 99))
    both = signature(first, node(1)), signature(second, node(1))
    assert conflict(*both, len(members)) is None
    first_made, second_made = (attrs.evolve(item, kind=CONTRIBUTION) for item in both)
    shown = conflict(first_made, second_made, len(members))
    assert shown is not None, "control: contributions prove it"


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 8), st.integers(0, 8))))
def test_no_two_rosters_of_a_history_have_one_digest_and_no_change_applies_twice(
    steps: list[tuple[Action, int, int]],
) -> None:
    found = roster(5, 1, 4, first=0)
    digests, applied = {found.digest}, list[RosterChange]()
    for action, member, successor in steps:
        if action == "rotate" and member == successor:
            continue
        heir = node(successor) if action == "rotate" else None
        change = found.change(SWARM, action, node(member), heir)
        try:
            found = found.after(change)
        except RosterError:
            continue
        applied.append(change)
        assert found.digest not in digests
        digests.add(found.digest)
        assert Roster.from_raw(found.raw()) == found
        assert (found.byzantine, len(found) - found.quorum) == (1, 1)
        for earlier in applied:
            with pytest.raises(RosterError):
                found.after(earlier)
    assert found.epoch == len(applied)


# ── decoding ──────────────────────────────────────────────────────────────────────────────────────


def samples() -> list[RosterChange]:
    members = roster()
    add = members.change(SWARM, "add", node(99))
    rotate = members.change(SWARM, "rotate", node(1), node(99))
    return [
        add,
        members.change(SWARM, "remove", node(1)),
        everybody(rotate, members),
        attrs.evolve(rotate, approval=b"x" * 64),
    ]


@pytest.mark.parametrize("index", range(4))
def test_a_change_comes_back_from_its_bytes(index: int) -> None:
    change = samples()[index]
    again = RosterChange.from_bytes(change.to_bytes())
    assert again == change
    assert hash(again) == hash(change)
    assert again.digest == change.digest
    assert attrs.evolve(change, signatures=(), approval=b"").digest == change.digest
    for other in samples():
        assert (other == change) == (other.to_bytes() == change.to_bytes())


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        (0, "no name", "envelope.swarm"),
        (0, None, "envelope.swarm"),
        (0, ["lab"], "envelope.swarm"),
        (1, -1, "change.epoch"),
        (1, True, "change.epoch"),
        (2, b"", "change.roster"),
        (3, "replace", "change.action"),
        (3, ["add"], "change.action"),
        (3, "add", "change.successor"),
        (4, b"short", "change.member"),
        (5, None, "change.successor"),
        (5, node(1), "change.successor"),
        (6, {}, "change.signatures"),
        (6, [1], "change.signatures"),
        (6, [b""] * (MAX_MEMBERS + 1), "change.signatures"),
        (7, None, "change.approval"),
        (7, b"x" * 4097, "change.approval"),
    ],
)
def test_a_change_with_a_bad_part_is_refused_by_its_name(
    place: int, value: object, field: str
) -> None:
    raw = samples()[2].raw()
    raw[place] = value
    with pytest.raises(WireError, match=f"QRES-E404 {field}"):
        RosterChange.from_raw(raw)


def test_a_change_may_have_as_many_signatures_and_as_long_an_approval_as_any() -> None:
    change = samples()[0]
    most = [signature(change, node(k)) for k in range(1, MAX_MEMBERS + 2)]
    assert len(change.signed(most[:-1]).signatures) == MAX_MEMBERS
    with pytest.raises(WireError, match=r"change.signatures: expected at most"):
        change.signed(most)
    assert len(attrs.evolve(change, approval=b"x" * 4096).approval) == 4096


def test_a_bare_change_has_neither_signatures_nor_approval() -> None:
    change = samples()[0]
    assert change.bare() is change
    for dressed in (everybody(change, roster()), attrs.evolve(change, approval=b"x")):
        assert dressed.bare() == change


def test_more_signatures_than_members_are_not_decoded() -> None:
    raw = samples()[2].raw()
    assert len(raw[6]) == 4
    assert RosterChange.from_raw(raw, 4) == samples()[2], "control"
    raw[6] = [b"no message"] * 5
    with pytest.raises(WireError, match=r"change.signatures: expected at most 4"):
        RosterChange.from_raw(raw, 4)


def test_more_bytes_than_a_change_may_have_are_not_parsed() -> None:
    with pytest.raises(WireError, match="QRES-E401"):
        RosterChange.from_bytes(b"\xff" * (MAX_CHANGE_BYTES + 1))


def or_refused(decode: Callable[[Any], T], data: Any) -> T | None:
    """The value, or ``None`` for what the decoder refuses by the one error it may raise."""
    try:
        return decode(data)
    except WireError as error:
        if not error.code.startswith("QRES-E4"):
            raise
        return None


plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**63)
    | st.binary(max_size=70)
    | st.sampled_from(["add", "remove", "rotate", "lab"])
    | st.just(node(1)),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.integers(0, 3), inner),
    max_leaves=20,
)


@given(st.binary(max_size=300) | plain.map(canonical.dumps))
def test_any_bytes_are_a_change_or_one_named_error(data: bytes) -> None:
    change = or_refused(RosterChange.from_bytes, data)
    if change is not None:
        assert change.to_bytes() == data


@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 7), plain), min_size=1, max_size=3))
def test_a_change_with_any_parts_is_a_change_or_one_named_error(
    index: int, parts: list[tuple[int, Any]]
) -> None:
    raw = samples()[index].raw()
    for place, value in parts:
        raw[place] = value
    change = or_refused(RosterChange.from_raw, raw)
    if change is not None:
        assert change.raw() == raw


@given(st.integers(0, 3), st.data())
def test_a_change_with_a_flipped_bit_is_another_one_or_refused(index: int, data: Any) -> None:
    octets = bytearray(samples()[index].to_bytes())
    place = data.draw(st.integers(0, 8 * len(octets) - 1))
    octets[place // 8] ^= 1 << place % 8
    change = or_refused(RosterChange.from_bytes, bytes(octets))
    if change is not None:
        assert change != samples()[index]
        assert change.to_bytes() == bytes(octets)


@given(st.lists(plain, min_size=4, max_size=6).map(lambda parts: [1, *parts]) | plain)
def test_any_plain_data_is_a_roster_or_one_named_error(raw: Any) -> None:
    found = or_refused(Roster.from_raw, raw)
    if found is not None:
        assert found.raw() == raw


@given(
    st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=12),
    st.integers(0, 4),
    st.integers(1, 12),
    st.integers(0, 5),
)
def test_a_roster_comes_back_from_plain_data(
    members: set[bytes], byzantine: int, quorum: int, epoch: int
) -> None:
    joined = b"".join(sorted(members))
    n = len(members)
    try:
        found = Roster.from_raw([1, joined, byzantine, quorum, epoch])
    except WireError:
        assert n < 3 * byzantine + 1 or quorum > n
    else:
        assert n >= 3 * byzantine + 1
        assert quorum <= n
        assert found.members == tuple(sorted(members))
        assert Roster.from_raw(found.raw()) == found
