"""Rotation statements: what they bind, what is refused, and who speaks for whom afterwards."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qres_ed25519 import Ed25519
from qres_ed25519.rotation import MAX_STATEMENT_BYTES, KeyRotation, Rotations, read_statement
from qres_ed25519.signature import L, SigningKey
from qres_lab.testing import make_envelope, make_round_info

from qres_core import ACCEPT, Blame, NodeInfo, canonical, reject
from qres_core.errors import ConfigError, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qres_core import Envelope, RoundInfo

BAD_SIGNATURE = reject("bad-signature", blame=Blame.LINK)


@pytest.fixture
def statement_file(tmp_path: Path) -> Callable[..., str]:
    counter = itertools.count()

    def write(old: SigningKey, new: SigningKey, time: int = 100) -> str:
        path = tmp_path / f"{next(counter)}.rotation"
        path.write_bytes(KeyRotation.make(old, new, time).to_bytes())
        return str(path)

    return write


def signed(pair: SigningKey, sender: bytes, **fields: Any) -> Envelope:
    envelope = make_envelope(sender=sender, **fields)
    return envelope.with_auth({"ed25519": pair.sign(envelope.signing_digest)})


def by_hand(
    old: SigningKey, new: SigningKey, time: int, *, domain: bytes = b"qres/ed25519/rotation/v1\0"
) -> tuple[bytes, bytes]:
    body = canonical.dumps([1, old.public, new.public, time])
    digest = hashlib.sha256(domain + body).digest()
    return old.sign(digest), new.sign(digest)


# ── the statement ─────────────────────────────────────────────────────────────────────────────


def test_the_file_is_what_is_written_down(pairs: list[SigningKey]) -> None:
    old, new = pairs[:2]
    made = KeyRotation.make(old, new, 1234)
    first, second = by_hand(old, new, 1234)
    assert canonical.loads(made.to_bytes(), max_bytes=512) == {
        0: 1,
        1: old.public,
        2: new.public,
        3: 1234,
        4: first,
        5: second,
    }
    assert KeyRotation.from_bytes(made.to_bytes()) == made


def test_every_flipped_bit_is_refused(pairs: list[SigningKey]) -> None:
    data = KeyRotation.make(pairs[0], pairs[1], 2**40).to_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            KeyRotation.from_bytes(bytes(flipped))


@given(data=st.binary(max_size=300))
def test_any_bytes_raise_nothing_but_the_named_error(data: bytes) -> None:
    with pytest.raises(WireError):
        KeyRotation.from_bytes(data)


def fields(pairs: list[SigningKey]) -> dict[int, Any]:
    return canonical.loads(KeyRotation.make(pairs[0], pairs[1], 7).to_bytes(), max_bytes=512)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({0: 2}, "QRES-E406"),
        ({0: True}, "QRES-E406"),
        ({1: None}, "QRES-E404"),
        ({1: "text"}, "QRES-E404"),
        ({1: b"\1" + bytes(31)}, "QRES-E404"),
        ({2: bytes(31)}, "QRES-E404"),
        ({3: -1}, "QRES-E404"),
        ({3: 2**63}, "QRES-E404"),
        ({3: True}, "QRES-E404"),
        ({3: "7"}, "QRES-E404"),
        ({4: None}, "QRES-E404"),
        ({4: b""}, "QRES-E404"),
        ({5: bytes(64)}, "QRES-E404"),
        ({6: 0}, "QRES-E402"),
    ],
)
def test_fields_are_checked(changes: dict[int, Any], code: str, pairs: list[SigningKey]) -> None:
    with pytest.raises(WireError) as refusal:
        KeyRotation.from_bytes(canonical.dumps({**fields(pairs), **changes}))
    assert refusal.value.code == code


def test_other_shapes(pairs: list[SigningKey]) -> None:
    for value in (list(fields(pairs).values()), 3, {}, {0: 1}, {"0": 1}):
        with pytest.raises(WireError) as refusal:
            KeyRotation.from_bytes(canonical.dumps(value))
        assert refusal.value.code == "QRES-E402"


@pytest.mark.claim("C-keys-3")
def test_only_the_two_keys_themselves_can_make_it(pairs: list[SigningKey]) -> None:
    old, new, thief = pairs[:3]
    good = fields(pairs)
    theirs_old, _ = by_hand(SigningKey(old.public, thief.seed, thief._secret), new, 7)
    _, theirs_new = by_hand(old, SigningKey(new.public, thief.seed, thief._secret), 7)
    swapped = {4: good[5], 5: good[4]}
    for changes, whose in (({4: theirs_old}, "old"), ({5: theirs_new}, "new"), (swapped, "old")):
        with pytest.raises(WireError, match=f"not signed by the {whose} key"):
            KeyRotation.from_bytes(canonical.dumps({**good, **changes}))


@pytest.mark.control("C-keys-3")
def test_control_without_the_new_keys_signature_a_key_could_be_claimed(
    pairs: list[SigningKey],
) -> None:
    # The holder of the old key names somebody else's key: its own signature is right.
    old, victim = pairs[:2]
    mine, _ = by_hand(old, victim, 7)
    good = fields(pairs)
    assert mine == good[4]
    with pytest.raises(WireError, match="not signed by the new key"):
        KeyRotation.from_bytes(canonical.dumps({**good, 5: mine}))


def test_signatures_of_messages_are_no_statements(pairs: list[SigningKey]) -> None:
    old, new = pairs[:2]
    first, second = by_hand(old, new, 7, domain=b"qres/envelope/v1\0")
    with pytest.raises(WireError, match="not signed by the old key"):
        KeyRotation.from_bytes(canonical.dumps({**fields(pairs), 4: first, 5: second}))


def test_there_is_one_file_for_one_statement(pairs: list[SigningKey]) -> None:
    good = fields(pairs)
    s = int.from_bytes(good[4][32:], "little") + L
    with pytest.raises(WireError):
        KeyRotation.from_bytes(
            canonical.dumps({**good, 4: good[4][:32] + s.to_bytes(32, "little")})
        )


def test_a_key_does_not_replace_itself(pairs: list[SigningKey]) -> None:
    with pytest.raises(WireError, match="the old key again"):
        KeyRotation.make(pairs[0], pairs[0], 7)


def test_statements_cannot_be_made_up_in_python_either(pairs: list[SigningKey]) -> None:
    made = KeyRotation.make(pairs[0], pairs[1], 7)
    with pytest.raises(WireError):
        attrs.evolve(made, time=8)
    with pytest.raises(WireError):
        attrs.evolve(made, new=pairs[2].public)


@pytest.mark.parametrize("time", [-1, 2**63, True])
def test_no_signature_makes_up_for_a_time_that_is_none(time: int, pairs: list[SigningKey]) -> None:
    first, second = by_hand(pairs[0], pairs[1], time)
    with pytest.raises(WireError, match=r"statement\.time"):
        KeyRotation.from_bytes(canonical.dumps({**fields(pairs), 3: time, 4: first, 5: second}))


@pytest.mark.parametrize("time", [0, 2**63 - 1])
def test_the_ends_of_time(time: int, pairs: list[SigningKey]) -> None:
    assert (
        KeyRotation.from_bytes(KeyRotation.make(pairs[0], pairs[1], time).to_bytes()).time == time
    )


def test_files_that_cannot_be_read(tmp_path: Path, pairs: list[SigningKey]) -> None:
    for name in ("absent", "nul\0", ""):
        with pytest.raises(ConfigError, match="rotations") as refusal:
            read_statement(tmp_path / name, "plugins.ed25519.rotations")
        assert refusal.value.code == "QRES-E101"
    path = tmp_path / "bad"
    good = KeyRotation.make(pairs[0], pairs[1], 7).to_bytes()
    for data in (b"", good[:-1], good + b"\0", good + bytes(MAX_STATEMENT_BYTES)):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match="bad") as refusal:
            read_statement(path, "plugins.ed25519.rotations")
        assert refusal.value.code == "QRES-E105"
    path.write_bytes(good)
    assert read_statement(path, "x").old == pairs[0].public


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe would keep a node from starting until somebody wrote to it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(2**16 + 1))
    for path, what in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a folder"),
        (Path("/dev/zero"), "is a device"),
        (tmp_path / "large", "larger than"),
    ):
        with pytest.raises(ConfigError, match=f"QRES-E101 rotations: {path}.*{what}"):
            read_statement(path, "rotations")


# ── chains ────────────────────────────────────────────────────────────────────────────────────


def chain_of(pairs: list[SigningKey], *numbers: int) -> list[KeyRotation]:
    """Statements that lead from one key to the next, a second apart."""
    steps = itertools.pairwise(numbers)
    return [KeyRotation.make(pairs[a], pairs[b], 10 + i) for i, (a, b) in enumerate(steps)]


@pytest.mark.control("C-keys-8", "C-keys-12")
def test_chains_join_in_any_order(pairs: list[SigningKey]) -> None:
    keys = [pair.public for pair in pairs]
    statements = [*chain_of(pairs, 0, 1, 2, 3), *chain_of(pairs, 5, 4)]
    for order in itertools.permutations(statements):
        rotations = Rotations.join(order, "x")
        assert rotations.chain(keys[0]) == keys[:4]
        assert rotations.chain(keys[2]) == keys[2:4]
        assert rotations.chain(keys[5]) == [keys[5], keys[4]]
        assert rotations.chain(keys[6]) == [keys[6]]
        assert {rotations.identity(key) for key in keys[:4]} == {keys[0]}
        assert rotations.identity(keys[4]) == keys[5]
        assert rotations.identity(keys[6]) == keys[6]


@pytest.mark.claim("C-keys-8")
@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ([(0, 1), (0, 2)], "two statements replace"),
        ([(0, 1), (1, 2), (1, 3)], "two statements replace"),
        ([(0, 1), (0, 1)], "two statements replace"),
        ([(0, 2), (1, 2)], "replaces two others"),
        ([(0, 1), (1, 0)], "circle"),
        ([(0, 1), (1, 2), (2, 0)], "circle"),
        ([(0, 1), (1, 2), (2, 1)], "replaces two others"),
        ([(5, 6), (0, 1), (1, 0)], "circle"),
    ],
)
def test_what_contradicts_itself(
    steps: list[tuple[int, int]], what: str, pairs: list[SigningKey]
) -> None:
    statements = [KeyRotation.make(pairs[a], pairs[b], 9) for a, b in steps]
    for order in (statements, statements[::-1]):
        with pytest.raises(ConfigError, match=what) as refusal:
            Rotations.join(order, "plugins.ed25519.rotations")
        assert refusal.value.code == "QRES-E105"
        assert refusal.value.problems[0].where == "plugins.ed25519.rotations"


@pytest.mark.claim("C-keys-12")
def test_time_does_not_run_backwards_along_a_chain(pairs: list[SigningKey]) -> None:
    first, late = KeyRotation.make(pairs[0], pairs[1], 9), KeyRotation.make(pairs[1], pairs[2], 9)
    early = KeyRotation.make(pairs[1], pairs[2], 8)
    assert Rotations.join([first, late], "x").chain(pairs[0].public)[-1] == pairs[2].public
    for order in ([first, early], [early, first]):
        with pytest.raises(ConfigError, match="before it came into use"):
            Rotations.join(order, "x")


# ── in a node ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def node(key_file: Callable[..., str]) -> Callable[..., Ed25519]:
    """A started node with the first, last-named key, in a roster of the first two pairs."""

    def start(own: SigningKey, roster: list[SigningKey], *statements: str) -> Ed25519:
        name = f"{own.public.hex()[:8]}.{len(statements)}.key"
        plugin = Ed25519(key=key_file(own, name), rotations=statements)
        node_id = plugin.identity(None)
        plugin.setup(NodeInfo(node_id, "testing", tuple(sorted(p.public for p in roster))))
        return plugin

    return start


@pytest.mark.claim("C-keys-3")
@pytest.mark.control("C-keys-11")
def test_the_identity_stays_and_the_key_changes(
    pairs: list[SigningKey], node: Callable[..., Ed25519], statement_file: Callable[..., str]
) -> None:
    first, peer, second, third = pairs[:4]
    roster = [first, peer]
    item, two = statement_file(first, second, 1), statement_file(second, third, 2)
    before = node(peer, roster)
    after_one, after_two = node(pairs[1], roster, item), node(pairs[1], roster, two, item)
    rotated = node(second, roster, item)
    assert rotated.identity(None) == first.public
    envelope = make_envelope(sender=first.public)
    message = envelope.with_auth({"ed25519": rotated.sign(envelope)})
    verdicts = [
        [item.authenticate(signed(pair, first.public)) for pair in (first, second, third)]
        for item in (before, after_one, after_two)
    ]
    assert verdicts == [
        [ACCEPT, BAD_SIGNATURE, BAD_SIGNATURE],
        [BAD_SIGNATURE, ACCEPT, BAD_SIGNATURE],
        [BAD_SIGNATURE, BAD_SIGNATURE, ACCEPT],
    ]
    assert after_one.authenticate(message) is ACCEPT
    assert rotated.authenticate(message) is ACCEPT
    assert before.authenticate(message) == BAD_SIGNATURE
    # Nobody else's key changes, and the new key is nobody's name.
    assert after_two.authenticate(signed(peer, peer.public)) is ACCEPT
    assert after_two.authenticate(signed(second, second.public)) == BAD_SIGNATURE


def test_a_chain_counts_before_set_up_as_after_it(
    pairs: list[SigningKey], key_file: Callable[..., str], statement_file: Callable[..., str]
) -> None:
    first, second = pairs[:2]
    plugin = Ed25519(key=key_file(second), rotations=(statement_file(first, second),))
    assert plugin.identity(None) == first.public
    assert plugin.authenticate(signed(second, first.public)) is ACCEPT
    assert plugin.authenticate(signed(first, first.public)) == BAD_SIGNATURE


@pytest.mark.claim("C-keys-3")
def test_a_replaced_key_does_not_start_a_node(
    pairs: list[SigningKey], node: Callable[..., Ed25519], statement_file: Callable[..., str]
) -> None:
    item, two = statement_file(pairs[0], pairs[2], 1), statement_file(pairs[2], pairs[3], 2)
    for own in (pairs[0], pairs[2]):
        with pytest.raises(ConfigError, match=f"replaced by {pairs[3].public.hex()}"):
            node(own, pairs[:2], item, two)
    assert node(pairs[3], pairs[:2], item, two).identity(None) == pairs[0].public


@pytest.mark.claim("C-keys-8")
def test_a_fork_stops_the_node(
    pairs: list[SigningKey], node: Callable[..., Ed25519], statement_file: Callable[..., str]
) -> None:
    forks = statement_file(pairs[0], pairs[2]), statement_file(pairs[0], pairs[3])
    for own in (pairs[1], pairs[2], pairs[3]):
        with pytest.raises(ConfigError, match="two statements replace"):
            node(own, pairs[:2], *forks)


@pytest.mark.claim("C-keys-11")
def test_statements_of_strangers_and_of_members(
    pairs: list[SigningKey], node: Callable[..., Ed25519], statement_file: Callable[..., str]
) -> None:
    # Its node may be added later, or was removed.
    plugin = node(pairs[0], pairs[:2], statement_file(pairs[4], pairs[5]))
    assert plugin.authenticate(signed(pairs[1], pairs[1].public)) is ACCEPT
    with pytest.raises(ConfigError, match="a node of the roster itself"):
        node(pairs[1], pairs[:2], statement_file(pairs[0], pairs[1]))
    with pytest.raises(ConfigError, match="a node of the roster itself"):
        # The roster was changed to the new key and the statement was left in place.
        node(pairs[0], [pairs[0], pairs[5]], statement_file(pairs[4], pairs[5]))


def members(*nodes: SigningKey | bytes) -> RoundInfo:
    ids = [node if isinstance(node, bytes) else node.public for node in nodes]
    return attrs.evolve(make_round_info(), roster=tuple(sorted(ids)))


def test_the_members_of_a_round_speak_with_the_keys_in_use(
    pairs: list[SigningKey], node: Callable[..., Ed25519], statement_file: Callable[..., str]
) -> None:
    first, second, newcomer, rotated = pairs[0], pairs[1], pairs[4], pairs[5]
    plugin = node(first, pairs[:2], statement_file(newcomer, rotated))
    after = signed(rotated, newcomer.public)
    assert plugin.authenticate(after) is ACCEPT, "whether it is a member is for the kernel"
    no_key = bytes(32)
    plugin.round_opened(members(first, newcomer, no_key))
    assert plugin._keys == {first.public: first.public, newcomer.public: rotated.public}
    assert plugin.authenticate(after) is ACCEPT
    assert plugin.authenticate(signed(newcomer, newcomer.public)) == BAD_SIGNATURE
    assert plugin.authenticate(signed(first, no_key)) == BAD_SIGNATURE
    assert plugin.authenticate(signed(second, second.public)) is ACCEPT, "a quoted vote, say"
    kept = plugin._keys
    plugin.round_opened(members(first, newcomer))
    plugin.round_opened(members(first, newcomer))
    assert plugin._keys == kept


def test_the_simulator_reads_no_statements() -> None:
    plugin = Ed25519(rotations=("absent",))
    assert plugin.identity(bytes(32)) == Ed25519().identity(bytes(32))


def test_an_observer_needs_no_key_and_believes_the_key_in_use(
    pairs: list[SigningKey], statement_file: Callable[..., str]
) -> None:
    first, second, other = pairs[:3]
    roster = (first.public, other.public)
    plugin = Ed25519(rotations=(statement_file(first, second),))
    plugin.setup(NodeInfo(bytes(32), "testing", roster, observer=True))
    assert plugin.authenticate(signed(second, first.public)) is ACCEPT
    assert plugin.authenticate(signed(other, other.public)) is ACCEPT
    assert plugin.authenticate(signed(first, first.public)) == BAD_SIGNATURE
    with pytest.raises(ConfigError, match="QRES-E103"):  # the control: a node needs one
        Ed25519().setup(NodeInfo(bytes(32), "testing", roster))
