"""What a refusal proposes: one option of a plugin, and a number with which it would be content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from qres_core import Claims, Needs
from qres_core.claims import Wraps
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.discovery import Installed
from qres_core.kernel.remedies import (
    ask_for_less,
    ban_only,
    counted,
    either,
    enable,
    merge_less,
    settings,
    withstand,
    work_in_groups,
)


@attrs.frozen(kw_only=True)
class Rule:
    """As Krum: needs more rows the more liars it withstands."""

    f: int = attrs.field(default=3, validator=attrs.validators.ge(0))
    name: str = "words are no numbers"
    strict: bool = True
    share: float = 0.5
    rows: int = 1

    @property
    def claims(self) -> Claims:
        """From the options."""
        return Claims(
            tolerates=self.f,
            needs=Needs(min_updates=2 * self.f + 3),
            wraps=Wraps(merges=self.rows),
            weighs=self.share > 0,
        )


def enabled(instance: Any = None) -> Enabled:
    made = Rule() if instance is None else instance
    return Enabled("rule", Installed.local("rule", type(made)), made, ("aggregate",))


def claims_of(changed: Enabled) -> Claims:
    return changed.claims


def test_the_nearest_number_that_is_enough_is_proposed() -> None:
    found = settings(enabled(), lambda item: item.claims.needs.min_updates <= 7)
    assert [said for said, _changed in found] == ["f = 2 in [plugins.rule]"]
    assert claims_of(found[0][1]).tolerates == 2
    found = settings(enabled(), lambda item: (item.claims.tolerates or 0) >= 100, more=True)
    assert [said for said, _changed in found] == ["f = 100 in [plugins.rule]"]


@pytest.mark.parametrize("content", [lambda _item: False, lambda item: item.claims.tolerates < 0])
def test_where_no_number_is_enough_nothing_is_proposed(
    content: Callable[[Enabled], bool],
) -> None:
    assert settings(enabled(), content) == []


def test_a_plugin_without_options_is_left_as_it_is() -> None:
    class Plain:
        claims = Claims(tolerates=None)

    assert settings(enabled(Plain()), lambda _item: True) == []


def test_a_rule_that_needs_fewer_rows_may_withstand_fewer_liars_and_says_so() -> None:
    assert ask_for_less(enabled(), 7, 2) == ["f = 2 in [plugins.rule]"]
    assert ask_for_less(enabled(), 5, 2) == ["f = 1 in [plugins.rule] and swarm.byzantine = 1"]
    assert ask_for_less(enabled(), 1, 2) == []


def test_a_rule_that_withstands_more_liars_may_need_a_larger_quorum_and_says_so() -> None:
    assert withstand(enabled(), 5, 13) == ["f = 5 in [plugins.rule]"]
    assert withstand(enabled(), 5, 12) == ["f = 5 in [plugins.rule] and swarm.quorum >= 13"]


def test_groups_are_proposed_only_where_one_hides_something() -> None:
    hider = Enabled("hider", Installed.local("hider", Rule), Rule(), ("privatize",))
    said = work_in_groups(enabled(Rule(f=0)), hider, 10)
    assert said == (
        "let hider work in groups of at most 3 nodes: rule needs 3 groups, and swarm.quorum = 10"
    )
    # In a group of two each member knows the other's update.
    assert "with a larger swarm" in work_in_groups(enabled(Rule(f=0)), hider, 8)
    said = work_in_groups(enabled(Rule(f=3)), hider, 10)
    assert "with a larger swarm: rule needs 9 groups, more than swarm.quorum = 10 allows" in said


def test_merging_and_weighing_less_name_an_option_where_there_is_one() -> None:
    assert merge_less(enabled(Rule(rows=8)), 4) == "rows = 4 in [plugins.rule]"
    assert merge_less(enabled(Rule(rows=8)), -1) == "let rule make one row of at most -1"
    assert ban_only(enabled()) == (
        "let rule ban nodes and not weight them: share = 0 in [plugins.rule]"
    )

    @attrs.frozen
    class Stubborn:
        claims = Claims(tolerates=None, weighs=True)

    assert ban_only(enabled(Stubborn())) == "let rule ban nodes and not weight them"


def test_words_for_numbers_and_lists() -> None:
    assert [counted(number) for number in (0, 1, 2)] == ["0 liars", "1 liar", "2 liars"]
    assert either(["a"]) == "a"
    assert either(["a", "b", "c"]) == "a, b, or c"
    assert enable("aggregate").startswith("enable a plugin of the family aggregate, for example ")
