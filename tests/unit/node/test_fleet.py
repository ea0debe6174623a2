from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from qres_core.node import toml
from qres_core.node.box import free_ports
from qres_core.node.fleet import judge


def test_nodes_agree_that_hold_one_model_of_every_step() -> None:
    ahead, behind = {1: "a", 2: "b", 3: "c"}, {0: "i", 1: "a", 2: "b"}
    verdict = judge([ahead, behind], None)
    assert (verdict.agreed, verdict.step, verdict.model_digest, verdict.split) == (
        True,
        2,
        "b",
        None,
    )
    assert not judge([ahead, behind], 3).agreed
    assert judge([ahead, ahead], 3).agreed


def test_nodes_that_differ_once_do_not_agree() -> None:
    verdict = judge([{1: "a", 2: "b"}, {1: "x", 2: "b"}], 2)
    assert (verdict.agreed, verdict.split) == (False, 1)


def test_nobody_agrees_with_nobody() -> None:
    assert not judge([], None).agreed
    assert not judge([{1: "a"}, {}], None).agreed


def test_ports_are_distinct() -> None:
    assert len(set(free_ports(20))) == 20


SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.booleans()
    | st.dates()
    | st.times()
    | st.datetimes()
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read_back(raw: dict[str, object]) -> None:
    assert tomllib.loads(toml.render(raw)) == raw
