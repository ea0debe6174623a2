"""Needs and hides: a plugin that states nothing asks for nothing and takes nothing away."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from qres_core import Hides, Needs, ValueRefusedError, Visibility
from qres_core.contract.traits import HIDES_NOTHING, NO_NEEDS


def test_no_needs_are_the_weakest_there_are() -> None:
    assert Needs() == NO_NEEDS
    assert NO_NEEDS.visibility is min(Visibility)
    assert NO_NEEDS.min_updates == 1
    assert NO_NEEDS.tolerates is None
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


@pytest.mark.parametrize("trait", [NO_NEEDS, HIDES_NOTHING])
def test_a_trait_cannot_be_changed(trait: Needs | Hides) -> None:
    for field in attrs.fields(type(trait)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(trait, field.name, None)


@pytest.mark.parametrize("field", ["group_size", "smallest"])
@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_a_group_of_nobody_is_refused(field: str, size: Any) -> None:
    """No number of nodes is ``None``; 0 would be taken for one by whoever divides by it."""
    for fine in (1, 7, None):
        assert getattr(Hides(Visibility.GROUP, **{field: fine}), field) == fine
    with pytest.raises(ValueRefusedError, match=rf"QRES-E506 hides\.{field}"):
        Hides(Visibility.GROUP, **{field: size})
