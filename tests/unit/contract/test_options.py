"""Validators of options: a value in the range, or a refusal that names key, finding and range."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, cast

import attrs
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qres_core import options
from qres_core.errors import ConfigError, OptionError, Problem
from qres_core.kernel.config import structure

HUGE = 10**400
LONG = 10**5000
"""So long that Python refuses to write it."""


@attrs.frozen(kw_only=True)
class Table:
    """One of each."""

    f: int = attrs.field(**options.liars("2 f + 1 updates", also=", and more"))
    size: int = attrs.field(default=3, validator=options.whole(2, 8, unit="bytes"))
    count: int = attrs.field(default=0, validator=options.whole())
    share: float = attrs.field(default=0.5, validator=options.real(0.1, 1))
    rate: float = attrs.field(default=0.0, validator=options.real(1e-6, 1e6, or_zero=True))
    radius: float = attrs.field(
        default=1.0, validator=options.real(above=0, below=2, unit="grid steps")
    )
    slack: float = attrs.field(default=0.0, validator=options.real(0))
    mode: str = attrs.field(default="clock", validator=options.one_of("clock", "challenge", ""))
    ring: int = attrs.field(default=32, validator=options.one_of(32, 64))
    exact: bool = attrs.field(default=True, validator=options.flag())
    pivot: str = attrs.field(default="ab", validator=options.text("[0-9a-f]{2}", "2 hex digits"))
    variable: str = attrs.field(
        default="", validator=options.text("[A-Z]*", "the name of a variable", secret=True)
    )
    names: tuple[str, ...] = attrs.field(
        default=(), validator=options.many(options.text("[a-z]+", "a word"))
    )


def toy(values: dict[str, Any]) -> Table:
    given: dict[str, Any] = {"f": 1, **values}
    return Table(**given)


def in_range(table: Any) -> bool:
    """What the fields above say, written again without the validators."""
    numbers = (table.share, table.rate, table.radius, table.slack)
    return (
        all(type(item) is int for item in (table.f, table.size, table.count, table.ring))
        and all(type(number) in (int, float, np.float64) for number in numbers)
        and all(math.isfinite(float(number)) for number in numbers)
        and table.f >= 0
        and 2 <= table.size <= 8
        and 0.1 <= table.share <= 1
        and (table.rate == 0 or 1e-6 <= table.rate <= 1e6)
        and 0 < table.radius < 2
        and table.slack >= 0
        and type(table.mode) is str
        and table.mode in {"clock", "challenge", ""}
        and table.ring in {32, 64}
        and type(table.exact) is bool
        and type(table.pivot) is str
        and len(table.pivot) == 2
        and not set(table.pivot) - set("0123456789abcdef")
        and type(table.variable) is str
        and type(table.names) is tuple
        and all(type(name) is str and name.isalpha() for name in cast("Any", table.names))
    )


def refusals(make: Callable[[], Table]) -> tuple[Problem, ...]:
    """What is wrong with a table; nothing if it could be made and is in range."""
    try:
        table = make()
    except ConfigError as error:
        return error.problems
    assert in_range(table)
    return ()


KEYS = [field.name for field in attrs.fields(Table)]
toml = st.recursive(
    st.booleans()
    | st.integers(-9, 70)
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers()
    | st.floats()
    | st.floats(-1, 3)
    | st.sampled_from([HUGE, -HUGE, 2**63, "clock", "clok", "ab", "challenge", "", "AB", "ab\n"])
    | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
of_python = toml | st.sampled_from(
    [
        None,
        np.int64(3),
        np.float32(0.5),
        np.float64(0.5),
        np.float64("nan"),
        np.bool_(1),
        np.str_("ab"),
        ("ab",),
        ("ab", HUGE),
        b"ab",
        np.zeros(3),
        object(),
    ]
)


@given(st.sampled_from(KEYS), toml)
@example("exact", 1)
@example("f", HUGE)
@example("rate", -0.0)
@example("slack", HUGE)
def test_whatever_the_file_says_is_in_range_or_refused_by_its_key(key: str, value: object) -> None:
    def made() -> Table:
        return structure({"f": 1, key: value}, Table, "plugins.toy")

    for problem in refusals(made):
        assert problem.where.startswith(f"plugins.toy.{key}")
        assert problem.code in {"QRES-E104", "QRES-E105"}


@given(st.sampled_from(KEYS), of_python)
@example("ring", np.zeros(2))
@example("mode", [])
@example("slack", sys.float_info.max)
def test_made_in_python_it_is_in_range_or_refused_by_its_key(key: str, value: Any) -> None:
    for problem in refusals(lambda: toy({key: value})):
        assert (problem.code, problem.where) == ("QRES-E105", key)
        assert problem.what.startswith("must be ")
        assert len(str(problem)) < 400


def test_values_in_range_are_taken() -> None:
    """Positive control: not everything is refused."""
    ends: dict[str, Any] = {"f": 0, "size": 8, "count": -(10**40), "share": 1, "rate": 0}
    ends |= {"radius": 1.999, "slack": sys.float_info.max, "mode": "", "ring": 64, "exact": False}
    ends |= {"pivot": "0f", "variable": "KEY", "names": ("a", "bc")}
    table = toy(ends)
    assert in_range(table)
    assert Table(f=1, share=0.1, rate=1e-6).share == 0.1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("f", -1, "must be an integer of at least 0, got -1"),
        ("f", True, "must be an integer of at least 0, got True"),
        ("f", 1.0, "must be an integer of at least 0, got 1.0"),
        ("f", "2", "must be an integer of at least 0, got '2'"),
        ("f", -LONG, "must be an integer of at least 0, got an integer of 16610 bits"),
        ("f", [LONG], "must be an integer of at least 0, got [an integer of 16610 bits]"),
        ("size", 9, "must be an integer in 2..8 (bytes), got 9"),
        ("count", None, "must be an integer, got None"),
        ("share", 1.5, "must be a number in 0.1..1, got 1.5"),
        ("share", math.nan, "must be a number in 0.1..1, got nan"),
        ("rate", 1e-9, "must be a number in 1e-06..1e+06 or 0, got 1e-09"),
        ("radius", 0, "must be a finite number above 0 and below 2 (grid steps), got 0"),
        ("slack", math.inf, "must be a finite number of at least 0, got inf"),
        ("slack", 1 << 1024, "must be a finite number of at least 0, got an integer of 1025 bits"),
        ("mode", "x", 'must be one of "clock", "challenge", "", got \'x\''),
        ("mode", "clok", "got 'clok' (did you mean 'clock'?)"),
        ("ring", 32.0, "must be one of 32, 64, got 32.0"),
        ("exact", 1, "must be true or false, got 1"),
        ("pivot", "ab\n", "must be 2 hex digits, got 'ab\\n'"),
        ("names", ["a"], "must be an array, each entry a word, got ['a']"),
    ],
    ids=lambda part: None if type(part) is str else "value",
)
def test_a_refusal_says_what_was_found_and_what_is_allowed(
    key: str, value: Any, message: str
) -> None:
    with pytest.raises(OptionError) as refusal:
        toy({key: value})
    assert f"QRES-E105 {key}: " in str(refusal.value)
    assert message in str(refusal.value)


def test_a_scalar_of_numpy_is_told_from_the_number_it_looks_like() -> None:
    with pytest.raises(OptionError, match=r"size: .* got .*3.* of type numpy\.int64"):
        Table(f=1, size=np.int64(3))  # type: ignore[arg-type]


def test_what_may_be_secret_is_not_repeated() -> None:
    with pytest.raises(OptionError, match=r"the name of a variable$"):
        Table(f=1, variable="correct horse")


@pytest.mark.parametrize("bound", [2.0**-40, 2.0**46, 0.1 + 0.2, 1e300, 1 / 3, 5e-324])
def test_the_bound_that_is_shown_is_accepted_and_the_next_number_is_not(bound: float) -> None:
    for option, beyond in (
        (options.real(low=bound), -math.inf),
        (options.real(high=bound), math.inf),
    ):
        base, _, power = option.allowed.rsplit(" ", 1)[1].partition("**")
        option.check("x", float(base) ** float(power or 1))
        with pytest.raises(OptionError):
            option.check("x", math.nextafter(bound, beyond))


def test_bounds_are_short_and_exact() -> None:
    assert options.real(-(2.0**40), 2.0**-40).allowed == "a number in -2**40..2**-40"
    assert options.real(1e-6, 1e6).allowed == "a number in 1e-06..1e+06"
    assert options.real(-0.1, 0.1 + 0.2).allowed == "a number in -0.1..0.30000000000000004"


def test_a_refusal_is_also_the_error_python_has_for_it() -> None:
    with pytest.raises(ValueError, match="iterations"):
        options.whole(1).check("iterations", 0)


def test_the_help_of_the_fault_bound() -> None:
    field: attrs.Attribute[Any] = attrs.fields(Table).f
    assert field.default is attrs.NOTHING
    assert field.metadata["help"] == (
        "Number of Byzantine updates of a round to withstand, and more. "
        "Needs at least 2 f + 1 updates."
    )
    assert options.liars()["metadata"]["help"].endswith("to withstand.")


@attrs.frozen
class Inner:
    depth: int = attrs.field(validator=options.whole(1))


@attrs.frozen
class Outer:
    inner: Inner
    rows: tuple[Inner, ...] = ()


def test_tables_within_tables_give_the_whole_path() -> None:
    raw = {"inner": {"depth": 0}, "rows": [{"depth": 1}, {"depth": -1}]}
    with pytest.raises(ConfigError) as refusal:
        structure(raw, Outer, "plugins.toy")
    assert [problem.where for problem in refusal.value.problems] == [
        "plugins.toy.inner.depth",
        "plugins.toy.rows[1].depth",
    ]
