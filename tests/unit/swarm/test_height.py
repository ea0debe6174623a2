"""What ends a height differently here and elsewhere, and what is taken in its rounds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from qres_lab.testing import make_envelope

from qres_core.swarm.contributions.aggregation import Sharded
from qres_core.swarm.ledger.results import Merged, Void
from qres_core.swarm.machine.height import Height

HERE, LATER, SET, OTHER = b"here", b"later", b"set", b"other"
MODEL, ANOTHER = b"model", b"another"


def some(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


@pytest.mark.parametrize(
    ("head", "chosen", "result", "made", "differs"),
    [
        (HERE, SET, Merged(MODEL), MODEL, ""),
        (HERE, None, Merged(MODEL), None, ""),  # it decided nothing and made nothing
        (HERE, OTHER, Merged(MODEL), None, "proof of different sets"),
        (HERE, OTHER, Void("QRES-E507"), None, "proof of different sets"),
        (HERE, SET, Merged(MODEL), ANOTHER, "the swarm decided model"),
        (HERE, SET, Void("QRES-E604"), MODEL, ""),  # the others did not finish in time
        (LATER, OTHER, Merged(MODEL), ANOTHER, ""),  # nothing that this node found is about it
    ],
)
def test_a_decision_differs_from_what_this_node_found_at_the_same_head(
    head: bytes, chosen: bytes | None, result: Merged | Void, made: bytes | None, differs: str
) -> None:
    candidate = some(digest=lambda _head: chosen)
    height: Any = some(
        choice=some(certificate=None if chosen is None else some(candidate=candidate)),
        context=some(head=some(digest=HERE)),
        made=None if made is None else some(digest=made),
    )
    last: Any = some(head=some(digest=head), decision=some(chosen=SET), result=result)
    found = Height.differs(height, last)
    assert differs in found
    assert bool(found) is bool(differs)


@pytest.mark.parametrize("kind", ["shard/part", "shard/held"])
@pytest.mark.parametrize("waits", [True, False])
def test_what_is_said_of_shards_of_a_coming_round_waits_for_it(kind: str, *, waits: bool) -> None:
    taken: list[str] = []
    note = lambda envelope, _now: taken.append(envelope.kind)  # noqa: E731
    here: Any = some(parts=some(take_part=note, take_held=note))
    assert Sharded.take(here, make_envelope(kind=kind), 0.0, waits=waits) is not waits
    assert taken == [kind] * (not waits)


@pytest.mark.parametrize("available", [True, False])
def test_a_set_is_available_if_its_shards_are(*, available: bool) -> None:
    here: Any = some(parts=some(available=lambda _set: available))
    candidate: Any = object()
    assert Sharded.available(here, candidate) is available
