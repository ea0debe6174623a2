from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from qres_secagg.parameters import MAX_NODES, Parameters
from qres_secagg.session import MAX_LEVEL, MAX_ROUND, Session

from qres_core.errors import ConfigError

Make = Callable[..., Any]


def by_hand(session: Session) -> bytes:
    """The session id from its description alone."""

    def joined(*parts: bytes) -> bytes:
        return b"".join(struct.pack("<I", len(part)) + part for part in parts)

    p = session.parameters
    fields = {
        "acks": p.acks,
        "bound": p.bound,
        "corrupt": p.corrupt,
        "dimension": p.dimension,
        "extra": p.extra,
        "group_size": p.group_size,
        "k": p.k,
        "min_survivors": p.min_survivors,
        "noise": p.noise,
        "prg": p.prg,
        "ring_bits": p.ring_bits,
        "summands": p.summands,
        "t": p.t,
    }
    encoded = joined(
        *(
            joined(name.encode(), value if isinstance(value, bytes) else str(value).encode())
            for name, value in fields.items()
        )
    )
    roster = hashlib.sha256(joined(b"qres-secagg/1", b"roster", *session.roster)).digest()
    return hashlib.sha256(
        joined(
            b"qres-secagg/1",
            b"session",
            session.swarm.encode(),
            struct.pack("<Q", session.round),
            session.model_digest,
            roster,
            encoded,
            bytes([session.level]),
        )
    ).digest()


def test_the_id_is_the_hash_of_the_description(make_session: Make) -> None:
    session = make_session()
    assert session.sid == by_hand(session)


def test_known_answer(make_session: Make) -> None:
    """For implementations in other languages."""
    assert (
        make_session().sid.hex()
        == "5cd1b8a5877b73c7eae837c2cbbe7e4e5b3b66f69afc119496bb8d4f83b6eaa4"
    )


def changed(session: Session) -> dict[str, Session]:
    """The session with one thing another, for each thing."""
    numbers: dict[str, object] = {
        "dimension": 21,
        "k": 6,
        "t": 6,
        "acks": 7,
        "corrupt": 1,
        "min_survivors": 4,
        "bound": 5,
        "summands": 9,
        "noise": 1,
        "group_size": 4,
        "ring_bits": 64,
        "prg": "chacha20",
        "extra": b"x",
    }
    assert numbers.keys() == {field.name for field in attrs.fields(Parameters)}
    found = {
        name: attrs.evolve(session, parameters=attrs.evolve(session.parameters, **{name: value}))
        for name, value in numbers.items()
    }
    found["swarm"] = attrs.evolve(session, swarm="other")
    found["round"] = attrs.evolve(session, round=8)
    found["model"] = attrs.evolve(session, model_digest=b"n" * 32)
    found["roster"] = attrs.evolve(session, roster=(bytes(32), *session.roster))
    found["level"] = attrs.evolve(session, level=1)
    found["head"] = attrs.evolve(session, head=b"h" * 32)
    found["other head"] = attrs.evolve(session, head=bytes(32))
    return found


def test_everything_enters_the_id(make_session: Make) -> None:
    session = make_session(acks=6)
    ids = {name: other.sid for name, other in changed(session).items()}
    assert len({session.sid, *ids.values()}) == len(ids) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"roster": (b"a" * 32, b"a" * 32, b"b" * 32)},
        {"roster": (b"b" * 32, b"a" * 32, b"c" * 32)},
        {"roster": (b"a" * 32, b"b" * 32)},
        {"roster": (b"a", b"b", b"c")},
        {"model_digest": b"m"},
        {"head": b"h"},
        {"round": -1},
        {"round": 2**63},
        {"roster": tuple(bytes([i]) * 32 for i in range(8, 0, -1))},
        {"roster": tuple(bytes([max(2, i)]) * 32 for i in range(1, 9))},
        {"roster": tuple(bytes([i]) * 31 for i in range(1, 9))},
        {"level": -1},
        {"level": MAX_LEVEL + 1},
        {"roster": tuple(number.to_bytes(32) for number in range(MAX_NODES + 1))},
        {"roster": tuple(bytes([i]) * 32 for i in range(7))},
    ],
)
def test_a_session_that_cannot_be_is_refused(make_session: Make, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        attrs.evolve(make_session(), **change)
    assert caught.value.code == "QRES-E105"


def test_sessions_at_the_edges_are_made(make_session: Make) -> None:
    session = make_session()
    for change in ({"round": 0}, {"round": MAX_ROUND}, {"level": MAX_LEVEL}):
        assert attrs.evolve(session, **change).sid != session.sid
    assert len(make_session(3).roster) == 3
    largest = tuple(number.to_bytes(32) for number in range(MAX_NODES))
    assert len(attrs.evolve(session, roster=largest).rank) == MAX_NODES
