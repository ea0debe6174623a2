"""Claims: what is left out asks for nothing and takes nothing away; wrong values are refused."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from qres_core import Claims, Needs, Visibility
from qres_core.claims import Hides, Privatizes, Verifies, Wraps
from qres_core.contract.claims import NO_CLAIMS
from qres_core.errors import PluginError

NO_NEEDS = NO_CLAIMS.needs
HIDES_NOTHING = NO_CLAIMS.hides


def test_no_needs_are_the_weakest_there_are() -> None:
    assert Needs() == NO_NEEDS
    assert NO_NEEDS.visibility is min(Visibility)
    assert NO_NEEDS.min_updates == 1
    assert NO_CLAIMS.tolerates is None
    assert NO_NEEDS.families == ()
    assert NO_NEEDS.equal_weights is False


def test_hiding_nothing_leaves_everything() -> None:
    assert Hides() == HIDES_NOTHING
    assert HIDES_NOTHING.leaves is max(Visibility)


def test_what_is_left_meets_what_is_needed_by_comparison() -> None:
    needs = Needs(visibility=Visibility.INDIVIDUAL)
    assert HIDES_NOTHING.leaves >= needs.visibility
    assert not Hides(leaves=Visibility.SUM).leaves >= needs.visibility
    assert Hides(leaves=Visibility.SUM).leaves >= NO_NEEDS.visibility


@pytest.mark.parametrize("value", [NO_NEEDS, HIDES_NOTHING, NO_CLAIMS])
def test_what_is_claimed_cannot_be_changed(value: Needs | Hides | Claims) -> None:
    for field in attrs.fields(type(value)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize("field", ["group_size", "smallest"])
@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_a_group_of_nobody_is_refused(field: str, size: Any) -> None:
    """No number of nodes is ``None``; 0 would be taken for one by whoever divides by it."""
    for fine in (1, 7, None):
        assert getattr(Hides(Visibility.GROUP, **{field: fine}), field) == fine
    with pytest.raises(PluginError, match=rf"QRES-E210 hides\.{field}"):
        Hides(Visibility.GROUP, **{field: size})


WRONG: list[tuple[type, dict[str, Any]]] = [
    (Needs, {"visibility": 2}),
    (Needs, {"min_updates": 0}),
    (Needs, {"min_updates": "3"}),
    (Needs, {"families": "authenticate"}),
    (Needs, {"families": ["authenticate"]}),
    (Needs, {"equal_weights": 1}),
    (Needs, {"at_most": None}),
    (Needs, {"averaging": "yes"}),
    (Hides, {"leaves": "sum"}),
    (Claims, {"tolerates": -1}),
    (Claims, {"tolerates": True}),
    (Claims, {"tolerates": 1.0}),
    (Claims, {"needs": Needs}),
    (Claims, {"needs": {"min_updates": 3}}),
    (Claims, {"hides": Visibility.SUM}),
    (Claims, {"notices": "a sentence is no tuple of sentences"}),
    (Claims, {"averages": 1}),
    (Claims, {"weighs": None}),
    (Claims, {"reads": "coordinates"}),
    (Claims, {"reads": True}),
    (Claims, {"wraps": Hides()}),
    (Claims, {"privatizes": None}),
    (Claims, {"verifies": Verifies}),
    (Verifies, {"bounds": 3.0}),
    (Wraps, {"alters": "no"}),
    (Wraps, {"merges": 0}),
    (Wraps, {"merges": 2.0}),
    (Privatizes, {"reveals": 0}),
    (Privatizes, {"accompanies": ()}),
    (Privatizes, {"keeps": 1}),
    (Verifies, {"transferable": "yes"}),
    (Claims, {"effective": 3}),
]


@pytest.mark.parametrize(("kind", "wrong"), WRONG, ids=str)
def test_a_value_of_another_type_or_out_of_range_is_refused_by_name(
    kind: type, wrong: dict[str, Any]
) -> None:
    (label,) = wrong
    with pytest.raises(
        PluginError, match=rf"QRES-E210 {kind.__name__.lower()}\.{label}: "
    ) as caught:
        kind(**{**({"tolerates": None} if kind is Claims else {}), **wrong})
    assert caught.value.problems[0].fix


def test_nobody_promises_nothing_by_accident() -> None:
    with pytest.raises(TypeError, match="tolerates"):
        Claims()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the point
    assert Claims(tolerates=None).liars == Claims(tolerates=0).liars == 0
    assert Claims(tolerates=2).liars == 2
